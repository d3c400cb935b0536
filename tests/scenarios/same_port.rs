//! Shows that a client's port may be in use several times, as long as the servers differ, and that it may be
//! used again as soon as it is free.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::thread;

use crate::bed::{Bed, Family, Handshake};
use crate::connection::{Listener, bind_to, dial, reset};
use crate::host::{eventually, patience};
use crate::stream::{End, end, receive_all, send};

four_ways!(
    three_servers_at_once,
    port_used_again_after_fin,
    port_used_again_after_reset,
    port_used_again_after_reset_by_server,
);

fn connect_from_port(bed: &Bed, family: Family, port: u16, to: &Listener) -> TcpStream {
    let own = SocketAddr::new(family.client(), port);
    let mut connected = None;
    // The client's FIN of a moment ago may still wait for its acknowledgement.
    eventually("the port is free", patience(), || {
        match dial(&bed.net.client, to.address, |socket| bind_to(socket, own)) {
            Err(err) if err.kind() == ErrorKind::AddrNotAvailable => {}
            Err(err) => panic!("cannot connect from {own} to {}: {err}", to.address),
            Ok(client) => connected = Some(client),
        }
        connected.is_some()
    });
    connected.expect("eventually returns only when done")
}

/// Two addresses, and two ports of one address: only all four numbers together name a connection.
fn three_servers_at_once(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &[]);
    let one = bed.listen(family);
    let other_port = bed.listen(family);
    let other_address = SocketAddr::new(family.address(bed.far(), 3), one.address.port());
    let listeners = [one, other_port, bed.listen_at(other_address)];

    // Each round begins while the SYNs of all three are on their way at the same time. Few rounds: the new ports that
    // netfilter chooses by chance should not be those of the next.
    for round in 0..5 {
        let port = 21_000 + round;
        thread::scope(|scope| {
            for (seed, listener) in (u64::from(round) * 10..).zip(&listeners) {
                let bed = &bed;
                scope.spawn(move || {
                    let client = connect_from_port(bed, family, port, listener);
                    let length = 100_000 + seed;
                    thread::scope(|scope| {
                        scope.spawn(|| send(&client, seed, length).expect("send"));
                        receive_all(&client, !seed, length);
                    });
                });
                scope.spawn(move || {
                    let (server, peer) = listener.accept();
                    assert_eq!(peer.ip(), family.router_wan(), "a connection went past pepsal");
                    send(&server, !seed, 100_000 + seed).expect("send");
                    server.shutdown(std::net::Shutdown::Write).expect("shut down");
                    receive_all(&server, seed, 100_000 + seed);
                });
            }
        });
    }
    bed.check_nothing_left(family);
}

/// How a connection comes to its end, given its client and its server.
type Ending = fn(TcpStream, TcpStream);

/// Three connections from one port to one server, each begun as soon as the one before has ended.
fn again_after(family: Family, handshake: Handshake, ending: Ending) {
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);
    for seed in 0..3 {
        let client = connect_from_port(&bed, family, 22_000, &listener);
        let pair = listener.join(client);
        pair.exchange(seed, 1000);
        ending(pair.client, pair.server);
    }
    bed.check_nothing_left(family);
}

fn port_used_again_after_fin(family: Family, handshake: Handshake) {
    again_after(family, handshake, |client, server| {
        drop(server);
        assert_eq!(end(&client), End::Fin);
    });
}

fn port_used_again_after_reset(family: Family, handshake: Handshake) {
    again_after(family, handshake, |client, server| {
        reset(client);
        assert_eq!(end(&server), End::Reset);
    });
}

/// Then netfilter still knows the old connection, and leads the new SYN where it led the old one.
fn port_used_again_after_reset_by_server(family: Family, handshake: Handshake) {
    again_after(family, handshake, |client, server| {
        reset(server);
        assert_eq!(end(&client), End::Reset);
    });
}
