//! The answers to `pepsal connections` and `pepsal top`: one connection after the other, so that any number of them
//! fits through one page.
#![forbid(unsafe_code)]

use super::side_name;
use crate::looks::Seen;
use crate::page::Page;
use crate::pep::Pep;
use crate::relay::Side;
use crate::tcp_info::{Limit, TcpInfo};

/// A connection takes no more bytes than this in any format.
pub const LONGEST: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Text,
    /// For `pepsal top`: words between blanks, in the order of [`columns`].
    Columns,
}

pub fn begin(page: &mut Page, pep: &Pep, format: Format) {
    if format == Format::Json {
        let satellite = side_name(pep.legs.satellite.side);
        page.text("{").field("satellite").string(satellite).field("connections").text("[");
    }
}

/// `first`: none has come before, on this page or an earlier one.
pub fn one(page: &mut Page, pep: &Pep, seen: &Seen, format: Format, first: bool) {
    match format {
        Format::Json => {
            page.text(if first { "\n" } else { ",\n" });
            json(page, seen);
        }
        Format::Text => text(page, seen, pep.legs.satellite.side),
        Format::Columns => columns(page, seen),
    }
}

pub fn end(page: &mut Page, format: Format) {
    if format == Format::Json {
        page.text("]}\n");
    }
}

fn json(page: &mut Page, seen: &Seen) {
    let Seen { id, endpoints, trend, .. } = seen;
    page.text("{").field("id").text("\"").number(id.index.into());
    page.text("-").number(id.generation.into()).text("\"");
    page.field("client").formatted(format_args!("\"{}\"", endpoints.client));
    page.field("server").formatted(format_args!("\"{}\"", endpoints.server));
    page.field("age_s").number(seen.age_s.into()).field("state").string(seen.state.name());
    let [up, down] = seen.bytes;
    page.numbers("bytes", &[("up", up), ("down", down)]);
    let [up, down] = trend.rates;
    page.numbers("rate", &[("up_bps", up), ("down_bps", down)]);
    page.field("over_ms").number(trend.over_ms.into()).field("legs").text("{");
    for side in Side::BOTH {
        page.field(side_name(side));
        match &seen.legs[side as usize] {
            Some(info) => leg_json(page, info, trend.limits[side as usize]),
            None => {
                page.text("null");
            }
        }
    }
    page.text("}}");
}

fn leg_json(page: &mut Page, info: &TcpInfo, limit: Option<Limit>) {
    page.text("{").field("rtt_ms").decimal(info.rtt_us.into(), 3);
    page.field("cwnd").number(info.cwnd.into()).field("mss_bytes").number(info.mss.into());
    page.field("retransmits").number(info.retransmits.into());
    page.field("delivery_rate_bps").number_or_null(info.delivery_rate.map(|rate| rate.saturating_mul(8)));
    page.field("unsent_bytes").number_or_null(info.unsent.map(u64::from)).field("limited_by");
    match limit {
        Some(limit) => page.string(limit.name()),
        None => page.text("null"),
    };
    page.text("}");
}

/// Three lines; the second and third are about what the router sends to the client and to the server.
fn text(page: &mut Page, seen: &Seen, satellite: Side) {
    let Seen { endpoints, trend, .. } = seen;
    page.formatted(format_args!("{endpoints}")).text("  ").text(match seen.state.name() {
        "half_closed" => "half closed",
        other => other,
    });
    page.text(", ").number(seen.age_s.into()).text(" s");
    for (way, name) in [", up ", ", down "].into_iter().enumerate() {
        page.text(name).scaled(seen.bytes[way], "B").text(" at ").scaled(trend.rates[way], "bit/s");
    }
    page.text("\n");
    for side in Side::BOTH {
        let Some(info) = &seen.legs[side as usize] else {
            continue;
        };
        page.text("  ").text(if side == satellite { "satellite" } else { "lan      " });
        page.text("  rtt ").decimal(u64::from(info.rtt_us) / 100, 1).text(" ms, cwnd ");
        page.number(info.cwnd.into()).text(", ").number(info.retransmits.into()).text(" retransmits");
        if let Some(rate) = info.delivery_rate {
            page.text(", delivers ").scaled(rate.saturating_mul(8), "bit/s");
        }
        if let Some(limit) = trend.limits[side as usize] {
            page.text(", limited by ").text(limit.words());
        }
        page.text("\n");
    }
}

/// Rates up and down in bit/s, bytes up and down, age in seconds, state, client, server, what limits the client leg
/// and the server leg.
fn columns(page: &mut Page, seen: &Seen) {
    let Seen { endpoints, trend, .. } = seen;
    let [up, down] = trend.rates;
    let [bytes_up, bytes_down] = seen.bytes;
    for number in [up, down, bytes_up, bytes_down, u64::from(seen.age_s)] {
        page.number(number).text(" ");
    }
    page.text(seen.state.name());
    page.formatted(format_args!(" {} {}", endpoints.client, endpoints.server));
    for limit in trend.limits {
        page.text(" ").text(limit.map_or("-", Limit::name));
    }
    page.text("\n");
}
