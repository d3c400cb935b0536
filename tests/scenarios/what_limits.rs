//! Shows that the report names what limits a leg, soon after it does: a sender that pauses, a reader that is slow, a small
//! send buffer, a narrow path.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::bed::{Bed, Family::*, Handshake::*, Hop, Plan};
use crate::connection::{Pair, dial};
use crate::host::{SetOnDrop, eventually, patience, seconds};
use crate::json::Json;

once!(sender_pauses, reader_stops, reader_is_slow, small_send_buffer, narrow_path);

/// What the leg to each side is limited by; of the only connection.
fn limits(bed: &Bed) -> [String; 2] {
    let told = bed.told("connections");
    let legs = &told["connections"].items()[0]["legs"];
    ["client", "server"].map(|side| match &legs[side]["limited_by"] {
        Json::Null => "unknown".into(),
        limit => limit.text().to_string(),
    })
}

/// Asks twice a second, as people do with `pepsal connections`, until the answer is this one twice running: mostly at once,
/// but a machine that does other things at that moment may limit a leg too.
fn soon(bed: &Bed, client: &str, server: &str) {
    let start = Instant::now();
    let (mut right, mut said) = (0, Vec::new());
    while right < 2 {
        thread::sleep(Duration::from_millis(500));
        let limits = limits(bed);
        right = if limits == [client, server] { right + 1 } else { 0 };
        said.push(limits);
        assert!(start.elapsed() < seconds(15), "not soon {client}, {server}: {said:?}");
    }
}

/// While `work` lasts, one end writes as many bytes at a time as the other reads, each with a pause after it.
fn while_moving(from: (&TcpStream, Duration), to: (&TcpStream, Duration), size: usize, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let again = |result: io::Result<usize>| match result {
        Ok(_) => {}
        Err(err) if err.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
        Err(err) => panic!("{err}"),
    };
    thread::scope(|scope| {
        let _done = SetOnDrop(&done);
        for (mut stream, pause, writes) in [(from.0, from.1, true), (to.0, to.1, false)] {
            let (done, again) = (&done, &again);
            scope.spawn(move || {
                let mut piece = vec![7; size];
                stream.set_nonblocking(true).expect("a stream that does not block");
                while !done.load(Ordering::Relaxed) {
                    again(if writes { stream.write(&piece) } else { stream.read(&mut piece) });
                    thread::sleep(pause);
                }
            });
        }
        work();
    });
}

const AT_ONCE: Duration = Duration::ZERO;
const A_WHILE: Duration = Duration::from_millis(100);

fn sender_pauses() {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(V4);
    let Pair { client, server, .. } = bed.stolen(&listener);
    for (from, to) in [(&client, &server), (&server, &client)] {
        while_moving((from, A_WHILE), (to, AT_ONCE), 5000, || soon(&bed, "sender", "sender"));
    }
    drop((client, server));
    bed.daemon().wait_idle(patience());
}

/// 50 KB a second, of a download and of an upload.
fn reader_is_slow() {
    let mut bed = Bed::started(Deferred, &[]);
    let small = |socket: &OwnedFd| setsockopt(socket, sockopt::RcvBuf, &(64 << 10)).expect("SO_RCVBUF");
    let listener = bed.listen(V4);
    listener.prepare(small);
    let client = dial(&bed.net.client, listener.address, small).expect("connect");
    let Pair { client, server, .. } = listener.join(client);
    while_moving((&server, AT_ONCE), (&client, A_WHILE), 5000, || soon(&bed, "receive_window", "sender"));
    drop((client, server));
    bed.daemon().wait_idle(patience());
    let Pair { client, server, .. } = bed.stolen(&listener);
    while_moving((&client, AT_ONCE), (&server, A_WHILE), 5000, || soon(&bed, "sender", "receive_window"));
    drop((client, server));
    bed.daemon().wait_idle(patience());
}

/// Behind the router 8 Mbit/s, with a queue of up to 200 ms.
fn narrow(wmem: Option<&str>) -> Bed {
    let mut bed = Bed::build(Plan { hop: Some(Hop::Mtu(1500)), ..Plan::default() });
    let hop = bed.net.hop.as_ref().expect("a hop");
    hop.exec("tc qdisc add dev far root tbf rate 8mbit burst 10kb latency 200ms", "");
    if let Some(wmem) = wmem {
        bed.net.router.sysctl("net/ipv4/tcp_wmem", wmem);
    }
    bed.start(Deferred, &["-C", "cubic"]);
    bed
}

/// Less than the link holds.
fn small_send_buffer() {
    limited_by_the_link(narrow(Some("4096 16384 32768")), "send_buffer");
}

fn narrow_path() {
    limited_by_the_link(narrow(None), "congestion");
}

fn limited_by_the_link(mut bed: Bed, limit: &str) {
    let listener = bed.listen(V4);
    let Pair { client, server, .. } = bed.stolen(&listener);
    while_moving((&client, AT_ONCE), (&server, AT_ONCE), 100_000, || soon(&bed, "sender", limit));
    drop((client, server));
    bed.daemon().wait_idle(patience());
}

/// The far reader stops: the router's leg to it is limited by its receive window, and before that leg's buffer is
/// drained nothing else is.
fn reader_stops() {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(V4);
    let Pair { client, server, .. } = bed.stolen(&listener);
    client.set_nonblocking(true).expect("a stream that does not block");
    let piece = vec![7; 256 << 10];
    eventually("the server's window is the limit", patience(), || {
        // Until nothing moves any more.
        let full = loop {
            if let Err(err) = (&client).write(&piece) {
                break err.kind();
            }
        };
        assert_eq!(full, ErrorKind::WouldBlock);
        let told = bed.told("connections");
        let connection = &told["connections"].items()[0];
        connection["legs"]["server"]["limited_by"].text() == "receive_window"
            && connection["legs"]["client"]["limited_by"].text() == "sender"
            && connection["rate"]["up_bps"].number() == 0
            && connection["legs"]["server"]["unsent_bytes"].number() > 0
    });
    drop((client, server));
    bed.daemon().wait_idle(patience());
}
