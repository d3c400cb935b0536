//! What splitting is worth: how long the handshakes of each leg take, and whether the satellite leg is slow at all.
//!
//! Workers note each handshake; anyone may read. With `--auto-pass` new connections pass direct while the
//! satellite leg is faster than the threshold, as after a failover of the WAN to a terrestrial line. The way there
//! takes the median of many handshakes, so that neither the page of the modem next door nor a repeated SYN decides;
//! the way back takes one slow handshake of the probes, since splitting for nothing does little harm.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::log;
use crate::relay::Side;

/// Handshakes that the median is taken of. Odd, so that there is a middle one.
const KEPT: usize = 15;

/// As many are enough to judge the link by.
const ENOUGH: usize = 8;

/// While all pass direct, one SYN in this time is stolen all the same, to measure again.
const PROBE_INTERVAL_S: u32 = 30;

/// Below this a satellite leg is not worth a PEP, if nothing is configured that says more.
const SLOW_MS: u32 = 100;

pub struct Gain {
    recent: [Recent; 2],
    satellite: Side,
    /// `--auto-pass`.
    threshold_ms: Option<u32>,
    /// Below this the operator is warned.
    slow_ms: u32,
    passing: AtomicBool,
    /// When the next SYN is to be stolen while all others pass, in seconds after `started`.
    next_probe: AtomicU32,
    started: Instant,
}

/// The last handshakes of one leg in microseconds; 0: none yet.
#[derive(Default)]
struct Recent {
    micros: [AtomicU32; KEPT],
    next: AtomicU32,
}

impl Recent {
    fn note(&self, micros: u32) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) as usize % KEPT;
        self.micros[at].store(micros.max(1), Ordering::Relaxed);
    }

    fn forget(&self) {
        self.micros.iter().for_each(|micros| micros.store(0, Ordering::Relaxed));
    }

    /// How many there are, and their median.
    fn median(&self) -> (usize, u32) {
        let mut micros = [0; KEPT];
        for (to, from) in micros.iter_mut().zip(&self.micros) {
            *to = from.load(Ordering::Relaxed);
        }
        micros.sort_unstable();
        let empty = micros.iter().take_while(|&&micros| micros == 0).count();
        let known = &micros[empty..];
        (known.len(), known.get(known.len() / 2).copied().unwrap_or(0))
    }
}

impl Gain {
    /// `rtt_ms`: of the link, as configured.
    pub fn new(satellite: Side, threshold_ms: Option<u32>, rtt_ms: Option<u32>) -> Gain {
        Gain {
            recent: Default::default(),
            satellite,
            threshold_ms,
            slow_ms: threshold_ms.or(rtt_ms.map(|rtt| rtt / 2)).unwrap_or(SLOW_MS),
            passing: AtomicBool::new(false),
            next_probe: AtomicU32::new(0),
            started: Instant::now(),
        }
    }

    /// A leg towards `side` was established within `took`.
    pub fn note(&self, side: Side, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let recent = &self.recent[side as usize];
        recent.note(micros);
        let Some(threshold) = self.threshold_ms.filter(|_| side == self.satellite) else {
            return;
        };
        let slow = |micros: u32| micros / 1000 >= threshold;
        if self.passing.load(Ordering::Relaxed) {
            if slow(micros) && self.passing.swap(false, Ordering::Relaxed) {
                // What was measured before tells nothing about the link of now.
                recent.forget();
                recent.note(micros);
                log::notice(format_args!(
                    "a handshake of the satellite leg took {} ms: new connections are stolen again",
                    micros / 1000
                ));
            }
            return;
        }
        let (count, median) = recent.median();
        if count >= ENOUGH && !slow(median) && !self.passing.swap(true, Ordering::Relaxed) {
            self.next_probe.store(self.seconds() + PROBE_INTERVAL_S, Ordering::Relaxed);
            log::notice(format_args!(
                "handshakes of the satellite leg take {} ms: new connections pass direct until it is slow again",
                median / 1000
            ));
        }
    }

    /// Whether a new SYN is to pass because the satellite leg is fast.
    pub fn is_none(&self) -> bool {
        if !self.passing.load(Ordering::Relaxed) {
            return false;
        }
        let (now, due) = (self.seconds(), self.next_probe.load(Ordering::Relaxed));
        let next = now + PROBE_INTERVAL_S;
        // Of several workers one takes the probe.
        now < due
            || self.next_probe.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err()
    }

    pub fn is_passing(&self) -> bool {
        self.passing.load(Ordering::Relaxed)
    }

    pub fn threshold_ms(&self) -> Option<u32> {
        self.threshold_ms
    }

    /// The median of the last handshakes in microseconds: of the satellite leg, and of the other.
    pub fn rtts(&self) -> [Option<u32>; 2] {
        let satellite = self.satellite as usize;
        [satellite, 1 - satellite].map(|side| {
            let (count, median) = self.recent[side].median();
            (count > 0).then_some(median)
        })
    }

    /// The satellite leg's median in milliseconds, if that is too little for a satellite.
    pub fn doubtful(&self) -> Option<u32> {
        let (count, median) = self.recent[self.satellite as usize].median();
        (count >= ENOUGH && median / 1000 < self.slow_ms).then_some(median / 1000)
    }

    fn seconds(&self) -> u32 {
        self.started.elapsed().as_secs() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(20);
    const SLOW: Duration = Duration::from_millis(600);

    fn note(gain: &Gain, times: usize, took: Duration) {
        (0..times).for_each(|_| gain.note(Side::Server, took));
    }

    #[test]
    fn the_median_ignores_what_is_rare() {
        let gain = Gain::new(Side::Server, None, None);
        assert_eq!(gain.rtts(), [None, None]);
        note(&gain, 100, SLOW);
        note(&gain, 7, FAST);
        gain.note(Side::Client, Duration::from_micros(2500));
        assert_eq!(gain.rtts(), [Some(600_000), Some(2500)]);
        assert_eq!(gain.doubtful(), None);
        note(&gain, 1, FAST);
        assert_eq!(gain.rtts()[0], Some(20_000));
        assert_eq!(gain.doubtful(), Some(20));
        assert!(!gain.is_none(), "without --auto-pass nothing passes");
    }

    #[test]
    fn a_fast_link_lets_connections_pass_until_one_probe_is_slow() {
        let gain = Gain::new(Side::Server, Some(200), None);
        note(&gain, 7, FAST);
        assert!(!gain.is_none(), "too few to judge by");
        note(&gain, 1, FAST);
        assert!(gain.is_none() && gain.is_none());

        gain.next_probe.store(0, Ordering::Relaxed);
        assert!(!gain.is_none(), "a probe is due");
        assert!(gain.is_none(), "one probe is enough");
        note(&gain, 1, FAST);
        assert!(gain.is_none());
        note(&gain, 1, SLOW);
        assert!(!gain.is_none());
        assert_eq!(gain.rtts()[0], Some(600_000));
        note(&gain, 14, FAST);
        assert!(gain.is_none());
    }

    #[test]
    fn a_slow_link_never_passes() {
        let gain = Gain::new(Side::Client, Some(200), None);
        (0..50).for_each(|_| gain.note(Side::Client, SLOW));
        note(&gain, 50, FAST);
        assert!(!gain.is_none());
        assert_eq!(gain.rtts(), [Some(600_000), Some(20_000)]);
    }
}
