//! What pepsal must show against its peers, each bound with the value measured.
//!
//! Where a bound speaks of several lines (up and down, one and 16 connections), the worst of them is its value.

use crate::rows::Rows;

#[derive(Clone, Copy, PartialEq)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

pub struct Finding {
    pub what: String,
    pub bound: String,
    pub value: String,
    pub met: bool,
    /// By what factor the bound is missed; at most 1 when it is met.
    pub miss: f64,
}

/// Everything that these rows can say something about.
pub fn findings(rows: &Rows) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |what: String, limit, values: Vec<(String, f64)>| {
        found.extend(finding(what, limit, values));
    };
    let against = |prefix: &str, metric: &str, base: &str| -> Vec<(String, f64)> {
        let lines = rows.lines_like(prefix);
        let ratios = lines.filter_map(|line| {
            let ratio = rows.ratio(line, metric, "pepsal", base)?;
            Some((line.to_string(), ratio.median))
        });
        ratios.collect()
    };
    for base in ["haproxy", "v2ray"] {
        add(
            format!("proxy CPU per GB, large segments, : {base}"),
            Limit::AtMost(0.3),
            against("bulk large", "cpu_s_gb", base),
        );
    }
    for (size, flows, least) in [("large", 1, 0.95), ("large", 16, 0.85), ("MTU", 1, 0.95), ("MTU", 16, 0.7)]
    {
        add(
            format!("throughput, {size} segments, {flows} flow(s), : forwarding"),
            Limit::AtLeast(least),
            against(&format!("bulk {size} {flows} "), "mbit_s", "forward"),
        );
    }
    add(
        String::from("CPU of all parties per GB, MTU segments, : forwarding"),
        Limit::AtMost(1.35),
        against("bulk MTU", "all_cpu_s_gb", "forward"),
    );
    add(
        String::from("connections per second : haproxy"),
        Limit::AtLeast(1.2),
        against("rate", "per_s", "haproxy"),
    );
    // README.md tells whose they are.
    let resets = |line| Some((line, rows.spread(line, "resets", "pepsal")?.high));
    let resets = rows.lines_like("rate").filter_map(resets).map(|(line, most)| (line.to_string(), most));
    add(String::from("connections reset in one round"), Limit::AtMost(2.0), resets.collect());
    for metric in ["p50_us", "p99_us"] {
        let name = &metric[..3];
        add(format!("round trip {name} : haproxy"), Limit::AtMost(1.0), against("trips", metric, "haproxy"));
    }
    let own = |line: &str, metric: &str| -> Vec<(String, f64)> {
        let spread = rows.spread(line, metric, "pepsal");
        spread.map(|it| (line.to_string(), it.median)).into_iter().collect()
    };
    // As routers get it, where that could be built.
    let as_shipped = "slots free (musl) ";
    let slots = if rows.lines_like(as_shipped).next().is_some() { as_shipped } else { "slots free " };
    let free: Vec<(f64, f64)> = rows
        .lines_like(slots)
        .filter_map(|line| Some((number(line)?, rows.spread(line, "rss_kb", "pepsal")?.median)))
        .collect();
    if let &[(few, few_rss), (many, many_rss)] = &free[..] {
        let named = |value: f64| vec![(format!("{slots}{few}"), value)];
        add(String::from("RSS with 1024 free slots, kB"), Limit::AtMost(1500.0), named(few_rss));
        let each = (many_rss - few_rss) * 1024.0 / (many - few);
        let between = vec![(format!("{few} to {many}"), each)];
        add(String::from("user memory per free slot, bytes"), Limit::AtMost(1024.0), between);
    }
    let held = |metric: &str| -> Vec<(String, f64)> {
        rows.lines_like("hold ").flat_map(|line| own(line, metric)).collect()
    };
    add(String::from("user memory per held connection, kB"), Limit::AtMost(1.0), held("rss_kb_connection"));
    // Pipes that were made meanwhile are counted too.
    add(String::from("descriptors per idle connection"), Limit::AtMost(2.1), held("fds_connection"));
    let full = rows.lines_like("slots used ").filter_map(|line| {
        let held = rows.spread(line, "held", "pepsal")?.median;
        Some((line.to_string(), held / number(line)?))
    });
    add(String::from("all slots held at a time : their number"), Limit::AtLeast(1.0), full.collect());
    // The best of the rounds: where the scheduler puts client, proxy and server changes the cost of a wake-up
    // many times over, from one second to the next.
    let best = |line: &str| rows.spread(line, "cpu_us_trip", "pepsal").map(|it| it.low);
    let wakes = ["hold 1000", "hold 4000"]
        .iter()
        .filter_map(|line| Some((line.to_string(), best(line)? / best("hold 10")?)));
    // It must not grow at all; the rest is noise.
    add(
        String::from("CPU per wake-up : with 10 idle (best of the rounds)"),
        Limit::AtMost(1.15),
        wakes.collect(),
    );
    found
}

/// What a line's name ends with.
fn number(line: &str) -> Option<f64> {
    line.rsplit(' ').next()?.parse().ok()
}

/// Nothing when nothing was measured.
fn finding(what: String, limit: Limit, values: Vec<(String, f64)>) -> Option<Finding> {
    let miss = |value: f64| match limit {
        Limit::AtLeast(least) => least / value,
        Limit::AtMost(most) => value / most,
    };
    let (line, worst) = values.into_iter().max_by(|a, b| miss(a.1).total_cmp(&miss(b.1)))?;
    let bound = match limit {
        Limit::AtLeast(least) => format!("≥ {least}"),
        Limit::AtMost(most) => format!("≤ {most}"),
    };
    let miss = miss(worst);
    let value =
        if worst.abs() >= 100.0 { format!("{worst:.0} ({line})") } else { format!("{worst:.2} ({line})") };
    Some(Finding { what, bound, value, met: miss <= 1.0, miss })
}
