//! What is written on responses.

use super::ledger::Level;
use crate::rejection::Rejection;

/// Writes nothing. The default of [`RateLimitLayer`](super::RateLimitLayer).
///
/// ```
/// use buttress::rate_limit::{NoHeaders, RateLimitLayer, RateLimiter, Refuse};
/// use buttress::{AsError, Quota};
/// // The layer as a field, with everything that need not be written.
/// struct Server {
///     limit: RateLimitLayer<RateLimiter, AsError, Refuse, NoHeaders>,
/// }
/// let server = Server { limit: RateLimitLayer::new(RateLimiter::new(Quota::per_second(100)?)) };
/// # let _ = server.limit;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NoHeaders;

/// Writes `RateLimit`, `RateLimit-Policy` and `Retry-After`; see
/// [`RateLimitLayer::headers`](super::RateLimitLayer::headers).
///
/// ```
/// use buttress::rate_limit::{Headers, RateLimitLayer, RateLimiter, Refuse};
/// use buttress::{AsError, Quota};
/// struct Server {
///     limit: RateLimitLayer<RateLimiter, AsError, Refuse, Headers>,
/// }
/// let limiter = RateLimiter::new(Quota::per_second(100)?);
/// let server = Server { limit: RateLimitLayer::new(limiter).headers() };
/// # let _ = server.limit;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Headers;

pub(crate) mod sealed {
    use super::{Level, Rejection};

    pub trait Stamp<Res> {
        /// What is kept from the decision to the response.
        type Ink;

        fn ink(level: Level) -> Self::Ink;

        fn admitted(ink: Self::Ink, response: &mut Res);

        fn refused(why: &Rejection, response: &mut Res);

        /// Whether `refused` does anything, so that the rejection need not be copied for nothing.
        const WRITES: bool;
    }
}

impl<Res> sealed::Stamp<Res> for NoHeaders {
    type Ink = ();

    #[inline]
    fn ink(_: Level) {}

    #[inline]
    fn admitted((): (), _: &mut Res) {}

    #[inline]
    fn refused(_: &Rejection, _: &mut Res) {}

    const WRITES: bool = false;
}

#[cfg(feature = "http")]
impl<B> sealed::Stamp<http::Response<B>> for Headers {
    type Ink = Level;

    fn ink(level: Level) -> Level {
        level
    }

    fn admitted(level: Level, response: &mut http::Response<B>) {
        if level.is_unlimited() {
            return;
        }
        let detail = level.detail();
        crate::http::rate_limit_fields(detail, level.name.as_str(), response.headers_mut());
    }

    fn refused(why: &Rejection, response: &mut http::Response<B>) {
        crate::http::refusal_fields(why, response.headers_mut());
    }

    const WRITES: bool = true;
}
