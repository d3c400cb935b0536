//! Shows that whatever a system call answers, and however late, one connection at most is the worse for it: its SYN passes
//! direct, or it is reset, and never ends as if it were whole. Nothing is left of it, and a thread that panics takes the
//! whole process with it at once.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::bed::{Bed, Family::*, Handshake, Handshake::*, Plan};
use crate::connection::Pair;
use crate::host::{SetOnDrop, eventually, patience, seconds};
use crate::mishaps::{Tally, connections, serve};
use crate::preload::{Call, Preload};
use crate::segment::Forger;
use crate::stream::{End, end};

once!(
    failing_calls_deferred,
    failing_calls_early,
    failing_calls_at_the_gateway,
    worker_panics,
    main_thread_panics,
    told_to_end_while_it_dials,
    wall_clock_jumps
);

/// Every so manieth fails, and how.
const FAULTS: [(Call, u32, Errno); 17] = [
    // Before there is one: pipes are kept.
    (Call::Pipe, 1, Errno::ENFILE),
    (Call::Socket, 3, Errno::EMFILE),
    (Call::Socket, 3, Errno::ENOBUFS),
    (Call::Connect, 3, Errno::ENOMEM),
    (Call::Connect, 3, Errno::EADDRNOTAVAIL),
    (Call::Accept, 3, Errno::ENOMEM),
    (Call::Accept, 3, Errno::ENFILE),
    (Call::SetOption, 7, Errno::ENOBUFS),
    (Call::SetOption, 11, Errno::ENOMEM),
    (Call::GetOption, 5, Errno::ENOBUFS),
    (Call::EpollControl, 5, Errno::ENOMEM),
    (Call::EpollControl, 7, Errno::ENOSPC),
    (Call::Splice, 31, Errno::ENOMEM),
    (Call::Send, 31, Errno::ENOBUFS),
    (Call::Receive, 31, Errno::ENOMEM),
    (Call::Write, 3, Errno::ENOMEM),
    (Call::Shutdown, 3, Errno::ENOBUFS),
];

fn started(preload: &Preload, handshake: Handshake, args: &[&str]) -> Bed {
    let mut bed = Bed::build(Plan::default());
    bed.install_rules(&[]);
    bed.start_prepared(handshake, args, |command| preload.prepare(command));
    bed
}

fn failing_calls_deferred() {
    failing_calls("deferred", Deferred, &[]);
}

fn failing_calls_early() {
    failing_calls("early", Early, &[]);
}

/// Where the client legs share the link.
fn failing_calls_at_the_gateway() {
    failing_calls("gateway", Early, &["--satellite", "client", "--rate-down", "400", "--rtt", "20"]);
}

fn failing_calls(name: &str, handshake: Handshake, args: &[&str]) {
    let Some(preload) = Preload::compile(name) else { return };
    let mut bed = started(&preload, handshake, &[&["-c", "64"], args].concat());
    let listener = bed.listen(V4);
    let lasting = bed.stolen(&listener);
    let server = bed.listen(V4);
    let tally = Tally::default();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ending = SetOnDrop(&done);
        scope.spawn(|| serve(&server, &done));
        for (call, every, error) in FAULTS {
            let [whole, cut] = [&tally.whole, &tally.cut].map(|count| count.load(Relaxed));
            let (_, before) = preload.calls(call);
            preload.fail(call, every, error);
            connections(&bed, &server, 24, &tally);
            preload.fail(call, 0, error);
            let (_, after) = preload.calls(call);
            println!(
                "{name}: {} times {call:?} {error:?}, {} whole, {} cut",
                after - before,
                tally.whole.load(Relaxed) - whole,
                tally.cut.load(Relaxed) - cut
            );
            assert!(after > before, "{call:?} has never failed");
        }
        let whole = tally.whole.load(Relaxed);
        connections(&bed, &server, 24, &tally);
        assert_eq!(tally.whole.load(Relaxed), whole + 24, "some are cut when nothing fails any more");
    });
    drop(lasting);
    bed.daemon().wait_idle(patience());
    assert_eq!(bed.told("status")["slots"]["used"].number(), 0);
    bed.check_all_slots(V4, 64);
}

/// `call` makes the thread that waits in it panic.
fn panics(call: Call, wake: impl Fn(&Bed)) {
    let Some(preload) = Preload::compile(&format!("{call:?}")) else { return };
    let mut bed = started(&preload, Deferred, &[]);
    let listener = bed.listen(V4);
    let open = bed.stolen(&listener);
    open.exchange(1, 10_000);
    preload.fail(call, 1, Errno::EIO);
    wake(&bed);
    let status = bed.daemon().wait_end(seconds(10));
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
    assert!(bed.log().contains("internal error, ending at once"), "nothing said of it");
    // As after any end: cut off is not finished, and who comes now goes direct.
    for side in [&open.client, &open.server] {
        assert_eq!(end(side), End::Reset);
    }
    bed.direct(&listener).close();
}

fn worker_panics() {
    panics(Call::WorkerWait, |bed| {
        let Pair { client, server, .. } = bed.pair(&bed.listen(V4));
        drop((client, server));
    });
}

fn main_thread_panics() {
    panics(Call::MainWait, |bed| {
        let _ = std::os::unix::net::UnixStream::connect(bed.control());
    });
}

/// A worker that was amid its calls then holds no SYN afterwards: the daemon would wait for a server that says nothing.
fn told_to_end_while_it_dials() {
    let Some(preload) = Preload::compile("dials") else { return };
    let mut bed = started(&preload, Deferred, &[]);
    let silent = bed.silent_port(V4);
    preload.fail(Call::Connect, 1, Errno::UnknownErrno);
    assert!(Forger::at(&bed.net.client, true).send_syn(SocketAddr::new(V4.client(), 22_999), silent));
    eventually("it dials", patience(), || preload.calls(Call::Connect).1 == 1);
    bed.signal(Signal::SIGTERM);
    // Half of what a server may take to answer.
    assert!(bed.daemon().wait_end(seconds(10)).success());
}

/// The daemon cannot notice: it never asks for the time of day.
fn wall_clock_jumps() {
    let Some(preload) = Preload::compile("clock") else { return };
    preload.fail(Call::WallClock, 1, Errno::UnknownErrno);
    let mut bed = started(&preload, Deferred, &["--connect-timeout", "2"]);
    let listener = bed.listen(V4);
    let silent = bed.silent_port(V4);
    // A forged SYN, for a kernel would repeat its own just when the daemon gives up, and be counted a second time.
    let from = SocketAddr::new(V4.client(), 22_999);
    assert!(Forger::at(&bed.net.client, true).send_syn(from, silent));
    let pair = bed.stolen(&listener);
    for seed in 0..20 {
        pair.exchange(seed, 100_000);
    }
    pair.close();
    eventually("the time-out is counted", patience(), || bed.passed("timeout") == 1);
    assert!(bed.told("status")["uptime_s"].number() < 300);
    bed.check_nothing_left(V4);
    assert!(preload.calls(Call::MonotonicClock).0 > 10, "the clock that it asks is not the preloaded one");
    assert_eq!(preload.calls(Call::WallClock).0, 0, "it has asked for the time of day");
}
