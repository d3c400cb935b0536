//! Shows two thousand connections (five hundred a test) that end in every way there is, many at a time: each transfer that
//! completes is exact, none is mistaken for complete, and at the end nothing is left of any.
//!
//! The client sends a number first; from it both ends draw the same script, so that each knows what the other
//! one is going to do.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::bed::{Bed, Family, Family::*, Handshake};
use crate::connection::{Listener, reset};
use crate::host::{SetOnDrop, patience, seconds, slowness};
use crate::stream::{End, KIB, MIB, Random, end, receive_all, receive_some, send, send_part};

four_ways!(soak);

const COUNT: u32 = 500;
/// Clients at a time; each has up to one connection.
const CLIENTS: u32 = 64;

#[derive(Clone, Copy, Debug)]
enum Course {
    /// Both ends send everything at the same time, then end.
    Whole,
    /// The client ends its direction before the server begins.
    ClientFirst,
    /// The server ends its direction before the client begins.
    ServerFirst,
    /// One end pauses in the middle of sending, the other in the middle of receiving.
    Stalling,
    ClientResets,
    ServerResets,
    /// The client closes without having read anything.
    ClientLeaves,
    /// The server closes without having read anything.
    ServerLeaves,
    /// Nobody listens.
    Refused,
}

struct Script {
    course: Course,
    up: u64,
    down: u64,
    /// Where in a stream something happens.
    at: u64,
    pause: Duration,
}

impl Script {
    fn of(number: u64) -> Script {
        use Course::*;
        let mut random = Random::seeded(number);
        let largest = if number.is_multiple_of(16) { MIB } else { 64 * KIB } / u64::from(slowness());
        let (up, down) = (random.below(largest) + 1, random.below(largest) + 1);
        let courses = [
            Whole,
            Whole,
            ClientFirst,
            ServerFirst,
            Stalling,
            ClientResets,
            ServerResets,
            ClientLeaves,
            ServerLeaves,
            Refused,
        ];
        let course = courses[usize::try_from(random.below(10)).expect("below 10")];
        Script { course, up, down, at: random.below(up), pause: Duration::from_millis(random.below(300)) }
    }
}

fn soak(family: Family, handshake: Handshake) {
    let other = if family == V4 { V6 } else { V4 };
    let mut bed = Bed::started(handshake, &["-c", "48"]);
    // Fewer slots than clients: at times some connections go direct, and the same must hold for them.
    let listeners = [bed.listen(family), bed.listen(other)];
    let closed = [bed.closed_port(family), bed.closed_port(other)];
    let (stolen, done) = (AtomicU32::new(0), AtomicBool::new(false));
    let start = Instant::now();

    let begun = thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| serve(listener, &stolen, &done));
        }
        let _ending = SetOnDrop(&done);
        bed.net.client.crowd(CLIENTS, |number| {
            if number >= COUNT || start.elapsed() > seconds(60) {
                return false;
            }
            // Mostly of one family, now and then of the other.
            let which = usize::from(number.is_multiple_of(5));
            run_client(number.into(), listeners[which].address, closed[which]);
            true
        })
    });
    assert!(begun >= COUNT, "only {begun} connections in {:?}", start.elapsed());
    assert!(stolen.load(Relaxed) > COUNT / 4, "only {} connections were stolen", stolen.load(Relaxed));
    bed.check_all_slots(family, 48);
}

fn serve(listener: &Listener, stolen: &AtomicU32, done: &AtomicBool) {
    thread::scope(|scope| {
        while !done.load(Relaxed) {
            let Some((stream, peer)) = listener.accept_within(Duration::from_millis(100)) else { continue };
            stolen.fetch_add(u32::from([V4, V6].map(Family::router_wan).contains(&peer.ip())), Relaxed);
            scope.spawn(move || {
                let mut number = [0; 8];
                // A client that resets may take its number back.
                if (&stream).read_exact(&mut number).is_ok() {
                    run_server(u64::from_le_bytes(number), stream);
                }
            });
        }
    });
}

fn run_client(number: u64, open: SocketAddr, closed: SocketAddr) {
    use Course::*;
    let script = Script::of(number);
    let to = if matches!(script.course, Refused) { closed } else { open };
    let connected = TcpStream::connect_timeout(&to, patience());
    let stream = match (script.course, connected) {
        (Refused, Err(_)) => return,
        // Early: the router answers before the server does.
        (Refused, Ok(stream)) => {
            stream.set_read_timeout(Some(patience())).expect("a read timeout");
            assert_eq!(end(&stream), End::Reset);
            return;
        }
        (_, connected) => connected.unwrap_or_else(|err| panic!("connection {number} to {to}: {err}")),
    };
    stream.set_read_timeout(Some(patience())).expect("a read timeout");
    stream.set_write_timeout(Some(patience())).expect("a write timeout");
    let told = (&stream).write_all(&number.to_le_bytes());
    let (up, down) = (number * 2, number * 2 + 1);
    match script.course {
        Whole | Stalling | ClientFirst | ServerFirst => told.expect("tell the server"),
        _ => {}
    }
    match script.course {
        Whole => both(&stream, (up, script.up), (down, script.down)),
        Stalling => {
            send(&stream, up, script.at).expect("send");
            thread::sleep(script.pause);
            send_part(&stream, up, script.at, script.up).expect("send");
            stream.shutdown(Shutdown::Write).expect("shut down");
            receive_all(&stream, down, script.down);
        }
        ClientFirst => {
            send(&stream, up, script.up).expect("send");
            stream.shutdown(Shutdown::Write).expect("shut down");
            receive_all(&stream, down, script.down);
        }
        ServerFirst => {
            receive_all(&stream, down, script.down);
            send(&stream, up, script.up).expect("send");
        }
        ClientResets => {
            let _ = send(&stream, up, script.at);
            reset(stream);
        }
        ClientLeaves => {
            let _ = send(&stream, up, script.at);
        }
        ServerResets | ServerLeaves => {
            // The kernel reports a reset once: whoever sends at that moment learns of it, and not the reader.
            match send(&stream, up, script.up) {
                Err(err) if err.kind() == ErrorKind::ConnectionReset => return,
                sent => sent.unwrap_or_else(|err| panic!("connection {number}: {err}")),
            }
            let (got, how) = receive_some(&stream, down, 0, u64::MAX);
            assert_eq!(how, End::Reset, "connection {number}: after {got} bytes of a server that died");
        }
        Refused => unreachable!("returned above"),
    }
}

fn run_server(number: u64, stream: TcpStream) {
    use Course::*;
    let script = Script::of(number);
    let (up, down) = (number * 2, number * 2 + 1);
    match script.course {
        Whole => both(&stream, (down, script.down), (up, script.up)),
        Stalling => {
            let (got, how) = receive_some(&stream, up, 0, script.up / 2);
            assert_eq!(how, End::Full, "connection {number}: after {got} bytes");
            thread::sleep(script.pause);
            let (got, how) = receive_some(&stream, up, script.up / 2, script.up + 1);
            assert_eq!((got, how), (script.up, End::Fin), "connection {number}");
            send(&stream, down, script.down).expect("send");
        }
        ClientFirst => {
            receive_all(&stream, up, script.up);
            send(&stream, down, script.down).expect("send");
        }
        ServerFirst => {
            send(&stream, down, script.down).expect("send");
            stream.shutdown(Shutdown::Write).expect("shut down");
            receive_all(&stream, up, script.up);
        }
        ClientResets => {
            let (got, how) = receive_some(&stream, up, 0, u64::MAX);
            assert_eq!(how, End::Reset, "connection {number}: after {got} bytes of a client that died");
        }
        // Closing is an end like another, unless bytes come that nobody will read.
        ClientLeaves => {
            let (got, how) = receive_some(&stream, up, 0, u64::MAX);
            assert!(how == End::Reset || got == script.at, "connection {number}: {how:?} after {got} bytes");
            let _ = send(&stream, down, script.down);
        }
        ServerResets => {
            let _ = send(&stream, down, script.at.min(script.down));
            thread::sleep(script.pause / 10);
            reset(stream);
        }
        ServerLeaves => {
            // Bytes that are not read when the socket is closed: the kernel resets.
            let _ = stream.peek(&mut [0]);
        }
        Refused => panic!("connection {number} has come to a port where nobody listens"),
    }
}

/// Sends one stream while receiving the other.
fn both(stream: &TcpStream, (out, out_length): (u64, u64), (back, back_length): (u64, u64)) {
    thread::scope(|scope| {
        scope.spawn(|| {
            send(stream, out, out_length).expect("send");
            stream.shutdown(Shutdown::Write).expect("shut down");
        });
        receive_all(stream, back, back_length);
    });
}
