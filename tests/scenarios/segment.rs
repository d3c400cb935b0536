//! TCP segments made by hand, for clients that do what no kernel's TCP does: vanish after the SYN, repeat it
//! at once, sign it without having a key.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use crate::host::Host;

/// Sends a SYN from `host`. `options` are the TCP options, padded to whole words here.
pub fn send_syn(host: &Host, from: SocketAddr, to: SocketAddr, options: &[u8]) {
    let segment = syn(from, to, options);
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // The kernel makes the IP header; with a protocol number for a port, as raw sockets of IPv6 want it.
    let socket = host
        .inside(|| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp))
        .expect("a raw socket");
    let to = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    let sent = sendto(socket.as_raw_fd(), &segment, &to, MsgFlags::empty()).expect("send a SYN");
    assert_eq!(sent, segment.len());
}

fn syn(from: SocketAddr, to: SocketAddr, options: &[u8]) -> Vec<u8> {
    const SYN: u8 = 0x02;
    const NO_OPERATION: u8 = 1;
    let padded = options.len().div_ceil(4) * 4;
    let mut segment = Vec::with_capacity(20 + padded);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(0x1234_5678_u32.to_be_bytes());
    segment.extend(0_u32.to_be_bytes());
    segment.push(u8::try_from(5 + padded / 4).expect("at most 40 bytes of options") << 4);
    segment.push(SYN);
    segment.extend(64_000_u16.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(options);
    segment.resize(20 + padded, NO_OPERATION);
    let sum = checksum(from.ip(), to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// RFC 9293, section 3.1: over a pseudo header of addresses, length and protocol, then the segment.
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    const TCP: u16 = 6;
    let mut covered = Vec::new();
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => covered.extend(ip.octets()),
            IpAddr::V6(ip) => covered.extend(ip.octets()),
        }
    }
    covered.extend(u16::try_from(segment.len()).expect("a short segment").to_be_bytes());
    covered.extend(TCP.to_be_bytes());
    covered.extend(segment);
    let mut sum: u32 =
        covered.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}
