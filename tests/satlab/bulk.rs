// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bulk transfers: one that is timed, four that share the link.

use crate::traffic::{Call, Ends, Result};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// Prints the time from connect() until the receiver has read the last byte, whichever end that is.
pub fn bulk(ends: &Ends, way: &str, bytes: u64) -> Result<()> {
    let (up, down) = sizes(way, bytes)?;
    let start = Instant::now();
    let mut call = Call::connect(ends.to, 0)?;
    let mut last = call.order(up, down, ends.log)?;
    call.close()?;
    if up > 0 {
        let uploaded = ends.uploaded.lock().expect("no thread panics");
        last = *uploaded.last().ok_or("the server closed before it had all bytes")?;
    }
    println!("seconds {:.4}", last.duration_since(start).as_secs_f64());
    Ok(())
}

fn sizes(way: &str, bytes: u64) -> Result<(u64, u64)> {
    match way {
        "up" => Ok((bytes, 0)),
        "down" => Ok((0, bytes)),
        _ => Err(format!("'{way}' is neither up nor down")),
    }
}

/// From when on the shares count.
const SETTLED: Duration = Duration::from_secs(10);
/// The flows begin one after the other, as users do.
const APART: Duration = Duration::from_millis(500);

/// Four flows with endless data. Prints Jain's index of what their receivers got from 10 s on, and how much that was.
pub fn four(ends: &Ends, way: &str, duration: Duration) -> Result<()> {
    let (up, down) = sizes(way, 1 << 40)?;
    let start = Instant::now();
    for flow in 0..4 {
        let (to, log) = (ends.to, ends.log);
        thread::spawn(move || {
            thread::sleep(APART * flow);
            let done = Call::connect(to, flow.into()).and_then(|mut call| call.order(up, down, log));
            if let Err(why) = done {
                eprintln!("satlab: flow {flow}: {why}");
            }
        });
    }
    let counts = || -> Vec<u64> { ends.log.flows.iter().map(|count| count.load(Relaxed)).collect() };
    thread::sleep(SETTLED);
    let before = counts();
    thread::sleep(duration.saturating_sub(start.elapsed()));
    let window = (start.elapsed() - SETTLED).as_secs_f64();
    let shares: Vec<f64> =
        counts().iter().zip(before).map(|(after, before)| (after - before) as f64).collect();
    let mbit = shares.iter().sum::<f64>() * 8.0 / window / 1e6;
    println!("jain {:.4}\nmbit {mbit:.3}", jain(&shares));
    Ok(())
}

/// 1 when all have the same, 1/n when one has all.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

#[cfg(test)]
mod tests {
    use super::jain;

    #[test]
    fn jains_index_knows_its_ends() {
        assert_eq!(jain(&[3.0; 4]), 1.0);
        assert_eq!(jain(&[5.0, 0.0, 0.0, 0.0]), 0.25);
    }
}
