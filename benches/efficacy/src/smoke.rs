//! The short run of the test suite: rows that check the rig itself, floors for ours, and the same bytes twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::board::{self, Board, Collapsed};
use crate::candidates::{self, Candidate};
use crate::collapse::Collapse;
use crate::golden::{COLLAPSES, FLOORS, RIG};
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
    let ours = board.row(row("ours"));
    checks.range("ours, mean", ours.mean, (99.0, 100.0));
    checks.range("ours, worst", ours.worst, (96.0, 100.0));

    let these: Vec<_> = all
        .into_iter()
        .filter(|one| COLLAPSES.iter().any(|(name, ..)| *name == one.name()))
        .collect();
    let seeds = |one| if one == Collapse::Link { 1 } else { 5 };
    let collapsed = board::collapses(&these, seeds, threads);
    print!("{}", board::collapse_table(&collapsed));
    collapses(&mut checks, &collapsed);

    if let Err(why) = twice(&mut checks, &these) {
        checks.done += 1;
        checks.failed += 1;
        println!("FAILED {why}");
    }
    println!("efficacy: {} checks, {} failed", checks.done, checks.failed);
    if checks.failed > 0 {
        std::process::exit(1);
    }
}

/// No stack at all and naive retries, as published; ours within its bars.
fn collapses(checks: &mut Checks, all: &[Collapsed]) {
    for (name, collapse, answered) in COLLAPSES {
        let by = all.iter().find(|one| one.name == *name).map(|one| &one.by);
        let one = by.and_then(|by| by.iter().find(|one| one.collapse == *collapse));
        let one = one.unwrap_or_else(|| panic!("no candidate {name}"));
        let what = format!("{name}, {}", collapse.name());
        checks.range(&what, one.shown.ok, *answered);
        if *name == "ours" {
            checks.range(&format!("{what}, load"), one.shown.load, (0.0, collapse.bar().1));
            let recovery = one.shown.recovery.unwrap_or(f64::INFINITY);
            checks.range(&format!("{what}, recovery"), recovery, (0.0, 2.0));
        }
    }
}

/// Everything that two processes print and write, with one thread and with two; another seed, another day.
fn twice(checks: &mut Checks, all: &[Box<dyn Candidate>]) -> Result<(), String> {
    let [one, two] = [everything("1")?, everything("2")?];
    checks.range("files of the second run", two.len() as f64, (one.len() as f64, one.len() as f64));
    for (name, bytes) in &one {
        let same = two.get(name) == Some(bytes);
        let what = format!("{name}: same seed, same bytes");
        checks.range(&what, f64::from(u8::from(same)), (1.0, 1.0));
    }
    let plan = Scenario::S6.plan(&Shape::a());
    for one in all {
        let [this, other] = [1, 2].map(|seed| run::run(&plan, &**one, seed).tally.seconds);
        let what = format!("{}: another seed, another run", one.name());
        checks.range(&what, f64::from(u8::from(this == other)), (0.0, 0.0));
    }
    Ok(())
}

type Files = BTreeMap<String, Vec<u8>>;

/// What two processes of this binary print and write of a short scenario.
fn everything(threads: &str) -> Result<Files, String> {
    let dir = Folder::new(threads).map_err(|why| format!("the same bytes twice: {why}"))?;
    let files = || {
        let path = dir.0.to_string_lossy();
        // How long it took is printed to the other stream.
        let files = ["--scenario", "S6", "--seeds", "1", "--threads", threads];
        let table = printed(&[&files[..], &["--csv", &path, "--svg", &path]].concat())?;
        let line = printed(&["--timeline", "S6", "--candidate", "=ours", "--events"])?;
        let mut files = written(&dir.0).map_err(|why| why.to_string())?;
        files.extend([("the table".to_owned(), table), ("the time-line".to_owned(), line)]);
        Ok(files)
    };
    files().map_err(|why: String| format!("the same bytes twice: {why}"))
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
