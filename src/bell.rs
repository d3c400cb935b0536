//! Wakes a thread that waits in epoll without a time limit, having nothing to watch over.
//!
//! The waiting thread answers the bell; any other may ring it, which costs a system call only when there is a
//! sleeper.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

pub struct Bell {
    event: EventFd,
    asleep: AtomicBool,
}

impl Bell {
    /// Reports to `epoll` with `token`.
    pub fn new(epoll: &Epoll, token: u64) -> Result<Bell, Errno> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        // Edge-triggered: each write reports once and nothing needs to be read.
        let once = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&event, EpollEvent::new(once, token))?;
        Ok(Bell { event, asleep: AtomicBool::new(false) })
    }

    /// Before waiting: whether to wait without a time limit, because `nothing_to_do`, which is to read
    /// sequentially consistent what [`Bell::ring`]'s caller has written so. Then one of the two sees the other:
    /// either this sees the work, or the one who brings it sees that it has to wake.
    pub fn may_sleep(&self, nothing_to_do: impl FnOnce() -> bool) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        let sleep = nothing_to_do();
        if !sleep {
            self.awake();
        }
        sleep
    }

    /// After waiting.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    pub fn ring(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.ring_in_any_case();
        }
    }

    /// Also where the thread waits with a time limit.
    pub fn ring_in_any_case(&self) {
        // An eventfd's counter cannot overflow by ones.
        let _ = self.event.write(1);
    }
}
