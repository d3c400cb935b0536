use super::*;

/// An IPv4 SYN from 192.168.1.2:1025 to 203.0.113.9:443 with these TCP options (padded to four octets).
fn ipv4(options: &[u8]) -> Vec<u8> {
    let tcp = tcp(options);
    let total = (20 + tcp.len()) as u16;
    let mut packet = vec![0x45, 0xb8];
    packet.extend(total.to_be_bytes());
    packet.extend([0x12, 0x34, 0x40, 0, 64, TCP, 0, 0]);
    packet.extend([192, 168, 1, 2, 203, 0, 113, 9]);
    packet.extend(tcp);
    packet
}

/// An IPv6 SYN with traffic class 0xb9 and extension headers in front of TCP.
fn ipv6(extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (index, (_, body)) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).map_or(TCP, |(kind, _)| *kind);
        payload.extend([next, ((body.len() + 2) / 8 - 1) as u8]);
        payload.extend(*body);
    }
    payload.extend(tcp(&[]));
    let mut packet = vec![0x6b, 0x90, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([extensions.first().map_or(TCP, |(kind, _)| *kind), 64]);
    packet.extend("fd01::2".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend("2001:db8::9".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend(payload);
    packet
}

fn tcp(options: &[u8]) -> Vec<u8> {
    let words = 5 + options.len().div_ceil(4);
    let mut segment = vec![0x04, 0x01, 0x01, 0xbb, 1, 2, 3, 4, 0, 0, 0, 0, (words << 4) as u8, 0x02];
    segment.extend([0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.resize(4 * words, 0);
    segment
}

#[test]
fn ipv4_syn_names_both_ends_and_its_dscp() {
    let syn = parse(&ipv4(&[2, 4, 5, 0xb4])).unwrap();
    assert_eq!(syn.client, "192.168.1.2:1025".parse().unwrap());
    assert_eq!(syn.server, "203.0.113.9:443".parse().unwrap());
    assert_eq!(syn.dscp, 0xb8);
}

#[test]
fn ipv6_syn_is_found_behind_extension_headers() {
    for extensions in [
        &[][..],
        &[(HOP_BY_HOP, &[1, 4, 0, 0, 0, 0][..])],
        &[
            (HOP_BY_HOP, &[1, 4, 0, 0, 0, 0][..]),
            (DESTINATION_OPTIONS, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ],
    ] {
        let syn = parse(&ipv6(extensions)).unwrap();
        assert_eq!(syn.client, "[fd01::2]:1025".parse().unwrap());
        assert_eq!(syn.server, "[2001:db8::9]:443".parse().unwrap());
        assert_eq!(syn.dscp, 0xb8, "ECN bits are cleared");
    }
}

#[test]
fn unusual_headers_pass() {
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    for kind in [ROUTING, FRAGMENT, 51, 135] {
        assert_eq!(parse(&ipv6(&[(kind, &[0; 6])])), Err(Pass::Unusual));
    }
    let mut first_fragment = ipv4(&[]);
    first_fragment[6] = 0x20;
    assert_eq!(parse(&first_fragment), Err(Pass::Unusual));
    let mut later_fragment = ipv4(&[]);
    later_fragment[7] = 1;
    assert_eq!(parse(&later_fragment), Err(Pass::Unusual));
    let mut udp = ipv4(&[]);
    udp[9] = 17;
    assert_eq!(parse(&udp), Err(Pass::Unusual));
    let mut with_options = ipv4(&[]);
    with_options[0] = 0x46;
    assert_eq!(parse(&with_options), Err(Pass::Unusual));
}

#[test]
fn only_a_bare_syn_is_stolen() {
    for flags in 0..=0xff_u8 {
        let mut packet = ipv4(&[]);
        packet[33] = flags;
        let stolen = parse(&packet).is_ok();
        // CWR and ECE ask for ECN (RFC 3168), PSH and URG mean nothing here.
        assert_eq!(stolen, flags & 0x17 == 0x02, "flags {flags:#x}");
    }
}

#[test]
fn syn_with_data_passes() {
    let mut packet = ipv4(&[34, 2]);
    packet.extend([b'G', b'E']);
    packet[3] += 2;
    assert_eq!(parse(&packet), Err(Pass::CarriesData));
}

#[test]
fn bytes_behind_the_packet_are_not_data() {
    let mut padded = ipv4(&[]);
    padded.extend([0; 6]);
    assert!(parse(&padded).is_ok());
}

#[test]
fn signed_syn_passes_wherever_its_option_stands() {
    for kind in [19, 29] {
        let mut signature = vec![kind, 18];
        signature.extend([7; 16]);
        assert_eq!(parse(&ipv4(&signature)), Err(Pass::Signed));
        let mut later = vec![2, 4, 5, 0xb4, 1, 1];
        later.extend(&signature);
        assert_eq!(parse(&ipv4(&later)), Err(Pass::Signed));
    }
    // Behind the end of options there are none.
    assert!(parse(&ipv4(&[0, 19, 18, 0])).is_ok());
}

#[test]
fn options_of_every_length() {
    for kind in [2, 3, 4, 8, 34, 254] {
        for len in 0..=40_u8 {
            let mut options = vec![kind, len];
            options.resize(usize::from(len.max(2)), 0);
            let expected = if len < 2 { Err(Pass::Malformed) } else { Ok(()) };
            assert_eq!(parse(&ipv4(&options)).map(drop), expected, "kind {kind} length {len}");
            // The same option, saying that it reaches beyond the header.
            let room = 4 * options.len().div_ceil(4);
            options[1] = room as u8 + 1;
            assert_eq!(parse(&ipv4(&options)), Err(Pass::Malformed), "kind {kind} length {len}");
        }
    }
    assert_eq!(parse(&ipv4(&[1, 1, 1, 8])), Err(Pass::Malformed), "a kind without a length");
}

#[test]
fn every_truncation_is_malformed() {
    for packet in [ipv4(&[2, 4, 5, 0xb4]), ipv6(&[(HOP_BY_HOP, &[1, 4, 0, 0, 0, 0])])] {
        for len in 0..packet.len() {
            assert_eq!(parse(&packet[..len]), Err(Pass::Malformed), "{len} of {} octets", packet.len());
        }
    }
}

#[test]
fn lengths_that_contradict_each_other_are_malformed() {
    for (at, value) in [(3, 19), (3, 39), (2, 0xff), (32, 0x40), (32, 0xf0)] {
        let mut packet = ipv4(&[]);
        packet[at] = value;
        assert_eq!(parse(&packet), Err(Pass::Malformed), "octet {at} = {value}");
    }
    let mut version_5 = ipv4(&[]);
    version_5[0] = 0x55;
    assert_eq!(parse(&version_5), Err(Pass::Malformed));
}

#[test]
fn what_does_not_fit_a_slot_passes() {
    let long = [1, 92, 0, 0, 0, 0].iter().copied().chain(std::iter::repeat_n(0, 96)).collect::<Vec<u8>>();
    assert_eq!(parse(&ipv6(&[(DESTINATION_OPTIONS, &long)])), Err(Pass::TooLong));
}

/// Random octets, and real SYNs with some octets changed: nothing panics, and what is stolen is complete.
#[test]
fn no_input_panics() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let seeds = [ipv4(&[2, 4, 5, 0xb4, 1, 3, 3, 7]), ipv6(&[(HOP_BY_HOP, &[1, 4, 0, 0, 0, 0])])];
    for round in 0..200_000 {
        let mut packet = match round % 3 {
            0 => (0..random() % 256).map(|_| random() as u8).collect(),
            seed => seeds[seed - 1].clone(),
        };
        for _ in 0..random() % 4 {
            if !packet.is_empty() {
                let at = random() as usize % packet.len();
                packet[at] = random() as u8;
            }
        }
        if let Ok(syn) = parse(&packet) {
            assert_eq!(syn.client.is_ipv4(), syn.server.is_ipv4());
            assert_eq!(syn.dscp & 3, 0);
        }
    }
}
