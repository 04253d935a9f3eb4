//! The picture: what callers got, stacked, and what the layers did about it. An SVG is text.

use std::fmt::Write;

use crate::Second;
use crate::plan::Step;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 24.0;
const PANEL: f64 = 180.0;
const FIRST: f64 = 104.0;
const SECOND: f64 = FIRST + PANEL + 60.0;
const HEIGHT: f64 = SECOND + PANEL + 48.0;

const STYLE: &str = "\
.back{fill:#ffffff}text{fill:#1f2328;font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}\
.title{font-size:17px;font-weight:600}.small{font-size:11.5px;fill:#59636e}\
.edge{stroke:#818b98;stroke-width:1;stroke-dasharray:2 3}.axis{stroke:#d1d9e0}\
.worked{fill:#2da44e}.shed{fill:#bf8700}.open{fill:#8250df}.failed{fill:#cf222e}\
.injected,.retried{fill:none;stroke-width:2.2;stroke-linejoin:round}\
.injected{stroke:#cf222e}.retried{stroke:#0969da;stroke-dasharray:6 3}\
@media(prefers-color-scheme:dark){.back{fill:#0d1117}text{fill:#e6edf3}.small{fill:#9198a1}\
.axis{stroke:#30363d}.injected{stroke:#f85149}.retried{stroke:#58a6ff}}";

/// How a call ended, from the bottom of the stack to its top.
const ENDS: [(&str, &str); 4] = [
    ("worked", "worked"),
    ("shed", "refused by the failure budget"),
    ("open", "refused by the circuit breaker"),
    ("failed", "failed"),
];

pub(crate) fn svg(plan: &[Step], seconds: &[Second], width: f64) -> String {
    let length = width * seconds.len() as f64;
    let x = |at: f64| LEFT + at / length * (WIDTH - LEFT - RIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <title>A day of faults</title>\n<style>{STYLE}</style>\n\
         <rect class=\"back\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"30\">A day of faults, and what each layer did</text>\n"
    );
    let mut at = LEFT;
    for (class, text) in ENDS {
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{at}\" y=\"44\" width=\"12\" height=\"12\"/>\
             <text class=\"small\" x=\"{}\" y=\"54\">{text}</text>",
            at + 18.0
        );
        at += 50.0 + 6.6 * text.len() as f64;
    }
    for (step, next) in plan.iter().zip(plan.iter().skip(1)) {
        let (from, until) = (x(step.at), x(next.at.min(length)));
        let _ = writeln!(
            out,
            "<path class=\"edge\" d=\"M{from:.1} {} V{}\"/>\
             <text class=\"small\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{}\">{}</text>",
            FIRST - 12.0,
            SECOND + PANEL,
            f64::midpoint(from, until),
            FIRST - 14.0,
            escape(&step.say),
        );
    }

    let per_second = |n: u32| f64::from(n) / width;
    let most = seconds.iter().map(|s| s.ends.iter().sum::<u32>()).max().unwrap_or(1).max(1);
    let column = (WIDTH - LEFT - RIGHT) / seconds.len() as f64;
    axis(&mut out, FIRST, "Calls per second, by how they ended", per_second(most));
    for (n, second) in seconds.iter().enumerate() {
        let mut top = FIRST + PANEL;
        for ((class, _), count) in ENDS.iter().zip(second.ends) {
            let height = f64::from(count) / f64::from(most) * PANEL;
            top -= height;
            if count > 0 {
                let _ = writeln!(
                    out,
                    "<rect class=\"{class}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
                    x(n as f64 * width) + 0.5,
                    column - 1.0,
                );
            }
        }
    }
    let most = seconds.iter().map(|s| s.injected.max(s.retried)).max().unwrap_or(1).max(1);
    axis(&mut out, SECOND, "Per second", per_second(most));
    for (class, text, label, of) in [
        ("injected", "faults injected", LEFT + 90.0, (|s| s.injected) as fn(&Second) -> u32),
        ("retried", "retries", LEFT + 240.0, |s| s.retried),
    ] {
        let points: String =
            seconds.iter().enumerate().fold(String::new(), |mut points, (n, s)| {
                let y = SECOND + PANEL - f64::from(of(s)) / f64::from(most) * PANEL;
                let _ = write!(points, "{:.1},{y:.1} ", x((n as f64 + 0.5) * width));
                points
            });
        let _ = writeln!(
            out,
            "<polyline class=\"{class}\" points=\"{points}\"/>\
             <path class=\"{class}\" d=\"M{label} {y}h30\"/><text class=\"small\" x=\"{}\" y=\"{}\">{text}</text>",
            label + 38.0,
            SECOND - 8.0,
            y = SECOND - 12.0,
        );
    }
    let step = (length / 10.0).ceil().max(1.0);
    let mut at = 0.0;
    while at <= length {
        let _ = writeln!(
            out,
            "<text class=\"small\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{}\">{at:.0} s</text>",
            x(at),
            SECOND + PANEL + 20.0
        );
        at += step;
    }
    out.push_str("</svg>\n");
    out
}

fn axis(out: &mut String, top: f64, title: &str, most: f64) {
    let _ = writeln!(
        out,
        "<path class=\"axis\" d=\"M{LEFT} {bottom}H{}\"/>\
         <text class=\"small\" text-anchor=\"end\" x=\"{}\" y=\"{}\">{most:.0}</text>\
         <text class=\"small\" text-anchor=\"end\" x=\"{}\" y=\"{bottom}\">0</text>\
         <text class=\"small\" x=\"{LEFT}\" y=\"{}\">{title}</text>",
        WIDTH - RIGHT,
        LEFT - 8.0,
        top + 8.0,
        LEFT - 8.0,
        if top > FIRST { top - 8.0 } else { top + PANEL + 16.0 },
        bottom = top + PANEL,
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
