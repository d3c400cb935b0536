//! Shows that the number of slots is a hard limit, and that reaching it harms nobody: what comes beyond goes
//! direct, and once slots are free connections are stolen again.

use std::process::Command;

use nix::sys::resource::{Resource, getrlimit};

use crate::bed::{Bed, Family, Handshake, Handshake::*, Plan};
use crate::connection::Pair;
use crate::daemon::{binary, refusal};
use crate::host::patience;

four_ways!(slots_full);
once!(most_slots);

fn slots_full(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &["-c", "4"]);
    let listener = bed.listen(family);

    for round in 0..3 {
        let stolen: Vec<Pair> = (0..4).map(|_| bed.stolen(&listener)).collect();
        let direct: Vec<Pair> = (0..6).map(|_| bed.direct(&listener)).collect();
        for (seed, pair) in (0..).zip(stolen.iter().chain(&direct)) {
            pair.exchange(seed, 100_000);
        }
        let said = bed.log().matches("slots are in use").count();
        assert_eq!(said, round + 1, "says once for each time, not for each SYN, that all slots are in use");
        // Also the direct connections are no worse for the daemon's having seen their SYN.
        direct.into_iter().chain(stolen).for_each(Pair::close);
        bed.daemon().wait_idle(patience());
    }
    bed.check_all_slots(family, 4);
}

/// Two file descriptors for each slot are asked for at start. Where the hard limit cannot be raised, that is
/// said instead of being found out in the middle of a connection.
fn most_slots() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of file descriptors");
    let slots = ["-c", "16384", "-T", "2"];
    if hard >= 40_000 || has_cap_sys_resource() {
        let mut bed = Bed::started(Deferred, &slots);
        bed.check_nothing_left(Family::V4);
        bed.check_nothing_left(Family::V6);
    } else {
        let bed = Bed::build(Plan::default());
        let mut command = Command::new(binary());
        command.arg("run").args(slots);
        let (code, said) = refusal(&bed.net.router, command);
        assert_eq!(code, Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("file descriptor limit") && said.contains("-c"), "{said}");
    }
}

fn has_cap_sys_resource() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("CapEff");
    let bits = u64::from_str_radix(effective.trim(), 16).expect("a hexadecimal number");
    bits >> CAP_SYS_RESOURCE & 1 == 1
}
