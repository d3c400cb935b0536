// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the measured runs: what the machines printed, later runs in the place of earlier ones of the same name.

use std::collections::BTreeMap;
use std::fs;

/// Of a run: its case, its mode, its seed.
type Name = (String, String, u64);

#[derive(Default)]
pub struct Rows {
    runs: BTreeMap<Name, BTreeMap<String, String>>,
    /// Seconds and bytes as the receiver saw them, of the runs with seed 1.
    points: BTreeMap<(String, String), Vec<(f64, f64)>>,
}

/// Columns of results.csv after case, mode and seed.
const COLUMNS: [&str; 11] = [
    "limit",
    "seconds",
    "jain",
    "mbit",
    "idle_ms",
    "idle_udp_ms",
    "busy_ms",
    "busy_p90_ms",
    "busy_udp_ms",
    "queue_drops",
    "lost",
];

impl Rows {
    /// `directory` has rows and points, in the order in which they were measured.
    pub fn read(directory: &str) -> Result<Rows, String> {
        let mut rows = Rows::default();
        for line in read(directory, "rows")?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, seed, case, mode, ref values @ ..] = words[..] else {
                return Err(format!("a torn row: {line}"));
            };
            let values: BTreeMap<String, String> =
                values.chunks_exact(2).map(|pair| (pair[0].into(), pair[1].into())).collect();
            let seed = seed.parse().map_err(|_| format!("no seed: {line}"))?;
            rows.runs.insert((case.into(), mode.into(), seed), values);
        }
        for line in read(directory, "points")?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, _, case, mode, seconds, bytes] = words[..] else {
                return Err(format!("a torn point: {line}"));
            };
            let number = |word: &str| word.parse::<f64>().map_err(|_| format!("no number: {line}"));
            let point = (number(seconds)?, number(bytes)?);
            let points = rows.points.entry((case.into(), mode.into())).or_default();
            if points.last().is_some_and(|last| last.1 > point.1) {
                // A later run of the same name begins.
                points.clear();
            }
            points.push(point);
        }
        Ok(rows)
    }

    /// The median over the seeds; of an even number of runs, the slower of the middle ones.
    pub fn median(&self, case: &str, mode: &str, value: &str) -> Option<f64> {
        let mut values: Vec<f64> = (self.runs.iter())
            .filter(|((its_case, its_mode, _), _)| its_case == case && its_mode == mode)
            .filter_map(|(_, values)| values.get(value)?.parse().ok())
            .collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    pub fn points(&self, case: &str, mode: &str) -> &[(f64, f64)] {
        self.points.get(&(case.into(), mode.into())).map_or(&[], Vec::as_slice)
    }

    pub fn to_csv(&self) -> String {
        let mut csv = format!("case,mode,seed,{}\n", COLUMNS.join(","));
        for ((case, mode, seed), values) in &self.runs {
            csv.push_str(&format!("{case},{mode},{seed}"));
            for column in &COLUMNS {
                csv.push(',');
                csv.push_str(values.get(*column).map_or("", |value| if value == "-" { "" } else { value }));
            }
            csv.push('\n');
        }
        csv
    }
}

fn read(directory: &str, name: &str) -> Result<String, String> {
    let path = format!("{directory}/{name}");
    fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))
}
