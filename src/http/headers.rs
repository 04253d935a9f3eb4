//! The `RateLimit` header fields.

use ::http::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use super::retry_after::seconds_up;
use crate::rejection::RejectionDetail;

/// Byte strings one after the other, in a vector exactly as long as they are, which `Bytes` takes over
/// as it is. The pieces are looked at twice.
macro_rules! joined {
    ($($piece:expr),* $(,)?) => {{
        let mut out: Vec<u8> = Vec::with_capacity(0 $(+ <[u8]>::len($piece))*);
        $(out.extend_from_slice($piece);)*
        out
    }};
}
pub(super) use joined;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// RFC 9651, section 3.3.1: an integer has at most 15 digits.
const LARGEST_INTEGER: u64 = 999_999_999_999_999;

/// Adds `RateLimit-Policy: "name";q=limit;w=seconds` and `RateLimit: "name";r=remaining;t=seconds`
/// if `detail` is a quota. Source: draft-ietf-httpapi-ratelimit-headers-10.
pub(crate) fn rate_limit_fields(detail: RejectionDetail, name: &str, headers: &mut HeaderMap) {
    let RejectionDetail::Quota { limit, remaining, reset, window } = detail else { return };
    let name = quoted(name);
    let mut put = |field: HeaderName, line: Vec<u8>| {
        // Printable ASCII, so it is a value.
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(line)) {
            headers.insert(field, value);
        }
    };
    let (mut one, mut two) = ([0; 20], [0; 20]);

    let limit = decimal_digits(limit.min(LARGEST_INTEGER), &mut one);
    let window = match seconds_up(window).min(LARGEST_INTEGER) {
        0 => None,
        seconds => Some(decimal_digits(seconds, &mut two)),
    };
    put(
        RATE_LIMIT_POLICY,
        match window {
            Some(window) => joined!(&name, b";q=", limit, b";w=", window),
            None => joined!(&name, b";q=", limit),
        },
    );

    let remaining = decimal_digits(remaining.min(LARGEST_INTEGER), &mut one);
    let reset = decimal_digits(seconds_up(reset).min(LARGEST_INTEGER), &mut two);
    put(RATE_LIMIT, joined!(&name, b";r=", remaining, b";t=", reset));
}

/// A structured-field string. It knows printable ASCII only; anything else becomes `?`.
fn quoted(text: &str) -> Vec<u8> {
    let mut line = Vec::with_capacity(text.len() + 2);
    line.push(b'"');
    for c in text.chars() {
        match u8::try_from(c) {
            Ok(b @ (b'"' | b'\\')) => line.extend_from_slice(&[b'\\', b]),
            Ok(b @ b' '..=b'~') => line.push(b),
            _ => line.push(b'?'),
        }
    }
    line.push(b'"');
    line
}

/// The digits of `number`, at the end of `room`.
pub(super) fn decimal_digits(mut number: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return &room[at..];
        }
    }
}
