//! The pepsal processes, one after the other: how they start and end, their log, and what they hold and count.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::{Bed, PATIENCE, bounded, ended, eventually};
use crate::ledger::{Effect, Ledger};
use crate::random::Random;

/// Workers, slots, and whether the daemon knows the link: what decides how many descriptors and how much memory an
/// idle daemon has.
type Shape = (usize, usize, bool);

/// In pairs that differ in the link only.
pub const SHAPES: [Shape; 6] =
    [(1, 1024, false), (1, 1024, true), (2, 64, false), (2, 64, true), (4, 16, false), (4, 16, true)];

#[derive(Clone, Copy)]
pub struct Options {
    shape: usize,
    early: bool,
    drain: u64,
}

impl Options {
    pub fn plain() -> Options {
        Options { shape: 0, early: false, drain: 10 }
    }

    /// It shares the link and jump-starts its connections.
    pub fn with_link() -> Options {
        Options { shape: 1, ..Options::plain() }
    }

    pub fn draw(random: &mut Random) -> Options {
        Options {
            shape: random.below(SHAPES.len()),
            early: random.one_in(3),
            drain: random.between(2.0, 20.0) as u64,
        }
    }

    /// Of a daemon that takes over from one with `before`: the workers stay, and all connections have to have a slot.
    fn after(self, before: Options) -> Options {
        Options { shape: before.shape & !1 | self.shape & 1, ..self }
    }

    fn words(self) -> String {
        let (threads, slots, link) = SHAPES[self.shape];
        let handshake = if self.early { "early" } else { "deferred" };
        // As tests/soak.sh makes it.
        let link = if link { " --rate-up 20 --rate-down 40 --rtt 80" } else { "" };
        // An outage is no reason to give a server up.
        let patience = "--connect-timeout 100";
        format!("-T {threads} -c {slots} --handshake {handshake} --drain {} {patience}{link}", self.drain)
    }
}

/// What a process has and may leak.
#[derive(Clone, Copy, Default)]
pub struct Holds {
    pub pipes: usize,
    /// Descriptors that are no pipes.
    pub others: usize,
    /// Memory that is no file's, KiB.
    pub memory: u64,
}

/// What the log has said.
#[derive(Default)]
struct Said {
    ready: AtomicBool,
    /// Connections that were left at the end of draining.
    left: AtomicU32,
}

struct Daemon {
    child: Child,
    began: Duration,
    options: Options,
    said: Arc<Said>,
    reader: Option<JoinHandle<()>>,
}

pub struct Lives<'a> {
    bed: &'a Bed,
    ledger: &'a Ledger<'a>,
    log: Arc<Mutex<File>>,
    current: Option<Daemon>,
    /// What an idle daemon of each shape holds.
    fresh: Vec<Holds>,
    pub count: u64,
    /// Counters of all daemons, as far as they were asked in time.
    pub totals: BTreeMap<String, u64>,
    /// The most that one has grown beyond a fresh one; KiB.
    pub largest_growth: u64,
}

impl<'a> Lives<'a> {
    /// Looks at an idle daemon of each shape.
    pub fn new(bed: &'a Bed, ledger: &'a Ledger<'a>, log: &Path) -> Result<Lives<'a>, String> {
        let log = File::create(log).map_err(|error| format!("cannot create {}: {error}", log.display()))?;
        let mut lives = Lives {
            bed,
            ledger,
            log: Arc::new(Mutex::new(log)),
            current: None,
            fresh: Vec::new(),
            count: 0,
            totals: BTreeMap::new(),
            largest_growth: 0,
        };
        for shape in 0..SHAPES.len() {
            lives.start(Options { shape, ..Options::plain() })?;
            let holds = lives.holds();
            lives.fresh.push(holds);
            // What is looked at when the load rests has to be there.
            for file in ["tcp", "tcp6", "nf_conntrack"] {
                let path = format!("/proc/{}/net/{file}", lives.pid());
                fs::read(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
            }
            lives.end_idle();
        }
        lives.count = 0;
        Ok(lives)
    }

    /// Starts a daemon and returns when it is ready.
    pub fn start(&mut self, options: Options) -> Result<String, String> {
        let daemon = self.spawn(options)?;
        self.adopt(daemon);
        self.ledger.close(Effect::Away);
        Ok(options.words())
    }

    fn adopt(&mut self, daemon: Daemon) {
        self.count += 1;
        if daemon.options.early {
            // It has had connections before anybody saw that it was ready.
            self.ledger.open_since(daemon.began, Effect::Early, "early handshake");
        }
        self.current = Some(daemon);
    }

    /// Starts a daemon that takes over from the present one, with all connections and counters: nobody may notice. If it
    /// cannot, as when the machine has no time for it, the present one carries on. Says which.
    pub fn hand_over(&mut self, options: Options) -> Option<String> {
        let old = self.current.as_ref()?;
        let options = options.after(old.options);
        match self.spawn(options) {
            Ok(new) => {
                let status = self.wait_end(PATIENCE);
                if status.is_none_or(|status| !status.success()) {
                    self.ledger.fault(format!("the daemon that handed over has ended with {status:?}"));
                }
                self.adopt(new);
                Some(options.words())
            }
            Err(why) => {
                self.ledger.say(&format!("hand-over: {why}"));
                self.is_alive();
                None
            }
        }
    }

    fn spawn(&self, options: Options) -> Result<Daemon, String> {
        let bed = self.bed;
        let words = format!("{} run -v {} --control", bed.pepsal, options.words());
        let mut command = bed.router.command(&words);
        command.arg(bed.control()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let at = bed.now();
        let mut child = command.spawn().map_err(|error| format!("cannot start pepsal: {error}"))?;
        let (said, log) = (Arc::new(Said::default()), Arc::clone(&self.log));
        let (lines, hears) = (BufReader::new(child.stderr.take().expect("a pipe")), Arc::clone(&said));
        let (pid, began) = (child.id(), std::time::Instant::now() - bed.now());
        let reader = thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if line.contains("ready: ") {
                    hears.ready.store(true, SeqCst);
                }
                if let Some((_, left)) = line.split_once("ended, resetting ") {
                    let left = left.split(' ').next().and_then(|left| left.parse().ok());
                    hears.left.store(left.unwrap_or(u32::MAX), SeqCst);
                }
                let mut log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                // The log is for people; the run goes on without it.
                let _ = writeln!(log, "{:10.3} {pid} {line}", began.elapsed().as_secs_f64());
            }
        });
        let mut daemon = Daemon { child, began: at, options, said, reader: Some(reader) };
        let mut gone = None;
        let settled = eventually(|| {
            gone = daemon.child.try_wait().ok().flatten();
            gone.is_some() || daemon.said.ready.load(SeqCst)
        });
        match (settled, gone) {
            (true, None) => Ok(daemon),
            (_, gone) => {
                let _ = daemon.child.kill();
                let _ = daemon.child.wait();
                Err(format!("pepsal does not get ready ({gone:?}); its log says why"))
            }
        }
    }

    fn pid(&self) -> u32 {
        self.current.as_ref().map_or(0, |daemon| daemon.child.id())
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        if let Err(errno) = kill(Pid::from_raw(pid), signal) {
            self.ledger.fault(format!("cannot send {signal} to the daemon: {errno}"));
        }
    }

    /// Its connections are reset.
    pub fn kill(&mut self) {
        self.note_counters();
        self.ledger.open(Effect::Away, "kill -9");
        self.ledger.open(Effect::Reset, "kill -9");
        self.signal(Signal::SIGKILL);
        self.wait_end(PATIENCE);
        self.ledger.close(Effect::Reset);
    }

    /// Its connections may go on for a while; what is left then is reset. Says how that went.
    pub fn terminate(&mut self) -> String {
        self.note_counters();
        let drain = Duration::from_secs(self.current.as_ref().map_or(0, |daemon| daemon.options.drain));
        let said = self.current.as_ref().map(|daemon| Arc::clone(&daemon.said));
        let asked = self.bed.now();
        self.ledger.open(Effect::Away, "SIGTERM");
        self.signal(Signal::SIGTERM);
        let status = self.wait_end(drain + PATIENCE);
        let took = self.bed.now() - asked;
        if status.is_none_or(|status| !status.success()) {
            self.ledger.fault(format!("after SIGTERM the daemon has ended with {status:?}"));
        }
        let left = said.map_or(0, |said| said.left.load(SeqCst));
        if left > 0 {
            // It began at the end of the drain, never before.
            self.ledger.was(Effect::Reset, "SIGTERM", asked + drain);
            if took < drain {
                self.ledger.fault(format!("{left} connections were reset after {took:?} of {drain:?}"));
            }
        }
        format!("ended after {:.1} of {} s, {left} connections reset", took.as_secs_f64(), drain.as_secs())
    }

    /// There are no connections: it ends at once.
    pub fn end_idle(&mut self) {
        if self.current.is_none() {
            return;
        }
        self.note_counters();
        self.signal(Signal::SIGTERM);
        let status = self.wait_end(PATIENCE);
        if status.is_none_or(|status| !status.success()) {
            self.ledger.fault(format!("after SIGTERM the idle daemon has ended with {status:?}"));
        }
    }

    fn wait_end(&mut self, within: Duration) -> Option<ExitStatus> {
        let mut daemon = self.current.take()?;
        let until = self.bed.now() + within;
        let mut status = None;
        while status.is_none() && self.bed.now() < until {
            status = daemon.child.try_wait().ok().flatten();
            thread::sleep(Duration::from_millis(10));
        }
        if status.is_none() {
            self.ledger.fault("the daemon does not end".into());
            let _ = daemon.child.kill();
            let _ = daemon.child.wait();
        }
        // All that it said is in the log and in `said` when its reader has ended.
        if let Some(reader) = daemon.reader.take() {
            let _ = reader.join();
        }
        if daemon.options.early {
            self.ledger.close(Effect::Early);
        }
        status
    }

    /// Whether the daemon is still there; if not, that is a fault.
    pub fn is_alive(&mut self) -> bool {
        let Some(daemon) = &mut self.current else { return false };
        match daemon.child.try_wait() {
            Ok(None) => true,
            gone => {
                self.ledger.fault(format!("the daemon has ended by itself: {gone:?}"));
                self.current = None;
                false
            }
        }
    }

    /// Its counters by name, as in Prometheus' format.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut status = bounded(&self.bed.pepsal);
        let done =
            ended(status.args(["status", "--format", "prometheus", "--control"]).arg(self.bed.control()));
        if !done.status.success() {
            self.ledger.fault(format!("pepsal status: {}", done.err));
        }
        let lines = done.out.lines().filter_map(|line| line.rsplit_once(' '));
        lines.filter_map(|(name, value)| Some((name.to_string(), value.parse().ok()?))).collect()
    }

    fn note_counters(&mut self) {
        for (name, value) in self.counters() {
            if name.contains("_total") {
                *self.totals.entry(name).or_default() += value;
            }
        }
    }

    pub fn holds(&self) -> Holds {
        let mut holds = Holds::default();
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        for fd in open.into_iter().flatten().flatten() {
            match fs::read_link(fd.path()) {
                Ok(to) if to.to_string_lossy().starts_with("pipe:") => holds.pipes += 1,
                Ok(_) => holds.others += 1,
                // Closed since the directory was read.
                Err(_) => {}
            }
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = anonymous.and_then(|line| line.trim().split(' ').next()?.parse().ok());
        holds.memory = kib.unwrap_or(0);
        holds
    }

    /// What a fresh one of its kind holds, and its workers.
    pub fn fresh(&self) -> (Holds, usize) {
        let shape = self.current.as_ref().map_or(0, |daemon| daemon.options.shape);
        (self.fresh[shape], SHAPES[shape].0)
    }

    /// A file of the router's below /proc/net.
    pub fn proc_net(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/net/{file}", self.pid())).unwrap_or_default()
    }
}

impl Drop for Lives<'_> {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.current {
            let _ = daemon.child.kill();
            let _ = daemon.child.wait();
        }
    }
}
