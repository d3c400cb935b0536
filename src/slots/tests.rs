use std::fs::File;
use std::time::Duration;

use super::*;

fn endpoints(client: &str, server: &str) -> Endpoints {
    Endpoints { client: client.parse().unwrap(), server: server.parse().unwrap() }
}

fn socket() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn inject(slots: &Slots, endpoints: Endpoints, at: Instant) -> SlotId {
    let (id, mut slot) = slots.claim(endpoints).unwrap();
    slot.stage = Stage::Injected(Injected { at, written: true, server: Leg::new(socket()) });
    id
}

#[test]
fn capacity_is_a_hard_limit_and_every_slot_comes_back() {
    let slots = Slots::new(100, None);
    for _ in 0..3 {
        let ids: Vec<SlotId, 100> = (0..100)
            .map(|port| slots.claim(endpoints(&format!("10.0.0.1:{port}"), "10.0.0.2:80")).unwrap().0)
            .collect();
        assert_eq!(slots.used(), 100);
        assert_eq!(slots.claim(endpoints("10.0.0.1:100", "10.0.0.2:80")).err(), Some(Passed::Full));
        for id in ids {
            let slot = slots.lock(id).unwrap();
            slots.release(id, slot);
        }
        assert_eq!(slots.used(), 0);
        assert_eq!(slots.in_use().count(), 0);
    }
}

#[test]
fn a_released_slot_is_not_found_by_its_old_name() {
    let slots = Slots::new(1, None);
    let pair = endpoints("10.0.0.1:1", "10.0.0.2:80");
    let old = inject(&slots, pair, Instant::now());
    slots.release(old, slots.lock(old).unwrap());
    assert!(slots.lock(old).is_none());
    assert!(slots.find_pending(&pair).is_none());
    let new = inject(&slots, pair, Instant::now());
    assert_eq!(new.index, old.index);
    assert!(slots.lock(old).is_none());
    assert!(slots.lock(new).is_some());
}

#[test]
fn a_repeated_syn_finds_its_slot_and_no_other_does() {
    let slots = Slots::new(8, None);
    let pair = endpoints("[fd00::1]:5", "[fd00::2]:80");
    let id = inject(&slots, pair, Instant::now());
    assert_eq!(slots.find_pending(&pair).unwrap().0, id);
    for other in [
        endpoints("[fd00::1]:6", "[fd00::2]:80"),
        endpoints("[fd00::1]:5", "[fd00::2]:81"),
        endpoints("[fd00::1]:5", "[fd00::3]:80"),
        endpoints("[fd00::4]:5", "[fd00::2]:80"),
    ] {
        assert!(slots.find_pending(&other).is_none(), "{other}");
    }
}

#[test]
fn the_same_client_port_to_two_servers_is_two_slots() {
    let slots = Slots::new(8, None);
    let now = Instant::now();
    let first = inject(&slots, endpoints("10.0.0.1:5", "10.0.0.2:80"), now);
    let second = inject(&slots, endpoints("10.0.0.1:5", "10.0.0.3:80"), now);
    assert_eq!(slots.take_injected(&endpoints("10.0.0.1:5", "10.0.0.3:80")).unwrap().0, second);
    // Netfilter has given this one another source port.
    assert_eq!(slots.take_injected(&endpoints("10.0.0.1:61001", "10.0.0.2:80")).unwrap().0, first);
}

#[test]
fn a_changed_port_takes_the_oldest_but_an_exact_match_wins() {
    let slots = Slots::new(8, None);
    let now = Instant::now();
    let server = "10.0.0.2:80";
    let young = inject(&slots, endpoints("10.0.0.1:1", server), now + Duration::from_millis(2));
    let old = inject(&slots, endpoints("10.0.0.1:2", server), now);
    let middle = inject(&slots, endpoints("10.0.0.1:3", server), now + Duration::from_millis(1));
    let take = |client| slots.take_injected(&endpoints(client, server)).map(|(id, _)| id);
    assert_eq!(take("10.0.0.1:3"), Some(middle));
    assert_eq!(take("10.0.0.1:9"), Some(old));
    assert_eq!(take("10.0.0.9:1"), None, "another client");
    assert_eq!(take("10.0.0.1:9"), Some(young));
    assert_eq!(take("10.0.0.1:9"), None, "each slot is taken once");
}

#[test]
fn a_held_syn_is_not_taken() {
    let slots = Slots::new(1, None);
    let pair = endpoints("10.0.0.1:1", "10.0.0.2:80");
    let (_, mut slot) = slots.claim(pair).unwrap();
    slot.stage = Stage::Held(Held { packet_id: 1, syn: Vec::new(), server: socket() });
    drop(slot);
    assert!(slots.take_injected(&pair).is_none());
    assert!(slots.find_pending(&pair).is_some());
}

#[test]
fn a_slot_costs_less_than_a_kilobyte() {
    assert!(size_of::<Mutex<Slot>>() <= 448, "{} bytes", size_of::<Mutex<Slot>>());
}

#[test]
fn an_accepted_connection_is_known_by_both_its_ends_for_some_time() {
    let slots = Slots::new(8, None);
    let [pair, other] = ["10.0.0.1:5", "10.0.0.1:6"].map(|client| endpoints(client, "10.0.0.2:80"));
    let minute = Duration::from_secs(60);
    let id = inject(&slots, pair, Instant::now());
    assert!(!slots.accepted_lately(&pair, minute), "it is pending still");
    drop(slots.take_injected(&pair).unwrap());
    assert!(slots.accepted_lately(&pair, minute));
    assert!(!slots.accepted_lately(&other, minute));
    assert!(!slots.accepted_lately(&pair, Duration::ZERO));
    slots.release(id, slots.lock(id).unwrap());
    assert!(!slots.accepted_lately(&pair, minute));
}
