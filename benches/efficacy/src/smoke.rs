//! The short run of the test suite: rows that check the rig itself, floors and bounds for ours, and the same bytes twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::args::Args;
use crate::board::{self, Board, Collapsed};
use crate::candidates::{self, Candidate};
use crate::collapse::Collapse;
use crate::constraints::{self, Bound};
use crate::golden::{COLLAPSES, FLOORS, RIG, SHAPES, SLACK};
use crate::healthy;
use crate::random_shape;
use crate::run;
use crate::scenario::{Plan, Scenario, Score, Shape};

struct Checks {
    failed: u32,
    done: u32,
}

impl Checks {
    /// A score, if it is held: what a NaN bounds is not. No range may hold all that a score can be.
    fn score(&mut self, what: &str, (_, plan): &(Scenario, Plan), value: f64, range: (f64, f64)) {
        let (least, most) = range;
        if least.is_nan() || most.is_nan() {
            return;
        }
        let lowest = if plan.score == Score::LossAvoided { -100.0 } else { 0.0 };
        assert!(least > lowest || most < 100.0, "{what} cannot fail");
        self.range(what, value, range);
    }

    fn holds(&mut self, what: &str, is_so: bool) {
        self.done += 1;
        if !is_so {
            self.failed += 1;
            println!("FAILED {what}");
        }
    }

    fn range(&mut self, what: &str, value: f64, (least, most): (f64, f64)) {
        let is_so = (least..=most).contains(&value);
        self.holds(&format!("{what}: {value:.3}, within {least}..={most}"), is_so);
    }
}

pub(crate) fn run(threads: usize) {
    let mut checks = Checks { failed: 0, done: 0 };
    let all = candidates::all();
    let board = Board::run(&Shape::a(), &Scenario::ALL, &all, 1, threads);
    print!("{}", board.table());
    let row = |name: &str| {
        let at = board.names.iter().position(|other| *other == name);
        at.unwrap_or_else(|| panic!("no candidate {name}"))
    };
    for name in &board.names {
        let rows = RIG.iter().map(|(row, ..)| row).chain(FLOORS.iter().map(|(row, _)| row));
        let rows = rows.filter(|row| *row == name).count();
        checks.range(&format!("{name}: rows of golden values"), rows as f64, (1.0, 1.0));
    }
    for (name, least, most) in RIG {
        for (s, cell) in board.cells[row(name)].iter().enumerate() {
            let what = format!("{name}, {}", Scenario::ALL[s].name());
            checks.score(&what, &board.plans[s], cell.score, (least[s], most[s]));
        }
    }
    for (name, floors) in FLOORS {
        for (s, cell) in board.cells[row(name)].iter().enumerate() {
            let what = format!("{name}, {}", Scenario::ALL[s].name());
            checks.score(&what, &board.plans[s], cell.score, (floors[s], 100.0));
        }
    }

    let these = only(|name| COLLAPSES.iter().any(|(held, ..)| *held == name));
    let seeds = |one| if one == Collapse::Link { 1 } else { 5 };
    let collapsed = board::collapses(&these, seeds, threads);
    print!("{}", board::collapse_table(&collapsed));
    collapses(&mut checks, &collapsed);
    bounds(&mut checks, &constraints::bounds(&board, row("ours"), Some(&collapsed)));

    shapes(&mut checks, threads);
    let rest = healthy_traffic(&mut checks, threads)
        .and_then(|()| options(&mut checks))
        .and_then(|()| twice(&mut checks, &these));
    if let Err(why) = rest {
        checks.holds(&why, false);
    }
    println!("efficacy: {} checks, {} failed", checks.done, checks.failed);
    if checks.failed > 0 {
        std::process::exit(1);
    }
}

fn only(wanted: impl Fn(&str) -> bool) -> Vec<Box<dyn Candidate>> {
    candidates::all().into_iter().filter(|one| wanted(one.name())).collect()
}

fn the(name: &str) -> Result<Box<dyn Candidate>, String> {
    only(|one| one == name).pop().ok_or_else(|| format!("no candidate is called {name}"))
}

/// Everything that `ours` is held to but its scores, which have their floors.
fn bounds(checks: &mut Checks, all: &[Bound]) {
    for (what, _) in SLACK {
        let rows = all.iter().filter(|bound| bound.what == *what).count();
        checks.range(&format!("{what}: rows of it"), rows as f64, (1.0, 1.0));
    }
    for bound in all {
        let slack = SLACK.iter().find(|(what, _)| *what == bound.what).map_or(0.0, |(_, by)| *by);
        checks.holds(&format!("{bound}, but for {slack}"), bound.met_but_for(slack));
    }
}

/// A short one: `--healthy` with a million says more.
fn healthy_traffic(checks: &mut Checks, threads: usize) -> Result<(), String> {
    let seen = healthy::run_all(&Shape::a(), &*the("ours")?, 50_000, threads);
    checks.range(
        "healthy: requests and attempts turned away",
        seen.turned_away() as f64,
        (0.0, 0.0),
    );
    checks.range("healthy: requests without an answer in time", seen.lost as f64, (0.0, 0.0));
    checks.range("healthy: attempts for each request", seen.attempts_each(), (1.0, 1.03));
    Ok(())
}

/// Other shapes than the public one.
fn shapes(checks: &mut Checks, threads: usize) {
    let these = only(|name| matches!(name, "none" | "ours" | "ORACLE"));
    for (n, floor) in SHAPES {
        let board = Board::run(&random_shape(*n), &Scenario::ALL, &these, 1, threads);
        let mean = board.at("ours").map_or(f64::NAN, |ours| board.row(ours).mean);
        checks.range(&format!("ours, mean of shape {n}"), mean, (*floor, 100.0));
    }
}

/// Each option of the shape makes another run.
fn options(checks: &mut Checks) -> Result<(), String> {
    let none = the("none")?;
    let seconds = |words: &[&str]| {
        let args = Args::parse(words.iter().map(|word| (*word).to_owned()))?;
        Ok::<_, String>(run::run(&Scenario::S0.plan(&args.shape), &*none, 1).tally.seconds)
    };
    let usual = seconds(&[])?;
    for option in OTHER_SHAPE.chunks(2) {
        checks.holds(&format!("{}: another run", option.join(" ")), seconds(option)? != usual);
    }
    Ok(())
}

/// A small one, for which everything is run twice.
const OTHER_SHAPE: &[&str] = &[
    "--clients",
    "3",
    "--workers",
    "10",
    "--service-ms",
    "20",
    "--sigma",
    "0.3",
    "--deadline-ms",
    "200",
    "--utilisation",
    "0.5",
    "--burstiness",
    "2",
];
const AS_PRINTED: &str =
    "3 clients, 10 workers x 20ms (sigma 0.30), deadline 200ms, load 50 %, burstiness 2.0\n";

/// No stack at all and naive retries, as published; ours no slower to recover than it was.
fn collapses(checks: &mut Checks, all: &[Collapsed]) {
    for (name, collapse, answered) in COLLAPSES {
        let by = all.iter().find(|one| one.name == *name).map(|one| &one.by);
        let one = by.and_then(|by| by.iter().find(|one| one.collapse == *collapse));
        let one = one.unwrap_or_else(|| panic!("no candidate {name}"));
        let what = format!("{name}, {}", collapse.name());
        checks.range(&what, one.shown.ok, *answered);
        if *name == "ours" {
            let recovery = one.shown.recovery.unwrap_or(f64::INFINITY);
            checks.range(&format!("{what}, recovery"), recovery, (0.0, 2.0));
        }
    }
}

/// Everything that two processes print and write, with one thread and with two; another seed, another day.
fn twice(checks: &mut Checks, all: &[Box<dyn Candidate>]) -> Result<(), String> {
    let [one, two] = [everything("1")?, everything("2")?];
    checks.holds("as many files of the second run", one.len() == two.len());
    for (name, bytes) in &one {
        checks.holds(&format!("{name}: same seed, same bytes"), two.get(name) == Some(bytes));
    }
    for (name, begins) in [
        ("the table", AS_PRINTED),
        ("the time-line", "S6, ours\n"),
        ("the time-line of a collapse", "S1 spike, ours\n"),
        ("healthy traffic", "ours, nothing wrong: "),
        ("a random shape", "10 clients, 50 workers"),
        ("scores.csv", "candidate,scenario,"),
        ("seconds.csv", "candidate,scenario,"),
        ("collapses.csv", "candidate,collapse,"),
        ("scores.svg", "<svg "),
        ("S6.svg", "<svg "),
        ("H1-link.svg", "<svg "),
    ] {
        let is_so = one.get(name).is_some_and(|bytes| bytes.starts_with(begins.as_bytes()));
        checks.holds(&format!("{name}: begins with {begins:?}"), is_so);
    }
    let plan = Scenario::S6.plan(&Shape::a());
    for one in all {
        let [this, other] = [1, 2].map(|seed| run::run(&plan, &**one, seed).tally.seconds);
        checks.holds(&format!("{}: another seed, another run", one.name()), this != other);
    }
    Ok(())
}

type Files = BTreeMap<String, Vec<u8>>;

/// What processes of this binary print and write.
fn everything(threads: &str) -> Result<Files, String> {
    let dir = Folder::new(threads).map_err(|why| format!("the same bytes twice: {why}"))?;
    let path = dir.0.to_string_lossy();
    // How long it took is printed to the other stream.
    let ours = ["--candidate", "=ours", "--seeds", "1", "--threads", threads];
    let print = |args: &[&str]| {
        let args = [&ours, args].concat();
        printed(&args).map_err(|why| format!("{}: {why}", args.join(" ")))
    };
    let mut prints = Files::new();
    for (name, args) in [
        ("the table", &[OTHER_SHAPE, &["--csv", &path, "--svg", &path]].concat()[..]),
        ("a random shape", &["--scenario", "S6", "--random-shapes", "1", "--first-shape", "5"]),
        ("the time-line", &["--timeline", "S6", "--events"]),
        ("the time-line of a collapse", &["--timeline", "S1-spike"]),
        ("healthy traffic", &["--healthy", "50000"]),
    ] {
        prints.insert(name.to_owned(), print(args)?);
    }
    prints.extend(written(&dir.0).map_err(|why| format!("the same bytes twice: {why}"))?);
    Ok(prints)
}

/// A new folder for a short time, beside the binary: one that a killed run leaves is not in the way of others, and goes
/// with the build.
struct Folder(PathBuf);

impl Folder {
    fn new(threads: &str) -> std::io::Result<Self> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = format!("efficacy-{}-{}-{threads}", std::process::id(), since.as_nanos());
        let dir = std::env::current_exe()?.with_file_name(name);
        std::fs::create_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn printed(args: &[&str]) -> Result<Vec<u8>, String> {
    let this = std::env::current_exe().map_err(|why| why.to_string())?;
    let out = Command::new(this).args(args).output().map_err(|why| why.to_string())?;
    if out.status.success() {
        Ok(out.stdout)
    } else {
        Err(format!("{}: {}", out.status, String::from_utf8_lossy(&out.stderr)))
    }
}

fn written(dir: &Path) -> std::io::Result<Files> {
    std::fs::read_dir(dir)?
        .map(|file| {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            Ok((name, std::fs::read(file.path())?))
        })
        .collect()
}
