//! Shows `--transparent`: the server sees the client's address, whoever translates addresses behind the
//! router. Reset, refusal and half-close come through as without.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::thread;

use crate::bed::{Bed, Family, Handshake, Handshake::*, Hop, Net, Plan};
use crate::connection::{Pair, reset};
use crate::stream::{End, MIB, end, receive_all, send};

four_ways!(server_sees_the_client, masquerading_behind_the_router, masquerading_router);

const TRANSPARENT: &[&str] = &["--transparent"];

fn server_sees_the_client(family: Family, handshake: Handshake) {
    let mut bed = Bed::build(Plan { firewall: true, ..Plan::default() });
    bed.start(handshake, TRANSPARENT);
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);
    assert_eq!(pair.peer.ip(), family.client());
    carries_everything(pair);

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
    carries_everything(pair);
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
    carries_everything(pair);
    bed.check_nothing_left(family);
}

fn carries_everything(pair: Pair) {
    let Pair { client, server, .. } = pair;
    thread::scope(|scope| {
        for (stream, out, back) in [(&client, 1, 2), (&server, 2, 1)] {
            scope.spawn(move || {
                send(stream, out, 2 * MIB).expect("send");
                stream.shutdown(Shutdown::Write).expect("shut down");
            });
            scope.spawn(move || receive_all(stream, back, 2 * MIB));
        }
    });
}
