//! What all threads share: made once at start, fixed from then on but for the slots and counters.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::legs::LegOptions;
use crate::queue::Verdicts;
use crate::relay::{Leg, Side};
use crate::slots::{Endpoints, Slot, SlotId, Slots};
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
    pub verdicts: Verdicts,
    pub tun: Tun,
    pub listeners: heapless::Vec<OwnedFd, 2>,
    pub legs: LegOptions,
    pub handshake: Handshake,
    /// How long a server may take to answer the server leg's SYN.
    pub connect_timeout: Duration,
    /// Set once: no SYN is stolen any more.
    pub stopping: AtomicBool,
}

/// How other threads reach a worker.
pub struct Seat {
    pub epoll: Epoll,
    wake: EventFd,
    connections: AtomicU32,
}

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Wake,
    Listener(usize),
    Leg(SlotId, Side),
}

const WAKE: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 2;

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        match token {
            Token::Wake => WAKE,
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
            LISTENER.. => Token::Listener((token - LISTENER) as usize),
            _ => {
                let id = SlotId { index: token as u16, generation: (token >> 32) as u32 };
                Token::Leg(id, Side::BOTH[(token >> 16) as usize & 1])
            }
        }
    }
}

impl Seat {
    pub fn new() -> Result<Seat, Errno> {
        let seat = Seat {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            connections: AtomicU32::new(0),
        };
        // Edge-triggered: each write reports once and nothing needs to be read.
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, WAKE);
        seat.epoll.add(&seat.wake, event)?;
        Ok(seat)
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
    /// A free slot, locked, and the worker that gets it: the one with the fewest connections. `None`: all slots
    /// are in use.
    pub fn claim(&self, endpoints: Endpoints) -> Option<(SlotId, MutexGuard<'_, Slot>, &Seat)> {
        let (id, mut slot) = self.slots.claim(endpoints)?;
        let load = |&worker: &usize| self.workers[worker].connections();
        slot.worker = (0..self.workers.len()).min_by_key(load).unwrap_or(0);
        let seat = &self.workers[slot.worker];
        if seat.connections.fetch_add(1, Ordering::Relaxed) == 0 {
            // It sleeps without end while it has none; now there are deadlines to watch. The counter of an
            // eventfd cannot overflow by ones.
            let _ = seat.wake.write(1);
        }
        Some((id, slot, seat))
    }

    /// The end of a slot that [`Pep::claim`] has given out: closes what it holds.
    pub fn release(&self, id: SlotId, slot: MutexGuard<'_, Slot>) {
        let seat = &self.workers[slot.worker];
        self.slots.release(id, slot);
        seat.connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// No SYN is stolen any more; connections go on.
    pub fn stop_stealing(&self) {
        self.stopping.store(true, Ordering::Release);
        self.verdicts.wake_reader();
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
            Token::Listener(0),
            Token::Listener(1),
            Token::Leg(id(0, 0), Side::Client),
            Token::Leg(id(16_383, u32::MAX), Side::Server),
        ] {
            assert_eq!(Token::from(u64::from(token)), token);
        }
    }
}
