//! How a request finds the buckets it is charged to.

use std::fmt;
use std::hash::Hash;

use super::handle::RateLimiter;
use super::keyed::{KeyBucket, KeyedRateLimiter};
use super::meter::{Both, Priced};
use crate::key::Key;

/// Which buckets a request of type `Req` is charged to: what a
/// [`RateLimitLayer`](super::RateLimitLayer) holds.
///
/// Implemented by [`RateLimiter`], [`ByKey`], [`Both`], [`Costed`] and [`FromSlot`].
///
/// ```
/// use buttress::Quota;
/// use buttress::rate_limit::{Limit, RateLimitLayer, RateLimiter};
/// use tower::{Layer, Service, service_fn};
/// // Takes whatever limit it is given.
/// fn echo<L: Limit<String> + Clone>(limit: L) -> impl Service<String, Response = String> {
///     RateLimitLayer::new(limit).layer(service_fn(async |text: String| Ok::<_, std::io::Error>(text)))
/// }
/// let everyone = echo(RateLimiter::new(Quota::per_second(100)?));
/// let each = RateLimiter::keyed::<usize>(Quota::per_second(10)?, 100)?;
/// let by_length = echo(each.by(|text: &String| Some(text.len())));
/// # let _ = (everyone, by_length);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a limit for requests of type `{Req}`",
    note = "a `KeyedRateLimiter` needs a key: `RateLimitLayer::new(keyed).key(extractor)`"
)]
pub trait Limit<Req>: sealed_limit::Limit<Req> {}

impl<Req, L: sealed_limit::Limit<Req>> Limit<Req> for L {}

pub(crate) mod sealed_limit {
    use crate::rate_limit::RateLimiter;
    use crate::rate_limit::meter::sealed::Meter;

    pub trait Limit<Req> {
        type Meter<'a>: Meter
        where
            Self: 'a;

        /// The buckets of this request. Runs user code: the key extractor. `there`: what is in the layer's slot.
        fn meter<'a>(&'a self, req: &Req, there: Option<&'a RateLimiter>) -> Self::Meter<'a>;

        /// What a call that waits is charged, at its one bucket. The meter of one that does not wait has the price in it.
        fn cost(&self, _: &Req) -> u64 {
            1
        }

        /// Whether there is nothing to charge anybody to.
        #[inline]
        fn is_absent(&self, _: Option<&RateLimiter>) -> bool {
            false
        }
    }
}

impl<Req> sealed_limit::Limit<Req> for RateLimiter {
    type Meter<'a> = &'a Self;

    #[inline]
    fn meter<'a>(&'a self, _: &Req, _: Option<&'a RateLimiter>) -> &'a Self {
        self
    }
}

/// Whichever limiter is in the slot of a layer, if there is one; see
/// [`RateLimitLayer::from_slot`](super::RateLimitLayer::from_slot).
///
/// ```
/// use buttress::rate_limit::{FromSlot, RateLimitLayer, RateLimitService};
/// use buttress::Slot;
/// use tower::Layer;
/// // By name, in a client of our own.
/// struct Client<S> {
///     service: RateLimitService<S, FromSlot>,
/// }
/// let client = Client { service: RateLimitLayer::from_slot(Slot::new()).layer(7) };
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FromSlot;

impl<Req> sealed_limit::Limit<Req> for FromSlot {
    type Meter<'a> = Option<&'a RateLimiter>;

    #[inline]
    fn meter<'a>(&'a self, _: &Req, there: Option<&'a RateLimiter>) -> Option<&'a RateLimiter> {
        there
    }

    #[inline]
    fn is_absent(&self, there: Option<&RateLimiter>) -> bool {
        there.is_none()
    }
}

impl<Req, A, B> sealed_limit::Limit<Req> for Both<A, B>
where
    A: sealed_limit::Limit<Req>,
    B: sealed_limit::Limit<Req>,
{
    type Meter<'a>
        = Both<A::Meter<'a>, B::Meter<'a>>
    where
        Self: 'a;

    fn meter<'a>(&'a self, req: &Req, there: Option<&'a RateLimiter>) -> Self::Meter<'a> {
        Both { first: self.first.meter(req, there), second: self.second.meter(req, there) }
    }
}

/// What happens to a request without a key.
///
/// ```
/// assert_eq!(buttress::rate_limit::WhenMissing::default(), buttress::rate_limit::WhenMissing::ShareOne);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenMissing {
    /// All requests without a key share one bucket. The default: leaving the key out must not be a way
    /// round the limit, nor must it lock anybody out.
    #[default]
    ShareOne,
    /// It is let through unlimited.
    Allow,
}

/// A [`KeyedRateLimiter`] and how to find the key of a request; see
/// [`RateLimitLayer::key`](super::RateLimitLayer::key) and [`KeyedRateLimiter::by`].
///
/// ```
/// use buttress::rate_limit::{ByKey, RateLimitLayer, RateLimiter};
/// use buttress::{KeyFn, Quota, key_fn};
/// // The layer as a field. With a function instead of a closure its type can be written.
/// struct Server {
///     limit: RateLimitLayer<ByKey<u64, KeyFn<fn(&(u64, String)) -> u64>>>,
/// }
/// let each = RateLimiter::keyed(Quota::per_second(10)?, 10_000)?;
/// let server = Server { limit: RateLimitLayer::new(each.by(key_fn(|req| req.0))) };
/// # let _ = server.limit;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
pub struct ByKey<K: ?Sized, X> {
    limiter: KeyedRateLimiter<K>,
    extractor: X,
    missing: WhenMissing,
}

impl<K: ?Sized, X> ByKey<K, X> {
    pub(crate) fn new(limiter: KeyedRateLimiter<K>, extractor: X) -> Self {
        Self { limiter, extractor, missing: WhenMissing::default() }
    }

    /// What happens to a request without a key.
    ///
    /// ```
    /// # use buttress::rate_limit::{RateLimiter, WhenMissing};
    /// # use buttress::Quota;
    /// let limiter = RateLimiter::keyed::<u64>(Quota::per_second(10)?, 100)?;
    /// let limit = limiter.by(|req: &Option<u64>| *req).when_missing(WhenMissing::Allow);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn when_missing(mut self, policy: WhenMissing) -> Self {
        self.missing = policy;
        self
    }
}

impl<K: ?Sized, X: Clone> Clone for ByKey<K, X> {
    fn clone(&self) -> Self {
        Self {
            limiter: self.limiter.clone(),
            extractor: self.extractor.clone(),
            missing: self.missing,
        }
    }
}

impl<K: ?Sized, X> fmt::Debug for ByKey<K, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByKey")
            .field("limiter", &self.limiter)
            .field("missing", &self.missing)
            .finish_non_exhaustive()
    }
}

impl<Req, K, X> sealed_limit::Limit<Req> for ByKey<K, X>
where
    K: Hash + Eq,
    X: Key<Req, Key = K>,
{
    type Meter<'a>
        = KeyBucket<'a>
    where
        Self: 'a;

    #[inline]
    fn meter<'a>(&'a self, req: &Req, _: Option<&'a RateLimiter>) -> KeyBucket<'a> {
        let shared = &*self.limiter.shared;
        let print = match (self.extractor.key(req), self.missing) {
            (Some(key), _) => Some(shared.print(&key)),
            (None, WhenMissing::ShareOne) => Some(shared.nobody()),
            (None, WhenMissing::Allow) => None,
        };
        KeyBucket { shared, print }
    }
}

/// A limit with a price per request; see [`RateLimitLayer::cost`](super::RateLimitLayer::cost). The price is that of
/// what it is made of, and of nothing that is added later.
///
/// ```
/// use buttress::Quota;
/// use buttress::rate_limit::{Costed, RateLimitLayer, RateLimiter};
/// // The layer as a field. With a function instead of a closure its type can be written.
/// struct Server {
///     limit: RateLimitLayer<Costed<RateLimiter, fn(&String) -> u64>>,
/// }
/// let bytes = RateLimiter::new(Quota::per_second(1_000_000)?);
/// let server = Server { limit: RateLimitLayer::new(bytes).cost(|text| text.len() as u64) };
/// # let _ = server.limit;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Costed<L, F> {
    pub(crate) limit: L,
    cost: F,
}

impl<L, F> Costed<L, F> {
    pub(crate) fn new(limit: L, cost: F) -> Self {
        Self { limit, cost }
    }
}

impl<L: fmt::Debug, F> fmt::Debug for Costed<L, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Costed").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<Req, L, F> sealed_limit::Limit<Req> for Costed<L, F>
where
    L: sealed_limit::Limit<Req>,
    F: Fn(&Req) -> u64,
{
    type Meter<'a>
        = Priced<L::Meter<'a>>
    where
        Self: 'a;

    #[inline]
    fn meter<'a>(&'a self, req: &Req, there: Option<&'a RateLimiter>) -> Self::Meter<'a> {
        Priced { price: (self.cost)(req), meter: self.limit.meter(req, there) }
    }

    fn cost(&self, req: &Req) -> u64 {
        (self.cost)(req).saturating_mul(self.limit.cost(req))
    }

    #[inline]
    fn is_absent(&self, there: Option<&RateLimiter>) -> bool {
        self.limit.is_absent(there)
    }
}

/// A limit that callers can wait for: one bucket. In a table there is no queue per key.
pub(crate) mod sealed_wait {
    use super::RateLimiter;

    pub trait Waitable {
        /// `there`: what is in the layer's slot.
        fn limiter<'a>(&'a self, there: Option<&'a RateLimiter>) -> Option<&'a RateLimiter>;
    }
}

impl sealed_wait::Waitable for RateLimiter {
    #[inline]
    fn limiter<'a>(&'a self, _: Option<&'a RateLimiter>) -> Option<&'a RateLimiter> {
        Some(self)
    }
}

impl sealed_wait::Waitable for FromSlot {
    #[inline]
    fn limiter<'a>(&'a self, there: Option<&'a RateLimiter>) -> Option<&'a RateLimiter> {
        there
    }
}

impl<L: sealed_wait::Waitable, F> sealed_wait::Waitable for Costed<L, F> {
    #[inline]
    fn limiter<'a>(&'a self, there: Option<&'a RateLimiter>) -> Option<&'a RateLimiter> {
        self.limit.limiter(there)
    }
}
