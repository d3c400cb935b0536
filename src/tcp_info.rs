//! What the kernel tells of a leg's TCP: struct tcp_info of linux/tcp.h, read by offset.
//!
//! The struct has grown at its end with the kernel; how much an older one fills in is seen from the length.
//! The main thread asks, so nothing of it costs the relay anything.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;

use crate::sys;

/// Up to and with tcpi_sndbuf_limited (Linux 4.10).
pub const LEN: usize = 192;

/// tcpi_state (linux/tcp_states.h).
const SYN_SENT: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    pub rtt_us: u32,
    pub cwnd: u32,
    pub mss: u32,
    /// Segments sent again since the beginning.
    pub retransmits: u32,
    /// Segments sent and not acknowledged.
    unacknowledged: u32,
    /// Bytes in the send buffer that were never sent (Linux 4.6).
    pub unsent: Option<u32>,
    /// The shortest round trip lately, in microseconds (Linux 4.6).
    min_rtt_us: Option<u32>,
    /// Bytes per second (Linux 4.9).
    pub delivery_rate: Option<u64>,
    /// Linux 4.10; `None` too before the leg is up.
    pub chronicle: Option<Chronicle>,
}

/// Milliseconds, modulo 2^32, since the beginning in which something waited to be acknowledged, and in which of
/// these it was the peer's receive window or the own send buffer that kept more from being sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chronicle {
    pub busy: u32,
    pub receive_window: u32,
    pub send_buffer: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Sender,
    ReceiveWindow,
    SendBuffer,
    Congestion,
}

impl Limit {
    pub fn name(self) -> &'static str {
        match self {
            Limit::Sender => "sender",
            Limit::ReceiveWindow => "receive_window",
            Limit::SendBuffer => "send_buffer",
            Limit::Congestion => "congestion",
        }
    }
}

pub fn of(socket: BorrowedFd) -> Option<TcpInfo> {
    let mut info = [0; LEN];
    let filled = sys::tcp_info(socket, &mut info).ok()?;
    parse(info.get(..filled)?)
}

fn parse(info: &[u8]) -> Option<TcpInfo> {
    let word = |at: usize| info.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let double = |at: usize| info.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    let millis = |at: usize| double(at).map(|micros| (micros / 1000) as u32);
    let chronicle =
        || Some(Chronicle { busy: millis(168)?, receive_window: millis(176)?, send_buffer: millis(184)? });
    Some(TcpInfo {
        mss: word(16)?,
        unacknowledged: word(24)?,
        rtt_us: word(68)?,
        cwnd: word(80)?,
        retransmits: word(100)?,
        unsent: word(144),
        min_rtt_us: word(148),
        delivery_rate: double(160),
        chronicle: if info[0] == SYN_SENT { None } else { chronicle() },
    })
}

impl TcpInfo {
    /// Whether packets wait somewhere on the path: a round trip takes a quarter longer than it may.
    pub fn is_queued(&self) -> bool {
        self.min_rtt_us.is_none_or(|min_rtt| self.rtt_us - self.rtt_us / 5 > min_rtt)
    }

    /// What most of the last `elapsed_ms` went by with, `before` being the chronicle at their beginning. `more`: the relay
    /// holds bytes for this leg that its send buffer had no room for.
    pub fn limit(&self, before: Chronicle, elapsed_ms: u32, more: bool) -> Option<Limit> {
        let now = self.chronicle?;
        let busy = now.busy.wrapping_sub(before.busy);
        let receive_window = now.receive_window.wrapping_sub(before.receive_window);
        let send_buffer = now.send_buffer.wrapping_sub(before.send_buffer);
        let idle = elapsed_ms.saturating_sub(busy);
        let rest = busy.saturating_sub(receive_window + send_buffer);
        let most = receive_window.max(send_buffer).max(idle).max(rest);
        Some(match most {
            _ if most == idle => Limit::Sender,
            _ if most == receive_window => Limit::ReceiveWindow,
            _ if most == send_buffer => Limit::SendBuffer,
            // The kernel takes a steady trickle over a long round trip for busy too; but it fills no window and
            // leaves nothing unsent. Nor does one whose send buffer is too small for the round trip.
            _ if self.unsent == Some(0) && self.unacknowledged < self.cwnd => {
                if more {
                    Limit::SendBuffer
                } else {
                    Limit::Sender
                }
            }
            _ => Limit::Congestion,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> [u8; LEN] {
        let mut info = [0; LEN];
        let mut put = |at: usize, value: &[u8]| info[at..at + value.len()].copy_from_slice(value);
        let words = [(16, 1448u32), (24, 20), (68, 612_000), (80, 30), (100, 7), (144, 5000), (148, 600_000)];
        words.into_iter().for_each(|(at, word)| put(at, &word.to_ne_bytes()));
        let doubles = [(160, 1 << 33), (168, 5_000_000), (176, 1_000_000u64), (184, 2_500_000)];
        doubles.into_iter().for_each(|(at, double)| put(at, &double.to_ne_bytes()));
        info
    }

    #[test]
    fn offsets_are_those_of_libc_where_libc_has_them() {
        use std::mem::offset_of;
        let of_libc = [
            offset_of!(libc::tcp_info, tcpi_snd_mss),
            offset_of!(libc::tcp_info, tcpi_unacked),
            offset_of!(libc::tcp_info, tcpi_rtt),
            offset_of!(libc::tcp_info, tcpi_snd_cwnd),
            offset_of!(libc::tcp_info, tcpi_total_retrans),
        ];
        assert_eq!(of_libc, [16, 24, 68, 80, 100]);
    }

    #[test]
    fn older_kernels_tell_less() {
        let info = sample();
        let all = parse(&info).unwrap();
        assert_eq!((all.mss, all.rtt_us, all.cwnd, all.retransmits), (1448, 612_000, 30, 7));
        assert_eq!((all.unsent, all.delivery_rate), (Some(5000), Some(1 << 33)));
        assert_eq!(all.chronicle, Some(Chronicle { busy: 5000, receive_window: 1000, send_buffer: 2500 }));
        let linux_4_9 = parse(&info[..168]).unwrap();
        assert_eq!((linux_4_9.delivery_rate, linux_4_9.chronicle), (Some(1 << 33), None));
        assert_eq!(linux_4_9.limit(Chronicle::default(), 1000, false), None);
        let linux_3_10 = parse(&info[..104]).unwrap();
        assert_eq!((linux_3_10.retransmits, linux_3_10.unsent, linux_3_10.delivery_rate), (7, None, None));
        assert_eq!(parse(&info[..100]), None);
        let mut connecting = info;
        connecting[0] = SYN_SENT;
        assert_eq!(parse(&connecting).unwrap().limit(Chronicle::default(), 1000, false), None);
    }

    #[test]
    fn a_round_trip_a_quarter_longer_than_the_shortest_is_a_queue() {
        let mut info = parse(&sample()).unwrap();
        assert!(!info.is_queued());
        info.rtt_us = 760_000;
        assert!(info.is_queued());
        info.min_rtt_us = None;
        info.rtt_us = 612_000;
        assert!(info.is_queued(), "who knows");
    }

    #[test]
    fn the_largest_share_of_the_time_is_the_limit() {
        let mut info = parse(&sample()).unwrap();
        let before = |busy, receive_window, send_buffer| Chronicle { busy, receive_window, send_buffer };
        assert_eq!(info.limit(before(4000, 900, 2500), 1000, false), Some(Limit::Congestion));
        assert_eq!(info.limit(before(4000, 900, 1700), 1000, false), Some(Limit::SendBuffer));
        assert_eq!(info.limit(before(4000, 400, 2500), 1000, false), Some(Limit::ReceiveWindow));
        assert_eq!(info.limit(before(4800, 1000, 2500), 1000, false), Some(Limit::Sender));
        info.unsent = Some(0);
        assert_eq!(info.limit(before(4000, 1000, 2500), 1000, false), Some(Limit::Sender), "a trickle");
        assert_eq!(info.limit(before(4000, 1000, 2500), 1000, true), Some(Limit::SendBuffer));
        info.unacknowledged = 30;
        assert_eq!(info.limit(before(4000, 1000, 2500), 1000, false), Some(Limit::Congestion));
    }
}
