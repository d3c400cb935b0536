//! What client and server say to each other: a request of 16 bytes, then bytes that both know in advance.
//!
//! The content repeats with a prime period, so bytes that are lost, doubled or swapped shift it. Comparing the ends of
//! each piece that was read finds that and costs next to nothing; the count is compared besides ([`Request::Totals`]).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Bytes that are sent or received by one system call of an end host.
pub const STEP: usize = 256 * 1024;

/// A prime, so that a piece of any power of two is not a multiple.
const PERIOD: usize = 262_139;

/// Bytes compared at each end of a piece.
const PROBE: usize = 8;

pub const REQUEST_LEN: usize = 16;

/// No step of a measurement may take longer; a path that loses bytes shows by this.
pub const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Send back what comes.
    Echo,
    /// Read until the end, then close.
    Sink,
    /// Send for this many milliseconds, then end.
    Source(u64),
    /// Tell how many bytes were read for `Sink` and sent for `Source`, since the start.
    Totals,
}

impl Request {
    pub fn encode(self) -> [u8; REQUEST_LEN] {
        let (kind, argument) = match self {
            Request::Echo => (1u64, 0u64),
            Request::Sink => (2, 0),
            Request::Source(ms) => (3, ms),
            Request::Totals => (4, 0),
        };
        let mut bytes = [0; REQUEST_LEN];
        bytes[..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&argument.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; REQUEST_LEN]) -> Option<Request> {
        match (word(&bytes[..8]), word(&bytes[8..])) {
            (1, 0) => Some(Request::Echo),
            (2, 0) => Some(Request::Sink),
            (3, ms) => Some(Request::Source(ms)),
            (4, 0) => Some(Request::Totals),
            _ => None,
        }
    }
}

pub fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// The bytes of every stream.
pub struct Content(Vec<u8>);

impl Content {
    pub fn new() -> Content {
        // Xorshift (Marsaglia 2003); any stream without short repetitions will do.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut bytes: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        for at in 0..STEP {
            bytes.push(bytes[at]);
        }
        Content(bytes)
    }

    /// [`STEP`] bytes of a stream, beginning at position `at`.
    pub fn at(&self, at: u64) -> &[u8] {
        let begin = (at % PERIOD as u64) as usize;
        &self.0[begin..begin + STEP]
    }

    /// Whether a piece read at position `at`, of at most [`STEP`] bytes, begins and ends as it should.
    pub fn agrees(&self, at: u64, piece: &[u8]) -> bool {
        let should = &self.at(at)[..piece.len()];
        let probe = piece.len().min(PROBE);
        let tail = piece.len() - probe;
        piece[..probe] == should[..probe] && piece[tail..] == should[tail..]
    }
}

/// A connection that is up, with its request sent. Blocking.
pub fn open(server: SocketAddr, request: Request) -> Result<TcpStream, String> {
    let begin = || {
        let mut socket = TcpStream::connect_timeout(&server, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(&request.encode())?;
        Ok(socket)
    };
    begin().map_err(|error: io::Error| format!("cannot open a connection to {server}: {error}"))
}

/// Bytes that the server has read and sent for bulk flows since its start.
pub fn totals(server: SocketAddr) -> Result<[u64; 2], String> {
    let mut answer = [0; 16];
    open(server, Request::Totals)?
        .read_exact(&mut answer)
        .map_err(|error| format!("cannot read the server's totals: {error}"))?;
    Ok([word(&answer[..8]), word(&answer[8..])])
}

/// Room for `wanted` descriptors in this process.
pub fn raise_descriptor_limit(wanted: u64) -> Result<(), String> {
    let raise = || {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        if soft < wanted { setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)) } else { Ok(()) }
    };
    raise().map_err(|error: Errno| format!("cannot open {wanted} files: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire() {
        for request in [Request::Echo, Request::Sink, Request::Source(2500), Request::Totals] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        assert_eq!(Request::decode(&[0; REQUEST_LEN]), None);
    }

    #[test]
    fn a_shift_is_found_at_any_place() {
        let content = Content::new();
        for at in [0, 1, PERIOD as u64 - 1, 10_000_019] {
            let piece = content.at(at);
            assert!(content.agrees(at, piece));
            assert!(content.agrees(at, &piece[..1]));
            assert!(!content.agrees(at + 1, &piece[..1000]));
            assert!(!content.agrees(at + 65_536, &piece[..1000]));
        }
    }
}
