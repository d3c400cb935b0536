//! Shows restart without loss: a daemon that is started while another runs takes over all it has. Every connection
//! goes on, whatever it was doing, exact to the byte and to its end; a SYN that waits is answered; new connections
//! never notice. Where the new one cannot take over, the old one carries on with all of it.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::bed::{Bed, Family, Handshake, Handshake::*, Plan};
use crate::connection::{Listener, Pair, dial};
use crate::daemon::{Public, binary, refusal};
use crate::host::{SetOnDrop, eventually, patience, seconds, slowness};
use crate::json::Json;
use crate::socket_info::Socket;
use crate::stream::{End, KIB, MIB, end, receive, receive_all, receive_some, send, send_part};

four_ways!(nothing_is_lost, half_closed, connections_that_begin_meanwhile);
both_families!(a_reader_that_has_stopped, a_held_syn, from_one_that_drains, with_the_first_bytes);
once!(
    the_old_one_carries_on,
    killed_amid_it,
    askers_are_answered,
    resets_have_an_address,
    what_takers_may_say,
    strangers_may_not,
    workers_and_slots,
    other_options,
    the_routes_of_the_jump_start
);

fn four_workers<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["-T", "4"], more].concat()
}

/// Sends the stream of `seed` until `enough`, then FIN; the bytes sent.
fn send_until(to: &TcpStream, seed: u64, enough: &AtomicBool) -> u64 {
    let mut sent = 0;
    while !enough.load(Relaxed) {
        send_part(to, seed, sent, sent + 256 * KIB).expect("send");
        sent += 256 * KIB;
    }
    to.shutdown(Shutdown::Write).expect("shut down");
    sent
}

fn nothing_is_lost(family: Family, handshake: Handshake) {
    let idle_ones = 200 / slowness();
    let mut bed = Bed::started(handshake, &four_workers(&[]));
    let listener = bed.listen(family);
    let idle: Vec<Pair> = (0..idle_ones).map(|_| bed.stolen(&listener)).collect();
    idle[0].exchange(7, 100_000);
    let busy: Vec<Pair> = (0..4).map(|_| bed.stolen(&listener)).collect();
    let enough = AtomicBool::new(false);
    // A connection may be there before it is counted.
    let all = u64::from(idle_ones) + 4;
    eventually("all are counted", patience(), || bed.told("status")["syns"]["stolen"].number() == all);
    let before = bed.told("status");
    thread::scope(|scope| {
        let (enough, bed) = (&enough, &mut bed);
        let mut ends = Vec::new();
        for (at, pair) in busy.iter().enumerate() {
            let seed = 20 + at as u64;
            let (from, to) =
                if at % 2 == 0 { (&pair.client, &pair.server) } else { (&pair.server, &pair.client) };
            let sender = scope.spawn(move || send_until(from, seed, enough));
            let receiver = scope.spawn(move || receive_some(to, seed, 0, u64::MAX));
            ends.push((sender, receiver));
        }
        let all_sent = SetOnDrop(enough);
        for round in 0..5 {
            let moved = bed.told("status")["bytes"]["down"].number();
            let old = bed.daemon().pid();
            bed.hand_over(handshake, &four_workers(&[]));
            assert_ne!(bed.daemon().pid(), old);
            eventually(&format!("transfers go on after hand-over {round}"), patience(), || {
                bed.told("status")["bytes"]["down"].number() > moved + MIB
            });
        }
        drop(all_sent);
        for (sender, receiver) in ends {
            let sent = sender.join().expect("a sender");
            assert_eq!(receiver.join().expect("a receiver"), (sent, End::Fin));
        }
    });
    // The other direction of each was idle and is whole.
    for (at, pair) in busy.iter().enumerate() {
        let (from, to) =
            if at % 2 == 0 { (&pair.server, &pair.client) } else { (&pair.client, &pair.server) };
        send(from, 11, 1000).expect("send");
        from.shutdown(Shutdown::Write).expect("shut down");
        receive_all(to, 11, 1000);
    }

    let after = bed.told("status");
    assert_eq!(after["pid"].number(), u64::from(bed.daemon().pid()));
    let used = u64::from(idle_ones);
    assert_eq!(before["slots"]["used"].number(), used + 4);
    eventually("the four have ended", patience(), || bed.told("status")["slots"]["used"].number() == used);
    assert_eq!(after["slots"]["peak"].number(), used + 4);
    for count in ["seen", "stolen", "repeated", "returned"] {
        assert_eq!(after["syns"][count].number(), before["syns"][count].number(), "{count}");
    }
    for (why, count) in after["syns"]["passed"].fields() {
        assert_eq!(count.number(), 0, "{why}");
    }

    for (at, pair) in idle.iter().enumerate() {
        pair.exchange(at as u64, 1000);
    }
    for pair in idle {
        pair.close();
    }
    drop(busy);
    bed.check_nothing_left(family);
}

/// Bytes wait in both sockets and in the daemon's pipe.
fn a_reader_that_has_stopped(family: Family) {
    const LENGTH: u64 = 40 * MIB;
    let mut bed = Bed::started(Deferred, &four_workers(&[]));
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);
    thread::scope(|scope| {
        let Pair { client, server, .. } = &pair;
        scope.spawn(|| {
            send(server, 1, LENGTH).expect("send");
            server.shutdown(Shutdown::Write).expect("shut down");
        });
        // For long, and because the client takes nothing: not because the daemon or the server has no turn.
        let (mut moved, mut since) = (0, Instant::now());
        eventually("nothing moves", patience(), || {
            let now = bed.told("status")["bytes"]["down"].number();
            if now != std::mem::replace(&mut moved, now) {
                since = Instant::now();
            }
            let told = bed.told("connections");
            let limit = &told["connections"].items()[0]["legs"]["client"]["limited_by"];
            *limit == Json::String("receive_window".into()) && since.elapsed() > seconds(1)
        });
        for _ in 0..2 {
            bed.hand_over(Deferred, &four_workers(&[]));
            // It has no other reason to have one.
            assert_eq!(bed.daemon().pipe_ends(), 2);
            // More, if the send buffer has grown by less than the kernel tells of: the new one has tried once more.
            assert!(bed.told("status")["bytes"]["down"].number() >= moved);
        }
        receive_all(client, 1, LENGTH);
    });
    // The end may have arrived before the last bytes are counted.
    eventually("all is counted", patience(), || bed.told("status")["bytes"]["down"].number() == LENGTH);
    drop(pair);
    bed.check_nothing_left(family);
}

/// Each direction ends by itself, whichever daemon sees it.
fn half_closed(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &four_workers(&[]));
    let listener = bed.listen(family);
    let Pair { client, server, .. } = bed.stolen(&listener);
    send(&client, 1, 1000).expect("send");
    client.shutdown(Shutdown::Write).expect("shut down");
    receive_all(&server, 1, 1000);
    send(&server, 2, 1000).expect("send");
    bed.hand_over(handshake, &four_workers(&[]));
    assert_eq!(bed.told("status")["connections"]["half_closed"].number(), 1);
    receive(&client, 2, 1000);
    send_part(&server, 2, 1000, MIB).expect("send");
    bed.hand_over(handshake, &four_workers(&[]));
    drop(server);
    assert_eq!(receive_some(&client, 2, 1000, 2 * MIB), (MIB, End::Fin));
    bed.check_nothing_left(family);
}

/// They come while one daemon waits for the other, too: none of them fails and none goes direct.
fn connections_that_begin_meanwhile(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &four_workers(&[]));
    let listener = bed.listen(family);
    let enough = AtomicBool::new(false);
    let client = bed.net.client.twin();
    thread::scope(|scope| {
        let (enough, listener) = (&enough, &listener);
        let connecting = scope.spawn(move || {
            let mut count = 0_u64;
            while !enough.load(Relaxed) {
                let client = dial(&client, listener.address, |_| ()).expect("connect");
                let pair = listener.join(client);
                assert_eq!(pair.peer.ip(), family.router_wan(), "connection {count} went past pepsal");
                pair.exchange(count, 5000);
                pair.close();
                count += 1;
            }
            count
        });
        let ending = SetOnDrop(enough);
        for _ in 0..10 {
            let stolen = bed.told("status")["syns"]["stolen"].number();
            bed.hand_over(handshake, &four_workers(&[]));
            eventually("connections are stolen", patience(), || {
                bed.told("status")["syns"]["stolen"].number() > stolen + 1
            });
        }
        drop(ending);
        let count = connecting.join().expect("connections");
        let stolen = || bed.told("status")["syns"]["stolen"].number();
        eventually("all are counted", patience(), || stolen() >= count);
        let syns = &bed.told("status")["syns"];
        assert_eq!(syns["stolen"].number(), count);
        assert_eq!(syns["seen"].number(), count + syns["repeated"].number());
    });
    bed.check_nothing_left(family);
}

fn silence_server(bed: &Bed, family: Family, port: u16) {
    let from_router = format!("{} saddr {} tcp dport {port}", family.nft(), family.router_wan());
    bed.net.server.discard("router", "input priority 0", &from_router);
}

/// The client's SYN stays in the queue over two hand-overs, until the server answers.
fn a_held_syn(family: Family) {
    let mut bed = Bed::started(Deferred, &four_workers(&[]));
    let listener = bed.listen(family);
    silence_server(&bed, family, listener.address.port());
    let address = listener.address;
    let host = bed.net.client.twin();
    thread::scope(|scope| {
        let connecting = scope.spawn(move || dial(&host, address, |_| ()).expect("connect"));
        let held = |bed: &Bed| bed.told("status")["connections"]["connecting"].number() == 1;
        eventually("a SYN is held", patience(), || held(&bed));
        for _ in 0..2 {
            bed.hand_over(Deferred, &four_workers(&[]));
            assert!(held(&bed));
        }
        bed.net.server.remove_rules("router");
        let client = connecting.join().expect("a connected client");
        let pair = listener.join(client);
        bed.check_stolen(&pair);
        pair.exchange(1, 100_000);
        pair.close();
    });
    bed.check_nothing_left(family);
}

/// As procd does it: the old one gets SIGTERM before, and once more while it drains.
fn from_one_that_drains(family: Family) {
    let mut bed = Bed::started(Early, &four_workers(&[]));
    let listener = bed.listen(family);
    let open = bed.stolen(&listener);
    open.exchange(1, 1000);
    bed.signal(Signal::SIGTERM);
    eventually("the signal has arrived", patience(), || bed.log().contains("ending"));
    let direct = bed.direct(&listener);
    bed.signal(Signal::SIGTERM);
    bed.hand_over(Early, &four_workers(&[]));
    open.exchange(2, 100_000);
    direct.exchange(3, 100_000);
    direct.close();
    bed.stolen(&listener).close();
    assert_eq!(bed.told("status")["state"].text(), "running");
    open.close();
    bed.check_nothing_left(family);
}

/// A server leg whose SYN waits for the client's first bytes (Fast Open) waits on.
fn with_the_first_bytes(family: Family) {
    let mut bed = Bed::started(Early, &four_workers(&["-f"]));
    bed.net.server.sysctl("net/ipv4/tcp_fastopen", "1027");
    let listener = bed.listen(family);
    bed.stolen(&listener).close();
    // Some of them are still silent when the daemons change.
    let clients: Vec<_> = (0..50).map(|_| bed.connect(listener.address).expect("connect")).collect();
    bed.hand_over(Early, &four_workers(&["-f"]));
    for (seed, client) in (0..).zip(&clients) {
        send(client, seed, 10).expect("send");
        client.shutdown(Shutdown::Write).expect("shut down");
    }
    let mut seeds = Vec::new();
    for _ in &clients {
        let (mut server, peer) = listener.accept();
        assert_eq!(peer.ip(), family.router_wan());
        let mut first = Vec::new();
        server.read_to_end(&mut first).expect("what a client has sent");
        assert_eq!(first.len(), 10);
        seeds.push(first);
    }
    seeds.sort();
    seeds.dedup();
    assert_eq!(seeds.len(), clients.len());
    drop(clients);
    bed.check_nothing_left(family);
}

/// An idle connection and a transfer that has begun; `check` sees that both go on, and that a new one is stolen.
struct Live {
    listener: Listener,
    idle: Pair,
    transfer: Pair,
    received: u64,
    pid: u32,
}

impl Live {
    fn begin(bed: &mut Bed) -> Live {
        let listener = bed.listen(Family::V4);
        let (idle, transfer) = (bed.stolen(&listener), bed.stolen(&listener));
        send(&transfer.server, 1, 8 * MIB / 10).expect("send");
        Live { listener, idle, transfer, received: 0, pid: bed.daemon().pid() }
    }

    fn check(&mut self, bed: &mut Bed) {
        assert_eq!(bed.told("status")["pid"].number(), u64::from(self.pid));
        self.idle.exchange(self.received, 1000);
        let until = self.received + 20 * KIB;
        let got = receive_some(&self.transfer.client, 1, self.received, until);
        assert_eq!(got, (until, End::Full));
        self.received = until;
        let pair = bed.stolen(&self.listener);
        pair.exchange(2, 1000);
        pair.close();
    }
}

fn command(bed: &Bed, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("run").args(args).arg("--control").arg(bed.control());
    command
}

/// Whatever is wrong with the new one, it says so in one line, and nothing has happened.
fn the_old_one_carries_on() {
    let mut bed = Bed::started(Deferred, &[]);
    let mut live = Live::begin(&mut bed);
    for (args, code, words) in [
        (&["--no-such-option"][..], 2, "unrecognized"),
        (&["-C", "no_such"], 1, "congestion control no_such"),
        (&["--user", "no-such-user"], 1, "user no-such-user"),
        (&["-c", "1"], 1, "connections (allow more with -c)"),
        (&["-p", "5001"], 1, "port 5000, queue 5000 and device pepsal0 (stop it first"),
        (&["-q", "5001"], 1, "stop it first"),
        (&["--device", "pepsal1"], 1, "stop it first"),
    ] {
        let (got, said) = refusal(&bed.net.router, command(&bed, args));
        assert_eq!((got, said.lines().count()), (Some(code), 1), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        live.check(&mut bed);
    }
    // Network namespaces share paths.
    let (got, said) = refusal(&bed.net.server, command(&bed, &[]));
    assert_eq!((got, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("it is in another network namespace"), "{said}");
    live.check(&mut bed);
}

/// Whether a daemon is there.
fn answers(bed: &Bed) -> bool {
    answer(&bed.control(), "status json").is_ok_and(|answer| !answer.is_empty())
}

fn answer(control: &Path, request: &str) -> io::Result<String> {
    ask(control, request).and_then(io::read_to_string)
}

fn ask(control: &Path, request: &str) -> io::Result<UnixStream> {
    let mut asker = UnixStream::connect(control)?;
    asker.write_all(format!("{request}\n").as_bytes())?;
    Ok(asker)
}

/// A new one that is killed at some moment, until one was through already: then it is as if the only daemon was killed.
fn killed_amid_it() {
    let mut bed = Bed::started(Deferred, &[]);
    let mut live = Live::begin(&mut bed);
    let mut wait = Duration::from_micros(200);
    loop {
        let mut starting = command(&bed, &[]);
        starting.stderr(Stdio::null());
        let mut starting = bed.net.router.inside(|| starting.spawn()).expect("pepsal");
        thread::sleep(wait);
        let _ = starting.kill();
        starting.wait().expect("its end");
        if !answers(&bed) {
            break;
        }
        live.check(&mut bed);
        wait = wait * 9 / 8;
    }
    assert!(bed.daemon().wait_end(patience()).success());
    assert!(bed.log().contains("handed 2 connections over"), "{}", bed.log());
    assert_eq!(end(&live.idle.client), End::Reset);
    let direct = bed.direct(&live.listener);
    direct.exchange(1, 1000);
    direct.close();
}

/// Whoever asks meanwhile has a whole answer, from the old one or the new one.
fn askers_are_answered() {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(Family::V4);
    let pairs: Vec<Pair> = (0..40).map(|_| bed.stolen(&listener)).collect();
    let control = bed.control();
    let enough = AtomicBool::new(false);
    let cut = thread::scope(|scope| {
        let all_asked = SetOnDrop(&enough);
        let ask_on = |request: &'static str| {
            let (control, enough) = (&control, &enough);
            scope.spawn(move || {
                let mut cut = Vec::new();
                while !enough.load(Relaxed) {
                    let begun = Instant::now();
                    let asker = ask(control, request);
                    // Who was kept from asking for a quarter of a second may have been dismissed.
                    let at_once = begun.elapsed() < Duration::from_millis(200);
                    let answer = asker.and_then(io::read_to_string);
                    if at_once && !answer.as_ref().is_ok_and(|answer| answer.ends_with("}\n")) {
                        cut.push(format!("{answer:?}"));
                    }
                }
                cut
            })
        };
        let askers = ["status json", "status json", "connections json"].map(ask_on);
        for _ in 0..10 {
            bed.hand_over(Deferred, &[]);
        }
        drop(all_asked);
        askers.map(|asker| asker.join().expect("its answers")).concat()
    });
    assert_eq!(cut, [""; 0]);
    pairs.into_iter().for_each(Pair::close);
}

/// A process that ends closes its highest descriptor first. A client leg that was closed after the device could send no
/// reset: so below the device's descriptor there is none that a connection may get.
fn resets_have_an_address() {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(Family::V4);
    let mut pairs = Vec::new();
    for round in 0..3 {
        let pid = bed.daemon().pid();
        let path = |number: u32| fs::read_link(format!("/proc/{pid}/fd/{number}"));
        let below = (0..).map_while(|number| path(number).ok());
        assert!(
            below.take(32).any(|to| to.ends_with("net/tun")),
            "round {round}: a gap comes before the device"
        );
        pairs.extend((0..3).map(|_| bed.stolen(&listener)));
        // The first of them gives its descriptors back.
        pairs.remove(0).close();
        bed.hand_over(Deferred, &[]);
    }
    bed.daemon().signal(Signal::SIGKILL);
    bed.daemon().wait_end(patience());
    for Pair { client, server, .. } in &pairs {
        assert_eq!((end(client), end(server)), (End::Reset, End::Reset));
    }
}

/// A taker that goes away, says something else or nothing, before and after the workers wait for it.
fn what_takers_may_say() {
    let mut bed = Bed::started(Deferred, &[]);
    let mut live = Live::begin(&mut bed);
    let ask = |words: &[&[u8]], end: bool| {
        let mut taker = UnixStream::connect(bed.control()).expect("connect");
        taker.set_read_timeout(Some(patience())).expect("a bound");
        taker.write_all(b"take over\n").expect("ask");
        let mut message = [0; 320];
        taker.read_exact(&mut message).expect("an offer");
        for word in words {
            if taker.write_all(word).is_err() {
                break;
            }
        }
        if end {
            return;
        }
        // Until it is given up.
        while taker.read(&mut message).is_ok_and(|read| read > 0) {}
    };
    let said: [(&[&[u8]], bool); 6] = [
        (&[], true),
        (&[], false),
        (&[b"x"], false),
        (&[b"p"], true),
        (&[b"p"], false),
        (&[b"p", b"garbage"], false),
    ];
    for (words, end) in said {
        ask(words, end);
    }
    eventually("it has given all of them up", patience(), || bed.log().matches("carrying on").count() == 6);
    live.check(&mut bed);
}

/// Only root and the daemon's own user may.
fn strangers_may_not() {
    let mut bed = Bed::started(Deferred, &[]);
    let mut live = Live::begin(&mut bed);
    fs::set_permissions(bed.control(), Permissions::from_mode(0o666)).expect("a socket for everybody");
    let program = Public::new(&bed.net.router);
    let mut stranger = Command::new(&program.0);
    stranger.arg("run").arg("--control").arg(bed.control()).uid(65_534).gid(65_534);
    let (code, said) = refusal(&bed.net.router, stranger);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("only root and the daemon's own user may take over"), "{said}");
    live.check(&mut bed);
}

/// The number of workers stays; that of slots follows, both ways, and what one client may have.
fn workers_and_slots() {
    let mut bed = Bed::started(Deferred, &["-T", "3"]);
    let listener = bed.listen(Family::V6);
    let open = bed.stolen(&listener);
    bed.hand_over(Deferred, &["-T", "1"]);
    assert!(bed.log().contains("3 workers, as before"), "{}", bed.log());
    open.exchange(1, 1000);
    // More slots, and fewer, as long as they are enough.
    bed.hand_over(Deferred, &["-c", "4000"]);
    assert_eq!(bed.told("status")["slots"]["max"].number(), 4000);
    bed.hand_over(Deferred, &["-c", "4"]);
    assert_eq!(bed.told("status")["slots"]["max"].number(), 4);
    open.exchange(2, 1000);
    // A client that has more than it may keeps them.
    let second = bed.stolen(&listener);
    bed.hand_over(Deferred, &["-c", "4", "--per-client", "1"]);
    bed.direct(&listener).close();
    for pair in [open, second] {
        pair.exchange(3, 1000);
        pair.close();
    }
    bed.daemon().wait_idle(patience());
    let only = bed.stolen(&listener);
    bed.direct(&listener).close();
    bed.hand_over(Deferred, &["-c", "4"]);
    only.close();
    bed.check_all_slots(Family::V6, 4);
}

/// New connections have the new options, those that live keep what they have.
fn other_options() {
    let gateway =
        ["--satellite", "client", "--rate-down", "8", "--rtt", "300", "-C", "reno", "--mss", "1000"];
    let mut bed = Bed::started(Early, &gateway);
    let listener = bed.listen(Family::V4);
    let client_leg = |bed: &Bed, pair: &Pair| {
        let port = pair.client.local_addr().expect("an address").port();
        Socket::of(&bed.net.router, "dport", port).words.join(" ")
    };
    let before = bed.stolen(&listener);
    before.exchange(1, 100_000);
    assert!(client_leg(&bed, &before).contains("reno"), "{}", client_leg(&bed, &before));
    bed.hand_over(Deferred, &["-C", "cubic", "--rate-up", "4", "--rtt", "300"]);
    let after = bed.stolen(&listener);
    for pair in [&before, &after] {
        pair.exchange(2, 100_000);
    }
    assert!(client_leg(&bed, &before).contains("reno"));
    let leg = client_leg(&bed, &after);
    assert!(!leg.contains("reno") && !leg.contains("mss:988"), "{leg}");
    let server_leg = Socket::of(&bed.net.router, "sport", after.peer.port()).words.join(" ");
    assert!(server_leg.contains("cubic"), "{server_leg}");
    assert_eq!(bed.told("status")["handshake"].text(), "deferred");
    before.close();
    after.close();
    bed.check_nothing_left(Family::V4);
}

fn the_routes_of_the_jump_start() {
    let link = |rate| ["--rate-up", rate, "--rate-down", "8", "--rtt", "300", "-C", "cubic"];
    let mut bed = Bed::build(Plan::default());
    bed.start(Deferred, &link("8"));
    let listener = bed.listen(Family::V4);
    let rules = |bed: &Bed| {
        let list = bed.net.router.exec("ip rule", "");
        list.lines().filter(|line| line.contains("lookup 500")).count()
    };
    let window = |bed: &Bed| {
        let pair = bed.stolen(&listener);
        let window = Socket::of(&bed.net.router, "dport", listener.address.port()).info("cwnd");
        pair.close();
        window
    };
    assert_eq!((rules(&bed), window(&bed)), (4, 198));
    bed.daemon().wait_idle(patience());
    bed.hand_over(Deferred, &link("8"));
    assert_eq!((rules(&bed), window(&bed)), (4, 198));
    bed.daemon().wait_idle(patience());
    bed.hand_over(Deferred, &link("4"));
    assert_eq!((rules(&bed), window(&bed)), (4, 99));
    bed.daemon().wait_idle(patience());
    bed.hand_over(Deferred, &["-C", "cubic"]);
    assert_eq!((rules(&bed), window(&bed)), (0, 10));
    let left = bed.net.router.exec("ip route show table all", "");
    assert!(!left.contains("table 500"), "{left}");
    bed.hand_over(Deferred, &link("8"));
    assert_eq!((rules(&bed), window(&bed)), (4, 198));
    bed.signal(Signal::SIGTERM);
    assert!(bed.daemon().wait_end(patience()).success());
    assert_eq!(rules(&bed), 0);
}
