#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use crate::clock::Tick;
use crate::error::ConfigError;
use crate::outcome::Outcome;

use super::config::CircuitBreakerBuilder;
use super::core::{Change, Core, Ticket};
use super::state::{CircuitState, TripReason};
use super::{CircuitBreaker, KeyedCircuitBreaker};

const SECOND: u64 = 1_000_000_000;

fn at(seconds: f64) -> Tick {
    Tick(1 << 50).after(Duration::from_secs_f64(seconds))
}

fn core(build: impl FnOnce(CircuitBreakerBuilder) -> CircuitBreakerBuilder) -> Core {
    let (_, config, ..) = build(CircuitBreaker::builder("t")).into_parts().unwrap();
    Core::new(config, 4, 1, at(0.0))
}

fn admit(core: &Core, now: f64) -> Option<Ticket> {
    core.pass().or_else(|| core.admit(at(now)).0.ok())
}

fn record(core: &Core, ticket: Ticket, outcome: Outcome, took: f64, now: f64) -> Option<Change> {
    if outcome == Outcome::Success && took == 0.0 && core.succeed(core.rule(), ticket, at(now)) {
        return None;
    }
    core.record(ticket, outcome, Duration::from_secs_f64(took), at(now))
}

/// One whole call; `None` if it was refused.
fn run(core: &Core, outcome: Outcome, now: f64) -> Option<CircuitState> {
    let ticket = admit(core, now)?;
    record(core, ticket, outcome, 0.0, now);
    Some(core.state())
}

#[test]
fn opens_at_the_rate_and_not_before_min_calls() {
    let core = core(|b| b.failure_rate(0.5).window_calls(10).min_calls(6));
    for _ in 0..3 {
        run(&core, Outcome::FAILURE, 0.0);
    }
    for _ in 0..2 {
        run(&core, Outcome::Success, 0.0);
    }
    assert_eq!(core.state(), CircuitState::Closed, "3 of 5 failed, but 5 calls say nothing yet");
    run(&core, Outcome::Success, 0.0);
    assert_eq!(core.state(), CircuitState::Closed, "a success never opens a circuit");
    run(&core, Outcome::FAILURE, 0.0);
    assert_eq!(core.state(), CircuitState::Open);
    let snapshot = core.snapshot(at(0.0));
    assert_eq!(
        snapshot.reason,
        TripReason::FailureRate { rate: 4.0 / 7.0, threshold: 0.5, calls: 7 }
    );
}

/// The window of a well-known peer keeps cumulative counts: after 100 000 successes it needs as many
/// failures to open.
#[test]
fn a_long_healthy_past_does_not_delay_the_trip() {
    // Five of the last ten.
    let calls = core(|b| b.failure_rate(0.5).window_calls(10).min_calls(10));
    // A hundred calls a second over ten seconds, as before: the window holds about a thousand.
    let time = core(|b| b.failure_rate(0.5).window(Duration::from_secs(10)).min_calls(10));
    for (core, least, most) in [(calls, 5, 5), (time, 495, 505)] {
        for n in 0..100_000 {
            run(&core, Outcome::Success, f64::from(n) / 100.0);
        }
        let mut failures = 0;
        while core.state() == CircuitState::Closed {
            run(&core, Outcome::FAILURE, 1000.0 + f64::from(failures) / 100.0);
            failures += 1;
        }
        assert!((least..=most).contains(&failures), "{failures} failures, not {least} to {most}");
    }
}

#[test]
fn slow_calls_trip_though_all_succeed() {
    let core = core(|b| b.slow_calls(Duration::from_secs(1), 0.5).window_calls(10).min_calls(4));
    for (n, took) in [0.5, 1.5, 1.0, 2.0].into_iter().enumerate() {
        let ticket = admit(&core, 0.0).unwrap();
        let change = record(&core, ticket, Outcome::Success, took, 5.0);
        assert_eq!(change.is_some(), n == 3);
    }
    assert!(matches!(core.snapshot(at(5.0)).reason, TripReason::SlowCallRate { calls: 4, .. }));
    assert_eq!(core.stats().slow_calls, 2);
    assert_eq!(core.stats().successful_calls, 4);
}

#[test]
fn abandoned_slow_calls_count_as_slow_and_not_as_successes() {
    let core = core(|b| {
        b.slow_calls(Duration::from_secs(1), 1.0)
            .min_calls(2)
            .cancelled_after(Duration::from_secs(9))
    });
    for _ in 0..2 {
        let ticket = admit(&core, 0.0).unwrap();
        let elapsed = Duration::from_secs(2);
        core.record(ticket, Outcome::Cancelled { elapsed }, elapsed, at(2.0));
    }
    assert_eq!(core.state(), CircuitState::Open);
    let stats = core.stats();
    assert_eq!((stats.successful_calls, stats.failed_calls, stats.neutral_calls), (0, 0, 2));
}

/// Its correction of the successes used to be a number below zero, to which the next success could not be
/// added.
#[test]
fn an_abandoned_slow_call_may_come_before_the_first_success() {
    let core = core(|b| b.slow_calls(Duration::from_secs(1), 1.0).min_calls(1).ignore_cancelled());
    let ticket = admit(&core, 0.0).unwrap();
    let elapsed = Duration::from_secs(2);
    core.record(ticket, Outcome::Cancelled { elapsed }, elapsed, at(2.0));
    assert_eq!(run(&core, Outcome::Success, 62.0), Some(CircuitState::Closed));
    let stats = core.stats();
    assert_eq!((stats.successful_calls, stats.neutral_calls), (1, 1));
}

#[test]
fn an_abandoned_slow_call_does_not_end_a_run_of_failures() {
    let core = core(|b| {
        b.consecutive_failures(3)
            .slow_calls(Duration::from_secs(1), 1.0)
            .cancelled_after(Duration::from_secs(9))
    });
    run(&core, Outcome::FAILURE, 0.0);
    run(&core, Outcome::FAILURE, 0.0);
    let ticket = admit(&core, 0.0).unwrap();
    let elapsed = Duration::from_secs(2);
    core.record(ticket, Outcome::Cancelled { elapsed }, elapsed, at(2.0));
    assert_eq!(core.failure_count(), 2);
    run(&core, Outcome::FAILURE, 2.0);
    assert_eq!(core.state(), CircuitState::Open);
}

#[test]
fn throttled_and_ignored_calls_are_neutral() {
    let core = core(|b| b.consecutive_failures(1));
    run(&core, Outcome::Throttled, 0.0);
    run(&core, Outcome::Ignored, 0.0);
    assert_eq!(core.state(), CircuitState::Closed);
    assert_eq!(core.stats().neutral_calls, 2);
    assert_eq!(core.stats().total_calls, 0);
}

#[test]
fn half_open_gives_exactly_n_probes_however_many_ask() {
    let core = core(|b| b.consecutive_failures(1).half_open_calls(3));
    run(&core, Outcome::FAILURE, 0.0);
    let tickets: Vec<_> = (0..50).filter_map(|_| admit(&core, 60.0)).collect();
    assert_eq!(tickets.len(), 3);
    assert!(tickets.iter().all(|ticket| ticket.probe() != 0));
    // A probe that says nothing gives its place to another.
    record(&core, tickets[0], Outcome::Ignored, 0.0, 61.0);
    assert!(admit(&core, 61.0).is_some());
    assert!(admit(&core, 61.0).is_none());
}

#[test]
fn half_open_decides_as_soon_as_the_outcome_is_certain() {
    let open = || {
        let core = core(|b| b.failure_rate(0.5).min_calls(1).half_open_calls(10));
        run(&core, Outcome::FAILURE, 0.0);
        let tickets: Vec<_> = (0..10).map(|_| admit(&core, 60.0).unwrap()).collect();
        (core, tickets)
    };
    // 5 of 10 reach the rate, whatever the others do.
    let (core, tickets) = open();
    for (n, ticket) in tickets.iter().enumerate().take(5) {
        assert_eq!(core.state(), CircuitState::HalfOpen, "after {n}");
        record(&core, *ticket, Outcome::FAILURE, 0.0, 60.0);
    }
    assert_eq!(core.state(), CircuitState::Open);
    // With 6 successes the other 4 cannot reach it.
    let (core, tickets) = open();
    for (n, ticket) in tickets.iter().enumerate().take(6) {
        assert_eq!(core.state(), CircuitState::HalfOpen, "after {n}");
        record(&core, *ticket, Outcome::Success, 0.0, 60.0);
    }
    assert_eq!(core.state(), CircuitState::Closed);
    // The outstanding ones are stragglers now.
    for ticket in &tickets[6..] {
        record(&core, *ticket, Outcome::FAILURE, 0.0, 60.0);
    }
    assert_eq!(core.state(), CircuitState::Closed);
}

#[test]
fn a_hanging_probe_loses_its_lease_and_its_say() {
    let core = core(|b| b.consecutive_failures(1).probe_lease(Duration::from_secs(5)));
    run(&core, Outcome::FAILURE, 0.0);
    let hanging = admit(&core, 60.0).unwrap();
    assert!(admit(&core, 64.9).is_none());
    let second = admit(&core, 65.0).unwrap();
    assert_eq!(record(&core, hanging, Outcome::FAILURE, 5.0, 65.0), None);
    assert_eq!(core.state(), CircuitState::HalfOpen);
    record(&core, second, Outcome::Success, 0.0, 66.0);
    assert_eq!(core.state(), CircuitState::Closed);
}

#[test]
fn half_open_without_a_verdict_opens_again() {
    let core = core(|b| b.consecutive_failures(1).half_open_for(Duration::from_secs(20)));
    run(&core, Outcome::FAILURE, 0.0);
    for n in 0..20 {
        run(&core, Outcome::Ignored, 60.0 + f64::from(n));
    }
    assert_eq!(core.state(), CircuitState::HalfOpen);
    assert_eq!(run(&core, Outcome::Ignored, 80.0), None);
    assert_eq!(core.state(), CircuitState::Open);
    assert_eq!(core.snapshot(at(80.0)).reason, TripReason::NoVerdict);
}

#[test]
fn open_time_doubles_with_jitter_up_to_the_cap_and_falls_back_when_healthy() {
    let core = core(|b| {
        b.consecutive_failures(1)
            .open_for(Duration::from_secs(1))
            .open_for_max(Duration::from_secs(10))
    });
    let mut now = 0.0;
    for whole in [1.0, 2.0, 4.0, 8.0, 10.0, 10.0] {
        run(&core, Outcome::FAILURE, now);
        let wait = core.snapshot(at(now)).next_probe.unwrap().as_secs_f64();
        assert!((whole / 2.0..=whole).contains(&wait), "{wait} for {whole}");
        now += wait + 0.001;
    }
    run(&core, Outcome::Success, now);
    assert_eq!(core.state(), CircuitState::Closed);
    run(&core, Outcome::FAILURE, now + 0.5);
    let relapse = core.snapshot(at(now + 0.5)).next_probe.unwrap();
    assert!(relapse >= Duration::from_secs(5), "a relapse goes on where it was: {relapse:?}");
    now += 20.0;
    run(&core, Outcome::Success, now);
    run(&core, Outcome::FAILURE, now + 30.0);
    let fresh = core.snapshot(at(now + 30.0)).next_probe.unwrap();
    assert!(fresh <= Duration::from_secs(1), "after a healthy time it starts anew: {fresh:?}");
}

#[test]
fn ramp_lets_a_growing_share_through() {
    let core = core(|b| b.consecutive_failures(1).ramp(Duration::from_secs(10)));
    run(&core, Outcome::FAILURE, 0.0);
    run(&core, Outcome::Success, 60.0);
    assert_eq!(core.state(), CircuitState::Ramping);
    let mut shares = Vec::new();
    for second in 0..10 {
        let now = 60.0 + f64::from(second);
        let passed = (0..1000).filter(|_| admit(&core, now).is_some()).count();
        shares.push(passed);
    }
    for (second, passed) in shares.iter().enumerate() {
        let expected = 100 + 90 * second;
        assert!(passed.abs_diff(expected) <= 2, "second {second}: {passed}, expected {expected}");
    }
    let in_flight = (0..2).find_map(|_| admit(&core, 69.999)).unwrap();
    assert!(admit(&core, 70.0).is_some());
    assert_eq!(core.state(), CircuitState::Closed);
    // The ramp's end begins no new generation: calls made during it still count.
    record(&core, in_flight, Outcome::FAILURE, 0.0, 70.0);
    assert_eq!(core.state(), CircuitState::Open);
}

#[test]
fn operators_win_over_everything_and_reset_ends_it() {
    let core = core(|b| b.consecutive_failures(1));
    core.operate(CircuitState::ForcedOpen, at(0.0));
    assert!(admit(&core, 1e6).is_none());
    core.operate(CircuitState::ForcedClosed, at(0.0));
    for _ in 0..10 {
        assert_eq!(run(&core, Outcome::FAILURE, 0.0), Some(CircuitState::ForcedClosed));
    }
    assert_eq!(core.stats().failed_calls, 10);
    core.operate(CircuitState::Disabled, at(0.0));
    run(&core, Outcome::FAILURE, 0.0);
    assert_eq!(core.stats().failed_calls, 10);
    let changes = core.stats().state_changes;
    core.operate(CircuitState::Closed, at(0.0));
    assert_eq!((core.state(), core.failure_count()), (CircuitState::Closed, 0));
    assert_eq!(core.stats().state_changes, changes);
}

#[test]
fn totals_do_not_get_lost_when_windows_are_cleared_or_turn_over() {
    for build in [
        (|b: CircuitBreakerBuilder| b.consecutive_failures(3)) as fn(_) -> _,
        |b| b.failure_rate(0.9).window_calls(8).min_calls(2),
        |b| b.failure_rate(0.9).window(Duration::from_secs(1)).min_calls(2),
    ] {
        let core = core(build);
        let (mut ok, mut failed, mut refused) = (0, 0, 0);
        for n in 0..5_000_u32 {
            let outcome = if n % 7 < 4 { Outcome::Success } else { Outcome::FAILURE };
            match run(&core, outcome, f64::from(n)) {
                None => refused += 1,
                Some(_) if outcome == Outcome::Success => ok += 1,
                Some(_) => failed += 1,
            }
        }
        let stats = core.stats();
        assert_eq!(
            (stats.successful_calls, stats.failed_calls, stats.rejected_calls, stats.total_calls),
            (ok, failed, refused, 5_000)
        );
    }
}

#[test]
fn no_threads_ever_get_more_probes_than_allowed() {
    let core =
        core(|b| b.consecutive_failures(1).half_open_calls(2).open_for(Duration::from_millis(1)));
    for round in 1..200_u64 {
        let now = Tick((1 << 50) + round * SECOND);
        core.record(core.pass().unwrap(), Outcome::FAILURE, Duration::ZERO, now);
        let later = Tick(now.0 + SECOND / 2);
        let tickets: Vec<Ticket> = std::thread::scope(|scope| {
            let ask = || (0..4).filter_map(|_| core.admit(later).0.ok()).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(tickets.len(), 2, "round {round}");
        for ticket in tickets {
            core.record(ticket, Outcome::Success, Duration::ZERO, later);
        }
        assert_eq!(core.state(), CircuitState::Closed);
    }
}

fn error(build: impl FnOnce(CircuitBreakerBuilder) -> CircuitBreakerBuilder) -> ConfigError {
    build(CircuitBreaker::builder("t")).build().unwrap_err()
}

#[test]
fn bad_settings_are_errors_that_name_field_value_and_range() {
    let ms = Duration::from_millis;
    let table = [
        (error(|b| b.consecutive_failures(0)), "consecutive_failures", "0"),
        (error(|b| b.consecutive_failures(u32::MAX)), "consecutive_failures", "4294967295"),
        (error(|b| b.failure_rate(0.0)), "failure_rate", "0"),
        (error(|b| b.failure_rate(-0.1)), "failure_rate", "-0.1"),
        (error(|b| b.failure_rate(1.01)), "failure_rate", "1.01"),
        (error(|b| b.failure_rate(f64::NAN)), "failure_rate", "NaN"),
        (error(|b| b.failure_rate(f64::INFINITY)), "failure_rate", "inf"),
        (error(|b| b.slow_calls(ms(1), f64::NAN)), "slow_calls.rate", "NaN"),
        (error(|b| b.slow_calls(ms(0), 0.5)), "slow_calls.after", "0ns"),
        (error(|b| b.failure_rate(0.5).window(ms(9))), "window", "9ms"),
        (
            error(|b| b.failure_rate(0.5).window(Duration::MAX)),
            "window",
            "18446744073709551615.999999999s",
        ),
        (error(|b| b.failure_rate(0.5).window(ms(100)).window_calls(5)), "window", "100ms"),
        (error(|b| b.window_calls(5)), "window", "set"),
        (error(|b| b.failure_rate(0.5).window_calls(0)), "window_calls", "0"),
        (error(|b| b.failure_rate(0.5).window_calls(1_000_001)), "window_calls", "1000001"),
        (error(|b| b.failure_rate(0.5).window_calls(10).min_calls(11)), "min_calls", "11"),
        (error(|b| b.failure_rate(0.5).min_calls(0)), "min_calls", "0"),
        (error(|b| b.min_calls(5)), "min_calls", "set"),
        (error(|b| b.open_for(Duration::ZERO)), "open_for", "0ns"),
        (error(|b| b.open_for(Duration::MAX)), "open_for", "18446744073709551615.999999999s"),
        (error(|b| b.open_for(ms(10)).open_for_max(ms(9))), "open_for_max", "9ms"),
        (error(|b| b.half_open_calls(0)), "half_open_calls", "0"),
        (error(|b| b.half_open_calls(1025)), "half_open_calls", "1025"),
        (error(|b| b.half_open_for(ms(0))), "half_open_for", "0ns"),
        (error(|b| b.half_open_for(ms(5)).probe_lease(ms(6))), "probe_lease", "6ms"),
        (error(|b| b.ramp(ms(0))), "ramp", "0ns"),
        (
            error(|b| b.cancelled_after(Duration::MAX)),
            "cancelled_after",
            "18446744073709551615.999999999s",
        ),
    ];
    for (error, field, value) in table {
        assert_eq!((error.field(), error.value()), (field, value), "{error}");
        assert!(error.to_string().starts_with(&format!("invalid {field}: {value}, expected ")));
    }
    // A time window has no number of calls that could be told.
    assert_eq!(error(|b| b.failure_rate(0.5).min_calls(0)).expected(), "at least 1");
}

#[test]
fn keyed_table_is_bounded_drops_idle_closed_breakers_and_keeps_the_others() {
    let keyed: KeyedCircuitBreaker<u32> =
        CircuitBreaker::builder("t").consecutive_failures(1).build_keyed(4).unwrap();
    keyed.get(&0).try_acquire().unwrap().failure();
    for key in 1..100 {
        let _ = keyed.get(&key);
        assert!(keyed.len() <= 4);
    }
    assert!(keyed.get(&0).try_acquire().is_err(), "an open breaker is not forgotten");
    for key in 0..4 {
        keyed.get(&(1000 + key)).force_open();
    }
    // Nothing can make way now: the new key is let through unguarded.
    let mut refused = 0;
    for key in 0..4 {
        refused += u32::from(keyed.get(&(1000 + key)).try_acquire().is_err());
    }
    assert_eq!(refused, 3, "one of the four found the table full of open breakers");
    assert_eq!(keyed.len(), 4);
    for _ in 0..10 {
        keyed.get(&5000).try_acquire().unwrap().failure();
    }
    assert!(keyed.get(&5000).try_acquire().is_ok());
}

#[test]
fn probes_are_judged_by_the_same_share_as_calls() {
    for of in 1..=200_u32 {
        for hundredths in 1..=100_u32 {
            let share = f64::from(hundredths) / 100.0;
            let exact = (1..=of).find(|n| f64::from(*n) / f64::from(of) >= share).unwrap();
            assert_eq!(super::transitions::least(share, of), exact, "{share} of {of}");
        }
    }
}
