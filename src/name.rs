//! Who speaks: the kind of layer and the name of the object.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};

/// The name of a breaker, limiter, policy or budget: a label in events, errors and metrics.
///
/// One word, `Copy`. Each distinct text is kept once, for the life of the process, so names must come
/// from code or configuration, never from requests.
///
/// ```
/// use buttress::Name;
/// let a = Name::from("payments");
/// let b = Name::from(String::from("payments"));
/// assert_eq!(a, b);
/// ```
#[derive(Clone, Copy)]
pub struct Name(&'static &'static str);

impl Name {
    /// The text.
    ///
    /// ```
    /// assert_eq!(buttress::Name::from("db").as_str(), "db");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// What a thread that works for it is called. Threads cannot have a zero byte in their names.
    #[cfg(feature = "supervise")]
    pub(crate) fn of_thread(self, work: &str) -> String {
        format!("{}-{work}", self.as_str().replace('\0', " "))
    }

    fn intern(text: Cow<'static, str>) -> Self {
        static KEPT: Mutex<Option<HashMap<&'static str, Name>>> = Mutex::new(None);
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.get_or_insert_default();
        if let Some(name) = kept.get(text.as_ref()) {
            return *name;
        }
        let text: &'static str = match text {
            Cow::Borrowed(text) => text,
            Cow::Owned(text) => Box::leak(text.into_boxed_str()),
        };
        let name = Self(Box::leak(Box::new(text)));
        kept.insert(text, name);
        name
    }
}

impl From<&'static str> for Name {
    fn from(text: &'static str) -> Self {
        Self::intern(Cow::Borrowed(text))
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Self::intern(Cow::Owned(text))
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which kind of layer speaks.
///
/// ```
/// assert_eq!(buttress::LayerKind::CircuitBreaker.as_str(), "circuit_breaker");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LayerKind {
    /// `buttress::retry`
    Retry,
    /// A retry budget shared by retries (and whatever else makes extra attempts).
    RetryBudget,
    /// `buttress::circuit_breaker`
    CircuitBreaker,
    /// `buttress::rate_limit`
    RateLimit,
    /// The failure budget.
    FailureBudget,
    /// The fault conditioner.
    Conditioner,
    /// The idempotency layer.
    Idempotency,
    /// What is known of one backend: its limit, headroom and state.
    Backend,
    /// The limit of calls in flight and its waiting room.
    Admission,
    /// Second attempts that race the first.
    Hedge,
    /// The learned rate of calls that a backend accepts.
    Throttle,
    /// The choice among several endpoints.
    Endpoints,
    /// The time limit of a call.
    Timeout,
    /// The answer in place of a refusal or failure.
    Fallback,
    /// One call for several identical ones.
    Coalesce,
    /// Configuration that is read, checked and read again.
    Config,
    /// What keeps the process alive: shutdown, heartbeat, watchdog, children, health.
    Supervise,
    /// A layer of yours that speaks the same vocabulary.
    Custom(&'static str),
}

impl LayerKind {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::LayerKind::Custom("shard").as_str(), "shard");
    /// assert_eq!(buttress::LayerKind::Custom("shard").to_string(), "shard");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::RetryBudget => "retry_budget",
            Self::CircuitBreaker => "circuit_breaker",
            Self::RateLimit => "rate_limit",
            Self::FailureBudget => "failure_budget",
            Self::Conditioner => "conditioner",
            Self::Idempotency => "idempotency",
            Self::Backend => "backend",
            Self::Admission => "admission",
            Self::Hedge => "hedge",
            Self::Throttle => "throttle",
            Self::Endpoints => "endpoints",
            Self::Timeout => "timeout",
            Self::Fallback => "fallback",
            Self::Coalesce => "coalesce",
            Self::Config => "config",
            Self::Supervise => "supervise",
            Self::Custom(name) => name,
        }
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
