//! The breaker against a slow, obvious one: any mixture of calls, results, dropped permits, waits,
//! resets and operators, under any configuration.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use proptest::prelude::*;

use super::CircuitBreaker;
use super::core::Core;
use super::permit::Permit;
use super::state::{CircuitBreakerSnapshot, CircuitBreakerStats, CircuitState, TripReason};
use crate::clock::{self, Tick};
use crate::outcome::Outcome;
use crate::window::Totals;

const MS: u64 = 1_000_000;

/// Times in milliseconds.
#[derive(Clone, Debug)]
struct Settings {
    consecutive: u32,
    rate: Option<f64>,
    /// After how long, and which share.
    slow: Option<(u64, f64)>,
    window: Window,
    min_calls: u32,
    probes: u32,
    open_for: u64,
    half_open_for: u64,
    lease: u64,
    ramp: Option<u64>,
    cancelled_after: u64,
}

#[derive(Clone, Copy, Debug)]
enum Window {
    Calls(u32),
    Time(u64),
}

impl Settings {
    fn has_rates(&self) -> bool {
        self.rate.is_some() || self.slow.is_some()
    }

    fn build(&self) -> CircuitBreaker {
        let ms = Duration::from_millis;
        let mut builder = CircuitBreaker::builder("model")
            .consecutive_failures(self.consecutive)
            .half_open_calls(self.probes)
            .open_for(ms(self.open_for))
            .half_open_for(ms(self.half_open_for))
            .probe_lease(ms(self.lease))
            .cancelled_after(ms(self.cancelled_after));
        if let Some(rate) = self.rate {
            builder = builder.failure_rate(rate);
        }
        if let Some((after, rate)) = self.slow {
            builder = builder.slow_calls(ms(after), rate);
        }
        if let Some(ramp) = self.ramp {
            builder = builder.ramp(ms(ramp));
        }
        if self.has_rates() {
            builder = builder.min_calls(self.min_calls);
            builder = match self.window {
                Window::Calls(calls) => builder.window_calls(calls),
                Window::Time(time) => builder.window(ms(time)),
            };
        }
        builder.build().unwrap()
    }
}

/// Up to `max`. Half of them are round, so that instants coincide.
fn time(max: u64) -> impl Strategy<Value = u64> {
    prop_oneof![1..max, (1..=max / 100).prop_map(|n| n * 100)]
}

fn share() -> impl Strategy<Value = f64> {
    (1_u32..=100).prop_map(|hundredths| f64::from(hundredths) / 100.0)
}

fn settings() -> impl Strategy<Value = Settings> {
    let window = prop_oneof![
        (1_u32..12).prop_map(Window::Calls),
        time(4_000).prop_map(|ms| Window::Time(ms.max(10)))
    ];
    let tripping = (
        prop_oneof![1 => 1_u32..5, 1 => Just(1000)],
        prop::option::of(share()),
        prop::option::of((time(1_500), share())),
        window,
        1_u32..12,
    );
    let recovering =
        (1_u32..5, time(3_000), time(3_000), time(3_000), prop::option::of(time(3_000)));
    (tripping, recovering, time(1_500)).prop_map(|(tripping, recovering, cancelled_after)| {
        let (consecutive, rate, slow, window, min_calls) = tripping;
        let (probes, open_for, half_open_for, lease, ramp) = recovering;
        let min_calls = match window {
            Window::Calls(calls) => min_calls.min(calls),
            Window::Time(_) => min_calls,
        };
        Settings {
            consecutive,
            rate,
            slow,
            window,
            min_calls,
            probes,
            open_for,
            half_open_for,
            lease: lease.min(half_open_for),
            ramp,
            cancelled_after,
        }
    })
}

/// A call in flight, as the model sees it.
#[derive(Clone, Copy, Debug)]
struct Call {
    id: usize,
    /// `None` where nothing is counted.
    generation: Option<u64>,
    since: u64,
}

/// Ticks in nanoseconds.
struct Model {
    settings: Settings,
    state: CircuitState,
    generation: u64,
    since: u64,
    until: u64,
    in_a_row: u32,
    /// What the window has seen since it was last cleared: when, failed, slow.
    calls: Vec<(u64, bool, bool)>,
    /// Call and end of its lease.
    probes: Vec<(usize, u64)>,
    probed: Totals,
    reason: TripReason,
    stats: CircuitBreakerStats,
}

impl Model {
    fn new(settings: Settings, now: u64) -> Self {
        Self {
            settings,
            state: CircuitState::Closed,
            generation: 0,
            since: now,
            until: 0,
            in_a_row: 0,
            calls: Vec::new(),
            probes: Vec::new(),
            probed: Totals::default(),
            reason: TripReason::None,
            stats: CircuitBreakerStats::default(),
        }
    }

    fn enter(&mut self, to: CircuitState, reason: TripReason, now: u64) {
        let ramp_ended = reason == TripReason::RampEnded;
        match to {
            CircuitState::Open => self.until = now + self.settings.open_for * MS,
            CircuitState::Closed if ramp_ended => {}
            CircuitState::Closed | CircuitState::Ramping | CircuitState::ForcedClosed => {
                self.calls.clear();
                self.in_a_row = 0;
                self.until = now + self.settings.ramp.unwrap_or(0) * MS;
            }
            _ => {}
        }
        if !ramp_ended && (self.state, to) != (CircuitState::Closed, CircuitState::Closed) {
            self.generation += 1;
        }
        self.probes.clear();
        self.probed = Totals::default();
        (self.state, self.reason, self.since) = (to, reason, now);
        self.stats.state_changes += 1;
    }

    /// What time alone brings about.
    fn advance(&mut self, now: u64) {
        match self.state {
            CircuitState::Open if now >= self.until => {
                self.enter(CircuitState::HalfOpen, TripReason::OpenTimePassed, now);
            }
            CircuitState::HalfOpen if now >= self.since + self.settings.half_open_for * MS => {
                self.enter(CircuitState::Open, TripReason::NoVerdict, now);
            }
            CircuitState::Ramping if now >= self.until => {
                self.enter(CircuitState::Closed, TripReason::RampEnded, now);
            }
            _ => {}
        }
    }

    /// Whether a call may be made; `None` if a ramp decides.
    fn begin(&mut self, id: usize, now: u64) -> Option<bool> {
        self.advance(now);
        match self.state {
            CircuitState::Closed | CircuitState::ForcedClosed | CircuitState::Disabled => {
                Some(true)
            }
            CircuitState::Open | CircuitState::ForcedOpen => Some(false),
            CircuitState::Ramping => None,
            CircuitState::HalfOpen => {
                self.probes.retain(|(_, lease)| *lease > now);
                let room =
                    self.probes.len() as u64 + self.probed.calls < u64::from(self.settings.probes);
                if room {
                    self.probes.push((id, now + self.settings.lease * MS));
                }
                Some(room)
            }
        }
    }

    fn end(&mut self, call: Call, told: Outcome, now: u64) {
        let Some(generation) = call.generation else { return };
        let elapsed = now - call.since;
        let slow = self.settings.slow.is_some_and(|(after, _)| elapsed > after * MS);
        let succeeded = told == Outcome::Success;
        let gave_up = matches!(told, Outcome::Cancelled { .. });
        let failed = matches!(told, Outcome::Failure(_))
            || gave_up && elapsed > self.settings.cancelled_after * MS;
        self.stats.successful_calls += u64::from(succeeded);
        self.stats.failed_calls += u64::from(failed);
        self.stats.neutral_calls += u64::from(!succeeded && !failed);
        self.stats.slow_calls += u64::from(slow);
        if generation != self.generation {
            return;
        }
        let tells = succeeded || failed || gave_up && slow;
        match self.state {
            CircuitState::Closed | CircuitState::Ramping | CircuitState::ForcedClosed => {
                if !tells {
                    return;
                }
                if failed {
                    self.in_a_row += 1;
                } else if succeeded {
                    self.in_a_row = 0;
                }
                self.calls.push((now, failed, slow));
                if self.state != CircuitState::ForcedClosed
                    && (failed || slow)
                    && let Some(reason) = self.trips(now)
                {
                    self.enter(CircuitState::Open, reason, now);
                }
            }
            CircuitState::HalfOpen => {
                let Some(at) = self.probes.iter().position(|(id, _)| *id == call.id) else {
                    return;
                };
                self.probes.remove(at);
                if !tells {
                    return;
                }
                let bad = !succeeded;
                self.in_a_row += u32::from(bad);
                self.probed.calls += 1;
                self.probed.failures += u64::from(bad);
                self.probed.slow += u64::from(slow);
                self.decide(now);
            }
            _ => {}
        }
    }

    /// The fold of what the window covers. Of the last n calls that is plain. Of a time window it is ten
    /// whole buckets and, of the one before, the share that is still inside, in 1024ths.
    fn totals(&self, now: u64) -> Totals {
        let fold = |calls: &mut dyn Iterator<Item = &(u64, bool, bool)>| {
            calls.fold(Totals::default(), |sum, (_, failed, slow)| Totals {
                calls: sum.calls + 1,
                failures: sum.failures + u64::from(*failed),
                slow: sum.slow + u64::from(*slow),
            })
        };
        match self.settings.window {
            _ if !self.settings.has_rates() => Totals::default(),
            Window::Calls(n) => fold(&mut self.calls.iter().rev().take(n as usize)),
            Window::Time(window) => {
                let width = window * MS / 10;
                let age = |at: u64| now / width - at / width;
                let inside = fold(&mut self.calls.iter().filter(|call| age(call.0) < 10));
                let leaving = fold(&mut self.calls.iter().filter(|call| age(call.0) == 10));
                let left = 1024 - now % width * 1024 / width;
                let calls = inside.calls + leaving.calls * left / 1024;
                Totals {
                    calls,
                    failures: (inside.failures + leaving.failures * left / 1024).min(calls),
                    slow: (inside.slow + leaving.slow * left / 1024).min(calls),
                }
            }
        }
    }

    fn trips(&self, now: u64) -> Option<TripReason> {
        let (count, threshold) = (self.in_a_row, self.settings.consecutive);
        if count >= threshold {
            return Some(TripReason::ConsecutiveFailures { count, threshold });
        }
        let totals = self.totals(now);
        let calls = totals.calls;
        if calls < u64::from(self.settings.min_calls) || calls == 0 {
            return None;
        }
        let of = |part: u64| part as f64 / calls as f64;
        match (self.settings.rate, self.settings.slow) {
            (Some(threshold), _) if of(totals.failures) >= threshold => {
                Some(TripReason::FailureRate { rate: of(totals.failures), threshold, calls })
            }
            (_, Some((_, threshold))) if of(totals.slow) >= threshold => {
                Some(TripReason::SlowCallRate { rate: of(totals.slow), threshold, calls })
            }
            _ => None,
        }
    }

    /// Tries out how the outstanding probes could end.
    fn decide(&mut self, now: u64) {
        let probes = u64::from(self.settings.probes);
        let opens = |failures: u64, slow: u64| {
            let of = |part: u64| part as f64 / probes as f64;
            let by_failures = match self.settings.rate {
                Some(rate) => of(failures) >= rate,
                None => failures > 0,
            };
            by_failures || self.settings.slow.is_some_and(|(_, rate)| slow > 0 && of(slow) >= rate)
        };
        let Totals { calls, failures, slow } = self.probed;
        let out = probes - calls;
        if opens(failures, slow) {
            let failures = u32::try_from(failures.max(slow)).unwrap();
            let probes = self.settings.probes;
            self.enter(CircuitState::Open, TripReason::ProbesFailed { failures, probes }, now);
        } else if !opens(failures + out, slow + out) {
            let to = match self.settings.ramp {
                Some(_) => CircuitState::Ramping,
                None => CircuitState::Closed,
            };
            let successes = u32::try_from(calls - failures).unwrap();
            self.enter(to, TripReason::ProbesSucceeded { successes }, now);
        }
    }

    fn operate(&mut self, to: CircuitState, now: u64) {
        if self.state == to && to != CircuitState::Closed {
            return;
        }
        self.enter(to, TripReason::Operator, now);
        if to == CircuitState::Closed {
            self.reason = TripReason::None;
            self.stats.state_changes -= 1;
        }
    }

    fn check(&self, seen: CircuitBreakerSnapshot, now: u64) -> Result<(), TestCaseError> {
        let totals = self.totals(now);
        let of =
            |part: u64| if totals.calls == 0 { 0.0 } else { part as f64 / totals.calls as f64 };
        let mut stats = self.stats;
        stats.total_calls = stats.successful_calls + stats.failed_calls + stats.rejected_calls;
        let in_flight = self.probes.iter().filter(|(_, lease)| *lease > now).count();
        let open = self.state == CircuitState::Open;
        let expected = CircuitBreakerSnapshot {
            state: self.state,
            in_state: Duration::from_nanos(now - self.since),
            reason: self.reason,
            next_probe: open.then(|| Duration::from_nanos(self.until.saturating_sub(now))),
            failure_count: self.in_a_row,
            window_calls: totals.calls,
            failure_rate: of(totals.failures),
            slow_rate: of(totals.slow),
            probes_in_flight: u32::try_from(in_flight).unwrap(),
            stats,
        };
        prop_assert_eq!(seen, expected);
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Begin,
    End(prop::sample::Index, Outcome),
    Drop(prop::sample::Index),
    /// Reading the state makes the changes that are due.
    Read,
    Operate(CircuitState),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        4 => Just(Outcome::FAILURE),
        4 => Just(Outcome::Success),
        1 => Just(Outcome::Ignored),
        1 => Just(Outcome::Throttled),
    ];
    let operator = prop_oneof![
        4 => Just(CircuitState::Closed),
        1 => Just(CircuitState::ForcedOpen),
        1 => Just(CircuitState::ForcedClosed),
        1 => Just(CircuitState::Disabled),
    ];
    let step = prop_oneof![
        8 => time(800).prop_map(Step::Wait),
        2 => (0_u64..10).prop_map(Step::Wait),
        20 => Just(Step::Begin),
        14 => (any::<prop::sample::Index>(), outcome).prop_map(|(which, how)| Step::End(which, how)),
        4 => any::<prop::sample::Index>().prop_map(Step::Drop),
        1 => Just(Step::Read),
        1 => operator.prop_map(Step::Operate),
    ];
    prop::collection::vec(step, 1..150)
}

/// Everything but the totals, which a straggler is counted in.
fn decided(breaker: &CircuitBreaker) -> CircuitBreakerSnapshot {
    CircuitBreakerSnapshot { stats: CircuitBreakerStats::default(), ..breaker.snapshot() }
}

async fn play(settings: Settings, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let now = || clock::now().0;
    let breaker = settings.build();
    let mut model = Model::new(settings.clone(), now());
    let mut flying: Vec<(Call, Permit)> = Vec::new();
    for (id, step) in steps.into_iter().enumerate() {
        match step {
            Step::Wait(ms) => tokio::time::advance(Duration::from_millis(ms)).await,
            Step::Read => {
                model.advance(now());
                prop_assert_eq!(breaker.state(), model.state);
            }
            Step::Operate(to) => {
                model.operate(to, now());
                match to {
                    CircuitState::ForcedOpen => breaker.force_open(),
                    CircuitState::ForcedClosed => breaker.force_closed(),
                    CircuitState::Disabled => breaker.disable(),
                    _ => breaker.reset(),
                }
            }
            Step::Begin => {
                let allowed = model.begin(id, now());
                let permit = breaker.try_acquire();
                prop_assert!(allowed.is_none_or(|yes| yes == permit.is_ok()), "{:?}", permit);
                model.stats.rejected_calls += u64::from(permit.is_err());
                if let Ok(permit) = permit {
                    let counts = model.state != CircuitState::Disabled;
                    let generation = counts.then_some(model.generation);
                    flying.push((Call { id, generation, since: now() }, permit));
                }
            }
            Step::End(which, _) | Step::Drop(which) if !flying.is_empty() => {
                let (call, permit) = flying.remove(which.index(flying.len()));
                let straggles = call.generation != Some(model.generation);
                let before = decided(&breaker);
                if let Step::End(_, outcome) = step {
                    model.end(call, outcome, now());
                    permit.record(outcome);
                } else {
                    model.end(call, Outcome::Cancelled { elapsed: Duration::ZERO }, now());
                    drop(permit);
                }
                if straggles {
                    prop_assert_eq!(decided(&breaker), before, "a straggler decided");
                }
            }
            Step::End(..) | Step::Drop(_) => {}
        }
        let seen = breaker.snapshot();
        model.check(seen, now())?;
        // What is out is what is alive.
        let lease = settings.lease * MS;
        let alive = flying.iter().filter(|(call, _)| {
            model.state == CircuitState::HalfOpen
                && call.generation == Some(model.generation)
                && call.since + lease > now()
        });
        prop_assert_eq!(seen.probes_in_flight as usize, alive.count());
        prop_assert!(seen.probes_in_flight <= settings.probes);
    }
    // All places come back.
    flying.clear();
    prop_assert_eq!(breaker.snapshot().probes_in_flight, 0);
    breaker.reset();
    while breaker.state() == CircuitState::Closed {
        breaker.try_acquire().unwrap().failure();
    }
    tokio::time::advance(Duration::from_millis(settings.open_for)).await;
    let probes: Vec<_> = std::iter::from_fn(|| breaker.try_acquire().ok()).collect();
    prop_assert_eq!(probes.len(), settings.probes as usize);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn behaves_like_the_slow_model(settings in settings(), steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(settings, steps))?;
    }

    /// Whatever the pace at which calls ask during the ramp, as many have passed as the shares at which
    /// they asked add up to: never a herd, never a drought.
    #[test]
    fn a_ramp_lets_its_share_through_at_any_pace(
        ramp in 1_000_u64..1_000_000,
        asks in prop_oneof![10_u64..300, 1_000_u64..30_000],
        jitter in 0_u64..2,
        seed in any::<u64>(),
    ) {
        let start = Tick(1 << 50);
        let builder = CircuitBreaker::builder("t").consecutive_failures(1);
        let builder = builder.open_for(Duration::from_millis(1)).ramp(Duration::from_millis(ramp));
        let (_, config, ..) = builder.into_parts().unwrap();
        let core = Core::new(config, 1, 1, start);
        core.record(core.pass().unwrap(), Outcome::FAILURE, Duration::ZERO, start);
        let closed = start.after(Duration::from_millis(1));
        let probe = core.admit(closed).0.unwrap();
        core.record(probe, Outcome::Success, Duration::ZERO, closed);
        prop_assert_eq!(core.state(), CircuitState::Ramping);
        let (mut shares, mut passed) = (0.0, 0_u32);
        let mut random = seed | 1;
        for n in 0..asks {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let into = (n + jitter * (random >> 33) % 8).min(asks - 1) * (ramp * MS / asks);
            shares += 0.1 + 0.9 * into as f64 / (ramp * MS) as f64;
            passed += u32::from(core.admit(Tick(closed.0 + into)).0.is_ok());
            let off = f64::from(passed) - shares;
            prop_assert!(off.abs() <= 1.001, "{passed} of {} passed, not {shares}", n + 1);
        }
    }
}
