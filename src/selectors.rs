//! What the rules of `pepsal rules` select by: device names, ports, addresses.
//!
//! Read from the command line; whatever is accepted here can stand in a firewall script as it is.
#![forbid(unsafe_code)]

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::str::FromStr;

/// A device name that needs no quoting anywhere.
pub fn device_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@~".contains(&byte);
    // IFNAMSIZ counts the closing zero.
    if (1..libc::IFNAMSIZ).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!("'{text}' is no device name (1 to 15 letters, digits, - . _)"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// nft takes no range of one port.
    pub fn joined(&self, by: char) -> String {
        match self {
            PortRange { first, last } if first == last => first.to_string(),
            PortRange { first, last } => format!("{first}{by}{last}"),
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<PortRange, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(PortRange { first, last }),
            _ => Err(format!("'{text}' is no port or range of ports such as 8000-8100")),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Cidr, String> {
        let complaint = || format!("'{text}' is no address or prefix such as 10.0.0.0/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| complaint())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| complaint())?,
            None => longest,
        };
        if prefix <= longest { Ok(Cidr { address, prefix }) } else { Err(complaint()) }
    }
}

impl Cidr {
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }
}

impl Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_those_that_rules_can_quote() {
        assert!(device_name("br-lan.10@x").is_ok());
        for bad in ["", "sixteen-letters-", "a b", "a\"b", "a/b", "a*", "a\nb"] {
            assert!(device_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_single_or_ascending_ranges() {
        let ports: PortRange = "8000-8100".parse().unwrap();
        assert_eq!(ports.joined(':'), "8000:8100");
        let port: PortRange = "22".parse().unwrap();
        assert_eq!(port.joined('-'), "22");
        for bad in ["", "0", "65536", "9-8", "1-2-3", "http", "-5", "5-"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixes_are_checked_against_their_family() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), shown);
        }
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "host"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
