//! A worker: one thread, blocked in epoll, that relays the connections it owns.
//!
//! It takes SYNs from the queue that all workers share, and accepts at listeners of its own. A connection that has used up its budget waits in
//! `again` for its next turn; time limits are looked at once a second while the worker has connections. A
//! connection's error ends that connection and goes no further.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use crate::counts::Passed;
use crate::pep::{Pep, Seat, Token};
use crate::relay::{Connection, Means, Outcome, Side};
use crate::slots::{Slot, SlotId, Stage};
use crate::{handshake, log, steal};

/// Events fetched at once, and connections that have another turn before events are fetched again.
const BATCH: usize = 64;

/// Most SYNs taken before connections have their turn again. It begins with one, because to ask for another is a
/// system call in vain when there is none, and doubles while the queue is not empty: a SYN that waits until its
/// client repeats it is stolen twice.
const MAX_SYNS: usize = 256;

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a half-closed connection may stay without a byte moving: what conntrack grants it as well
/// (nf_conntrack_tcp_timeout_fin_wait).
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(120);

/// Rest after accept(2) has failed for want of descriptors or memory: the connection waits in the backlog and
/// epoll would report it at once again.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How long a client may think before it speaks (`relay::fast_open`): long enough for one that speaks first, and a
/// small part of a satellite's round trip for one that waits for its server to.
const FIRST_BYTES: Duration = Duration::from_millis(50);

pub struct Worker<'a> {
    pep: &'a Pep,
    index: usize,
    means: Means,
    again: VecDeque<SlotId>,
    /// Connections whose SYN waits for the client's first bytes, and until when; in that order.
    silent: VecDeque<(Instant, SlotId)>,
    next_sweep: Instant,
}

impl<'a> Worker<'a> {
    pub fn new(pep: &'a Pep, index: usize) -> Worker<'a> {
        // Taken over with their connections.
        let lent =
            pep.slots.in_use().filter(|(_, slot)| slot.worker == index).map(|(_, slot)| match &slot.stage {
                Stage::Relaying(connection) => connection.pipes(),
                _ => 0,
            });
        Worker {
            pep,
            index,
            means: Means::new(lent.sum()),
            again: VecDeque::with_capacity(pep.slots.capacity()),
            silent: VecDeque::with_capacity(if pep.legs.fast_open { pep.slots.capacity() } else { 0 }),
            next_sweep: Instant::now(),
        }
    }

    /// Never returns: the process ends around it.
    pub fn run(mut self) -> ! {
        let mut events = [EpollEvent::empty(); BATCH];
        let mut syns = 1;
        loop {
            if self.pep.parking.is_closed() {
                self.pep.parking.wait();
            }
            let limit = mem::replace(&mut syns, 1);
            let [busy, idle] = self.patience();
            let ready = self.seat().wait(&mut events, busy, idle);
            self.means.pipes.closed = self.pep.memory.is_tight();
            for event in &events[..ready] {
                match Token::from(event.data()) {
                    Token::Wake => {}
                    Token::Queue if steal::queued(self.pep, self.index, limit) => {}
                    Token::Queue => syns = MAX_SYNS.min(2 * limit),
                    Token::Listener(index) => self.admit(&self.seat().listeners[index], 1),
                    Token::Leg(id, side) => self.leg_event(id, side, event.events()),
                }
            }
            for _ in 0..self.again.len().min(BATCH) {
                self.next_turn();
            }
            self.end_silence();
            let due = self.seat().connections() > 0 || self.pep.queue.owes_verdicts();
            if due && Instant::now() >= self.next_sweep {
                self.pep.queue.flush();
                self.sweep();
                self.next_sweep = Instant::now() + SWEEP_INTERVAL;
            }
        }
    }

    fn seat(&self) -> &'a Seat {
        &self.pep.workers[self.index]
    }

    /// How long to wait for events: with connections and without.
    fn patience(&self) -> [EpollTimeout; 2] {
        let until_sweep = EpollTimeout::from(SWEEP_INTERVAL.as_millis() as u16);
        let busy = match (self.again.is_empty(), self.silent.front()) {
            (false, _) => EpollTimeout::ZERO,
            // Rounded up: what came early would only be waited for again. FIRST_BYTES at most.
            (true, Some((until, _))) => {
                let left = until.saturating_duration_since(Instant::now());
                EpollTimeout::from(left.as_millis() as u16 + 1)
            }
            (true, None) => until_sweep,
        };
        [busy, if self.pep.queue.owes_verdicts() { until_sweep } else { EpollTimeout::NONE }]
    }

    /// Accepts at most `limit` of the connections that wait.
    fn admit(&self, listener: &OwnedFd, limit: usize) {
        for _ in 0..limit {
            match handshake::admit(self.pep, self.index, listener) {
                Ok(true) => {}
                Ok(false) => return,
                Err(errno) => {
                    log::connection(format_args!("cannot accept: {}", errno.desc()));
                    if matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) {
                        std::thread::sleep(ACCEPT_PAUSE);
                        return;
                    }
                }
            }
        }
    }

    fn leg_event(&mut self, id: SlotId, side: Side, events: EpollFlags) {
        let Some(mut slot) = self.pep.slots.lock(id) else {
            return;
        };
        let begun = slot.begun;
        match &mut slot.stage {
            Stage::Free => {}
            Stage::Dialling(seen) => *seen |= events,
            Stage::Held(_) => {
                if let Stage::Held(held) = mem::replace(&mut slot.stage, Stage::Free) {
                    handshake::server_answered(self.pep, id, slot, held, events);
                }
            }
            Stage::Injected(injected) => {
                handshake::note_server(self.pep, &mut injected.server, begun, events);
            }
            Stage::Relaying(connection) => {
                match (side, connection.leg(side)) {
                    (Side::Client, client) => client.note(events),
                    (Side::Server, server) => handshake::note_server(self.pep, server, begun, events),
                }
                if !connection.queued {
                    self.relay(id, slot);
                }
            }
        }
    }

    fn next_turn(&mut self) {
        let Some(id) = self.again.pop_front() else {
            return;
        };
        if let Some(mut slot) = self.pep.slots.lock(id)
            && let Stage::Relaying(connection) = &mut slot.stage
        {
            connection.queued = false;
            self.relay(id, slot);
        }
    }

    fn relay(&mut self, id: SlotId, mut slot: MutexGuard<'_, Slot>) {
        let Slot { stage, deadline, ending, .. } = &mut *slot;
        let Stage::Relaying(connection) = stage else {
            return;
        };
        let [up, down] = connection.bytes();
        if connection.syn_waits() && !self.send_syn(id, connection) {
            return;
        }
        let outcome = connection.pump(&mut self.means);
        let after = connection.bytes();
        if after != [up, down] {
            self.pep.workers[self.index].moved.add([after[0] - up, after[1] - down]);
            if let Some(share) = &self.pep.share
                && after[share.flow()] != [up, down][share.flow()]
            {
                share.sends(id.index);
            }
        }
        match outcome {
            Outcome::Idle => {
                if connection.is_half_closed() && !*ending {
                    connection.mark_progress();
                    *deadline = Some(Instant::now() + HALF_CLOSED_TIMEOUT);
                    self.pep.note_ending(&mut slot);
                }
            }
            Outcome::Again => {
                connection.queued = true;
                self.again.push_back(id);
            }
            Outcome::Finished => {
                connection.linger();
                self.end(id, slot, "finished");
            }
            Outcome::Failed => self.end(id, slot, "reset"),
        }
    }

    /// Lets the server leg's SYN leave with the client's first bytes; false: they may still come.
    fn send_syn(&mut self, id: SlotId, connection: &mut Connection) -> bool {
        let until = *connection.silent_until.get_or_insert_with(|| {
            let until = Instant::now() + FIRST_BYTES;
            self.silent.push_back((until, id));
            until
        });
        if !connection.send_syn(Instant::now() >= until, &mut self.means) {
            return false;
        }
        let server = connection.leg(Side::Server);
        // Unwatched it would not be heard of again.
        if let Err(error) = self.pep.workers[self.index].watch(&server.socket, id, Side::Server) {
            server.fail(error);
        }
        true
    }

    /// Lets the SYNs of clients leave that have been silent for long enough.
    fn end_silence(&mut self) {
        while let Some(&(until, id)) = self.silent.front()
            && Instant::now() >= until
        {
            self.silent.pop_front();
            if let Some(slot) = self.pep.slots.lock(id)
                && let Stage::Relaying(connection) = &slot.stage
                && connection.syn_waits()
            {
                self.relay(id, slot);
            }
        }
    }

    /// The one end of a connection, however it has come.
    fn end(&mut self, id: SlotId, mut slot: MutexGuard<'_, Slot>, how: &str) {
        let endpoints = slot.endpoints;
        let (mut bytes, mut failed) = ([0; 2], None);
        if let Stage::Relaying(connection) = &mut slot.stage {
            bytes = connection.bytes();
            failed = connection.failure();
            if !connection.is_established() {
                self.pep.counts.connects_failed.add(1);
            }
            connection.give_back_pipes(&mut self.means.pipes);
        }
        self.pep.release(id, slot);
        if let Some(endpoints) = endpoints {
            let [up, down] = bytes;
            let (leg, error) = failed.map_or(("", ""), |(leg, error)| (leg, error.desc()));
            log::connection(format_args!("{how} {endpoints}: {up} bytes up, {down} down{leg}{error}"));
        }
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        // Whose connections wait in a backlog have completed their handshakes, however late the workers are.
        for listener in self.pep.workers.iter().flat_map(|seat| &seat.listeners) {
            self.admit(listener, self.pep.slots.capacity());
        }
        for (id, mut slot) in self.pep.slots.in_use() {
            if slot.worker != self.index || slot.deadline.is_none_or(|deadline| now < deadline) {
                continue;
            }
            match &mut slot.stage {
                Stage::Free | Stage::Dialling(_) => {}
                Stage::Held(_) => handshake::pass_held(self.pep, id, slot, Passed::Timeout),
                Stage::Injected(_) => self.end(id, slot, "not completed by the client"),
                Stage::Relaying(connection) => {
                    if connection.is_overdue() {
                        self.end(id, slot, "gave up");
                    } else {
                        connection.keep_alive();
                        let half_closed = connection.is_half_closed();
                        slot.deadline = half_closed.then_some(now + HALF_CLOSED_TIMEOUT);
                    }
                }
            }
        }
    }
}
