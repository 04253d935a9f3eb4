//! The object users hold: claims and records.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::asking::{Claimant, TakingBack, ask};
use super::config::{IdempotencyBuilder, InFlight, Settings};
use super::managed::Tally;
use super::pace::{Blocking, Pace, Timer, run};
use super::pending::{self, Pending, Tag};
use super::permit::Permit;
use super::scope::Scope;
use crate::backoff::Random;
use crate::clock::now;
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, LET_THROUGH, Observers, REFUSED, WaitSpan};
use crate::rejection::{Rejection, RejectionKind};
use crate::store::{
    Begun, Claim, Fingerprint, Finish, OnInterrupted, Record, RecordId, Resolution, State, Store,
    StoreError, StoreErrorKind,
};

/// No refusal says to come back later than this: an owner that is gone may be noticed sooner.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Shared<S> {
    pub(super) store: S,
    pub(super) settings: Settings,
    name: Name,
    /// The name, as far as records are told apart by it.
    space: RecordId,
    observers: Observers,
    pending: Option<Pending>,
    taking_back: TakingBack,
    pub(super) tally: Tally,
}

impl<S> Shared<S> {
    pub(super) fn emit(&self, kind: EventKind<'_>) {
        self.observers.emit(LayerKind::Idempotency, self.name, kind);
    }

    /// Whether anybody would see what happens on a hot path.
    pub(super) fn object_name(&self) -> Name {
        self.name
    }

    pub(super) fn is_watched(&self) -> bool {
        self.observers.see_refusals()
    }

    /// A refusal, told to those who listen.
    pub(super) fn refused(&self, why: Rejection) -> Rejection {
        if self.is_watched() {
            self.emit(EventKind::Rejected(&why));
        }
        why
    }

    pub(super) fn rejection(&self, kind: RejectionKind) -> Rejection {
        Rejection::new(kind, LayerKind::Idempotency, self.name)
    }
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
        self.settings.store_timeout
    }
}

/// Runs what a key stands for at most once on record, and answers everybody else who comes with the same
/// key from the record. See the [module](super) for what that promises and what it does not.
///
/// Clones share the store. Which store it is, is part of the type, so that one in memory costs no box; for
/// a choice at run time there is [`AnyStore`](crate::store::AnyStore).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use buttress::idempotency::{Idempotency, Scope, Status};
/// use buttress::store::{Fingerprint, MemoryStore};
///
/// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
/// for expected in [Status::Stored, Status::Replayed] {
///     let ran = gate
///         .run("order-1", Fingerprint::of(b"10 EUR"), || async {
///             Ok::<_, std::io::Error>(String::from("paid"))
///         })
///         .await
///         .unwrap();
///     assert_eq!((ran.value.as_str(), ran.status), ("paid", expected));
/// }
/// # }
/// ```
pub struct Idempotency<S> {
    pub(super) shared: Arc<Shared<S>>,
    scope: Scope,
}

impl<S> Clone for Idempotency<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), scope: self.scope.clone() }
    }
}

impl<S> Idempotency<S> {
    pub(super) fn counts_scopes(&self) -> bool {
        self.shared.pending.is_some()
    }
}

/// What the claim of a key came to.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::store::StoreError> {
/// use buttress::idempotency::{Begin, Idempotency, Scope};
/// use buttress::store::{Fingerprint, MemoryStore};
/// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
/// let first = gate.begin("order-1", Fingerprint::of(b"10 EUR")).await?;
/// assert!(matches!(first, Begin::Execute(_)));
/// let duplicate = gate.begin("order-1", Fingerprint::of(b"10 EUR")).await?;
/// assert!(matches!(duplicate, Begin::InFlight { .. }));
/// let mistake = gate.begin("order-1", Fingerprint::of(b"99 EUR")).await?;
/// assert!(matches!(mistake, Begin::Mismatch));
/// # Ok(())
/// # }
/// ```
#[non_exhaustive]
pub enum Begin<S: Store> {
    /// It is yours: execute it.
    Execute(Permit<S>),
    /// It is yours, but an owner before you has gone: find out whether the effect happened. Then
    /// [`complete`](Permit::complete), or execute and complete, or [`interrupt`](Permit::interrupt). Only
    /// under [`OnInterrupted::Probe`].
    Probe(Permit<S>),
    /// It ran, and this came of it.
    Replay(Record),
    /// Somebody else is at it.
    InFlight {
        /// When to come back.
        retry_after: Duration,
    },
    /// The key was used for something else.
    Mismatch,
    /// Somebody was at it, and nobody knows whether the effect happened.
    Interrupted(Record),
    /// It is nobody's, but the scope holds as many claims as it
    /// [may](IdempotencyBuilder::max_pending_per_scope).
    Overloaded {
        /// When to come back.
        retry_after: Duration,
    },
}

// Derived, it would ask the store for `Debug`.
impl<S: Store> fmt::Debug for Begin<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Execute(permit) => f.debug_tuple("Execute").field(permit).finish(),
            Self::Probe(permit) => f.debug_tuple("Probe").field(permit).finish(),
            Self::Replay(record) => f.debug_tuple("Replay").field(record).finish(),
            Self::InFlight { retry_after } => {
                f.debug_struct("InFlight").field("retry_after", retry_after).finish()
            }
            Self::Mismatch => f.write_str("Mismatch"),
            Self::Interrupted(record) => f.debug_tuple("Interrupted").field(record).finish(),
            Self::Overloaded { retry_after } => {
                f.debug_struct("Overloaded").field("retry_after", retry_after).finish()
            }
        }
    }
}

impl<S: Store> Idempotency<S> {
    /// A gate with the default settings. The name is part of what a record is found by: all servers of one
    /// service give it the same, and a gate that is renamed knows none of its records.
    ///
    /// A lease of 30 s, records kept for 24 h, interrupted executions not
    /// run again, duplicates of one in flight refused, calls refused while the store does not answer.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::MemoryStore;
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::tenant("account-7"));
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>, store: S, scope: Scope) -> Self {
        Self::from_parts(name.into(), store, scope, Settings::DEFAULT, Observers::default())
    }

    /// A gate with other settings.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::MemoryStore;
    /// use std::time::Duration;
    /// let gate = Idempotency::builder("orders", MemoryStore::default())
    ///     .scope(Scope::global())
    ///     .retention(Duration::from_secs(3600))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>, store: S) -> IdempotencyBuilder<S> {
        IdempotencyBuilder::new(name.into(), store)
    }

    pub(super) fn from_parts(
        name: Name,
        store: S,
        scope: Scope,
        settings: Settings,
        observers: Observers,
    ) -> Self {
        let space = RecordId::space(name.as_str());
        let pending = settings.max_pending.map(Pending::new);
        let taking_back = TakingBack::new();
        let shared = Shared {
            store,
            settings,
            name,
            space,
            observers,
            pending,
            taking_back,
            tally: Tally::default(),
        };
        let shared = Arc::new(shared);
        shared.observers.register(&shared);
        Self { shared, scope }
    }

    /// The same gate for the keys of another scope.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::MemoryStore;
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// let theirs = gate.in_scope(Scope::tenant("account-7"));
    /// assert_ne!(gate.id("order-1"), theirs.id("order-1"));
    /// ```
    #[must_use]
    pub fn in_scope(&self, scope: Scope) -> Self {
        Self { shared: Arc::clone(&self.shared), scope }
    }

    /// The name, as in events and refusals. Also part of what a record is found by: gates of one name on one
    /// store share their records.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, Scope};
    /// # use buttress::store::MemoryStore;
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// assert_eq!(gate.name(), "orders");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.name.as_str()
    }

    /// The store.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, Scope};
    /// # use buttress::store::MemoryStore;
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// assert!(gate.store().is_empty());
    /// ```
    #[must_use]
    pub fn store(&self) -> &S {
        &self.shared.store
    }

    /// The record that a key stands for: of the gate's name, the scope and the key.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, Scope};
    /// # use buttress::store::MemoryStore;
    /// let store = MemoryStore::default();
    /// let gate = |name| Idempotency::new(name, store.clone(), Scope::global());
    /// assert_eq!(gate("orders").id("7"), gate("orders").id(b"7"));
    /// assert_ne!(gate("orders").id("7"), gate("refunds").id("7"));
    /// ```
    #[must_use]
    pub fn id(&self, key: impl AsRef<[u8]>) -> RecordId {
        self.own(RecordId::of(self.scope.as_bytes(), key.as_ref()))
    }

    /// The gate's record of what is known by scope and key.
    pub(super) fn own(&self, id: RecordId) -> RecordId {
        id.within(&self.shared.space)
    }

    /// Claims a key. The lower half of [`run`](Self::run), for code that does not fit into a closure.
    ///
    /// If the future is dropped while the store is being asked, or no answer comes, the claim may have been
    /// made all the same: it is taken back by a task of the tokio runtime that the code runs in, which goes on
    /// looking for it for five minutes, or for a lease if that is longer, and for the last 10 000 of them at a time: as
    /// often as the store answers, since only a few ask it at once.
    /// Outside of a runtime, or if the process ends first, it stays until its lease ends, and is then treated like
    /// one whose owner has gone.
    ///
    /// # Errors
    /// If the store did not do it; lost answers are asked for again before. [`Outage`](super::Outage) does
    /// not apply here.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::store::StoreError> {
    /// use buttress::idempotency::{Begin, Idempotency, Scope};
    /// use buttress::store::{Fingerprint, MemoryStore, Outcome};
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// match gate.begin("order-1", Fingerprint::of(b"10 EUR")).await? {
    ///     Begin::Execute(mut permit) => {
    ///         permit.complete(Outcome::new(200, vec![], vec![])).await?;
    ///     }
    ///     Begin::Replay(record) => println!("{:?}", record.state.outcome()),
    ///     other => println!("not now: {other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn begin(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
    ) -> Result<Begin<S>, StoreError> {
        let policy = self.shared.settings.on_interrupted;
        // The key is let go before anything is waited for.
        let id = self.id(key);
        self.claim(Timer, id, fingerprint, policy).await
    }

    /// [`begin`](Self::begin), blocking. Needs no runtime if the store needs none.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    ///
    /// ```
    /// use buttress::idempotency::{Begin, Idempotency, Scope};
    /// use buttress::store::{Fingerprint, MemoryStore};
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// let begun = gate.begin_blocking("order-1", Fingerprint::of(b"10 EUR")).unwrap();
    /// assert!(matches!(begun, Begin::Execute(_)));
    /// ```
    pub fn begin_blocking(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
    ) -> Result<Begin<S>, StoreError> {
        let policy = self.shared.settings.on_interrupted;
        run(self.claim(Blocking, self.id(key), fingerprint, policy))
    }

    pub(super) async fn claim<P: Pace>(
        &self,
        pace: P,
        id: RecordId,
        fingerprint: Fingerprint,
        policy: OnInterrupted,
    ) -> Result<Begin<S>, StoreError> {
        self.claim_while(pace, (&id, self.tag()), &self.claim_of(fingerprint, policy), || true)
            .await
    }

    pub(super) fn claim_of(&self, fingerprint: Fingerprint, policy: OnInterrupted) -> Claim {
        let settings = &self.shared.settings;
        Claim::new(fingerprint, self.shared.store.attempt())
            .lease(settings.lease)
            .retention(settings.retention)
            .on_interrupted(policy)
    }

    pub(super) fn tag(&self) -> Tag {
        if self.counts_scopes() { Tag::of(&self.scope) } else { Tag::default() }
    }

    /// `go_on` is asked before each pause of waiting for somebody else's run, and may end it.
    pub(super) async fn claim_while<P: Pace>(
        &self,
        pace: P,
        of: (&RecordId, Tag),
        claim: &Claim,
        go_on: impl FnMut() -> bool + Send,
    ) -> Result<Begin<S>, StoreError> {
        let mut span = WaitSpan::NONE;
        let begun = self.claim_uncounted(pace, of, claim, go_on, &mut span).await;
        let refused =
            matches!(begun, Err(_) | Ok(Begin::InFlight { .. } | Begin::Overloaded { .. }));
        span.end(if refused { REFUSED } else { LET_THROUGH });
        let begun = begun?;
        self.shared.tally.count(&begun);
        Ok(begun)
    }

    async fn claim_uncounted<P: Pace>(
        &self,
        pace: P,
        (id, tag): (&RecordId, Tag),
        claim: &Claim,
        mut go_on: impl FnMut() -> bool + Send,
        span: &mut WaitSpan,
    ) -> Result<Begin<S>, StoreError> {
        let settings = &self.shared.settings;
        let started = now();
        let mut asked = started;
        let mut pause = Duration::from_millis(50);
        loop {
            let place = self.shared.pending.as_ref().map(|pending| pending.enter(tag));
            let begun = if let Some(None) = place {
                match Box::pin(self.look(pace, id, claim)).await? {
                    Some(begun) => begun,
                    None => return Ok(Begin::Overloaded { retry_after: pending::COME_BACK }),
                }
            } else {
                let (store, limit) = (&self.shared.store, settings.store_timeout);
                let mut is_first = true;
                let begin = || {
                    // Each time it is asked for, the lease begins anew.
                    if !std::mem::take(&mut is_first) {
                        asked = now();
                    }
                    pace.within(limit, store.begin(id, claim))
                };
                ask(&self.shared, id, claim, begin).await?
            };
            let mut place = place.flatten();
            let mut permit = |generation, runs| {
                if runs > 1 {
                    self.shared.emit(EventKind::TakenOver { generation, runs });
                }
                let shared = Arc::clone(&self.shared);
                let (record, policy) = ((*id, claim.attempt), claim.on_interrupted);
                Permit::new(shared, record, (generation, runs), policy, asked, place.take())
            };
            let (generation, retry_in) = match begun {
                Begun::Run { generation, runs } => {
                    return Ok(Begin::Execute(permit(generation, runs)));
                }
                Begun::Probe { generation, runs } => {
                    return Ok(Begin::Probe(permit(generation, runs)));
                }
                Begun::Mismatch => return Ok(Begin::Mismatch),
                Begun::Done(record) => return Ok(Begin::Replay(record)),
                Begun::Interrupted(record) => return Ok(Begin::Interrupted(record)),
                Begun::Busy { generation, retry_in } => (generation, retry_in),
            };
            // Who waits holds no claim.
            drop(place);
            let left = match settings.in_flight {
                InFlight::Reject => Duration::ZERO,
                InFlight::Wait(limit) => limit.saturating_sub(now().since(started)),
            };
            if left.is_zero() || !go_on() {
                let retry_after = retry_in.clamp(Duration::from_millis(1), LONGEST_WAIT);
                return Ok(Begin::InFlight { retry_after });
            }
            // Woken by the store if it can, and looking again from time to time if it cannot.
            let jittered = Random::of_thread(|random| random.between(75, 100));
            span.ensure(LayerKind::Idempotency, self.shared.name);
            let wait = (pause / 100 * u32::try_from(jittered).unwrap_or(100)).min(left);
            Box::pin(pace.within(wait, self.shared.store.changed(id, generation))).await;
            pause = (pause * 2).min(Duration::from_secs(1));
            asked = now();
        }
    }

    /// What a claim would be answered that must not be made; `None` if it would be made.
    async fn look<P: Pace>(
        &self,
        pace: P,
        id: &RecordId,
        claim: &Claim,
    ) -> Result<Option<Begun>, StoreError> {
        let Some(record) = self.read(pace, *id).await? else { return Ok(None) };
        if record.fingerprint != claim.fingerprint {
            return Ok(Some(Begun::Mismatch));
        }
        Ok(match record.state {
            State::Completed(_) => Some(Begun::Done(record)),
            State::Interrupted => Some(Begun::Interrupted(record)),
            State::Pending if record.lease_left.is_zero() => None,
            State::Pending => {
                Some(Begun::Busy { generation: record.generation, retry_in: record.lease_left })
            }
        })
    }

    /// The record of a key, for status pages and operators.
    ///
    /// # Errors
    /// If the store does not answer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::store::StoreError> {
    /// # use buttress::idempotency::{Idempotency, Scope};
    /// # use buttress::store::MemoryStore;
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// assert!(gate.record("order-1").await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn record(&self, key: impl AsRef<[u8]>) -> Result<Option<Record>, StoreError> {
        let id = self.id(key);
        self.read(Timer, id).await
    }

    /// [`record`](Self::record), blocking.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, Scope};
    /// # use buttress::store::MemoryStore;
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// assert!(gate.record_blocking("order-1").unwrap().is_none());
    /// ```
    pub fn record_blocking(&self, key: impl AsRef<[u8]>) -> Result<Option<Record>, StoreError> {
        run(self.read(Blocking, self.id(key)))
    }

    async fn read<P: Pace>(&self, pace: P, id: RecordId) -> Result<Option<Record>, StoreError> {
        let limit = self.shared.settings.store_timeout;
        let answer = pace.within(limit, self.shared.store.get(&id)).await;
        answer.unwrap_or_else(|| Err(StoreErrorKind::Unknown.into()))
    }

    /// Decides about an execution of which nobody knows the outcome, by whoever has found out.
    /// `generation` is that of the record that was looked at; if it has moved on meanwhile, or somebody
    /// holds a lease on it, nothing happens and the answer is [`Finish::Fenced`].
    ///
    /// # Errors
    /// If the store did not do it, as far as is known.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::store::StoreError> {
    /// use buttress::idempotency::{Begin, Idempotency, Scope};
    /// use buttress::store::{Fingerprint, Finish, MemoryStore, Resolution};
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// drop(gate.begin("order-1", Fingerprint::NONE).await?); // its owner has gone
    ///
    /// let record = gate.record("order-1").await?.unwrap();
    /// // … the bank says that it has not seen it …
    /// let resolved = gate.resolve("order-1", record.generation, Resolution::Forget).await?;
    /// assert_eq!(resolved, Finish::Applied);
    /// assert!(matches!(gate.begin("order-1", Fingerprint::NONE).await?, Begin::Execute(_)));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn resolve(
        &self,
        key: impl AsRef<[u8]>,
        generation: u64,
        resolution: Resolution,
    ) -> Result<Finish, StoreError> {
        let id = self.id(key);
        let resolved = self.shared.store.resolve(&id, generation, resolution);
        let answer = Timer.within(self.shared.settings.store_timeout, resolved).await;
        answer.unwrap_or_else(|| Err(StoreErrorKind::Unknown.into()))
    }
}

impl<S> fmt::Debug for Idempotency<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("name", &self.shared.name)
            .field("scope", &self.scope)
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}
