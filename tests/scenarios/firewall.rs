//! Shows that the router's firewall keeps its say, in a router with a filter like fw4's: what it drops stays
//! dropped, what it translates passes, zones that may not talk to the router itself are still served; and
//! that what must not be split is not.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::thread;

use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};

use crate::bed::{Bed, Family, Handshake, Handshake::*, Net, Plan, nft_rules};
use crate::connection::{Listener, Pair, dial, dial_within};
use crate::daemon::rules;
use crate::host::{SYN, eventually, patience, seconds};
use crate::segment::send_syn;

four_ways!(what_is_dropped_stays_dropped, guest_zone, translated_destination);
both_families!(
    exclusions,
    signed_with_md5,
    signed_with_ao,
    from_outside,
    from_the_router,
    strict_reverse_path_filter,
    rules_gone_while_a_syn_is_held,
);
once!(rules_loaded_twice, rules_of_odd_arguments);

fn guarded(handshake: Handshake) -> Bed {
    let mut bed = Bed::build(Plan { firewall: true, ..Plan::default() });
    bed.start(handshake, &[]);
    bed
}

fn what_is_dropped_stays_dropped(family: Family, handshake: Handshake) {
    let mut bed = guarded(handshake);
    let allowed = bed.listen(family);
    let by_port = bed.listen(family);
    let rejected = bed.listen(family);
    let by_address = bed.listen_at(SocketAddr::new(family.address(Net::Wan, 3), allowed.address.port()));
    bed.net.router.nft(&format!(
        "add rule inet fw4 user tcp dport {} drop
         add rule inet fw4 user tcp dport {} reject with tcp reset
         add rule inet fw4 user {} daddr {} drop\n",
        by_port.address.port(),
        rejected.address.port(),
        family.nft(),
        by_address.address.ip()
    ));
    let blocked = format!(
        "tcp dport {{ {}, {} }} counter name seen\n{} daddr {} tcp dport {}",
        by_port.address.port(),
        rejected.address.port(),
        family.nft(),
        by_address.address.ip(),
        by_address.address.port()
    );
    let arrived = bed.net.server.count("arrived", "input priority 0", &blocked);

    for dropped in [&by_port, &by_address] {
        let failed = dial_within(&bed.net.client, dropped.address, seconds(2), |_| ());
        assert_eq!(failed.expect_err("the firewall drops it").kind(), ErrorKind::TimedOut);
    }
    let failed = bed.connect(rejected.address).expect_err("the firewall rejects it");
    assert_eq!(failed.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(arrived.packets(), 0, "the server has seen what the firewall drops");
    bed.stolen(&allowed).exchange(1, 10_000);
    bed.check_nothing_left(family);
}

/// The guest zone's input chain rejects everything; its clients' SYNs come in from pepsal0 instead.
fn guest_zone(family: Family, handshake: Handshake) {
    let mut bed = guarded(handshake);
    let listener = bed.listen(family);
    let to_router = SocketAddr::new(family.address(Net::Guest, 1), 5000);
    let failed = dial(&bed.net.guest, to_router, |_| ()).expect_err("guests may not talk to the router");
    assert_eq!(failed.kind(), ErrorKind::ConnectionRefused);

    let pair = bed.pair_from(&bed.net.guest, &listener);
    bed.check_stolen(&pair);
    pair.exchange(1, 1_000_000);
    pair.close();
    bed.check_nothing_left(family);
}

/// The reply to a connection whose destination was translated would bear the wrong address.
fn translated_destination(family: Family, handshake: Handshake) {
    let mut bed = guarded(handshake);
    let listener = bed.listen(family);
    let (real, public) = (listener.address, SocketAddr::new(family.address(Net::Far, 9), 80));
    let rule = format!("{0} daddr {1} tcp dport 80 dnat {0} to {real}", family.nft(), public.ip(),);
    bed.net.router.translate("prerouting priority dstnat", &rule);
    let client = bed.connect(public).expect("connect to the translated address");
    assert_eq!(client.peer_addr().expect("a peer"), public);
    let pair = listener.join(client);
    bed.check_direct(&pair);
    pair.exchange(1, 100_000);
    pair.close();
    bed.check_nothing_left(family);
}

fn exclusions(family: Family) {
    let mut bed = Bed::build(Plan { firewall: true, ..Plan::default() });
    let by_port = bed.listen(family);
    let split = bed.listen(family);
    let by_server = bed.listen_at(SocketAddr::new(family.address(Net::Wan, 3), split.address.port()));
    let ports = format!("22,{0}-{0},8000-8002", by_port.address.port());
    let servers = format!("{},{}", Family::V4.address(Net::Wan, 3), Family::V6.address(Net::Wan, 3));
    let clients =
        format!("{}/24,{}/64", Family::V4.address(Net::Guest, 0), Family::V6.address(Net::Guest, 0));
    bed.install_rules(&[
        "--exclude-port",
        &ports,
        "--exclude-server",
        &servers,
        "--exclude-client",
        &clients,
    ]);
    bed.start_daemon(Deferred, &[]);

    bed.direct(&by_port).close();
    bed.direct(&by_server).close();
    let guests = bed.pair_from(&bed.net.guest, &split);
    bed.check_direct(&guests);
    guests.close();
    bed.stolen(&split).close();
    // Counted once each, and by nft's rules alone.
    assert_eq!(bed.passed("excluded"), if nft_rules() { 3 } else { 0 });
    bed.check_nothing_left(family);
}

/// struct tcp_md5sig of linux/tcp.h.
#[repr(C)]
pub struct Md5Key {
    address: [u8; 128],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: i32,
    key: [u8; 80],
}

sockopt_impl!(Md5Signature, SetOnly, libc::IPPROTO_TCP, libc::TCP_MD5SIG, Md5Key);

/// Signs what `socket` sends to `peer`, and takes nothing else from there; RFC 2385, as BGP does.
fn sign(socket: &OwnedFd, peer: SocketAddr) -> io::Result<()> {
    let mut key =
        Md5Key { address: [0; 128], flags: 0, prefix_length: 0, key_length: 6, interface: 0, key: [0; 80] };
    // The layout of a sockaddr: family in the machine's order, port, then for IPv6 the flow label, the address.
    let (family, at) = if peer.is_ipv4() { (libc::AF_INET, 4) } else { (libc::AF_INET6, 8) };
    let family = u16::try_from(family).expect("a small number");
    key.address[..2].copy_from_slice(&family.to_ne_bytes());
    match peer.ip() {
        IpAddr::V4(ip) => key.address[at..at + 4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => key.address[at..at + 16].copy_from_slice(&ip.octets()),
    }
    key.key[..6].copy_from_slice(b"secret");
    setsockopt(socket, Md5Signature, &key).map_err(io::Error::from)
}

fn signed_with_md5(family: Family) {
    let mut bed = guarded(Deferred);
    let listener = bed.listen(family);
    listener.prepare(|socket| sign(socket, SocketAddr::new(family.client(), 0)).expect("a key"));
    let client = dial(&bed.net.client, listener.address, |socket| {
        sign(socket, listener.address).expect("TCP-MD5 in this kernel");
    })
    .expect("connect with a signature");
    let pair = listener.join(client);
    bed.check_direct(&pair);
    pair.exchange(1, 10_000);
    pair.close();
    bed.check_nothing_left(family);
}

/// The kernel need not know TCP-AO (RFC 5925): what matters is that the SYN arrives as it was sent.
fn signed_with_ao(family: Family) {
    const AUTHENTICATION: u8 = 29;
    let mut bed = guarded(Deferred);
    let listener = bed.listen(family);
    let from = SocketAddr::new(family.client(), 23_000);
    let option = [AUTHENTICATION, 16, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let matching = |ip| format!("{} saddr {ip} tcp dport {} {SYN}", family.nft(), listener.address.port());
    let own = bed.net.server.count("own", "input priority -400", &matching(from.ip()));
    let split = bed.net.server.count("split", "input priority -400", &matching(family.router_wan()));
    send_syn(&bed.net.client, from, listener.address, &option);
    eventually("the SYN arrives", seconds(5), || own.packets() == 1);
    assert_eq!(split.packets(), 0);
    bed.check_nothing_left(family);
}

/// Connections from the WAN to a forwarded port are nothing that a terminal's PEP splits.
fn from_outside(family: Family) {
    let mut bed = guarded(Deferred);
    let inner = Listener::bind(&bed.net.client, SocketAddr::new(family.client(), 0));
    let public = SocketAddr::new(family.router_wan(), 8080);
    let rule = format!("iifname wan tcp dport 8080 dnat {} to {}", family.nft(), inner.address);
    bed.net.router.translate("prerouting priority dstnat", &rule);
    let outer = dial(&bed.net.server, public, |_| ()).expect("connect from outside");
    let (accepted, peer) = inner.accept();
    assert_eq!(peer, outer.local_addr().expect("an address"), "not the outer host itself");
    Pair { client: outer, server: accepted, peer }.exchange(1, 10_000);
    bed.check_nothing_left(family);
}

fn from_the_router(family: Family) {
    let mut bed = guarded(Deferred);
    let listener = bed.listen(family);
    let client = dial(&bed.net.router, listener.address, |_| ()).expect("connect from the router");
    let pair = listener.join(client);
    let own = pair.client.local_addr().expect("an address");
    assert_eq!(pair.peer, own, "the router's own connection was split");
    pair.exchange(1, 10_000);
    drop(pair);
    bed.check_nothing_left(family);
}

/// The SYN comes in from pepsal0 although its sender's address is routed to the LAN.
fn strict_reverse_path_filter(family: Family) {
    let mut bed = Bed::build(Plan { firewall: true, ..Plan::default() });
    for scope in ["all", "default", "lan", "wan"] {
        bed.net.router.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "1");
    }
    bed.start(Deferred, &[]);
    bed.check_nothing_left(family);
}

/// As every reload of the firewall does; connections that are open do not notice.
fn rules_loaded_twice() {
    let mut bed = guarded(Deferred);
    for family in [Family::V4, Family::V6] {
        let listener = bed.listen(family);
        let open = bed.stolen(&listener);
        for seed in 0..3 {
            bed.install_rules(&[]);
            open.exchange(seed, 100_000);
            bed.stolen(&listener).exchange(seed, 10_000);
        }
        open.close();
        bed.check_nothing_left(family);
    }
}

/// Whatever `pepsal rules` accepts, the firewall's own programs do, too.
fn rules_of_odd_arguments() {
    let bed = Bed::build(Plan::default());
    let lists = "--exclude-port 1-65535,22,65535 --exclude-server 0.0.0.0,::,255.255.255.255 --exclude-client \
                 ::ffff:1.2.3.4/96,::/0,0.0.0.0/0,10.1.2.3/8,fe80::1/64,::1.2.3.4";
    for device in ["-x", "--", "-j", "a:b", "~", "@", "..", "a@b~c", "123456789012345"] {
        // The longest pattern is a letter shorter than the longest name.
        let stem = &device[..device.len().min(14)];
        let devices =
            format!("--lan lan,{stem}*,-j* --wan wan --device {device} --transparent -p 1 -q 65535");
        for format in ["nft", "iptables", "ip6tables"] {
            let args = format!("{devices} {lists} --format {format}");
            let script = rules(&bed.net.router, &args.split_whitespace().collect::<Vec<_>>());
            match format {
                // Not every kernel has the queue; the rest of the line is what was to be shown.
                "nft" => {
                    let script = script.replace("queue flags bypass to 65535", "accept");
                    bed.net.router.exec("nft --check -f -", &script)
                }
                _ => bed.net.router.exec(&format!("{format}-restore -w -n --test"), &script),
            };
        }
    }
}

/// The SYN that waits for its server when somebody flushes the rules is redirected by nobody: it goes on to the server.
fn rules_gone_while_a_syn_is_held(family: Family) {
    let mut bed = Bed::started(Deferred, &["-T", "1"]);
    // As every firewall has: the kernel tracks connections only while a rule needs it.
    bed.net.router.add_rules("tracking", "forward priority filter", "ct state established accept");
    let listener = bed.listen(family);
    let port = listener.address.port();
    let from_router = format!("{} saddr {} tcp dport {port}", family.nft(), family.router_wan());
    bed.net.server.discard("router", "input priority 0", &from_router);

    thread::scope(|scope| {
        let connecting = scope.spawn(|| bed.connect(listener.address));
        eventually("a SYN is held", patience(), || bed.net.router.connected_ports().contains(&port));
        // Its repetitions would go direct in any case.
        bed.net.router.discard("repeated", "prerouting priority -400", "iifname lan tcp flags syn");
        bed.remove_rules();
        bed.net.server.remove_rules("router");
        // The server leg may be there before the client.
        let mut accepted = listener.accept();
        if accepted.1.ip() == family.router_wan() {
            accepted = listener.accept();
        }
        let (server, peer) = accepted;
        let client = connecting.join().expect("a thread").expect("a connection");
        let pair = Pair { client, server, peer };
        bed.check_direct(&pair);
        pair.exchange(1, 10_000);
    });
    bed.net.router.remove_rules("repeated");
    bed.install_rules(&[]);
    bed.check_nothing_left(family);
}
