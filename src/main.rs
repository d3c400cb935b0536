//! pepsal: a TCP performance enhancing proxy (RFC 3135, split connection) for satellite terminals.
//!
//! The path of a connection: `queue` (netfilter hands over a SYN), `syn` (what it is), `steal` (claims one of
//! the `slots`, begins the server leg: `legs`, `satellite`), `handshake` (injects the SYN through `tun`, accepts
//! the client leg, joins the two), `worker` and `relay` (bytes both ways, through `pipes`, until both ends have
//! closed). `diversion` brings transparent server legs their packets. `pacer` divides the satellite link's rate over
//! its legs (`share`), keeps the `routes` of the jump start and has it remember what the link has `carried`.
//! `daemon` starts and stops all that, or takes it over from a running one (`handover`); `rules` prints what the firewall
//! has to do, and what that excludes is counted in `exclusions`.
#![deny(unsafe_code)]

mod ask;
mod bell;
mod bitmap;
mod carried;
mod cli;
mod clients;
mod control;
mod counts;
mod daemon;
mod diversion;
mod error;
mod exclusions;
mod gain;
mod handover;
mod handshake;
mod legs;
mod log;
mod looks;
mod main_loop;
mod memory;
mod netlink;
mod pacer;
mod page;
mod parking;
mod pep;
mod pipes;
mod privileges;
mod queue;
mod relay;
mod report;
mod routes;
mod rules;
mod samples;
mod satellite;
mod seccomp;
mod selectors;
mod share;
mod slots;
mod steal;
mod steering;
mod syn;
mod sys;
mod tcp_info;
mod top;
mod tun;
mod worker;

#[cfg(fuzzing)]
#[path = "../tests/fuzz/fuzz.rs"]
pub mod fuzz;

use std::io::{self, Write};
use std::process::ExitCode;

use cli::Command;

fn main() -> ExitCode {
    let command = match cli::parse() {
        Ok(command) => command,
        Err(code) => return code,
    };
    let done = match &command {
        Command::Run(options) => daemon::run(options),
        Command::Rules(options) => rules::print(options),
        Command::Status(options) => ask::status(options),
        Command::Connections(options) => ask::connections(options),
        Command::Top(options) => top::run(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A reader that is gone is no reason to crash.
            let _ = writeln!(io::stderr(), "pepsal: {error}");
            ExitCode::FAILURE
        }
    }
}
