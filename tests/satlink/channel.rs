//! Owns one direction of the emulated link: its rate, delay, queue, losses, the packets under way and the counts.
//!
//! The model is a drop-tail queue in front of a serializer in front of a pure delay:
//! departure = max(now, end of the packet before) + size / rate; arrival = departure + delay.
//!
//! Invariants:
//! - Packets arrive in the order in which they were admitted: the delay is the same for all.
//! - A packet lost in the air has used its air time; one dropped at the queue has not, and has no number.
//! - Nothing is allocated after `Channel::new`: `index` never exceeds its capacity, packets lie in `store`.

use crate::splitmix;
use std::collections::VecDeque;

/// Room kept for one packet: the MTU is 1500, and a tun device without offloads never yields more.
const PACKET_ROOM: usize = 2048;
/// The smallest TCP/IPv4 packet; bounds how many packets a byte limit can mean.
const SMALLEST_PACKET: u64 = 40;
/// How late the emulator may be run by the kernel before the store overflows; ns.
const SLACK: u64 = 200_000_000;

pub struct Properties {
    pub delay_ns: u64,
    pub bits_per_second: u64,
    pub queue_bytes: u64,
    /// Probability of losing a packet, 0 to 1.
    pub loss: f64,
    pub seed: u64,
}

#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// What came in, in packets and bytes, whatever became of it.
    pub packets: u64,
    pub bytes: u64,
    pub lost: u64,
    pub overflowed: u64,
    /// Refused by the kernel on arrival (device down); not a property of the link, must be 0.
    pub refused: u64,
    /// The worst that a packet was behind its schedule: the emulator's own error.
    pub late_ns: u64,
}

struct Packet {
    arrival_ns: u64,
    offset: usize,
    len: usize,
}

pub struct Channel {
    properties: Properties,
    /// When the serializer will have sent all it holds.
    idle_at_ns: u64,
    /// Packets sent into the air: the number of the next one in the sequence of losses.
    sent: u64,
    counts: Counts,
    store: Box<[u8]>,
    /// Where the next packet is to be written.
    tail: usize,
    index: VecDeque<Packet>,
}

impl Channel {
    pub fn new(properties: Properties) -> Self {
        let in_flight = bytes_in(properties.bits_per_second, properties.delay_ns + SLACK);
        let bytes = properties.queue_bytes + in_flight;
        let room = bytes as usize + 4 * PACKET_ROOM;
        let packets = (bytes / SMALLEST_PACKET) as usize + 1;
        Self {
            properties,
            idle_at_ns: 0,
            sent: 0,
            counts: Counts::default(),
            store: vec![0; room].into(),
            tail: 0,
            index: VecDeque::with_capacity(packets),
        }
    }

    /// Where the caller writes the packet that it passes to `admit`; none when more is under way than the link holds,
    /// which only a stalled emulator or a flood of empty packets can cause.
    pub fn room(&mut self) -> Option<&mut [u8]> {
        if self.index.len() == self.index.capacity() {
            return None;
        }
        let start = match self.index.front() {
            None => 0,
            Some(oldest) if self.tail > oldest.offset => {
                if self.store.len() - self.tail >= PACKET_ROOM {
                    self.tail
                } else if oldest.offset >= PACKET_ROOM {
                    0
                } else {
                    return None;
                }
            }
            Some(oldest) if oldest.offset - self.tail >= PACKET_ROOM => self.tail,
            Some(_) => return None,
        };
        self.tail = start;
        Some(&mut self.store[start..start + PACKET_ROOM])
    }

    /// Takes the packet of `len` bytes that was written to `room()` just before.
    pub fn admit(&mut self, len: usize, now_ns: u64) {
        self.count_arrived(len);
        let backlog_ns = self.idle_at_ns.saturating_sub(now_ns);
        let waiting = bytes_in(self.properties.bits_per_second, backlog_ns);
        if waiting > 0 && waiting + len as u64 > self.properties.queue_bytes {
            self.counts.overflowed += 1;
            return;
        }
        let air_time = len as u64 * 8 * 1_000_000_000 / self.properties.bits_per_second;
        self.idle_at_ns = self.idle_at_ns.max(now_ns) + air_time;
        let lost = self.is_lost(self.sent);
        self.sent += 1;
        if lost {
            self.counts.lost += 1;
            return;
        }
        self.index.push_back(Packet {
            arrival_ns: self.idle_at_ns + self.properties.delay_ns,
            offset: self.tail,
            len,
        });
        self.tail += len;
    }

    /// Counts a packet for which there was no `room()`.
    pub fn overflow(&mut self, len: usize) {
        self.count_arrived(len);
        self.counts.overflowed += 1;
    }

    /// Hands every packet due at `now_ns` to `write`, which says whether the kernel took it.
    pub fn deliver(&mut self, now_ns: u64, mut write: impl FnMut(&[u8]) -> bool) {
        while let Some(due) = self.index.front().filter(|packet| packet.arrival_ns <= now_ns) {
            if !write(&self.store[due.offset..due.offset + due.len]) {
                self.counts.refused += 1;
            }
            self.counts.late_ns = self.counts.late_ns.max(now_ns - due.arrival_ns);
            self.index.pop_front();
        }
    }

    pub fn next_arrival_ns(&self) -> Option<u64> {
        self.index.front().map(|packet| packet.arrival_ns)
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn count_arrived(&mut self, len: usize) {
        self.counts.packets += 1;
        self.counts.bytes += len as u64;
    }

    fn is_lost(&self, n: u64) -> bool {
        // 53 bits are what a double holds exactly.
        let uniform = (splitmix::number(self.properties.seed, n) >> 11) as f64 / (1u64 << 53) as f64;
        uniform < self.properties.loss
    }
}

/// How many bytes `bits_per_second` carries in `ns`.
fn bytes_in(bits_per_second: u64, ns: u64) -> u64 {
    (u128::from(bits_per_second) * u128::from(ns) / 8_000_000_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn channel(loss: f64) -> Channel {
        Channel::new(Properties {
            delay_ns: 300 * MS,
            bits_per_second: 12_000_000,
            queue_bytes: 15_000,
            loss,
            seed: 1,
        })
    }

    fn push(channel: &mut Channel, mark: u8, len: usize, now_ns: u64) {
        channel.room().expect("there is room")[..len].fill(mark);
        channel.admit(len, now_ns);
    }

    /// 1500 bytes at 12 Mbit/s take 1 ms.
    #[test]
    fn a_packet_arrives_after_air_time_and_delay() {
        let mut channel = channel(0.0);
        push(&mut channel, 1, 1500, 5 * MS);
        push(&mut channel, 2, 1500, 5 * MS);
        assert_eq!(channel.next_arrival_ns(), Some(306 * MS));
        let mut seen = Vec::new();
        channel.deliver(306 * MS - 1, |_| panic!("too early"));
        channel.deliver(306 * MS, |packet| {
            seen.extend_from_slice(packet);
            true
        });
        assert_eq!(seen, vec![1; 1500]);
        assert_eq!(channel.next_arrival_ns(), Some(307 * MS));
    }

    #[test]
    fn the_queue_drops_at_its_limit_and_drains_at_the_rate() {
        let mut channel = channel(0.0);
        for _ in 0..12 {
            push(&mut channel, 0, 1500, 0);
        }
        assert_eq!(channel.counts.overflowed, 2);
        push(&mut channel, 0, 1500, MS);
        assert_eq!(channel.counts.overflowed, 2);
    }

    #[test]
    fn losses_come_at_the_asked_rate_and_repeat() {
        let mut fates: [Vec<u64>; 2] = Default::default();
        for fate in &mut fates {
            let mut channel = channel(0.01);
            let mut now = 0;
            for n in 0..100_000 {
                now += MS;
                let before = channel.counts.lost;
                push(&mut channel, 0, 1000, now);
                if channel.counts.lost > before {
                    fate.push(n);
                }
                channel.deliver(now, |_| true);
            }
        }
        assert_eq!(fates[0], fates[1]);
        assert!((900..1100).contains(&fates[0].len()), "{}", fates[0].len());
    }

    /// Sizes that never divide the store, through many turns of the ring.
    #[test]
    fn the_ring_keeps_every_packet_whole() {
        let mut channel = channel(0.0);
        let mut expected = VecDeque::new();
        let mut now = 0;
        for n in 0..20_000usize {
            let len = 40 + n * 37 % 1461;
            push(&mut channel, n as u8, len, now);
            expected.push_back((n as u8, len));
            now += MS;
            channel.deliver(now, |packet| {
                let (mark, len) = expected.pop_front().expect("a packet was due");
                assert_eq!(packet, vec![mark; len]);
                true
            });
        }
        assert!(expected.len() < 310, "{}", expected.len());
        assert_eq!(channel.counts.overflowed, 0);
    }
}
