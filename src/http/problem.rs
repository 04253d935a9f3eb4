//! What a refusal looks like as an HTTP or gRPC response.

use std::borrow::Cow;
use std::time::Duration;

use ::http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use ::http::{Request, Response, StatusCode, Version};
use bytes::Bytes;

use super::grpc::{self, code};
use super::headers::{decimal_digits, joined, rate_limit_fields};
use super::retry_after::{PUSHBACK, millis_up, number_value, seconds_up};
use crate::rejection::{Reject, Rejection, RejectionKind};

/// Answers a refused request with a problem document (RFC 9457), or in gRPC's way if it was a gRPC
/// call. The service's error type stays what it was.
///
/// The status is the one in the table at [`RejectionKind`]; an injected fault, which would be a
/// broken connection, is a 503. `Retry-After` is in whole seconds, rounded up. A rate limit adds
/// `RateLimit` and `RateLimit-Policy`. A draining server adds `Connection: close` on HTTP/1.
///
/// ```json
/// {"type":"about:blank","title":"Service Unavailable","status":503,
///  "detail":"circuit breaker is open","kind":"circuit_open",
///  "layer":"circuit_breaker","name":"payments","retry_after":2}
/// ```
///
/// A gRPC call (`content-type: application/grpc…`) gets a response without body and trailers: HTTP
/// 200, `grpc-status`, `grpc-message`, and `grpc-retry-pushback-ms` if the time is known.
///
/// The response body must be made `From<Bytes>`, as axum's, hyper's `Full` and reqwest's are. For
/// others (tonic's) see [`status_only`].
///
/// ```
/// use buttress::http::problem;
/// use buttress::{LayerKind, Reject, Rejection, RejectionKind};
/// use http::{Request, Response};
/// use std::convert::Infallible;
/// use std::time::Duration;
///
/// let why = Rejection::new(RejectionKind::CircuitOpen, LayerKind::CircuitBreaker, "payments")
///     .with_retry_after(Duration::from_millis(1500));
/// let answer: Result<Response<axum::body::Body>, Infallible> =
///     problem().reject(Request::new(()), why);
/// let answer = answer.unwrap();
/// assert_eq!(answer.status(), 503);
/// assert_eq!(answer.headers()["retry-after"], "2");
/// assert_eq!(answer.headers()["content-type"], "application/problem+json");
/// ```
///
/// Customised: nothing about the inside of the service, and callers that do not all come back at the
/// same moment.
///
/// ```
/// # use buttress::http::problem;
/// # use std::time::Duration;
/// let outside = problem().detail(false).retry_jitter(Duration::from_secs(5));
/// # let _ = outside;
/// ```
#[must_use]
pub const fn problem() -> Problem {
    Problem { style: Style::new() }
}

/// Answers a refused request with a status and headers and an empty body: [`problem`] without its
/// document, for any body that is `Default` (tonic's, and all of axum's and hyper's).
///
/// ```
/// use buttress::http::status_only;
/// use buttress::{LayerKind, Reject, Rejection, RejectionKind};
/// use http::{Request, Response};
/// use std::convert::Infallible;
///
/// let call = Request::post("/pkg.Service/Method")
///     .header("content-type", "application/grpc")
///     .body(())
///     .unwrap();
/// let why = Rejection::new(RejectionKind::Overloaded, LayerKind::Custom("bulkhead"), "db");
/// let answer: Result<Response<tonic::body::Body>, Infallible> = status_only().reject(call, why);
/// let answer = answer.unwrap();
/// assert_eq!(answer.status(), 200);
/// assert_eq!(answer.headers()["grpc-status"], "8"); // RESOURCE_EXHAUSTED
/// ```
#[must_use]
pub const fn status_only() -> StatusOnly {
    StatusOnly { style: Style::new() }
}

/// See [`problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    style: Style,
}

/// See [`status_only`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusOnly {
    style: Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Style {
    detail: bool,
    jitter: Duration,
}

impl Style {
    const fn new() -> Self {
        Self { detail: true, jitter: Duration::ZERO }
    }
}

impl Problem {
    /// Whether to say which layer refused and why (default: yes). Without it a problem document has
    /// `type`, `title`, `status` and `retry_after` only, there are no `RateLimit` fields, and
    /// `grpc-message` is the reason alone.
    ///
    /// ```
    /// let quiet = buttress::http::problem().detail(false);
    /// # let _ = quiet;
    /// ```
    #[must_use]
    pub const fn detail(mut self, detail: bool) -> Self {
        self.style.detail = detail;
        self
    }

    /// Adds a random time between zero and `most` to every time to come back (default: zero), so that
    /// callers refused together do not return together.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let spread = buttress::http::problem().retry_jitter(Duration::from_secs(3));
    /// # let _ = spread;
    /// ```
    #[must_use]
    pub const fn retry_jitter(mut self, most: Duration) -> Self {
        self.style.jitter = most;
        self
    }
}

impl StatusOnly {
    /// Whether to add the `RateLimit` fields, and the layer and name to `grpc-message` (default: yes).
    ///
    /// ```
    /// let quiet = buttress::http::status_only().detail(false);
    /// # let _ = quiet;
    /// ```
    #[must_use]
    pub const fn detail(mut self, detail: bool) -> Self {
        self.style.detail = detail;
        self
    }

    /// See [`Problem::retry_jitter`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// let spread = buttress::http::status_only().retry_jitter(Duration::from_secs(3));
    /// # let _ = spread;
    /// ```
    #[must_use]
    pub const fn retry_jitter(mut self, most: Duration) -> Self {
        self.style.jitter = most;
        self
    }
}

impl<B1, B2: From<Bytes>, E> Reject<Request<B1>, Response<B2>, E> for Problem {
    type Error = E;

    fn reject(&self, req: Request<B1>, why: Rejection) -> Result<Response<B2>, E> {
        let why = self.style.jittered(why);
        if let Some(content_type) = grpc::answer_content_type(req.headers()) {
            return Ok(self.style.grpc(content_type, &why, B2::from(Bytes::new())));
        }
        let document = Bytes::from(self.style.document(&why));
        let mut response = self.style.http(req.version(), &why, B2::from(document));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        Ok(response)
    }

    fn map_err(error: E) -> E {
        error
    }
}

impl<B1, B2: Default, E> Reject<Request<B1>, Response<B2>, E> for StatusOnly {
    type Error = E;

    fn reject(&self, req: Request<B1>, why: Rejection) -> Result<Response<B2>, E> {
        let why = self.style.jittered(why);
        Ok(match grpc::answer_content_type(req.headers()) {
            Some(content_type) => self.style.grpc(content_type, &why, B2::default()),
            None => self.style.http(req.version(), &why, B2::default()),
        })
    }

    fn map_err(error: E) -> E {
        error
    }
}

/// The HTTP and gRPC columns of the table at [`RejectionKind`].
const fn codes(kind: RejectionKind) -> (StatusCode, u64) {
    use RejectionKind as K;
    match kind {
        K::RateLimited | K::ExceedsBurst => {
            (StatusCode::TOO_MANY_REQUESTS, code::RESOURCE_EXHAUSTED)
        }
        K::Overloaded | K::BudgetExhausted => {
            (StatusCode::SERVICE_UNAVAILABLE, code::RESOURCE_EXHAUSTED)
        }
        K::CircuitOpen | K::StoreUnavailable | K::Draining | K::Injected => {
            (StatusCode::SERVICE_UNAVAILABLE, code::UNAVAILABLE)
        }
        K::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, code::DEADLINE_EXCEEDED),
        K::IdempotencyInFlight => (StatusCode::CONFLICT, code::ABORTED),
        K::IdempotencyMismatch => (StatusCode::UNPROCESSABLE_ENTITY, code::INVALID_ARGUMENT),
        K::IdempotencyKeyMissing => (StatusCode::BAD_REQUEST, code::INVALID_ARGUMENT),
    }
}

impl Style {
    fn jittered(self, why: Rejection) -> Rejection {
        match why.retry_after() {
            Some(wait) if !self.jitter.is_zero() => {
                let extra = self.jitter.mul_f64(random_share());
                why.with_retry_after(wait.saturating_add(extra))
            }
            _ => why,
        }
    }

    fn http<B>(self, version: Version, why: &Rejection, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.status_mut() = codes(why.kind()).0;
        let mut headers = HeaderMap::with_capacity(4);
        if let Some(wait) = why.retry_after() {
            headers.insert(RETRY_AFTER, number_value(seconds_up(wait)));
        }
        if self.detail {
            rate_limit_fields(why.detail(), why.name(), &mut headers);
        }
        if why.kind() == RejectionKind::Draining && version < Version::HTTP_2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        *response.headers_mut() = headers;
        // So that layers further out know it for what it is; it does not go over the wire.
        response.extensions_mut().insert(why.clone());
        response
    }

    fn document(self, why: &Rejection) -> Vec<u8> {
        let status = codes(why.kind()).0;
        let title = status.canonical_reason().unwrap_or_default().as_bytes();
        let status = status.as_str().as_bytes();
        let detail = why.kind().sentence().as_bytes();
        let kind = why.kind().as_str().as_bytes();
        let mut room = [0; 20];
        let (wait_name, wait): (&[u8], &[u8]) = match why.retry_after() {
            Some(wait) => (br#","retry_after":"#, decimal_digits(seconds_up(wait), &mut room)),
            None => (b"", b""),
        };
        if !self.detail {
            return joined!(
                br#"{"type":"about:blank","title":""#,
                title,
                br#"","status":"#,
                status,
                wait_name,
                wait,
                b"}",
            );
        }
        let (layer, name) = (json_text(why.layer().as_str()), json_text(why.name()));
        joined!(
            br#"{"type":"about:blank","title":""#,
            title,
            br#"","status":"#,
            status,
            br#","detail":""#,
            detail,
            br#"","kind":""#,
            kind,
            br#"","layer":""#,
            &layer,
            br#"","name":""#,
            &name,
            br#"""#,
            wait_name,
            wait,
            b"}",
        )
    }

    /// A response that consists of trailers only: its head carries them, and the body must be empty.
    fn grpc<B>(self, content_type: HeaderValue, why: &Rejection, body: B) -> Response<B> {
        let mut response = Response::new(body);
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(grpc::STATUS, number_value(codes(why.kind()).1));
        headers.insert(grpc::MESSAGE, self.grpc_message(why));
        if why.kind() == RejectionKind::ExceedsBurst {
            headers.insert(PUSHBACK, HeaderValue::from_static("-1"));
        } else if let Some(wait) = why.retry_after() {
            // The proposal says "int32"; a day is enough for anyone and fits.
            let wait = wait.min(super::MAX_RETRY_AFTER);
            headers.insert(PUSHBACK, number_value(millis_up(wait)));
        }
        *response.headers_mut() = headers;
        response.extensions_mut().insert(why.clone());
        response
    }

    fn grpc_message(self, why: &Rejection) -> HeaderValue {
        let sentence = why.kind().sentence();
        let plain = HeaderValue::from_static(sentence);
        if !self.detail {
            return plain;
        }
        let mut text = Vec::with_capacity(sentence.len() + 64);
        text.extend_from_slice(sentence.as_bytes());
        text.extend_from_slice(b" (");
        push_percent_encoded(&mut text, why.layer().as_str());
        text.extend_from_slice(b" `");
        push_percent_encoded(&mut text, why.name());
        text.extend_from_slice(b"`)");
        HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(plain)
    }
}

/// The inside of a JSON string.
fn json_text(text: &str) -> Cow<'_, [u8]> {
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    if !text.as_bytes().iter().any(special) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut json = Vec::with_capacity(text.len() + 16);
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => json.extend_from_slice(&[b'\\', byte]),
            0..=0x1f => {
                json.extend_from_slice(b"\\u00");
                push_hex(&mut json, byte);
            }
            _ => json.push(byte),
        }
    }
    Cow::Owned(json)
}

/// gRPC over HTTP/2: everything outside printable ASCII, and `%`, is percent-encoded.
fn push_percent_encoded(message: &mut Vec<u8>, text: &str) {
    for &byte in text.as_bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => message.push(byte),
            _ => {
                message.push(b'%');
                push_hex(message, byte);
            }
        }
    }
}

fn push_hex(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// A number in `0.0..1.0`. Good enough to spread callers; nothing secret hangs on it.
fn random_share() -> f64 {
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static KEY: OnceLock<RandomState> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let bits = KEY.get_or_init(RandomState::new).hash_one(number) >> 32;
    f64::from(u32::try_from(bits).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}
