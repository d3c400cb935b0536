//! What the messages of a hand-over say, as bytes: one fixed length for all, beside which descriptors travel.
//!
//! Each record names its fields once, in [`Record::fields`], by which it is both written and read. Both daemons run on
//! one machine, so numbers are in its own byte order. A daemon of another release is told by [`VERSION`], which
//! changes with every change of a layout.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use heapless::{String, Vec};

use crate::counts::Passed;
use crate::slots::Endpoints;
use crate::syn;

/// Of the layouts below.
const VERSION: u32 = 1;

/// Bytes of a message.
pub const LEN: usize = 320;

/// What no number of milliseconds is: no deadline.
pub const NEVER: u32 = u32::MAX;

/// Goes over the fields of a record, in order, writing or reading them.
pub struct Fields<'a> {
    bytes: &'a mut [u8; LEN],
    at: usize,
    reading: bool,
}

impl Fields<'_> {
    fn octets(&mut self, value: &mut [u8]) {
        // A record that is longer than a message would fail its test.
        if let Some(place) = self.bytes.get_mut(self.at..self.at + value.len()) {
            match self.reading {
                true => value.copy_from_slice(place),
                false => place.copy_from_slice(value),
            }
        }
        self.at += value.len();
    }

    fn number(&mut self, value: &mut u32) {
        let mut bytes = value.to_ne_bytes();
        self.octets(&mut bytes);
        *value = u32::from_ne_bytes(bytes);
    }

    fn long(&mut self, value: &mut u64) {
        let mut bytes = value.to_ne_bytes();
        self.octets(&mut bytes);
        *value = u64::from_ne_bytes(bytes);
    }

    fn truth(&mut self, value: &mut bool) {
        let mut byte = [u8::from(*value)];
        self.octets(&mut byte);
        *value = byte != [0];
    }

    fn address(&mut self, value: &mut SocketAddr) {
        let mut ipv6 = value.is_ipv6();
        let mut ip = match value.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let mut port = u32::from(value.port());
        self.truth(&mut ipv6);
        self.octets(&mut ip);
        self.number(&mut port);
        let [.., a, b, c, d] = ip;
        let ip = match ipv6 {
            true => IpAddr::from(Ipv6Addr::from(ip)),
            false => IpAddr::from(Ipv4Addr::new(a, b, c, d)),
        };
        *value = SocketAddr::new(ip, port as u16);
    }
}

pub trait Record: Default {
    /// The first field of all, so that none is taken for another.
    const KIND: u32;

    fn fields(&mut self, fields: &mut Fields);

    fn write(mut self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        self.pass(&mut bytes, false);
        bytes
    }

    /// `None`: it is something else.
    fn read(bytes: &mut [u8; LEN]) -> Option<Self> {
        let mut record = Self::default();
        record.pass(bytes, true).then_some(record)
    }

    fn pass(&mut self, bytes: &mut [u8; LEN], reading: bool) -> bool {
        let mut fields = Fields { bytes, at: 0, reading };
        let mut kind = VERSION << 8 | Self::KIND;
        fields.number(&mut kind);
        self.fields(&mut fields);
        kind == (VERSION << 8 | Self::KIND) && fields.at <= LEN
    }
}

/// What the daemon is and where. Descriptors: of the control socket, the TUN device, the queue if it is bound, and the
/// listeners, of one worker after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    pub pid: u32,
    pub port: u32,
    pub queue: u32,
    pub device: [u8; 16],
    pub workers: u32,
    pub used: u32,
    pub ipv6: bool,
    /// The queue is among the descriptors: the daemon still steals.
    pub steals: bool,
}

impl Offer {
    /// A device's name as it is written: at most 15 bytes, the others are 0.
    pub fn name(name: &str) -> [u8; 16] {
        let mut device = [0; 16];
        device.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        device
    }

    pub fn device(&self) -> String<16> {
        let name = self.device.iter().take_while(|byte| byte.is_ascii_graphic());
        name.map(|byte| char::from(*byte)).collect()
    }
}

impl Record for Offer {
    const KIND: u32 = 1;

    fn fields(&mut self, fields: &mut Fields) {
        for number in [&mut self.pid, &mut self.port, &mut self.queue, &mut self.workers, &mut self.used] {
            fields.number(number);
        }
        fields.octets(&mut self.device);
        fields.truth(&mut self.ipv6);
        fields.truth(&mut self.steals);
    }
}

/// How far a connection is; the numbers of `slots::Stage` that are handed over.
pub const HELD: u32 = 1;
pub const INJECTED: u32 = 2;
pub const RELAYING: u32 = 3;

/// One connection. Descriptors: of the server leg; when it is relayed also of the client leg, and of each direction's
/// pipe, if it has one, both ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Handed {
    pub endpoints: Endpoints,
    pub worker: u32,
    pub stage: u32,
    /// Milliseconds since the slot was claimed and since the SYN was injected, and until the deadline.
    pub age: u32,
    pub injected: u32,
    pub left: u32,
    /// Of a held SYN.
    pub packet_id: u32,
    pub syn: Vec<u8, { syn::MAX_LEN }>,
    pub legs: [HandedLeg; 2],
    pub flows: [HandedFlow; 2],
    pub squeezed: bool,
}

/// What is to be known of a leg beside what epoll will report again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HandedLeg {
    pub connected: bool,
    /// The number of its error and one more; 0: it has none.
    pub error: u32,
    pub unspliceable: bool,
    pub syn_waits: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HandedFlow {
    pub bytes: u64,
    pub drained: bool,
    pub ended: bool,
    /// Bytes that its pipe holds and can hold; 0: it has none.
    pub held: u32,
    pub capacity: u32,
}

impl Default for Handed {
    fn default() -> Handed {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Handed {
            endpoints: Endpoints { client: nowhere, server: nowhere },
            worker: 0,
            stage: 0,
            age: 0,
            injected: 0,
            left: NEVER,
            packet_id: 0,
            syn: Vec::new(),
            legs: Default::default(),
            flows: Default::default(),
            squeezed: false,
        }
    }
}

impl Record for Handed {
    const KIND: u32 = 2;

    fn fields(&mut self, fields: &mut Fields) {
        fields.address(&mut self.endpoints.client);
        fields.address(&mut self.endpoints.server);
        let mut syn_len = self.syn.len() as u32;
        for number in [
            &mut self.worker,
            &mut self.stage,
            &mut self.age,
            &mut self.injected,
            &mut self.left,
            &mut self.packet_id,
            &mut syn_len,
        ] {
            fields.number(number);
        }
        for leg in &mut self.legs {
            fields.number(&mut leg.error);
            for truth in [&mut leg.connected, &mut leg.unspliceable, &mut leg.syn_waits] {
                fields.truth(truth);
            }
        }
        for flow in &mut self.flows {
            fields.long(&mut flow.bytes);
            fields.truth(&mut flow.drained);
            fields.truth(&mut flow.ended);
            fields.number(&mut flow.held);
            fields.number(&mut flow.capacity);
        }
        fields.truth(&mut self.squeezed);
        if self.syn.resize(syn_len as usize, 0).is_err() {
            // Longer than a SYN can be: nothing that was written here.
            self.stage = 0;
        }
        fields.octets(&mut self.syn);
    }
}

/// After the last connection: what was counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// SYNs seen, stolen, repeated, returned, and connects that failed.
    pub counts: [u32; 5],
    pub passed: [u32; Passed::ALL.len()],
    pub peak: u32,
    /// Of the queue's packets.
    pub last_id: u32,
    pub bytes: [u64; 2],
}

impl Record for Totals {
    const KIND: u32 = 3;

    fn fields(&mut self, fields: &mut Fields) {
        for number in self.counts.iter_mut().chain(&mut self.passed) {
            fields.number(number);
        }
        fields.number(&mut self.peak);
        fields.number(&mut self.last_id);
        for bytes in &mut self.bytes {
            fields.long(bytes);
        }
    }
}

#[cfg(test)]
mod tests;
