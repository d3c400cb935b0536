use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent};
use nix::sys::socket::send;

use super::*;
use crate::pipes::MAX_PIPES;

/// For what has to come, however busy the machine is.
const LONG_MS: u16 = 60_000;
const LONG: Duration = Duration::from_millis(LONG_MS as u64);

/// A split connection on the loopback device, with the two applications' ends.
struct Bench {
    connection: Connection,
    means: Means,
    epoll: Epoll,
    budgets_used_up: usize,
}

struct Ended {
    outcome: Outcome,
    bytes: [u64; 2],
    budgets_used_up: usize,
}

fn bench() -> (TcpStream, Bench, TcpStream) {
    let (client, client_leg) = pair();
    let (server, server_leg) = pair();
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    for (leg, side) in [(&client_leg, Side::Client), (&server_leg, Side::Server)] {
        leg.set_nonblocking(true).unwrap();
        epoll.add(leg, EpollEvent::new(Leg::INTEREST, side as u64)).unwrap();
    }
    let connection = Connection::new(Leg::new(client_leg.into()), Leg::new(server_leg.into()));
    (client, Bench { connection, means: Means::new(0), epoll, budgets_used_up: 0 }, server)
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let application = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    application.set_read_timeout(Some(LONG)).unwrap();
    application.set_write_timeout(Some(LONG)).unwrap();
    (application, listener.accept().unwrap().0)
}

impl Bench {
    /// Does what a worker does until the connection has ended, and closes it.
    fn run(mut self) -> Ended {
        let limit = Instant::now() + LONG;
        while Instant::now() < limit {
            match self.turn(10) {
                Outcome::Idle => {}
                Outcome::Again => self.budgets_used_up += 1,
                outcome => {
                    self.connection.linger();
                    self.connection.give_back_pipes(&mut self.means.pipes);
                    let bytes = self.connection.bytes();
                    return Ended { outcome, bytes, budgets_used_up: self.budgets_used_up };
                }
            }
        }
        panic!("the relay did not end");
    }

    fn turn(&mut self, patience_ms: u16) -> Outcome {
        let mut events = [EpollEvent::empty(); 4];
        let ready = self.epoll.wait(&mut events, patience_ms).unwrap();
        for event in &events[..ready] {
            self.connection.leg(Side::BOTH[event.data() as usize]).note(event.events());
        }
        self.connection.pump(&mut self.means)
    }
}

impl Leg {
    /// Waits until the socket knows what its peer has done: of a busy machine the loopback device is late.
    fn until(&self, news: PollFlags) {
        let mut polled = [PollFd::new(self.socket.as_fd(), news)];
        assert_eq!(poll(&mut polled, LONG_MS), Ok(1));
    }
}

/// Bytes that differ at every offset of any power of two.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect()
}

fn send_and_close(mut to: TcpStream, bytes: Vec<u8>) -> thread::JoinHandle<TcpStream> {
    thread::spawn(move || {
        to.write_all(&bytes).unwrap();
        to.shutdown(std::net::Shutdown::Write).unwrap();
        to
    })
}

fn read_to_end(mut from: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn both_directions_are_exact_with_bulk_and_budget() {
    let (client, bench, server) = bench();
    let (up, down) = (pattern(5_000_003), pattern(3_000_001));
    let client = send_and_close(client, up.clone());
    let server = send_and_close(server, down.clone());
    let relay = thread::spawn(move || bench.run());
    let client = client.join().unwrap();
    let reader = thread::spawn(move || read_to_end(&client));
    assert_eq!(read_to_end(&server.join().unwrap()), up);
    assert_eq!(reader.join().unwrap(), down);
    let ended = relay.join().unwrap();
    assert_eq!(ended.outcome, Outcome::Finished);
    assert_eq!(ended.bytes, [5_000_003, 3_000_001]);
    assert!(ended.budgets_used_up > 0, "no turn was cut short");
}

#[test]
fn eof_with_bytes_in_the_pipe_waits_for_the_reader() {
    let (client, mut bench, server) = bench();
    // A small buffer, so that splices are short and the sink soon says EAGAIN.
    setsockopt(&bench.connection.legs[1].socket, sockopt::SndBuf, &65_536).unwrap();
    let bytes = pattern(8 << 20);
    let sender = send_and_close(client, bytes.clone());
    let (limit, mut full_turns) = (Instant::now() + LONG, 0);
    while full_turns < 100 {
        assert!(Instant::now() < limit, "the reader's window is never full");
        assert_ne!(bench.turn(1), Outcome::Finished);
        full_turns = if bench.connection.flows[0].pipe.is_some() { full_turns + 1 } else { 0 };
    }
    let reader = thread::spawn(move || (read_to_end(&server), server));
    let closer = thread::spawn(move || bench.run());
    let (received, server) = reader.join().unwrap();
    assert!(received == bytes, "{} of {} bytes arrived, or others", received.len(), bytes.len());
    drop((server, sender.join().unwrap()));
    assert_eq!(closer.join().unwrap().outcome, Outcome::Finished);
}

/// A short read after FIN was announced is the last one; a read that fills the buffer is not known to be.
#[test]
fn an_end_that_comes_with_the_last_bytes_is_passed_on_with_them() {
    for len in [1, COPY_LEN - 1, COPY_LEN, COPY_LEN + 1, 3 * COPY_LEN] {
        let (client, mut bench, server) = bench();
        let bytes = pattern(len);
        let client = send_and_close(client, bytes.clone()).join().unwrap();
        bench.connection.legs[0].until(PollFlags::from_bits_retain(libc::POLLRDHUP));
        assert_eq!(bench.turn(LONG_MS), Outcome::Idle);
        assert!(bench.connection.flows[0].ended, "{len} bytes and FIN, in one turn");
        assert!(bench.connection.is_half_closed());
        assert_eq!(read_to_end(&server), bytes);
        // The other direction goes on.
        let answer = send_and_close(server, bytes.clone());
        let relay = thread::spawn(move || bench.run());
        assert_eq!(read_to_end(&client), bytes);
        assert_eq!(relay.join().unwrap().bytes, [len as u64, len as u64]);
        answer.join().unwrap();
    }
}

/// The sink is full, the pipe is full, and then the source is dry: each says EAGAIN, and nothing is lost.
#[test]
fn a_reader_that_stops_holds_one_pipe_and_goes_on_exactly() {
    let (client, mut bench, server) = bench();
    let bytes = pattern(8 << 20);
    let sender = send_and_close(client, bytes.clone());
    let (limit, mut moved) = (Instant::now() + LONG, 0);
    // Until nothing moves although there is more.
    while Instant::now() < limit {
        bench.turn(1);
        let now = bench.connection.bytes()[0];
        if now == moved && bench.connection.flows[0].pipe.is_some() && bench.connection.legs[0].readable {
            break;
        }
        moved = now;
    }
    let flow = &bench.connection.flows[0];
    assert!(flow.pipe.as_ref().is_some_and(|pipe| !pipe.is_empty()), "what was read waits in the pipe");
    assert!(!bench.connection.legs[1].writable, "the sink has said EAGAIN");
    assert!(bench.connection.legs[0].readable, "nothing more was read meanwhile");
    assert!(moved < bytes.len() as u64);
    let relay = thread::spawn(move || bench.run());
    assert_eq!(read_to_end(&server), bytes);
    drop(server);
    let client = sender.join().unwrap();
    assert_eq!(read_to_end(&client), []);
    assert_eq!(relay.join().unwrap().bytes, [8 << 20, 0]);
}

#[test]
fn an_idle_connection_holds_no_pipe() {
    let (mut client, mut bench, mut server) = bench();
    for len in [1, COPY_LEN - 1, COPY_LEN, COPY_LEN + 1, 200_000] {
        let bytes = pattern(len);
        let writer = thread::spawn({
            let bytes = bytes.clone();
            move || {
                client.write_all(&bytes).unwrap();
                client
            }
        });
        let reader = thread::spawn(move || {
            let mut received = vec![0; len];
            server.read_exact(&mut received).unwrap();
            (received, server)
        });
        while !reader.is_finished() {
            bench.turn(5);
        }
        let received;
        (received, server) = reader.join().unwrap();
        client = writer.join().unwrap();
        assert!(received == bytes, "{len} bytes");
        assert!(bench.connection.flows.iter().all(|flow| flow.pipe.is_none()), "{len} bytes");
    }
}

#[test]
fn without_a_pipe_bytes_are_copied_and_none_is_held() {
    let (client, mut bench, server) = bench();
    setsockopt(&bench.connection.legs[1].socket, sockopt::SndBuf, &4096).unwrap();
    let taken: Vec<Pipe> = std::iter::from_fn(|| bench.means.pipes.take()).collect();
    assert_eq!(taken.len(), MAX_PIPES);
    let bytes = pattern(2_000_003);
    let sender = send_and_close(client, bytes.clone());
    for _ in 0..50 {
        bench.turn(1);
        assert!(bench.connection.flows.iter().all(|flow| flow.pipe.is_none()));
    }
    let relay = thread::spawn(move || bench.run());
    assert!(read_to_end(&server) == bytes);
    drop((server, sender.join().unwrap()));
    assert_eq!(relay.join().unwrap().outcome, Outcome::Finished);
    drop(taken);
}

#[test]
fn urgent_bytes_keep_their_place() {
    let (client, bench, server) = bench();
    for leg in &bench.connection.legs {
        setsockopt(&leg.socket, sockopt::OobInline, &true).unwrap();
    }
    let bytes = pattern(1_000_000);
    let writer = thread::spawn({
        let bytes = bytes.clone();
        move || {
            for (index, chunk) in bytes.chunks(50_000).enumerate() {
                let flags = if index % 3 == 1 { MsgFlags::MSG_OOB } else { MsgFlags::empty() };
                let mut sent = 0;
                while sent < chunk.len() {
                    sent += send(client.as_raw_fd(), &chunk[sent..], flags).unwrap();
                }
            }
            client.shutdown(std::net::Shutdown::Write).unwrap();
            client
        }
    });
    let relay = thread::spawn(move || bench.run());
    assert!(read_to_end(&server) == bytes);
    drop((server, writer.join().unwrap()));
    assert_eq!(relay.join().unwrap().outcome, Outcome::Finished);
}

/// The relay learns of the reset by sending, which takes the socket's error away.
#[test]
fn a_reset_is_never_taken_for_an_end() {
    let (client, mut bench, mut server) = bench();
    assert_eq!(bench.turn(LONG_MS), Outcome::Idle);
    setsockopt(&server, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    (&client).write_all(b"a").unwrap();
    assert_eq!(bench.turn(LONG_MS), Outcome::Idle);
    server.read_exact(&mut [0]).unwrap();
    (&client).write_all(b"b").unwrap();
    drop(server);
    bench.connection.legs[Side::Server as usize].until(PollFlags::POLLERR);
    let [_, server_leg] = &mut bench.connection.legs;
    assert_eq!(send(server_leg.socket.as_raw_fd(), b"c", MsgFlags::MSG_NOSIGNAL), Err(Errno::ECONNRESET));
    server_leg.fail(Errno::ECONNRESET);
    server_leg.readable = true;
    assert_eq!(bench.connection.pump(&mut bench.means), Outcome::Failed);
    assert!(bench.connection.flows.iter().all(|flow| !flow.ended), "no FIN was passed on");
}

#[test]
fn what_came_before_a_reset_is_still_offered() {
    let (mut client, mut bench, mut server) = bench();
    client.write_all(b"last words").unwrap();
    let reset = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&client, sockopt::Linger, &reset).unwrap();
    drop(client);
    // The relay's socket has both then, and has read neither.
    bench.connection.legs[Side::Client as usize].until(PollFlags::POLLERR);
    assert_eq!(bench.turn(LONG_MS), Outcome::Failed);
    let mut received = [0; 10];
    server.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"last words");
}
