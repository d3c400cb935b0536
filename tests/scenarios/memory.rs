//! Shows that `--memory` bounds what all connections together buffer: stalled readers push it to the budget,
//! windows shrink, what comes then goes direct, every byte arrives in the end, and once the readers have caught up
//! connections are stolen again.

use std::thread;

use nix::sys::socket::{setsockopt, sockopt};

use crate::bed::{Bed, Family, Handshake};
use crate::connection::{Listener, Pair, dial};
use crate::host::{eventually, patience, seconds};
use crate::socket_info::Socket;
use crate::stream::{KIB, MIB, receive, send};

four_ways!(budget);

/// In MiB. The numbers of the link let each direction of a connection's satellite leg take a tenth of it.
const ARGS: [&str; 8] = ["--memory", "8", "--rate-down", "5", "--rate-up", "8", "--rtt", "200"];
const BUDGET: u64 = 8 * MIB;

/// What a server sends on each connection: more than all buffers on the way.
const LENGTH: u64 = 8 * MIB;

/// With a receive buffer that stays small, so that what its application does not read stays in the router.
fn small_reader(bed: &Bed, listener: &Listener) -> Pair {
    let small = |socket: &_| setsockopt(socket, sockopt::RcvBuf, &(64 << 10)).expect("SO_RCVBUF");
    let client = dial(&bed.net.client, listener.address, small).expect("connect");
    listener.join(client)
}

fn budget(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &ARGS);
    let listener = bed.listen(family);
    let port = listener.address.port();
    let held = |bed: &Bed| -> u64 {
        let sockets = Socket::all(&bed.net.router, &format!("( dport = :{port} or sport = :5000 )"));
        let parts = ["r", "f", "w", "bl"];
        sockets.iter().map(|socket| parts.iter().map(|part| socket.memory(part)).sum::<u64>()).sum()
    };
    thread::scope(|scope| {
        let mut stalled: Vec<(u64, Pair)> = Vec::new();
        let direct = loop {
            let pair = small_reader(&bed, &listener);
            if !bed.is_stolen(&pair) {
                break pair;
            }
            let seed = stalled.len() as u64;
            let server = pair.server.try_clone().expect("another descriptor");
            scope.spawn(move || send(&server, seed, LENGTH).expect("send"));
            stalled.push((seed, pair));
            assert!(stalled.len() < 40, "{} bytes are held and a SYN is stolen", held(&bed));
            // What comes before the daemon has looked again is beyond its budget: the next comes when it knows this one.
            let mut before = 0;
            eventually("the daemon knows what is held", patience(), || {
                thread::sleep(seconds(1) / 4);
                let now = held(&bed);
                let settled = now.abs_diff(before) <= 64 * KIB;
                before = now;
                settled && bed.told("status")["memory"]["used_bytes"].number() >= now / 10 * 9
            });
        };
        assert!(stalled.len() >= 4, "only {} connections spend the budget", stalled.len());
        // It is as good as one without pepsal, and so is each one that follows.
        direct.exchange(1000, 100_000);
        bed.direct(&listener).exchange(1001, 100_000);
        // More if one of them was repeated.
        assert!(bed.passed("memory") >= 2);
        assert_eq!(bed.log().matches("memory budget").count(), 1, "one line, not one for each SYN");

        // The senders go on sending for all they can.
        thread::sleep(seconds(3));
        let most = held(&bed);
        assert!((BUDGET / 2..BUDGET * 5 / 4).contains(&most), "{most} bytes are held of {BUDGET}");

        // What a leg may announce again once there is room: a part of its share, and not 400 KB.
        eventually("all windows are small", patience(), || {
            let legs = Socket::all(&bed.net.router, &format!("dport = :{port}"));
            legs.iter().all(|leg| leg.info("rcv_ssthresh") <= 128 << 10)
        });

        for (seed, pair) in &stalled {
            receive(&pair.client, *seed, LENGTH);
        }
        eventually("connections are stolen again", patience(), || {
            let pair = bed.pair(&listener);
            pair.exchange(2000, 10_000);
            bed.is_stolen(&pair)
        });
        eventually("something said of it", patience(), || bed.log().contains("memory budget has room again"));
        let (_, first) = &stalled[0];
        eventually("none is left with small windows", patience(), || {
            first.exchange(3000, MIB);
            let leg = Socket::of(&bed.net.server, "dport", first.peer.port());
            leg.info("snd_wnd") > 128 << 10
        });
    });
    bed.check_nothing_left(family);
}
