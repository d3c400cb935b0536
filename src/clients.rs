//! `--per-client`: which client each slot in use is for, so that one host cannot take all of them.
//!
//! Part of `slots`, changed and read by any worker without a lock. Nothing is counted up and down: whoever claims a slot
//! notes its client there and then looks how many slots in use are noted for the same one, itself included. Of two that
//! claim at the same moment at least one sees the other, so there are never more than the limit.
//!
//! An IPv6 host has as many addresses as it likes, but all within one /64, which it may share with all the LAN. So an
//! address counts as a client, and a /64 as [`ADDRESSES`] of them.
#![forbid(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use crate::bitmap::Bitmap;

/// What an honest IPv6 host uses at a time: a lasting address, temporary ones of today and of yesterday (RFC 8981), and
/// one from DHCPv6.
const ADDRESSES: u32 = 4;

pub struct Clients {
    /// The most slots for each; `None`: any number, and nothing is noted.
    most: Option<u32>,
    /// For each slot hashes of the client's address and of its /64, for IPv4 of the address again.
    noted: Box<[[AtomicU32; 2]]>,
}

impl Clients {
    pub fn new(slots: usize, most: Option<u32>) -> Clients {
        let slots = if most.is_some() { slots } else { 0 };
        Clients { most, noted: (0..slots).map(|_| Default::default()).collect() }
    }

    /// Puts `index` into `busy`, however many slots its client has.
    pub fn note(&self, client: IpAddr, index: usize, busy: &Bitmap) {
        self.enter(client, index, busy);
    }

    /// With a limit: that, and the hashes that were noted.
    fn enter(&self, client: IpAddr, index: usize, busy: &Bitmap) -> Option<(u32, [u32; 2])> {
        let noted = self.most.map(|most| (most, hashes(client)));
        if let Some((_, hashes)) = noted {
            for (place, hash) in self.noted[index].iter().zip(hashes) {
                place.store(hash, Ordering::Relaxed);
            }
        }
        busy.insert(index);
        noted
    }

    /// Puts `index` into `busy`, unless that were more slots than its client may have.
    pub fn admit(&self, client: IpAddr, index: usize, busy: &Bitmap) -> bool {
        let Some((most, hashes)) = self.enter(client, index, busy) else {
            return true;
        };
        // Between the one's bit and the look at the other's, so that not both look too early.
        fence(Ordering::SeqCst);
        let mut found = [0; 2];
        for other in busy.iter() {
            for (at, hash) in hashes.into_iter().enumerate() {
                found[at] += u32::from(self.noted[other][at].load(Ordering::Relaxed) == hash);
            }
        }
        let admitted = found[0] <= most && found[1] <= most * ADDRESSES;
        if !admitted {
            busy.remove(index);
        }
        admitted
    }
}

fn hashes(client: IpAddr) -> [u32; 2] {
    let network = match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => IpAddr::from((u128::from(address) >> 64 << 64).to_be_bytes()),
    };
    [client, network].map(|ip| {
        let mut hasher = DefaultHasher::new();
        ip.hash(&mut hasher);
        hasher.finish() as u32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(most: Option<u32>, clients: &[&str]) -> Vec<bool> {
        let busy = Bitmap::new(100, false);
        let table = Clients::new(100, most);
        let admit = |(index, client): (usize, &&str)| table.admit(client.parse().unwrap(), index, &busy);
        let admitted: Vec<bool> = clients.iter().enumerate().map(admit).collect();
        let in_use = admitted.iter().filter(|&&it| it).count();
        assert_eq!(busy.iter().count(), in_use, "who is not admitted leaves nothing behind");
        admitted
    }

    #[test]
    fn each_client_has_its_own() {
        let [a, b] = ["10.0.0.1", "10.0.0.2"];
        assert_eq!(admitted(Some(2), &[a, a, b, a, b, b]), [true, true, true, false, true, false]);
        assert_eq!(admitted(None, &[a; 100]), [true; 100]);
    }

    #[test]
    fn one_comes_back_for_one_that_goes() {
        let busy = Bitmap::new(8, false);
        let table = Clients::new(8, Some(1));
        let client = IpAddr::from([10, 0, 0, 1]);
        for _ in 0..3 {
            assert!(table.admit(client, 0, &busy) && !table.admit(client, 1, &busy));
            busy.remove(0);
        }
    }

    #[test]
    fn many_addresses_of_one_host_are_no_way_around_it() {
        let addresses: Vec<String> = (0..20).map(|at| format!("fd00::1:{at}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        assert_eq!(admitted(Some(2), &addresses).iter().filter(|&&it| it).count(), 8);
        let elsewhere = ["fd00::1", "fd00::1", "fd00::1", "fd00::2", "fd00:0:0:1::1"];
        assert_eq!(admitted(Some(2), &elsewhere), [true, true, false, true, true]);
    }

    #[test]
    fn never_more_however_many_ask_at_once() {
        let busy = Bitmap::new(64, false);
        let table = Clients::new(64, Some(3));
        let client = IpAddr::from([10, 0, 0, 1]);
        for _ in 0..200 {
            std::thread::scope(|scope| {
                for index in 0..4 {
                    let (table, busy) = (&table, &busy);
                    scope.spawn(move || table.admit(client, index * 16, busy));
                }
            });
            assert!(busy.iter().count() <= 3);
            (0..64).for_each(|index| busy.remove(index));
        }
    }
}
