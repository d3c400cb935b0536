//! Shows that each direction ends by itself, after its last byte: half-close both ways, data that is still on
//! its way when the sender closes, and a connection that carries nothing at all.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use crate::bed::{Bed, Family, Handshake};
use crate::connection::Pair;
use crate::host::slowness;
use crate::stream::{End, MIB, end, receive_all, send};

four_ways!(client_ends_first, server_ends_first, sender_closes_at_once, no_bytes);

fn client_ends_first(family: Family, handshake: Handshake) {
    one_ends_first(family, handshake, true);
}

fn server_ends_first(family: Family, handshake: Handshake) {
    one_ends_first(family, handshake, false);
}

/// One end says that it has sent everything, and the other goes on for 5 MB.
fn one_ends_first(family: Family, handshake: Handshake, client: bool) {
    let length = 5_000_000 / u64::from(slowness());
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);

    // With something to say before the end of the first direction, and without.
    for (seed, request) in [(1, 300), (2, 0)] {
        let pair = bed.stolen(&listener);
        let (first, other) = if client { (pair.client, pair.server) } else { (pair.server, pair.client) };
        send(&first, seed, request).expect("send");
        first.shutdown(Shutdown::Write).expect("shut down");
        receive_all(&other, seed, request);
        thread::scope(|scope| {
            scope.spawn(|| {
                send(&other, !seed, length).expect("send after the other end's FIN");
                other.shutdown(Shutdown::Write).expect("shut down");
            });
            receive_all(&first, !seed, length);
        });
    }
    bed.check_nothing_left(family);
}

/// The sender is gone long before the reader begins; what fits nowhere else waits in the relay's pipes.
fn sender_closes_at_once(family: Family, handshake: Handshake) {
    let length = 8 * MIB / u64::from(slowness());
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);

    thread::scope(|scope| {
        for (seed, up) in [(1, true), (2, false)] {
            let Pair { client, server, .. } = bed.stolen(&listener);
            let (from, to) = if up { (client, server) } else { (server, client) };
            scope.spawn(move || {
                send(&from, seed, length).expect("send");
                drop(from);
            });
            scope.spawn(move || {
                thread::sleep(Duration::from_secs(2));
                receive_all(&to, seed, length);
            });
        }
    });
    bed.check_nothing_left(family);
}

fn no_bytes(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);

    bed.stolen(&listener).close();
    let Pair { client, server, .. } = bed.stolen(&listener);
    drop(server);
    assert_eq!(end(&client), End::Fin);
    drop(client);
    bed.check_nothing_left(family);
}
