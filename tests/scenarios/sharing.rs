//! Shows that satellite legs begin with the window and the pace of their share of the link: by routes of a table
//! of pepsal's own, that follow the router's, respect its marks, and go with the daemon.

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::bed::{Bed, Family, Handshake, Handshake::*, Net};
use crate::connection::Pair;
use crate::host::{Host, SetOnDrop, eventually, patience, seconds, slowness};
use crate::marks::marked_leg;
use crate::socket_info::Socket;
use crate::stream::{End, KIB, receive, receive_all, receive_some, send, send_part};

four_ways!(first_window, first_window_at_the_gateway, own_mark_stays);
both_families!(follows_the_routes, replaces_what_a_killed_one_left);
once!(
    the_port_is_free_for_the_next,
    shares_halve_the_window,
    four_senders_are_equal,
    the_rest_goes_to_who_wants_it,
    bursts_are_not_held_back,
    a_fade_is_remembered,
    silent_without_rates
);

/// 8 Mbit/s and 300 ms: 198 segments of 1448 bytes at a pace of 955,680 bytes a second.
const LINK: [&str; 8] = ["--rate-up", "8", "--rate-down", "8", "--rtt", "300", "-C", "cubic"];
const WINDOW: u64 = 198;

const RULES: usize = 4;

fn first_window(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &LINK);
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);
    let leg = Socket::of(&bed.net.router, "dport", listener.address.port());
    assert_eq!(leg.info("cwnd"), WINDOW, "{:?}", leg.words);
    // The client leg is none of it.
    assert_eq!(Socket::of(&bed.net.router, "sport", 5000).info("cwnd"), 10);
    pair.exchange(1, 100_000);
    drop(pair);
    bed.check_nothing_left(family);
}

fn first_window_at_the_gateway(family: Family, handshake: Handshake) {
    let bed = Bed::started(handshake, &[&LINK[..], &["--satellite", "client"]].concat());
    let listener = bed.listen(family);
    // The pacer marks the listeners on its own time.
    let mut pairs = Vec::new();
    eventually("a client leg has the window", patience(), || {
        pairs.clear();
        pairs.push(bed.stolen(&listener));
        Socket::of(&bed.net.router, "sport", 5000).info("cwnd") == WINDOW
    });
    assert_eq!(Socket::of(&bed.net.router, "dport", listener.address.port()).info("cwnd"), 10);
    pairs[0].exchange(1, 100_000);
}

/// Who routes by marks may compare all bits of them: a marked SYN's leg has its mark and nothing else.
fn own_mark_stays(family: Family, handshake: Handshake) {
    marked_leg(family, handshake, &LINK, |bed, port| {
        assert_eq!(Socket::of(&bed.net.router, "dport", port).info("cwnd"), 10);
    });
}

/// A route that appears in main, changes, or leads nowhere is in the tables as well.
fn follows_the_routes(family: Family) {
    let bed = Bed::started(Deferred, &LINK);
    let ip = ip(family);
    let net = if family == Family::V4 { "198.51.100.0/24" } else { "2001:db8::/32" };
    let router = &bed.net.router;
    let copied = |expected: &str| {
        eventually(&format!("table 5002 has: {expected}"), patience(), || {
            let table = router.exec(&format!("{ip} route show table 5002"), "");
            table.lines().any(|line| line.starts_with(expected) && !line.contains("error"))
        });
    };
    let gateway = |number| family.address(Net::Wan, number);
    router.exec(&format!("{ip} route add {net} via {} mtu 1400", gateway(2)), "");
    copied(&format!("{net} via {} dev wan", gateway(2)));
    let route = router.exec(&format!("{ip} route show {net} table 5002"), "");
    let half = format!("initcwnd {}", WINDOW / 2);
    assert!(route.contains("mtu 1400") && route.contains(&half), "{route}");
    router.exec(&format!("{ip} route replace {net} via {}", gateway(3)), "");
    copied(&format!("{net} via {} dev wan", gateway(3)));
    router.exec(&format!("{ip} route delete {net}"), "");
    router.exec(&format!("{ip} route add blackhole {net}"), "");
    copied(&format!("blackhole {net}"));
    // A device that goes down and comes back takes its routes along, of which the kernel says nothing.
    router.ip("link set wan down\nlink set wan up\n");
    if family == Family::V6 {
        // Global addresses go with the device.
        router.exec(&format!("ip -6 address replace {}/64 dev wan nodad", family.router_wan()), "");
    }
    router.exec(&format!("{ip} route replace default via {}", gateway(2)), "");
    copied("default via");
}

fn replaces_what_a_killed_one_left(family: Family) {
    let mut bed = Bed::started(Deferred, &LINK);
    let listener = bed.listen(family);
    assert_eq!(rules(&bed.net.router, family), RULES);
    bed.signal(Signal::SIGKILL);
    bed.daemon().wait_end(patience());
    assert_eq!(rules(&bed.net.router, family), RULES, "a killed daemon leaves its rules");

    // Another link: half the windows.
    bed.start_daemon(Deferred, &["--rate-up", "4", "--rtt", "300", "-C", "cubic"]);
    assert_eq!(rules(&bed.net.router, family), RULES);
    let pair = bed.stolen(&listener);
    let leg = Socket::of(&bed.net.router, "dport", listener.address.port());
    assert_eq!(leg.info("cwnd"), WINDOW / 2);
    pair.close();
    bed.signal(Signal::SIGTERM);
    assert!(bed.daemon().wait_end(patience()).success());
    assert_eq!(rules(&bed.net.router, family), 0);
    let left = bed.net.router.exec(&format!("{} route show table all", ip(family)), "");
    assert!(!left.contains("table 500"), "{left}");
}

/// What is left of a finished connection lingers at the listener's port, also where its window was opened.
fn the_port_is_free_for_the_next() {
    let args = [&LINK[..], &["--satellite", "client"]].concat();
    let mut bed = Bed::started(Deferred, &args);
    let listener = bed.listen(Family::V4);
    let pair = bed.stolen(&listener);
    pair.exchange(1, 100_000);
    // The server's end comes first, so that the client leg is the one that lingers.
    drop(pair.server);
    receive_all(&pair.client, 0, 0);
    drop(pair.client);
    bed.daemon().wait_idle(patience());
    let lingering = bed.net.router.exec("ss -tanH state time-wait sport = 5000", "");
    assert!(!lingering.is_empty(), "nothing lingers: the scenario shows nothing");
    bed.signal(Signal::SIGTERM);
    assert!(bed.daemon().wait_end(patience()).success());
    bed.start_daemon(Deferred, &args);
    bed.stolen(&listener).close();
}

fn rules(router: &Host, family: Family) -> usize {
    let rules = router.exec(&format!("{} rule show", ip(family)), "");
    let own: Vec<&str> = rules.lines().filter(|rule| rule.contains("/0x38000000 lookup 500")).collect();
    assert!(own.iter().all(|rule| rule.starts_with("32765:")), "{rules}");
    own.len()
}

/// Sends from the pair's client all that the link takes, for as long as `work` lasts, and then ends that direction.
fn while_sending(pair: &Pair, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ending = SetOnDrop(&done);
        scope.spawn(|| {
            for start in (0..).step_by(64 * KIB as usize) {
                if done.load(Relaxed) {
                    break;
                }
                send_part(&pair.client, 1, start, start + 64 * KIB).expect("send");
            }
            pair.client.shutdown(Shutdown::Write).expect("shut down");
        });
        scope.spawn(|| assert_eq!(receive_some(&pair.server, 1, 0, u64::MAX).1, End::Fin));
        work();
    });
}

/// While one sends, the next begins with half of the window and the pace, and has all when it is alone.
fn shares_halve_the_window() {
    let bed = Bed::started(Deferred, &LINK);
    let (first, second) = (bed.listen(Family::V4), bed.listen(Family::V4));
    let sending = bed.stolen(&first);
    let its_leg = || Socket::of(&bed.net.router, "dport", first.address.port());
    while_sending(&sending, || {
        eventually("the first is sending", patience(), || its_leg().info("notsent") > 0);
        let next = bed.stolen(&second);
        let leg = Socket::of(&bed.net.router, "dport", second.address.port());
        assert_eq!(leg.info("cwnd"), WINDOW / 2);
        assert!((465_000..=478_000).contains(&ceiling(&leg)), "{:?}", leg.words);
        next.exchange(2, 1000);
        next.close();
        // It had the link to itself but for a moment, and has it again.
        eventually("the first has the link to itself", patience(), || ceiling(&its_leg()) > 900_000);
    });
}

/// Four at once: each gets a quarter, whoever began first, and together they get what the link carries.
fn four_senders_are_equal() {
    let length = 1_000_000 / u64::from(slowness());
    let bed = Bed::started(Deferred, &LINK);
    let listener = bed.listen(Family::V4);
    let pairs: Vec<Pair> = (0..4).map(|_| bed.stolen(&listener)).collect();
    let start = Instant::now();
    let took: Vec<Duration> = thread::scope(|scope| {
        let receivers = pairs.iter().enumerate().map(|(number, pair)| {
            scope.spawn(move || send(&pair.client, number as u64, length).expect("send"));
            scope.spawn(move || {
                receive(&pair.server, number as u64, length);
                start.elapsed()
            })
        });
        let receivers: Vec<_> = receivers.collect();
        let mut seen = Vec::new();
        let quarter = 946_027 / 4;
        eventually("a quarter for each", patience(), || {
            assert!(receivers.iter().any(|it| !it.is_finished()), "never a quarter for each: {seen:?}");
            seen.push(ceilings(&bed, listener.address.port()));
            let is_quarter = |ceiling: &u64| (quarter * 9 / 10..quarter * 11 / 10).contains(ceiling);
            seen.last().is_some_and(|four| four.len() == 4 && four.iter().all(is_quarter))
        });
        receivers.into_iter().map(|receiver| receiver.join().expect("received")).collect()
    });
    let rates: Vec<f64> = took.iter().map(|took| length as f64 / took.as_secs_f64()).collect();
    let jain = rates.iter().sum::<f64>().powi(2) / (4.0 * rates.iter().map(|rate| rate * rate).sum::<f64>());
    // 0.893 if the first of them keeps half; other work of the machine may keep one from its share for half a second.
    assert!(jain >= 0.95, "Jain's index {jain} of {rates:?}");
    let fastest = 4.0 * length as f64 / 946_027.0;
    let slowest = took.iter().max().expect("four").as_secs_f64();
    // The first moments, until the first look, and what the sockets took before it.
    assert!(slowest > 0.8 * fastest, "faster than the link: {slowest} s instead of {fastest}");
    // How much of the link is used is measured in tests/satlab, where nothing else goes on.
}

/// One that sends little leaves its share to the others.
fn the_rest_goes_to_who_wants_it() {
    let bed = Bed::started(Deferred, &LINK);
    let (bulk, trickle) = (bed.listen(Family::V4), bed.listen(Family::V4));
    let (bulky, small) = (bed.stolen(&bulk), bed.stolen(&trickle));
    while_sending(&bulky, || {
        let start = Instant::now();
        let mut shares = Vec::new();
        // A thread that is kept from its work for a moment is taken for one that wants less: that passes.
        let stays =
            |shares: &[u64]| shares.len() >= 20 && shares.iter().rev().take(10).all(|it| *it > 850_000);
        while !stays(&shares) {
            small.exchange(shares.len() as u64, 64);
            shares.push(ceiling(&Socket::of(&bed.net.router, "dport", bulk.address.port())));
            assert!(start.elapsed() < patience(), "the one that sends has a ceiling of {shares:?}");
            thread::sleep(Duration::from_millis(50));
        }
    });
    small.close();
}

/// Four of which each uses nearly a quarter of the link, in bursts: nobody waits for a share of it.
fn bursts_are_not_held_back() {
    let bed = Bed::started(Deferred, &LINK);
    let listener = bed.listen(Family::V4);
    let pairs: Vec<Pair> = (0..4).map(|_| bed.stolen(&listener)).collect();
    let start = Instant::now();
    for number in 0.. {
        thread::scope(|scope| {
            for pair in &pairs {
                scope.spawn(move || pair.exchange(number, 16_000));
            }
        });
        if start.elapsed() > seconds(1) {
            let ceilings = ceilings(&bed, listener.address.port());
            assert_eq!(ceilings.len(), pairs.len());
            if ceilings.iter().all(|ceiling| *ceiling > 900_000) {
                break;
            }
            // Bursts that were held up together, by other work of the machine, are more than the link carries.
            assert!(start.elapsed() < patience(), "{ceilings:?}");
        }
        thread::sleep(Duration::from_millis(80));
    }
}

/// What a link that carries less than it was sold with carried lately is what the next connections begin with, until it
/// is seen to carry all of it (or a minute has passed).
fn a_fade_is_remembered() {
    let bed = Bed::started(Deferred, &LINK);
    let first_window = || {
        let listener = bed.listen(Family::V4);
        let pair = bed.stolen(&listener);
        let window = Socket::of(&bed.net.router, "dport", listener.address.port()).info("cwnd");
        pair.close();
        window
    };
    let listener = bed.listen(Family::V4);
    let sending = bed.stolen(&listener);
    while_sending(&sending, || {
        // By then it is no longer the server's first window that limits.
        eventually("a quarter is there", patience(), || {
            Socket::of(&bed.net.router, "dport", listener.address.port()).info("bytes_acked") > 1_000_000
        });
        let to_it = format!("tcp dport {}", listener.address.port());
        bed.net.server.discard("rain", "input priority -400", &to_it);
        eventually("the next begin with less", patience(), || first_window() <= WINDOW / 8);
        bed.net.server.remove_rules("rain");
    });
    drop(sending);
    let forgotten = Duration::from_secs(60) + patience();
    eventually("the next begin with the whole window", forgotten, || first_window() == WINDOW);
}

/// Nothing is known of the link: no tables, no rules, no thread.
fn silent_without_rates() {
    let mut bed = Bed::started(Deferred, &["--rtt", "300"]);
    assert_eq!(rules(&bed.net.router, Family::V4), 0);
    let listener = bed.listen(Family::V4);
    let pair = bed.stolen(&listener);
    send(&pair.client, 1, 1000).expect("send");
    drop(pair.client);
    receive_all(&pair.server, 1, 1000);
    let threads = std::fs::read_dir(format!("/proc/{}/task", bed.daemon().pid())).expect("threads");
    let names: Vec<String> = threads
        .flatten()
        .map(|thread| std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default())
        .collect();
    assert!(names.iter().all(|name| name.trim() != "pacer"), "{names:?}");
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip -6",
    }
}

/// Of all legs to this port of the server.
fn ceilings(bed: &Bed, port: u16) -> Vec<u64> {
    Socket::all(&bed.net.router, &format!("dport = :{port}")).iter().map(ceiling).collect()
}

/// Bytes per second that the leg may send at most; ss prints bits.
fn ceiling(leg: &Socket) -> u64 {
    let paces = leg.words.iter().find_map(|word| word.strip_suffix("bps")?.split_once('/'));
    let (_, ceiling) = paces.expect("pacing_rate now/ceiling");
    ceiling.parse::<u64>().expect("a number") / 8
}
