//! The context of requests that come in.

use std::fmt;
use std::time::Duration;

use ::http::header::{HeaderMap, HeaderName};
use ::http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::attempt;
use super::context_future::ContextFuture;
use super::problem::{Problem, problem};
use super::retry_after::decimal;
use crate::clock;
use crate::context::{Context, Criticality};
use crate::deadline::{Deadline, grpc_timeout};
use crate::error::ConfigError;
use crate::name::{LayerKind, Name};
use crate::reject::Reject;
use crate::rejection::{Rejection, RejectionKind};

pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How many milliseconds the sender of a request waits for its answer, in decimal digits: a time that counts
/// from when the request arrives, so that no two clocks need agree.
///
/// ```
/// assert_eq!(buttress::http::TIMEOUT_MS, "x-request-timeout-ms");
/// ```
pub const TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// How much a request matters: a [name](Criticality::as_str) of the four classes.
///
/// ```
/// assert_eq!(buttress::http::CRITICALITY, "x-request-criticality");
/// ```
pub const CRITICALITY: HeaderName = HeaderName::from_static("x-request-criticality");

/// A caller has no longer than this, unless it is told otherwise: a day's deadline is none, and would keep its place in a
/// waiting room for as long.
const LONGEST: Duration = Duration::from_secs(3600);

/// For servers: reads what a request says of its deadline and criticality, and puts it into the
/// [`Context`] in its extensions, where the layers inside find it. Goes outside of them. Which attempt of its caller's it is
/// is a [`CallerAttempt`](super::CallerAttempt) there, for handlers.
///
/// A server that does not know how long its callers wait works for those who have gone. Told by them, it
/// leaves off, and what has no time left on arrival is refused: with 504, or `DEADLINE_EXCEEDED` if the call
/// is gRPC.
///
/// | header | read as |
/// |---|---|
/// | `grpc-timeout` | 1 to 8 digits and a unit of `HMSmun` |
/// | [`TIMEOUT_MS`] | milliseconds |
/// | [`CRITICALITY`] | `sheddable`, `sheddable_plus`, `critical`, `critical_plus` |
/// | [`ATTEMPT`](super::ATTEMPT), `x-envoy-attempt-count` | the number of an attempt, from 1 |
/// | `grpc-previous-rpc-attempts` | how many there were before |
///
/// The earliest deadline counts, with the one that is in the extensions already and
/// [`max_deadline`](Self::max_deadline), which is also that of requests that name none if it is set; without it no header
/// names more than an hour. A criticality, whether a header names it, the extensions have it or it is the default, is lowered to
/// [`max_criticality`](Self::max_criticality) (critical). The highest attempt counts, up to
/// [`CallerAttempt::MAX`](super::CallerAttempt::MAX). What cannot be read counts as not there.
///
/// ```
/// use axum::{Router, routing::get};
/// use buttress::http::ContextLayer;
/// use std::time::Duration;
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(ContextLayer::new("api").max_deadline(Duration::from_secs(30))?);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct ContextLayer<R = Problem> {
    rules: Rules,
    reject: R,
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    name: Name,
    max_deadline: Option<Duration>,
    max_criticality: Criticality,
}

impl ContextLayer {
    /// Refuses under this name.
    ///
    /// ```
    /// let layer = buttress::http::ContextLayer::new("api");
    /// ```
    pub fn new(name: impl Into<Name>) -> Self {
        let rules =
            Rules { name: name.into(), max_deadline: None, max_criticality: Criticality::Critical };
        Self { rules, reject: problem() }
    }
}

impl<R> ContextLayer<R> {
    /// No request has longer than this, whatever it says, and also if it says nothing. By default a request that says
    /// nothing has no deadline, and one that does an hour at most.
    ///
    /// # Errors
    /// If it is zero.
    ///
    /// ```
    /// use std::time::Duration;
    /// let error = buttress::http::ContextLayer::new("api").max_deadline(Duration::ZERO).unwrap_err();
    /// assert_eq!(error.field(), "max_deadline");
    /// ```
    pub fn max_deadline(mut self, most: Duration) -> Result<Self, ConfigError> {
        if most.is_zero() {
            return Err(ConfigError::new("max_deadline", "0s", "a time above 0"));
        }
        self.rules.max_deadline = Some(most);
        Ok(self)
    }

    /// No request matters more than this, whatever it says. Raise it only where all callers are known.
    ///
    /// ```
    /// use buttress::{Criticality, http::ContextLayer};
    /// let inside = ContextLayer::new("api").max_criticality(Criticality::CriticalPlus);
    /// ```
    pub fn max_criticality(mut self, most: Criticality) -> Self {
        self.rules.max_criticality = most;
        self
    }

    /// What becomes of requests that have no time left.
    ///
    /// ```
    /// use buttress::http::{ContextLayer, problem};
    /// let layer = ContextLayer::new("api").on_reject(problem().detail(false));
    /// ```
    pub fn on_reject<R2>(self, reject: R2) -> ContextLayer<R2> {
        ContextLayer { rules: self.rules, reject }
    }
}

/// The shortest time that the headers name.
pub(super) fn told(headers: &HeaderMap) -> Option<Duration> {
    let grpc = headers.get(GRPC_TIMEOUT).and_then(|value| grpc_timeout(value.to_str().ok()?));
    let ms = headers.get(TIMEOUT_MS).and_then(|value| decimal(value.as_bytes().trim_ascii()));
    [grpc, ms.map(Duration::from_millis)].into_iter().flatten().min()
}

fn criticality(headers: &HeaderMap) -> Option<Criticality> {
    let value = headers.get(CRITICALITY)?.as_bytes().trim_ascii();
    Criticality::ALL.into_iter().find(|class| value.eq_ignore_ascii_case(class.as_str().as_bytes()))
}

impl Rules {
    /// The context of a request, if the headers change it; `Err` if no time is left.
    fn read<B>(&self, req: &Request<B>) -> Result<Option<Context>, ()> {
        let told = told(req.headers());
        let before = Context::of(req.extensions());
        // Also of one that says nothing: silence must not be worth more than the truth.
        let class = criticality(req.headers()).unwrap_or(before.criticality());
        let mut context = before.with_criticality(class.min(self.max_criticality));
        let most = self.max_deadline.or(told.and(Some(LONGEST)));
        let within = [told, most].into_iter().flatten().min();
        if within.is_some() || before.deadline().is_some() {
            let now = clock::now();
            if let Some(within) = within {
                context = context.with_deadline(Deadline::at(now.after(within)));
            }
            if context.deadline().is_some_and(|at| at.remaining_at(now).is_zero()) {
                return Err(());
            }
        }
        Ok(Some(context).filter(|context| *context != before))
    }
}

impl<S, R: Clone> Layer<S> for ContextLayer<R> {
    type Service = ContextService<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        ContextService { inner, rules: self.rules, reject: self.reject.clone() }
    }
}

/// Made by a [`ContextLayer`]. As ready as the inner service, without state. A call that is refused does not reach the
/// inner service, whose readiness stays for the next call on this instance, or until it is dropped.
///
/// ```
/// use buttress::http::{ContextLayer, ContextService};
/// use tower::Layer;
/// // By name, in a server of our own.
/// struct Server<S> {
///     service: ContextService<S>,
/// }
/// let server = Server { service: ContextLayer::new("api").layer(7) };
/// ```
#[derive(Clone)]
pub struct ContextService<S, R = Problem> {
    inner: S,
    rules: Rules,
    reject: R,
}

impl<S: fmt::Debug, R> fmt::Debug for ContextService<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextService")
            .field("inner", &self.inner)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl<S, R, B1, B2> Service<Request<B1>> for ContextService<S, R>
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
        match self.rules.read(&req) {
            Ok(changed) => {
                if let Some(context) = changed {
                    context.put(req.extensions_mut());
                }
                attempt::accept(&mut req);
                ContextFuture::called(self.inner.call(req), R::map_err)
            }
            Err(()) => ContextFuture::refused(self.reject.reject(req, expired(self.rules.name))),
        }
    }
}

#[cold]
pub(super) fn expired(name: Name) -> Rejection {
    Rejection::new(RejectionKind::DeadlineExceeded, LayerKind::Timeout, name)
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    fn remaining(layer: &ContextLayer, header: Option<&'static str>) -> Option<Duration> {
        let mut req = Request::new(());
        if let Some(value) = header {
            req.headers_mut().insert(GRPC_TIMEOUT, ::http::HeaderValue::from_static(value));
        }
        let context = layer.rules.read(&req).expect("there is time left");
        context.and_then(|context| context.deadline()).map(Deadline::remaining)
    }

    /// It was as long as any caller liked, 11,400 years: until then it kept its place in a waiting room, and was the mean of
    /// what callers wait.
    #[tokio::test(start_paused = true)]
    async fn no_caller_has_longer_than_an_hour_unless_it_is_told_otherwise() {
        let (hour, layer) = (Duration::from_secs(3600), ContextLayer::new("api"));
        assert_eq!(remaining(&layer, Some("99999999H")), Some(hour));
        assert_eq!(remaining(&layer, Some("59M")), Some(hour - Duration::from_secs(60)));
        assert_eq!(remaining(&layer, None), None);
        let longer = layer.max_deadline(hour * 5).expect("it is above zero");
        assert_eq!(remaining(&longer, Some("4H")), Some(hour * 4));
        assert_eq!(remaining(&longer, Some("99999999H")), Some(hour * 5));
        assert_eq!(remaining(&longer, None), Some(hour * 5));
    }
}
