//! Every interleaving of the word, the probe slots and the lock.

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use crate::clock::Tick;
use crate::outcome::Outcome;

use super::CircuitBreaker;
use super::core::Core;
use super::state::{CircuitState, TripReason};

const NOW: Tick = Tick(1 << 50);
const LATER: Tick = Tick((1 << 50) + 61_000_000_000);

fn core(failures: u32, probes: u32) -> Arc<Core> {
    let builder = CircuitBreaker::builder("t").consecutive_failures(failures);
    let (_, config, ..) = builder.half_open_calls(probes).into_parts().unwrap();
    Arc::new(Core::new(config, 1, 1, NOW))
}

#[test]
fn loom_one_probe_however_many_ask() {
    loom::model(|| {
        let core = core(1, 1);
        core.record(core.pass().unwrap(), Outcome::FAILURE, Duration::ZERO, NOW);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let core = Arc::clone(&core);
                thread::spawn(move || core.admit(LATER).0.is_ok())
            })
            .collect();
        let admitted = threads.into_iter().map(|t| t.join().unwrap());
        assert_eq!(admitted.filter(|&yes| yes).count(), 1);
        assert_eq!(core.state(), CircuitState::HalfOpen);
    });
}

#[test]
fn loom_a_straggler_never_decides() {
    loom::model(|| {
        let core = core(1, 1);
        let stale = core.pass().unwrap();
        core.record(core.pass().unwrap(), Outcome::FAILURE, Duration::ZERO, NOW);
        let probe = core.admit(LATER).0.unwrap();
        let other = Arc::clone(&core);
        let straggler = thread::spawn(move || {
            if !other.succeed(other.rule(), stale, LATER) {
                other.record(stale, Outcome::Success, Duration::ZERO, LATER);
            }
        });
        core.record(probe, Outcome::FAILURE, Duration::ZERO, LATER);
        straggler.join().unwrap();
        assert_eq!(core.state(), CircuitState::Open, "only the probe decides");
        let stats = core.stats();
        assert_eq!((stats.successful_calls, stats.failed_calls), (1, 2));
    });
}

#[test]
fn loom_a_success_ends_a_run_of_failures_or_comes_too_late() {
    loom::model(|| {
        let core = core(2, 1);
        core.record(core.pass().unwrap(), Outcome::FAILURE, Duration::ZERO, NOW);
        let (good, bad) = (core.pass().unwrap(), core.pass().unwrap());
        let other = Arc::clone(&core);
        let success = thread::spawn(move || {
            if !other.succeed(other.rule(), good, NOW) {
                other.record(good, Outcome::Success, Duration::ZERO, NOW);
            }
        });
        core.record(bad, Outcome::FAILURE, Duration::ZERO, NOW);
        success.join().unwrap();
        // Success first: one failure in a row. Failure first: it tripped at two.
        match core.state() {
            CircuitState::Closed => assert!(core.failure_count() <= 1),
            CircuitState::Open => assert_eq!(core.failure_count(), 2),
            other => panic!("{other}"),
        }
        let stats = core.stats();
        assert_eq!((stats.successful_calls, stats.failed_calls), (1, 2));
    });
}

#[test]
fn loom_two_failures_open_it_once() {
    loom::model(|| {
        let core = core(1, 1);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let core = Arc::clone(&core);
                let ticket = core.pass().unwrap();
                thread::spawn(move || {
                    core.record(ticket, Outcome::FAILURE, Duration::ZERO, NOW).is_some()
                })
            })
            .collect();
        let opened = threads.into_iter().map(|t| t.join().unwrap()).filter(|&yes| yes).count();
        assert_eq!(opened, 1);
        assert_eq!(core.stats().state_changes, 1);
    });
}

/// The end of a ramp begins no new generation, so it must not bring back failures that a success has
/// ended meanwhile.
#[test]
fn loom_the_end_of_a_ramp_keeps_what_a_success_did() {
    loom::model(|| {
        let builder = CircuitBreaker::builder("t").consecutive_failures(2);
        let builder = builder.ramp(Duration::from_secs(1));
        let (_, config, ..) = builder.into_parts().unwrap();
        let core = Arc::new(Core::new(config, 1, 1, NOW));
        for _ in 0..2 {
            core.record(core.pass().unwrap(), Outcome::FAILURE, Duration::ZERO, NOW);
        }
        let probe = core.admit(LATER).0.unwrap();
        core.record(probe, Outcome::Success, Duration::ZERO, LATER);
        let end = LATER.after(Duration::from_secs(1));
        let nearly = Tick(end.0 - 1);
        let mut let_through = std::iter::from_fn(|| Some(core.admit(nearly).0)).flatten();
        let (bad, good) = (let_through.next().unwrap(), let_through.next().unwrap());
        core.record(bad, Outcome::FAILURE, Duration::ZERO, nearly);
        let other = Arc::clone(&core);
        let success = thread::spawn(move || {
            if !other.succeed(other.rule(), good, nearly) {
                other.record(good, Outcome::Success, Duration::ZERO, nearly);
            }
        });
        assert!(core.admit(end).0.is_ok());
        success.join().unwrap();
        assert_eq!(core.state(), CircuitState::Closed);
        assert_eq!(core.failure_count(), 0);
    });
}

/// A success beside a change of the window counts in the old one or in the new one, as a whole.
#[test]
fn loom_a_success_beside_a_change_is_counted_once() {
    loom::model(|| {
        let settings = |calls| {
            let builder = CircuitBreaker::builder("t").failure_rate(1.0).window_calls(calls);
            builder.into_parts().unwrap().1
        };
        let core = Arc::new(Core::new(settings(1), 1, 1, NOW));
        let other = Arc::clone(&core);
        let success = thread::spawn(move || {
            let ticket = other.pass().unwrap();
            assert!(other.succeed(other.rule(), ticket, NOW));
        });
        core.reconfigure(settings(2), NOW);
        success.join().unwrap();
        assert_eq!(core.stats().successful_calls, 1);
        assert!(core.snapshot(NOW).window_calls <= 1);
        core.record(core.pass().unwrap(), Outcome::Success, Duration::ZERO, NOW);
        assert!(core.snapshot(NOW).window_calls >= 1, "what comes after counts in the new one");
    });
}

/// A refusal explains itself with the numbers of one trip.
#[test]
fn loom_the_numbers_of_two_trips_are_not_mixed() {
    loom::model(|| {
        let core = core(1, 1);
        core.record(core.pass().unwrap(), Outcome::FAILURE, Duration::ZERO, NOW);
        let other = Arc::clone(&core);
        let reader = thread::spawn(move || match other.trip.read() {
            None | Some(("consecutive_failures", 1.0, 1.0) | ("failure_rate", 0.75, 0.5)) => {}
            torn => panic!("{torn:?}"),
        });
        let builder = CircuitBreaker::builder("t").failure_rate(0.5);
        let (_, config, ..) = builder.into_parts().unwrap();
        let reason = TripReason::FailureRate { rate: 0.75, threshold: 0.5, calls: 4 };
        core.trip.remember(&config, reason);
        reader.join().unwrap();
        assert_eq!(core.trip.read(), Some(("failure_rate", 0.75, 0.5)));
    });
}
