// SPDX-License-Identifier: MIT OR Apache-2.0
//! A page as a browser fetches it: 60 small objects over 6 connections that are kept, one request at a time on each.

use crate::traffic::{Call, Ends, Result};
use crate::{limit, splitmix};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

pub const OBJECTS: usize = 60;
pub const CONNECTIONS: u64 = 6;
pub const REQUEST: u64 = 400;

/// From 1 to 40 kB, the same in every run.
pub fn object(n: usize) -> u64 {
    1_000 + splitmix::number(60, n as u64) % 39_000
}

/// Prints the time from the first connect() until the last byte of the last object.
pub fn page(ends: &Ends) -> Result<()> {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let fetch = &|flow| -> Result<Instant> {
        let mut call = Call::connect(ends.to, flow)?;
        let mut last = Instant::now();
        loop {
            let n = next.fetch_add(1, Relaxed);
            if n >= OBJECTS {
                call.close()?;
                return Ok(last);
            }
            last = call.order(REQUEST, object(n), ends.log)?;
        }
    };
    let last = thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS).map(|flow| scope.spawn(move || fetch(flow))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect::<Result<Vec<_>>>()
    })?;
    let last = last.into_iter().max().expect("six connections");
    println!("seconds {:.4}", last.duration_since(start).as_secs_f64());
    Ok(())
}

/// Each of the connections takes a round trip to be there and one for each of its objects, and the link carries all
/// objects: no connection can be faster than their average, nor all together faster than the link.
pub fn limit(down: f64, rtt: f64) -> f64 {
    let all: f64 = (0..OBJECTS).map(|n| limit::occupied(object(n), down)).sum();
    let connections = CONNECTIONS as f64;
    let average = rtt + (OBJECTS as f64 * rtt + all) / connections;
    average.max(2.0 * rtt + all)
}
