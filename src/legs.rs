//! How legs are made and what TCP they run.
//!
//! The server leg is dialled by the worker that steals the SYN; the client leg is born by the listener, whose options it inherits.
//! Both are born with a zero linger time: whatever ends the process or the connection early is seen by both
//! ends as a reset and never as a clean end of the data. `Connection::linger` undoes it after the last byte.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
    sockopt,
};

use crate::error::Error;
use crate::pep::Pep;
use crate::relay::{Leg, Side};
use crate::satellite::Satellite;
use crate::share::Share;
use crate::syn::Syn;
use crate::{steering, sys};

/// Seconds of silence before a leg is probed. With the kernel's own spacing of the probes (nine, 75 seconds
/// apart) a dead peer is given up after 16 minutes, and a rain fade of some minutes ends nothing.
///
/// No TCP_USER_TIMEOUT: it would also end connections whose reader pauses for longer (tcp(7): data that remains
/// untransmitted due to zero window size), which RFC 1122, 4.2.2.17 forbids. Without it the kernel gives up a peer that
/// does not acknowledge after a quarter of an hour (tcp_retries2).
const KEEPALIVE_IDLE: u32 = 300;

/// Age at which a server leg gets that, before which no probe would be due. Most connections do not live so long, and
/// are spared two system calls; a client leg inherits it from the listener for nothing.
pub const KEEPALIVE_FROM: Duration = Duration::from_secs(60);

/// What `run` was asked for, as far as sockets are concerned.
#[derive(Debug)]
pub struct LegOptions {
    pub satellite: Satellite,
    /// The server sees the client's address.
    pub transparent: bool,
    /// The server leg's SYN carries the client's first bytes where the server allows it.
    pub fast_open: bool,
}

/// Whether this kernel lets clients use TCP Fast Open.
pub fn check_fast_open() -> Result<(), Error> {
    let probe = || setsockopt(&tcp_socket(AddressFamily::Inet)?, sockopt::TcpFastOpenConnect, &true);
    let remedy = "sysctl -w net.ipv4.tcp_fastopen=1";
    probe().map_err(|errno| Error::system("use", "TCP Fast Open", errno, remedy))
}

/// Begins the server leg of a stolen SYN; it is connecting when this returns, or its SYN waits for the first bytes.
pub fn dial(syn: &Syn, mark: u32, pep: &Pep) -> Result<Leg, Errno> {
    let options = &pep.legs;
    let share = pep.share.as_ref().filter(|share| share.side == Side::Server);
    let family = family_of(&syn.server);
    let leg = tcp_socket(family)?;
    set_common(&leg)?;
    options.satellite.tune(&leg, Side::Server, family)?;
    if let Some(share) = share {
        share.begin(&leg, syn.server.is_ipv6())?;
    }
    // A SYN's own mark stays as it is, with no bits for the jump start: who routes by marks may compare all of it.
    let mark = if mark == 0 { share.map_or(0, Share::mark) } else { mark };
    if mark != 0 {
        setsockopt(&leg, sockopt::Mark, &mark)?;
    }
    if syn.dscp != 0 {
        let octet = i32::from(syn.dscp);
        match family {
            AddressFamily::Inet6 => setsockopt(&leg, sockopt::Ipv6TClass, &octet)?,
            _ => setsockopt(&leg, sockopt::Ipv4Tos, &octet)?,
        }
    }
    if options.transparent {
        match family {
            AddressFamily::Inet6 => setsockopt(&leg, sys::Ipv6Transparent, &true)?,
            _ => setsockopt(&leg, sockopt::IpTransparent, &true)?,
        }
        setsockopt(&leg, sockopt::IpBindAddressNoPort, &true)?;
        // Not the client's port too: its own connection to the listener has that pair of addresses in
        // netfilter's connection table.
        let client = SocketAddr::new(syn.client.ip(), 0);
        bind(leg.as_raw_fd(), &SockaddrStorage::from(client))?;
    }
    if options.fast_open {
        setsockopt(&leg, sockopt::TcpFastOpenConnect, &true)?;
    }
    let syn_waits = match connect(leg.as_raw_fd(), &SockaddrStorage::from(syn.server)) {
        // The kernel has the server's cookie.
        Ok(()) => options.fast_open,
        Err(Errno::EINPROGRESS) => false,
        Err(errno) => return Err(errno),
    };
    let mut leg = Leg::new(leg);
    leg.syn_waits = syn_waits;
    Ok(leg)
}

/// As many listeners as there are workers at one of the TUN device's addresses, in the order of the workers.
/// `backlog`: connections not yet accepted.
pub fn listen_at(
    address: SocketAddr,
    workers: usize,
    backlog: i32,
    options: &LegOptions,
) -> Result<Vec<OwnedFd>, Error> {
    let listeners = || -> Result<Vec<OwnedFd>, Errno> {
        // A group of listeners would let a second daemon join; a lone socket finds the port taken.
        let lone = tcp_socket(family_of(&address))?;
        setsockopt(&lone, sockopt::ReuseAddr, &true)?;
        bind(lone.as_raw_fd(), &SockaddrStorage::from(address))?;
        drop(lone);
        (0..workers).map(|_| listener(address, backlog, options)).collect()
    };
    listeners().map_err(|errno| {
        let remedy = match errno {
            Errno::EADDRINUSE => {
                "another program has the port: stop that, or choose another with -p here and in 'pepsal rules'"
            }
            _ => "",
        };
        Error::system("listen at", address.to_string(), errno, remedy)
    })
}

/// Has a listener at `ip` that another daemon has made, maybe of another release, bear legs as this one's do.
pub fn adopt_listener(
    listener: &OwnedFd,
    ip: IpAddr,
    backlog: i32,
    options: &LegOptions,
) -> Result<(), Errno> {
    let _ = sys::choose_listener_by(listener.as_fd(), &steering::program(ip.is_ipv6()));
    sys::listen(listener.as_fd(), backlog)?;
    setsockopt(listener, sockopt::Mark, &0)?;
    options.satellite.untune(listener)?;
    options.satellite.tune(listener, Side::Client, family_of(&SocketAddr::new(ip, 0)))
}

fn listener(address: SocketAddr, backlog: i32, options: &LegOptions) -> Result<OwnedFd, Errno> {
    let listener = tcp_socket(family_of(&address))?;
    set_common(&listener)?;
    keep_alive(&listener)?;
    options.satellite.tune(&listener, Side::Client, family_of(&address))?;
    setsockopt(&listener, sockopt::ReuseAddr, &true)?;
    setsockopt(&listener, sockopt::ReusePort, &true)?;
    bind(listener.as_raw_fd(), &SockaddrStorage::from(address))?;
    // The kernel lowers a backlog above net.core.somaxconn.
    sys::listen(listener.as_fd(), backlog)?;
    // Without it, any worker accepts.
    let _ = sys::choose_listener_by(listener.as_fd(), &steering::program(address.is_ipv6()));
    Ok(listener)
}

fn set_common(leg: &OwnedFd) -> Result<(), Errno> {
    let reset_on_close = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(leg, sockopt::Linger, &reset_on_close)?;
    // The sender has already decided what makes a segment; waiting for more would only add delay.
    setsockopt(leg, sockopt::TcpNoDelay, &true)?;
    // An urgent byte stays in its place in the stream.
    setsockopt(leg, sockopt::OobInline, &true)
}

/// Lets silence be probed. The time counts from the last byte, whenever this is called.
pub fn keep_alive(leg: &OwnedFd) -> Result<(), Errno> {
    setsockopt(leg, sockopt::KeepAlive, &true)?;
    setsockopt(leg, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)
}

pub fn tcp_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(family, SockType::Stream, flags, SockProtocol::Tcp)
}

fn family_of(address: &SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    }
}
