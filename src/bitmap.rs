//! A fixed set of small integers that several threads change at once: the index of the slots.
//!
//! One bit a slot, in 32-bit words because MIPS has no 64-bit atomics. Methods take `&self` and never
//! block. A bit taken by [`Bitmap::take_lowest`] is taken by exactly one caller.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};

pub struct Bitmap {
    words: Box<[AtomicU32]>,
}

impl Bitmap {
    /// Holds 0..capacity; starts empty, or full if `full`.
    pub fn new(capacity: usize, full: bool) -> Bitmap {
        let words = (0..capacity.div_ceil(32))
            .map(|word| match capacity - 32 * word {
                _ if !full => 0,
                32.. => u32::MAX,
                last => (1 << last) - 1,
            })
            .map(AtomicU32::new)
            .collect();
        Bitmap { words }
    }

    pub fn insert(&self, member: usize) {
        self.words[member / 32].fetch_or(1 << (member % 32), Ordering::AcqRel);
    }

    pub fn remove(&self, member: usize) {
        self.words[member / 32].fetch_and(!(1 << (member % 32)), Ordering::AcqRel);
    }

    /// Removes the lowest member and returns it; `None` if there is none.
    pub fn take_lowest(&self) -> Option<usize> {
        for (index, word) in self.words.iter().enumerate() {
            let mut bits = word.load(Ordering::Relaxed);
            while bits != 0 {
                let mask = 1 << bits.trailing_zeros();
                bits = word.fetch_and(!mask, Ordering::AcqRel);
                if bits & mask != 0 {
                    return Some(32 * index + mask.trailing_zeros() as usize);
                }
            }
        }
        None
    }

    /// The members in ascending order. Each word is read once, when the iterator reaches it.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.iter_from(0)
    }

    /// The members that are not below `first`.
    pub fn iter_from(&self, first: usize) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().skip(first / 32).flat_map(move |(index, word)| {
            let mut bits = word.load(Ordering::Acquire);
            if index == first / 32 {
                bits &= u32::MAX << (first % 32);
            }
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros())?;
                bits &= bits - 1;
                Some(32 * index + bit as usize)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Bitmap;

    #[test]
    fn full_map_gives_every_member_once() {
        for capacity in [1, 31, 32, 33, 1000, 16_384] {
            let map = Bitmap::new(capacity, true);
            for expected in 0..capacity {
                assert_eq!(map.take_lowest(), Some(expected));
            }
            assert_eq!(map.take_lowest(), None);
        }
    }

    #[test]
    fn inserted_members_are_listed_in_order() {
        let map = Bitmap::new(100, false);
        assert_eq!(map.iter().count(), 0);
        for member in [99, 0, 31, 32, 64] {
            map.insert(member);
        }
        map.remove(64);
        assert_eq!(map.iter().collect::<Vec<_>>(), [0, 31, 32, 99]);
        assert_eq!(map.iter_from(1).collect::<Vec<_>>(), [31, 32, 99]);
        assert_eq!(map.iter_from(32).collect::<Vec<_>>(), [32, 99]);
        assert_eq!(map.iter_from(100).count(), 0);
    }

    #[test]
    fn two_threads_never_take_the_same_member() {
        let map = Bitmap::new(4096, true);
        let takers: Vec<Vec<usize>> = std::thread::scope(|scope| {
            let start = || scope.spawn(|| std::iter::from_fn(|| map.take_lowest()).collect());
            let threads = [start(), start()];
            threads.map(|thread| thread.join().unwrap()).into()
        });
        let mut all = takers.concat();
        all.sort_unstable();
        assert_eq!(all, (0..4096).collect::<Vec<_>>());
    }
}
