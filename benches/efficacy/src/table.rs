//! What is printed and written, but for the scores and the charts.

use std::fmt::Write;
use std::io;
use std::path::Path;

use crate::args::Args;
use crate::board::{Board, CollapseCell, Collapsed};
use crate::candidates::Candidate;
use crate::constraints::{HARM, Measured, verdict};
use crate::random_shape;
use crate::scenario::{Scenario, Shape};
use crate::tally::Tally;

pub(crate) fn shape(shape: &Shape) -> String {
    format!(
        "{} clients, {} workers x {:?} (sigma {:.2}), deadline {:?}, load {:.0} %, burstiness {:.1}",
        shape.clients,
        shape.workers,
        shape.service,
        shape.sigma,
        shape.deadline,
        shape.utilisation * 100.0,
        shape.burstiness,
    )
}

/// Cells in which a candidate is worse than no stack at all.
pub(crate) fn harm(board: &Board) -> String {
    let mut out = format!("worse than none by more than {HARM}:\n");
    let raw = board.at("none").unwrap_or(0);
    for (c, name) in board.names.iter().enumerate() {
        let worse: Vec<&str> = board
            .plans
            .iter()
            .enumerate()
            .filter(|(s, _)| board.cells[c][*s].score < board.cells[raw][*s].score - HARM)
            .map(|(_, (scenario, _))| scenario.name())
            .collect();
        if !worse.is_empty() {
            let _ = writeln!(out, "  {name:30}{}", worse.join(" "));
        }
    }
    out
}

/// What the constraints of the goals are about, of every candidate.
pub(crate) fn details(board: &Board) -> String {
    let mut out = String::from(
        "means over the seeds: seconds from the end of the fault until as good as the oracle but for 5 % (none if it was\n\
         not so in every run); attempts for each request while it is down (S2, 21-30 s); peak; requests answered, %\n",
    );
    let _ = write!(out, "{:30}{:>7}{:>7}{:>7}", "candidate", "S2", "S4", "S5");
    let _ = writeln!(
        out,
        "{:>7}{:>9}{:>9}{:>9}{:>10}{:>9}",
        "S5c", "down", "peak S3", "peak S5", "critical", "other"
    );
    for (c, name) in board.names.iter().enumerate() {
        let of = |scenario| Measured::of(board, c, scenario);
        let _ = write!(out, "{name:30}");
        for scenario in [Scenario::S2, Scenario::S4, Scenario::S5, Scenario::S5c] {
            let _ = match of(scenario).and_then(|one| one.recovery()) {
                Some(seconds) => write!(out, "{seconds:7.2}"),
                None => write!(out, "{:>7}", "-"),
            };
        }
        let mut cell = |scenario, f: fn(&Measured<'_>) -> f64, width: usize| {
            let _ = match of(scenario).as_ref().map(f) {
                Some(value) => write!(out, "{value:width$.2}"),
                None => write!(out, "{:>width$}", "-"),
            };
        };
        cell(Scenario::S2, |one| one.while_down(), 9);
        cell(Scenario::S3, |one| one.peak(), 9);
        cell(Scenario::S5, |one| one.peak(), 9);
        cell(Scenario::S10, |one| one.critical(), 10);
        cell(Scenario::S10, |one| one.other(), 9);
        out.push('\n');
    }
    out
}

/// Mean, tenth percentile and worst over shapes of each candidate's mean over the fault scenarios.
pub(crate) fn random_shapes(
    args: &Args,
    scenarios: &[Scenario],
    candidates: &[Box<dyn Candidate>],
) -> String {
    let mut means: Vec<Vec<f64>> = vec![Vec::new(); candidates.len()];
    let mut shares = means.clone();
    // Of each of ours: points behind the oracle, and cells worse than none, marked with `!`.
    let mut lost = vec![vec![(0.0, 0); scenarios.len()]; candidates.len()];
    let mut out = String::from("random shapes\n");
    for n in args.first_shape..args.first_shape + args.random_shapes {
        let drawn = random_shape(n);
        let _ = writeln!(out, "{n:4}: {}", shape(&drawn));
        let board = Board::run(&drawn, scenarios, candidates, args.shape_seeds, args.threads);
        let oracle = candidates.iter().position(|one| one.central()).unwrap_or(0);
        let raw = candidates.iter().position(|one| one.name() == "none").unwrap_or(0);
        for (c, candidate) in candidates.iter().enumerate() {
            let ours = candidate.name().starts_with("ours");
            if ours || candidate.central() {
                let _ = write!(out, "      {:24}", candidate.name());
                for (s, scenario) in scenarios.iter().enumerate() {
                    let [score, raw, oracle] = [c, raw, oracle].map(|c| board.cells[c][s].score);
                    let harm = if ours && score < raw - HARM { "!" } else { "" };
                    let _ = write!(out, " {} {score:.1}{harm}", scenario.name());
                    if ours {
                        lost[c][s].0 += (oracle - score) / args.random_shapes as f64;
                        lost[c][s].1 += u32::from(score < raw - HARM);
                    }
                }
                out.push('\n');
            }
        }
        for (c, means) in means.iter_mut().enumerate() {
            means.push(board.row(c).mean);
            shares[c].push(100.0 * board.row(c).mean / board.row(oracle).mean);
        }
    }
    out.push_str(
        "behind the oracle on average, and in how many shapes worse than none by more than 0.5:\n",
    );
    for (candidate, lost) in candidates.iter().zip(lost) {
        if candidate.name().starts_with("ours") {
            let _ = write!(out, "      {:24}", candidate.name());
            for (scenario, (points, harm)) in scenarios.iter().zip(lost) {
                let _ = write!(out, " {} {points:.1} ({harm})", scenario.name());
            }
            out.push('\n');
        }
    }
    let _ = writeln!(out, "{:30}{:>26}{:>26}", "", "mean score of a shape", "as % of the oracle's");
    let _ = write!(out, "{:30}", "candidate");
    let _ = writeln!(
        out,
        "{:>12}{:>7}{:>7}{:>12}{:>7}{:>7}",
        "mean", "10th", "worst", "mean", "10th", "worst"
    );
    let mut goals = String::new();
    for ((candidate, means), shares) in candidates.iter().zip(means).zip(shares) {
        let _ = write!(out, "{:30}", candidate.name());
        for (mut all, scores) in [(means, true), (shares, false)] {
            all.sort_by(f64::total_cmp);
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let tenth = all[all.len() / 10];
            let _ = write!(out, "{mean:12.1}{tenth:7.1}{:7.1}", all[0]);
            if scores && candidate.name() == "ours" {
                for (what, is, goal) in [("mean", mean, 95.0), ("tenth percentile", tenth, 90.0)] {
                    let verdict = verdict(is >= goal);
                    let _ =
                        writeln!(goals, "ours, {what} of the shapes >= {goal}: {is:.1}, {verdict}");
                }
            }
        }
        out.push('\n');
    }
    out + &goals
}

/// Scores, seconds and, if they were run, collapses.
pub(crate) fn csv(dir: &Path, board: &Board, collapsed: &[Collapsed]) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut scores =
        String::from("candidate,scenario,score,deviation,attempts_per_request,peak,waste\n");
    let mut seconds = String::from(
        "candidate,scenario,seed,second,offered,attempts,refused,good,critical,critical_good,in_flight,queue,busy\n",
    );
    for (c, name) in board.names.iter().enumerate() {
        for ((scenario, plan), cell) in board.plans.iter().zip(&board.cells[c]) {
            let n = cell.runs.len().max(1) as f64;
            let mean = |f: &dyn Fn(&Tally) -> f64| cell.runs.iter().map(f).sum::<f64>() / n;
            let attempts = mean(&|run| {
                let all = run.window((0, plan.seconds));
                all.attempts as f64 / all.offered.max(1) as f64
            });
            let peak = mean(&|run| run.peak(plan.least_offered()));
            let waste = mean(&Tally::waste);
            let _ = writeln!(
                scores,
                "\"{name}\",{},{:.3},{:.3},{attempts:.4},{peak:.3},{waste:.4}",
                scenario.name(),
                cell.score,
                cell.deviation,
            );
            by_second(&mut seconds, name, scenario.name(), plan.seconds, &cell.runs);
        }
    }
    if !collapsed.is_empty() {
        let mut out = String::from(
            "candidate,collapse,answered,attempts_per_request,recovered,runs,slowest\n",
        );
        for one in collapsed {
            for CollapseCell { collapse, shown, recovered, runs } in &one.by {
                let slowest = shown.recovery.map_or(String::new(), |slowest| slowest.to_string());
                let _ = writeln!(
                    out,
                    "\"{}\",{},{:.4},{:.4},{recovered},{},{slowest}",
                    one.name,
                    collapse.word(),
                    shown.ok,
                    shown.load,
                    runs.len(),
                );
                let all = collapse.plan().seconds;
                by_second(&mut seconds, one.name, &collapse.word(), all, runs);
            }
        }
        std::fs::write(dir.join("collapses.csv"), out)?;
    }
    std::fs::write(dir.join("scores.csv"), scores)?;
    std::fs::write(dir.join("seconds.csv"), seconds)
}

fn by_second(out: &mut String, name: &str, scenario: &str, seconds: usize, runs: &[Tally]) {
    for (run, seed) in runs.iter().zip(1_u64..) {
        for (at, second) in run.seconds[..seconds].iter().enumerate() {
            let _ = writeln!(
                out,
                "\"{name}\",{scenario},{seed},{at},{},{},{},{},{},{},{},{},{}",
                second.offered,
                second.attempts,
                second.refused,
                second.good,
                second.critical,
                second.critical_good,
                second.in_flight,
                second.queue,
                second.busy,
            );
        }
    }
}
