//! The command line. A field's doc comment is its help text (argh).
#![forbid(unsafe_code)]

mod values;

use std::io::{self, Write};
use std::process::ExitCode;

use argh::FromArgs;

use crate::pep::Handshake;
use crate::relay::Side;
use crate::selectors::{Cidr, PortRange, device_name};
use values::{
    connect_timeout, drain, format, handshake, list, memory, milliseconds, mss, per_client, port, rate, side,
    slots, status_format, threads,
};

/// The exit code of a command line that cannot be understood.
const USAGE: u8 = 2;

/// Where the control socket is unless --control names another place.
pub const CONTROL: &str = "/var/run/pepsal/control";

/// TCP performance enhancing proxy for satellite links.
#[derive(FromArgs)]
pub struct Arguments {
    /// print the version and exit
    #[argh(switch)]
    version: bool,

    #[argh(subcommand)]
    pub command: Option<Command>,
}

#[derive(FromArgs)]
#[argh(subcommand)]
pub enum Command {
    Run(Run),
    Rules(Rules),
    Status(Status),
    Connections(Connections),
    Top(Top),
}

/// Steal, split and relay TCP connections until SIGTERM. Stays in the foreground.
#[derive(FromArgs)]
#[argh(subcommand, name = "run")]
pub struct Run {
    /// port of the listener (5000)
    #[argh(option, short = 'p', arg_name = "PORT", default = "5000", from_str_fn(port))]
    pub port: u16,

    /// netfilter queue number (5000)
    #[argh(option, short = 'q', arg_name = "QUEUE", default = "5000")]
    pub queue: u16,

    /// most connections at a time, 1 to 16384 (1024)
    #[argh(option, short = 'c', arg_name = "MAX_CONNS", default = "1024", from_str_fn(slots))]
    pub max_conns: usize,

    /// most of them for one client, 1 to 16384 (any number)
    #[argh(option, arg_name = "N", from_str_fn(per_client))]
    pub per_client: Option<u32>,

    /// worker threads, 1 to 64 (one per core)
    #[argh(option, short = 'T', arg_name = "THREADS", from_str_fn(threads))]
    pub threads: Option<usize>,

    /// name of the TUN device to make (pepsal0)
    #[argh(option, arg_name = "DEV", default = "String::from(\"pepsal0\")", from_str_fn(device_name))]
    pub device: String,

    /// answer the client when the server has answered (deferred, the default) or at once (early)
    #[argh(option, arg_name = "deferred|early", default = "Handshake::Deferred", from_str_fn(handshake))]
    pub handshake: Handshake,

    /// with an early handshake: the server leg's SYN carries the client's first bytes (TCP Fast Open)
    #[argh(switch, short = 'f')]
    pub fast_open: bool,

    /// let servers see the client's address; needs what 'pepsal rules --transparent' prints
    #[argh(switch)]
    pub transparent: bool,

    /// which leg crosses the satellite: server (a terminal, the default) or client (a gateway)
    #[argh(option, arg_name = "server|client", default = "Side::Server", from_str_fn(side))]
    pub satellite: Side,

    /// congestion control of the satellite leg (bbr or hybla, if there)
    #[argh(option, short = 'C', arg_name = "NAME")]
    pub congestion: Option<String>,

    /// rate of the satellite link from clients to servers in Mbit/s
    #[argh(option, arg_name = "MBIT", from_str_fn(rate))]
    pub rate_up: Option<u32>,

    /// rate of the satellite link from servers to clients in Mbit/s
    #[argh(option, arg_name = "MBIT", from_str_fn(rate))]
    pub rate_down: Option<u32>,

    /// round trip time of the satellite link in ms, 1 to 10000
    #[argh(option, arg_name = "MS", from_str_fn(milliseconds))]
    pub rtt: Option<u32>,

    /// largest segment on the satellite leg in bytes, 88 to 32767
    #[argh(option, arg_name = "BYTES", from_str_fn(mss))]
    pub mss: Option<u32>,

    /// let new connections pass while the satellite leg's handshakes take less than this, 1 to 10000 ms
    #[argh(option, arg_name = "MS", from_str_fn(milliseconds))]
    pub auto_pass: Option<u32>,

    /// what all connections together may buffer, 1 to 65536 MiB (an eighth of the RAM)
    #[argh(option, arg_name = "MIB", from_str_fn(memory))]
    pub memory: Option<u32>,

    /// how long a server may take to answer, 1 to 120 seconds (20)
    #[argh(option, arg_name = "SECONDS", default = "20", from_str_fn(connect_timeout))]
    pub connect_timeout: u64,

    /// how long connections may go on after SIGTERM, 0 to 3600 seconds (30)
    #[argh(option, arg_name = "SECONDS", default = "30", from_str_fn(drain))]
    pub drain: u64,

    /// where 'pepsal status' reaches the daemon (/var/run/pepsal/control)
    #[argh(option, arg_name = "PATH")]
    pub control: Option<String>,

    /// user to become after the start (the one who started it)
    #[argh(option, arg_name = "NAME")]
    pub user: Option<String>,

    /// allow the process every system call after the start, not only those that it needs
    #[argh(switch)]
    pub no_seccomp: bool,

    /// log every connection, and to stderr instead of syslog
    #[argh(switch, short = 'v')]
    pub verbose: bool,
}

/// Print the firewall rules that bring connections to 'pepsal run'.
#[derive(FromArgs)]
#[argh(subcommand, name = "rules")]
pub struct Rules {
    /// devices that clients are behind, comma-separated; a pattern may end in *
    #[argh(option, arg_name = "DEV[,DEV]")]
    pub lan: String,

    /// devices that servers are behind, comma-separated; a pattern may end in *
    #[argh(option, arg_name = "DEV[,DEV]")]
    pub wan: String,

    /// port of the listener (5000)
    #[argh(option, short = 'p', arg_name = "PORT", default = "5000", from_str_fn(port))]
    pub port: u16,

    /// netfilter queue number (5000)
    #[argh(option, short = 'q', arg_name = "QUEUE", default = "5000")]
    pub queue: u16,

    /// name of the daemon's TUN device (pepsal0)
    #[argh(option, arg_name = "DEV", default = "String::from(\"pepsal0\")", from_str_fn(device_name))]
    pub device: String,

    /// add what 'pepsal run --transparent' needs
    #[argh(switch)]
    pub transparent: bool,

    /// server ports that pass untouched, such as 22,8000-8100
    #[argh(option, arg_name = "LIST", default = "List(Vec::new())", from_str_fn(list))]
    pub exclude_port: List<PortRange>,

    /// client addresses and prefixes that pass untouched, such as 192.168.1.9,fd00::/64
    #[argh(option, arg_name = "CIDRS", default = "List(Vec::new())", from_str_fn(list))]
    pub exclude_client: List<Cidr>,

    /// server addresses and prefixes that pass untouched
    #[argh(option, arg_name = "CIDRS", default = "List(Vec::new())", from_str_fn(list))]
    pub exclude_server: List<Cidr>,

    /// nft (the default), iptables or ip6tables
    #[argh(option, arg_name = "nft|iptables|ip6tables", default = "Format::Nft", from_str_fn(format))]
    pub format: Format,
}

/// Tell how the daemon is doing.
#[derive(FromArgs)]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// short for --format json
    #[argh(switch)]
    pub json: bool,

    /// text (the default), json or prometheus
    #[argh(
        option,
        arg_name = "text|json|prometheus",
        default = "StatusFormat::Text",
        from_str_fn(status_format)
    )]
    pub format: StatusFormat,

    /// the daemon's control socket (/var/run/pepsal/control)
    #[argh(option, arg_name = "PATH", default = "String::from(CONTROL)")]
    pub control: String,
}

/// List the connections, and what limits each.
#[derive(FromArgs)]
#[argh(subcommand, name = "connections")]
pub struct Connections {
    /// print JSON
    #[argh(switch)]
    pub json: bool,

    /// the daemon's control socket (/var/run/pepsal/control)
    #[argh(option, arg_name = "PATH", default = "String::from(CONTROL)")]
    pub control: String,
}

/// Watch the connections, the fastest first.
#[derive(FromArgs)]
#[argh(subcommand, name = "top")]
pub struct Top {
    /// the daemon's control socket (/var/run/pepsal/control)
    #[argh(option, arg_name = "PATH", default = "String::from(CONTROL)")]
    pub control: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFormat {
    Text,
    Json,
    Prometheus,
}

/// What the rules are printed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Nft,
    Iptables,
    Ip6tables,
}

/// One argument with several values (argh takes a bare `Vec` for a repeated option).
pub struct List<T>(pub Vec<T>);

/// The command that was asked for, or the exit code after help, version or a usage error was printed.
pub fn parse() -> Result<Command, ExitCode> {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match Arguments::from_args(&["pepsal"], &arguments) {
        Ok(Arguments { version: true, .. }) => Err(told(concat!("pepsal ", env!("CARGO_PKG_VERSION")))),
        Ok(Arguments { command: Some(Command::Run(run)), .. })
            if run.fast_open && run.handshake == Handshake::Deferred =>
        {
            Err(usage_error(
                "-f needs '--handshake early': a deferred handshake has nothing to send with the SYN",
            ))
        }
        Ok(Arguments { command: Some(command), .. }) => Ok(command),
        Ok(_) => Err(usage_error("a command is missing")),
        Err(exit) if exit.status.is_ok() => Err(told(exit.output.trim_end())),
        Err(exit) => Err(usage_error(&one_line(&exit.output))),
    }
}

// Who no longer reads either is told nothing: print macros would panic.

fn told(what: &str) -> ExitCode {
    let _ = writeln!(io::stdout(), "{what}");
    ExitCode::SUCCESS
}

fn usage_error(what: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "pepsal: {what} (see 'pepsal --help', 'pepsal COMMAND --help')");
    ExitCode::from(USAGE)
}

/// argh speaks in several lines with capital letters.
pub fn one_line(output: &str) -> String {
    let mut words = output.split_whitespace();
    let mut line = words.next().unwrap_or("").to_ascii_lowercase();
    for word in words.take_while(|&word| word != "Run") {
        line.push(' ');
        line.push_str(word);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_one_line() {
        let complaint = "Error parsing option '-p' with value 'x': not a whole number\n";
        assert_eq!(one_line(complaint), "error parsing option '-p' with value 'x': not a whole number");
    }
}
