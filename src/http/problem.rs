//! What a refusal looks like as an HTTP or gRPC response.

use std::mem;
use std::sync::LazyLock;
use std::time::Duration;

use ::http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue};
use ::http::{Request, Response, StatusCode, Version};
use bytes::Bytes;

use super::grpc::{self, Dialect, code};
use super::headers::insert;
use super::retry_after::{PUSHBACK, millis_up};
use super::sheet::{Number, Sheet, small, value};
use super::texts::{Facts, Paper};
use crate::name::LayerKind;
use crate::reject::{Reject, Remember};
use crate::rejection::{Rejection, RejectionKind};

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
/// [Advice](Rejection::advice) is added to the detail, and to `grpc-message`.
///
/// A gRPC call (`content-type: application/grpc…`) gets a response without body and trailers: HTTP
/// 200, `grpc-status`, `grpc-message`, and `grpc-retry-pushback-ms` if the time is known. A layer that refuses when
/// the request is gone [remembers](Remember) which it was.
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
///
/// ```
/// use buttress::http::{Problem, problem};
/// use buttress::rate_limit::{RateLimitLayer, RateLimiter};
/// // One for all layers of a server, and what strangers may know.
/// struct Settings {
///     on_reject: Problem,
/// }
/// let settings = Settings { on_reject: problem().detail(false) };
/// let limit = RateLimiter::new("100/s burst 20".parse()?);
/// let layer = RateLimitLayer::new(limit).on_reject(settings.on_reject);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    style: Style,
}

/// See [`status_only`].
///
/// ```
/// use buttress::circuit_breaker::CircuitBreaker;
/// use buttress::http::{StatusOnly, status_only};
/// // For a server that speaks nothing but gRPC.
/// const ON_REJECT: StatusOnly = status_only().grpc();
/// let layer = CircuitBreaker::new("db").layer().on_reject(ON_REJECT);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusOnly {
    style: Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Style {
    detail: bool,
    jitter: Duration,
    /// Also what is no request of gRPC, or is gone.
    grpc: Option<Dialect>,
}

impl Style {
    const fn new() -> Self {
        Self { detail: true, jitter: Duration::ZERO, grpc: None }
    }

    /// The content type of an answer in gRPC's way, if it is to be one.
    fn content_type(self, headers: &HeaderMap) -> Option<HeaderValue> {
        let known = || self.grpc.map(Dialect::content_type);
        grpc::answer_content_type(headers).or_else(known)
    }

    /// For a request that will be gone.
    fn of_request(self, headers: &HeaderMap) -> Self {
        Self { grpc: Dialect::of(headers).or(self.grpc), ..self }
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

    /// For servers that speak nothing but gRPC: every answer is one of gRPC, also to what is no call of it.
    ///
    /// ```
    /// use buttress::{http::problem, timeout::Timeout};
    /// let layer = Timeout::deadlines("api").layer().on_reject(problem().grpc());
    /// ```
    #[must_use]
    pub const fn grpc(mut self) -> Self {
        self.style.grpc = Some(Dialect::Plain);
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

    /// For servers that speak nothing but gRPC: every answer is one of gRPC, also to what is no call of it.
    ///
    /// ```
    /// use buttress::{http::status_only, timeout::Timeout};
    /// let layer = Timeout::deadlines("api").layer().on_reject(status_only().grpc());
    /// ```
    #[must_use]
    pub const fn grpc(mut self) -> Self {
        self.style.grpc = Some(Dialect::Plain);
        self
    }
}

/// In gRPC's way if the request was a gRPC call.
impl<B> Remember<Request<B>> for Problem {
    fn remember(&self, req: &Request<B>) -> Self {
        Self { style: self.style.of_request(req.headers()) }
    }
}

/// For layers that answer when the request is gone: HTTP's way, unless it is
/// [remembered](Remember) or told that it was gRPC.
impl<B2: From<Bytes>, E> Reject<(), Response<B2>, E> for Problem {
    type Error = E;

    fn reject(&self, (): (), why: Rejection) -> Result<Response<B2>, E> {
        self.reject(Request::new(()), why)
    }

    fn map_err(error: E) -> E {
        error
    }
}

impl<B1, B2: From<Bytes>, E> Reject<Request<B1>, Response<B2>, E> for Problem {
    type Error = E;

    fn reject(&self, mut req: Request<B1>, why: Rejection) -> Result<Response<B2>, E> {
        let why = self.style.jittered(why);
        if let Some(content_type) = self.style.content_type(req.headers()) {
            self.style.grpc(content_type, &why, emptied(&mut req));
            return Ok(answer(StatusCode::OK, &mut req, B2::from(Bytes::new()), why));
        }
        let document = self.style.http(&why, true, &mut req);
        let content_type = HeaderValue::from_static("application/problem+json");
        req.headers_mut().insert(CONTENT_TYPE, content_type);
        Ok(answer(codes(why.kind()).0, &mut req, B2::from(document), why))
    }

    fn reject_sent(&self, why: Rejection) -> Option<Result<Response<B2>, E>> {
        Some(self.reject(Request::new(()), why))
    }

    fn map_err(error: E) -> E {
        error
    }
}

/// In gRPC's way if the request was a gRPC call.
impl<B> Remember<Request<B>> for StatusOnly {
    fn remember(&self, req: &Request<B>) -> Self {
        Self { style: self.style.of_request(req.headers()) }
    }
}

/// For layers that answer when the request is gone: HTTP's way, unless it is
/// [remembered](Remember) or told that it was gRPC.
impl<B2: Default, E> Reject<(), Response<B2>, E> for StatusOnly {
    type Error = E;

    fn reject(&self, (): (), why: Rejection) -> Result<Response<B2>, E> {
        self.reject(Request::new(()), why)
    }

    fn map_err(error: E) -> E {
        error
    }
}

impl<B1, B2: Default, E> Reject<Request<B1>, Response<B2>, E> for StatusOnly {
    type Error = E;

    fn reject(&self, mut req: Request<B1>, why: Rejection) -> Result<Response<B2>, E> {
        let why = self.style.jittered(why);
        if let Some(content_type) = self.style.content_type(req.headers()) {
            self.style.grpc(content_type, &why, emptied(&mut req));
            return Ok(answer(StatusCode::OK, &mut req, B2::default(), why));
        }
        self.style.http(&why, false, &mut req);
        Ok(answer(codes(why.kind()).0, &mut req, B2::default(), why))
    }

    fn reject_sent(&self, why: Rejection) -> Option<Result<Response<B2>, E>> {
        Some(self.reject(Request::new(()), why))
    }

    fn map_err(error: E) -> E {
        error
    }
}

/// The request's fields are of no use any more, but the memory they are in is: the answer's are
/// written there.
fn emptied<B>(req: &mut Request<B>) -> &mut HeaderMap {
    let headers = req.headers_mut();
    headers.clear();
    headers
}

fn answer<B1, B2>(
    status: StatusCode,
    req: &mut Request<B1>,
    body: B2,
    why: Rejection,
) -> Response<B2> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    mem::swap(response.headers_mut(), req.headers_mut());
    mem::swap(response.extensions_mut(), req.extensions_mut());
    response.extensions_mut().clear();
    // So that layers further out know it for what it is; it does not go over the wire.
    response.extensions_mut().insert(why);
    response
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
        K::IdempotencyOutcomeUnknown | K::CallPanicked => {
            (StatusCode::INTERNAL_SERVER_ERROR, code::UNKNOWN)
        }
        K::IdempotencyKeyMissing | K::IdempotencyKeyInvalid | K::RequestIncomplete => {
            (StatusCode::BAD_REQUEST, code::INVALID_ARGUMENT)
        }
        K::RequestTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, code::INVALID_ARGUMENT),
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

    /// Fills in the fields and returns the document.
    fn http<B>(self, why: &Rejection, with_document: bool, req: &mut Request<B>) -> Bytes {
        let draining = why.kind() == RejectionKind::Draining && req.version() < Version::HTTP_2;
        let headers = emptied(req);
        let facts = Facts::of(why, with_document, self.detail);
        let document = match why.advice() {
            Some(advice) if self.detail => facts.write(Some(advice)).insert(headers),
            _ => facts.texts().insert(headers),
        };
        if draining {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        document
    }

    /// A response that consists of trailers only: its head carries them, and the body must be empty.
    fn grpc(self, content_type: HeaderValue, why: &Rejection, headers: &mut HeaderMap) {
        let mut sheet = Sheet::<112>::new();
        let sentence = why.kind().sentence();
        if self.detail {
            sheet.put(sentence.as_bytes());
            sheet.put(b" (");
            percent_encoded(why.layer().as_str(), &mut sheet);
            sheet.put(b" `");
            percent_encoded(why.name(), &mut sheet);
            sheet.put(b"`)");
            if let Some(advice) = why.advice() {
                sheet.put(b": ");
                percent_encoded(advice, &mut sheet);
            }
        }
        let end = sheet.len();
        let pushback = match why.retry_after() {
            _ if why.kind() == RejectionKind::ExceedsBurst => Some(Number::Small(b"-1")),
            // The proposal says "int32"; a day is enough for anyone and fits.
            Some(wait) => {
                Some(Number::write(millis_up(wait.min(super::MAX_RETRY_AFTER)), &mut sheet))
            }
            None => None,
        };
        let status = Number::write(codes(why.kind()).1, &mut sheet);
        let sheet = sheet.finish();

        let plain = || HeaderValue::from_static(sentence);
        let message = if self.detail { value(&sheet, 0..end) } else { None };
        headers.insert(CONTENT_TYPE, content_type);
        insert(grpc::STATUS, status.value(&sheet), headers);
        headers.insert(grpc::MESSAGE, message.unwrap_or_else(plain));
        if let Some(pushback) = pushback {
            insert(PUSHBACK, pushback.value(&sheet), headers);
        }
    }
}

impl Facts {
    /// Writes the document; the time to come back in it is also the value of `Retry-After`.
    pub(super) fn document(self, advice: Option<&str>, sheet: &mut Paper) -> Option<Number> {
        let head = Head::of(self.kind);
        if self.with_detail {
            match advice {
                Some(advice) => {
                    sheet.put(&head.full.as_bytes()[..head.detail]);
                    sheet.put(b": ");
                    json_text(advice, sheet);
                    sheet.put(&head.full.as_bytes()[head.detail..]);
                }
                None => sheet.put(head.full.as_bytes()),
            }
            match self.layer {
                LayerKind::Custom(name) => json_text(name, sheet),
                ours => sheet.put(ours.as_str().as_bytes()),
            }
            sheet.put(br#"","name":""#);
            json_text(self.name, sheet);
            sheet.put(br#"""#);
        } else {
            sheet.put(head.quiet.as_bytes());
        }
        let wait = self.wait.map(|seconds| {
            sheet.put(br#","retry_after":"#);
            let digits = sheet.number(seconds);
            small(seconds).map_or(Number::Written(digits), Number::Small)
        });
        sheet.put(b"}");
        wait
    }
}

/// How the documents of a kind begin.
struct Head {
    quiet: String,
    /// Up to the name of the layer.
    full: String,
    /// Where the detail ends in it.
    detail: usize,
}

impl Head {
    fn of(kind: RejectionKind) -> &'static Self {
        static ALL: LazyLock<[Head; RejectionKind::ALL.len()]> =
            LazyLock::new(|| RejectionKind::ALL.map(Head::new));
        &ALL[kind as usize]
    }

    fn new(kind: RejectionKind) -> Self {
        let status = codes(kind).0;
        let title = status.canonical_reason().unwrap_or_default();
        let status = status.as_str();
        let quiet = format!(r#"{{"type":"about:blank","title":"{title}","status":{status}"#);
        let (detail, name) = (kind.sentence(), kind.as_str());
        let begin = format!(r#"{quiet},"detail":"{detail}"#);
        let full = format!(r#"{begin}","kind":"{name}","layer":""#);
        Self { quiet, full, detail: begin.len() }
    }
}

/// The inside of a JSON string.
fn json_text<const ROOM: usize>(text: &str, sheet: &mut Sheet<ROOM>) {
    // All bytes are looked at, whatever they are: several at a time.
    let special = |byte: &u8| (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\');
    if !text.as_bytes().iter().fold(false, |found, byte| found | special(byte)) {
        return sheet.put(text.as_bytes());
    }
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => sheet.put(&[b'\\', byte]),
            0..=0x1f => {
                sheet.put(b"\\u00");
                sheet.put(&hex(byte));
            }
            _ => sheet.put(&[byte]),
        }
    }
}

/// gRPC over HTTP/2: everything outside printable ASCII, and `%`, is percent-encoded.
fn percent_encoded<const ROOM: usize>(text: &str, sheet: &mut Sheet<ROOM>) {
    for &byte in text.as_bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => sheet.put(&[byte]),
            _ => {
                sheet.put(b"%");
                sheet.put(&hex(byte));
            }
        }
    }
}

fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
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
