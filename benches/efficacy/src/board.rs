//! Many runs on a few threads, and the table of scores.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::candidates::Candidate;
use crate::collapse::{Collapse, Shown};
use crate::run::run;
use crate::scenario::{Plan, Scenario, Shape};
use crate::score::score;
use crate::tally::Tally;

/// `f` for every item, in order, on this many threads. Every run has a thread of its own anyway.
pub(crate) fn each<T: Sync, U: Send>(
    items: &[T],
    threads: usize,
    f: impl Fn(&T) -> U + Sync,
) -> Vec<U> {
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<U>>> = items.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { break };
                    *done[at].lock().expect("no panic") = Some(f(item));
                }
            });
        }
    });
    done.into_iter()
        .map(|out| out.into_inner().expect("no panic").expect("every item was taken"))
        .collect()
}

/// All seeds of one candidate in one scenario.
pub(crate) struct Cell {
    pub(crate) runs: Vec<Tally>,
    pub(crate) score: f64,
    pub(crate) deviation: f64,
}

pub(crate) struct Board {
    pub(crate) plans: Vec<(Scenario, Plan)>,
    pub(crate) names: Vec<&'static str>,
    /// By candidate, then by scenario.
    pub(crate) cells: Vec<Vec<Cell>>,
}

pub(crate) struct Row {
    pub(crate) mean: f64,
    pub(crate) worst: f64,
    pub(crate) attempts: f64,
    pub(crate) peak: f64,
    pub(crate) waste: f64,
}

impl Board {
    pub(crate) fn run(
        shape: &Shape,
        scenarios: &[Scenario],
        candidates: &[Box<dyn Candidate>],
        seeds: u64,
        threads: usize,
    ) -> Self {
        let plans: Vec<(Scenario, Plan)> =
            scenarios.iter().map(|&scenario| (scenario, scenario.plan(shape))).collect();
        let jobs: Vec<(usize, usize, u64)> = (0..candidates.len())
            .flat_map(|c| (0..plans.len()).map(move |s| (c, s)))
            .flat_map(|(c, s)| (1..=seeds).map(move |seed| (c, s, seed)))
            .collect();
        let mut runs =
            each(&jobs, threads, |&(c, s, seed)| run(&plans[s].1, &*candidates[c], seed).tally)
                .into_iter();
        let mut cells: Vec<Vec<Cell>> = (0..candidates.len())
            .map(|_| {
                (0..plans.len())
                    .map(|_| Cell {
                        runs: runs.by_ref().take(seeds as usize).collect(),
                        score: 0.0,
                        deviation: 0.0,
                    })
                    .collect()
            })
            .collect();
        let raw = candidates.iter().position(|one| one.name() == "none").expect("always there");
        let oracle = candidates.iter().position(|one| one.central()).expect("always there");
        for c in 0..candidates.len() {
            for s in 0..plans.len() {
                let all: Vec<f64> = (0..seeds as usize)
                    .map(|seed| {
                        let tally = |c: usize| &cells[c][s].runs[seed];
                        score(&plans[s].1, tally(c), tally(raw), tally(oracle))
                    })
                    .collect();
                let mean = all.iter().sum::<f64>() / seeds as f64;
                let squares: f64 = all.iter().map(|one| (one - mean).powi(2)).sum();
                cells[c][s].score = mean;
                cells[c][s].deviation = (squares / (seeds as f64 - 1.0).max(1.0)).sqrt();
            }
        }
        Self { plans, names: candidates.iter().map(|one| one.name()).collect(), cells }
    }

    /// None if it was not run.
    pub(crate) fn at(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|other| *other == name)
    }

    pub(crate) fn row(&self, c: usize) -> Row {
        let faults: Vec<f64> = self
            .plans
            .iter()
            .zip(&self.cells[c])
            .filter(|((scenario, _), _)| *scenario != Scenario::S0 || self.plans.len() == 1)
            .map(|(_, cell)| cell.score)
            .collect();
        let mut row = Row {
            mean: faults.iter().sum::<f64>() / faults.len() as f64,
            worst: faults.iter().copied().fold(f64::INFINITY, f64::min),
            attempts: 0.0,
            peak: 0.0,
            waste: 0.0,
        };
        let (mut attempts, mut offered, mut runs) = (0, 0, 0.0);
        for ((_, plan), cell) in self.plans.iter().zip(&self.cells[c]) {
            for tally in &cell.runs {
                let all = tally.window((0, plan.seconds));
                attempts += all.attempts;
                offered += all.offered;
                row.peak = row.peak.max(tally.peak(plan.least_offered()));
                row.waste += tally.waste();
                runs += 1.0;
            }
        }
        row.attempts = attempts as f64 / offered.max(1) as f64;
        row.waste *= 100.0 / runs;
        row
    }

    pub(crate) fn table(&self) -> String {
        let mut out = format!("{:30}", "candidate");
        for (scenario, _) in &self.plans {
            let _ = write!(out, "{:>7}", scenario.name());
        }
        let _ = writeln!(
            out,
            "{:>7}{:>7}{:>8}{:>6}{:>8}",
            "mean", "worst", "att/req", "peak", "waste %"
        );
        for (c, name) in self.names.iter().enumerate() {
            let _ = write!(out, "{name:30}");
            for cell in &self.cells[c] {
                let _ = write!(out, "{:7.1}", cell.score);
            }
            let row = self.row(c);
            let _ = writeln!(
                out,
                "{:7.1}{:7.1}{:8.2}{:6.1}{:8.1}",
                row.mean, row.worst, row.attempts, row.peak, row.waste
            );
        }
        out
    }
}

/// A candidate in the collapses.
pub(crate) struct Collapsed {
    pub(crate) name: &'static str,
    pub(crate) by: Vec<CollapseCell>,
}

/// All seeds of one candidate in one collapse.
pub(crate) struct CollapseCell {
    pub(crate) collapse: Collapse,
    /// Means.
    pub(crate) shown: Shown,
    /// In how many runs it recovered.
    pub(crate) recovered: usize,
    pub(crate) runs: Vec<Tally>,
}

pub(crate) fn collapses(
    candidates: &[Box<dyn Candidate>],
    seeds: impl Fn(Collapse) -> u64,
    threads: usize,
) -> Vec<Collapsed> {
    // A central scheduler is no client of that server.
    let these: Vec<_> = candidates.iter().filter(|one| !one.central()).collect();
    let jobs: Vec<(usize, Collapse, u64)> = (0..these.len())
        .flat_map(|c| Collapse::ALL.map(|collapse| (c, collapse)))
        .flat_map(|(c, collapse)| (1..=seeds(collapse)).map(move |seed| (c, collapse, seed)))
        .collect();
    let mut tallies =
        each(&jobs, threads, |&(c, collapse, seed)| run(&collapse.plan(), &**these[c], seed).tally)
            .into_iter();
    let mut one = |collapse: Collapse| {
        let runs: Vec<Tally> = tallies.by_ref().take(seeds(collapse) as usize).collect();
        let all: Vec<Shown> = runs.iter().map(|tally| collapse.shown(tally)).collect();
        let n = all.len() as f64;
        let recovered: Vec<f64> = all.iter().filter_map(|shown| shown.recovery).collect();
        let shown = Shown {
            ok: all.iter().map(|shown| shown.ok).sum::<f64>() / n,
            load: all.iter().map(|shown| shown.load).sum::<f64>() / n,
            // The slowest; none if one did not.
            recovery: (recovered.len() == all.len())
                .then(|| recovered.iter().copied().fold(0.0, f64::max)),
        };
        CollapseCell { collapse, shown, recovered: recovered.len(), runs }
    };
    these
        .iter()
        .map(|this| Collapsed { name: this.name(), by: Collapse::ALL.map(&mut one).into() })
        .collect()
}

pub(crate) fn collapse_table(all: &[Collapsed]) -> String {
    let mut out = format!("{:30}", "collapse: answered, load");
    for collapse in Collapse::ALL {
        let _ = write!(out, "{:>26}", format!("{} (recovered)", collapse.name()));
    }
    out.push('\n');
    let _ = write!(out, "{:30}", "bar");
    for collapse in Collapse::ALL {
        let (ok, load) = collapse.bar();
        let _ = write!(out, "{:>26}", format!(">= {ok:.2}  <= {load:.2}"));
    }
    out.push('\n');
    for one in all {
        let _ = write!(out, "{:30}", one.name);
        for CollapseCell { shown, recovered, runs, .. } in &one.by {
            let recovery = match shown.recovery {
                Some(seconds) => format!("{seconds:.0} s"),
                None => format!("{recovered}/{}", runs.len()),
            };
            let cell = format!("{:.3}  {:.2}  {recovery:>7}", shown.ok, shown.load);
            let _ = write!(out, "{cell:>26}");
        }
        out.push('\n');
    }
    out
}
