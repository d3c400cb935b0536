//! What the kernel is told about a route of table main, byte by byte.

use super::*;

/// default via 198.51.100.1 dev 3 proto static mtu 1400, linkdown, as a dump tells it.
fn default_route() -> Body {
    let mut header = [libc::AF_INET as u8, 0, 0, 0, 254, 4, 0, RTN_UNICAST, 0, 0, 0, 0];
    header[8..].copy_from_slice(&0x10_u32.to_ne_bytes());
    let mut metrics = Vec::new();
    push(&mut metrics, 2, &1400_u32.to_ne_bytes());
    Body::new(&header)
        .with_u32(RTA_TABLE, 254)
        .with(RTA_METRICS, &metrics)
        .with(RTA_GATEWAY, &[198, 51, 100, 1])
        .with_u32(RTA_OIF, 3)
        .with(12, &[0; 32])
}

#[test]
fn a_copy_differs_by_table_and_first_window_only() {
    let copied = copy(lasting(default_route().bytes()).bytes(), 5001, 518);
    let little: &[u8] = &[
        2, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0, 0, // rtmsg: no table, no states
        8, 0, 5, 0, 198, 51, 100, 1, // RTA_GATEWAY
        8, 0, 4, 0, 3, 0, 0, 0, // RTA_OIF
        20, 0, 8, 0, 8, 0, 2, 0, 0x78, 5, 0, 0, 8, 0, 11, 0, 6, 2, 0, 0, // RTA_METRICS: mtu, initcwnd
        8, 0, 15, 0, 0x89, 0x13, 0, 0, // RTA_TABLE
    ];
    let big: &[u8] = &[
        2, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0, 0, // rtmsg: no table, no states
        0, 8, 0, 5, 198, 51, 100, 1, // RTA_GATEWAY
        0, 8, 0, 4, 0, 0, 0, 3, // RTA_OIF
        0, 20, 0, 8, 0, 8, 0, 2, 0, 0, 5, 0x78, 0, 8, 0, 11, 0, 0, 2, 6, // RTA_METRICS: mtu, initcwnd
        0, 8, 0, 15, 0, 0, 0x13, 0x89, // RTA_TABLE
    ];
    assert_eq!(copied.bytes(), if cfg!(target_endian = "little") { little } else { big });
}

#[test]
fn a_rule_comes_just_before_that_of_main() {
    let little: &[u8] = &[
        10, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, // fib_rule_hdr
        8, 0, 6, 0, 0xfd, 0x7f, 0, 0, // FRA_PRIORITY 32765
        8, 0, 10, 0, 0, 0, 0, 0x10, // FRA_FWMARK 0x10000000
        8, 0, 16, 0, 0, 0, 0, 0x38, // FRA_FWMASK
        8, 0, 15, 0, 0x8a, 0x13, 0, 0, // FRA_TABLE 5002
    ];
    let big: &[u8] = &[
        10, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, // fib_rule_hdr
        0, 8, 0, 6, 0, 0, 0x7f, 0xfd, // FRA_PRIORITY 32765
        0, 8, 0, 10, 0x10, 0, 0, 0, // FRA_FWMARK 0x10000000
        0, 8, 0, 16, 0x38, 0, 0, 0, // FRA_FWMASK
        0, 8, 0, 15, 0, 0, 0x13, 0x8a, // FRA_TABLE 5002
    ];
    assert_eq!(
        rule(libc::AF_INET6 as u8, 1).bytes(),
        if cfg!(target_endian = "little") { little } else { big }
    );
}

#[test]
fn every_level_has_a_mark_within_the_mask() {
    for level in 0..LEVELS {
        assert_ne!(mark(level), 0);
        assert_eq!(mark(level) & !MARK_MASK, 0);
    }
    for others in [0x3f00, 0x00ff_0000, 0x4000_0000] {
        assert_eq!(MARK_MASK & others, 0);
    }
}

#[test]
fn an_owners_own_first_window_stays() {
    let mut metrics = Vec::new();
    push(&mut metrics, RTAX_INITCWND, &30_u32.to_ne_bytes());
    let route = Body::new(&default_route().bytes()[..RTMSG]).with(RTA_METRICS, &metrics);
    let copied = copy(lasting(route.bytes()).bytes(), 5001, 518);
    let kept: Vec<_> =
        attributes(&copied.bytes()[RTMSG..]).filter(|(kind, _)| *kind == RTA_METRICS).collect();
    assert_eq!(kept, [(RTA_METRICS, &metrics[..])]);
}

#[test]
fn only_routes_that_lead_are_copied() {
    let family = libc::AF_INET as u8;
    let typed = |kind| {
        let mut header = rtmsg(family);
        header[7] = kind;
        header
    };
    for kind in [RTN_UNICAST, RTN_BLACKHOLE, 7, 8, RTN_THROW] {
        assert!(is_route(&typed(kind), family), "{kind}");
    }
    // local, broadcast, anycast, multicast, nat
    for kind in [0, 2, 3, 4, 5, 10] {
        assert!(!is_route(&typed(kind), family), "{kind}");
    }
    assert!(!is_route(&typed(RTN_UNICAST), libc::AF_INET6 as u8), "another family");
    let mut cached = typed(RTN_UNICAST);
    cached[8..].copy_from_slice(&libc::RTM_F_CLONED.to_ne_bytes());
    assert!(!is_route(&cached, family), "cached");
    assert!(!is_route(&[2, 0, 0], family), "cut short");
}

#[test]
fn a_route_that_leads_nowhere_gets_no_window() {
    let mut header = rtmsg(libc::AF_INET as u8);
    header[1] = 8;
    header[7] = RTN_BLACKHOLE;
    let route = Body::new(&header).with(RTA_DST, &[10, 0, 0, 0]);
    let copied = copy(lasting(route.bytes()).bytes(), 5001, 518);
    assert_eq!(copied, Body::new(&header).with(RTA_DST, &[10, 0, 0, 0]).with_u32(RTA_TABLE, 5001));
    assert_eq!(table_of(copied.bytes()), 5001);
}

#[test]
fn nexthops_lose_their_devices_states() {
    let mut nexthop = vec![0; 8];
    nexthop[..2].copy_from_slice(&16_u16.to_ne_bytes());
    nexthop[2] = 0x10 | RTNH_F_ONLINK;
    push(&mut nexthop, RTA_GATEWAY, &[198, 51, 100, 1]);
    let mut both = nexthop.clone();
    both.extend_from_slice(&nexthop);
    let stateless = without_states(&both);
    assert_eq!((stateless[2], stateless[18]), (RTNH_F_ONLINK, RTNH_F_ONLINK));
    assert_eq!((&stateless[4..16], &stateless[20..]), (&both[4..16], &both[20..]));
    for end in 0..both.len() {
        assert_eq!(without_states(&both[..end]).len(), end);
    }
}

/// The nexthop object says where it goes; the kernel refuses both.
#[test]
fn a_nexthop_object_is_named_and_not_spelled_out() {
    let route = Body::new(&rtmsg(libc::AF_INET as u8))
        .with_u32(RTA_NH_ID, 7)
        .with(RTA_GATEWAY, &[198, 51, 100, 1])
        .with_u32(RTA_OIF, 3);
    assert_eq!(lasting(route.bytes()), Body::new(&rtmsg(libc::AF_INET as u8)).with_u32(RTA_NH_ID, 7));
}
