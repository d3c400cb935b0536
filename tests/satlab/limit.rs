// SPDX-License-Identifier: MIT OR Apache-2.0
//! The physical limit: what is left when the first byte leaves as soon as the path knows that there is a server, and
//! from then on the link carries nothing but this transfer, at its rate, without a gap.

/// Bytes of IPv4 packets on the link for each segment, and of the stream in them (TCP with time stamps).
const PACKET: f64 = 1500.0;
const PAYLOAD: f64 = 1448.0;

/// Seconds that `bytes` of a stream occupy a link, headers included.
pub fn occupied(bytes: u64, mbit: f64) -> f64 {
    let bytes = bytes as f64;
    (bytes + (bytes / PAYLOAD).ceil() * (PACKET - PAYLOAD)) * 8.0 / (mbit * 1e6)
}

/// connect() takes a round trip, the last byte half of one.
pub fn upload(bytes: u64, up: f64, rtt: f64) -> f64 {
    1.5 * rtt + occupied(bytes, up)
}

/// connect() takes a round trip, the order half of one, the last byte the other half.
pub fn download(bytes: u64, down: f64, rtt: f64) -> f64 {
    2.0 * rtt + occupied(bytes, down)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_the_round_trips_and_the_headers() {
        assert!((upload(10_000_000, 5.0, 0.6) - 17.475).abs() < 0.001);
        assert!((download(1448, 12.0, 0.1) - 0.201).abs() < 1e-9);
    }
}
