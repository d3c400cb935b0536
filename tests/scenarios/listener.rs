//! Shows that the listener serves only SYNs that were stolen: it is no open proxy for those who find its port.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use crate::bed::{Bed, Family, Handshake, Net};
use crate::connection::dial;
use crate::stream::{End, end};

four_ways!(connected_to_directly);

/// The addresses of the daemon's device, as anybody can read them.
fn device_addresses(bed: &Bed) -> Vec<IpAddr> {
    let listing = bed.net.router.exec("ip -oneline address show dev pepsal0", "");
    let after_inet = listing.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| !word.starts_with("inet"));
        words.nth(1)
    });
    after_inet.map(|it| it.split('/').next().expect("a word").parse().expect("an address")).collect()
}

fn connected_to_directly(family: Family, handshake: Handshake) {
    let mut bed = Bed::started(handshake, &["-c", "4"]);
    let of_device = device_addresses(&bed).into_iter().find(|it| it.is_ipv4() == (family == Family::V4));
    let of_device = of_device.expect("an address of this family on pepsal0");
    let reached = bed.net.server.count("reached", "input priority 0", "meta l4proto tcp");

    let routers = [family.address(Net::Lan, 1), family.router_wan(), of_device];
    for (to, from) in routers.iter().flat_map(|&to| [(to, &bed.net.client), (to, &bed.net.guest)]) {
        // More often than there are slots.
        for _ in 0..6 {
            match dial(from, SocketAddr::new(to, 5000), |_| ()) {
                Err(err) if err.kind() == ErrorKind::ConnectionRefused => {}
                Err(err) if err.kind() == ErrorKind::ConnectionReset => {}
                Err(err) => panic!("neither refused nor reset by {to}: {err}"),
                Ok(client) => assert_eq!(end(&client), End::Reset),
            }
        }
    }
    assert_eq!(reached.packets(), 0, "something has reached the server");
    bed.check_all_slots(family, 4);
}
