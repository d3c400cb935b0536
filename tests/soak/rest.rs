//! While the load rests: every failure is explained, and nothing is left of any connection.

use crate::bed::eventually;
use crate::daemon::Lives;
use crate::ledger::Ledger;

/// Pipe ends that a worker may keep.
const PIPE_ENDS: usize = 2 * 64;
/// What a daemon may have grown: nothing is allocated after the start, but pages are touched for the first time.
const GROWTH_KIB: u64 = 1024;

pub fn check(ledger: &Ledger, lives: &mut Lives) {
    ledger.settle();
    if !lives.is_alive() {
        return;
    }
    let (fresh, workers) = lives.fresh();
    let mut left = String::new();
    let empty = eventually(|| {
        let counters = lives.counters();
        let used = counters.get("pepsal_slots_used").copied().unwrap_or(u64::MAX);
        let (holds, sockets, tracked) = (lives.holds(), sockets(lives), tracked(ledger, lives));
        let pipes = fresh.pipes + PIPE_ENDS * workers;
        left = format!(
            "{used} slots, {} descriptors (fresh: {}), {} pipe ends (at most {pipes}), {sockets} sockets, {tracked} tracked",
            holds.others, fresh.others, holds.pipes
        );
        used == 0 && holds.others == fresh.others && holds.pipes <= pipes && sockets == 0 && tracked == 0
    });
    if !empty {
        ledger.note_state("something is left");
        ledger.fault(format!("something is left while the load rests: {left}"));
    }
    let grown = lives.holds().memory.saturating_sub(fresh.memory);
    lives.largest_growth = lives.largest_growth.max(grown);
    if grown > GROWTH_KIB {
        ledger.fault(format!("the daemon has grown by {grown} KiB"));
    }
    account(ledger, lives);
    ledger.checkpoint();
    ledger.say(&format!("at rest: {left}; grown by {grown} KiB"));
}

/// Every SYN that the daemon has seen has met one fate.
fn account(ledger: &Ledger, lives: &Lives) {
    let counters = lives.counters();
    let get = |name: &str| counters.get(&format!("pepsal_syns_{name}_total")).copied().unwrap_or(0);
    let passed = counters.iter().filter(|(name, _)| name.starts_with("pepsal_syns_passed_total"));
    let unseen = |name: &str| ["fail_open", "excluded"].iter().any(|reason| name.contains(reason));
    let passed: u64 = passed.filter(|(name, _)| !unseen(name)).map(|(_, count)| count).sum();
    let (seen, stolen, repeated) = (get("seen"), get("stolen"), get("repeated"));
    if seen != stolen + repeated + passed {
        ledger.fault(format!("of {seen} SYNs {stolen} were stolen, {repeated} repeated, {passed} passed"));
    }
}

/// Connected TCP sockets of the router.
fn sockets(lives: &Lives) -> usize {
    const LISTEN: &str = "0A";
    const TIME_WAIT: &str = "06";
    let count = |file| {
        let table = lives.proc_net(file);
        let states = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3));
        states.filter(|state| ![LISTEN, TIME_WAIT].contains(state)).count()
    };
    count("tcp") + count("tcp6")
}

/// TCP connections that the router's conntrack takes for alive, and is going to for long. After a reset whose number is
/// not exactly the next one, as in an outage, it lets them live for another two minutes. A reset that finds its interface
/// down is not sent at all (a connection is given up in that moment, or the client has gone), and the connection seems
/// alive to conntrack, as to the other end, until it has been silent for days: one that nothing has come of since is left
/// out. That the router has no socket for it any more is looked at by [`sockets`].
fn tracked(ledger: &Ledger, lives: &Lives) -> usize {
    const SOON: u64 = 300;
    /// net.netfilter.nf_conntrack_tcp_timeout_established, unless somebody has changed it; with Linux' default a new network
    /// namespace begins.
    const FOR_DAYS: u64 = 432_000;
    let table = lives.proc_net("nf_conntrack");
    let alive = table.lines().filter(|line| line.contains(" tcp ") && line.contains(" ESTABLISHED "));
    // Family, its number, protocol, its number, seconds left.
    let seconds = alive.map(|line| line.split_whitespace().nth(4).and_then(|word| word.parse().ok()));
    let since_down = ledger.now().saturating_sub(ledger.last_without_route()).as_secs();
    let silent = |left: u64| FOR_DAYS.saturating_sub(left);
    seconds
        .filter(|left: &Option<u64>| left.is_none_or(|left| left > SOON && silent(left) <= since_down))
        .count()
}
