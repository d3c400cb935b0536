//! The control socket: a Unix stream socket at which `pepsal status`, `connections` and `top` ask.
//!
//! One line asks, the answer follows, the connection ends. Served by the main thread between its other duties, one
//! page at a time, and never by a worker. Askers may be hostile or hang: there are few places for them, each costs
//! one page and the socket's buffers; one that neither asks nor reads for [`PATIENCE`] is dismissed, and where
//! all places are taken the one that has been silent longest is.
#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};

use crate::error::Error;
use crate::handover;
use crate::looks::Looks;
use crate::page::Page;
use crate::pep::Pep;
use crate::report::{self, connections};
use crate::samples::Samples;
use crate::worker::ACCEPT_PAUSE;

/// Askers at a time.
const PLACES: usize = 8;

/// How long an asker may do nothing.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a daemon that another one takes over from waits for the next word of an asker, and how long it answers at all.
/// Less than the other one waits for, all askers together.
const SILENCE: Duration = Duration::from_millis(250);
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The longest request there is, with some room.
const REQUEST_LEN: usize = 32;

/// Who may ask: the owner and the group.
const OTHERS: Mode = Mode::from_bits_truncate(0o117);

pub struct Control {
    listener: UnixListener,
    /// To be removed at the end; `None`: it is not this daemon's yet.
    path: Option<PathBuf>,
    askers: [Option<Asker>; PLACES],
    looks: Looks,
}

struct Asker {
    stream: UnixStream,
    request: heapless::Vec<u8, REQUEST_LEN>,
    /// Where in the list of connections it is; `None`: it has not asked for it, or has all of it.
    list: Option<List>,
    asked: bool,
    page: Page,
    /// Bytes of the page that are sent.
    sent: usize,
    /// When something last came or went.
    at: Instant,
}

#[derive(Clone, Copy)]
struct List {
    format: connections::Format,
    next_slot: usize,
    any: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Status(report::Format),
    Connections(connections::Format),
    TakeOver,
}

impl Request {
    fn parse(line: &[u8]) -> Option<Request> {
        Some(match line {
            b"status json" => Request::Status(report::Format::Json),
            b"status text" => Request::Status(report::Format::Text),
            b"status prometheus" => Request::Status(report::Format::Prometheus),
            b"connections json" => Request::Connections(connections::Format::Json),
            b"connections text" => Request::Connections(connections::Format::Text),
            b"connections columns" => Request::Connections(connections::Format::Columns),
            handover::REQUEST => Request::TakeOver,
            _ => return None,
        })
    }
}

enum Next {
    /// It waits for the rest of the request, or for room.
    Wait,
    /// The request is complete, the answer begins.
    Answer,
    HandOver,
    End,
}

/// What became of an asker.
pub enum Served<'a> {
    Waits,
    /// It is the answer's turn from now on.
    IsAnswered(BorrowedFd<'a>),
    /// It takes over.
    TakesOver(UnixStream),
}

impl Control {
    /// Listens at `path`, whose directory is made if it is missing. A socket that a dead daemon has left is replaced.
    pub fn listen(path: &str) -> Result<Control, Error> {
        let failed = |remedy| move |errno| Error::system("listen at", path, errno, remedy);
        if let Some(parent) = Path::new(path).parent()
            && !parent.as_os_str().is_empty()
        {
            // If it is there but no directory, or cannot be made, bind will say so.
            let _ = DirBuilder::new().mode(0o755).create(parent);
        }
        if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            match UnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    let _ = fs::remove_file(path);
                }
                _ => {
                    return Err(failed(
                        "another pepsal is there: stop that, or choose another path with --control",
                    )(Errno::EADDRINUSE));
                }
            }
        }
        let before = umask(OTHERS);
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        let listener = listener
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
            .map_err(failed("choose another path with --control"))?;
        let mut control = Control::at(listener);
        control.keep(path);
        Ok(control)
    }

    /// Answers at what another daemon listens at, and still may.
    pub fn at(listener: UnixListener) -> Control {
        Control { listener, path: None, askers: Default::default(), looks: Looks::new() }
    }

    /// From now on the socket goes with this daemon.
    pub fn keep(&mut self, path: &str) {
        self.path = Some(path.into());
    }

    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The next that wants to ask, in its place.
    pub fn accept(&mut self) -> Option<(usize, BorrowedFd<'_>)> {
        let accepted = self.listener.accept();
        if accepted.as_ref().is_err_and(|error| error.kind() != ErrorKind::WouldBlock) {
            thread::sleep(ACCEPT_PAUSE);
        }
        let (stream, _) = accepted.ok()?;
        stream.set_nonblocking(true).ok()?;
        let silence = |place: &usize| self.askers[*place].as_ref().map(|asker| asker.at);
        // An empty place comes before every other.
        let place = (0..PLACES).min_by_key(silence)?;
        let asker = self.askers[place].insert(Asker::new(stream));
        Some((place, asker.stream.as_fd()))
    }

    /// Goes on with the asker at `place`.
    pub fn serve(&mut self, place: usize, pep: &Pep, samples: &Samples) -> Served<'_> {
        let Some(Some(asker)) = self.askers.get_mut(place) else {
            return Served::Waits;
        };
        let next = match asker.asked {
            false => asker.hear(pep, samples),
            true => asker.send(pep, &mut self.looks),
        };
        if matches!(next, Next::End) {
            self.close(place);
        }
        let asker = &mut self.askers[place];
        let served = match next {
            Next::Wait | Next::End => None,
            Next::Answer => asker.as_ref().map(|it| Served::IsAnswered(it.stream.as_fd())),
            Next::HandOver => asker.take().map(|it| Served::TakesOver(it.stream)),
        };
        served.unwrap_or(Served::Waits)
    }

    /// Answers all of them now: another daemon is going to have the socket, and this one to exit. Who says or takes nothing
    /// is dismissed.
    pub fn finish(&mut self, pep: &Pep, samples: &Samples) {
        let until = Instant::now() + LAST_ANSWERS;
        for place in 0..PLACES {
            let mut before = None;
            while let Some(asker) = &self.askers[place]
                && before.replace(asker.at) != Some(asker.at)
                && Instant::now() < until
                && handover::wait_at_most(SILENCE, &asker.stream).is_ok()
            {
                self.serve(place, pep, samples);
            }
            self.close(place);
        }
    }

    /// When the first of them has been silent for too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.askers.iter().flatten().map(|asker| asker.at + PATIENCE).min()
    }

    pub fn give_up(&mut self, now: Instant) {
        for asker in &mut self.askers {
            asker.take_if(|asker| now >= asker.at + PATIENCE);
        }
    }

    pub fn close(&mut self, place: usize) {
        self.askers[place] = None;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Not allowed any more if privileges were dropped; then the next daemon replaces it.
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

impl Asker {
    fn new(stream: UnixStream) -> Asker {
        Asker {
            stream,
            request: heapless::Vec::new(),
            list: None,
            asked: false,
            page: Page::new(),
            sent: 0,
            at: Instant::now(),
        }
    }

    fn hear(&mut self, pep: &Pep, samples: &Samples) -> Next {
        let mut bytes = [0; REQUEST_LEN];
        let room = self.request.capacity() - self.request.len();
        match self.stream.read(&mut bytes[..room]) {
            Ok(read) if read > 0 => {
                self.at = Instant::now();
                let _ = self.request.extend_from_slice(&bytes[..read]);
            }
            Err(error) if waits(&error) => return Next::Wait,
            _ => return Next::End,
        }
        let Some(end) = self.request.iter().position(|&byte| byte == b'\n') else {
            return if self.request.is_full() { Next::End } else { Next::Wait };
        };
        match Request::parse(&self.request[..end]) {
            Some(Request::Status(format)) => report::status(&mut self.page, pep, samples, format),
            Some(Request::Connections(format)) => {
                connections::begin(&mut self.page, pep, format);
                self.list = Some(List { format, next_slot: 0, any: false });
            }
            Some(Request::TakeOver) if handover::may_take_over(&self.stream) => return Next::HandOver,
            Some(Request::TakeOver) => {
                self.page.text("only root and the daemon's own user may take over\n");
            }
            None => {
                self.page.text("pepsal does not know this request\n");
            }
        }
        self.asked = true;
        Next::Answer
    }

    fn send(&mut self, pep: &Pep, looks: &mut Looks) -> Next {
        if self.sent == self.page.bytes().len() {
            self.page.clear();
            self.sent = 0;
        }
        self.fill(pep, looks);
        match self.stream.write(&self.page.bytes()[self.sent..]) {
            Ok(sent) => {
                self.sent += sent;
                self.at = Instant::now();
            }
            Err(error) if waits(&error) => return Next::Wait,
            Err(_) => return Next::End,
        }
        let all = self.sent == self.page.bytes().len() && self.list.is_none();
        if all { Next::End } else { Next::Wait }
    }

    /// Adds connections to the page as long as there is room.
    fn fill(&mut self, pep: &Pep, looks: &mut Looks) {
        let Some(list) = &mut self.list else {
            return;
        };
        while self.page.room() >= connections::LONGEST {
            match looks.at(&pep.slots, list.next_slot) {
                Some(seen) => {
                    connections::one(&mut self.page, pep, &seen, list.format, !list.any);
                    list.any = true;
                    list.next_slot = usize::from(seen.id.index) + 1;
                }
                None => {
                    connections::end(&mut self.page, list.format);
                    self.list = None;
                    return;
                }
            }
        }
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_requests_are_answered() {
        assert_eq!(Request::parse(b"status json"), Some(Request::Status(report::Format::Json)));
        for bad in [&b""[..], b"status", b"status json ", b"STATUS JSON", b"\xff\x00", b"connections"] {
            assert_eq!(Request::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
        let directory = std::env::temp_dir().join(format!("pepsal-control-{}", std::process::id()));
        let path = directory.join("control");
        let path = path.to_str().unwrap();
        let living = Control::listen(path).unwrap();
        let refused = Control::listen(path).err().unwrap().to_string();
        assert!(refused.contains("address already in use") && refused.contains("--control"), "{refused}");

        drop(living);
        // As SIGKILL leaves it.
        drop(UnixListener::bind(path).unwrap());
        drop(Control::listen(path).unwrap());
        assert!(!Path::new(path).exists());
        let _ = fs::remove_dir_all(&directory);
    }
}
