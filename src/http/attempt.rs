//! Which attempt of its caller's a request is.

use ::http::header::{HeaderMap, HeaderName, HeaderValue};
use ::http::{Extensions, Request};

use super::retry_after::decimal;

/// Which attempt of its sender's a request is, in decimal digits from 1. Sent from 2 on.
///
/// ```
/// assert_eq!(buttress::http::ATTEMPT, "x-request-attempt");
/// ```
pub const ATTEMPT: HeaderName = HeaderName::from_static("x-request-attempt");

/// How many there were before, as gRPC's retries say it: only if there were some.
const GRPC_PREVIOUS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
/// As Envoy says it, if it is configured to.
const ENVOY: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Which attempt of its caller's a request is, from 1: what a [`ContextLayer`](super::ContextLayer) has read in its headers.
///
/// For handlers, logs and labels: that one request in three is a retry is how a server sees a retry storm of its callers. No
/// layer goes by it, and it is not the [`attempt`](crate::Context::attempt) of the request's context, with which calls out
/// would begin to count: a caller that tries for the third time takes no retry away from us. Everybody can write it, so
/// nothing should be allowed or refused for it alone.
///
/// ```
/// use axum::{Router, extract::Request, routing::get};
/// use buttress::http::{CallerAttempt, ContextLayer};
/// async fn handler(request: Request) -> String {
///     format!("attempt {}", CallerAttempt::of(request.extensions()).get())
/// }
/// let app: Router = Router::new().route("/", get(handler)).layer(ContextLayer::new("api"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerAttempt(u32);

impl CallerAttempt {
    /// The highest, which stands for all beyond it, too: 16. So it is fit for a label.
    ///
    /// ```
    /// assert_eq!(buttress::http::CallerAttempt::MAX, 16);
    /// ```
    pub const MAX: u32 = 16;

    /// What a request carries in its extensions; the first attempt if it carries nothing.
    ///
    /// ```
    /// use buttress::http::CallerAttempt;
    /// assert_eq!(CallerAttempt::of(http::Request::new(()).extensions()).get(), 1);
    /// ```
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or(Self(1))
    }

    /// From 1 to [`MAX`](Self::MAX).
    ///
    /// ```
    /// use buttress::http::CallerAttempt;
    /// let again = CallerAttempt::of(http::Request::new(()).extensions()).get() > 1;
    /// assert!(!again);
    /// ```
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The highest that the headers name, if it is not the first. What cannot be read counts as not there.
fn told(headers: &HeaderMap) -> Option<CallerAttempt> {
    let number = |name| decimal(headers.get(name)?.as_bytes().trim_ascii());
    let before = number(GRPC_PREVIOUS).map(|before| before.saturating_add(1));
    let highest = [number(ATTEMPT), before, number(ENVOY)].into_iter().flatten().max()?;
    let highest = u32::try_from(highest).unwrap_or(u32::MAX).min(CallerAttempt::MAX);
    (highest > 1).then_some(CallerAttempt(highest))
}

/// Puts what the headers say into the extensions.
pub(super) fn accept<B>(req: &mut Request<B>) {
    if let Some(attempt) = told(req.headers()) {
        req.extensions_mut().insert(attempt);
    }
}

/// Writes the number of our own attempt, from the second on. What the headers say is that of somebody else: of a first one it
/// is taken away. Envoy's is corrected where there is one.
pub(super) fn send(headers: &mut HeaderMap, attempt: u32, grpc: bool) {
    let envoy = if headers.is_empty() {
        None
    } else {
        for name in [ATTEMPT, GRPC_PREVIOUS] {
            headers.remove(name);
        }
        headers.remove(ENVOY)
    };
    if attempt > 1 {
        let (name, number) = if grpc { (GRPC_PREVIOUS, attempt - 1) } else { (ATTEMPT, attempt) };
        headers.insert(name, HeaderValue::from(number));
        if envoy.is_some() {
            headers.insert(ENVOY, HeaderValue::from(attempt));
        }
    }
}
