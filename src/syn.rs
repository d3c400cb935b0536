//! What a packet from the queue is: a SYN that may be stolen, or something that must pass untouched.
//!
//! Runs in workers. Input is hostile: no index is used before it is checked, nothing panics, and doubt
//! means "pass". References: RFC 791, RFC 8200, RFC 9293; option kinds from IANA's TCP parameters.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest SYN that can be stolen, in bytes: IP header, IPv6 extension headers and TCP header with all
/// options. A SYN slot has this much room; a longer one passes.
pub const MAX_LEN: usize = 160;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// The IPv4 TOS or IPv6 traffic class octet with the two ECN bits cleared (RFC 3168).
    pub dscp: u8,
}

/// Why a packet passes untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Not complete, or a length field contradicts another.
    Malformed,
    /// An IP fragment, or IP options and extension headers that a second connection could not carry on.
    Unusual,
    /// TCP, but not the first segment of a handshake.
    NotSyn,
    /// TCP Fast Open (RFC 7413): the bytes would have to be taken before the server has agreed.
    CarriesData,
    /// TCP-MD5 (RFC 2385) or TCP-AO (RFC 5925) bind the segments to both ends' addresses.
    Signed,
    /// Longer than [`MAX_LEN`].
    TooLong,
}

const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const DESTINATION_OPTIONS: u8 = 60;

/// Reads one IP packet, from its first octet.
pub fn parse(packet: &[u8]) -> Result<Syn, Pass> {
    match packet.first().ok_or(Pass::Malformed)? >> 4 {
        4 => parse_ipv4(packet),
        6 => parse_ipv6(packet),
        _ => Err(Pass::Malformed),
    }
}

fn parse_ipv4(packet: &[u8]) -> Result<Syn, Pass> {
    let header: &[u8; 20] = packet.first_chunk().ok_or(Pass::Malformed)?;
    if header[0] & 0x0f != 5 {
        return Err(Pass::Unusual);
    }
    // More fragments, or an offset: the TCP header may be elsewhere. "Don't fragment" is 0x40.
    if header[6] & 0x3f != 0 || header[7] != 0 || header[9] != TCP {
        return Err(Pass::Unusual);
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let segment = packet.get(20..total).ok_or(Pass::Malformed)?;
    let source = Ipv4Addr::from(octets::<4>(header, 12));
    let destination = Ipv4Addr::from(octets::<4>(header, 16));
    parse_tcp(segment, total, source.into(), destination.into(), header[1])
}

fn parse_ipv6(packet: &[u8]) -> Result<Syn, Pass> {
    let header: &[u8; 40] = packet.first_chunk().ok_or(Pass::Malformed)?;
    let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut rest = packet.get(40..total).ok_or(Pass::Malformed)?;
    let mut next = header[6];
    while next == HOP_BY_HOP || next == DESTINATION_OPTIONS {
        let &[following, units, ..] = rest else {
            return Err(Pass::Malformed);
        };
        rest = rest.get(8 + 8 * usize::from(units)..).ok_or(Pass::Malformed)?;
        next = following;
    }
    if next != TCP {
        return Err(Pass::Unusual);
    }
    let traffic_class = header[0] << 4 | header[1] >> 4;
    let source = Ipv6Addr::from(octets::<16>(header, 8));
    let destination = Ipv6Addr::from(octets::<16>(header, 24));
    parse_tcp(rest, total, source.into(), destination.into(), traffic_class)
}

fn octets<const N: usize>(header: &[u8], from: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&header[from..from + N]);
    out
}

fn parse_tcp(
    segment: &[u8],
    packet_len: usize,
    source: IpAddr,
    destination: IpAddr,
    traffic_class: u8,
) -> Result<Syn, Pass> {
    const FIN_SYN_RST_ACK: u8 = 0x17;
    const SYN: u8 = 0x02;

    let header: &[u8; 20] = segment.first_chunk().ok_or(Pass::Malformed)?;
    if header[13] & FIN_SYN_RST_ACK != SYN {
        return Err(Pass::NotSyn);
    }
    let header_len = 4 * usize::from(header[12] >> 4);
    let options = segment.get(20..header_len).ok_or(Pass::Malformed)?;
    check_options(options)?;
    if segment.len() > header_len {
        return Err(Pass::CarriesData);
    }
    if packet_len > MAX_LEN {
        return Err(Pass::TooLong);
    }
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    Ok(Syn {
        client: SocketAddr::new(source, port(0)),
        server: SocketAddr::new(destination, port(2)),
        dscp: traffic_class & !0x03,
    })
}

fn check_options(mut options: &[u8]) -> Result<(), Pass> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MD5: u8 = 19;
    const AUTHENTICATION: u8 = 29;

    while let Some((&kind, after)) = options.split_first() {
        match kind {
            END => return Ok(()),
            NO_OPERATION => options = after,
            MD5 | AUTHENTICATION => return Err(Pass::Signed),
            _ => {
                let len = usize::from(*after.first().ok_or(Pass::Malformed)?);
                if len < 2 {
                    return Err(Pass::Malformed);
                }
                options = options.get(len..).ok_or(Pass::Malformed)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
