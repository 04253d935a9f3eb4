//! The whole program at one instant, as a document.

pub(super) mod assemble;

#[cfg(feature = "serde")]
use crate::managed::severity;
pub use crate::managed::{Fact, Gauge, Level, Next, ObjectStatus, TimelineEvent};
use crate::observe::Severity;

/// The state of a program: what [`Registry::status`](super::Registry::status) gives.
///
/// With the feature `serde` it is the document that the status page shows.
///
/// ```
/// let status = buttress::control::Status::default();
/// assert!(status.objects.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Status {
    /// The service's name; empty if nobody has set one.
    pub service: String,
    /// The process: its number and when it started.
    pub instance: String,
    /// Now, in milliseconds of the Unix epoch.
    pub now_ms: u64,
    /// For how many seconds the registry has been there.
    pub uptime_s: f64,
    /// How often the configuration has been read; 0 if there is none.
    pub generation: u64,
    /// How well it all is.
    pub verdict: Summary,
    /// The phase of the process, if a `Lifecycle` is registered.
    pub process: Option<ProcessPhase>,
    /// By kind, then name. At most 1,000.
    pub objects: Vec<ObjectStatus>,
    /// Objects that are not shown.
    pub omitted: usize,
    /// What happened, oldest first. At most 500.
    pub events: Vec<TimelineEvent>,
    /// What the linter found in the configuration.
    pub lint: Vec<Lint>,
}

/// The overall verdict: the worst level and the objects that have it.
///
/// ```
/// use buttress::control::{Level, Summary};
/// assert_eq!(Summary::default().level, Level::Ok);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Summary {
    /// The worst level of all objects.
    pub level: Level,
    /// One line.
    pub text: String,
    /// The `id`s of the objects that are not well, the worst first.
    pub causes: Vec<String>,
}

/// Where the process is between start and end.
///
/// ```
/// use buttress::control::{ProcessPhase, Registry};
/// fn line(process: &ProcessPhase) -> String {
///     match process.since_s {
///         Some(seconds) => format!("{} for {seconds:.0} s", process.phase),
///         None => process.phase.clone(),
///     }
/// }
/// // Nothing, as long as the registry knows no lifecycle.
/// assert_eq!(Registry::new().status().process.as_ref().map(line), None);
/// # #[cfg(feature = "supervise")] {
/// use buttress::supervise::Lifecycle;
/// let (registry, life) = (Registry::new(), Lifecycle::new());
/// registry.set_lifecycle(&life);
/// println!("{:?}", registry.status().process.as_ref().map(line));
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ProcessPhase {
    /// The phase, lower-case with underscores.
    pub phase: String,
    /// For how many seconds, if known.
    pub since_s: Option<f64>,
    /// The status text, if there is one.
    pub status: Option<String>,
}

/// Something in the configuration that cannot be meant.
///
/// ```
/// use buttress::control::{Lint, Registry};
/// use buttress::observe::Severity;
/// let registry = Registry::new();
/// let never = Lint::new(Severity::Warning, "window_below_min_calls", "never trips", ["circuit_breaker/db"]);
/// registry.set_lint([never]);
/// for Lint { rule, text, objects, .. } in registry.status().lint {
///     println!("{rule}: {text} ({})", objects.join(", "));
///     assert_eq!(rule, "window_below_min_calls");
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Lint {
    /// `Warning` or `Error`.
    #[cfg_attr(feature = "serde", serde(serialize_with = "severity"))]
    pub severity: Severity,
    /// The rule, lower-case with underscores.
    pub rule: String,
    /// What is wrong, for a reader.
    pub text: String,
    /// The `id`s of the objects concerned.
    pub objects: Vec<String>,
}

impl Lint {
    /// A finding.
    ///
    /// ```
    /// use buttress::control::Lint;
    /// use buttress::observe::Severity;
    /// let lint = Lint::new(Severity::Warning, "window_below_min_calls", "never trips", ["circuit_breaker/db"]);
    /// assert_eq!(lint.objects, ["circuit_breaker/db"]);
    /// ```
    #[must_use]
    pub fn new<O: Into<String>>(
        severity: Severity,
        rule: impl Into<String>,
        text: impl Into<String>,
        objects: impl IntoIterator<Item = O>,
    ) -> Self {
        let objects = objects.into_iter().map(Into::into).collect();
        Self { severity, rule: rule.into(), text: text.into(), objects }
    }
}
