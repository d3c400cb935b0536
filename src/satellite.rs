//! What TCP the leg that crosses the satellite runs, and the numbers that follow from the link's rates and
//! round trip time.
//!
//! Fixed at start; any thread may tune a leg of its own. The other leg keeps the kernel's defaults, so tuning it
//! does nothing.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, setsockopt, sockopt};

use crate::error::Error;
use crate::legs::tcp_socket;
use crate::relay::Side;
use crate::sys;

/// What `run` was asked for, as far as the satellite leg is concerned.
#[derive(Clone, Debug)]
pub struct Satellite {
    pub side: Side,
    pub congestion: Option<String>,
    /// Bytes per second from client to server and from server to client.
    pub rates: [Option<u32>; 2],
    /// Round trip time in milliseconds.
    pub rtt: Option<u32>,
    /// Largest segment in bytes; tcp(7) TCP_MAXSEG.
    pub mss: Option<u32>,
}

impl Satellite {
    /// Is the congestion control there?
    pub fn check(&self) -> Result<(), Error> {
        let Some(name) = &self.congestion else {
            return Ok(());
        };
        let path = "/proc/sys/net/ipv4/tcp_available_congestion_control";
        let available = fs::read_to_string(path).unwrap_or_default();
        if available.split_whitespace().any(|it| it == name) {
            return Ok(());
        }
        // The kernel loads a module on request, so only trying tells.
        let probe = tcp_socket(AddressFamily::Inet)
            .and_then(|probe| setsockopt(&probe, sockopt::TcpCongestion, &OsString::from(name)));
        probe.map_err(|_| Error::UnknownCongestionControl {
            name: name.clone(),
            available: available.trim().replace(' ', ", "),
        })
    }

    pub fn tune(&self, leg: &OwnedFd, side: Side) -> Result<(), Errno> {
        if side != self.side {
            return Ok(());
        }
        if let Some(name) = &self.congestion {
            setsockopt(leg, sockopt::TcpCongestion, &OsString::from(name))?;
        }
        if let Some(bytes) = self.mss {
            setsockopt(leg, sockopt::TcpMaxSeg, &bytes)?;
        }
        let [up, down] = self.rates;
        let (sending, receiving) = match side {
            Side::Server => (up, down),
            Side::Client => (down, up),
        };
        if let Some(rate) = sending {
            setsockopt(leg, sys::MaxPacingRate, &rate)?;
        }
        if let (Some(rate), Some(rtt)) = (sending, self.rtt) {
            setsockopt(leg, sockopt::SndBufForce, &buffer_size(rate, rtt))?;
        }
        if let (Some(rate), Some(rtt)) = (receiving, self.rtt) {
            setsockopt(leg, sockopt::RcvBufForce, &buffer_size(rate, rtt))?;
        }
        Ok(())
    }
}

/// Twice the bandwidth-delay product in bytes, within what a 32-bit kernel takes; the kernel doubles it again
/// for its own bookkeeping (socket(7)).
fn buffer_size(rate: u32, rtt_ms: u32) -> usize {
    let product = u64::from(rate) * u64::from(rtt_ms) / 1000;
    (2 * product).clamp(64 << 10, 512 << 20) as usize
}

#[cfg(test)]
mod tests {
    use super::buffer_size;

    #[test]
    fn buffers_hold_two_bandwidth_delay_products_and_fit_32_bits() {
        assert_eq!(buffer_size(625_000, 600), 750_000);
        assert_eq!(buffer_size(1, 1), 64 << 10);
        assert_eq!(buffer_size(u32::MAX, u32::MAX), 512 << 20);
    }
}
