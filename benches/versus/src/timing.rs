//! Nanoseconds: interleaved rounds on one core, each batch beside a batch of the two floors.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::case::{Case, Runner};
use crate::{floor, median};

#[derive(Clone, Debug, Default)]
pub struct Timed {
    pub ns: f64,
    pub min_ns: f64,
    /// Medians over the rounds of the ratio to the floor's batch made just before.
    pub to_cas: f64,
    pub to_now: f64,
    /// Nanoseconds of each round, to compare two cases round by round.
    pub rounds: Vec<f64>,
}

struct Slot {
    runner: Box<dyn Runner>,
    calls: u64,
    ns: Vec<f64>,
    to_cas: Vec<f64>,
    to_now: Vec<f64>,
}

/// What one batch took, without the time other processes had the core.
#[derive(Clone, Copy)]
struct Watch {
    wall: Instant,
    #[cfg(target_os = "linux")]
    thread: (Duration, libc::c_long),
}

impl Watch {
    fn start() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            thread: thread_time(),
            wall: Instant::now(),
        }
    }

    /// The thread's own time if it never gave up the core of itself; then it was only preempted.
    fn elapsed(self) -> Duration {
        let wall = self.wall.elapsed();
        #[cfg(target_os = "linux")]
        {
            let (time, waits) = thread_time();
            if waits == self.thread.1 {
                return wall.min(time.saturating_sub(self.thread.0));
            }
        }
        wall
    }
}

/// Time the calling thread has run, and how often it has waited for something.
#[cfg(target_os = "linux")]
fn thread_time() -> (Duration, libc::c_long) {
    // SAFETY: both calls only fill the structures they are given, for which zero is a valid value.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        (Duration::new(time.tv_sec as u64, time.tv_nsec as u32), usage.ru_nvcsw)
    }
}

fn timed(runtime: &tokio::runtime::Runtime, runner: &mut dyn Runner, calls: u64) -> f64 {
    runtime.block_on(runner.prepare());
    let batch = runner.run(calls);
    let watch = Watch::start();
    let answered = runtime.block_on(batch);
    let took = watch.elapsed();
    std::hint::black_box(answered);
    took.as_secs_f64() * 1e9 / calls as f64
}

/// Cases with fewer calls in a batch say themselves what comes before it.
const WARM: u64 = 250;

/// How many calls fill `batch`.
fn calibrate(
    runtime: &tokio::runtime::Runtime,
    runner: &mut dyn Runner,
    batch: Duration,
    at_most: u64,
) -> u64 {
    let mut calls = 1_u64;
    loop {
        let ns = timed(runtime, runner, calls);
        let wanted = (batch.as_secs_f64() * 1e9 / ns.max(0.1)).max(1.0) as u64;
        if calls >= at_most || wanted <= calls.saturating_mul(2) {
            return wanted.clamp(1, at_most);
        }
        calls = wanted.min(calls.saturating_mul(8)).min(at_most);
    }
}

pub fn run(cases: &[Case], rounds: usize, batch: Duration) -> BTreeMap<String, Timed> {
    let runtime = crate::runtime();
    let floor_batch = batch / 10;
    let mut floors = [floor::CAS, floor::NOW].map(|name| {
        let case = floor::cases().into_iter().find(|case| case.name == name).expect("a floor");
        let mut runner = case.caller(&runtime);
        let calls = calibrate(&runtime, &mut *runner, floor_batch, u64::MAX);
        (runner, calls)
    });
    let mut slots: Vec<Slot> = cases
        .iter()
        .map(|case| {
            let mut runner = case.caller(&runtime);
            let calls = calibrate(&runtime, &mut *runner, batch, case.max_batch);
            Slot { runner, calls, ns: vec![], to_cas: vec![], to_now: vec![] }
        })
        .collect();

    for round in 0..rounds {
        for index in 0..slots.len() {
            // Another case goes first each round.
            let index = (index + round) % slots.len();
            let [cas, now] =
                floors.each_mut().map(|(runner, calls)| timed(&runtime, &mut **runner, *calls));
            let slot = &mut slots[index];
            if slot.calls > WARM {
                // The cases before have emptied the caches of what this one uses.
                runtime.block_on(slot.runner.run(slot.calls / 4));
            }
            let ns = timed(&runtime, &mut *slot.runner, slot.calls);
            slot.ns.push(ns);
            slot.to_cas.push(ns / cas);
            slot.to_now.push(ns / now);
        }
        if round % 5 == 4 {
            eprintln!("  round {} of {rounds}", round + 1);
        }
    }

    cases
        .iter()
        .zip(slots)
        .map(|(case, mut slot)| {
            let timed = Timed {
                rounds: slot.ns.clone(),
                ns: median(&mut slot.ns),
                min_ns: slot.ns.first().copied().unwrap_or(f64::NAN),
                to_cas: median(&mut slot.to_cas),
                to_now: median(&mut slot.to_now),
            };
            (case.name.clone(), timed)
        })
        .collect()
}

/// Median over the rounds of `a / b`.
pub fn ratio(a: &Timed, b: &Timed) -> f64 {
    let mut ratios: Vec<f64> = a.rounds.iter().zip(&b.rounds).map(|(a, b)| a / b).collect();
    median(&mut ratios)
}
