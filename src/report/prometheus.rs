//! `pepsal status --format prometheus`: the text format of Prometheus' exporters, version 0.0.4.
#![forbid(unsafe_code)]

use super::{Figures, VERSION, handshake_name, side_name};
use crate::counts::Passed;
use crate::looks::State;
use crate::page::Page;

/// One metric with its values, each with a label if `label` is not empty.
fn metric(page: &mut Page, name: &str, kind: &str, label: &str, values: &[(&str, u64)]) {
    head(page, name, kind);
    for &(value, number) in values {
        sample(page, name, label, value);
        page.number(number).text("\n");
    }
}

fn head(page: &mut Page, name: &str, kind: &str) {
    page.text("# TYPE pepsal_").text(name).text(" ").text(kind).text("\n");
}

fn sample(page: &mut Page, name: &str, label: &str, value: &str) {
    page.text("pepsal_").text(name);
    if !label.is_empty() {
        page.text("{").text(label).text("=").string(value).text("}");
    }
    page.text(" ");
}

impl Figures<'_> {
    pub(super) fn prometheus(&self, page: &mut Page) {
        let pep = self.pep;
        head(page, "info", "gauge");
        page.text("pepsal_info{version=").string(VERSION);
        page.text(",handshake=").string(handshake_name(pep.handshake));
        page.text(",satellite=").string(side_name(pep.legs.satellite.side)).text("} 1\n");
        metric(page, "uptime_seconds", "gauge", "", &[("", self.uptime_s)]);
        let [used, peak, max] = self.slots;
        metric(page, "slots", "gauge", "", &[("", max)]);
        metric(page, "slots_used", "gauge", "", &[("", used)]);
        metric(page, "slots_used_peak", "gauge", "", &[("", peak)]);
        let states = State::ALL.map(|state| (state.name(), self.states[state as usize]));
        metric(page, "connections", "gauge", "state", &states);
        let [seen, stolen, repeated, returned] = self.syns();
        metric(page, "syns_seen_total", "counter", "", &[seen]);
        metric(page, "syns_stolen_total", "counter", "", &[stolen]);
        metric(page, "syns_repeated_total", "counter", "", &[repeated]);
        metric(page, "returned_total", "counter", "", &[returned]);
        let passed = Passed::ALL.map(|(why, name)| (name, self.passed(why)));
        metric(page, "syns_passed_total", "counter", "reason", &passed);
        metric(page, "connects_failed_total", "counter", "", &[("", self.connects_failed())]);
        let [up, down] = self.bytes;
        metric(page, "bytes_total", "counter", "direction", &[("up", up), ("down", down)]);
        head(page, "handshake_seconds", "gauge");
        for (leg, rtt) in ["satellite", "lan"].into_iter().zip(self.rtts) {
            if let Some(micros) = rtt {
                sample(page, "handshake_seconds", "leg", leg);
                page.decimal(micros, 6).text("\n");
            }
        }
        metric(page, "auto_passing", "gauge", "", &[("", u64::from(pep.gain.is_passing()))]);
    }
}
