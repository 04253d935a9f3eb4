//! From runs to scores.

use crate::scenario::{Plan, Score};
use crate::tally::Tally;

fn weighted(tally: &Tally, plan: &Plan) -> f64 {
    let sum = tally.window(plan.window);
    (sum.good + 9 * sum.critical_good) as f64
}

fn loss(tally: &Tally, plan: &Plan) -> f64 {
    let sum = tally.window(plan.window);
    1.0 - sum.good as f64 / sum.offered.max(1) as f64
}

/// From -100 to 100.
pub(crate) fn score(plan: &Plan, this: &Tally, raw: &Tally, oracle: &Tally) -> f64 {
    let good = |tally: &Tally| tally.window(plan.window).good as f64;
    let score = match plan.score {
        Score::Goodput => 1.0 - loss(this, plan),
        Score::OfOracle => good(this) / good(oracle).max(1.0),
        Score::LossAvoided => {
            let raw = loss(raw, plan);
            if raw == 0.0 { 1.0 } else { 1.0 - loss(this, plan) / raw }
        }
        Score::Weighted => weighted(this, plan) / weighted(oracle, plan).max(1.0),
    };
    100.0 * score.clamp(-1.0, 1.0)
}
