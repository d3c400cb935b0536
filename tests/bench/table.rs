//! The report: one Markdown table, the same as CSV, and the list of bounds.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::bounds::{self, Finding};
use crate::rows::{Rows, Spread};

/// Make the report of all measurements.
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "report")]
pub struct Report {
    /// the measurements: lines of round,peer,line,metric,value
    #[argh(option)]
    rows: PathBuf,

    /// text that the Markdown begins with: what was run, on what
    #[argh(option)]
    heading: PathBuf,

    /// where the Markdown goes
    #[argh(option)]
    markdown: PathBuf,

    /// where the CSV goes
    #[argh(option)]
    csv: PathBuf,

    /// fail if a bound is missed by more than this factor
    #[argh(option)]
    slack: Option<f64>,
}

/// The metrics of the table, in its order: name, words, decimals.
const METRICS: [(&str, &str, usize); 21] = [
    ("mbit_s", "Mbit/s", 0),
    ("cpu_s_gb", "proxy CPU, s/GB", 3),
    ("all_cpu_s_gb", "CPU of all parties, s/GB", 3),
    ("machine_cpu_s_gb", "CPU of the machine, s/GB", 3),
    ("switches_mb", "proxy context switches/MB", 2),
    ("calls_mb", "proxy system calls/MB", 2),
    ("p50_us", "p50, µs", 0),
    ("p99_us", "p99, µs", 0),
    ("cpu_us_trip", "proxy CPU, µs/trip", 1),
    ("per_s", "connections/s", 0),
    ("cpu_us_connection", "proxy CPU, µs/connection", 1),
    ("all_cpu_us_connection", "CPU of all parties, µs/connection", 1),
    ("calls_connection", "proxy system calls/connection", 1),
    ("resets", "connections reset", 0),
    ("rss_kb_connection", "proxy RSS, kB/connection", 2),
    ("pss_kb_connection", "proxy PSS, kB/connection", 2),
    ("kernel_kb_connection", "kernel memory, kB/connection", 1),
    ("fds_connection", "proxy descriptors/connection", 2),
    ("rss_kb", "proxy RSS, kB", 0),
    ("pss_kb", "proxy PSS, kB", 0),
    ("held", "connections held", 0),
];

pub fn run(report: &Report) -> Result<(), String> {
    let rows = Rows::read(&report.rows)?;
    let heading = fs::read_to_string(&report.heading)
        .map_err(|error| format!("cannot read {}: {error}", report.heading.display()))?;
    let findings = bounds::findings(&rows);
    let text = format!("{heading}\n{}\n{}", markdown(&rows), list(&findings, &rows));
    write(&report.markdown, &text)?;
    write(&report.csv, &csv(&rows))?;
    print!("{text}");
    let missed = |it: &&Finding| report.slack.is_some_and(|slack| it.miss > slack);
    match findings.iter().find(missed) {
        Some(finding) => Err(format!("'{}' is far from its bound", finding.what)),
        None => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Line, metric, words and decimals of everything that was measured.
fn measured(rows: &Rows) -> impl Iterator<Item = (&str, &'static str, &'static str, usize)> {
    rows.lines.iter().flat_map(move |line| {
        METRICS.iter().filter_map(move |&(metric, words, decimals)| {
            let any = rows.peers.iter().any(|peer| rows.spread(line, metric, peer).is_some());
            any.then_some((line.as_str(), metric, words, decimals))
        })
    })
}

fn markdown(rows: &Rows) -> String {
    let mut text = String::from("| line | figure |");
    for peer in &rows.peers {
        let _ = write!(text, " {peer} |");
    }
    text.push_str(" pepsal : forward | pepsal : haproxy |\n|---|---|");
    text.push_str(&"---:|".repeat(rows.peers.len() + 2));
    text.push('\n');
    for (line, metric, words, decimals) in measured(rows) {
        let _ = write!(text, "| {line} | {words} |");
        for peer in &rows.peers {
            let cell = rows.spread(line, metric, peer).map(|it| figure(it, decimals));
            let _ = write!(text, " {} |", cell.unwrap_or_default());
        }
        for base in ["forward", "haproxy"] {
            let ratio = rows.ratio(line, metric, "pepsal", base);
            let _ = write!(text, " {} |", ratio.map(|it| format!("{:.2}", it.median)).unwrap_or_default());
        }
        text.push('\n');
    }
    text
}

fn figure(spread: Spread, decimals: usize) -> String {
    let Spread { median, low, high, rounds } = spread;
    if rounds < 2 {
        return format!("{median:.decimals$}");
    }
    format!("{median:.decimals$} ({low:.decimals$}–{high:.decimals$})")
}

fn csv(rows: &Rows) -> String {
    let mut text = String::from("line,figure,peer,rounds,median,low,high,to_forward,to_haproxy\n");
    for (line, metric, words, _) in measured(rows) {
        for peer in &rows.peers {
            let Some(Spread { median, low, high, rounds }) = rows.spread(line, metric, peer) else {
                continue;
            };
            let _ = write!(text, "{line},\"{words}\",{peer},{rounds},{median:.4},{low:.4},{high:.4}");
            for base in ["forward", "haproxy"] {
                let ratio = rows.ratio(line, metric, peer, base);
                let _ = write!(text, ",{}", ratio.map(|it| format!("{:.3}", it.median)).unwrap_or_default());
            }
            text.push('\n');
        }
    }
    text
}

fn list(findings: &[Finding], rows: &Rows) -> String {
    let mut text = String::from(
        "## What pepsal must show\n\n| what | bound | measured (worst line) | |\n|---|---|---:|---|\n",
    );
    for Finding { what, bound, value, met, .. } in findings {
        let verdict = if *met { "met" } else { "**not met**" };
        let _ = writeln!(text, "| {what} | {bound} | {value} | {verdict} |");
    }
    if let Some(others) = rows.everywhere("others_percent") {
        let _ = writeln!(
            text,
            "\nOther programs used {:.0} % of a core meanwhile (median; up to {:.0} %): the more, the wider the spread.",
            others.median, others.high
        );
    }
    text
}
