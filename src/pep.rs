//! What all threads share: made once at start, fixed from then on but for the slots and counters.
#![forbid(unsafe_code)]

use std::mem;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use heapless::Vec;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::bell::Bell;
use crate::counts::{Counts, Lately, Passed, Tally};
use crate::exclusions::Exclusions;
use crate::gain::Gain;
use crate::legs::LegOptions;
use crate::memory::Memory;
use crate::parking::Parking;
use crate::queue::SynQueue;
use crate::relay::{Leg, Side};
use crate::share::Share;
use crate::slots::{Endpoints, Slot, SlotId, Slots, Stage};
use crate::tun::Tun;

/// When the client's SYN is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// After the server has answered: the client learns of a refusal as if there were no PEP.
    Deferred,
    /// At once, as PEPsal does.
    Early,
}

pub struct Pep {
    pub slots: Slots,
    pub workers: Box<[Seat]>,
    pub queue: SynQueue,
    pub tun: Tun,
    /// Where the listeners are.
    pub port: u16,
    pub legs: LegOptions,
    /// `None`: the satellite link's rate is not known.
    pub share: Option<Share>,
    pub handshake: Handshake,
    /// How long a server may take to answer the server leg's SYN.
    pub connect_timeout: Duration,
    /// The last SYN found no free slot.
    pub full: AtomicBool,
    /// No more SYNs are stolen.
    pub ending: AtomicBool,
    /// An injected SYN did not reach the listener.
    pub undelivered: Lately,
    /// Netfilter did not wait for the daemon.
    pub missed: Lately,
    pub memory: Memory,
    pub counts: Counts,
    /// `None`: the kernel has no netfilter to ask.
    pub exclusions: Option<Exclusions>,
    pub gain: Gain,
    pub started: Instant,
    /// Wakes the main thread when a connection begins.
    pub bell: Bell,
    pub parking: Parking,
}

/// What another daemon has begun.
pub struct Adoption {
    pub endpoints: Endpoints,
    pub owner: usize,
    pub begun: Instant,
    pub deadline: Option<Instant>,
    pub stage: Stage,
}

/// How other threads reach a worker.
pub struct Seat {
    pub epoll: Epoll,
    /// The worker's own listeners, one for each address family.
    pub listeners: Vec<OwnedFd, 2>,
    /// Wakes the worker when its first connection begins: then there are deadlines to watch.
    bell: Bell,
    connections: AtomicU32,
    /// Those of them that have not begun to end: what new ones are weighed against.
    load: AtomicU32,
    /// Bytes that the worker has moved.
    pub moved: Tally,
}

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Wake,
    Queue,
    Listener(usize),
    Leg(SlotId, Side),
}

const WAKE: u64 = u64::MAX;
const QUEUE: u64 = u64::MAX - 1;
const LISTENER: u64 = u64::MAX - 3;

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        match token {
            Token::Wake => WAKE,
            Token::Queue => QUEUE,
            Token::Listener(index) => LISTENER + index as u64,
            Token::Leg(id, side) => {
                u64::from(id.generation) << 32 | (side as u64) << 16 | u64::from(id.index)
            }
        }
    }
}

impl From<u64> for Token {
    fn from(token: u64) -> Token {
        match token {
            WAKE => Token::Wake,
            QUEUE => Token::Queue,
            LISTENER.. => Token::Listener((token - LISTENER) as usize),
            _ => {
                let id = SlotId { index: token as u16, generation: (token >> 32) as u32 };
                Token::Leg(id, Side::BOTH[(token >> 16) as usize & 1])
            }
        }
    }
}

impl Seat {
    pub fn new(queue: BorrowedFd, listeners: Vec<OwnedFd, 2>) -> Result<Seat, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = Bell::new(&epoll, WAKE)?;
        // The kernel wakes one worker for a packet.
        let exclusive = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        epoll.add(queue, EpollEvent::new(exclusive, QUEUE))?;
        for (index, listener) in listeners.iter().enumerate() {
            let token = Token::Listener(index).into();
            epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        }
        let [connections, load] = [const { AtomicU32::new(0) }; 2];
        Ok(Seat { epoll, listeners, bell, connections, load, moved: Tally::default() })
    }

    /// Blocks until something happens, at most `busy` while the worker has connections, else `idle`.
    pub fn wait(&self, events: &mut [EpollEvent], busy: EpollTimeout, idle: EpollTimeout) -> usize {
        let free = self.bell.may_sleep(|| self.connections.load(Ordering::SeqCst) == 0);
        let patience = if free { idle } else { busy };
        // EINTR is the only error that epoll_wait can have here.
        let ready = self.epoll.wait(events, patience).unwrap_or(0);
        self.bell.awake();
        ready
    }

    /// Ends the wait.
    pub fn wake(&self) {
        self.bell.ring_in_any_case();
    }

    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Reports the leg's events to this worker until the leg is closed.
    pub fn watch(&self, leg: &OwnedFd, id: SlotId, side: Side) -> Result<(), Errno> {
        let event = EpollEvent::new(Leg::INTEREST, Token::Leg(id, side).into());
        self.epoll.add(leg, event)
    }
}

impl Pep {
    /// A free slot, and its owner: the worker with the fewest connections that are not ending; of several `taker`,
    /// if it is one of them. Or why there is no slot.
    pub fn claim(&self, endpoints: Endpoints, taker: usize) -> Result<(SlotId, usize), Passed> {
        let (id, slot) = self.slots.claim(endpoints)?;
        let load = |&worker: &usize| (self.workers[worker].load.load(Ordering::Relaxed), worker != taker);
        let owner = (0..self.workers.len()).min_by_key(load).unwrap_or(taker);
        self.entrust(slot, owner);
        Ok((id, owner))
    }

    fn entrust(&self, mut slot: MutexGuard<'_, Slot>, owner: usize) {
        slot.worker = owner;
        drop(slot);
        let seat = &self.workers[owner];
        seat.load.fetch_add(1, Ordering::Relaxed);
        seat.connections.fetch_add(1, Ordering::SeqCst);
        seat.bell.ring();
        self.bell.ring();
    }

    /// A slot for what another daemon has begun, with the owner it had there. `None`: all are in use.
    pub fn adopt(&self, it: Adoption) -> Option<SlotId> {
        let (id, mut slot) = self.slots.adopt(it.endpoints, it.stage)?;
        (slot.begun, slot.deadline) = (it.begun, it.deadline);
        self.entrust(slot, it.owner);
        Some(id)
    }

    /// One direction of the connection has ended, so the other will soon.
    pub fn note_ending(&self, slot: &mut Slot) {
        if !mem::replace(&mut slot.ending, true) {
            self.workers[slot.worker].load.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The end of a slot that [`Pep::claim`] has given out: closes what it holds.
    pub fn release(&self, id: SlotId, mut slot: MutexGuard<'_, Slot>) {
        self.note_ending(&mut slot);
        let seat = &self.workers[slot.worker];
        if let Some(share) = &self.share {
            share.ended(id.index);
        }
        self.slots.release(id, slot);
        seat.connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn uptime_s(&self) -> u32 {
        self.started.elapsed().as_secs() as u32
    }

    /// At least an eighth of the slots is free.
    pub fn has_room(&self) -> bool {
        let capacity = self.slots.capacity();
        self.slots.used() <= capacity - capacity.div_ceil(8)
    }

    /// Lets a queued packet go on to where it was going.
    pub fn pass(&self, packet_id: u32, why: Passed) {
        self.counts.passed(why).add(1);
        self.queue.pass(packet_id);
    }

    /// Bytes moved since the start, from clients to servers and from servers to clients.
    pub fn bytes(&self) -> [u64; 2] {
        let [mut up, mut down] = [0u64; 2];
        for seat in &self.workers {
            let moved = seat.moved.get();
            up += moved[0];
            down += moved[1];
        }
        [up, down]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_epoll() {
        let id = |index, generation| SlotId { index, generation };
        for token in [
            Token::Wake,
            Token::Queue,
            Token::Listener(0),
            Token::Listener(1),
            Token::Leg(id(0, 0), Side::Client),
            Token::Leg(id(16_383, u32::MAX), Side::Server),
        ] {
            assert_eq!(Token::from(u64::from(token)), token);
        }
    }
}
