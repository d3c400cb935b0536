//! Owns the random numbers: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) used by position instead of by state.
//!
//! Invariant: the n-th number depends on seed and n alone. So the n-th packet of a direction has the same fate in
//! every run, and a receiver can check a stream from any byte on.

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number at position `n` of the sequence that `seed` names.
pub fn number(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(GOLDEN_GAMMA));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `bytes` with the part of the stream that begins at byte `position`.
pub fn fill(seed: u64, position: u64, bytes: &mut [u8]) {
    let skip = (position % 8) as usize;
    let lead = if skip == 0 { 0 } else { (8 - skip).min(bytes.len()) };
    let (first, aligned) = bytes.split_at_mut(lead);
    if lead > 0 {
        let word = number(seed, position / 8).to_le_bytes();
        first.copy_from_slice(&word[skip..skip + lead]);
    }
    let start = position.div_ceil(8);
    for (n, chunk) in aligned.chunks_mut(8).enumerate() {
        let word = number(seed, start + n as u64).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First outputs for seed 1234567, as published with the reference implementation (prng.di.unimi.it).
    #[test]
    fn matches_the_reference() {
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        for (n, number_n) in expected.into_iter().enumerate() {
            assert_eq!(number(1_234_567, n as u64), number_n);
        }
    }

    #[test]
    fn every_cut_of_the_stream_is_the_same_stream() {
        let mut whole = [0; 64];
        fill(7, 0, &mut whole);
        for from in 0..64 {
            for to in from..64 {
                let mut part = [0; 64];
                fill(7, from as u64, &mut part[..to - from]);
                assert_eq!(part[..to - from], whole[from..to], "{from}..{to}");
            }
        }
    }
}
