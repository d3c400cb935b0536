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
use crate::control::Control;
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

pub struct MainLoop {
    epoll: Epoll,
    signals: SignalFd,
    samples: Samples,
    control: Option<Control>,
    /// Somebody has removed the TUN device.
    pub device_gone: bool,
}

impl MainLoop {
    /// Blocks the signals that this thread waits for. To be called before any thread starts, which inherits the mask.
    pub fn new() -> Result<MainLoop, Errno> {
        let mask: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        Ok(MainLoop {
            epoll,
            signals,
            samples: Samples::new(Instant::now()),
            control: None,
            device_gone: false,
        })
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

    /// Works until SIGTERM or SIGINT comes or the device is gone (true), until `deadline` or until `done` (false); SIGHUP is reserved.
    pub fn run(&mut self, pep: &Pep, deadline: Option<Instant>, done: impl Fn() -> bool) -> bool {
        while !done() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            if self.turn(pep, deadline) {
                return true;
            }
        }
        false
    }

    /// Waits once; whether a signal says that it is time to end.
    fn turn(&mut self, pep: &Pep, deadline: Option<Instant>) -> bool {
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
        let mut ending = false;
        for event in &events[..ready] {
            match event.data() {
                SIGNALS => ending |= self.end_is_asked_for(),
                // What it rings for is looked at each time.
                BELL => {}
                CONTROL => self.admit(),
                DEVICE => self.device_gone |= event.events().contains(EpollFlags::EPOLLERR),
                asker => self.answer(pep, (asker - ASKER) as usize),
            }
        }
        if let Some(control) = &mut self.control {
            control.give_up(now);
        }
        ending || self.device_gone
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

    fn answer(&mut self, pep: &Pep, place: usize) {
        let Some(control) = &mut self.control else {
            return;
        };
        if let Some(asker) = control.serve(place, pep, &self.samples) {
            // From now on it is asked whether it takes more.
            let mut event = EpollEvent::new(EpollFlags::EPOLLOUT, ASKER + place as u64);
            if self.epoll.modify(asker, &mut event).is_err() {
                control.close(place);
            }
        }
    }

    fn end_is_asked_for(&self) -> bool {
        match self.signals.read_signal() {
            Ok(Some(signal)) => signal.ssi_signo != Signal::SIGHUP as u32,
            _ => false,
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
