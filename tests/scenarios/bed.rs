//! The test bed: a network, the daemon in its router, connections that are shown to go through it or past it.

use std::fmt::{self, Display};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::signal::Signal;

use crate::connection::{Listener, Pair, dial};
use crate::daemon::{Daemon, rules};
use crate::host::{Host, eventually, output, patience, split};
use crate::network::Network;
pub use crate::network::{Family, Hop, Net, Plan};

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Handshake {
    Deferred,
    Early,
}

impl Display for Handshake {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Handshake::Deferred => "deferred",
            Handshake::Early => "early",
        })
    }
}

pub struct Bed {
    plan: Plan,
    transparent: bool,
    // Dropped before what it lives in.
    daemon: Option<Daemon>,
    pub net: Network,
}

impl Bed {
    pub fn build(plan: Plan) -> Bed {
        Bed { plan, transparent: false, daemon: None, net: Network::build(plan) }
    }

    /// The plain network with the daemon in its router.
    pub fn started(handshake: Handshake, args: &[&str]) -> Bed {
        let mut bed = Bed::build(Plan::default());
        bed.start(handshake, args);
        bed
    }

    /// Installs the rules and starts the daemon, as a router does at boot.
    pub fn start(&mut self, handshake: Handshake, args: &[&str]) {
        let transparent = args.contains(&"--transparent");
        self.install_rules(if transparent { &["--transparent"] } else { &[] });
        self.start_daemon(handshake, args);
    }

    pub fn start_daemon(&mut self, handshake: Handshake, args: &[&str]) {
        self.start_prepared(handshake, args, |_| ());
    }

    /// Lets `prepare` add to the environment in which the daemon starts.
    pub fn start_prepared(
        &mut self,
        handshake: Handshake,
        args: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) {
        self.transparent = args.contains(&"--transparent");
        let handshake = handshake.to_string();
        let args = [&["--handshake", &handshake], args].concat();
        self.daemon = None;
        self.daemon = Some(Daemon::start(&self.net.router, &args, prepare));
    }

    /// Starts another daemon, which takes over from the one that runs.
    pub fn hand_over(&mut self, handshake: Handshake, args: &[&str]) {
        let handshake = handshake.to_string();
        let args = [&["--handshake", &handshake], args].concat();
        let daemon = self.daemon.as_mut().expect("the daemon was started");
        daemon.hand_over(&self.net.router, &args);
    }

    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the daemon was started")
    }

    pub fn signal(&self, signal: Signal) {
        self.daemon.as_ref().expect("the daemon was started").signal(signal);
    }

    pub fn log(&self) -> String {
        self.daemon.as_ref().expect("the daemon was started").log()
    }

    /// KiB that the daemon has in memory.
    pub fn daemon_memory(&self) -> u64 {
        self.daemon.as_ref().expect("the daemon was started").memory()
    }

    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon was started").pid()
    }

    /// The number above that of every file the daemon has open.
    pub fn daemon_descriptors(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon was started").descriptors()
    }

    /// The daemon's control socket.
    pub fn control(&self) -> PathBuf {
        self.daemon.as_ref().expect("the daemon was started").control.clone()
    }

    pub fn install_rules(&self, args: &[&str]) {
        let formats = if nft_rules() {
            &[("nft", "nft -f -")][..]
        } else {
            &[("iptables", "iptables-restore -w -n"), ("ip6tables", "ip6tables-restore -w -n")]
        };
        for (format, program) in formats {
            let zones = ["--lan", "lan,guest", "--wan", "wan", "--format", format];
            let text = rules(&self.net.router, &[&zones, args].concat());
            self.net.router.exec(program, &text);
        }
    }

    /// Takes all of pepsal's rules away, as if somebody had flushed them.
    pub fn remove_rules(&self) {
        if nft_rules() {
            self.net.router.nft("delete table inet pepsal\n");
            return;
        }
        for program in ["iptables-restore -w", "ip6tables-restore -w"] {
            self.net.router.exec(program, "*security\nCOMMIT\n*nat\nCOMMIT\n*filter\nCOMMIT\n");
        }
    }

    pub fn far(&self) -> Net {
        if self.plan.hop.is_some() { Net::Far } else { Net::Wan }
    }

    pub fn listen(&self, family: Family) -> Listener {
        self.listen_at(SocketAddr::new(family.address(self.far(), 2), 0))
    }

    pub fn listen_at(&self, address: SocketAddr) -> Listener {
        Listener::bind(&self.net.server, address)
    }

    /// A port of the server on which nobody listens.
    pub fn closed_port(&self, family: Family) -> SocketAddr {
        let address = self.listen(family).address;
        // A process that another test has just begun keeps a descriptor of the listener until it is on its way.
        eventually("the port is closed", patience(), || {
            self.net.server.inside(|| TcpStream::connect(address)).is_err()
        });
        address
    }

    /// A port of the server from which no answer comes, not even a refusal.
    pub fn silent_port(&self, family: Family) -> SocketAddr {
        let address = self.closed_port(family);
        self.net.server.discard("silent", "input priority 0", &format!("tcp dport {}", address.port()));
        address
    }

    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        dial(&self.net.client, to, |_| ())
    }

    /// A connection from the client to `listener`, whoever carries it.
    pub fn pair(&self, listener: &Listener) -> Pair {
        self.pair_from(&self.net.client, listener)
    }

    pub fn pair_from(&self, from: &Host, listener: &Listener) -> Pair {
        let client = dial(from, listener.address, |_| ())
            .unwrap_or_else(|err| panic!("cannot connect to {}: {err}", listener.address));
        listener.join(client)
    }

    /// A connection that is shown to go through pepsal.
    pub fn stolen(&self, listener: &Listener) -> Pair {
        let pair = self.pair(listener);
        self.check_stolen(&pair);
        pair
    }

    pub fn check_stolen(&self, pair: &Pair) {
        assert!(self.is_stolen(pair), "the connection from {} went past pepsal", pair.peer);
    }

    /// A connection that is shown not to go through pepsal.
    pub fn direct(&self, listener: &Listener) -> Pair {
        let pair = self.pair(listener);
        self.check_direct(&pair);
        pair
    }

    pub fn check_direct(&self, pair: &Pair) {
        assert!(!self.is_stolen(pair), "the connection from {} was stolen", pair.peer);
    }

    pub fn is_stolen(&self, pair: &Pair) -> bool {
        if self.plan.masquerade || self.plan.hop == Some(Hop::Masquerade) || self.transparent {
            // The address tells nothing then; but only pepsal has sockets in the router.
            let port = pair.server.local_addr().expect("the server's address").port();
            return self.net.router.connected_ports().contains(&port);
        }
        let wan = if pair.peer.is_ipv4() { Family::V4 } else { Family::V6 }.router_wan();
        let client = pair.client.local_addr().expect("the client's address").ip();
        assert!([wan, client].contains(&pair.peer.ip()), "the server sees the stranger {}", pair.peer);
        pair.peer.ip() == wan
    }

    /// Nothing is left of the connections so far, and the next one is stolen as the first one was.
    pub fn check_nothing_left(&mut self, family: Family) {
        self.daemon().wait_idle(patience());
        let listener = self.listen(family);
        let pair = self.stolen(&listener);
        pair.exchange(0x5eed, 10_000);
        drop(pair);
        self.daemon().wait_idle(patience());
    }

    /// With `-c count`: `count` connections are stolen at a time and no more; every slot is in use again.
    pub fn check_all_slots(&mut self, family: Family, count: usize) {
        self.daemon().wait_idle(patience());
        let listener = self.listen(family);
        let seeds = 0..u64::try_from(count).expect("a small number");
        let stolen = seeds.map(|seed| {
            let pair = self.stolen(&listener);
            // Both legs are joined before the next SYN. Where netfilter has to change a client's port, two SYNs
            // of one client to one server that wait at the same moment may swap their server legs, which
            // nobody but a test can notice.
            pair.exchange(seed, 10_000);
            pair
        });
        let stolen: Vec<Pair> = stolen.collect();
        let beyond = self.direct(&listener);
        beyond.exchange(0, 10_000);
        drop((stolen, beyond));
        self.daemon().wait_idle(patience());
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Network { client, router, server, .. } = &self.net;
            for host in [client, router, server] {
                eprintln!("--- {}", host.complaints());
            }
        }
    }
}

/// Whether this machine can have test beds at all. If not, says why, once for each test.
pub fn possible() -> bool {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    // Nothing may be skipped there: what is missing fails the test by itself.
    if std::env::var_os("CI").is_some() {
        return true;
    }
    let Some(why) = OBSTACLE.get_or_init(obstacle) else {
        return true;
    };
    skip(why);
    false
}

/// Says that a test is left out; where nothing may be, the test fails.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "not possible here: {why}");
    // Not eprintln!, which the test harness keeps to itself when a test succeeds.
    let _ = io::Write::write_all(&mut io::stderr(), format!("skipped: {why}\n").as_bytes());
}

fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("namespaces need root".into());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".into());
    }
    let fails = |command: &str, input: &str| {
        let done = output(&mut split(command), input);
        let said = String::from_utf8_lossy(&done.stderr).trim().replace('\n', "; ");
        (!done.status.success()).then_some(said)
    };
    let netns = format!("pep{}-possible", std::process::id());
    if let Some(why) = fails(&format!("ip netns add {netns}"), "") {
        return Some(format!("no network namespaces: {why}"));
    }
    // Deletes the namespace again.
    let host = Host { netns };
    let (program, queue) = if nft_rules() {
        ("nft -f -", "table inet t { chain c { queue flags bypass to 5; }; }\n")
    } else {
        ("iptables-restore -w -n", "*security\n-A FORWARD -j NFQUEUE --queue-num 5 --queue-bypass\nCOMMIT\n")
    };
    fails(&format!("ip netns exec {} {program}", host.netns), queue).map(|why| format!("no NFQUEUE: {why}"))
}

pub fn nft_rules() -> bool {
    std::env::var("BED_RULES").is_ok_and(|format| format == "nft")
}
