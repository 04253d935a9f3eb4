//! The layer that makes request bodies repeatable.

use std::task::{Context, Poll};

use ::http::Request;
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::ReplayBody;

/// A layer that wraps every request body in a [`ReplayBody`] which keeps up to `cap` bytes. Put it
/// just outside the retry layer.
///
/// The cap bounds memory: calls in flight times `cap`. 64 KiB covers most API calls; longer bodies
/// still go through, once.
///
/// With hyper-util's client, which is typed on the body:
///
/// ```
/// use buttress::http::{replay_up_to, ReplayBody};
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::client::legacy::{connect::HttpConnector, Client};
/// use hyper_util::rt::TokioExecutor;
/// use tower::{Service, ServiceBuilder};
///
/// let hyper: Client<HttpConnector, ReplayBody<Full<Bytes>>> =
///     Client::builder(TokioExecutor::new()).build_http();
/// let client = ServiceBuilder::new()
///     .layer(replay_up_to(64 * 1024))
///     // .layer(RetryLayer::new(...)) goes here
///     .service(hyper);
/// # fn check<S: Service<http::Request<Full<Bytes>>>>(_: S) {}
/// # check(client);
/// ```
///
/// With reqwest, whose body any body can become:
///
/// ```
/// use buttress::http::{replay_up_to, ReplayBody};
/// use buttress::BoxError;
/// use http::Request;
/// use tower::{service_fn, Service, ServiceBuilder};
///
/// let reqwest = reqwest::Client::new();
/// let client = ServiceBuilder::new().layer(replay_up_to(64 * 1024)).service(service_fn(
///     move |request: Request<ReplayBody<axum::body::Body>>| {
///         let reqwest = reqwest.clone();
///         async move {
///             let request = request.map(reqwest::Body::wrap);
///             let response = reqwest.execute(request.try_into()?).await?;
///             Ok::<http::Response<reqwest::Body>, BoxError>(response.into())
///         }
///     },
/// ));
/// # fn check<S: Service<Request<axum::body::Body>>>(_: S) {}
/// # check(client);
/// ```
#[must_use]
pub const fn replay_up_to(cap: usize) -> ReplayBodyLayer {
    ReplayBodyLayer { cap }
}

/// See [`replay_up_to`].
///
/// ```
/// use buttress::http::{ReplayBody, ReplayBodyLayer, replay_up_to};
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// struct Client {
///     bodies: ReplayBodyLayer,
/// }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let parts = Client { bodies: replay_up_to(64 * 1024) };
/// let service = ServiceBuilder::new().layer(parts.bodies).service(service_fn(
///     |request: Request<ReplayBody<Full<Bytes>>>| async move {
///         let method = request.method().to_string();
///         Ok::<_, std::io::Error>(Response::new(method))
///     },
/// ));
/// let answer = service.oneshot(Request::put("/").body(Full::from("text")).unwrap()).await.unwrap();
/// assert_eq!(answer.body(), "PUT");
/// # });
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ReplayBodyLayer {
    cap: usize,
}

impl<S> Layer<S> for ReplayBodyLayer {
    type Service = ReplayBodyService<S>;

    fn layer(&self, inner: S) -> ReplayBodyService<S> {
        ReplayBodyService { inner, cap: self.cap }
    }
}

/// See [`replay_up_to`]. Readiness, response, error and future are those of the inner service.
///
/// ```
/// use buttress::http::{ReplayBodyService, replay_up_to};
/// use tower::Layer;
/// // By name, in a client of our own.
/// struct Client<S> {
///     service: ReplayBodyService<S>,
/// }
/// let client = Client { service: replay_up_to(64 * 1024).layer(7) };
/// # let _ = client.service;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ReplayBodyService<S> {
    inner: S,
    cap: usize,
}

impl<S, B> Service<Request<B>> for ReplayBodyService<S>
where
    S: Service<Request<ReplayBody<B>>>,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Request<B>) -> S::Future {
        let cap = self.cap;
        self.inner.call(req.map(|body| ReplayBody::new(body, cap)))
    }
}
