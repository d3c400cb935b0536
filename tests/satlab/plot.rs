// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns the pictures: bars.svg (shares of the limit's rate) and sequence.svg (bytes over time).
//!
//! Invariant: all axes begin at zero, and what cannot be beaten is in every panel.

use crate::cases::{self, Case, MODES};
use crate::rows::Rows;
use std::fmt::Write;

const COLOURS: [&str; 4] = ["#9ca3af", "#f59e0b", "#1d4ed8", "#059669"];
const NAMES: [&str; 4] =
    ["cubic end to end", "bbr end to end", "pepsal on the terminal", "pepsal on both ends"];

/// What the pictures show: of the GEO link what the issue of a PEP is, and one case each of the nearer orbits.
const BARS: [&str; 18] = [
    "geo-20/5-up-100kB-loss0",
    "geo-20/5-up-1MB-loss0",
    "geo-50/10-up-1MB-loss0",
    "geo-20/5-up-10MB-loss0",
    "geo-20/5-up-10MB-loss0.1",
    "geo-20/5-up-10MB-loss1",
    "geo-50/10-up-10MB-loss1",
    "geo-20/5-down-1MB-loss0",
    "geo-20/5-down-10MB-loss0",
    "geo-20/5-down-10MB-loss1",
    "geo-50/10-down-10MB-loss0",
    "geo-50/10-down-10MB-loss0.1",
    "geo-50/10-down-10MB-loss1",
    "geo-20/5-page-loss0",
    "geo-20/5-down-10MB-wifi1",
    "geo-20/5-outage-up-10MB-loss0",
    "meo-20/5-up-10MB-loss1",
    "leo-20/5-up-10MB-loss1",
];
const SEQUENCES: [&str; 6] = [
    "geo-20/5-up-10MB-loss0",
    "geo-20/5-up-10MB-loss1",
    "geo-50/10-up-1MB-loss0",
    "geo-20/5-down-10MB-loss0",
    "geo-50/10-down-10MB-loss0.1",
    "geo-20/5-outage-up-10MB-loss0",
];

fn head(width: f64, height: f64, title: &str, note: &str) -> String {
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="12" fill="#374151">
<rect width="{width}" height="{height}" fill="#ffffff"/>
<text x="20" y="28" font-size="17" font-weight="600" fill="#111827">{title}</text>
<text x="20" y="72" fill="#6b7280">{note}</text>
"##
    );
    let mut x = 20;
    for (name, colour) in NAMES.iter().zip(COLOURS) {
        push(
            &mut svg,
            format_args!(
                r##"<rect x="{x}" y="42" width="14" height="12" fill="{colour}"/><text x="{}" y="52">{name}</text>"##,
                x + 20
            ),
        );
        x += 36 + 7 * name.len();
    }
    push(
        &mut svg,
        format_args!(
            r##"<path d="M{x} 48h22" stroke="#111827" stroke-width="1.5" stroke-dasharray="5 3"/><text x="{}" y="52">physical limit</text>"##,
            x + 28
        ),
    );
    svg
}

fn push(svg: &mut String, what: std::fmt::Arguments) {
    svg.write_fmt(what).expect("a String takes all");
    svg.push('\n');
}

/// Each bar is the limit's time divided by the time it took.
pub fn bars(rows: &Rows) -> String {
    const LEFT: f64 = 230.0;
    const FULL: f64 = 560.0;
    const BAR: f64 = 9.0;
    const ROW: f64 = 4.0 * BAR + 14.0;
    const TOP: f64 = 104.0;
    let shown: Vec<&str> =
        BARS.into_iter().filter(|case| MODES.iter().any(|mode| share(rows, case, mode).is_some())).collect();
    let bottom = TOP + ROW * shown.len() as f64;
    let mut svg = head(
        LEFT + FULL + 70.0,
        bottom + 20.0,
        "How much of what the link allows",
        "The physical limit's time divided by the transfer's: longer is better. Medians.",
    );
    for tenth in [0, 2, 4, 6, 8, 10] {
        let x = LEFT + FULL * f64::from(tenth) / 10.0;
        let (colour, dash) = if tenth == 10 { ("#111827", "5 3") } else { ("#e5e7eb", "none") };
        push(
            &mut svg,
            format_args!(
                r##"<path d="M{x} {}V{bottom}" stroke="{colour}" stroke-dasharray="{dash}"/><text x="{x}" y="{}" text-anchor="middle">{} %</text>"##,
                TOP - 6.0,
                TOP - 12.0,
                tenth * 10
            ),
        );
    }
    for (n, case) in shown.iter().enumerate() {
        let top = TOP + ROW * n as f64;
        push(
            &mut svg,
            format_args!(
                r##"<text x="{}" y="{}" text-anchor="end" fill="#111827">{case}</text>"##,
                LEFT - 10.0,
                top + 2.0 * BAR + 4.0
            ),
        );
        for (m, mode) in MODES.iter().enumerate() {
            let Some(share) = share(rows, case, mode) else { continue };
            let (y, width) = (top + BAR * m as f64, FULL * share);
            push(
                &mut svg,
                format_args!(
                    r##"<rect x="{LEFT}" y="{y}" width="{width:.1}" height="{}" fill="{}"/><text x="{:.1}" y="{}" font-size="9">{:.0}</text>"##,
                    BAR - 1.0,
                    COLOURS[m],
                    LEFT + width + 4.0,
                    y + 7.5,
                    share * 100.0
                ),
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn share(rows: &Rows, case: &str, mode: &str) -> Option<f64> {
    Some(rows.median(case, mode, "limit")? / rows.median(case, mode, "seconds")?)
}

pub fn sequences(rows: &Rows) -> String {
    const WIDTH: f64 = 480.0;
    const HEIGHT: f64 = 280.0;
    const TOP: f64 = 84.0;
    let all = cases::all();
    let shown: Vec<&Case> = SEQUENCES
        .iter()
        .filter_map(|name| all.iter().find(|case| case.to_string() == *name))
        .filter(|case| MODES.iter().any(|mode| !rows.points(&case.to_string(), mode).is_empty()))
        .collect();
    let height = TOP + HEIGHT * shown.len().div_ceil(2) as f64;
    let mut svg = head(
        2.0 * WIDTH,
        height,
        "What the receiver has, over time",
        "Runs with seed 1. Dot: the last byte. A transfer far slower than the others leaves the picture.",
    );
    for (n, case) in shown.into_iter().enumerate() {
        sequence(&mut svg, rows, case, WIDTH * (n % 2) as f64, TOP + HEIGHT * (n / 2) as f64);
    }
    svg.push_str("</svg>\n");
    svg
}

fn sequence(svg: &mut String, rows: &Rows, case: &Case, left: f64, top: f64) {
    let name = case.to_string();
    let (left, width, bottom, height) = (left + 56.0, 396.0, top + 236.0, 200.0);
    let ends: Vec<(f64, f64)> =
        MODES.iter().filter_map(|mode| rows.points(&name, mode).last().copied()).collect();
    let limit = case.limit().unwrap_or(1.0);
    // Cubic may take ten times as long as the rest.
    let longest =
        ends.iter().map(|end| end.0).filter(|seconds| *seconds < 6.0 * limit).fold(limit, f64::max) * 1.05;
    let bytes = ends.iter().map(|end| end.1).fold(1.0, f64::max);
    let (x, y) = (
        |seconds: f64| left + width * seconds / longest,
        |count: f64| bottom - height * count / (bytes * 1.05),
    );
    push(
        svg,
        format_args!(
            r##"<text x="{left}" y="{}" font-size="14" font-weight="600" fill="#111827">{name}</text>"##,
            top + 18.0
        ),
    );
    for fifth in 0..=4 {
        let count = bytes * f64::from(fifth) / 4.0;
        push(
            svg,
            format_args!(
                r##"<path d="M{left} {:.1}h{width}" stroke="#e5e7eb"/><text x="{}" y="{:.1}" text-anchor="end">{}</text>"##,
                y(count),
                left - 6.0,
                y(count) + 4.0,
                megabytes(count)
            ),
        );
    }
    push(
        svg,
        format_args!(
            r##"<text x="{}" y="{}" text-anchor="end" fill="#6b7280">MB</text>"##,
            left - 6.0,
            top + 30.0
        ),
    );
    let step = [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
        .into_iter()
        .find(|step| longest / step <= 8.0)
        .unwrap_or(100.0);
    for tick in 0..=(longest / step) as u32 {
        let at = f64::from(tick) * step;
        push(
            svg,
            format_args!(
                r##"<path d="M{:.1} {bottom}v4" stroke="#9ca3af"/><text x="{:.1}" y="{}" text-anchor="middle">{}</text>"##,
                x(at),
                x(at),
                bottom + 17.0,
                (at * 10.0).round() / 10.0
            ),
        );
    }
    push(
        svg,
        format_args!(
            r##"<text x="{}" y="{}" text-anchor="end" fill="#6b7280">seconds since connect()</text>"##,
            left + width,
            bottom + 32.0
        ),
    );
    // At the link's rate from the first byte that can be there to the last.
    if !name.contains("outage") {
        let first = limit - case.occupied();
        push(
            svg,
            format_args!(
                r##"<path d="M{:.1} {:.1}L{:.1} {:.1}" stroke="#111827" stroke-width="1.5" stroke-dasharray="5 3"/>"##,
                x(first),
                y(0.0),
                x(limit),
                y(bytes)
            ),
        );
    }
    for (mode, colour) in MODES.iter().zip(COLOURS) {
        let points = rows.points(&name, mode);
        let mut path = format!("M{:.1} {:.1}", x(0.0), y(0.0));
        let mut last = y(0.0);
        for (seconds, count) in points.iter().take_while(|point| point.0 <= longest) {
            // In steps: between two points nothing came.
            write!(path, "H{:.1}V{:.1}", x(*seconds), y(*count)).expect("a String takes all");
            last = y(*count);
        }
        match points.last() {
            None => continue,
            Some(end) if end.0 <= longest => push(
                svg,
                format_args!(r##"<circle cx="{:.1}" cy="{last:.1}" r="4" fill="{colour}"/>"##, x(end.0)),
            ),
            Some(_) => write!(path, "H{:.1}", left + width).expect("a String takes all"),
        }
        push(
            svg,
            format_args!(
                r##"<path d="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>"##
            ),
        );
    }
}

fn megabytes(bytes: f64) -> String {
    let megabytes = bytes / 1e6;
    if megabytes >= 10.0 { format!("{megabytes:.0}") } else { format!("{megabytes:.2}") }
}
