//! Shows that clients which are slow, silent or malicious on purpose cost no more than their own connection: what they
//! can take is bounded, their bytes are exact all the same, and others go on beside them.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, send as send_with, setsockopt, sockopt};

use crate::bed::{Bed, Family, Family::*, Handshake, Handshake::*, possible};
use crate::connection::{Pair, dial, reset};
use crate::host::{SetOnDrop, eventually, patience, seconds, slowness};
use crate::stream::{End, KIB, MIB, end, receive, receive_all, send};

four_ways!(reader_that_never_reads, slowloris, tiny_segments, urgent_bytes);
both_families!(closed_window);

/// A server sends to clients that never read: it is stopped after a bounded number of bytes, another connection is as
/// quick as ever, and when the clients go the server learns that not everything has arrived.
fn reader_that_never_reads(family: Family, handshake: Handshake) {
    const CLIENTS: usize = 20;
    // Much more than the buffers on the way may take.
    const MOST: u32 = 64 << 10;
    let mut bed = Bed::started(handshake, &["-c", "24"]);
    let listener = bed.listen(family);
    let pairs: Vec<Pair> = (0..CLIENTS).map(|_| bed.stolen(&listener)).collect();
    let memory = bed.daemon_memory();
    // In KiB.
    let taken: Vec<AtomicU32> = (0..CLIENTS).map(|_| AtomicU32::new(0)).collect();
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for (seed, (pair, taken)) in (0..).zip(pairs.into_iter().zip(&taken)) {
            let Pair { client, server, .. } = pair;
            clients.push(client);
            scope.spawn(move || {
                let failed = (0..).find_map(|step| {
                    let result = crate::stream::send_part(&server, seed, step * KIB, (step + 1) * KIB);
                    taken.fetch_add(1, Relaxed);
                    assert!(taken.load(Relaxed) < MOST, "there is no end to what is taken");
                    result.err()
                });
                let how = failed.expect("an endless stream").kind();
                assert!(matches!(how, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{how:?}");
            });
        }
        let sum = || taken.iter().map(|taken| taken.load(Relaxed)).sum::<u32>();
        let (mut before, mut since) = (0, Instant::now());
        eventually("the senders are stopped", patience(), || {
            let now = sum();
            if now != std::mem::replace(&mut before, now) {
                since = Instant::now();
            }
            since.elapsed() > seconds(1)
        });
        let lively = bed.stolen(&listener);
        lively.exchange(1000, MIB);
        lively.close();
        let grown = bed.daemon_memory().saturating_sub(memory);
        println!("{} KiB for each reader, {grown} KiB in the daemon", sum() as usize / CLIENTS);
        assert!(grown <= 512, "the daemon has grown by {grown} KiB");
        clients.into_iter().for_each(reset);
    });
    bed.check_all_slots(family, 24);
}

/// Two hundred clients send a byte now and then, and beside them one is in a hurry.
fn slowloris(family: Family, handshake: Handshake) {
    let clients = 200 / slowness();
    let mut bed = Bed::started(handshake, &["-c", "202"]);
    let listener = bed.listen(family);
    let pairs: Vec<Pair> = (0..clients).map(|_| bed.stolen(&listener)).collect();
    let hurried = bed.stolen(&listener);
    let memory = bed.daemon_memory();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ending = SetOnDrop(&done);
        let done = &done;
        let hurry = scope.spawn(move || {
            let mut rounds = 0;
            while !done.load(Relaxed) {
                hurried.exchange(7, 64 * KIB);
                rounds += 1;
            }
            hurried.close();
            rounds
        });
        for round in 0..5_u8 {
            for pair in &pairs {
                (&pair.client).write_all(&[round]).expect("a byte");
            }
            for pair in &pairs {
                let mut byte = [0xff];
                (&pair.server).read_exact(&mut byte).expect("the byte");
                assert_eq!(byte, [round]);
            }
            thread::sleep(Duration::from_secs(1));
        }
        let grown = bed.daemon_memory().saturating_sub(memory);
        assert!(grown <= 512, "the daemon has grown by {grown} KiB");
        done.store(true, Relaxed);
        let rounds = hurry.join().expect("the one in a hurry");
        assert!(rounds >= 5, "{rounds} exchanges beside the slow ones");
    });
    pairs.into_iter().for_each(Pair::close);
    bed.check_nothing_left(family);
}

/// Every byte in a segment of its own, both ways at once.
fn tiny_segments(family: Family, handshake: Handshake) {
    let length = 20_000 / u64::from(slowness());
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);
    let pair = bed.stolen(&listener);
    for end in [&pair.client, &pair.server] {
        end.set_nodelay(true).expect("TCP_NODELAY");
    }
    thread::scope(|scope| {
        for (from, to, seed) in [(&pair.client, &pair.server, 1), (&pair.server, &pair.client, 2)] {
            scope.spawn(move || {
                for at in 0..length {
                    crate::stream::send_part(from, seed, at, at + 1).expect("send a byte");
                }
            });
            scope.spawn(move || receive(to, seed, length));
        }
    });
    pair.close();
    bed.check_nothing_left(family);
}

/// Urgent bytes keep their place in the stream; their urgency is not passed on (RFC 6093 says not to rely on it).
fn urgent_bytes(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);
    let Pair { client, server, .. } = bed.stolen(&listener);
    for end in [&client, &server] {
        setsockopt(end, sockopt::OobInline, &true).expect("SO_OOBINLINE");
    }
    for (from, to) in [(&client, &server), (&server, &client)] {
        let text: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                for (index, piece) in text.chunks(30_000).enumerate() {
                    let flags = if index % 2 == 1 { MsgFlags::MSG_OOB } else { MsgFlags::empty() };
                    let mut left = piece;
                    while !left.is_empty() {
                        left = &left[send_with(from.as_raw_fd(), left, flags).expect("send")..];
                    }
                }
            });
            let mut got = vec![0; text.len()];
            let mut to = to;
            to.read_exact(&mut got).expect("receive");
            assert!(got == text, "not the bytes that were sent");
        });
    }
    drop(client);
    assert_eq!(end(&server), End::Fin);
    drop(server);
    bed.check_nothing_left(family);
}

fn closed_window(family: Family) {
    keep_closed(family, Early, seconds(6));
}

/// For so long that the sender's probes of the window have become rare.
#[test]
#[ignore = "takes two minutes; tests/run.sh runs it along with the fade of a minute"]
fn closed_window_for_long() {
    if possible() {
        keep_closed(V4, Deferred, Duration::from_secs(90));
    }
}

/// The reader announces no room; when it has read on, everything arrives.
fn keep_closed(family: Family, handshake: Handshake, time: Duration) {
    let length = 24 * MIB / u64::from(slowness());
    let mut bed = Bed::started(handshake, &[]);
    let listener = bed.listen(family);
    let small = |socket: &_| setsockopt(socket, sockopt::RcvBuf, &(16 << 10)).expect("SO_RCVBUF");
    let client = dial(&bed.net.client, listener.address, small).expect("connect");
    let pair = listener.join(client);
    bed.check_stolen(&pair);
    pair.server.set_write_timeout(Some(time + patience())).expect("a write timeout");
    thread::scope(|scope| {
        scope.spawn(|| {
            send(&pair.server, 1, length).expect("send");
            pair.server.shutdown(std::net::Shutdown::Write).expect("shut down");
        });
        thread::sleep(time);
        receive_all(&pair.client, 1, length);
    });
    drop(pair);
    bed.check_nothing_left(family);
}
