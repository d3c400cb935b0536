//! TCP segments made by hand, for clients that do what no kernel's TCP does: vanish after the SYN, repeat it
//! at once, sign it without having a key, lie about their address, reset what is not theirs.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto, socket,
};

use crate::host::Host;

const TCP: u8 = 6;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// Of TCP and of IPv4.
const NO_OPERATION: u8 = 1;

/// Sends a SYN from `host`. `options` are the TCP options, padded to whole words here.
pub fn send_syn(host: &Host, from: SocketAddr, to: SocketAddr, options: &[u8]) {
    let segment = segment(from, to, SYN, 0x1234_5678, options, &[]);
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // The kernel makes the IP header; with a protocol number for a port, as raw sockets of IPv6 want it.
    let socket = host
        .inside(|| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp))
        .expect("a raw socket");
    let to = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    let sent = sendto(socket.as_raw_fd(), &segment, &to, MsgFlags::empty()).expect("send a SYN");
    assert_eq!(sent, segment.len());
}

/// Sends whole packets, whose source address may be anybody's.
pub struct Forger {
    socket: OwnedFd,
}

impl Forger {
    pub fn at(host: &Host, ipv4: bool) -> Forger {
        let family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        // With this protocol the IP header is the sender's business, too; raw(7).
        let open = || socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        Forger { socket: host.inside(open).expect("a raw socket") }
    }

    /// False: there was no room for it on the way out.
    pub fn send_syn(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.send(from, to, &[], &segment(from, to, SYN, 0x1234_5678, &[2, 4, 5, 0xb4], &[]))
    }

    pub fn send_syn_with_data(&self, from: SocketAddr, to: SocketAddr) {
        assert!(self.send(from, to, &[], &segment(from, to, SYN, 0x1234_5678, &[], b"data")));
    }

    /// IPv4 only.
    pub fn send_syn_with_ip_options(&self, from: SocketAddr, to: SocketAddr) {
        assert!(self.send(from, to, &[NO_OPERATION; 4], &segment(from, to, SYN, 0x1234_5678, &[], &[])));
    }

    pub fn send_reset(&self, from: SocketAddr, to: SocketAddr, sequence: u32) {
        assert!(self.send(from, to, &[], &segment(from, to, RST, sequence, &[], &[])));
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, ip_options: &[u8], segment: &[u8]) -> bool {
        let length = u16::try_from(segment.len()).expect("a short segment");
        let mut packet = Vec::with_capacity(40 + segment.len());
        match (from.ip(), to.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                // The kernel fills in the total length and the checksum.
                let words = 5 + ip_options.len() as u8 / 4;
                packet.extend([0x40 | words, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0]);
                packet.extend(source.octets().into_iter().chain(destination.octets()));
                packet.extend(ip_options);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet.extend([0x60, 0, 0, 0]);
                packet.extend(length.to_be_bytes());
                packet.extend([TCP, 64]);
                packet.extend(source.octets().into_iter().chain(destination.octets()));
            }
            _ => unreachable!("both ends are of one family"),
        }
        packet.extend(segment);
        let to = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
        match sendto(self.socket.as_raw_fd(), &packet, &to, MsgFlags::empty()) {
            Ok(sent) => sent == packet.len(),
            Err(Errno::ENOBUFS | Errno::EAGAIN) => false,
            Err(errno) => panic!("cannot send a forged packet to {to}: {errno}"),
        }
    }
}

/// The sequence number that follows the last segment which `host` sends from `from` to `to` during `work`: what an
/// eavesdropper on the LAN knows.
pub fn next_sequence(host: &Host, from: SocketAddr, to: SocketAddr, work: impl FnOnce()) -> u32 {
    const ETHERNET: usize = 14;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let open = || socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll);
    let ear = host.inside(open).expect("a packet socket");
    work();
    let (mut frame, mut next) = (vec![0; 1 << 16], None);
    while let Ok(length) = recv(ear.as_raw_fd(), &mut frame, MsgFlags::empty()) {
        let packet = &frame[ETHERNET..length];
        let (header, total) = match packet[0] >> 4 {
            4 => (20, usize::from(u16::from_be_bytes([packet[2], packet[3]]))),
            6 => (40, 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))),
            _ => continue,
        };
        let segment = &packet[header..total];
        if segment.len() >= 20
            && segment[..2] == from.port().to_be_bytes()
            && segment[2..4] == to.port().to_be_bytes()
        {
            let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
            let payload = segment.len() - 4 * usize::from(segment[12] >> 4);
            next = Some(sequence.wrapping_add(payload as u32));
        }
    }
    next.expect("a segment")
}

fn segment(
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
    sequence: u32,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let padded = options.len().div_ceil(4) * 4;
    let mut segment = Vec::with_capacity(20 + padded);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(0_u32.to_be_bytes());
    segment.push(u8::try_from(5 + padded / 4).expect("at most 40 bytes of options") << 4);
    segment.push(flags);
    segment.extend(64_000_u16.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(options);
    segment.resize(20 + padded, NO_OPERATION);
    segment.extend(payload);
    let sum = checksum(from.ip(), to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// RFC 9293, section 3.1: over a pseudo header of addresses, length and protocol, then the segment.
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let mut covered = Vec::new();
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => covered.extend(ip.octets()),
            IpAddr::V6(ip) => covered.extend(ip.octets()),
        }
    }
    covered.extend(u16::try_from(segment.len()).expect("a short segment").to_be_bytes());
    covered.extend(u16::from(TCP).to_be_bytes());
    covered.extend(segment);
    let mut sum: u32 =
        covered.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}
