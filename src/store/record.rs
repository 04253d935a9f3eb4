//! What is kept of an execution, and what is told of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::id::{Attempt, Fingerprint};

/// What an execution came to, in the words of whoever ran it: a number, and bytes that the store does not
/// look into.
///
/// The body may be missing because it was too large to keep, and the head with it, if that was too large even
/// alone: then the execution is known to have happened, and is not repeated, but its answer cannot be given
/// again in full.
///
/// ```
/// use buttress::store::Outcome;
/// let created = Outcome::new(201, &b"location: /orders/7"[..], &b"{}"[..]);
/// assert_eq!(created.status(), 201);
/// assert_eq!(created.without_body().body(), None);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    status: u16,
    is_retained: bool,
    /// Of the bytes, the body comes after it.
    head: usize,
    bytes: Bytes,
}

/// Such as a response's body can share.
#[cfg(feature = "http")]
use bytes::Bytes;
#[cfg(not(feature = "http"))]
type Bytes = Box<[u8]>;

impl Outcome {
    /// With everything.
    ///
    /// ```
    /// use buttress::store::Outcome;
    /// assert_eq!(Outcome::new(200, vec![], vec![1]).body(), Some(&[1][..]));
    /// ```
    #[must_use]
    #[cfg_attr(
        not(feature = "http"),
        expect(clippy::useless_conversion, reason = "a box is what it is then")
    )]
    pub fn new(status: u16, head: impl Into<Box<[u8]>>, body: impl Into<Box<[u8]>>) -> Self {
        let (head, body) = (head.into(), body.into());
        match head.len() {
            0 => Self { status, is_retained: true, head: 0, bytes: body.into() },
            _ => Self::joined(status, head.into_vec(), &body),
        }
    }

    /// With everything, and no box more than it needs if the head has room for the body.
    pub(crate) fn joined(status: u16, mut head: Vec<u8>, body: &[u8]) -> Self {
        let length = head.len();
        head.reserve_exact(body.len());
        head.extend_from_slice(body);
        Self { status, is_retained: true, head: length, bytes: head.into() }
    }

    /// Without a body, because it cannot be kept.
    ///
    /// ```
    /// use buttress::store::Outcome;
    /// assert!(!Outcome::not_retained(200, vec![]).is_retained());
    /// ```
    #[must_use]
    #[cfg_attr(
        not(feature = "http"),
        expect(clippy::useless_conversion, reason = "a box is what it is then")
    )]
    pub fn not_retained(status: u16, head: impl Into<Box<[u8]>>) -> Self {
        let bytes = head.into();
        Self { status, is_retained: false, head: bytes.len(), bytes: bytes.into() }
    }

    /// A copy without the body.
    ///
    /// ```
    /// use buttress::store::Outcome;
    /// let outcome = Outcome::new(200, vec![1], vec![2]);
    /// assert_eq!(outcome.without_body(), Outcome::not_retained(200, vec![1]));
    /// ```
    #[must_use]
    pub fn without_body(&self) -> Self {
        Self::not_retained(self.status, self.head())
    }

    /// A copy without head and body.
    ///
    /// ```
    /// use buttress::store::Outcome;
    /// let outcome = Outcome::new(200, vec![1], vec![2]);
    /// assert_eq!(outcome.status_only(), Outcome::not_retained(200, vec![]));
    /// ```
    #[must_use]
    pub fn status_only(&self) -> Self {
        Self::not_retained(self.status, [])
    }

    /// As much of it as fits into so many bytes: all, or all but the body, or the status alone. `None` if it
    /// fits as it is.
    pub(crate) fn trimmed_to(&self, room: usize) -> Option<Self> {
        if self.len() <= room {
            None
        } else if self.head <= room {
            Some(self.without_body())
        } else {
            Some(self.status_only())
        }
    }

    /// The number, for HTTP the status.
    ///
    /// ```
    /// assert_eq!(buttress::store::Outcome::new(404, vec![], vec![]).status(), 404);
    /// ```
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// What goes with it, for HTTP the header fields.
    ///
    /// ```
    /// assert!(buttress::store::Outcome::new(404, vec![], vec![]).head().is_empty());
    /// ```
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.bytes[..self.head]
    }

    /// The answer; `None` if it was not kept.
    ///
    /// ```
    /// assert_eq!(buttress::store::Outcome::new(200, vec![], vec![]).body(), Some(&[][..]));
    /// ```
    #[must_use]
    pub fn body(&self) -> Option<&[u8]> {
        self.is_retained.then(|| &self.bytes[self.head..])
    }

    /// The answer, shared; nothing if it was not kept.
    #[cfg(feature = "http")]
    pub(crate) fn shared_body(&self) -> Bytes {
        self.bytes.slice(self.head..)
    }

    /// Whether the body was kept.
    ///
    /// ```
    /// assert!(buttress::store::Outcome::new(200, vec![], vec![]).is_retained());
    /// ```
    #[must_use]
    pub const fn is_retained(&self) -> bool {
        self.is_retained
    }

    /// Bytes of head and body.
    ///
    /// ```
    /// assert_eq!(buttress::store::Outcome::new(200, vec![1], vec![2, 3]).len(), 3);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has neither head nor body.
    ///
    /// ```
    /// assert!(buttress::store::Outcome::new(204, vec![], vec![]).is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// Answers may hold what does not belong into logs.
impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("status", &self.status)
            .field("head", &self.head)
            .field("body", &self.body().map(<[u8]>::len))
            .finish()
    }
}

/// How far an execution has come.
///
/// ```
/// assert_eq!(buttress::store::State::Pending.as_str(), "pending");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Claimed. Whoever claimed it holds a lease, or has lost it.
    Pending,
    /// It ran and this came of it.
    Completed(Arc<Outcome>),
    /// It was claimed, and nobody knows whether it ran.
    Interrupted,
}

impl State {
    /// Lower-case name.
    ///
    /// ```
    /// assert_eq!(buttress::store::State::Interrupted.as_str(), "interrupted");
    /// ```
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed(_) => "completed",
            Self::Interrupted => "interrupted",
        }
    }

    /// What came of it, if it is completed.
    ///
    /// ```
    /// assert!(buttress::store::State::Pending.outcome().is_none());
    /// ```
    #[must_use]
    pub const fn outcome(&self) -> Option<&Arc<Outcome>> {
        match self {
            Self::Completed(outcome) => Some(outcome),
            Self::Pending | Self::Interrupted => None,
        }
    }
}

/// A record as a store tells it. Times are durations by the store's clock, as of when it was read.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::store::StoreError> {
/// use buttress::store::{Attempt, Claim, Fingerprint, MemoryStore, RecordId, State, Store};
/// let store = MemoryStore::default();
/// let id = RecordId::of(b"", b"order-1");
/// store.begin(&id, &Claim::new(Fingerprint::NONE, Attempt::new())).await?;
/// let record = store.get(&id).await?.unwrap();
/// assert_eq!(record.state, State::Pending);
/// assert_eq!(record.runs, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// What was asked for.
    pub fingerprint: Fingerprint,
    /// How far it has come.
    pub state: State,
    /// The fencing number: each claim of the same record has a greater one.
    pub generation: u64,
    /// The claim it belongs to.
    pub attempt: Attempt,
    /// How often it has been claimed for execution.
    pub runs: u16,
    /// How long the lease still holds; zero if it has ended or is not needed any more.
    pub lease_left: Duration,
    /// When the record may be forgotten.
    pub expires_in: Duration,
    /// Since it was claimed for the first time.
    pub age: Duration,
}
