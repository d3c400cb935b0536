//! What the main thread does once the workers run: waits for signals, answers at the control socket, and once a
//! second, while connections live, takes a sample of what they do.
//!
//! A daemon without connections sleeps until something happens: the bell wakes it with the first connection.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::bell::Bell;
use crate::control::{Control, Served};
use crate::handover;
use crate::pep::Pep;
use crate::samples::Samples;

/// What an event of the main thread's epoll is about.
const SIGNALS: u64 = 0;
const BELL: u64 = 1;
const CONTROL: u64 = 2;
const DEVICE: u64 = 3;
/// And so on, one for each that may be connected.
const ASKER: u64 = 16;

/// Events fetched at once.
const BATCH: usize = 16;

/// Why the daemon is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Terminated,
    Interrupted,
    /// Somebody has removed the TUN device.
    DeviceGone,
    /// Another daemon has everything: this one is to exit at once.
    TakenOver,
}

pub struct MainLoop {
    epoll: Epoll,
    signals: SignalFd,
    samples: Samples,
    control: Option<Control>,
}

impl MainLoop {
    /// Blocks the signals that this thread waits for. To be called before any thread starts, which inherits the mask.
    pub fn new() -> Result<MainLoop, Errno> {
        let mask: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        Ok(MainLoop { epoll, signals, samples: Samples::new(Instant::now()), control: None })
    }

    /// Ends when the device does: its address, at which the client legs are, has gone with it.
    pub fn depend_on(&self, device: BorrowedFd) -> Result<(), Errno> {
        // Without EPOLLIN the kernel would not wake anybody when it removes the device; edge-triggered, because what
        // the kernel sends through the device by itself stays unread.
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, DEVICE);
        self.epoll.add(device, event)
    }

    /// Answers at `control` from now on.
    pub fn answer_at(&mut self, control: Control) -> Result<(), Errno> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, CONTROL);
        self.epoll.add(control.listener(), event)?;
        self.control = Some(control);
        Ok(())
    }

    /// By which other threads wake this one.
    pub fn bell(&self) -> Result<Bell, Errno> {
        Bell::new(&self.epoll, BELL)
    }

    /// What was taken over from another daemon: the socket at `path`, and how much that had moved.
    pub fn keep(&mut self, path: &str, bytes: [u64; 2]) {
        if let Some(control) = &mut self.control {
            control.keep(path);
        }
        self.samples.begin_at(bytes);
    }

    /// Works until it is to end, until `deadline` or until `done` (`None`); SIGHUP is reserved.
    pub fn run(&mut self, pep: &Pep, deadline: Option<Instant>, done: impl Fn() -> bool) -> Option<End> {
        while !done() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let end = self.turn(pep, deadline);
            if end.is_some() {
                return end;
            }
        }
        None
    }

    /// Waits once.
    fn turn(&mut self, pep: &Pep, deadline: Option<Instant>) -> Option<End> {
        let still = self.samples.is_still();
        let idle = pep.bell.may_sleep(|| still && pep.memory.is_calm() && pep.slots.used() == 0);
        let due = (!idle).then_some(self.samples.due());
        let impatient = self.control.as_ref().and_then(Control::deadline);
        let until = [deadline, due, impatient].into_iter().flatten().min();
        let mut events = [EpollEvent::empty(); BATCH];
        // A failed wait is an interrupted one; the caller waits again.
        let ready = self.epoll.wait(&mut events, timeout(until)).unwrap_or(0);
        pep.bell.awake();
        if idle {
            self.samples.pass_over(Instant::now());
        }
        // First, so that whoever asks at the same moment is told of it.
        let now = Instant::now();
        if now >= self.samples.due() {
            self.second(pep, now);
        }
        let mut end = None;
        for event in &events[..ready] {
            match event.data() {
                SIGNALS => end = end.or(self.signal()),
                // What it rings for is looked at each time.
                BELL => {}
                CONTROL => self.admit(),
                DEVICE if event.events().contains(EpollFlags::EPOLLERR) => end = Some(End::DeviceGone),
                DEVICE => {}
                asker => {
                    if self.answer(pep, (asker - ASKER) as usize) {
                        return Some(End::TakenOver);
                    }
                }
            }
        }
        if let Some(control) = &mut self.control {
            control.give_up(now);
        }
        end
    }

    /// What is due once a second while connections live.
    fn second(&mut self, pep: &Pep, now: Instant) {
        pep.memory.look(&pep.slots, &pep.legs.satellite);
        self.samples.take(now, pep.bytes(), pep.slots.used() as u32);
    }

    fn admit(&mut self) {
        let Some(control) = &mut self.control else {
            return;
        };
        while let Some((place, asker)) = control.accept() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, ASKER + place as u64);
            if self.epoll.add(asker, event).is_err() {
                control.close(place);
            }
        }
    }

    /// Whether this one has taken over.
    fn answer(&mut self, pep: &Pep, place: usize) -> bool {
        let Some(control) = &mut self.control else {
            return false;
        };
        match control.serve(place, pep, &self.samples) {
            Served::Waits => {}
            Served::IsAnswered(asker) => {
                // From now on it is asked whether it takes more.
                let mut event = EpollEvent::new(EpollFlags::EPOLLOUT, ASKER + place as u64);
                if self.epoll.modify(asker, &mut event).is_err() {
                    control.close(place);
                }
            }
            Served::TakesOver(taker) => {
                control.finish(pep, &self.samples);
                return handover::give(&taker, pep, control.listener());
            }
        }
        false
    }

    fn signal(&self) -> Option<End> {
        match self.signals.read_signal().ok()??.ssi_signo.cast_signed() {
            libc::SIGINT => Some(End::Interrupted),
            libc::SIGTERM => Some(End::Terminated),
            _ => None,
        }
    }
}

/// In whole milliseconds, rounded up: a timeout that came early would only be waited for again.
fn timeout(until: Option<Instant>) -> EpollTimeout {
    let Some(until) = until else {
        return EpollTimeout::NONE;
    };
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
}
