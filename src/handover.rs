//! Restart without loss: a daemon that is started takes over from the one that it finds at its control socket.
//!
//! Run by both main threads, over one connection to the control socket. The new daemon prepares what can fail without the
//! other, then asks; the old one finishes the answers that others wait for, and sends an [`Offer`] and the descriptors
//! of what it has. The new one builds on these and says [`PARK`]. The old one has its workers wait (`parking`), so that no
//! slot is locked and no byte is in anybody's hands, and sends every connection as a record with its descriptors. When
//! the new one has a slot for each, hears of each by epoll and has all its workers wait, it says [`READY`]; the old one
//! answers [`YOURS`] and exits at once, with nothing undone: the kernel keeps what another process has a descriptor of, and
//! a zero linger time acts with the last one. Until that answer the new one reads from no socket and writes to none. So
//! whatever fails before, on whichever side, the old one lets its workers go on as if nothing had been.
#![forbid(unsafe_code)]

pub mod record;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::vec::IntoIter;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt};
use nix::unistd::getuid;

use crate::cli::Run;
use crate::counts::{Counts, Passed};
use crate::error::Error;
use crate::log;
use crate::pep::{Adoption, Pep};
use crate::relay::{Connection, Leg, Side};
use crate::slots::{Held, Injected, Slot, SlotId, Stage};
use crate::{handshake, sys};
use record::{Handed, LEN, NEVER, Offer, Record, Totals};

/// What is asked for at the control socket.
pub const REQUEST: &[u8] = b"take over";

/// How long either side waits for the other's next word.
const PATIENCE: Duration = Duration::from_secs(5);

/// Words of one byte.
const PARK: u8 = b'p';
const READY: u8 = b'r';
const YOURS: u8 = b'y';

/// Whether this asker may take over: root and the user that this daemon is may do to it what they like anyway.
pub fn may_take_over(asker: &UnixStream) -> bool {
    getsockopt(asker, sockopt::PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == getuid().as_raw())
}

/// Hands everything over to who asks at `stream`; if true, this daemon has to exit at once. `control`: the listener of
/// the control socket.
pub fn give(stream: &UnixStream, pep: &Pep, control: BorrowedFd) -> bool {
    let taker = getsockopt(stream, sockopt::PeerCredentials).map_or(0, |peer| peer.pid());
    match give_all(stream, pep, control) {
        Ok(count) => {
            log::notice(format_args!("handed {count} connections over to pid {taker}"));
            true
        }
        Err(errno) => {
            pep.parking.open();
            log::warn(format_args!("pid {taker} has not taken over ({}): carrying on", errno.desc()));
            false
        }
    }
}

fn give_all(stream: &UnixStream, pep: &Pep, control: BorrowedFd) -> Result<usize, Errno> {
    wait_at_most(PATIENCE, stream)?;
    let steals = !pep.ending.load(Ordering::Relaxed);
    let mut descriptors = vec![control.as_raw_fd(), pep.tun.device().as_raw_fd()];
    descriptors.extend(steals.then_some(pep.queue.socket().as_raw_fd()));
    descriptors.extend(pep.workers.iter().flat_map(|seat| &seat.listeners).map(|it| it.as_raw_fd()));
    let offer = Offer {
        pid: std::process::id(),
        port: pep.port.into(),
        queue: pep.queue.number().into(),
        workers: pep.workers.len() as u32,
        used: pep.slots.used() as u32,
        ipv6: pep.tun.has_ipv6(),
        steals,
        device: Offer::name(pep.tun.name()),
    };
    say(stream, &offer.write(), &descriptors)?;
    hear(stream, PARK)?;
    let wake = || pep.workers.iter().for_each(|seat| seat.wake());
    if !pep.parking.close(pep.workers.len(), PATIENCE, wake) {
        return Err(Errno::EBUSY);
    }
    pep.queue.flush();
    let mut count = 0;
    for (_, slot) in pep.slots.in_use() {
        descriptors.clear();
        let handed = hand(&slot, &mut descriptors).ok_or(Errno::EBUSY)?;
        drop(slot);
        say(stream, &handed.write(), &descriptors)?;
        count += 1;
    }
    say(stream, &totals(pep).write(), &[])?;
    hear(stream, READY)?;
    say(stream, &[YOURS], &[])?;
    Ok(count)
}

/// `None`: its server leg is being made, which cannot be while all workers wait.
fn hand(slot: &Slot, descriptors: &mut Vec<RawFd>) -> Option<Handed> {
    let now = Instant::now();
    let millis = |time: Duration| time.as_secs().saturating_mul(1000) + u64::from(time.subsec_millis());
    let since = |at: Instant| millis(now.saturating_duration_since(at)).min((NEVER - 1).into()) as u32;
    let until = |at: Instant| millis(at.saturating_duration_since(now)).min((NEVER - 1).into()) as u32;
    let mut handed = Handed {
        endpoints: slot.endpoints?,
        worker: slot.worker as u32,
        age: since(slot.begun),
        left: slot.deadline.map_or(NEVER, until),
        ..Handed::default()
    };
    match &slot.stage {
        Stage::Free | Stage::Dialling(_) => return None,
        Stage::Held(held) => {
            handed.stage = record::HELD;
            handed.packet_id = held.packet_id;
            handed.syn.clone_from(&held.syn);
            descriptors.push(held.server.as_raw_fd());
        }
        Stage::Injected(injected) => {
            handed.stage = record::INJECTED;
            handed.injected = since(injected.at);
            handed.legs[Side::Server as usize] = injected.server.hand();
            descriptors.push(injected.server.socket.as_raw_fd());
        }
        Stage::Relaying(connection) => {
            handed.stage = record::RELAYING;
            connection.hand(&mut handed, descriptors);
        }
    }
    Some(handed)
}

fn totals(pep: &Pep) -> Totals {
    let counts = &pep.counts;
    Totals {
        counts: syns(counts).map(|count| count.get()),
        passed: Passed::ALL.map(|(why, _)| counts.passed(why).get()),
        peak: pep.slots.peak() as u32,
        last_id: pep.queue.last_id(),
        bytes: pep.bytes(),
    }
}

fn syns(counts: &Counts) -> [&crate::counts::Count; 5] {
    [&counts.seen, &counts.stolen, &counts.repeated, &counts.returned, &counts.connects_failed]
}

/// A daemon that has said what it has, and waits for this one's next word.
pub struct Giver {
    stream: UnixStream,
    pub offer: Offer,
    descriptors: IntoIter<OwnedFd>,
}

impl Giver {
    /// The daemon that answers at `path`, if this one can take over from it. A daemon elsewhere is in nobody's way, unless
    /// this one was told to answer at the same place.
    pub fn find(options: &Run, path: &str) -> Result<Option<Giver>, Error> {
        let Some(giver) = Giver::ask(path)? else {
            return Ok(None);
        };
        let offer = &giver.offer;
        let (port, queue) = (u32::from(options.port), u32::from(options.queue));
        let same = [offer.port == port, offer.queue == queue, offer.device() == *options.device];
        // Network namespaces share paths: what another one's daemon has is of no use here.
        let elsewhere = if_nametoindex(&*offer.device()).is_err();
        if (elsewhere || same == [false; 3]) && options.control.is_none() {
            return Ok(None);
        }
        if elsewhere {
            return Err(
                giver.refuse("it is in another network namespace", "give another path with --control")
            );
        }
        if same.contains(&false) {
            let has =
                format!("it has port {}, queue {} and device {}", offer.port, offer.queue, offer.device());
            return Err(giver.refuse(&has, "stop it first, or give the same"));
        }
        if offer.used as usize > options.max_conns {
            let has = format!("it has {} connections", offer.used);
            return Err(giver.refuse(&has, "allow more with -c"));
        }
        Ok(Some(giver))
    }

    /// Asks the daemon at `path`. `None`: there is none.
    fn ask(path: &str) -> Result<Option<Giver>, Error> {
        let Ok(stream) = UnixStream::connect(path) else {
            return Ok(None);
        };
        let failed = |why: &str, remedy| Error::take_over(format!("the daemon at {path}"), why, remedy);
        let answer = || {
            wait_at_most(PATIENCE, &stream)?;
            say(&stream, &[REQUEST, b"\n"].concat(), &[])?;
            listen(&stream)
        };
        let (mut message, heard, descriptors) = answer()
            .map_err(|errno| failed(errno.desc(), "stop it first, or choose another path with --control"))?;
        let complete = |offer: &Offer| {
            let listeners = offer.workers * (1 + u32::from(offer.ipv6));
            (1..=64).contains(&offer.workers)
                && descriptors.len() as u32 == 2 + u32::from(offer.steals) + listeners
                && heard == LEN
        };
        match Offer::read(&mut message).filter(complete) {
            Some(offer) => {
                // One above those received: below the device's none is closed any more (see `Tun::outlive_sockets`).
                let stream = stream.try_clone().unwrap_or(stream);
                Ok(Some(Giver { stream, offer, descriptors: descriptors.into_iter() }))
            }
            None => {
                let line = message.split(|byte| *byte == b'\n').next().unwrap_or_default();
                let said = if line.is_ascii() { str::from_utf8(line).unwrap_or_default() } else { "?" };
                Err(failed(&format!("it says '{said}'"), "stop it first"))
            }
        }
    }

    /// Why this daemon cannot follow the other, or carry so many connections.
    fn refuse(&self, why: &str, remedy: &'static str) -> Error {
        Error::take_over(format!("pid {}", self.offer.pid), why, remedy)
    }

    /// The next of what the offer has, in its order. There are as many as it says.
    pub fn descriptor(&mut self) -> Result<OwnedFd, Error> {
        self.descriptors.next().ok_or_else(|| self.failed(Errno::EBADF))
    }

    fn failed(&self, errno: Errno) -> Error {
        self.refuse(errno.desc(), "")
    }

    /// Has it hand over its connections, each of which gets a slot; their number. They are not this daemon's yet.
    pub fn hand_all(&self, pep: &Pep) -> Result<usize, Error> {
        let failed = |errno| self.failed(errno);
        say(&self.stream, &[PARK], &[]).map_err(failed)?;
        let mut count = 0;
        let totals = loop {
            let (mut message, heard, descriptors) = listen(&self.stream).map_err(failed)?;
            if heard != LEN {
                return Err(failed(Errno::EPROTO));
            }
            match Handed::read(&mut message) {
                Some(handed) => {
                    adopt(pep, handed, descriptors.into_iter()).map_err(|errno| match errno {
                        Errno::ENOSPC => self.refuse("it has more connections", "allow more with -c"),
                        _ => failed(errno),
                    })?;
                    count += 1;
                }
                None => break Totals::read(&mut message).ok_or_else(|| failed(Errno::EPROTO))?,
            }
        };
        for (count, before) in syns(&pep.counts).into_iter().zip(totals.counts) {
            count.add(before);
        }
        for ((why, _), before) in Passed::ALL.into_iter().zip(totals.passed) {
            pep.counts.passed(why).add(before);
        }
        pep.slots.note_peak(totals.peak);
        // No worker runs yet.
        pep.workers[0].moved.add(totals.bytes);
        if self.offer.steals {
            pep.queue.set_last_id(totals.last_id);
        }
        Ok(count)
    }

    /// Has it leave: from now on all is this daemon's. `Err`: nothing is.
    pub fn leave(&self) -> Result<(), Error> {
        let left = say(&self.stream, &[READY], &[]).and_then(|()| hear(&self.stream, YOURS));
        left.map_err(|errno| self.failed(errno))
    }
}

/// A slot for it, and epoll's ear.
fn adopt(pep: &Pep, it: Handed, mut descriptors: impl Iterator<Item = OwnedFd>) -> Result<(), Errno> {
    let now = Instant::now();
    let before = |millis: u32| now.checked_sub(Duration::from_millis(millis.into())).unwrap_or(now);
    let stage = match it.stage {
        record::HELD => {
            let server = descriptors.next().ok_or(Errno::EBADF)?;
            Stage::Held(Held { packet_id: it.packet_id, syn: it.syn, server })
        }
        record::INJECTED => {
            let socket = descriptors.next().ok_or(Errno::EBADF)?;
            let server = Leg::handed(socket, it.legs[Side::Server as usize]);
            Stage::Injected(Injected { at: before(it.injected), written: true, server })
        }
        record::RELAYING => Stage::Relaying(Connection::handed(&it, descriptors).ok_or(Errno::EBADF)?),
        _ => return Err(Errno::EPROTO),
    };
    let owner = it.worker as usize;
    if owner >= pep.workers.len() {
        return Err(Errno::EPROTO);
    }
    let deadline = (it.left != NEVER).then(|| now + Duration::from_millis(it.left.into()));
    let adoption = Adoption { endpoints: it.endpoints, owner, begun: before(it.age), deadline, stage };
    watch(pep, owner, pep.adopt(adoption).ok_or(Errno::ENOSPC)?)
}

fn watch(pep: &Pep, owner: usize, id: SlotId) -> Result<(), Errno> {
    let Some(mut slot) = pep.slots.lock(id) else {
        return Ok(());
    };
    match &mut slot.stage {
        Stage::Free | Stage::Dialling(_) => Ok(()),
        Stage::Held(held) => pep.workers[owner].watch(&held.server, id, Side::Server),
        Stage::Injected(injected) => handshake::watch_server(pep, owner, id, &injected.server),
        Stage::Relaying(connection) => {
            pep.workers[owner].watch(&connection.leg(Side::Client).socket, id, Side::Client)?;
            handshake::watch_server(pep, owner, id, connection.leg(Side::Server))
        }
    }
}

/// How long each read and write may take.
pub fn wait_at_most(time: Duration, stream: &UnixStream) -> Result<(), Errno> {
    let bound = || {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(time))?;
        stream.set_write_timeout(Some(time))
    };
    bound().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

fn say(stream: &UnixStream, message: &[u8], descriptors: &[RawFd]) -> Result<(), Errno> {
    match sys::send_with(stream.as_fd(), message, descriptors).map_err(timed_out)? {
        sent if sent == message.len() => Ok(()),
        _ => Err(Errno::ETIMEDOUT),
    }
}

/// Waits for one word.
fn hear(stream: &UnixStream, word: u8) -> Result<(), Errno> {
    let mut heard = [0];
    match recv(stream.as_raw_fd(), &mut heard, MsgFlags::empty()).map_err(timed_out)? {
        0 => Err(Errno::ECONNRESET),
        _ if heard == [word] => Ok(()),
        _ => Err(Errno::EPROTO),
    }
}

/// Waits for a message, or what else is said in its place, which is shorter.
fn listen(stream: &UnixStream) -> Result<([u8; LEN], usize, Vec<OwnedFd>), Errno> {
    let mut message = [0; LEN];
    match sys::receive_with(stream.as_fd(), &mut message).map_err(timed_out)? {
        (0, _) => Err(Errno::ECONNRESET),
        (heard, descriptors) => Ok((message, heard, descriptors)),
    }
}

/// What a socket's time limit is called.
fn timed_out(errno: Errno) -> Errno {
    if errno == Errno::EAGAIN { Errno::ETIMEDOUT } else { errno }
}
