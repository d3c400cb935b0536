//! Shows that with `--per-client` one client gets so many slots and no more, that what comes beyond goes direct and works,
//! and that others get theirs all the same.

use std::thread;

use crate::bed::{Bed, Family, Handshake};
use crate::connection::{Pair, dial};
use crate::host::patience;

four_ways!(one_client_is_full, a_burst_of_one_client);

fn one_client_is_full(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &["-c", "8", "--per-client", "3"]);
    let listener = bed.listen(family);
    for round in 1..=2 {
        let own: Vec<Pair> = (0..3).map(|_| bed.stolen(&listener)).collect();
        let beyond: Vec<Pair> = (0..2).map(|_| bed.direct(&listener)).collect();
        let others: Vec<Pair> = (0..3)
            .map(|_| {
                let pair = bed.pair_from(&bed.net.guest, &listener);
                assert_eq!(
                    pair.peer.ip(),
                    family.router_wan(),
                    "another client's connection went past pepsal"
                );
                pair
            })
            .collect();
        for (seed, pair) in (0..).zip(own.iter().chain(&beyond).chain(&others)) {
            pair.exchange(seed, 100_000);
        }
        let passed = &bed.told("status")["syns"]["passed"];
        assert_eq!((passed["client_full"].number(), passed["full"].number()), (2 * round, 0));
        own.into_iter().chain(beyond).chain(others).for_each(Pair::close);
        bed.daemon().wait_idle(patience());
    }
}

/// All at once, so that workers claim slots for it at the same moment.
fn a_burst_of_one_client(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &["-c", "64", "--per-client", "5", "-T", "4"]);
    let listener = bed.listen(family);
    let pairs: Vec<Pair> = thread::scope(|scope| {
        let dials: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| dial(&bed.net.client, listener.address, |_| ()).expect("connect")))
            .collect();
        let clients: Vec<_> = dials.into_iter().map(|dial| dial.join().expect("a client")).collect();
        clients.into_iter().map(|client| listener.join(client)).collect()
    });
    let peak = bed.told("status")["slots"]["peak"].number();
    assert!((1..=5).contains(&peak), "{peak} slots for one client");
    drop(pairs);
    bed.daemon().wait_idle(patience());
    bed.stolen(&listener).exchange(1, 10_000);
}
