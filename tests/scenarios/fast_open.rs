//! Shows `-f`: once a server has given its cookie, the client's first bytes reach it with the SYN (RFC 7413), exactly,
//! however the client goes on; and a protocol in which the server speaks first does not wait for bytes that never come.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bed::{Bed, Family, Handshake::*, Plan};
use crate::connection::{Listener, Pair, reset};
use crate::daemon::{binary, refusal};
use crate::host::{SYN, eventually, patience, slowness};
use crate::stream::{End, end, receive, receive_all, send, send_part};

both_families!(first_bytes_with_the_syn, server_speaks_first, odd_ends);
once!(needs_an_early_handshake, needs_the_kernel);

/// Client, server, and all listeners without asking; ip-sysctl.rst in the kernel's documentation.
const ALL: &str = "1027";

/// How long the daemon waits for them: its constant of that name.
const FIRST_BYTES: Duration = Duration::from_millis(50);

/// A server that offers Fast Open and has given the router its cookie.
fn acquainted(family: Family) -> (Bed, Listener) {
    let bed = Bed::started(Early, &["-f", "-c", "4"]);
    bed.net.server.sysctl("net/ipv4/tcp_fastopen", ALL);
    let listener = bed.listen(family);
    let first = bed.stolen(&listener);
    first.exchange(1, 1000);
    first.close();
    (bed, listener)
}

fn first_bytes_with_the_syn(family: Family) {
    let (mut bed, listener) = acquainted(family);
    // Longer than all headers with all options.
    let with_bytes = format!("tcp dport {} {SYN} meta length > 150", listener.address.port());
    let syns = bed.net.server.count("syns", "input priority 0", &with_bytes);

    for (seed, length) in [(2, 300), (3, 100_000)] {
        // One that is kept from speaking for longer than the daemon waits is none that speaks at once.
        eventually("a client speaks at once", patience(), || {
            let before = syns.packets();
            let begun = Instant::now();
            let client = bed.connect(listener.address).expect("connect");
            send(&client, seed, 300).expect("send");
            let at_once = begun.elapsed() < FIRST_BYTES;
            send_part(&client, seed, 300, length).expect("send");
            // A client that ends its direction at once is no less exact.
            client.shutdown(Shutdown::Write).expect("shut down");
            let (server, peer) = listener.accept();
            assert_eq!(peer.ip(), family.router_wan(), "the connection went past pepsal");
            receive_all(&server, seed, length);
            assert!(syns.packets() == before + 1 || !at_once, "the first bytes did not come with the SYN");
            send(&server, !seed, length).expect("send");
            drop(server);
            receive_all(&client, !seed, length);
            at_once
        });
    }
    bed.check_all_slots(family, 4);
}

/// As SSH and SMTP do. The SYN leaves after a moment, without bytes.
fn server_speaks_first(family: Family) {
    let (mut bed, listener) = acquainted(family);
    let greetings = [(); 3].map(|()| {
        let start = Instant::now();
        let pair = bed.stolen(&listener);
        send(&pair.server, 5, 220).expect("send the greeting");
        receive(&pair.client, 5, 220);
        let took = start.elapsed();
        pair.exchange(6, 10_000);
        pair.close();
        took
    });
    // Whatever else keeps the machine busy is over in one of them.
    let fastest = greetings.iter().min().expect("three");
    assert!(*fastest < Duration::from_millis(500) * slowness(), "the greetings took {greetings:?}");
    bed.check_all_slots(family, 4);
}

/// Clients that close or reset without a word, and a server that does not answer at this port.
fn odd_ends(family: Family) {
    let (mut bed, listener) = acquainted(family);
    drop(bed.connect(listener.address).expect("connect"));
    let (server, _) = listener.accept();
    assert_eq!(end(&server), End::Fin);
    drop(server);

    reset(bed.connect(listener.address).expect("connect"));
    if let Some((server, _)) = listener.accept_within(Duration::from_millis(300)) {
        assert_eq!(end(&server), End::Reset);
    }

    let mut refused = bed.connect(bed.closed_port(family)).expect("early: the router answers");
    // The kernel tells of a reset once, whoever asks first.
    match refused.write_all(b"hello") {
        Ok(()) => assert_eq!(end(&refused), End::Reset),
        Err(err) => assert_eq!(err.kind(), ErrorKind::ConnectionReset),
    }

    // Not at the same listener: what the client has reset may still come there.
    let Pair { client, server, .. } = bed.stolen(&bed.listen(family));
    reset(server);
    assert_eq!(end(&client), End::Reset);
    bed.daemon().wait_idle(patience());
    bed.check_all_slots(family, 4);
}

fn needs_an_early_handshake() {
    let bed = Bed::build(Plan::default());
    let mut command = Command::new(binary());
    command.args(["run", "-f"]);
    let (code, said) = refusal(&bed.net.router, command);
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("--handshake early"), "{said}");
}

fn needs_the_kernel() {
    let bed = Bed::build(Plan::default());
    bed.net.router.sysctl("net/ipv4/tcp_fastopen", "0");
    let mut command = Command::new(binary());
    command.args(["run", "-f", "--handshake", "early"]);
    let (code, said) = refusal(&bed.net.router, command);
    assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("net.ipv4.tcp_fastopen=1"), "{said}");
}
