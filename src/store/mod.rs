//! Where records of executions live: the trait that the [idempotency gate](crate::idempotency) stands on, and
//! the store in memory.
//!
//! Two processes that get the same request at the same time can only agree on who runs it through something
//! that both reach, and that answers "you" to exactly one of them. Reading whether a key is known and then
//! writing that it is taken lets both through. So a store has one operation that does both,
//! [`begin`](Store::begin), and every later one names the claim it belongs to, so that an owner who was
//! given up cannot overwrite what his successor wrote.
//!
//! # Default
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), buttress::store::StoreError> {
//! use buttress::store::{Attempt, Begun, Claim, Fingerprint, Finish, MemoryStore, Outcome, RecordId, Store};
//! use std::sync::Arc;
//!
//! let store = MemoryStore::default();
//! let id = RecordId::of(b"tenant-7", b"order-1");
//! let claim = Claim::new(Fingerprint::of(b"10 EUR"), Attempt::new());
//!
//! let Begun::Run { .. } = store.begin(&id, &claim).await? else { panic!("somebody else runs it") };
//! // … the effect …
//! let outcome = Arc::new(Outcome::new(200, vec![], b"paid".to_vec()));
//! assert_eq!(store.complete(&id, claim.attempt, &outcome, claim.retention).await?, Finish::Applied);
//!
//! let duplicate = Claim::new(Fingerprint::of(b"10 EUR"), Attempt::new());
//! let Begun::Done(record) = store.begin(&id, &duplicate).await? else { panic!("it is recorded") };
//! assert_eq!(record.state.outcome().unwrap().body(), Some(&b"paid"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! Programs normally use the [gate](crate::idempotency), not the store.
//!
//! # Which store
//!
//! | | survives | shared by |
//! |---|---|---|
//! | [`MemoryStore`] | nothing | the threads of one process |
//! | `FileStore` (feature `store-redb`) | kill, crash, power cut | the threads of one process |
//! | `PostgresStore` (feature `store-postgres`) | what the database survives | all that reach it |
//! | `RedisStore` (feature `store-redis`) | a restart, mostly; not every failover | all that reach it |
//!
//! # Semantics
//!
//! **States.** Absent; `Pending`, with a lease; `Completed`; `Interrupted`. The table of transitions is the
//! code of [`Entry`], which stores can use as it is.
//!
//! **Time.** Leases and retention are kept by the store's clock, so that callers whose clocks differ cannot
//! take each other's leases. Only durations go in and out.
//!
//! **A server's clock that is set.** Set forth, leases end early: duplicates are told that nobody knows, until
//! the owner, who goes on, says how it went (under [`OnInterrupted::Rerun`] one of them runs it beside
//! him). Retention ends early, too: what is kept for less than the clock was set by is forgotten, and then
//! it can happen again. Set back, both last longer by as much: of an owner who has gone, duplicates hear for
//! as long that he is at it, and a record that had expired and was neither claimed again nor removed may be
//! replayed. A shared bucket is full when the clock was set forth, one burst more each time, and empty
//! when it was set back. The stores in memory and in a file do not see it while they are open.
//!
//! **Fencing.** Each claim has a random [`Attempt`], which later operations must name, and a generation
//! that grows from claim to claim of the same key, for callees that can refuse stragglers. Fencing protects
//! the record. It cannot stop an effect outside that a given-up owner still has on the way.
//!
//! **Lost answers.** An operation whose answer was lost ([`StoreErrorKind::Unknown`]) can be repeated as it
//! was: `begin` with the same attempt is the same claim, and the others answer [`Finish::Already`]; a release of
//! what took over [`Finish::Fenced`], since the record has passed on.
//!
//! # Shared rate limits
//!
//! Stores also keep buckets of tokens, see [`RateStore`]. Those of `PostgresStore` and `RedisStore` are shared by
//! all that reach them; those of [`MemoryStore`] and `FileStore` are in the memory of one process, so that one
//! program can be run with any of them.
//!
//! # Writing a store
//!
//! Implement [`Store`]; the methods may be `async fn`. Every operation must be atomic, and must be durable
//! when it answers, as far as the store claims to be. With the feature `testing`, `check_store` in
//! `buttress::testing::store` tests what can be tested.

mod any;
mod buckets;
mod claim;
mod codec;
mod entry;
mod error;
mod fields;
#[cfg(all(feature = "store-redb", not(buttress_loom)))]
mod file;
mod id;
mod memory;
#[cfg(any(feature = "store-postgres", feature = "store-redis"))]
mod net;
#[cfg(feature = "store-postgres")]
mod postgres;
mod rate;
mod record;
#[cfg(feature = "store-redis")]
mod redis;
#[cfg(all(test, not(buttress_loom)))]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use any::AnyStore;
pub use claim::{Begun, Claim, Finish, OnInterrupted, Renewed, Resolution};
pub use entry::{Change, Entry, Step, StoreTime};
pub use error::{StoreError, StoreErrorKind};
pub(crate) use fields::{Domain, Fields, domain};
#[cfg(all(feature = "store-redb", not(buttress_loom)))]
pub use file::{FileStore, FileStoreBuilder, OpenError, OpenErrorKind};
pub(crate) use id::Hex;
pub use id::{Attempt, Fingerprint, FingerprintBuilder, RecordId};
pub use memory::{MemoryStore, MemoryStoreBuilder};
#[cfg(feature = "store-postgres")]
pub use postgres::{PostgresStore, PostgresStoreBuilder};
pub use rate::{RateStore, Taken};
pub use record::{Outcome, Record, State};
#[cfg(feature = "store-redis")]
pub use redis::{EvictionPolicyError, RedisStore, RedisStoreBuilder};

/// Keeps records of executions. See the [module](self) for what is asked of it.
///
/// A future that is dropped before it is ready leaves it open whether the operation was applied.
///
/// Futures are named by the compiler, so that a store in memory costs no box; for a store chosen at run
/// time there is [`AnyStore`].
///
/// ```
/// use buttress::store::{MemoryStore, Store};
/// async fn forget_old(store: &impl Store) {
///     while store.purge(1_000).await.is_ok_and(|removed| removed > 0) {}
/// }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(forget_old(&MemoryStore::default()));
/// ```
///
/// What an owner and others ask of it:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::store::StoreError> {
/// use buttress::store::{Begun, Claim, Fingerprint, Finish, MemoryStore, Outcome, RecordId, Resolution, Store};
/// use std::sync::Arc;
///
/// let store = MemoryStore::default();
/// let id = RecordId::of(b"tenant-7", b"order-1");
/// let claim = || Claim::new(Fingerprint::of(b"10 EUR"), store.attempt());
///
/// // Claimed and given back: nothing has happened, and nothing is on record.
/// let first = claim();
/// store.begin(&id, &first).await?;
/// store.release(&id, first.attempt).await?;
/// assert_eq!(store.get(&id).await?, None);
///
/// // Claimed, held for a while, and then the owner does not know whether it happened.
/// let second = claim();
/// let Begun::Run { generation, .. } = store.begin(&id, &second).await? else { panic!("it is free") };
/// store.renew(&id, second.attempt, second.lease, second.retention).await?;
/// store.interrupt(&id, second.attempt, second.retention).await?;
/// store.changed(&id, generation).await; // whoever waits for it is told
///
/// // Somebody has looked, and decides.
/// let paid = Arc::new(Outcome::new(200, vec![], b"paid".to_vec()));
/// store.resolve(&id, generation, Resolution::completed(Arc::clone(&paid))).await?;
/// assert!(matches!(store.begin(&id, &claim()).await?, Begun::Done(_)));
///
/// // An owner that has gone without a word: its lease ends at once. This one is back, and knows.
/// let (other, third) = (RecordId::of(b"tenant-7", b"order-2"), claim());
/// store.begin(&other, &third).await?;
/// store.abandon(&other, third.attempt);
/// assert!(matches!(store.begin(&other, &claim()).await?, Begun::Interrupted(_)));
/// assert_eq!(store.complete(&other, third.attempt, &paid, third.retention).await?, Finish::Applied);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a store of executions",
    note = "implement `buttress::store::Store`, or use `MemoryStore`, `AnyStore` or an `Arc` of a store"
)]
pub trait Store: Send + Sync + 'static {
    /// The name of a new claim. [`Attempt::new`] by default, which asks the operating system for the process
    /// that draws it, so that none forked from it draws the same. A store that no other process reaches
    /// need not.
    fn attempt(&self) -> Attempt {
        Attempt::new()
    }

    /// Claims the record, or says why not. Exactly one of any number of claims gets `Run` (or `Probe`).
    fn begin(
        &self,
        id: &RecordId,
        claim: &Claim,
    ) -> impl Future<Output = Result<Begun, StoreError>> + Send;

    /// Holds the lease of `attempt` for `lease` from now, and the record for `retention` after that at least.
    fn renew(
        &self,
        id: &RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> impl Future<Output = Result<Renewed, StoreError>> + Send;

    /// Records what came of it, to be kept for `retention` from now: from `Pending` or `Interrupted`.
    fn complete(
        &self,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Arc<Outcome>,
        retention: Duration,
    ) -> impl Future<Output = Result<Finish, StoreError>> + Send;

    /// Takes the claim back, because the effect has not begun: from `Pending` or `Interrupted`. The record of a
    /// first claim is removed. One that took over leaves the record to those before it, who may have had their
    /// effect: as nobody's, without a lease and with one run less.
    fn release(
        &self,
        id: &RecordId,
        attempt: Attempt,
    ) -> impl Future<Output = Result<Finish, StoreError>> + Send;

    /// Records that nobody knows whether the effect happened, for `retention` from now at least: from
    /// `Pending`.
    fn interrupt(
        &self,
        id: &RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> impl Future<Output = Result<Finish, StoreError>> + Send;

    /// Decides a record from outside, if it is still of this generation and nobody holds a lease on it. A
    /// late owner is fenced off.
    fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> impl Future<Output = Result<Finish, StoreError>> + Send;

    /// The record, unless it has expired. Changes nothing: a lease that has ended is told as such.
    fn get(&self, id: &RecordId)
    -> impl Future<Output = Result<Option<Record>, StoreError>> + Send;

    /// Removes up to `limit` expired records and says how many. Stores that forget by themselves do
    /// nothing.
    fn purge(&self, limit: usize) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// The owner has gone without a word, for example in a panic. A hint: the store may end its lease now,
    /// as [`Entry::abandon`] does, if that takes no waiting; all stores here do, those on other machines by a task,
    /// if there is a tokio runtime. Does nothing by default.
    fn abandon(&self, id: &RecordId, attempt: Attempt) {
        let _ = (id, attempt);
    }

    /// Ready when the record is not pending in this generation any more, as far as the store notices. May
    /// be late, or never ready, which is the default: who waits looks again from time to time anyway.
    fn changed(&self, id: &RecordId, generation: u64) -> impl Future<Output = ()> + Send {
        let _ = (id, generation);
        std::future::pending()
    }
}

impl<S: Store> Store for Arc<S> {
    fn attempt(&self) -> Attempt {
        (**self).attempt()
    }

    fn begin(
        &self,
        id: &RecordId,
        claim: &Claim,
    ) -> impl Future<Output = Result<Begun, StoreError>> + Send {
        (**self).begin(id, claim)
    }

    fn renew(
        &self,
        id: &RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> impl Future<Output = Result<Renewed, StoreError>> + Send {
        (**self).renew(id, attempt, lease, retention)
    }

    fn complete(
        &self,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Arc<Outcome>,
        retention: Duration,
    ) -> impl Future<Output = Result<Finish, StoreError>> + Send {
        (**self).complete(id, attempt, outcome, retention)
    }

    fn release(
        &self,
        id: &RecordId,
        attempt: Attempt,
    ) -> impl Future<Output = Result<Finish, StoreError>> + Send {
        (**self).release(id, attempt)
    }

    fn interrupt(
        &self,
        id: &RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> impl Future<Output = Result<Finish, StoreError>> + Send {
        (**self).interrupt(id, attempt, retention)
    }

    fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> impl Future<Output = Result<Finish, StoreError>> + Send {
        (**self).resolve(id, generation, resolution)
    }

    fn get(
        &self,
        id: &RecordId,
    ) -> impl Future<Output = Result<Option<Record>, StoreError>> + Send {
        (**self).get(id)
    }

    fn purge(&self, limit: usize) -> impl Future<Output = Result<usize, StoreError>> + Send {
        (**self).purge(limit)
    }

    fn abandon(&self, id: &RecordId, attempt: Attempt) {
        (**self).abandon(id, attempt);
    }

    fn changed(&self, id: &RecordId, generation: u64) -> impl Future<Output = ()> + Send {
        (**self).changed(id, generation)
    }
}
