//! What gRPC needs on top of HTTP: who speaks it, and what its status codes mean.

use std::fmt::Write;

use ::http::Response;
use ::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::classify::Ticket;
use super::retry_after::{Pushback, decimal, pushback};
use crate::outcome::{FailureClass, Outcome, RetryHint, Verdict};

pub(super) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The status codes our tables speak of, by the numbers of the gRPC specification.
pub(super) mod code {
    pub(crate) const OK: u64 = 0;
    pub(crate) const CANCELLED: u64 = 1;
    pub(crate) const UNKNOWN: u64 = 2;
    pub(crate) const INVALID_ARGUMENT: u64 = 3;
    pub(crate) const DEADLINE_EXCEEDED: u64 = 4;
    pub(crate) const NOT_FOUND: u64 = 5;
    pub(crate) const ALREADY_EXISTS: u64 = 6;
    pub(crate) const PERMISSION_DENIED: u64 = 7;
    pub(crate) const RESOURCE_EXHAUSTED: u64 = 8;
    pub(crate) const FAILED_PRECONDITION: u64 = 9;
    pub(crate) const ABORTED: u64 = 10;
    pub(crate) const OUT_OF_RANGE: u64 = 11;
    pub(crate) const UNIMPLEMENTED: u64 = 12;
    pub(crate) const INTERNAL: u64 = 13;
    pub(crate) const UNAVAILABLE: u64 = 14;
    pub(crate) const DATA_LOSS: u64 = 15;
    pub(crate) const UNAUTHENTICATED: u64 = 16;
}

/// What a gRPC request is, as far as it matters to an answer that is made when the request is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Plain,
    Web,
    WebText,
}

impl Dialect {
    /// `None` if it is not a gRPC request.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        const TEXT: &[u8] = b"application/grpc-web-text";
        let value = answer_content_type(headers)?;
        let value = value.as_bytes();
        Some(match value.get(..TEXT.len()) {
            Some(start) if start.eq_ignore_ascii_case(TEXT) => Self::WebText,
            _ if value == b"application/grpc" => Self::Plain,
            _ => Self::Web,
        })
    }

    pub(super) const fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Plain => "application/grpc",
            Self::Web => "application/grpc-web",
            Self::WebText => "application/grpc-web-text",
        })
    }
}

/// The content type a gRPC request deserves in its answer; `None` if it is not a gRPC request.
pub(crate) fn answer_content_type(headers: &HeaderMap) -> Option<HeaderValue> {
    const GRPC: &[u8] = b"application/grpc";
    const WEB: &[u8] = b"-web";
    let value = headers.get(CONTENT_TYPE)?;
    let (start, rest) = value.as_bytes().split_at_checked(GRPC.len())?;
    if !start.eq_ignore_ascii_case(GRPC) {
        return None;
    }
    match rest.first() {
        None | Some(b'+' | b';' | b' ') => Some(HeaderValue::from_static("application/grpc")),
        // gRPC-Web wants its own spelling back.
        _ if rest.get(..WEB.len()).is_some_and(|web| web.eq_ignore_ascii_case(WEB)) => {
            Some(value.clone())
        }
        _ => None,
    }
}

/// The code in a map of headers or trailers. An unreadable one is `UNKNOWN`, as the specification
/// asks for codes it does not list.
pub(super) fn status(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(STATUS)?;
    Some(decimal(value.as_bytes().trim_ascii()).unwrap_or(code::UNKNOWN))
}

/// The table documented at [`standard`](super::standard).
pub(super) fn judge(code: u64, headers: &HeaderMap, ticket: Ticket) -> Verdict {
    let pushback = pushback(headers);
    let verdict = match code {
        code::OK
        | code::INVALID_ARGUMENT
        | code::NOT_FOUND
        | code::ALREADY_EXISTS
        | code::PERMISSION_DENIED
        | code::FAILED_PRECONDITION
        | code::OUT_OF_RANGE
        | code::UNAUTHENTICATED => Verdict::success(),
        code::CANCELLED => Verdict::ignored(),
        // A conflict is for the caller to resolve, except where the server says when to come again.
        code::ABORTED => match pushback {
            Pushback::After(_) => Verdict::new(Outcome::Ignored, RetryHint::SAFE),
            Pushback::None | Pushback::Never => Verdict::success(),
        },
        code::RESOURCE_EXHAUSTED => Verdict::throttled(None),
        code::UNAVAILABLE => Verdict::failure(FailureClass::Transient),
        code::DEADLINE_EXCEEDED => {
            Verdict::failure(FailureClass::Transient).with_retry(ticket.hint(None))
        }
        code::UNIMPLEMENTED | code::DATA_LOSS => Verdict::failure(FailureClass::Permanent),
        code::INTERNAL | code::UNKNOWN | 17.. => {
            Verdict::failure(FailureClass::Flaky).with_retry(ticket.hint(None))
        }
    };
    match (pushback, verdict.retry) {
        (Pushback::None, _) | (_, RetryHint::Never) => verdict,
        (Pushback::Never, _) => verdict.with_retry(RetryHint::Never),
        (Pushback::After(wait), RetryHint::Safe { .. }) => {
            verdict.with_retry(RetryHint::Safe { after: Some(wait) })
        }
        (Pushback::After(wait), RetryHint::Unknown { .. }) => {
            verdict.with_retry(RetryHint::Unknown { after: Some(wait) })
        }
    }
}

/// Makes `response` an answer without body and trailers to a call with these headers.
pub(crate) fn trailers_only<B>(
    call: &HeaderMap,
    code: u32,
    message: &str,
    response: &mut Response<B>,
) {
    let content_type = answer_content_type(call);
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("application/grpc");
    headers.insert(CONTENT_TYPE, content_type.unwrap_or(plain));
    headers.insert(STATUS, HeaderValue::from(code));
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        // gRPC over HTTP/2: everything outside printable ASCII, and `%`, is percent-encoded.
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    if let Ok(message) = HeaderValue::try_from(encoded) {
        headers.insert(MESSAGE, message);
    }
}
