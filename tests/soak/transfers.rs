//! One transfer of each kind, with the real program, and what the receiver got compared byte by byte.
//!
//! A transfer is done, has failed (the program says so), or is wrong: bytes that differ, or a program that takes what it
//! got for complete when it is not. Downloads are of files that differ from each other; each upload has bytes of its own.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::bed::{Bed, Ended, SERVER, bounded, bounded_by, ended, eventually, remove};
use crate::content::{COMMIT, FILES, bytes};
use crate::ledger::Outcome::{self, Done, Failed, Wrong};
use crate::random::Random;

pub struct Kind {
    pub name: &'static str,
    /// How many at a time.
    pub loops: u64,
    /// The longest pause between two of a loop; seconds.
    pub pause: f64,
    pub work: fn(&Job, &mut Random) -> Outcome,
}

const fn kind(name: &'static str, loops: u64, pause: f64, work: fn(&Job, &mut Random) -> Outcome) -> Kind {
    Kind { name, loops, pause, work }
}

pub const KINDS: [Kind; 13] = [
    kind("HTTP/1.1 download", 3, 0.5, |job, random| job.download("--http1.1", "http", "1.1", 1, random)),
    kind("HTTP/1.1 upload", 2, 0.5, |job, random| job.upload("--http1.1", "http", random)),
    kind("HTTP/2 over TLS download", 2, 0.5, |job, random| job.download("--http2", "https", "2", 4, random)),
    kind("HTTP/2 over TLS upload", 1, 0.5, |job, random| job.upload("--http2", "https", random)),
    kind("scp download", 1, 1.0, |job, random| job.scp_down(random)),
    kind("scp upload", 1, 1.0, |job, random| job.scp_up(random)),
    kind("ssh, lines echoed", 1, 1.0, |job, random| job.ssh_lines(random)),
    kind("git clone", 1, 1.0, |job, random| job.git_clone(random)),
    kind("iperf3 up", 1, 1.0, |job, random| job.iperf3(&[], random)),
    kind("iperf3 down", 1, 1.0, |job, random| job.iperf3(&["-R"], random)),
    kind("WebSocket echo", 2, 0.5, |job, random| job.websocket(random)),
    kind("connect to a closed port", 1, 2.0, |job, random| job.refused(random)),
    kind(STATUS, 1, 1.0, |job, random| job.status(random)),
];

/// Not a transfer: the daemon is asked.
pub const STATUS: &str = "status and connections";

/// What is said of a program that did not end by itself.
pub const HUNG: &str = "hung";

/// One transfer: its number, and the family that it uses.
pub struct Job<'a> {
    bed: &'a Bed,
    number: u64,
    /// 0: IPv4, 1: IPv6.
    pub family: usize,
}

impl<'a> Job<'a> {
    pub fn draw(bed: &'a Bed, number: u64, random: &mut Random) -> Job<'a> {
        Job { bed, number, family: random.below(2) }
    }

    /// The server's address as URLs and scp want it.
    fn server(&self) -> String {
        if self.family == 0 { SERVER[0].into() } else { format!("[{}]", SERVER[1]) }
    }

    /// A file that nobody else uses.
    fn scratch(&self, what: &str) -> PathBuf {
        self.bed.work.join(format!("{what}-{}", self.number))
    }

    fn work(&self, name: &str) -> String {
        self.bed.work.join(name).to_string_lossy().into_owned()
    }

    fn curl(&self, version: &str) -> std::process::Command {
        let mut curl = bounded("curl");
        // Verbose: without it curl does not say why it cannot connect. -q: no settings of this machine's own.
        curl.args([
            "-q",
            "-sv",
            "--no-progress-meter",
            version,
            "--noproxy",
            "*",
            "--connect-timeout",
            "280",
        ]);
        curl.args(["--cacert", &self.work("web.crt")]);
        curl
    }

    /// Several files go over one connection if the protocol can do that.
    fn download(
        &self,
        option: &str,
        scheme: &str,
        version: &str,
        at_once: u64,
        random: &mut Random,
    ) -> Outcome {
        let mut curl = self.curl(option);
        curl.args(["-w", "%{http_version} %{http_code}\\n"]);
        if at_once > 1 {
            curl.args(["-Z", "--parallel-max", "4", "--fail-early"]);
        }
        let files: Vec<usize> = (0..at_once).map(|_| random.below(FILES)).collect();
        let targets: Vec<PathBuf> = (0..at_once).map(|n| self.scratch(&format!("got-{n}"))).collect();
        for (file, target) in files.iter().zip(&targets) {
            curl.arg("-o").arg(target).arg(format!("{scheme}://{}/down/{file}", self.server()));
        }
        let done = ended(&mut curl);
        let originals: Vec<PathBuf> =
            files.iter().map(|file| self.bed.work.join(format!("web/down/{file}"))).collect();
        let outcome = if !done.status.success() {
            let right = originals.iter().zip(&targets).all(|(original, target)| begins(original, target));
            if right { failed(&done) } else { Wrong("what came before the failure differs".into()) }
        } else if done.out.lines().any(|line| line != format!("{version} 200")) {
            Wrong(format!("the answers are '{}'", done.out))
        } else {
            all_equal(originals.iter().zip(&targets))
        };
        targets.iter().for_each(|target| remove(target));
        outcome
    }

    fn upload(&self, option: &str, scheme: &str, random: &mut Random) -> Outcome {
        let (source, arrived) =
            (self.source(random, 22.0), self.bed.work.join(format!("web/up/{}", self.number)));
        let mut curl = self.curl(option);
        curl.args(["-w", "%{http_code}", "-T"]).arg(&source);
        curl.arg(format!("{scheme}://{}/up/{}", self.server(), self.number));
        let done = ended(&mut curl);
        let outcome = if !done.status.success() {
            failed(&done)
        } else if done.out != "201" {
            Wrong(format!("the answer is '{}'", done.out))
        } else {
            all_equal([(&source, &arrived)].into_iter())
        };
        remove(&source);
        remove(&arrived);
        outcome
    }

    /// A file with bytes of its own.
    fn source(&self, random: &mut Random, most_log2: f64) -> PathBuf {
        let source = self.scratch("source");
        let written = fs::write(&source, bytes(random.next(), random.size(8.0, most_log2)));
        written.unwrap_or_else(|error| panic!("cannot write {}: {error}", source.display()));
        source
    }

    fn scp_down(&self, random: &mut Random) -> Outcome {
        let original = self.bed.work.join(format!("web/down/{}", random.below(FILES)));
        let target = self.scratch("copied");
        let from = format!("{}:{}", self.server(), original.display());
        let done = ended(bounded("scp").args(["-F", &self.work("ssh.conf"), &from]).arg(&target));
        let outcome = if done.status.success() {
            all_equal([(&original, &target)].into_iter())
        } else if begins(&original, &target) {
            failed(&done)
        } else {
            Wrong("what came before the failure differs".into())
        };
        remove(&target);
        outcome
    }

    fn scp_up(&self, random: &mut Random) -> Outcome {
        let (source, arrived) = (self.source(random, 22.0), self.scratch("arrived"));
        let to = format!("{}:{}", self.server(), arrived.display());
        let done = ended(bounded("scp").args(["-F", &self.work("ssh.conf")]).arg(&source).arg(&to));
        let outcome =
            if done.status.success() { all_equal([(&source, &arrived)].into_iter()) } else { failed(&done) };
        remove(&source);
        remove(&arrived);
        outcome
    }

    /// As a person who types: a line, and no next one before it is echoed.
    fn ssh_lines(&self, random: &mut Random) -> Outcome {
        let mut ssh = bounded("ssh");
        ssh.args(["-TF", &self.work("ssh.conf"), SERVER[self.family], "exec cat"]);
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = ssh.spawn().unwrap_or_else(|error| panic!("cannot start ssh: {error}"));
        let (mut to, mut from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let (mut total, mut differs) = (0, false);
        for _ in 0..random.below(100) {
            let line = bytes(random.next(), random.size(0.0, 10.0));
            let mut echo = vec![0; line.len()];
            if to.write_all(&line).is_err() || from.read_exact(&mut echo).is_err() {
                break;
            }
            differs |= line != echo;
            total += line.len() as u64;
            thread::sleep(Duration::from_secs_f64(random.between(0.0, 0.2)));
        }
        drop(to);
        let mut more = Vec::new();
        // What fails here shows in the exit code.
        let _ = from.read_to_end(&mut more);
        drop(from);
        let done = child.wait_with_output().unwrap_or_else(|error| panic!("cannot wait for ssh: {error}"));
        let done = Ended {
            status: done.status,
            out: String::new(),
            err: String::from_utf8_lossy(&done.stderr).trim().to_string(),
        };
        match (differs, done.status.success()) {
            (true, _) => Wrong("an echo differs from its line".into()),
            (false, true) if !more.is_empty() => Wrong(format!("{} bytes that nobody sent", more.len())),
            (false, true) => Done(total),
            (false, false) => failed(&done),
        }
    }

    fn git_clone(&self, _: &mut Random) -> Outcome {
        let clone = self.scratch("clone");
        let url = format!("git://{}/repo", self.server());
        let done = ended(bounded("git").args(["clone", "-q", "--no-checkout", &url]).arg(&clone));
        let git = |words: &str| ended(bounded("git").arg("-C").arg(&clone).args(words.split(' ')));
        let outcome = if done.status.success() {
            let (sound, head) = (git("fsck --full --no-dangling"), git("rev-parse HEAD").out);
            if !sound.status.success() {
                Wrong(format!("git fsck: {}", sound.err))
            } else if Some(&head) != COMMIT.get() {
                Wrong(format!("the clone's HEAD is '{head}'"))
            } else {
                Done(size_below(&clone.join(".git/objects")))
            }
        } else {
            failed(&done)
        };
        // A clone that failed has removed what it made.
        let _ = fs::remove_dir_all(&clone);
        outcome
    }

    /// Counts bytes, does not look at them.
    fn iperf3(&self, way: &[&str], random: &mut Random) -> Outcome {
        // A server of its own: one whose client was cut off by an outage would wait for it.
        let port = 20_000 + self.number % 10_000;
        let mut server = self.bed.server.command(&format!("iperf3 -s -1 -p {port}"));
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = server.spawn().unwrap_or_else(|error| panic!("cannot start iperf3: {error}"));
        let listening = format!("ss -Hltn sport = :{port}");
        let up = eventually(|| self.bed.server.run(&listening, "").is_ok_and(|lines| !lines.is_empty()));
        let size = random.size(16.0, 22.0).to_string();
        // Shorter than the time after which its server gives up, and than the rest of the run would have to wait.
        let mut client = bounded_by(100, "iperf3");
        client.args(["-J", "-c", SERVER[self.family], "-p", &port.to_string(), "-n", &size]).args(way);
        let done = ended(&mut client);
        let sums = ["sum_sent", "sum_received"].map(|sum| bytes_of(&done.out, sum));
        // It may have ended by itself.
        let _ = server.kill();
        let _ = server.wait();
        match (up, sums) {
            (false, _) => Failed("iperf3 -s does not listen".into()),
            // Its exit code does not tell.
            _ if !done.status.success() || done.out.contains("\"error\":") => {
                failed(&Ended { err: done.out.clone(), ..done })
            }
            // What the router has taken over is sent; the receiver may stop reading before it has come.
            (true, [Some(sent), Some(received)]) if 0 < sent && received <= sent => Done(received),
            (true, sums) => Wrong(format!("bytes sent and received: {sums:?}")),
        }
    }

    fn websocket(&self, random: &mut Random) -> Outcome {
        let (seed, seconds) = (self.number.to_string(), random.size(0.0, 5.5).to_string());
        let mut talk = bounded("/usr/bin/python3");
        talk.args(["tests/soak/echo.py", "talk", SERVER[self.family], "9001", &seed, &seconds]);
        let done = ended(&mut talk);
        match (done.status.code(), done.out.parse()) {
            (Some(0), Ok(bytes)) => Done(bytes),
            (Some(3), _) => Wrong(done.err),
            _ => failed(&done),
        }
    }

    /// Nobody listens, and so the client has to learn: refused, or with an early handshake reset.
    fn refused(&self, random: &mut Random) -> Outcome {
        let port = 1000 + random.below(1000);
        let done = ended(self.curl("--http1.1").arg(format!("http://{}:{port}/", self.server())));
        match done.status.code() {
            Some(7) if done.err.contains("Connection refused") => Done(0),
            Some(0) => Wrong("an answer from a port where nobody listens".into()),
            _ => failed(&done),
        }
    }

    fn status(&self, random: &mut Random) -> Outcome {
        let mut pepsal = bounded(&self.bed.pepsal);
        pepsal
            .args([*random.pick(&["status", "connections"]), "--json", "--control"])
            .arg(self.bed.control());
        let done = ended(&mut pepsal);
        match done.status.success() {
            true if done.out.ends_with('}') => Done(0),
            true => Wrong("the answer has no end".into()),
            false => failed(&done),
        }
    }
}

fn failed(done: &Ended) -> Outcome {
    let code = done.status.code().map_or("a signal".into(), |code| format!("code {code}"));
    Failed(if done.hung() { HUNG.into() } else { format!("{code}: {}", done.err) })
}

fn all_equal<'p>(pairs: impl Iterator<Item = (&'p PathBuf, &'p PathBuf)>) -> Outcome {
    let mut total = 0;
    for (original, copy) in pairs {
        match (fs::read(original), fs::read(copy)) {
            (Ok(original), Ok(copy)) if original == copy => total += copy.len() as u64,
            (Ok(original), Ok(copy)) if original.starts_with(&copy) => {
                return Wrong(format!(
                    "ends after {} of {} bytes and looks complete",
                    copy.len(),
                    original.len()
                ));
            }
            (Ok(_), Ok(_)) => return Wrong("the bytes differ".into()),
            (_, Err(error)) => return Wrong(format!("the copy is not there: {error}")),
            (Err(error), _) => return Wrong(format!("the original is not there: {error}")),
        }
    }
    Done(total)
}

/// Whether what is there of the copy is how the original begins.
fn begins(original: &Path, copy: &Path) -> bool {
    let copy = fs::read(copy).unwrap_or_default();
    copy.is_empty() || fs::read(original).is_ok_and(|original| original.starts_with(&copy))
}

fn size_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The figure "bytes" of an object in iperf3's JSON.
fn bytes_of(json: &str, object: &str) -> Option<u64> {
    let (_, after) = json.split_once(&format!("\"{object}\":"))?;
    let (_, after) = after.split_once("\"bytes\":")?;
    let end = after.find([',', '}', '\n'])?;
    after[..end].trim().parse().ok()
}
