//! `pepsal status` and `pepsal connections`: ask the daemon at its control socket and print what it answers.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use crate::cli::{Connections, Status, StatusFormat};
use crate::error::Error;

/// The daemon answers within milliseconds, or not at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// What limits a connection now is seen from two looks, so far apart (longer than `looks::SHORTEST_MS`).
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

pub fn status(options: &Status) -> Result<(), Error> {
    let format = if options.json { StatusFormat::Json } else { options.format };
    let request = match format {
        StatusFormat::Text => "status text",
        StatusFormat::Json => "status json",
        StatusFormat::Prometheus => "status prometheus",
    };
    answer(&options.control, request, &mut Printed)
}

pub fn connections(options: &Connections) -> Result<(), Error> {
    let request = if options.json { "connections json" } else { "connections text" };
    answer(&options.control, "connections columns", &mut io::sink())?;
    thread::sleep(BETWEEN_LOOKS);
    answer(&options.control, request, &mut Printed)
}

/// Copies the daemon's answer as it comes.
pub fn answer(path: &str, request: &str, to: &mut dyn Write) -> Result<(), Error> {
    let failed = |verb, remedy| move |error: io::Error| Error::system(verb, path, errno(&error), remedy);
    let mut stream = UnixStream::connect(path).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::PermissionDenied => "ask as root",
            _ => "is pepsal running?",
        };
        failed("connect to", remedy)(error)
    })?;
    let ask = |stream: &mut UnixStream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        stream.write_all(b"\n")
    };
    ask(&mut stream).map_err(failed("ask at", ""))?;
    // Of no connections there is nothing to say, but in JSON.
    let mut last = if matches!(request, "connections text" | "connections columns") { b'\n' } else { 0 };
    let mut piece = [0; 4096];
    let cut = failed("read the answer from", "is pepsal alive?");
    loop {
        let read = match stream.read(&mut piece) {
            Ok(0) if last == b'\n' => return Ok(()),
            // The daemon has ended amid it.
            Ok(0) => return Err(cut(io::Error::from_raw_os_error(libc::ECONNRESET))),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(cut(error)),
        };
        last = piece[read - 1];
        match to.write_all(&piece[..read]) {
            // Whoever reads this has read enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Error::system("write", "the answer", errno(&error), "")),
            Ok(()) => {}
        }
    }
}

/// Standard output without Rust's line buffer.
struct Printed;

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(io::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn errno(error: &io::Error) -> Errno {
    // What a read timeout is called.
    let timed_out = error.kind() == ErrorKind::WouldBlock;
    if timed_out { Errno::ETIMEDOUT } else { Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn an_answer_without_its_end_is_an_error() {
        let path = std::env::temp_dir().join(format!("pepsal-ask-{}", std::process::id()));
        let path = path.to_str().unwrap();
        let listener = UnixListener::bind(path).unwrap();
        for (request, said, is_whole) in [
            ("status json", "{}\n", true),
            ("status json", "{", false),
            ("status text", "", false),
            ("connections text", "", true),
            ("connections text", "192.0.2.1:1 -> ", false),
            ("connections json", "", false),
        ] {
            let answered = thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut asker, _) = listener.accept().unwrap();
                    let mut request = vec![0; request.len() + 1];
                    asker.read_exact(&mut request).unwrap();
                    asker.write_all(said.as_bytes()).unwrap();
                });
                answer(path, request, &mut io::sink())
            });
            assert_eq!(answered.is_ok(), is_whole, "{request}: '{said}'");
        }
        let _ = std::fs::remove_file(path);
    }
}
