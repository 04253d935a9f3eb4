//! The header fields of draft-ietf-httpapi-ratelimit-headers (structured fields, RFC 9651) and
//! `Retry-After` (RFC 9110, 10.2.3).

use std::fmt::Write;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use crate::rejection::{Rejection, RejectionDetail};

pub(crate) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(crate) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The largest integer a structured field can carry.
const MAX_INTEGER: u64 = 999_999_999_999_999;

/// Whole seconds, rounded up: coming back on time must not be too early.
pub(crate) fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

/// `Retry-After` in seconds, rounded up.
pub(crate) fn retry_after(after: Duration) -> HeaderValue {
    HeaderValue::from(seconds_up(after))
}

/// `RateLimit-Policy: "name";q=100;w=60`: `limit` tokens per `window`.
pub(crate) fn policy(name: &str, limit: u64, window: Duration) -> HeaderValue {
    item(name, [("q", limit), ("w", seconds_up(window))])
}

/// `RateLimit: "name";r=50;t=30`: `remaining` tokens now, all of them after `reset`.
pub(crate) fn limit(name: &str, remaining: u64, reset: Duration) -> HeaderValue {
    item(name, [("r", remaining), ("t", seconds_up(reset))])
}

/// Sets the two fields from a quota; nothing for other details.
pub(crate) fn write(headers: &mut HeaderMap, name: &str, detail: &RejectionDetail) {
    if let RejectionDetail::Quota { limit: q, remaining, reset, window } = *detail {
        headers.insert(RATE_LIMIT_POLICY, policy(name, q, window));
        headers.insert(RATE_LIMIT, limit(name, remaining, reset));
    }
}

/// Sets the two fields, if the rejection is about a quota, and `Retry-After`, if it says when to come back.
pub(crate) fn write_rejection(headers: &mut HeaderMap, why: &Rejection) {
    write(headers, why.name(), why.detail());
    if let Some(after) = why.retry_after() {
        headers.insert(RETRY_AFTER, retry_after(after));
    }
}

/// A structured string with two integer parameters.
fn item(name: &str, parameters: [(&str, u64); 2]) -> HeaderValue {
    let mut text = String::with_capacity(name.len() + 32);
    text.push('"');
    for c in name.chars() {
        match c {
            '"' | '\\' => {
                text.push('\\');
                text.push(c);
            }
            ' '..='~' => text.push(c),
            // A structured string is ASCII without control characters.
            _ => text.push('?'),
        }
    }
    text.push('"');
    for (key, value) in parameters {
        // Writing to a `String` cannot fail.
        let _ = write!(text, ";{key}={}", value.min(MAX_INTEGER));
    }
    // Only printable ASCII was written, so the fallback is never needed.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("\"invalid\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_structured_and_times_are_rounded_up() {
        assert_eq!(policy("default", 100, Duration::from_secs(60)), "\"default\";q=100;w=60");
        assert_eq!(limit("default", 50, Duration::from_nanos(29_000_000_001)), "\"default\";r=50;t=30");
        assert_eq!(retry_after(Duration::from_nanos(1)), "1");
        assert_eq!(retry_after(Duration::ZERO), "0");
        assert_eq!(retry_after(Duration::from_secs(7)), "7");
    }

    #[test]
    fn no_name_or_number_breaks_a_field() {
        assert_eq!(
            policy("a\"b\\c\r\nü", u64::MAX, Duration::MAX),
            "\"a\\\"b\\\\c???\";q=999999999999999;w=999999999999999"
        );
    }
}
