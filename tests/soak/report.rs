//! The tables of a run, and whether it passed.

use std::fmt::Write;

use crate::Soak;
use crate::bed::Bed;
use crate::daemon::Lives;
use crate::disturb::{HANDED_OVER, NOT_HANDED_OVER};
use crate::ledger::Ledger;
use crate::transfers::{KINDS, STATUS};

/// Fewer than this share of the transfers stolen, and the run says nothing about pepsal.
const LEAST_STOLEN: f64 = 0.4;

pub fn write(bed: &Bed, ledger: &Ledger, lives: &Lives, soak: &Soak) -> Result<bool, String> {
    let total = |name: &str| {
        let own = lives.totals.iter().filter(|(key, _)| key.starts_with(&format!("pepsal_{name}")));
        own.map(|(_, value)| value).sum::<u64>()
    };
    let tallies = ledger.tallies();
    let transfers: u64 =
        KINDS.iter().zip(&tallies).filter(|(kind, _)| kind.name != STATUS).map(|(_, it)| it.done).sum();
    let stolen = total("syns_stolen_total");
    if (stolen as f64) < LEAST_STOLEN * transfers as f64 {
        ledger.fault(format!("only {stolen} connections were stolen of {transfers} transfers"));
    }
    let times =
        |name| ledger.disturbances().iter().find(|(it, _)| *it == name).map_or(0, |(_, times)| *times);
    if times(NOT_HANDED_OVER) > times(HANDED_OVER) {
        ledger.fault("most daemons could not take over".into());
    }
    for (kind, tally) in KINDS.iter().zip(&tallies) {
        if tally.done == 0 {
            ledger.fault(format!("no transfer was done: {}", kind.name));
        }
    }

    let mut text = String::new();
    tables(&mut text, bed, ledger, lives, soak).expect("a string takes everything");
    let faults = ledger.faults();
    for fault in &faults {
        writeln!(text, "- FAULT at {fault}").expect("a string takes everything");
    }
    let verdict = if faults.is_empty() { "passed" } else { "FAILED" };
    writeln!(text, "\nsoak: {verdict}, {} faults", faults.len()).expect("a string takes everything");
    print!("\n{text}");
    let path = soak.out.join("report.md");
    std::fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(faults.is_empty())
}

fn tables(text: &mut String, bed: &Bed, ledger: &Ledger, lives: &Lives, soak: &Soak) -> std::fmt::Result {
    writeln!(text, "seed {}, {:.1} minutes\n", soak.seed, bed.now().as_secs_f64() / 60.0)?;
    writeln!(text, "| transfers | done | MB | longest, s | ended by a disturbance | faults |")?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    let tallies = ledger.tallies();
    for (kind, tally) in KINDS.iter().zip(&tallies) {
        let causes: Vec<String> =
            tally.explained.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
        let megabytes = tally.bytes as f64 / 1e6;
        let longest = tally.longest.as_secs_f64();
        let (done, faults) = (tally.done, tally.faults);
        let causes = causes.join(", ");
        writeln!(text, "| {} | {done} | {megabytes:.1} | {longest:.1} | {causes} | {faults} |", kind.name)?;
    }
    let (done, bytes): (u64, u64) =
        (tallies.iter().map(|it| it.done).sum(), tallies.iter().map(|it| it.bytes).sum());
    let explained: u64 = tallies.iter().flat_map(|it| &it.explained).map(|(_, count)| count).sum();
    writeln!(text, "| all | {done} | {:.1} | | {explained} | |\n", bytes as f64 / 1e6)?;

    let list = |counts: Vec<(&'static str, u64)>| {
        counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    };
    writeln!(text, "- disturbances: {}", list(ledger.disturbances()))?;
    writeln!(
        text,
        "- looked at {} times at rest; a daemon had grown by {} KiB at most",
        ledger.checkpoints(),
        lives.largest_growth
    )?;
    let counters: Vec<String> = lives
        .totals
        .iter()
        .filter(|(_, value)| **value > 0)
        .map(|(name, value)| {
            let name = name.trim_start_matches("pepsal_").replace("_total", "");
            format!("{name} {value}")
        })
        .collect();
    writeln!(text, "- {} daemons: {}", lives.count, counters.join(", "))
}
