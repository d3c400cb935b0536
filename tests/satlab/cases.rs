// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the list of what is measured. A case is a link and what crosses it; a run is a case with a mode and a seed.

use crate::{limit, page};
use std::fmt;

/// print the runs, one to a line: job, seed, case, mode, and what the machine needs to know
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "cases")]
pub struct Cases {
    /// only these cases, or those whose names contain one of these words; comma-separated
    #[argh(option, default = "String::new()")]
    only: String,
    /// only these modes, comma-separated (cubic,bbr,terminal,both)
    #[argh(option, default = "MODES.join(\",\")")]
    modes: String,
    /// how many seeds where chance has a part
    #[argh(option, default = "3")]
    seeds: u64,
    /// few cases
    #[argh(switch)]
    quick: bool,
}

/// Without a PEP, both ends with that congestion control; pepsal at the terminal or at both ends of the satellite.
pub const MODES: [&str; 4] = ["cubic", "bbr", "terminal", "both"];

/// How many runs one machine does at most, after which the next is booted.
const RUNS_OF_A_JOB: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    Up,
    Down,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Way::Up => "up",
            Way::Down => "down",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Bulk(Way, u64),
    /// The link is gone from the fifth second on, for thirty.
    Outage(Way, u64),
    /// Four flows, for so many seconds.
    Four(Way, u64),
    Page,
    Exchange,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub orbit: &'static str,
    pub rtt_ms: u32,
    /// Mbit/s
    pub down: u32,
    pub up: u32,
    /// Percent of the packets in each direction, of the satellite and of the lan.
    pub loss: &'static str,
    pub wifi: &'static str,
    pub kind: Kind,
}

const ORBITS: [(&str, u32); 3] = [("geo", 600), ("meo", 150), ("leo", 40)];
const RATES: [(u32, u32); 2] = [(20, 5), (50, 10)];
const LOSSES: [&str; 3] = ["0", "0.1", "1"];
const SIZES: [u64; 3] = [100_000, 1_000_000, 10_000_000];
const WAYS: [Way; 2] = [Way::Up, Way::Down];

fn size_name(bytes: u64) -> String {
    if bytes < 1_000_000 { format!("{}kB", bytes / 1000) } else { format!("{}MB", bytes / 1_000_000) }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Case { orbit, down, up, loss, wifi, .. } = self;
        write!(f, "{orbit}-{down}/{up}-")?;
        match self.kind {
            Kind::Bulk(way, bytes) => write!(f, "{way}-{}", size_name(bytes))?,
            Kind::Outage(way, bytes) => write!(f, "outage-{way}-{}", size_name(bytes))?,
            Kind::Four(way, _) => write!(f, "four-{way}")?,
            Kind::Page => write!(f, "page")?,
            Kind::Exchange => write!(f, "exchange")?,
        }
        match *wifi {
            "0" => write!(f, "-loss{loss}"),
            _ => write!(f, "-wifi{wifi}"),
        }
    }
}

impl Case {
    /// Seconds that nothing can beat; for what is not timed, none.
    pub fn limit(&self) -> Option<f64> {
        let (rtt, up, down) = (f64::from(self.rtt_ms) / 1e3, self.up.into(), self.down.into());
        match self.kind {
            Kind::Bulk(Way::Up, bytes) => Some(limit::upload(bytes, up, rtt)),
            Kind::Bulk(Way::Down, bytes) => Some(limit::download(bytes, down, rtt)),
            Kind::Outage(Way::Up, bytes) => Some(limit::upload(bytes, up, rtt) + 30.0),
            Kind::Outage(Way::Down, bytes) => Some(limit::download(bytes, down, rtt) + 30.0),
            Kind::Page => Some(page::limit(down, rtt)),
            Kind::Four(..) | Kind::Exchange => None,
        }
    }

    /// Seconds that the link is busy with it.
    pub fn occupied(&self) -> f64 {
        match self.kind {
            Kind::Bulk(Way::Up, bytes) | Kind::Outage(Way::Up, bytes) => {
                limit::occupied(bytes, self.up.into())
            }
            Kind::Bulk(Way::Down, bytes) | Kind::Outage(Way::Down, bytes) => {
                limit::occupied(bytes, self.down.into())
            }
            Kind::Page | Kind::Four(..) | Kind::Exchange => 0.0,
        }
    }

    /// Is one run enough? Without loss a run still has its chance: a tick of the clock more or less, and slow start ends a
    /// round trip later. Of a long transfer that is a small part.
    fn is_certain(&self) -> bool {
        let is_short = matches!(self.kind, Kind::Page | Kind::Bulk(_, ..=1_000_000));
        self.loss == "0" && self.wifi == "0" && !is_short
    }

    fn words(&self) -> String {
        match self.kind {
            Kind::Bulk(way, bytes) | Kind::Outage(way, bytes) => format!("bulk {way} {bytes}"),
            Kind::Four(way, seconds) => format!("four {way} {seconds}"),
            Kind::Page => String::from("page"),
            Kind::Exchange => String::from("exchange"),
        }
    }

    fn outage(&self) -> &'static str {
        if matches!(self.kind, Kind::Outage(..)) { "outage" } else { "-" }
    }
}

pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (orbit, rtt_ms) in ORBITS {
        for (down, up) in RATES {
            let mut add = |loss, wifi, kind| cases.push(Case { orbit, rtt_ms, down, up, loss, wifi, kind });
            for way in WAYS {
                for bytes in SIZES {
                    LOSSES.into_iter().for_each(|loss| add(loss, "0", Kind::Bulk(way, bytes)));
                }
            }
            LOSSES.into_iter().for_each(|loss| add(loss, "0", Kind::Page));
            for way in WAYS {
                add("0", "1", Kind::Bulk(way, 10_000_000));
                if orbit == "geo" {
                    add("0", "0", Kind::Outage(way, 10_000_000));
                }
            }
            // These carry much: at one pair of rates.
            if (down, up) == RATES[0] {
                WAYS.into_iter().for_each(|way| add("0", "0", Kind::Four(way, 30)));
                add("0", "0", Kind::Exchange);
            }
        }
    }
    // What the machine itself can do: a link that limits nothing.
    for way in WAYS {
        let kind = Kind::Bulk(way, 10_000_000);
        cases.push(Case { orbit: "none", rtt_ms: 2, down: 1000, up: 1000, loss: "0", wifi: "0", kind });
    }
    cases
}

/// What CI measures.
pub const QUICK: [&str; 4] =
    ["geo-20/5-up-1MB-loss0", "geo-20/5-up-10MB-loss1", "geo-20/5-down-10MB-loss0", "leo-20/5-page-loss0"];

pub fn run(options: &Cases) -> Result<(), String> {
    let wanted: Vec<&str> = options.only.split(',').collect();
    let modes: Vec<&str> = options.modes.split(',').collect();
    if let Some(mode) = modes.iter().find(|mode| !MODES.contains(mode)) {
        return Err(format!("no mode '{mode}'; there are {}", MODES.join(", ")));
    }
    let names: Vec<String> = all().iter().map(Case::to_string).collect();
    // A whole name is that case alone, although the names of others may begin with it.
    let is_wanted = |name: &str| {
        wanted.iter().any(|word| {
            if names.iter().any(|name| name == word) { name == *word } else { name.contains(word) }
        }) && (!options.quick || QUICK.contains(&name))
    };
    let cases: Vec<Case> = all().into_iter().filter(|case| is_wanted(&case.to_string())).collect();
    if cases.is_empty() {
        return Err(format!("no case's name contains '{}'", options.only));
    }
    let mut job = 0;
    for seed in 1..=options.seeds {
        let mut runs = 0;
        for case in cases.iter().filter(|case| seed == 1 || !case.is_certain()) {
            for mode in &modes {
                if runs % RUNS_OF_A_JOB == 0 {
                    job += 1;
                }
                runs += 1;
                let Case { rtt_ms, down, up, loss, wifi, .. } = case;
                let (outage, words) = (case.outage(), case.words());
                let limit = case.limit().map_or(String::from("-"), |seconds| format!("{seconds:.3}"));
                println!(
                    "{job} {seed} {case} {mode} {rtt_ms} {down} {up} {loss} {wifi} {limit} {outage} {words}"
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let mut names: Vec<String> = all().iter().map(Case::to_string).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(QUICK.iter().all(|quick| names.iter().any(|name| name == quick)));
    }
}
