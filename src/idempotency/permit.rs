//! The right to execute, and what the executed code may know of it.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::context::EffectContext;
use super::handle::Shared;
use super::pace::{Blocking, Pace, Timer, run};
use super::pending::Place;
use super::run::attend;
use crate::backoff::Random;
use crate::clock::{Tick, now};
use crate::observe::EventKind;
use crate::store::{
    Attempt, Finish, OnInterrupted, Outcome, RecordId, Renewed, Store, StoreError, StoreErrorKind,
};
use crate::sync::atomic::{AtomicU64, Ordering};

/// How often an operation is tried whose answer was lost.
pub(super) const TRIES: u32 = 3;

/// The right to execute what a key stands for, while its lease holds.
///
/// Exactly one of these ends it: [`complete`](Self::complete), when the effect has happened or may have;
/// [`fail_before_effect`](Self::fail_before_effect), when it surely has not; or dropping it, which says that
/// nobody knows, so that the gate's [`OnInterrupted`] decides about the key, at once if the store can and
/// when the lease ends otherwise.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use buttress::idempotency::{Begin, Idempotency, Scope};
/// use buttress::store::{Fingerprint, MemoryStore, Outcome};
///
/// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
/// let begun = gate.begin("order-1", Fingerprint::of(b"10 EUR")).await.unwrap();
/// let Begin::Execute(mut permit) = begun else { panic!("nobody else has this key") };
/// // … the effect …
/// let finish = permit.complete(Outcome::new(200, vec![], b"paid".to_vec())).await.unwrap();
/// assert!(finish.is_recorded());
/// # }
/// ```
#[must_use = "dropping a permit says that nobody knows whether the effect happened"]
pub struct Permit<S: Store> {
    shared: Arc<Shared<S>>,
    id: RecordId,
    attempt: Attempt,
    generation: u64,
    runs: u16,
    policy: OnInterrupted,
    /// By our clock: as long as this has not passed, nobody else can have got the lease.
    held_until: AtomicU64,
    /// When it is not renewed any more, if ever.
    ends: Option<Tick>,
    /// Nothing remains to be told to the store.
    settled: bool,
    /// Among those of its scope, if they are counted.
    _place: Option<Place>,
}

impl<S: Store> Permit<S> {
    pub(super) fn new(
        shared: Arc<Shared<S>>,
        (id, attempt): (RecordId, Attempt),
        (generation, runs): (u64, u16),
        policy: OnInterrupted,
        asked: Tick,
        place: Option<Place>,
    ) -> Self {
        let held_until = AtomicU64::new(held_until(shared.settings.lease, asked));
        let ends = shared.settings.max_run.map(|longest| asked.after(longest));
        Self {
            shared,
            id,
            attempt,
            generation,
            runs,
            policy,
            held_until,
            ends,
            settled: false,
            _place: place,
        }
    }

    /// The record it is for.
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// assert_eq!(permit.id(), gate.id("k"));
    /// ```
    #[must_use]
    pub fn id(&self) -> RecordId {
        self.id
    }

    /// The fencing number: greater for each claim of the same key. A callee that is given it can refuse
    /// those who come with a smaller one.
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// assert!(permit.generation() > 0);
    /// ```
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How often the key has been claimed, this time included. More than 1 says that an owner before has
    /// gone without a word.
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// assert_eq!(permit.runs(), 1);
    /// ```
    #[must_use]
    pub fn runs(&self) -> u16 {
        self.runs
    }

    /// The token of this claim, for operations on the store that the gate does not offer, for example
    /// completing in a transaction of your own. Then tell the permit with [`settled`](Self::settled).
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// let token = permit.attempt();
    /// permit.settled();
    /// ```
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The record has been decided by other means: nothing remains to be told to the store.
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// permit.settled();
    /// let again = gate.begin_blocking("k", Fingerprint::NONE).unwrap();
    /// assert!(matches!(again, Begin::InFlight { .. }));
    /// ```
    pub fn settled(mut self) {
        self.settled = true;
    }

    /// What the executed code may know.
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// let key_for_the_bank = permit.context().derive_key("transfer");
    /// ```
    #[must_use]
    pub fn context(&self) -> EffectContext {
        EffectContext::new(self.id, self.generation, self.runs)
    }

    /// For how much longer nobody else can have got the lease, by our clock and with a margin. Zero does
    /// not say that somebody has.
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// assert!(permit.lease_left().as_secs() >= 27);
    /// ```
    #[must_use]
    pub fn lease_left(&self) -> Duration {
        Tick(self.held_until.load(Ordering::Relaxed)).since(now())
    }

    /// How much longer the execution may take; `None` if there is no limit.
    fn time_left(&self) -> Option<Duration> {
        // Where others run it when the lease has ended, not for longer than that.
        let lease = (self.policy != OnInterrupted::Fail).then(|| self.lease_left());
        let longest = self.ends.map(|ends| ends.since(now()));
        lease.into_iter().chain(longest).min()
    }

    /// Whether what is being executed must not make a further step.
    pub(super) fn is_over(&self) -> bool {
        self.time_left().is_some_and(|left| left.is_zero())
    }

    /// Whether the execution may go on although its lease has ended by our clock. After a pause in which nobody
    /// could renew it or stop in time, the store is asked once, since nobody need have taken over. Where it is not
    /// yet over in the store, it is one that is stopped in time.
    pub(super) async fn regain(&self) -> bool {
        let over =
            Tick(self.held_until.load(Ordering::Relaxed)).after(margin(self.shared.settings.lease));
        if now() < over || self.ends.is_some_and(|ends| ends.since(now()).is_zero()) {
            return false;
        }
        matches!(self.renew().await, Ok(Renewed::Held)) && !self.is_over()
    }

    /// Renews the lease once. Async code normally uses [`keep_alive`](Self::keep_alive).
    ///
    /// # Errors
    /// If the store did not do it. The lease holds for [`lease_left`](Self::lease_left) all the same.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore, Renewed};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin("k", Fingerprint::NONE).await else { panic!() };
    /// assert_eq!(permit.renew().await.unwrap(), Renewed::Held);
    /// # }
    /// ```
    pub async fn renew(&self) -> Result<Renewed, StoreError> {
        self.renew_by(Timer).await
    }

    /// [`renew`](Self::renew), blocking.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore, Renewed};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// assert_eq!(permit.renew_blocking().unwrap(), Renewed::Held);
    /// ```
    pub fn renew_blocking(&self) -> Result<Renewed, StoreError> {
        run(self.renew_by(Blocking))
    }

    async fn renew_by<P: Pace>(&self, pace: P) -> Result<Renewed, StoreError> {
        let settings = &self.shared.settings;
        let asked = now();
        let renewal =
            self.shared.store.renew(&self.id, self.attempt, settings.lease, settings.retention);
        let renewed = pace
            .within(settings.store_timeout, renewal)
            .await
            .unwrap_or_else(|| Err(StoreErrorKind::Unknown.into()))?;
        if renewed == Renewed::Held {
            let until = held_until(settings.lease, asked);
            self.held_until.fetch_max(until, Ordering::Relaxed);
        }
        Ok(renewed)
    }

    /// Renews the lease every third of it, for as long as it is polled. Ready when the permit has become
    /// worthless, if the gate lets others run what was interrupted: the record belongs to somebody else, or may
    /// soon. What is still being executed should then be stopped. Under [`OnInterrupted::Fail`] it is never ready,
    /// since nobody runs it again and what is stopped half-way helps nobody: neither while the store does not
    /// answer, nor when the record has gone or was decided by an operator. Then it renews no more. Under any policy
    /// it is ready when the execution has taken as long as [it may](super::IdempotencyBuilder::max_run).
    ///
    /// [`run`](super::Idempotency::run) does this by itself. Needs tokio's timer from the first poll.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin("k", Fingerprint::NONE).await else { panic!() };
    /// let work = std::future::ready("paid");
    /// let done = tokio::select! {
    ///     biased;
    ///     done = work => done,
    ///     () = permit.keep_alive() => "given up",
    /// };
    /// assert_eq!(done, "paid");
    /// # }
    /// ```
    pub async fn keep_alive(&self) {
        let lease = self.shared.settings.lease;
        let third = lease / 3;
        let mut next = third;
        loop {
            // Spread, so that what was claimed together is not renewed together.
            let spread = lease / 30;
            let spread = Random::of_thread(|random| {
                random.between(0, u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX))
            });
            let renewal = async {
                tokio::time::sleep(next.saturating_sub(Duration::from_nanos(spread))).await;
                self.renew().await
            };
            // Neither a pause nor a store that does not answer may last longer.
            let renewed = match self.time_left() {
                Some(left) => match tokio::time::timeout(left, renewal).await {
                    Ok(renewed) => renewed,
                    Err(_) => return,
                },
                None => renewal.await,
            };
            next = match renewed {
                Ok(Renewed::Fenced) => match (self.policy, self.time_left()) {
                    (OnInterrupted::Fail, Some(left)) => return tokio::time::sleep(left).await,
                    (OnInterrupted::Fail, None) => std::future::pending().await,
                    _ => return,
                },
                // Told to others as unknown, but run by nobody: completing sets it right.
                Ok(Renewed::Held | Renewed::Interrupted) => third,
                Err(_) => lease / 10,
            };
        }
    }

    /// Records what came of it. When this has answered, the store has it, as durably as it can.
    ///
    /// What is larger than [`max_outcome`](super::IdempotencyBuilder::max_outcome) is recorded without its
    /// body, and as its status alone if its head is larger by itself, or if the store says that it is too
    /// large. The lease is renewed until it has answered. Lost answers are repeated, three times in all; after an error it can be called again.
    /// [`Finish::Fenced`] says that the effect has happened and the record is somebody else's.
    ///
    /// # Errors
    /// If the store did not do it, as far as is known.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, Finish, MemoryStore, Outcome};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(mut permit)) = gate.begin("k", Fingerprint::NONE).await else { panic!() };
    /// let finish = permit.complete(Outcome::new(204, vec![], vec![])).await.unwrap();
    /// assert_eq!(finish, Finish::Applied);
    /// # }
    /// ```
    pub async fn complete(
        &mut self,
        outcome: impl Into<Arc<Outcome>>,
    ) -> Result<Finish, StoreError> {
        self.complete_by(Timer, outcome.into()).await
    }

    /// [`complete`](Self::complete), blocking. The lease is not renewed.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, Finish, MemoryStore, Outcome};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(mut permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// let finish = permit.complete_blocking(Outcome::new(204, vec![], vec![])).unwrap();
    /// assert_eq!(finish, Finish::Applied);
    /// ```
    pub fn complete_blocking(
        &mut self,
        outcome: impl Into<Arc<Outcome>>,
    ) -> Result<Finish, StoreError> {
        run(self.complete_by(Blocking, outcome.into()))
    }

    pub(super) async fn complete_by<P: Pace>(
        &mut self,
        pace: P,
        mut outcome: Arc<Outcome>,
    ) -> Result<Finish, StoreError> {
        let smaller = outcome.trimmed_to(self.shared.settings.max_outcome);
        let mut too_large = smaller.is_some();
        if let Some(smaller) = smaller {
            outcome = Arc::new(smaller);
        }
        let mut finish = self.record(pace, &outcome).await;
        if finish.as_ref().is_err_and(|error| error.kind() == StoreErrorKind::TooLarge)
            && !outcome.is_empty()
        {
            // That it ran, and how it ended, has room everywhere.
            too_large = true;
            outcome = Arc::new(outcome.status_only());
            finish = Box::pin(self.record(pace, &outcome)).await;
        }
        let shared = &self.shared;
        let finish =
            finish.inspect_err(|_| shared.emit(EventKind::Unrecorded { reason: "store" }))?;
        if finish == Finish::Fenced {
            shared.emit(EventKind::Unrecorded { reason: "fenced" });
        }
        self.settled = true;
        let trimmed = match finish {
            Finish::Applied => too_large,
            // The answer that was lost may have said so.
            Finish::Already => {
                too_large
                    || outcome.is_retained() && Box::pin(self.is_kept_without_body(pace)).await
            }
            Finish::Trimmed | Finish::Fenced => false,
        };
        Ok(if trimmed { Finish::Trimmed } else { finish })
    }

    async fn is_kept_without_body<P: Pace>(&self, pace: P) -> bool {
        let shared = &self.shared;
        let found = pace.within(shared.settings.store_timeout, shared.store.get(&self.id)).await;
        let Some(Ok(Some(record))) = found else { return false };
        record.attempt == self.attempt
            && record.state.outcome().is_some_and(|kept| !kept.is_retained())
    }

    /// Where there is a timer, the lease is kept while this is under way: a store that is slow to take the outcome
    /// must not make others believe that nobody is there. What is ready at once makes no timer.
    async fn record<P: Pace>(&self, pace: P, outcome: &Arc<Outcome>) -> Result<Finish, StoreError> {
        let (store, settings) = (&self.shared.store, &self.shared.settings);
        let mut work = pin!(repeated(pace, settings.store_timeout, || {
            store.complete(&self.id, self.attempt, outcome, settings.retention)
        }));
        if P::HAS_TIMER
            && let Some(output) = attend(Some(self), work.as_mut()).await
        {
            return output;
        }
        // Whatever has become of the lease, the store says what that means for the outcome.
        work.await
    }

    /// Gives the key back as if this claim had never been made. Only where the effect has surely not begun.
    /// The next caller runs it, if this was the first claim ([`runs`](Self::runs) is 1). One that took over says
    /// nothing of the owner before, who may have had the effect: then the key is one whose owner has gone, as it
    /// was before this claim, and [`OnInterrupted`] decides about it.
    ///
    /// # Errors
    /// If the store did not do it, as far as is known. Then the key is treated like one whose owner has
    /// gone.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin("k", Fingerprint::NONE).await else { panic!() };
    /// permit.fail_before_effect().await.unwrap();
    /// assert!(matches!(gate.begin("k", Fingerprint::NONE).await, Ok(Begin::Execute(_))));
    /// # }
    /// ```
    pub async fn fail_before_effect(self) -> Result<Finish, StoreError> {
        self.release_by(Timer).await
    }

    /// [`fail_before_effect`](Self::fail_before_effect), blocking.
    ///
    /// # Errors
    /// As [`fail_before_effect`](Self::fail_before_effect).
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// permit.fail_before_effect_blocking().unwrap();
    /// assert!(gate.record_blocking("k").unwrap().is_none());
    /// ```
    pub fn fail_before_effect_blocking(self) -> Result<Finish, StoreError> {
        run(self.release_by(Blocking))
    }

    pub(super) async fn release_by<P: Pace>(mut self, pace: P) -> Result<Finish, StoreError> {
        let shared = Arc::clone(&self.shared);
        let (id, attempt) = (self.id, self.attempt);
        let timeout = shared.settings.store_timeout;
        let finish = repeated(pace, timeout, || shared.store.release(&id, attempt)).await?;
        self.settled = true;
        Ok(finish)
    }

    /// Records that nobody knows whether the effect happened, and that nobody shall run it again whatever
    /// the gate's policy is: for a probe that could not find out.
    ///
    /// # Errors
    /// If the store did not do it, as far as is known.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin("k", Fingerprint::NONE).await else { panic!() };
    /// permit.interrupt().await.unwrap();
    /// assert!(matches!(gate.begin("k", Fingerprint::NONE).await, Ok(Begin::Interrupted(_))));
    /// # }
    /// ```
    pub async fn interrupt(self) -> Result<Finish, StoreError> {
        self.interrupt_by(Timer).await
    }

    pub(super) async fn interrupt_by<P: Pace>(mut self, pace: P) -> Result<Finish, StoreError> {
        let shared = Arc::clone(&self.shared);
        let (id, attempt) = (self.id, self.attempt);
        let settings = &shared.settings;
        let finish = repeated(pace, settings.store_timeout, || {
            shared.store.interrupt(&id, attempt, settings.retention)
        })
        .await?;
        self.settled = true;
        Ok(finish)
    }
}

/// By our clock, counted from before the store was asked, and with a margin for clocks that run
/// differently fast.
fn held_until(lease: Duration, asked: Tick) -> u64 {
    asked.after(lease.saturating_sub(margin(lease))).0
}

fn margin(lease: Duration) -> Duration {
    (lease / 10).min(Duration::from_secs(2))
}

/// Whether the same again may be answered otherwise.
pub(super) fn may_help(error: &StoreError) -> bool {
    matches!(error.kind(), StoreErrorKind::Unknown | StoreErrorKind::Unavailable)
}

/// An operation that can be repeated as it is: until it is answered, three times at most.
async fn repeated<T, F, Fut, P>(
    pace: P,
    timeout: Duration,
    mut operation: F,
) -> Result<T, StoreError>
where
    P: Pace,
    T: Send,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>> + Send,
{
    let mut tries = 1;
    loop {
        let answer = pace.within(timeout, operation()).await;
        let error = match answer {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(error)) => error,
            None => StoreErrorKind::Unknown.into(),
        };
        if tries == TRIES || !may_help(&error) {
            return Err(error);
        }
        Box::pin(pace.pause((timeout / 10).min(Duration::from_millis(50)) * tries)).await;
        tries += 1;
    }
}

impl<S: Store> Drop for Permit<S> {
    fn drop(&mut self) {
        if !self.settled {
            self.shared.store.abandon(&self.id, self.attempt);
        }
    }
}

impl<S: Store> fmt::Debug for Permit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("id", &self.id)
            .field("generation", &self.generation)
            .field("runs", &self.runs)
            .finish_non_exhaustive()
    }
}
