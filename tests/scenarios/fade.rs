//! Shows that a rain fade, in which not one packet passes the satellite, ends no connection: a transfer each way goes
//! on and arrives whole, an idle connection is still there. A server that never comes back is given up when the kernel
//! says so, and its slot serves again.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::bed::{Bed, Family, Family::*, Handshake, possible};
use crate::connection::Pair;
use crate::host::{eventually, patience, seconds};
use crate::stream::{End, KIB, end, receive_some, send, send_part};

four_ways!(seconds_long, dead_server);

fn seconds_long(family: Family, handshake: Handshake) {
    survive(family, handshake, seconds(4));
}

/// As long as fades of heavy rain last. After it the kernel may wait as long again before it tries once more.
#[test]
#[ignore = "takes two minutes; tests/run.sh runs it in a step of its own"]
fn minute_long() {
    if possible() {
        survive(V4, Handshake::Deferred, Duration::from_secs(60));
    }
}

fn survive(family: Family, handshake: Handshake, fade: Duration) {
    let length = 6000 * KIB;
    // Slow enough that both transfers are under way when the fade begins.
    let mut bed = Bed::started(handshake, &["--rate-up", "16"]);
    let listener = bed.listen(family);
    let (up, down, idle) = (bed.stolen(&listener), bed.stolen(&listener), bed.stolen(&listener));
    for stream in [&up.client, &up.server, &down.client, &down.server] {
        let bound = Some(3 * fade + patience());
        stream.set_read_timeout(bound).expect("a read timeout");
        stream.set_write_timeout(bound).expect("a write timeout");
    }
    // The last bytes leave in the rain, so that no transfer is over before, however late it begins to rain.
    let raining = AtomicBool::new(false);
    let wait_for_rain = || eventually("it rains", patience(), || raining.load(Relaxed));
    thread::scope(|scope| {
        let started = Instant::now();
        scope.spawn(|| {
            let most = length - 100 * KIB;
            send_part(&up.client, 1, 0, most).expect("send up");
            wait_for_rain();
            send_part(&up.client, 1, most, length).expect("send the last of it up");
        });
        scope.spawn(|| send_slowly(&down, length, wait_for_rain));
        let receivers = [(&up.server, 1), (&down.client, 2)].map(|(stream, seed)| {
            scope.spawn(move || {
                let (got, how) = receive_some(stream, seed, 0, length);
                assert_eq!(how, End::Full, "after {got} bytes");
                started.elapsed()
            })
        });
        thread::sleep(Duration::from_millis(300));
        let server = &bed.net.server;
        for (name, hook) in [("rain_in", "input priority -400"), ("rain_out", "output priority -400")] {
            server.discard(name, hook, "meta l4proto tcp");
        }
        raining.store(true, Relaxed);
        thread::sleep(fade);
        assert!(receivers.iter().all(|it| !it.is_finished()), "a transfer had ended before the fade");
        server.remove_rules("rain_in");
        server.remove_rules("rain_out");
        for receiver in receivers {
            let took = receiver.join().expect("a receiver");
            assert!(took > fade, "nothing has stopped it");
        }
    });
    idle.exchange(3, 10_000);
    drop((up, down, idle));
    bed.check_nothing_left(family);
}

/// The pace is the satellite leg's; the server's own TCP would be through before the rain.
fn send_slowly(pair: &Pair, length: u64, before_the_last: impl Fn()) {
    let step = length / 60;
    for part in 0..60 {
        if part == 59 {
            before_the_last();
        }
        send_part(&pair.server, 2, part * step, (part + 1) * step).expect("send down");
        thread::sleep(Duration::from_millis(30));
    }
}

/// The kernel gives up after as many retransmissions as this router's tcp_retries2 says, here for three seconds'
/// worth; by default for a quarter of an hour's.
fn dead_server(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &["-c", "4"]);
    bed.net.router.sysctl("net/ipv4/tcp_retries2", "3");
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);
    pair.exchange(1, 1000);
    bed.net.server.discard("dead", "input priority -400", "meta l4proto tcp");
    send(&pair.client, 2, 1000).expect("send");
    assert_eq!(end(&pair.client), End::Reset);
    bed.net.server.remove_rules("dead");
    drop(pair);
    bed.check_all_slots(family, 4);
}
