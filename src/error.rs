//! The errors of this crate: a refused or failed call, and settings that cannot be used.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use crate::rejection::Rejection;

/// The type-erased error of tower's own layers.
///
/// ```
/// use buttress::BoxError;
/// let error: BoxError = std::io::Error::other("broken").into();
/// assert_eq!(error.to_string(), "broken");
/// ```
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// A refusal of ours, or the error of the call itself: the error of direct use
/// (`breaker.call(…)`) and of layers with [`AsTyped`](crate::AsTyped).
///
/// ```
/// use buttress::{Error, LayerKind, Rejection, RejectionKind};
/// let error: Error<std::io::Error> =
///     Rejection::new(RejectionKind::CircuitOpen, LayerKind::CircuitBreaker, "db").into();
/// assert!(error.rejection().is_some());
/// assert!(error.into_inner().is_err());
/// ```
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a call is refused or it ran; there is no third case")]
pub enum Error<E> {
    /// The call was refused and not made.
    Rejected(Rejection),
    /// The call was made and returned this error.
    Inner(E),
}

impl<E> Error<E> {
    /// The refusal, if it is one.
    ///
    /// ```
    /// assert!(buttress::Error::Inner(7).rejection().is_none());
    /// ```
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Inner(_) => None,
        }
    }

    /// The call's own error, or the refusal.
    ///
    /// # Errors
    /// The [`Rejection`] if the call was refused.
    ///
    /// ```
    /// assert_eq!(buttress::Error::Inner(7).into_inner().unwrap(), 7);
    /// ```
    pub fn into_inner(self) -> Result<E, Rejection> {
        match self {
            Self::Rejected(rejection) => Err(rejection),
            Self::Inner(inner) => Ok(inner),
        }
    }
}

impl<E> From<Rejection> for Error<E> {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::Inner(inner) => inner.fmt(f),
        }
    }
}

// Transparent: `Display` prints the inner error itself, so `source()` must not repeat it but a
// downcast further up must still find a rejection. Hence the rejection is its own source.
impl<E: StdError + 'static> StdError for Error<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Inner(inner) => Some(inner),
        }
    }
}

/// A configuration value that cannot be used: which field, what it was, what it should have been.
///
/// ```
/// use buttress::circuit_breaker::CircuitBreaker;
/// let error = CircuitBreaker::builder("db").failure_rate(1.5).build().unwrap_err();
/// assert_eq!(error.field(), "failure_rate");
/// assert_eq!(
///     error.to_string(),
///     "invalid failure_rate: 1.5, expected a share above 0 and at most 1"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: Cow<'static, str>,
    value: String,
    expected: Cow<'static, str>,
}

impl ConfigError {
    /// An error for `field`, which was `value` and should have been `expected`.
    ///
    /// ```
    /// let e = buttress::ConfigError::new("burst", 0, "at least 1");
    /// assert_eq!(e.to_string(), "invalid burst: 0, expected at least 1");
    /// ```
    #[must_use]
    pub fn new(
        field: impl Into<Cow<'static, str>>,
        value: impl fmt::Display,
        expected: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { field: field.into(), value: value.to_string(), expected: expected.into() }
    }

    /// The field, as the builder or the configuration file spells it.
    ///
    /// ```
    /// assert_eq!(buttress::ConfigError::new("rate", -1, "above 0").field(), "rate");
    /// ```
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The value that was given.
    ///
    /// ```
    /// assert_eq!(buttress::ConfigError::new("rate", -1, "above 0").value(), "-1");
    /// ```
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What was expected.
    ///
    /// ```
    /// assert_eq!(buttress::ConfigError::new("rate", -1, "above 0").expected(), "above 0");
    /// ```
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {}: {}, expected {}", self.field, self.value, self.expected)
    }
}

impl StdError for ConfigError {}
