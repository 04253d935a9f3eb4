//! What a breaker tells about itself: plain values.

use std::fmt;
use std::time::Duration;

/// The state of a circuit breaker. Closed means healthy: calls flow, as current does in a closed circuit.
///
/// ```
/// use buttress::circuit_breaker::CircuitState;
/// assert_eq!(CircuitState::HalfOpen.as_str(), "half_open");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitState {
    /// Calls flow and are counted.
    Closed,
    /// Just closed after an outage, and configured to ramp up: a growing share of calls flows.
    Ramping,
    /// Calls are refused until the open time has passed.
    Open,
    /// A few probe calls find out whether the callee has recovered; all others are refused.
    HalfOpen,
    /// An operator opened it. Stays until `reset` or another command.
    ForcedOpen,
    /// An operator closed it: calls flow and are counted, but it never trips.
    ForcedClosed,
    /// An operator switched it off: calls flow and nothing is counted.
    Disabled,
}

impl CircuitState {
    /// Lower-case name with underscores, for labels.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitState;
    /// assert_eq!(CircuitState::Closed.as_str(), "closed");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Ramping => "ramping",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
            Self::Disabled => "disabled",
        }
    }

    pub(super) const fn to_bits(self) -> u64 {
        match self {
            Self::Closed => 0,
            Self::Ramping => 1,
            Self::ForcedClosed => 2,
            Self::Open => 3,
            Self::HalfOpen => 4,
            Self::ForcedOpen => 5,
            Self::Disabled => 6,
        }
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        match bits & 7 {
            0 => Self::Closed,
            1 => Self::Ramping,
            2 => Self::ForcedClosed,
            3 => Self::Open,
            4 => Self::HalfOpen,
            5 => Self::ForcedOpen,
            _ => Self::Disabled,
        }
    }

    /// Whether calls are let through and counted: `from_bits(word)` would be one of the first three.
    #[inline]
    pub(super) const fn counts(bits: u64) -> bool {
        bits & 7 <= 2
    }
}

impl fmt::Display for CircuitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a breaker is in its state: what was measured, against which threshold.
///
/// ```
/// use buttress::circuit_breaker::TripReason;
/// let reason = TripReason::FailureRate { rate: 0.75, threshold: 0.5, calls: 40 };
/// assert_eq!(reason.to_string(), "75.0 % of the last 40 calls failed, threshold 50.0 %");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum TripReason {
    /// It has never tripped, or it was reset.
    None,
    /// Too many failures in a row.
    ConsecutiveFailures {
        /// Failures in a row.
        count: u32,
        /// The configured number.
        threshold: u32,
    },
    /// Too large a share of the window failed.
    FailureRate {
        /// Measured share, 0 to 1.
        rate: f64,
        /// Configured share.
        threshold: f64,
        /// Calls in the window.
        calls: u64,
    },
    /// Too large a share of the window was slow.
    SlowCallRate {
        /// Measured share, 0 to 1.
        rate: f64,
        /// Configured share.
        threshold: f64,
        /// Calls in the window.
        calls: u64,
    },
    /// The open time has passed: probes may try.
    OpenTimePassed,
    /// Probes failed.
    ProbesFailed {
        /// Probes that failed or were too slow.
        failures: u32,
        /// Probes allowed at a time.
        probes: u32,
    },
    /// Probes succeeded.
    ProbesSucceeded {
        /// Probes that succeeded.
        successes: u32,
    },
    /// The probes brought no verdict within the bounded stay in half-open.
    NoVerdict,
    /// The ramp after closing has ended.
    RampEnded,
    /// An operator did it.
    Operator,
}

impl fmt::Display for TripReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::None => f.write_str("never tripped"),
            Self::ConsecutiveFailures { count, threshold } => {
                write!(f, "{count} failures in a row, threshold {threshold}")
            }
            Self::FailureRate { rate, threshold, calls } => write!(
                f,
                "{:.1} % of the last {calls} calls failed, threshold {:.1} %",
                rate * 100.0,
                threshold * 100.0
            ),
            Self::SlowCallRate { rate, threshold, calls } => write!(
                f,
                "{:.1} % of the last {calls} calls were slow, threshold {:.1} %",
                rate * 100.0,
                threshold * 100.0
            ),
            Self::OpenTimePassed => f.write_str("open time passed"),
            Self::ProbesFailed { failures, probes } => {
                write!(f, "{failures} of {probes} probes failed")
            }
            Self::ProbesSucceeded { successes } => write!(f, "{successes} probes succeeded"),
            Self::NoVerdict => f.write_str("probes brought no verdict in time"),
            Self::RampEnded => f.write_str("ramp ended"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

/// Totals since the breaker was made. They only grow; `reset` leaves them.
///
/// ```
/// use buttress::circuit_breaker::CircuitBreaker;
/// let breaker = CircuitBreaker::new("db");
/// breaker.call_blocking(|| Ok::<_, std::io::Error>(())).unwrap();
/// let stats = breaker.stats();
/// assert_eq!((stats.total_calls, stats.successful_calls), (1, 1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CircuitBreakerStats {
    /// Successful, failed and rejected calls together.
    pub total_calls: u64,
    /// Calls judged a success.
    pub successful_calls: u64,
    /// Calls judged a failure, cancelled ones that count as failures included.
    pub failed_calls: u64,
    /// Calls refused; in shadow mode those that would have been.
    pub rejected_calls: u64,
    /// Changes of state; `reset` does not count as one.
    pub state_changes: u64,
    /// Finished calls that say nothing about the callee: ignored and throttled ones, and calls cancelled
    /// too early to blame the callee. Not in `total_calls`.
    pub neutral_calls: u64,
    /// Calls that were slower than configured, whatever else they came to.
    pub slow_calls: u64,
}

/// A consistent picture of a breaker at one instant. Taking it changes nothing.
///
/// ```
/// use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
/// let breaker = CircuitBreaker::new("db");
/// let now = breaker.snapshot();
/// assert_eq!(now.state, CircuitState::Closed);
/// assert_eq!(now.next_probe, None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct CircuitBreakerSnapshot {
    /// State as stored: an open breaker whose time has passed is still `Open` here until the next call.
    pub state: CircuitState,
    /// Time since the last change of state.
    pub in_state: Duration,
    /// Why it is in this state.
    pub reason: TripReason,
    /// When open: time until probes may try, zero if they may now.
    pub next_probe: Option<Duration>,
    /// Failures in a row.
    pub failure_count: u32,
    /// Calls in the window; 0 without one.
    pub window_calls: u64,
    /// Share of them that failed, 0 to 1.
    pub failure_rate: f64,
    /// Share of them that were slow, 0 to 1.
    pub slow_rate: f64,
    /// Probes in flight.
    pub probes_in_flight: u32,
    /// Totals.
    pub stats: CircuitBreakerStats,
}
