//! The answers to `pepsal status`, in each of its formats; those about single connections are in `connections`.
//!
//! Rendered by the main thread, straight into the page that is sent. tests/control has the schema of the JSON.
#![forbid(unsafe_code)]

pub mod connections;
mod prometheus;

use std::sync::atomic::Ordering;

use crate::counts::Passed;
use crate::looks::State;
use crate::page::Page;
use crate::pep::{Handshake, Pep};
use crate::relay::Side;
use crate::samples::{self, Sample, Samples};

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Text,
    Prometheus,
}

/// What the formats tell of, read once.
struct Figures<'a> {
    pep: &'a Pep,
    samples: &'a Samples,
    uptime_s: u64,
    /// used, peak, max
    slots: [u64; 3],
    /// Slots in use, in the order of [`State::ALL`].
    states: [u64; 3],
    bytes: [u64; 2],
    /// Handshakes in microseconds, of the satellite leg and of the other.
    rtts: [Option<u64>; 2],
}

pub fn status(page: &mut Page, pep: &Pep, samples: &Samples, format: Format) {
    let slots = &pep.slots;
    let mut states = [0; 3];
    for (_, slot) in slots.in_use() {
        states[State::of(&slot.stage) as usize] += 1;
    }
    let figures = Figures {
        pep,
        samples,
        uptime_s: pep.started.elapsed().as_secs(),
        slots: [slots.used(), slots.peak(), slots.capacity()].map(|slots| slots as u64),
        states,
        bytes: pep.bytes(),
        rtts: pep.gain.rtts().map(|rtt| rtt.map(u64::from)),
    };
    match format {
        Format::Json => figures.json(page),
        Format::Text => figures.text(page),
        Format::Prometheus => figures.prometheus(page),
    }
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Server => "server",
    }
}

fn handshake_name(handshake: Handshake) -> &'static str {
    match handshake {
        Handshake::Deferred => "deferred",
        Handshake::Early => "early",
    }
}

/// Bytes per second as bits per second.
fn bits(rate: Option<u32>) -> Option<u64> {
    rate.map(|rate| u64::from(rate) * 8)
}

impl Figures<'_> {
    fn json(&self, page: &mut Page) {
        let Figures { pep, samples, .. } = self;
        let satellite = &pep.legs.satellite;
        page.text("{").field("version").string(VERSION).field("pid").number(u64::from(std::process::id()));
        page.field("uptime_s").number(self.uptime_s).field("state").string(self.state());
        page.field("handshake").string(handshake_name(pep.handshake));
        page.field("transparent").flag(pep.legs.transparent);
        page.field("satellite").string(side_name(satellite.side));
        page.field("congestion").string(satellite.congestion.to_str().unwrap_or(""));
        let [up, down] = satellite.rates.map(bits);
        page.field("link").text("{").field("rate_up_bps").number_or_null(up);
        page.field("rate_down_bps").number_or_null(down);
        page.field("rtt_ms").number_or_null(satellite.rtt.map(u64::from)).text("}");
        let threshold = pep.gain.threshold_ms().map(u64::from);
        page.field("auto_pass").text("{").field("threshold_ms").number_or_null(threshold);
        page.field("passing").flag(pep.gain.is_passing()).text("}");
        let [used, peak, max] = self.slots;
        page.numbers("slots", &[("used", used), ("peak", peak), ("max", max)]);
        page.numbers("connections", &State::ALL.map(|state| (state.name(), self.states[state as usize])));

        page.field("syns").text("{");
        for (name, count) in self.syns() {
            page.field(name).number(count);
        }
        page.numbers("passed", &Passed::ALL.map(|(why, name)| (name, self.passed(why)))).text("}");
        page.field("connects_failed").number(self.connects_failed());
        let [up, down] = self.bytes;
        page.numbers("bytes", &[("up", up), ("down", down)]);
        let [up, down] = samples.last().rates;
        page.numbers("rate", &[("up_bps", up), ("down_bps", down)]);
        page.field("handshake_rtt").text("{");
        for (name, rtt) in ["satellite_ms", "lan_ms"].into_iter().zip(self.rtts) {
            page.field(name);
            match rtt {
                Some(micros) => page.decimal(micros, 3),
                None => page.text("null"),
            };
        }
        page.text("}").field("warnings").text("[");
        self.warnings(page, &|page, code| {
            page.item().text("{").field("code").string(code).field("text").text("\"");
        });
        page.text("]").field("samples").text("{").field("interval_s").number(samples::INTERVAL.as_secs());
        self.series(page, "up_bps", |sample| sample.rates[0]);
        self.series(page, "down_bps", |sample| sample.rates[1]);
        self.series(page, "connections", |sample| u64::from(sample.connections));
        page.text("}}\n");
    }

    fn series(&self, page: &mut Page, name: &str, value: impl Fn(&Sample) -> u64) {
        page.field(name).text("[");
        for sample in self.samples.iter() {
            page.item().number(value(sample));
        }
        page.text("]");
    }

    fn text(&self, page: &mut Page) {
        let Figures { pep, samples, .. } = self;
        let satellite = &pep.legs.satellite;
        page.text("pepsal ").text(VERSION).text(", pid ").number(u64::from(std::process::id()));
        page.text(", ").text(self.state()).text(" for ");
        duration(page, self.uptime_s);
        page.text("\nsatellite leg    ").text(side_name(satellite.side));
        page.text(", ").text(satellite.congestion.to_str().unwrap_or(""));
        for (rate, way) in satellite.rates.map(bits).into_iter().zip([" up", " down"]) {
            if let Some(rate) = rate {
                page.text(", ").scaled(rate, "bit/s").text(way);
            }
        }
        page.text("\nhandshake        ").text(handshake_name(pep.handshake)).text("; ");
        self.rtts(page);
        let [used, peak, max] = self.slots;
        page.text("\nslots            ").number(used).text(" of ").number(max).text(" used, ");
        page.number(peak).text(" at most");
        for state in State::ALL {
            page.text(", ").number(self.states[state as usize]).text(" ");
            page.text(if state == State::HalfClosed { "half closed" } else { state.name() });
        }
        page.text("\nrate             ");
        ways(page, samples.last().rates, "bit/s");
        page.text("\nbytes            ");
        ways(page, self.bytes, "B");
        page.text("\nSYNs             ");
        for (at, (name, count)) in self.syns().into_iter().enumerate() {
            page.text(if at > 0 { ", " } else { "" }).number(count).text(" ").text(name);
        }
        page.text("\npassed           ");
        let mut any = false;
        for (why, name) in Passed::ALL {
            let count = self.passed(why);
            if count > 0 {
                page.text(if any { ", " } else { "" }).number(count).text(" ");
                name.split('_').enumerate().for_each(|(at, word)| {
                    page.text(if at > 0 { " " } else { "" }).text(word);
                });
                any = true;
            }
        }
        page.text(if any { "" } else { "none" });
        page.text("\nconnects failed  ").number(self.connects_failed()).text("\n");
        self.warnings(page, &|page, _| {
            page.text("warning          ");
        });
    }

    /// What splitting is worth, in a few words.
    fn rtts(&self, page: &mut Page) {
        for (name, rtt) in ["satellite ", ", lan "].into_iter().zip(self.rtts) {
            page.text(name);
            match rtt {
                Some(micros @ 0..10_000) => page.decimal(micros / 100, 1),
                Some(micros) => page.number(micros / 1000),
                None => page.text("?"),
            };
            page.text(" ms");
        }
    }

    fn state(&self) -> &'static str {
        if self.pep.ending.load(Ordering::Relaxed) { "ending" } else { "running" }
    }

    fn syns(&self) -> [(&'static str, u64); 4] {
        let counts = &self.pep.counts;
        [
            ("seen", &counts.seen),
            ("stolen", &counts.stolen),
            ("repeated", &counts.repeated),
            ("returned", &counts.returned),
        ]
        .map(|(name, count)| (name, u64::from(count.get())))
    }

    fn passed(&self, why: Passed) -> u64 {
        u64::from(self.pep.counts.passed(why).get())
    }

    fn connects_failed(&self) -> u64 {
        u64::from(self.pep.counts.connects_failed.get())
    }

    /// Each warning between what `begin` writes for its code and the end of its line or string.
    fn warnings(&self, page: &mut Page, begin: &dyn Fn(&mut Page, &str)) {
        let pep = self.pep;
        let is_json = page.bytes().first() == Some(&b'{');
        let end = if is_json { "\"}" } else { "\n" };
        if let Some(ms) = pep.gain.doubtful() {
            if pep.gain.is_passing() {
                begin(page, "auto_passing");
                page.text("the satellite leg takes ").number(ms.into());
                page.text(" ms: new connections pass direct until it is slow again");
            } else {
                begin(page, "satellite_not_slow");
                page.text("the satellite leg takes only ").number(ms.into());
                page.text(" ms: splitting gains little on such a line (see --auto-pass)");
            }
            page.text(end);
        }
        if pep.full.load(Ordering::Relaxed) {
            begin(page, "slots_full");
            page.text("all slots are in use: new connections pass direct (-c sets the number)").text(end);
        }
        if pep.undelivered.load(Ordering::Relaxed) {
            begin(page, "undelivered");
            page.text(
                "an injected SYN did not reach the listener: does the input chain accept pepsal's device?",
            );
            page.text(end);
        }
        if self.passed(Passed::FailOpen) > 0 {
            begin(page, "fail_open");
            page.text("the daemon was too slow for ").number(self.passed(Passed::FailOpen));
            page.text(" SYNs: netfilter let them pass").text(end);
        }
        if self.pep.counts.seen.get() == 0 && self.uptime_s >= 60 {
            begin(page, "no_syns");
            page.text("no SYN has come to the queue: are the rules loaded, for the right devices?").text(end);
        }
        if self.state() == "ending" {
            begin(page, "ending");
            page.text("the daemon is ending: new connections pass direct").text(end);
        }
    }
}

fn ways(page: &mut Page, [up, down]: [u64; 2], unit: &str) {
    page.scaled(up, unit).text(" up, ").scaled(down, unit).text(" down");
}

/// In the two largest units that there are any of.
fn duration(page: &mut Page, seconds: u64) {
    let parts = [(seconds / 86_400, " d "), (seconds / 3600 % 24, " h "), (seconds / 60 % 60, " min ")];
    let first = parts.iter().position(|&(count, _)| count > 0).unwrap_or(parts.len());
    for (count, unit) in parts.into_iter().skip(first).take(2) {
        page.number(count).text(unit);
    }
    if first + 1 >= parts.len() {
        page.number(seconds % 60).text(" s");
    }
}
