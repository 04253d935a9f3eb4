use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::handle::RateLimiter;
use super::keyed::KeyedRateLimiter;
use super::limits::{ByKey, Costed, FromSlot, sealed_wait::Waitable};
use super::meter::Both;
use super::service::RateLimitService;
use super::stamp::NoHeaders;
use crate::context::NoContext;
use crate::reject::AsError;
use crate::slot::{Seat, Slot};
use crate::sync::Lease;

/// Wraps services so that their calls are charged to a limit.
///
/// The state is in the limiter the layer is made from: all services this layer makes, and all clones of
/// the limiter, share it.
///
/// ```
/// use buttress::rate_limit::{RateLimitLayer, RateLimiter};
/// use buttress::Quota;
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let limiter = RateLimiter::new(Quota::per_minute(1)?);
/// let service = ServiceBuilder::new()
///     .layer(RateLimitLayer::new(limiter.clone()))
///     .service_fn(async |n: u32| Ok::<_, std::io::Error>(n + 1));
/// assert_eq!(service.clone().oneshot(1).await.unwrap(), 2);
/// assert!(service.clone().oneshot(1).await.is_err());
/// assert_eq!(limiter.stats().rejected, 1);
/// # Ok::<(), buttress::ConfigError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct RateLimitLayer<L, R = AsError, M = Refuse, H = NoHeaders> {
    /// `None`: as if the layer were not there.
    limits: Option<L>,
    /// Where one of the limiters comes from, if it may change.
    slot: Option<Slot<RateLimiter>>,
    reject: R,
    mode: M,
    headers: H,
}

/// Refuses a call that finds no token. The default.
///
/// ```
/// use buttress::rate_limit::{RateLimitService, RateLimiter, Refuse};
/// use buttress::AsError;
/// // A type that is written out says which of the two ways it is.
/// struct Client<S> {
///     service: RateLimitService<S, RateLimiter, AsError, Refuse>,
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Refuse;

/// Lets a call wait for its token; see [`RateLimitLayer::wait`]. `X` is where requests carry their deadline.
///
/// ```
/// use buttress::rate_limit::{RateLimitService, RateLimiter, Wait};
/// use buttress::AsError;
/// struct Client<S> {
///     service: RateLimitService<S, RateLimiter, AsError, Wait>,
/// }
/// ```
#[derive(Clone, Copy)]
pub struct Wait<X = NoContext> {
    pub(crate) max: Duration,
    pub(crate) context: X,
}

impl<X> fmt::Debug for Wait<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").field("max", &self.max).finish_non_exhaustive()
    }
}

/// What all services of one layer share.
#[derive(Debug)]
pub(crate) struct Parts<L, R, M> {
    pub(crate) limits: L,
    pub(crate) reject: R,
    pub(crate) mode: M,
}

impl<L> RateLimitLayer<L> {
    /// A layer that refuses what `limit` refuses.
    ///
    /// `limit` is a [`RateLimiter`](super::RateLimiter), a keyed limiter with a way to find the key
    /// ([`KeyedRateLimiter::by`], or [`key`](Self::key) after this), or several combined.
    ///
    /// ```
    /// # use buttress::rate_limit::{RateLimitLayer, RateLimiter};
    /// # use buttress::Quota;
    /// let layer = RateLimitLayer::new(RateLimiter::new(Quota::per_second(100)?));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn new(limit: L) -> Self {
        Self::maybe(Some(limit))
    }

    /// A layer that may be absent from its stack, in a type that is the same with it and without.
    pub(crate) const fn maybe(limits: Option<L>) -> Self {
        Self { limits, slot: None, reject: AsError, mode: Refuse, headers: NoHeaders }
    }
}

impl RateLimitLayer<FromSlot> {
    /// A layer that charges calls to whichever limiter is in `slot` when they are made, or to none. So a limit is
    /// installed, replaced and uninstalled while the stack runs. While the slot is empty, calls pass as if the layer were
    /// not there; what it is [combined](Self::and) with goes on.
    ///
    /// A call that [waits](Self::wait) keeps its place in the line of the limiter that it waits at, whatever is in the slot
    /// meanwhile: it goes on when it has its token from that, or when its time is over. Whoever takes a limiter out and
    /// wants those who wait to go on at once says [`release_waiting`](RateLimiter::release_waiting). The command that
    /// uninstalls lets go those who wait by this slot, also at limiters that commands have replaced since.
    /// One that is to wait and is polled for the first time after its limiter has left the slot goes by what is there then.
    ///
    /// ```
    /// use buttress::Slot;
    /// use buttress::rate_limit::{RateLimitLayer, RateLimiter};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// let slot = Slot::new();
    /// let mut service = RateLimitLayer::from_slot(slot.clone())
    ///     .layer(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) }));
    /// service.ready().await?.call(1).await?;
    ///
    /// slot.install(RateLimiter::new("1/h".parse()?));
    /// service.ready().await?.call(2).await?;
    /// assert!(service.ready().await?.call(3).await.is_err());
    /// slot.uninstall();
    /// service.ready().await?.call(4).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub const fn from_slot(slot: Slot<RateLimiter>) -> Self {
        let slot = Some(slot);
        Self { limits: Some(FromSlot), slot, reject: AsError, mode: Refuse, headers: NoHeaders }
    }
}

impl<L, R, M, H> RateLimitLayer<L, R, M, H> {
    fn map_limits<T>(self, f: impl FnOnce(L) -> T) -> RateLimitLayer<T, R, M, H> {
        RateLimitLayer {
            limits: self.limits.map(f),
            slot: self.slot,
            reject: self.reject,
            mode: self.mode,
            headers: self.headers,
        }
    }

    /// Charges each request its price instead of 1. 0 is free. The price is for the limits that are there so far: one
    /// that is [added](Self::and) later is charged 1, and a later price multiplies with the earlier.
    ///
    /// ```
    /// # use buttress::rate_limit::{RateLimitLayer, RateLimiter};
    /// # use buttress::Quota;
    /// let bytes = RateLimiter::new(Quota::per_second(1_000_000)?);
    /// let layer = RateLimitLayer::new(bytes).cost(|req: &String| req.len() as u64);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn cost<F>(self, cost: F) -> RateLimitLayer<Costed<L, F>, R, M, H> {
        self.map_limits(|limits| Costed::new(limits, cost))
    }

    /// A further limit that must agree: all are checked, then all are charged; see
    /// [`Meter`](super::Meter). An earlier [`cost`](Self::cost) is charged to what was there before, a later one to all
    /// of them.
    ///
    /// ```
    /// # use buttress::rate_limit::{RateLimitLayer, RateLimiter};
    /// # use buttress::Quota;
    /// let everyone = RateLimiter::new(Quota::per_second(1000)?);
    /// let each = RateLimiter::keyed::<u64>(Quota::per_second(10)?, 10_000)?;
    /// let layer = RateLimitLayer::new(everyone).and(each.by(|req: &(u64, String)| Some(req.0)));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn and<T>(self, limit: T) -> RateLimitLayer<Both<L, T>, R, M, H> {
        self.map_limits(|limits| Both::new(limits, limit))
    }

    /// What a refused caller gets; see [`Reject`](crate::Reject).
    ///
    /// ```
    /// # use buttress::rate_limit::{RateLimitLayer, RateLimiter};
    /// # use buttress::{respond_with, Quota};
    /// let layer = RateLimitLayer::new(RateLimiter::new(Quota::per_second(100)?))
    ///     .on_reject(respond_with(|_: String, why| format!("please come back: {why}")));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn on_reject<T>(self, reject: T) -> RateLimitLayer<L, T, M, H> {
        RateLimitLayer {
            limits: self.limits,
            slot: self.slot,
            reject,
            mode: self.mode,
            headers: self.headers,
        }
    }

    /// Writes `RateLimit` and `RateLimit-Policy` on every HTTP response, admitted or refused, over those a
    /// handler has set, and `Retry-After` (whole seconds, rounded up) on refused ones, unless the
    /// [responder](Self::on_reject) has set it: it may have spread it.
    ///
    /// As in the IETF draft: `RateLimit-Policy: "name";q=100;w=60` (capacity, seconds to refill it) and
    /// `RateLimit: "name";r=50;t=30` (whole tokens left, seconds until full). Of several limits the one
    /// with the fewest tokens left is shown. Off by default: it tells clients about the quota, and costs
    /// some allocations per response.
    ///
    /// ```
    /// # use buttress::rate_limit::{RateLimitLayer, RateLimiter};
    /// # use buttress::Quota;
    /// let layer = RateLimitLayer::new(RateLimiter::new(Quota::per_second(100)?)).headers();
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[cfg(feature = "http")]
    #[must_use]
    pub fn headers(self) -> RateLimitLayer<L, R, M, super::Headers> {
        RateLimitLayer {
            limits: self.limits,
            slot: self.slot,
            reject: self.reject,
            mode: self.mode,
            headers: super::Headers::default(),
        }
    }
}

impl<K: ?Sized, R, M, H> RateLimitLayer<KeyedRateLimiter<K>, R, M, H> {
    /// How to find the key of a request: a [`Key`](crate::Key). Requests without one share a bucket; for
    /// another policy use [`KeyedRateLimiter::by`] and [`ByKey::when_missing`].
    ///
    /// ```
    /// # use buttress::rate_limit::{RateLimitLayer, RateLimiter};
    /// # use buttress::{key_fn, Quota};
    /// let each = RateLimiter::keyed::<u64>(Quota::per_second(10)?, 10_000)?;
    /// let layer = RateLimitLayer::new(each).key(key_fn(|req: &(u64, String)| req.0));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn key<X>(self, extractor: X) -> RateLimitLayer<ByKey<K, X>, R, M, H> {
        self.map_limits(|limiter| limiter.by(extractor))
    }
}

impl<L: Waitable, R, H> RateLimitLayer<L, R, Refuse, H> {
    /// Lets calls wait for their token, in order of arrival, instead of refusing them; but refuses at
    /// once a call that would have to wait longer than `max_wait`, or beyond its deadline if the layer is told
    /// [where that is](Self::context), or for which the queue is full
    /// ([`RateLimiterBuilder::max_waiting`](super::RateLimiterBuilder::max_waiting)).
    ///
    /// For clients of a limited backend. The wrapped service is made ready only when the token is there,
    /// so a waiting call holds none of its capacity; therefore it must be `Clone`. A call dropped while
    /// it waits, or before the wrapped service was called, gives its token back. Needs a single
    /// [`RateLimiter`](super::RateLimiter): keyed limits have no queue per key.
    ///
    /// ```
    /// # use buttress::rate_limit::{RateLimitLayer, RateLimiter};
    /// # use buttress::Quota;
    /// # use std::time::Duration;
    /// let limiter = RateLimiter::builder("backend").quota(Quota::per_second(100)?).max_waiting(200).build()?;
    /// let layer = RateLimitLayer::new(limiter).wait(Duration::from_secs(2));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn wait(self, max_wait: Duration) -> RateLimitLayer<L, R, Wait, H> {
        RateLimitLayer {
            limits: self.limits,
            slot: self.slot,
            reject: self.reject,
            mode: Wait { max: max_wait, context: NoContext },
            headers: self.headers,
        }
    }
}

impl<L, R, X, H> RateLimitLayer<L, R, Wait<X>, H> {
    /// Where requests carry their deadline, a [`ReadContext`](crate::ReadContext): whose token would come later does not wait
    /// for it. It is refused at once as one above the quota, with the time after which there is a token; if the deadline has passed
    /// already, as [`DeadlineExceeded`](crate::RejectionKind::DeadlineExceeded). Either takes no token. A call that
    /// finds one is not asked for its deadline.
    ///
    /// Without this a wait ends by the deadline only if something outside ends the call.
    ///
    /// ```
    /// use buttress::rate_limit::{RateLimitLayer, RateLimiter};
    /// use buttress::{Context, Deadline};
    /// use std::time::Duration;
    /// struct Job { by: Deadline }
    /// let limiter = RateLimiter::new("100/s".parse()?);
    /// let layer = RateLimitLayer::new(limiter)
    ///     .wait(Duration::from_secs(2))
    ///     .context(|job: &Job| Context::new().with_deadline(job.by));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn context<T>(self, context: T) -> RateLimitLayer<L, R, Wait<T>, H> {
        RateLimitLayer {
            limits: self.limits,
            slot: self.slot,
            reject: self.reject,
            mode: Wait { max: self.mode.max, context },
            headers: self.headers,
        }
    }
}

impl<S, L, R, M, H> Layer<S> for RateLimitLayer<L, R, M, H>
where
    L: Clone,
    R: Clone,
    M: Clone,
{
    type Service = RateLimitService<S, L, R, M, H>;

    fn layer(&self, inner: S) -> Self::Service {
        let parts = self.limits.clone().map(|limits| {
            let (reject, mode) = (self.reject.clone(), self.mode.clone());
            Lease::new(Arc::new(Parts { limits, reject, mode }))
        });
        RateLimitService::new(inner, parts, self.slot.clone().map(Seat::new))
    }
}
