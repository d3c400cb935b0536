//! The budget for what all connections together may buffer in the kernel: in their sockets, and in pipes.
//!
//! The main thread looks once a second while connections live ([`Memory::look`]); workers only read flags. From
//! three quarters of the budget on it is tight: workers lend no pipes, and connections that hold more than
//! their share get small windows, until half is free again. From seven eighths on it is spent: new SYNs pass direct,
//! until it is a quarter free. What comes within one second can exceed the budget; the kernel's own limit
//! (tcp_mem in tcp(7)) stands behind it, beyond which the kernel throws away segments and resets connections. So the
//! default leaves an eighth of that free.
#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sys::socket::setsockopt;
use nix::sys::sysinfo::sysinfo;
use nix::unistd::{SysconfVar, sysconf};

use crate::log;
use crate::relay::{Connection, Side};
use crate::satellite::Satellite;
use crate::slots::{Slots, Stage};
use crate::sys;

/// The default is an eighth of the RAM, but no less than this, in KiB: a few satellite connections need as much. If the
/// kernel lets TCP have less, connections are only fewer.
const FLOOR: u32 = 8 << 10;

/// What a connection counts for from its SYN to the next look, in KiB.
const NEWCOMER: u32 = 16;

/// The smallest window that is left to a connection, in bytes; the bytes of unsent data too.
const SMALLEST_WINDOW: u32 = 8 << 10;

/// A window that is limited by the buffer's size only.
const ANY_WINDOW: u32 = 1 << 30;

pub struct Memory {
    /// All sizes are in KiB, so that 32 bits are enough.
    budget: u32,
    /// The budget as it was wanted, of which one socket may have a quarter.
    wanted: u32,
    /// What connections held at the last look.
    used: AtomicU32,
    tight: AtomicBool,
    spent: AtomicBool,
    /// SYNs that may be stolen before the next look. Sequentially consistent: see `Bell::may_sleep`.
    admissible: AtomicU32,
}

impl Memory {
    /// `None`: an eighth of the RAM, or less if the kernel's limit says so.
    pub fn new(mib: Option<u32>) -> Memory {
        let limit = kernel_limit().unwrap_or(u32::MAX);
        if let Some(mib) = mib {
            let wanted = mib.saturating_mul(1 << 10);
            if wanted > limit {
                log::warn(format_args!(
                    "--memory {mib} is more than the {} MiB that the kernel lets TCP have: raise net.ipv4.tcp_mem too",
                    limit >> 10
                ));
            }
            return Memory::of(wanted, wanted);
        }
        let eighth = sysinfo().map_or(0, |it| it.ram_total() / 8 / 1024);
        let wanted = u32::try_from(eighth).unwrap_or(u32::MAX).max(FLOOR);
        Memory::of(wanted.min(limit - limit / 8), wanted)
    }

    fn of(budget: u32, wanted: u32) -> Memory {
        Memory {
            budget,
            wanted,
            used: AtomicU32::new(0),
            tight: AtomicBool::new(false),
            spent: AtomicBool::new(false),
            admissible: AtomicU32::new(budget / NEWCOMER),
        }
    }

    /// Bytes: what connections held when it was last looked, and the budget.
    pub fn figures(&self) -> [u64; 2] {
        [self.used.load(Ordering::Relaxed), self.budget].map(|kib| u64::from(kib) * 1024)
    }

    /// Bytes that one socket's buffer may be set to; the kernel counts up to twice as much into it.
    pub fn largest_buffer(&self) -> usize {
        usize::try_from(u64::from(self.wanted) * 1024 / 4).unwrap_or(usize::MAX)
    }

    pub fn is_tight(&self) -> bool {
        self.tight.load(Ordering::Relaxed)
    }

    /// Nothing will have changed at the next look if no connection lives until then.
    pub fn is_calm(&self) -> bool {
        !self.is_tight() && self.admissible.load(Ordering::SeqCst) > 0
    }

    /// Whether one more SYN may be stolen. If not, the main thread has to look again soon.
    pub fn admits(&self) -> bool {
        let take_one = |left: u32| left.checked_sub(1);
        if self.admissible.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one).is_ok() {
            return true;
        }
        if !self.spent.swap(true, Ordering::Relaxed) {
            log::warn(format_args!(
                "the memory budget of {} MiB is spent: new connections pass direct until others have been read \
                 (--memory sets it)",
                self.budget >> 10
            ));
        }
        false
    }

    /// Measures what connections hold, and squeezes those that hold too much while it is tight.
    pub fn look(&self, slots: &Slots, satellite: &Satellite) {
        let (mut used, mut count) = (0u32, 0);
        each(slots, |connection| {
            used = used.saturating_add(held(connection));
            count += 1;
        });
        let was_tight = self.is_tight();
        self.judge(used);
        if !was_tight && !self.is_tight() {
            return;
        }
        let share = self.budget / 2 / count.max(1);
        each(slots, |connection| {
            let held = held(connection);
            if self.is_tight() && held > share {
                connection.squeezed = true;
                squeeze(connection, window_of(share));
            } else if connection.squeezed && (!self.is_tight() || held < share / 2) {
                connection.squeezed = false;
                relax(connection, satellite);
            }
        });
    }

    fn judge(&self, used: u32) {
        self.used.store(used, Ordering::Relaxed);
        let part = |eighths: u32| (u64::from(self.budget) * u64::from(eighths) / 8) as u32;
        let below = |eighths: u32| used < part(eighths);
        let stays = |was: bool, from: u32, until: u32| if was { !below(until) } else { !below(from) };
        self.tight.store(stays(self.is_tight(), 6, 4), Ordering::Relaxed);
        let was_spent = self.spent.load(Ordering::Relaxed);
        let admissible = match stays(was_spent, 7, 6) {
            true => 0,
            false => part(7).saturating_sub(used) / NEWCOMER,
        };
        self.admissible.store(admissible, Ordering::SeqCst);
        if was_spent && admissible > 0 && self.spent.swap(false, Ordering::Relaxed) {
            log::notice(format_args!("the memory budget has room again: new connections are stolen"));
        }
    }
}

/// KiB that all sockets of TCP may take; the third figure of tcp_mem, which is in pages.
fn kernel_limit() -> Option<u32> {
    let pages: u64 = fs::read_to_string("/proc/sys/net/ipv4/tcp_mem")
        .ok()?
        .split_ascii_whitespace()
        .nth(2)?
        .parse()
        .ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    u32::try_from(pages.saturating_mul(page as u64 / 1024)).ok()
}

fn each(slots: &Slots, mut with: impl FnMut(&mut Connection)) {
    for (_, mut slot) in slots.in_use() {
        if let Stage::Relaying(connection) = &mut slot.stage {
            with(connection);
        }
    }
}

/// KiB that the connection's sockets and pipes take, rounded up.
fn held(connection: &Connection) -> u32 {
    let sockets: usize =
        connection.sockets().iter().map(|socket| sys::buffered(socket.as_fd()).unwrap_or(0)).sum();
    u32::try_from((sockets + connection.piped()).div_ceil(1024)).unwrap_or(u32::MAX)
}

/// Both legs receive and send. The kernel takes about two bytes for one of the window.
fn window_of(share: u32) -> u32 {
    (share.saturating_mul(1024) / 8).max(SMALLEST_WINDOW)
}

// A failure in these two leaves the leg as it is: it may just have ended.

fn squeeze(connection: &Connection, window: u32) {
    for socket in connection.sockets() {
        set(socket, window, window);
    }
}

fn relax(connection: &Connection, satellite: &Satellite) {
    for (socket, side) in connection.sockets().into_iter().zip(Side::BOTH) {
        set(socket, ANY_WINDOW, satellite.unsent(side));
    }
}

fn set(socket: &OwnedFd, window: u32, unsent: u32) {
    let _ = setsockopt(socket, sys::WindowClamp, &window);
    let _ = setsockopt(socket, sys::NotSentLowWater, &unsent);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 10;

    #[test]
    fn the_default_is_an_eighth_of_the_ram_within_what_the_kernel_allows() {
        let ram = u32::try_from(sysinfo().expect("sysinfo").ram_total() / 1024).expect("less than 4 TiB");
        let limit = kernel_limit().expect("tcp_mem");
        assert!((ram / 64..=ram).contains(&limit), "{limit} KiB of {ram}");
        let default = Memory::new(None);
        assert_eq!(default.wanted, (ram / 8).max(FLOOR));
        assert_eq!(default.budget, default.wanted.min(limit - limit / 8));
        assert_eq!(Memory::new(Some(1)).budget, MIB);
        assert_eq!(Memory::new(Some(65_536)).budget, 65_536 * MIB);
        assert_eq!(Memory::new(Some(u32::MAX)).budget, u32::MAX);
    }

    #[test]
    fn windows_shrink_before_connections_pass_and_recover_after() {
        let memory = Memory::of(8 * MIB, 8 * MIB);
        let state = |used: u32| {
            memory.judge(used);
            (memory.is_tight(), memory.admits())
        };
        assert_eq!(state(0), (false, true));
        assert_eq!(state(6 * MIB - 1), (false, true));
        assert_eq!(state(6 * MIB), (true, true));
        assert_eq!(state(7 * MIB), (true, false));
        assert_eq!(state(6 * MIB), (true, false));
        assert_eq!(state(6 * MIB - 1), (true, true));
        assert_eq!(state(4 * MIB), (true, true));
        assert_eq!(state(4 * MIB - 1), (false, true));
        assert_eq!(state(u32::MAX), (true, false));
        assert_eq!(state(0), (false, true));
    }

    #[test]
    fn a_burst_of_newcomers_is_bounded_before_it_is_measured() {
        let memory = Memory::of(MIB, MIB);
        assert_eq!((0..1000).filter(|_| memory.admits()).count(), 64);
        memory.judge(512);
        assert_eq!((0..1000).filter(|_| memory.admits()).count(), (896 - 512) / 16);
    }

    #[test]
    fn sizes_fit_32_bits() {
        let memory = Memory::of(u32::MAX, u32::MAX);
        memory.judge(u32::MAX);
        assert!(memory.is_tight() && !memory.admits());
        assert_eq!(window_of(u32::MAX), u32::MAX / 8);
        assert_eq!(window_of(0), SMALLEST_WINDOW);
        assert_eq!(window_of(400), 51_200);
        assert_eq!(Memory::of(7 * MIB, 8 * MIB).largest_buffer(), 2 << 20);
    }
}
