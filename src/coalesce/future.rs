use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::layer::Parts;
use super::share::Share;
use super::table::{Entered, Landing, Made, Seat, add};
use crate::clock::{self, Tick, poll_end};
use crate::context::ReadContext;
use crate::deadline::Deadline;
use crate::key::Key;
use crate::name::LayerKind;
use crate::observe::{LET_THROUGH, REFUSED, WaitSpan};
use crate::reject::{Reject, Remember};
use crate::rejection::RejectionKind;
use crate::single::Single;
use crate::sync::Ref;

pin_project! {
    /// The answer of a [`CoalesceService`](super::CoalesceService): of its own call, or of that of another one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::coalesce::{Coalesce, ResponseFuture};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    /// let mut service = Coalesce::new("double").layer(|n: &u32| Some(*n)).layer(double);
    /// // It has a name, so that a service around this one can keep it without a box.
    /// let call: ResponseFuture<_, _, _, _, _, _, _, _, _, _> = service.ready().await?.call(4);
    /// assert_eq!(call.await?, 8);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, K, V, Res, Err, X, P, C, R>
    where
        S: Service<Req>,
        K: Hash,
        K: Eq,
    {
        #[pin]
        state: State<S, Req, S::Future, K, V, Result<Res, Err>>,
        // Made when a call with a deadline has to wait for the first time.
        #[pin]
        sleep: Option<Sleep>,
        parts: Ref<Parts<K, V, Result<Res, Err>, X, P, C, R>>,
        reject: R,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req, F, K, V, O>
    where
        K: Hash,
        K: Eq,
    {
        Arriving { call: Option<(S, Req)> },
        Waiting { seat: Seat<K, V, O>, call: Option<(S, Req)>, end: Option<Tick>, span: WaitSpan },
        Alone { #[pin] call: Single<S, Req, F> },
        Done,
    }
}

/// The call for all who wait.
async fn shared<S, Req, P>(
    service: S,
    req: Req,
    share: P,
) -> Result<P::Shared, Result<P::Response, P::Error>>
where
    S: Service<Req>,
    P: Share<S::Response, S::Error>,
{
    let result = Single::<S, Req, S::Future>::new(service, req).await;
    share.share(result).await
}

impl<S, Req, K, V, Res, Err, X, P, C, R> ResponseFuture<S, Req, K, V, Res, Err, X, P, C, R>
where
    S: Service<Req>,
    K: Hash + Eq,
{
    #[allow(clippy::type_complexity, reason = "the parts have a parameter for each role")]
    pub(super) fn new(
        inner: S,
        req: Req,
        parts: Ref<Parts<K, V, Result<Res, Err>, X, P, C, R>>,
    ) -> Self
    where
        R: Remember<Req>,
    {
        let reject = parts.reject.remember(&req);
        Self { state: State::Arriving { call: Some((inner, req)) }, sleep: None, parts, reject }
    }
}

impl<S, Req, K, V, Res, Err, X, P, C, R> Future
    for ResponseFuture<S, Req, K, V, Res, Err, X, P, C, R>
where
    S: Service<Req, Future: Send> + Send + 'static,
    Req: Send + 'static,
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    Res: Send + 'static,
    Err: Send + 'static,
    X: Key<Req, Key = K>,
    P: Share<S::Response, S::Error, Shared = V, Response = Res, Error = Err, Future: Send>
        + Clone
        + Send
        + 'static,
    C: ReadContext<Req>,
    R: Reject<(), Res, Err>,
{
    type Output = Result<Res, R::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let parts = &**this.parts;
        let table = &parts.coalesce.table;
        let refuse = |kind| Poll::Ready(this.reject.reject((), table.refuse(kind)));
        loop {
            match this.state.as_mut().project() {
                StateProj::Arriving { call } => {
                    let Some((inner, req)) = call.take() else { panic!("polled after completion") };
                    this.state.set(State::Done);
                    let Some(key) = parts.key.key(&req) else {
                        this.state.set(State::Alone { call: Single::new(inner, req) });
                        continue;
                    };
                    let end = parts.context.context(&req).deadline().map(Deadline::tick);
                    let now = if end.is_some() { clock::now() } else { Tick(0) };
                    if end.is_some_and(|end| end <= now) {
                        add(&table.counts.expired);
                        return refuse(RejectionKind::DeadlineExceeded);
                    }
                    match table.enter(key, end, now, Made::Polled) {
                        Entered::Lead(seat) => {
                            seat.begin(Box::pin(shared(inner, req, parts.share.clone())));
                            this.state.set(State::Waiting {
                                seat,
                                call: None,
                                end,
                                span: WaitSpan::NONE,
                            });
                        }
                        Entered::Follow(seat) => {
                            let call = Some((inner, req));
                            let span = WaitSpan::begin(LayerKind::Coalesce, table.name);
                            this.state.set(State::Waiting { seat, call, end, span });
                        }
                        Entered::Full => {
                            this.state.set(State::Alone { call: Single::new(inner, req) });
                        }
                        Entered::Crowded => return refuse(RejectionKind::Overloaded),
                    }
                }
                StateProj::Waiting { seat, call, end, span } => {
                    let Poll::Ready(landing) = seat.poll(cx) else {
                        ready!(poll_end(this.sleep, *end, cx));
                        span.end(REFUSED);
                        this.state.set(State::Done);
                        add(&table.counts.expired);
                        return refuse(RejectionKind::DeadlineExceeded);
                    };
                    let call = call.take();
                    let lost =
                        matches!((&landing, &call), (Landing::Lost, _) | (Landing::Apart, None));
                    span.end(if lost { REFUSED } else { LET_THROUGH });
                    this.state.set(State::Done);
                    match (landing, call) {
                        (Landing::Shared(value), _) => {
                            return Poll::Ready(P::unshare(value).map_err(R::map_err));
                        }
                        (Landing::Own(own), _) => return Poll::Ready(own.map_err(R::map_err)),
                        (Landing::Apart, Some((inner, req))) => {
                            this.state.set(State::Alone { call: Single::new(inner, req) });
                        }
                        (Landing::Apart | Landing::Lost, _) => {
                            return refuse(RejectionKind::CallPanicked);
                        }
                    }
                }
                StateProj::Alone { call } => {
                    let result = ready!(call.poll(cx));
                    this.state.set(State::Done);
                    return Poll::Ready(P::pass(result).map_err(R::map_err));
                }
                StateProj::Done => panic!("polled after completion"),
            }
        }
    }
}

impl<S, Req, K, V, Res, Err, X, P, C, R> fmt::Debug
    for ResponseFuture<S, Req, K, V, Res, Err, X, P, C, R>
where
    S: Service<Req>,
    K: Hash + Eq,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Arriving { .. } => "Arriving",
            State::Waiting { .. } => "Waiting",
            State::Alone { .. } => "Alone",
            State::Done => "Done",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
