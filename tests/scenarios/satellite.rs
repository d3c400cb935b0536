//! Shows what the satellite leg's TCP is: the congestion control that was asked for or that is the best here, and
//! with the link's rates known a pace below them, windows of three bandwidth-delay products from the first
//! round trip on, and hardly anything unsent in the socket. The other leg keeps the kernel's defaults.

use std::process::Command;
use std::thread;
use std::time::Instant;

use crate::bed::{Bed, Family, Handshake, Handshake::*, Plan};
use crate::connection::Pair;
use crate::daemon::{binary, refusal};
use crate::host::slowness;
use crate::socket_info::Socket;
use crate::stream::{KIB, receive, send};

once!(unknown_congestion, best_congestion);
four_ways!(terminal, gateway, little_unsent);

/// 20 Mbit/s times 300 ms.
const PRODUCT: u64 = 750_000;
const LINK: [&str; 6] = ["--rate-up", "4", "--rate-down", "20", "--rtt", "300"];

fn unknown_congestion() {
    let bed = Bed::build(Plan::default());
    let mut command = Command::new(binary());
    command.args(["run", "-C", "nosuch"]);
    let (code, said) = refusal(&bed.net.router, command);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("nosuch") && said.contains("cubic") && said.contains("-C"), "{said}");
}

fn best_congestion() {
    let bed = Bed::started(Deferred, &[]);
    let available = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    let available = available.expect("the list of congestion controls");
    let system =
        bed.net.router.inside(|| std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control"));
    let system = system.expect("the system's congestion control");
    let best = ["bbr", "hybla"].into_iter().find(|name| available.split_whitespace().any(|it| it == *name));
    let best = best.unwrap_or(system.trim());
    let log = bed.log();
    assert!(log.contains(&format!("congestion control {best}")), "not {best} in: {log}");

    let listener = bed.listen(Family::V4);
    let _pair = bed.stolen(&listener);
    assert!(Socket::of(&bed.net.router, "dport", listener.address.port()).words.contains(&best.to_string()));
}

/// The server leg crosses the satellite: it sends at the rate up and receives at the rate down.
fn terminal(family: Family, handshake: Handshake) {
    let bed = Bed::started(handshake, &[&LINK[..], &["-C", "cubic"]].concat());
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);
    pair.exchange(1, 1000);
    let port = listener.address.port();
    let leg = Socket::of(&bed.net.router, "dport", port);
    assert!(leg.words.contains(&"cubic".to_string()), "{:?}", leg.words);
    check_pace(&leg, 500_000);
    // The kernel counts twice what was asked for.
    assert_eq!(leg.memory("rb"), 2 * 3 * PRODUCT);
    assert_eq!(leg.memory("tb"), 2 * 2 * PRODUCT / 5);
    // The server may send as much, though hardly anything has come yet.
    let window = Socket::of(&bed.net.server, "sport", port).info("snd_wnd");
    assert!((3 * PRODUCT * 95 / 100..3 * PRODUCT * 2).contains(&window), "a window of {window}");
    // The client leg is the listener's, under the server's own address.
    let other = Socket::of(&bed.net.router, "sport", 5000);
    assert_ne!(other.memory("rb"), 2 * 3 * PRODUCT, "the client leg was tuned as well");
}

/// The client leg crosses the satellite, and has all of it from the listener.
fn gateway(family: Family, handshake: Handshake) {
    let bed = Bed::started(handshake, &[&LINK[..], &["--satellite", "client", "-C", "cubic"]].concat());
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);
    pair.exchange(1, 1000);
    let port = listener.address.port();
    let leg = Socket::of(&bed.net.router, "sport", 5000);
    assert!(leg.words.contains(&"cubic".to_string()), "{:?}", leg.words);
    check_pace(&leg, 2_500_000);
    assert_eq!(leg.memory("rb"), 2 * 3 * PRODUCT / 5);
    assert_eq!(leg.memory("tb"), 2 * 2 * PRODUCT);
    let other = Socket::of(&bed.net.router, "dport", port);
    assert_ne!(other.memory("tb"), 2 * 2 * PRODUCT, "the server leg was tuned as well");
}

/// Paced, with most of the stream still at the client: what the router holds of it is what is under way and a
/// little more, the socket's calls for more are heard every time, and the bytes arrive at the pace.
fn little_unsent(family: Family, handshake: Handshake) {
    let length = 2000 * KIB / u64::from(slowness());
    let bed = Bed::started(handshake, &["--rate-up", "8"]);
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);
    let Pair { client, server, .. } = &pair;
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| send(client, 7, length).expect("send"));
        let receiver = scope.spawn(|| receive(server, 7, length));
        let mut most = 0;
        while !receiver.is_finished() {
            let leg = Socket::of(&bed.net.router, "dport", listener.address.port());
            most = most.max(leg.info("notsent"));
        }
        // A tenth of a second's worth, and the one piece that may exceed it.
        assert!(most > 0 && most <= 100_000 + 64 * KIB, "{most} bytes were unsent");
    });
    let fastest = length as f64 / 1e6;
    assert!(start.elapsed().as_secs_f64() > 0.9 * fastest, "faster than the link in {:?}", start.elapsed());
}

fn check_pace(leg: &Socket, rate: u64) {
    let ceiling = leg.words.iter().find_map(|word| word.strip_suffix("bps")?.split_once('/'));
    let ceiling: u64 =
        ceiling.and_then(|(_, ceiling)| ceiling.parse().ok()).expect("pacing_rate now/ceiling");
    // ss prints bits.
    let share = ceiling as f64 / (8 * rate) as f64;
    assert!((0.92..0.96).contains(&share), "a pace of {share} of the link's rate");
}
