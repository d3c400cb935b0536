//! The queuer: takes SYNs from the netfilter queue, steals what can be stolen, passes the rest.
//!
//! One thread, blocked in recv(2) on the queue. It alone claims slots. For each SYN: claim a slot, begin the
//! server leg, hand it to a worker's epoll; then the SYN stays in the queue until the server has answered
//! (deferred), or is injected at once (early). Doubt always means: let it go.
#![forbid(unsafe_code)]

use std::thread::sleep;
use std::time::{Duration, Instant};

use heapless::Vec;
use nfq::Message;

use crate::pep::{Handshake, Pep};
use crate::queue::SynQueue;
use crate::relay::{Leg, Side};
use crate::slots::{Endpoints, Held, Stage};
use crate::syn::{self, Pass, Syn};
use crate::{handshake, legs, log};

/// A client repeats its SYN after one second (RFC 6298). One that comes sooner after the injection was under
/// way already; one that comes later says that the injected SYN never reached the listener, because
/// netfilter would have led the repetition there.
const REPEATED_IN_VAIN: Duration = Duration::from_millis(900);

pub fn run(pep: &Pep, mut queue: SynQueue) {
    let mut queuer = Queuer { pep, full: false, undelivered: false };
    while !pep.is_stopping() {
        match queue.next() {
            Ok(packet) => queuer.decide(&packet),
            // The answer to a late verdict; if it is ever more than that, this is not to spin.
            Err(_) => sleep(Duration::from_millis(1)),
        }
    }
    while let Some(packet) = queue.next_waiting() {
        pep.verdicts.pass(packet.get_packet_id());
    }
    for (id, slot) in pep.slots.in_use() {
        handshake::pass_held(pep, id, slot);
    }
    queue.unbind();
}

struct Queuer<'a> {
    pep: &'a Pep,
    /// The last SYN found no free slot.
    full: bool,
    /// An injected SYN did not reach the listener.
    undelivered: bool,
}

impl Queuer<'_> {
    fn decide(&mut self, packet: &Message) {
        let id = packet.get_packet_id();
        match syn::parse(packet.get_payload()) {
            Ok(syn) => self.steal(&syn, packet),
            Err(reason) => {
                log::connection(format_args!("passed a packet: {reason:?}"));
                self.pep.verdicts.pass(id);
            }
        }
    }

    fn steal(&mut self, syn: &Syn, packet: &Message) {
        let pep = self.pep;
        let packet_id = packet.get_packet_id();
        let endpoints = Endpoints { client: syn.client, server: syn.server };
        if let Some((id, slot)) = pep.slots.find_pending(&endpoints) {
            match &slot.stage {
                Stage::Injected(it) if it.at.elapsed() > REPEATED_IN_VAIN => {
                    pep.release(id, slot);
                    self.warn_undelivered();
                    pep.verdicts.pass(packet_id);
                }
                _ => pep.verdicts.drop(packet_id),
            }
            return;
        }
        let Ok(bytes) = Vec::from_slice(packet.get_payload()) else {
            log::connection(format_args!("passed a packet: {:?}", Pass::TooLong));
            return pep.verdicts.pass(packet_id);
        };
        let Some((id, mut slot, seat)) = pep.claim(endpoints) else {
            self.note_full();
            return pep.verdicts.pass(packet_id);
        };
        let server = match legs::dial(syn, packet.get_nfmark(), &pep.legs)
            .and_then(|server| seat.watch(&server, id, Side::Server).map(|()| server))
        {
            Ok(server) => server,
            Err(errno) => {
                pep.release(id, slot);
                pep.verdicts.pass(packet_id);
                return log::connection(format_args!("passed {endpoints}: {}", errno.desc()));
            }
        };
        match pep.handshake {
            Handshake::Deferred => {
                slot.deadline = Some(Instant::now() + pep.connect_timeout);
                slot.stage = Stage::Held(Held { packet_id, syn: bytes, server });
                drop(slot);
            }
            Handshake::Early => handshake::inject(pep, id, slot, packet_id, &bytes, Leg::new(server)),
        }
        self.note_room();
        log::connection(format_args!("stole {endpoints}"));
    }

    fn note_full(&mut self) {
        if !self.full {
            self.full = true;
            log::warn(format_args!(
                "all {} slots are in use: new connections pass direct until some end (-c sets their number)",
                self.pep.slots.capacity()
            ));
        }
    }

    /// Speaks only when an eighth of the slots is free again, so that a full table does not fill the log.
    fn note_room(&mut self) {
        let capacity = self.pep.slots.capacity();
        if self.full && self.pep.slots.used() <= capacity - capacity.div_ceil(8) {
            self.full = false;
            log::notice(format_args!("slots are free again: new connections are stolen"));
        }
    }

    fn warn_undelivered(&mut self) {
        if !self.undelivered {
            self.undelivered = true;
            log::warn(format_args!(
                "an injected SYN did not reach the listener: its connection passes direct; does the firewall's \
                 input chain accept what comes from pepsal's device, and are pepsal's rules loaded?"
            ));
        }
    }
}
