//! The relay of one split connection: bytes both ways, exactly, until both directions have ended.
//!
//! Runs in the worker that owns the connection, never blocks, allocates nothing. Both directions are the
//! same function, [`Connection::advance`]. Invariants of a flow: it holds a pipe exactly while that pipe holds
//! bytes; nothing is read while the sink takes nothing; FIN is passed on only after the last byte
//! (`shutdown` follows an empty pipe). A leg that fails ends the connection with a reset on both sides, after
//! what it had sent before was offered to the other side once.
//!
//! Readiness is edge-triggered (epoll(7)): a flag falls only when the kernel has said EAGAIN, or when a short
//! read shows that the socket was empty.
#![forbid(unsafe_code)]

use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, setsockopt, shutdown, sockopt};

use crate::pipes::{self, Pipe, Pipes};
use crate::{legs, sys};

pub use leg::Leg;

/// Bytes that one direction may move before other connections have their turn.
const BUDGET: usize = if cfg!(test) { 1 << 17 } else { 1 << 18 };

/// Bytes that the copying path reads at once. A read that fills it is followed by splicing: below this
/// size two system calls (recv, send) beat three (splice in, splice out, splice in: EAGAIN).
const COPY_LEN: usize = pipes::MIN_CAPACITY;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client = 0,
    Server = 1,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::Client, Side::Server];
}

/// The bytes of one direction.
#[derive(Default)]
struct Flow {
    pipe: Option<Pipe>,
    /// The source has sent FIN and all its bytes are read.
    drained: bool,
    /// FIN was passed on to the sink.
    ended: bool,
    /// The last read was a large one.
    bulk: bool,
    bytes: u64,
}

/// What a connection needs while it moves bytes, lent by its worker.
pub struct Means {
    pub pipes: Pipes,
    buffer: Box<[u8; COPY_LEN]>,
}

impl Means {
    /// `lent`: pipes that flows have already.
    pub fn new(lent: usize) -> Means {
        Means { pipes: Pipes::new(lent), buffer: Box::new([0; COPY_LEN]) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more to do until epoll reports something.
    Idle,
    /// The budget is used up; call again after the others.
    Again,
    /// Both directions have ended in order.
    Finished,
    /// A leg has failed.
    Failed,
}

pub struct Connection {
    legs: [Leg; 2],
    flows: [Flow; 2],
    /// Bytes moved when [`Connection::mark_progress`] was last called.
    progress: u64,
    /// Waits in the worker's list for its next turn.
    pub queued: bool,
    /// Its windows are small because memory is tight.
    pub squeezed: bool,
    /// Until when the SYN of its server leg may wait for the client's first bytes.
    pub silent_until: Option<Instant>,
}

impl Connection {
    pub fn new(client: Leg, server: Leg) -> Connection {
        let flows = Default::default();
        Connection {
            legs: [client, server],
            flows,
            progress: 0,
            queued: false,
            squeezed: false,
            silent_until: None,
        }
    }

    pub fn leg(&mut self, side: Side) -> &mut Leg {
        &mut self.legs[side as usize]
    }

    pub fn socket(&self, side: Side) -> BorrowedFd<'_> {
        self.legs[side as usize].socket.as_fd()
    }

    /// The server leg is up. (The client leg was accepted.)
    pub fn is_established(&self) -> bool {
        self.legs[Side::Server as usize].connected
    }

    pub fn sockets(&self) -> [&OwnedFd; 2] {
        self.legs.each_ref().map(|leg| &leg.socket)
    }

    /// Bytes held in pipes.
    pub fn piped(&self) -> usize {
        self.flows.iter().filter_map(|flow| flow.pipe.as_ref()).map(Pipe::held).sum()
    }

    /// Bytes wait in a pipe because the leg to `side` has no room.
    pub fn is_held_up(&self, side: Side) -> bool {
        self.flows[1 - side as usize].pipe.is_some()
    }

    /// Exactly one direction has ended.
    pub fn is_half_closed(&self) -> bool {
        self.flows[0].ended != self.flows[1].ended
    }

    /// At its deadline: whether it has used its time in vain. One whose server leg is not up has; a half-closed
    /// one has unless bytes were moved, or still wait for their peer's acknowledgement, which TCP bounds itself.
    pub fn is_overdue(&mut self) -> bool {
        let moved = self.mark_progress();
        let waits = |leg: &Leg| sys::unacknowledged(leg.socket.as_fd()).is_ok_and(|bytes| bytes > 0);
        !self.is_established() || self.is_half_closed() && !moved && !self.legs.iter().any(waits)
    }

    /// Lets the server leg, whose silence has lasted long enough to ask, be probed as the client leg is from birth.
    pub fn keep_alive(&self) {
        let _ = legs::keep_alive(&self.legs[Side::Server as usize].socket);
    }

    /// Whether bytes were moved since the last call.
    pub fn mark_progress(&mut self) -> bool {
        let moved = self.flows[0].bytes + self.flows[1].bytes;
        mem::replace(&mut self.progress, moved) != moved
    }

    /// Bytes moved so far, client to server and server to client.
    pub fn bytes(&self) -> [u64; 2] {
        [self.flows[0].bytes, self.flows[1].bytes]
    }

    /// The leg that has failed, for the log, and with what.
    pub fn failure(&self) -> Option<(&'static str, Errno)> {
        let named = self.legs.iter().zip([", client leg: ", ", server leg: "]);
        named.filter_map(|(leg, name)| Some((name, leg.error?))).next()
    }

    /// Moves bytes both ways as far as the sockets and the budget allow.
    pub fn pump(&mut self, means: &mut Means) -> Outcome {
        let again = Side::BOTH.map(|from| self.advance(from, means));
        if again.contains(&true) {
            Outcome::Again
        } else if self.legs.iter().any(|leg| leg.error.is_some()) {
            Outcome::Failed
        } else if self.flows.iter().all(|flow| flow.ended) {
            Outcome::Finished
        } else {
            Outcome::Idle
        }
    }

    /// One direction; true if the budget ended it.
    fn advance(&mut self, from: Side, means: &mut Means) -> bool {
        let last = self.flows[1 - from as usize].ended;
        let flow = &mut self.flows[from as usize];
        let [client, server] = &mut self.legs;
        let (source, sink) = match from {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        let mut budget = BUDGET;
        while !flow.ended && sink.writable {
            if let Some(pipe) = &mut flow.pipe {
                match pipe.drain_into(&sink.socket) {
                    Ok(moved) => flow.bytes += moved as u64,
                    Err(Errno::EAGAIN) => sink.writable = false,
                    Err(Errno::EINTR) => {}
                    Err(error) => {
                        sink.fail(error);
                        return false;
                    }
                }
                if pipe.is_empty() {
                    flow.give_back(&mut means.pipes);
                }
            } else if flow.drained && source.error.is_none() && last {
                // Closing the leg, which comes next, sends the FIN.
                flow.ended = true;
            } else if flow.drained && source.error.is_none() {
                match shutdown(sink.socket.as_raw_fd(), Shutdown::Write) {
                    Ok(()) => flow.ended = true,
                    Err(error) => {
                        sink.fail(error);
                        return false;
                    }
                }
            } else if !source.readable {
                return false;
            } else if budget == 0 {
                return true;
            } else {
                budget = budget.saturating_sub(flow.read(source, sink, means));
            }
        }
        false
    }

    /// After the last byte: lets the legs close in order instead of with a reset.
    pub fn linger(&self) {
        let off = libc::linger { l_onoff: 0, l_linger: 0 };
        for leg in &self.legs {
            // It can fail only on something that is no socket.
            let _ = setsockopt(&leg.socket, sockopt::Linger, &off);
        }
    }

    pub fn give_back_pipes(&mut self, pipes: &mut Pipes) {
        for flow in &mut self.flows {
            flow.give_back(pipes);
        }
    }
}

impl Flow {
    /// Reads once from `source`, which is readable, into an empty flow; the bytes read.
    fn read(&mut self, source: &mut Leg, sink: &mut Leg, means: &mut Means) -> usize {
        if self.bulk
            && !source.unspliceable
            && let Some(pipe) = means.pipes.take()
        {
            return self.splice(source, pipe, &mut means.pipes);
        }
        self.copy(source, sink, means)
    }

    fn give_back(&mut self, pipes: &mut Pipes) {
        if let Some(pipe) = self.pipe.take() {
            pipes.give_back(pipe);
        }
    }

    fn splice(&mut self, source: &mut Leg, mut pipe: Pipe, pipes: &mut Pipes) -> usize {
        let result = pipe.fill_from(&source.socket);
        let moved = result.unwrap_or(0);
        // 0 may also mean that splice stands before urgent data: the copying path will tell (tcp(7)).
        self.bulk = moved >= COPY_LEN;
        match result {
            Ok(_) => {}
            Err(Errno::EAGAIN) => source.readable = source.ending,
            Err(Errno::EINVAL | Errno::ENOSYS) => source.unspliceable = true,
            // The socket has told its error once and would report a clean end from now on.
            Err(error) => {
                source.readable = false;
                source.fail(error);
            }
        }
        self.pipe = Some(pipe);
        if moved == 0 {
            self.give_back(pipes);
        }
        moved
    }

    fn copy(&mut self, source: &mut Leg, sink: &mut Leg, means: &mut Means) -> usize {
        // What the sink does not take at once goes into a pipe. Without one, the bytes stay in the source's
        // receive buffer until the sink has them.
        let mut spare = means.pipes.take();
        let look = match spare {
            Some(_) => MsgFlags::MSG_DONTWAIT,
            None => MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK,
        };
        let buffer = &mut means.buffer[..];
        let read = match recv(source.socket.as_raw_fd(), buffer, look) {
            Ok(read) => read,
            Err(error) => {
                source.readable = false;
                if error != Errno::EAGAIN {
                    source.fail(error);
                }
                self.pipe = spare;
                self.give_back(&mut means.pipes);
                return 0;
            }
        };
        // A reset leg tells its error once, to whoever asks first, and reports an end from then on: `error`
        // decides what this end is.
        // And FIN comes behind the last byte: a read that leaves nothing behind it has come to the end.
        let all = read < COPY_LEN
            && source.ending
            && source.error.is_none()
            && !source.unspliceable
            && spare.is_some();
        self.drained = read == 0 || all;
        source.readable &= read > 0;
        self.bulk = read == COPY_LEN;

        let sent = match &buffer[..read] {
            [] => 0,
            bytes => sink.send(bytes),
        };
        self.bytes += sent as u64;
        match &mut spare {
            Some(pipe) if sent < read => {
                if let Err(error) = pipe.keep(&buffer[sent..read]) {
                    source.fail(error);
                }
            }
            Some(_) => {}
            None => source.discard(&mut buffer[..sent]),
        }
        let emptied = read < COPY_LEN && (spare.is_some() || sent == read);
        if emptied && !source.ending && !source.unspliceable {
            source.readable = false;
        }
        self.pipe = spare;
        if self.pipe.as_ref().is_some_and(Pipe::is_empty) {
            self.give_back(&mut means.pipes);
        }
        read
    }
}

mod fast_open;
mod handed;
mod leg;
#[cfg(test)]
mod tests;
