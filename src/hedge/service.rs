use std::fmt;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::{ResponseFuture, Spare, Stage};
use super::handle::{Shared, Watch};
use crate::classify::{AnyError, Classify};
use crate::clock::{self, UNREAD};
use crate::deadline::Deadline;
use crate::replay::{CloneRequest, Replay};
use crate::sync::{Lease, Ref};

/// Made by a [`HedgeLayer`](super::HedgeLayer). Ready when the inner service is.
///
/// ```
/// use tower::Layer;
/// let service = buttress::hedge::Hedge::new("db").layer().layer(7);
/// assert_eq!(*service.get_ref(), 7);
/// ```
#[derive(Clone)]
pub struct HedgeService<S, C = AnyError, R = CloneRequest> {
    pub(super) inner: S,
    /// `None`: as if the layer were not there.
    pub(super) shared: Option<Lease<Shared>>,
    pub(super) classifier: C,
    pub(super) replay: R,
}

impl<S, C, R> HedgeService<S, C, R> {
    /// The inner service.
    ///
    /// ```
    /// use tower::Layer;
    /// assert_eq!(*buttress::hedge::Hedge::new("db").layer().layer(7).get_ref(), 7);
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: fmt::Debug, C, R> fmt::Debug for HedgeService<S, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeService")
            .field("name", &self.shared.as_ref().map(|shared| shared.name))
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// Makes the first attempt, with the instance that was found ready. A clone of it is for the hedges, and asked before each.
#[inline(always)]
pub(super) fn start<S, Req, C, R>(
    ready: &mut S,
    req: Req,
    shared: Ref<Shared>,
    classifier: &C,
    replay: &R,
) -> ResponseFuture<S, Req, C, R>
where
    S: Service<Req> + Clone,
    C: Classify<Req, S::Response, S::Error> + Clone,
    R: Replay<Req> + Clone,
{
    let stands_for = clock::stands_for();
    let started = if stands_for == 0 { clock::at_hand_if_read() } else { clock::at_hand() };
    shared.core.deposit();
    let mut deadline = replay.deadline(&req).map(Deadline::tick);
    // Planned when it is not answered at once.
    let due = match started {
        UNREAD => shared.core.delay().map(|_| UNREAD),
        started => {
            deadline = clock::until(deadline);
            shared.core.plan(deadline, started)
        }
    };
    let due = due.filter(|_| !replay.overrides(&req).is_some_and(|exception| exception.is_never()));
    let copy = due.and_then(|_| replay.try_replay(&req));
    let ticket = Some(classifier.start(&req));
    // What cannot have a hedge says nothing of what they are good for.
    let deadline = deadline.filter(|_| copy.is_some());
    let watch = Watch { shared: Some(shared), started, deadline, measured: false, stands_for };
    let (classifier, replay) = (classifier.clone(), replay.clone());
    let (spare, stage) = match (due, copy) {
        (Some(due), Some(copy)) => {
            let spare = Spare { inner: ready.clone(), copy, sent: 0 };
            (Some(spare), Stage::Waiting { since: started, due, refused: 0 })
        }
        _ => (None, Stage::Last),
    };
    // In the place it is to have: moved, it would be copied.
    let first = Some(ready.call(req));
    let (hedges, sleep) = (Vec::new(), None);
    ResponseFuture { first, ticket, hedges, sleep, spare, stage, classifier, replay, watch }
}

impl<S, Req, C, R> Service<Req> for HedgeService<S, C, R>
where
    S: Service<Req> + Clone,
    C: Classify<Req, S::Response, S::Error> + Clone,
    R: Replay<Req> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, Req, C, R>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline(always)]
    fn call(&mut self, req: Req) -> Self::Future {
        let Some(shared) = Lease::of_call(&mut self.shared) else {
            return ResponseFuture::through(
                self.inner.call(req),
                self.classifier.clone(),
                self.replay.clone(),
            );
        };
        start(&mut self.inner, req, shared, &self.classifier, &self.replay)
    }
}
