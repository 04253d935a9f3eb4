//! What is kept of an effect, and what can go wrong with it.

use std::error::Error as StdError;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::error::ConfigError;
use crate::store::{Fingerprint, Outcome, Record, State, StoreError};

/// Statuses of outcomes. HTTP's start at 100, those of runs are 0 and 1.
pub(super) const SUCCESS: u16 = 2;
pub(super) const FAILED: u16 = 3;

/// How far an effect has come.
///
/// ```
/// use buttress::idempotency::EffectStatus;
/// assert_eq!("success".parse(), Ok(EffectStatus::Success));
/// assert!("SUCCESS".parse::<EffectStatus>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EffectStatus {
    /// Claimed.
    Pending,
    /// It happened. Final.
    Success,
    /// It did not. It may be claimed again.
    Failed,
    /// It was claimed by somebody who has gone, and nobody knows.
    Interrupted,
}

impl EffectStatus {
    /// Lower-case name.
    ///
    /// ```
    /// assert_eq!(buttress::idempotency::EffectStatus::Failed.as_str(), "failed");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

impl FromStr for EffectStatus {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        [Self::Pending, Self::Success, Self::Failed, Self::Interrupted]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| ConfigError::new("status", text, "success or failed"))
    }
}

/// What is kept of an effect.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::idempotency::EffectError> {
/// use buttress::idempotency::{EffectStatus, EffectStore};
/// let effects = EffectStore::in_memory();
/// effects.pending("a", "h").await?;
/// effects.complete("a", EffectStatus::Success, &7).await?;
/// let record = effects.get("a").await?.unwrap();
/// assert_eq!((record.status, record.result::<i32>()?), (EffectStatus::Success, Some(7)));
/// assert!(record.is_input("h"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EffectRecord {
    /// Its id.
    pub action_id: String,
    /// How far it has come.
    pub status: EffectStatus,
    /// How often it has been claimed since it was released or failed.
    pub runs: u16,
    /// Since it was claimed.
    pub age: Duration,
    input: Fingerprint,
    outcome: Option<Arc<Outcome>>,
}

impl EffectRecord {
    /// Whether it was claimed with this input hash. Only a hash of that is kept.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::idempotency::EffectError> {
    /// # use buttress::idempotency::EffectStore;
    /// let effects = EffectStore::in_memory();
    /// effects.pending("a", "h").await?;
    /// assert!(!effects.get("a").await?.unwrap().is_input("other"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_input(&self, input_hash: &str) -> bool {
        self.input == input(input_hash)
    }

    /// What it was completed with.
    ///
    /// # Errors
    /// If it is something else than `T`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::idempotency::EffectError> {
    /// # use buttress::idempotency::EffectStore;
    /// let effects = EffectStore::in_memory();
    /// effects.pending("a", "h").await?;
    /// assert_eq!(effects.get("a").await?.unwrap().result::<i32>()?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn result<T: DeserializeOwned>(&self) -> Result<Option<T>, EffectError> {
        let Some(outcome) = &self.outcome else { return Ok(None) };
        let body = outcome.body().ok_or(EffectError::NotRetained)?;
        serde_json::from_slice(body).map(Some).map_err(|error| EffectError::Json(Arc::new(error)))
    }
}

/// Why an effect cannot be claimed, completed or read.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use buttress::idempotency::{EffectError, EffectStatus, EffectStore};
/// let effects = EffectStore::in_memory();
/// let lost = effects.complete("a", EffectStatus::Success, &7).await;
/// assert!(matches!(lost, Err(EffectError::NotClaimed)));
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EffectError {
    /// Somebody else is at it.
    InFlight {
        /// When his lease ends unless he completes.
        retry_after: Duration,
    },
    /// The id was used with another input hash.
    Mismatch,
    /// It has happened already.
    AlreadyDone,
    /// It was claimed by somebody who has gone, and nobody knows whether it happened.
    Interrupted,
    /// What nobody has claimed cannot be completed.
    NotClaimed,
    /// The claim has passed to somebody else.
    Fenced,
    /// An effect is completed as `success` or `failed`.
    NoSuchCompletion(EffectStatus),
    /// It happened, but its result was too large to keep.
    NotRetained,
    /// The result has no JSON form, or is not what was asked for.
    Json(Arc<dyn StdError + Send + Sync>),
    /// The store did not do it.
    Store(StoreError),
}

impl fmt::Display for EffectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InFlight { retry_after } => {
                write!(f, "the effect is being executed, retry after {retry_after:?}")
            }
            Self::Mismatch => f.write_str("the action id was used with another input hash"),
            Self::AlreadyDone => f.write_str("the effect has happened already"),
            Self::Interrupted => {
                f.write_str("the effect was interrupted, nobody knows whether it happened")
            }
            Self::NotClaimed => f.write_str("the effect was not claimed"),
            Self::Fenced => f.write_str("the claim has passed to somebody else"),
            Self::NoSuchCompletion(status) => {
                write!(f, "an effect is completed as success or failed, not {}", status.as_str())
            }
            Self::NotRetained => f.write_str("the result of the effect was not kept"),
            Self::Json(_) => f.write_str("the result of the effect has another form"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl StdError for EffectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Json(error) => Some(&**error),
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<StoreError> for EffectError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

pub(super) fn input(input_hash: &str) -> Fingerprint {
    Fingerprint::builder().field(b"input").field(input_hash.as_bytes()).finish()
}

/// Whether it may be claimed again.
pub(super) fn has_failed(record: &Record) -> bool {
    record.state.outcome().is_some_and(|outcome| outcome.status() == FAILED)
}

impl EffectRecord {
    pub(super) fn new(action_id: &str, record: &Record) -> Self {
        let status = match &record.state {
            State::Pending => EffectStatus::Pending,
            State::Completed(outcome) if outcome.status() == SUCCESS => EffectStatus::Success,
            State::Completed(_) => EffectStatus::Failed,
            State::Interrupted => EffectStatus::Interrupted,
        };
        Self {
            action_id: action_id.to_owned(),
            status,
            runs: record.runs,
            age: record.age,
            input: record.fingerprint,
            outcome: record.state.outcome().cloned(),
        }
    }
}
