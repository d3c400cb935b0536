// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program of tests/satlab/run.sh, which runs both in the emulated machine and outside it:
//!
//! cases                            what is measured, and by which words it is told to the machine
//! traffic (bulk, page, exchange)   moves checked bytes between two namespaces and measures how long that takes
//! limit                            what no protocol can beat
//! report (rows, checks, plot)      what was measured, next to the limit and to what it must show

mod bulk;
mod cases;
mod checks;
mod exchange;
mod limit;
mod page;
mod plot;
mod report;
mod rows;
#[path = "../satlink/splitmix.rs"]
mod splitmix;
mod traffic;

use std::process::ExitCode;

/// Measure transfers over a satellite link; tests/satlab/run.sh tells how.
#[derive(argh::FromArgs)]
struct Satlab {
    #[argh(subcommand)]
    command: Command,
}

#[derive(argh::FromArgs)]
#[argh(subcommand)]
enum Command {
    Cases(cases::Cases),
    Traffic(traffic::Traffic),
    Report(report::Report),
}

fn main() -> ExitCode {
    let outcome = match argh::from_env::<Satlab>().command {
        Command::Cases(cases) => cases::run(&cases),
        Command::Traffic(traffic) => traffic::run(&traffic),
        Command::Report(report) => report::run(&report),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("satlab: {message}");
            ExitCode::FAILURE
        }
    }
}
