//! The charts, written by hand: an SVG is text, and these need lines, bands and labels only.

use std::fmt::Write;
use std::io;
use std::path::Path;

use crate::board::{Board, Collapsed};
use crate::collapse::Collapse;
use crate::scenario::{Plan, WELL};
use crate::tally::{Second, Tally};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const PANEL: f64 = 190.0;
const FIRST: f64 = 126.0;
const SECOND: f64 = FIRST + PANEL + 62.0;
const HEIGHT: f64 = SECOND + PANEL + 56.0;

/// Follows the reader's light or dark setting; lines differ by dashes, not by colour only.
const STYLE: &str = "\
.back{fill:#ffffff}text{fill:#1f2328;font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}\
.title{font-size:17px;font-weight:600}.small{font-size:11.5px;fill:#59636e}.head{font-weight:600}\
.band{fill:#cf222e;fill-opacity:.10}.grid{stroke:#d1d9e0;stroke-width:1}\
.l0,.l1,.l2,.l3,.l4{fill:none;stroke-linejoin:round}\
.l0{stroke:#818b98;stroke-width:1.4;stroke-dasharray:1.5 3}.l1{stroke:#bc4c00;stroke-width:2;stroke-dasharray:6 3}\
.l2{stroke:#8250df;stroke-width:2;stroke-dasharray:9 3 2 3}.l3{stroke:#0969da;stroke-width:2.4}\
.l4{stroke:#1a7f37;stroke-width:1.4}.cell{stroke:#ffffff;stroke-width:2}.in{fill:#1f2328}\
@media(prefers-color-scheme:dark){.back{fill:#0d1117}text{fill:#e6edf3}.small{fill:#9198a1}\
.band{fill:#f85149;fill-opacity:.16}.grid{stroke:#30363d}.l0{stroke:#7d8590}.l1{stroke:#f0883e}\
.l2{stroke:#a371f7}.l3{stroke:#58a6ff}.l4{stroke:#3fb950}.cell{stroke:#0d1117}.in{fill:#1f2328}}";

pub(crate) fn write(dir: &Path, board: &Board, collapsed: &[Collapsed]) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("scores.svg"), matrix(board))?;
    let drawn = drawn(board);
    for (s, (scenario, plan)) in board.plans.iter().enumerate() {
        let lines =
            drawn.iter().map(|&(c, class)| Line::of(board, c, class, &board.cells[c][s].runs));
        let title = format!("{}: {}", scenario.name(), scenario.what());
        let name = format!("{}.svg", scenario.name());
        std::fs::write(dir.join(name), seconds(&title, plan, lines.collect()))?;
    }
    for (at, collapse) in Collapse::ALL.into_iter().enumerate() {
        // The oracle is not in them.
        let lines = drawn.iter().filter_map(|&(c, class)| {
            let one = collapsed.iter().find(|one| one.name == board.names[c])?;
            Some(Line::of(board, c, class, &one.by[at].runs))
        });
        let lines: Vec<Line<'_>> = lines.collect();
        if !lines.is_empty() {
            let title = format!("{}: {}", collapse.name(), collapse.what());
            let name = format!("{}.svg", collapse.word());
            std::fs::write(dir.join(name), seconds(&title, &collapse.plan(), lines))?;
        }
    }
    Ok(())
}

fn head(out: &mut String, height: f64, title: &str, what: &str) {
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-labelledby=\"t d\">\n<title id=\"t\">{title}</title>\n<desc id=\"d\">{what}</desc>\n\
         <style>{STYLE}</style>\n<rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"30\">{title}</text>"
    );
}

/// Those that are drawn, the more important above: no stack, the best peer by mean, the oracle, `ours`. All of them
/// would be too many lines to tell apart; the numbers of the others are in seconds.csv.
fn drawn(board: &Board) -> Vec<(usize, &'static str)> {
    let best = |wanted: fn(&str) -> bool| {
        (0..board.names.len())
            .filter(|&c| wanted(board.names[c]))
            .max_by(|a, b| board.row(*a).mean.total_cmp(&board.row(*b).mean))
    };
    let peer = |name: &str| !name.starts_with("ours") && !["none", "ORACLE"].contains(&name);
    let ours = best(|name| name == "ours").or(best(|name| name.starts_with("ours")));
    [
        (best(|name| name == "none"), "l1"),
        (best(peer), "l2"),
        (best(|name| name == "ORACLE"), "l4"),
        (ours, "l3"),
    ]
    .into_iter()
    .filter_map(|(c, class)| c.map(|c| (c, class)))
    .collect()
}

/// One candidate, second by second: means over its runs.
struct Line<'a> {
    class: &'static str,
    name: &'a str,
    runs: &'a [Tally],
}

impl<'a> Line<'a> {
    fn of(board: &'a Board, c: usize, class: &'static str, runs: &'a [Tally]) -> Self {
        Self { class, name: board.names[c], runs }
    }

    fn values(&self, seconds: usize, value: fn(&Second) -> u64) -> Vec<f64> {
        let at = |at| self.runs.iter().map(|run| value(&run.seconds[at])).sum::<u64>() as f64;
        (0..seconds).map(|second| at(second) / self.runs.len().max(1) as f64).collect()
    }
}

/// Its top, what it shows, and how.
type Panel = (f64, &'static str, fn(&Second) -> u64);

/// What is answered and what is sent, second by second.
fn seconds(title: &str, plan: &Plan, lines: Vec<Line<'_>>) -> String {
    let mut out = String::new();
    let runs = lines[0].runs.len();
    let of_runs = if runs == 1 { "one run".to_owned() } else { format!("mean of {runs} runs") };
    let what = format!(
        "Answers in time by arrival, and attempts sent to the servers, per second, {of_runs}: \
         no stack, the best peer, buttress, the oracle."
    );
    head(&mut out, HEIGHT, &title.replace('<', "&lt;"), &what);
    let mut at = LEFT;
    for (class, name) in
        [("l0", "offered")].into_iter().chain(lines.iter().map(|line| (line.class, line.name)))
    {
        let _ = writeln!(
            out,
            "<path class=\"{class}\" d=\"M{at} 58h28\"/><text class=\"small\" x=\"{}\" y=\"62\">{name}</text>",
            at + 34.0
        );
        at += 58.0 + 6.6 * name.len() as f64;
    }
    let _ = writeln!(
        out,
        "<text class=\"small\" text-anchor=\"end\" x=\"{}\" y=\"62\">{of_runs}</text>",
        WIDTH - RIGHT
    );
    let panels: [Panel; 2] = [
        (FIRST, "Answered in time, per second of arrival", |second| second.good),
        (SECOND, "Attempts sent to the servers, per second", |second| second.attempts),
    ];
    let offered = lines[0].values(plan.seconds, |second| second.offered);
    for (top, label, value) in panels {
        let all: Vec<Vec<f64>> = lines.iter().map(|one| one.values(plan.seconds, value)).collect();
        let most = all.iter().chain([&offered]).flatten().copied().fold(1.0, f64::max);
        let scale = most * 1.05;
        panel(&mut out, plan, top, label, scale);
        line(&mut out, "l0", &offered, top, scale);
        for (one, values) in lines.iter().zip(&all) {
            line(&mut out, one.class, values, top, scale);
        }
    }
    out.push_str("</svg>\n");
    out
}

fn x(seconds: usize, at: f64) -> f64 {
    LEFT + at / seconds as f64 * (WIDTH - LEFT - RIGHT)
}

fn panel(out: &mut String, plan: &Plan, top: f64, label: &str, scale: f64) {
    let bottom = top + PANEL;
    for at in 0..plan.seconds {
        let bad = (0..plan.servers).any(|server| plan.condition(server, at as f64 + 0.5) != WELL);
        if bad {
            let (from, until) = (x(plan.seconds, at as f64), x(plan.seconds, at as f64 + 1.0));
            let width = until - from;
            let _ = writeln!(
                out,
                "<rect class=\"band\" x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{PANEL}\"/>"
            );
        }
    }
    let _ = writeln!(out, "<text class=\"head\" x=\"{LEFT}\" y=\"{}\">{label}</text>", top - 12.0);
    for step in 0..=4 {
        let y = bottom - PANEL * f64::from(step) / 4.0;
        let value = scale * f64::from(step) / 4.0;
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>\
             <text class=\"small\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{value:.0}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0
        );
    }
    for at in (0..=plan.seconds).step_by(if plan.seconds > 100 { 50 } else { 10 }) {
        let _ = writeln!(
            out,
            "<text class=\"small\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{}\">{at} s</text>",
            x(plan.seconds, at as f64),
            bottom + 18.0
        );
    }
}

fn line(out: &mut String, class: &str, values: &[f64], top: f64, scale: f64) {
    let _ = write!(out, "<path class=\"{class}\" d=\"");
    for (at, value) in values.iter().enumerate() {
        let y = top + PANEL - value / scale * PANEL;
        let letter = if at == 0 { 'M' } else { 'L' };
        let _ = write!(out, "{letter}{:.1} {y:.1}", x(values.len(), at as f64 + 0.5));
    }
    out.push_str("\"/>\n");
}

/// Scores as a table of coloured cells; every cell has its number.
fn matrix(board: &Board) -> String {
    const FIRST_COLUMN: f64 = 250.0;
    const ROW: f64 = 26.0;
    let height = 90.0 + ROW * board.names.len() as f64;
    let mut out = String::new();
    let what = "Score of each candidate in each scenario, from -100 to 100.";
    head(&mut out, height, "Goodput kept while things break (100 = an oracle that sees all)", what);
    let columns = board.plans.len() as f64 + 1.0;
    let width = (WIDTH - FIRST_COLUMN - RIGHT) / columns;
    let labels = board.plans.iter().map(|(scenario, _)| scenario.name()).chain(["mean"]);
    for (s, label) in labels.enumerate() {
        let middle = FIRST_COLUMN + width * (s as f64 + 0.5);
        let _ = writeln!(
            out,
            "<text class=\"small\" text-anchor=\"middle\" x=\"{middle:.1}\" y=\"58\">{label}</text>"
        );
    }
    for (c, name) in board.names.iter().enumerate() {
        let top = 66.0 + ROW * c as f64;
        let _ = writeln!(out, "<text x=\"24\" y=\"{}\">{name}</text>", top + 17.5);
        let scores = board.cells[c].iter().map(|cell| cell.score).chain([board.row(c).mean]);
        for (s, score) in scores.enumerate() {
            let left = FIRST_COLUMN + width * s as f64;
            // Red over yellow to green.
            let hue = 120.0 * (score.clamp(0.0, 100.0) / 100.0).powi(2);
            let _ = writeln!(
                out,
                "<rect class=\"cell\" style=\"fill:hsl({hue:.0} 62% 72%)\" x=\"{left:.1}\" y=\"{top}\" \
                 width=\"{width:.1}\" height=\"{ROW}\"/><text class=\"small in\" text-anchor=\"middle\" \
                 x=\"{:.1}\" y=\"{}\">{score:.1}</text>",
                left + width / 2.0,
                top + 17.5
            );
        }
    }
    out.push_str("</svg>\n");
    out
}
