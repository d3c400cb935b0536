//! The server leg whose SYN carries the client's first bytes (TCP Fast Open, RFC 7413).
//!
//! Where the kernel has the server's cookie, connect(2) sends nothing: the SYN leaves with the first bytes. Until then
//! nobody watches the leg, because epoll calls it writable and shutdown(2) would end it. A client that waits
//! for its server to speak first sends none: the worker gives it a moment, then the SYN leaves without.
#![forbid(unsafe_code)]

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use super::{Connection, Means, Side};

impl Connection {
    pub fn syn_waits(&self) -> bool {
        self.legs[Side::Server as usize].syn_waits
    }

    /// Sends the server leg's SYN with what the client has sent until now. False: nothing has come, and there is time.
    pub fn send_syn(&mut self, due: bool, means: &mut Means) -> bool {
        let [client, server] = &mut self.legs;
        let buffer = &mut means.buffer[..];
        // Without taking it: the kernel decides how much of it fits in.
        let come = match recv(client.socket.as_raw_fd(), buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)
        {
            Ok(come) => come,
            Err(Errno::EAGAIN) if !due => return false,
            Err(Errno::EAGAIN) => 0,
            Err(error) => {
                client.fail(error);
                0
            }
        };
        server.syn_waits = false;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(server.socket.as_raw_fd(), &buffer[..come], flags) {
            Ok(sent) => {
                client.discard(&mut buffer[..sent]);
                self.flows[Side::Client as usize].bytes += sent as u64;
            }
            // The SYN is under way without them.
            Err(Errno::EINPROGRESS | Errno::EAGAIN) => {}
            Err(error) => server.fail(error),
        }
        true
    }
}
