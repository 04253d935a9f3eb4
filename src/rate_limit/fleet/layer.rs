use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::handle::SharedRateLimiter;
use super::service::SharedRateLimitService;
use crate::key::Key;
use crate::rate_limit::limits::WhenMissing;
use crate::rate_limit::stamp::NoHeaders;
use crate::reject::AsError;
use crate::store::RecordId;
use crate::sync::Lease;

/// Wraps services so that their calls are charged to a limit that several processes keep together.
///
/// A layer of its own beside [`RateLimitLayer`](super::super::RateLimitLayer): that one decides in `call`, this
/// one has to ask first. So its service is always ready, must be given a service that is `Clone`, and
/// makes it ready when the call is admitted.
///
/// ```no_run
/// # fn f(store: impl buttress::store::RateStore) -> Result<(), buttress::ConfigError> {
/// use buttress::rate_limit::{RateLimiter, SharedRateLimitLayer, WhenDown};
/// use tower::ServiceBuilder;
///
/// let limiter = RateLimiter::shared(store, "tenant", WhenDown::Allow).quota("100/s".parse()?).build()?;
/// let service = ServiceBuilder::new()
///     .layer(SharedRateLimitLayer::new(limiter).key(|req: &(u64, String)| Some(req.0)))
///     .service_fn(async |req: (u64, String)| Ok::<_, std::io::Error>(req.1));
/// # let _ = service; Ok(()) }
/// ```
///
/// A call that is dropped before it is admitted may have taken its tokens; one that is admitted, and whose
/// service then fails to become ready, has taken them.
#[derive(Clone)]
pub struct SharedRateLimitLayer<W = ForAll, R = AsError, H = NoHeaders> {
    limiter: SharedRateLimiter,
    which: W,
    reject: R,
    headers: H,
}

/// One bucket for all requests, one token each.
///
/// ```
/// use buttress::rate_limit::{ForAll, RateLimiter, SharedRateLimitLayer, WhenDown};
/// use buttress::store::MemoryStore;
/// // The layer as a field: the default, which need not be written.
/// struct Server {
///     limit: SharedRateLimitLayer<ForAll>,
/// }
/// let limiter = RateLimiter::shared(MemoryStore::default(), "api", WhenDown::Allow)
///     .quota("100/s".parse()?)
///     .build()?;
/// let server = Server { limit: SharedRateLimitLayer::new(limiter) };
/// # let _ = server.limit;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ForAll;

/// One bucket for each key; see [`SharedRateLimitLayer::key`].
///
/// ```
/// use buttress::rate_limit::{ForEach, RateLimiter, SharedRateLimitLayer, WhenDown};
/// use buttress::store::MemoryStore;
/// use buttress::{KeyFn, key_fn};
/// // The layer as a field. With a function instead of a closure its type can be written.
/// struct Server {
///     limit: SharedRateLimitLayer<ForEach<KeyFn<fn(&(u64, String)) -> u64>>>,
/// }
/// let limiter = RateLimiter::shared(MemoryStore::default(), "tenant", WhenDown::Allow)
///     .quota("100/s".parse()?)
///     .build()?;
/// let server = Server { limit: SharedRateLimitLayer::new(limiter).key(key_fn(|req| req.0)) };
/// # let _ = server.limit;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ForEach<X> {
    extractor: X,
    missing: WhenMissing,
}

/// A price per request; see [`SharedRateLimitLayer::cost`].
///
/// ```
/// use buttress::rate_limit::{AtCost, ForAll, RateLimiter, SharedRateLimitLayer, WhenDown};
/// use buttress::store::MemoryStore;
/// // The layer as a field. With a function instead of a closure its type can be written.
/// struct Server {
///     limit: SharedRateLimitLayer<AtCost<ForAll, fn(&String) -> u64>>,
/// }
/// let limiter = RateLimiter::shared(MemoryStore::default(), "bytes", WhenDown::Allow)
///     .quota("1000000/s".parse()?)
///     .build()?;
/// let server = Server { limit: SharedRateLimitLayer::new(limiter).cost(|text| text.len() as u64) };
/// # let _ = server.limit;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct AtCost<W, F> {
    which: W,
    cost: F,
}

/// Which bucket a request of type `Req` is charged to: what a [`SharedRateLimitLayer`] holds.
///
/// Implemented by [`ForAll`], [`ForEach`] and [`AtCost`].
///
/// ```
/// use buttress::rate_limit::{RateLimiter, SharedRateLimitLayer, WhenDown, Which};
/// use buttress::store::MemoryStore;
/// use tower::{Layer, Service, service_fn};
/// // Takes whatever limit it is given.
/// fn echo<W>(limit: SharedRateLimitLayer<W>) -> impl Service<String, Response = String>
/// where
///     W: Which<String> + Clone,
/// {
///     limit.layer(service_fn(async |text: String| Ok::<_, std::io::Error>(text)))
/// }
/// let limiter = RateLimiter::shared(MemoryStore::default(), "api", WhenDown::Allow)
///     .quota("100/s".parse()?)
///     .build()?;
/// let service = echo(SharedRateLimitLayer::new(limiter).key(|text: &String| text.chars().next()));
/// # let _ = service;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say which shared bucket a request of type `{Req}` is charged to",
    note = "a key must be `Display`: its text is what all processes agree on"
)]
pub trait Which<Req>: sealed::Which<Req> {}

impl<Req, W: sealed::Which<Req>> Which<Req> for W {}

pub(super) mod sealed {
    use super::{RecordId, SharedRateLimiter};

    pub trait Which<Req> {
        /// The bucket; `None` if the request is not limited. Runs user code: the key extractor.
        fn bucket(&self, limiter: &SharedRateLimiter, req: &Req) -> Option<RecordId>;

        fn cost(&self, _: &Req) -> u64 {
            1
        }
    }
}

impl<Req> sealed::Which<Req> for ForAll {
    fn bucket(&self, limiter: &SharedRateLimiter, _: &Req) -> Option<RecordId> {
        Some(limiter.inner.whole())
    }
}

impl<Req, X> sealed::Which<Req> for ForEach<X>
where
    X: Key<Req>,
    X::Key: fmt::Display,
{
    fn bucket(&self, limiter: &SharedRateLimiter, req: &Req) -> Option<RecordId> {
        match (self.extractor.key(req), self.missing) {
            (Some(key), _) => Some(limiter.inner.id(Some(&key))),
            // Also that of calls without the layer: no key has it.
            (None, WhenMissing::ShareOne) => Some(limiter.inner.whole()),
            (None, WhenMissing::Allow) => None,
        }
    }
}

impl<Req, W: sealed::Which<Req>, F: Fn(&Req) -> u64> sealed::Which<Req> for AtCost<W, F> {
    fn bucket(&self, limiter: &SharedRateLimiter, req: &Req) -> Option<RecordId> {
        self.which.bucket(limiter, req)
    }

    fn cost(&self, req: &Req) -> u64 {
        (self.cost)(req).saturating_mul(self.which.cost(req))
    }
}

/// What all services of one layer share.
pub(super) struct Parts<W, R> {
    pub(super) limiter: SharedRateLimiter,
    pub(super) which: W,
    pub(super) reject: R,
}

impl SharedRateLimitLayer {
    /// Charges each call one token of the limiter's bucket for all.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// let layer = buttress::rate_limit::SharedRateLimitLayer::new(limiter);
    /// # }
    /// ```
    #[must_use]
    pub fn new(limiter: SharedRateLimiter) -> Self {
        Self { limiter, which: ForAll, reject: AsError, headers: NoHeaders }
    }
}

impl<R, H> SharedRateLimitLayer<ForAll, R, H> {
    /// One bucket for each key, told apart by its text. Requests without one share a bucket; see
    /// [`when_missing`](SharedRateLimitLayer::when_missing).
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// use buttress::{key_fn, rate_limit::SharedRateLimitLayer};
    /// let layer = SharedRateLimitLayer::new(limiter).key(key_fn(|req: &(u64, String)| req.0));
    /// # }
    /// ```
    #[must_use]
    pub fn key<X>(self, extractor: X) -> SharedRateLimitLayer<ForEach<X>, R, H> {
        self.map_which(|_| ForEach { extractor, missing: WhenMissing::default() })
    }
}

impl<X, R, H> SharedRateLimitLayer<ForEach<X>, R, H> {
    /// What happens to a request without a key.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// use buttress::rate_limit::{SharedRateLimitLayer, WhenMissing};
    /// let layer = SharedRateLimitLayer::new(limiter)
    ///     .key(|req: &Option<u64>| *req)
    ///     .when_missing(WhenMissing::Allow);
    /// # }
    /// ```
    #[must_use]
    pub fn when_missing(mut self, policy: WhenMissing) -> Self {
        self.which.missing = policy;
        self
    }
}

impl<W, R, H> SharedRateLimitLayer<W, R, H> {
    fn map_which<T>(self, f: impl FnOnce(W) -> T) -> SharedRateLimitLayer<T, R, H> {
        SharedRateLimitLayer {
            limiter: self.limiter,
            which: f(self.which),
            reject: self.reject,
            headers: self.headers,
        }
    }

    /// Charges each request its price instead of 1. 0 is free. A later price multiplies with the earlier, as that of
    /// [`RateLimitLayer`](super::super::RateLimitLayer::cost).
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// use buttress::rate_limit::SharedRateLimitLayer;
    /// let layer = SharedRateLimitLayer::new(limiter).cost(|req: &String| req.len() as u64);
    /// # }
    /// ```
    #[must_use]
    pub fn cost<F>(self, cost: F) -> SharedRateLimitLayer<AtCost<W, F>, R, H> {
        self.map_which(|which| AtCost { which, cost })
    }

    /// What a refused caller gets; see [`Reject`](crate::Reject).
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// # #[cfg(feature = "http")] {
    /// use buttress::{http::problem, rate_limit::SharedRateLimitLayer};
    /// let layer = SharedRateLimitLayer::new(limiter).on_reject(problem());
    /// # }
    /// # }
    /// ```
    #[must_use]
    pub fn on_reject<T>(self, reject: T) -> SharedRateLimitLayer<W, T, H> {
        SharedRateLimitLayer {
            limiter: self.limiter,
            which: self.which,
            reject,
            headers: self.headers,
        }
    }

    /// Writes `RateLimit`, `RateLimit-Policy` and `Retry-After` on HTTP responses, as
    /// [`RateLimitLayer::headers`](super::super::RateLimitLayer::headers) does. With tokens taken in advance
    /// the numbers are what this process knows.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// let layer = buttress::rate_limit::SharedRateLimitLayer::new(limiter).headers();
    /// # }
    /// ```
    #[cfg(feature = "http")]
    #[must_use]
    pub fn headers(self) -> SharedRateLimitLayer<W, R, super::super::Headers> {
        SharedRateLimitLayer {
            limiter: self.limiter,
            which: self.which,
            reject: self.reject,
            headers: super::super::Headers::default(),
        }
    }
}

impl<S, W: Clone, R: Clone, H> Layer<S> for SharedRateLimitLayer<W, R, H> {
    type Service = SharedRateLimitService<S, W, R, H>;

    fn layer(&self, inner: S) -> Self::Service {
        let parts = Parts {
            limiter: self.limiter.clone(),
            which: self.which.clone(),
            reject: self.reject.clone(),
        };
        SharedRateLimitService::new(inner, Lease::new(Arc::new(parts)))
    }
}

impl<W, R, H> fmt::Debug for SharedRateLimitLayer<W, R, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRateLimitLayer")
            .field("limiter", &self.limiter)
            .finish_non_exhaustive()
    }
}
