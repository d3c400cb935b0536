//! Owns the bytes of a transfer: writes the seeded stream, and reads it comparing every byte, its length and its end.
//!
//! Invariant: `receive` succeeds only if exactly `size` bytes came, each the right one, and then a FIN.

use crate::series::Series;
use crate::splitmix;
use nix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;

const STEP: usize = 64 * 1024;

/// Nanoseconds of the monotonic clock, which both ends share because they run on one machine.
pub fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has a monotonic clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

pub fn send(socket: &mut impl Write, seed: u64, size: u64) -> Result<(), String> {
    let mut bytes = vec![0; STEP];
    let mut sent = 0;
    while sent < size {
        let len = STEP.min((size - sent) as usize);
        splitmix::fill(seed, sent, &mut bytes[..len]);
        socket
            .write_all(&bytes[..len])
            .map_err(|error| format!("cannot send after {sent} of {size} bytes: {}", reason(&error)))?;
        sent += len as u64;
    }
    Ok(())
}

/// Reads and checks the whole stream; `progress` always holds the percentage received, as three digits.
pub fn receive(
    socket: &mut impl Read,
    seed: u64,
    size: u64,
    start_ns: u64,
    progress: Option<&File>,
) -> Result<Series, String> {
    let mut series = Series::default();
    let mut bytes = vec![0; STEP];
    let mut expected = vec![0; STEP];
    let mut received = 0;
    let mut shown = None;
    loop {
        let len = match socket.read(&mut bytes) {
            Ok(0) if received == size => return Ok(series),
            Ok(0) => return Err(format!("the stream ended after {received} of {size} bytes")),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(format!("cannot receive after {received} of {size} bytes: {}", reason(&error)));
            }
        };
        splitmix::fill(seed, received, &mut expected[..len]);
        if bytes[..len] != expected[..len] {
            let wrong = bytes.iter().zip(&expected).take_while(|(is, should)| is == should).count();
            return Err(format!("byte {} is wrong", received + wrong as u64));
        }
        received += len as u64;
        if received > size {
            return Err(format!("more than {size} bytes came"));
        }
        series.add(monotonic_ns().saturating_sub(start_ns), len as u64);
        let percent = received * 100 / size;
        if let Some(file) = progress.filter(|_| shown != Some(percent)) {
            // A progress display that cannot be written is no reason to fail a transfer.
            let _ = file.write_all_at(format!("{percent:3}\n").as_bytes(), 0);
            shown = Some(percent);
        }
    }
}

/// A socket timeout reports itself as "resource temporarily unavailable", which tells nobody anything.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock => String::from("no progress for too long"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(seed: u64, size: u64) -> Vec<u8> {
        let mut wire = Vec::new();
        send(&mut wire, seed, size).expect("a Vec takes all");
        wire
    }

    fn receive_from(wire: &[u8], size: u64) -> Result<Series, String> {
        receive(&mut &wire[..], 3, size, monotonic_ns(), None)
    }

    #[test]
    fn the_right_stream_passes() {
        let size = 200_001;
        let series = receive_from(&sent(3, size), size).expect("nothing was changed");
        assert_eq!(series.buckets.iter().sum::<u64>(), size);
        assert!(receive_from(&[], 0).is_ok());
    }

    #[test]
    fn any_flaw_is_found() {
        let size = 200_001;
        let right = sent(3, size);
        for at in [0, 7, 65_536, 200_000] {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            assert_eq!(receive_from(&wrong, size), Err(format!("byte {at} is wrong")));
        }
        assert!(receive_from(&right[..200_000], size).is_err());
        assert!(receive_from(&right, size - 1).is_err());
        assert!(receive_from(&sent(4, size), size).is_err());
    }
}
