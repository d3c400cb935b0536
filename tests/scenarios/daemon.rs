//! The daemon under test: one pepsal process in the router, its log, its file descriptors, its end.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Host, eventually, patience, seconds};

pub fn binary() -> String {
    std::env::var("PEPSAL_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_pepsal").to_string())
}

/// A copy of the program where everybody may execute it.
pub struct Public(pub PathBuf);

impl Public {
    /// By another process: while this one had it open for writing, any other test might fork, and execve(2) fail with ETXTBSY.
    pub fn new(router: &Host) -> Public {
        let path = std::env::temp_dir().join(format!("{}.program", router.netns));
        let copied = Command::new("install").args(["-m", "755", &binary()]).arg(&path).status();
        assert!(copied.expect("start install").success(), "cannot copy {} to {}", binary(), path.display());
        Public(path)
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub struct Daemon {
    child: Child,
    log: PathBuf,
    pub control: PathBuf,
    /// How many there were before, from which it has taken over.
    generation: u32,
    /// Pipe ends and other file descriptors when it got ready, with those that the test's own caller left open.
    idle_fds: (usize, usize),
}

impl Daemon {
    /// Starts `pepsal run` in `router` and returns when it intercepts.
    pub fn start(router: &Host, args: &[&str], prepare: impl FnOnce(&mut Command)) -> Daemon {
        Daemon::start_beside(router, args, prepare, 0)
    }

    fn start_beside(
        router: &Host,
        args: &[&str],
        prepare: impl FnOnce(&mut Command),
        generation: u32,
    ) -> Daemon {
        let log = std::env::temp_dir().join(format!("{}.log{generation}", router.netns));
        let file = File::create(&log).unwrap_or_else(|err| panic!("cannot create {}: {err}", log.display()));
        let control = std::env::temp_dir().join(format!("{}.control", router.netns));
        let mut command = Command::new(binary());
        command.arg("run").args(args).arg("--control").arg(&control);
        command.arg("-v").stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        prepare(&mut command);
        let child = router
            .inside(|| command.spawn())
            .unwrap_or_else(|err| panic!("cannot start {command:?} (see PEPSAL_BIN): {err}"));
        let mut daemon = Daemon { child, log, control, generation, idle_fds: (0, 0) };
        eventually("the daemon says it is ready", patience(), || {
            if let Some(status) = daemon.child.try_wait().expect("wait for the daemon") {
                panic!("{command:?} ended with {status} instead of getting ready");
            }
            daemon.log().contains("ready")
        });
        daemon.idle_fds = daemon.fds();
        daemon
    }

    /// Another one takes over; this one ends in order.
    pub fn hand_over(&mut self, router: &Host, args: &[&str]) {
        let successor = Daemon::start_beside(router, args, |_| (), self.generation + 1);
        let status = self.wait_end(patience());
        assert!(status.success(), "{status}");
        let mut old = std::mem::replace(self, successor);
        // It is idle when it has no more open than the first one had.
        self.idle_fds = old.idle_fds;
        old.control = PathBuf::new();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// RssAnon of proc(5), in KiB: without the program itself, of which the kernel has more or less in memory as it likes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn descriptors(&self) -> u32 {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("its descriptors");
        let numbers = open.flatten().filter_map(|fd| fd.file_name().to_str()?.parse::<u32>().ok());
        numbers.max().map_or(0, |highest| highest + 1)
    }

    /// The open file descriptors: pipes, and everything else.
    fn fds(&self) -> (usize, usize) {
        let (mut pipes, mut others) = (0, 0);
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        for fd in open.into_iter().flatten().flatten() {
            match std::fs::read_link(fd.path()) {
                Ok(to) if to.to_string_lossy().starts_with("pipe:") => pipes += 1,
                Ok(_) => others += 1,
                // Closed since the directory was read.
                Err(_) => {}
            }
        }
        (pipes, others)
    }

    /// Every connection's file descriptors are closed: the same are open as when the daemon got ready, and a
    /// bounded stock of pipes.
    pub fn wait_idle(&mut self, within: Duration) {
        const PIPE_ENDS_PER_WORKER: usize = 2 * 64;
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the daemon") {
                panic!("the daemon has ended with {status}");
            }
            let ((pipes, open), (idle_pipes, idle)) = (self.fds(), self.idle_fds);
            if open == idle && pipes <= idle_pipes + PIPE_ENDS_PER_WORKER * workers {
                return;
            }
            assert!(
                start.elapsed() < within,
                "{open} file descriptors and {pipes} pipe ends open after {within:?}, {idle} when idle"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Pipe ends beyond what its caller left open.
    pub fn pipe_ends(&self) -> usize {
        self.fds().0 - self.idle_fds.0
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).unwrap_or_else(|err| panic!("cannot send {signal}: {err}"));
    }

    pub fn wait_end(&mut self, within: Duration) -> ExitStatus {
        let mut end = None;
        eventually("the daemon ends", within, || {
            end = self.child.try_wait().expect("wait for the daemon");
            end.is_some()
        });
        end.expect("eventually returns only when done")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail harmlessly when the test has seen it end already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() || std::env::var_os("BED_LOG").is_some() {
            eprintln!("--- log of the daemon\n{}---", self.log());
        }
        let _ = std::fs::remove_file(&self.log);
        let _ = std::fs::remove_file(&self.control);
    }
}

/// The output of `pepsal rules` with `args`, which has to succeed. Run in the router, whose devices it names.
pub fn rules(router: &Host, args: &[&str]) -> String {
    router.exec(&format!("{} rules {}", binary(), args.join(" ")), "")
}

/// A daemon that is expected to refuse to start: its exit code and what it said on stderr.
pub fn refusal(router: &Host, mut command: Command) -> (Option<i32>, String) {
    let file = std::env::temp_dir().join(format!("{}.refusal", router.netns));
    let stderr = File::create(&file).unwrap_or_else(|err| panic!("cannot create {}: {err}", file.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    let mut child =
        router.inside(|| command.spawn()).unwrap_or_else(|err| panic!("cannot start {command:?}: {err}"));
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("wait for the daemon") {
            Some(status) => break Some(status),
            None if start.elapsed() > seconds(10) => break None,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let said = std::fs::read_to_string(&file).unwrap_or_default();
    let _ = std::fs::remove_file(&file);
    let Some(status) = status else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{command:?} runs on, and said: {said}");
    };
    (status.code(), said)
}
