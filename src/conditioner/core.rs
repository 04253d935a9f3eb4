//! Which call meets which fault. No state, no clock.

use crate::injected::FaultKind;

use super::draw::{Draws, SHARE, hits};
use super::fault::Act;
use super::plan::CallKey;
use super::rule::Rule;

/// The rules and the seed.
pub(super) struct Core {
    pub(super) seed: u64,
    pub(super) rules: Vec<Rule>,
    /// Whether every rule that hits acts, or only the first.
    pub(super) all: bool,
    /// In which order rules are asked.
    pub(super) order: Vec<u32>,
}

impl Core {
    pub(super) fn new(seed: u64, rules: Vec<Rule>, all: bool) -> Self {
        let mut order: Vec<u32> = (0..u32::try_from(rules.len()).unwrap_or(u32::MAX)).collect();
        if all {
            order.sort_by_key(|rule| turn(rules[*rule as usize].fault.kind()));
        }
        Self { seed, rules, all, order }
    }

    /// What rule `rule` does to the call `key` while it has this part of its share: a function of the
    /// arguments and the seed.
    pub(super) fn decide(&self, rule: u32, key: CallKey, strength: f64) -> Option<Act> {
        let (CallKey::Id(key) | CallKey::Nth(key)) = key;
        let draws = Draws::of(self.seed, rule, key);
        let rule = &self.rules[rule as usize];
        hits(draws.unit(SHARE), rule.share * strength).then(|| rule.fault.settle(draws, rule.share))
    }
}

/// Where all rules act that hit: what is lost is not also late, what is not made is not also spoilt.
const fn turn(fault: FaultKind) -> u8 {
    match fault {
        FaultKind::Loss => 0,
        FaultKind::Error | FaultKind::Status | FaultKind::Grpc | FaultKind::Hang => 1,
        FaultKind::Latency => 2,
        FaultKind::ReplyLost
        | FaultKind::SlowBody
        | FaultKind::Bandwidth
        | FaultKind::TruncatedBody
        | FaultKind::CorruptedBody => 3,
    }
}
