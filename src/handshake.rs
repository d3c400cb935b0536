//! From the stolen SYN to the split connection: the steps between stealing and the relay.
//!
//! Run in workers. Each step takes the slot's lock with it and lets go of it
//! before a system call that writes to the kernel's queue or device.
#![forbid(unsafe_code)]

use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{SockaddrIn, SockaddrIn6, getsockopt, sockopt};

use crate::counts::Passed;
use crate::pep::Pep;
use crate::relay::{Connection, Leg, Side};
use crate::slots::{Endpoints, Held, Injected, Slot, SlotId, Stage};
use crate::syn::Syn;
use crate::{legs, log, steering, sys};

/// How long a client may take to complete the handshake with the listener; what waits to be accepted has.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes the SYN to the TUN device in place of the queued packet, which is dropped.
pub fn inject(
    pep: &Pep,
    id: SlotId,
    mut slot: MutexGuard<'_, Slot>,
    packet_id: u32,
    syn: &mut [u8],
    server: Leg,
) {
    steering::direct(syn, slot.worker);
    let now = Instant::now();
    slot.deadline = Some(now + ACCEPT_TIMEOUT);
    slot.stage = Stage::Injected(Injected { at: now, written: false, server });
    drop(slot);
    match pep.tun.inject(syn) {
        Ok(()) => {
            if let Some(mut slot) = pep.slots.lock(id)
                && let Stage::Injected(injected) = &mut slot.stage
            {
                injected.written = true;
            }
            pep.counts.stolen.add(1);
            pep.queue.drop(packet_id);
        }
        Err(error) => {
            if let Some(slot) = pep.slots.lock(id) {
                pep.release(id, slot);
            }
            pep.pass(packet_id, Passed::Undelivered);
            if pep.undelivered.note(pep.uptime_s()) {
                log::warn(format_args!("cannot write to pepsal's device: {error}: connections pass direct"));
            }
        }
    }
}

/// From now on `owner` hears of the server leg, unless its SYN waits for the client's first bytes.
pub fn watch_server(pep: &Pep, owner: usize, id: SlotId, server: &Leg) -> Result<(), Errno> {
    if server.syn_waits {
        return Ok(());
    }
    pep.workers[owner].watch(&server.socket, id, Side::Server)
}

/// Notes `events` of a server leg that is not up yet, and when it gets up how long that took.
pub fn note_server(pep: &Pep, server: &mut Leg, begun: Instant, events: EpollFlags) {
    let was_connected = server.is_connected();
    server.note(events);
    if !was_connected && server.is_connected() {
        pep.gain.note(Side::Server, begun.elapsed());
        pep.legs.satellite.open_window(&server.socket, Side::Server);
    }
}

/// Goes on with a held SYN after `events` of its server leg: injected, passed, or held on.
pub fn server_answered(
    pep: &Pep,
    id: SlotId,
    mut slot: MutexGuard<'_, Slot>,
    mut held: Held,
    events: EpollFlags,
) {
    let mut server = Leg::new(held.server);
    note_server(pep, &mut server, slot.begun, events);
    if server.is_connected() {
        inject(pep, id, slot, held.packet_id, &mut held.syn, server);
    } else if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
        // Refused or unreachable: the client's own SYN goes on and gets its true answer.
        let endpoints = slot.endpoints;
        let error = server.error.unwrap_or(Errno::UnknownErrno);
        pep.release(id, slot);
        pep.counts.connects_failed.add(1);
        pep.pass(held.packet_id, Passed::because(error));
        if let Some(endpoints) = endpoints {
            log::connection(format_args!("passed {endpoints}: {}", error.desc()));
        }
    } else {
        slot.stage = Stage::Held(Held { server: server.socket, ..held });
    }
}

/// Lets the SYN go on if it is still held; leaves a later stage alone.
pub fn pass_held(pep: &Pep, id: SlotId, slot: MutexGuard<'_, Slot>, why: Passed) {
    if let Stage::Held(held) = &slot.stage {
        let packet_id = held.packet_id;
        pep.release(id, slot);
        if why == Passed::Timeout {
            pep.counts.connects_failed.add(1);
        }
        pep.pass(packet_id, why);
    }
}

/// Accepts one connection and joins it to the server leg of its SYN; false: none waits. One that nobody redirected is
/// reset: the listener is no open proxy.
pub fn admit(pep: &Pep, taker: usize, listener: &OwnedFd) -> Result<bool, Errno> {
    let (socket, peer) = match sys::accept(listener.as_fd()) {
        Err(Errno::EAGAIN) => return Ok(false),
        // Reset before it was accepted.
        Err(Errno::ECONNABORTED | Errno::EINTR) => return Ok(true),
        accepted => accepted?,
    };
    let endpoints = Endpoints { client: peer, server: original_destination(&socket, &peer)? };
    let returning = || {
        redial(pep, taker, &endpoints)?;
        pep.slots.take_injected(&endpoints)
    };
    let own = pep.slots.take_injected(&endpoints);
    // One that returns sends no SYN that could be waited for.
    let answered_a_syn = own.is_some();
    let Some((id, mut slot)) = own.or_else(returning) else {
        log::connection(format_args!("reset {endpoints}: no SYN of it was stolen"));
        return Ok(true);
    };
    let Stage::Injected(injected) = mem::replace(&mut slot.stage, Stage::Free) else {
        unreachable!("take_injected returns injected slots");
    };
    if answered_a_syn {
        pep.gain.note(Side::Client, injected.at.elapsed());
    }
    let connected = injected.server.is_connected();
    // A SYN that was held for long may have been repeated just now.
    slot.begun = injected.at;
    slot.deadline = Some(injected.at + if connected { legs::KEEPALIVE_FROM } else { pep.connect_timeout });
    if let Some(share) = pep.share.as_ref().filter(|share| share.side == Side::Client) {
        // Without its ceiling it has one from the pacer's next look on.
        let _ = share.begin(&socket, endpoints.server.is_ipv6());
    }
    pep.legs.satellite.open_window(&socket, Side::Client);
    let client = Leg::new(socket);
    let watched = pep.workers[slot.worker].watch(&client.socket, id, Side::Client);
    slot.stage = Stage::Relaying(Connection::new(client, injected.server));
    if watched.is_err() {
        pep.release(id, slot);
    }
    Ok(true)
}

/// For a connection that was redirected but has no slot, as if its SYN had been stolen and answered early.
///
/// Netfilter keeps the redirection of a stolen connection for some seconds after a reset. A client that uses
/// the same port for the same server again meanwhile comes straight to the listener, by the leave that the
/// firewall gave to the SYN before. So does one whose handshake took longer than [`ACCEPT_TIMEOUT`].
fn redial(pep: &Pep, taker: usize, endpoints: &Endpoints) -> Option<()> {
    if pep.tun.addresses().any(|own| own == endpoints.server.ip()) {
        return None;
    }
    let (id, owner) = pep.claim(*endpoints, taker).ok()?;
    let syn = Syn { client: endpoints.client, server: endpoints.server, dscp: 0 };
    let dialled = legs::dial(&syn, 0, pep).and_then(|server| {
        watch_server(pep, owner, id, &server)?;
        Ok(server)
    });
    let mut slot = pep.slots.lock(id)?;
    let Ok(mut server) = dialled else {
        pep.release(id, slot);
        return None;
    };
    if let Stage::Dialling(seen) = slot.stage {
        note_server(pep, &mut server, slot.begun, seen);
    }
    slot.stage = Stage::Injected(Injected { at: Instant::now(), written: true, server });
    pep.counts.returned.add(1);
    log::connection(format_args!("dialled {endpoints} again: it was redirected without a SYN"));
    Some(())
}

/// Where the client meant to connect to, before netfilter redirected it.
fn original_destination(client: &OwnedFd, peer: &SocketAddr) -> Result<SocketAddr, Errno> {
    match peer {
        SocketAddr::V4(_) => {
            let address = SockaddrIn::from(getsockopt(client, sockopt::OriginalDst)?);
            Ok(SocketAddr::from(address))
        }
        SocketAddr::V6(_) => {
            let address = SockaddrIn6::from(getsockopt(client, sockopt::Ip6tOriginalDst)?);
            // Without the flow label and scope that a SYN in the forward hook cannot have.
            Ok(SocketAddr::new(address.ip().into(), address.port()))
        }
    }
}
