//! The netfilter queue that SYNs wait in.
//!
//! Bound by nfq, read and answered here, by any worker at any time: the kernel gives each packet to one reader, and
//! takes a verdict as a short message on the socket that has bound the queue (and on no other, but from any process that
//! has a descriptor of it). So there is no lock around a system call, and a held SYN costs its slot only, where nfq's
//! `Message` pins a receive buffer until its verdict.
//! Reference: linux/netfilter/nfnetlink_queue.h.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use heapless::Vec;
use nfq::Queue;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, NetlinkAddr, getsockname, recv, send, setsockopt, sockopt};

use crate::error::Error;
use crate::sys;

/// Bytes of a packet that the kernel copies to the queue's reader: more than the longest SYN that may be
/// stolen, so that a longer one shows by its length.
const COPY_RANGE: u16 = 256;

/// Bytes that a message takes, with one packet and the dozen attributes that the kernel may add.
const MESSAGE_LEN: usize = COPY_RANGE as usize + 256;

/// Receive buffer of the queue's socket in bytes: bursts of SYNs wait there.
const RECEIVE_BUFFER: usize = 1 << 19;

/// Packets that are to be dropped wait for so many others, so that one message is for all; see [`SynQueue::flush`].
const DROP_BATCH: usize = 16;

const VERDICT_LEN: usize = 32;
const VERDICT_ATTEMPTS: u32 = 4;

pub struct SynQueue {
    socket: OwnedFd,
    number: u16,
    /// The highest number of a packet so far. The kernel numbers them from 1 on.
    last_id: AtomicU32,
    /// Packets whose drop the kernel has not been told yet.
    dropped: Mutex<Vec<u32, DROP_BATCH>>,
}

/// Binds queue `number`. The kernel keeps at most `max_len` packets without a verdict; it passes what comes
/// beyond (fail-open) without giving it a number. Call it before any thread starts.
pub fn bind(number: u16, max_len: u32) -> Result<SynQueue, Error> {
    let failed = |remedy| {
        move |error: io::Error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            Error::system("bind", format!("netfilter queue {number}"), errno, remedy)
        }
    };
    let (mut queue, socket) =
        open().map_err(failed("does the kernel have nfnetlink_queue? On OpenWrt install kmod-nft-queue"))?;
    queue.bind(number).map_err(|error| {
        // The daemon holds CAP_NET_ADMIN here (it has made the TUN device), so EPERM means: not ours.
        failed(match error.raw_os_error() {
            Some(libc::EPERM | libc::EBUSY) => {
                "another program has it: stop that, or choose another number with -q here and in 'pepsal rules'"
            }
            _ => "does the kernel have nfnetlink_queue? On OpenWrt install kmod-nft-queue",
        })(error)
    })?;
    queue.set_copy_range(number, COPY_RANGE).map_err(failed(""))?;
    queue.set_queue_max_len(number, max_len).map_err(failed(""))?;
    queue.set_fail_open(number, true).map_err(failed(""))?;
    // At worst the kernel's default stays, and a burst passes direct by fail-open.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    // nfq has done its part; the binding lasts as long as any descriptor of the socket.
    Ok(SynQueue::new(socket, number))
}

/// nfq keeps its socket to itself. The kernel gives a new file the lowest free number (open(2)), so while
/// there is only one thread the number can be known beforehand.
fn open() -> io::Result<(Queue, OwnedFd)> {
    let lowest = File::open("/dev/null")?;
    let number = lowest.as_raw_fd();
    drop(lowest);
    let queue = Queue::open()?;
    let socket = sys::duplicate(number)?;
    getsockname::<NetlinkAddr>(socket.as_raw_fd())?;
    Ok((queue, socket))
}

/// A packet that waits for its verdict.
pub struct Queued {
    pub id: u32,
    /// Packets since the one before that did not get here: the socket had no room, and the kernel has let them
    /// pass (fail-open). To be added to their number, wrapping: 1 less than 0 corrects what was added too early.
    pub missed: u32,
    pub mark: u32,
    /// From the first octet of the IP header.
    pub bytes: Vec<u8, { COPY_RANGE as usize }>,
}

impl Queued {
    /// Whether some were really missed: each of the other workers may have one that it has not told of yet.
    pub fn is_after_a_gap(&self, workers: usize) -> bool {
        self.missed as i32 >= workers as i32
    }
}

impl SynQueue {
    /// `socket`: what has bound the queue, in this process or another.
    pub fn new(socket: OwnedFd, number: u16) -> SynQueue {
        SynQueue { socket, number, last_id: AtomicU32::new(0), dropped: Mutex::new(Vec::new()) }
    }

    /// See [`bind`].
    pub fn set_max_len(&self, max_len: u32) {
        const NFQA_CFG_QUEUE_MAXLEN: u16 = 3;

        self.configure(NFQA_CFG_QUEUE_MAXLEN, max_len);
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// The number of the last packet so far.
    pub fn last_id(&self) -> u32 {
        self.last_id.load(Ordering::Relaxed)
    }

    pub fn set_last_id(&self, id: u32) {
        self.last_id.store(id, Ordering::Relaxed);
    }

    /// Gives the queue back: from now on netfilter's bypass lets SYNs pass.
    pub fn unbind(&self) {
        const NFQA_CFG_CMD: u16 = 1;
        const NFQNL_CFG_CMD_UNBIND: u32 = 2;

        self.configure(NFQA_CFG_CMD, NFQNL_CFG_CMD_UNBIND << 24);
    }

    /// Done when it is sent; nobody waits for an answer.
    fn configure(&self, attribute: u16, content: u32) {
        const NFQNL_MSG_CONFIG: u16 = 2;

        self.send(&message(self.number, NFQNL_MSG_CONFIG, attribute, [content]));
    }

    /// The next packet, if there is one; never blocks.
    pub fn next(&self) -> Option<Queued> {
        let mut message = [0; MESSAGE_LEN];
        loop {
            match recv(self.socket.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => {
                    // Else it is the kernel's answer to an earlier verdict, such as ENOENT for a packet that is
                    // no longer queued.
                    if let Some(mut packet) = read_packet(&message[..len]) {
                        packet.missed = missed_before(packet.id, &self.last_id);
                        return Some(packet);
                    }
                }
                Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(_) => return None,
            }
        }
    }

    /// Becomes readable when a packet is queued.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The packet goes on to where it was going.
    pub fn pass(&self, packet_id: u32) {
        self.send(&verdict(self.number, packet_id, Verdict::Accept));
    }

    /// The packet ends here. Nobody waits for that, so the kernel is told when there are enough.
    pub fn drop(&self, packet_id: u32) {
        let Ok(mut dropped) = self.dropped.lock() else {
            return;
        };
        let _ = dropped.push(packet_id);
        if dropped.is_full() {
            let all = mem::take(&mut *dropped);
            mem::drop(dropped);
            self.drop_all(&all);
        }
    }

    /// Whether there is something to [`SynQueue::flush`].
    pub fn owes_verdicts(&self) -> bool {
        self.dropped.lock().is_ok_and(|dropped| !dropped.is_empty())
    }

    /// Tells the kernel what is to be dropped, so that it keeps no packet long.
    pub fn flush(&self) {
        if let Ok(all) = self.dropped.lock().map(|mut dropped| mem::take(&mut *dropped)) {
            self.drop_all(&all);
        }
    }

    fn drop_all(&self, packets: &[u32]) {
        let verdicts = packets.iter().flat_map(|&id| verdict(self.number, id, Verdict::Drop));
        let message: Vec<u8, { DROP_BATCH * VERDICT_LEN }> = verdicts.collect();
        if !message.is_empty() {
            self.send(&message);
        }
    }

    fn send(&self, message: &[u8]) {
        // It fails when the kernel is out of memory, which may have been for a moment. A packet without a verdict
        // waits until the queue is unbound; its sender will repeat it.
        for _ in 0..VERDICT_ATTEMPTS {
            if send(self.socket.as_raw_fd(), message, MsgFlags::empty()).is_ok() {
                return;
            }
        }
    }
}

/// What [`Queued::missed`] is about. Another worker may be the first to tell of a packet that came later, and
/// takes this one for missed until this one comes.
fn missed_before(id: u32, last_id: &AtomicU32) -> u32 {
    let later = |last: u32| (id.wrapping_sub(last).cast_signed() > 0).then_some(id);
    match last_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later) {
        Ok(last) => id.wrapping_sub(last).wrapping_sub(1),
        Err(_) => 1u32.wrapping_neg(),
    }
}

const NFNL_SUBSYS_QUEUE: u16 = 3;
/// Of the netlink header, and of that and struct nfgenmsg after it, in bytes.
const HEADER_LEN: usize = 16;
const ATTRIBUTES_AT: usize = 20;

/// NFQNL_MSG_PACKET. Netlink headers are in the machine's byte order, the content of attributes in the network's.
pub fn read_packet(message: &[u8]) -> Option<Queued> {
    const NFQNL_MSG_PACKET: u16 = 0;
    const NFQA_PACKET_HDR: u16 = 1;
    const NFQA_MARK: u16 = 3;
    const NFQA_PAYLOAD: u16 = 10;

    let header: &[u8; HEADER_LEN] = message.first_chunk()?;
    if u16::from_ne_bytes([header[4], header[5]]) != NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET {
        return None;
    }
    let mut packet = Queued { id: 0, missed: 0, mark: 0, bytes: Vec::new() };
    let mut known = false;
    let mut rest = message.get(ATTRIBUTES_AT..)?;
    while let [l0, l1, t0, t1, ..] = *rest {
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(content) = rest.get(4..len) else {
            break;
        };
        let word = || content.first_chunk().map(|word| u32::from_be_bytes(*word));
        match u16::from_ne_bytes([t0, t1]) {
            NFQA_PACKET_HDR => {
                packet.id = word()?;
                known = true;
            }
            NFQA_MARK => packet.mark = word()?,
            // Left empty if the kernel has copied more than it was asked for: that passes as malformed.
            NFQA_PAYLOAD => packet.bytes = Vec::from_slice(content).unwrap_or_default(),
            _ => {}
        }
        // Attributes begin at multiples of four bytes.
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    known.then_some(packet)
}

#[derive(Clone, Copy)]
enum Verdict {
    Drop = 0,
    Accept = 1,
}

/// NFQNL_MSG_VERDICT with one NFQA_VERDICT_HDR.
fn verdict(queue: u16, packet_id: u32, verdict: Verdict) -> Vec<u8, VERDICT_LEN> {
    const NFQNL_MSG_VERDICT: u16 = 1;
    const NFQA_VERDICT_HDR: u16 = 2;

    message(queue, NFQNL_MSG_VERDICT, NFQA_VERDICT_HDR, [verdict as u32, packet_id])
}

/// A message with one attribute, which consists of numbers in the network's byte order.
fn message<const N: usize>(queue: u16, kind: u16, attribute: u16, content: [u32; N]) -> Vec<u8, VERDICT_LEN> {
    const NLM_F_REQUEST: u16 = 1;

    let mut message = Vec::new();
    let mut put = |bytes: &[u8]| message.extend_from_slice(bytes).is_ok();
    let length = 4 + 4 * N;
    let complete = put(&((ATTRIBUTES_AT + length) as u32).to_ne_bytes())
        && put(&(NFNL_SUBSYS_QUEUE << 8 | kind).to_ne_bytes())
        && put(&NLM_F_REQUEST.to_ne_bytes())
        && put(&[0; 8]) // sequence number and port: the kernel's
        && put(&[libc::AF_UNSPEC as u8, 0]) // nfgenmsg: family, version
        && put(&queue.to_be_bytes())
        && put(&(length as u16).to_ne_bytes())
        && put(&attribute.to_ne_bytes())
        && content.iter().all(|number| put(&number.to_be_bytes()));
    debug_assert!(complete);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_is_laid_out_as_the_kernel_reads_it() {
        let message = verdict(5000, 0x0102_0304, Verdict::Accept);
        assert_eq!(message[..4], 32u32.to_ne_bytes());
        assert_eq!(message[4..6], 0x0301u16.to_ne_bytes());
        assert_eq!(message[16..20], [0, 0, 0x13, 0x88]);
        assert_eq!(message[20..22], 12u16.to_ne_bytes());
        assert_eq!(message[24..], [0, 0, 0, 1, 1, 2, 3, 4]);
    }

    fn from_kernel(kind: u16, attributes: &[(u16, &[u8])]) -> std::vec::Vec<u8> {
        let mut message = vec![0; ATTRIBUTES_AT];
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        for (kind, content) in attributes {
            message.extend((content.len() as u16 + 4).to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(*content);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        message
    }

    #[test]
    fn packets_are_read_whatever_stands_between() {
        let header: &[u8] = &[1, 2, 3, 4, 8, 0, 2];
        let whole = from_kernel(0x300, &[(1, header), (5, &[0; 4]), (3, &[0, 0, 0, 7]), (10, b"hello")]);
        let packet = read_packet(&whole).expect("a packet");
        assert_eq!((packet.id, packet.mark, &packet.bytes[..]), (0x0102_0304, 7, &b"hello"[..]));
        // A verdict for what can be named, however short it was cut; nothing for what cannot.
        for len in 0..whole.len() {
            let named = len >= ATTRIBUTES_AT + 4 + header.len();
            assert_eq!(read_packet(&whole[..len]).map(|packet| packet.id), named.then_some(0x0102_0304));
        }
        let long = from_kernel(0x300, &[(1, header), (10, &[0; 300])]);
        assert!(read_packet(&long).is_some_and(|packet| packet.bytes.is_empty()));
        assert!(read_packet(&from_kernel(2, &[(1, header)])).is_none(), "an answer to a verdict");
        assert!(read_packet(&from_kernel(0x300, &[(1, header), (3, &[]), (0, &[])])).is_none());
    }

    #[test]
    fn packets_that_never_came_are_counted_in_any_order() {
        let last = AtomicU32::new(u32::MAX - 2);
        let ids = [u32::MAX - 1, 1, u32::MAX, 0, 5, 4];
        let missed = ids.map(|id| missed_before(id, &last)).into_iter().fold(0, u32::wrapping_add);
        assert_eq!(missed, 2, "2 and 3");
    }

    #[test]
    fn what_comes_out_of_order_is_no_gap() {
        let gap =
            |missed, workers| Queued { id: 9, missed, mark: 0, bytes: Vec::new() }.is_after_a_gap(workers);
        assert!(gap(1, 1) && gap(2, 2) && gap(2000, 4));
        assert!(!gap(1, 2) && !gap(3, 4), "on their way through other workers");
        assert!(!gap(1_u32.wrapping_neg(), 1), "a correction");
    }

    #[test]
    fn an_attribute_shorter_than_its_header_ends_the_reading() {
        let mut whole = from_kernel(0x300, &[(1, &[0; 7])]);
        whole.extend([0, 0, 0, 0, 0, 0]);
        assert!(read_packet(&whole).is_some());
    }
}
