use std::collections::HashMap;
use std::fmt;

use crate::injected::FaultKind;

use super::fault::Act;

/// Recorded decisions: which call met which fault, with everything that was drawn.
///
/// [`ConditionerBuilder::record`](super::ConditionerBuilder::record) makes one,
/// [`ConditionerBuilder::replay`](super::ConditionerBuilder::replay) runs it again. With the feature
/// `serde` it can be written down and read.
///
/// Calls are known by their id, or by how many calls of the rule had matched before. Only the first is
/// the same run again when calls are concurrent. What a call met it meets whenever its id comes again,
/// even where a limit or schedule spared it once. An error that a closure made is written down as one of
/// kind other with another text.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use buttress::conditioner::{Call, Conditioner, Fault, Rule};
/// let half = Rule::new(Fault::loss()).share(0.5);
/// let lossy = Conditioner::builder("api").rule(half).record(100).build().unwrap();
/// lossy.arm().unwrap();
/// for id in 0..20 {
///     let _ = lossy.apply(&Call::new().id(id)).await;
/// }
/// let plan = lossy.plan();
///
/// let again = Conditioner::builder("api").replay(plan.clone()).build().unwrap();
/// again.arm().unwrap();
/// for id in (0..20).rev() {
///     let lost = again.apply(&Call::new().id(id)).await.is_err();
///     assert_eq!(lost, plan.decisions().any(|d| d.call == buttress::conditioner::CallKey::Id(id)));
/// }
/// # }
/// ```
#[derive(Clone, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "super::wire::Plan", into = "super::wire::Plan")
)]
pub struct Plan {
    pub(super) entries: Vec<Entry>,
    pub(super) missing: u64,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) call: CallKey,
    pub(super) rule: u32,
    pub(super) act: Act,
}

/// How a recorded decision knows its call.
///
/// ```
/// use buttress::conditioner::CallKey;
/// assert_ne!(CallKey::Id(3), CallKey::Nth(3));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum CallKey {
    /// By the id of the request, joined with the attempt if that is known.
    Id(u64),
    /// By its place, from 0, among the calls without an id that matched the rule.
    Nth(u64),
}

/// One recorded decision.
///
/// ```
/// use buttress::conditioner::Plan;
/// assert!(Plan::default().decisions().next().is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// The call.
    pub call: CallKey,
    /// The number of the rule.
    pub rule: usize,
    /// The fault.
    pub fault: FaultKind,
    /// The latency, if that is the fault.
    pub latency: Option<std::time::Duration>,
}

impl Plan {
    /// The decisions, in the order in which they were made.
    ///
    /// ```
    /// assert_eq!(buttress::conditioner::Plan::default().decisions().count(), 0);
    /// ```
    #[must_use]
    pub fn decisions(&self) -> impl ExactSizeIterator<Item = Decision> {
        self.entries.iter().map(|entry| Decision {
            call: entry.call,
            rule: entry.rule as usize,
            fault: entry.act.kind(),
            latency: match entry.act {
                Act::Latency(latency) => Some(latency),
                _ => None,
            },
        })
    }

    /// How many decisions came after the recording was full.
    ///
    /// ```
    /// assert_eq!(buttress::conditioner::Plan::default().missing(), 0);
    /// ```
    #[must_use]
    pub const fn missing(&self) -> u64 {
        self.missing
    }

    /// How many rules it speaks of.
    pub(super) fn rules(&self) -> usize {
        self.entries.iter().map(|entry| entry.rule as usize + 1).max().unwrap_or(0)
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("decisions", &self.entries.len())
            .field("missing", &self.missing)
            .finish()
    }
}

/// A plan to look decisions up in.
pub(super) struct Replay(HashMap<(u32, CallKey), Act>);

impl Replay {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut acts = HashMap::with_capacity(plan.entries.len());
        for entry in &plan.entries {
            // A request that came twice was recorded twice, with the same decision.
            acts.entry((entry.rule, entry.call)).or_insert_with(|| entry.act.clone());
        }
        Self(acts)
    }

    pub(super) fn act(&self, rule: u32, call: CallKey) -> Option<Act> {
        self.0.get(&(rule, call)).cloned()
    }
}
