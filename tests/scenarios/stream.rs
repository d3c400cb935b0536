//! Bytes that the receiver knows in advance, and the ways in which a stream of them can end.
//!
//! The stream of seed s is one random block repeated for ever, begun at a place that s chooses. The length of
//! the block is prime, so that lost, doubled or swapped pieces of any usual buffer size shift the stream against
//! itself, and comparing costs one memcmp: a debug build of this must not be slower than the proxy.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;

/// The largest prime below 2^20.
const PERIOD: usize = 1_048_573;
/// Bytes per read or write.
const STEP: usize = 256 << 10;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// xorshift64: random enough to tell one place of a stream from another.
pub struct Random(u64);

impl Random {
    pub fn seeded(seed: u64) -> Random {
        // An odd multiplier spreads small seeds; the state must not be 0.
        Random(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}

fn block() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let mut random = Random::seeded(0);
        let mut block: Vec<u8> = Vec::with_capacity(PERIOD + STEP + 8);
        while block.len() < PERIOD {
            block.extend_from_slice(&random.next().to_le_bytes());
        }
        block.truncate(PERIOD);
        block.extend_from_within(..STEP);
        block
    })
}

/// Up to STEP bytes of the stream of `seed` from `position` on, and never beyond `end`.
fn piece(seed: u64, position: u64, end: u64) -> &'static [u8] {
    let start = (position % PERIOD as u64 + seed % PERIOD as u64 * 7919 % PERIOD as u64) % PERIOD as u64;
    let start = usize::try_from(start).expect("below PERIOD");
    let length = usize::try_from((end - position).min(STEP as u64)).expect("at most STEP");
    &block()[start..start + length]
}

/// Sends the first `length` bytes of the stream of `seed`.
pub fn send(to: &TcpStream, seed: u64, length: u64) -> io::Result<()> {
    send_part(to, seed, 0, length)
}

pub fn send_part(mut to: &TcpStream, seed: u64, from: u64, end: u64) -> io::Result<()> {
    let mut position = from;
    while position < end {
        match to.write(piece(seed, position, end)) {
            Ok(count) => position += count as u64,
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) => {
                return Err(io::Error::new(err.kind(), format!("after sending {position} bytes: {err}")));
            }
        }
    }
    Ok(())
}

/// How a stream of bytes ended, every byte of it having been the right one.
#[derive(Debug, PartialEq, Clone, Copy)]
pub enum End {
    /// The length asked for was received; there may be more.
    Full,
    Fin,
    Reset,
}

/// Receives up to `length` bytes of the stream of `seed`. Any wrong byte, and any error but a reset (as a
/// timeout), is a panic that tells where.
pub fn receive_some(mut from: &TcpStream, seed: u64, start: u64, length: u64) -> (u64, End) {
    let mut buffer = vec![0; STEP];
    let mut position = start;
    while position < length {
        let want = piece(seed, position, length);
        match from.read(&mut buffer[..want.len()]) {
            Ok(0) => return (position, End::Fin),
            Ok(count) => {
                if buffer[..count] != want[..count] {
                    let wrong = (0..count).find(|&at| buffer[at] != want[at]).expect("they differ");
                    panic!("byte {} of {length} is wrong", position + wrong as u64);
                }
                position += count as u64;
            }
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) if err.kind() == ErrorKind::ConnectionReset => return (position, End::Reset),
            Err(err) => panic!("after receiving {position} bytes of {length}: {err}"),
        }
    }
    (position, End::Full)
}

/// Receives exactly the first `length` bytes of the stream of `seed`.
pub fn receive(from: &TcpStream, seed: u64, length: u64) {
    let (got, end) = receive_some(from, seed, 0, length);
    assert!(end == End::Full, "{end:?} after {got} bytes of {length}");
}

/// Receives nothing more, but the end.
pub fn end(mut from: &TcpStream) -> End {
    loop {
        match from.read(&mut [0; 1]) {
            Ok(0) => return End::Fin,
            Ok(_) => panic!("a byte beyond the end of the stream"),
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) if err.kind() == ErrorKind::ConnectionReset => return End::Reset,
            Err(err) => panic!("no end of the stream: {err}"),
        }
    }
}

/// Exactly `length` bytes, then a clean end.
pub fn receive_all(from: &TcpStream, seed: u64, length: u64) {
    receive(from, seed, length);
    assert_eq!(end(from), End::Fin, "at the end of {length} bytes");
}
