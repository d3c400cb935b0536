//! What the fuzz targets call: readers of hostile or foreign bytes, and what has to hold of whatever they accept.
//!
//! A module of pepsal when it is built with `--cfg fuzzing`, as tests/fuzz/run.sh and cargo-fuzz do.
#![forbid(unsafe_code)]

use argh::FromArgs;

use crate::cli::{Arguments, Command, Format, Rules, one_line};
use crate::handover::record::{Handed, LEN, Offer, Record, Totals};
use crate::netlink::{Body, attributes, messages};
use crate::top::{Order, screenful};
use crate::{exclusions, netlink, queue, routes, rules, steering};

#[path = "control.rs"]
mod control;
pub use control::control;

/// A packet of which the firewall says that it is a SYN.
pub fn syn(packet: &[u8]) {
    let Ok(syn) = crate::syn::parse(packet) else { return };
    let ipv4 = packet[0] >> 4 == 4;
    let total = match ipv4 {
        true => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
        false => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
    };
    assert!(total <= crate::syn::MAX_LEN && total <= packet.len());
    assert_eq!((syn.client.is_ipv4(), syn.server.is_ipv4(), syn.dscp & 3), (ipv4, ipv4, 0));
    // What comes behind the packet is none of it, and no part of it is enough.
    assert_eq!(crate::syn::parse(&packet[..total]), Ok(syn));
    for length in 0..total {
        assert!(crate::syn::parse(&packet[..length]).is_err());
    }
    // On its way to the listener it stays what it is.
    let mut directed = packet[..total].to_vec();
    steering::direct(&mut directed, 63);
    assert_eq!(crate::syn::parse(&directed), Ok(syn));
    if ipv4 {
        let sum: u32 =
            directed[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the header's checksum");
        // Any other flag of the handshake makes it another segment.
        directed[33] |= 0x10;
        assert_eq!(crate::syn::parse(&directed), Err(crate::syn::Pass::NotSyn));
    }
}

/// A message at the queue's socket.
pub fn queue(message: &[u8]) {
    let Some(packet) = queue::read_packet(message) else { return };
    assert!(packet.bytes.len() <= packet.bytes.capacity() && packet.missed == 0);
    assert!(message.windows(4).any(|four| four == packet.id.to_be_bytes()));
    assert!(
        packet.bytes.is_empty() || message.windows(packet.bytes.len()).any(|part| part == &packet.bytes[..])
    );
    syn(&packet.bytes);
}

/// A message of a daemon that hands over, of whatever release.
pub fn handover(bytes: &[u8]) {
    fn read<R: Record + Clone + PartialEq + std::fmt::Debug>(message: &mut [u8; LEN]) {
        if let Some(record) = R::read(message) {
            assert_eq!(R::read(&mut record.clone().write()), Some(record));
        }
    }
    let mut message = [0; LEN];
    message.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    read::<Offer>(&mut message);
    read::<Handed>(&mut message);
    read::<Totals>(&mut message);
}

/// Answers of the kernel about routes, and what is made of them.
pub fn netlink(bytes: &[u8]) {
    let _ = exclusions::packets(bytes);
    let mut seen = 0;
    for (kind, _, body) in messages(bytes) {
        seen += 16 + body.len();
        assert!(seen <= bytes.len());
        let _ = netlink::verdict(body);
        let held: usize = attributes(body).map(|(_, value)| 4 + value.len()).sum();
        assert!(held <= body.len(), "attributes of message {kind}");
        for family in [libc::AF_INET, libc::AF_INET6] {
            if routes::is_route(body, family as u8) {
                route(body, family as u8);
            }
        }
    }
}

fn route(body: &[u8], family: u8) {
    const TABLE: u32 = 5001;
    let lasting = routes::lasting(body);
    assert_eq!(routes::lasting(lasting.bytes()), lasting, "nothing more is left out the second time");
    // The kernel refuses a message whose attributes do not fill it.
    let is_whole = |made: &Body| {
        let header = made.bytes().first_chunk::<12>().expect("a struct rtmsg");
        let lengths = attributes(&made.bytes()[12..]).map(|(_, value)| (4 + value.len()).next_multiple_of(4));
        assert_eq!(header.len() + lengths.sum::<usize>(), made.bytes().len(), "{made:?}");
    };
    let copy = routes::copy(lasting.bytes(), TABLE, 100);
    assert!(routes::is_route(copy.bytes(), family));
    for made in [&copy, &routes::throw(lasting.bytes(), TABLE)] {
        is_whole(made);
        assert_eq!(routes::table_of(made.bytes()), TABLE);
    }
    is_whole(&lasting);
    is_whole(&routes::deletion(body));
}

/// Arguments of a command line, one a line.
pub fn arguments(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let arguments: Vec<&str> = text.split('\n').collect();
    let complaint = match Arguments::from_args(&["pepsal"], &arguments) {
        Ok(Arguments { command: Some(Command::Rules(options)), .. }) => match rules::script_for(&options) {
            Ok(script) => return check(&script, &options),
            Err(error) => error.to_string(),
        },
        Ok(Arguments { command: Some(Command::Run(options)), .. }) => {
            assert!(options.port > 0 && (1..=crate::slots::MAX_SLOTS).contains(&options.max_conns));
            assert!(options.threads.is_none_or(|threads| (1..=64).contains(&threads)));
            assert!([options.rate_up, options.rate_down].into_iter().flatten().all(|rate| rate > 0));
            return check_device(&options.device);
        }
        Ok(_) => return,
        Err(exit) if exit.status.is_ok() => return,
        Err(exit) => one_line(&exit.output),
    };
    assert!(!complaint.is_empty());
}

fn check_device(name: &str) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@~".contains(&byte);
    assert!((1..16).contains(&name.len()) && name.bytes().all(plain), "{name:?}");
}

/// A script in which nothing stands that an argument has smuggled in: each line is one that pepsal writes, with addresses,
/// numbers and device names where they belong.
fn check(script: &str, options: &Rules) {
    check_device(&options.device);
    let is_plain = |byte: u8| byte.is_ascii_graphic() || b" \t\n".contains(&byte);
    assert!(script.bytes().all(is_plain) && script.ends_with('\n'), "{script}");
    let spoken = |ipv4: bool| match options.format {
        Format::Nft => true,
        Format::Iptables => ipv4,
        Format::Ip6tables => !ipv4,
    };
    let clients = options.exclude_client.0.iter().filter(|cidr| spoken(cidr.is_ipv4())).count();
    let servers = options.exclude_server.0.iter().filter(|cidr| spoken(cidr.is_ipv4())).count();
    let ports = options.exclude_port.0.len();
    let (lan, wan) = (options.lan.split(',').count(), options.wan.split(',').count());

    let (mut excluded, mut queued) = (0, 0);
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match &words[..] {
            ["tcp", "dport", range, "counter", "name", "excluded", "return"]
            | ["-A", "pepsal-steal", "-p", "tcp", "--dport", range, "-j", "RETURN"] => {
                assert!(range.bytes().all(|byte| byte.is_ascii_digit() || b"-:".contains(&byte)), "{line}");
                excluded += 1;
            }
            ["ip" | "ip6", "saddr" | "daddr", cidr, "counter", "name", "excluded", "return"]
            | ["-A", "pepsal-steal", "-s" | "-d", cidr, "-j", "RETURN"] => {
                assert!(
                    cidr.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:/".contains(&byte)),
                    "{line}"
                );
                excluded += 1;
            }
            ["iifname", "{", ..] => {
                let names = line.split('"').skip(1).step_by(2);
                assert_eq!(names.clone().count(), lan + wan, "{line}");
                names.for_each(|name| check_pattern(name, '*'));
                queued += 1;
            }
            ["-A", "pepsal-steal", "-i", name, "-j", "pepsal-queue"]
            | ["-A", "pepsal-queue", "-o", name, "-j", "NFQUEUE", ..] => {
                check_pattern(name, '+');
                queued += 1;
            }
            _ => {
                // Nothing of the user's but what `run` is given, too.
                let fixed = line.replace(&options.device, "").replace(&options.port.to_string(), "");
                let known = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
                assert!(fixed.bytes().all(known) && line.len() < 120, "{line}");
            }
        }
    }
    assert_eq!(excluded, clients + servers + ports, "{script}");
    assert_eq!(queued, if options.format == Format::Nft { 1 } else { lan + wan }, "{script}");
}

fn check_pattern(name: &str, any: char) {
    assert!(name.len() < libc::IFNAMSIZ, "{name}");
    match name.strip_suffix(any) {
        Some("") => {}
        Some(start) => check_device(start),
        None => check_device(name),
    }
}

/// Answers of a daemon, as `pepsal top` shows them.
pub fn screen(bytes: &[u8]) {
    let [order, rows, columns, ref answers @ ..] = *bytes else { return };
    let orders = [Order::Rate, Order::Up, Order::Down, Order::Age];
    let (rows, columns) = (usize::from(rows), usize::from(columns));
    let at = answers.iter().position(|&byte| byte == 0).unwrap_or(answers.len());
    let (status, list) = answers.split_at(at);
    let shown = screenful(status, list, orders[usize::from(order % 4)], rows, columns);
    let heads = status.split(|&byte| byte == b'\n').count();
    let lines = shown.windows(2).filter(|end| end == b"\r\n").count();
    // Whoever writes line ends into an answer has more.
    if !answers.contains(&b'\r') {
        assert!(lines <= heads.max(rows) + heads + 2, "{lines} lines in {rows} rows");
    }
}
