//! The answers to `pepsal status`, in each of its formats; those about single connections are in `connections`.
//!
//! Rendered by the main thread, straight into the page that is sent. tests/control has the schema of the JSON; the
//! other is the text format of Prometheus' exporters, version 0.0.4.
#![forbid(unsafe_code)]

pub mod connections;

use std::sync::atomic::Ordering;

use crate::counts::Passed;
use crate::exclusions::{COUNTER, Exclusions};
use crate::looks::State;
use crate::page::Value::{self, Absent, Number, Word};
use crate::page::{Figure, Page};
use crate::pep::{Handshake, Pep};
use crate::relay::Side;
use crate::samples::{Sample, Samples};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Text,
    Prometheus,
}

/// What comes before the SYNs passed by reason, and between them and the rest.
impl Format {
    fn before_passed(self) -> &'static str {
        match self {
            Format::Json => {
                "{'version':'@version','pid':$pid,'uptime_s':$uptime,'state':'@state','handshake':'@handshake',\
                 'transparent':@transparent,'satellite':'@satellite','congestion':'@congestion',\
                 'link':{'rate_up_bps':$link_up,'rate_down_bps':$link_down,'rtt_ms':$link_rtt},\
                 'auto_pass':{'threshold_ms':$threshold,'passing':@passing},\
                 'slots':{'used':$used,'peak':$peak,'max':$max},\
                 'memory':{'used_bytes':$held,'budget_bytes':$budget},\
                 'connections':{'connecting':$connecting,'relaying':$relaying,'half_closed':$half_closed},\
                 'syns':{'seen':$seen,'stolen':$stolen,'repeated':$repeated,'returned':$returned,'passed':{"
            }
            Format::Text => {
                "\nhandshake        @handshake; satellite %satellite_rtt ms, lan %lan_rtt ms\n\
                 slots            $used of $max used, at most $peak at a time\n\
                 memory           ~held|B of ~budget|B\n\
                 connections      $connecting connecting, $relaying relaying, $half_closed half closed\n\
                 rate             ~rate_up|bit/s up, ~rate_down|bit/s down\n\
                 bytes            ~up|B up, ~down|B down\n\
                 SYNs             $seen seen, $stolen stolen, $repeated repeated, $returned returned\n\
                 connects failed  $failed\n\
                 passed           "
            }
            Format::Prometheus => {
                "# HELP pepsal_info What runs.\n\
                 # TYPE pepsal_info gauge\n\
                 pepsal_info{version='@version',handshake='@handshake',satellite='@satellite'} 1\n\
                 # HELP pepsal_uptime_seconds Since the start.\n\
                 # TYPE pepsal_uptime_seconds gauge\n\
                 pepsal_uptime_seconds $uptime\n\
                 # HELP pepsal_slots Most connections at a time.\n\
                 # TYPE pepsal_slots gauge\n\
                 pepsal_slots $max\n\
                 # HELP pepsal_slots_used Connections.\n\
                 # TYPE pepsal_slots_used gauge\n\
                 pepsal_slots_used $used\n\
                 # HELP pepsal_slots_used_peak Most of them at a time since the start.\n\
                 # TYPE pepsal_slots_used_peak gauge\n\
                 pepsal_slots_used_peak $peak\n\
                 # HELP pepsal_memory_bytes What all connections may buffer.\n\
                 # TYPE pepsal_memory_bytes gauge\n\
                 pepsal_memory_bytes $budget\n\
                 # HELP pepsal_memory_used_bytes What they do.\n\
                 # TYPE pepsal_memory_used_bytes gauge\n\
                 pepsal_memory_used_bytes $held\n\
                 # HELP pepsal_connections Connections by state.\n\
                 # TYPE pepsal_connections gauge\n\
                 pepsal_connections{state='connecting'} $connecting\n\
                 pepsal_connections{state='relaying'} $relaying\n\
                 pepsal_connections{state='half_closed'} $half_closed\n\
                 # HELP pepsal_bytes_total Payload relayed; up: from client to server.\n\
                 # TYPE pepsal_bytes_total counter\n\
                 pepsal_bytes_total{direction='up'} $up\n\
                 pepsal_bytes_total{direction='down'} $down\n\
                 # HELP pepsal_handshake_seconds Median of the last 15 handshakes.\n\
                 # TYPE pepsal_handshake_seconds gauge\n\
                 pepsal_handshake_seconds{leg='satellite'} ^satellite_rtt\n\
                 pepsal_handshake_seconds{leg='lan'} ^lan_rtt\n\
                 # HELP pepsal_connects_failed_total Servers that did not accept.\n\
                 # TYPE pepsal_connects_failed_total counter\n\
                 pepsal_connects_failed_total $failed\n\
                 # HELP pepsal_returned_total Connections without a SYN of their own.\n\
                 # TYPE pepsal_returned_total counter\n\
                 pepsal_returned_total $returned\n\
                 # HELP pepsal_syns_seen_total SYNs that have come.\n\
                 # TYPE pepsal_syns_seen_total counter\n\
                 pepsal_syns_seen_total $seen\n\
                 # HELP pepsal_syns_stolen_total SYNs whose connection is split.\n\
                 # TYPE pepsal_syns_stolen_total counter\n\
                 pepsal_syns_stolen_total $stolen\n\
                 # HELP pepsal_syns_repeated_total SYNs that came again.\n\
                 # TYPE pepsal_syns_repeated_total counter\n\
                 pepsal_syns_repeated_total $repeated\n\
                 # HELP pepsal_syns_passed_total SYNs that went on untouched.\n\
                 # TYPE pepsal_syns_passed_total counter\n"
            }
        }
    }

    /// One reason: the first, and each that follows.
    fn passed(self) -> [&'static str; 2] {
        match self {
            Format::Json => ["'@reason':$count", ",'@reason':$count"],
            Format::Text => ["$count @reason", ", $count @reason"],
            Format::Prometheus => ["pepsal_syns_passed_total{reason='@reason'} $count\n"; 2],
        }
    }
}

const JSON_AFTER_PASSED: &str = "}},'connects_failed':$failed,'bytes':{'up':$up,'down':$down},\
     'rate':{'up_bps':$rate_up,'down_bps':$rate_down},\
     'handshake_rtt':{'satellite_ms':%satellite_rtt,'lan_ms':%lan_rtt},'warnings':[";

pub fn status(page: &mut Page, pep: &Pep, samples: &Samples, format: Format) {
    let mut states = [0; 3];
    for (_, slot) in pep.slots.in_use() {
        states[State::of(&slot.stage) as usize] += 1;
    }
    let [connecting, relaying, half_closed] = states;
    let (counts, gain, satellite) = (&pep.counts, &pep.gain, &pep.legs.satellite);
    let uptime_s = pep.uptime_s();
    let uptime = u64::from(uptime_s);
    // People are not told of null.
    let or_absent = |number: Option<u64>| match number {
        Some(number) => Number(number),
        None if format == Format::Text => Word("?"),
        None => Absent,
    };
    let bits = |rate: Option<u32>| or_absent(rate.map(|rate| u64::from(rate) * 8));
    let small = |number: Option<u32>| or_absent(number.map(u64::from));
    let [satellite_rtt, lan_rtt] = gain.rtts().map(small);
    let ([up, down], [rate_up, rate_down]) = (pep.bytes(), samples.last().rates);
    // Nobody looks while nothing lives.
    let [held, budget] = pep.memory.figures();
    let held = if pep.slots.used() == 0 { 0 } else { held };
    let truth = |is: bool| Word(if is { "true" } else { "false" });
    let figures = [
        ("version", Word(env!("CARGO_PKG_VERSION"))),
        ("pid", Number(std::process::id().into())),
        ("uptime", Number(uptime)),
        ("days", Number(uptime / 86_400)),
        ("hours", Number(uptime / 3600 % 24)),
        ("minutes", Number(uptime / 60 % 60)),
        ("state", Word(if pep.ending.load(Ordering::Relaxed) { "ending" } else { "running" })),
        ("handshake", Word(if pep.handshake == Handshake::Early { "early" } else { "deferred" })),
        ("transparent", truth(pep.legs.transparent)),
        ("satellite", Word(side_name(satellite.side))),
        ("congestion", Word(satellite.congestion.to_str().unwrap_or(""))),
        ("link_up", bits(satellite.rates[0])),
        ("link_down", bits(satellite.rates[1])),
        ("link_rtt", small(satellite.rtt)),
        ("threshold", small(gain.threshold_ms())),
        ("passing", truth(gain.is_passing())),
        ("used", Number(pep.slots.used() as u64)),
        ("peak", Number(pep.slots.peak() as u64)),
        ("max", Number(pep.slots.capacity() as u64)),
        ("held", Number(held)),
        ("budget", Number(budget)),
        ("connecting", Number(connecting)),
        ("relaying", Number(relaying)),
        ("half_closed", Number(half_closed)),
        ("seen", Number(counts.seen.get().into())),
        ("stolen", Number(counts.stolen.get().into())),
        ("repeated", Number(counts.repeated.get().into())),
        ("returned", Number(counts.returned.get().into())),
        ("failed", Number(counts.connects_failed.get().into())),
        ("up", Number(up)),
        ("down", Number(down)),
        ("rate_up", Number(rate_up)),
        ("rate_down", Number(rate_down)),
        ("satellite_rtt", satellite_rtt),
        ("lan_rtt", lan_rtt),
    ];
    if format == Format::Text {
        page.fill(
            "pepsal @version, pid $pid, running for $days d $hours h $minutes min\n\
             satellite leg    @satellite, @congestion",
            &figures,
        );
        // Of the link, what is known.
        let known = [satellite.rates[0], satellite.rates[1], satellite.rtt].map(|it| it.is_some());
        for (template, _) in [", ~link_up|bit/s up", ", ~link_down|bit/s down", ", $link_rtt ms"]
            .into_iter()
            .zip(known)
            .filter(|it| it.1)
        {
            page.fill(template, &figures);
        }
    }
    page.fill(format.before_passed(), &figures);
    let mut first = true;
    let reasons = Passed::ALL.into_iter().map(|(why, name)| (name, u64::from(counts.passed(why).get())));
    let excluded = pep.exclusions.as_ref().map_or(0, Exclusions::count);
    for (name, count) in reasons.chain([(COUNTER, excluded)]) {
        // People want to see what happened; programs, that all is there.
        if count > 0 || format != Format::Text {
            let template = format.passed()[usize::from(!first)];
            page.fill(template, &[("reason", Word(name)), ("count", Number(count))]);
            first = false;
        }
    }
    match format {
        Format::Json => {
            page.fill(JSON_AFTER_PASSED, &figures);
            warnings(page, pep, uptime_s, ["{'code':'@code','text':'", ",{'code':'@code','text':'"], "'}");
            page.fill("],'samples':{'interval_s':1", &[]);
            series(page, samples, "up_bps", |sample| sample.rates[0]);
            series(page, samples, "down_bps", |sample| sample.rates[1]);
            series(page, samples, "connections", |sample| u64::from(sample.connections));
            page.text("}}\n");
        }
        Format::Text => {
            page.text(if first { "none\n" } else { "\n" });
            warnings(page, pep, uptime_s, ["warning          "; 2], "\n");
        }
        Format::Prometheus => {}
    }
}

pub fn side_name(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Server => "server",
    }
}

fn series(page: &mut Page, samples: &Samples, name: &str, value: fn(&Sample) -> u64) {
    page.fill(",'@name':[", &[("name", Word(name))]);
    for (at, sample) in samples.iter().enumerate() {
        let template = if at == 0 { "$value" } else { ",$value" };
        page.fill(template, &[("value", Number(value(sample)))]);
    }
    page.text("]");
}

/// Each warning between `begin`, of which there is one for the first and one for the others, and `end`.
fn warnings(page: &mut Page, pep: &Pep, uptime_s: u32, begin: [&str; 2], end: &str) {
    let gain = &pep.gain;
    let fail_open = pep.counts.passed(Passed::FailOpen).get();
    let doubtful = gain.doubtful();
    let all: [(bool, &str, &str); 7] = [
        (
            gain.is_passing(),
            "auto_passing",
            "the satellite leg takes $rtt ms: new connections pass direct until it is slow again",
        ),
        (
            doubtful.is_some() && !gain.is_passing(),
            "satellite_not_slow",
            "the satellite leg takes only $rtt ms: splitting gains little on such a line (see --auto-pass)",
        ),
        (
            // Nobody may have come since some have ended.
            pep.full.load(Ordering::Relaxed) && !pep.has_room(),
            "slots_full",
            "all slots are in use: new connections pass direct (-c sets the number)",
        ),
        (
            pep.undelivered.is(uptime_s),
            "undelivered",
            "an injected SYN did not reach the listener: does the input chain accept the TUN device?",
        ),
        (
            pep.missed.is(uptime_s),
            "fail_open",
            "the daemon was too slow for $missed SYNs: netfilter let them pass",
        ),
        (
            pep.counts.seen.get() == 0 && uptime_s >= 60,
            "no_syns",
            "no SYN has come to the queue: are the rules loaded, for the right devices?",
        ),
        (pep.ending.load(Ordering::Relaxed), "ending", "the daemon is ending: new connections pass direct"),
    ];
    let rtt = Value::from(doubtful.map(u64::from));
    let mut first = true;
    for (_, code, text) in all.into_iter().filter(|&(applies, ..)| applies) {
        let figures: [Figure; 3] = [("code", Word(code)), ("rtt", rtt), ("missed", Number(fail_open.into()))];
        page.fill(begin[usize::from(!first)], &figures).fill(text, &figures).fill(end, &[]);
        first = false;
    }
}
