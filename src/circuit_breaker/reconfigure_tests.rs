//! Live changes of the settings: what stays, and that nobody sees half of one.

#![expect(clippy::disallowed_methods, reason = "real threads race with real time")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::float_cmp, reason = "numbers that are passed on as they are")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use crate::clock::Tick;
use crate::outcome::Outcome;
use crate::rejection::RejectionDetail;

use super::CircuitBreaker;
use super::config::{CircuitBreakerBuilder, Config};
use super::core::{Core, Ticket};
use super::state::{CircuitState, TripReason};

const NOW: Tick = Tick(1 << 50);

fn at(seconds: f64) -> Tick {
    NOW.after(Duration::from_secs_f64(seconds))
}

fn config(build: impl FnOnce(CircuitBreakerBuilder) -> CircuitBreakerBuilder) -> Config {
    build(CircuitBreaker::builder("t")).into_parts().unwrap().1
}

fn pass(core: &Core, now: f64) -> Ticket {
    core.pass().or_else(|| core.admit(at(now)).0.ok()).unwrap()
}

fn run(core: &Core, outcome: Outcome, took: f64, now: f64) {
    let (ticket, rule) = (pass(core, now), core.rule());
    let (start, end) = (at(now), at(now + took));
    if outcome == Outcome::Success && !rule.is_slow(start, end) && core.succeed(rule, ticket, end) {
        return;
    }
    core.record(ticket, outcome, Duration::from_secs_f64(took), end);
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn failures_in_a_row_stay_and_the_next_one_is_judged_by_the_new_number() {
    let core = Core::new(config(|b| b.consecutive_failures(10)), 4, 1, NOW);
    for _ in 0..4 {
        run(&core, Outcome::FAILURE, 0.0, 0.0);
    }
    assert_eq!(core.reconfigure(config(|b| b.consecutive_failures(3)), at(1.0)), None);
    assert_eq!((core.state(), core.failure_count()), (CircuitState::Closed, 4));
    run(&core, Outcome::FAILURE, 0.0, 1.0);
    assert_eq!(core.state(), CircuitState::Open);
    let reason = TripReason::ConsecutiveFailures { count: 5, threshold: 3 };
    assert_eq!(core.snapshot(at(1.0)).reason, reason);
    assert_eq!(core.trip.read(), Some(("consecutive_failures", 5.0, 3.0)));
    // A refusal tells what was crossed then, not what would be now.
    core.reconfigure(config(|b| b.consecutive_failures(50)), at(2.0));
    assert_eq!(core.trip.read(), Some(("consecutive_failures", 5.0, 3.0)));
}

#[test]
fn an_open_circuit_stays_open_for_what_is_left_but_no_longer_than_the_new_open_time() {
    let with = |open_for| config(|b| b.consecutive_failures(1).open_for(seconds(open_for)));
    let core = Core::new(with(60), 4, 1, NOW);
    run(&core, Outcome::FAILURE, 0.0, 0.0);
    let left = |now| core.snapshot(at(now)).next_probe.unwrap();
    core.reconfigure(with(3600), at(10.0));
    assert_eq!(left(10.0), seconds(50), "longer: as it was");
    core.reconfigure(with(55), at(10.0));
    assert_eq!(left(10.0), seconds(50), "not as short as what is left");
    core.reconfigure(with(5), at(10.0));
    assert_eq!(left(10.0), seconds(5));
    let growing = |b: CircuitBreakerBuilder| b.open_for(seconds(1)).open_for_max(seconds(30));
    core.reconfigure(config(growing), at(11.0));
    assert_eq!(left(11.0), seconds(4), "the longest that it could be");
    assert!(core.admit(at(14.9)).0.is_err());
    assert!(core.admit(at(15.1)).0.is_ok());
}

#[test]
fn a_window_keeps_its_calls_if_it_is_the_same_and_else_starts_empty() {
    type Build = fn(CircuitBreakerBuilder) -> CircuitBreakerBuilder;
    let windows: [Build; 7] = [
        |b| b.window_calls(10),
        |b| b.window_calls(7),
        |b| b.window_calls(1000),
        |b| b.window_calls(600),
        |b| b.window(seconds(10)),
        |b| b.window(seconds(3)),
        |b| b.window(seconds(900)),
    ];
    for first in windows {
        for second in windows {
            let build = |window: Build, rate| config(|b| window(b).failure_rate(rate).min_calls(5));
            let core = Core::new(build(first, 0.9), 4, 1, NOW);
            run(&core, Outcome::FAILURE, 0.0, 1.0);
            run(&core, Outcome::Success, 0.0, 1.0);
            let same = build(first, 0.9).window == build(second, 0.9).window;
            core.reconfigure(build(second, 0.5), at(1.0));
            let kept = if same { 2 } else { 0 };
            assert_eq!(core.snapshot(at(1.0)).window_calls, kept);
            for _ in kept..3 {
                run(&core, Outcome::Success, 0.0, 1.0);
            }
            for _ in 0..if same { 2 } else { 3 } {
                assert_eq!(core.state(), CircuitState::Closed);
                run(&core, Outcome::FAILURE, 0.0, 1.0);
            }
            // 3 of 6, or with what was kept already 3 of 5.
            assert_eq!(core.state(), CircuitState::Open);
            let stats = core.stats();
            let made = if same { (2, 3) } else { (4, 4) };
            assert_eq!((stats.successful_calls, stats.failed_calls), made);
        }
    }
}

#[test]
fn without_a_rate_nothing_is_left_of_the_window_but_the_same_one_comes_back() {
    let rate = || config(|b| b.failure_rate(0.5).min_calls(2));
    let row = || config(|b| b.consecutive_failures(100));
    let core = Core::new(rate(), 4, 1, NOW);
    run(&core, Outcome::FAILURE, 0.0, 0.0);
    core.reconfigure(row(), at(0.0));
    assert_eq!(core.snapshot(at(0.0)).window_calls, 0);
    for _ in 0..50 {
        run(&core, Outcome::FAILURE, 0.0, 0.0);
    }
    assert_eq!(core.state(), CircuitState::Closed, "51 in a row are not 100");
    core.reconfigure(rate(), at(0.0));
    run(&core, Outcome::FAILURE, 0.0, 0.0);
    assert_eq!(core.state(), CircuitState::Open);

    let core = Core::new(row(), 4, 1, NOW);
    run(&core, Outcome::Success, 0.0, 0.0);
    assert!(!core.rule().times_successes());
    core.reconfigure(rate(), at(0.0));
    assert!(core.rule().times_successes());
    run(&core, Outcome::Success, 0.0, 0.0);
    assert_eq!(core.snapshot(at(0.0)).window_calls, 1);
    core.reconfigure(row(), at(0.0));
    assert!(!core.rule().times_successes(), "as cheap as before");
    run(&core, Outcome::Success, 0.0, 0.0);
    core.reconfigure(rate(), at(0.0));
    assert_eq!(core.snapshot(at(0.0)).window_calls, 0);
    assert_eq!(core.stats().successful_calls, 3);
}

#[test]
fn slow_calls_go_by_the_new_time() {
    let slow = |after| config(|b| b.slow_calls(seconds(after), 0.5).min_calls(2));
    let core = Core::new(slow(1), 4, 1, NOW);
    run(&core, Outcome::Success, 2.0, 0.0);
    core.reconfigure(slow(5), at(2.0));
    run(&core, Outcome::Success, 2.0, 2.0);
    assert_eq!(core.stats().slow_calls, 1);
    core.reconfigure(slow(1), at(4.0));
    run(&core, Outcome::Success, 2.0, 4.0);
    assert_eq!(core.state(), CircuitState::Open, "2 of 3");
    core.reconfigure(config(|b| b.consecutive_failures(5)), at(4.0));
    assert!(!core.rule().times_calls());
}

#[test]
fn fewer_probes_than_have_answered_are_a_verdict() {
    let probes = |probes| config(|b| b.consecutive_failures(1).half_open_calls(probes));
    let core = Core::new(probes(3), 4, 1, NOW);
    run(&core, Outcome::FAILURE, 0.0, 0.0);
    let first = core.admit(at(60.0)).0.unwrap();
    let second = core.admit(at(60.0)).0.unwrap();
    core.record(first, Outcome::Success, Duration::ZERO, at(60.0));
    assert_eq!(core.reconfigure(probes(2), at(60.0)), None);
    assert!(core.admit(at(60.0)).0.is_err(), "one answered, one in flight");
    let change = core.reconfigure(probes(1), at(60.0)).unwrap();
    assert_eq!((change.from, change.to), (CircuitState::HalfOpen, CircuitState::Closed));
    core.record(second, Outcome::FAILURE, Duration::ZERO, at(60.0));
    assert_eq!(core.state(), CircuitState::Closed, "too late");
}

#[test]
fn more_probes_are_let_in_at_once() {
    let probes = |probes| config(|b| b.consecutive_failures(1).half_open_calls(probes));
    let core = Core::new(probes(1), 4, 1, NOW);
    run(&core, Outcome::FAILURE, 0.0, 0.0);
    assert!(core.admit(at(60.0)).0.is_ok());
    assert!(core.admit(at(60.0)).0.is_err());
    core.reconfigure(probes(2), at(60.0));
    assert!(core.admit(at(60.0)).0.is_ok());
    assert!(core.admit(at(60.0)).0.is_err());
}

#[test]
fn a_ramp_that_has_begun_ends_as_it_would_have() {
    let core = Core::new(config(|b| b.consecutive_failures(1).ramp(seconds(10))), 4, 1, NOW);
    run(&core, Outcome::FAILURE, 0.0, 0.0);
    let probe = core.admit(at(60.0)).0.unwrap();
    core.record(probe, Outcome::Success, Duration::ZERO, at(60.0));
    assert_eq!(core.state(), CircuitState::Ramping);
    core.reconfigure(config(|b| b.ramp(seconds(1000))), at(61.0));
    let passed = (0..100).filter(|_| core.admit(at(65.0)).0.is_ok()).count();
    assert!((50..=60).contains(&passed), "{passed} of 100 at 55 %");
    core.reconfigure(config(|b| b), at(65.0));
    assert_eq!(core.state(), CircuitState::Ramping);
    assert!(core.admit(at(70.0)).0.is_ok());
    assert_eq!(core.state(), CircuitState::Closed);
}

#[test]
fn what_an_operator_forced_stays_and_so_do_name_and_shadow() {
    let breaker = CircuitBreaker::builder("db").shadow(true).build().unwrap();
    let other = || CircuitBreaker::builder("other").consecutive_failures(1).shadow(false);
    let forced: [(fn(&CircuitBreaker), _); 3] = [
        (CircuitBreaker::force_open, CircuitState::ForcedOpen),
        (CircuitBreaker::force_closed, CircuitState::ForcedClosed),
        (CircuitBreaker::disable, CircuitState::Disabled),
    ];
    for (force, state) in forced {
        force(&breaker);
        breaker.reconfigure(other()).unwrap();
        assert_eq!(breaker.state(), state);
    }
    assert_eq!((breaker.name(), breaker.is_shadow()), ("db", true));
    breaker.reset();
    breaker.try_acquire().unwrap().failure();
    assert_eq!(breaker.state(), CircuitState::Open, "the new threshold was in force all along");
}

#[test]
fn a_bad_value_changes_nothing() {
    let breaker = CircuitBreaker::builder("db").consecutive_failures(2).build().unwrap();
    let bad = CircuitBreaker::builder("db").consecutive_failures(1).half_open_calls(0);
    assert_eq!(breaker.reconfigure(bad).unwrap_err().field(), "half_open_calls");
    breaker.try_acquire().unwrap().failure();
    assert_eq!(breaker.state(), CircuitState::Closed);
    breaker.try_acquire().unwrap().failure();
    assert_eq!(breaker.state(), CircuitState::Open);

    let breakers = CircuitBreaker::builder("db").build_keyed::<u8>(10).unwrap();
    let bad = CircuitBreaker::builder("db").consecutive_failures(1).failure_rate(2.0);
    assert_eq!(breakers.reconfigure(bad).unwrap_err().field(), "failure_rate");
    breakers.get(&1).try_acquire().unwrap().failure();
    assert_eq!(breakers.get(&1).state(), CircuitState::Closed);
}

/// Two settings of which no mixture can be taken for either: a trip, its refusal and the numbers in both.
fn a() -> CircuitBreakerBuilder {
    let builder = CircuitBreaker::builder("t").consecutive_failures(3).window_calls(20);
    builder.failure_rate(0.9).min_calls(20).open_for(Duration::from_millis(1))
}

fn b() -> CircuitBreakerBuilder {
    let builder = CircuitBreaker::builder("t").consecutive_failures(5).window_calls(40);
    builder.failure_rate(0.25).min_calls(40).open_for(Duration::from_millis(1))
}

/// 10,000 calls on threads over 50 changes: each is counted once, and each trip and each refusal goes by
/// all of one setting or all of the other.
#[test]
fn calls_on_threads_over_changes_are_neither_lost_nor_torn() {
    const THREADS: u64 = 4;
    const CALLS: u64 = 2_500;
    let core = Core::new(config(|_| a()), 4, 1, NOW);
    let clock = AtomicU64::new(NOW.0);
    let now = || Tick(clock.fetch_add(10_000, Ordering::Relaxed));
    let torn = |reason: TripReason| match reason {
        TripReason::ConsecutiveFailures { count, threshold } => {
            count < threshold || !matches!(threshold, 3 | 5)
        }
        TripReason::FailureRate { rate, threshold, calls } => {
            rate < threshold || !matches!((threshold, calls), (0.9, 20) | (0.25, 40))
        }
        _ => false,
    };
    let (succeeded, failed, refused) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (changes, left) = (AtomicU64::new(0), AtomicU64::new(THREADS));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (core, now) = (&core, &now);
            let (succeeded, failed, refused) = (&succeeded, &failed, &refused);
            let (changes, left) = (&changes, &left);
            scope.spawn(move || {
                let mut random = thread + 1;
                for n in 0..CALLS {
                    // Spread over all the changes, however fast either side is.
                    while changes.load(Ordering::Relaxed) < n * 50 / CALLS {
                        std::thread::yield_now();
                    }
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let ticket = match core.pass() {
                        Some(ticket) => ticket,
                        None => match core.admit(now()).0 {
                            Ok(ticket) => ticket,
                            Err(_) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                                if let Some((what, measured, threshold)) = core.trip.read() {
                                    let fits = match what {
                                        "consecutive_failures" => {
                                            threshold == 3.0 || threshold == 5.0
                                        }
                                        "failure_rate" => threshold == 0.9 || threshold == 0.25,
                                        _ => threshold == 1.0,
                                    };
                                    assert!(fits && measured >= threshold, "{what} {threshold}");
                                }
                                continue;
                            }
                        },
                    };
                    if random >> 33 & 3 == 0 {
                        let change = core.record(ticket, Outcome::FAILURE, Duration::ZERO, now());
                        failed.fetch_add(1, Ordering::Relaxed);
                        assert!(!change.is_some_and(|change| torn(change.reason)), "{change:?}");
                    } else {
                        if !core.succeed(core.rule(), ticket, now()) {
                            core.record(ticket, Outcome::Success, Duration::ZERO, now());
                        }
                        succeeded.fetch_add(1, Ordering::Relaxed);
                    }
                }
                left.fetch_sub(1, Ordering::Relaxed);
            });
        }
        scope.spawn(|| {
            while changes.load(Ordering::Relaxed) < 50 || left.load(Ordering::Relaxed) > 0 {
                let n = changes.load(Ordering::Relaxed);
                let settings = if n % 2 == 0 { b() } else { a() };
                core.reconfigure(config(|_| settings), now());
                changes.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
    });
    let stats = core.stats();
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    assert_eq!(stats.successful_calls, count(&succeeded));
    assert_eq!(stats.failed_calls, count(&failed));
    assert_eq!(stats.rejected_calls, count(&refused));
    assert_eq!(stats.total_calls, THREADS * CALLS);
    assert!(stats.state_changes > 10, "{stats:?}");
}

/// The same through the keyed breaker: after the change no key, old or new, has the old settings.
#[test]
fn keys_that_come_during_a_change_have_the_new_settings_after_it() {
    let breakers = CircuitBreaker::builder("t").build_keyed::<u32>(4_000).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for key in 0..4_000 {
                let _ = breakers.get(&key);
            }
            stop.store(true, Ordering::Relaxed);
        });
        let mut n = 1;
        while !stop.load(Ordering::Relaxed) || n % 2 == 0 {
            n += 1;
            let settings = CircuitBreaker::builder("t").consecutive_failures(n);
            breakers.reconfigure(settings).unwrap();
        }
        for key in 0..4_000 {
            let config = breakers.get(&key).lease.core.describe(NOW).1;
            assert_eq!(config.consecutive, Some(n), "key {key}");
        }
    });
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_open_circuit_learns_that_it_opens_sooner() {
    use tower::{Layer, ServiceExt};
    let settings =
        |open_for| CircuitBreaker::builder("t").consecutive_failures(1).open_for(seconds(open_for));
    let breaker = settings(60).build().unwrap();
    breaker.try_acquire().unwrap().failure();
    let inner = tower::service_fn(|(): ()| async { Ok::<_, std::io::Error>(()) });
    let mut service = breaker.layer().unready_while_open().layer(inner);
    let began = tokio::time::Instant::now();
    let change = async {
        tokio::time::sleep(seconds(10)).await;
        breaker.reconfigure(settings(5)).unwrap();
    };
    let (ready, ()) = tokio::join!(async { service.ready().await.is_ok() }, change);
    assert!(ready);
    let waited = began.elapsed();
    assert!(waited >= seconds(15) && waited < seconds(16), "{waited:?}");
}

#[test]
fn a_refusal_tells_the_threshold_that_was_crossed() {
    let breaker = CircuitBreaker::builder("t").consecutive_failures(2).build().unwrap();
    breaker.try_acquire().unwrap().failure();
    breaker.try_acquire().unwrap().failure();
    breaker.reconfigure(CircuitBreaker::builder("t").failure_rate(0.5)).unwrap();
    let why = breaker.try_acquire().unwrap_err();
    let RejectionDetail::Threshold { what, measured, threshold } = why.detail() else {
        panic!("{why:?}");
    };
    assert_eq!((what, measured, threshold), ("consecutive_failures", 2.0, 2.0));
}

proptest! {
    /// However settings and calls follow each other, totals are those of a plain count, and the window
    /// never holds more than it may.
    #[test]
    fn totals_survive_any_changes(
        ops in prop::collection::vec((0_u8..9, any::<bool>(), 1_u32..70), 1..200),
    ) {
        let core = Core::new(config(|b| b.consecutive_failures(1_000_000)), 4, 1, NOW);
        let (mut made, mut most) = ((0, 0), None);
        for (n, (what, failed, length)) in ops.into_iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            let now = n as f64;
            let never = |b: CircuitBreakerBuilder| b.failure_rate(1.0).min_calls(1_000_000);
            match what {
                0 => {
                    let rate = |b: CircuitBreakerBuilder| b.failure_rate(1.0).min_calls(length);
                    let settings = config(|b| rate(b).window_calls(length));
                    // It would trip when all have failed; that is not what this is about.
                    let _ = core.operate(CircuitState::ForcedClosed, at(now));
                    core.reconfigure(settings, at(now));
                    most = Some(u64::from(length));
                }
                1 => {
                    core.reconfigure(config(|b| never(b).window(seconds(length.into()))), at(now));
                    most = Some(u64::from(length) + 2);
                }
                2 => {
                    core.reconfigure(config(|b| b.consecutive_failures(1_000_000)), at(now));
                    most = None;
                }
                _ => {
                    run(&core, if failed { Outcome::FAILURE } else { Outcome::Success }, 0.0, now);
                    if failed { made.1 += 1 } else { made.0 += 1 }
                }
            }
            let snapshot = core.snapshot(at(now));
            let stats = snapshot.stats;
            prop_assert_eq!((stats.successful_calls, stats.failed_calls), made);
            prop_assert!(snapshot.window_calls <= most.unwrap_or(0), "{} in {:?}", snapshot.window_calls, most);
        }
    }
}
