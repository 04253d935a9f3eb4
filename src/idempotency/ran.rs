//! What a run comes to.

use std::error::Error as StdError;
use std::fmt;

use crate::rejection::Rejection;

/// A value, and where it comes from.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # use buttress::idempotency::{Idempotency, Scope};
/// # use buttress::store::{Fingerprint, MemoryStore};
/// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
/// let ran = gate.run("k", Fingerprint::NONE, || async { Ok::<_, &str>(7) }).await.unwrap();
/// assert_eq!(ran.value, 7);
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ran<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub status: Status,
}

impl<T> Ran<T> {
    pub(crate) const fn ungated(value: T) -> Self {
        Self { value, status: Status::Ungated }
    }
}

/// Where the value of a [`Ran`] comes from.
///
/// ```
/// assert_eq!(buttress::idempotency::Status::Replayed.as_str(), "replayed");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Executed now, and recorded.
    Stored,
    /// Executed now, and recorded without the value, which is too large or has no form to keep. Who asks
    /// again is told that it ran, and nothing more.
    NotRetained,
    /// Executed before, and answered from the record.
    Replayed,
    /// Executed now, but the store did not confirm the record: who asks again may be told that the outcome
    /// is unknown.
    Unconfirmed,
    /// Executed now, without a record: because the store did not answer and the gate was told to go on
    /// ([`Outage::RunUngated`](super::Outage::RunUngated)), or because the policy of a retry promises no more than at least once.
    Ungated,
}

impl Status {
    /// Lower-case name with underscores.
    ///
    /// ```
    /// assert_eq!(buttress::idempotency::Status::NotRetained.as_str(), "not_retained");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::NotRetained => "not_retained",
            Self::Replayed => "replayed",
            Self::Unconfirmed => "unconfirmed",
            Self::Ungated => "ungated",
        }
    }
}

/// Why there is no value.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use buttress::RejectionKind;
/// use buttress::idempotency::{Idempotency, RunError, Scope};
/// use buttress::store::{Fingerprint, MemoryStore};
/// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
/// let first = gate.run("k", Fingerprint::of(b"a"), || async { Ok::<_, &str>(7) }).await;
/// let other = gate.run("k", Fingerprint::of(b"b"), || async { Ok::<_, &str>(7) }).await;
/// let RunError::Rejected(why) = other.unwrap_err() else { panic!() };
/// assert_eq!(why.kind(), RejectionKind::IdempotencyMismatch);
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RunError<E> {
    /// It was not executed, or, if the kind is `IdempotencyOutcomeUnknown`, nobody knows.
    Rejected(Rejection),
    /// It was executed now and failed.
    Inner(E),
    /// It was executed before, and there is no value of it.
    Earlier(Earlier),
}

/// What is known of an earlier execution that has no value to give.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use buttress::idempotency::{Earlier, Idempotency, RunError, Scope};
/// use buttress::store::{Fingerprint, MemoryStore};
/// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
/// let pay = || async { Err::<(), _>("card declined") };
/// assert!(matches!(gate.run("k", Fingerprint::NONE, pay).await, Err(RunError::Inner(_))));
/// let Err(RunError::Earlier(Earlier::Failed(text))) = gate.run("k", Fingerprint::NONE, pay).await
///     else { panic!() };
/// assert_eq!(text, "card declined");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Earlier {
    /// It failed, and said this.
    Failed(String),
    /// It ran, but its answer was not kept.
    NotRetained,
    /// It ran, but its answer cannot be read as what is expected here.
    Unreadable(String),
}

impl<E> RunError<E> {
    /// The refusal, if it is one.
    ///
    /// ```
    /// use buttress::idempotency::RunError;
    /// assert!(RunError::Inner("failed").rejection().is_none());
    /// ```
    #[must_use]
    pub const fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(why) => Some(why),
            Self::Inner(_) | Self::Earlier(_) => None,
        }
    }

    pub(crate) fn map_inner<E2>(self, f: impl FnOnce(E) -> RunError<E2>) -> RunError<E2> {
        match self {
            Self::Rejected(why) => RunError::Rejected(why),
            Self::Inner(error) => f(error),
            Self::Earlier(earlier) => RunError::Earlier(earlier),
        }
    }
}

impl fmt::Display for Earlier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) => write!(f, "an earlier call with this key failed: {text}"),
            Self::NotRetained => {
                f.write_str("an earlier call with this key was executed, its answer was not kept")
            }
            Self::Unreadable(why) => {
                write!(f, "the answer of an earlier call with this key cannot be read: {why}")
            }
        }
    }
}

impl StdError for Earlier {}

impl<E: fmt::Display> fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(why) => why.fmt(f),
            Self::Inner(error) => error.fmt(f),
            Self::Earlier(earlier) => earlier.fmt(f),
        }
    }
}

// Transparent, like `buttress::Error`.
impl<E: StdError + 'static> StdError for RunError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Rejected(why) => Some(why),
            Self::Inner(error) => Some(error),
            Self::Earlier(earlier) => Some(earlier),
        }
    }
}

/// What a probe has found out about an execution whose owner has gone.
///
/// ```
/// use buttress::idempotency::Probed;
/// assert_ne!(Probed::<u8>::NotApplied, Probed::Unknown);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "it happened, it did not, or nobody knows")]
pub enum Probed<T> {
    /// The effect happened, and this came of it.
    Applied(T),
    /// The effect surely did not happen: it is executed now.
    NotApplied,
    /// It could not be found out: it is not executed, and stays so until somebody
    /// [resolves](super::Idempotency::resolve) it.
    Unknown,
}
