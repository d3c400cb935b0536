//! The pipes that splice needs, and a worker's stock of them.
//!
//! Owned by one worker. A flow takes a pipe only while the pipe holds bytes that the sink has not taken; an
//! idle connection holds none. Pipes are made when first needed and kept; the stock has a limit, past which
//! the relay copies without holding anything.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use heapless::Vec;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::{pipe2, write};

/// The most pipes of one worker. Each costs two descriptors.
pub const MAX_PIPES: usize = 64;

/// Bytes that a pipe is asked to hold; fcntl(2) F_SETPIPE_SZ. Past the quota of pipe(7) it stays at less.
const WANTED_CAPACITY: usize = 256 * 1024;

/// A smaller pipe is no use: it could not keep what the copying path has read. Past the quota the kernel
/// makes pipes of one or two pages.
pub const MIN_CAPACITY: usize = 16 * 1024;

pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    capacity: usize,
    held: usize,
}

impl Pipe {
    fn new() -> Result<Pipe, Errno> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let wanted = FcntlArg::F_SETPIPE_SZ(WANTED_CAPACITY as i32);
        let got = fcntl(&writer, wanted).or_else(|_| fcntl(&writer, FcntlArg::F_GETPIPE_SZ))?;
        let capacity = usize::try_from(got).map_err(|_| Errno::EINVAL)?;
        if capacity < MIN_CAPACITY {
            return Err(Errno::EPERM);
        }
        Ok(Pipe { reader, writer, capacity, held: 0 })
    }

    /// One that another daemon has made, which holds `held` bytes.
    pub fn taken([reader, writer]: [OwnedFd; 2], capacity: usize, held: usize) -> Pipe {
        Pipe { reader, writer, capacity, held }
    }

    pub fn ends(&self) -> [&OwnedFd; 2] {
        [&self.reader, &self.writer]
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn held(&self) -> usize {
        self.held
    }

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what `source` has into the empty pipe; the bytes moved, 0 at its end.
    pub fn fill_from(&mut self, source: impl AsFd) -> Result<usize, Errno> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        let moved = splice(source, None, &self.writer, None, self.capacity, flags)?;
        self.held += moved;
        Ok(moved)
    }

    /// Puts bytes that were read already into the empty pipe.
    pub fn keep(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let written = write(&self.writer, bytes)?;
        self.held += written;
        // An empty pipe takes MIN_CAPACITY; a shorter write would lose bytes, so it ends the connection.
        if written == bytes.len() { Ok(()) } else { Err(Errno::EIO) }
    }

    /// Moves held bytes on to `sink`; the bytes moved.
    pub fn drain_into(&mut self, sink: impl AsFd) -> Result<usize, Errno> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        let moved = splice(&self.reader, None, sink, None, self.held, flags)?;
        self.held -= moved;
        Ok(moved)
    }
}

pub struct Pipes {
    idle: Vec<Pipe, MAX_PIPES>,
    made: usize,
    /// None are lent while memory is tight.
    pub closed: bool,
}

impl Pipes {
    /// `lent`: how many of this worker's pipes are in flows already.
    pub fn new(lent: usize) -> Pipes {
        Pipes { idle: Vec::new(), made: lent, closed: false }
    }

    /// An empty pipe; `None` when memory is tight, the limit is reached or the kernel has none to give.
    pub fn take(&mut self) -> Option<Pipe> {
        if self.closed {
            return None;
        }
        self.idle.pop().or_else(|| {
            let pipe = (self.made < MAX_PIPES).then(Pipe::new)?.ok()?;
            self.made += 1;
            Some(pipe)
        })
    }

    /// Back from a flow. One that still holds bytes of an ended connection is closed.
    pub fn give_back(&mut self, pipe: Pipe) {
        if !pipe.is_empty() || self.idle.push(pipe).is_err() {
            self.made -= 1;
        }
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pipe {} holds {}", self.reader.as_raw_fd(), self.held)
    }
}
