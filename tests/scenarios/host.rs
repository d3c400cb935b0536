//! One machine of the test bed: a network namespace, the commands run in it, the threads that enter it.

use std::fs::File;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// nft's expression for the SYN that begins a connection.
pub const SYN: &str = "tcp flags & (syn | ack) == syn";

pub struct Host {
    pub netns: String,
}

impl Host {
    pub fn add(netns: String) -> Host {
        run(&format!("ip netns add {netns}"), "");
        let host = Host { netns };
        // Duplicate address detection keeps addresses, link-local ones too, unusable for a second or more.
        for scope in ["all", "default"] {
            host.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0");
        }
        host.ip("link set lo up");
        host
    }

    /// The same for another thread; the namespace does not go with it.
    pub fn twin(&self) -> ManuallyDrop<Host> {
        ManuallyDrop::new(Host { netns: self.netns.clone() })
    }

    /// Runs `work` on a thread that lives in this namespace: the sockets and processes it makes stay there.
    pub fn inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter();
                work()
            });
            match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// So many threads in this namespace take numbers from 0 on, each the next one, and do `work` with them until it
    /// returns false; how many were taken.
    pub fn crowd(&self, size: u32, work: impl Fn(u32) -> bool + Sync) -> u32 {
        let next = AtomicU32::new(0);
        thread::scope(|crowd| {
            for _ in 0..size {
                crowd.spawn(|| {
                    self.enter();
                    while work(next.fetch_add(1, Ordering::Relaxed)) {}
                });
            }
        });
        next.into_inner()
    }

    /// Moves the calling thread into this namespace, for good.
    pub fn enter(&self) {
        let path = format!("/run/netns/{}", self.netns);
        let netns = File::open(&path).unwrap_or_else(|err| panic!("cannot open {path}: {err}"));
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap_or_else(|err| panic!("cannot enter {path}: {err}"));
    }

    /// Runs lines of `ip` commands.
    pub fn ip(&self, batch: &str) -> String {
        run(&format!("ip -netns {} -batch -", self.netns), batch)
    }

    pub fn nft(&self, script: &str) -> String {
        self.exec("nft -f -", script)
    }

    pub fn exec(&self, command: &str, input: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.netns), input)
    }

    pub fn forward(&self) {
        self.sysctl("net/ipv4/ip_forward", "1");
        self.sysctl("net/ipv6/conf/all/forwarding", "1");
    }

    /// `name` with slashes, as below /proc/sys.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{name}");
        self.inside(|| {
            std::fs::write(&path, value)
                .unwrap_or_else(|err| panic!("cannot write {value} to {path}: {err}"));
        });
    }

    pub fn has_device(&self, device: &str) -> bool {
        self.inside(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
            .expect("/proc/thread-self/net/dev")
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("{device}:")))
    }

    /// Adds rules at `hook` (with its priority, as nft writes them), in a table of their own, so that they neither
    /// see nor disturb the rules of the test bed.
    pub fn add_rules(&self, name: &str, hook: &str, rules: &str) {
        self.add_table(name, "filter", hook, rules);
    }

    /// Adds rules that change addresses.
    pub fn translate(&self, hook: &str, rules: &str) {
        self.add_table("translate", "nat", hook, rules);
    }

    fn add_table(&self, name: &str, kind: &str, hook: &str, rules: &str) {
        self.nft(&format!(
            "table inet bed_{name} {{
                counter seen {{
                }}
                chain only {{
                    type {kind} hook {hook}; policy accept;
                    {rules}
                }}
            }}\n"
        ));
    }

    /// Counts packets that match.
    pub fn count(&self, name: &'static str, hook: &str, packets: &str) -> Counter<'_> {
        self.add_rules(name, hook, &format!("{packets} counter name seen"));
        Counter { host: self, name }
    }

    /// Discards packets that match.
    pub fn discard(&self, name: &str, hook: &str, packets: &str) {
        self.add_rules(name, hook, &format!("{packets} drop"));
    }

    pub fn remove_rules(&self, name: &str) {
        self.nft(&format!("delete table inet bed_{name}\n"));
    }

    /// What the kernel's TCP has counted here of what goes wrong, for the report of a failing test.
    pub fn complaints(&self) -> String {
        const BAD: [&str; 7] = ["Abort", "Rsts", "Resets", "Drop", "Overflow", "Memory", "Timeouts"];
        let read =
            |table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        let tables = self.inside(|| ["netstat", "snmp"].map(read).concat());
        let mut complaints = self.netns.clone();
        // A line of names, a line of numbers.
        for pair in tables.lines().collect::<Vec<_>>().chunks_exact(2) {
            for (name, number) in pair[0].split_whitespace().zip(pair[1].split_whitespace()) {
                if number != "0" && BAD.iter().any(|bad| name.contains(bad)) {
                    complaints += &format!(" {name} {number}");
                }
            }
        }
        complaints
    }

    /// Remote ports of the TCP sockets here that have a peer and are not waiting in TIME-WAIT.
    pub fn connected_ports(&self) -> Vec<u16> {
        const TIME_WAIT: &str = "06";
        const LISTEN: &str = "0A";
        self.inside(|| {
            let mut ports = Vec::new();
            for table in ["tcp", "tcp6"] {
                let sockets =
                    std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
                for line in sockets.lines().skip(1) {
                    let fields: Vec<&str> = line.split_whitespace().collect();
                    if fields[3] != TIME_WAIT && fields[3] != LISTEN {
                        let (_, port) = fields[2].rsplit_once(':').expect("address:port");
                        ports.push(u16::from_str_radix(port, 16).expect("a port in hexadecimal"));
                    }
                }
            }
            ports
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let removed = Command::new("ip").args(["netns", "delete", &self.netns]).output();
        if !removed.is_ok_and(|output| output.status.success()) {
            eprintln!("cannot delete the namespace {}", self.netns);
        }
    }
}

pub struct Counter<'a> {
    host: &'a Host,
    name: &'static str,
}

impl Counter<'_> {
    pub fn packets(&self) -> u64 {
        let list = format!("nft list counter inet bed_{} seen", self.name);
        let listing = self.host.exec(&list, "");
        let mut words = listing.split_whitespace().skip_while(|word| *word != "packets");
        words
            .nth(1)
            .and_then(|count| count.parse().ok())
            .unwrap_or_else(|| panic!("no packet count in {listing}"))
    }
}

/// Runs a command that has to succeed; if it does not, the panic tells what was run and what it said.
pub fn run(command: &str, input: &str) -> String {
    let done = output(&mut split(command), input);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{command}\nended with {}\n--- its input\n{input}\n--- what it said\n{text}{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    text
}

/// A command of words without blanks in them.
pub fn split(command: &str) -> Command {
    let mut words = command.split_whitespace();
    let mut split = Command::new(words.next().expect("a command"));
    split.args(words);
    split
}

pub fn output(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|err| panic!("cannot run {command:?}: {err}"));
    // A command that fails early may not read its input: what it said matters more than that.
    let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    child.wait_with_output().unwrap_or_else(|err| panic!("cannot wait for {command:?}: {err}"))
}

/// How many times slower than an ordinary machine this one is said to be.
pub fn slowness() -> u32 {
    std::env::var("BED_SLOW").ok().and_then(|times| times.parse().ok()).unwrap_or(1).max(1)
}

/// The bound on anything that has to happen: on a noisy machine long, but never for ever.
pub fn patience() -> Duration {
    seconds(30)
}

pub fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count * slowness()))
}

/// Polls until `done`, and fails the test with `what` when that takes longer than `within`.
pub fn eventually(what: &str, within: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the loops of a scope's other threads, also when this one panics.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
