use crate::injected::FaultKind;

/// What a conditioner has done so far.
///
/// ```
/// use buttress::conditioner::Conditioner;
/// use std::time::Duration;
/// let slow = Conditioner::network(Duration::from_millis(50), Duration::ZERO, 0.0, None).unwrap();
/// assert_eq!(slow.stats().injected, 0);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConditionerStats {
    /// Calls looked at while injecting.
    pub seen: u64,
    /// Calls with at least one fault.
    pub injected: u64,
    /// In the order of the rules.
    pub rules: Vec<RuleStats>,
}

/// What one rule has done so far.
///
/// ```
/// use buttress::conditioner::{Conditioner, FaultKind};
/// use std::time::Duration;
/// let lossy = Conditioner::network(Duration::ZERO, Duration::ZERO, 0.1, None).unwrap();
/// assert_eq!(lossy.stats().rules[0].fault, FaultKind::Loss);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleStats {
    /// What it does.
    pub fault: FaultKind,
    /// Calls that it looked at and that matched.
    pub matched: u64,
    /// Calls it did it to.
    pub injected: u64,
    /// Calls it left alone because [`max_active`](super::Rule::max_active) others were under way.
    pub skipped_active: u64,
    /// Calls it left alone because of [`max_share`](super::ConditionerBuilder::max_share).
    pub skipped_cap: u64,
    /// Calls it left alone because its fault is one of the body and the layer does not know HTTP.
    pub unsupported: u64,
    /// Calls under way that it does it to.
    pub active: u32,
}
