//! Owns the two tun devices: opens one inside a network namespace that `ip netns` made.
//!
//! Invariant: a device lives as long as its descriptor, whichever namespace the process is in later. Addresses, routes,
//! the up state and a transmit queue deep enough for bursts are the caller's to set with `ip`.

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

nix::ioctl_write_ptr_bad!(
    tunsetiff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

/// Opens the device that `place` names as NAMESPACE/DEVICE. Leaves the process in that namespace.
pub fn open_in(place: &str) -> Result<OwnedFd, String> {
    let (namespace, device) =
        place.split_once('/').ok_or_else(|| format!("'{place}' is not of the form NAMESPACE/DEVICE"))?;
    let file = File::open(format!("/run/netns/{namespace}"))
        .map_err(|error| format!("cannot open namespace {namespace}: {error}"))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .map_err(|error| format!("cannot enter namespace {namespace}: {error}"))?;
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let tun = open("/dev/net/tun", flags, Mode::empty())
        .map_err(|error| format!("cannot open /dev/net/tun: {error}"))?;

    // SAFETY: ifreq is plain integers and a union of them; all zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.is_empty() || device.len() >= libc::IFNAMSIZ {
        return Err(format!("'{device}' is no device name"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads one ifreq, which outlives the call.
    unsafe { tunsetiff(tun.as_raw_fd(), &request) }
        .map_err(|error| format!("cannot create tun device {device}: {error}"))?;
    Ok(tun)
}
