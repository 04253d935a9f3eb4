use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;

use crate::classify::{Boxed, Classify, Typed};
use crate::error::BoxError;
use crate::injected::Injected;
use crate::outcome::{Outcome, Verdict};

/// The same classifier, except that what a conditioner injected is [`Outcome::Ignored`]: for breakers and
/// budgets that are to count real failures only. Whether it is retried stays as `classifier` says. The
/// marker is inferred from the error type of the service.
///
/// Looks at errors. For HTTP, where statuses are injected as responses, see `ignore_injected_http`.
///
/// ```
/// use buttress::conditioner::{Call, Conditioner, ignore_injected};
/// use buttress::{AnyError, Classify, Outcome, Rejection};
/// use std::time::Duration;
///
/// let lossy = Conditioner::network(Duration::ZERO, Duration::ZERO, 1.0, None)?;
/// let lost = lossy.apply_blocking(&Call::new()).unwrap_err();
/// let verdict = Classify::<(), (), Rejection>::finish(&ignore_injected(AnyError), (), Err(&lost));
/// assert_eq!(verdict.outcome, Outcome::Ignored);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[must_use]
pub fn ignore_injected<C, M>(classifier: C) -> IgnoreInjected<C, M> {
    IgnoreInjected { classifier, marker: PhantomData }
}

/// See [`ignore_injected`].
///
/// ```
/// use buttress::conditioner::{IgnoreInjected, ignore_injected};
/// use buttress::{AnyError, Boxed};
/// // The second type says which errors the service has: `Boxed` or `Typed`.
/// struct Client {
///     judge: IgnoreInjected<AnyError, Boxed>,
/// }
/// let client = Client { judge: ignore_injected(AnyError) };
/// # let _ = client.judge;
/// ```
pub struct IgnoreInjected<C, M> {
    classifier: C,
    marker: PhantomData<fn() -> M>,
}

impl<C: Clone, M> Clone for IgnoreInjected<C, M> {
    fn clone(&self) -> Self {
        ignore_injected(self.classifier.clone())
    }
}

impl<C: fmt::Debug, M> fmt::Debug for IgnoreInjected<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IgnoreInjected").field(&self.classifier).finish()
    }
}

fn ignored(verdict: Verdict, injected: bool) -> Verdict {
    if injected { Verdict::new(Outcome::Ignored, verdict.retry) } else { verdict }
}

macro_rules! classify {
    ($req:ty, $res:ty, $err:ty, |$result:ident| $injected:expr) => {
        type Ticket = C::Ticket;

        #[inline]
        fn start(&self, req: &$req) -> C::Ticket {
            self.classifier.start(req)
        }

        #[inline]
        fn finish(&self, ticket: C::Ticket, $result: Result<&$res, &$err>) -> Verdict {
            let injected = $injected;
            ignored(self.classifier.finish(ticket, $result), injected)
        }

        fn expired(&self, ticket: C::Ticket) -> Verdict {
            self.classifier.expired(ticket)
        }
    };
}

impl<Req, Res, Err, C> Classify<Req, Res, Err> for IgnoreInjected<C, Typed>
where
    Err: StdError + 'static,
    C: Classify<Req, Res, Err>,
{
    classify!(Req, Res, Err, |result| {
        matches!(result, Err(error) if Injected::find(error).is_some())
    });
}

impl<Req, Res, C> Classify<Req, Res, BoxError> for IgnoreInjected<C, Boxed>
where
    C: Classify<Req, Res, BoxError>,
{
    classify!(Req, Res, BoxError, |result| {
        matches!(result, Err(error) if Injected::find(&**error).is_some())
    });
}

/// [`ignore_injected`] for HTTP: also looks for the mark in the extensions of responses. A response that was
/// only late counts as injected too.
///
/// ```
/// use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
/// use buttress::conditioner::ignore_injected_http;
/// use buttress::http::standard;
/// # use buttress::Typed;
/// # fn check<C: buttress::Classify<http::Request<()>, http::Response<()>, std::io::Error>>(_: C) {}
/// let only_real_failures = ignore_injected_http(standard());
/// # check(only_real_failures.clone());
/// let layer = CircuitBreakerLayer::new(CircuitBreaker::new("api")).classify(only_real_failures);
/// ```
#[cfg(feature = "http")]
#[must_use]
pub fn ignore_injected_http<C, M>(classifier: C) -> IgnoreInjectedHttp<C, M> {
    IgnoreInjectedHttp { classifier, marker: PhantomData }
}

/// See [`ignore_injected_http`].
///
/// ```
/// use buttress::conditioner::{IgnoreInjectedHttp, ignore_injected_http};
/// use buttress::{AnyError, Boxed};
/// // The second type says which errors the service has: `Boxed` or `Typed`.
/// struct Client {
///     judge: IgnoreInjectedHttp<AnyError, Boxed>,
/// }
/// let client = Client { judge: ignore_injected_http(AnyError) };
/// # let _ = client.judge;
/// ```
#[cfg(feature = "http")]
pub struct IgnoreInjectedHttp<C, M> {
    classifier: C,
    marker: PhantomData<fn() -> M>,
}

#[cfg(feature = "http")]
impl<C: Clone, M> Clone for IgnoreInjectedHttp<C, M> {
    fn clone(&self) -> Self {
        ignore_injected_http(self.classifier.clone())
    }
}

#[cfg(feature = "http")]
impl<C: fmt::Debug, M> fmt::Debug for IgnoreInjectedHttp<C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IgnoreInjectedHttp").field(&self.classifier).finish()
    }
}

#[cfg(feature = "http")]
fn marked<B>(response: &::http::Response<B>) -> bool {
    let injected = |why: &crate::Rejection| why.kind() == crate::RejectionKind::Injected;
    let extensions = response.extensions();
    extensions.get::<Injected>().is_some() || extensions.get().is_some_and(injected)
}

#[cfg(feature = "http")]
impl<Req, B, Err, C> Classify<Req, ::http::Response<B>, Err> for IgnoreInjectedHttp<C, Typed>
where
    Err: StdError + 'static,
    C: Classify<Req, ::http::Response<B>, Err>,
{
    classify!(Req, ::http::Response<B>, Err, |result| match result {
        Ok(response) => marked(response),
        Err(error) => Injected::find(error).is_some(),
    });
}

#[cfg(feature = "http")]
impl<Req, B, C> Classify<Req, ::http::Response<B>, BoxError> for IgnoreInjectedHttp<C, Boxed>
where
    C: Classify<Req, ::http::Response<B>, BoxError>,
{
    classify!(Req, ::http::Response<B>, BoxError, |result| match result {
        Ok(response) => marked(response),
        Err(error) => Injected::find(&**error).is_some(),
    });
}
