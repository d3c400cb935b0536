// SPDX-License-Identifier: MIT OR Apache-2.0
//! Someone types while something is uploaded: 64 bytes there and back on a connection of their own, first on the idle
//! link, then beside an upload at full rate. UDP datagrams of the same size, which no PEP touches, tell what the link's
//! own queue adds.

use crate::traffic::{Call, Ends, Result, UDP_PORT};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

const MESSAGE: u64 = 64;
const ROUNDS: usize = 25;
const PAUSE: Duration = Duration::from_millis(310);
/// How long the upload has the link before the exchange goes on.
const HEAD_START: Duration = Duration::from_secs(10);

/// Prints medians and ninth deciles in milliseconds.
pub fn exchange(ends: &Ends) -> Result<()> {
    // Flow 4 and above are not counted.
    let mut call = Call::connect(ends.to, 4)?;
    // Once, for connections that are set up at the first byte.
    call.order(MESSAGE, MESSAGE, ends.log)?;
    print("idle", rounds(|| exchange_once(&mut call, ends))?);
    print("idle_udp", rounds(|| datagram_once(ends.to))?);
    let (to, log) = (ends.to, ends.log);
    thread::spawn(move || {
        let done = Call::connect(to, 0).and_then(|mut upload| upload.order(1 << 40, 0, log));
        if let Err(why) = done {
            eprintln!("satlab: upload: {why}");
        }
    });
    thread::sleep(HEAD_START);
    // Both at the same time, so that they meet the same queue.
    let datagrams = thread::spawn(move || rounds(|| datagram_once(to)));
    let before = (Instant::now(), ends.log.flows[0].load(std::sync::atomic::Ordering::Relaxed));
    print("busy", rounds(|| exchange_once(&mut call, ends))?);
    let moved = ends.log.flows[0].load(std::sync::atomic::Ordering::Relaxed) - before.1;
    println!("mbit {:.3}", moved as f64 * 8.0 / before.0.elapsed().as_secs_f64() / 1e6);
    print("busy_udp", datagrams.join().expect("no thread panics")?);
    Ok(())
}

fn exchange_once(call: &mut Call, ends: &Ends) -> Result<Option<Duration>> {
    let start = Instant::now();
    Ok(Some(call.order(MESSAGE, MESSAGE, ends.log)?.duration_since(start)))
}

/// None when it was lost.
fn datagram_once(to: SocketAddr) -> Result<Option<Duration>> {
    let failed = |error| format!("cannot exchange datagrams: {error}");
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed)?;
    let start = Instant::now();
    socket.send_to(&[0; MESSAGE as usize], SocketAddr::new(to.ip(), UDP_PORT)).map_err(failed)?;
    Ok(socket.recv(&mut [0; 2048]).is_ok().then(|| start.elapsed()))
}

fn rounds(mut once: impl FnMut() -> Result<Option<Duration>>) -> Result<Vec<Duration>> {
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        delays.extend(once()?);
        thread::sleep(PAUSE);
    }
    delays.sort();
    Ok(delays)
}

fn print(name: &str, delays: Vec<Duration>) {
    let Some(last) = delays.len().checked_sub(1) else { return };
    let ms = |tenths: usize| delays[last * tenths / 10].as_secs_f64() * 1e3;
    println!("{name}_ms {:.1}\n{name}_p90_ms {:.1}", ms(5), ms(9));
}
