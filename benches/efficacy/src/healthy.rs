//! Healthy traffic, by the million: whether our stack ever refuses what nothing was wrong with.

use crate::board::each;
use crate::candidates::{Candidate, REFUSED};
use crate::constraints::verdict;
use crate::run::run;
use crate::scenario::{Scenario, Shape};

/// Counters of requests that a backend did not send.
const UNSENT: [&str; 4] = ["hopeless", "full", "throttled", "expired"];

/// What became of them.
#[derive(Default)]
pub(crate) struct Healthy {
    offered: u64,
    attempts: u64,
    /// Without an answer in time.
    pub(crate) lost: u64,
    refused: u64,
    /// Attempts.
    unsent: u64,
}

/// S0 with as many seeds as have `least` requests, from the first second to the last.
pub(crate) fn run_all(
    shape: &Shape,
    candidate: &dyn Candidate,
    least: u64,
    threads: usize,
) -> Healthy {
    let plan = Scenario::S0.plan(shape);
    let seconds = (0, plan.seconds);
    let (mut all, mut seed) = (Healthy::default(), 0);
    while all.offered < least {
        let seeds: Vec<u64> = (1..=threads as u64).map(|more| seed + more).collect();
        seed += threads as u64;
        for outcome in each(&seeds, threads, |seed| run(&plan, candidate, *seed)) {
            // The same seeds whatever number of threads.
            if all.offered >= least {
                break;
            }
            let sum = outcome.tally.window(seconds);
            all.offered += sum.offered;
            all.attempts += sum.attempts;
            all.lost += sum.offered - sum.good;
            for (name, count) in outcome.counts {
                all.refused += if name == REFUSED { count } else { 0 };
                all.unsent += if UNSENT.contains(&name) { count } else { 0 };
            }
        }
    }
    all
}

impl Healthy {
    pub(crate) fn attempts_each(&self) -> f64 {
        self.attempts as f64 / self.offered.max(1) as f64
    }

    /// Requests refused and attempts not sent.
    pub(crate) fn turned_away(&self) -> u64 {
        self.refused + self.unsent
    }

    pub(crate) fn table(&self, name: &str) -> String {
        let Self { offered, lost, refused, unsent, .. } = self;
        let each = self.attempts_each();
        format!(
            "{name}, nothing wrong: {offered} requests, {refused} refused ({unsent} attempts not sent), {lost} without an \
             answer in time, {each:.4} attempts each\n  0 refused: {}\n  at most 1.03 attempts each: {}\n",
            verdict(self.turned_away() == 0),
            verdict(each <= 1.03),
        )
    }
}
