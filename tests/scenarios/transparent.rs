//! Shows `--transparent`: the server sees the client's address, whoever translates addresses behind the
//! router. Reset, refusal and half-close come through as without.

use std::io::ErrorKind;

use nix::sys::signal::Signal;

use crate::bed::{Bed, Family, Handshake, Handshake::*, Hop, Net, Plan};
use crate::connection::{Pair, reset};
use crate::host::patience;
use crate::stream::{End, end};

four_ways!(server_sees_the_client, masquerading_behind_the_router, masquerading_router);
once!(routing_is_handed_over, routing_of_a_killed_daemon);

const TRANSPARENT: &[&str] = &["--transparent"];

fn server_sees_the_client(family: Family, handshake: Handshake) {
    let mut bed = Bed::build(Plan { firewall: true, ..Plan::default() });
    bed.start(handshake, TRANSPARENT);
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);
    assert_eq!(pair.peer.ip(), family.client());
    pair.carry_everything();

    let Pair { client, server, .. } = bed.stolen(&listener);
    reset(server);
    assert_eq!(end(&client), End::Reset);
    if handshake == Deferred {
        let refused = bed.connect(bed.closed_port(family)).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    let guests = bed.pair_from(&bed.net.guest, &listener);
    bed.check_stolen(&guests);
    assert_eq!(guests.peer.ip(), family.address(Net::Guest, 2));
    drop((client, guests));
    bed.check_nothing_left(family);
    assert!(diverted(&bed));
    bed.signal(Signal::SIGTERM);
    assert!(bed.daemon().wait_end(patience()).success());
    assert!(!diverted(&bed));
}

fn masquerading_behind_the_router(family: Family, handshake: Handshake) {
    let mut bed = Bed::build(Plan { hop: Some(Hop::Masquerade), ..Plan::default() });
    bed.start(handshake, TRANSPARENT);
    let listener = bed.listen(family);
    let hop = bed.net.hop.as_ref().expect("a hop");
    let seen = format!("iifname near {} saddr {} meta l4proto tcp", family.nft(), family.client());
    let from_client = hop.count("client", "prerouting priority -400", &seen);
    let pair = bed.stolen(&listener);
    assert_eq!(pair.peer.ip(), family.address(Net::Far, 1));
    pair.carry_everything();
    assert!(from_client.packets() > 10, "the hop has not seen the client's address");
    bed.check_nothing_left(family);
}

/// Then the server sees what it would see without pepsal: the router.
fn masquerading_router(family: Family, handshake: Handshake) {
    let mut bed = Bed::build(Plan { firewall: true, masquerade: true, ..Plan::default() });
    bed.start(handshake, TRANSPARENT);
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);
    assert_eq!(pair.peer.ip(), family.router_wan());
    pair.carry_everything();
    bed.check_nothing_left(family);
}

/// Whoever takes over has the routing too, and takes it away at its end, also what it has not asked for itself.
fn routing_is_handed_over() {
    let mut bed = Bed::build(Plan::default());
    bed.start(Deferred, TRANSPARENT);
    let pair = bed.stolen(&bed.listen(Family::V4));
    bed.hand_over(Deferred, TRANSPARENT);
    pair.exchange(1, 100_000);
    bed.hand_over(Deferred, &[]);
    assert!(diverted(&bed), "open connections need it");
    pair.exchange(2, 100_000);
    pair.close();
    bed.signal(Signal::SIGTERM);
    assert!(bed.daemon().wait_end(patience()).success());
    assert!(!diverted(&bed));
}

/// What a killed daemon left, the next one uses and takes away.
fn routing_of_a_killed_daemon() {
    let mut bed = Bed::build(Plan::default());
    bed.start(Deferred, TRANSPARENT);
    bed.signal(Signal::SIGKILL);
    bed.daemon().wait_end(patience());
    assert!(diverted(&bed));
    bed.start_daemon(Deferred, TRANSPARENT);
    bed.stolen(&bed.listen(Family::V6)).carry_everything();
    bed.signal(Signal::SIGTERM);
    assert!(bed.daemon().wait_end(patience()).success());
    assert!(!diverted(&bed));
}

/// Whether every family's rule and route of transparent legs are there; panics if only some are.
fn diverted(bed: &Bed) -> bool {
    let lists = ["ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all"];
    let there = lists.map(|list| {
        let list = bed.net.router.exec(list, "");
        list.lines().any(|line| line.contains("lookup 5000") || line.contains("dev lo table 5000"))
    });
    assert!(there == [true; 4] || there == [false; 4], "{there:?}");
    there == [true; 4]
}
