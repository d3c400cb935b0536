use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn handed() -> Handed {
    Handed {
        endpoints: Endpoints { client: address("192.0.2.1:40000"), server: address("[2001:db8::2]:443") },
        worker: 63,
        stage: HELD,
        age: 1,
        injected: 2,
        left: 3,
        packet_id: u32::MAX,
        syn: (0..160).collect(),
        legs: [
            HandedLeg { connected: true, ..HandedLeg::default() },
            HandedLeg { error: 105, unspliceable: true, syn_waits: true, connected: false },
        ],
        flows: [
            HandedFlow { bytes: u64::MAX, drained: true, ended: false, held: 1, capacity: 65_536 },
            HandedFlow { bytes: 1 << 33, drained: false, ended: true, held: 0, capacity: 0 },
        ],
        squeezed: true,
    }
}

fn offer() -> Offer {
    let figures = Offer { pid: 1, port: 65_535, queue: 3, workers: 64, used: 5, ..Offer::default() };
    Offer { ipv6: true, steals: true, device: Offer::name("pepsal0"), ..figures }
}

fn totals() -> Totals {
    let passed = Passed::ALL.map(|(why, _)| why as u32);
    Totals { counts: [1, 2, 3, 4, u32::MAX], passed, peak: 7, last_id: 8, bytes: [1 << 40, 9] }
}

#[test]
fn what_was_written_is_read_again() {
    assert_eq!(Handed::read(&mut handed().write()), Some(handed()));
    assert_eq!(Offer::read(&mut offer().write()), Some(offer()));
    assert_eq!(offer().device().as_str(), "pepsal0");
    assert_eq!(Totals::read(&mut totals().write()), Some(totals()));
    let mapped = Endpoints { client: address("[::ffff:1.2.3.4]:1"), server: address("1.2.3.4:0") };
    let handed = Handed { endpoints: mapped, ..Handed::default() };
    assert_eq!(Handed::read(&mut handed.clone().write()), Some(handed));
}

#[test]
fn no_record_is_taken_for_another_nor_for_one_of_another_release() {
    assert_eq!(Handed::read(&mut totals().write()), None);
    assert_eq!(Totals::read(&mut offer().write()), None);
    assert_eq!(Offer::read(&mut handed().write()), None);
    let mut newer = offer().write();
    newer[1] ^= 1;
    newer[2] ^= 1;
    assert_eq!(Offer::read(&mut newer), None);
    assert_eq!(Offer::read(&mut [0; LEN]), None);
    let mut text = [b' '; LEN];
    text[..34].copy_from_slice(b"pepsal does not know this request\n");
    assert_eq!(Offer::read(&mut text), None);
}

/// Whatever stands in a message, it is read as something or nothing.
#[test]
fn garbage_is_harmless() {
    let mut random = 1_u32;
    for _ in 0..2000 {
        for mut bytes in [handed().write(), offer().write(), totals().write()] {
            for _ in 0..20 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                bytes[(random >> 8) as usize % LEN] = random as u8;
            }
            // The SYN's length is one that a SYN can have, or the stage is none.
            if let Some(handed) = Handed::read(&mut bytes) {
                assert!(handed.syn.len() <= syn::MAX_LEN);
            }
            if let Some(offer) = Offer::read(&mut bytes) {
                assert!(offer.device().len() <= 16);
            }
            let _ = Totals::read(&mut bytes);
        }
    }
}

#[test]
fn a_syn_longer_than_can_be_is_no_connection() {
    let mut bytes = handed().write();
    // After the kind, two addresses and six numbers.
    let at = 4 + 2 * 21 + 6 * 4;
    assert_eq!(bytes[at..at + 4], 160_u32.to_ne_bytes());
    bytes[at..at + 4].copy_from_slice(&161_u32.to_ne_bytes());
    assert_eq!(Handed::read(&mut bytes).map(|handed| handed.stage), Some(0));
}
