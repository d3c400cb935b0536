//! The TUN device that stolen SYNs are delivered through.
//!
//! Made at start by the main thread; any thread may inject. The rules (see `rules`) redirect what comes from
//! the device to the listener. Only the daemon can write to it, and nothing is routed into it, so nothing is
//! read from it. The device goes away with the process.
//!
//! One SYN at a time: the kernel takes it as far as the listener within the write. Two from one client port on two
//! processors might be given the same new source port, and conntrack would then drop the second.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::abort;
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::Error;
use crate::sys;

/// The address that netfilter's redirect needs: RFC 7600's dummy address, which no host uses.
const IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Likewise, from a unique local prefix (RFC 4193) that spells "pepsal".
const IPV6: Ipv6Addr = Ipv6Addr::new(0xfd70, 0x6570, 0x7361, 0x6c00, 0, 0, 0, 1);

/// How long the IPv6 address may take to settle; normally milliseconds.
const SETTLING_TIME: Duration = Duration::from_secs(3);

const AS_ROOT: &str = "run pepsal as root or with CAP_NET_ADMIN";

pub struct Tun {
    name: String,
    device: File,
    /// Held while a SYN is written; the slot's lock is not.
    turn: Mutex<()>,
    /// Without IPv6 in the kernel only the first address is there.
    ipv6: bool,
}

impl Tun {
    /// Makes the device, gives it its addresses and brings it up.
    pub fn create(name: &str) -> Result<Tun, Error> {
        let device = File::options().read(true).write(true).open("/dev/net/tun").map_err(|error| {
            let errno = errno(&error);
            let remedy = match errno {
                Errno::EACCES | Errno::EPERM => AS_ROOT,
                _ => "load the tun module; on OpenWrt install kmod-tun",
            };
            Error::system("open", "/dev/net/tun", errno, remedy)
        })?;
        sys::create_tun(device.as_fd(), name).map_err(|errno| {
            let remedy = match errno {
                Errno::EPERM => AS_ROOT,
                Errno::EBUSY => "another pepsal has it: stop that, or choose another name with --device",
                _ => "choose another name with --device here and in 'pepsal rules'",
            };
            Error::system("create", format!("TUN device {name}"), errno, remedy)
        })?;
        let failed = |errno| Error::system("set up", format!("TUN device {name}"), errno, "");
        let any = |family| {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket(family, SockType::Datagram, flags, None)
        };
        let inet = any(AddressFamily::Inet).map_err(failed)?;
        sys::set_ipv4_address(inet.as_fd(), name, IPV4).map_err(failed)?;
        // A SYN comes from the device with an address that is routed elsewhere: strict reverse path filtering
        // would drop it. 2 is loose, which wins over 1 in "all" (ip-sysctl.rst).
        write_setting("ipv4", name, "rp_filter", "2").map_err(|error| {
            let object = format!("reverse path filtering of {name} to loose");
            Error::system("set", object, errno(&error), "is /proc/sys writable?")
        })?;
        // Else a segment's socket is looked up before netfilter has changed its source port, as it does where a client
        // speaks to two servers from one port: it would reach the other's leg, in kernels up to 6.1 at least.
        let _ = fs::write("/proc/sys/net/ipv4/tcp_early_demux", "0");
        // The device speaks to nobody: no autoconfiguration. Systems without IPv6 have no such settings.
        let _ = write_setting("ipv6", name, "disable_ipv6", "0");
        let _ = write_setting("ipv6", name, "accept_ra", "0");
        let _ = write_setting("ipv6", name, "addr_gen_mode", "1");
        // As IPv4's, the address outlives the device's being down for a while.
        let _ = write_setting("ipv6", name, "keep_addr_on_down", "1");
        sys::bring_up(inet.as_fd(), name).map_err(failed)?;
        let ipv6 = any(AddressFamily::Inet6)
            .and_then(|inet6| sys::set_ipv6_address(inet6.as_fd(), if_nametoindex(name)?, IPV6))
            .is_ok_and(|()| settles());
        Ok(Tun { name: name.into(), device, turn: Mutex::default(), ipv6 })
    }

    /// The device that another daemon has made.
    pub fn taken(name: &str, device: OwnedFd, ipv6: bool) -> Tun {
        Tun { name: name.into(), device: device.into(), turn: Mutex::default(), ipv6 }
    }

    /// Gives it the lowest free descriptor. A process that ends, however it ends, closes the highest first, and the
    /// reset of a client leg that is closed after the device has nowhere to come from: its client would wait for ever.
    pub fn outlive_sockets(&mut self) -> io::Result<()> {
        let lowest = self.device.try_clone()?;
        if lowest.as_raw_fd() < self.device.as_raw_fd() {
            self.device = lowest;
        }
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn has_ipv6(&self) -> bool {
        self.ipv6
    }

    /// One that swallows what is injected.
    #[cfg(fuzzing)]
    pub fn nowhere() -> Tun {
        let device = File::options().write(true).open("/dev/null").expect("/dev/null");
        Tun::taken("nowhere", device.into(), true)
    }

    /// The addresses that redirected connections arrive at.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [IPV4.into()].into_iter().chain(self.ipv6.then_some(IPV6.into()))
    }

    /// Reports an error (epoll(7) EPOLLERR) once the device is removed.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// Lets `packet` come in from the device, as if its sender were behind it.
    pub fn inject(&self, packet: &[u8]) -> io::Result<()> {
        // A thread that has died with it ends the process anyway.
        let _turn = self.turn.lock().unwrap_or_else(|_| abort());
        (&self.device).write(packet).map(drop)
    }
}

/// Waits until the kernel delivers to the IPv6 address. It settles a new one on its own time, and until then
/// nobody can listen there and an injected SYN is lost.
fn settles() -> bool {
    let asked = Instant::now();
    while asked.elapsed() < SETTLING_TIME {
        if fs::read_to_string("/proc/net/ipv6_route").is_ok_and(|table| table.lines().any(is_delivery)) {
            return true;
        }
        sleep(Duration::from_millis(1));
    }
    false
}

/// Whether a line of /proc/net/ipv6_route is the address's own: ten columns, of which the first is the
/// destination and the ninth the flags (net/ipv6_route.h).
fn is_delivery(line: &str) -> bool {
    const RTF_LOCAL: u32 = 0x8000_0000;
    let mut columns = line.split_whitespace();
    let destination = columns.next().and_then(|hex| u128::from_str_radix(hex, 16).ok());
    let flags = columns.nth(7).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    destination == Some(IPV6.to_bits()) && flags.is_some_and(|flags| flags & RTF_LOCAL != 0)
}

fn write_setting(family: &str, device: &str, setting: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/{family}/conf/{device}/{setting}"), value)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::is_delivery;

    #[test]
    fn only_the_local_route_of_the_address_counts() {
        let rest =
            "00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000002 00000000";
        let line = |ip, flags| format!("{ip} 80 {rest} {flags}  pepsal0");
        assert!(is_delivery(&line("fd70657073616c000000000000000001", "80200001")));
        assert!(!is_delivery(&line("fd70657073616c000000000000000001", "00000001")), "its prefix");
        assert!(!is_delivery(&line("fd70657073616c000000000000000002", "80200001")), "another address");
        assert!(!is_delivery("fd70657073616c000000000000000001"), "cut short");
    }
}
