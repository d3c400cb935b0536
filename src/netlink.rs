//! Talks to the kernel about routes, rules and counters: netlink(7), in the host's byte order.
//!
//! Used by `pacer` and main, each with sockets of its own. What comes from the kernel is read with checked slices: a
//! message that is cut short ends early and never panics.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

/// Bytes of struct nlmsghdr: length, type, flags, sequence, port.
const HEADER: usize = 16;

/// The kernel fills at most 32 KiB at once.
const BUFFER: usize = 32 << 10;

/// How often a dump is asked for again that a change has interrupted (NLM_F_DUMP_INTR).
const ATTEMPTS: u32 = 4;

// linux/rtnetlink.h
pub const RTM_NEWROUTE: u16 = 24;
pub const RTM_DELROUTE: u16 = 25;
pub const RTM_NEWRULE: u16 = 32;
pub const RTM_DELRULE: u16 = 33;
pub const RTA_OIF: u16 = 4;
pub const RTA_TABLE: u16 = 15;

// linux/fib_rules.h
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FR_ACT_TO_TBL: u8 = 1;

/// Which packets go to which routing table, and how soon that is asked (ip-rule(8)).
pub struct Selection {
    pub priority: u32,
    pub mark: u32,
    pub mask: u32,
    pub table: u32,
}

impl Selection {
    /// struct fib_rule_hdr with its attributes.
    pub fn rule(&self, family: u8) -> Body {
        Body::new(&[family, 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0])
            .with_u32(FRA_PRIORITY, self.priority)
            .with_u32(FRA_FWMARK, self.mark)
            .with_u32(FRA_FWMASK, self.mask)
            .with_u32(FRA_TABLE, self.table)
    }
}

/// A message under construction, or one without its nlmsghdr: a family's header and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body(Vec<u8>);

impl Body {
    /// `header`: the struct that goes before the attributes, rtmsg or fib_rule_hdr.
    pub fn new(header: &[u8]) -> Body {
        Body(header.to_vec())
    }

    pub fn with(mut self, kind: u16, value: &[u8]) -> Body {
        self.push(kind, value);
        self
    }

    pub fn with_u32(self, kind: u16, value: u32) -> Body {
        self.with(kind, &value.to_ne_bytes())
    }

    pub fn push(&mut self, kind: u16, value: &[u8]) {
        push(&mut self.0, kind, value);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Appends an attribute (struct rtattr: length, type) and pads it to four bytes.
pub fn push(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (4 + value.len()) as u16;
    to.extend_from_slice(&length.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// The attributes in `bytes`, as type and value. The two upper bits of a type are flags (NLA_TYPE_MASK).
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The messages in `bytes`, as type, flags and body.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let (kind, flags) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, flags, body))
    })
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub fn message(kind: u16, flags: i32, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
    // Sequence and port: the kernel answers one request after the other, and knows its asker.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(body);
    message
}

/// The kernel's word in an NLMSG_ERROR: struct nlmsgerr begins with 0 or a negative errno.
pub fn verdict(body: &[u8]) -> Result<(), Errno> {
    match u32_at(body, 0).map(|code| code as i32) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw(code.wrapping_neg())),
        None => Err(Errno::EBADMSG),
    }
}

/// `groups`: RTMGRP_ bits of the changes to hear about; 0 to ask and be answered.
pub fn open(protocol: SockProtocol, groups: i32) -> Result<OwnedFd, Errno> {
    let flags = match groups {
        0 => SockFlag::SOCK_CLOEXEC,
        _ => SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    };
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups as u32))?;
    Ok(socket)
}

/// Of routes and rules.
pub struct Netlink {
    socket: OwnedFd,
    buffer: Box<[u8]>,
}

impl Netlink {
    /// `groups`: as [`open`] takes them.
    pub fn open(groups: i32) -> Result<Netlink, Errno> {
        let socket = open(SockProtocol::NetlinkRoute, groups)?;
        Ok(Netlink { socket, buffer: vec![0; BUFFER].into() })
    }

    /// Has the kernel do something; its answer.
    pub fn ask(&mut self, kind: u16, flags: i32, body: &Body) -> Result<(), Errno> {
        self.send(&message(kind, flags | libc::NLM_F_ACK, body.bytes()))?;
        loop {
            let read = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            for (kind, _, body) in messages(&self.buffer[..read]) {
                if i32::from(kind) == libc::NLMSG_ERROR {
                    return verdict(body);
                }
            }
        }
    }

    /// Has the kernel add something; false: it is there already.
    pub fn add(&mut self, kind: u16, body: &Body) -> Result<bool, Errno> {
        match self.ask(kind, libc::NLM_F_CREATE | libc::NLM_F_EXCL, body) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Everything of the kind that the kernel has, for the family in the first byte of `body`.
    pub fn dump(&mut self, kind: u16, body: &Body) -> Result<Vec<Body>, Errno> {
        for _ in 0..ATTEMPTS {
            if let Some(all) = self.dump_once(kind, body)? {
                return Ok(all);
            }
        }
        Err(Errno::EINTR)
    }

    /// `None`: there was a change meanwhile.
    fn dump_once(&mut self, kind: u16, body: &Body) -> Result<Option<Vec<Body>>, Errno> {
        self.send(&message(kind, libc::NLM_F_DUMP, body.bytes()))?;
        let (mut all, mut whole) = (Vec::new(), true);
        loop {
            let read = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            for (kind, flags, body) in messages(&self.buffer[..read]) {
                whole &= i32::from(flags) & libc::NLM_F_DUMP_INTR == 0;
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(whole.then_some(all)),
                    libc::NLMSG_ERROR => verdict(body)?,
                    _ => all.push(Body(body.to_vec())),
                }
            }
        }
    }

    /// Takes all news; whether `matters` said so of any, or some were lost.
    pub fn news(&mut self, matters: impl Fn(&[u8]) -> bool) -> bool {
        let mut any = false;
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(read) => any |= messages(&self.buffer[..read]).any(|(_, _, body)| matters(body)),
                // More than the socket could keep: something has changed.
                Err(Errno::ENOBUFS) => any = true,
                Err(Errno::EINTR) => {}
                Err(_) => return any,
            }
        }
    }

    fn send(&self, message: &[u8]) -> Result<(), Errno> {
        send(self.socket.as_raw_fd(), message, MsgFlags::empty()).map(drop)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_the_kernel_expects() {
        let body = Body::new(&[2, 24, 0, 0, 0, 3, 0, 1, 0, 0, 0, 0]).with(1, &[192, 0, 2]).with_u32(15, 5001);
        let request = message(24, 0x400, body.bytes());
        let expected: &[u8] = if cfg!(target_endian = "little") {
            &[
                44, 0, 0, 0, 24, 0, 0x01, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr
                2, 24, 0, 0, 0, 3, 0, 1, 0, 0, 0, 0, // rtmsg
                7, 0, 1, 0, 192, 0, 2, 0, // RTA_DST, padded
                8, 0, 15, 0, 0x89, 0x13, 0, 0, // RTA_TABLE
            ]
        } else {
            &[
                0, 0, 0, 44, 0, 24, 0x04, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr
                2, 24, 0, 0, 0, 3, 0, 1, 0, 0, 0, 0, // rtmsg
                0, 7, 0, 1, 192, 0, 2, 0, // RTA_DST, padded
                0, 8, 0, 15, 0, 0, 0x13, 0x89, // RTA_TABLE
            ]
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn what_was_written_is_read_again() {
        let mut bytes =
            message(24, 0, Body::new(&[9; 12]).with(1, b"abc").with(2, b"").with(3, b"abcd").bytes());
        bytes.extend(message(25, 0x10, &[7; 4]));
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read.len(), 2);
        let (kind, flags, body) = read[0];
        assert_eq!((kind, flags & 0x10), (24, 0));
        let found: Vec<_> = attributes(&body[12..]).collect();
        assert_eq!(found, [(1, &b"abc"[..]), (2, b""), (3, b"abcd")]);
        assert_eq!((read[1].0, read[1].1 & 0x10), (25, 0x10));
    }

    /// No length that the other side may write leads out of the buffer or to an endless loop.
    #[test]
    fn messages_cut_anywhere_are_harmless() {
        let whole = message(24, 0, Body::new(&[1; 12]).with(1, b"abc").with(8, &[0; 40]).bytes());
        for end in 0..whole.len() {
            assert_eq!(messages(&whole[..end]).count(), 0, "{end}");
            assert!(attributes(&whole[..end]).count() <= end / 4);
        }
        for wrong in [0_u16, 1, 3, 5, u16::MAX] {
            let mut bytes = Vec::new();
            push(&mut bytes, 1, b"abcd");
            bytes[..2].copy_from_slice(&wrong.to_ne_bytes());
            assert!(attributes(&bytes).count() <= 1);
        }
        assert_eq!(verdict(&[]), Err(Errno::EBADMSG));
        assert_eq!(verdict(&(-17_i32).to_ne_bytes()), Err(Errno::EEXIST));
        assert_eq!(verdict(&0_i32.to_ne_bytes()), Ok(()));
    }
}
