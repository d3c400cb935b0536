//! A connection on its way from one daemon to the next (see `handover`).
//!
//! Only what epoll will not report again is handed over: the sockets' readiness comes anew with their registration, and
//! the kind of the last read shows at the next one. Urgent data that has come once does not show again.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::{Connection, Flow, Leg, Side};
use crate::handover::record::{Handed, HandedFlow, HandedLeg};
use crate::pipes::Pipe;

impl Leg {
    pub fn hand(&self) -> HandedLeg {
        HandedLeg {
            connected: self.connected,
            error: self.error.map_or(0, |error| error as u32 + 1),
            unspliceable: self.unspliceable,
            syn_waits: self.syn_waits,
        }
    }

    pub fn handed(socket: OwnedFd, it: HandedLeg) -> Leg {
        Leg {
            connected: it.connected,
            error: it.error.checked_sub(1).map(|error| Errno::from_raw(error as i32)),
            unspliceable: it.unspliceable,
            syn_waits: it.syn_waits,
            ..Leg::new(socket)
        }
    }
}

impl Connection {
    /// Notes all of it in `to`, and its descriptors in the order of [`Connection::handed`].
    pub fn hand(&self, to: &mut Handed, descriptors: &mut Vec<RawFd>) {
        for side in [Side::Server, Side::Client] {
            let leg = &self.legs[side as usize];
            to.legs[side as usize] = leg.hand();
            descriptors.push(leg.socket.as_raw_fd());
        }
        for (flow, to) in self.flows.iter().zip(&mut to.flows) {
            *to = HandedFlow { bytes: flow.bytes, drained: flow.drained, ended: flow.ended, ..*to };
            if let Some(pipe) = &flow.pipe {
                (to.held, to.capacity) = (pipe.held() as u32, pipe.capacity() as u32);
                descriptors.extend(pipe.ends().map(|end| end.as_raw_fd()));
            }
        }
        to.squeezed = self.squeezed;
    }

    /// `None`: descriptors are missing.
    pub fn handed(it: &Handed, mut descriptors: impl Iterator<Item = OwnedFd>) -> Option<Connection> {
        let server = Leg::handed(descriptors.next()?, it.legs[Side::Server as usize]);
        let client = Leg::handed(descriptors.next()?, it.legs[Side::Client as usize]);
        let mut connection = Connection::new(client, server);
        for (flow, it) in connection.flows.iter_mut().zip(&it.flows) {
            *flow = Flow { bytes: it.bytes, drained: it.drained, ended: it.ended, ..Flow::default() };
            if it.held > 0 {
                let ends = [descriptors.next()?, descriptors.next()?];
                flow.pipe = Some(Pipe::taken(ends, it.capacity as usize, it.held as usize));
            }
        }
        connection.squeezed = it.squeezed;
        Some(connection)
    }

    /// Pipes that its flows have.
    pub fn pipes(&self) -> usize {
        self.flows.iter().filter(|flow| flow.pipe.is_some()).count()
    }
}
