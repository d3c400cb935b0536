//! Shows that each SYN that goes on untouched is counted once and by its reason, and that what an operator can do something
//! about is among the warnings as long as it lasts. Next to these: `fast_link` in `auto_pass`, `client_full` in `per_client`,
//! `memory` in `faults` (descriptors) and `memory` (the budget).

use std::io::ErrorKind;
use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::bed::{Bed, Family::*, Handshake::*};
use crate::host::{SYN, eventually, patience, seconds};
use crate::json::Json;
use crate::segment::{Forger, send_syn};

once!(passed_by_reason, excluded_by_the_rules, undelivered, daemon_too_slow, ending);

fn warnings(bed: &Bed) -> Vec<String> {
    bed.told("status")["warnings"].items().iter().map(|warning| warning["code"].text().into()).collect()
}

/// Each reason is counted, and their sum with the stolen ones is what was seen.
fn passed_by_reason() {
    let mut bed = Bed::started(Deferred, &["-c", "2", "--connect-timeout", "1"]);
    let listener = bed.listen(V4);
    let closed = bed.closed_port(V4);
    for _ in 0..3 {
        let refused = bed.connect(closed).expect_err("a closed port");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(bed.passed("refused"), 3);

    let unreachable = bed.closed_port(V4);
    let rule = format!("tcp dport {} reject with icmp host-unreachable", unreachable.port());
    bed.net.server.add_rules("reject", "input priority 0", &rule);
    bed.connect(unreachable).expect_err("an unreachable port");
    assert!(bed.passed("unreachable") >= 1);

    let silent = bed.silent_port(V4);
    // A forged SYN, for a kernel would repeat its own just when the daemon gives up, and be counted a second time.
    let forger = Forger::at(&bed.net.client, true);
    let from = |port| SocketAddr::new(V4.client(), port);
    assert!(forger.send_syn(from(22_999), silent));
    eventually("the time-out is counted", patience(), || bed.passed("timeout") == 1);

    let pairs = [bed.stolen(&listener), bed.stolen(&listener)];
    let direct = [bed.direct(&listener), bed.direct(&listener), bed.direct(&listener)];
    let told = bed.told("status");
    assert_eq!(told["syns"]["passed"]["full"].number(), 3);
    assert_eq!(warnings(&bed), ["slots_full"]);
    assert_eq!((told["slots"]["used"].number(), told["slots"]["peak"].number()), (2, 2));
    drop((pairs, direct));
    bed.daemon().wait_idle(patience());
    assert_eq!(warnings(&bed), [""; 0], "there is room again");

    // TCP-AO, RFC 5925.
    let signature = [29, 16, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    send_syn(&bed.net.client, from(23_000), listener.address, &signature);
    eventually("the signed SYN is counted", patience(), || bed.passed("signed") == 1);
    forger.send_syn_with_data(from(23_001), listener.address);
    eventually("the SYN with data is counted", patience(), || bed.passed("data") == 1);
    forger.send_syn_with_ip_options(from(23_002), listener.address);
    eventually("the SYN with IP options is counted", patience(), || bed.passed("unusual") == 1);
    let told = bed.told("status");
    let syns = &told["syns"];
    let passed: u64 = syns["passed"].fields().values().map(Json::number).sum();
    let sum = syns["stolen"].number() + syns["repeated"].number() + passed;
    assert_eq!(syns["seen"].number(), sum, "{syns:?}");
    assert_eq!(told["connects_failed"].number(), 3 + bed.passed("unreachable") + 1);
}

/// The rules' own counter, which the real ones fill where the kernel has nft's queue expression (`firewall::exclusions`).
fn excluded_by_the_rules() {
    let bed = Bed::started(Deferred, &[]);
    assert_eq!(bed.passed("excluded"), 0);
    bed.net.router.nft("table inet pepsal { counter excluded { packets 4294967297 bytes 60; }; }\n");
    assert_eq!(bed.passed("excluded"), 4_294_967_297);
    assert!(bed.ask(&["status"]).contains("\npassed           4294967297 excluded\n"));
    bed.net.router.nft("delete table inet pepsal\n");
    assert_eq!(bed.passed("excluded"), 0);
}

/// The input chain drops what comes from the TUN device: the client's second SYN passes.
fn undelivered() {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(V4);
    bed.net.router.discard("input", "input priority 0", "iifname pepsal0");
    for count in 1..=2 {
        let client = bed.connect(listener.address).expect("connect");
        let (_, in_vain) = listener.accept();
        let direct = listener.join(client);
        assert_eq!([in_vain.ip(), direct.peer.ip()], [V4.router_wan(), V4.client()]);
        assert_eq!(bed.passed("undelivered"), count);
        assert_eq!(warnings(&bed), ["undelivered"]);
        direct.close();
    }
    assert_eq!(bed.log().matches("did not reach the listener").count(), 1, "one line, not one a SYN");
    bed.net.router.remove_rules("input");
    bed.check_nothing_left(V4);
}

/// While the daemon stands still its queue fills up, and netfilter lets go what has no room there. Of that the daemon
/// learns by the next SYN; none is missing in its sum.
fn daemon_too_slow() {
    const SYNS: u64 = 3000;
    let mut bed = Bed::started(Early, &["-c", "2"]);
    let router = bed.net.router.twin();
    let forwarded = router.count("forwarded", "forward priority -300", &format!("iifname lan {SYN}"));
    let listener = bed.listen(V4);
    bed.net.server.discard("flood", "input priority 0", &format!("tcp dport {}", listener.address.port()));
    let forger = Forger::at(&bed.net.client, true);
    bed.signal(Signal::SIGSTOP);
    // Not each that is sent comes: a busy kernel discards what it has no room for.
    let mut ports = 20_000..;
    let mut send = |count: usize| {
        for port in ports.by_ref().take(count) {
            forger.send_syn(SocketAddr::new(V4.client(), port), listener.address);
        }
    };
    eventually("the SYNs have come", patience(), || {
        send(500);
        forwarded.packets() >= SYNS
    });
    bed.signal(Signal::SIGCONT);
    let told = || bed.told("status")["syns"]["seen"].number() + bed.passed("fail_open");
    eventually("the daemon knows of all", patience(), || {
        // By this, if the queue is empty by now.
        send(1);
        std::thread::sleep(seconds(1) / 5);
        told() >= forwarded.packets()
    });
    assert!(bed.passed("fail_open") > 0, "the queue has held all: the scenario shows nothing");
    assert_eq!(told(), forwarded.packets());
    assert!(warnings(&bed).contains(&"fail_open".into()), "{:?}", warnings(&bed));
    bed.net.server.remove_rules("flood");
    bed.check_nothing_left(V4);
}

/// What waits at that moment; later ones do not come to the daemon any more.
fn ending() {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(V4);
    let open = bed.stolen(&listener);
    let silent = bed.silent_port(V4);
    assert!(Forger::at(&bed.net.client, true).send_syn(SocketAddr::new(V4.client(), 23_000), silent));
    eventually("the SYN is held", patience(), || {
        bed.told("status")["connections"]["connecting"].number() == 1
    });
    let held = bed.told("connections");
    let held = held["connections"].items().iter().find(|it| it["state"].text() == "connecting");
    let legs = &held.expect("a connection that is not up")["legs"];
    assert_eq!((&legs["client"], &legs["server"]["limited_by"]), (&Json::Null, &Json::Null));

    bed.signal(Signal::SIGTERM);
    eventually("the signal has arrived", patience(), || warnings(&bed) == ["ending"]);
    assert_eq!(bed.told("status")["state"].text(), "ending");
    assert_eq!(bed.passed("ending"), 1);
    bed.direct(&listener).close();
    open.close();
    assert!(bed.daemon().wait_end(patience()).success());
}
