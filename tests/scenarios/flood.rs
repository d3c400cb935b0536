//! Shows what a SYN flood from the LAN does: 50,000 SYNs from random addresses, to a server that listens, to one that
//! refuses and to one that is silent. Connections that are open keep their rate, new ones are served all the same, the
//! daemon takes no more memory, and when it is over every slot is free and connections are stolen again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::bed::{Bed, Family, Handshake};
use crate::connection::{Listener, Pair};
use crate::host::{SetOnDrop, eventually, patience, seconds};
use crate::segment::Forger;
use crate::stream::{End, KIB, Random, receive_some, send_part};

four_ways!(syn_flood);

const SYNS: u32 = 50_000;

/// SYNs are sent so many at a time, with this pause between: ten thousand a second.
const VOLLEY: u32 = 50;
const PAUSE: Duration = Duration::from_millis(5);

const SLOTS: usize = 256;

/// A machine that has other things to do at that moment may starve the flows: what counts is whether the flood does.
const ATTEMPTS: u32 = 3;

/// Each of the open connections carries so much, which the router can do beside the flood: what is looked for is that
/// nobody is kept waiting, not how fast the machine is.
const KIB_PER_SECOND: u64 = 1024;

/// A flow whose application sends at a steady rate, and what has arrived of it.
#[derive(Default)]
struct Steady {
    received_kib: AtomicU32,
}

impl Steady {
    /// Until `done`; the bytes sent.
    fn send(to: &TcpStream, seed: u64, done: &AtomicBool) -> u64 {
        let (start, mut sent) = (Instant::now(), 0);
        while !done.load(Relaxed) {
            let due = start.elapsed().as_millis() as u64 * KIB_PER_SECOND * KIB / 1000;
            send_part(to, seed, sent, due).expect("send");
            sent = due.max(sent);
            thread::sleep(Duration::from_millis(5));
        }
        to.shutdown(Shutdown::Write).expect("shut down");
        sent
    }

    /// The bytes received, all right ones, up to the end.
    fn receive(&self, from: &TcpStream, seed: u64) -> u64 {
        let mut position = 0;
        loop {
            let (got, how) = receive_some(from, seed, position, position + 16 * KIB);
            position = got;
            self.received_kib.store((position / KIB) as u32, Relaxed);
            match how {
                End::Full => {}
                End::Fin => return position,
                End::Reset => panic!("reset after {position} bytes"),
            }
        }
    }
}

fn received(flows: &[Steady]) -> u32 {
    flows.iter().map(|flow| flow.received_kib.load(Relaxed)).sum()
}

/// An address that nobody has, on the client's side of the router.
fn anybody(family: Family, random: &mut Random) -> SocketAddr {
    let port = 1024 + random.below(60_000) as u16;
    let ip: IpAddr = match family {
        Family::V4 => Ipv4Addr::from_bits(0x0a80_0000 | random.below(1 << 23) as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(0xfd78 << 112 | u128::from(random.next())).into(),
    };
    SocketAddr::new(ip, port)
}

fn flood(bed: &Bed, family: Family, targets: &[SocketAddr]) {
    let forger = Forger::at(&bed.net.client, family == Family::V4);
    let mut random = Random::seeded(1);
    let mut sent = 0;
    let start = Instant::now();
    while sent < SYNS {
        for _ in 0..VOLLEY {
            let to = targets[random.below(targets.len() as u64) as usize];
            sent += u32::from(forger.send_syn(anybody(family, &mut random), to));
        }
        assert!(start.elapsed() < seconds(60), "only {sent} SYNs were sent");
        thread::sleep(PAUSE);
    }
}

/// What `measure` says, until it is enough.
fn rates(attempts: u32, mut measure: impl FnMut(u32) -> f64) -> Vec<f64> {
    let mut rates = Vec::new();
    while rates.len() < attempts as usize && rates.iter().all(|rate| *rate < 0.8) {
        rates.push(measure(rates.len() as u32 + 1));
    }
    rates
}

fn syn_flood(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &["-c", &SLOTS.to_string(), "--connect-timeout", "5"]);
    let (network, client) = match family {
        Family::V4 => ("10.128.0.0/9", family.client()),
        Family::V6 => ("fd78::/16", family.client()),
    };
    bed.net.router.ip(&format!("route add {network} via {client} dev lan\n"));
    let listeners: [Listener; 3] = std::array::from_fn(|_| bed.listen(family));
    let [open, beside, attacked] = &listeners;
    let silent = bed.silent_port(family);
    let targets = [attacked.address, bed.closed_port(family), silent];

    let pairs: Vec<Pair> = (0..4).map(|_| bed.stolen(open)).collect();
    let flows: [Steady; 4] = Default::default();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ending = SetOnDrop(&done);
        let transfers: Vec<_> = (0..)
            .zip(pairs.iter().zip(&flows))
            .map(|(seed, (pair, flow))| {
                let up = seed % 2 == 0;
                let (from, to) = if up { (&pair.client, &pair.server) } else { (&pair.server, &pair.client) };
                let done = &done;
                let sender = scope.spawn(move || Steady::send(from, seed, done));
                (sender, scope.spawn(move || flow.receive(to, seed)))
            })
            .collect();
        eventually("all flows flow", patience(), || {
            flows.iter().all(|flow| flow.received_kib.load(Relaxed) > 64)
        });

        // KiB per second.
        let rate = |during: &dyn Fn()| {
            let (start, before) = (Instant::now(), received(&flows));
            during();
            f64::from(received(&flows) - before) / start.elapsed().as_secs_f64()
        };
        let memory = bed.daemon_memory();
        let flooded = rates(ATTEMPTS, |attempt| {
            let undisturbed = rate(&|| thread::sleep(Duration::from_secs(2)));
            let flooded = rate(&|| {
                thread::scope(|scope| {
                    scope.spawn(|| flood(&bed, family, &targets));
                    // Whether there is a slot for them or not.
                    for seed in 0..10 {
                        let pair = bed.pair(beside);
                        pair.exchange(seed, 10_000);
                        pair.close();
                        thread::sleep(Duration::from_millis(200));
                    }
                });
            });
            println!("{attempt}: {undisturbed:.0} KiB/s, {flooded:.0} KiB/s during the flood");
            flooded / undisturbed
        });
        let grown = bed.daemon_memory().saturating_sub(memory);
        let told = bed.told("status");
        println!("{grown} KiB more memory, {:?}", told["syns"]);
        assert!(flooded.iter().any(|rate| *rate >= 0.8), "of the rate is left during the flood: {flooded:?}");
        assert!(grown <= 512, "the daemon has grown by {grown} KiB");
        assert!(told["syns"]["passed"]["full"].number() > 0, "the flood has not filled the slots: {told:?}");
        let said = bed.log().matches("slots are in use").count();
        assert!((1..100).contains(&said), "{said} lines, as if there was one for each SYN");

        done.store(true, Relaxed);
        for (sender, receiver) in transfers {
            let (sent, received) = (sender.join().expect("a sender"), receiver.join().expect("a receiver"));
            assert_eq!(received, sent);
        }
    });
    drop(pairs);
    bed.check_nothing_left(family);
    let told = bed.told("status");
    assert_eq!(told["slots"]["used"].number(), 0);
}
