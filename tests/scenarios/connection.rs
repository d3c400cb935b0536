//! Sockets of the test bed: listeners, connections, and the two ends of a connection side by side.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, getsockopt, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::host::{Host, patience};
use crate::stream::{self, End, MIB};

pub struct Listener {
    socket: TcpListener,
    pub address: SocketAddr,
}

impl Listener {
    pub fn bind(host: &Host, address: SocketAddr) -> Listener {
        let socket = host
            .inside(|| TcpListener::bind(address))
            .unwrap_or_else(|err| panic!("cannot listen at {address}: {err}"));
        setsockopt(&socket, sockopt::TcpCongestion, &"cubic".into()).expect("cubic");
        socket.set_nonblocking(true).expect("a listener that does not block");
        let address = socket.local_addr().expect("the address of a listener");
        Listener { socket, address }
    }

    /// Lets `prepare` set options of the listening socket, which accepted ones inherit.
    pub fn prepare(&self, prepare: impl FnOnce(&OwnedFd)) {
        let socket = self.socket.as_fd().try_clone_to_owned().expect("another descriptor");
        prepare(&socket);
    }

    /// The pair of `client`, which is or will be the next connection that comes here, and its server.
    pub fn join(&self, client: TcpStream) -> Pair {
        let (server, peer) = self.accept();
        Pair { client, server, peer }
    }

    pub fn accept(&self) -> (TcpStream, SocketAddr) {
        self.accept_within(patience()).unwrap_or_else(|| panic!("no connection has come to {}", self.address))
    }

    pub fn accept_within(&self, within: Duration) -> Option<(TcpStream, SocketAddr)> {
        let millis = u16::try_from(within.as_millis()).unwrap_or(u16::MAX);
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::from(millis)).expect("poll a listener");
        match self.socket.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false).expect("a stream that blocks");
                limit(&stream);
                Some((stream, peer))
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => None,
            Err(err) => panic!("cannot accept at {}: {err}", self.address),
        }
    }
}

/// A hang is a failure with a message, not a hang.
fn limit(stream: &TcpStream) {
    stream.set_read_timeout(Some(patience())).expect("a read timeout");
    stream.set_write_timeout(Some(patience())).expect("a write timeout");
}

/// Connects from `host`; `prepare` sees the socket before it connects. Bounded: TimedOut after `patience()`.
pub fn dial(host: &Host, to: SocketAddr, prepare: impl FnOnce(&OwnedFd) + Send) -> io::Result<TcpStream> {
    dial_within(host, to, patience(), prepare)
}

pub fn dial_within(
    host: &Host,
    to: SocketAddr,
    within: Duration,
    prepare: impl FnOnce(&OwnedFd) + Send,
) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = host
        .inside(|| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp))
        .expect("a TCP socket");
    // Not the machine's default: BBR's pacing would be measured along with everything.
    setsockopt(&socket, sockopt::TcpCongestion, &"cubic".into()).expect("cubic");
    let seconds = within.as_secs().try_into().expect("a bound in seconds");
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(seconds, 0)).expect("a bound on connect");
    prepare(&socket);
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => {}
        // That is how a blocking connect tells that SO_SNDTIMEO has passed.
        Err(Errno::EINPROGRESS) => return Err(ErrorKind::TimedOut.into()),
        // It goes on all the same (connect(2)).
        Err(Errno::EINTR) => {
            let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            poll(&mut ready, PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX))
                .expect("poll a socket");
            let failed = getsockopt(&socket, sockopt::SocketError).expect("SO_ERROR");
            match ready[0].any() {
                Some(true) if failed == 0 => {}
                Some(true) => return Err(io::Error::from_raw_os_error(failed)),
                _ => return Err(ErrorKind::TimedOut.into()),
            }
        }
        Err(err) => return Err(err.into()),
    }
    let stream = TcpStream::from(socket);
    limit(&stream);
    Ok(stream)
}

/// Both ends of one connection, and where the server thinks it comes from.
pub struct Pair {
    pub client: TcpStream,
    pub server: TcpStream,
    pub peer: SocketAddr,
}

impl Pair {
    /// Sends `length` bytes each way, one way after the other; the connection stays open.
    pub fn exchange(&self, seed: u64, length: u64) {
        for (from, to, seed) in [(&self.client, &self.server, seed), (&self.server, &self.client, !seed)] {
            thread::scope(|scope| {
                scope.spawn(|| stream::send(from, seed, length).expect("send"));
                stream::receive(to, seed, length);
            });
        }
    }

    /// 2 MiB each way at the same time, until both ends have ended.
    pub fn carry_everything(self) {
        let Pair { client, server, .. } = &self;
        thread::scope(|scope| {
            for (stream, out, back) in [(client, 1, 2), (server, 2, 1)] {
                scope.spawn(move || {
                    stream::send(stream, out, 2 * MIB).expect("send");
                    stream.shutdown(Shutdown::Write).expect("shut down");
                });
                scope.spawn(move || stream::receive_all(stream, back, 2 * MIB));
            }
        });
    }

    /// Ends an idle connection as well-behaved ends do, the client first.
    pub fn close(self) {
        self.client.shutdown(Shutdown::Write).expect("shut down the client's side");
        assert_eq!(stream::end(&self.server), End::Fin);
        drop(self.server);
        assert_eq!(stream::end(&self.client), End::Fin);
    }
}

/// Gives a socket its own address and port before it connects; several sockets may have the same.
pub fn bind_to(socket: &OwnedFd, address: SocketAddr) {
    setsockopt(socket, sockopt::ReuseAddr, &true).expect("share an address");
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
        .unwrap_or_else(|err| panic!("cannot bind {address}: {err}"));
}

/// Closes with a reset instead of a FIN.
pub fn reset(stream: TcpStream) {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &at_once).expect("SO_LINGER");
}
