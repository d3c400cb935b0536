//! The machines that tests/soak.sh made, the clock of the run, and the way to run a command and to wait.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// The server's addresses, as tests/soak.sh gives them.
pub const SERVER: [&str; 2] = ["198.51.100.2", "2001:db8:3::2"];

/// How long a transfer may take, the longest outage and a busy machine included; seconds. Who takes longer hangs.
pub const LIMIT: u64 = 300;

/// How long anything else may take.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Bed {
    pub client: Host,
    pub router: Host,
    pub server: Host,
    pub work: PathBuf,
    pub pepsal: String,
    /// Directory of the log, the report, and what else people may want to see.
    pub out: PathBuf,
    began: Instant,
}

impl Bed {
    pub fn new(run: &str, work: &str, pepsal: &str, out: &Path) -> Bed {
        let host = |role| Host { netns: format!("{run}-{role}") };
        Bed {
            client: host("client"),
            router: host("router"),
            server: host("server"),
            work: work.into(),
            pepsal: pepsal.into(),
            out: out.into(),
            began: Instant::now(),
        }
    }

    /// Since the run began.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn control(&self) -> PathBuf {
        self.work.join("control")
    }

    /// The rules by which the router chooses routing tables, and the tables that they name.
    pub fn routing(&self) -> Result<String, String> {
        let families = ["-4", "-6"].map(|family| self.router.run(&format!("ip {family} rule"), ""));
        let [v4, v6] = families;
        Ok(v4? + &v6?)
    }
}

pub struct Host {
    pub netns: String,
}

impl Host {
    /// Moves the calling thread there for good; what it starts is there too.
    pub fn enter(&self) {
        let path = format!("/run/netns/{}", self.netns);
        let netns = File::open(&path).unwrap_or_else(|error| panic!("cannot open {path}: {error}"));
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("cannot enter {path}: {error}"));
    }

    /// A command that runs there.
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns]).args(words.split_whitespace());
        command
    }

    /// What a command that has to succeed prints.
    pub fn run(&self, words: &str, input: &str) -> Result<String, String> {
        let failed = |why: String| format!("'{words}' in {}: {why}", self.netns);
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        // Its end closes the pipe. Who does not read is no failure: the exit code tells.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        let done = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        if !done.status.success() {
            return Err(failed(String::from_utf8_lossy(&done.stderr).trim().into()));
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

/// How a program ended that moves bytes.
pub struct Ended {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn hung(&self) -> bool {
        // Of timeout(1): it has ended the program, or had to kill it.
        matches!(self.status.code(), Some(124 | 137))
    }
}

/// A program that is ended when it takes longer than LIMIT.
pub fn bounded(program: &str) -> Command {
    bounded_by(LIMIT, program)
}

pub fn bounded_by(seconds: u64, program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "10", &seconds.to_string(), program]).stdin(Stdio::null());
    // Nothing of this machine's own settings.
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("LC_ALL", "C.UTF-8");
    command
}

pub fn ended(command: &mut Command) -> Ended {
    let done = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    Ended { status: done.status, out: text(&done.stdout), err: text(&done.stderr) }
}

/// Waits until `done`; false if PATIENCE ends before.
pub fn eventually(mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

pub fn remove(path: &Path) {
    // What is not there need not be removed.
    let _ = std::fs::remove_file(path);
}
