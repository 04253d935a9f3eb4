use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::{ResponseFuture, State};
use super::handle::start_deadline;
use super::keep::{Keep, unused};
use super::managed::Tally;
use super::plan::Plan;
use super::{CloneRequest, Replay, RetryPolicy};
use crate::budget::RetryBudget;
use crate::classify::{AnyError, Classify};
use crate::deadline::Deadline;
use crate::name::Name;
use crate::observe::Observers;
use crate::reject::{AsError, Reject, Remember};
use crate::slot::{Made, Slot};
use crate::sync::Lease;
use crate::wide::Wide;

/// What the calls of a layer share.
#[derive(Debug)]
pub struct Shared {
    pub(super) budget: Option<RetryBudget>,
    pub(super) observers: Observers,
    pub(super) tally: Arc<Tally>,
    pub(super) live: Option<Live>,
}

/// A policy that may change.
pub(super) struct Live {
    pub(super) slot: Slot<RetryPolicy>,
    made: Made<Plan>,
}

impl Live {
    pub(super) fn new(slot: Slot<RetryPolicy>) -> Self {
        Self { slot, made: Made::new() }
    }

    /// The plan of the policy that is there now.
    #[cold]
    #[inline(never)]
    pub(super) fn look(&self, name: Name) -> (u64, Plan) {
        let plan = |policy: Option<_>| Plan::new(policy.unwrap_or(RetryPolicy::NO_RETRY), name);
        self.made.of(&self.slot, plan)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slot.fmt(f)
    }
}

/// In place of a version: the policy stays what it is.
pub(super) const FIXED: u64 = u64::MAX;
/// There is no retry.
pub(super) const ABSENT: u64 = u64::MAX - 1;

/// Made by a [`RetryLayer`](super::RetryLayer).
///
/// Ready when the inner service is. The instance that was found ready makes the first attempt and is
/// kept by the call, which asks it again before each retry.
///
/// ```
/// use buttress::retry::{RetryLayer, RetryPolicy};
/// use tower::{Layer, Service, ServiceExt, service_fn};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let inner = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n + 1) });
/// let mut service = RetryLayer::new(RetryPolicy::default()).layer(inner);
/// assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 2);
/// # });
/// ```
pub struct RetryService<S, C = AnyError, R = CloneRequest, J = AsError, K = Shared> {
    pub(super) inner: S,
    pub(super) plan: Plan,
    /// The version of the slot that the plan is of.
    pub(super) seen: u64,
    pub(super) classifier: C,
    pub(super) replay: R,
    pub(super) reject: J,
    pub(super) shared: Option<Lease<K>>,
}

impl<S: Clone, C: Clone, R: Clone, J: Clone, K> Clone for RetryService<S, C, R, J, K> {
    // The inner service last: made in its place, or all of it is copied for each layer of a stack.
    #[inline(always)]
    fn clone(&self) -> Self {
        Self {
            plan: self.plan.clone(),
            seen: self.seen,
            classifier: self.classifier.clone(),
            replay: self.replay.clone(),
            reject: self.reject.clone(),
            shared: self.shared.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<S, C, R, J, K: AsRef<Shared>> RetryService<S, C, R, J, K> {
    /// Looks whether there is another policy.
    #[inline]
    fn look(&mut self) {
        if let Some(shared) = &self.shared
            && let Some(live) = &(**shared).as_ref().live
            && live.slot.version() != self.seen
        {
            (self.seen, self.plan) = live.look(self.plan.name);
        }
    }
}

impl<S: fmt::Debug, C, R, J, K> fmt::Debug for RetryService<S, C, R, J, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryService")
            .field("name", &self.plan.name)
            .field("policy", &self.plan.policy)
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, Req, C, R, J, K> Service<Req> for RetryService<S, C, R, J, K>
where
    S: Service<Req> + Clone,
    S::Error: 'static,
    C: Classify<Req, S::Response, S::Error> + Clone,
    R: Replay<Req> + Clone,
    J: Reject<(), S::Response, S::Error> + Remember<Req>,
    K: Keep<S>,
{
    type Response = S::Response;
    type Error = J::Error;
    type Future = ResponseFuture<S, Req, C, R, J, K>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), J::Error>> {
        self.inner.poll_ready(cx).map_err(J::map_err)
    }

    // Not inlined, the future is written in words and then moved in pairs of them, which stalls the
    // processor for several times as long as the call itself takes.
    #[inline(always)]
    fn call(&mut self, mut req: Req) -> Self::Future {
        if self.seen == ABSENT {
            return ResponseFuture {
                state: State::Through { call: self.inner.call(req) },
                plan: Plan::Absent,
                deadline: None,
                classifier: self.classifier.clone(),
                replay: self.replay.clone(),
                reject: self.reject.clone(),
                shared: None,
                slow: None,
            };
        }
        if self.seen != FIXED {
            self.look();
        }
        let plan = match self.replay.overrides(&req) {
            None => self.plan.clone(),
            Some(exception) => Plan::once(exception.apply(self.plan.policy), self.plan.name),
        };
        let inherited = self.replay.deadline(&req);
        let deadline = start_deadline(&plan.policy, inherited);
        if let Some(deadline) = deadline {
            self.replay.set_deadline(&mut req, Deadline::at(deadline));
        }
        self.replay.begin(&mut req);
        let reject = self.reject.remember(&req);
        let (classifier, replay) = (self.classifier.clone(), self.replay.clone());
        let shared = self.shared.as_mut().map(Lease::for_call);
        // Each value is made in the place it is to have: the compiler does not see through a move of the
        // request, its copy or the inner future, which are hundreds of bytes. Nothing that could panic comes after
        // them, for which they would have to lie elsewhere.
        ResponseFuture {
            state: if inherited.is_some_and(Deadline::has_passed) {
                unused(&mut self.inner);
                State::TooLate
            } else {
                let copy = if plan.can_retry { self.replay.try_replay(&req) } else { None };
                let ticket = Wide::Some(self.classifier.start(&req));
                let mut kept = K::keep(&mut self.inner);
                let call = K::first(&mut kept, &mut self.inner).call(req);
                State::Calling { copy, ticket, call, kept }
            },
            plan,
            deadline,
            classifier,
            replay,
            reject,
            shared,
            slow: None,
        }
    }
}
