//! Connections that are open and idle: what each costs in memory, and whether they slow down the one that is not idle.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Bed;
use crate::exchange;
use crate::usage::{self, Memory};
use crate::wire::{self, PATIENCE};

/// Hold idle connections; at each step measure memory, and round trips on one more connection.
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "hold")]
pub struct Hold {
    /// numbers of idle connections, growing, comma-separated; the tag's line gets the number appended
    #[argh(option)]
    steps: String,

    /// milliseconds of round trips at each step
    #[argh(option)]
    ms: u64,
}

/// Tell the proxy's memory.
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "memory")]
pub struct MemoryCommand {}

/// Time for the kernel to free what the opening of connections has used.
const SETTLE: Duration = Duration::from_millis(300);

/// With fewer connections other programs' use of kernel memory would outweigh theirs.
const ENOUGH_FOR_MEMORY: usize = 500;

pub fn run(hold: &Hold, bed: &Bed) -> Result<(), String> {
    let steps = hold
        .steps
        .split(',')
        .map(|word| word.parse().map_err(|_| format!("'{word}' is no number of connections")))
        .collect::<Result<Vec<usize>, String>>()?;
    wire::raise_descriptor_limit(steps.iter().max().map_or(0, |&most| most as u64) + 1024)?;
    let before = usage::memory(bed.parties.proxy())?;
    let mut idle = Vec::new();
    for step in steps {
        let missing = step.checked_sub(idle.len()).ok_or("the steps must grow")?;
        idle.extend(exchange::open_many(bed.server, missing)?);
        sleep(SETTLE);
        let step_bed =
            Bed { server: bed.server, tag: format!("{}{step}", bed.tag), parties: bed.parties.clone() };
        if step >= ENOUGH_FOR_MEMORY {
            memory_rows(&step_bed, &before, step)?;
        }
        match hold.ms {
            0 => step_bed.row("held", idle.len() as f64),
            ms => exchange::trip_rows(&step_bed, 1, ms)?,
        }
    }
    drop(idle);
    await_end(bed, before.descriptors as usize)
}

fn memory_rows(bed: &Bed, before: &Memory, connections: usize) -> Result<(), String> {
    let now = usage::memory(bed.parties.proxy())?;
    let each = |now: f64, before: f64| (now - before) / connections as f64;
    bed.row("kernel_kb_connection", each(now.kernel, before.kernel));
    if bed.parties.proxy().is_some() {
        bed.row("rss_kb_connection", each(now.rss, before.rss));
        bed.row("pss_kb_connection", each(now.pss, before.pss));
        bed.row("fds_connection", each(now.descriptors, before.descriptors));
    }
    Ok(())
}

/// Waits until the proxy has closed what it held, so that the next measurement has the machine for itself.
fn await_end(bed: &Bed, descriptors: usize) -> Result<(), String> {
    let Some(pid) = bed.parties.proxy() else {
        sleep(SETTLE);
        return Ok(());
    };
    let until = Instant::now() + PATIENCE;
    // A few more: a proxy may keep pipes or timers that it did not have before.
    while usage::descriptors(pid)? > descriptors + 200 {
        if Instant::now() > until {
            return Err(String::from("the proxy does not close its connections"));
        }
        sleep(Duration::from_millis(50));
    }
    sleep(SETTLE);
    Ok(())
}

pub fn run_memory(_: &MemoryCommand, bed: &Bed) -> Result<(), String> {
    let now = usage::memory(bed.parties.proxy())?;
    bed.row("rss_kb", now.rss);
    bed.row("pss_kb", now.pss);
    Ok(())
}
