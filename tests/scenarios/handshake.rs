//! Shows that no handshake leaves a slot behind, however it goes on: SYNs repeated, clients that vanish or
//! reset half-way, servers that end the connection before the client has it. The daemon has four slots only, and
//! afterwards all four must serve again.

use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket};

use crate::bed::{Bed, Family, Handshake, Handshake::*};
use crate::connection::{Pair, reset};
use crate::host::{SYN, SetOnDrop, eventually, patience};
use crate::segment::send_syn;
use crate::stream::{End, end, receive, receive_all, send};

four_ways!(
    client_never_completes,
    server_ends_at_once,
    server_resets_at_once,
    client_with_ecn,
    repeated_while_queued
);
both_families!(client_gives_up, daemon_is_late, repeated_after_a_long_hold);

const SLOTS: usize = 4;
const FOUR_SLOTS: &[&str] = &["-c", "4", "--connect-timeout", "3"];

fn port_of_the_client(family: Family, number: usize) -> SocketAddr {
    SocketAddr::new(family.client(), 20_000 + u16::try_from(number).expect("a small number"))
}

/// Four ways of beginning without going on, each of which takes a slot for a bounded time: silence after the
/// SYN, as of a host that is switched off; the same after many SYNs; and, as the kernel knows nothing of a
/// hand-made SYN, a reset in answer to the SYN-ACK.
fn client_never_completes(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, FOUR_SLOTS);
    let listener = bed.listen(family);
    let to_listener = format!("tcp dport {} {SYN}", listener.address.port());
    let syns = bed.net.server.count("syns", "input priority 0", &to_listener);
    let resets = bed.net.client.count("resets", "output priority 0", "tcp flags & rst == rst");
    bed.net.client.discard("deaf", "input priority -400", "tcp dport 20000-20001");

    for _ in 0..10 {
        send_syn(&bed.net.client, port_of_the_client(family, 0), listener.address, &[]);
        thread::sleep(Duration::from_millis(5));
    }
    for number in 1..SLOTS {
        send_syn(&bed.net.client, port_of_the_client(family, number), listener.address, &[]);
    }
    let begun: Vec<_> = (0..SLOTS).map(|_| listener.accept()).collect();
    for (_, peer) in &begun {
        assert_eq!(peer.ip(), family.router_wan(), "a SYN went past pepsal");
    }
    assert!(listener.accept_within(Duration::from_millis(300)).is_none(), "a SYN was stolen twice");
    assert_eq!(syns.packets(), SLOTS as u64);
    // The server may know of a connection before the client's SYN is injected.
    eventually("the client resets two", patience(), || resets.packets() >= 2);

    bed.direct(&listener).close();
    for (server, _) in &begun {
        assert_eq!(end(server), End::Reset);
    }
    bed.check_all_slots(family, SLOTS);
}

/// The server has sent everything and closed before the client's handshake is through.
fn server_ends_at_once(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, FOUR_SLOTS);
    let listener = bed.listen(family);
    thread::scope(|scope| {
        scope.spawn(|| {
            for seed in 0..20 {
                let (server, _) = listener.accept();
                send(&server, seed, 10_000).expect("send");
            }
        });
        for seed in 0..20 {
            let client = bed.connect(listener.address).expect("connect");
            receive_all(&client, seed, 10_000);
        }
    });
    bed.check_all_slots(family, SLOTS);
}

fn server_resets_at_once(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, FOUR_SLOTS);
    let listener = bed.listen(family);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Deferred, a reset that comes quickly enough is a refusal: then the client's own SYN comes too.
            while !done.load(Relaxed) {
                if let Some((server, _)) = listener.accept_within(Duration::from_millis(100)) {
                    reset(server);
                }
            }
        });
        let _ending = SetOnDrop(&done);
        for _ in 0..20 {
            match bed.connect(listener.address) {
                Ok(client) => assert_eq!(end(&client), End::Reset),
                Err(err) => assert_eq!(err.kind(), ErrorKind::ConnectionReset),
            }
        }
    });
    bed.check_all_slots(family, SLOTS);
}

/// The client closes its socket while the server has not answered yet.
fn client_gives_up(family: Family) {
    let mut bed = Bed::started(Deferred, FOUR_SLOTS);
    let listener = bed.listen(family);
    bed.net.server.discard("all", "input priority 0", &format!("tcp dport {}", listener.address.port()));

    let kind = if family == Family::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    for _ in 0..SLOTS {
        let client = bed
            .net
            .client
            .inside(|| socket(kind, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp))
            .expect("a TCP socket");
        fcntl(&client, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a socket that does not block");
        let begun = connect(client.as_raw_fd(), &SockaddrStorage::from(listener.address));
        assert_eq!(begun, Err(Errno::EINPROGRESS));
    }
    let port = listener.address.port();
    eventually("the router asks the server", patience(), || {
        bed.net.router.connected_ports().iter().filter(|&&it| it == port).count() == SLOTS
    });
    bed.check_all_slots(family, SLOTS);
}

/// A SYN that offers explicit congestion notification carries two more flags.
fn client_with_ecn(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, FOUR_SLOTS);
    bed.net.client.sysctl("net/ipv4/tcp_ecn", "1");
    let listener = bed.listen(family);
    let pair: Pair = bed.stolen(&listener);
    pair.client.shutdown(Shutdown::Write).expect("shut down");
    pair.close();
    bed.check_all_slots(family, SLOTS);
}

/// Clients repeat SYNs that the daemon is slow to take, so each waits in the queue twice. By the second of a client its
/// connection is relayed already; that must not steal it once more.
fn repeated_while_queued(family: Family, handshake: Handshake) {
    const CLIENTS: u64 = 100;
    let mut bed = Bed::started(handshake, &["-T", "1"]);
    let listener = bed.listen(family);
    let to_listener = format!("tcp dport {} {SYN}", listener.address.port());
    let syns = bed.net.client.count("syns", "output priority 0", &to_listener);

    bed.signal(Signal::SIGSTOP);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| bed.connect(listener.address))).collect();
        eventually("all SYNs are repeated", patience(), || syns.packets() >= 2 * CLIENTS);
        bed.signal(Signal::SIGCONT);
        let servers: Vec<_> = (0..CLIENTS).map(|_| listener.accept()).collect();
        for (_, peer) in &servers {
            assert_eq!(peer.ip(), family.router_wan(), "a SYN went past pepsal");
        }
        for client in clients {
            client.join().expect("no panic").expect("connect");
        }
        assert!(listener.accept_within(Duration::from_millis(500)).is_none(), "a SYN was stolen twice");
    });
    bed.check_nothing_left(family);
}

/// The same of a SYN that was held before for longer than SYNs wait in the queue together: its server was out of reach.
fn repeated_after_a_long_hold(family: Family) {
    const LONG: Duration = Duration::from_secs(11);
    let bed = Bed::started(Deferred, &["-T", "1", "--connect-timeout", "100"]);
    let listener = bed.listen(family);
    let to = listener.address;
    let from_router = format!("{} saddr {} tcp dport {}", family.nft(), family.router_wan(), to.port());
    bed.net.server.discard("router", "input priority 0", &from_router);
    thread::scope(|scope| {
        let connecting = scope.spawn(|| bed.connect(to).expect("connect"));
        let held = || bed.told("status")["connections"]["connecting"].number() == 1;
        eventually("the SYN is held", patience(), held);
        let from =
            bed.told("connections")["connections"].items()[0]["client"].text().parse().expect("an address");
        thread::sleep(LONG);
        bed.signal(Signal::SIGSTOP);
        bed.net.server.remove_rules("router");
        let (server, peer) = listener.accept();
        // Until these are through, the connection is accepted.
        for number in 1..10 {
            let nobody = SocketAddr::new(to.ip(), 1);
            send_syn(&bed.net.client, port_of_the_client(family, number), nobody, &[]);
        }
        send_syn(&bed.net.client, from, to, &[]);
        bed.signal(Signal::SIGCONT);
        assert_eq!(peer.ip(), family.router_wan(), "a SYN went past pepsal");
        let client = connecting.join().expect("a connected client");
        assert!(listener.accept_within(Duration::from_millis(500)).is_none(), "a SYN was stolen twice");
        send(&client, 5, 1000).expect("send");
        client.shutdown(Shutdown::Write).expect("shut down");
        receive_all(&server, 5, 1000);
    });
}

/// The handshakes are through, but the daemon gets round to accepting only when its patience with the clients has ended.
fn daemon_is_late(family: Family) {
    const CLIENTS: u64 = 8;
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut bed = Bed::started(if family == Family::V4 { Deferred } else { Early }, &["-T", "1"]);
    let listener = bed.listen(family);
    let injected = bed.net.router.count("injected", "prerouting priority -400", "iifname pepsal0");
    let syn_ack = "tcp flags & (syn | ack) == (syn | ack)";
    bed.net.client.discard("deaf", "input priority -400", syn_ack);

    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let client = bed.connect(listener.address).expect("connect");
                send(&client, 5, 1000).expect("send");
                receive_all(&client, 6, 1000);
            });
        }
        eventually("all SYNs are injected", patience(), || injected.packets() == CLIENTS);
        // Both ends would repeat themselves in the same moment; a SYN that is overtaken by data confuses conntrack, which
        // then lets an answer out as it is.
        bed.net.client.discard("mute", "output priority -400", SYN);
        bed.signal(Signal::SIGSTOP);
        bed.net.client.remove_rules("deaf");
        thread::sleep(PATIENCE + Duration::from_secs(1));
        bed.net.client.remove_rules("mute");
        bed.signal(Signal::SIGCONT);
        for _ in 0..CLIENTS {
            let (server, peer) = listener.accept();
            assert_eq!(peer.ip(), family.router_wan(), "a SYN went past pepsal");
            receive(&server, 5, 1000);
            send(&server, 6, 1000).expect("send");
        }
    });
    bed.check_nothing_left(family);
}
