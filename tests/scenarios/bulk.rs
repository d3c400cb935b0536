//! Shows that plain transfers arrive whole: large ones in each direction and in both at once, two hundred
//! connections side by side, and a server that speaks first.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::bed::{Bed, Family, Handshake};
use crate::connection::Pair;
use crate::host::{SetOnDrop, eventually, patience, slowness};
use crate::stream::{End, KIB, MIB, end, receive, receive_all, send};

four_ways!(up_and_down, both_directions_at_once, many_connections, server_speaks_first);

fn large() -> u64 {
    64 * MIB / u64::from(slowness())
}

fn up_and_down(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);

    for (seed, up) in [(1, true), (2, false)] {
        let Pair { client, server, .. } = bed.stolen(&listener);
        let (from, to) = if up { (client, server) } else { (server, client) };
        thread::scope(|scope| {
            scope.spawn(move || {
                send(&from, seed, large()).expect("send");
                from.shutdown(Shutdown::Write).expect("shut down");
                assert_eq!(end(&from), End::Fin);
            });
            receive_all(&to, seed, large());
            drop(to);
        });
    }
    bed.check_nothing_left(family);
}

fn both_directions_at_once(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);

    thread::scope(|scope| {
        let Pair { client, server, .. } = &pair;
        for (stream, out, back) in [(client, 3, 4), (server, 4, 3)] {
            scope.spawn(move || {
                send(stream, out, large()).expect("send");
                stream.shutdown(Shutdown::Write).expect("shut down");
            });
            scope.spawn(move || receive_all(stream, back, large()));
        }
    });
    drop(pair);
    bed.check_nothing_left(family);
}

/// All are connected before the first byte flows, so that all are relayed at the same time.
fn many_connections(family: Family, handshake: Handshake) {
    const COUNT: u32 = 200;
    let length = 256 * KIB / u64::from(slowness());
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);
    let (connected, stray) = (AtomicU32::new(0), AtomicU32::new(0));
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        let (bed, listener, connected, stray, done) = (&bed, &listener, &connected, &stray, &done);
        scope.spawn(move || {
            while !done.load(Relaxed) {
                let Some((server, peer)) = listener.accept_within(Duration::from_millis(100)) else {
                    continue;
                };
                if peer.ip() != family.router_wan() {
                    stray.fetch_add(1, Relaxed);
                }
                scope.spawn(move || {
                    let mut seed = [0; 8];
                    if (&server).read_exact(&mut seed).is_err() {
                        stray.fetch_add(1, Relaxed);
                        return;
                    }
                    let seed = u64::from_le_bytes(seed);
                    thread::scope(|scope| {
                        scope.spawn(|| send(&server, !seed, length).expect("send"));
                        receive_all(&server, seed, length);
                    });
                });
            }
        });
        let _ending = SetOnDrop(done);
        thread::scope(|clients| {
            for seed in (1..=COUNT).map(u64::from) {
                clients.spawn(move || {
                    let client = bed.connect(listener.address).expect("connect");
                    connected.fetch_add(1, Relaxed);
                    eventually("all are connected", patience(), || connected.load(Relaxed) == COUNT);
                    // Connections may arrive in any order: the seed tells the server which one this is.
                    (&client).write_all(&seed.to_le_bytes()).expect("send the seed");
                    send(&client, seed, length).expect("send");
                    client.shutdown(Shutdown::Write).expect("shut down");
                    receive_all(&client, !seed, length);
                });
            }
        });
    });
    assert_eq!(stray.load(Relaxed), 0, "connections at the server were direct, or no client's");
    bed.check_nothing_left(family);
}

/// As SSH and SMTP do: the client waits for the server's greeting before it sends anything.
fn server_speaks_first(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);
    send(&pair.server, 5, 220).expect("send the greeting");
    receive(&pair.client, 5, 220);
    pair.exchange(6, 100);
    pair.close();
    bed.check_nothing_left(family);
}
