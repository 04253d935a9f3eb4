//! Where retries meet the idempotency gate, which do not know each other: a policy that promises exactly
//! once has its key claimed once, around all attempts.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::classify::Classify;
use crate::error::Error;
use crate::idempotency::{EffectContext, Idempotency, Ran, Replayable, RunError};
use crate::retry::{ExecutionGuarantee, Retry};
use crate::store::{Fingerprint, Store};
use crate::sync::atomic::{AtomicU32, Ordering};

impl<S: Store> Idempotency<S> {
    /// Calls `op` under a retry, with the guarantee that its policy promises.
    ///
    /// [`ExactlyOnce`](ExecutionGuarantee::ExactlyOnce): the key is claimed once, around all attempts, and the
    /// result of the last one is recorded and given to whoever asks again. Attempts after the first are made
    /// only if the classifier calls the failure one that may be retried; where a failed attempt may have
    /// taken effect, give the callee [`derive_key`](EffectContext::derive_key), which is the same for all
    /// attempts. [`AtLeastOnce`](ExecutionGuarantee::AtLeastOnce): the key is not claimed, nothing is
    /// recorded, and the status is [`Ungated`](crate::idempotency::Status::Ungated).
    ///
    /// So code that gets its policy by name or by risk calls this and nothing else.
    ///
    /// # Errors
    /// See [`RunError`]. A refusal of the retry is [`RunError::Rejected`]; the run is recorded as failed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::idempotency::{Idempotency, Scope, Status};
    /// use buttress::retry::{Retry, resolve_retry_policy};
    /// use buttress::store::{Fingerprint, MemoryStore};
    ///
    /// let gate = Idempotency::new("agent", MemoryStore::default(), Scope::global());
    /// let retry = Retry::new(resolve_retry_policy("agent", Some("high"))); // AGENT_HIGH_RISK
    /// for expected in [Status::Stored, Status::Replayed] {
    ///     let ran = gate
    ///         .run_retry(&retry, "step-7", Fingerprint::NONE, |_attempt, effect| async move {
    ///             Ok::<_, std::io::Error>(effect.derive_key("order"))
    ///         })
    ///         .await
    ///         .unwrap();
    ///     assert_eq!(ran.status, expected);
    /// }
    /// # }
    /// ```
    pub async fn run_retry<C, T, E, F, Fut>(
        &self,
        retry: &Retry<C>,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        mut op: F,
    ) -> Result<Ran<T>, RunError<E>>
    where
        C: Classify<(), T, E> + Clone,
        T: Replayable,
        E: fmt::Display + 'static,
        F: FnMut(u32, EffectContext) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        if retry.policy().guarantee() == ExecutionGuarantee::AtLeastOnce {
            let effect = self.ungated(key);
            let result = retry.run(|attempt| op(attempt, effect.clone())).await;
            return result.map(Ran::ungated).map_err(flat);
        }
        let attempts = retry.claimed();
        let ran = self.run_with(key, fingerprint, |effect| async move {
            let harm = Arc::new(Harm::default());
            let result = attempts
                .run(|attempt| {
                    let (mine, harm) = (effect.of_attempt(), Arc::clone(&harm));
                    harm.begins();
                    let attempted = op(attempt, mine.clone());
                    async move {
                        let result = attempted.await;
                        harm.ended(&mine);
                        result
                    }
                })
                .await;
            harm.tell(&effect);
            result
        });
        ran.await.map_err(|error| error.map_inner(flat))
    }

    /// [`run_retry`](Self::run_retry), blocking. The lease is not renewed, so it must be longer than all
    /// attempts and pauses, as for [`run_blocking`](Self::run_blocking).
    ///
    /// # Errors
    /// As [`run_retry`](Self::run_retry).
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope, Status};
    /// use buttress::retry::{Retry, RetryPolicy};
    /// use buttress::store::{Fingerprint, MemoryStore};
    ///
    /// let gate = Idempotency::new("agent", MemoryStore::default(), Scope::global());
    /// let retry = Retry::new(RetryPolicy::AGENT_HIGH_RISK);
    /// let step = |_attempt, _effect| Ok::<_, std::io::Error>(7);
    /// gate.run_retry_blocking(&retry, "step-7", Fingerprint::NONE, step).unwrap();
    /// let again = gate.run_retry_blocking(&retry, "step-7", Fingerprint::NONE, step).unwrap();
    /// assert_eq!((again.value, again.status), (7, Status::Replayed));
    /// ```
    pub fn run_retry_blocking<C, T, E, F>(
        &self,
        retry: &Retry<C>,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        mut op: F,
    ) -> Result<Ran<T>, RunError<E>>
    where
        C: Classify<(), T, E> + Clone,
        T: Replayable,
        E: fmt::Display + 'static,
        F: FnMut(u32, EffectContext) -> Result<T, E>,
    {
        if retry.policy().guarantee() == ExecutionGuarantee::AtLeastOnce {
            let effect = self.ungated(key);
            let result = retry.run_blocking(|attempt| op(attempt, effect.clone()));
            return result.map(Ran::ungated).map_err(RunError::Inner);
        }
        let attempts = retry.claimed();
        self.run_blocking_with(key, fingerprint, |effect| {
            let harm = Harm::default();
            let result = attempts.run_blocking(|attempt| {
                let mine = effect.of_attempt();
                harm.begins();
                let result = op(attempt, mine.clone());
                harm.ended(&mine);
                result
            });
            harm.tell(&effect);
            result
        })
    }
}

/// Attempts that may have had the effect: those under way, those that were cut off, and those that have ended
/// without saying that it did not happen.
#[derive(Default)]
struct Harm {
    begun: AtomicU32,
    harmless: AtomicU32,
}

impl Harm {
    fn begins(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self, attempt: &EffectContext) {
        if attempt.is_not_applied() {
            self.harmless.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What can be said of all of them together.
    fn tell(&self, effect: &EffectContext) {
        let begun = self.begun.load(Ordering::Relaxed);
        if begun > 0 && begun == self.harmless.load(Ordering::Relaxed) {
            effect.not_applied();
        }
    }
}

fn flat<E>(error: Error<E>) -> RunError<E> {
    match error {
        Error::Rejected(why) => RunError::Rejected(why),
        Error::Inner(error) => RunError::Inner(error),
    }
}
