//! Stores: operations per second of one caller and of 64, beside what the disk or the bare client does in the
//! same rounds. Real servers, started here as the tests start them.

mod check;
mod file;
mod servers;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use buttress::store::{Attempt, Begun, Claim, Fingerprint, Finish, Outcome, RecordId, Store};

pub use check::wrong;

use crate::median;

pub const CALLERS: [usize; 2] = [1, 64];
pub const NAMES: [&str; 3] = ["stores/file", "stores/redis", "stores/postgres"];

/// How often it is measured, and for how long each time.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    pub rounds: usize,
    pub time: Duration,
}

/// One row. Of a store that is not there only the name, and why.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub store: String,
    pub operation: &'static str,
    pub callers: usize,
    /// Medians over the rounds.
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Calls for one of the bare client or the disk in the same round.
    pub to_bare: f64,
    pub failed: u64,
}

/// The names that contain one of the words; all without words.
pub fn named(words: &[String]) -> Vec<&'static str> {
    let wanted = |name: &&str| words.is_empty() || words.iter().any(|word| name.contains(word));
    NAMES.into_iter().filter(wanted).collect()
}

/// Measures the named stores, with files in this folder.
pub fn run(names: &[&str], rounds: Rounds, folder: &Path) -> Vec<Line> {
    let mut lines = Vec::new();
    for name in names {
        eprintln!("{name}");
        match *name {
            "stores/file" => lines.extend(file::run(rounds, folder)),
            "stores/redis" => lines.extend(servers::redis(rounds)),
            _ => lines.extend(servers::postgres(rounds)),
        }
    }
    lines
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(crate::cores())
        .enable_all()
        .build()
        .expect("a runtime")
}

/// What a phase came to.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    calls: u64,
    failed: u64,
}

/// When a phase ends.
#[derive(Clone, Copy, Debug)]
enum End {
    After(Duration),
    /// When so many calls were made.
    Calls(u64),
}

/// Runs an operation for the numbers from `first` on, by so many callers at once.
async fn load<F, Fut>(callers: usize, first: u64, end: End, operation: F) -> Seen
where
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), String>> + Send + 'static,
{
    let next = Arc::new(AtomicU64::new(first));
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::new(AtomicBool::new(false));
    let begin = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (next, stop, told) = (Arc::clone(&next), Arc::clone(&stop), Arc::clone(&told));
            let operation = operation.clone();
            tokio::spawn(async move {
                let (mut took, mut failed) = (Vec::new(), 0_u64);
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if matches!(end, End::Calls(calls) if number >= first + calls) {
                        break;
                    }
                    let since = Instant::now();
                    let answer = operation(number).await;
                    took.push(since.elapsed());
                    if let Err(error) = answer {
                        failed += 1;
                        if !told.swap(true, Ordering::Relaxed) {
                            eprintln!("  a call failed: {error}");
                        }
                    }
                }
                (took, failed)
            })
        })
        .collect();
    if let End::After(time) = end {
        tokio::time::sleep(time).await;
        stop.store(true, Ordering::Relaxed);
    }
    let (mut took, mut failed) = (Vec::new(), 0);
    for task in tasks {
        let (of_task, failures) = task.await.expect("a caller panicked");
        took.extend(of_task);
        failed += failures;
    }
    let elapsed = begin.elapsed().as_secs_f64();
    took.sort();
    let at = |share: f64| {
        let place = (took.len().saturating_sub(1) as f64 * share) as usize;
        took.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    };
    Seen {
        per_second: took.len() as f64 / elapsed,
        p50_us: at(0.5),
        p99_us: at(0.99),
        calls: took.len() as u64,
        failed,
    }
}

/// The rounds of some operations, and what stands beside them.
struct Table {
    store: String,
    rows: Vec<(&'static str, usize, Vec<Seen>)>,
}

impl Table {
    fn new(store: impl Into<String>) -> Self {
        Self { store: store.into(), rows: Vec::new() }
    }

    fn add(&mut self, operation: &'static str, callers: usize, seen: Seen) {
        let row = self.rows.iter_mut().find(|row| row.0 == operation && row.1 == callers);
        match row {
            Some(row) => row.2.push(seen),
            None => self.rows.push((operation, callers, vec![seen])),
        }
    }

    /// Ratios are taken round by round, to the row that `bare` names for so many callers.
    fn lines(self, bare: impl Fn(usize) -> (&'static str, usize)) -> Vec<Line> {
        let line = |(operation, callers, seen): &(&'static str, usize, Vec<Seen>)| {
            let middle =
                |of: fn(&Seen) -> f64| median(&mut seen.iter().map(of).collect::<Vec<_>>());
            let (name, count) = bare(*callers);
            let beside = self.rows.iter().find(|row| row.0 == name && row.1 == count);
            let mut ratios: Vec<f64> = beside
                .into_iter()
                .flat_map(|row| seen.iter().zip(&row.2))
                .map(|(seen, bare)| seen.per_second / bare.per_second)
                .collect();
            Line {
                store: self.store.clone(),
                operation,
                callers: *callers,
                per_second: middle(|seen| seen.per_second),
                p50_us: middle(|seen| seen.p50_us),
                p99_us: middle(|seen| seen.p99_us),
                to_bare: median(&mut ratios),
                failed: seen.iter().map(|seen| seen.failed).sum(),
            }
        };
        self.rows.iter().map(line).collect()
    }
}

// ---- the operations ----------------------------------------------------------------------------

const CLAIM: &str = "claim a new key";
const COMPLETE: &str = "complete";
const REPLAY: &str = "read a record";

fn id(number: u64) -> RecordId {
    RecordId::of(b"versus", &number.to_le_bytes())
}

fn attempt(number: u64) -> Attempt {
    Attempt::from_bytes((u128::from(number) + 1).to_le_bytes())
}

fn claim(attempt: Attempt) -> Claim {
    Claim::new(Fingerprint::of(crate::idem::ASKED.as_bytes()), attempt)
}

/// An answer of half a kilobyte.
fn outcome() -> Arc<Outcome> {
    Arc::new(Outcome::new(201, &[1; 36][..], &[b'x'; 512][..]))
}

/// Claims for a while, completes all of them, and asks for their records again.
async fn phases<S: Store + Clone>(
    table: &mut Table,
    store: &S,
    callers: usize,
    first: &mut u64,
    time: Duration,
) {
    let of = store.clone();
    let begin = move |number| {
        let store = of.clone();
        async move {
            match store.begin(&id(number), &claim(attempt(number))).await {
                Ok(Begun::Run { .. }) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    };
    let begun = load(callers, *first, End::After(time), begin).await;
    table.add(CLAIM, callers, begun);

    let (of, answer) = (store.clone(), outcome());
    let retention = claim(attempt(0)).retention;
    let complete = move |number| {
        let (store, answer) = (of.clone(), Arc::clone(&answer));
        async move {
            match store.complete(&id(number), attempt(number), &answer, retention).await {
                Ok(Finish::Applied) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    };
    let done = load(callers, *first, End::Calls(begun.calls), complete).await;
    table.add(COMPLETE, callers, done);

    let (of, from, count) = (store.clone(), *first, begun.calls.max(1));
    let replay = move |number: u64| {
        let store = of.clone();
        async move {
            let number = from + (number - from).wrapping_mul(0x9e37_79b9_7f4a_7c15) % count;
            match store.begin(&id(number), &claim(Attempt::new())).await {
                Ok(Begun::Done(record)) if record.state.outcome().is_some() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    };
    let read = load(callers, *first, End::After(time / 2), replay).await;
    table.add(REPLAY, callers, read);
    *first += begun.calls;
}
