//! The context of requests that go out.

use std::fmt;
use std::time::Duration;

use ::http::header::HeaderValue;
use ::http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::attempt;
use super::context_future::ContextFuture;
use super::context_layer::{CRITICALITY, GRPC_TIMEOUT, TIMEOUT_MS, expired, told};
use super::grpc::answer_content_type;
use crate::context::{Context, Criticality};
use crate::deadline::{Deadline, format_grpc_timeout};
use crate::name::Name;
use crate::reject::{AsError, Reject};

/// For clients: tells the callee how long the caller still waits, how much the request matters and which attempt it is, in the
/// headers that a [`ContextLayer`](super::ContextLayer) reads. Goes innermost, so that each attempt says what is
/// left then.
///
/// The deadline in the extensions, or a time in the headers that is shorter, is sent as `grpc-timeout` if the
/// request is gRPC, else as [`TIMEOUT_MS`](super::TIMEOUT_MS), rounded down: never as a time of day. A request with
/// nothing left, for HTTP less than a millisecond, is refused and not sent. A criticality other than the default
/// is sent; one of the default takes a header that is there away.
///
/// A second attempt or a later one, by the [context](crate::Context::attempt) that retries and hedges write, is sent as
/// `grpc-previous-rpc-attempts` (one less) if the request is gRPC, else as [`ATTEMPT`](super::ATTEMPT); Envoy's
/// `x-envoy-attempt-count` is set if it is there. Of a first attempt all three are taken away: in a request that is passed on
/// they are those of its caller.
///
/// The headers cost allocations.
///
/// ```
/// use buttress::Deadline;
/// use buttress::http::SendContextLayer;
/// use http::{Request, Response};
/// use std::time::Duration;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let client = ServiceBuilder::new()
///     .layer(SendContextLayer::new("db"))
///     .service(service_fn(|request: Request<()>| async move {
///         assert_eq!(request.headers()["x-request-timeout-ms"], "250");
///         Ok::<_, std::io::Error>(Response::new(()))
///     }));
/// let mut request = Request::new(());
/// Deadline::after(Duration::from_millis(250)).put(request.extensions_mut());
/// client.oneshot(request).await.unwrap();
/// # });
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct SendContextLayer<R = AsError> {
    name: Name,
    reject: R,
}

impl SendContextLayer {
    /// Refuses under this name.
    ///
    /// ```
    /// let layer = buttress::http::SendContextLayer::new("db");
    /// ```
    pub fn new(name: impl Into<Name>) -> Self {
        Self { name: name.into(), reject: AsError }
    }
}

impl<R> SendContextLayer<R> {
    /// What becomes of requests that have no time left.
    ///
    /// ```
    /// let layer = buttress::http::SendContextLayer::new("db").on_reject(buttress::AsTyped);
    /// ```
    pub fn on_reject<R2>(self, reject: R2) -> SendContextLayer<R2> {
        SendContextLayer { name: self.name, reject }
    }
}

impl<S, R: Clone> Layer<S> for SendContextLayer<R> {
    type Service = SendContextService<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        SendContextService { inner, name: self.name, reject: self.reject.clone() }
    }
}

/// Made by a [`SendContextLayer`]. As ready as the inner service, without state. A call that is refused does not reach the
/// inner service, whose readiness stays for the next call on this instance, or until it is dropped.
///
/// ```
/// use buttress::http::{SendContextLayer, SendContextService};
/// use tower::Layer;
/// // By name, in a client of our own.
/// struct Client<S> {
///     service: SendContextService<S>,
/// }
/// let client = Client { service: SendContextLayer::new("api").layer(7) };
/// ```
#[derive(Clone)]
pub struct SendContextService<S, R = AsError> {
    inner: S,
    name: Name,
    reject: R,
}

impl<S: fmt::Debug, R> fmt::Debug for SendContextService<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendContextService")
            .field("inner", &self.inner)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Writes the headers; `Err` if no time is left.
fn write<B>(req: &mut Request<B>) -> Result<(), ()> {
    let context = Context::of(req.extensions());
    let left = context.deadline().map(Deadline::remaining);
    let left = [left, told(req.headers())].into_iter().flatten().min();
    let again = context.attempt() > 1;
    let grpc = (left.is_some() || again) && answer_content_type(req.headers()).is_some();
    if let Some(left) = left {
        let least = if grpc { Duration::from_nanos(1) } else { Duration::from_millis(1) };
        if left < least {
            return Err(());
        }
        let (name, value) = if grpc {
            (GRPC_TIMEOUT, HeaderValue::try_from(format_grpc_timeout(left)).map_err(drop)?)
        } else {
            let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            (TIMEOUT_MS, HeaderValue::from(ms))
        };
        req.headers_mut().insert(name, value);
    }
    attempt::send(req.headers_mut(), context.attempt(), grpc);
    if context.criticality() == Criticality::default() {
        req.headers_mut().remove(CRITICALITY);
    } else {
        let value = HeaderValue::from_static(context.criticality().as_str());
        req.headers_mut().insert(CRITICALITY, value);
    }
    Ok(())
}

impl<S, R, B1, B2> Service<Request<B1>> for SendContextService<S, R>
where
    S: Service<Request<B1>, Response = Response<B2>>,
    R: Reject<Request<B1>, Response<B2>, S::Error>,
{
    type Response = Response<B2>;
    type Error = R::Error;
    type Future = ContextFuture<S::Future, Response<B2>, S::Error, R::Error>;

    #[inline]
    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), R::Error>> {
        self.inner.poll_ready(cx).map_err(R::map_err)
    }

    #[inline]
    fn call(&mut self, mut req: Request<B1>) -> Self::Future {
        match write(&mut req) {
            Ok(()) => ContextFuture::called(self.inner.call(req), R::map_err),
            Err(()) => ContextFuture::refused(self.reject.reject(req, expired(self.name))),
        }
    }
}
