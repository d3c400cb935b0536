//! Shows that the daemon may go at any time: killed, it takes only its connections along, and the next ones go
//! direct at once; asked to end, it lets its connections finish first, within a bound. Started again, it steals
//! again.

use std::net::Shutdown;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::bed::{Bed, Family, Handshake, Handshake::*, Plan};
use crate::connection::Pair;
use crate::host::{SYN, eventually, patience, seconds};
use crate::stream::{End, MIB, end, receive_all, receive_some, send, send_part};

four_ways!(killed, asked_to_end_amid_a_transfer, asked_to_end_with_a_stalled_connection);
both_families!(killed_while_it_holds_a_syn, asked_to_end_while_it_holds_a_syn);
once!(ready_at_once, asked_to_end_while_idle, asked_twice, internal_error);

/// What the daemon says is so: from then on, the very first SYN reaches the listener.
fn ready_at_once() {
    let mut bed = Bed::build(Plan::default());
    bed.install_rules(&[]);
    let listeners = [Family::V6, Family::V4].map(|family| bed.listen(family));
    let router = bed.net.router.twin();
    let forwarded = router.count("forwarded", "forward priority -300", &format!("iifname lan {SYN}"));
    for round in 0..10 {
        bed.start_daemon(Early, &["-T", "4"]);
        let before = forwarded.packets();
        bed.stolen(&listeners[round % 2]).close();
        // One that is lost is repeated.
        let syns = || bed.told("status")["syns"].clone();
        let seen = || before + syns()["seen"].number();
        eventually("the daemon has seen all SYNs", patience(), || seen() == forwarded.packets());
        let told = syns();
        assert_eq!(told["stolen"].number(), 1, "{told:?}");
        assert_eq!(told["seen"].number(), 1 + told["repeated"].number(), "{told:?}");
    }
}

fn killed(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);
    let open = bed.stolen(&listener);
    open.exchange(1, 10_000);

    bed.daemon().signal(Signal::SIGKILL);
    bed.daemon().wait_end(patience());
    let forwarded = bed.net.router.count("forwarded", "forward priority 300", &format!("iifname lan {SYN}"));
    let sent = bed.net.client.count("sent", "output priority 0", SYN);
    let direct = bed.direct(&listener);
    assert_eq!(forwarded.packets(), sent.packets(), "a SYN was lost");
    direct.exchange(2, 100_000);
    assert_eq!(end(&open.client), End::Reset);
    assert_eq!(end(&open.server), End::Reset);

    bed.start_daemon(handshake, &[]);
    bed.stolen(&listener).exchange(3, 100_000);
    // What went direct stays as it is.
    direct.exchange(4, 100_000);
    direct.close();
    bed.check_nothing_left(family);
}

/// All that is left of a panic in the programs of routers is a trap.
fn internal_error() {
    for trap in [Signal::SIGILL, Signal::SIGTRAP] {
        let mut bed = Bed::started(Deferred, &[]);
        bed.signal(trap);
        let status = bed.daemon().wait_end(patience());
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
        let log = bed.log();
        let last = log.lines().last().expect("last words");
        assert!(
            last.starts_with("pepsal: internal error at 0x") && last.ends_with(", ending at once"),
            "{log}"
        );
        bed.direct(&bed.listen(Family::V4)).exchange(1, 10_000);
    }
}

/// The router's own SYNs get no answer, so the client's stays in the queue until the daemon goes.
fn hold_a_syn(family: Family, end_with: Signal) {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(family);
    let port = listener.address.port();
    let from_router = format!("{} saddr {} tcp dport {port}", family.nft(), family.router_wan());
    bed.net.server.discard("router", "input priority 0", &from_router);

    thread::scope(|scope| {
        let connecting = scope.spawn(|| bed.connect(listener.address).expect("connect"));
        eventually("a SYN is held", patience(), || bed.net.router.connected_ports().contains(&port));
        bed.signal(end_with);
        let start = Instant::now();
        let (server, peer) = listener.accept();
        // The client repeats a lost SYN after 1, 3, 7 seconds.
        assert!(start.elapsed() < seconds(8), "connected only after {:?}", start.elapsed());
        let pair = Pair { client: connecting.join().expect("a connected client"), server, peer };
        bed.check_direct(&pair);
        pair.exchange(1, 10_000);
    });
    bed.daemon().wait_end(patience());
}

fn killed_while_it_holds_a_syn(family: Family) {
    hold_a_syn(family, Signal::SIGKILL);
}

fn asked_to_end_while_it_holds_a_syn(family: Family) {
    hold_a_syn(family, Signal::SIGTERM);
}

fn asked_to_end_amid_a_transfer(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);
    let Pair { client, server, .. } = bed.stolen(&listener);
    send(&client, 1, MIB).expect("send");

    bed.signal(Signal::SIGTERM);
    eventually("the signal has arrived", seconds(5), || bed.log().contains("ending"));
    bed.direct(&listener).exchange(2, 1000);
    thread::scope(|scope| {
        scope.spawn(|| {
            send_part(&client, 1, MIB, 3 * MIB).expect("send");
            client.shutdown(Shutdown::Write).expect("shut down");
        });
        receive_all(&server, 1, 3 * MIB);
    });
    send(&server, 3, MIB).expect("send");
    drop(server);
    receive_all(&client, 3, MIB);
    let status = bed.daemon().wait_end(seconds(5));
    assert!(status.success(), "{status}");
    assert!(!bed.net.router.has_device("pepsal0"));

    bed.start_daemon(handshake, &[]);
    bed.check_nothing_left(family);
}

/// Neither end does anything: when the time is up both learn that their connection was cut off.
fn asked_to_end_with_a_stalled_connection(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &["--drain", "2"]);
    let listener = bed.listen(family);
    let idle = bed.stolen(&listener);
    idle.exchange(1, 1000);
    // One that has bytes under way, which nobody reads, and one whose client has said that it is done.
    let stalled = bed.stolen(&listener);
    send(&stalled.server, 2, MIB).expect("send");
    let half_closed = bed.stolen(&listener);
    half_closed.client.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(end(&half_closed.server), End::Fin);

    let start = Instant::now();
    bed.signal(Signal::SIGTERM);
    let status = bed.daemon().wait_end(seconds(15));
    assert!(status.success(), "{status}");
    assert!(start.elapsed() >= seconds(1), "did not wait: {:?}", start.elapsed());
    assert_eq!(end(&idle.client), End::Reset);
    assert_eq!(end(&idle.server), End::Reset);
    let (got, how) = receive_some(&stalled.client, 2, 0, 2 * MIB);
    assert_eq!(how, End::Reset, "after {got} bytes");
    assert_eq!(end(&half_closed.client), End::Reset);
    bed.direct(&listener).close();
}

fn asked_to_end_while_idle() {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(Family::V4);
    bed.stolen(&listener).close();
    bed.daemon().wait_idle(patience());
    bed.signal(Signal::SIGTERM);
    // Long before the time for those that are not idle is up.
    let status = bed.daemon().wait_end(seconds(10));
    assert!(status.success(), "{status}");
    bed.direct(&listener).close();
}

fn asked_twice() {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(Family::V4);
    let open = bed.stolen(&listener);
    bed.signal(Signal::SIGTERM);
    eventually("the first signal has arrived", seconds(5), || bed.log().contains("ending"));
    // procd repeats its signal, for whatever reason: that changes nothing.
    bed.signal(Signal::SIGTERM);
    open.exchange(1, 1000);
    bed.signal(Signal::SIGINT);
    let status = bed.daemon().wait_end(seconds(5));
    assert!(status.success(), "{status}");
    assert_eq!(end(&open.client), End::Reset);
    assert_eq!(end(&open.server), End::Reset);
}
