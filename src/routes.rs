//! The jump start: routing tables of pepsal's own, whose routes let a connection begin with a larger window.
//!
//! Linux takes a connection's first congestion window from its route (ip-route(8) initcwnd). So table
//! [`FIRST_TABLE`] holds a copy of every route of table main with a window of the link's bandwidth-delay product,
//! the next tables a half, a quarter and an eighth of it. A satellite leg chooses by its mark, through rules just
//! before that of table main: rules of others come first, and what they route has no jump start. All is
//! made anew at start and whenever main changes, and goes with the daemon; what a killed one left is replaced.
//!
//! Used by the thread `pacer` alone, but for [`mark`]. Invariant: while the rules are in place each table has an
//! entry for every route of main, for a missing one would let its packets take another way. A route that the
//! kernel does not take with a window is a `throw` there: the rules go on to main.
//!
//! There is no initrwnd: the kernel takes the least of it and what the receive buffer gives.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use crate::log;
use crate::netlink::{
    Body, Netlink, RTA_OIF, RTA_TABLE, RTM_DELROUTE, RTM_DELRULE, RTM_NEWROUTE, RTM_NEWRULE, Selection,
    attributes, push, u32_at,
};

/// Of tables 5001 to 5004. (`diversion` has 5000.)
const FIRST_TABLE: u32 = 5001;

/// How many tables there may be.
pub const LEVELS: usize = 4;

/// The bits of a mark that choose a table: high up, where neither mwan3 (0x3f00) nor pbr (0xff0000) nor
/// `diversion` (0x40000000) keep theirs.
const MARK_MASK: u32 = 0x3800_0000;
const MARK_SHIFT: u32 = MARK_MASK.trailing_zeros();

/// Just before the rule of table main, 32766.
const PRIORITY: u32 = 32_765;

/// Routes of main beyond which there is no jump start: no satellite terminal has so many, and each is copied.
const MAX_ROUTES: usize = 256;

// linux/rtnetlink.h
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_FLOW: u16 = 11;
const RTA_VIA: u16 = 18;
const RTA_PREF: u16 = 20;
const RTA_ENCAP_TYPE: u16 = 21;
const RTA_ENCAP: u16 = 22;
const RTA_NH_ID: u16 = 30;
const RTAX_INITCWND: u16 = 11;
const RTN_UNICAST: u8 = 1;
const RTN_BLACKHOLE: u8 = 6;
const RTN_THROW: u8 = 9;
const RTNH_F_ONLINK: u8 = 4;
const RT_TABLE_MAIN: u32 = 254;

/// Bytes of struct rtmsg.
const RTMSG: usize = 12;

/// The mark of a socket that begins with the window of `level`, 0 for the largest.
pub fn mark(level: usize) -> u32 {
    (level as u32 + 1) << MARK_SHIFT
}

pub struct Routes {
    kernel: Netlink,
    changes: Netlink,
    /// First windows in segments, one for each table.
    windows: heapless::Vec<u32, LEVELS>,
    /// Those whose rules the kernel takes.
    families: heapless::Vec<u8, 2>,
    /// What main's copies were made of.
    copied: Vec<Body>,
}

impl Routes {
    /// Needs CAP_NET_ADMIN. `Err`: this kernel has no routing by mark.
    pub fn install(windows: heapless::Vec<u32, LEVELS>) -> Result<Routes, Errno> {
        let changes = Netlink::open(libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE)?;
        let kernel = Netlink::open(0)?;
        let families = heapless::Vec::new();
        let mut routes = Routes { kernel, changes, windows, families, copied: Vec::new() };
        // A kernel without policy routing would put every table's routes into main: the rules come first.
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            routes.remove_rules(family);
            match routes.add_rules(family) {
                Ok(()) => drop(routes.families.push(family)),
                Err(errno) if family == libc::AF_INET as u8 => return Err(errno),
                // No IPv6.
                Err(_) => {}
            }
        }
        routes.copy_main()?;
        Ok(routes)
    }

    /// What a daemon without a jump start finds of another's is no longer wanted.
    pub fn remove() {
        // They go with their owner.
        drop(Routes::install(heapless::Vec::new()));
    }

    /// After a change was announced: whether the jump start is still there.
    pub fn follow(&mut self) -> bool {
        let of_main = |route: &[u8]| route.len() >= RTMSG && table_of(route) == RT_TABLE_MAIN;
        if !self.changes.news(of_main) {
            return true;
        }
        match self.copy_main() {
            Ok(()) => true,
            Err(errno) => {
                log::warn(format_args!(
                    "no jump start from now on: cannot copy the routes: {}",
                    errno.desc()
                ));
                false
            }
        }
    }

    fn copy_main(&mut self) -> Result<(), Errno> {
        let (mut main, mut own) = (Vec::new(), Vec::new());
        for family in &self.families {
            let all = self.kernel.dump(RTM_GETROUTE, &Body::new(&rtmsg(*family)))?;
            for route in all {
                if !is_route(route.bytes(), *family) {
                    continue;
                }
                match table_of(route.bytes()) {
                    RT_TABLE_MAIN => main.push(lasting(route.bytes())),
                    table if is_own(table) => own.push(route),
                    _ => {}
                }
            }
        }
        if main.len() > MAX_ROUTES {
            return Err(Errno::E2BIG);
        }
        // The kernel takes the routes of a device that goes down out of both.
        if main == self.copied && own.len() == main.len() * self.windows.len() {
            return Ok(());
        }
        for family in self.families.clone() {
            self.remove_rules(family);
        }
        for route in &own {
            // One may have gone meanwhile.
            let _ = self.kernel.ask(RTM_DELROUTE, 0, &deletion(route.bytes()));
        }
        for (level, window) in self.windows.iter().enumerate() {
            for route in &main {
                let table = FIRST_TABLE + level as u32;
                // One that is there already is a second route to the same place: the kernel prefers the first.
                if self.kernel.add(RTM_NEWROUTE, &copy(route.bytes(), table, *window)).is_err() {
                    self.kernel.add(RTM_NEWROUTE, &throw(route.bytes(), table))?;
                }
            }
        }
        self.copied = main;
        for family in self.families.clone() {
            self.add_rules(family)?;
        }
        Ok(())
    }

    fn add_rules(&mut self, family: u8) -> Result<(), Errno> {
        for level in 0..self.windows.len() {
            if !self.kernel.add(RTM_NEWRULE, &rule(family, level))? {
                return Err(Errno::EEXIST);
            }
        }
        Ok(())
    }

    /// Also those that a killed daemon has left.
    fn remove_rules(&mut self, family: u8) {
        for level in 0..LEVELS {
            while self.kernel.ask(RTM_DELRULE, 0, &rule(family, level)).is_ok() {}
        }
    }
}

impl AsFd for Routes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        for family in self.families.clone() {
            self.remove_rules(family);
            let all = self.kernel.dump(RTM_GETROUTE, &Body::new(&rtmsg(family))).unwrap_or_default();
            for route in all.iter().filter(|route| is_route(route.bytes(), family)) {
                if is_own(table_of(route.bytes())) {
                    // What is left behind is in nobody's way, without the rules.
                    let _ = self.kernel.ask(RTM_DELROUTE, 0, &deletion(route.bytes()));
                }
            }
        }
    }
}

fn is_own(table: u32) -> bool {
    (FIRST_TABLE..FIRST_TABLE + LEVELS as u32).contains(&table)
}

fn rtmsg(family: u8) -> [u8; RTMSG] {
    [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn rule(family: u8, level: usize) -> Body {
    let table = FIRST_TABLE + level as u32;
    Selection { priority: PRIORITY, mark: mark(level), mask: MARK_MASK, table }.rule(family)
}

/// A route of the family that leads somewhere or nowhere; not the cached ones, nor those of local addresses.
pub fn is_route(route: &[u8], family: u8) -> bool {
    let cached = u32_at(route, 8).is_none_or(|flags| flags & libc::RTM_F_CLONED != 0);
    !cached && route[0] == family && matches!(route[7], RTN_UNICAST | RTN_BLACKHOLE..=RTN_THROW)
}

pub fn table_of(route: &[u8]) -> u32 {
    let attribute = attributes(&route[RTMSG..]).find(|(kind, _)| *kind == RTA_TABLE);
    attribute.and_then(|(_, value)| u32_at(value, 0)).unwrap_or(u32::from(route[4]))
}

/// What stays the same of a route as long as nobody changes it: without table, lifetimes and the devices' states.
pub fn lasting(route: &[u8]) -> Body {
    let mut header = [0; RTMSG];
    header.copy_from_slice(&route[..RTMSG]);
    header[4] = 0;
    header[8..].copy_from_slice(&(u32::from(RTNH_F_ONLINK) & u32_at(route, 8).unwrap_or(0)).to_ne_bytes());
    let has_nexthop_id = attributes(&route[RTMSG..]).any(|(kind, _)| kind == RTA_NH_ID);
    let mut lasting = Body::new(&header);
    for (kind, value) in attributes(&route[RTMSG..]) {
        match kind {
            RTA_DST | RTA_SRC | RTA_PRIORITY | RTA_PREFSRC | RTA_METRICS | RTA_PREF | RTA_NH_ID => {
                lasting.push(kind, value);
            }
            // A dump spells out what the nexthop id says already.
            _ if has_nexthop_id => {}
            RTA_OIF | RTA_GATEWAY | RTA_FLOW | RTA_VIA | RTA_ENCAP_TYPE | RTA_ENCAP => {
                lasting.push(kind, value);
            }
            RTA_MULTIPATH => lasting.push(kind, &without_states(value)),
            _ => {}
        }
    }
    lasting
}

/// A list of struct rtnexthop: length, flags, hops, device, attributes. The kernel takes no route whose flags say
/// that a device is down.
fn without_states(nexthops: &[u8]) -> Vec<u8> {
    let mut stateless = nexthops.to_vec();
    let mut at = 0;
    while let Some(length) = crate::netlink::u16_at(&stateless, at)
        && length >= 8
        && let Some(flags) = stateless.get_mut(at + 2)
    {
        *flags &= RTNH_F_ONLINK;
        at += usize::from(length).next_multiple_of(4);
    }
    stateless
}

/// The route (as [`lasting`] leaves it) in another table and with a first window, unless its owner gave it one.
pub fn copy(route: &[u8], table: u32, window: u32) -> Body {
    let mut copy = Body::new(&route[..RTMSG]);
    let mut metrics = Vec::new();
    for (kind, value) in attributes(&route[RTMSG..]) {
        match kind {
            RTA_METRICS => metrics.extend_from_slice(value),
            _ => copy.push(kind, value),
        }
    }
    if route[7] == RTN_UNICAST {
        if attributes(&metrics).all(|(kind, _)| kind != RTAX_INITCWND) {
            push(&mut metrics, RTAX_INITCWND, &window.to_ne_bytes());
        }
        copy.push(RTA_METRICS, &metrics);
    }
    copy.with_u32(RTA_TABLE, table)
}

/// In place of a route: the rules go on to the next table.
pub fn throw(route: &[u8], table: u32) -> Body {
    let mut header = [0; RTMSG];
    header[..4].copy_from_slice(&route[..4]);
    header[5] = route[5];
    header[7] = RTN_THROW;
    keeping(Body::new(&header), route, &[RTA_DST, RTA_SRC, RTA_PRIORITY]).with_u32(RTA_TABLE, table)
}

pub fn deletion(route: &[u8]) -> Body {
    let mut header = [0; RTMSG];
    header[..8].copy_from_slice(&route[..8]);
    keeping(Body::new(&header), route, &[RTA_DST, RTA_SRC, RTA_PRIORITY, RTA_TABLE])
}

fn keeping(mut body: Body, route: &[u8], kinds: &[u16]) -> Body {
    for (kind, value) in attributes(&route[RTMSG..]).filter(|(kind, _)| kinds.contains(kind)) {
        body.push(kind, value);
    }
    body
}

#[cfg(test)]
mod tests;
