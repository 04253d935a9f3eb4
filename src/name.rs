//! Who speaks: the kind of layer and the name of the object.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The name of a breaker, limiter, policy or budget: a label in events, errors and metrics.
///
/// Two words, `Copy`. A name made from a `String` is kept for the life of the process, each distinct
/// text once, so names must come from code or configuration, never from requests.
///
/// ```
/// use buttress::Name;
/// let a = Name::from("payments");
/// let b = Name::from(String::from("payments"));
/// assert_eq!(a, b);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name(&'static str);

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
}

impl From<&'static str> for Name {
    fn from(text: &'static str) -> Self {
        Self(text)
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        static INTERNED: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
        let mut guard = INTERNED.lock().unwrap_or_else(PoisonError::into_inner);
        let set = guard.get_or_insert_with(HashSet::new);
        if let Some(known) = set.get(text.as_str()) {
            return Self(known);
        }
        let kept: &'static str = Box::leak(text.into_boxed_str());
        set.insert(kept);
        Self(kept)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
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
    /// A layer of yours that speaks the same vocabulary.
    Custom(&'static str),
}

impl LayerKind {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::LayerKind::Custom("bulkhead").as_str(), "bulkhead");
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
            Self::Custom(name) => name,
        }
    }
}
