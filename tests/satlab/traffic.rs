// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the two ends: a server in one network namespace, clients in another, one process. So both ends have one clock, and
//! what the receiver saw needs no connection of its own to be told.
//!
//! A client sends orders, one after the other: how many bytes it is going to send, how many it wants back, and the
//! connection's number; 24 bytes, little-endian. Then it sends its bytes, then come those it wants. A byte's place in its
//! connection says what it has to be, and every byte is compared. The connection ends with a FIN in both directions and nothing else.

use crate::{bulk, exchange, page, splitmix};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, String>;

pub const TCP_PORT: u16 = 7000;
pub const UDP_PORT: u16 = 7001;
/// How long a connection may move nothing: an outage, and the retransmission timer that it has doubled to a minute.
const PATIENCE: Duration = Duration::from_secs(240);
const STEP: usize = 32 << 10;
const ORDER: usize = 24;

/// move checked bytes between two namespaces
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "traffic")]
pub struct Traffic {
    /// namespace of the client, a path
    #[argh(option)]
    client: String,
    /// namespace of the server, a path
    #[argh(option)]
    server: String,
    /// address of the server
    #[argh(option)]
    to: Ipv4Addr,
    /// file for the receiver's byte count over time
    #[argh(option)]
    series: Option<String>,
    /// bulk up|down BYTES, four up|down SECONDS, page, or exchange
    #[argh(positional)]
    words: Vec<String>,
}

/// What the receiving ends note down.
pub struct Log {
    start: Instant,
    /// Bytes that came to either end, per connection in the order of their first order.
    pub flows: [AtomicU64; 4],
    points: Mutex<Vec<(Duration, u64)>>,
}

impl Log {
    fn received(&self, flow: u64, bytes: u64) {
        if let Some(count) = self.flows.get(flow as usize) {
            let sum = count.fetch_add(bytes, Relaxed) + bytes;
            if flow == 0 {
                self.points.lock().expect("no thread panics").push((self.start.elapsed(), sum));
            }
        }
    }
}

/// What all connections carry: a block of this prime length, repeated; each connection begins elsewhere in it. What is
/// lost, doubled or of another connection is shifted against what is expected. Made once: the machine's processor
/// is emulated, and should be busy with TCP.
const PERIOD: usize = 65_521;
const APART: u64 = 7_919;

struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Pattern {
        let mut block = vec![0; PERIOD];
        splitmix::fill(1, 0, &mut block);
        block.extend_from_within(..STEP);
        Pattern(block)
    }

    fn piece(&self, flow: u64, position: u64, len: usize) -> &[u8] {
        let start = ((position + flow * APART) % PERIOD as u64) as usize;
        &self.0[start..start + len]
    }
}

/// Word by word; the C library's memcmp of a static binary goes byte by byte.
fn are_equal(one: &[u8], other: &[u8]) -> bool {
    let (words, rest) = one.as_chunks::<8>();
    let (other_words, other_rest) = other.as_chunks::<8>();
    let differs = |(one, other): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*one) != u64::from_ne_bytes(*other);
    one.len() == other.len() && !words.iter().zip(other_words).any(differs) && rest == other_rest
}

/// How far a connection is.
struct Stream {
    pattern: Pattern,
    flow: u64,
    sent: u64,
    received: u64,
}

impl Stream {
    fn new(flow: u64) -> Stream {
        Stream { pattern: Pattern::new(), flow, sent: 0, received: 0 }
    }

    fn send(&mut self, socket: &mut TcpStream, mut left: u64) -> Result<()> {
        while left > 0 {
            let bytes = self.pattern.piece(self.flow, self.sent, STEP.min(left as usize));
            let failed = |error| format!("cannot send after {} bytes: {}", self.sent, reason(&error));
            socket.write_all(bytes).map_err(failed)?;
            self.sent += bytes.len() as u64;
            left -= bytes.len() as u64;
        }
        Ok(())
    }

    fn receive(&mut self, socket: &mut TcpStream, mut left: u64, log: &Log) -> Result<Instant> {
        let mut bytes = [0; STEP];
        while left > 0 {
            let len = match socket.read(&mut bytes[..STEP.min(left as usize)]) {
                Ok(0) => return Err(format!("the stream ended after {} bytes", self.received)),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(format!("cannot receive after {} bytes: {}", self.received, reason(&error)));
                }
            };
            if !are_equal(&bytes[..len], self.pattern.piece(self.flow, self.received, len)) {
                return Err(format!("a wrong byte within {len} after {}", self.received));
            }
            self.received += len as u64;
            left -= len as u64;
            log.received(self.flow, len as u64);
        }
        Ok(Instant::now())
    }
}

/// A socket timeout reports itself as "resource temporarily unavailable", which tells nobody anything.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock => String::from("no progress for too long"),
        _ => error.to_string(),
    }
}

/// A client's connection.
pub struct Call {
    socket: TcpStream,
    stream: Stream,
}

impl Call {
    /// `flow` is its number and names its bytes.
    pub fn connect(to: SocketAddr, flow: u64) -> Result<Call> {
        let socket = TcpStream::connect(to).map_err(|error| format!("cannot connect: {error}"))?;
        prepare(&socket)?;
        Ok(Call { socket, stream: Stream::new(flow) })
    }

    /// Sends `up` bytes and waits for `down` of them. Returns when the last of those was there; with no such bytes,
    /// when the last one to be sent was taken by the kernel.
    pub fn order(&mut self, up: u64, down: u64, log: &Log) -> Result<Instant> {
        let mut order = [0; ORDER];
        order[..8].copy_from_slice(&up.to_le_bytes());
        order[8..16].copy_from_slice(&down.to_le_bytes());
        order[16..].copy_from_slice(&self.stream.flow.to_le_bytes());
        self.socket.write_all(&order).map_err(|error| format!("cannot send an order: {}", reason(&error)))?;
        self.stream.send(&mut self.socket, up)?;
        self.stream.receive(&mut self.socket, down, log)
    }

    /// Both directions end in order.
    pub fn close(mut self) -> Result<()> {
        self.socket
            .shutdown(std::net::Shutdown::Write)
            .map_err(|error| format!("cannot shut down: {error}"))?;
        match self.socket.read(&mut [0; 1]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(String::from("more bytes came than were ordered")),
            Err(error) => Err(format!("no clean end: {}", reason(&error))),
        }
    }
}

fn prepare(socket: &TcpStream) -> Result<()> {
    socket
        .set_nodelay(true)
        .and_then(|()| socket.set_read_timeout(Some(PATIENCE)))
        .and_then(|()| socket.set_write_timeout(Some(PATIENCE)))
        .map_err(|error| format!("cannot set a socket's options: {error}"))
}

fn serve(mut socket: TcpStream, log: &Log, uploaded: &Mutex<Vec<Instant>>) -> Result<()> {
    prepare(&socket)?;
    let mut stream = Stream::new(0);
    loop {
        let mut order = [0; ORDER];
        match socket.read(&mut order[..1]) {
            Ok(0) => return Ok(()),
            Ok(_) => (),
            Err(error) => return Err(format!("server: no order: {}", reason(&error))),
        }
        socket
            .read_exact(&mut order[1..])
            .map_err(|error| format!("server: no order: {}", reason(&error)))?;
        let word = |n: usize| u64::from_le_bytes(order[8 * n..8 * n + 8].try_into().expect("eight bytes"));
        let (up, down) = (word(0), word(1));
        stream.flow = word(2);
        let last = stream.receive(&mut socket, up, log)?;
        if up > 0 {
            uploaded.lock().expect("no thread panics").push(last);
        }
        stream.send(&mut socket, down)?;
    }
}

fn enter(namespace: &str) -> Result<()> {
    let file = File::open(namespace).map_err(|error| format!("cannot open {namespace}: {error}"))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| format!("cannot enter {namespace}: {error}"))
}

/// What a kind of traffic has to work with.
pub struct Ends {
    pub to: SocketAddr,
    pub log: &'static Log,
    /// When the last byte of each order with an upload came, as the server saw it.
    pub uploaded: &'static Mutex<Vec<Instant>>,
}

/// The server's connections and its UDP echo, for the rest of the process's life.
fn serve_all(namespace: &str, log: &'static Log, uploaded: &'static Mutex<Vec<Instant>>) -> Result<()> {
    enter(namespace)?;
    let failed = |error| format!("cannot serve: {error}");
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, TCP_PORT)).map_err(failed)?;
    let echo = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, UDP_PORT)).map_err(failed)?;
    thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((len, from)) = echo.recv_from(&mut bytes) {
            let _ = echo.send_to(&bytes[..len], from);
        }
    });
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            thread::spawn(move || {
                if let Err(why) = serve(socket, log, uploaded) {
                    eprintln!("satlab: {why}");
                }
            });
        }
    });
    Ok(())
}

pub fn run(traffic: &Traffic) -> Result<()> {
    let log: &'static Log = Box::leak(Box::new(Log {
        start: Instant::now(),
        flows: Default::default(),
        points: Mutex::default(),
    }));
    let uploaded: &'static Mutex<Vec<Instant>> = Box::leak(Box::default());
    let server = traffic.server.clone();
    // A thread's namespace is its own.
    thread::spawn(move || serve_all(&server, log, uploaded)).join().expect("no thread panics")?;
    enter(&traffic.client)?;
    let ends = Ends { to: SocketAddr::from((traffic.to, TCP_PORT)), log, uploaded };
    let words: Vec<&str> = traffic.words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u64>().map_err(|_| format!("'{word}' is no number"));
    match words[..] {
        ["bulk", way, bytes] => bulk::bulk(&ends, way, number(bytes)?)?,
        ["four", way, seconds] => bulk::four(&ends, way, Duration::from_secs(number(seconds)?))?,
        ["page"] => page::page(&ends)?,
        ["exchange"] => exchange::exchange(&ends)?,
        _ => return Err(format!("no traffic '{}'", words.join(" "))),
    }
    match &traffic.series {
        Some(path) => write_series(path, log),
        None => Ok(()),
    }
}

/// A point every tenth of a second at most: seconds since the start, bytes by then.
fn write_series(path: &str, log: &Log) -> Result<()> {
    let mut text = String::new();
    let points = log.points.lock().expect("no thread panics");
    let mut next = 0;
    for (n, (at, bytes)) in points.iter().enumerate() {
        let tick = at.as_millis() / 100;
        if tick >= next || n + 1 == points.len() {
            text.push_str(&format!("{:.3} {bytes}\n", at.as_secs_f64()));
            next = tick + 1;
        }
    }
    std::fs::write(path, text).map_err(|error| format!("cannot write {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flaw_differs() {
        let pattern = Pattern::new();
        let right = pattern.piece(0, 70_000, 1001);
        assert!(are_equal(right, pattern.piece(0, 70_000, 1001)));
        for at in [0, 7, 8, 1000] {
            let mut wrong = right.to_vec();
            wrong[at] ^= 1;
            assert!(!are_equal(right, &wrong));
        }
        assert!(!are_equal(right, pattern.piece(0, 70_001, 1001)));
        assert!(!are_equal(right, pattern.piece(1, 70_000, 1001)));
        assert!(!are_equal(right, &right[..1000]));
    }
}
