//! The netfilter queue that SYNs wait in.
//!
//! [`SynQueue`] is read by one worker at a time. A verdict is one short message on the same socket (the kernel
//! takes it from no other) and any thread may send it through [`Verdicts`]: a message is sent whole. The nfq
//! crate's own verdict wants its `Message` back, and a kept `Message` pins a receive buffer; a held SYN is
//! to cost its slot only. Reference: linux/netfilter/nfnetlink_queue.h.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nfq::Queue;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, NetlinkAddr, getsockname, send, setsockopt, sockopt};

use crate::error::Error;
use crate::sys;

/// Bytes of a packet that the kernel copies to the queue's reader: more than the longest SYN that may be
/// stolen, so that a longer one shows by its length.
const COPY_RANGE: u16 = 256;

/// Receive buffer of the queue's socket in bytes: bursts of SYNs wait there.
const RECEIVE_BUFFER: usize = 1 << 20;

pub struct SynQueue {
    queue: Queue,
    number: u16,
    /// The number of the packet before. The kernel numbers them from 1 on.
    last_id: u32,
}

pub struct Verdicts {
    socket: OwnedFd,
    number: u16,
}

/// Binds queue `number`. The kernel keeps at most `max_len` packets without a verdict; it passes what comes
/// beyond (fail-open). Call it before any thread starts.
pub fn bind(number: u16, max_len: u32) -> Result<(SynQueue, Verdicts), Error> {
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
    queue.set_nonblocking(true);
    Ok((SynQueue { queue, number, last_id: 0 }, Verdicts { socket, number }))
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
    /// pass (fail-open).
    pub missed: u32,
    pub mark: u32,
    /// From the first octet of the IP header.
    pub bytes: heapless::Vec<u8, { COPY_RANGE as usize }>,
}

impl SynQueue {
    /// The next packet, if there is one; never blocks.
    pub fn next(&mut self) -> Option<Queued> {
        loop {
            match self.queue.recv() {
                Ok(message) => {
                    let id = message.get_packet_id();
                    let missed = id.wrapping_sub(self.last_id).wrapping_sub(1);
                    self.last_id = id;
                    return Some(Queued {
                        id,
                        missed,
                        mark: message.get_nfmark(),
                        // Empty if the kernel has copied more than it was asked for: that passes as malformed.
                        bytes: heapless::Vec::from_slice(message.get_payload()).unwrap_or_default(),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // The kernel's answer to an earlier verdict, such as ENOENT for a packet that is no longer
                // queued; each is reported once.
                Err(_) => {}
            }
        }
    }

    /// Gives the queue back: from now on netfilter's bypass lets SYNs pass.
    pub fn unbind(mut self) {
        self.queue.set_nonblocking(false);
        // The answer matters to nobody: closing the socket unbinds too.
        let _ = self.queue.unbind(self.number);
    }
}

#[derive(Clone, Copy)]
enum Verdict {
    Drop = 0,
    Accept = 1,
}

impl Verdicts {
    /// The packet goes on to where it was going.
    pub fn pass(&self, packet_id: u32) {
        self.send(packet_id, Verdict::Accept);
    }

    /// The packet ends here.
    pub fn drop(&self, packet_id: u32) {
        self.send(packet_id, Verdict::Drop);
    }

    /// Becomes readable when a packet is queued.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&self, packet_id: u32, verdict: Verdict) {
        let message = verdict_message(self.number, packet_id, verdict as u32);
        // It fails when the kernel is out of memory; then the packet waits until the queue is unbound, and
        // its sender will repeat it.
        let _ = send(self.socket.as_raw_fd(), &message, MsgFlags::empty());
    }
}

/// NFQNL_MSG_VERDICT with one NFQA_VERDICT_HDR. Netlink headers are in the machine's byte order, the queue's
/// number and the attribute's content in the network's.
fn verdict_message(queue: u16, packet_id: u32, verdict: u32) -> [u8; 32] {
    const NFNL_SUBSYS_QUEUE: u16 = 3;
    const NFQNL_MSG_VERDICT: u16 = 1;
    const NLM_F_REQUEST: u16 = 1;
    const NFQA_VERDICT_HDR: u16 = 2;

    let mut message = heapless::Vec::<u8, 32>::new();
    let mut put = |bytes: &[u8]| message.extend_from_slice(bytes).is_ok();
    let complete = put(&32u32.to_ne_bytes())
        && put(&(NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT).to_ne_bytes())
        && put(&NLM_F_REQUEST.to_ne_bytes())
        && put(&[0; 8]) // sequence number and port: the kernel's
        && put(&[libc::AF_UNSPEC as u8, 0]) // nfgenmsg: family, version
        && put(&queue.to_be_bytes())
        && put(&12u16.to_ne_bytes())
        && put(&NFQA_VERDICT_HDR.to_ne_bytes())
        && put(&verdict.to_be_bytes())
        && put(&packet_id.to_be_bytes());
    debug_assert!(complete);
    message.into_array().unwrap_or([0; 32])
}

#[cfg(test)]
mod tests {
    use super::verdict_message;

    #[test]
    fn verdict_is_laid_out_as_the_kernel_reads_it() {
        let message = verdict_message(5000, 0x0102_0304, 1);
        assert_eq!(message[..4], 32u32.to_ne_bytes());
        assert_eq!(message[4..6], 0x0301u16.to_ne_bytes());
        assert_eq!(message[16..20], [0, 0, 0x13, 0x88]);
        assert_eq!(message[20..22], 12u16.to_ne_bytes());
        assert_eq!(message[24..], [0, 0, 0, 1, 1, 2, 3, 4]);
    }
}
