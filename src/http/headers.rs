//! The `RateLimit` header fields.

use ::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::retry_after::seconds_up;
use crate::rejection::RejectionDetail;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// RFC 9651, section 3.3.1: an integer has at most 15 digits.
const LARGEST_INTEGER: u64 = 999_999_999_999_999;

/// Adds `RateLimit-Policy: "name";q=limit;w=seconds` and `RateLimit: "name";r=remaining;t=seconds`
/// if `detail` is a quota. Source: draft-ietf-httpapi-ratelimit-headers-10.
pub(crate) fn rate_limit_fields(detail: &RejectionDetail, name: &str, headers: &mut HeaderMap) {
    let RejectionDetail::Quota { limit, remaining, reset, window } = *detail else { return };
    let mut line = Vec::with_capacity(name.len() + 40);
    push_quoted(&mut line, name);
    let after_name = line.len();

    line.extend_from_slice(b";q=");
    push_decimal(&mut line, limit.min(LARGEST_INTEGER));
    if !window.is_zero() {
        line.extend_from_slice(b";w=");
        push_decimal(&mut line, seconds_up(window).min(LARGEST_INTEGER));
    }
    if let Ok(value) = HeaderValue::from_bytes(&line) {
        headers.insert(RATE_LIMIT_POLICY, value);
    }

    line.truncate(after_name);
    line.extend_from_slice(b";r=");
    push_decimal(&mut line, remaining.min(LARGEST_INTEGER));
    line.extend_from_slice(b";t=");
    push_decimal(&mut line, seconds_up(reset).min(LARGEST_INTEGER));
    if let Ok(value) = HeaderValue::from_bytes(&line) {
        headers.insert(RATE_LIMIT, value);
    }
}

/// A structured-field string. It knows printable ASCII only; anything else becomes `?`.
fn push_quoted(line: &mut Vec<u8>, text: &str) {
    line.push(b'"');
    for c in text.chars() {
        match u8::try_from(c) {
            Ok(b @ (b'"' | b'\\')) => line.extend_from_slice(&[b'\\', b]),
            Ok(b @ b' '..=b'~') => line.push(b),
            _ => line.push(b'?'),
        }
    }
    line.push(b'"');
}

pub(super) fn push_decimal(line: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] += u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}
