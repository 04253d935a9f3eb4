//! What the default configuration is held to besides its scores, and what it shows.

use std::fmt::Write;

use crate::board::{Board, Cell, Collapsed};
use crate::collapse::Collapse;
use crate::scenario::{Plan, Scenario};
use crate::tally::Second;

/// One cell of the board, beside the oracle's: means over the seeds.
pub(crate) struct Measured<'a> {
    scenario: Scenario,
    plan: &'a Plan,
    cell: &'a Cell,
    oracle: &'a Cell,
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count.max(1))
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl<'a> Measured<'a> {
    /// None if the scenario was not run.
    pub(crate) fn of(board: &'a Board, c: usize, scenario: Scenario) -> Option<Self> {
        let s = board.plans.iter().position(|(other, _)| *other == scenario)?;
        let oracle = board.names.iter().position(|name| *name == "ORACLE")?;
        let (cell, oracle) = (&board.cells[c][s], &board.cells[oracle][s]);
        Some(Self { scenario, plan: &board.plans[s].1, cell, oracle })
    }

    fn over(&self, cell: &Cell, window: (usize, usize), f: fn(&Second) -> f64) -> f64 {
        mean(cell.runs.iter().map(|run| f(&run.window(window))))
    }

    /// Seconds from the end of the fault; none if one run did not recover.
    pub(crate) fn recovery(&self) -> Option<f64> {
        let end = match self.scenario {
            Scenario::S4 => 35,
            _ => 30,
        };
        let runs = self.cell.runs.iter().zip(&self.oracle.runs);
        let all: Option<Vec<f64>> = runs.map(|(this, oracle)| this.recovery(oracle, end)).collect();
        all.map(|all| mean(all.into_iter()))
    }

    /// For each request whose arrival counts.
    fn attempts(&self) -> f64 {
        self.over(self.cell, self.plan.window, |all| share(all.attempts, all.offered))
    }

    /// Attempts for each request while everything is refused, but for the second in which that is found out.
    pub(crate) fn while_down(&self) -> f64 {
        self.over(self.cell, (21, 30), |all| share(all.attempts, all.offered))
    }

    pub(crate) fn peak(&self) -> f64 {
        mean(self.cell.runs.iter().map(|run| run.peak(self.plan.least_offered())))
    }

    /// Share of the critical requests that are answered, in percent.
    pub(crate) fn critical(&self) -> f64 {
        self.over(self.cell, self.plan.window, |all| 100.0 * share(all.critical_good, all.critical))
    }

    /// The same of the others.
    pub(crate) fn other(&self) -> f64 {
        self.others_of(self.cell)
    }

    fn others_of(&self, cell: &Cell) -> f64 {
        self.over(cell, self.plan.window, |all| {
            100.0 * share(all.good - all.critical_good, all.offered - all.critical)
        })
    }
}

pub(crate) fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "NOT MET" }
}

struct Rows {
    text: String,
    missed: u32,
}

impl Rows {
    /// Values are compared as they are, and printed with three digits.
    fn row(&mut self, what: &str, bound: (&str, f64), measured: Option<f64>) {
        let (op, limit) = bound;
        let met = measured.is_some_and(|is| if op == "<=" { is <= limit } else { is >= limit });
        self.missed += u32::from(!met);
        let measured = measured.map_or("never in a run".to_owned(), |is| format!("{is:.3}"));
        let verdict = verdict(met);
        let bound = format!("{op} {limit:.3}");
        let _ = writeln!(self.text, "  {what:58}{bound:>12}{measured:>16}  {verdict}");
    }

    fn most(&mut self, what: &str, limit: f64, measured: f64) {
        self.row(what, ("<=", limit), Some(measured));
    }

    fn least(&mut self, what: &str, limit: f64, measured: f64) {
        self.row(what, (">=", limit), Some(measured));
    }
}

/// The bounds of `ours` in the scenarios that were run, and whether each is met.
pub(crate) fn table(board: &Board, collapsed: Option<&[Collapsed]>) -> String {
    let Some(c) = board.names.iter().position(|name| *name == "ours") else {
        return String::new();
    };
    let mut rows = Rows {
        text: String::from("bounds of `ours` (set for shape A), means over the seeds\n"),
        missed: 0,
    };
    for (scenario, _) in &board.plans {
        if let Some(one) = Measured::of(board, c, *scenario) {
            of_scenario(&mut rows, &one);
        }
    }
    if board.plans.len() == Scenario::ALL.len() {
        let oracle = board.names.iter().position(|name| *name == "ORACLE").unwrap_or(c);
        let limit = board.row(oracle).waste + 1.5;
        rows.most("wasted work, %: the oracle's and 1.5", limit, board.row(c).waste);
    }
    let ours = collapsed.and_then(|all| all.iter().find(|one| one.name == "ours"));
    for one in ours.into_iter().flat_map(|ours| &ours.by) {
        let (answered, load) = one.collapse.bar();
        let name = one.collapse.name();
        rows.least(&format!("{name}: answered"), answered, one.shown.ok);
        rows.most(&format!("{name}: attempts for each request"), load, one.shown.load);
        if one.collapse == Collapse::Link {
            let what = format!("{name}: seconds until recovered, slowest run");
            rows.row(&what, ("<=", 2.0), one.shown.recovery);
        }
    }
    let _ = writeln!(rows.text, "  {} not met", rows.missed);
    rows.text
}

fn of_scenario(rows: &mut Rows, one: &Measured<'_>) {
    let name = one.scenario.name();
    let attempts = format!("{name}: attempts for each request");
    let recovery = format!("{name}: seconds until as good as the oracle");
    let peak = format!("{name}: most attempts in a second for each request");
    match one.scenario {
        Scenario::S0 => rows.most(&attempts, 1.03, one.attempts()),
        Scenario::S1 => rows.most(&attempts, 1.05, one.attempts()),
        Scenario::S2 => {
            // One run has none.
            if one.cell.runs.len() > 1 {
                rows.most("S2: standard deviation of the score", 1.0, one.cell.deviation);
            }
            rows.row(&recovery, ("<=", 0.3), one.recovery());
            rows.most("S2: attempts for each request while down", 0.3, one.while_down());
        }
        Scenario::S3 => rows.most(&peak, 3.4, one.peak()),
        Scenario::S4 => rows.row(&recovery, ("<=", 0.5), one.recovery()),
        Scenario::S5 | Scenario::S5c => {
            rows.row(&recovery, ("<=", 0.25), one.recovery());
            rows.most(&peak, 1.3, one.peak());
        }
        Scenario::S7 | Scenario::S7b => rows.most(&attempts, 1.04, one.attempts()),
        Scenario::S8 => rows.most(&attempts, 0.55, one.attempts()),
        Scenario::S9 => rows.most(&attempts, 1.03, one.attempts()),
        Scenario::S10 => {
            rows.least("S10: critical requests answered, %", 99.99, one.critical());
            let limit = one.others_of(one.oracle) - 1.0;
            rows.least("S10: others answered, %: the oracle's less 1", limit, one.other());
        }
        Scenario::S2b | Scenario::S6 => {}
    }
}
