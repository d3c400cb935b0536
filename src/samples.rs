//! What the last two minutes looked like: a ring of samples, one a second, of fixed size.
//!
//! Owned by the main thread. While no connection lives nobody takes samples; the seconds of that time are filled in
//! with zeros when somebody looks or when the next connection begins.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

pub const INTERVAL: Duration = Duration::from_secs(1);

const COUNT: usize = 120;

#[derive(Clone, Copy, Default)]
pub struct Sample {
    /// Bits per second from client to server and from server to client.
    pub rates: [u64; 2],
    pub connections: u32,
}

pub struct Samples {
    ring: [Sample; COUNT],
    /// Where the next sample goes.
    next: usize,
    taken: usize,
    /// When the last one was taken, and the bytes moved until then.
    at: Instant,
    bytes: [u64; 2],
}

impl Samples {
    pub fn new(now: Instant) -> Samples {
        Samples { ring: [Sample::default(); COUNT], next: 0, taken: 0, at: now, bytes: [0; 2] }
    }

    /// `bytes` were moved before this daemon: they belong to no second of its own.
    pub fn begin_at(&mut self, bytes: [u64; 2]) {
        self.bytes = bytes;
    }

    /// When the next sample is due.
    pub fn due(&self) -> Instant {
        self.at + INTERVAL
    }

    /// `bytes`: moved since the start. A thread that was late has taken no samples meanwhile: all seconds since the last
    /// one share what has moved.
    pub fn take(&mut self, now: Instant, bytes: [u64; 2], connections: u32) {
        let millis = now.saturating_duration_since(self.at).as_millis().max(1) as u64;
        let rate = |way: usize| (bytes[way] - self.bytes[way]) * 8 * 1000 / millis;
        let sample = Sample { rates: [rate(0), rate(1)], connections };
        let seconds = (millis + 500) / 1000;
        for _ in 0..seconds.clamp(1, COUNT as u64) {
            self.push(sample);
        }
        self.at = now;
        self.bytes = bytes;
    }

    /// The time until `now` has passed without a connection.
    pub fn pass_over(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs();
        for _ in 0..seconds.min(COUNT as u64) {
            self.push(Sample::default());
        }
        self.at += Duration::from_secs(seconds);
    }

    fn push(&mut self, sample: Sample) {
        self.ring[self.next] = sample;
        self.next = (self.next + 1) % COUNT;
        self.taken = (self.taken + 1).min(COUNT);
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Sample> {
        let (newest, oldest) = self.ring.split_at(self.next);
        oldest.iter().chain(newest).skip(COUNT - self.taken)
    }

    pub fn last(&self) -> Sample {
        self.iter().last().copied().unwrap_or_default()
    }

    /// Nothing has moved in the last second.
    pub fn is_still(&self) -> bool {
        self.last().rates == [0; 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_last_two_minutes_in_order() {
        let start = Instant::now();
        let mut samples = Samples::new(start);
        assert_eq!(samples.iter().count(), 0);
        for second in 1..=300u32 {
            let now = start + INTERVAL * second;
            samples.take(now, [u64::from(second) * 1000, 0], second);
        }
        let connections: Vec<u32> = samples.iter().map(|sample| sample.connections).collect();
        assert_eq!(connections, (181..=300).collect::<Vec<_>>());
        assert!(samples.iter().all(|sample| sample.rates == [8000, 0]));
    }

    #[test]
    fn a_late_sample_stands_for_all_its_seconds() {
        let start = Instant::now();
        let mut samples = Samples::new(start);
        samples.take(start + Duration::from_millis(2900), [2900, 0], 1);
        assert_eq!(samples.iter().map(|sample| sample.rates[0]).collect::<Vec<_>>(), [8000; 3]);
        samples.take(start + Duration::from_secs(1_000_000), [2900, 0], 1);
        assert_eq!(samples.iter().count(), 120);
    }

    #[test]
    fn idle_seconds_are_filled_in_with_zeros() {
        let start = Instant::now();
        let mut samples = Samples::new(start);
        samples.take(start + INTERVAL, [0, 500], 1);
        samples.pass_over(start + Duration::from_millis(4500));
        assert_eq!(samples.iter().map(|sample| sample.rates[1]).collect::<Vec<_>>(), [4000, 0, 0, 0]);
        assert_eq!(samples.due(), start + Duration::from_secs(5));
        assert!(samples.is_still());
        samples.pass_over(start + Duration::from_secs(1_000_000));
        assert_eq!(samples.iter().count(), 120);
    }
}
