//! Owns the emulator's loop: one thread that moves packets between two tun devices through two channels.
//!
//! Invariants:
//! - The process sleeps unless a packet came in, one is due, or a signal arrived.
//! - One turn reads at most `BATCH` packets per direction, so that arrivals are never late because of a flood.
//! - Every packet is stamped with a time read after it was available: a channel's clock never runs backwards.

use crate::channel::{Channel, Counts, Properties};
use crate::tun;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::unistd::{read, write};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

const BATCH: usize = 256;
/// The shortest time from turn to turn: at 100 Mbit/s a packet comes every 120 µs, and waking for each would cost
/// several times the work of moving it. Far below the delays that the emulator is for.
const TICK: Duration = Duration::from_micros(500);

/// emulate a satellite link between two network namespaces; prints its counts at SIGTERM
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "link")]
pub struct Link {
    /// the terminal's end, as NAMESPACE/DEVICE
    #[argh(option)]
    terminal: String,
    /// the far end, as NAMESPACE/DEVICE
    #[argh(option)]
    gateway: String,
    /// one-way delay of each direction, ms
    #[argh(option, default = "300.0")]
    delay: f64,
    /// rate to the terminal, Mbit/s
    #[argh(option, default = "20.0")]
    down_rate: f64,
    /// rate from the terminal, Mbit/s
    #[argh(option, default = "5.0")]
    up_rate: f64,
    /// loss to the terminal, percent of the packets
    #[argh(option, default = "0.0")]
    down_loss: f64,
    /// loss from the terminal, percent of the packets
    #[argh(option, default = "0.0")]
    up_loss: f64,
    /// queue in front of the direction to the terminal, bytes (default: rate times two delays)
    #[argh(option)]
    down_queue: Option<u64>,
    /// queue in front of the direction from the terminal, bytes (default: rate times two delays)
    #[argh(option)]
    up_queue: Option<u64>,
    /// names the sequence of losses
    #[argh(option, default = "1")]
    seed: u64,
}

/// One direction: from the first device through the channel to the second.
struct Direction<'a> {
    name: &'static str,
    from: &'a OwnedFd,
    to: &'a OwnedFd,
    channel: Channel,
}

pub fn run(link: &Link) -> Result<(), String> {
    let up = properties(link, link.up_rate, link.up_loss, link.up_queue, link.seed)?;
    let down_seed = link.seed.wrapping_add(0x5eed);
    let down = properties(link, link.down_rate, link.down_loss, link.down_queue, down_seed)?;

    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|error| format!("cannot block signals: {error}"))?;
    let signal_fd = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|error| format!("cannot open a signal descriptor: {error}"))?;

    let terminal = tun::open_in(&link.terminal)?;
    let gateway = tun::open_in(&link.gateway)?;
    let mut directions = [
        Direction { name: "up", from: &terminal, to: &gateway, channel: Channel::new(up) },
        Direction { name: "down", from: &gateway, to: &terminal, channel: Channel::new(down) },
    ];
    relay(&mut directions, &signal_fd)
}

fn properties(
    link: &Link,
    mbit: f64,
    loss_percent: f64,
    queue: Option<u64>,
    seed: u64,
) -> Result<Properties, String> {
    if !(0.0..=10_000.0).contains(&link.delay) {
        return Err(format!("delay {} ms is not between 0 and 10000", link.delay));
    }
    if !(0.01..=1000.0).contains(&mbit) {
        return Err(format!("rate {mbit} Mbit/s is not between 0.01 and 1000"));
    }
    if !(0.0..=100.0).contains(&loss_percent) {
        return Err(format!("loss {loss_percent} % is not between 0 and 100"));
    }
    let product = (mbit * 1e6 / 8.0 * link.delay * 2.0 / 1e3) as u64;
    Ok(Properties {
        delay_ns: (link.delay * 1e6) as u64,
        bits_per_second: (mbit * 1e6) as u64,
        // Below 20 packets a sender's initial window would already overflow a link with next to no delay.
        queue_bytes: queue.unwrap_or(product.max(30_000)),
        loss: loss_percent / 100.0,
        seed,
    })
}

fn relay(directions: &mut [Direction; 2], signals: &SignalFd) -> Result<(), String> {
    let started = Instant::now();
    let now = || started.elapsed().as_nanos() as u64;
    let mut turn = started;
    loop {
        std::thread::sleep(TICK.saturating_sub(turn.elapsed()));
        let readable = wait(directions, signals, now())?;
        turn = Instant::now();
        for (direction, readable) in directions.iter_mut().zip(readable) {
            if readable {
                take_in(direction, now)?;
            }
            direction.channel.deliver(now(), |packet| write(direction.to, packet).is_ok());
        }
        if let Ok(Some(_)) = signals.read_signal() {
            return print_counts(directions);
        }
    }
}

/// Sleeps until there is something to do; says which directions have packets to take in.
fn wait(directions: &[Direction; 2], signals: &SignalFd, now_ns: u64) -> Result<[bool; 2], String> {
    let timeout = directions
        .iter()
        .filter_map(|direction| direction.channel.next_arrival_ns())
        .min()
        .map(|at| TimeSpec::from(Duration::from_nanos(at.saturating_sub(now_ns))));
    let mut polled = [
        PollFd::new(directions[0].from.as_fd(), PollFlags::POLLIN),
        PollFd::new(directions[1].from.as_fd(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    match ppoll(&mut polled, timeout, None) {
        Ok(_) | Err(Errno::EINTR) => Ok([0, 1].map(|n| polled[n].any().unwrap_or(true))),
        Err(error) => Err(format!("cannot wait for packets: {error}")),
    }
}

fn take_in(direction: &mut Direction, now: impl Fn() -> u64) -> Result<(), String> {
    let mut discarded = [0; 2048];
    for _ in 0..BATCH {
        let room = direction.channel.room();
        let stored = room.is_some();
        match read(direction.from, room.unwrap_or(&mut discarded)) {
            Ok(len) if stored => direction.channel.admit(len, now()),
            Ok(len) => direction.channel.overflow(len),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(error) => {
                return Err(format!("cannot read from the {} end: {error}", direction.name));
            }
        }
    }
    Ok(())
}

fn print_counts(directions: &[Direction; 2]) -> Result<(), String> {
    let words = directions.each_ref().map(|direction| {
        let Counts { packets, bytes, lost, overflowed, refused, late_ns } = direction.channel.counts();
        format!(
            "{} packets {packets} bytes {bytes} lost {lost} overflowed {overflowed} refused {refused} late_us {}",
            direction.name,
            late_ns / 1000
        )
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", words.join(" "))
        .and_then(|()| out.flush())
        .map_err(|error| format!("cannot print the counts: {error}"))
}
