//! Shows what becomes of connections when something around the daemon breaks: its descriptors run out, its device goes down
//! or is removed, the firewall's rules go and come, a network cable is pulled, it is killed in the midst of transfers.

use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::bed::{Bed, Family, Family::*, Handshake, Handshake::*, Plan};
use crate::connection::Pair;
use crate::host::{SetOnDrop, eventually, patience, run, seconds};
use crate::mishaps::{Tally, connections, serve};
use crate::stream::{End, MIB, end, receive_all, receive_some, send, send_part};

both_families!(device_removed, device_down, wan_pulled, lan_pulled, killed_amid_transfers);
once!(descriptors_run_out_deferred, descriptors_run_out_early, rules_come_and_go);

/// Every SYN passes direct or is served; what is open goes on; nobody spins; and it is over when there are descriptors
/// again.
fn descriptors_run_out(handshake: Handshake) {
    let mut bed = Bed::started(handshake, &["-c", "32"]);
    let listener = bed.listen(V4);
    let server = bed.listen(V4);
    let open = bed.stolen(&listener);
    open.exchange(1, MIB);
    let tally = Tally::default();
    let done = AtomicBool::new(false);
    let limit = |most: String| run(&format!("prlimit --pid {} --nofile={most}", bed.daemon_pid()), "");
    let before = limits_of(bed.daemon_pid());
    thread::scope(|scope| {
        let _ending = SetOnDrop(&done);
        scope.spawn(|| serve(&server, &done));
        // Room for three more: not enough for both legs of two connections.
        limit(format!("{}:", bed.daemon_descriptors() + 3));
        connections(&bed, &server, 40, &tally);
        open.exchange(2, MIB);

        // None at all, and somebody who asks.
        limit("4:".to_string());
        let asker = UnixStream::connect(bed.control()).expect("the control socket");
        let used = ticks(bed.daemon_pid());
        thread::sleep(Duration::from_secs(2));
        let used = ticks(bed.daemon_pid()) - used;
        assert!(used < 20, "{used} hundredths of a second of processor time in two seconds");
        connections(&bed, &server, 20, &tally);
        open.exchange(3, MIB);
        drop(asker);

        limit(before);
        let whole = tally.whole.load(Relaxed);
        connections(&bed, &server, 10, &tally);
        assert_eq!(tally.whole.load(Relaxed), whole + 10, "some are cut when there are descriptors again");
    });
    println!("{tally:?}");
    assert!(tally.whole.load(Relaxed) >= 40, "{tally:?}");
    assert!(bed.passed("memory") >= 20, "{:?}", bed.told("status")["syns"]);
    open.close();
    bed.daemon().wait_idle(patience());
    bed.check_all_slots(V4, 32);
}

fn descriptors_run_out_deferred() {
    descriptors_run_out(Deferred);
}

fn descriptors_run_out_early() {
    descriptors_run_out(Early);
}

/// As prlimit(1) takes it.
fn limits_of(pid: u32) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("open files");
    let mut words = line.split_whitespace();
    let mut word = || words.next().expect("a limit").to_string();
    format!("{}:{}", word(), word())
}

/// Hundredths of a second of processor time; proc(5), stat.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its stat");
    let (_, after_name) = stat.rsplit_once(')').expect("a name in brackets");
    let number =
        |at| -> u64 { after_name.split_whitespace().nth(at).expect("a field").parse().expect("a number") };
    number(11) + number(12)
}

/// Nothing can be split without the device, and the client legs' address is gone with it: the daemon says so and ends at
/// once, so that its supervisor starts it again. Until then connections go direct.
fn device_removed(family: Family) {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(family);
    let open = bed.stolen(&listener);
    open.exchange(1, 10_000);
    bed.net.router.ip("link delete dev pepsal0\n");
    let status = bed.daemon().wait_end(seconds(5));
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(bed.log().contains("cannot use pepsal0"), "{}", bed.log());
    assert_eq!(end(&open.server), End::Reset);
    bed.direct(&listener).close();

    bed.start_daemon(Deferred, &[]);
    bed.stolen(&listener).close();
    // What it sends reaches the new daemon's address, which knows nothing of it.
    if send(&open.client, 2, 1000).is_ok() {
        assert_eq!(end(&open.client), End::Reset);
    }
    bed.check_nothing_left(family);
}

/// Somebody has set the device down: connections pass direct, which is said once. (Their server has seen the leg that
/// was in vain, too.) Then it is up again.
fn device_down(family: Family) {
    let mut bed = Bed::started(Deferred, &[]);
    let listener = bed.listen(family);
    let open = bed.stolen(&listener);
    bed.net.router.ip("link set dev pepsal0 down\n");
    for seed in 0..3 {
        let client = bed.connect(listener.address).expect("connect");
        let (_, mut peer) = listener.accept();
        assert_eq!(peer.ip(), family.router_wan(), "nothing was in vain");
        // One more for each time that the client has repeated its SYN before anybody took it.
        let server = loop {
            let server;
            (server, peer) = listener.accept();
            if peer.ip() == family.client() {
                break server;
            }
        };
        let direct = Pair { client, server, peer };
        direct.exchange(seed, 10_000);
        direct.close();
    }
    assert_eq!(bed.log().matches("cannot write to pepsal's device").count(), 1, "one line, not one a SYN");
    let addresses = || bed.net.router.exec("ip -6 route show table local dev pepsal0", "");
    assert!(!addresses().contains("local "));
    bed.net.router.ip("link set dev pepsal0 up\n");
    // The kernel settles it on its own time, as after the start; until then an injected IPv6 SYN is lost.
    eventually("the device has its IPv6 address again", patience(), || addresses().contains("local "));
    bed.stolen(&listener).close();
    open.exchange(4, 10_000);
    open.close();
    bed.check_nothing_left(family);
}

/// Transfers under way stand still while a cable is out, and arrive whole.
fn pulled(family: Family, device: &str) {
    let mut bed = Bed::started(Deferred, &["--rate-up", "40"]);
    let listener = bed.listen(family);
    let (up, down) = (bed.stolen(&listener), bed.stolen(&listener));
    let length = 16 * MIB;
    let addresses = addresses_of(&bed, device);
    // The last bytes leave when the cable is out, so that no transfer is over before, however late it is pulled.
    let is_out = AtomicBool::new(false);
    let wait_for_it = || eventually("the cable is out", patience(), || is_out.load(Relaxed));
    thread::scope(|scope| {
        scope.spawn(|| {
            send_part(&up.client, 1, 0, length - MIB).expect("send up");
            wait_for_it();
            send_part(&up.client, 1, length - MIB, length).expect("send the last of it up");
            up.client.shutdown(Shutdown::Write).expect("shut down");
        });
        scope.spawn(|| {
            for step in 0..64 {
                let at = length / 64;
                if step == 63 {
                    wait_for_it();
                }
                send_part(&down.server, 2, step * at, (step + 1) * at).expect("send down");
                thread::sleep(Duration::from_millis(30));
            }
            down.server.shutdown(Shutdown::Write).expect("shut down");
        });
        let receivers = [(&up.server, 1), (&down.client, 2)]
            .map(|(stream, seed)| scope.spawn(move || receive_all(stream, seed, length)));
        thread::sleep(Duration::from_millis(500));
        bed.net.router.ip(&format!("link set dev {device} down\n"));
        is_out.store(true, Relaxed);
        // Without a way it is as it would be without pepsal.
        if device == "wan" {
            bed.connect(listener.address).expect_err("there is no way");
        }
        thread::sleep(Duration::from_secs(2));
        assert!(receivers.iter().all(|receiver| !receiver.is_finished()), "a transfer was over before");
        bed.net.router.ip(&format!("link set dev {device} up\n{addresses}"));
    });
    drop((up, down));
    bed.check_nothing_left(family);
}

/// What netifd gives a device again when it comes up: the kernel forgets IPv6 addresses.
fn addresses_of(bed: &Bed, device: &str) -> String {
    let listing = bed.net.router.exec(&format!("ip -oneline -6 address show dev {device} scope global"), "");
    let address = listing.split_whitespace().nth(3).expect("an IPv6 address").to_string();
    format!("address replace {address} dev {device} nodad\n")
}

fn wan_pulled(family: Family) {
    pulled(family, "wan");
}

fn lan_pulled(family: Family) {
    pulled(family, "lan");
}

/// As SIGKILL leaves transfers: whoever receives has only right bytes and learns that they are not all.
fn killed_amid_transfers(family: Family) {
    const PAIRS: u64 = 16;
    let mut bed = Bed::started(Early, &[]);
    let listener = bed.listen(family);
    let pairs: Vec<Pair> = (0..PAIRS).map(|_| bed.stolen(&listener)).collect();
    thread::scope(|scope| {
        let receivers: Vec<_> = (0..)
            .zip(&pairs)
            .map(|(seed, pair)| {
                let (from, to) = match seed % 2 {
                    0 => (&pair.client, &pair.server),
                    _ => (&pair.server, &pair.client),
                };
                // An endless stream, until the connection breaks.
                scope.spawn(move || send(from, seed, u64::MAX / 2).expect_err("an endless stream"));
                scope.spawn(move || receive_some(to, seed, 0, u64::MAX / 2))
            })
            .collect();
        eventually("bytes flow", patience(), || {
            let told = bed.told("status");
            told["bytes"]["up"].number() > 8 * MIB && told["bytes"]["down"].number() > 8 * MIB
        });
        bed.signal(Signal::SIGKILL);
        // Some may have had no turn yet; of each direction one has moved bytes.
        let mut begun = 0;
        for receiver in receivers {
            let (got, how) = receiver.join().expect("a receiver");
            begun += u32::from(got > 0);
            assert_eq!(how, End::Reset, "after {got} bytes");
        }
        assert!(begun >= 2, "{begun} have received something");
    });
    bed.daemon().wait_end(patience());
    bed.direct(&listener).close();
    drop(pairs);
    bed.start_daemon(Early, &[]);
    bed.check_nothing_left(family);
}

/// The rules are loaded again and again while connections come and go: each is served whole, and those that are open
/// notice nothing. Flushed, they leave open connections alone as long as the firewall translates anything at all (without
/// any nat chain the kernel translates nobody), and new ones go direct until the rules are there again.
fn rules_come_and_go() {
    let mut bed = Bed::build(Plan { firewall: true, masquerade: true, ..Plan::default() });
    bed.start(Deferred, &["-c", "64"]);
    let listener = bed.listen(V4);
    let server = bed.listen(V4);
    let open = bed.stolen(&listener);
    let tally = Tally::default();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ending = SetOnDrop(&done);
        scope.spawn(|| serve(&server, &done));
        let transfer = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Relaxed) {
                open.exchange(rounds, MIB);
                rounds += 1;
            }
            rounds
        });
        let firewall = scope.spawn(|| {
            for _ in 0..20 {
                bed.install_rules(&[]);
                thread::sleep(Duration::from_millis(50));
            }
        });
        while !firewall.is_finished() {
            connections(&bed, &server, 20, &tally);
        }
        println!("{tally:?}");
        assert_eq!(tally.cut.load(Relaxed), 0, "{tally:?}");
        for _ in 0..3 {
            let other = bed.listen(V4);
            bed.remove_rules();
            bed.direct(&other).close();
            bed.install_rules(&[]);
            bed.stolen(&other).close();
        }
        done.store(true, Relaxed);
        assert!(transfer.join().expect("a transfer") > 0);
    });
    open.close();
    bed.check_nothing_left(V4);
}
