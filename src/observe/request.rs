//! A span for each call of a server's stack.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::spans::{CallSpan, LEFT, REFUSED};
use crate::classify::as_std_error;
use crate::name::Name;
use crate::rejection::Rejection;

/// Puts each call of the stack inside it into a span `request`, a child of the current one, so that what the
/// stack decided about a call (it waited, it was answered from a record, it was injected a fault) is found
/// at that call, and how it ended is said once: `outcome` is `answered`, `failed`, `refused` (with the refusal as
/// `why`) or `left`, if the caller went away.
///
/// It is not there to tell of requests: method, path, status and latency are the business of `tower_http`'s
/// `TraceLayer`, which goes around it. At the level `DEBUG`; while nobody listens there a call costs a look at
/// that, and no allocation.
///
/// ```
/// use buttress::observe::SpanLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let service = ServiceBuilder::new()
///     .layer(SpanLayer::new("api"))
///     .service(service_fn(|n: u32| async move { Ok::<_, buttress::BoxError>(n + 1) }));
/// assert_eq!(service.oneshot(1).await.unwrap(), 2);
/// # });
/// ```
///
/// Around the stack of a server, whose refusals are responses:
///
/// ```
/// # #[cfg(feature = "http")] {
/// use axum::{Router, routing::get};
/// use buttress::observe::SpanLayer;
/// use buttress::presets::{ServerPlan, server};
/// let stack = server(&ServerPlan::new("api"))?.http();
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(stack)
///     .layer(SpanLayer::new("api").http());
/// # }
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SpanLayer<A = Errors> {
    name: Name,
    answers: A,
}

/// Refusals are errors: see [`SpanLayer`].
///
/// ```
/// use buttress::observe::{Errors, SpanLayer};
/// let layer: SpanLayer<Errors> = SpanLayer::new("api");
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Errors;

/// Refusals may be responses: see [`SpanLayer::http`].
///
/// ```
/// use buttress::observe::{Responses, SpanLayer};
/// let layer: SpanLayer<Responses> = SpanLayer::new("api").http();
/// ```
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Responses;

impl SpanLayer {
    /// With this name, that of the stack.
    ///
    /// ```
    /// let layer = buttress::observe::SpanLayer::new("api");
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self { name: name.into(), answers: Errors }
    }

    /// For `http::Response`, where [`problem`](crate::http::problem) and [`status_only`](crate::http::status_only)
    /// make responses of refusals.
    ///
    /// ```
    /// let layer = buttress::observe::SpanLayer::new("api").http();
    /// ```
    #[cfg(feature = "http")]
    #[must_use]
    pub fn http(self) -> SpanLayer<Responses> {
        SpanLayer { name: self.name, answers: Responses }
    }
}

/// What an answer says of its refusal. Implemented here only.
///
/// ```
/// use buttress::observe::{Errors, Told};
/// fn is_told<T: Told<u32>>() {}
/// is_told::<Errors>();
/// ```
pub trait Told<Res>: sealed::Sealed {
    /// The refusal that it is.
    #[doc(hidden)]
    fn refusal<'a>(&self, answer: &'a Res) -> Option<&'a Rejection>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Errors {}
    #[cfg(feature = "http")]
    impl Sealed for super::Responses {}
}

impl<Res> Told<Res> for Errors {
    fn refusal<'a>(&self, _: &'a Res) -> Option<&'a Rejection> {
        None
    }
}

#[cfg(feature = "http")]
impl<B> Told<::http::Response<B>> for Responses {
    fn refusal<'a>(&self, answer: &'a ::http::Response<B>) -> Option<&'a Rejection> {
        answer.extensions().get()
    }
}

impl<S, A: Clone> Layer<S> for SpanLayer<A> {
    type Service = SpanService<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        SpanService { inner, name: self.name, answers: self.answers.clone() }
    }
}

/// Made by a [`SpanLayer`]. Ready when the inner service is.
///
/// ```
/// use tower::Layer;
/// assert_eq!(*buttress::observe::SpanLayer::new("api").layer(7).get_ref(), 7);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SpanService<S, A = Errors> {
    inner: S,
    name: Name,
    answers: A,
}

impl<S, A> SpanService<S, A> {
    /// The inner service.
    ///
    /// ```
    /// use tower::Layer;
    /// assert_eq!(*buttress::observe::SpanLayer::new("api").layer(7).get_ref(), 7);
    /// ```
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, A, Req> Service<Req> for SpanService<S, A>
where
    S: Service<Req>,
    S::Error: 'static,
    A: Told<S::Response> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = SpanFuture<S::Future, A>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let span = CallSpan::request(self.name);
        let call = Some(span.in_scope(|| self.inner.call(req)));
        SpanFuture { call, span, answers: self.answers.clone(), over: false }
    }
}

pin_project! {
    /// The answer of the inner service, which is driven in the span of its call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::observe::{SpanFuture, SpanLayer};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    /// let mut service = SpanLayer::new("api").layer(double);
    /// // It has a name, so that a service around this one can keep it without a box.
    /// let call: SpanFuture<_, _> = service.ready().await?.call(4);
    /// assert_eq!(call.await?, 8);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct SpanFuture<F, A> {
        // None once it is dropped, which happens in the span.
        #[pin]
        call: Option<F>,
        span: CallSpan,
        answers: A,
        over: bool,
    }

    impl<F, A> PinnedDrop for SpanFuture<F, A> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if !*this.over {
                this.span.record("outcome", LEFT);
            }
            this.span.in_scope(|| this.call.set(None));
        }
    }
}

impl<F, A, Res, Err> Future for SpanFuture<F, A>
where
    F: Future<Output = Result<Res, Err>>,
    Err: 'static,
    A: Told<Res>,
{
    type Output = Result<Res, Err>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // It is dropped with this future only.
        let Some(call) = this.call.as_pin_mut() else { return Poll::Pending };
        let result = ready!(this.span.in_scope(|| call.poll(cx)));
        *this.over = true;
        if !this.span.is_disabled() {
            tell(this.span, this.answers, &result);
        }
        Poll::Ready(result)
    }
}

#[cold]
fn tell<Res, Err: 'static>(span: &CallSpan, answers: &impl Told<Res>, result: &Result<Res, Err>) {
    let (refusal, outcome) = match result {
        Ok(answer) => (answers.refusal(answer), "answered"),
        Err(error) => (as_std_error(error).and_then(Rejection::find), "failed"),
    };
    match refusal {
        Some(why) => {
            span.record("outcome", REFUSED);
            span.record("why", ::tracing::field::display(why));
        }
        None => span.record("outcome", outcome),
    }
}

impl<F, A> fmt::Debug for SpanFuture<F, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanFuture").field("over", &self.over).finish_non_exhaustive()
    }
}
