//! How a breaker changes state: what trips it, what its probes decide, what time and operators do.
//! Everything here runs under the machine's lock.

use std::time::Duration;

use rand::RngExt;

use crate::clock::{Tick, nanos};
use crate::sync::atomic::Ordering;
use crate::sync::lock;

use super::core::{Change, Core, FAILURES, GENERATION, Machine, STATE};
use super::state::{CircuitState, TripReason};

impl Core {
    /// Makes the change of state that time alone has brought about, if any.
    pub(super) fn advance(&self, machine: &mut Machine, now: Tick) -> Option<Change> {
        let until = Tick(self.until.load(Ordering::Relaxed));
        match self.state() {
            CircuitState::Open if now >= until => {
                Some(self.enter(machine, CircuitState::HalfOpen, TripReason::OpenTimePassed, now))
            }
            CircuitState::HalfOpen if now >= machine.since.after(self.config.half_open_for) => {
                Some(self.enter(machine, CircuitState::Open, TripReason::NoVerdict, now))
            }
            CircuitState::Ramping if now >= until => {
                Some(self.enter(machine, CircuitState::Closed, TripReason::RampEnded, now))
            }
            _ => None,
        }
    }

    /// Whether what has been counted trips the breaker.
    pub(super) fn judge(&self, now: Tick) -> Option<TripReason> {
        let count = self.failure_count();
        if let Some(threshold) = self.config.consecutive
            && count >= threshold
        {
            return Some(TripReason::ConsecutiveFailures { count, threshold });
        }
        let totals = self.counter.totals(now);
        if totals.calls < u64::from(self.config.min_calls) || totals.calls == 0 {
            return None;
        }
        let calls = totals.calls;
        if let Some(threshold) = self.config.failure_rate
            && totals.failure_rate() >= threshold
        {
            return Some(TripReason::FailureRate { rate: totals.failure_rate(), threshold, calls });
        }
        if let Some(slow) = self.config.slow
            && totals.slow_rate() >= slow.rate
        {
            let threshold = slow.rate;
            return Some(TripReason::SlowCallRate { rate: totals.slow_rate(), threshold, calls });
        }
        None
    }

    /// Ends half-open as soon as the outstanding probes cannot change the result.
    pub(super) fn decide(&self, machine: &mut Machine, now: Tick) -> Option<Change> {
        let probes = self.config.half_open_calls;
        let needed = |share: f64| least(share, probes);
        let failures_to_open = self.config.failure_rate.map_or(1, needed);
        let slow_to_open = self.config.slow.map_or(u32::MAX, |slow| needed(slow.rate));
        if machine.probe_failures >= failures_to_open || machine.probe_slow >= slow_to_open {
            let failures = machine.probe_failures.max(machine.probe_slow);
            let reason = TripReason::ProbesFailed { failures, probes };
            self.remember(reason);
            return Some(self.enter(machine, CircuitState::Open, reason, now));
        }
        let outstanding = probes.saturating_sub(machine.probe_successes + machine.probe_failures);
        let certain = machine.probe_failures + outstanding < failures_to_open
            && machine.probe_slow.saturating_add(outstanding) < slow_to_open;
        if !certain {
            return None;
        }
        let to = match self.config.ramp {
            Some(_) => CircuitState::Ramping,
            None => CircuitState::Closed,
        };
        let reason = TripReason::ProbesSucceeded { successes: machine.probe_successes };
        Some(self.enter(machine, to, reason, now))
    }

    pub(super) fn enter(
        &self,
        machine: &mut Machine,
        to: CircuitState,
        reason: TripReason,
        now: Tick,
    ) -> Change {
        let word = self.word.load(Ordering::Relaxed);
        let from = CircuitState::from_bits(word);
        machine.probes.clear();
        machine.probe_successes = 0;
        machine.probe_failures = 0;
        machine.probe_slow = 0;
        // The end of a ramp changes nothing for calls in flight or for what has been counted. Neither
        // does a reset while closed for the calls in flight.
        let ramped = from == CircuitState::Ramping && reason == TripReason::RampEnded;
        let same = ramped || from == CircuitState::Closed && to == CircuitState::Closed;
        let mut failures = word & FAILURES;
        if let TripReason::ConsecutiveFailures { count, .. } = reason {
            // A success may have ended the run just after it was judged: too late.
            failures = u64::from(count) << 3;
        }
        match to {
            CircuitState::Open => {
                let open_for = self.open_for(machine, from, now);
                self.until.store(now.after(open_for).0, Ordering::Release);
            }
            CircuitState::Closed if ramped => {}
            CircuitState::Closed | CircuitState::Ramping | CircuitState::ForcedClosed => {
                self.counter.clear();
                failures = 0;
                machine.closed_at = now;
                let ramp = self.config.ramp.unwrap_or_default();
                self.until.store(now.after(ramp).0, Ordering::Release);
                self.ramped.store(0, Ordering::Relaxed);
            }
            CircuitState::HalfOpen | CircuitState::ForcedOpen | CircuitState::Disabled => {}
        }
        // The lock is held, so only a success ending a run of failures can have changed the word since.
        if ramped {
            // Its generation goes on: the run must stay ended.
            let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                Some(word & !STATE | to.to_bits())
            });
        } else {
            // Its generation is over, and with it that run. Release: publishes `until` and the counter.
            let generation = (word >> GENERATION) + u64::from(!same);
            self.word.store(generation << GENERATION | failures | to.to_bits(), Ordering::Release);
        }
        machine.since = now;
        machine.reason = reason;
        machine.changes += 1;
        machine.version += 1;
        Change { from, to, reason, version: machine.version }
    }

    fn open_for(&self, machine: &mut Machine, from: CircuitState, now: Tick) -> Duration {
        let base = self.config.open_for;
        let Some(max) = self.config.open_for_max else { return base };
        let relapse = match from {
            CircuitState::HalfOpen => true,
            _ => now.since(machine.closed_at) < machine.last_open,
        };
        machine.openings = if relapse { machine.openings.saturating_add(1) } else { 0 };
        let doubled =
            nanos(base).saturating_mul(1_u64.checked_shl(machine.openings).unwrap_or(u64::MAX));
        let whole = doubled.min(nanos(max)).max(2);
        let drawn = whole / 2 + machine.rng.random_range(0..=whole / 2);
        machine.last_open = Duration::from_nanos(drawn);
        machine.last_open
    }

    /// An operator's command. `Closed` is a reset: it forgets failures and does not count as a change.
    pub(super) fn operate(&self, to: CircuitState, now: Tick) -> Option<Change> {
        let mut machine = lock(&self.machine);
        let from = self.state();
        if from == to && to != CircuitState::Closed {
            return None;
        }
        let change = self.enter(&mut machine, to, TripReason::Operator, now);
        if to == CircuitState::Closed {
            machine.changes -= 1;
            machine.openings = 0;
            machine.last_open = Duration::ZERO;
            machine.reason = TripReason::None;
            self.crossed.store(0, Ordering::Relaxed);
        }
        (from != to).then_some(change)
    }

    /// Keeps the numbers behind a trip where a refusal finds them without the lock.
    pub(super) fn remember(&self, reason: TripReason) {
        let (code, measured) = match reason {
            TripReason::ConsecutiveFailures { count, .. } => (1, f64::from(count)),
            TripReason::FailureRate { rate, .. } => (2, rate),
            TripReason::SlowCallRate { rate, .. } => (3, rate),
            TripReason::ProbesFailed { failures, .. } => (4, f64::from(failures)),
            _ => (0, 0.0),
        };
        self.measured.store(measured.to_bits(), Ordering::Relaxed);
        self.crossed.store(code, Ordering::Relaxed);
    }
}

/// The smallest number of `of` calls that is at least `share` of them, never zero.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 < share <= 1, of <= 1024"
)]
pub(super) fn least(share: f64, of: u32) -> u32 {
    let count = ((share * f64::from(of)).ceil() as u32).clamp(1, of);
    // 0.07 * 100 is a little above 7, but 7 / 100 is 0.07, which is what calls are judged by.
    if count > 1 && f64::from(count - 1) / f64::from(of) >= share { count - 1 } else { count }
}
