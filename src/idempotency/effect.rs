//! The interface of nodus-retry's effect store, over any store.

mod record;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::record::{EffectError, EffectRecord, EffectStatus};
use self::record::{FAILED, SUCCESS, has_failed, input};
use super::asking::{Claimant, TakingBack, ask};
use crate::store::{
    Attempt, Begun, Claim, Finish, MemoryStore, OnInterrupted, Outcome, RecordId, Resolution,
    Store, StoreError,
};

/// What the claim of an effect came to.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::idempotency::EffectError> {
/// use buttress::idempotency::{EffectClaim, EffectStore};
/// let effects = EffectStore::in_memory();
/// assert!(matches!(effects.claim::<i32>("a", "h").await?, EffectClaim::Yours(_)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EffectClaim<T> {
    /// Execute it, then [complete](EffectStore::complete_claim) with this.
    Yours(EffectTicket),
    /// It has happened, and this came of it.
    Done(T),
}

/// The right to complete an effect.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::idempotency::EffectError> {
/// # use buttress::idempotency::{EffectClaim, EffectStatus, EffectStore};
/// # let effects = EffectStore::in_memory();
/// let EffectClaim::Yours(ticket) = effects.claim::<i32>("a", "h").await? else { panic!() };
/// effects.complete_claim(&ticket, EffectStatus::Success, &7).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectTicket {
    id: RecordId,
    attempt: Attempt,
}

/// Records of effects by the ids of their actions, over any store: `resolve`, `pending` and `complete` as
/// nodus-retry has them, and [`claim`](Self::claim), which does the first two at once. For new code the gate,
/// [`Idempotency`](super::Idempotency), does all of it.
///
/// Where it differs: `pending` fails for all but one of those who call it at the same time, so an effect is not
/// executed by each of them; a success is final; input hashes are compared; any JSON value is a result;
/// completing what was not claimed is an error; a claim has a lease, so that a worker that has died is noticed,
/// and [`OnInterrupted`] says what comes then.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use buttress::idempotency::{EffectStatus, EffectStore, compute_action_id};
///
/// let effects = EffectStore::in_memory();
/// let id = compute_action_id("memory.write", &["k", "v"], "run-001")?;
///
/// assert_eq!(effects.resolve::<String>(&id).await?, None);
/// effects.pending(&id, "h").await?;
/// // … the effect …
/// effects.complete(&id, EffectStatus::Success, "written").await?;
/// assert_eq!(effects.resolve(&id).await?, Some(String::from("written")));
/// # Ok(())
/// # }
/// ```
pub struct EffectStore<S = MemoryStore> {
    shared: Arc<Shared<S>>,
    lease: Duration,
    retention: Duration,
    on_interrupted: OnInterrupted,
}

struct Shared<S> {
    store: S,
    taking_back: TakingBack,
}

impl<S: Store> Claimant for Shared<S> {
    type Store = S;

    fn store(&self) -> &S {
        &self.store
    }

    fn taking_back(&self) -> &TakingBack {
        &self.taking_back
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(2)
    }
}

impl<S> Clone for EffectStore<S> {
    fn clone(&self) -> Self {
        let Self { lease, retention, on_interrupted, .. } = *self;
        Self { shared: Arc::clone(&self.shared), lease, retention, on_interrupted }
    }
}

impl<S: fmt::Debug> fmt::Debug for EffectStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EffectStore")
            .field("store", &self.shared.store)
            .field("lease", &self.lease)
            .field("retention", &self.retention)
            .field("on_interrupted", &self.on_interrupted)
            .finish_non_exhaustive()
    }
}

impl EffectStore {
    /// In the memory of this process.
    ///
    /// ```
    /// let effects = buttress::idempotency::EffectStore::in_memory();
    /// assert!(effects.store().is_empty());
    /// ```
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(MemoryStore::default())
    }
}

fn id_of(action_id: &str) -> RecordId {
    RecordId::of(b"buttress/effect", action_id.as_bytes())
}

impl<S: Store> EffectStore<S> {
    /// Over this store, with leases of 5 minutes, since nobody renews them, a retention of 24 h and
    /// [`OnInterrupted::Fail`].
    ///
    /// ```
    /// use buttress::idempotency::EffectStore;
    /// use buttress::store::MemoryStore;
    /// let effects = EffectStore::new(MemoryStore::default());
    /// ```
    #[must_use]
    pub fn new(store: S) -> Self {
        let (lease, retention) = (Duration::from_secs(300), Duration::from_secs(24 * 60 * 60));
        let shared = Arc::new(Shared { store, taking_back: TakingBack::new() });
        Self { shared, lease, retention, on_interrupted: OnInterrupted::Fail }
    }

    /// With another lease: longer than the longest effect takes.
    ///
    /// ```
    /// use buttress::idempotency::EffectStore;
    /// use std::time::Duration;
    /// let effects = EffectStore::in_memory().lease(Duration::from_secs(30));
    /// ```
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// With another retention: of what is completed, and of what is not from the end of its lease.
    ///
    /// ```
    /// use buttress::idempotency::EffectStore;
    /// use std::time::Duration;
    /// let effects = EffectStore::in_memory().retention(Duration::from_secs(3600));
    /// ```
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// With another policy for effects whose worker has gone. There is nobody to probe here, so
    /// [`OnInterrupted::Probe`] is taken for [`OnInterrupted::Fail`].
    ///
    /// ```
    /// use buttress::idempotency::EffectStore;
    /// use buttress::store::OnInterrupted;
    /// let effects = EffectStore::in_memory().on_interrupted(OnInterrupted::Rerun(3));
    /// ```
    #[must_use]
    pub fn on_interrupted(mut self, policy: OnInterrupted) -> Self {
        self.on_interrupted = match policy {
            OnInterrupted::Probe => OnInterrupted::Fail,
            policy => policy,
        };
        self
    }

    /// The store.
    ///
    /// ```
    /// let effects = buttress::idempotency::EffectStore::in_memory();
    /// assert_eq!(effects.store().len(), 0);
    /// ```
    #[must_use]
    pub fn store(&self) -> &S {
        &self.shared.store
    }

    /// What came of the effect, if it has happened.
    ///
    /// # Errors
    /// If the store does not answer, or the result was not kept or is something else than `T`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::idempotency::EffectError> {
    /// let effects = buttress::idempotency::EffectStore::in_memory();
    /// assert_eq!(effects.resolve::<i32>("a").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn resolve<T: DeserializeOwned>(
        &self,
        action_id: &str,
    ) -> Result<Option<T>, EffectError> {
        match self.get(action_id).await? {
            Some(record) if record.status == EffectStatus::Success => record.result(),
            _ => Ok(None),
        }
    }

    /// Claims the effect, or says what came of it: `resolve` and `pending` in one, with one winner.
    ///
    /// A lost answer is asked for again, three times in all. If no answer comes, or the future is dropped while
    /// the store is being asked, the claim may have been made all the same: it is taken back by a task of the
    /// tokio runtime that the code runs in. Outside of one, or if the process ends first, it stays until its
    /// lease ends, and is then an effect whose worker has gone.
    ///
    /// # Errors
    /// If somebody else is at it, or was and has gone; if the id was used with another input hash; if the
    /// store does not answer, or the result was not kept or is something else than `T`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::idempotency::EffectError> {
    /// use buttress::idempotency::{EffectClaim, EffectStatus, EffectStore};
    /// let effects = EffectStore::in_memory();
    /// let EffectClaim::Yours(ticket) = effects.claim::<i32>("a", "h").await? else { panic!() };
    /// assert!(effects.claim::<i32>("a", "h").await.is_err());
    /// effects.complete_claim(&ticket, EffectStatus::Success, &7).await?;
    /// assert_eq!(effects.claim("a", "h").await?, EffectClaim::Done(7));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn claim<T: DeserializeOwned>(
        &self,
        action_id: &str,
        input_hash: &str,
    ) -> Result<EffectClaim<T>, EffectError> {
        let id = id_of(action_id);
        let claim = Claim::new(input(input_hash), Attempt::new())
            .lease(self.lease)
            .retention(self.retention)
            .on_interrupted(self.on_interrupted);
        // A failure may be claimed again. Of those who see it one can remove it: it has a generation.
        for _ in 0..3 {
            let record = match self.begin(&id, &claim).await? {
                Begun::Run { .. } | Begun::Probe { .. } => {
                    return Ok(EffectClaim::Yours(EffectTicket { id, attempt: claim.attempt }));
                }
                Begun::Busy { retry_in, .. } => {
                    return Err(EffectError::InFlight { retry_after: retry_in });
                }
                Begun::Interrupted(_) => return Err(EffectError::Interrupted),
                Begun::Done(record) => record,
                Begun::Mismatch => match self.store().get(&id).await? {
                    Some(record) if has_failed(&record) => record,
                    _ => return Err(EffectError::Mismatch),
                },
            };
            if !has_failed(&record) {
                let record = EffectRecord::new(action_id, &record);
                return record.result()?.map(EffectClaim::Done).ok_or(EffectError::AlreadyDone);
            }
            self.store().resolve(&id, record.generation, Resolution::Forget).await?;
        }
        // It fails faster than it can be claimed.
        Err(EffectError::InFlight { retry_after: Duration::from_millis(1) })
    }

    async fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        // How long an answer may take is the store's affair.
        ask(&self.shared, id, claim, || async { Some(self.store().begin(id, claim).await) }).await
    }

    /// Claims the effect. Whoever gets `Ok` executes it and completes it. Dropped while the store is being asked,
    /// it is taken back as in [`claim`](Self::claim).
    ///
    /// # Errors
    /// As [`claim`](Self::claim), and [`EffectError::AlreadyDone`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::idempotency::{EffectError, EffectStore};
    /// let effects = EffectStore::in_memory();
    /// assert!(effects.pending("a", "h").await.is_ok());
    /// let second = effects.pending("a", "h").await;
    /// assert!(matches!(second, Err(EffectError::InFlight { .. })));
    /// # }
    /// ```
    pub async fn pending(&self, action_id: &str, input_hash: &str) -> Result<(), EffectError> {
        match self.claim::<serde::de::IgnoredAny>(action_id, input_hash).await {
            Ok(EffectClaim::Yours(_)) => Ok(()),
            Ok(EffectClaim::Done(_)) | Err(EffectError::NotRetained) => {
                Err(EffectError::AlreadyDone)
            }
            Err(error) => Err(error),
        }
    }

    /// Says what came of an effect, by its id: whoever knows that can complete it. To be kept from completing
    /// what somebody else has taken over, use [`complete_claim`](Self::complete_claim).
    ///
    /// # Errors
    /// If nobody has claimed it, it has happened already, the status is neither success nor failed, the result
    /// has no JSON form, or the store does not answer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::idempotency::EffectError> {
    /// use buttress::idempotency::{EffectStatus, EffectStore};
    /// let effects = EffectStore::in_memory();
    /// effects.pending("a", "h").await?;
    /// effects.complete("a", EffectStatus::Failed, &()).await?;
    /// effects.pending("a", "h").await?; // again
    /// # Ok(())
    /// # }
    /// ```
    pub async fn complete<T: Serialize + ?Sized>(
        &self,
        action_id: &str,
        status: EffectStatus,
        result: &T,
    ) -> Result<(), EffectError> {
        let id = id_of(action_id);
        match self.store().get(&id).await? {
            None => Err(EffectError::NotClaimed),
            Some(record) if record.state.outcome().is_some() => Err(EffectError::AlreadyDone),
            Some(record) => {
                let ticket = EffectTicket { id, attempt: record.attempt };
                self.complete_claim(&ticket, status, result).await
            }
        }
    }

    /// Says what came of an effect that was claimed.
    ///
    /// # Errors
    /// [`EffectError::Fenced`] if the claim has passed to somebody else or is forgotten; otherwise as
    /// [`complete`](Self::complete).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::idempotency::EffectError> {
    /// # use buttress::idempotency::{EffectClaim, EffectError, EffectStatus, EffectStore};
    /// # let effects = EffectStore::in_memory();
    /// let EffectClaim::Yours(ticket) = effects.claim::<i32>("a", "h").await? else { panic!() };
    /// effects.complete_claim(&ticket, EffectStatus::Success, &7).await?;
    /// let again = effects.complete_claim(&ticket, EffectStatus::Failed, &()).await;
    /// assert!(matches!(again, Err(EffectError::AlreadyDone)));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn complete_claim<T: Serialize + ?Sized>(
        &self,
        ticket: &EffectTicket,
        status: EffectStatus,
        result: &T,
    ) -> Result<(), EffectError> {
        let status = match status {
            EffectStatus::Success => SUCCESS,
            EffectStatus::Failed => FAILED,
            other => return Err(EffectError::NoSuchCompletion(other)),
        };
        let json =
            serde_json::to_vec(result).map_err(|error| EffectError::Json(Arc::new(error)))?;
        let outcome = Arc::new(Outcome::new(status, [], json));
        let completed = self.store().complete(&ticket.id, ticket.attempt, &outcome, self.retention);
        match completed.await? {
            Finish::Applied | Finish::Trimmed => Ok(()),
            Finish::Already => Err(EffectError::AlreadyDone),
            Finish::Fenced => Err(EffectError::Fenced),
        }
    }

    /// The record of an effect.
    ///
    /// # Errors
    /// If the store does not answer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::idempotency::EffectError> {
    /// let effects = buttress::idempotency::EffectStore::in_memory();
    /// assert!(effects.get("a").await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self, action_id: &str) -> Result<Option<EffectRecord>, EffectError> {
        let record = self.store().get(&id_of(action_id)).await?;
        Ok(record.map(|record| EffectRecord::new(action_id, &record)))
    }
}
