//! Start and end of the daemon, by the main thread; what it does in between is in `main_loop`.
//!
//! Everything that can be missing is asked for before the first SYN is stolen, so a daemon that cannot run
//! leaves the router forwarding as before. SIGTERM or SIGINT: no more stealing, connections may go on for a
//! bounded time, SIGINT ends that wait. Whatever is left is reset by the exit itself (see `legs`).
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic;
use std::process::{abort, exit};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::sched_getaffinity;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

use crate::bell::Bell;
use crate::cli::{self, Run};
use crate::control::Control;
use crate::counts::{Counts, Lately};
use crate::diversion::Diversion;
use crate::error::Error;
use crate::exclusions::Exclusions;
use crate::gain::Gain;
use crate::handover::Giver;
use crate::legs::{self, LegOptions};
use crate::main_loop::{End, MainLoop};
use crate::memory::Memory;
use crate::pacer::Pacer;
use crate::parking::Parking;
use crate::pep::{Pep, Seat};
use crate::pipes::MAX_PIPES;
use crate::queue::{self, SynQueue};
use crate::routes::Routes;
use crate::satellite::{Link, Satellite};
use crate::share::{self, Pace, Share};
use crate::slots::Slots;
use crate::tun::Tun;
use crate::worker::Worker;
use crate::{log, privileges, seccomp, steal, sys};

/// Bytes of stack for a worker. musl's default is 128 KiB; no thread recurses or keeps a
/// buffer on its stack, but for the 8 KiB in which nfq builds a message.
const STACK: usize = 64 * 1024;

/// SYNs that may wait for a worker beside those that are held: more than the queue's socket has room for (about 1200). What
/// that has no room for is counted (`Queued::missed`); what the queue itself refuses would not be.
const BURST: u32 = 4096;

/// How often the end of the last connection is looked for while draining.
const DRAIN_POLL: Duration = Duration::from_millis(50);

pub fn run(options: &Run) -> Result<(), Error> {
    log::start(options.verbose);
    abort_on_panic();
    let failed = |errno| Error::system("prepare", "the main thread", errno, "");
    let mut main_loop = MainLoop::new().map_err(failed)?;
    let memory = Memory::new(options.memory);
    let legs = leg_options(options, &memory)?;
    let path = options.control.as_deref();
    let mut giver = Giver::find(options, path.unwrap_or(cli::CONTROL))?;
    let threads = threads(options, giver.as_ref());
    raise_descriptor_limit(options.max_conns, threads)?;
    let (ground, control) = match &mut giver {
        Some(giver) => {
            let control = Control::at(giver.descriptor()?.into());
            (take_ground(options, giver)?, Some(control))
        }
        None => (break_ground(options, &legs, threads)?, control_socket(path)?),
    };
    if let Some(control) = control {
        main_loop.answer_at(control).map_err(failed)?;
    }
    let mut pep = prepare(options, memory, legs, ground, main_loop.bell().map_err(failed)?)?;
    // After all that closes descriptors again, and before there are connections.
    let _ = pep.tun.outlive_sockets();
    main_loop.depend_on(pep.tun.device()).map_err(failed)?;
    let mut pacer = prepare_pacer(&mut pep)?;
    let mut diversion = None;
    // At a take-over it is the other daemon's until that has gone.
    if giver.is_none() && options.transparent {
        diversion = Some(Diversion::install(pep.tun.addresses())?);
    }
    privileges::drop_to(options.user.as_deref())?;
    let count = giver.as_ref().map(|giver| giver.hand_all(&pep)).transpose()?;
    let pep = Arc::new(pep);
    for index in 0..pep.workers.len() {
        let pep = Arc::clone(&pep);
        spawn("worker", Box::new(move || Worker::new(&pep, index).run()))?;
    }
    if let (Some(giver), Some(count)) = (&giver, count) {
        giver.leave()?;
        settle(options, &pep);
        let addresses = pep.tun.addresses();
        diversion = match options.transparent {
            true => {
                Diversion::install(addresses).inspect_err(|error| log::warn(format_args!("{error}"))).ok()
            }
            false => Diversion::inherit(addresses),
        };
        pep.parking.open();
        main_loop.keep(path.unwrap_or(cli::CONTROL), pep.bytes());
        log::notice(format_args!("took {count} connections over from pid {}", giver.offer.pid));
    }
    // The other daemon has gone, and its routes are replaced.
    match (&mut pacer, &pep.share) {
        (Some(pacer), Some(share)) if !share.windows.is_empty() => pacer.install_routes(share),
        _ if giver.is_some() => Routes::remove(),
        _ => {}
    }
    drop(giver);
    let shared = Arc::clone(&pep);
    let pacer = pacer.map(|pacer| spawn("pacer", Box::new(move || pacer.run(&shared)))).transpose()?;
    if !options.no_seccomp {
        seccomp::restrict();
    }
    log::notice(format_args!(
        "ready: {} slots, {} workers, queue {}, port {}, device {}, {}",
        options.max_conns,
        pep.workers.len(),
        options.queue,
        options.port,
        options.device,
        pep.legs.satellite,
    ));
    #[cfg(feature = "count-allocations")]
    let before = crate::sys::allocations::count();
    let mut end = None;
    while end.is_none() {
        end = main_loop.run(&pep, None, || false);
    }
    leave_if_taken_over(end);
    #[cfg(feature = "count-allocations")]
    log::notice(format_args!("{} allocations since ready", crate::sys::allocations::count() - before));
    steal::stop(&pep);
    // Without the device no client leg has an address: nothing could be drained.
    let device_gone = end == Some(End::DeviceGone);
    if !device_gone {
        drain(&pep, &mut main_loop, Duration::from_secs(options.drain));
    }
    if let (Some(pacer), Some(share)) = (pacer, &pep.share) {
        share.end();
        // It takes its routes away; a panic in it has ended the process.
        let _ = pacer.join();
    }
    drop(diversion);
    match device_gone {
        true => {
            Err(Error::system("use", &*options.device, Errno::ENODEV, "it was removed: start pepsal again"))
        }
        false => Ok(()),
    }
}

fn leg_options(options: &Run, memory: &Memory) -> Result<LegOptions, Error> {
    if options.fast_open {
        legs::check_fast_open()?;
    }
    Ok(LegOptions {
        satellite: Satellite::derive(&Link {
            side: options.satellite,
            congestion: options.congestion.as_deref(),
            rates: [options.rate_up, options.rate_down],
            rtt: options.rtt,
            mss: options.mss,
            largest_buffer: memory.largest_buffer(),
        })?,
        transparent: options.transparent,
        fast_open: options.fast_open,
    })
}

/// What the daemon stands on, its own or another's.
struct Ground {
    tun: Tun,
    queue: SynQueue,
    /// Of each worker, for each of the TUN device's addresses.
    listeners: Vec<heapless::Vec<OwnedFd, 2>>,
    /// Workers wait until the other daemon has gone.
    taken_over: bool,
}

fn break_ground(options: &Run, legs: &LegOptions, threads: usize) -> Result<Ground, Error> {
    let tun = Tun::create(&options.device)?;
    let queue = queue::bind(options.queue, queue_len(options))?;
    let backlog = options.max_conns as i32;
    let mut listeners: Vec<heapless::Vec<OwnedFd, 2>> = (0..threads).map(|_| heapless::Vec::new()).collect();
    for ip in tun.addresses() {
        let address = SocketAddr::new(ip, options.port);
        let of_all = legs::listen_at(address, threads, backlog, legs)?;
        for (own, listener) in listeners.iter_mut().zip(of_all) {
            // There are at most two addresses.
            let _ = own.push(listener);
        }
    }
    Ok(Ground { tun, queue, listeners, taken_over: false })
}

/// In the order of the offer. A daemon that no longer steals has given its queue back.
fn take_ground(options: &Run, giver: &mut Giver) -> Result<Ground, Error> {
    let offer = giver.offer.clone();
    let tun = Tun::taken(&options.device, giver.descriptor()?, offer.ipv6);
    let queue = match offer.steals {
        true => SynQueue::new(giver.descriptor()?, options.queue),
        false => queue::bind(options.queue, queue_len(options))?,
    };
    let mut listeners = Vec::new();
    for _ in 0..offer.workers {
        let mut own = heapless::Vec::new();
        for _ in tun.addresses() {
            let _ = own.push(giver.descriptor()?);
        }
        listeners.push(own);
    }
    Ok(Ground { tun, queue, listeners, taken_over: true })
}

/// What was another daemon's until now follows this one's options. Nothing of it is a reason to end.
fn settle(options: &Run, pep: &Pep) {
    pep.queue.set_max_len(queue_len(options));
    for (ip, listener) in pep.workers.iter().flat_map(|seat| pep.tun.addresses().zip(&seat.listeners)) {
        if let Err(errno) = legs::adopt_listener(listener, ip, options.max_conns as i32, &pep.legs) {
            log::warn(format_args!("a listener keeps the options that it had: {}", errno.desc()));
        }
    }
}

/// A held SYN stays in the queue, so the queue must be longer than the slots are many.
fn queue_len(options: &Run) -> u32 {
    options.max_conns as u32 + BURST
}

fn prepare(
    options: &Run,
    memory: Memory,
    legs: LegOptions,
    ground: Ground,
    bell: Bell,
) -> Result<Pep, Error> {
    let Ground { tun, queue, listeners, taken_over } = ground;
    let workers = listeners.into_iter().map(|own| Seat::new(queue.socket(), own));
    let workers = workers.collect::<Result<_, _>>();
    Ok(Pep {
        slots: Slots::new(options.max_conns, options.per_client),
        workers: workers.map_err(|errno| Error::system("prepare", "the workers", errno, ""))?,
        queue,
        tun,
        port: options.port,
        legs,
        share: None,
        handshake: options.handshake,
        connect_timeout: Duration::from_secs(options.connect_timeout),
        full: AtomicBool::new(false),
        ending: AtomicBool::new(false),
        undelivered: Lately::default(),
        missed: Lately::default(),
        memory,
        counts: Counts::default(),
        exclusions: Exclusions::open().ok(),
        gain: Gain::new(options.satellite, options.auto_pass, options.rtt),
        started: Instant::now(),
        bell,
        parking: Parking::new(taken_over),
    })
}

/// How many workers there are. Injected SYNs name listeners by the numbers of another daemon's workers.
fn threads(options: &Run, giver: Option<&Giver>) -> usize {
    let wanted = options.threads.unwrap_or_else(cores);
    let Some(giver) = giver else {
        return wanted;
    };
    let there = giver.offer.workers as usize;
    if there != wanted && options.threads.is_some() {
        log::warn(format_args!("{there} workers, as before: another -T needs a stop and a start"));
    }
    there
}

/// Without undoing anything: all that this process has descriptors of is another's.
fn leave_if_taken_over(end: Option<End>) {
    if end == Some(End::TakenOver) {
        exit(0);
    }
}

/// Nobody has to ask: without a place for it that was asked for, the daemon does without.
fn control_socket(path: Option<&str>) -> Result<Option<Control>, Error> {
    match (Control::listen(path.unwrap_or(cli::CONTROL)), path) {
        (Err(error), Some(_)) => Err(error),
        (Err(error), None) => {
            log::warn(format_args!("{error}; until then 'pepsal status' has nobody to ask"));
            Ok(None)
        }
        (Ok(control), _) => Ok(Some(control)),
    }
}

/// What shares the link and jump-starts its connections; `None`: its rate is not known.
fn prepare_pacer(pep: &mut Pep) -> Result<Option<Pacer>, Error> {
    let Some(pace) = pep.legs.satellite.pace() else {
        return Ok(None);
    };
    let failed = |errno| Error::system("prepare", "the sharing of the link", errno, "");
    let (pacer, bell) = Pacer::new().map_err(failed)?;
    let Pace([rate, _]) = pace;
    let windows = pep
        .legs
        .satellite
        .rtt
        .map_or_else(heapless::Vec::new, |rtt| share::windows(rate, rtt, pep.legs.satellite.segment()));
    pep.share = Some(Share::new(pep.legs.satellite.side, pace, windows, bell));
    Ok(Some(pacer))
}

/// Cores that this process may run on, as far as there can be workers for them. The library's own count reads the
/// quotas of control groups too, which takes 7 KB of program, and which no router has.
fn cores() -> usize {
    sched_getaffinity(Pid::from_raw(0))
        .map_or(1, |set| (0..64).filter(|&core| set.is_set(core) == Ok(true)).count().max(1))
}

/// Two descriptors a slot, two a pipe, a few for the rest.
fn raise_descriptor_limit(slots: usize, threads: usize) -> Result<(), Error> {
    let needed = (2 * slots + threads * (2 * MAX_PIPES + 8) + 64) as u64;
    let raise = || {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        match soft < needed {
            true => setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)),
            false => Ok(()),
        }
    };
    raise().map_err(|errno| {
        let remedy = "raise the hard limit, for procd with 'limits nofile', or ask for fewer slots with -c";
        let object = format!("the file descriptor limit to {needed}");
        Error::system("raise", object, errno, remedy)
    })
}

/// A box, so that the library's code for a new thread is in the program once.
fn spawn(name: &str, work: Box<dyn FnOnce() + Send>) -> Result<JoinHandle<()>, Error> {
    let thread = thread::Builder::new().name(name.into()).stack_size(STACK);
    thread.spawn(work).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN));
        Error::system("start", format!("thread {name}"), errno, "")
    })
}

/// A thread that is gone would leave a daemon that holds SYNs and answers none: end the whole process, so
/// that its supervisor starts it again and netfilter's bypass lets SYNs pass meanwhile. The programs that cross/build.sh
/// makes have no panics to hook: what would be one is a trap.
fn abort_on_panic() {
    sys::tell_last_words();
    panic::set_hook(Box::new(|panic| {
        log::warn(format_args!("internal error, ending at once: {panic}"));
        abort();
    }));
}

fn drain(pep: &Pep, main_loop: &mut MainLoop, longest: Duration) {
    let deadline = Instant::now() + longest;
    log::notice(format_args!(
        "ending: new connections pass direct, {} may go on for {} s",
        pep.slots.used(),
        longest.as_secs()
    ));
    // SIGTERM may come again: procd repeats it when the service is started meanwhile, and then there will be a daemon
    // that takes over.
    while pep.slots.used() > 0 && Instant::now() < deadline {
        let soon = deadline.min(Instant::now() + DRAIN_POLL);
        let end = main_loop.run(pep, Some(soon), || pep.slots.used() == 0);
        leave_if_taken_over(end);
        if matches!(end, Some(End::Interrupted | End::DeviceGone)) {
            break;
        }
    }
    match pep.slots.used() {
        0 => log::notice(format_args!("ended")),
        left => log::notice(format_args!("ended, resetting {left} connections")),
    }
}
