//! The network of the drawing in main.rs: namespaces, cables, addresses, and the rules a router has without pepsal.
//!
//! Everything is undone in Drop, so also when a test panics. Names carry the process id and a counter: tests run
//! in parallel, and what an aborted run left behind is in nobody's way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::host::{Host, run};

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Family {
    V4,
    V6,
}

/// The third number of an IPv4 address, the second group of an IPv6 address.
#[derive(Clone, Copy)]
pub enum Net {
    Lan = 1,
    Guest = 2,
    Wan = 3,
    Far = 4,
}

impl Family {
    pub fn address(self, net: Net, host: u8) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::new(10, 77, net as u8, host).into(),
            Family::V6 => Ipv6Addr::new(0xfd77, net as u16, 0, 0, 0, 0, 0, u16::from(host)).into(),
        }
    }

    pub fn client(self) -> IpAddr {
        self.address(Net::Lan, 2)
    }

    pub fn router_wan(self) -> IpAddr {
        self.address(Net::Wan, 1)
    }

    /// The word that nft matches addresses of this family with.
    pub fn nft(self) -> &'static str {
        match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }
}

/// What happens between the router and the server, beyond a mere cable.
#[derive(Clone, Copy, PartialEq)]
pub enum Hop {
    /// As a provider's carrier-grade NAT does.
    Masquerade,
    /// The path is narrower than both ends' interfaces, as a tunnel makes it.
    Mtu(u16),
}

#[derive(Default, Clone, Copy)]
pub struct Plan {
    /// A filter like fw4's: what is not allowed is dropped, the guest zone's input rejects everything.
    pub firewall: bool,
    /// The router translates addresses to its own on the WAN side.
    pub masquerade: bool,
    pub hop: Option<Hop>,
}

pub struct Network {
    pub client: Host,
    pub guest: Host,
    pub router: Host,
    pub hop: Option<Host>,
    pub server: Host,
}

impl Network {
    pub fn build(plan: Plan) -> Network {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let add = |role| Host::add(format!("pep{}-{number}-{role}", std::process::id()));
        let (client, guest, router, server) = (add("client"), add("guest"), add("router"), add("server"));
        let hop = plan.hop.map(|_| add("hop"));

        cable((&router, "lan", 1), (&client, "eth", 2), Net::Lan);
        cable((&router, "guest", 1), (&guest, "eth", 2), Net::Guest);
        client.ip(&default_routes("eth", Net::Lan, 1));
        guest.ip(&default_routes("eth", Net::Guest, 1));
        router.forward();
        let far = if let Some(hop) = &hop {
            hop.forward();
            cable((&router, "wan", 1), (hop, "near", 2), Net::Wan);
            cable((hop, "far", 1), (&server, "eth", 2), Net::Far);
            router.ip(&default_routes("wan", Net::Wan, 2));
            hop.ip(&default_routes("near", Net::Wan, 1));
            Net::Far
        } else {
            cable((&router, "wan", 1), (&server, "eth", 2), Net::Wan);
            Net::Wan
        };
        server.ip(&default_routes("eth", far, 1));
        server.ip(&addresses("eth", far, 3));

        if plan.firewall {
            router.nft(FIREWALL);
        }
        if plan.masquerade {
            router.translate("postrouting priority srcnat", "oifname wan masquerade");
        }
        match (plan.hop, &hop) {
            (Some(Hop::Masquerade), Some(hop)) => {
                hop.translate("postrouting priority srcnat", "oifname far masquerade");
            }
            (Some(Hop::Mtu(mtu)), Some(hop)) => narrow(hop, mtu),
            _ => {}
        }
        Network { client, guest, router, hop, server }
    }
}

/// Limits the path, not the devices: both ends keep announcing an MSS that does not fit.
fn narrow(hop: &Host, mtu: u16) {
    // With the metrics of the routes that the kernel has made for the devices' own networks.
    for (family, bits, metric) in [(Family::V4, 24, 0), (Family::V6, 64, 256)] {
        let (router, wan) = (family.address(Net::Wan, 1), family.address(Net::Wan, 0));
        let far = family.address(Net::Far, 0);
        hop.ip(&format!(
            "route replace default via {router} dev near mtu {mtu}
             route replace {wan}/{bits} dev near metric {metric} mtu {mtu}
             route replace {far}/{bits} dev far metric {metric} mtu {mtu}\n"
        ));
    }
}

/// One end of a cable: a host, its device, the last number of its addresses.
type Plug<'a> = (&'a Host, &'a str, u8);

/// Joins two hosts by a pair of Ethernet devices with addresses of both families.
fn cable(inner: Plug, outer: Plug, net: Net) {
    let ((host, device, _), (other, peer, _)) = (inner, outer);
    run(
        &format!(
            "ip link add name {device} netns {} type veth peer name {peer} netns {}",
            host.netns, other.netns
        ),
        "",
    );
    for (host, device, number) in [inner, outer] {
        host.ip(&addresses(device, net, number));
        host.ip(&format!("link set dev {device} up\n"));
    }
}

fn addresses(device: &str, net: Net, number: u8) -> String {
    let (v4, v6) = (Family::V4.address(net, number), Family::V6.address(net, number));
    format!("address add {v4}/24 dev {device}\naddress add {v6}/64 dev {device} nodad\n")
}

fn default_routes(device: &str, net: Net, gateway: u8) -> String {
    let (v4, v6) = (Family::V4.address(net, gateway), Family::V6.address(net, gateway));
    format!("route add default via {v4} dev {device}\nroute add default via {v6} dev {device}\n")
}

/// What matters of the ruleset that fw4 makes of OpenWrt's default zones plus a guest zone, and the one rule that
/// the package adds: SYNs come back in on pepsal0, from which only the daemon can send.
const FIREWALL: &str = "table inet fw4 {
    chain input {
        type filter hook input priority filter; policy drop;
        iifname pepsal0 accept
        iifname lo accept
        ct state established,related accept
        meta l4proto ipv6-icmp accept
        iifname lan accept
        iifname guest reject
        iifname wan ct status dnat accept
        iifname wan reject
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        jump user
        iifname { lan, guest } oifname wan jump accept_to_wan
        ct status dnat accept
        reject
    }
    chain user { }
    chain accept_to_wan {
        ct state invalid drop
        accept
    }
}";
