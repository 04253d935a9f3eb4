//! Claim, execute, record, answer: the whole of it in one call.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use super::config::Outage;
use super::context::EffectContext;
use super::handle::{Begin, Idempotency};
use super::pace::{Blocking, Pace, Timer, run};
use super::pending::Tag;
use super::permit::Permit;
use super::ran::{Earlier, Probed, Ran, RunError, Status};
use super::value::Replayable;
use crate::observe::EventKind;
use crate::rejection::{Rejection, RejectionKind};
use crate::store::{
    Claim, Fingerprint, Finish, OnInterrupted, Outcome, Record, RecordId, State, Store, StoreError,
    StoreErrorKind,
};

/// The status of an outcome that [`Idempotency::run`] recorded. HTTP's start at 100.
const OK: u16 = 0;
const FAILED: u16 = 1;

/// How a run goes on.
pub(super) enum Admitted<S: Store> {
    Run(Option<Permit<S>>),
    Probe(Permit<S>),
    Replay(Record),
}

impl<S: Store> Idempotency<S> {
    /// Executes `f` unless it has been before, and answers with what came of it.
    ///
    /// A failure is recorded like a value and given to whoever asks again, since the effect may have
    /// happened; with [`run_with`](Self::run_with) `f` can say that it has not. While `f` runs, the lease is
    /// renewed. Dropping the future, and a panic of `f`, leave it open whether the effect happened, which
    /// is what the record then says: spawn what must not depend on its caller.
    ///
    /// Needs no runtime if neither `f` nor the store has to wait, otherwise tokio's timer.
    ///
    /// # Errors
    /// See [`RunError`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::{Fingerprint, MemoryStore};
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// let receipt = gate
    ///     .run("order-1", Fingerprint::of(b"10 EUR"), || async {
    ///         Ok::<_, std::io::Error>(String::from("receipt 42"))
    ///     })
    ///     .await
    ///     .unwrap();
    /// assert_eq!(receipt.value, "receipt 42");
    /// # }
    /// ```
    pub async fn run<T, E, F, Fut>(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        f: F,
    ) -> Result<Ran<T>, RunError<E>>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        T: Replayable,
        E: fmt::Display,
    {
        let id = self.id(key);
        self.run_id(id, fingerprint, |_| f()).await
    }

    /// [`run`](Self::run) of code that knows of its execution: for keys to hand on, and to say that the
    /// effect did not happen.
    ///
    /// # Errors
    /// See [`RunError`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::{Fingerprint, MemoryStore};
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// let ran = gate
    ///     .run_with("order-1", Fingerprint::of(b"10 EUR"), |effect| async move {
    ///         let key_for_the_bank = effect.derive_key("transfer");
    ///         Ok::<_, std::io::Error>(key_for_the_bank)
    ///     })
    ///     .await;
    /// # assert!(ran.is_ok());
    /// # }
    /// ```
    pub async fn run_with<T, E, F, Fut>(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        f: F,
    ) -> Result<Ran<T>, RunError<E>>
    where
        F: FnOnce(EffectContext) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        T: Replayable,
        E: fmt::Display,
    {
        let id = self.id(key);
        self.run_id(id, fingerprint, f).await
    }

    async fn run_id<T, E, F, Fut>(
        &self,
        id: RecordId,
        fingerprint: Fingerprint,
        f: F,
    ) -> Result<Ran<T>, RunError<E>>
    where
        F: FnOnce(EffectContext) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        T: Replayable,
        E: fmt::Display,
    {
        match self.admit(Timer, id, fingerprint, self.policy_without_probe()).await {
            Ok(Admitted::Run(permit)) => self.execute(id, permit, f).await,
            Ok(Admitted::Replay(record)) => self.replay(&record),
            // Not asked for.
            Ok(Admitted::Probe(permit)) => Err(self.not_found_out(Timer, permit).await),
            Err(why) => Err(RunError::Rejected(why)),
        }
    }

    /// [`run_with`](Self::run_with) under [`OnInterrupted::Probe`]: if an owner before has gone, `probe`
    /// finds out whether the effect happened, for example by asking the bank for the transfer with the
    /// derived key, while everybody else waits.
    ///
    /// Other runs with that policy treat what was interrupted as under [`OnInterrupted::Fail`].
    ///
    /// # Errors
    /// See [`RunError`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::idempotency::{Idempotency, Probed, Scope, Status};
    /// use buttress::store::{Fingerprint, MemoryStore, OnInterrupted};
    ///
    /// let gate = Idempotency::builder("orders", MemoryStore::default())
    ///     .scope(Scope::global())
    ///     .on_interrupted(OnInterrupted::Probe)
    ///     .build()
    ///     .unwrap();
    /// drop(gate.begin("order-1", Fingerprint::NONE).await); // its owner has gone
    ///
    /// let ran = gate
    ///     .run_or_probe(
    ///         "order-1",
    ///         Fingerprint::NONE,
    ///         |_| async { Probed::Applied(String::from("the bank has it")) },
    ///         |_| async { Ok::<_, &str>(String::from("paid")) },
    ///     )
    ///     .await
    ///     .unwrap();
    /// assert_eq!((&*ran.value, ran.status), ("the bank has it", Status::Replayed));
    /// # }
    /// ```
    pub async fn run_or_probe<T, E, P, PFut, F, Fut>(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        probe: P,
        f: F,
    ) -> Result<Ran<T>, RunError<E>>
    where
        P: FnOnce(EffectContext) -> PFut,
        PFut: Future<Output = Probed<T>>,
        F: FnOnce(EffectContext) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        T: Replayable,
        E: fmt::Display,
    {
        let id = self.id(key);
        let policy = self.shared.settings.on_interrupted;
        let mut permit = match self.admit(Timer, id, fingerprint, policy).await {
            Ok(Admitted::Run(permit)) => return self.execute(id, permit, f).await,
            Ok(Admitted::Replay(record)) => return self.replay(&record),
            Ok(Admitted::Probe(permit)) => permit,
            Err(why) => return Err(RunError::Rejected(why)),
        };
        let finding = probe(permit.context());
        match attend(Some(&permit), finding).await {
            Some(Probed::Applied(value)) => {
                let outcome = outcome_of::<T, E>(Ok(&value));
                // Even if that fails, the value is what the callee says.
                let _ = permit.complete_by(Timer, outcome.into()).await;
                Ok(Ran { value, status: Status::Replayed })
            }
            Some(Probed::NotApplied) => self.execute(id, Some(permit), f).await,
            Some(Probed::Unknown) => Err(self.not_found_out(Timer, permit).await),
            None => Err(self.lease_lost()),
        }
    }

    /// [`run`](Self::run) for code without a runtime.
    ///
    /// The lease is not renewed while `f` runs: choose one that is longer, or `f` is taken for gone when it
    /// ends. Under [`OnInterrupted::Fail`] that is told to whoever asks meanwhile, and set right when
    /// `f` returns; under `Rerun` it is run again.
    ///
    /// # Errors
    /// See [`RunError`].
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::{Fingerprint, MemoryStore};
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// let ran = gate.run_blocking("order-1", Fingerprint::of(b"10 EUR"), || Ok::<_, &str>(7));
    /// assert_eq!(ran.unwrap().value, 7);
    /// ```
    pub fn run_blocking<T, E, F>(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        f: F,
    ) -> Result<Ran<T>, RunError<E>>
    where
        F: FnOnce() -> Result<T, E>,
        T: Replayable,
        E: fmt::Display,
    {
        self.run_blocking_with(key, fingerprint, |_| f())
    }

    /// [`run_with`](Self::run_with) for code without a runtime. The lease is not renewed, as in
    /// [`run_blocking`](Self::run_blocking).
    ///
    /// # Errors
    /// See [`RunError`].
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::{Fingerprint, MemoryStore};
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// let ran = gate.run_blocking_with("order-1", Fingerprint::NONE, |effect| {
    ///     Ok::<_, &str>(effect.derive_key("transfer"))
    /// });
    /// assert!(ran.is_ok());
    /// ```
    pub fn run_blocking_with<T, E, F>(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        f: F,
    ) -> Result<Ran<T>, RunError<E>>
    where
        F: FnOnce(EffectContext) -> Result<T, E>,
        T: Replayable,
        E: fmt::Display,
    {
        let id = self.id(key);
        match run(self.admit(Blocking, id, fingerprint, self.policy_without_probe())) {
            Ok(Admitted::Run(permit)) => {
                let effect = context(permit.as_ref(), id);
                let result = f(effect.clone());
                run(self.settle(Blocking, permit, &effect, result))
            }
            Ok(Admitted::Replay(record)) => self.replay(&record),
            Ok(Admitted::Probe(permit)) => Err(run(self.not_found_out(Blocking, permit))),
            Err(why) => Err(RunError::Rejected(why)),
        }
    }

    /// For a run without a record.
    pub(crate) fn ungated(&self, key: impl AsRef<[u8]>) -> EffectContext {
        EffectContext::ungated(self.id(key))
    }

    /// What `run` does without somebody who could find out.
    pub(super) fn policy_without_probe(&self) -> OnInterrupted {
        match self.shared.settings.on_interrupted {
            OnInterrupted::Probe => OnInterrupted::Fail,
            policy => policy,
        }
    }

    async fn admit<P: Pace>(
        &self,
        pace: P,
        id: RecordId,
        fingerprint: Fingerprint,
        policy: OnInterrupted,
    ) -> Result<Admitted<S>, Rejection> {
        self.admit_while(pace, (&id, self.tag()), &self.claim_of(fingerprint, policy), || true)
            .await
    }

    /// See [`claim_while`](Self::claim_while) for `go_on`.
    pub(super) async fn admit_while<P: Pace>(
        &self,
        pace: P,
        record: (&RecordId, Tag),
        claim: &Claim,
        go_on: impl FnMut() -> bool + Send,
    ) -> Result<Admitted<S>, Rejection> {
        let refused = |kind| self.shared.refused(self.shared.rejection(kind));
        match self.claim_while(pace, record, claim, go_on).await {
            Ok(Begin::Execute(permit)) => Ok(Admitted::Run(Some(permit))),
            Ok(Begin::Probe(permit)) => Ok(Admitted::Probe(permit)),
            Ok(Begin::Replay(record)) => Ok(Admitted::Replay(record)),
            Ok(Begin::InFlight { retry_after }) => {
                let why = self.shared.rejection(RejectionKind::IdempotencyInFlight);
                Err(self.shared.refused(why.with_retry_after(retry_after)))
            }
            Ok(Begin::Overloaded { retry_after }) => {
                let why = self.shared.rejection(RejectionKind::Overloaded);
                Err(self.shared.refused(why.with_retry_after(retry_after)))
            }
            Ok(Begin::Mismatch) => Err(refused(RejectionKind::IdempotencyMismatch)),
            Ok(Begin::Interrupted(_)) => Err(refused(RejectionKind::IdempotencyOutcomeUnknown)),
            Err(error) => self.without_store(error),
        }
    }

    #[cold]
    fn without_store(&self, error: StoreError) -> Result<Admitted<S>, Rejection> {
        let kind = match (error.kind(), self.shared.settings.outage) {
            (StoreErrorKind::Unavailable | StoreErrorKind::Unknown, Outage::RunUngated) => {
                self.shared.emit(EventKind::Unrecorded { reason: "ungated" });
                return Ok(Admitted::Run(None));
            }
            // It is there, and says something that nobody can read.
            (StoreErrorKind::Corrupt, _) => RejectionKind::IdempotencyOutcomeUnknown,
            _ => RejectionKind::StoreUnavailable,
        };
        Err(self.shared.refused(self.shared.rejection(kind).with_source(error)))
    }

    async fn execute<T, E, F, Fut>(
        &self,
        id: RecordId,
        permit: Option<Permit<S>>,
        f: F,
    ) -> Result<Ran<T>, RunError<E>>
    where
        F: FnOnce(EffectContext) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        T: Replayable,
        E: fmt::Display,
    {
        let effect = context(permit.as_ref(), id);
        let work = f(effect.clone());
        match attend(permit.as_ref(), work).await {
            Some(result) => self.settle(Timer, permit, &effect, result).await,
            None => Err(self.lease_lost()),
        }
    }

    async fn settle<P, T, E>(
        &self,
        pace: P,
        permit: Option<Permit<S>>,
        effect: &EffectContext,
        result: Result<T, E>,
    ) -> Result<Ran<T>, RunError<E>>
    where
        P: Pace,
        T: Replayable,
        E: fmt::Display,
    {
        let Some(mut permit) = permit else {
            return match result {
                Ok(value) => Ok(Ran { value, status: Status::Ungated }),
                Err(error) => Err(RunError::Inner(error)),
            };
        };
        let result = match result {
            Err(error) if effect.is_not_applied() => {
                // If the store does not answer, the key ends up as one whose owner has gone.
                let _ = permit.release_by(pace).await;
                return Err(RunError::Inner(error));
            }
            result => result,
        };
        let outcome = outcome_of(result.as_ref());
        let retained = outcome.is_retained();
        let status = match permit.complete_by(pace, outcome.into()).await {
            Ok(Finish::Applied | Finish::Already) if retained => Status::Stored,
            Ok(Finish::Applied | Finish::Already | Finish::Trimmed) => Status::NotRetained,
            Ok(Finish::Fenced) | Err(_) => Status::Unconfirmed,
        };
        match result {
            Ok(value) => Ok(Ran { value, status }),
            Err(error) => Err(RunError::Inner(error)),
        }
    }

    fn replay<T: Replayable, E>(&self, record: &Record) -> Result<Ran<T>, RunError<E>> {
        if self.shared.is_watched() {
            self.shared.emit(EventKind::Replayed);
        }
        let State::Completed(outcome) = &record.state else {
            return Err(RunError::Earlier(Earlier::Unreadable("it is not completed".into())));
        };
        match value_of(outcome) {
            Ok(value) => Ok(Ran { value, status: Status::Replayed }),
            Err(earlier) => Err(RunError::Earlier(earlier)),
        }
    }

    #[cold]
    pub(super) async fn not_found_out<P: Pace, E>(
        &self,
        pace: P,
        permit: Permit<S>,
    ) -> RunError<E> {
        // If the store does not answer, the next one has to find out.
        let _ = permit.interrupt_by(pace).await;
        let why = self.shared.rejection(RejectionKind::IdempotencyOutcomeUnknown);
        RunError::Rejected(self.shared.refused(why))
    }

    #[cold]
    pub(super) fn lease_lost<E>(&self) -> RunError<E> {
        self.shared.emit(EventKind::Unrecorded { reason: "lease_lost" });
        let why = self.shared.rejection(RejectionKind::IdempotencyOutcomeUnknown);
        RunError::Rejected(self.shared.refused(why))
    }
}

pub(super) fn context<S: Store>(permit: Option<&Permit<S>>, id: RecordId) -> EffectContext {
    permit.map_or_else(|| EffectContext::ungated(id), Permit::context)
}

/// What [`outcome_of`] made.
pub(super) fn value_of<T: Replayable>(outcome: &Outcome) -> Result<T, Earlier> {
    Err(match (outcome.status(), outcome.body()) {
        (OK | FAILED, None) => Earlier::NotRetained,
        (OK, Some(body)) => match T::from_bytes(body) {
            Ok(value) => return Ok(value),
            Err(error) => Earlier::Unreadable(error.to_string()),
        },
        (FAILED, Some(text)) => Earlier::Failed(String::from_utf8_lossy(text).into_owned()),
        (status, _) => Earlier::Unreadable(format!("its status is {status}")),
    })
}

pub(super) fn outcome_of<T: Replayable, E: fmt::Display>(result: Result<&T, &E>) -> Outcome {
    match result {
        Ok(value) => match value.to_bytes() {
            Ok(bytes) => Outcome::new(OK, [], bytes),
            Err(_) => Outcome::not_retained(OK, []),
        },
        Err(error) => Outcome::new(FAILED, [], error.to_string().into_bytes()),
    }
}

/// `work`, with its lease kept; `None` if that was lost, or the work has taken as long as it may. What is ready at
/// once makes no timer.
///
/// The lease is looked at before each step of the work, and by the clock: after a pause of the whole process what
/// wakes the work may be faster than the timers, and others may run it by now. Whether they do, the store is asked
/// once, and the work makes no step before it has answered.
pub(super) async fn attend<S: Store, F: Future>(
    permit: Option<&Permit<S>>,
    work: F,
) -> Option<F::Output> {
    let mut work = pin!(work);
    let Some(permit) = permit else { return Some(work.await) };
    if permit.is_over() && !Box::pin(permit.regain()).await {
        return None;
    }
    if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
        return Some(output);
    }
    // Beside, since what never waits would have to make room for it.
    let mut lost = Box::pin(permit.keep_alive());
    loop {
        let step = poll_fn(|cx| {
            if permit.is_over() || lost.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            work.as_mut().poll(cx).map(Some)
        });
        if let Some(output) = step.await {
            return Some(output);
        }
        if !permit.is_over() || !Box::pin(permit.regain()).await {
            return None;
        }
        lost.set(permit.keep_alive());
    }
}
