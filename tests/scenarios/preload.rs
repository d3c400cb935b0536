//! System calls of the daemon that fail at the test's will: preload.c, compiled here and preloaded into it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;

use crate::bed;
use crate::host::output;

/// In the order of preload.c.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    Socket,
    Connect,
    Accept,
    SetOption,
    GetOption,
    EpollControl,
    Splice,
    Send,
    Receive,
    Pipe,
    Write,
    Shutdown,
    Seccomp,
    WorkerWait,
    MainWait,
    WallClock,
    MonotonicClock,
}

const FAULT_LEN: usize = 16;

pub struct Preload {
    library: PathBuf,
    path: PathBuf,
    shared: File,
}

impl Preload {
    /// None, and says why, where it cannot be done: the daemon is not the one that was built here.
    pub fn compile(name: &str) -> Option<Preload> {
        if std::env::var_os("PEPSAL_BIN").is_some() {
            bed::skip("nothing can be preloaded into another PEPSAL_BIN");
            return None;
        }
        let file = |kind| std::env::temp_dir().join(format!("{name}-{}.{kind}", std::process::id()));
        let [source, library, path] = ["c", "so", "faults"].map(file);
        std::fs::write(&source, include_str!("preload.c")).expect("a source to compile");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(&source);
        let done = output(&mut compiler, "");
        assert!(done.status.success(), "{compiler:?}: {}", String::from_utf8_lossy(&done.stderr));
        std::fs::remove_file(source).expect("remove the source");
        let calls = Call::MonotonicClock as usize + 1;
        std::fs::write(&path, vec![0; calls * FAULT_LEN]).expect("a file to share");
        let shared = File::options().read(true).write(true).open(&path).expect("the shared file");
        Some(Preload { library, path, shared })
    }

    pub fn prepare(&self, daemon: &mut Command) {
        daemon.env("LD_PRELOAD", &self.library).env("FAULTS", &self.path);
    }

    /// From now on each so manieth `call` fails with `error`; `every` 0: none. Connect without an error is 2 to 3 s late.
    pub fn fail(&self, call: Call, every: u32, error: Errno) {
        let fault = [(error as u32).to_ne_bytes(), every.to_ne_bytes()];
        // The error first.
        self.shared.write_all_at(&fault[0], (call as usize * FAULT_LEN + 4) as u64).expect("write a fault");
        self.shared.write_all_at(&fault[1], (call as usize * FAULT_LEN) as u64).expect("write a fault");
    }

    /// How often it was called, and how often that failed.
    pub fn calls(&self, call: Call) -> (u32, u32) {
        let mut counts = [[0; 4]; 2];
        for (at, count) in (8..).step_by(4).zip(&mut counts) {
            self.shared.read_exact_at(count, (call as usize * FAULT_LEN) as u64 + at).expect("read counts");
        }
        let [calls, failed] = counts.map(u32::from_ne_bytes);
        (calls, failed)
    }
}

impl Drop for Preload {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.library);
        let _ = std::fs::remove_file(&self.path);
    }
}
