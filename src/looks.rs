//! What has changed on a connection since it was last looked at: its rates and what limits each leg now.
//!
//! Owned by the main thread. A look takes a slot's lock for as long as it takes to copy its figures and to ask the kernel
//! about two sockets, neither of which blocks. Several askers share the looks: one that comes soon after another is
//! told what that one was.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use crate::relay::Side;
use crate::slots::{Endpoints, Slot, SlotId, Slots, Stage};
use crate::tcp_info::{self, Chronicle, Limit, TcpInfo};

/// A shorter time tells nothing about "now".
const SHORTEST_MS: u32 = 400;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    Connecting,
    Relaying,
    HalfClosed,
}

impl State {
    pub fn of(stage: &Stage) -> State {
        match stage {
            Stage::Relaying(connection) if connection.is_half_closed() => State::HalfClosed,
            Stage::Relaying(connection) if connection.is_established() => State::Relaying,
            _ => State::Connecting,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            State::Connecting => "connecting",
            State::Relaying => "relaying",
            State::HalfClosed => "half_closed",
        }
    }
}

/// A connection as it was found.
pub struct Seen {
    pub id: SlotId,
    pub endpoints: Endpoints,
    pub age_s: u32,
    pub state: State,
    pub bytes: [u64; 2],
    pub legs: [Option<TcpInfo>; 2],
    /// The relay holds bytes that the leg to this side has not taken.
    held_up: [bool; 2],
    pub trend: Trend,
}

/// What happened in the `over_ms` before a look.
#[derive(Clone, Copy, Default)]
pub struct Trend {
    pub over_ms: u32,
    /// Bits per second, up and down.
    pub rates: [u64; 2],
    pub limits: [Option<Limit>; 2],
}

/// What the next look is compared with.
#[derive(Clone, Copy, Default)]
struct Look {
    /// 0: nobody has looked yet.
    at_ms: u32,
    generation: u32,
    bytes: [u64; 2],
    chronicles: [Chronicle; 2],
    trend: Trend,
}

pub struct Looks {
    started: Instant,
    /// One for each slot; none before somebody has looked for the first time.
    looks: Vec<Look>,
}

impl Looks {
    pub fn new() -> Looks {
        Looks { started: Instant::now(), looks: Vec::new() }
    }

    /// The first connection from slot `from` on.
    pub fn at(&mut self, slots: &Slots, from: usize) -> Option<Seen> {
        if self.looks.is_empty() {
            self.looks = vec![Look::default(); slots.capacity()];
        }
        let mut seen = slots.in_use_from(from).find_map(|(id, slot)| see(id, &slot))?;
        let age_ms = seen.trend.over_ms;
        let now_ms = (self.started.elapsed().as_millis() as u32).max(1);
        let look = &mut self.looks[usize::from(seen.id.index)];
        if look.at_ms == 0 || look.generation != seen.id.generation {
            *look = Look { generation: seen.id.generation, ..Look::default() };
        }
        let fresh = look.at_ms == 0;
        let elapsed = if fresh { age_ms } else { now_ms.wrapping_sub(look.at_ms) };
        if fresh || elapsed >= SHORTEST_MS {
            let rate = |way: usize| {
                (seen.bytes[way].saturating_sub(look.bytes[way])).saturating_mul(8000)
                    / u64::from(elapsed.max(1))
            };
            let limit = |leg: usize| seen.legs[leg]?.limit(look.chronicles[leg], elapsed, seen.held_up[leg]);
            let trend = Trend { over_ms: elapsed, rates: [0, 1].map(rate), limits: [0, 1].map(limit) };
            let chronicle = |leg: Option<TcpInfo>| leg.and_then(|info| info.chronicle).unwrap_or_default();
            let chronicles = seen.legs.map(chronicle);
            *look = Look { at_ms: now_ms, bytes: seen.bytes, chronicles, trend, ..*look };
        }
        seen.trend = look.trend;
        Some(seen)
    }
}

fn see(id: SlotId, slot: &Slot) -> Option<Seen> {
    let age = slot.begun.elapsed();
    let socket = |side: Side| -> Option<BorrowedFd> {
        match (&slot.stage, side) {
            (Stage::Held(held), Side::Server) => Some(held.server.as_fd()),
            (Stage::Injected(injected), Side::Server) => Some(injected.server.socket.as_fd()),
            (Stage::Relaying(connection), side) => Some(connection.socket(side)),
            _ => None,
        }
    };
    let (bytes, held_up) = match &slot.stage {
        Stage::Relaying(connection) => {
            (connection.bytes(), Side::BOTH.map(|side| connection.is_held_up(side)))
        }
        _ => Default::default(),
    };
    Some(Seen {
        id,
        endpoints: slot.endpoints?,
        age_s: age.as_secs() as u32,
        state: State::of(&slot.stage),
        bytes,
        held_up,
        legs: Side::BOTH.map(|side| socket(side).and_then(tcp_info::of)),
        // Until it is compared.
        trend: Trend { over_ms: age.as_millis() as u32, ..Trend::default() },
    })
}
