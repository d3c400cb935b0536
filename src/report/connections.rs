//! The answers to `pepsal connections` and `pepsal top`: one connection after the other, so that any number of them
//! fits through one page.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::net::SocketAddr;

use super::side_name;
use crate::looks::Seen;
use crate::page::Value::{Number, Word};
use crate::page::{Figure, Page};
use crate::pep::Pep;
use crate::relay::Side;
use crate::tcp_info::Limit;

/// A connection takes no more bytes than this in any format.
pub const LONGEST: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Text,
    /// For `pepsal top`, which reads them by their order.
    Columns,
}

pub fn begin(page: &mut Page, pep: &Pep, format: Format) {
    if format == Format::Json {
        let satellite = Word(side_name(pep.legs.satellite.side));
        page.fill("{'satellite':'@satellite','connections':[", &[("satellite", satellite)]);
    }
}

pub fn end(page: &mut Page, format: Format) {
    if format == Format::Json {
        page.text("]}\n");
    }
}

/// `first`: none has come before, on this page or an earlier one.
pub fn one(page: &mut Page, pep: &Pep, seen: &Seen, format: Format, first: bool) {
    let Seen { id, endpoints, trend, .. } = seen;
    let [client, server] = [endpoints.client, endpoints.server].map(written);
    let limit = |side: Side| Word(trend.limits[side as usize].map_or("-", Limit::name));
    let figures = [
        ("index", Number(id.index.into())),
        ("generation", Number(id.generation.into())),
        ("client", Word(&client)),
        ("server", Word(&server)),
        ("age", Number(seen.age_s.into())),
        ("state", Word(seen.state.name())),
        ("up", Number(seen.bytes[0])),
        ("down", Number(seen.bytes[1])),
        ("rate_up", Number(trend.rates[0])),
        ("rate_down", Number(trend.rates[1])),
        ("over", Number(trend.over_ms.into())),
        ("limit_client", limit(Side::Client)),
        ("limit_server", limit(Side::Server)),
    ];
    let template = match format {
        Format::Json => {
            page.text(if first { "\n" } else { ",\n" });
            "{'id':'$index-$generation','client':'@client','server':'@server','age_s':$age,'state':'@state',\
             'bytes':{'up':$up,'down':$down},'rate':{'up_bps':$rate_up,'down_bps':$rate_down},'over_ms':$over,\
             'legs':{"
        }
        Format::Text => {
            "@client -> @server  @state for $age s, up ~up|B at ~rate_up|bit/s, down ~down|B at ~rate_down|bit/s\n"
        }
        Format::Columns => {
            "$rate_up $rate_down $up $down $age @client @server @state @limit_client @limit_server\n"
        }
    };
    page.fill(template, &figures);
    if format != Format::Columns {
        for side in Side::BOTH {
            let is_satellite = side == pep.legs.satellite.side;
            leg(page, seen, side, format, if is_satellite { "satellite" } else { "lan      " });
        }
    }
    if format == Format::Json {
        page.text("}}");
    }
}

/// What the router sends to one side.
fn leg(page: &mut Page, seen: &Seen, side: Side, format: Format, name: &str) {
    let begin = match (format, side) {
        (Format::Json, Side::Client) => "'client':",
        (Format::Json, Side::Server) => ",'server':",
        _ => "",
    };
    page.fill(begin, &[]);
    let (Some(info), limit) = (&seen.legs[side as usize], seen.trend.limits[side as usize]) else {
        page.text(if format == Format::Json { "null" } else { "" });
        return;
    };
    let rate = info.delivery_rate.map(|rate| rate.saturating_mul(8));
    let figures: [Figure; 8] = [
        ("leg", Word(name)),
        ("rtt", Number(info.rtt_us.into())),
        ("cwnd", Number(info.cwnd.into())),
        ("mss", Number(info.mss.into())),
        ("retransmits", Number(info.retransmits.into())),
        ("delivery", rate.into()),
        ("unsent", info.unsent.map(u64::from).into()),
        ("limit", Word(limit.map_or("?", Limit::name))),
    ];
    if format == Format::Text {
        page.fill(
            "  @leg  rtt %rtt ms, cwnd $cwnd, $retransmits retransmits, delivers ~delivery|bit/s, \
             limited by @limit\n",
            &figures,
        );
        return;
    }
    page.fill(
        "{'rtt_ms':%rtt,'cwnd':$cwnd,'mss_bytes':$mss,'retransmits':$retransmits,\
         'delivery_rate_bps':$delivery,'unsent_bytes':$unsent,'limited_by':",
        &figures,
    );
    page.fill(if limit.is_some() { "'@limit'}" } else { "null}" }, &figures);
}

fn written(address: SocketAddr) -> heapless::String<64> {
    let mut text = heapless::String::new();
    // The longest, [address]:port, has 47 bytes.
    let _ = write!(text, "{address}");
    text
}
