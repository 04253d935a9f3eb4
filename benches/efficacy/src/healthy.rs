//! Healthy traffic, by the million: whether our stack ever refuses what nothing was wrong with.

use crate::args::Args;
use crate::board::each;
use crate::candidates::{Candidate, REFUSED};
use crate::constraints::verdict;
use crate::run::run;
use crate::scenario::Scenario;

/// Counters of requests that a backend did not send.
const UNSENT: [&str; 4] = ["hopeless", "full", "throttled", "expired"];

/// S0 with as many seeds as have `least` requests, from the first second to the last.
pub(crate) fn run_all(args: &Args, candidate: &dyn Candidate, least: u64) -> String {
    let plan = Scenario::S0.plan(&args.shape);
    let seconds = (0, plan.seconds);
    let (mut seed, mut offered, mut attempts, mut lost) = (0, 0, 0, 0);
    let (mut refused, mut unsent) = (0, 0);
    while offered < least {
        let seeds: Vec<u64> = (1..=args.threads as u64).map(|more| seed + more).collect();
        seed += args.threads as u64;
        for outcome in each(&seeds, args.threads, |seed| run(&plan, candidate, *seed)) {
            // The same seeds whatever number of threads.
            if offered >= least {
                break;
            }
            let all = outcome.tally.window(seconds);
            offered += all.offered;
            attempts += all.attempts;
            lost += all.offered - all.good;
            for (name, count) in outcome.counts {
                refused += if name == REFUSED { count } else { 0 };
                unsent += if UNSENT.contains(&name) { count } else { 0 };
            }
        }
    }
    let each = attempts as f64 / offered.max(1) as f64;
    format!(
        "{}, nothing wrong: {offered} requests, {refused} refused ({unsent} attempts not sent), {lost} without an \
         answer in time, {each:.4} attempts each\n  0 refused: {}\n  at most 1.03 attempts each: {}\n",
        candidate.name(),
        verdict(refused + unsent == 0),
        verdict(each <= 1.03),
    )
}
