//! The chart, written by hand: an SVG is text, and this one needs lines, bands and labels only.

use std::fmt::Write;

use crate::Worlds;
use crate::load::{RATE, Tally};
use crate::script::Day;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const PANEL: f64 = 190.0;
const FIRST: f64 = 126.0;
const SECOND: f64 = FIRST + PANEL + 62.0;
const HEIGHT: f64 = SECOND + PANEL + 56.0;

/// Follows the reader's light or dark setting; the two callers also differ by dashes, not by colour only.
const STYLE: &str = "\
.back{fill:#ffffff}text{fill:#1f2328;font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}\
.title{font-size:17px;font-weight:600}.small{font-size:11.5px;fill:#59636e}.head{font-weight:600}\
.band{fill:#cf222e;fill-opacity:.10}.calm{fill:none}.grid{stroke:#d1d9e0;stroke-width:1}\
.edge{stroke:#d1d9e0;stroke-width:1;stroke-dasharray:2 3}\
.with,.without,.offered{fill:none;stroke-linejoin:round}\
.with{stroke:#0969da;stroke-width:2.4}.without{stroke:#bc4c00;stroke-width:2;stroke-dasharray:6 3}\
.offered{stroke:#818b98;stroke-width:1.2;stroke-dasharray:1.5 3}\
@media(prefers-color-scheme:dark){.back{fill:#0d1117}text{fill:#e6edf3}.small{fill:#9198a1}\
.band{fill:#f85149;fill-opacity:.16}.grid,.edge{stroke:#30363d}\
.with{stroke:#58a6ff}.without{stroke:#f0883e}.offered{stroke:#7d8590}}";

pub(crate) fn svg(day: &Day, worlds: &Worlds) -> String {
    let (gateway, straight) = (&worlds.gateway, &worlds.straight);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-labelledby=\"t d\">\n<title id=\"t\">One incident, with and without the gateway</title>\n\
         <desc id=\"d\">Answers in time and attempts sent to the backend, per second, over {:.0} \
         seconds of a scripted incident.</desc>\n<style>{STYLE}</style>\n\
         <rect class=\"back\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"30\">One incident, the same load with and without the \
         gateway</text>\n",
        day.length(),
    );
    legend(&mut out, worlds);
    phases(&mut out, day);

    let bins = Bins::new(day);
    let good = [bins.rates(&gateway.record.good), bins.rates(&straight.record.good)];
    let offered = bins.rates(&gateway.record.offered);
    let attempts = [bins.rates(&gateway.attempts), bins.rates(&straight.attempts)];
    let panels = [
        (FIRST, "Answered in time, per second", &good, Some(&offered)),
        (SECOND, "Attempts sent to the backend, per second", &attempts, None),
    ];
    for (top, title, [with, without], offered) in panels {
        let all = with.iter().chain(without).chain(offered.into_iter().flatten());
        let scale = Scale::new(all.copied().fold(RATE, f64::max));
        panel(&mut out, top, title, &scale);
        if let Some(offered) = offered {
            line(&mut out, "offered", &bins, offered, top, &scale);
        }
        line(&mut out, "without", &bins, without, top, &scale);
        line(&mut out, "with", &bins, with, top, &scale);
    }
    time_axis(&mut out, day);
    out.push_str("</svg>\n");
    out
}

/// The day cut into equal stretches of about half a second.
struct Bins {
    width: f64,
    count: usize,
    length: f64,
}

impl Bins {
    fn new(day: &Day) -> Self {
        let count = (day.length() * 2.0).clamp(10.0, 200.0).round();
        Self { width: day.length() / count, count: count as usize, length: day.length() }
    }

    fn rates(&self, tally: &Tally) -> Vec<f64> {
        (0..self.count)
            .map(|n| {
                let (from, until) = (n as f64 * self.width, (n + 1) as f64 * self.width);
                f64::from(tally.between(from, until)) / Tally::covered(from, until)
            })
            .collect()
    }

    fn x(&self, n: usize) -> f64 {
        x(self.length, (n as f64 + 0.5) * self.width)
    }
}

fn x(length: f64, at: f64) -> f64 {
    LEFT + at / length * (WIDTH - LEFT - RIGHT)
}

/// A round number at the top, and four steps to it.
struct Scale {
    step: f64,
}

impl Scale {
    fn new(max: f64) -> Self {
        let rough = max * 1.02 / 4.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0].map(|n| n * power);
        Self { step: step.into_iter().find(|&step| step >= rough).unwrap_or(rough) }
    }

    fn y(&self, top: f64, value: f64) -> f64 {
        top + PANEL - value / (4.0 * self.step) * PANEL
    }
}

fn legend(out: &mut String, worlds: &Worlds) {
    let total = |tally: &Tally| tally.between(0.0, f64::MAX);
    let offered = total(&worlds.gateway.record.offered);
    let [with, without] = [&worlds.gateway, &worlds.straight].map(|world| {
        let good = total(&world.record.good);
        format!("{good} ({:.1} %)", 100.0 * f64::from(good) / f64::from(offered.max(1)))
    });
    let _ = writeln!(
        out,
        "<text class=\"small\" text-anchor=\"end\" x=\"{}\" y=\"54.5\">of {offered} requests in time: {with} \
         against {without}</text>",
        WIDTH - RIGHT,
    );
    let mut at = LEFT;
    for (class, text, width) in [
        ("with", "through the gateway", 190.0),
        ("without", "straight to the backend", 210.0),
        ("offered", "offered", 100.0),
    ] {
        let _ = writeln!(
            out,
            "<path class=\"{class}\" d=\"M{at} 50h34\"/><text x=\"{}\" y=\"54.5\">{text}</text>",
            at + 42.0,
        );
        at += width;
    }
}

fn phases(out: &mut String, day: &Day) {
    for (n, phase) in day.phases.iter().enumerate() {
        let (from, until) = (x(day.length(), phase.from), x(day.length(), phase.until));
        let faulty = !phase.is_calm();
        for top in [FIRST, SECOND] {
            let class = if faulty { "band" } else { "calm" };
            let _ = writeln!(
                out,
                "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{PANEL}\"/>",
                until - from,
            );
            if n > 0 {
                let _ = writeln!(out, "<path class=\"edge\" d=\"M{from:.1} {top}v{PANEL}\"/>");
            }
        }
        let _ = writeln!(
            out,
            "<text class=\"small\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{}\">{}</text>",
            f64::midpoint(from, until),
            // Short calm stretches sit a line higher, where they cannot run into their neighbours.
            if faulty { FIRST - 8.0 } else { FIRST - 22.0 },
            phase.name,
        );
    }
}

fn panel(out: &mut String, top: f64, title: &str, scale: &Scale) {
    for n in 0..=4 {
        let value = f64::from(n) * scale.step;
        let y = scale.y(top, value);
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/><text class=\"small\" text-anchor=\"end\" \
             x=\"{}\" y=\"{:.1}\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
        );
    }
    let _ = writeln!(
        out,
        "<text class=\"head\" x=\"{LEFT}\" y=\"{}\">{title}</text>",
        if top > FIRST { top - 14.0 } else { top - 42.0 },
    );
}

fn line(out: &mut String, class: &str, bins: &Bins, values: &[f64], top: f64, scale: &Scale) {
    let _ = write!(out, "<path class=\"{class}\" d=\"");
    for (n, &value) in values.iter().enumerate() {
        let letter = if n == 0 { 'M' } else { 'L' };
        let _ = write!(out, "{letter}{:.1} {:.1}", bins.x(n), scale.y(top, value));
    }
    out.push_str("\"/>\n");
}

fn time_axis(out: &mut String, day: &Day) {
    let every = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0]
        .into_iter()
        .find(|every| day.length() / every <= 10.0)
        .unwrap_or(1200.0);
    for n in 0..=(day.length() / every) as u32 {
        let at = f64::from(n) * every;
        let _ = writeln!(
            out,
            "<text class=\"small\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{}\">{at} s</text>",
            x(day.length(), at),
            SECOND + PANEL + 22.0,
        );
    }
}
