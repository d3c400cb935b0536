//! Owns throughput over time: bytes received in each quarter of a second since the transfer's connect().
//!
//! Invariant: the sum of the buckets is the number of bytes received.

use std::fmt::Write;

pub const BUCKET_MS: u64 = 250;
/// A quarter of an hour; what comes later is counted in the last bucket.
const MOST_BUCKETS: usize = 3600;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    pub buckets: Vec<u64>,
}

impl Series {
    pub fn add(&mut self, since_start_ns: u64, bytes: u64) {
        let n = ((since_start_ns / (BUCKET_MS * 1_000_000)) as usize).min(MOST_BUCKETS - 1);
        if self.buckets.len() <= n {
            self.buckets.resize(n + 1, 0);
        }
        self.buckets[n] += bytes;
    }

    /// One line per bucket: the bucket's end in seconds, its bytes.
    pub fn to_csv(&self) -> String {
        let mut csv = String::from("seconds,bytes\n");
        for (n, bytes) in self.buckets.iter().enumerate() {
            let end = (n as u64 + 1) * BUCKET_MS;
            writeln!(csv, "{}.{:03},{bytes}", end / 1000, end % 1000).expect("a String takes all");
        }
        csv
    }

    pub fn from_csv(csv: &str) -> Result<Self, String> {
        let buckets = csv
            .lines()
            .skip(1)
            .map(|line| {
                let (_, bytes) = line.split_once(',').ok_or("a line without a comma")?;
                bytes.parse().map_err(|_| format!("'{bytes}' is no number of bytes"))
            })
            .collect::<Result<_, String>>()?;
        Ok(Self { buckets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_survives_its_file() {
        let mut series = Series::default();
        series.add(0, 5);
        series.add(700_000_000, 1);
        series.add(u64::MAX, 2);
        assert_eq!(series.buckets.iter().sum::<u64>(), 8);
        assert_eq!(series.buckets[..3], [5, 0, 1]);
        assert_eq!(Series::from_csv(&series.to_csv()), Ok(series));
    }

    #[test]
    fn a_torn_file_is_refused() {
        assert!(Series::from_csv("seconds,bytes\n0.250,12\n0.5").is_err());
        assert!(Series::from_csv("seconds,bytes\n0.250,1x\n").is_err());
    }
}
