//! One leg of a connection as the relay knows it: its socket, what epoll has said of it, and what it has failed with.
//!
//! Part of `relay`, used by the worker that owns the connection.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, getsockopt, recv, send, sockopt};

/// The socket towards one side and what epoll has said about it.
pub struct Leg {
    pub socket: OwnedFd,
    pub(super) connected: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer has sent FIN or RST: no further edge will announce what is left to read.
    pub(super) ending: bool,
    /// What it has failed with; the kernel tells that once.
    pub error: Option<Errno>,
    /// This leg is read by copying: urgent data has come (RFC 6093), where splice stops at the mark, or the
    /// kernel refuses to splice.
    pub(super) unspliceable: bool,
    /// Its SYN waits for the first bytes (`fast_open`); nobody watches the leg until then.
    pub syn_waits: bool,
}

impl Leg {
    pub fn new(socket: OwnedFd) -> Leg {
        Leg {
            socket,
            connected: false,
            readable: false,
            writable: false,
            ending: false,
            error: None,
            unspliceable: false,
            syn_waits: false,
        }
    }

    pub const INTEREST: EpollFlags = EpollFlags::EPOLLIN
        .union(EpollFlags::EPOLLOUT)
        .union(EpollFlags::EPOLLRDHUP)
        .union(EpollFlags::EPOLLPRI)
        .union(EpollFlags::EPOLLET);

    pub fn note(&mut self, events: EpollFlags) {
        let any = |of: EpollFlags| events.intersects(of);
        let gone = any(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        self.connected |= !gone && any(EpollFlags::EPOLLOUT);
        self.readable |= gone || any(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP);
        self.writable |= gone || any(EpollFlags::EPOLLOUT);
        self.ending |= gone || any(EpollFlags::EPOLLRDHUP);
        if any(EpollFlags::EPOLLERR) {
            let error = getsockopt(&self.socket, sockopt::SocketError).unwrap_or(0);
            self.fail(Errno::from_raw(error));
        }
        self.unspliceable |= any(EpollFlags::EPOLLPRI);
    }

    pub fn fail(&mut self, error: Errno) {
        self.error.get_or_insert(error);
    }

    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Sends what the socket takes at once; the bytes taken.
    pub(super) fn send(&mut self, bytes: &[u8]) -> usize {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = match send(self.socket.as_raw_fd(), bytes, flags) {
            Ok(sent) => sent,
            Err(error) => {
                if error != Errno::EAGAIN {
                    self.fail(error);
                }
                0
            }
        };
        self.writable = sent == bytes.len();
        sent
    }

    /// Takes bytes out of the receive buffer that were only looked at; tcp(7) MSG_TRUNC.
    pub(super) fn discard(&mut self, looked_at: &mut [u8]) {
        let mut left = looked_at;
        while !left.is_empty() {
            match recv(self.socket.as_raw_fd(), left, MsgFlags::MSG_TRUNC) {
                Ok(taken) if taken > 0 => left = &mut left[taken..],
                _ => return self.fail(Errno::EIO),
            }
        }
    }
}
