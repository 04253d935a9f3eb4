//! How a breaker changes state: what trips it, what its probes decide, what time and operators do.
//! Everything here runs under the machine's lock.

use std::time::Duration;

use rand::RngExt;

use crate::clock::{Tick, nanos};
use crate::sync::atomic::Ordering;
use crate::sync::lock;

use super::config::Config;
use super::core::{Change, Core, FAILURES, GENERATION, Machine, STATE};
use super::counter::Rule;
use super::state::{CircuitState, TripReason};

impl Core {
    /// Makes the change of state that time alone has brought about, if any.
    pub(super) fn advance(&self, machine: &mut Machine, now: Tick) -> Option<Change> {
        let until = Tick(self.until.load(Ordering::Relaxed));
        match self.state() {
            CircuitState::Open if now >= until => {
                Some(self.enter(machine, CircuitState::HalfOpen, TripReason::OpenTimePassed, now))
            }
            CircuitState::HalfOpen if now >= machine.since.after(machine.config.half_open_for) => {
                Some(self.enter(machine, CircuitState::Open, TripReason::NoVerdict, now))
            }
            CircuitState::Ramping if now >= until => {
                Some(self.enter(machine, CircuitState::Closed, TripReason::RampEnded, now))
            }
            _ => None,
        }
    }

    /// Whether what has been counted trips the breaker.
    pub(super) fn judge(&self, machine: &Machine, now: Tick) -> Option<TripReason> {
        let config = &machine.config;
        let count = self.failure_count();
        if let Some(threshold) = config.consecutive
            && count >= threshold
        {
            return Some(TripReason::ConsecutiveFailures { count, threshold });
        }
        config.window?;
        let totals = self.counter().totals(now);
        if totals.calls < u64::from(config.min_calls) || totals.calls == 0 {
            return None;
        }
        let calls = totals.calls;
        if let Some(threshold) = config.failure_rate
            && totals.failure_rate() >= threshold
        {
            return Some(TripReason::FailureRate { rate: totals.failure_rate(), threshold, calls });
        }
        if let Some(slow) = config.slow
            && totals.slow_rate() >= slow.rate
        {
            let threshold = slow.rate;
            return Some(TripReason::SlowCallRate { rate: totals.slow_rate(), threshold, calls });
        }
        None
    }

    /// Ends half-open as soon as the outstanding probes cannot change the result.
    pub(super) fn decide(&self, machine: &mut Machine, now: Tick) -> Option<Change> {
        let config = machine.config;
        let probes = config.half_open_calls;
        let needed = |share: f64| least(share, probes);
        let failures_to_open = config.failure_rate.map_or(1, needed);
        let slow_to_open = config.slow.map_or(u32::MAX, |slow| needed(slow.rate));
        if machine.probe_failures >= failures_to_open || machine.probe_slow >= slow_to_open {
            let failures = machine.probe_failures.max(machine.probe_slow);
            let reason = TripReason::ProbesFailed { failures, probes };
            self.trip.remember(&config, reason);
            return Some(self.enter(machine, CircuitState::Open, reason, now));
        }
        let outstanding = probes.saturating_sub(machine.probe_successes + machine.probe_failures);
        let certain = machine.probe_failures + outstanding < failures_to_open
            && machine.probe_slow.saturating_add(outstanding) < slow_to_open;
        if !certain {
            return None;
        }
        let to = match config.ramp {
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
                self.counter().clear();
                failures = 0;
                machine.closed_at = now;
                let ramp = machine.config.ramp.unwrap_or_default();
                self.ramp.store(nanos(ramp), Ordering::Release);
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
        let base = machine.config.open_for;
        let Some(max) = machine.config.open_for_max else { return base };
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
            self.trip.forget();
        }
        (from != to).then_some(change)
    }

    /// Goes by other settings from now on. What is counted stays if the window is the same; the state
    /// stays in any case, unless the probes have already given the verdict that is now asked for.
    pub(super) fn reconfigure(&self, config: Config, now: Tick) -> Option<Change> {
        let mut machine = lock(&self.machine);
        machine.config = config;
        let mut place = self.rule().place();
        if config.window != machine.window {
            place = self.counters.change_to(config.window, place);
            if config.window.is_some() || !self.counters.at(place).is_window() {
                machine.window = config.window;
            }
        }
        // Release: publishes the counter.
        self.rule.store(Rule::new(&config, &self.counters, place).0, Ordering::Release);
        match self.state() {
            CircuitState::Open => {
                let latest = now.after(config.open_for_max.unwrap_or(config.open_for)).0;
                if self.until.load(Ordering::Relaxed) > latest {
                    self.until.store(latest, Ordering::Release);
                }
                None
            }
            CircuitState::HalfOpen => self.decide(&mut machine, now),
            _ => None,
        }
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
