//! What the daemon counts, for whoever asks (`control`).
//!
//! Counters of SYNs are 32 bits wide, since MIPS has no wider atomics, and begin again at 0. Bytes are exact in
//! 64 bits: each worker has a [`Tally`] that only it writes. Everything here is read by the main thread and
//! never makes a worker wait.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::thread;

use nix::errno::Errno;

/// Why a SYN went on untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// No slot was free.
    Full,
    /// `--per-client`: its client has as many as it may.
    ClientFull,
    /// TCP-MD5 or TCP-AO.
    Signed,
    /// TCP Fast Open.
    Data,
    /// Fragments, IP options, what is no SYN, what is too long.
    Unusual,
    /// What the server leg got.
    Refused,
    Unreachable,
    Timeout,
    /// No memory, descriptors or ports were left.
    Memory,
    /// `--auto-pass`: the satellite leg is not slow.
    FastLink,
    /// The injected SYN did not reach the listener.
    Undelivered,
    /// SIGTERM has come.
    Ending,
    /// Netfilter did not wait for the daemon; it never saw these.
    FailOpen,
}

impl Passed {
    pub const ALL: [(Passed, &str); 13] = [
        (Passed::Full, "full"),
        (Passed::ClientFull, "client_full"),
        (Passed::Signed, "signed"),
        (Passed::Data, "data"),
        (Passed::Unusual, "unusual"),
        (Passed::Refused, "refused"),
        (Passed::Unreachable, "unreachable"),
        (Passed::Timeout, "timeout"),
        (Passed::Memory, "memory"),
        (Passed::FastLink, "fast_link"),
        (Passed::Undelivered, "undelivered"),
        (Passed::Ending, "ending"),
        (Passed::FailOpen, "fail_open"),
    ];

    /// Why, if making the server leg failed so.
    pub fn because(errno: Errno) -> Passed {
        match errno {
            Errno::ECONNREFUSED => Passed::Refused,
            Errno::ETIMEDOUT => Passed::Timeout,
            Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::EADDRNOTAVAIL => {
                Passed::Memory
            }
            _ => Passed::Unreachable,
        }
    }
}

#[derive(Default)]
pub struct Count(AtomicU32);

impl Count {
    pub fn add(&self, more: u32) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
pub struct Counts {
    /// SYNs taken from the queue: stolen, repeated, passed, or held at the moment.
    pub seen: Count,
    /// Injected: the client was answered.
    pub stolen: Count,
    /// Dropped, because the first one is being taken care of.
    pub repeated: Count,
    /// Connections without a SYN, by a redirection that netfilter still kept.
    pub returned: Count,
    /// Server legs that never came up.
    pub connects_failed: Count,
    passed: [Count; Passed::ALL.len()],
}

impl Counts {
    pub fn passed(&self, why: Passed) -> &Count {
        &self.passed[why as usize]
    }
}

/// Whether something has happened in the last ten minutes: who has mended its cause is not warned for ever.
#[derive(Default)]
pub struct Lately(AtomicU32);

impl Lately {
    const SECONDS: u32 = 600;

    /// It happens now, in seconds since the start. True if it had not for long: then it is worth a line in the log.
    pub fn note(&self, now: u32) -> bool {
        !Lately::since(self.0.swap(now + 1, Ordering::Relaxed), now)
    }

    pub fn is(&self, now: u32) -> bool {
        Lately::since(self.0.load(Ordering::Relaxed), now)
    }

    /// `last`: one more than the second in which it happened; 0: it never did.
    fn since(last: u32, now: u32) -> bool {
        last != 0 && now < last + Lately::SECONDS
    }
}

/// Bytes moved, up and down, of one writer. A sequence lock: an odd sequence number means that the four halves
/// are being written, a changed one that they have been.
#[derive(Default)]
pub struct Tally {
    sequence: AtomicU32,
    halves: [AtomicU32; 4],
}

impl Tally {
    /// Only the owner may call this.
    pub fn add(&self, more: [u64; 2]) {
        let [up, down] = self.read();
        let sums = [up.wrapping_add(more[0]), down.wrapping_add(more[1])];
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (at, half) in self.halves.iter().enumerate() {
            half.store((sums[at / 2] >> (at % 2 * 32)) as u32, Ordering::Relaxed);
        }
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    pub fn get(&self) -> [u64; 2] {
        loop {
            let sequence = self.sequence.load(Ordering::Acquire);
            let sums = self.read();
            fence(Ordering::Acquire);
            if sequence.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == sequence {
                return sums;
            }
            // The writer may have lost its only core to this thread.
            thread::yield_now();
        }
    }

    fn read(&self) -> [u64; 2] {
        let half = |at: usize| u64::from(self.halves[at].load(Ordering::Relaxed));
        [half(0) | half(1) << 32, half(2) | half(3) << 32]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        for (at, (why, _)) in Passed::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at);
        }
        let counts = Counts::default();
        counts.passed(Passed::because(Errno::ECONNREFUSED)).add(2);
        assert_eq!(counts.passed(Passed::Refused).get(), 2);
        assert_eq!(counts.passed(Passed::FailOpen).get(), 0);
    }

    #[test]
    fn what_happened_is_told_for_ten_minutes() {
        let lately = Lately::default();
        assert!(!lately.is(0) && !lately.is(10_000));
        assert!(lately.note(0), "the first");
        assert!(lately.is(0) && lately.is(599) && !lately.is(601));
        assert!(lately.note(700) && !lately.note(1200) && !lately.note(1799), "one line while it goes on");
        assert!(lately.is(1800) && !lately.is(2401));
    }

    /// Adding 2^32 - 1 carries into the upper half almost every time: a torn reading would be far off.
    #[test]
    fn a_tally_is_never_read_half_written() {
        const STEP: u64 = u32::MAX as u64;
        const STEPS: u64 = 200_000;
        let tally = Tally::default();
        thread::scope(|scope| {
            scope.spawn(|| (0..STEPS).for_each(|_| tally.add([STEP, 2 * STEP])));
            let mut before = 0;
            while before < STEPS * STEP {
                let [up, down] = tally.get();
                assert!(up % STEP == 0 && down == 2 * up && up >= before, "{up} {down} after {before}");
                before = up;
            }
        });
    }
}
