//! `Retry-After` in both of its forms.

use std::time::{Duration, SystemTime};

use ::http::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// The longest wait a callee's wish is believed: 24 hours. Longer ones, even `10^30` seconds, count
/// as this.
///
/// It is an upper bound for the number, not advice to sleep that long: a retry policy drops a call
/// whose wait does not fit its own deadline.
///
/// ```
/// assert_eq!(buttress::http::MAX_RETRY_AFTER.as_secs(), 86_400);
/// ```
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads `Retry-After`: a number of seconds, or an HTTP date in any of its three spellings.
///
/// A date is taken relative to the response's own `Date`, so that a wrong clock on either side does
/// not matter, or to the wall clock if there is none. A moment in the past is zero. Values that are
/// neither form (negative, fractional, empty, not ASCII) are skipped; of several good ones the longest
/// counts; nothing exceeds [`MAX_RETRY_AFTER`]. Never panics.
///
/// Source: RFC 9110, section 10.2.3.
///
/// ```
/// use buttress::http::retry_after;
/// use http::HeaderMap;
/// use std::time::Duration;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("retry-after", "120".parse().unwrap());
/// assert_eq!(retry_after(&headers), Some(Duration::from_secs(120)));
///
/// headers.insert("date", "Fri, 31 Dec 1999 23:59:00 GMT".parse().unwrap());
/// headers.insert("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT".parse().unwrap());
/// assert_eq!(retry_after(&headers), Some(Duration::from_secs(59)));
///
/// headers.insert("retry-after", "soon".parse().unwrap());
/// assert_eq!(retry_after(&headers), None);
/// ```
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    retry_after_at(headers, SystemTime::now)
}

/// The wall clock is read only for a date without a `Date` beside it.
pub(super) fn retry_after_at(
    headers: &HeaderMap,
    wall_clock: impl Fn() -> SystemTime,
) -> Option<Duration> {
    // One field is legal; a handful is looked at so that a hostile peer cannot make us read thousands.
    headers
        .get_all(RETRY_AFTER)
        .iter()
        .take(8)
        .filter_map(|value| {
            let text = value.as_bytes().trim_ascii();
            decimal(text).map(Duration::from_secs).or_else(|| {
                let then = date(text)?;
                let now = headers.get(DATE).and_then(|value| date(value.as_bytes()));
                Some(then.duration_since(now.unwrap_or_else(&wall_clock)).unwrap_or_default())
            })
        })
        .map(|wait| wait.min(MAX_RETRY_AFTER))
        .max()
}

/// `1*DIGIT`, saturating.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        text.iter()
            .fold(0u64, |n, digit| n.saturating_mul(10).saturating_add(u64::from(digit - b'0'))),
    )
}

fn date(text: &[u8]) -> Option<SystemTime> {
    // The longest legal spelling, "Wednesday, 31-Dec-99 23:59:59 GMT", has 33 bytes.
    let text = text.trim_ascii();
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= 40)?;
    httpdate::parse_http_date(text).ok()
}

/// Seconds rounded up: a caller that waits exactly so long does not come too early.
pub(crate) fn seconds_up(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0))
}

/// Milliseconds rounded up.
pub(super) fn millis_up(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// What a gRPC server says about another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushback {
    None,
    Never,
    After(Duration),
}

pub(super) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Source: gRPC proposal A6. "If the value is not a valid number or is negative, do not retry."
pub(super) fn pushback(headers: &HeaderMap) -> Pushback {
    let Some(value) = headers.get(PUSHBACK) else { return Pushback::None };
    match decimal(value.as_bytes().trim_ascii()) {
        Some(millis) => Pushback::After(Duration::from_millis(millis).min(MAX_RETRY_AFTER)),
        None => Pushback::Never,
    }
}
