//! By when an answer is needed.

use std::fmt;
use std::time::Duration;

use crate::clock::{Tick, nanos, now};
use crate::error::ConfigError;

/// An instant after which nobody waits for the answer any more.
///
/// Without one each tier waits for its own timeout, and goes on with work whose result nobody will read: under overload
/// that is all that it does.
///
/// Carried along with a request (in its extensions, where it is an `http::Request`), so that every
/// layer can see whether it is worth starting something. Combining two keeps the earlier one: a
/// deadline is never extended. It is local to this process; over a wire send what
/// [remains](Self::remaining), for example as [`grpc-timeout`](Self::to_grpc_timeout).
///
/// ```
/// use buttress::Deadline;
/// use std::time::Duration;
///
/// let deadline = Deadline::after(Duration::from_secs(2));
/// assert!(deadline.remaining() <= Duration::from_secs(2));
/// assert!(!deadline.has_passed());
/// assert_eq!(deadline.earliest(Deadline::after(Duration::from_secs(9))), deadline);
/// assert_eq!(format!("{:?}", Deadline::after(Duration::ZERO)), "Deadline { remaining: 0ns }");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Tick);

impl Deadline {
    /// The given time from now. A time longer than 584 years means never.
    ///
    /// ```
    /// use std::time::Duration;
    /// assert!(!buttress::Deadline::after(Duration::MAX).has_passed());
    /// assert!(buttress::Deadline::after(Duration::ZERO).has_passed());
    /// ```
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self(now().after(duration))
    }

    /// Time left; zero once it has passed.
    ///
    /// ```
    /// use std::time::Duration;
    /// assert!(buttress::Deadline::after(Duration::ZERO).remaining().is_zero());
    /// ```
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.remaining_at(now())
    }

    /// Whether no time is left.
    ///
    /// ```
    /// use std::time::Duration;
    /// assert!(!buttress::Deadline::after(Duration::from_secs(60)).has_passed());
    /// ```
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of the two.
    ///
    /// ```
    /// use buttress::Deadline;
    /// use std::time::Duration;
    /// let soon = Deadline::after(Duration::from_secs(1));
    /// let late = Deadline::after(Duration::from_secs(5));
    /// assert_eq!(late.earliest(soon), soon);
    /// ```
    #[must_use]
    pub fn earliest(self, other: Self) -> Self {
        self.min(other)
    }

    /// Reads the value of a `grpc-timeout` header: 1 to 8 digits and a unit, `H`, `M`, `S`, `m`, `u`
    /// or `n` (hours to nanoseconds). The time counts from now.
    ///
    /// # Errors
    /// For anything else; no white space or sign is allowed.
    ///
    /// ```
    /// use buttress::Deadline;
    /// assert!(Deadline::from_grpc_timeout("250m").is_ok());
    /// assert!(Deadline::from_grpc_timeout("123456789m").is_err());
    /// ```
    pub fn from_grpc_timeout(value: &str) -> Result<Self, ConfigError> {
        parse_grpc_timeout(value).map(Self::after).ok_or_else(|| {
            // A header of a megabyte must not end up in a log.
            let shown: String = value.chars().take(16).collect();
            ConfigError::new(
                "grpc-timeout",
                format_args!("{shown:?}"),
                "1 to 8 digits and a unit of HMSmun",
            )
        })
    }

    /// What remains, as the value of a `grpc-timeout` header, in the finest unit that holds it in 8
    /// digits, rounded down: the callee must not work longer than we wait. `0n` once it has passed.
    ///
    /// ```
    /// use buttress::Deadline;
    /// use std::time::Duration;
    /// assert_eq!(Deadline::after(Duration::ZERO).to_grpc_timeout(), "0n");
    /// assert!(Deadline::after(Duration::from_secs(10)).to_grpc_timeout().ends_with('u'));
    /// ```
    #[must_use]
    pub fn to_grpc_timeout(self) -> String {
        format_grpc_timeout(self.remaining())
    }

    /// The deadline a request carries in its extensions: that of its [`Context`](crate::Context).
    ///
    /// ```
    /// use buttress::Deadline;
    /// use std::time::Duration;
    /// let mut request = http::Request::new(());
    /// assert_eq!(Deadline::of(request.extensions()), None);
    /// let deadline = Deadline::after(Duration::from_secs(1));
    /// deadline.put(request.extensions_mut());
    /// assert_eq!(Deadline::of(request.extensions()), Some(deadline));
    /// ```
    #[cfg(feature = "http")]
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Option<Self> {
        crate::context::Context::of(extensions).deadline()
    }

    /// Puts the deadline into the extensions of a request, unless it carries an earlier one.
    ///
    /// ```
    /// use buttress::Deadline;
    /// use std::time::Duration;
    /// let mut request = http::Request::new(());
    /// let soon = Deadline::after(Duration::from_secs(1));
    /// soon.put(request.extensions_mut());
    /// Deadline::after(Duration::from_secs(60)).put(request.extensions_mut());
    /// assert_eq!(Deadline::of(request.extensions()), Some(soon));
    /// ```
    #[cfg(feature = "http")]
    pub fn put(self, extensions: &mut http::Extensions) {
        let context = crate::context::Context::of(extensions);
        if context.deadline().is_none_or(|there| self < there) {
            context.with_deadline(self).put(extensions);
        }
    }

    pub(crate) fn at(tick: Tick) -> Self {
        Self(tick)
    }

    pub(crate) fn tick(self) -> Tick {
        self.0
    }

    pub(crate) fn remaining_at(self, now: Tick) -> Duration {
        self.0.since(now)
    }
}

/// What remains, since the instant itself says nothing to a reader.
impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadline").field("remaining", &self.remaining()).finish()
    }
}

const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

#[cfg(feature = "http")]
pub(crate) fn grpc_timeout(value: &str) -> Option<Duration> {
    parse_grpc_timeout(value)
}

fn parse_grpc_timeout(value: &str) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0u64, |n, digit| n * 10 + u64::from(digit - b'0'));
    let (_, scale) = UNITS.iter().find(|(name, _)| name == unit)?;
    // 99,999,999 hours are 11,400 years.
    Some(Duration::from_nanos(amount.saturating_mul(*scale)))
}

pub(crate) fn format_grpc_timeout(remaining: Duration) -> String {
    let left = nanos(remaining);
    for (unit, scale) in UNITS {
        if left / scale <= 99_999_999 {
            return format!("{}{}", left / scale, char::from(unit));
        }
    }
    "99999999H".to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grpc_timeouts_are_read_as_specified() {
        let secs = Duration::from_secs;
        for (text, expected) in [
            ("0n", Some(Duration::ZERO)),
            ("1H", Some(secs(3600))),
            ("2M", Some(secs(120))),
            ("3S", Some(secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("00000007S", Some(secs(7))),
            ("99999999H", Some(Duration::from_nanos(u64::MAX))),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("1h", None),
            ("-1S", None),
            ("+1S", None),
            (" 1S", None),
            ("1 S", None),
            ("1.5S", None),
            ("123456789S", None),
            ("1SS", None),
            ("\u{661}S", None),
            ("1\u{20ac}", None),
        ] {
            assert_eq!(parse_grpc_timeout(text), expected, "{text:?}");
        }
        let long = "9".repeat(1 << 20);
        let error = Deadline::from_grpc_timeout(&long).unwrap_err();
        assert!(error.to_string().len() < 200);
    }

    proptest! {
        #[test]
        fn what_is_sent_is_never_longer_than_what_remains(left: u64, shift in 0_u32..64) {
            let left = Duration::from_nanos(left >> shift);
            let text = format_grpc_timeout(left);
            prop_assert!(text.len() <= 9);
            let read = parse_grpc_timeout(&text).unwrap();
            prop_assert!(read <= left);
            // The next smaller unit, of which there are at most a thousand in this one, did not fit: so
            // this one is less than a part in 99,999 of it.
            prop_assert!(left - read <= left / 99_999);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_passes_exactly_when_its_time_is_over() {
        let deadline = Deadline::after(Duration::from_millis(10));
        tokio::time::advance(Duration::from_millis(9)).await;
        assert_eq!(deadline.remaining(), Duration::from_millis(1));
        assert!(!deadline.has_passed());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(deadline.has_passed());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(deadline.remaining(), Duration::ZERO);
    }
}
