//! The connection slots: a fixed array made at start, with bitmaps that find a free or a pending one.
//!
//! Shared by all threads. Each slot has a lock of its own; the bitmaps and tags are atomic and may change
//! while a slot is locked, so no thread ever needs two locks. Invariants: a slot is in `free` or in `busy`, but
//! for the moments of claim and release; it is in `pending` while its SYN has not been accepted by the listener
//! (`Dialling`, `Held`, `Injected`); the generation grows with every release, so a stale [`SlotId`] (an event
//! fetched before the release) opens nothing.
#![forbid(unsafe_code)]

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::abort;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use heapless::Vec;
use nix::sys::epoll::EpollFlags;

use crate::bitmap::Bitmap;
use crate::clients::Clients;
use crate::counts::Passed;
use crate::relay::{Connection, Leg};
use crate::syn;

/// The most slots that `-c` may ask for.
pub const MAX_SLOTS: usize = 16_384;

/// The two ends as the client's SYN named them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    pub client: SocketAddr,
    pub server: SocketAddr,
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.client, self.server)
    }
}

/// Names one use of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId {
    pub index: u16,
    pub generation: u32,
}

/// A SYN that the kernel keeps in the queue until its verdict (deferred handshake).
pub struct Held {
    pub packet_id: u32,
    pub syn: Vec<u8, { syn::MAX_LEN }>,
    pub server: OwnedFd,
}

/// A SYN that was written to the TUN device and that the listener has not accepted yet.
pub struct Injected {
    pub at: Instant,
    /// False: the worker that injects it has been kept from that so far.
    pub written: bool,
    pub server: Leg,
}

pub enum Stage {
    Free,
    /// Claimed; the server leg is being made and has seen these events already.
    Dialling(EpollFlags),
    Held(Held),
    Injected(Injected),
    Relaying(Connection),
}

pub struct Slot {
    pub generation: u32,
    /// Index of the worker that owns the connection until it ends.
    pub worker: usize,
    /// When the slot was claimed, so about when the server leg's SYN was sent; once the listener has accepted, when the
    /// client's SYN was injected.
    pub begun: Instant,
    /// When the stage has lasted too long; `None`: it may last.
    pub deadline: Option<Instant>,
    pub endpoints: Option<Endpoints>,
    pub stage: Stage,
    /// No longer part of its worker's load.
    pub ending: bool,
}

impl Slot {
    pub fn is(&self, endpoints: &Endpoints) -> bool {
        self.endpoints.as_ref() == Some(endpoints)
    }
}

pub struct Slots {
    slots: Box<[Mutex<Slot>]>,
    free: Bitmap,
    busy: Bitmap,
    pending: Bitmap,
    /// For pending slots: a hash of client address and server, so that a search locks only likely slots.
    tags: Box<[AtomicU32]>,
    /// For slots whose connection the listener has accepted: a hash of both ends, for the same purpose.
    accepted: Box<[AtomicU32]>,
    clients: Clients,
    used: AtomicU32,
    peak: AtomicU32,
}

impl Slots {
    /// `per_client`: the most for one client.
    pub fn new(capacity: usize, per_client: Option<u32>) -> Slots {
        let start = Instant::now();
        let empty = || {
            Mutex::new(Slot {
                generation: 0,
                worker: 0,
                begun: start,
                deadline: None,
                endpoints: None,
                stage: Stage::Free,
                ending: false,
            })
        };
        Slots {
            slots: (0..capacity).map(|_| empty()).collect(),
            free: Bitmap::new(capacity, true),
            busy: Bitmap::new(capacity, false),
            pending: Bitmap::new(capacity, false),
            tags: (0..capacity).map(|_| AtomicU32::new(0)).collect(),
            accepted: (0..capacity).map(|_| AtomicU32::new(0)).collect(),
            clients: Clients::new(capacity, per_client),
            used: AtomicU32::new(0),
            peak: AtomicU32::new(0),
        }
    }

    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub fn used(&self) -> usize {
        // Sequentially consistent, as is the change in `claim`: see `Bell::may_sleep`.
        self.used.load(Ordering::SeqCst) as usize
    }

    /// The most that were ever in use at a time.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed) as usize
    }

    /// A free slot, marked pending for `endpoints` and locked; or why there is none.
    pub fn claim(&self, endpoints: Endpoints) -> Result<(SlotId, MutexGuard<'_, Slot>), Passed> {
        let index = self.free.take_lowest().ok_or(Passed::Full)?;
        if !self.clients.admit(endpoints.client.ip(), index, &self.busy) {
            self.free.insert(index);
            return Err(Passed::ClientFull);
        }
        Ok(self.occupy(index, endpoints))
    }

    fn occupy(&self, index: usize, endpoints: Endpoints) -> (SlotId, MutexGuard<'_, Slot>) {
        let used = self.used.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(used, Ordering::Relaxed);
        let mut slot = self.lock_index(index);
        slot.begun = Instant::now();
        slot.endpoints = Some(endpoints);
        slot.ending = false;
        slot.stage = Stage::Dialling(EpollFlags::empty());
        self.tags[index].store(tag(&endpoints), Ordering::Relaxed);
        self.pending.insert(index);
        (id(index, &slot), slot)
    }

    /// What another daemon has begun, in a free slot. `None`: all are in use.
    pub fn adopt(&self, endpoints: Endpoints, stage: Stage) -> Option<(SlotId, MutexGuard<'_, Slot>)> {
        let index = self.free.take_lowest()?;
        self.clients.note(endpoints.client.ip(), index, &self.busy);
        let (id, mut slot) = self.occupy(index, endpoints);
        if let Stage::Relaying(_) = stage {
            self.note_accepted(id, &slot);
        }
        slot.stage = stage;
        Some((id, slot))
    }

    /// As many as that were in use in another daemon.
    pub fn note_peak(&self, peak: u32) {
        self.peak.fetch_max(peak, Ordering::Relaxed);
    }

    /// The slot, if `id` still names its present use.
    pub fn lock(&self, id: SlotId) -> Option<MutexGuard<'_, Slot>> {
        let slot = self.lock_index(usize::from(id.index));
        (slot.generation == id.generation).then_some(slot)
    }

    /// The pending slot of exactly these endpoints: a SYN that was seen before.
    pub fn find_pending(&self, endpoints: &Endpoints) -> Option<(SlotId, MutexGuard<'_, Slot>)> {
        self.pending_like(endpoints).find(|(_, slot)| slot.is(endpoints))
    }

    /// Whether the SYN of exactly these endpoints was injected less than `within` ago and the listener has accepted its
    /// connection already.
    pub fn accepted_lately(&self, endpoints: &Endpoints, within: Duration) -> bool {
        let wanted = hash(endpoints);
        self.busy.iter().filter(|&index| self.accepted[index].load(Ordering::Relaxed) == wanted).any(
            |index| {
                let slot = self.lock_index(index);
                slot.is(endpoints) && slot.begun.elapsed() < within
            },
        )
    }

    /// The injected slot that an accepted connection belongs to, no longer pending.
    ///
    /// Where one client port speaks to two servers at once, netfilter gives the second connection another
    /// source port on its way to the listener; then the oldest injected slot of the same client address and
    /// server is meant. Mixing up two such slots changes nothing: they lead to the same server.
    pub fn take_injected(&self, accepted: &Endpoints) -> Option<(SlotId, MutexGuard<'_, Slot>)> {
        loop {
            let mut oldest: Option<(Instant, SlotId)> = None;
            for (id, slot) in self.pending_like(accepted) {
                let Stage::Injected(injected) = &slot.stage else {
                    continue;
                };
                if slot.is(accepted) {
                    self.note_accepted(id, &slot);
                    return Some((id, slot));
                }
                let same_pair = slot
                    .endpoints
                    .is_some_and(|it| it.client.ip() == accepted.client.ip() && it.server == accepted.server);
                if same_pair && oldest.is_none_or(|(at, _)| injected.at < at) {
                    oldest = Some((injected.at, id));
                }
            }
            let (_, id) = oldest?;
            // If another worker has taken it since, one less is left to look at.
            if let Some(slot) = self.lock(id)
                && matches!(slot.stage, Stage::Injected(_))
            {
                self.note_accepted(id, &slot);
                return Some((id, slot));
            }
        }
    }

    fn note_accepted(&self, id: SlotId, slot: &Slot) {
        let index = usize::from(id.index);
        if let Some(endpoints) = &slot.endpoints {
            self.accepted[index].store(hash(endpoints), Ordering::Relaxed);
        }
        self.pending.remove(index);
    }

    fn pending_like(&self, endpoints: &Endpoints) -> impl Iterator<Item = (SlotId, MutexGuard<'_, Slot>)> {
        let wanted = tag(endpoints);
        self.pending.iter().filter(move |&index| self.tags[index].load(Ordering::Relaxed) == wanted).map(
            |index| {
                let slot = self.lock_index(index);
                (id(index, &slot), slot)
            },
        )
    }

    /// Every slot in use, one after the other, locked.
    pub fn in_use(&self) -> impl Iterator<Item = (SlotId, MutexGuard<'_, Slot>)> {
        self.in_use_from(0)
    }

    pub fn in_use_from(&self, first: usize) -> impl Iterator<Item = (SlotId, MutexGuard<'_, Slot>)> {
        self.busy
            .iter_from(first)
            .map(|index| (index, self.lock_index(index)))
            .filter(|(_, slot)| !matches!(slot.stage, Stage::Free))
            .map(|(index, slot)| (id(index, &slot), slot))
    }

    /// The end of this use of the slot, whatever its stage: closes what it holds, which is the last step. So whoever sees
    /// the connection's end finds the slot free.
    ///
    /// Legs are born with a zero linger time (see `legs`), so closing one sends a reset unless the relay has
    /// seen both directions to their end.
    pub fn release(&self, id: SlotId, mut slot: MutexGuard<'_, Slot>) {
        let index = usize::from(id.index);
        slot.generation = slot.generation.wrapping_add(1);
        slot.deadline = None;
        slot.endpoints = None;
        let held = mem::replace(&mut slot.stage, Stage::Free);
        drop(slot);
        self.pending.remove(index);
        self.busy.remove(index);
        self.used.fetch_sub(1, Ordering::Relaxed);
        self.free.insert(index);
        drop(held);
    }

    fn lock_index(&self, index: usize) -> MutexGuard<'_, Slot> {
        // Poisoned: a worker has panicked inside the slot. Its state is unknown, so start afresh.
        self.slots[index].lock().unwrap_or_else(|_| abort())
    }
}

fn id(index: usize, slot: &Slot) -> SlotId {
    SlotId { index: index as u16, generation: slot.generation }
}

/// Without the client's port, so that the port that netfilter may have changed is found too.
fn tag(endpoints: &Endpoints) -> u32 {
    let mut hasher = DefaultHasher::new();
    endpoints.client.ip().hash(&mut hasher);
    endpoints.server.hash(&mut hasher);
    hasher.finish() as u32
}

fn hash(endpoints: &Endpoints) -> u32 {
    let mut hasher = DefaultHasher::new();
    endpoints.client.hash(&mut hasher);
    endpoints.server.hash(&mut hasher);
    hasher.finish() as u32
}

#[cfg(test)]
mod tests;
