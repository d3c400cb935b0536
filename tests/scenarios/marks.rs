//! Shows that the server leg goes the way the client's connection would have gone: with its mark, so that
//! policy routing chooses the same uplink, with its DSCP, through paths narrower than both ends know, and
//! from behind a router that translates addresses.

use std::os::fd::OwnedFd;

use nix::sys::socket::{setsockopt, sockopt};

use crate::bed::{Bed, Family, Handshake, Handshake::*, Hop, Plan};
use crate::connection::dial;
use crate::host::SYN;
use crate::stream::MIB;

four_ways!(mark, dscp, path_mtu, masquerade);
both_families!(segment_size);

fn mark(family: Family, handshake: Handshake) {
    marked_leg(family, handshake, &[], |_, _| {});
}

/// The server leg has its SYN's mark and no other. `look` sees the bed, and the server's port, with the leg up.
pub fn marked_leg(family: Family, handshake: Handshake, options: &[&str], look: impl FnOnce(&Bed, u16)) {
    let mut bed = Bed::started(handshake, options);
    let listener = bed.listen(family);
    let port = listener.address.port();
    let marking = format!("iifname lan tcp dport {port} meta mark set 0x2a");
    bed.net.router.add_rules("marking", "prerouting priority mangle", &marking);
    let leg = format!("oifname wan tcp dport {port} meta mark");
    let marked = bed.net.router.count("marked", "output priority 0", &format!("{leg} 0x2a"));
    let others = bed.net.router.count("others", "output priority 0", &format!("{leg} != 0x2a"));

    let pair = bed.stolen(&listener);
    look(&bed, port);
    pair.exchange(1, 100_000);
    assert!(marked.packets() > 3, "{} packets of the server leg were marked", marked.packets());
    assert_eq!(others.packets(), 0, "packets of the server leg had another mark");
    drop(pair);
    bed.check_nothing_left(family);
}

fn dscp(family: Family, handshake: Handshake) {
    // AF21 in the upper six bits, as the socket options want it.
    const AF21: i32 = 18 << 2;
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);
    let leg = format!(
        "{0} saddr {1} tcp dport {2} {0} dscp",
        family.nft(),
        family.router_wan(),
        listener.address.port()
    );
    let kept = bed.net.server.count("kept", "input priority 0", &format!("{leg} af21"));
    let others = bed.net.server.count("others", "input priority 0", &format!("{leg} != af21"));
    let set = |socket: &OwnedFd| {
        match family {
            Family::V4 => setsockopt(socket, sockopt::Ipv4Tos, &AF21),
            Family::V6 => setsockopt(socket, sockopt::Ipv6TClass, &AF21),
        }
        .expect("a DSCP");
    };
    let client = dial(&bed.net.client, listener.address, set).expect("connect");
    let pair = listener.join(client);
    bed.check_stolen(&pair);
    pair.exchange(1, 100_000);
    pair.close();
    assert!(kept.packets() > 3, "{} packets had the client's DSCP", kept.packets());
    // The SYN too: without it the first packet would take another queue than the rest.
    assert_eq!(others.packets(), 0, "packets had another DSCP");
    bed.check_nothing_left(family);
}

/// Both ends announce segments that do not fit, and forbid to fragment them: only the ICMP errors of the hop,
/// which the router's firewall has to take as related, make the server leg learn.
fn path_mtu(family: Family, handshake: Handshake) {
    let mut bed = Bed::build(Plan { firewall: true, hop: Some(Hop::Mtu(1400)), ..Plan::default() });
    bed.start(handshake, &[]);
    let listener = bed.listen(family);
    let hop = bed.net.hop.as_ref().expect("a hop");
    let (too_big, may_fragment) = match family {
        Family::V4 => (
            "icmp type destination-unreachable icmp code frag-needed",
            "meta l4proto tcp ip frag-off & 0x4000 == 0",
        ),
        Family::V6 => ("icmpv6 type packet-too-big", "exthdr frag exists"),
    };
    let errors = hop.count("errors", "output priority 0", too_big);
    let fragments = hop.count("fragments", "prerouting priority -450", may_fragment);

    bed.stolen(&listener).carry_everything();
    assert!(errors.packets() >= 2, "the path was not too narrow: the scenario shows nothing");
    assert_eq!(fragments.packets(), 0, "packets that may be, or were, fragmented");
    bed.check_nothing_left(family);
}

fn masquerade(family: Family, handshake: Handshake) {
    let mut bed = Bed::build(Plan { firewall: true, masquerade: true, ..Plan::default() });
    bed.start(handshake, &[]);
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);
    assert_eq!(pair.peer.ip(), family.router_wan());
    pair.exchange(1, MIB);
    pair.close();
    bed.check_nothing_left(family);
}

/// `--mss` is for the leg that crosses the satellite, the server's here.
fn segment_size(family: Family) {
    let mut bed = Bed::started(Deferred, &["--mss", "1000"]);
    let listener = bed.listen(family);
    let syn = format!("{SYN} tcp option maxseg size");
    let small = bed.net.server.count("small", "input priority 0", &format!("{syn} 1000"));
    let others = bed.net.server.count("others", "input priority 0", &format!("{syn} != 1000"));
    bed.stolen(&listener).exchange(1, MIB);
    assert!(small.packets() >= 1, "no SYN has the size that was asked for");
    assert_eq!(others.packets(), 0, "a SYN has another size");
    bed.check_nothing_left(family);
}
