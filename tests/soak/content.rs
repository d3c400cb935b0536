//! What the services offer: files that differ from each other, and a repository.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::sync::OnceLock;

use crate::bed::{Bed, bounded, ended};
use crate::random::Random;
use crate::splitmix;

pub const FILES: usize = 16;
const HEAD: &str = "refs/heads/main";
/// What a clone's HEAD has to be.
pub static COMMIT: OnceLock<String> = OnceLock::new();

pub fn prepare(bed: &Bed, seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed, 0xf11e);
    for file in 0..FILES {
        let bytes = bytes(random.next(), random.size(8.0, 22.0));
        let path = bed.work.join(format!("web/down/{file}"));
        fs::write(&path, bytes).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    repository(bed, &mut random).map_err(|why| format!("cannot make the repository: {why}"))
}

fn repository(bed: &Bed, random: &mut Random) -> Result<(), String> {
    let place = bed.work.join("git/repo");
    let git = |words: &str| {
        let mut command = bounded("git");
        command.arg("-C").arg(&place).args(words.split(' '));
        command
    };
    let run = |words: &str| {
        let done = ended(&mut git(words));
        if done.status.success() { Ok(done.out) } else { Err(done.err) }
    };
    fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    run("init -q --bare")?;
    let mut stream = Vec::new();
    for commit in 0..20 {
        let at = 1_700_000_000 + commit;
        stream.extend(format!("commit {HEAD}\ncommitter soak <soak> {at} +0000\ndata 4\nsoak\n").bytes());
        for _ in 0..3 {
            let content = bytes(random.next(), random.size(8.0, 17.0));
            stream.extend(format!("M 644 inline {}\ndata {}\n", random.below(40), content.len()).bytes());
            stream.extend(content);
            stream.push(b'\n');
        }
    }
    let import = git("fast-import --quiet").stdin(Stdio::piped()).spawn();
    let mut import = import.map_err(|error| error.to_string())?;
    let written = import.stdin.take().expect("a pipe").write_all(&stream);
    let imported = import.wait().map_err(|error| error.to_string())?;
    if written.is_err() || !imported.success() {
        return Err("git fast-import does not take it".into());
    }
    run(&format!("symbolic-ref HEAD {HEAD}"))?;
    let _ = COMMIT.set(run("rev-parse HEAD")?);
    Ok(())
}

/// Bytes that the receiver knows, too.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    splitmix::fill(seed, 0, &mut bytes);
    bytes
}
