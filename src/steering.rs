//! Which worker accepts: the one that owns the connection.
//!
//! Each worker has listeners of its own in one SO_REUSEPORT group (socket(7)). The injected SYN says which of
//! them is meant, in a field that means nothing any more once it is here, the low bits of its time to live; a
//! classic BPF program in front of the group reads it there. So a connection is touched by one thread from its SYN
//! to its end. Where the program cannot be attached, or a SYN reaches the listener by another way, the kernel
//! chooses a listener by hash, and the accepting worker hands the connection to its owner.
//!
//! The time to live stays long enough for a SYN that nobody redirects any more, because the rules were flushed at just
//! that moment: it goes on to the server. An ICMP "time exceeded" would end the client's attempt.
#![forbid(unsafe_code)]

use libc::sock_filter;

const IPV4_TTL: usize = 8;
const IPV6_HOP_LIMIT: usize = 7;

/// The bits of the time to live that name a worker, and what it is with none of them set. There are at most 64 workers.
const WORKER: u8 = 0x3f;
const LONG: u8 = 0x40;

/// The program: load the octet `ttl_at` of the network header, choose the listener that its low bits name. A number
/// that no listener has makes the kernel choose by hash.
pub fn program(ipv6: bool) -> [sock_filter; 3] {
    const SKF_NET_OFF: i32 = -0x10_0000;
    let ttl_at = if ipv6 { IPV6_HOP_LIMIT } else { IPV4_TTL };
    let instruction = |code, k| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, (SKF_NET_OFF + ttl_at as i32) as u32),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, WORKER.into()),
        instruction(libc::BPF_RET | 0x10, 0), // BPF_A: what was computed
    ]
}

/// Makes `syn`, an IP packet that `syn::parse` has accepted, reach the listener of `worker`.
pub fn direct(syn: &mut [u8], worker: usize) {
    let ttl = LONG | worker as u8;
    if syn[0] >> 4 == 6 {
        syn[IPV6_HOP_LIMIT] = ttl;
    } else {
        syn[IPV4_TTL] = ttl;
        syn[10..12].fill(0);
        let sum = ipv4_header_checksum(&syn[..20]);
        syn[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// RFC 791, RFC 1071.
fn ipv4_header_checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    // Twenty octets carry into the upper half at most nine times, which one more fold can make overflow once.
    let folded = (sum >> 16) + (sum & 0xffff);
    !((folded >> 16) + folded) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directed_syn_keeps_a_valid_header() {
        // The example header of RFC 1071's companions: 192.168.0.1 to 192.168.0.199, checksum 0xb861.
        let mut header =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 192, 168, 0, 1, 192, 168, 0, 199];
        for worker in 0..64 {
            direct(&mut header, worker);
            assert_eq!(usize::from(header[IPV4_TTL]), 64 + worker);
            assert_eq!(ipv4_header_checksum(&header), 0, "with its checksum a header sums to zero");
        }
        direct(&mut header, 0);
        assert_eq!(header[10..12], [0xb8, 0x61]);
    }

    #[test]
    fn ipv6_has_no_checksum_to_mend() {
        let mut header = [0; 40];
        header[0] = 0x60;
        direct(&mut header, 3);
        assert_eq!(header[IPV6_HOP_LIMIT], 67);
        assert_eq!(header.iter().filter(|&&octet| octet != 0).count(), 2);
    }
}
