//! What came of every transfer, and what disturbances explain.
//!
//! A failed transfer is explained only by a disturbance that fell into its time and that may have just this effect:
//! - the daemon killed, or ended with connections left: reset, so that nobody takes it for the end of the data
//! - an interface down: no route, for who connects just then, or so soon after that the neighbour is not found again
//! - with an early handshake, where the server's refusal comes too late: reset
//! - an interface down amid a handshake, so that it takes the client longer than the daemon waits for it (10 s), and another
//!   one down just when it is through: its connection is answered without a server leg, which now has no route: reset
//! - an interface down, or no rules, just when a SYN is held: the client goes direct, and the server sees an idle connection
//!   of the router's too. Only iperf3's minds: it takes any connection for the one that it waits for, and lets the other one
//!   wait for ever
//! - the daemon killed, when a server had just accepted and the client was not told yet: an iperf3 that serves one connection has
//!   served then, and its client is refused
//! - the daemon away or stalled: no answer at the control socket
//!
//! Everything else is a fault.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::bed::Bed;
use crate::transfers::{KINDS, STATUS};

pub enum Outcome {
    Done(u64),
    Failed(String),
    Wrong(String),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Effect {
    /// Connections of the daemon were reset.
    Reset,
    /// Whoever connects may learn that there is no route.
    NoRoute,
    /// The handshake was early: who connects to a closed port, or without a route, may be reset.
    Early,
    /// A server leg may be given up that its server has accepted, and the connection passes direct: the server sees both.
    Stray,
    /// Nobody answers at the control socket.
    Away,
}

/// From when to when a disturbance may have its effect.
pub struct Window {
    pub effect: Effect,
    pub cause: &'static str,
    pub from: Duration,
    /// `None`: it is still on.
    pub to: Option<Duration>,
}

/// How long a program may take to notice; it polls, or waits for a process of its own.
const GRACE: Duration = Duration::from_secs(30);

/// How long after an interface is up again whoever connects may learn that there is no route: who connects waits for the
/// neighbour with those that came before, and it is given up when it has not answered for this long (three times a second
/// apart; RFC 4861, MAX_MULTICAST_SOLICIT and RETRANS_TIMER, and Linux asks by ARP alike).
const NEIGHBOUR: Duration = Duration::from_secs(3);

/// How long the daemon waits for a client to complete its handshake.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// How long a SYN may be held while its server answers, and before it an iperf3 may wait for its server's listener.
const HELD: Duration = Duration::from_secs(5);

#[derive(Default, Clone)]
pub struct Tally {
    pub done: u64,
    pub bytes: u64,
    pub longest: Duration,
    /// Cause and count.
    pub explained: Vec<(&'static str, u64)>,
    pub faults: u64,
}

struct Failure {
    kind: usize,
    family: usize,
    from: Duration,
    to: Duration,
    why: String,
}

#[derive(Default)]
struct Books {
    tallies: Vec<Tally>,
    /// Not looked into yet: the windows are complete only when the load rests.
    failures: Vec<Failure>,
    windows: Vec<Window>,
    faults: Vec<String>,
    /// Disturbances by name, in the order of their first time.
    disturbances: Vec<(&'static str, u64)>,
    checkpoints: u64,
}

pub struct Ledger<'a> {
    bed: &'a Bed,
    books: Mutex<Books>,
}

impl<'a> Ledger<'a> {
    pub fn new(bed: &'a Bed) -> Ledger<'a> {
        let books = Books { tallies: vec![Tally::default(); KINDS.len()], ..Books::default() };
        Ledger { bed, books: Mutex::new(books) }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line of the run's story.
    pub fn say(&self, what: &str) {
        println!("{:8.1} s  {what}", self.bed.now().as_secs_f64());
    }

    /// What must not happen.
    pub fn fault(&self, what: String) {
        self.say(&format!("FAULT: {what}"));
        self.books().faults.push(format!("{:.1} s: {what}", self.bed.now().as_secs_f64()));
    }

    /// Writes down, for people, what lives at this moment.
    pub fn note_state(&self, why: &str) {
        let bed = self.bed;
        self.say(&format!("{why}: see state.txt"));
        let mut text = format!("{:.1} s: {why}\n", bed.now().as_secs_f64());
        let connections = format!("{} connections --control {}", bed.pepsal, bed.control().display());
        for (host, words) in [
            (&bed.router, connections.as_str()),
            (&bed.client, "ss -tanoiH"),
            (&bed.router, "ss -tanoiH"),
            (&bed.server, "ss -tanoiH"),
            (&bed.router, "cat /proc/net/nf_conntrack"),
        ] {
            let said = host.run(words, "").unwrap_or_else(|error| error);
            text += &format!("--- {}: {words}\n{said}", host.netns);
        }
        self.write_down("state.txt", &text);
    }

    /// For people, who want to look closer.
    fn write_down(&self, file: &str, text: &str) {
        let file = File::options().append(true).create(true).open(self.bed.out.join(file));
        // A run does not fail because of this.
        let _ = file.and_then(|mut file| file.write_all(text.as_bytes()));
    }

    pub fn now(&self) -> Duration {
        self.bed.now()
    }

    /// When an interface was last down; zero: never.
    pub fn last_without_route(&self) -> Duration {
        let books = self.books();
        let ends =
            books.windows.iter().filter(|window| window.effect == Effect::NoRoute).filter_map(|it| it.to);
        ends.max().unwrap_or_default()
    }

    pub fn disturbance(&self, name: &'static str) {
        count(&mut self.books().disturbances, name);
    }

    pub fn checkpoint(&self) {
        self.books().checkpoints += 1;
    }

    /// Begins a window; to be ended with [`close`](Self::close).
    pub fn open(&self, effect: Effect, cause: &'static str) {
        self.open_since(self.bed.now(), effect, cause);
    }

    /// A window that has begun already.
    pub fn open_since(&self, from: Duration, effect: Effect, cause: &'static str) {
        self.books().windows.push(Window { effect, cause, from, to: None });
    }

    pub fn close(&self, effect: Effect) {
        let now = self.bed.now();
        for window in &mut self.books().windows {
            if window.effect == effect && window.to.is_none() {
                window.to = Some(now);
            }
        }
    }

    /// A window that is known only now, from `from` until now.
    pub fn was(&self, effect: Effect, cause: &'static str, from: Duration) {
        let window = Window { effect, cause, from, to: Some(self.bed.now()) };
        self.books().windows.push(window);
    }

    /// The end of a transfer that began at `from`.
    pub fn enter(&self, kind: usize, family: usize, from: Duration, outcome: Outcome) {
        let to = self.bed.now();
        let mut books = self.books();
        let why = match outcome {
            Outcome::Done(bytes) => {
                let tally = &mut books.tallies[kind];
                tally.done += 1;
                tally.bytes += bytes;
                tally.longest = tally.longest.max(to - from);
                return;
            }
            Outcome::Failed(why) => why,
            Outcome::Wrong(why) => format!("WRONG: {why}"),
        };
        books.failures.push(Failure { kind, family, from, to, why });
    }

    /// Explains the failures so far. To be called while the load rests and no disturbance is on.
    pub fn settle(&self) {
        let mut faults = Vec::new();
        let mut books = self.books();
        for failure in std::mem::take(&mut books.failures) {
            let Failure { kind, family, from, to, why } = failure;
            let (name, version) = (KINDS[kind].name, ["IPv4", "IPv6"][family]);
            let cause = explain(&books.windows, name, (from, to), &why);
            let tally = &mut books.tallies[kind];
            match cause {
                Some(cause) => count(&mut tally.explained, cause),
                None => {
                    tally.faults += 1;
                    let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
                    let when = format!("{name}, {version}, {from:.1} to {to:.1} s");
                    self.write_down("faults.txt", &format!("--- {when}\n{why}\n"));
                    faults.push(format!("{when}: {}", last_words(&why)));
                }
            }
        }
        drop(books);
        faults.into_iter().for_each(|fault| self.fault(fault));
    }

    pub fn tallies(&self) -> Vec<Tally> {
        self.books().tallies.clone()
    }

    pub fn faults(&self) -> Vec<String> {
        self.books().faults.clone()
    }

    pub fn disturbances(&self) -> Vec<(&'static str, u64)> {
        self.books().disturbances.clone()
    }

    pub fn checkpoints(&self) -> u64 {
        self.books().checkpoints
    }
}

fn count(counts: &mut Vec<(&'static str, u64)>, name: &'static str) {
    match counts.iter_mut().find(|(known, _)| *known == name) {
        Some((_, count)) => *count += 1,
        None => counts.push((name, 1)),
    }
}

/// The disturbance by which a transfer may have failed as it did.
fn explain(
    windows: &[Window],
    kind: &str,
    (from, to): (Duration, Duration),
    why: &str,
) -> Option<&'static str> {
    let all_overlapping = |effect| {
        let lasts = if effect == Effect::NoRoute { NEIGHBOUR } else { Duration::ZERO };
        let within = move |window: &&Window| {
            let begun =
                window.from <= to && window.to.is_none_or(|end| from <= end + lasts && to <= end + GRACE);
            window.effect == effect && begun
        };
        windows.iter().filter(within).map(|window| window.cause)
    };
    let overlapping = |effect| all_overlapping(effect).next();
    if kind == STATUS {
        return overlapping(Effect::Away);
    }
    let says = |words: &[&str]| words.iter().any(|word| why.contains(word));
    // What programs make of ECONNRESET, and of EPIPE, which comes after it.
    let reset = says(&["Connection reset", "Broken pipe", "ConnectionResetError"]);
    // And Python of EHOSTUNREACH and ENETUNREACH; ssh, where the first SYN met no route and a later one did: Linux leaves the
    // ICMP message in the socket's error queue, for which poll() wakes ssh, which then finds nothing to read (IPv4 only; seen
    // without pepsal too).
    let no_route = says(&[
        "No route to host",
        "is unreachable",
        "Errno 113",
        "Errno 101",
        "Connection to 198.51.100.2 port 22: Resource temporarily unavailable",
    ]);
    if no_route {
        return overlapping(Effect::NoRoute);
    }
    let late = || all_overlapping(Effect::NoRoute).nth(1).filter(|_| to - from > CLIENT_PATIENCE);
    if reset && let Some(cause) = overlapping(Effect::Reset).or_else(late) {
        return Some(cause);
    }
    if kind.starts_with("iperf3") {
        let refused = says(&["Connection refused"]);
        let begun_within = |window: &&Window| {
            (window.effect == Effect::Stray || window.effect == Effect::Reset && refused)
                && window.from <= from + HELD
                && window.to.is_none_or(|end| from <= end)
        };
        return windows.iter().find(begun_within).map(|window| window.cause);
    }
    if reset {
        let early = || {
            let closed_port = kind.contains("closed port").then_some("early handshake");
            overlapping(Effect::Early).and_then(|_| closed_port.or_else(|| overlapping(Effect::NoRoute)))
        };
        return early();
    }
    None
}

/// What matters of what a program has said: no headers, data and progress of a verbose curl's, and no statistics.
fn last_words(all: &str) -> String {
    let noise = |line: &&str| !line.starts_with(['>', '<', '{', '}', '[', '\t']) && !line.trim().is_empty();
    let lines: Vec<&str> = all.lines().filter(noise).map(str::trim).collect();
    lines[lines.len().saturating_sub(8)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_client_may_be_reset_when_two_interfaces_were_down() {
        let seconds = Duration::from_secs;
        let down = |from, to| Window {
            effect: Effect::NoRoute,
            cause: "interface down",
            from: seconds(from),
            to: Some(seconds(to)),
        };
        let windows = [down(21, 25), down(34, 38)];
        let why = "Recv failure: Connection reset by peer";
        let explained =
            |windows, from, to, why| explain(windows, "git clone", (seconds(from), seconds(to)), why);
        assert_eq!(explained(&windows, 20, 35, why), Some("interface down"));
        assert_eq!(explained(&windows[..1], 20, 35, why), None, "no other was down when it was through");
        assert_eq!(explained(&windows, 27, 35, why), None, "it was not late");
        assert_eq!(explained(&windows, 20, 35, "early EOF"), None);
    }

    #[test]
    fn who_is_refused_by_an_iperf3_that_saw_a_killed_daemon_is_explained() {
        let seconds = Duration::from_secs;
        let killed =
            Window { effect: Effect::Reset, cause: "kill -9", from: seconds(30), to: Some(seconds(31)) };
        let explained =
            |kind, from, why| explain(std::slice::from_ref(&killed), kind, (seconds(from), seconds(40)), why);
        assert_eq!(explained("iperf3 up", 29, "Connection refused"), Some("kill -9"));
        assert_eq!(explained("iperf3 up", 32, "Connection refused"), None, "it was over");
        assert_eq!(explained("iperf3 up", 29, "hung"), None);
        assert_eq!(explained("git clone", 29, "Connection refused"), None);
    }
}
