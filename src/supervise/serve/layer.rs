use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::name::{LayerKind, Name};
use crate::reject::{AsError, Reject};
use crate::rejection::{Rejection, RejectionKind};
use crate::supervise::lifecycle::Tally;
use crate::supervise::{Lifecycle, Phase};
use crate::sync::{Lease, Ref};

use super::body::{DrainBody, InFlight};
use super::service::Kind;
use super::signal;

/// The drain for a server with an accept loop of its own: see the [module](super).
///
/// Requests are in flight to the end of their answer's body, and keep
/// [`Draining`](crate::supervise::Phase::Draining) from ending. From the lame duck on, answers over HTTP/1
/// say `Connection: close`. What may be long finds a [`DrainSignal`](super::DrainSignal) in its extensions.
///
/// ```
/// use axum::{Router, routing::get};
/// use buttress::supervise::{Lifecycle, Phase};
/// use buttress::supervise::serve::DrainLayer;
///
/// # async fn f(listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let life = Lifecycle::new();
/// let app = Router::new()
///     .route("/", get(async || "hello"))
///     .layer(DrainLayer::new("http", &life).on_reject(buttress::http::problem()));
/// let stop = life.clone();
/// axum::serve(listener, app)
///     .with_graceful_shutdown(async move { stop.reached(Phase::Draining).await })
///     .await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DrainLayer<R = AsError> {
    drain: Lease<Drain>,
    reject: R,
    refuse: bool,
    everywhere: bool,
}

/// What all services of a layer share.
#[derive(Debug)]
struct Drain {
    name: Name,
    tally: Tally,
    refused: AtomicU64,
}

impl DrainLayer {
    /// Counts requests as `name`, which is who holds the drain. Refuses nothing.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainLayer;
    /// let layer = DrainLayer::new("http", &Lifecycle::new());
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>, life: &Lifecycle) -> Self {
        let name = name.into();
        let drain = Drain { name, tally: life.tally(name), refused: AtomicU64::new(0) };
        Self {
            drain: Lease::new(Arc::new(drain)),
            reject: AsError,
            refuse: false,
            everywhere: false,
        }
    }
}

impl<R> DrainLayer<R> {
    /// Refuses requests that come after the drain began, with
    /// [`RejectionKind::Draining`]. Without it they are served, which loses none of those that were under
    /// way to a socket that was still open.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainLayer;
    /// let layer = DrainLayer::new("http", &Lifecycle::new()).refuse();
    /// ```
    #[must_use]
    pub fn refuse(mut self) -> Self {
        self.refuse = true;
        self
    }

    /// Answers refused requests with `reject`. Asked for even if nothing is refused, because it decides
    /// about the type of errors.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainLayer;
    /// let layer = DrainLayer::new("http", &Lifecycle::new()).on_reject(buttress::http::problem());
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> DrainLayer<R2> {
        let Self { drain, reject: _, refuse, everywhere } = self;
        DrainLayer { drain, reject, refuse, everywhere }
    }

    /// Puts the [`DrainSignal`](super::DrainSignal) into the extensions of every request: see
    /// [`ServerBuilder::signal_everywhere`](super::ServerBuilder::signal_everywhere).
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainLayer;
    /// let layer = DrainLayer::new("http", &Lifecycle::new()).signal_everywhere();
    /// ```
    #[must_use]
    pub fn signal_everywhere(mut self) -> Self {
        self.everywhere = true;
        self
    }

    /// How many requests are in flight.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainLayer;
    /// assert_eq!(DrainLayer::new("http", &Lifecycle::new()).in_flight(), 0);
    /// ```
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.drain.tally.count()
    }

    /// How many requests were refused.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainLayer;
    /// assert_eq!(DrainLayer::new("http", &Lifecycle::new()).refused(), 0);
    /// ```
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.drain.refused.load(Ordering::Relaxed)
    }
}

impl<S, R: Clone> Layer<S> for DrainLayer<R> {
    type Service = DrainService<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        DrainService {
            inner,
            drain: self.drain.clone(),
            reject: self.reject.clone(),
            refuse: self.refuse,
            everywhere: self.everywhere,
        }
    }
}

/// A service whose requests hold the drain: see [`DrainLayer`].
///
/// ```
/// use buttress::supervise::Lifecycle;
/// use buttress::supervise::serve::{DrainLayer, DrainService};
/// use tower::Layer;
/// // By name, in a server of our own.
/// struct Server<S> {
///     service: DrainService<S>,
/// }
/// let server = Server { service: DrainLayer::new("http", &Lifecycle::new()).layer(7) };
/// assert_eq!(*server.service.get_ref(), 7);
/// ```
#[derive(Clone)]
pub struct DrainService<S, R = AsError> {
    inner: S,
    drain: Lease<Drain>,
    reject: R,
    refuse: bool,
    everywhere: bool,
}

impl<S, R> DrainService<S, R> {
    /// The inner service.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainLayer;
    /// use tower::Layer;
    /// assert_eq!(*DrainLayer::new("http", &Lifecycle::new()).layer(7).get_ref(), 7);
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainLayer;
    /// use tower::Layer;
    /// assert_eq!(DrainLayer::new("http", &Lifecycle::new()).layer(7).into_inner(), 7);
    /// ```
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Once true, stays so.
    #[inline]
    fn refuses(&self) -> bool {
        self.refuse && self.drain.tally.life().phase() >= Phase::Draining
    }
}

impl<S: fmt::Debug, R> fmt::Debug for DrainService<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainService")
            .field("inner", &self.inner)
            .field("name", &self.drain.name)
            .finish_non_exhaustive()
    }
}

impl<S, R, B1, B2> Service<Request<B1>> for DrainService<S, R>
where
    S: Service<Request<B1>, Response = Response<B2>>,
    R: Reject<Request<B1>, Response<B2>, S::Error>,
    B2: Body,
{
    type Response = Response<DrainBody<B2>>;
    type Error = R::Error;
    type Future = DrainFuture<S, B1, B2, R>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A service that is never ready must not hide that it is over.
        if self.refuses() {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(ready!(self.inner.poll_ready(cx)).map_err(R::map_err))
    }

    #[inline]
    fn call(&mut self, mut request: Request<B1>) -> Self::Future {
        let kind = Kind::of(&request);
        if self.refuses() {
            self.drain.refused.fetch_add(1, Ordering::Relaxed);
            let name = self.drain.name;
            let why = Rejection::new(RejectionKind::Draining, LayerKind::Supervise, name);
            let answer = self.reject.reject(request, why);
            let state = State::Refused { answer: Some(answer) };
            return DrainFuture { state, kind };
        }
        let drain = self.drain.for_call();
        drain.tally.begin();
        let held = Held(drain);
        signal::insert(&mut request, held.0.tally.life(), self.everywhere);
        let state = State::Called { inner: self.inner.call(request), held: Some(held) };
        DrainFuture { state, kind }
    }
}

/// A request in flight.
pub(super) struct Held(Ref<Drain>);

impl InFlight for Held {
    #[inline]
    fn complete(&mut self) {}
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        self.0.tally.end();
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.0.name).finish()
    }
}

pin_project! {
    /// The answer of a [`DrainService`]. Dropping it ends the request.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::{DrainFuture, DrainLayer};
    /// use http::{Request, Response};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let layer = DrainLayer::new("http", &Lifecycle::new());
    /// let mut service = layer.layer(service_fn(async |_: Request<()>| {
    ///     Ok::<_, std::io::Error>(Response::new(String::from("hello")))
    /// }));
    /// // It has a name, so that a service around this one can keep it without a box.
    /// let call: DrainFuture<_, _, _, _> = service.ready().await?.call(Request::new(()));
    /// assert_eq!(layer.in_flight(), 1);
    /// drop(call);
    /// assert_eq!(layer.in_flight(), 0);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct DrainFuture<S, B1, B2, R>
    where
        S: Service<Request<B1>>,
        R: Reject<Request<B1>, Response<B2>, S::Error>,
    {
        #[pin]
        state: State<S::Future, Result<Response<B2>, R::Error>>,
        kind: Kind,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, A> {
        Called {
            #[pin]
            inner: F,
            held: Option<Held>,
        },
        Refused {
            answer: Option<A>,
        },
    }
}

impl<S, B1, B2, R> Future for DrainFuture<S, B1, B2, R>
where
    S: Service<Request<B1>, Response = Response<B2>>,
    R: Reject<Request<B1>, Response<B2>, S::Error>,
    B2: Body,
{
    type Output = Result<Response<DrainBody<B2>>, R::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match this.state.project() {
            StateProj::Called { inner, held } => {
                // A call that has ended must not be polled again.
                assert!(held.is_some(), "polled after completion");
                let answer = ready!(inner.poll(cx));
                let held = held.take().expect("just seen");
                let mut response = answer.map_err(R::map_err)?;
                this.kind.announce(&mut response, held.0.tally.life());
                let length = this.kind.length(&response);
                Ok(response.map(|body| DrainBody::new(body, length, held)))
            }
            StateProj::Refused { answer } => {
                let answer = answer.take().expect("polled after completion");
                answer.map(|response| response.map(DrainBody::uncounted))
            }
        })
    }
}

impl<S, B1, B2, R> fmt::Debug for DrainFuture<S, B1, B2, R>
where
    S: Service<Request<B1>>,
    R: Reject<Request<B1>, Response<B2>, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainFuture").finish_non_exhaustive()
    }
}
