//! How the values of options are read, and what is said of those that cannot be.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{Format, List, StatusFormat};
use crate::pep::Handshake;
use crate::relay::Side;
use crate::slots::MAX_SLOTS;

fn number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let outside = || format!("not a whole number from {} to {}", range.start(), range.end());
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(outside()),
    }
}

pub fn port(text: &str) -> Result<u16, String> {
    number(text, 1..=u16::MAX)
}

pub fn slots(text: &str) -> Result<usize, String> {
    number(text, 1..=MAX_SLOTS)
}

pub fn per_client(text: &str) -> Result<u32, String> {
    number(text, 1..=MAX_SLOTS as u32)
}

pub fn threads(text: &str) -> Result<usize, String> {
    number(text, 1..=64)
}

pub fn milliseconds(text: &str) -> Result<u32, String> {
    number(text, 1..=10_000)
}

/// The limits are the kernel's: TCP_MIN_MSS and MAX_TCP_WINDOW in net/tcp.h.
pub fn mss(text: &str) -> Result<u32, String> {
    number(text, 88..=32_767)
}

pub fn memory(text: &str) -> Result<u32, String> {
    number(text, 1..=65_536)
}

pub fn connect_timeout(text: &str) -> Result<u64, String> {
    number(text, 1..=120)
}

pub fn drain(text: &str) -> Result<u64, String> {
    number(text, 0..=3600)
}

/// Mbit/s with up to three decimals, as bytes per second.
pub fn rate(text: &str) -> Result<u32, String> {
    let complaint = || String::from("not a rate from 0.001 to 10000 Mbit/s");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 3 {
        return Err(complaint());
    }
    let kbit: Option<u32> = format!("{whole}{fraction:0<3}").parse().ok();
    match kbit {
        Some(kbit @ 1..=10_000_000) => Ok(kbit * 125),
        _ => Err(complaint()),
    }
}

pub fn handshake(text: &str) -> Result<Handshake, String> {
    match text {
        "deferred" => Ok(Handshake::Deferred),
        "early" => Ok(Handshake::Early),
        _ => Err("neither deferred nor early".into()),
    }
}

pub fn side(text: &str) -> Result<Side, String> {
    match text {
        "server" => Ok(Side::Server),
        "client" => Ok(Side::Client),
        _ => Err("neither server nor client".into()),
    }
}

pub fn format(text: &str) -> Result<Format, String> {
    match text {
        "nft" => Ok(Format::Nft),
        "iptables" => Ok(Format::Iptables),
        "ip6tables" => Ok(Format::Ip6tables),
        _ => Err("none of nft, iptables, ip6tables".into()),
    }
}

pub fn status_format(text: &str) -> Result<StatusFormat, String> {
    match text {
        "text" => Ok(StatusFormat::Text),
        "json" => Ok(StatusFormat::Json),
        "prometheus" => Ok(StatusFormat::Prometheus),
        _ => Err("none of text, json, prometheus".into()),
    }
}

pub fn list<T: FromStr<Err = String>>(text: &str) -> Result<List<T>, String> {
    let items: Result<_, _> = text.split(',').map(|item| item.trim().parse()).collect();
    items.map(List)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_with_up_to_three_decimals() {
        assert_eq!(rate("5"), Ok(625_000));
        assert_eq!(rate("0.25"), Ok(31_250));
        assert_eq!(rate("10000"), Ok(1_250_000_000));
        for bad in ["", "0", "-1", "1.2345", "10001", "five", "1e3", "+5"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
