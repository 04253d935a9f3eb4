//! What is asked of a store and what it answers.

use std::sync::Arc;
use std::time::Duration;

use super::id::{Attempt, Fingerprint};
use super::record::{Outcome, Record};

/// What becomes of a record whose owner has gone: its lease has ended and nothing was recorded. The effect
/// may have happened or not.
///
/// ```
/// use buttress::store::OnInterrupted;
/// assert_eq!(OnInterrupted::default(), OnInterrupted::Fail);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnInterrupted {
    /// It is not run again. Callers are told that the outcome is unknown, until somebody
    /// [resolves](super::Store::resolve) it or the owner turns out to live and records it.
    #[default]
    Fail,
    /// The next caller runs it, up to this many runs in all. For effects that may happen twice.
    Rerun(u16),
    /// The next caller is told to find out whether the effect happened, while others wait.
    Probe,
}

/// A request to be the one that executes.
///
/// ```
/// use buttress::store::{Attempt, Claim, Fingerprint, OnInterrupted};
/// use std::time::Duration;
/// let claim = Claim::new(Fingerprint::of(b"10 EUR"), Attempt::new())
///     .lease(Duration::from_secs(10))
///     .on_interrupted(OnInterrupted::Rerun(3));
/// assert_eq!(claim.retention, Duration::from_secs(24 * 60 * 60));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// What is asked for.
    pub fingerprint: Fingerprint,
    /// The token of this claim. The same one again is the same claim again.
    pub attempt: Attempt,
    /// How long the claim holds without being renewed.
    pub lease: Duration,
    /// How long the record is kept: from its end if it is completed, and until then from the end of its lease,
    /// so that what was interrupted is known for as long. Another clock than the lease, and of any length beside
    /// it: it never makes anything run again before its time.
    pub retention: Duration,
    /// What to do with a claim whose lease has ended.
    pub on_interrupted: OnInterrupted,
}

impl Claim {
    /// With a lease of 30 s, a retention of 24 h and [`OnInterrupted::Fail`].
    ///
    /// ```
    /// use buttress::store::{Attempt, Claim, Fingerprint};
    /// assert_eq!(Claim::new(Fingerprint::NONE, Attempt::new()).lease.as_secs(), 30);
    /// ```
    #[must_use]
    pub const fn new(fingerprint: Fingerprint, attempt: Attempt) -> Self {
        Self {
            fingerprint,
            attempt,
            lease: Duration::from_secs(30),
            retention: Duration::from_secs(24 * 60 * 60),
            on_interrupted: OnInterrupted::Fail,
        }
    }

    /// With another lease.
    ///
    /// ```
    /// # use buttress::store::{Attempt, Claim, Fingerprint};
    /// # use std::time::Duration;
    /// let claim = Claim::new(Fingerprint::NONE, Attempt::new()).lease(Duration::from_secs(1));
    /// ```
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// With another retention.
    ///
    /// ```
    /// # use buttress::store::{Attempt, Claim, Fingerprint};
    /// # use std::time::Duration;
    /// let claim = Claim::new(Fingerprint::NONE, Attempt::new()).retention(Duration::from_secs(60));
    /// ```
    #[must_use]
    pub const fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// With another policy for claims whose lease has ended.
    ///
    /// ```
    /// # use buttress::store::{Attempt, Claim, Fingerprint, OnInterrupted};
    /// let claim = Claim::new(Fingerprint::NONE, Attempt::new()).on_interrupted(OnInterrupted::Probe);
    /// ```
    #[must_use]
    pub const fn on_interrupted(mut self, policy: OnInterrupted) -> Self {
        self.on_interrupted = policy;
        self
    }
}

/// What a claim came to.
///
/// ```
/// use buttress::store::Begun;
/// assert!(matches!(Begun::Run { generation: 1, runs: 1 }, Begun::Run { .. }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Begun {
    /// It is yours: execute, then complete.
    Run {
        /// The fencing number of this claim.
        generation: u64,
        /// How often it has been claimed, this time included.
        runs: u16,
    },
    /// It is yours, but an owner before you has gone: find out whether the effect happened, then complete,
    /// or execute and complete, or [interrupt](super::Store::interrupt). Asked for with
    /// [`OnInterrupted::Probe`].
    Probe {
        /// The fencing number of this claim.
        generation: u64,
        /// How often it has been claimed, this time included.
        runs: u16,
    },
    /// Somebody else is at it.
    Busy {
        /// The fencing number of their claim, for [`changed`](super::Store::changed).
        generation: u64,
        /// When their lease ends unless it is renewed.
        retry_in: Duration,
    },
    /// The key was used for something else.
    Mismatch,
    /// It ran, and this came of it.
    Done(Record),
    /// Somebody was at it, and nobody knows whether it ran.
    Interrupted(Record),
}

/// What came of a change to a record.
///
/// ```
/// use buttress::store::Finish;
/// assert!(Finish::Already.is_recorded());
/// assert!(!Finish::Fenced.is_recorded());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Finish {
    /// Done.
    Applied,
    /// Done, but there was no room for the outcome's body, or for anything but its status.
    Trimmed,
    /// It had been done by this attempt before.
    Already,
    /// Refused: the record belongs to another attempt, has been decided otherwise, or is gone.
    Fenced,
}

impl Finish {
    /// Whether the record says what it was told to say, now or since before. Not the question to ask before a
    /// transaction is committed: that is [`is_applied`](Self::is_applied).
    ///
    /// ```
    /// assert!(buttress::store::Finish::Applied.is_recorded());
    /// ```
    #[must_use]
    pub const fn is_recorded(self) -> bool {
        !matches!(self, Self::Fenced)
    }

    /// Whether it is this very call that changed the record. What is made in one transaction with the record is
    /// committed only then: [`Already`](Self::Already) says that it has been committed before.
    ///
    /// ```
    /// use buttress::store::Finish;
    /// assert!(Finish::Applied.is_applied() && Finish::Trimmed.is_applied());
    /// assert!(!Finish::Already.is_applied() && !Finish::Fenced.is_applied());
    /// ```
    #[must_use]
    pub const fn is_applied(self) -> bool {
        matches!(self, Self::Applied | Self::Trimmed)
    }
}

/// What came of the renewal of a lease.
///
/// ```
/// use buttress::store::Renewed;
/// assert_ne!(Renewed::Interrupted, Renewed::Fenced);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Renewed {
    /// It holds again for its whole length.
    Held,
    /// It ended, and somebody has been told that the outcome is unknown. Nobody has run it again, so
    /// completing still works and sets the record right.
    Interrupted,
    /// The record belongs to somebody else, is decided, or is gone.
    Fenced,
}

/// What an operator, or whoever has found out, says of an execution that nobody knows the outcome of.
///
/// ```
/// use buttress::store::{Outcome, Resolution};
/// let found = Resolution::completed(Outcome::new(200, vec![], b"paid".to_vec()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution {
    /// It did run, and this came of it.
    Completed(Arc<Outcome>),
    /// The record is removed: the next caller runs it. Also removes a completed record.
    Forget,
}

impl Resolution {
    /// It did run, and this came of it.
    ///
    /// ```
    /// use buttress::store::{Outcome, Resolution};
    /// let found = Resolution::completed(Outcome::new(200, vec![], vec![]));
    /// assert_ne!(found, Resolution::Forget);
    /// ```
    #[must_use]
    pub fn completed(outcome: impl Into<Arc<Outcome>>) -> Self {
        Self::Completed(outcome.into())
    }
}
