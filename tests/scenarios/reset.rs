//! Shows that a reset stays a reset: an end that dies is not mistaken for one that has finished.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use crate::bed::{Bed, Family, Handshake};
use crate::connection::{Pair, reset};
use crate::segment::{Forger, next_sequence};
use crate::stream::{End, KIB, MIB, end, receive, receive_some, send};

four_ways!(idle, amid_a_transfer, after_a_half_close, with_unread_bytes, forged);

/// Runs `scenario` with the end that dies, then the end that has to learn of it, both ways round.
fn both_ways(
    family: Family,
    handshake: Handshake,
    scenario: impl Fn(std::net::TcpStream, std::net::TcpStream),
) {
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);
    for client_dies in [true, false] {
        let Pair { client, server, .. } = bed.stolen(&listener);
        if client_dies { scenario(client, server) } else { scenario(server, client) }
    }
    bed.check_nothing_left(family);
}

fn idle(family: Family, handshake: Handshake) {
    both_ways(family, handshake, |dying, other| {
        send(&dying, 1, KIB).expect("send");
        receive(&other, 1, KIB);
        reset(dying);
        assert_eq!(end(&other), End::Reset);
    });
}

/// Every byte that arrives before the reset is the right one; how many arrive is a matter of luck.
fn amid_a_transfer(family: Family, handshake: Handshake) {
    both_ways(family, handshake, |dying, other| {
        thread::scope(|scope| {
            scope.spawn(move || {
                send(&dying, 1, 3 * MIB).expect("send");
                reset(dying);
            });
            let (got, end) = receive_some(&other, 1, 0, 4 * MIB);
            assert_eq!(end, End::Reset, "after {got} bytes");
        });
    });
}

fn after_a_half_close(family: Family, handshake: Handshake) {
    both_ways(family, handshake, |dying, other| {
        other.shutdown(Shutdown::Write).expect("shut down");
        assert_eq!(end(&dying), End::Fin);
        send(&dying, 1, KIB).expect("send");
        receive(&other, 1, KIB);
        reset(dying);
        assert_eq!(end(&other), End::Reset);
    });
}

/// Closing a socket whose bytes were not all read tells the sender so by a reset, without SO_LINGER.
fn with_unread_bytes(family: Family, handshake: Handshake) {
    both_ways(family, handshake, |dying, other| {
        send(&other, 1, KIB).expect("send");
        let mut seen = [0];
        let within = Duration::from_secs(20);
        dying.set_read_timeout(Some(within)).expect("a read timeout");
        assert_eq!(dying.peek(&mut seen).expect("the first byte"), 1);
        drop(dying);
        assert_eq!(end(&other), End::Reset);
    });
}

/// Somebody on the LAN resets a client's connection in its name. What does not hit the sequence number exactly changes
/// nothing (RFC 5961, 3.2); what does is a reset like any other, and ends this connection only.
fn forged(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);
    let (pair, other) = (bed.stolen(&listener), bed.stolen(&listener));
    let client = pair.client.local_addr().expect("the client's address");
    let forger = Forger::at(&bed.net.client, client.is_ipv4());
    for miss in [1 << 30, 1_u32.wrapping_neg() << 20, 1000, 1, 1_u32.wrapping_neg()] {
        let next = next_sequence(&bed.net.client, client, listener.address, || pair.exchange(1, 10_000));
        for _ in 0..10 {
            forger.send_reset(client, listener.address, next.wrapping_add(miss));
        }
    }
    pair.exchange(2, 100_000);
    let next = next_sequence(&bed.net.client, client, listener.address, || pair.exchange(3, 1000));
    forger.send_reset(client, listener.address, next);
    assert_eq!(end(&pair.server), End::Reset);
    // The client itself learns of it when it sends: these bytes, or before them the acknowledgement of the last ones it has
    // received. The kernel reports a reset once.
    match send(&pair.client, 4, 1000) {
        Err(err) => assert_eq!(err.kind(), ErrorKind::ConnectionReset),
        Ok(()) => assert_eq!(end(&pair.client), End::Reset),
    }
    other.exchange(5, 100_000);
    other.close();
    bed.check_nothing_left(family);
}
