//! The control socket, with askers that do whatever they like, one step a byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use nix::sys::socket::AddressFamily;

use crate::bell::Bell;
use crate::control::Control;
use crate::counts::{Counts, Lately};
use crate::gain::Gain;
use crate::legs::{LegOptions, tcp_socket};
use crate::memory::Memory;
use crate::parking::Parking;
use crate::pep::{Handshake, Pep, Seat};
use crate::queue::SynQueue;
use crate::relay::{Connection, Leg, Side};
use crate::samples::Samples;
use crate::satellite::{Link, Satellite};
use crate::slots::{Endpoints, Slots, Stage};
use crate::tun::Tun;

#[path = "../scenarios/json.rs"]
mod json;
use json::{Json, faults};

const REQUESTS: [&str; 6] = [
    "status json",
    "status text",
    "status prometheus",
    "connections json",
    "connections text",
    "connections columns",
];

/// More than there are places for.
const MOST_ASKERS: usize = 12;
const PLACES: usize = 8;

const SLOTS: usize = 40;

struct Asker {
    stream: UnixStream,
    said: Vec<u8>,
    answer: Vec<u8>,
    ended: bool,
}

impl Asker {
    fn say(&mut self, bytes: &[u8]) {
        if let Ok(sent) = self.stream.write(bytes) {
            self.said.extend_from_slice(&bytes[..sent]);
        }
    }

    /// Whether something has come.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(read) => {
                self.answer.extend_from_slice(&bytes[..read]);
                !std::mem::replace(&mut self.ended, read == 0) || read > 0
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(_) => !std::mem::replace(&mut self.ended, true),
        }
    }
}

/// The daemon as far as the control socket knows it: without a queue, a device and workers.
struct Daemon {
    control: Control,
    path: String,
    pep: Pep,
    samples: Samples,
}

impl Daemon {
    fn new() -> Daemon {
        let side = Side::Server;
        let link =
            Link { side, congestion: None, rates: [None; 2], rtt: None, mss: None, largest_buffer: 1 << 20 };
        let (queue, _) = UnixStream::pair().expect("a pair of sockets");
        let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).expect("epoll");
        let queue = SynQueue::new(queue.into(), 0);
        let seat = Seat::new(queue.socket(), heapless::Vec::new()).expect("a seat");
        let pep = Pep {
            slots: Slots::new(SLOTS, Some(8)),
            workers: Box::new([seat]),
            queue,
            tun: Tun::nowhere(),
            port: 5000,
            legs: LegOptions {
                satellite: Satellite::derive(&link).expect("TCP"),
                transparent: false,
                fast_open: false,
            },
            share: None,
            handshake: Handshake::Deferred,
            connect_timeout: Duration::from_secs(20),
            full: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            undelivered: Lately::default(),
            missed: Lately::default(),
            memory: Memory::new(None),
            counts: Counts::default(),
            exclusions: None,
            gain: Gain::new(side, None, None),
            started: Instant::now(),
            bell: Bell::new(&epoll, 1).expect("a bell"),
            parking: Parking::new(false),
        };
        let path = std::env::temp_dir().join(format!("pepsal-fuzz-{}", std::process::id()));
        let path = path.to_str().expect("a path").to_string();
        let control = Control::listen(&path).unwrap_or_else(|error| panic!("{error}"));
        Daemon { control, path, pep, samples: Samples::new(Instant::now()) }
    }

    fn serve(&mut self, place: usize) {
        // Who is to take over is not offered anything, and hears the end.
        let _ = self.control.serve(place, &self.pep, &self.samples);
    }

    /// A connection between any two ends.
    fn begin(&self, octets: u128, relaying: bool) {
        let any = |octets: u128| {
            let ip = match octets & 1 {
                0 => IpAddr::V4(((octets >> 8) as u32).into()),
                _ => IpAddr::V6(Ipv6Addr::from(octets)),
            };
            SocketAddr::new(ip, (octets >> 16) as u16)
        };
        let endpoints = Endpoints { client: any(octets), server: any(octets.rotate_left(64)) };
        let Ok((id, _)) = self.pep.claim(endpoints, 0) else { return };
        if relaying && let Some(mut slot) = self.pep.slots.lock(id) {
            let leg = || Leg::new(tcp_socket(AddressFamily::Inet).expect("a socket"));
            slot.stage = Stage::Relaying(Connection::new(leg(), leg()));
        }
    }

    fn end(&self) {
        if let Some((id, slot)) = self.pep.slots.in_use().next() {
            self.pep.release(id, slot);
        }
    }
}

thread_local!(static DAEMON: std::cell::RefCell<Daemon> = std::cell::RefCell::new(Daemon::new()));

pub fn control(steps: &[u8]) {
    DAEMON.with_borrow_mut(|daemon| {
        play(daemon, steps);
        for place in 0..PLACES {
            daemon.control.close(place);
        }
        while daemon.pep.slots.used() > 0 {
            daemon.end();
        }
    });
}

fn play(daemon: &mut Daemon, steps: &[u8]) {
    let mut askers: Vec<Asker> = Vec::new();
    let mut rest = steps.iter().copied();
    while let Some(step) = rest.next() {
        let which = usize::from(rest.next().unwrap_or(0));
        let count = askers.len().max(1);
        match (step % 8, askers.get_mut(which % count)) {
            (0, _) if count < MOST_ASKERS => {
                let stream = UnixStream::connect(&daemon.path).expect("connect");
                stream.set_nonblocking(true).expect("a socket that does not block");
                askers.push(Asker { stream, said: Vec::new(), answer: Vec::new(), ended: false });
            }
            (1, _) => drop(daemon.control.accept()),
            (2, Some(asker)) => asker.say(format!("{}\n", REQUESTS[which / 16 % 6]).as_bytes()),
            (3, Some(asker)) => {
                let bytes: Vec<u8> = rest.by_ref().take(which / 4).collect();
                asker.say(&bytes);
            }
            (4, _) => daemon.serve(which % PLACES),
            (5, Some(asker)) => drop(asker.read()),
            (6, _) => {
                let octets = rest.by_ref().take(16).fold(0, |sum, byte| sum << 8 | u128::from(byte));
                daemon.begin(octets, which % 2 == 0);
            }
            (7, _) => daemon.end(),
            _ => {}
        }
    }
    let displaced = askers.len() > PLACES;
    // Now everybody reads, and the daemon has time.
    while daemon.control.accept().is_some() {}
    let mut idle = 0;
    while idle < 3 {
        (0..PLACES).for_each(|place| daemon.serve(place));
        let heard = askers.iter_mut().map(Asker::read).filter(|&any| any).count();
        idle = if heard == 0 { idle + 1 } else { 0 };
    }
    for asker in &askers {
        check(asker, displaced);
    }
}

fn check(asker: &Asker, displaced: bool) {
    const LONGEST: usize = 32;
    let heard = &asker.said[..asker.said.len().min(LONGEST)];
    let line = heard.split(|&byte| byte == b'\n').next().filter(|line| line.len() < heard.len());
    let answer = String::from_utf8(asker.answer.clone()).expect("text");
    let Some(line) = line else {
        return assert_eq!(answer, "", "an answer to {:?}", asker.said);
    };
    if displaced && (!asker.ended || answer.is_empty()) {
        return;
    }
    assert!(asker.ended, "no end of the answer to {line:?}: {answer}");
    match std::str::from_utf8(line) {
        Ok(request) if REQUESTS.contains(&request) && !displaced => complete(request, &answer),
        Ok(request) if REQUESTS.contains(&request) => {}
        Ok("take over") => assert_eq!(answer, ""),
        _ => assert_eq!(answer, "pepsal does not know this request\n"),
    }
}

fn complete(request: &str, answer: &str) {
    let schema = match request {
        "status json" => include_str!("../control/status.schema.json"),
        "connections json" => include_str!("../control/connections.schema.json"),
        "connections columns" => {
            let columns = |line: &str| line.split(' ').count();
            return assert!(answer.lines().all(|line| columns(line) == 10), "{answer}");
        }
        _ => return assert!(answer.is_empty() || answer.ends_with('\n'), "{answer}"),
    };
    let told = Json::read(answer).unwrap_or_else(|fault| panic!("{fault} in {answer}"));
    let schema = Json::read(schema).expect("a schema");
    assert_eq!(faults(&schema, &told), [""; 0], "{answer}");
}
