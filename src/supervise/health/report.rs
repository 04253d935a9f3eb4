use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::super::Phase;

/// The three questions.
///
/// ```
/// assert_eq!(buttress::supervise::health::Probe::Ready.path(), "/readyz");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Probe {
    /// Should it be restarted?
    Live,
    /// Should it get traffic?
    Ready,
    /// Has it booted?
    Startup,
}

impl Probe {
    /// Where Kubernetes' own components answer it.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::health::Probe::Live.path(), "/livez");
    /// ```
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Live => "/livez",
            Self::Ready => "/readyz",
            Self::Startup => "/startupz",
        }
    }

    pub(super) fn at(path: &str) -> Option<Self> {
        [Self::Live, Self::Ready, Self::Startup].into_iter().find(|probe| probe.path() == path)
    }
}

/// Everything [`Health`](super::Health) knows, at one moment.
///
/// ```
/// use buttress::supervise::{Lifecycle, health::Health};
/// let report = Health::new(Lifecycle::new()).report();
/// assert!(report.live && !report.ready);
/// assert_eq!(report.reason.as_deref(), Some("starting"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HealthReport {
    /// The phase, lower-case with underscores.
    #[serde(serialize_with = "phase_name")]
    pub phase: Phase,
    /// No [`LiveGate`](super::LiveGate) has failed.
    pub live: bool,
    /// It should get traffic.
    pub ready: bool,
    /// It has been ready once.
    pub started: bool,
    /// Why it is not live, or else why it is not ready: the phase, or what failed first.
    pub reason: Option<Cow<'static, str>>,
    /// Each gate and condition, in the order made.
    pub items: Vec<HealthItem>,
}

/// One gate or condition in a [`HealthReport`].
///
/// ```
/// use buttress::supervise::{Lifecycle, health::Health};
/// let health = Health::new(Lifecycle::new());
/// let _gate = health.gate("database");
/// let report = health.report();
/// assert_eq!((&*report.items[0].name, report.items[0].ok), ("database", false));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HealthItem {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Whether it counts for liveness (else for readiness).
    pub liveness: bool,
    /// Open, or alive.
    pub ok: bool,
    /// Why not.
    pub reason: Option<Cow<'static, str>>,
    /// For how long, where that is known: a closure is only asked.
    #[serde(rename = "for_seconds", serialize_with = "seconds")]
    pub since: Option<Duration>,
}

impl HealthReport {
    /// The answer to one question.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::{Health, Probe}};
    /// let report = Health::new(Lifecycle::new()).report();
    /// assert!(report.answer(Probe::Live) && !report.answer(Probe::Startup));
    /// ```
    #[must_use]
    pub const fn answer(&self, probe: Probe) -> bool {
        match probe {
            Probe::Live => self.live,
            Probe::Ready => self.ready,
            Probe::Startup => self.started,
        }
    }
}

/// One line: `ready`, or what is missing.
impl fmt::Display for HealthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.live, self.ready) {
            (false, _) => "not live",
            (true, false) => "not ready",
            (true, true) => "ready",
        };
        match &self.reason {
            Some(reason) => write!(f, "{what}: {reason}"),
            None => f.write_str(what),
        }
    }
}

fn phase_name<S: serde::Serializer>(phase: &Phase, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(phase.as_str())
}

#[expect(clippy::ref_option, reason = "what serde calls it with")]
fn seconds<S: serde::Serializer>(since: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    since.map(|since| since.as_secs_f64()).serialize(to)
}
