//! What the default configuration is held to, and what it shows.

use std::fmt::{self, Write};

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
        let oracle = board.at("ORACLE")?;
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

/// A candidate may fall behind no stack at all by this much.
pub(crate) const HARM: f64 = 0.5;

pub(crate) fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "NOT MET" }
}

/// Something that `ours` is held to.
pub(crate) struct Bound {
    pub(crate) what: String,
    limit: Limit,
    /// None if it never came to it in a run.
    measured: Option<f64>,
}

#[derive(Clone, Copy)]
enum Limit {
    Most(f64),
    Least(f64),
}

impl Bound {
    /// Whether it is met, or missed by no more than this. Values are compared as they are.
    pub(crate) fn met_but_for(&self, slack: f64) -> bool {
        self.measured.is_some_and(|is| match self.limit {
            Limit::Most(most) => is <= most + slack,
            Limit::Least(least) => is >= least - slack,
        })
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = match self.limit {
            Limit::Most(most) => format!("<= {most:.3}"),
            Limit::Least(least) => format!(">= {least:.3}"),
        };
        let measured = self.measured.map_or("never in a run".to_owned(), |is| format!("{is:.3}"));
        write!(f, "{:58}{bound:>12}{measured:>16}", self.what)
    }
}

#[derive(Default)]
struct Bounds(Vec<Bound>);

impl Bounds {
    fn most(&mut self, what: &str, limit: f64, measured: impl Into<Option<f64>>) {
        self.push(what, Limit::Most(limit), measured.into());
    }

    fn least(&mut self, what: &str, limit: f64, measured: impl Into<Option<f64>>) {
        self.push(what, Limit::Least(limit), measured.into());
    }

    fn push(&mut self, what: &str, limit: Limit, measured: Option<f64>) {
        self.0.push(Bound { what: what.to_owned(), limit, measured });
    }
}

/// Everything that `ours` is held to in what was run, and whether it is met.
pub(crate) fn table(board: &Board, collapsed: Option<&[Collapsed]>) -> String {
    let Some(c) = board.at("ours") else { return String::new() };
    let mut out =
        String::from("goals and bounds of `ours` (set for shape A), means over the seeds\n");
    let mut missed = 0;
    for one in goals(board, c).iter().chain(&bounds(board, c, collapsed)) {
        let met = one.met_but_for(0.0);
        missed += u32::from(!met);
        let _ = writeln!(out, "  {one}  {}", verdict(met));
    }
    let _ = writeln!(out, "  {missed} not met");
    out
}

/// The score of each scenario that was run.
fn goals(board: &Board, c: usize) -> Vec<Bound> {
    let mut all = Bounds::default();
    for ((scenario, _), cell) in board.plans.iter().zip(&board.cells[c]) {
        let goal = match scenario {
            Scenario::S0 => 100.0,
            Scenario::S1 => 99.95,
            Scenario::S2 => 97.0,
            Scenario::S2b | Scenario::S3 | Scenario::S5 => 99.7,
            Scenario::S4 => 96.0,
            Scenario::S5c => 99.8,
            Scenario::S6 => 99.0,
            Scenario::S7 | Scenario::S7b | Scenario::S8 | Scenario::S10 => 99.9,
            Scenario::S9 => 99.5,
        };
        all.least(&format!("{}: score", scenario.name()), goal, cell.score);
    }
    all.0
}

/// Everything else.
pub(crate) fn bounds(board: &Board, c: usize, collapsed: Option<&[Collapsed]>) -> Vec<Bound> {
    let mut all = Bounds::default();
    for (scenario, _) in &board.plans {
        if let Some(one) = Measured::of(board, c, *scenario) {
            of_scenario(&mut all, &one);
        }
    }
    let (row, oracle) = (board.row(c), board.at("ORACLE").map(|oracle| board.row(oracle)));
    if let Some(oracle) = oracle.filter(|_| board.plans.len() == Scenario::ALL.len()) {
        all.least("score, mean of all with a fault", 99.0, row.mean);
        all.least("score, worst of all with a fault", 96.0, row.worst);
        let most = oracle.waste + 1.5;
        all.most("wasted work, %: the oracle's and 1.5", most, row.waste);
    }
    let gain = |(ours, none): (&Cell, &Cell)| ours.score - none.score;
    let none = board.at("none").map(|none| board.cells[c].iter().zip(&board.cells[none]));
    let least = none.and_then(|cells| cells.map(gain).min_by(f64::total_cmp));
    all.least("score beyond that of no stack, least", -HARM, least);
    let ours = collapsed.and_then(|all| all.iter().find(|one| one.name == board.names[c]));
    for one in ours.into_iter().flat_map(|ours| &ours.by) {
        let (answered, load) = one.collapse.bar();
        let name = one.collapse.name();
        all.least(&format!("{name}: answered"), answered, one.shown.ok);
        all.most(&format!("{name}: attempts for each request"), load, one.shown.load);
        if one.collapse == Collapse::Link {
            let what = format!("{name}: seconds until recovered, slowest run");
            all.most(&what, 2.0, one.shown.recovery);
        }
    }
    all.0
}

fn of_scenario(all: &mut Bounds, one: &Measured<'_>) {
    let name = one.scenario.name();
    let attempts = format!("{name}: attempts for each request");
    let recovery = format!("{name}: seconds until as good as the oracle");
    let peak = format!("{name}: most attempts in a second for each request");
    match one.scenario {
        Scenario::S0 => all.most(&attempts, 1.03, one.attempts()),
        Scenario::S1 => all.most(&attempts, 1.05, one.attempts()),
        Scenario::S2 => {
            // One run has none.
            if one.cell.runs.len() > 1 {
                all.most("S2: standard deviation of the score", 1.0, one.cell.deviation);
            }
            all.most(&recovery, 0.3, one.recovery());
            all.most("S2: attempts for each request while down", 0.3, one.while_down());
        }
        Scenario::S3 => all.most(&peak, 3.4, one.peak()),
        Scenario::S4 => all.most(&recovery, 0.5, one.recovery()),
        Scenario::S5 | Scenario::S5c => {
            all.most(&recovery, 0.25, one.recovery());
            all.most(&peak, 1.3, one.peak());
        }
        Scenario::S7 | Scenario::S7b => all.most(&attempts, 1.04, one.attempts()),
        Scenario::S8 => all.most(&attempts, 0.55, one.attempts()),
        Scenario::S9 => all.most(&attempts, 1.03, one.attempts()),
        Scenario::S10 => {
            all.least("S10: critical requests answered, %", 99.99, one.critical());
            let limit = one.others_of(one.oracle) - 1.0;
            all.least("S10: others answered, %: the oracle's less 1", limit, one.other());
        }
        Scenario::S2b | Scenario::S6 => {}
    }
}
