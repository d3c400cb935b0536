//! soak: what tests/soak.sh runs once its three machines and their services are there.
//!
//! load, transfers    loops in threads of their own that move checked bytes with real programs
//! content            what the services offer
//! disturb            what happens to the router meanwhile, drawn from the seed; the main thread
//! daemon             the pepsal processes, one after the other: start, end, log, what they hold
//! rest               while the load rests: nothing is left of any connection
//! ledger             what came of every transfer, and which disturbance explains a failure
//! report             the tables and the verdict
//! bed, random        the machines and the clock; numbers from the seed

mod bed;
mod content;
mod daemon;
mod disturb;
mod ledger;
mod load;
mod random;
mod report;
mod rest;
#[path = "../satlink/splitmix.rs"]
mod splitmix;
mod transfers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bed::Bed;
use daemon::{Lives, Options};
use disturb::Deck;
use ledger::Ledger;
use load::Load;

/// Load, disturb, check, report.
#[derive(argh::FromArgs)]
struct Soak {
    /// what the names of the three namespaces begin with
    #[argh(option)]
    run: String,
    /// directory of the services' files and of scratch files
    #[argh(option)]
    work: String,
    /// the program under test
    #[argh(option)]
    pepsal: String,
    /// how long
    #[argh(option)]
    minutes: f64,
    /// names the sequence of disturbances
    #[argh(option)]
    seed: u64,
    /// directory of the daemons' log and the report
    #[argh(option)]
    out: PathBuf,
}

fn main() -> ExitCode {
    let soak: Soak = argh::from_env();
    match run(&soak) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("soak: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(soak: &Soak) -> Result<bool, String> {
    let bed = Bed::new(&soak.run, &soak.work, &soak.pepsal, &soak.out);
    let ledger = Ledger::new(&bed);
    content::prepare(&bed, soak.seed)?;
    disturb::load_rules(&bed)?;
    let routing_before = bed.routing()?;
    let mut lives = Lives::new(&bed, &ledger, &soak.out.join("pepsal.log"))?;
    lives.start(Options::plain())?;
    let end = bed.now() + Duration::from_secs_f64(soak.minutes * 60.0);

    let load = Load::new(&bed, &ledger, soak.seed);
    std::thread::scope(|scope| {
        // The loops end with this scope, also by an error.
        let _ending = load.begin(scope);
        for round in 0.. {
            for disturbance in Deck::of(soak.seed, round) {
                if bed.now() >= end {
                    break;
                }
                disturb::carry_out(&disturbance, &bed, &ledger, &mut lives)?;
            }
            load.rest()?;
            rest::check(&ledger, &mut lives);
            if bed.now() >= end {
                return Ok(());
            }
            load.go_on();
        }
        Ok::<(), String>(())
    })?;
    lives.end_idle();
    // One that was killed leaves its routing rules to the next one that knows the link.
    lives.start(Options::with_link())?;
    lives.end_idle();
    if bed.routing()? != routing_before {
        ledger.fault("the router's routing rules are not what they were before the first daemon".into());
    }
    report::write(&bed, &ledger, &lives, soak)
}
