//! satlink: what tests/demo.sh is made of. Emulates a satellite link, moves checked bytes over it, draws the result.
//!
//! link (with channel, tun)   the emulated link between two network namespaces
//! transfer, stream, series   byte-exact transfers in both directions, and what arrived when
//! plot                       an SVG of those series
//! splitmix                   the random numbers of losses and contents

mod channel;
mod link;
mod plot;
mod series;
mod splitmix;
mod stream;
mod transfer;
mod tun;

use std::process::ExitCode;

/// Emulate a satellite link, move checked bytes over it, draw the result.
#[derive(argh::FromArgs)]
struct Satlink {
    #[argh(subcommand)]
    command: Command,
}

#[derive(argh::FromArgs)]
#[argh(subcommand)]
enum Command {
    Link(link::Link),
    Serve(transfer::Serve),
    Transfer(transfer::Transfer),
    Plot(plot::Plot),
}

fn main() -> ExitCode {
    let outcome = match argh::from_env::<Satlink>().command {
        Command::Link(link) => link::run(&link),
        Command::Serve(serve) => transfer::serve(&serve),
        Command::Transfer(transfer) => transfer::run(&transfer),
        Command::Plot(plot) => plot::run(&plot),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("satlink: {message}");
            ExitCode::FAILURE
        }
    }
}
