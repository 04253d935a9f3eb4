//! The standard classifier: status, `Retry-After`, method safety, gRPC status, error chains.

use std::error::Error as StdError;
use std::fmt::{self, Write};
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};

use super::grpc;
use super::replay::ReplayError;
use super::retry_after::retry_after;
use crate::classify::{Boxed, Classify, Typed, judge_error};
use crate::error::BoxError;
use crate::injected::{FaultKind, Injected};
use crate::outcome::{FailureClass, Outcome, RetryHint, Verdict};
use crate::rejection::Rejection;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Judges HTTP and gRPC calls by their status, their `Retry-After`, the safety of their method and
/// their errors. The type parameter is inferred from the service's error type.
///
/// "Safe" below means [`RetryHint::Safe`], "by method" means safe for idempotent requests and
/// [`RetryHint::Unknown`] for others. A request is idempotent if its method is GET, HEAD, OPTIONS,
/// TRACE, PUT or DELETE, or if it carries an `Idempotency-Key`. `Retry-After` goes into every hint
/// that allows another attempt (see [`retry_after`]).
///
/// | status | outcome | retry |
/// |---|---|---|
/// | 1xx, 2xx, 3xx | success | never |
/// | 408 | transient failure | safe: the request was not received whole |
/// | 409 with `Retry-After`, if the request is idempotent | ignored | safe: a duplicate is in flight |
/// | 425 | ignored | safe: the server did not look at the request |
/// | 429 | throttled | safe: the server did not act |
/// | other 4xx | success: the server did its work, the request was at fault | never |
/// | 501, 505, 506, 508, 510, 511 | permanent failure | never |
/// | 502, 503, 504 | transient failure | by method |
/// | 500, any other | flaky failure | by method |
///
/// A 503 with `Retry-After` is by method too: the header says when to come back, not that nothing
/// happened.
///
/// An answer with `Idempotency-Replayed: true` is one on record and is never retried, whatever its status.
///
/// For a gRPC request (`content-type: application/grpc…`) `grpc-status` in the response's headers
/// decides, if it is there, and `grpc-retry-pushback-ms` takes the place of `Retry-After`: a negative
/// or unreadable one forbids the retry.
///
/// | gRPC status | outcome | retry |
/// |---|---|---|
/// | `OK`, `INVALID_ARGUMENT`, `NOT_FOUND`, `ALREADY_EXISTS`, `PERMISSION_DENIED`, `FAILED_PRECONDITION`, `OUT_OF_RANGE`, `UNAUTHENTICATED` | success | never |
/// | `CANCELLED` | ignored: it was the caller | never |
/// | `ABORTED` | success; ignored with a pushback | never; safe with a pushback |
/// | `RESOURCE_EXHAUSTED` | throttled | safe |
/// | `UNAVAILABLE` | transient failure | safe, as every gRPC retry configuration has it |
/// | `DEADLINE_EXCEEDED` | transient failure | by method |
/// | `INTERNAL`, `UNKNOWN`, any other number, unreadable | flaky failure | by method |
/// | `UNIMPLEMENTED`, `DATA_LOSS` | permanent failure | never |
///
/// The method of a gRPC call is POST, so "by method" is unknown unless the metadata carry an
/// `idempotency-key`. A status in the trailers comes after the response has been judged; to wait for
/// it see [`until_end_of_body`](super::until_end_of_body).
///
/// Errors are judged by [`judge_error`]. One that shows that the request was never sent is safe
/// whatever the method; any other is by method. These show it:
///
/// - an [`io::Error`] of kind connection refused, address in use or address not available in the
///   chain (what a connector returns; it reaches us through hyper, reqwest and tonic);
/// - hyper-util's legacy client, and so reqwest: `client error (Connect)`, which also covers name
///   lookup, TLS and connect timeouts;
/// - h2: a stream the server reset with `REFUSED_STREAM`, or that was beyond a graceful `GOAWAY`
///   (RFC 9113, section 8.7). These and hyper-util's are known by their text, which needs no
///   dependency on either; should the text change, the verdict falls back to "by method";
/// - whatever [`Standard::not_sent`] adds.
///
/// A refusal by one of our own layers ([`Rejection`]) keeps the verdict it has everywhere: ignored. It is
/// known by the error, or by the [`Rejection`] that our responders put into the extensions of their answers.
/// Faults that a conditioner injects are judged as what they play; a loss comes before the call, so it is
/// safe, the others are by method.
///
/// ```
/// use buttress::http::standard;
/// use buttress::{Classify, Outcome, RetryHint};
/// use http::{Request, Response};
/// use std::convert::Infallible;
/// use std::time::Duration;
///
/// fn judge<C: Classify<Request<()>, Response<()>, Infallible>>(c: &C, method: &str) -> RetryHint {
///     let request = Request::builder().method(method).body(()).unwrap();
///     let ticket = c.start(&request);
///     let busy = Response::builder().status(503).header("retry-after", "2").body(()).unwrap();
///     let verdict = c.finish(ticket, Ok(&busy));
///     assert_eq!(verdict.outcome, Outcome::FAILURE);
///     verdict.retry
/// }
/// let after = Some(Duration::from_secs(2));
/// assert_eq!(judge(&standard(), "GET"), RetryHint::Safe { after });
/// assert_eq!(judge(&standard(), "POST"), RetryHint::Unknown { after });
/// ```
#[must_use]
pub fn standard<M>() -> Standard<M> {
    Standard { not_sent: None, marker: PhantomData }
}

/// See [`standard`].
///
/// ```
/// use buttress::circuit_breaker::CircuitBreaker;
/// use buttress::http::{Standard, standard};
/// use buttress::Typed;
/// // One for all layers of a client.
/// struct Settings {
///     classify: Standard<Typed>,
/// }
/// let settings = Settings { classify: standard() };
/// let layer = CircuitBreaker::new("db").layer().classify(settings.classify);
/// ```
pub struct Standard<M> {
    not_sent: Option<fn(&(dyn StdError + 'static)) -> bool>,
    marker: PhantomData<fn() -> M>,
}

impl<M> Standard<M> {
    /// Adds knowledge about errors that show that the request was never sent. `known` is asked about
    /// every error in the `source()` chain.
    ///
    /// ```
    /// use buttress::http::standard;
    /// use buttress::{Classify, RetryHint};
    /// use http::{Request, Response};
    ///
    /// let c = standard().not_sent(|error| {
    ///     error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
    /// });
    /// # fn check<C: Classify<Request<()>, Response<()>, hyper::Error>>(_: &C) {}
    /// # check(&c);
    /// ```
    #[must_use]
    pub fn not_sent(mut self, known: fn(&(dyn StdError + 'static)) -> bool) -> Self {
        self.not_sent = Some(known);
        self
    }

    pub(crate) fn judge<B>(
        self,
        ticket: Ticket,
        result: Result<&Response<B>, &(dyn StdError + 'static)>,
    ) -> Verdict {
        match result {
            Ok(response) => ticket.judge_head(response),
            Err(error) => self.judge_error(ticket, error),
        }
    }

    #[cold]
    fn judge_error(self, ticket: Ticket, error: &(dyn StdError + 'static)) -> Verdict {
        let verdict = judge_error(error);
        let RetryHint::Safe { after } = verdict.retry else { return verdict };
        if let Some(why) = Rejection::find(error)
            && !plays_the_callee(why)
        {
            return verdict;
        }
        if any_in_chain(error, |link| link.is::<ReplayError>()) {
            return Verdict::ignored();
        }
        let not_sent = |link: &(dyn StdError + 'static)| {
            shows_not_sent(link) || self.not_sent.is_some_and(|known| known(link))
        };
        if ticket.idempotent || any_in_chain(error, not_sent) {
            verdict
        } else {
            verdict.with_retry(RetryHint::Unknown { after })
        }
    }
}

impl<M> Clone for Standard<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Standard<M> {}

impl<M> fmt::Debug for Standard<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standard")
    }
}

impl<B1, B2, E> Classify<Request<B1>, Response<B2>, E> for Standard<Typed>
where
    E: StdError + 'static,
{
    type Ticket = Ticket;

    #[inline]
    fn start(&self, req: &Request<B1>) -> Ticket {
        Ticket::of(req)
    }

    #[inline]
    fn finish(&self, ticket: Ticket, result: Result<&Response<B2>, &E>) -> Verdict {
        (*self).judge(ticket, result.map_err(|error| error as _))
    }

    fn expired(&self, ticket: Ticket) -> Verdict {
        Verdict::failure(FailureClass::Transient).with_retry(ticket.hint(None))
    }
}

impl<B1, B2> Classify<Request<B1>, Response<B2>, BoxError> for Standard<Boxed> {
    type Ticket = Ticket;

    #[inline]
    fn start(&self, req: &Request<B1>) -> Ticket {
        Ticket::of(req)
    }

    #[inline]
    fn finish(&self, ticket: Ticket, result: Result<&Response<B2>, &BoxError>) -> Verdict {
        (*self).judge(ticket, result.map_err(|error| &**error as _))
    }

    fn expired(&self, ticket: Ticket) -> Verdict {
        Verdict::failure(FailureClass::Transient).with_retry(ticket.hint(None))
    }
}

/// What [`standard`] remembers of a request. Two bytes.
///
/// ```
/// use buttress::http::Ticket;
/// let charge = http::Request::post("/charge").header("idempotency-key", "a1").body(()).unwrap();
/// assert!(Ticket::of(&charge).is_idempotent());
/// assert!(!Ticket::of(&charge).is_grpc());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    idempotent: bool,
    grpc: bool,
}

impl Ticket {
    /// Looks at a request.
    ///
    /// ```
    /// use buttress::http::Ticket;
    /// assert!(Ticket::of(&http::Request::get("/").body(()).unwrap()).is_idempotent());
    /// assert!(!Ticket::of(&http::Request::post("/").body(()).unwrap()).is_idempotent());
    /// ```
    #[must_use]
    pub fn of<B>(req: &Request<B>) -> Self {
        // RFC 9110, section 9.2.2: PUT, DELETE and the safe methods are idempotent.
        let by_method = matches!(
            *req.method(),
            Method::GET
                | Method::HEAD
                | Method::OPTIONS
                | Method::TRACE
                | Method::PUT
                | Method::DELETE
        );
        // Only other methods can carry a gRPC call or need a key.
        Self {
            idempotent: by_method
                || req.headers().get(IDEMPOTENCY_KEY).is_some_and(|key| !key.is_empty()),
            grpc: !by_method && grpc::answer_content_type(req.headers()).is_some(),
        }
    }

    /// Whether making the same request twice has the effect of making it once.
    ///
    /// ```
    /// use buttress::http::Ticket;
    /// assert!(Ticket::of(&http::Request::put("/").body(()).unwrap()).is_idempotent());
    /// ```
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        self.idempotent
    }

    /// Whether the request was a gRPC call.
    ///
    /// ```
    /// use buttress::http::Ticket;
    /// let call = http::Request::post("/pkg.Service/Method")
    ///     .header("content-type", "application/grpc+proto")
    ///     .body(())
    ///     .unwrap();
    /// assert!(Ticket::of(&call).is_grpc());
    /// ```
    #[must_use]
    pub const fn is_grpc(self) -> bool {
        self.grpc
    }

    pub(crate) const fn hint(self, after: Option<Duration>) -> RetryHint {
        if self.idempotent { RetryHint::Safe { after } } else { RetryHint::Unknown { after } }
    }

    #[inline]
    pub(super) fn judge_head<B>(self, response: &Response<B>) -> Verdict {
        let (status, headers) = (response.status(), response.headers());
        if self.grpc
            && let Some(code) = grpc::status(headers)
        {
            return refused(self, response)
                .unwrap_or_else(|| final_if_replayed(headers, grpc::judge(code, headers, self)));
        }
        match status.as_u16() {
            100..400 => Verdict::success(),
            _ => refused(self, response).unwrap_or_else(|| {
                final_if_replayed(headers, self.judge_failed_status(status, headers))
            }),
        }
    }

    #[cold]
    fn judge_failed_status(self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let after = || retry_after(headers);
        match status.as_u16() {
            408 => Verdict::failure(FailureClass::Transient)
                .with_retry(RetryHint::Safe { after: after() }),
            409 if self.idempotent => match after() {
                after @ Some(_) => Verdict::new(Outcome::Ignored, RetryHint::Safe { after }),
                None => Verdict::success(),
            },
            425 => Verdict::new(Outcome::Ignored, RetryHint::Safe { after: after() }),
            429 => Verdict::throttled(after()),
            400..=499 => Verdict::success(),
            501 | 505 | 506 | 508 | 510 | 511 => Verdict::failure(FailureClass::Permanent),
            502..=504 => Verdict::failure(FailureClass::Transient).with_retry(self.hint(after())),
            // RFC 9110, section 15: an unknown 5xx is a 500, a number outside 100..600 a server error.
            _ => Verdict::failure(FailureClass::Flaky).with_retry(self.hint(after())),
        }
    }
}

/// What is on record does not change by asking again.
fn final_if_replayed(headers: &HeaderMap, verdict: Verdict) -> Verdict {
    match headers.get(IDEMPOTENCY_REPLAYED) {
        Some(replayed) if replayed == "true" => verdict.with_retry(RetryHint::Never),
        _ => verdict,
    }
}

/// The verdict on an answer that one of our own layers gave instead of the callee.
#[inline]
fn refused<B>(ticket: Ticket, response: &Response<B>) -> Option<Verdict> {
    response.extensions().get::<Rejection>().map(|why| {
        let verdict = judge_error(why);
        match verdict.retry {
            RetryHint::Safe { after } if plays_the_callee(why) => {
                verdict.with_retry(ticket.hint(after))
            }
            _ => verdict,
        }
    })
}

/// Whether a refusal is a fault injected in the place of an error of which nobody could tell whether the
/// callee has acted. A loss says that the call was not made.
fn plays_the_callee(why: &Rejection) -> bool {
    Injected::find(why).is_some_and(|mark| mark.fault() != FaultKind::Loss)
}

/// Whether `error` itself, not its sources, shows that no byte of the request reached the peer or
/// that the peer did not act on it.
fn shows_not_sent(error: &(dyn StdError + 'static)) -> bool {
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return matches!(
            io.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::AddrInUse
                | io::ErrorKind::AddrNotAvailable
        );
    }
    const CONNECT: &str = "client error (Connect)";
    const REFUSED_STREAM: &str =
        "stream error received: refused stream before processing any application logic";
    const GRACEFUL_GOAWAY: &str = "connection error received: not a result of an error";
    displays(error, CONNECT, "") || displays(error, REFUSED_STREAM, "")
        // A `GOAWAY` may carry a remark of the server, which h2 appends in brackets.
        || displays(error, GRACEFUL_GOAWAY, " (")
}

/// Whether the text of `error` is `text`, or `text` followed by `more` and anything, if there is `more`.
fn displays(error: &dyn StdError, text: &str, more: &str) -> bool {
    /// Compares what is written to it instead of storing it, and stops at the first difference.
    struct Expect<'a> {
        text: &'a [u8],
        more: &'a [u8],
        open: bool,
    }

    impl Write for Expect<'_> {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            let mut s = s.as_bytes();
            for part in [&mut self.text, &mut self.more] {
                let n = part.len().min(s.len());
                if part[..n] != s[..n] {
                    return Err(fmt::Error);
                }
                *part = &part[n..];
                s = &s[n..];
            }
            if s.is_empty() || self.open { Ok(()) } else { Err(fmt::Error) }
        }
    }

    let mut expect =
        Expect { text: text.as_bytes(), more: more.as_bytes(), open: !more.is_empty() };
    let untouched = more.len();
    write!(expect, "{error}").is_ok()
        && expect.text.is_empty()
        && (expect.more.is_empty() || expect.more.len() == untouched)
}

fn any_in_chain(
    error: &(dyn StdError + 'static),
    mut holds: impl FnMut(&(dyn StdError + 'static)) -> bool,
) -> bool {
    let mut next = Some(error);
    // As in `judge_error`: a chain that loops must not hang us.
    for _ in 0..32 {
        let Some(error) = next else { return false };
        if holds(error) {
            return true;
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}
