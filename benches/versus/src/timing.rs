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

fn timed(runtime: &tokio::runtime::Runtime, runner: &mut dyn Runner, calls: u64) -> f64 {
    runtime.block_on(runner.prepare());
    let batch = runner.run(calls);
    let start = Instant::now();
    let answered = runtime.block_on(batch);
    let took = start.elapsed();
    std::hint::black_box(answered);
    took.as_secs_f64() * 1e9 / calls as f64
}

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
            let [cas, now] = floors.each_mut().map(|(runner, calls)| timed(&runtime, &mut **runner, *calls));
            let slot = &mut slots[index];
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
