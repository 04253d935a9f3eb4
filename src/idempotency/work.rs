//! One call from its claim to its record.
//!
//! Two boxes, for what every call needs and for what an execution needs: together they would be larger than
//! what allocators have at hand (1 KiB with glibc), and a box for each stage is one to get for each stage.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tower_service::Service;

use super::config::InFlight;
use super::detached::Counted;
use super::exchange::sealed::{Asked, Exchange, Keep, Record, Recorded, Refusal};
use super::future::Callee;
use super::layer::{OnPanic, Parts};
use super::pace::Timer;
use super::permit::Permit;
use super::ran::{Earlier, RunError, Status};
use super::run::{Admitted, attend, context};
use crate::backoff::Random;
use crate::clock::now;
use crate::observe::EventKind;
use crate::reject::Reject;
use crate::rejection::{Rejection, RejectionKind};
use crate::store::{Finish, Outcome, RecordId, Renewed, Store, StoreError};

pub(super) fn refusal<G, P>(parts: &Parts<G, P>, refusal: Refusal) -> Rejection {
    let gate = &parts.gate.shared;
    let mut why = gate.rejection(refusal.kind);
    if let Some(advice) = refusal.advice {
        why = why.with_advice(advice);
    }
    gate.refused(match refusal.source {
        Some(source) => why.with_source(source),
        None => why,
    })
}

/// How the wrapped service's call ended.
enum Handled<A, E> {
    NotReady(E),
    Answered(Box<Recorded<A, E>>),
}

/// A call that is claimed, executed and recorded.
pub(super) struct Job<S, G, P, R> {
    pub(super) inner: S,
    pub(super) parts: Counted<G, P>,
    pub(super) reject: R,
    pub(super) caller: Callee,
}

impl<S, G, P, R> Job<S, G, P, R> {
    #[expect(
        clippy::manual_async_fn,
        reason = "a function keeps room for its arguments and for what it makes of them"
    )]
    pub(super) fn run<Req>(
        mut self,
        held: <P as Exchange<Req>>::Held,
    ) -> impl Future<Output = Result<<P as Record<S::Response, S::Error>>::Answer, R::Error>>
    where
        G: Store,
        P: Exchange<Req> + Record<S::Response, S::Error>,
        S: Service<P::Inner> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Response: Send + 'static,
        S::Error: Send + 'static,
        R: Reject<
                <P as Exchange<Req>>::Inner,
                <P as Record<S::Response, S::Error>>::Answer,
                S::Error,
            > + Send
            + 'static,
    {
        async move {
            let (id, tag, fingerprint, req) = match self.parts.exchange.read(held).await {
                Asked::Gate(id, tag, fingerprint, req) => (id, tag, fingerprint, req),
                Asked::Refuse(req, why) => {
                    return self.reject.reject(*req, refusal(&self.parts, why));
                }
                Asked::Pass(req) => {
                    let called = Box::pin(self.inner.call(*req));
                    drop(self.inner);
                    return called.await.map(P::pass).map_err(R::map_err);
                }
            };
            // Before the claim: a process that waits until nothing is under way must not leave one behind.
            self.parts.enter();
            self.caller.detach();

            let gate = &self.parts.gate;
            let id = gate.own(id);
            let claim = gate.claim_of(fingerprint, gate.policy_without_probe());
            let mut is_ready = true;
            let inner = &mut self.inner;
            let caller = &self.caller;
            let waits = gate.shared.settings.in_flight != InFlight::Reject;
            let go_on = || {
                // While it waits for somebody else it keeps nobody out of the wrapped service.
                if waits && std::mem::take(&mut is_ready) {
                    *inner = inner.clone();
                }
                caller.is_wanted()
            };
            let admitted = gate.admit_while(Timer, (&id, tag), &claim, go_on).await;
            let permit = match admitted {
                Ok(Admitted::Run(permit)) => permit,
                Ok(Admitted::Replay(record)) => {
                    if gate.shared.is_watched() {
                        gate.shared.emit(EventKind::Replayed);
                    }
                    let replayed = match record.state.outcome() {
                        Some(outcome) => {
                            // Mostly the answer itself says it.
                            let grpc = !outcome.is_retained() && self.parts.exchange.is_grpc(&req);
                            self.parts.exchange.replay(outcome, grpc)
                        }
                        None => Err(Earlier::Unreadable("it is not completed".into())),
                    };
                    return replayed.or_else(|earlier| {
                        let why = gate.shared.rejection(RejectionKind::IdempotencyOutcomeUnknown);
                        self.reject.reject(*req, gate.shared.refused(why.with_source(earlier)))
                    });
                }
                // Not asked for.
                Ok(Admitted::Probe(permit)) => {
                    let refused = Box::pin(gate.not_found_out::<_, ()>(Timer, permit)).await;
                    let RunError::Rejected(why) = refused else { unreachable!("it is a refusal") };
                    return self.reject.reject(*req, why);
                }
                Err(why) => return self.reject.reject(*req, why),
            };
            Box::pin(self.execute(id, permit, req, is_ready)).await
        }
    }

    fn execute<Req>(
        self,
        id: RecordId,
        mut permit: Option<Permit<G>>,
        mut req: Box<<P as Exchange<Req>>::Inner>,
        is_ready: bool,
    ) -> impl Future<Output = Result<<P as Record<S::Response, S::Error>>::Answer, R::Error>>
    where
        G: Store,
        P: Exchange<Req> + Record<S::Response, S::Error>,
        S: Service<P::Inner> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Response: Send + 'static,
        S::Error: Send + 'static,
        R: Reject<
                <P as Exchange<Req>>::Inner,
                <P as Record<S::Response, S::Error>>::Answer,
                S::Error,
            > + Send
            + 'static,
    {
        let Self { mut inner, parts, reject, .. } = self;
        async move {
            let exchange = &parts.exchange;
            let effect = context(permit.as_ref(), id);
            exchange.tell(&mut req, &effect);
            let spare = exchange.spare(&req);
            let room = parts.gate.shared.settings.max_outcome;
            let work = Box::pin(async {
                if !is_ready && let Err(error) = poll_fn(|cx| inner.poll_ready(cx)).await {
                    return Handled::NotReady(error);
                }
                let called = inner.call(*req);
                drop(inner);
                let result = called.await;
                Handled::Answered(exchange.record(result, &effect, room).await)
            });
            let work = caught(effect.clone().around(work));
            let mut recorded = match attend(permit.as_ref(), work).await {
                Some(Ok(Handled::Answered(recorded))) => recorded,
                Some(Ok(Handled::NotReady(error))) => {
                    Box::pin(give_up(permit, Keep::Release)).await;
                    return Err(R::map_err(error));
                }
                Some(Err(panic)) => {
                    match (permit, parts.on_panic) {
                        (Some(permit), OnPanic::Interrupt) => {
                            // If the store does not answer, it ends up as one whose owner has gone.
                            let _ = Box::pin(permit.interrupt()).await;
                        }
                        (permit, _) => drop(permit),
                    }
                    drop(parts);
                    resume_unwind(panic)
                }
                None => {
                    let RunError::Rejected(why) = parts.gate.lease_lost::<()>() else {
                        unreachable!("it is a refusal")
                    };
                    return reject.reject(exchange.revive(spare), why);
                }
            };
            let keep = std::mem::replace(&mut recorded.keep, Keep::Release);
            let status = match (permit.as_mut(), keep) {
                (None, _) => Some(Status::Ungated),
                (Some(owned), Keep::Complete(outcome)) => {
                    let outcome = Arc::new(outcome);
                    let finish = owned.complete_by(Timer, Arc::clone(&outcome)).await;
                    let lease = parts.gate.shared.settings.lease;
                    Some(status_of(&finish, outcome, permit, &parts, lease))
                }
                (Some(_), keep) => {
                    Box::pin(give_up(permit, keep)).await;
                    None
                }
            };
            if let (Ok(answer), Some(status)) = (&mut recorded.result, status) {
                exchange.mark(answer, status);
            }
            recorded.result.map_err(R::map_err)
        }
    }
}

/// There is nothing to record. If the store does not answer, the key ends up as one whose owner has gone.
async fn give_up<G: Store>(permit: Option<Permit<G>>, keep: Keep) {
    let Some(permit) = permit else { return };
    let _ = match keep {
        Keep::Interrupt => permit.interrupt().await,
        Keep::Complete(_) | Keep::Release => permit.fail_before_effect().await,
    };
}

/// What the caller is told of the record. If the store did not take it, others go on trying.
fn status_of<G: Store, P: Send + Sync + 'static>(
    finish: &Result<Finish, StoreError>,
    outcome: Arc<Outcome>,
    permit: Option<Permit<G>>,
    parts: &Counted<G, P>,
    lease: Duration,
) -> Status {
    match finish {
        Ok(Finish::Applied | Finish::Already) if outcome.is_retained() => Status::Stored,
        Ok(Finish::Applied | Finish::Already | Finish::Trimmed) => Status::NotRetained,
        Ok(Finish::Fenced) => Status::Unconfirmed,
        Err(_) => {
            if let (Some(permit), Some(counted)) = (permit, parts.unconfirmed()) {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the caller has its answer and does not wait for the record"
                )]
                tokio::spawn(confirm(permit, outcome, counted, lease));
            }
            Status::Unconfirmed
        }
    }
}

/// The effect is known, but the store did not take the record: goes on trying, and holds the claim as long
/// as it can, so that duplicates are told to come back.
async fn confirm<G: Store, P>(
    mut permit: Permit<G>,
    outcome: Arc<Outcome>,
    counted: Counted<G, P>,
    lease: Duration,
) {
    let _counted = counted;
    let half = lease / 2;
    let start = now();
    let mut pause = Duration::from_millis(200);
    while now().since(start) < LONGEST_CONFIRMING {
        let jittered = Random::of_thread(|random| random.between(50, 100));
        tokio::time::sleep(pause / 100 * u32::try_from(jittered).unwrap_or(100)).await;
        if permit.lease_left() < half && matches!(permit.renew().await, Ok(Renewed::Fenced)) {
            return;
        }
        if permit.complete(Arc::clone(&outcome)).await.is_ok() {
            return;
        }
        pause = (pause * 2).min(Duration::from_secs(5)).min(half);
    }
}

/// Then the claim is left to its lease.
const LONGEST_CONFIRMING: Duration = Duration::from_secs(300);

type Panic = Box<dyn Any + Send>;

async fn caught<F: Future>(work: F) -> Result<F::Output, Panic> {
    let mut work = pin!(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}
