//! The `RateLimit` header fields.

use std::borrow::Cow;
use std::ops::Range;

use ::http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use bytes::Bytes;

use super::retry_after::{PUSHBACK, seconds_up};
use super::sheet::{Sheet, value};
use crate::rejection::{Rejection, RejectionDetail};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// RFC 9651, section 3.3.1: an integer has at most 15 digits.
const LARGEST_INTEGER: u64 = 999_999_999_999_999;

/// `RateLimit-Policy: "name";q=limit;w=seconds` and `RateLimit: "name";r=remaining;t=seconds`.
/// Source: draft-ietf-httpapi-ratelimit-headers-10.
#[derive(Clone)]
pub(super) struct RateLimitFields {
    policy: HeaderValue,
    limit: HeaderValue,
}

/// Where on a sheet they are.
pub(super) struct Places {
    policy: Range<usize>,
    limit: Range<usize>,
}

impl RateLimitFields {
    /// Limit, remaining, and seconds of reset and window.
    #[inline]
    pub(super) fn numbers(detail: RejectionDetail) -> Option<[u64; 4]> {
        match detail {
            RejectionDetail::Quota { limit, remaining, reset, window } => {
                Some([limit, remaining, seconds_up(reset), seconds_up(window)])
            }
            _ => None,
        }
    }

    pub(super) fn write<const ROOM: usize>(
        numbers: [u64; 4],
        name: &str,
        sheet: &mut Sheet<ROOM>,
    ) -> Places {
        let [limit, remaining, reset, window] = numbers.map(|number| number.min(LARGEST_INTEGER));
        let name = quotable(name);
        let start = sheet.len();
        sheet.put(b"\"");
        sheet.put(&name);
        sheet.put(b"\";q=");
        sheet.number(limit);
        if window > 0 {
            sheet.put(b";w=");
            sheet.number(window);
        }
        let middle = sheet.len();
        sheet.put(b"\"");
        sheet.put(&name);
        sheet.put(b"\";r=");
        sheet.number(remaining);
        sheet.put(b";t=");
        sheet.number(reset);
        Places { policy: start..middle, limit: middle..sheet.len() }
    }

    pub(super) fn insert(self, headers: &mut HeaderMap) {
        headers.insert(RATE_LIMIT_POLICY, self.policy);
        headers.insert(RATE_LIMIT, self.limit);
    }
}

impl Places {
    /// Printable ASCII, so they are values.
    pub(super) fn values(self, sheet: &Bytes) -> Option<RateLimitFields> {
        let (policy, limit) = (value(sheet, self.policy)?, value(sheet, self.limit)?);
        Some(RateLimitFields { policy, limit })
    }
}

#[inline]
pub(super) fn insert(name: HeaderName, value: Option<HeaderValue>, headers: &mut HeaderMap) {
    if let Some(value) = value {
        headers.insert(name, value);
    }
}

/// Adds the `RateLimit` fields if `detail` is a quota.
pub(crate) fn rate_limit_fields(detail: RejectionDetail, name: &str, headers: &mut HeaderMap) {
    let mut sheet = Sheet::<112>::new();
    if let Some(numbers) = RateLimitFields::numbers(detail) {
        let places = RateLimitFields::write(numbers, name, &mut sheet);
        if let Some(fields) = places.values(&sheet.finish()) {
            fields.insert(headers);
        }
    }
}

/// Adds the `RateLimit` fields to the answer of a refused call, over what is there, and `Retry-After` if
/// there is none: the responder may have spread it, so that callers do not all come back at once.
pub(crate) fn refusal_fields(why: &Rejection, headers: &mut HeaderMap) {
    let mut sheet = Sheet::<112>::new();
    let places = RateLimitFields::numbers(why.detail())
        .map(|numbers| RateLimitFields::write(numbers, why.name(), &mut sheet));
    // gRPC has a field of its own.
    let told = headers.contains_key(RETRY_AFTER) || headers.contains_key(PUSHBACK);
    let wait = match why.retry_after() {
        Some(wait) if !told => Some(sheet.number(seconds_up(wait))),
        _ => None,
    };

    // Our own responder has written the same already: then nothing is left to do, and no memory needed.
    let is_there = |name: HeaderName, at: &Range<usize>| {
        let values = headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        values.eq(sheet.text().get(at.clone()))
    };
    let places = places.filter(|places| {
        !is_there(RATE_LIMIT_POLICY, &places.policy) || !is_there(RATE_LIMIT, &places.limit)
    });
    if places.is_none() && wait.is_none() {
        return;
    }
    let sheet = sheet.finish();
    if let Some(fields) = places.and_then(|places| places.values(&sheet)) {
        fields.insert(headers);
    }
    if let Some(at) = wait {
        insert(RETRY_AFTER, value(&sheet, at), headers);
    }
}

/// The inside of a structured-field string. It knows printable ASCII only; anything else becomes `?`.
fn quotable(text: &str) -> Cow<'_, [u8]> {
    // All bytes are looked at, whatever they are: several at a time.
    let special = |byte: &u8| !(0x20..0x7f).contains(byte) | (*byte == b'"') | (*byte == b'\\');
    if !text.as_bytes().iter().fold(false, |found, byte| found | special(byte)) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut line = Vec::with_capacity(text.len() + 16);
    for c in text.chars() {
        match u8::try_from(c) {
            Ok(b @ (b'"' | b'\\')) => line.extend_from_slice(&[b'\\', b]),
            Ok(b @ b' '..=b'~') => line.push(b),
            _ => line.push(b'?'),
        }
    }
    Cow::Owned(line)
}
