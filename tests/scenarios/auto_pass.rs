//! Shows that the report says when the satellite leg is not slow, and that with `--auto-pass` new connections pass then, and
//! only then.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::bed::{Bed, Family::*, Handshake::*, Plan};
use crate::host::{SYN, patience, slowness};
use crate::json::Json;

once!(passes_a_fast_line, splits_a_slow_line);

/// A line without a satellite: after a few connections new ones pass, and status says so.
fn passes_a_fast_line() {
    // No handshake takes so long here, however busy the machine is: a single slow one would end the passing.
    let mut bed = Bed::started(Deferred, &["--auto-pass", "5000"]);
    let listener = bed.listen(V4);
    for seed in 0..8 {
        let pair = bed.stolen(&listener);
        pair.exchange(seed, 1000);
        pair.close();
    }
    for seed in 0..5 {
        let pair = bed.direct(&listener);
        pair.exchange(seed, 1000);
        pair.close();
    }
    let told = bed.told("status");
    // A SYN that was repeated before anybody took it passes twice, and is seen twice.
    let [seen, stolen, repeated] = ["seen", "stolen", "repeated"].map(|count| told["syns"][count].number());
    assert_eq!(stolen, 8);
    assert_eq!(told["syns"]["passed"]["fast_link"].number(), seen - stolen - repeated);
    assert!(seen - stolen - repeated >= 5, "{told:?}");
    assert_eq!(told["auto_pass"]["passing"], Json::Bool(true));
    assert_eq!(told["warnings"].items()[0]["code"].text(), "auto_passing");
    // Every 30 seconds one is stolen, to measure again.
    if slowness() == 1 {
        thread::sleep(Duration::from_secs(30));
        bed.stolen(&listener).close();
        bed.direct(&listener).close();
    }
    bed.daemon().wait_idle(patience());
}

/// With a server leg that takes longer than the threshold nothing passes; without a threshold there is a warning
/// only, and only if the line is fast.
fn splits_a_slow_line() {
    let mut bed = Bed::build(Plan::default());
    bed.start(Deferred, &["--auto-pass", "1"]);
    let listener = bed.listen(V4);
    // Answers only the second SYN of each connection, so after a second.
    let syn = format!("tcp dport {} {SYN}", listener.address.port());
    bed.net.server.add_rules(
        "late",
        "input priority 0",
        &format!(
            "{syn} meter late {{ tcp sport limit rate over 1/minute burst 1 packets }} accept\n{syn} drop"
        ),
    );
    thread::scope(|scope| {
        let (bed, listener) = (&bed, &listener);
        let clients: Vec<_> = (0..9).map(|_| scope.spawn(|| bed.connect(listener.address))).collect();
        let servers: Vec<TcpStream> = (0..9).map(|_| listener.accept().0).collect();
        clients.into_iter().for_each(|client| drop(client.join().expect("a client").expect("connected")));
        drop(servers);
    });
    bed.net.server.remove_rules("late");
    bed.daemon().wait_idle(patience());
    let told = bed.told("status");
    assert!(told["handshake_rtt"]["satellite_ms"].float() >= 900.0, "{told:?}");
    assert_eq!(told["auto_pass"]["passing"], Json::Bool(false));
    assert_eq!(told["warnings"].items().len(), 0, "{told:?}");
    // Not at the same listener: a client that has repeated its SYN meanwhile may have left a stray connection there.
    bed.stolen(&bed.listen(V4)).close();
    drop(bed);

    let bed = Bed::started(Deferred, &["--rtt", &(600 * slowness()).to_string()]);
    let listener = bed.listen(V4);
    (0..8).for_each(|_| bed.stolen(&listener).close());
    let told = bed.told("status");
    assert_eq!(told["warnings"].items()[0]["code"].text(), "satellite_not_slow");
    bed.stolen(&listener).close();
}
