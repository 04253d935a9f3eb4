//! What an object tells of itself: plain values.

use std::time::Duration;

/// How well something is.
///
/// ```
/// use buttress::control::Level;
/// assert!(Level::Bad > Level::Warn && Level::Warn > Level::Ok);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Level {
    /// Nothing to see.
    #[default]
    Ok,
    /// It acts on something, or soon will.
    Warn,
    /// Somebody should look.
    Bad,
}

impl Level {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::control::Level::Warn.as_str(), "warn");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// One row of a status: an object, its state and why.
///
/// ```
/// use buttress::control::{Level, ObjectStatus};
/// use std::time::Duration;
/// let status = ObjectStatus::new("open")
///     .level(Level::Bad)
///     .why("5 failures in a row, threshold 5")
///     .since(Duration::from_secs(3))
///     .next("probe", Duration::from_secs(57))
///     .counter("calls", 5)
///     .reject("circuit_open", 12)
///     .fact("mode", "enforcing")
///     .commands(&["reset"]);
/// assert_eq!(status.since_s, Some(3.0));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ObjectStatus {
    /// Kind and name; `#2` and so on after it when several objects share them.
    pub id: String,
    /// The kind of object.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// How well it is.
    pub level: Level,
    /// Its state, lower-case with underscores.
    pub state: String,
    /// Why it is in that state: the measured value against the threshold, or who did it. May be empty.
    pub why: String,
    /// For how many seconds it has been in that state. Where the object does not know it, for how long looks have
    /// found it there; `None` at the first.
    pub since_s: Option<f64>,
    /// What happens next by itself.
    pub next: Option<Next>,
    /// Values that rise and fall.
    pub gauges: Vec<Gauge>,
    /// Totals so far.
    #[cfg_attr(feature = "serde", serde(serialize_with = "entries::counters"))]
    pub counters: Vec<(&'static str, u64)>,
    /// Refusals so far by reason.
    #[cfg_attr(feature = "serde", serde(serialize_with = "entries::rejects"))]
    pub rejects: Vec<(&'static str, u64)>,
    /// Other things a reader wants to know.
    pub facts: Vec<Fact>,
    /// The orders that it takes.
    pub commands: Vec<&'static str>,
}

/// What happens next by itself, and when.
///
/// ```
/// use buttress::control::ObjectStatus;
/// use std::time::Duration;
/// let next = ObjectStatus::new("open").next("probe", Duration::from_secs(5)).next.unwrap();
/// assert_eq!((next.what, next.in_s), ("probe", 5.0));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Next {
    /// What happens, for example `probe`.
    pub what: &'static str,
    /// In how many seconds.
    pub in_s: f64,
}

/// A value that rises and falls. `value` is `NaN` if it is not known; in JSON that is `null`.
///
/// ```
/// use buttress::control::ObjectStatus;
/// let status = ObjectStatus::new("ok").gauge("in_use", "in use", 3.0, "connections", |gauge| {
///     gauge.max = Some(8.0);
/// });
/// assert_eq!((status.gauges[0].value, status.gauges[0].max), (3.0, Some(8.0)));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Gauge {
    /// Lower-case name with underscores.
    pub id: &'static str,
    /// For a reader.
    pub label: &'static str,
    /// The value now.
    pub value: f64,
    /// The highest that it can be.
    pub max: Option<f64>,
    /// The value at which the object acts.
    pub threshold: Option<f64>,
    /// Whether it acts below the threshold, as a budget does, rather than from it on.
    pub below: bool,
    /// For example `calls`, `ratio`, `s`, `1/s`, `bytes`.
    pub unit: &'static str,
}

/// A short text about an object.
///
/// ```
/// use buttress::control::ObjectStatus;
/// let status = ObjectStatus::new("ok").fact("server", "10.0.0.1");
/// assert_eq!(status.facts[0].value, "10.0.0.1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Fact {
    /// What it is about.
    pub label: &'static str,
    /// The text, at most 200 characters.
    pub value: String,
}

/// Texts of facts are cut here.
const FACT: usize = 200;

impl ObjectStatus {
    /// An object in `state` that is well.
    ///
    /// ```
    /// assert_eq!(buttress::control::ObjectStatus::new("closed").state, "closed");
    /// ```
    #[must_use]
    pub fn new(state: impl Into<String>) -> Self {
        Self { state: state.into(), ..Self::default() }
    }

    /// Sets how well it is.
    ///
    /// ```
    /// use buttress::control::{Level, ObjectStatus};
    /// assert_eq!(ObjectStatus::new("open").level(Level::Bad).level, Level::Bad);
    /// ```
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Sets why.
    ///
    /// ```
    /// use buttress::control::ObjectStatus;
    /// assert_eq!(ObjectStatus::new("open").why("7 of 10 failed").why, "7 of 10 failed");
    /// ```
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Sets for how long.
    ///
    /// ```
    /// use buttress::control::ObjectStatus;
    /// use std::time::Duration;
    /// assert_eq!(ObjectStatus::new("open").since(Duration::from_secs(2)).since_s, Some(2.0));
    /// ```
    #[must_use]
    pub fn since(mut self, since: Duration) -> Self {
        self.since_s = Some(since.as_secs_f64());
        self
    }

    /// Sets what happens next.
    ///
    /// ```
    /// use buttress::control::ObjectStatus;
    /// use std::time::Duration;
    /// let status = ObjectStatus::new("open").next("probe", Duration::from_secs(5));
    /// assert_eq!(status.next.unwrap().what, "probe");
    /// ```
    #[must_use]
    pub fn next(mut self, what: &'static str, within: Duration) -> Self {
        self.next = Some(Next { what, in_s: within.as_secs_f64() });
        self
    }

    /// Adds a gauge; `more` may set its `max`, `threshold` and `below`.
    ///
    /// ```
    /// use buttress::control::ObjectStatus;
    /// let status = ObjectStatus::new("ok").gauge("failed", "failed", 0.2, "ratio", |gauge| {
    ///     (gauge.max, gauge.threshold) = (Some(1.0), Some(0.5));
    /// });
    /// assert_eq!(status.gauges[0].threshold, Some(0.5));
    /// ```
    #[must_use]
    pub fn gauge(
        mut self,
        id: &'static str,
        label: &'static str,
        value: f64,
        unit: &'static str,
        more: impl FnOnce(&mut Gauge),
    ) -> Self {
        let mut gauge = Gauge { id, label, value, max: None, threshold: None, below: false, unit };
        more(&mut gauge);
        self.gauges.push(gauge);
        self
    }

    /// Adds a total.
    ///
    /// ```
    /// use buttress::control::ObjectStatus;
    /// assert_eq!(ObjectStatus::new("ok").counter("calls", 7).counters, [("calls", 7)]);
    /// ```
    #[must_use]
    pub fn counter(mut self, id: &'static str, value: u64) -> Self {
        self.counters.push((id, value));
        self
    }

    /// Adds a total of refusals.
    ///
    /// ```
    /// use buttress::control::ObjectStatus;
    /// assert_eq!(ObjectStatus::new("ok").reject("overloaded", 7).rejects, [("overloaded", 7)]);
    /// ```
    #[must_use]
    pub fn reject(mut self, reason: &'static str, value: u64) -> Self {
        self.rejects.push((reason, value));
        self
    }

    /// Adds a text.
    ///
    /// ```
    /// use buttress::control::ObjectStatus;
    /// assert_eq!(ObjectStatus::new("ok").fact("limit", "learned").facts[0].label, "limit");
    /// ```
    #[must_use]
    pub fn fact(mut self, label: &'static str, value: impl Into<String>) -> Self {
        let mut value = value.into();
        if let Some((at, _)) = value.char_indices().nth(FACT) {
            value.truncate(at);
        }
        self.facts.push(Fact { label, value });
        self
    }

    /// Sets the orders that it takes.
    ///
    /// ```
    /// use buttress::control::ObjectStatus;
    /// assert_eq!(ObjectStatus::new("ok").commands(&["reset"]).commands, ["reset"]);
    /// ```
    #[must_use]
    pub fn commands(mut self, commands: &[&'static str]) -> Self {
        self.commands = commands.to_vec();
        self
    }
}

#[cfg(feature = "serde")]
mod entries {
    use serde::{Serialize, Serializer};

    #[derive(Serialize)]
    struct Counter {
        id: &'static str,
        value: u64,
    }

    #[derive(Serialize)]
    struct Reject {
        reason: &'static str,
        value: u64,
    }

    pub(super) fn counters<S: Serializer>(
        all: &[(&'static str, u64)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(all.iter().map(|&(id, value)| Counter { id, value }))
    }

    pub(super) fn rejects<S: Serializer>(
        all: &[(&'static str, u64)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(all.iter().map(|&(reason, value)| Reject { reason, value }))
    }
}
