//! Shows what a client learns of a server that cannot be reached: with the deferred handshake, its own SYN
//! goes on and gets its true answer; with the early one, a reset and never a clean end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Instant;

use nix::errno::Errno;

use crate::bed::{Bed, Family, Handshake, Handshake::*};
use crate::connection::dial_within;
use crate::host::{SYN, patience, seconds};
use crate::stream::{End, end};

four_ways!(closed_port);
both_families!(
    deferred_black_hole,
    early_black_hole,
    deferred_unreachable,
    early_unreachable,
    server_answers_late,
);

/// Counts at the server the SYNs to `to` that come from the client itself, not from the router.
fn syns_of_the_client(family: Family, to: SocketAddr) -> String {
    format!("{} saddr {} tcp dport {} {SYN}", family.nft(), family.client(), to.port())
}

const BEFORE_FILTER: &str = "input priority -10";

fn closed_port(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &[]);
    let closed = bed.closed_port(family);
    let syns = syns_of_the_client(family, closed);
    let sent = bed.net.client.count("sent", "output priority 0", &syns);
    let own = bed.net.server.count("own", BEFORE_FILTER, &syns);

    // More often than once: PEPsal loses a file descriptor with each.
    for _ in 0..5 {
        match (handshake, bed.connect(closed)) {
            (Deferred, Err(err)) => assert_eq!(err.kind(), ErrorKind::ConnectionRefused),
            (Deferred, Ok(_)) => panic!("connected to a closed port"),
            // The reset may overtake the end of connect(2).
            (Early, Err(err)) => assert_eq!(err.kind(), ErrorKind::ConnectionReset),
            (Early, Ok(client)) => assert_eq!(end(&client), End::Reset),
        }
    }
    // The client repeats one that waits for a second.
    let expected = if handshake == Deferred { 5..=sent.packets() } else { 0..=0 };
    assert!(
        expected.contains(&own.packets()),
        "{} of {expected:?} SYNs have reached the server",
        own.packets()
    );
    bed.check_nothing_left(family);
}

/// Nobody answers: when the time is up, the client is where it would be without pepsal.
fn deferred_black_hole(family: Family) {
    let mut bed = Bed::started(Deferred, &["--connect-timeout", "2"]);
    let listener = bed.listen(family);
    let to = listener.address;
    let own = bed.net.server.count("own", BEFORE_FILTER, &syns_of_the_client(family, to));
    bed.net.server.discard("all", "input priority 0", &format!("tcp dport {}", to.port()));

    let refused = dial_within(&bed.net.client, to, seconds(8), |_| ()).expect_err("nobody answers");
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
    assert!(own.packets() >= 1, "the client's own SYN did not go on");
    bed.check_nothing_left(family);
}

fn early_black_hole(family: Family) {
    let mut bed = Bed::started(Early, &["--connect-timeout", "2"]);
    let listener = bed.listen(family);
    let to = listener.address;
    bed.net.server.discard("all", "input priority 0", &format!("tcp dport {}", to.port()));

    let client = bed.connect(to).expect("early: the router answers");
    let start = Instant::now();
    assert_eq!(end(&client), End::Reset);
    assert!(start.elapsed() < seconds(10), "reset only after {:?}", start.elapsed());
    bed.check_nothing_left(family);
}

/// The error that the client gets is the ICMP error to its own SYN, long before any time is up.
fn deferred_unreachable(family: Family) {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(family);
    let to = listener.address;
    reject(&bed, to);

    let direct = match family {
        Family::V4 => Errno::EHOSTUNREACH,
        Family::V6 => Errno::EACCES,
    };
    let start = Instant::now();
    let refused = bed.connect(to).expect_err("the server's firewall rejects it");
    assert_eq!(refused.raw_os_error(), Some(direct as i32), "{refused}");
    assert!(start.elapsed() < seconds(10), "refused only after {:?}", start.elapsed());
    bed.check_nothing_left(family);
}

fn early_unreachable(family: Family) {
    let mut bed = Bed::started(Early, &[]);
    let listener = bed.listen(family);
    reject(&bed, listener.address);

    match bed.connect(listener.address) {
        Err(err) => assert_eq!(err.kind(), ErrorKind::ConnectionReset),
        Ok(client) => assert_eq!(end(&client), End::Reset),
    }
    bed.check_nothing_left(family);
}

fn reject(bed: &Bed, to: SocketAddr) {
    let rule = format!("tcp dport {} reject with icmpx admin-prohibited", to.port());
    bed.net.server.add_rules("reject", "input priority 0", &rule);
}

/// A server that answers only the second SYN: the client's repetitions meanwhile must not confuse anything.
fn server_answers_late(family: Family) {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(family);
    let port = listener.address.port();
    let syn = format!("tcp dport {port} {SYN}");
    bed.net.server.add_rules(
        "late",
        "input priority 0",
        &format!("{syn} limit rate over 1/minute burst 1 packets accept\n{syn} drop"),
    );
    let start = Instant::now();
    let pair = bed.stolen(&listener);
    assert!(start.elapsed() >= seconds(1) / 2, "the first SYN was answered: the scenario shows nothing");
    pair.exchange(1, 10_000);
    pair.close();
    assert!(start.elapsed() < patience());
    bed.net.server.remove_rules("late");
    bed.check_nothing_left(family);
}
