//! Owns the picture: an SVG with one panel per comparison, throughput over time, direct against through pepsal.
//!
//! Invariants:
//! - Every panel begins at zero on both axes and shows the link's rate, so that no gain looks larger than it is.
//! - The narrow curve lies on the wide one, so that both are seen where they agree, and told apart without colour.

use crate::series::{BUCKET_MS, Series};
use std::fmt::Write;

/// Buckets per mean: one second. Shorter than that shows the bursts of every round trip and little else.
const WINDOW: usize = 4;

const DIRECT: Curve = Curve { name: "direct", colour: "#f59e5b", width: 4.0 };
const SPLIT: Curve = Curve { name: "through pepsal", colour: "#1d4ed8", width: 1.8 };

// Measures in pixels.
const PANEL_WIDTH: f64 = 480.0;
const PANEL_HEIGHT: f64 = 270.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 20.0;
const ABOVE: f64 = 46.0;
const BELOW: f64 = 46.0;
const HEADER: f64 = 92.0;

/// draw throughput over time
#[derive(argh::FromArgs)]
#[argh(subcommand, name = "plot")]
pub struct Plot {
    /// heading of the picture
    #[argh(option)]
    title: String,
    /// one panel, TITLE;LINK MBIT/S;DIRECT CSV;PEPSAL CSV (may be repeated; two to a row)
    #[argh(option)]
    panel: Vec<String>,
    /// the SVG to write
    #[argh(option)]
    out: String,
}

struct Curve {
    name: &'static str,
    colour: &'static str,
    width: f64,
}

struct Panel {
    title: String,
    link_mbit: f64,
    /// Mbit/s at the end of each bucket.
    direct: Vec<f64>,
    split: Vec<f64>,
}

/// From seconds and Mbit/s to pixels.
struct Scale {
    left: f64,
    bottom: f64,
    per_second: f64,
    per_mbit: f64,
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        self.left + seconds * self.per_second
    }

    fn y(&self, mbit: f64) -> f64 {
        self.bottom - mbit * self.per_mbit
    }
}

pub fn run(plot: &Plot) -> Result<(), String> {
    let panels = plot.panel.iter().map(|words| Panel::from_words(words)).collect::<Result<Vec<_>, _>>()?;
    let svg = draw(&plot.title, &panels).expect("a String takes all");
    std::fs::write(&plot.out, svg).map_err(|error| format!("cannot write {}: {error}", plot.out))
}

impl Panel {
    fn from_words(words: &str) -> Result<Self, String> {
        let fields: Vec<&str> = words.split(';').collect();
        let [title, rate, direct, split] = fields[..] else {
            return Err(format!("panel '{words}' is not TITLE;RATE;DIRECT;PEPSAL"));
        };
        Ok(Self {
            title: title.to_string(),
            link_mbit: rate.parse().map_err(|_| format!("'{rate}' is no rate"))?,
            direct: means(&read_series(direct)?),
            split: means(&read_series(split)?),
        })
    }

    fn seconds(&self) -> f64 {
        self.direct.len().max(self.split.len()).max(1) as f64 * bucket_seconds()
    }
}

fn read_series(path: &str) -> Result<Series, String> {
    let csv = std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    Series::from_csv(&csv).map_err(|error| format!("{path}: {error}"))
}

fn bucket_seconds() -> f64 {
    BUCKET_MS as f64 / 1000.0
}

/// Mbit/s over the last `WINDOW` buckets, at the end of each bucket.
fn means(series: &Series) -> Vec<f64> {
    (0..series.buckets.len())
        .map(|n| {
            let window = &series.buckets[(n + 1).saturating_sub(WINDOW)..=n];
            let bits = window.iter().sum::<u64>() as f64 * 8.0;
            bits / (WINDOW as f64 * bucket_seconds()) / 1e6
        })
        .collect()
}

/// 1, 2 or 5 times a power of ten: about `wanted` of them make up `range`.
fn tick_step(range: f64, wanted: f64) -> f64 {
    let power = 10f64.powf((range / wanted).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| range / (factor * power) <= wanted);
    step.unwrap_or(10.0) * power
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn draw(title: &str, panels: &[Panel]) -> Result<String, std::fmt::Error> {
    let columns = panels.len().clamp(1, 2);
    let rows = panels.len().div_ceil(2);
    let width = PANEL_WIDTH * columns as f64;
    let height = HEADER + PANEL_HEIGHT * rows as f64 + 8.0;
    let mut svg = String::new();
    writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="12" fill="#374151">
<rect width="{width}" height="{height}" fill="#ffffff"/>
<text x="{LEFT}" y="28" font-size="17" font-weight="600" fill="#111827">{}</text>"##,
        escape(title)
    )?;
    legend(&mut svg)?;
    for (n, panel) in panels.iter().enumerate() {
        let left = PANEL_WIDTH * (n % 2) as f64;
        let top = HEADER + PANEL_HEIGHT * (n / 2) as f64;
        draw_panel(&mut svg, panel, left, top)?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn legend(svg: &mut String) -> std::fmt::Result {
    let y = 52.0;
    let mut x = LEFT;
    for curve in [DIRECT, SPLIT] {
        let Curve { name, colour, width } = curve;
        let (end, middle, text) = (x + 26.0, x + 13.0, x + 34.0);
        writeln!(
            svg,
            r##"<path d="M{x} {y}H{end}" stroke="{colour}" stroke-width="{width}"/><circle cx="{middle}" cy="{y}" r="4" fill="{colour}"/>
<text x="{text}" y="{}">{name}</text>"##,
            y + 4.0
        )?;
        x = text + 7.0 * name.len() as f64 + 22.0;
    }
    writeln!(
        svg,
        r##"<path d="M{x} {y}h26" stroke="#6b7280" stroke-width="1.5" stroke-dasharray="6 4"/>
<text x="{}" y="{}">rate of the link</text>
<text x="{LEFT}" y="{}" fill="#6b7280">As the receiver reads it, mean of the last second. Above the rate: bytes that had waited for a lost one. Dot: last byte.</text>"##,
        x + 34.0,
        y + 4.0,
        y + 24.0
    )
}

fn draw_panel(svg: &mut String, panel: &Panel, left: f64, top: f64) -> std::fmt::Result {
    let plot_width = PANEL_WIDTH - LEFT - RIGHT;
    let plot_height = PANEL_HEIGHT - ABOVE - BELOW;
    let seconds = panel.seconds() * 1.04;
    let peak = panel.direct.iter().chain(&panel.split).fold(panel.link_mbit, |most, mbit| most.max(*mbit));
    let scale = Scale {
        left: left + LEFT,
        bottom: top + ABOVE + plot_height,
        per_second: plot_width / seconds,
        per_mbit: plot_height / (peak * 1.1),
    };
    let (first_x, last_x) = (scale.left, scale.left + plot_width);
    writeln!(
        svg,
        r##"<text x="{first_x}" y="{}" font-size="14" font-weight="600" fill="#111827">{}</text>
<text x="{first_x}" y="{}" text-anchor="end" dx="-8" fill="#6b7280">Mbit/s</text>"##,
        top + 20.0,
        escape(&panel.title),
        top + ABOVE - 6.0
    )?;

    let step = tick_step(peak * 1.1, 5.0);
    for n in 0..=(peak * 1.1 / step) as usize {
        let mbit = n as f64 * step;
        let y = scale.y(mbit);
        let colour = if n == 0 { "#9ca3af" } else { "#e5e7eb" };
        writeln!(
            svg,
            r##"<path d="M{first_x:.1} {y:.1}H{last_x:.1}" stroke="{colour}"/><text x="{first_x:.1}" y="{:.1}" dx="-8" text-anchor="end">{}</text>"##,
            y + 4.0,
            tick_label(mbit, step)
        )?;
    }
    let step = tick_step(seconds, 8.0);
    for n in 0..=(seconds / step) as usize {
        let x = scale.x(n as f64 * step);
        writeln!(
            svg,
            r##"<path d="M{x:.1} {:.1}v5" stroke="#9ca3af"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"##,
            scale.bottom,
            scale.bottom + 19.0,
            tick_label(n as f64 * step, step)
        )?;
    }
    let y = scale.y(panel.link_mbit);
    writeln!(
        svg,
        r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#6b7280">seconds since connect()</text>
<path d="M{first_x:.1} {y:.1}H{last_x:.1}" stroke="#6b7280" stroke-width="1.5" stroke-dasharray="6 4"/>"##,
        (first_x + last_x) / 2.0,
        scale.bottom + 37.0
    )?;
    draw_curve(svg, &panel.direct, &DIRECT, &scale)?;
    draw_curve(svg, &panel.split, &SPLIT, &scale)
}

fn tick_label(value: f64, step: f64) -> String {
    let decimals = if step < 1.0 { 1 } else { 0 };
    format!("{value:.decimals$}")
}

fn draw_curve(svg: &mut String, mbits: &[f64], curve: &Curve, scale: &Scale) -> std::fmt::Result {
    let Curve { colour, width, .. } = curve;
    let mut path = format!("M{:.1} {:.1}", scale.x(0.0), scale.y(0.0));
    let mut end = (scale.x(0.0), scale.y(0.0));
    for (n, mbit) in mbits.iter().enumerate() {
        end = (scale.x((n + 1) as f64 * bucket_seconds()), scale.y(*mbit));
        write!(path, "L{:.1} {:.1}", end.0, end.1)?;
    }
    writeln!(
        svg,
        r##"<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"/><circle cx="{:.1}" cy="{:.1}" r="4" fill="{colour}"/>"##,
        end.0, end.1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(tick_step(22.0, 5.0), 5.0);
        assert_eq!(tick_step(5.5, 5.0), 2.0);
        assert_eq!(tick_step(60.0, 8.0), 10.0);
        assert_eq!(tick_step(9.0, 8.0), 2.0);
        assert!((tick_step(0.9, 5.0) - 0.2).abs() < 1e-9);
    }

    #[test]
    fn a_steady_stream_is_a_flat_line() {
        let series = Series { buckets: vec![250_000; 8] };
        assert_eq!(means(&series)[3..], [8.0; 5]);
    }

    #[test]
    fn markup_in_a_title_stays_text() {
        let svg = draw("a < b & c", &[]).expect("a String takes all");
        assert!(svg.contains("a &lt; b &amp; c"));
    }
}
