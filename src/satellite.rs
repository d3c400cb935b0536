//! What TCP the leg that crosses the satellite runs, and the numbers that follow from the link's rates and
//! round trip time.
//!
//! Derived once at start; any thread may tune a leg of its own. The other leg keeps the kernel's defaults, so
//! tuning it does nothing.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, getsockopt, setsockopt, sockopt};

use crate::error::Error;
use crate::legs::tcp_socket;
use crate::relay::Side;
use crate::share::Pace;
use crate::sys;

/// What `run` was told about the satellite link.
pub struct Link<'a> {
    pub side: Side,
    /// `None`: the best that this kernel has.
    pub congestion: Option<&'a str>,
    /// Bytes per second from client to server and from server to client.
    pub rates: [Option<u32>; 2],
    /// Round trip time in milliseconds.
    pub rtt: Option<u32>,
    /// Largest segment in bytes; tcp(7) TCP_MAXSEG.
    pub mss: Option<u32>,
    /// Bytes that one socket's buffer may be set to.
    pub largest_buffer: usize,
}

/// Preferred where nothing was asked for. BBR bears losses that are no congestion and begins with the window that
/// the route gives it; Hybla, made for satellites, begins with one of its own and then sends all that fits.
const PREFERRED: [&str; 2] = ["bbr", "hybla"];

/// The longest path to servers that socket buffers are made for where the satellite's own is shorter, in
/// milliseconds: a low orbit does not bring the other side of the world nearer.
const LONGEST_PATH: u32 = 200;

/// Bandwidth-delay products that a leg's buffers hold. A lost segment's repair comes a round trip after it, and its sender
/// hears of that a round trip later: whoever sends all the while has two products under way, and what its queue adds.
/// With a window of just two it comes to a stop (traced: 92 ms in 3 s).
const SENT_PRODUCTS: u64 = 2;
const RECEIVED_PRODUCTS: u64 = 3;

/// Octets that TCP (with timestamps) and IP put before the bytes of a segment, for IPv4 and IPv6.
const HEADERS: [u32; 2] = [52, 72];

/// Octets of the packets that a path carries, unless `--mss` asks for smaller segments.
const PACKET: u32 = 1500;

#[derive(Debug)]
pub struct Satellite {
    pub side: Side,
    /// The name, to be set on each leg unless it is the system's own choice.
    pub congestion: OsString,
    /// The link as it was described, for reports.
    pub rates: [Option<u32>; 2],
    pub rtt: Option<u32>,
    /// Reno, which every kernel has.
    plain: OsString,
    /// What a socket has that is told nothing.
    systems_congestion: OsString,
    mss: Option<u32>,
    /// Bytes of payload per second, over IPv4 and IPv6.
    pace: Option<[u32; 2]>,
    unsent: u32,
    send_buffer: Option<usize>,
    receive_buffer: Option<usize>,
}

impl Satellite {
    pub fn derive(link: &Link) -> Result<Satellite, Error> {
        let (congestion, systems_congestion) = choose_congestion(link.congestion)?;
        let [up, down] = link.rates;
        let (sending, receiving) = match link.side {
            Side::Server => (up, down),
            Side::Client => (down, up),
        };
        let buffer = |rate: Option<u32>, products| {
            Some(buffer_size(rate?, link.rtt?, products).min(link.largest_buffer))
        };
        Ok(Satellite {
            side: link.side,
            congestion,
            plain: OsString::from("reno"),
            systems_congestion,
            rates: link.rates,
            rtt: link.rtt,
            mss: link.mss,
            pace: sending.map(|rate| HEADERS.map(|headers| pace(rate, link.mss, headers))),
            unsent: unsent(sending),
            send_buffer: buffer(sending, SENT_PRODUCTS),
            receive_buffer: buffer(receiving, RECEIVED_PRODUCTS),
        })
    }

    /// Bytes that may wait unsent in a leg's socket.
    pub fn unsent(&self, side: Side) -> u32 {
        if side == self.side { self.unsent } else { u32::MAX }
    }

    /// What the link carries in the direction in which the leg sends.
    pub fn pace(&self) -> Option<Pace> {
        self.pace.map(Pace)
    }

    /// Bytes of payload in a segment over IPv4.
    pub fn segment(&self) -> u32 {
        self.mss.map_or(PACKET, |mss| (mss + HEADERS[0] - 12).min(PACKET)) - HEADERS[0]
    }

    /// To be called when the leg is established, before anything was sent: opens its receive window to what its buffer is for. What
    /// does not work leaves a leg whose window grows from round trip to round trip.
    pub fn open_window(&self, leg: &OwnedFd, side: Side) {
        if let Some(bytes) = self.receive_buffer.filter(|_| side == self.side) {
            // At most 512 MiB.
            let _ = sys::open_receive_window(leg.as_fd(), bytes as u32);
            // The repair mode took it away, and the next daemon is to listen at the port of what lingers.
            let _ = setsockopt(leg, sockopt::ReuseAddr, &true);
        }
    }

    /// Whether the congestion control is one that gains by [`Satellite::renew`].
    pub fn can_renew(&self) -> bool {
        self.congestion == "bbr"
    }

    /// Has BBR begin anew, with the window that it has: it would take half a minute to notice that its pace
    /// may be larger, and stops every ten seconds to measure the round trip.
    pub fn renew(&self, leg: &impl AsFd) {
        if self.can_renew() {
            // What fails leaves a leg that goes on.
            let _ = setsockopt(leg, sockopt::TcpCongestion, &self.plain);
            let _ = setsockopt(leg, sockopt::TcpCongestion, &self.congestion);
        }
    }

    /// What [`Satellite::tune`] may have set, back to the system's own. Buffers keep their size: the kernel has no way
    /// back before 5.14.
    pub fn untune(&self, leg: &OwnedFd) -> Result<(), Errno> {
        setsockopt(leg, sockopt::TcpCongestion, &self.systems_congestion)?;
        setsockopt(leg, sockopt::TcpMaxSeg, &0)?;
        setsockopt(leg, sys::MaxPacingRate, &u32::MAX)?;
        setsockopt(leg, sys::NotSentLowWater, &0)
    }

    /// To be called before the leg connects or listens: a window's scale is settled by the SYN. The legs that a
    /// listener bears inherit all of it.
    pub fn tune(&self, leg: &OwnedFd, side: Side, family: AddressFamily) -> Result<(), Errno> {
        if side != self.side {
            return Ok(());
        }
        if self.congestion != self.systems_congestion {
            setsockopt(leg, sockopt::TcpCongestion, &self.congestion)?;
        }
        if let Some(bytes) = self.mss {
            setsockopt(leg, sockopt::TcpMaxSeg, &bytes)?;
        }
        if let Some([v4, v6]) = self.pace {
            let pace = if family == AddressFamily::Inet6 { v6 } else { v4 };
            setsockopt(leg, sys::MaxPacingRate, &pace)?;
        }
        setsockopt(leg, sys::NotSentLowWater, &self.unsent)?;
        if let Some(bytes) = self.send_buffer {
            setsockopt(leg, sockopt::SndBufForce, &bytes)?;
        }
        if let Some(bytes) = self.receive_buffer {
            setsockopt(leg, sockopt::RcvBufForce, &bytes)?;
        }
        Ok(())
    }
}

/// For the log.
impl fmt::Display for Satellite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Client => "client",
            Side::Server => "server",
        };
        write!(f, "satellite leg {side}, congestion control {}", self.congestion.display())?;
        if let Some([pace, _]) = self.pace {
            write!(f, ", at most {} kbit/s of payload", pace / 125)?;
        }
        Ok(())
    }
}

/// The congestion control of the satellite leg, and the system's own choice.
fn choose_congestion(asked: Option<&str>) -> Result<(OsString, OsString), Error> {
    let failed = |errno| Error::system("make", "a TCP socket", errno, "");
    let probe = tcp_socket(AddressFamily::Inet).map_err(failed)?;
    let default = getsockopt(&probe, sockopt::TcpCongestion).map_err(failed)?;
    // The kernel loads a module on request if it has one and we have CAP_NET_ADMIN, so only trying tells.
    let try_out = |name: &str| setsockopt(&probe, sockopt::TcpCongestion, &OsString::from(name));
    let chosen = match asked {
        Some(name) => {
            try_out(name).map_err(|errno| unusable_congestion(name, errno))?;
            OsString::from(name)
        }
        None => match PREFERRED.into_iter().find(|name| try_out(name).is_ok()) {
            Some(name) => OsString::from(name),
            None => default.clone(),
        },
    };
    Ok((chosen, default))
}

fn unusable_congestion(name: &str, errno: Errno) -> Error {
    if errno != Errno::ENOENT {
        return Error::system("use", format!("congestion control {name}"), errno, "");
    }
    let available = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    let available = available.unwrap_or_default().trim().replace(' ', ", ");
    // All that OpenWrt packs; what comes with its kernel is in the list already.
    let package = match name {
        "bbr" => Some("kmod-tcp-bbr"),
        "hybla" => Some("kmod-tcp-hybla"),
        "scalable" => Some("kmod-tcp-scalable"),
        _ => None,
    };
    Error::UnknownCongestionControl { name: name.into(), available, package }
}

/// The payload's share of the link's rate, and 1 % less: the kernel paces the payload, the link carries the headers
/// of TCP, IP and what is below too. A little less than it carries, so that its queue stays empty.
fn pace(rate: u32, mss: Option<u32>, headers: u32) -> u32 {
    // TCP_MAXSEG counts the option with the timestamps, 12 octets, as part of the segment.
    let packet = mss.map_or(PACKET, |mss| (mss + headers - 12).min(PACKET));
    let payload = u64::from(packet - headers);
    let pace = u64::from(rate) * payload * 99 / (u64::from(packet) * 100);
    // It is less than `rate`. The kernel takes 0 for a stop.
    pace.max(1) as u32
}

/// Bytes that may wait unsent in the socket (TCP_NOTSENT_LOWAT; more is asked for when half is left): a tenth of a
/// second's worth, so that a busy router comes back in time. What waits elsewhere waits in its sender.
fn unsent(rate: Option<u32>) -> u32 {
    rate.map_or(128 << 10, |rate| (rate / 10).clamp(64 << 10, 1 << 20))
}

/// So many bandwidth-delay products in bytes, within what a 32-bit kernel takes. The kernel doubles it again
/// (socket(7)), because it counts a segment's own memory too; so this is about what it announces as window.
fn buffer_size(rate: u32, rtt: u32, products: u64) -> usize {
    let product = u64::from(rate) * u64::from(rtt.max(LONGEST_PATH)) / 1000;
    (products * product).clamp(64 << 10, 512 << 20) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes per second of a rate in Mbit/s.
    const MBIT: u32 = 125_000;

    #[test]
    fn buffers_hold_bandwidth_delay_products_and_fit_32_bits() {
        assert_eq!(buffer_size(5 * MBIT, 600, 2), 750_000);
        assert_eq!(buffer_size(50 * MBIT, 600, 3), 11_250_000);
        assert_eq!(buffer_size(1, 1, 3), 64 << 10);
        assert_eq!(buffer_size(u32::MAX, u32::MAX, 3), 512 << 20);
    }

    #[test]
    fn buffers_of_a_short_link_reach_servers_that_are_far_behind_it() {
        assert_eq!(buffer_size(50 * MBIT, 40, 2), buffer_size(50 * MBIT, 200, 2));
        assert_eq!(buffer_size(50 * MBIT, 200, 2), 2_500_000);
    }

    #[test]
    fn the_pace_leaves_room_for_headers() {
        // 1448 of 1500 octets and 1428 of 1500, less 2 %.
        assert_eq!(pace(5 * MBIT, None, HEADERS[0]), 597_300);
        assert_eq!(pace(5 * MBIT, None, HEADERS[1]), 589_050);
        // What leaves the device with Ethernet headers is still less than the rate.
        for headers in HEADERS {
            let on_the_wire = u64::from(pace(5 * MBIT, None, headers)) * 1514 / u64::from(1500 - headers);
            assert!((610_000..625_000).contains(&on_the_wire), "{on_the_wire}");
        }
    }

    #[test]
    fn smaller_segments_leave_more_room() {
        assert_eq!(pace(1_000_000, Some(88), HEADERS[0]), 587_812);
        // A larger segment than packets can be changes nothing.
        assert_eq!(pace(1_000_000, Some(32_767), HEADERS[1]), pace(1_000_000, None, HEADERS[1]));
    }

    #[test]
    fn the_pace_of_extreme_rates_is_neither_zero_nor_above_the_rate() {
        assert_eq!(pace(1, Some(88), HEADERS[1]), 1);
        assert_eq!(pace(u32::MAX, None, HEADERS[0]), 4_104_614_344);
    }

    #[test]
    fn what_waits_unsent_is_worth_a_tenth_of_a_second() {
        assert_eq!(unsent(None), 128 << 10);
        assert_eq!(unsent(Some(20 * MBIT)), 250_000);
        assert_eq!(unsent(Some(1)), 64 << 10);
        assert_eq!(unsent(Some(u32::MAX)), 1 << 20);
    }

    #[test]
    fn only_existing_packages_are_named() {
        let package = |name| match unusable_congestion(name, Errno::ENOENT) {
            Error::UnknownCongestionControl { package, .. } => package,
            other => panic!("{other}"),
        };
        assert_eq!(package("hybla"), Some("kmod-tcp-hybla"));
        assert_eq!(package("westwood"), None);
    }
}
