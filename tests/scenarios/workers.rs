//! Shows how the daemon's inside behaves under connections: they spread evenly over the workers, each is
//! touched by one of them, and none of them takes memory from the heap.

use std::collections::BTreeMap;
use std::fs;

use crate::bed::{Bed, Family::*, Handshake::*};
use crate::connection::Pair;

once!(connections_are_spread_evenly);

/// Every leg is in the epoll instance of its connection's worker; proc(5) lists them under fdinfo.
fn connections_are_spread_evenly() {
    const WORKERS: usize = 4;
    const CONNECTIONS: usize = 64;
    let mut bed = Bed::started(Deferred, &["-T", "4"]);
    let listener = bed.listen(V4);
    let idle = watched(bed.daemon().pid());
    assert_eq!(idle.len(), WORKERS);

    let pairs: Vec<Pair> = (0..CONNECTIONS).map(|_| bed.stolen(&listener)).collect();
    pairs.iter().for_each(|pair| pair.exchange(1, 1000));
    for (epoll, count) in watched(bed.daemon().pid()) {
        // A client leg and a server leg for each connection.
        assert_eq!(count - idle[&epoll], 2 * CONNECTIONS / WORKERS, "legs in epoll instance {epoll}");
    }
    drop(pairs);
    bed.check_nothing_left(V4);
}

/// Watched descriptors by worker: the epoll instances with an event that means to wake a worker (`Token::Wake`).
fn watched(pid: u32) -> BTreeMap<String, usize> {
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("fdinfo").flatten();
    let counts = files.filter_map(|file| {
        let info = fs::read_to_string(file.path()).ok()?;
        let count = info.lines().filter(|line| line.starts_with("tfd:")).count();
        info.contains("data: ffffffffffffffff")
            .then(|| (file.file_name().to_string_lossy().into_owned(), count))
    });
    counts.collect()
}

/// Needs a daemon that counts: `cargo test --features count-allocations --test scenarios allocations`.
#[cfg(feature = "count-allocations")]
mod allocations {
    use std::thread;

    use nix::sys::signal::Signal;

    use super::*;
    use crate::bed::{Handshake, possible};
    use crate::host::patience;
    use crate::stream::{MIB, receive_all, send};

    #[test]
    fn of_the_deferred_handshake() {
        if possible() {
            do_not_grow(Deferred);
        }
    }

    #[test]
    fn of_the_early_handshake() {
        if possible() {
            do_not_grow(Early);
        }
    }

    fn do_not_grow(handshake: Handshake) {
        let few = allocations_with(handshake, 100);
        let many = allocations_with(handshake, 2000);
        // What each thread needs once, some of it in its first seconds.
        assert!(few < 20, "{few} allocations for 100 connections");
        assert!(many < 20, "{few} allocations for 100 connections, {many} for 2000");
    }

    fn allocations_with(handshake: Handshake, connections: u64) -> u32 {
        let mut bed = Bed::started(handshake, &["-T", "2"]);
        for family in [V4, V6] {
            let listener = bed.listen(family);
            for seed in 0..connections / 2 {
                let pair = bed.stolen(&listener);
                pair.exchange(seed, 1000);
                pair.close();
            }
            let Pair { client, server, .. } = bed.stolen(&listener);
            thread::scope(|scope| {
                scope.spawn(move || send(&client, 7, 8 * MIB).expect("send"));
                receive_all(&server, 7, 8 * MIB);
            });
        }
        bed.daemon().wait_idle(patience());
        bed.signal(Signal::SIGTERM);
        bed.daemon().wait_end(patience());
        let log = bed.log();
        let said =
            log.lines().find_map(|line| line.split_once(" allocations since ready")?.0.rsplit(' ').next());
        said.and_then(|count| count.parse().ok())
            .unwrap_or_else(|| panic!("no count of allocations in {log}"))
    }
}
