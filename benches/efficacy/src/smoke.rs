//! The short run of the test suite: rows that check the rig itself, floors for ours, and the same bytes twice.
//!
//! The ranges of the rig are what five seeds showed, widened by three of their deviations and a point; a cell
//! that jumps between two ends from seed to seed is left out (`ANY`).

use crate::board::{self, Board};
use crate::candidates::{self, Candidate};
use crate::collapse::Collapse;
use crate::run;
use crate::scenario::{Scenario, Shape};

const SEEDS: u64 = 2;
const ANY: (f64, f64) = (-100.0, 100.0);

type Ranges = [(f64, f64); 14];

/// In the order of `Scenario::ALL`.
const RIG: &[(&str, Ranges)] = &[
    (
        "none",
        [
            (99.0, 100.0),
            (0.0, 0.0),
            (85.0, 91.0),
            (95.0, 98.0),
            (63.0, 67.0),
            (86.0, 94.0),
            (83.0, 88.0),
            (84.0, 100.0),
            (72.0, 76.0),
            (0.0, 0.0),
            (0.0, 0.0),
            (98.0, 100.0),
            (0.0, 0.0),
            (-1.0, 12.0),
        ],
    ),
    (
        "naive retry x3 fixed 50ms",
        [
            (99.0, 100.0),
            (98.0, 100.0),
            (-1.0, 3.0),
            (2.0, 6.0),
            (86.0, 91.0),
            (-2.0, 2.0),
            (-1.0, 3.0),
            (-1.0, 4.0),
            (75.0, 80.0),
            (94.0, 98.0),
            (93.0, 99.0),
            (-2.0, 2.0),
            (87.0, 99.0),
            (-1.0, 1.0),
        ],
    ),
    (
        "tower retry x3 + TpsBudget",
        [
            (99.0, 100.0),
            (98.0, 100.0),
            (62.0, 78.0),
            (95.0, 99.0),
            (76.0, 80.0),
            (64.0, 72.0),
            (54.0, 65.0),
            (75.0, 79.0),
            (73.0, 78.0),
            (93.0, 98.0),
            (94.0, 99.0),
            (98.0, 100.0),
            (65.0, 88.0),
            (-1.0, 1.0),
        ],
    ),
    (
        "t-r retry + breaker, defaults",
        [
            (99.0, 100.0),
            (98.0, 100.0),
            (-1.0, 1.0),
            ANY,
            (87.0, 90.0),
            (10.0, 17.0),
            (6.0, 10.0),
            (0.0, 3.0),
            (37.0, 46.0),
            (94.0, 98.0),
            (94.0, 98.0),
            (-1.0, 3.0),
            (63.0, 91.0),
            (-1.0, 2.0),
        ],
    ),
    (
        "recloser dflt + retry x3",
        [
            (99.0, 100.0),
            (98.0, 100.0),
            (-1.0, 1.0),
            (-1.0, 1.0),
            (21.0, 28.0),
            (33.0, 38.0),
            (23.0, 28.0),
            (2.0, 6.0),
            (5.0, 9.0),
            (94.0, 98.0),
            (93.0, 99.0),
            (-1.0, 2.0),
            (87.0, 99.0),
            (-1.0, 3.0),
        ],
    ),
    (
        "ORACLE",
        [
            (99.0, 100.0),
            (99.0, 100.0),
            (99.0, 100.0),
            (99.0, 100.0),
            (99.0, 100.0),
            (99.0, 100.0),
            (99.0, 100.0),
            (99.0, 100.0),
            (99.0, 100.0),
            (99.0, 100.0),
            (99.0, 100.0),
            (99.0, 100.0),
            (98.0, 100.0),
            (99.0, 100.0),
        ],
    ),
];

/// Ours may get better at any time, but not worse. Raised with every improvement.
const OURS: &[(&str, [f64; 14])] = &[
    ("ours", [99.99, 99.9, 99.5, 99.0, 98.5, 96.0, 99.8, 99.7, 99.5, 99.5, 99.5, 99.2, 80.0, 99.7]),
    (
        "ours: retry alone",
        [99.0, 98.0, -1.0, 1.0, 87.0, -2.0, -1.0, 2.0, 74.0, 93.0, 94.0, 98.0, 89.0, -1.0],
    ),
    (
        "ours: + budget",
        [99.0, 98.0, 62.0, 95.0, 67.0, 77.0, 67.0, 72.0, 72.0, 74.0, 73.0, 98.0, 89.0, -1.0],
    ),
];

struct Checks {
    failed: u32,
    done: u32,
}

impl Checks {
    fn range(&mut self, what: &str, value: f64, (least, most): (f64, f64)) {
        self.done += 1;
        if !(least..=most).contains(&value) {
            self.failed += 1;
            println!("FAILED {what}: {value:.3} is not within {least}..={most}");
        }
    }
}

pub(crate) fn run(threads: usize) {
    let mut checks = Checks { failed: 0, done: 0 };
    let all = candidates::all();
    let board = Board::run(&Shape::a(), &Scenario::ALL, &all, SEEDS, threads);
    print!("{}", board.table());
    let row = |name: &str| board.names.iter().position(|other| *other == name);
    for (name, ranges) in RIG {
        let c = row(name).unwrap_or_else(|| panic!("no candidate {name}"));
        for (s, range) in ranges.iter().enumerate() {
            let what = format!("{name}, {}", Scenario::ALL[s].name());
            checks.range(&what, board.cells[c][s].score, *range);
        }
    }
    for (name, floors) in OURS {
        let c = row(name).unwrap_or_else(|| panic!("no candidate {name}"));
        for (s, floor) in floors.iter().enumerate() {
            let what = format!("{name}, {}", Scenario::ALL[s].name());
            checks.range(&what, board.cells[c][s].score, (*floor, 100.0));
        }
    }
    collapses(&mut checks, &all, threads);
    twice(&mut checks, &all);
    println!("efficacy: {} checks, {} failed", checks.done, checks.failed);
    if checks.failed > 0 {
        std::process::exit(1);
    }
}

/// No stack at all and naive retries, as published; the dead link needs 400 s and is left to the long run.
fn collapses(checks: &mut Checks, all: &[Box<dyn Candidate>], threads: usize) {
    let jobs: Vec<(&str, Collapse, (f64, f64), u64)> = [
        ("none", Collapse::Spike, (0.90, 0.99)),
        ("none", Collapse::Ramp, (0.52, 0.66)),
        ("naive retry x3 fixed 50ms", Collapse::Ramp, (0.26, 0.36)),
        ("ours: + budget", Collapse::Spike, (0.90, 0.99)),
        ("ours", Collapse::Spike, (0.97, 1.0)),
        ("ours", Collapse::Ramp, (0.91, 1.0)),
    ]
    .into_iter()
    .flat_map(|(name, collapse, range)| (1..=5).map(move |seed| (name, collapse, range, seed)))
    .collect();
    let ok = board::each(&jobs, threads, |(name, collapse, _, seed)| {
        let one = all.iter().find(|one| one.name() == *name).expect("a candidate");
        collapse.shown(&run::run(&collapse.plan(), &**one, *seed).tally).ok
    });
    for (group, ok) in jobs.chunks(5).zip(ok.chunks(5)) {
        let (name, collapse, range, _) = group[0];
        let mean = ok.iter().sum::<f64>() / ok.len() as f64;
        checks.range(&format!("{name}, {}", collapse.name()), mean, range);
    }
}

/// Same seed, same second by second; another seed, another day.
fn twice(checks: &mut Checks, all: &[Box<dyn Candidate>]) {
    let plan = Scenario::S6.plan(&Shape::a());
    for one in all {
        let [first, second, other] =
            [7, 7, 8].map(|seed| run::run(&plan, &**one, seed).tally.seconds);
        checks.range(
            &format!("{}: same seed, same run", one.name()),
            f64::from(u8::from(first == second)),
            (1.0, 1.0),
        );
        checks.range(
            &format!("{}: another seed, another run", one.name()),
            f64::from(u8::from(first == other)),
            (0.0, 0.0),
        );
    }
}
