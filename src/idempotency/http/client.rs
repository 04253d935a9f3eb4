//! The client's half.

use std::task::{Context, Poll};

use ::http::header::{Entry, HeaderName, HeaderValue};
use ::http::{Method, Request};
use tower_layer::Layer;
use tower_service::Service;

use super::key::IDEMPOTENCY_KEY;
use crate::store::{Attempt, Hex};

/// Gives each call of a client an idempotency key, once for all its attempts, if it has none. Put it outside
/// of retries and hedges.
///
/// Then a POST may be sent again: to a server that honours the key, twice sent is once executed, and
/// [`http::standard`](crate::http::standard) judges it so. Use it only for such servers; another ignores the
/// key, and retries execute the call again.
///
/// Keys are random UUIDs, bare. It covers POST and PATCH; other methods are either safe to repeat as they are or
/// rarely have such servers.
///
/// ```
/// use buttress::BoxError;
/// use buttress::http::{replay_up_to, standard};
/// use buttress::idempotency::IdempotencyKeyLayer;
/// use buttress::retry::{HttpRequest, RetryLayer, RetryPolicy};
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, service_fn};
///
/// let client = ServiceBuilder::new()
///     .layer(IdempotencyKeyLayer::new())
///     .layer(replay_up_to(64 * 1024))
///     .layer(RetryLayer::new(RetryPolicy::default()).classify(standard()).replay(HttpRequest::new()))
///     .service(service_fn(|_| async { Ok::<_, std::io::Error>(Response::new(())) }));
/// # fn check<S: tower::Service<Request<Full<Bytes>>>>(_: S) {}
/// # check(client);
/// ```
#[derive(Clone, Debug)]
pub struct IdempotencyKeyLayer {
    header: HeaderName,
    quoted: bool,
}

impl Default for IdempotencyKeyLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl IdempotencyKeyLayer {
    /// With bare keys in `Idempotency-Key`.
    ///
    /// ```
    /// let layer = buttress::idempotency::IdempotencyKeyLayer::new();
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self { header: IDEMPOTENCY_KEY, quoted: false }
    }

    /// With keys in quotes, as the IETF draft has them. Servers that do not know that form take the quotes for
    /// a part of the key, which does no harm.
    ///
    /// ```
    /// let layer = buttress::idempotency::IdempotencyKeyLayer::new().quoted();
    /// ```
    #[must_use]
    pub fn quoted(mut self) -> Self {
        self.quoted = true;
        self
    }

    /// In another header field. [`http::standard`](crate::http::standard) does not know it: tell your retry with
    /// a classifier of your own that the call is safe.
    ///
    /// ```
    /// # use buttress::idempotency::IdempotencyKeyLayer;
    /// let layer = IdempotencyKeyLayer::new().header(http::HeaderName::from_static("paypal-request-id"));
    /// ```
    #[must_use]
    pub fn header(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }

    fn key(&self) -> Option<HeaderValue> {
        let mut random = *Attempt::new().as_bytes();
        // RFC 9562, section 5.4: version 4, variant 0b10.
        random[6] = random[6] & 0x0f | 0x40;
        random[8] = random[8] & 0x3f | 0x80;
        let [a, b, c, d] = [&random[..4], &random[4..6], &random[6..8], &random[8..10]].map(Hex);
        let quote = if self.quoted { "\"" } else { "" };
        let key = format!("{quote}{a}-{b}-{c}-{d}-{}{quote}", Hex(&random[10..]));
        // Hexadecimal, so it is a value.
        HeaderValue::try_from(key).ok()
    }
}

impl<S> Layer<S> for IdempotencyKeyLayer {
    type Service = IdempotencyKeyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        IdempotencyKeyService { inner, keys: self.clone() }
    }
}

/// The service of [`IdempotencyKeyLayer`]. Readiness, response, error and future are those of the inner
/// service.
///
/// ```
/// use buttress::idempotency::IdempotencyKeyLayer;
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let client = ServiceBuilder::new().layer(IdempotencyKeyLayer::new()).service(service_fn(
///     |request: Request<()>| async move {
///         Ok::<_, std::io::Error>(Response::new(request.headers()["idempotency-key"].clone()))
///     },
/// ));
/// let sent = client.oneshot(Request::post("/").body(()).unwrap()).await.unwrap().into_body();
/// assert_eq!(sent.len(), 36);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct IdempotencyKeyService<S> {
    inner: S,
    keys: IdempotencyKeyLayer,
}

impl<S, B> Service<Request<B>> for IdempotencyKeyService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Request<B>) -> S::Future {
        if matches!(*req.method(), Method::POST | Method::PATCH)
            && let Entry::Vacant(vacant) = req.headers_mut().entry(&self.keys.header)
            && let Some(key) = self.keys.key()
        {
            vacant.insert(key);
        }
        self.inner.call(req)
    }
}
