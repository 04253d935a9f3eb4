use std::fmt;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::cause::Cause;
use crate::reject::Reject;
use crate::single::Single;

/// Makes the answer of a fallback from what was [kept](super::Keep) of the request.
///
/// ```
/// use buttress::fallback::{Answer, Cause};
/// use std::future::{Ready, ready};
/// struct Apology;
/// impl<K, E> Answer<K, String, E> for Apology {
///     type Future = Ready<Option<String>>;
///     fn answer(&self, _: K, cause: Cause) -> Self::Future {
///         ready(Some(format!("sorry: {cause}")))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` makes no fallback of type `{Res}` from what is kept of a request, `{Kept}`",
    note = "use `.value(...)`, `.respond(...)`, `.call(|request, cause| async {{ ... }})` or `.service(...)`"
)]
pub trait Answer<Kept, Res, Err> {
    /// The answer on its way; `None` if there is none.
    type Future: Future<Output = Option<Res>>;

    /// Begins to make it.
    fn answer(&self, kept: Kept, cause: Cause) -> Self::Future;
}

/// The same answer each time: see [`FallbackLayer::value`](super::FallbackLayer::value).
///
/// ```
/// use buttress::{Typed, fallback::{Value, Fallback, FallbackLayer}};
/// let layer: FallbackLayer<Value<u32>, _, _> = Fallback::new("names").layer::<Typed>().value(7);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Value<T>(pub(super) T);

impl<Kept, Res: Clone, Err> Answer<Kept, Res, Err> for Value<Res> {
    type Future = Ready<Option<Res>>;

    fn answer(&self, _: Kept, _: Cause) -> Self::Future {
        ready(Some(self.0.clone()))
    }
}

/// What a [`Reject`] answers: see [`FallbackLayer::respond`](super::FallbackLayer::respond).
///
/// ```
/// use buttress::{Typed, fallback::{Respond, Fallback, FallbackLayer}};
/// let sorry = buttress::respond_with(|user: u32, _| format!("not now, {user}"));
/// let layer: FallbackLayer<Respond<_>, _> = Fallback::new("names").layer::<Typed>().respond(sorry);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Respond<R>(pub(super) R);

impl<Kept, Res, Err, R> Answer<Kept, Res, Err> for Respond<R>
where
    R: Reject<Kept, Res, Err, Error = Err>,
{
    type Future = Ready<Option<Res>>;

    fn answer(&self, kept: Kept, cause: Cause) -> Self::Future {
        ready(cause.into_rejection().and_then(|why| self.0.reject(kept, why).ok()))
    }
}

/// What a function answers: see [`FallbackLayer::call`](super::FallbackLayer::call).
///
/// ```
/// use buttress::{Typed, fallback::{Call, Cause, Fallback, FallbackLayer}};
/// let answer = |user: u32, _: Cause| async move { Ok::<_, ()>(user) };
/// let layer: FallbackLayer<Call<_>, _> = Fallback::new("names").layer::<Typed>().call(answer);
/// ```
#[derive(Clone, Copy)]
pub struct Call<F>(pub(super) F);

impl<Kept, Res, Err, F, Fut, E> Answer<Kept, Res, Err> for Call<F>
where
    F: Fn(Kept, Cause) -> Fut,
    Fut: Future<Output = Result<Res, E>>,
{
    type Future = CallAnswer<Fut>;

    fn answer(&self, kept: Kept, cause: Cause) -> Self::Future {
        CallAnswer { future: (self.0)(kept, cause) }
    }
}

impl<F> fmt::Debug for Call<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}

pin_project! {
    /// The future of a [`Call`].
    ///
    /// ```
    /// use buttress::fallback::CallAnswer;
    /// use std::future::Ready;
    /// fn answers<T>(_: impl Future<Output = Option<T>>) {}
    /// let check = |answer: CallAnswer<Ready<Result<u32, ()>>>| answers(answer);
    /// # let _ = check;
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct CallAnswer<F> {
        #[pin]
        future: F,
    }
}

impl<F, Res, E> Future for CallAnswer<F>
where
    F: Future<Output = Result<Res, E>>,
{
    type Output = Option<Res>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Res>> {
        self.project().future.poll(cx).map(Result::ok)
    }
}

impl<F> fmt::Debug for CallAnswer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallAnswer").finish_non_exhaustive()
    }
}

/// What another service answers: see [`FallbackLayer::service`](super::FallbackLayer::service).
///
/// ```
/// use buttress::{Typed, fallback::{ByService, Fallback, FallbackLayer}};
/// let cache = tower::service_fn(|user: u32| async move { Ok::<_, ()>(user) });
/// let layer: FallbackLayer<ByService<_>, _> = Fallback::new("names").layer::<Typed>().service(cache);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ByService<S>(pub(super) S);

impl<Kept, Res, Err, S> Answer<Kept, Res, Err> for ByService<S>
where
    S: Service<Kept, Response = Res> + Clone,
{
    type Future = ServiceAnswer<S, Kept, S::Future>;

    fn answer(&self, kept: Kept, _: Cause) -> Self::Future {
        ServiceAnswer { call: Single::new(self.0.clone(), kept) }
    }
}

pin_project! {
    /// The future of a [`ByService`].
    ///
    /// ```
    /// use buttress::fallback::ServiceAnswer;
    /// use tower::Service;
    /// fn answers<T>(_: impl Future<Output = Option<T>>) {}
    /// fn check<S: Service<u32>>(answer: ServiceAnswer<S, u32, S::Future>) {
    ///     answers(answer);
    /// }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ServiceAnswer<S, Req, F> {
        #[pin]
        call: Single<S, Req, F>,
    }
}

impl<S, Req> Future for ServiceAnswer<S, Req, S::Future>
where
    S: Service<Req>,
{
    type Output = Option<S::Response>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().call.poll(cx).map(Result::ok)
    }
}

impl<S, Req, F> fmt::Debug for ServiceAnswer<S, Req, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAnswer").finish_non_exhaustive()
    }
}
