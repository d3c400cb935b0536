//! The routing that `--transparent` needs: what servers send to a client's address stays on the router.
//!
//! `pepsal rules --transparent` marks the packets whose socket is a transparent server leg (`socket transparent`); a
//! rule sends what is marked to a table in which every address is local (Linux' Documentation/networking/tproxy.rst).
//!
//! Used by the main thread. What was installed goes with the daemon, unless another one takes over; what a killed one
//! left changes nothing, because nobody marks packets but for sockets of a running one.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use crate::error::Error;
use crate::netlink::{
    Body, Netlink, RTA_OIF, RTA_TABLE, RTM_DELROUTE, RTM_DELRULE, RTM_NEWROUTE, RTM_NEWRULE, Selection,
};

/// One bit, high up, where neither mwan3 (0x3f00) nor pbr (0xff0000) keep theirs.
pub const MARK: u32 = 0x4000_0000;

/// Beside those of the jump start.
const TABLE: u32 = 5000;

/// Before the rules of mwan3 (from 1001 on), which would send a client's packets on by the mark of its connection.
const PRIORITY: u32 = 100;

// linux/rtnetlink.h
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;

pub struct Diversion {
    kernel: Netlink,
    families: heapless::Vec<u8, 2>,
    /// Index of the device, which the daemon may not ask for at its end (`seccomp`).
    lo: u32,
}

impl Diversion {
    /// For the families of the TUN device's `addresses`.
    ///
    /// `Err`: no CAP_NET_ADMIN, or a kernel without policy routing.
    pub fn install(addresses: impl Iterator<Item = IpAddr>) -> Result<Diversion, Error> {
        let remedy = "--transparent needs a kernel with policy routing";
        let installed = Diversion::complete(addresses).map(|(diversion, _)| diversion);
        installed.map_err(|errno| Error::system("route", "transparent legs", errno, remedy))
    }

    /// What a daemon has left that was taken over, for its open connections.
    pub fn inherit(addresses: impl Iterator<Item = IpAddr>) -> Option<Diversion> {
        Diversion::complete(addresses).ok().filter(|(_, found)| *found).map(|(diversion, _)| diversion)
    }

    /// Also whether any of it was there already.
    fn complete(addresses: impl Iterator<Item = IpAddr>) -> Result<(Diversion, bool), Errno> {
        let families = addresses.map(family_of).collect();
        let mut diversion = Diversion { kernel: Netlink::open(0)?, families, lo: if_nametoindex("lo")? };
        let mut found = false;
        for family in diversion.families.clone() {
            // A kernel without policy routing would put the route into table main: the rule comes first.
            for (message, body) in [(RTM_NEWRULE, rule(family)), (RTM_NEWROUTE, diversion.route(family))] {
                found |= !diversion.kernel.add(message, &body)?;
            }
        }
        Ok((diversion, found))
    }

    /// struct rtmsg with its attributes: everything is local.
    fn route(&self, family: u8) -> Body {
        let header = [family, 0, 0, 0, 0, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0];
        Body::new(&header).with_u32(RTA_OIF, self.lo).with_u32(RTA_TABLE, TABLE)
    }
}

impl Drop for Diversion {
    fn drop(&mut self) {
        for family in self.families.clone() {
            let _ = self.kernel.ask(RTM_DELRULE, 0, &rule(family));
            // Without its rule, a route that stays is in nobody's way.
            let route = self.route(family);
            let _ = self.kernel.ask(RTM_DELROUTE, 0, &route);
        }
    }
}

fn family_of(address: IpAddr) -> u8 {
    let family = match address {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    family as u8
}

fn rule(family: u8) -> Body {
    Selection { priority: PRIORITY, mark: MARK, mask: MARK, table: TABLE }.rule(family)
}
