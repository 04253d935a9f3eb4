//! The breaker as a machine: no clock, no async, no user code.
//!
//! One word holds what every call must know: state, generation, failures in a row. A call that is let
//! through while closed reads it, and a success reads it again: no lock, and no write but its own
//! counter. Failures, probes and changes of state go through one mutex; they are rare, and need to see
//! each other.
//!
//! A ticket carries the generation in which it was given. Every change of state begins a new one, so the
//! result of a call admitted earlier is counted in the statistics but cannot decide anything any more.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::clock::Tick;
use crate::outcome::Outcome;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, Striped, lock};
use crate::window::{Mark, Totals};

use super::config::{Config, MAX_CONSECUTIVE, Window};
use super::counter::{Counter, Counters, Place, Rule};
use super::state::{CircuitBreakerSnapshot, CircuitBreakerStats, CircuitState, TripReason};
use super::trip::Trip;

// The word: generation (41 bits) | failures in a row (20 bits) | state (3 bits).
pub(super) const STATE: u64 = 7;
const FAILURE: u64 = 1 << 3;
pub(super) const FAILURES: u64 = (MAX_CONSECUTIVE as u64) << 3;
pub(super) const GENERATION: u32 = 23;

/// A refusal in half-open or during a ramp cannot know when its turn comes, only that it is soon.
const SOON: u64 = 1_000_000_000;

/// A share of one, in the sum of the shares during a ramp. A power of two, so that it may wrap.
const RAMP_WHOLE: u64 = 1 << 32;

/// Permission for one call: generation (41 bits) | number of the probe (23 bits, 0 for none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl Ticket {
    /// Where nothing is counted: disabled, or let through in shadow mode. No generation is zero.
    pub(super) const UNCOUNTED: Self = Self(0);

    #[inline]
    fn of(word: u64) -> Self {
        Self(word >> GENERATION << GENERATION)
    }

    fn for_probe(self, probe: u32) -> Self {
        Self(self.0 | u64::from(probe))
    }

    fn generation(self) -> u64 {
        self.0 >> GENERATION
    }

    pub(super) fn probe(self) -> u64 {
        self.0 & ((1 << GENERATION) - 1)
    }
}

/// Why a call was refused. One word, so that a result of it travels in registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Refusal {
    /// Nanoseconds; `u64::MAX` if not known.
    retry_after: u64,
}

impl Refusal {
    const UNKNOWN: Self = Self { retry_after: u64::MAX };

    fn until(until: Tick, now: Tick) -> Self {
        Self { retry_after: until.0.saturating_sub(now.0).min(u64::MAX - 1) }
    }

    fn or_soon(self) -> Self {
        Self { retry_after: self.retry_after.min(SOON) }
    }

    #[inline]
    pub(super) fn retry_after(self) -> Option<Duration> {
        (self != Self::UNKNOWN).then_some(Duration::from_nanos(self.retry_after))
    }
}

/// When a refusal that has been promised ends: the caller may take its time before it makes the call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Until(Tick);

impl Until {
    const UNKNOWN: Self = Self(Tick(u64::MAX));

    /// Nobody can tell.
    pub(super) fn soon(now: Tick) -> Self {
        Self(now.after(Duration::from_nanos(SOON)))
    }

    pub(super) fn refusal(self, now: Tick) -> Refusal {
        if self == Self::UNKNOWN { Refusal::UNKNOWN } else { Refusal::until(self.0, now) }
    }
}

/// A change of state, to be told to observers once no lock is held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) from: CircuitState,
    pub(super) to: CircuitState,
    pub(super) reason: TripReason,
    /// Later changes have larger numbers.
    pub(super) version: u64,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) word: AtomicU64,
    /// Open: when probes may try. Ramping: when the ramp ends. Written before the word that needs it.
    pub(super) until: AtomicU64,
    /// What of the settings is read without the lock. Written under it.
    pub(super) rule: AtomicU64,
    /// Length of the ramp that ends at `until`, in nanoseconds.
    pub(super) ramp: AtomicU64,
    /// Sum of the shares at which calls asked during the ramp; wraps around.
    pub(super) ramped: AtomicU64,
    pub(super) trip: Trip,
    pub(super) counters: Counters,
    pub(super) refused: Striped<AtomicU64>,
    pub(super) machine: Mutex<Machine>,
}

/// What only changes under the lock.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) config: Config,
    /// What the counter in use counts.
    pub(super) window: Option<Window>,
    pub(super) since: Tick,
    pub(super) reason: TripReason,
    pub(super) version: u64,
    /// Openings in a row, without a healthy time in between.
    pub(super) openings: u32,
    pub(super) last_open: Duration,
    pub(super) closed_at: Tick,
    pub(super) probes: Vec<Probe>,
    pub(super) probes_given: u32,
    /// Who waits for the inner service while it is not closed.
    pub(super) waiters: Vec<Probe>,
    pub(super) waiters_ever: u32,
    pub(super) probe_successes: u32,
    pub(super) probe_failures: u32,
    pub(super) probe_slow: u32,
    pub(super) rng: SmallRng,
    // Totals that the counter does not have.
    pub(super) successes: u64,
    /// Calls given up as slow, which the counter takes for successes.
    pub(super) given_up: u64,
    pub(super) failures: u64,
    pub(super) neutral: u64,
    pub(super) slow: u64,
    pub(super) changes: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) id: u32,
    pub(super) lease_until: Tick,
}

impl Core {
    /// `stripes` is a power of two: more of them scale better and take more memory.
    pub(super) fn new(config: Config, stripe_count: usize, seed: u64, now: Tick) -> Self {
        let counters = Counters::new(config.window, stripe_count);
        Self {
            word: AtomicU64::new(1 << GENERATION | CircuitState::Closed.to_bits()),
            until: AtomicU64::new(0),
            rule: AtomicU64::new(Rule::new(&config, &counters, Place::FIRST).0),
            ramp: AtomicU64::new(0),
            ramped: AtomicU64::new(0),
            trip: Trip::default(),
            counters,
            refused: Striped::new(stripe_count),
            machine: Mutex::new(Machine {
                config,
                window: config.window,
                since: now,
                reason: TripReason::None,
                version: 0,
                openings: 0,
                last_open: Duration::ZERO,
                closed_at: now,
                probes: Vec::new(),
                probes_given: 0,
                waiters: Vec::new(),
                waiters_ever: 0,
                probe_successes: 0,
                probe_failures: 0,
                probe_slow: 0,
                rng: SmallRng::seed_from_u64(seed),
                successes: 0,
                given_up: 0,
                failures: 0,
                neutral: 0,
                slow: 0,
                changes: 0,
            }),
        }
    }

    #[inline]
    pub(super) fn rule(&self) -> Rule {
        Rule(self.rule.load(Ordering::Acquire))
    }

    /// The counter in use. Who does not hold the lock takes it from a rule that it has read.
    pub(super) fn counter(&self) -> &Counter {
        self.counters.at(self.rule().place())
    }

    /// The way of every call while all is well: one load, no clock.
    #[inline]
    pub(super) fn pass(&self) -> Option<Ticket> {
        let word = self.word.load(Ordering::Acquire);
        (word & 7 == CircuitState::Closed.to_bits()).then_some(Ticket::of(word))
    }

    /// Decides about a call in any state.
    pub(super) fn admit(&self, now: Tick) -> (Result<Ticket, Refusal>, Option<Change>) {
        let word = self.word.load(Ordering::Acquire);
        let until = Tick(self.until.load(Ordering::Acquire));
        match CircuitState::from_bits(word) {
            CircuitState::Closed | CircuitState::ForcedClosed => (Ok(Ticket::of(word)), None),
            CircuitState::Disabled => (Ok(Ticket::UNCOUNTED), None),
            CircuitState::ForcedOpen => (Err(self.refuse(Refusal::UNKNOWN)), None),
            CircuitState::Open if now < until => {
                (Err(self.refuse(Refusal::until(until, now))), None)
            }
            CircuitState::Ramping if now < until => (self.ramp(word, now, until), None),
            CircuitState::Open | CircuitState::Ramping | CircuitState::HalfOpen => {
                self.admit_locked(now)
            }
        }
    }

    /// Whether a call made now would be refused, or be a probe if anything. Takes and changes nothing.
    #[inline]
    pub(super) fn is_in_doubt(&self) -> bool {
        matches!(
            CircuitState::from_bits(self.word.load(Ordering::Acquire)),
            CircuitState::Open | CircuitState::HalfOpen | CircuitState::ForcedOpen
        )
    }

    /// How long a shut breaker refuses; `None` if it would let a call through after all. Not counted.
    pub(super) fn shut(&self, now: Tick) -> Option<Until> {
        let word = self.word.load(Ordering::Acquire);
        let until = Tick(self.until.load(Ordering::Acquire));
        match CircuitState::from_bits(word) {
            CircuitState::ForcedOpen => Some(Until::UNKNOWN),
            CircuitState::Open if now < until => Some(Until(until)),
            _ => None,
        }
    }

    /// Whether half-open has no place for another probe now.
    pub(super) fn probes_taken(&self, now: Tick) -> bool {
        let machine = lock(&self.machine);
        let in_flight = machine.probes.iter().filter(|p| p.lease_until > now).count();
        self.state() == CircuitState::HalfOpen
            && in_flight + machine.probe_results() >= machine.config.half_open_calls as usize
    }

    pub(super) fn count_refusal(&self) {
        self.refused.add_one(|count| count);
    }

    fn refuse(&self, refusal: Refusal) -> Refusal {
        self.count_refusal();
        refusal
    }

    /// Lets through a share that grows from a tenth to all. The shares at which calls ask are added up, and
    /// a call with which the sum reaches a whole number passes: evenly spread, without a random draw,
    /// and no more and no fewer than they add up to, however fast the share grows between two calls.
    fn ramp(&self, word: u64, now: Tick, until: Tick) -> Result<Ticket, Refusal> {
        let ramp = self.ramp.load(Ordering::Acquire).max(1);
        let left = until.0.saturating_sub(now.0).min(ramp);
        let missing = u128::from(left) * u128::from(RAMP_WHOLE * 9 / 10) / u128::from(ramp);
        let share = RAMP_WHOLE - u64::try_from(missing).unwrap_or(RAMP_WHOLE);
        let before = self.ramped.fetch_add(share, Ordering::Relaxed);
        if before.wrapping_add(share) / RAMP_WHOLE != before / RAMP_WHOLE {
            Ok(Ticket::of(word))
        } else {
            Err(self.refuse(Refusal::until(until, now).or_soon()))
        }
    }

    #[cold]
    fn admit_locked(&self, now: Tick) -> (Result<Ticket, Refusal>, Option<Change>) {
        let mut machine = lock(&self.machine);
        let change = self.advance(&mut machine, now);
        let word = self.word.load(Ordering::Relaxed);
        if CircuitState::from_bits(word) == CircuitState::HalfOpen {
            return (self.take_probe(&mut machine, word, now), change);
        }
        // The state moved on while we waited for the lock (or just now). It is not half-open, and
        // nothing is due, so this does not come back here. The lock is held on, so that it stays so: a
        // further change would have to be told, too.
        let (result, _) = self.admit(now);
        drop(machine);
        (result, change)
    }

    fn take_probe(&self, machine: &mut Machine, word: u64, now: Tick) -> Result<Ticket, Refusal> {
        machine.probes.retain(|probe| probe.lease_until > now);
        if machine.probes.len() + machine.probe_results() < machine.config.half_open_calls as usize
        {
            machine.probes_given = (machine.probes_given + 1) % (1 << GENERATION);
            let id = machine.probes_given.max(1);
            let lease_until = now.after(machine.config.probe_lease);
            machine.probes.push(Probe { id, lease_until });
            return Ok(Ticket::of(word).for_probe(id));
        }
        let next = machine.probes.iter().map(|probe| probe.lease_until).min();
        let end = machine.since.after(machine.config.half_open_for);
        let until = next.map_or(end, |next| next.min(end));
        Err(self.refuse(Refusal::until(until, now).or_soon()))
    }

    /// Records a plain success the fast way. False: it needs [`record`](Self::record).
    #[inline]
    pub(super) fn succeed(&self, rule: Rule, made: Ticket, now: Tick) -> bool {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            if !CircuitState::counts(word) || Ticket::of(word) != made {
                return false;
            }
            if word & FAILURES == 0 {
                break;
            }
            // Ends a run of failures. The whole word is compared, so a success of an earlier generation
            // cannot end a run of this one.
            match self.word.compare_exchange_weak(
                word,
                word & !FAILURES,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(current) => word = current,
            }
        }
        self.counters.at(rule.place()).record(now, Mark::SUCCESS);
        true
    }

    /// Records any result of a call that took `elapsed`.
    #[cold]
    pub(super) fn record(
        &self,
        ticket: Ticket,
        outcome: Outcome,
        elapsed: Duration,
        now: Tick,
    ) -> Option<Change> {
        if ticket == Ticket::UNCOUNTED {
            return None;
        }
        // The settings are read once the lock is held: all of this goes by the same ones.
        let mut machine = lock(&self.machine);
        let slow = machine.config.slow.is_some_and(|slow| elapsed > slow.after);
        let failed = match outcome {
            Outcome::Failure(_) => true,
            Outcome::Cancelled { elapsed } => {
                machine.config.cancelled_after.is_some_and(|after| elapsed > after)
            }
            _ => false,
        };
        let succeeded = outcome == Outcome::Success;
        let gave_up = matches!(outcome, Outcome::Cancelled { .. });
        // A cancelled call is no success, but having waited long it tells that the callee is slow.
        let neutral = !(failed || succeeded || gave_up && slow);

        machine.slow += u64::from(slow);
        machine.failures += u64::from(failed);
        machine.neutral += u64::from(!failed && !succeeded);
        let word = self.word.load(Ordering::Relaxed);
        let state = CircuitState::from_bits(word);
        if word >> GENERATION != ticket.generation() {
            machine.successes += u64::from(succeeded);
            return None;
        }
        match state {
            CircuitState::Closed | CircuitState::Ramping | CircuitState::ForcedClosed => {
                if neutral {
                    return None;
                }
                if failed || succeeded {
                    self.count_in_a_row(failed);
                }
                self.counter().record(now, Mark { failed, slow });
                // The counter takes what is not failed for a success.
                machine.given_up += u64::from(gave_up && !failed);
                if state == CircuitState::ForcedClosed {
                    return None;
                }
                let reason = self.judge(&machine, now)?;
                self.trip.remember(&machine.config, reason);
                Some(self.enter(&mut machine, CircuitState::Open, reason, now))
            }
            CircuitState::HalfOpen => {
                machine.successes += u64::from(succeeded);
                // Not there: its lease ran out and somebody else probes in its place.
                let place = machine
                    .probes
                    .iter()
                    .position(|probe| u64::from(probe.id) == ticket.probe())?;
                machine.probes.swap_remove(place);
                if neutral {
                    return None;
                }
                // A probe given up as slow has not shown that the callee is well.
                let failed = failed || gave_up;
                if failed {
                    self.count_in_a_row(true);
                }
                machine.probe_failures += u32::from(failed);
                machine.probe_successes += u32::from(!failed);
                machine.probe_slow += u32::from(slow);
                self.decide(&mut machine, now)
            }
            CircuitState::Open | CircuitState::ForcedOpen | CircuitState::Disabled => {
                machine.successes += u64::from(succeeded);
                None
            }
        }
    }

    fn count_in_a_row(&self, failed: bool) {
        // `fetch_update`: a success may be ending the run at the same time.
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            if !failed {
                Some(word & !FAILURES)
            } else if word & FAILURES == FAILURES {
                None
            } else {
                Some(word + FAILURE)
            }
        });
    }

    /// The state, after the change that is due, if any.
    pub(super) fn poll(&self, now: Tick) -> (CircuitState, Option<Change>) {
        let change = match self.state() {
            CircuitState::Open | CircuitState::HalfOpen | CircuitState::Ramping => {
                self.advance(&mut lock(&self.machine), now)
            }
            _ => None,
        };
        (self.state(), change)
    }

    /// Whether it would be closed, or would try a probe, if it were called now: forgetting it loses no
    /// more than its window. Not while an operator has a say.
    pub(super) fn is_idle(&self, now: Tick) -> bool {
        let until = Tick(self.until.load(Ordering::Acquire));
        match self.state() {
            CircuitState::Closed => true,
            CircuitState::Open | CircuitState::Ramping => now >= until,
            CircuitState::HalfOpen => {
                let machine = lock(&self.machine);
                now >= machine.since.after(machine.config.half_open_for)
            }
            CircuitState::ForcedOpen | CircuitState::ForcedClosed | CircuitState::Disabled => false,
        }
    }

    pub(super) fn state(&self) -> CircuitState {
        CircuitState::from_bits(self.word.load(Ordering::Acquire))
    }

    pub(super) fn failure_count(&self) -> u32 {
        let word = self.word.load(Ordering::Acquire);
        u32::try_from((word & FAILURES) >> 3).unwrap_or(u32::MAX)
    }

    fn stats_locked(&self, machine: &MutexGuard<'_, Machine>) -> CircuitBreakerStats {
        let successful_calls =
            (self.counters.successes_ever() + machine.successes).saturating_sub(machine.given_up);
        let failed_calls = machine.failures;
        let rejected_calls = self.refused.sum(|count| count);
        CircuitBreakerStats {
            total_calls: successful_calls + failed_calls + rejected_calls,
            successful_calls,
            failed_calls,
            rejected_calls,
            state_changes: machine.changes,
            neutral_calls: machine.neutral,
            slow_calls: machine.slow,
        }
    }

    pub(super) fn stats(&self) -> CircuitBreakerStats {
        self.stats_locked(&lock(&self.machine))
    }

    pub(super) fn snapshot(&self, now: Tick) -> CircuitBreakerSnapshot {
        self.describe(now).0
    }

    /// With the settings that it goes by.
    pub(super) fn describe(&self, now: Tick) -> (CircuitBreakerSnapshot, Config) {
        let machine = lock(&self.machine);
        let totals = match machine.config.window {
            Some(_) => self.counter().totals(now),
            None => Totals::default(),
        };
        let state = self.state();
        let until = Tick(self.until.load(Ordering::Acquire));
        let in_flight = machine.probes.iter().filter(|probe| probe.lease_until > now).count();
        let snapshot = CircuitBreakerSnapshot {
            state,
            in_state: now.since(machine.since),
            reason: machine.reason,
            next_probe: (state == CircuitState::Open).then(|| until.since(now)),
            failure_count: self.failure_count(),
            window_calls: totals.calls,
            failure_rate: totals.failure_rate(),
            slow_rate: totals.slow_rate(),
            probes_in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
            stats: self.stats_locked(&machine),
        };
        (snapshot, machine.config)
    }
}

impl Machine {
    fn probe_results(&self) -> usize {
        (self.probe_successes + self.probe_failures) as usize
    }
}
