//! Numbers from a seed: a stream of draws, each stream the same whenever its seed is.

use crate::splitmix;

pub struct Random {
    seed: u64,
    drawn: u64,
}

impl Random {
    /// The stream that `number` names among those of `seed`.
    pub fn new(seed: u64, number: u64) -> Random {
        Random { seed: splitmix::number(seed, number), drawn: 0 }
    }

    pub fn next(&mut self) -> u64 {
        self.drawn += 1;
        splitmix::number(self.seed, self.drawn)
    }

    /// From 0 to 1, 1 excluded.
    pub fn fraction(&mut self) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.fraction() * bound as f64) as usize
    }

    pub fn between(&mut self, least: f64, most: f64) -> f64 {
        least + self.fraction() * (most - least)
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Bytes: each power of two as likely as the next, so most are small and some are large.
    pub fn size(&mut self, least_log2: f64, most_log2: f64) -> usize {
        self.between(least_log2, most_log2).exp2() as usize
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
