//! Events: what a layer decided, told to whoever listens.
//!
//! A layer reports *decisions* (a refusal, a retry, a change of state), never each success; totals of
//! successes are read from the objects (`stats()`). So observing costs nothing while nothing is wrong.
//!
//! With the feature `tracing` (default) every object reports to `Tracing`; further observers are
//! added with the builders' `observe`. Observers run on the caller's thread, outside all locks, and
//! should be quick. A panic in one is caught and dropped: it must not change the call it watches. (With `panic = "abort"`
//! it ends the process, as every panic does there.)
//!
//! ```
//! use buttress::circuit_breaker::CircuitBreaker;
//! use buttress::observe::{Event, EventKind};
//! use std::sync::{Arc, Mutex};
//!
//! let log = Arc::new(Mutex::new(Vec::new()));
//! let sink = log.clone();
//! let breaker = CircuitBreaker::builder("db")
//!     .observe(move |event: &Event<'_>| {
//!         if let EventKind::StateChanged { to, .. } = event.kind {
//!             sink.lock().unwrap().push(to);
//!         }
//!     })
//!     .build()?;
//! breaker.force_open();
//! assert_eq!(*log.lock().unwrap(), ["forced_open"]);
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # Events
//!
//! As `tracing` records they have the target `buttress` and the fields `layer`, `name`, `event` and those below,
//! at the level of their severity. A system in which nothing is wrong writes nothing above `DEBUG`.
//!
//! | `event` | severity | fields |
//! |---|---|---|
//! | `rejected`, `would_reject` | debug | `why` |
//! | `waited` | debug | `waited` |
//! | `state_changed` | info if all is well again, else warning | `from`, `to`, `reason` |
//! | `retried` | debug | `attempt`, `delay`, `outcome` |
//! | `retry_abandoned` | debug | `attempts`, `reason`, `outcome` |
//! | `hedged` | debug | `after` |
//! | `fell_back` | debug | `cause`, `answered` |
//! | `injected` | debug | `rule`, `fault` |
//! | `table_full` | warning | `capacity` |
//! | `replayed` | debug | |
//! | `taken_over` | warning | `generation`, `runs` |
//! | `unrecorded` | error | `reason` |
//! | those of the supervision | as severe as they are | `detail` |
//!
//! # Spans
//!
//! With `tracing`, target `buttress`, children of the caller's. A call that neither waits nor is retried costs none;
//! while nobody in the process listens at `DEBUG`, none is made and none allocates, and what a call tells at a higher level
//! is in its caller's span. A subscriber that panics when one begins, is given a field, is entered, left or closed does
//! not change the call either.
//!
//! | span | level | fields | what it is |
//! |---|---|---|---|
//! | `wait` | debug | `layer`, `name`, `outcome` | From when a call begins to wait: for a token, for a place or a turn at its backend, for a call that it joined or repeats, before a retry. `outcome` is `let_through`, `refused` or `left` |
//! | `retry_attempt` | debug | `layer`, `name`, `attempt` | An attempt after the first, which runs in the span of its caller |
//! | `request` | debug | `layer`, `name`, `outcome`, `why` | A call of a stack in a `SpanLayer`, which is opt-in. `outcome` is `answered`, `failed`, `refused` or `left` |
//!
//! # Metrics
//!
//! Named after the conventions of OpenTelemetry; Prometheus has `_` for the dots, the unit and `_total`
//! behind. What is *pulled* is read from the objects when somebody asks, so that calls pay nothing for it.
//!
//! | metric | kind | unit | labels | pulled | what it says |
//! |---|---|---|---|---|---|
//! | `buttress.events` | counter | `{event}` | `layer`, `name`, `event`, `severity` |  | Decisions of all objects |
//! | `buttress.rejections` | counter | `{call}` | `layer`, `name`, `reason`, `shadow` |  | Calls refused, or that would have been in shadow mode |
//! | `buttress.state_changes` | counter | `{change}` | `layer`, `name`, `from`, `to` |  | Changes of state of breakers, budgets and the like |
//! | `buttress.injections` | counter | `{fault}` | `layer`, `name`, `rule`, `fault` |  | Faults injected on purpose |
//! | `buttress.fallbacks` | counter | `{call}` | `layer`, `name`, `cause`, `answered` |  | Fallbacks that ended, with or without an answer |
//! | `buttress.retries` | counter | `{attempt}` | `layer`, `name`, `outcome` |  | Attempts after the first, by what the one before came to |
//! | `buttress.retry.delay` | histogram | `s` | `layer`, `name` |  | Pauses before retries |
//! | `buttress.wait.duration` | histogram | `s` | `layer`, `name` |  | Waits of calls that were then let through |
//! | `buttress.info` | gauge | `{process}` | `service`, `instance`, `version` | yes | 1, with which process this is |
//! | `buttress.uptime` | gauge | `s` |  | yes | Since the registry was made |
//! | `buttress.config.generation` | gauge | `{generation}` |  | yes | How often the configuration was read |
//! | `buttress.verdict` | gauge | `{level}` | `level` | yes | 1 for the worst level of all objects, 0 for the others |
//! | `buttress.process.phase` | gauge | `{phase}` | `phase` | yes | 1 for the phase of the process |
//! | `buttress.objects.omitted` | gauge | `{object}` |  | yes | Objects that the status left out |
//! | `buttress.series.omitted` | gauge | `{series}` |  | yes | Series that an answer of `/metrics` left out |
//! | `buttress.admin.viewers` | gauge | `{viewer}` |  | yes | Connected to the events of the admin service |
//! | `buttress.object.state` | gauge | `{object}` | `layer`, `name`, `object`, `state` | yes | 1 for the state that an object is in |
//! | `buttress.object.level` | gauge | `{level}` | `layer`, `name`, `object` | yes | 0 if an object is well, 1 if it warns, 2 if it is bad |
//! | `buttress.object.state.duration` | gauge | `s` | `layer`, `name`, `object` | yes | For how long an object has been in its state |
//! | `buttress.object.count` | counter | `{event}` | `layer`, `name`, `object`, `counter` | yes | Totals that an object keeps: calls, failures, probes, replays and so on |
//! | `buttress.object.rejections` | counter | `{call}` | `layer`, `name`, `object`, `reason` | yes | Calls that an object has refused |
//! | `buttress.object.value` | gauge | `{value}` | `layer`, `name`, `object`, `gauge`, `unit` | yes | Levels that an object keeps: window fill, tokens, limits, calls in flight and so on |
//! | `buttress.object.share` | gauge | `1` | `layer`, `name`, `object`, `gauge`, `unit` | yes | Shares from 0 to 1 that an object keeps: failure rates, what is left of a budget |
//! | `buttress.object.time` | gauge | `s` | `layer`, `name`, `object`, `gauge`, `unit` | yes | Times that an object keeps: until a budget is spent, since the last beat |
//! | `buttress.object.max` | gauge | `{value}` | `layer`, `name`, `object`, `gauge`, `unit` | yes | The most that a level, share or time of an object can be |
//! | `buttress.object.threshold` | gauge | `{value}` | `layer`, `name`, `object`, `gauge`, `unit` | yes | Where a level, share or time of an object makes a difference |
//!
//! `object` is the id of an object: kind and name, with a `#2` when several share them. The values of labels are
//! names that the program gives and words of this crate, so the number of series is bounded by the program,
//! never by its traffic. With the feature `admin`, `/metrics` has all that is pulled; with `metrics`,
//! `Metrics::publish` sets it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::caught::caught;
use crate::managed::{Home, Managed};
use crate::name::{LayerKind, Name};
use crate::outcome::Outcome;
use crate::rejection::Rejection;

pub(crate) mod instruments;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "tracing")]
mod request;
mod spans;
#[cfg(feature = "tracing")]
mod tracing;

pub use instruments::{INSTRUMENTS, Instrument, InstrumentKind};
#[cfg(feature = "metrics")]
pub use metrics::Metrics;
#[cfg(all(feature = "tracing", feature = "http"))]
pub use request::Responses;
#[cfg(feature = "tracing")]
pub use request::{Errors, SpanFuture, SpanLayer, SpanService, Told};
pub(crate) use spans::{CallSpan, LET_THROUGH, REFUSED, WaitSpan};
#[cfg(feature = "tracing")]
pub use tracing::Tracing;

/// One decision of one object.
///
/// ```
/// use buttress::circuit_breaker::CircuitBreaker;
/// use buttress::observe::Event;
/// use std::sync::Mutex;
/// static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// let breaker = CircuitBreaker::builder("db")
///     .observe(|event: &Event<'_>| {
///         SEEN.lock().unwrap().push(format!("{} {}", event.name, event.kind.as_str()));
///     })
///     .build()?;
/// breaker.force_open();
/// assert_eq!(*SEEN.lock().unwrap(), ["db state_changed"]);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The kind of layer.
    pub layer: LayerKind,
    /// The name of the object.
    pub name: Name,
    /// What it decided.
    pub kind: EventKind<'a>,
}

/// What was decided.
///
/// ```
/// use buttress::observe::{Event, EventKind};
/// // An alert for what opens or goes down, and nothing else.
/// fn alert(event: &Event<'_>) {
///     if let EventKind::StateChanged { to: to @ ("open" | "down"), reason, .. } = event.kind {
///         eprintln!("{} is {to}: {reason}", event.name);
///     }
/// }
/// let backend = buttress::Backend::new("db").observe(alert);
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum EventKind<'a> {
    /// A call was refused.
    Rejected(&'a Rejection),
    /// In shadow mode: a call would have been refused.
    WouldReject(&'a Rejection),
    /// A call had to wait and was then let through.
    Waited {
        /// For how long.
        waited: Duration,
    },
    /// A breaker or budget changed state.
    StateChanged {
        /// State before, lower-case with underscores.
        from: &'static str,
        /// State after.
        to: &'static str,
        /// Why: measured value against threshold, or who did it.
        reason: fmt::Arguments<'a>,
    },
    /// Another attempt will be made.
    Retried {
        /// The number of the attempt that failed, from 1.
        attempt: u32,
        /// How long the retry sleeps before the next one.
        delay: Duration,
        /// What the failed attempt came to.
        outcome: Outcome,
    },
    /// A failed call is not retried (any more).
    RetryAbandoned {
        /// Attempts made.
        attempts: u32,
        /// Why no more: for example `attempts`, `deadline`, `budget`, `not_retryable`.
        reason: &'static str,
        /// What the last attempt came to.
        outcome: Outcome,
    },
    /// A second attempt was made because the first took so long.
    Hedged {
        /// So long after the first.
        after: Duration,
    },
    /// A fallback has ended.
    FellBack {
        /// The kind of refusal or the outcome that it was to answer for.
        cause: &'static str,
        /// Whether it gave an answer; else the call ended as it would have without it.
        answered: bool,
    },
    /// A fault was injected into a call.
    Injected {
        /// The number of the rule, from 0.
        rule: usize,
        /// The kind of fault, lower-case with underscores.
        fault: &'static str,
    },
    /// A keyed table had no room for a new key.
    TableFull {
        /// Its capacity.
        capacity: usize,
    },
    /// A call was answered from the record of an earlier one.
    Replayed,
    /// A call whose owner had gone was claimed again.
    TakenOver {
        /// The fencing number of the new claim.
        generation: u64,
        /// How often it has been claimed.
        runs: u16,
    },
    /// A call took effect, or may have, and that could not be recorded.
    Unrecorded {
        /// Why: `store`, `fenced`, `lease_lost`, or `ungated` for a call that was let through without a
        /// record because the store did not answer.
        reason: &'static str,
    },
    /// Something happened to the process: a beat was late, a thread froze, a child ended.
    Supervised {
        /// How bad it is.
        severity: Severity,
        /// What happened, lower-case with underscores: for example `beat_late`, `frozen`, `recovered`.
        what: &'static str,
        /// The particulars, for a reader.
        detail: fmt::Arguments<'a>,
    },
}

/// How much an event matters. Chosen so that a healthy system is quiet: what happens to single calls in
/// normal operation is [`Debug`](Self::Debug).
///
/// ```
/// use buttress::observe::Severity;
/// assert!(Severity::Error > Severity::Warning);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// About one call: expected, and too much to be shown all the time.
    Debug,
    /// As planned.
    Info,
    /// Not as planned, and dealt with.
    Warning,
    /// Somebody should look.
    Error,
}

impl EventKind<'_> {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// use buttress::observe::EventKind;
    /// assert_eq!(EventKind::TableFull { capacity: 10 }.as_str(), "table_full");
    /// ```
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::WouldReject(_) => "would_reject",
            Self::Waited { .. } => "waited",
            Self::StateChanged { .. } => "state_changed",
            Self::Retried { .. } => "retried",
            Self::RetryAbandoned { .. } => "retry_abandoned",
            Self::Hedged { .. } => "hedged",
            Self::FellBack { .. } => "fell_back",
            Self::Injected { .. } => "injected",
            Self::TableFull { .. } => "table_full",
            Self::Replayed => "replayed",
            Self::TakenOver { .. } => "taken_over",
            Self::Unrecorded { .. } => "unrecorded",
            Self::Supervised { what, .. } => what,
        }
    }

    /// How much it matters.
    ///
    /// ```
    /// use buttress::observe::{EventKind, Severity};
    /// assert_eq!(EventKind::Replayed.severity(), Severity::Debug);
    /// assert_eq!(EventKind::TableFull { capacity: 10 }.severity(), Severity::Warning);
    /// ```
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Rejected(_)
            | Self::WouldReject(_)
            | Self::Waited { .. }
            | Self::Retried { .. }
            | Self::RetryAbandoned { .. }
            | Self::Hedged { .. }
            | Self::FellBack { .. }
            | Self::Injected { .. }
            | Self::Replayed => Severity::Debug,
            Self::StateChanged { to, .. } if is_good(to) => Severity::Info,
            Self::StateChanged { .. } | Self::TableFull { .. } | Self::TakenOver { .. } => {
                Severity::Warning
            }
            Self::Unrecorded { .. } => Severity::Error,
            Self::Supervised { severity, .. } => *severity,
        }
    }
}

/// States that an object is in while nothing is wrong.
fn is_good(state: &str) -> bool {
    matches!(state, "closed" | "free" | "healthy" | "retired" | "shared" | "up")
}

impl Severity {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::observe::Severity::Warning.as_str(), "warning");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Listens to events. Closures `Fn(&Event<'_>)` implement it.
///
/// ```
/// use buttress::observe::{Event, Observe};
/// struct Count(std::sync::atomic::AtomicU64);
/// impl Observe for Count {
///     fn on_event(&self, _: &Event<'_>) {
///         self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///     }
/// }
/// let _: Box<dyn Observe> = Box::new(Count(0.into()));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot observe events",
    note = "implement `Observe`, or use a closure `|event: &buttress::observe::Event<'_>| ...`"
)]
pub trait Observe: Send + Sync + 'static {
    /// Called once per decision, on the thread that made it.
    fn on_event(&self, event: &Event<'_>);
}

impl<F> Observe for F
where
    F: Fn(&Event<'_>) + Send + Sync + 'static,
{
    fn on_event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// The listeners of one object, and the registry it belongs to, which listens too.
#[derive(Clone, Default)]
pub(crate) struct Observers {
    all: Option<Arc<[Arc<dyn Observe>]>>,
    home: Home,
}

impl Observers {
    /// No observer yet, in the registry of the process.
    pub(crate) const DEFAULT: Self = Self { all: None, home: Home::Global };
    pub(crate) const NONE: Self = Self { all: None, home: Home::Nowhere };

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_none() && !self.home.listens()
    }

    /// Another registry than that of the process, or none.
    pub(crate) fn move_to(&mut self, home: Home) {
        self.home = home;
    }

    /// Where its events are kept.
    pub(crate) const fn home(&self) -> &Home {
        &self.home
    }

    /// Enters an object that has just been made into its registry.
    pub(crate) fn register<T: Managed>(&self, object: &Arc<T>) {
        self.home.register(object);
    }

    /// Takes it out of its registry before its time.
    #[cfg(feature = "config")]
    pub(crate) fn forget<T: Managed>(&self, object: &Arc<T>) {
        self.home.forget(object);
    }

    pub(crate) fn add(&mut self, observer: impl Observe) {
        let mut all: Vec<_> = self.all.as_deref().map(<[_]>::to_vec).unwrap_or_default();
        all.push(Arc::new(observer));
        self.all = Some(all.into());
    }

    /// Whether anybody would see a refusal: refusing is a hot path, and most programs filter its event.
    #[inline]
    pub(crate) fn see_refusals(&self) -> bool {
        #[cfg(feature = "tracing")]
        if ::tracing::level_filters::LevelFilter::current() >= ::tracing::Level::DEBUG {
            return true;
        }
        self.all.is_some() || self.home.listens()
    }

    /// Must be called outside all locks: observers are user code.
    #[cold]
    pub(crate) fn emit(&self, layer: LayerKind, name: Name, kind: EventKind<'_>) {
        let event = Event { layer, name, kind };
        // Also runs while a future is being dropped, where a second panic would abort the process.
        caught(|| {
            #[cfg(feature = "tracing")]
            Tracing.on_event(&event);
        });
        if self.home.listens() {
            caught(|| self.home.note(&event));
        }
        for observer in self.all.iter().flat_map(|all| all.iter()) {
            caught(|| observer.on_event(&event));
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Observers({})", self.all.as_ref().map_or(0, |all| all.len()))
    }
}
