// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns results.csv and results.md: what was measured, next to what cannot be beaten.

use crate::cases::{self, Case, Kind, MODES};
use crate::rows::Rows;
use crate::{checks, plot};
use std::fmt::Write;
use std::fs;

/// write results.csv, results.md and the pictures from the rows in a directory
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "report")]
pub struct Report {
    /// where rows, points and commands are, and results go
    #[argh(positional)]
    directory: String,
    /// check what --quick has measured instead
    #[argh(switch)]
    quick: bool,
}

const HEAD: &str = "# What pepsal gains on satellite links

In an emulated machine with Debian's kernel 6.1 and a clock that counts its instructions (`tests/satlab/run.sh`): netem, tbf, hybla, bbr
and the nft queue are the real ones, and how busy the emulating machine is plays no part. The link: half the round trip each way, a
drop-tail queue of one bandwidth-delay product of that direction at each modem, random loss in both directions.

- **limit**: what no protocol can beat: upload 1.5 round trips (connect, the last byte's way) and the bytes with the headers
  of their packets at the link's rate; download 2 round trips; page: 11 round trips on each of the 6 connections.
- **cubic**, **bbr**: end to end, both ends with that. **terminal**: pepsal on the terminal's router; **both**: also on the hub's
  (`--satellite client`); the ends with cubic. pepsal knows `--rate-up`, `--rate-down` and `--rtt`; else its defaults.
- Seconds are from connect() until the receiver has the last byte, whichever end that is; in brackets, times the limit. Every byte was
  compared. Medians of the runs that results.csv lists, one or more. [What limits what is missed](limits.md).

";

/// Seconds of each mode and how many times the limit that is.
fn timed(rows: &Rows, heading: &str, wanted: impl Fn(&Case) -> bool) -> String {
    let mut text = format!(
        "## {heading}\n\n| case | limit | {} |\n|---|---|{}\n",
        MODES.join(" | "),
        "---|".repeat(MODES.len())
    );
    let mut any = false;
    for case in cases::all().into_iter().filter(wanted) {
        let name = case.to_string();
        let Some(limit) = case.limit() else { continue };
        let cells: Vec<Option<f64>> = MODES.iter().map(|mode| rows.median(&name, mode, "seconds")).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        any = true;
        write!(text, "| {name} | {limit:.2} |").expect("a String takes all");
        for seconds in cells {
            match seconds {
                Some(seconds) => write!(text, " {seconds:.2} ({:.2}) |", seconds / limit),
                None => write!(text, " – |"),
            }
            .expect("a String takes all");
        }
        text.push('\n');
    }
    if any { text + "\n" } else { String::new() }
}

fn figures(rows: &Rows, heading: &str, wanted: impl Fn(&Case) -> bool, values: &[(&str, &str)]) -> String {
    let titles: Vec<&str> = values.iter().map(|(title, _)| *title).collect();
    let mut text = format!(
        "## {heading}\n\n| case | mode | {} |\n|---|---|{}\n",
        titles.join(" | "),
        "---|".repeat(values.len())
    );
    let mut any = false;
    for case in cases::all().into_iter().filter(wanted) {
        for mode in MODES {
            let name = case.to_string();
            let cells: Vec<Option<f64>> =
                values.iter().map(|(_, value)| rows.median(&name, mode, value)).collect();
            if cells.iter().all(Option::is_none) {
                continue;
            }
            any = true;
            write!(text, "| {name} | {mode} |").expect("a String takes all");
            for value in cells {
                match value {
                    Some(value) if value < 2.0 => write!(text, " {value:.3} |"),
                    Some(value) => write!(text, " {value:.1} |"),
                    None => write!(text, " – |"),
                }
                .expect("a String takes all");
            }
            text.push('\n');
        }
    }
    if any { text + "\n" } else { String::new() }
}

pub fn run(report: &Report) -> Result<(), String> {
    let directory = &report.directory;
    let rows = Rows::read(directory)?;
    if report.quick {
        let (table, all_met) = checks::quick(&rows);
        print!("{table}");
        return if all_met { Ok(()) } else { Err(String::from("not all checks are met")) };
    }
    let write = |name: &str, text: &str| {
        let path = format!("{directory}/{name}");
        fs::write(&path, text).map_err(|error| format!("cannot write {path}: {error}"))
    };
    let commands = fs::read_to_string(format!("{directory}/commands")).unwrap_or_default();
    let mut text = String::from(HEAD);
    text.push_str("Made by, in this order (what follows is pepsal's version):\n\n```\n");
    text.push_str(&commands);
    text.push_str("```\n\n## What it must show\n\n");
    text.push_str(&checks::table(&rows));
    text.push_str("\n![shares of the limit's rate](bars.svg)\n\n![bytes over time](sequence.svg)\n\n");
    for (orbit, title) in [("geo", "GEO, 600 ms"), ("meo", "MEO, 150 ms"), ("leo", "LEO, 40 ms")] {
        let bulk =
            |case: &Case| case.orbit == orbit && case.wifi == "0" && matches!(case.kind, Kind::Bulk(..));
        text.push_str(&timed(&rows, &format!("{title}: one transfer"), bulk));
    }
    text.push_str(&timed(&rows, "A page: 60 objects of 1 to 40 kB over 6 connections", |case| {
        case.kind == Kind::Page
    }));
    text.push_str(&timed(&rows, "Wi-Fi that loses 1 % (2 ms), a clean satellite", |case| case.wifi != "0"));
    text.push_str(&timed(&rows, "An outage from the fifth second on, for 30 s", |case| {
        matches!(case.kind, Kind::Outage(..))
    }));
    text.push_str(&figures(
        &rows,
        "Four flows: from 10 s to 30 s",
        |case| matches!(case.kind, Kind::Four(..)),
        &[("Jain's index", "jain"), ("Mbit/s together", "mbit")],
    ));
    text.push_str(&figures(
        &rows,
        "64 bytes there and back, beside an upload: milliseconds",
        |case| case.kind == Kind::Exchange,
        &[
            ("idle", "idle_ms"),
            ("busy", "busy_ms"),
            ("busy, ninth decile", "busy_p90_ms"),
            ("idle, UDP", "idle_udp_ms"),
            ("busy, UDP", "busy_udp_ms"),
            ("Mbit/s of the upload", "mbit"),
        ],
    ));
    text.push_str(&timed(&rows, "The machine itself: a link that limits nothing", |case| {
        case.orbit == "none"
    }));
    write("results.csv", &rows.to_csv())?;
    write("results.md", &format!("{}\n", text.trim_end()))?;
    write("bars.svg", &plot::bars(&rows))?;
    write("sequence.svg", &plot::sequences(&rows))
}
