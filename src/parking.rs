//! Where workers wait while another daemon takes over (see `handover`): no slot is locked then, and no bytes are in a
//! worker's hands.
//!
//! Closed and opened by the main thread. A worker looks once a turn, which costs a load. In a daemon that takes over it is
//! closed from the start, until the other daemon has gone.
#![forbid(unsafe_code)]

use std::process::abort;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

pub struct Parking {
    closed: AtomicBool,
    /// Workers that wait.
    waiting: Mutex<usize>,
    changed: Condvar,
}

impl Parking {
    pub fn new(closed: bool) -> Parking {
        Parking { closed: AtomicBool::new(closed), waiting: Mutex::new(0), changed: Condvar::new() }
    }

    /// Whether a worker is to wait before its next turn.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// A worker waits until it is opened.
    pub fn wait(&self) {
        let mut waiting = self.lock();
        *waiting += 1;
        self.changed.notify_all();
        while self.is_closed() {
            waiting = self.changed.wait(waiting).unwrap_or_else(|_| abort());
        }
        *waiting -= 1;
    }

    /// Has all `workers` wait, whom `wake` wakes; whether they do within `patience`.
    pub fn close(&self, workers: usize, patience: Duration, wake: impl FnOnce()) -> bool {
        self.closed.store(true, Ordering::SeqCst);
        wake();
        let all = self.changed.wait_timeout_while(self.lock(), patience, |waiting| *waiting < workers);
        all.is_ok_and(|(_, result)| !result.timed_out())
    }

    pub fn open(&self) {
        // Under the lock, so that nobody is between looking and waiting.
        let waiting = self.lock();
        self.closed.store(false, Ordering::SeqCst);
        drop(waiting);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(|_| abort())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::thread;

    #[test]
    fn all_wait_while_it_is_closed_and_go_on_after() {
        let parking = Parking::new(false);
        let (turns, ending) = (AtomicU32::new(0), AtomicBool::new(false));
        let patience = Duration::from_secs(20);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !ending.load(Ordering::SeqCst) {
                        if parking.is_closed() {
                            parking.wait();
                        }
                        turns.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                    }
                });
            }
            for _ in 0..20 {
                assert!(parking.close(3, patience, || ()));
                let before = turns.load(Ordering::SeqCst);
                thread::yield_now();
                assert_eq!(turns.load(Ordering::SeqCst), before);
                parking.open();
                while turns.load(Ordering::SeqCst) == before {
                    thread::yield_now();
                }
            }
            ending.store(true, Ordering::SeqCst);
            assert!(!parking.close(4, Duration::from_millis(1), || ()), "there are only three");
            parking.open();
        });
    }
}
