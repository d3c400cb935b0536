//! bench: what tests/bench.sh is made of. Moves checked bytes through a router, measures, writes the report.
//!
//! server, wire    the far end, and what both ends say to each other
//! bulk            flows that send as much as the path takes
//! exchange        short messages: round trips on standing connections, or a new connection each time
//! hold            idle connections, what they cost in memory, and what they cost the one that is not idle
//! usage           what the kernel says that processes and the machine have used
//! rows, table     measurements of all rounds, and the Markdown and CSV made of them
//! bounds          what pepsal must show, met or not met
//!
//! One thread each for client and server, blocked in epoll: the router's share of the machine is what is measured.

mod bounds;
mod bulk;
mod exchange;
mod hold;
mod rows;
mod server;
mod table;
mod usage;
mod wire;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::ExitCode;

/// Move checked bytes through a router and measure what that costs.
#[derive(argh::FromArgs)]
struct Bench {
    /// where the server listens (198.51.100.2:7)
    #[argh(option, default = "SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 2), 7).into()")]
    server: SocketAddr,

    /// what each row of measurements begins with: round,peer,line
    #[argh(option, default = "String::new()")]
    tag: String,

    /// process of the proxy, if there is one
    #[argh(option)]
    proxy: Option<u32>,

    /// process of the server
    #[argh(option)]
    server_process: Option<u32>,

    #[argh(subcommand)]
    command: Command,
}

#[derive(argh::FromArgs)]
#[argh(subcommand)]
enum Command {
    Serve(server::Serve),
    Bulk(bulk::Bulk),
    Trips(exchange::Trips),
    Rate(exchange::Rate),
    Hold(hold::Hold),
    Memory(hold::MemoryCommand),
    Report(table::Report),
}

/// One end of a measurement: whom to talk to, whose use of the machine counts, how its rows are named.
struct Bed {
    server: SocketAddr,
    tag: String,
    parties: usage::Parties,
}

impl Bed {
    fn row(&self, metric: &str, value: f64) {
        println!("{},{metric},{value:.6}", self.tag);
    }
}

fn main() -> ExitCode {
    let Bench { server, tag, proxy, server_process, command } = argh::from_env();
    let bed = Bed { server, tag, parties: usage::Parties::new(proxy, server_process) };
    let outcome = match command {
        Command::Serve(serve) => server::run(&serve, server),
        Command::Bulk(bulk) => bulk::run(&bulk, &bed),
        Command::Trips(trips) => exchange::run_trips(&trips, &bed),
        Command::Rate(rate) => exchange::run_rate(&rate, &bed),
        Command::Hold(hold) => hold::run(&hold, &bed),
        Command::Memory(memory) => hold::run_memory(&memory, &bed),
        Command::Report(report) => table::run(&report),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("bench: {message}");
            ExitCode::FAILURE
        }
    }
}
