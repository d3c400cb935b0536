//! Stealing: takes packets from the netfilter queue and decides which pass and which get a slot.
//!
//! Runs in whichever worker the queue wakes. A SYN that is stolen gets a slot and a server leg in the epoll of
//! the worker with the fewest connections; then it stays in the queue until the server has answered
//! (deferred), or is injected at once (early). Doubt always means: let it go.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::time::Duration;

use heapless::Vec;
use nix::sys::epoll::EpollFlags;

use crate::counts::Passed;
use crate::pep::{Handshake, Pep};
use crate::queue::Queued;
use crate::slots::{Endpoints, Held, Stage};
use crate::syn::{self, Pass, Syn};
use crate::{handshake, legs, log};

/// A client repeats its SYN after one second (RFC 6298). One that comes sooner after the injection was under
/// way already; one that comes later says that the injected SYN never reached the listener, because
/// netfilter would have led the repetition there.
const REPEATED_IN_VAIN: Duration = Duration::from_millis(900);

/// How long SYNs of one connection may have waited in the queue together, while no worker came to take them. Later, a
/// SYN of an accepted connection's ends says that the client has forgotten it, and is stolen as any other.
const WAITED_TOGETHER: Duration = Duration::from_secs(10);

/// Takes what waits in the queue, at most `limit` packets, on behalf of worker `taker`; true if that was all.
pub fn queued(pep: &Pep, taker: usize, limit: usize) -> bool {
    for _ in 0..limit {
        let Some(packet) = pep.queue.next() else {
            return true;
        };
        pep.counts.seen.add(1);
        if packet.missed != 0 {
            pep.counts.passed(Passed::FailOpen).add(packet.missed);
            if packet.is_after_a_gap(pep.workers.len()) {
                pep.missed.note(pep.uptime_s());
            }
        }
        match syn::parse(&packet.bytes) {
            _ if pep.ending.load(Ordering::Relaxed) => pep.pass(packet.id, Passed::Ending),
            Ok(syn) => steal(pep, taker, &syn, packet, limit > 1),
            Err(reason) => {
                pep.pass(packet.id, untouched(reason));
                log::connection(format_args!("passed a packet: {reason:?}"));
            }
        }
    }
    false
}

/// `crowded`: the packet came right behind others, so it may have waited for longer than it took to inject the one
/// that it repeats.
fn steal(pep: &Pep, taker: usize, syn: &Syn, mut packet: Queued, crowded: bool) {
    let endpoints = Endpoints { client: syn.client, server: syn.server };
    // Were one SYN to come twice at the same moment, two workers could each give it a slot. The second
    // injection would be a repetition to the kernel, and its slot would end for want of a client.
    if let Some((id, slot)) = pep.slots.find_pending(&endpoints) {
        match &slot.stage {
            Stage::Injected(it) if it.written && !crowded && it.at.elapsed() > REPEATED_IN_VAIN => {
                pep.release(id, slot);
                // First, so that it is known when the client is connected.
                warn_undelivered(pep);
                pep.pass(packet.id, Passed::Undelivered);
            }
            _ => {
                pep.counts.repeated.add(1);
                pep.queue.drop(packet.id);
            }
        }
        return;
    }
    if pep.slots.accepted_lately(&endpoints, WAITED_TOGETHER) {
        pep.counts.repeated.add(1);
        return pep.queue.drop(packet.id);
    }
    if pep.gain.is_none() {
        return pep.pass(packet.id, Passed::FastLink);
    }
    if !pep.memory.admits() {
        pep.bell.ring();
        return pep.pass(packet.id, Passed::Memory);
    }
    let (id, owner) = match pep.claim(endpoints, taker) {
        Ok(claimed) => claimed,
        Err(why) => {
            pep.pass(packet.id, why);
            if why == Passed::Full {
                warn_full(pep);
            }
            return;
        }
    };
    note_room(pep);
    // Without the slot's lock: these system calls are most of the work, and the second may wake the owner.
    let dialled = legs::dial(syn, packet.mark, pep).and_then(|server| {
        handshake::watch_server(pep, owner, id, &server)?;
        Ok(server)
    });
    let Some(mut slot) = pep.slots.lock(id) else {
        return pep.pass(packet.id, Passed::Ending);
    };
    // Again, because `stop` has looked at this slot already: nobody would let its SYN go.
    if pep.ending.load(Ordering::Relaxed) {
        pep.release(id, slot);
        return pep.pass(packet.id, Passed::Ending);
    }
    let mut server = match dialled {
        Ok(server) => server,
        Err(errno) => {
            pep.release(id, slot);
            pep.pass(packet.id, Passed::because(errno));
            return log::connection(format_args!("passed {endpoints}: {}", errno.desc()));
        }
    };
    let seen = match slot.stage {
        Stage::Dialling(events) => events,
        _ => EpollFlags::empty(),
    };
    match pep.handshake {
        Handshake::Deferred => {
            // No longer than a SYN may be, or it would not have been parsed.
            let syn = Vec::from_slice(&packet.bytes).unwrap_or_default();
            slot.deadline = Some(slot.begun + pep.connect_timeout);
            handshake::server_answered(
                pep,
                id,
                slot,
                Held { packet_id: packet.id, syn, server: server.socket },
                seen,
            );
        }
        Handshake::Early => {
            handshake::note_server(pep, &mut server, slot.begun, seen);
            handshake::inject(pep, id, slot, packet.id, &mut packet.bytes, server);
        }
    }
    log::connection(format_args!("stole {endpoints}"));
}

fn untouched(reason: Pass) -> Passed {
    match reason {
        Pass::Signed => Passed::Signed,
        Pass::CarriesData => Passed::Data,
        Pass::Malformed | Pass::Unusual | Pass::NotSyn | Pass::TooLong => Passed::Unusual,
    }
}

/// The daemon is to end: what waits in the queue or in a slot goes on direct, and so does what comes later.
pub fn stop(pep: &Pep) {
    pep.ending.store(true, Ordering::Relaxed);
    while let Some(packet) = pep.queue.next() {
        pep.counts.seen.add(1);
        pep.pass(packet.id, Passed::Ending);
    }
    for (id, slot) in pep.slots.in_use() {
        handshake::pass_held(pep, id, slot, Passed::Ending);
    }
    pep.queue.unbind();
}

fn warn_full(pep: &Pep) {
    if !pep.full.swap(true, Ordering::Relaxed) {
        log::warn(format_args!(
            "all {} slots are in use: new connections pass direct until some end (-c sets their number)",
            pep.slots.capacity()
        ));
    }
}

/// Speaks only when an eighth of the slots is free again, so that a full table does not fill the log.
fn note_room(pep: &Pep) {
    if pep.full.load(Ordering::Relaxed) && pep.has_room() && pep.full.swap(false, Ordering::Relaxed) {
        log::notice(format_args!("slots are free again: new connections are stolen"));
    }
}

fn warn_undelivered(pep: &Pep) {
    if pep.undelivered.note(pep.uptime_s()) {
        log::warn(format_args!(
            "an injected SYN did not reach the listener: its connection passes direct; does the firewall's \
             input chain accept what comes from pepsal's device, and are pepsal's rules loaded?"
        ));
    }
}
