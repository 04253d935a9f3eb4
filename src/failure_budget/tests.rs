//! The machine and the recorded traces of the reference.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::float_cmp, reason = "numbers that are exact in binary")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::clock::Tick;
use crate::error::ConfigError;

use super::config::Parts;
use super::core::Core;
use super::shared::Levers;
use super::{BreachAction, BudgetState, BurnAlert, FailureBudget, FailureBudgetBuilder, Severity};

const START: u64 = 1 << 50;
const SECOND: u64 = 1_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: f64) -> Tick {
    Tick(START + u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).unwrap())
}

fn builder() -> FailureBudgetBuilder {
    FailureBudget::builder("test")
}

fn core(builder: FailureBudgetBuilder) -> Core {
    let Parts { config, .. } = builder.into_parts().unwrap();
    Core::new(config, 4, Tick(START))
}

// ---- golden traces -----------------------------------------------------------------------------

fn golden() -> Value {
    serde_json::from_str(include_str!("../../tests/golden/failure_budget.json")).unwrap()
}

/// The reference's constructor arguments; what it accepts and we do not is an error here.
fn configured(case: &Value) -> Result<FailureBudgetBuilder, ConfigError> {
    let config = &case["config"];
    let mut builder = builder();
    if let Some(threshold) = config["threshold"].as_f64() {
        builder = builder.threshold(threshold);
    }
    if let Some(window) = config["window_seconds"].as_f64() {
        builder = builder.window(Duration::from_secs_f64(window));
    }
    if let Some(samples) = config["min_samples"].as_u64() {
        builder = builder.min_samples(u32::try_from(samples).unwrap());
    }
    builder.clone().build()?;
    Ok(builder)
}

/// Cases that we answer differently on purpose: settings that mean nothing are refused.
const REFUSED: [(&str, &str); 3] =
    [("fb-021", "threshold"), ("fb-023", "window"), ("fb-025", "threshold")];

/// Cases in which the reference calls breached what has too few live samples (its B-LD-3); we drop old
/// samples before we judge, as its `is_breached_if_evicted_first` says.
const EVICTED_FIRST: [&str; 3] = ["fb-011", "fb-013", "fb-032"];

#[test]
fn the_recorded_cases_are_replayed() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 31);
    let (mut refused, mut evicted) = (Vec::new(), Vec::new());
    for case in cases {
        let id = case["id"].as_str().unwrap();
        let budget = match configured(case) {
            Ok(builder) => core(builder),
            Err(error) => {
                refused.push((id, error.field().to_owned()));
                continue;
            }
        };
        for (n, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let now = at(step["t"].as_f64().unwrap());
            if step["op"] == "record" {
                budget.record(now, step["failed"].as_bool().unwrap(), false);
            }
            let expected = match step.get("is_breached_if_evicted_first") {
                Some(sane) => {
                    evicted.push(id);
                    sane
                }
                None => &step["is_breached"],
            };
            assert_eq!(budget.is_breached(now), expected.as_bool().unwrap(), "{id} step {n}");
            let totals = budget.totals(now);
            assert_eq!(totals.calls, step["samples"].as_u64().unwrap(), "{id} step {n}");
            let rate = step["failure_rate"].as_f64().unwrap();
            assert!((totals.failure_rate() - rate).abs() < 1e-15, "{id} step {n}");
        }
    }
    evicted.dedup();
    assert_eq!(refused, REFUSED.map(|(id, field)| (id, field.to_owned())));
    assert_eq!(evicted, EVICTED_FIRST);
}

/// The reference's listener is ours with `latch`. Two intended differences: a callback that raises is
/// caught (`fl-003`), and a sample count leaves out what is too old by now (`fl-009`).
#[test]
fn the_recorded_listener_cases_are_replayed() {
    let golden = golden();
    let cases = golden["listener_cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let id = case["id"].as_str().unwrap();
        let budget = core(configured(case).unwrap().latch());
        let mut breaches = Vec::new();
        for (n, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let t = step["t"].as_f64().unwrap();
            let change = budget.record(at(t), step["failed"].as_bool().unwrap(), true);
            if change.is_some_and(|change| change.breach.is_some()) {
                breaches.push(t);
            }
            let tripped = budget.state() == BudgetState::Tripped;
            assert_eq!(tripped, step["tripped"].as_bool().unwrap(), "{id} step {n}");
            if case["callback"] != "none" {
                let calls = usize::try_from(step["callback_calls"].as_u64().unwrap()).unwrap();
                assert_eq!(breaches.len(), calls, "{id} step {n}");
            }
            let samples = step["samples"].as_u64().unwrap();
            let expected = if id == "fl-009" && t >= 100.0 { 0 } else { samples };
            assert_eq!(budget.totals(at(t)).calls, expected, "{id} step {n}");
        }
        if case["callback"] != "none" {
            let expected = case["callback_times"].as_array().unwrap();
            let expected: Vec<f64> = expected.iter().map(|t| t.as_f64().unwrap()).collect();
            assert_eq!(breaches, expected, "{id}");
        }
    }
}

// ---- judgement and recovery --------------------------------------------------------------------

#[test]
fn it_recovers_below_half_the_threshold_and_not_before() {
    let budget = core(builder().threshold(0.2).min_samples(10).window(Duration::from_secs(10)));
    for n in 0..9 {
        budget.record(at(0.0), n < 3, false);
    }
    assert_eq!(budget.state(), BudgetState::Healthy, "9 samples");
    let change = budget.record(at(0.0), false, false).expect("the success that makes it enough");
    assert_eq!(change.breach.unwrap().samples, 10);
    for n in 0..19 {
        assert!(budget.record(at(1.0), false, false).is_none(), "{n}");
    }
    assert!(!budget.is_breached(at(1.0)), "3 of 29");
    assert_eq!(budget.state(), BudgetState::Breached, "but above a tenth");
    let change = budget.record(at(1.0), false, false).unwrap();
    assert_eq!((change.from, change.to), (BudgetState::Breached, BudgetState::Healthy));
    assert_eq!(budget.stats().recoveries, 1);
}

#[test]
fn old_successes_leaving_breach_it_without_a_new_failure() {
    // Few calls: at the very next one. Many: at the next after a hundredth of the window.
    for (scale, late) in [(1, 10.000_001), (1000, 10.1)] {
        let budget = core(builder().threshold(0.5).min_samples(2).window(Duration::from_secs(10)));
        for _ in 0..4 * scale {
            budget.record(at(0.0), false, false);
        }
        for _ in 0..3 * scale {
            budget.record(at(5.0), true, false);
        }
        budget.record(at(10.0), false, false);
        assert_eq!(budget.state(), BudgetState::Healthy, "3 of 7");
        let change = budget.record(at(late), false, false).unwrap();
        assert!(change.breach.unwrap().measured > 0.55);
    }
}

#[test]
fn a_success_that_comes_when_all_is_old_notices_the_recovery() {
    let budget = core(builder().min_samples(1));
    budget.record(at(0.0), true, false);
    assert_eq!(budget.state(), BudgetState::Breached);
    assert!(budget.record(at(30.0), false, false).is_none(), "still in the window");
    let change = budget.record(at(30.000_001), false, false).unwrap();
    assert_eq!(change.to, BudgetState::Healthy);
}

#[test]
fn a_judgement_of_before_a_reset_changes_nothing() {
    let budget = core(builder().min_samples(1));
    budget.trip(at(0.0));
    budget.reset(at(0.0));
    assert_eq!(budget.state(), BudgetState::Healthy);
    assert_eq!(budget.totals(at(0.0)).calls, 0);
    assert!(budget.judge(at(0.0)).is_none());
}

#[test]
fn a_tripped_budget_counts_what_is_recorded_and_not_what_its_layer_sees() {
    let budget = core(builder());
    budget.trip(at(0.0));
    assert!(budget.trip(at(0.0)).is_none(), "once");
    budget.record(at(0.0), true, true);
    assert_eq!(budget.totals(at(0.0)).calls, 0);
    for n in 0..3 {
        budget.record(at(f64::from(n)), false, false);
        budget.record(at(f64::from(n)), false, true);
    }
    assert_eq!(budget.totals(at(3.0)).calls, 3);
    assert!(budget.judge(at(100.0)).is_none());
    assert_eq!(budget.state(), BudgetState::Tripped);
}

#[test]
fn a_retired_budget_does_nothing_until_it_is_reset() {
    let budget = core(builder().min_samples(1).reject());
    budget.record(at(0.0), true, false);
    assert!(!budget.passes());
    let change = budget.retire(at(0.0)).unwrap();
    assert!(!change.to.is_acting() && budget.passes());
    budget.record(at(1.0), true, false);
    assert!(budget.trip(at(1.0)).is_none());
    assert_eq!(budget.stats().samples, 1);
    budget.reset(at(2.0));
    budget.record(at(2.0), true, false);
    assert_eq!(budget.state(), BudgetState::Breached);
}

// ---- refusing ----------------------------------------------------------------------------------

fn passed(budget: &Core, now: Tick, calls: u32) -> u32 {
    (0..calls).map(|_| u32::from(budget.admit(now).0.is_ok())).sum()
}

#[test]
fn rejecting_lets_an_even_share_of_probes_through_and_no_more() {
    let budget = core(builder().min_samples(1).reject().probes(0.1));
    budget.record(at(0.0), true, false);
    for hundred in 0..10 {
        let passed = passed(&budget, at(0.1), 100);
        assert!((8..=12).contains(&passed), "{passed} of the {hundred}. hundred");
    }
    let refusal = budget.admit(at(10.0)).0.unwrap_err();
    assert_eq!(refusal.retry_after, Some(20 * SECOND), "when the failure has left the window");
    budget.trip(at(11.0));
    assert_eq!(passed(&budget, at(11.0), 1000), 0, "tripped: none");
    assert_eq!(budget.admit(at(11.0)).0.unwrap_err().retry_after, None);
}

#[test]
fn what_is_shed_grows_with_the_burn() {
    for (failures, share) in [(11, 0.0909), (15, 0.3333), (20, 0.5), (50, 0.8), (100, 0.9)] {
        let budget = core(builder().threshold(0.1).min_samples(100).shed());
        for n in 0..100 {
            budget.record(at(0.0), n >= 100 - failures, false);
        }
        let passed = f64::from(passed(&budget, at(0.0), 10_000)) / 10_000.0;
        assert!((1.0 - passed - share).abs() < 0.002, "{failures} %: {passed} pass");
        // Of all calls made, those that fail and were let through are within the budget.
        assert!(passed * f64::from(failures) / 100.0 < 0.1 + 0.001);
    }
}

#[test]
fn probes_that_fail_keep_it_breached_and_probes_that_succeed_end_it() {
    let budget = core(builder().threshold(0.5).min_samples(4).reject().probes(0.25));
    for _ in 0..4 {
        budget.record(at(0.0), true, true);
    }
    let mut t = 0.0;
    let mut made = 0;
    while t < 120.0 {
        t += 0.5;
        if budget.admit(at(t)).0.is_ok() {
            made += 1;
            budget.record(at(t), true, true);
        }
    }
    assert_eq!(budget.state(), BudgetState::Breached);
    assert!((55..=65).contains(&made), "{made} of 240 calls");
    while t < 180.0 && budget.state() == BudgetState::Breached {
        t += 0.5;
        if budget.admit(at(t)).0.is_ok() {
            budget.record(at(t), false, true);
        }
    }
    assert_eq!(budget.state(), BudgetState::Healthy);
    assert!(t < 151.0, "{t}: within a window");
}

#[test]
fn without_calls_it_recovers_when_the_window_is_empty() {
    let budget = core(builder().min_samples(1).reject());
    budget.record(at(0.0), true, false);
    assert!(budget.admit(at(30.0)).0.is_err());
    let (result, change) = budget.admit(at(30.000_001));
    assert!(result.is_ok());
    assert_eq!(change.unwrap().to, BudgetState::Healthy);
}

// ---- settings ----------------------------------------------------------------------------------

#[test]
fn bad_settings_are_named() {
    let day = 24 * HOUR;
    let alert = |long, factor| BurnAlert::new(Severity::Page, long, factor);
    let cases: Vec<(FailureBudgetBuilder, &str)> = vec![
        (builder().threshold(-0.1), "threshold"),
        (builder().threshold(1.1), "threshold"),
        (builder().threshold(f64::NAN), "threshold"),
        (builder().window(Duration::ZERO), "window"),
        (builder().window(Duration::MAX), "window"),
        (builder().min_samples(0), "min_samples"),
        (builder().recovery(1.5), "recovery"),
        (builder().recovery(f64::NAN), "recovery"),
        (builder().probes(0.0), "probes"),
        (builder().probes(-0.0), "probes"),
        (builder().probes(2.0), "probes"),
        (builder().cancelled_after(Duration::MAX), "cancelled_after"),
        (builder().slo(1.0, day), "slo.objective"),
        (builder().slo(0.0, day), "slo.objective"),
        (builder().slo(f64::NAN, day), "slo.objective"),
        (builder().slo(0.99, Duration::ZERO), "slo.period"),
        (builder().burn_alerts([alert(HOUR, 2.0)]), "burn_alerts"),
        (builder().slo(0.99, day).burn_alerts([]), "burn_alerts"),
        (builder().slo(0.99, day).burn_alerts([alert(HOUR, 2.0); 17]), "burn_alerts"),
        (builder().slo(0.9, day).burn_alerts([alert(HOUR, 10.5)]), "burn_alerts[0].factor"),
        (builder().slo(0.9, day).burn_alerts([alert(HOUR, f64::NAN)]), "burn_alerts[0].factor"),
        (
            builder().slo(0.9, day).burn_alerts([alert(HOUR, 1.0), alert(2 * day, 1.0)]),
            "burn_alerts[1].long",
        ),
        (
            builder().slo(0.9, day).burn_alerts([alert(HOUR, 1.0).with_short(2 * HOUR)]),
            "burn_alerts[0].short",
        ),
        (
            builder().slo(0.9, day).restore(builder().slo(0.9, HOUR).build().unwrap().save()),
            "restore",
        ),
    ];
    for (n, (builder, field)) in cases.into_iter().enumerate() {
        let error = builder.build().expect_err(&format!("case {n}, {field}"));
        assert_eq!(error.field(), field, "{error}");
    }
    assert!(builder().threshold(1.0).build().is_ok(), "never breached, as in the reference");
    assert!(builder().threshold(0.0).build().is_ok());
    assert_eq!(builder().into_parts().unwrap().config.action, BreachAction::Notify);
}

// ---- threads -----------------------------------------------------------------------------------

/// The reference calls its callback up to seven times.
#[test]
fn a_breach_is_told_once_however_many_threads_make_it() {
    const ROUNDS: u32 = 300;
    let told = Arc::new(AtomicU32::new(0));
    let engaged = Arc::new(Mutex::new(0_i32));
    let (counter, lever) = (Arc::clone(&told), Arc::clone(&engaged));
    let budget = builder()
        .min_samples(20)
        .on_breach(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            panic!("caught");
        })
        .lever(move |on: bool| *lever.lock().unwrap() += if on { 1 } else { -1 })
        .build()
        .unwrap();
    for round in 1..=ROUNDS {
        let barrier = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    for n in 0..10 {
                        budget.record(n % 2 == 0);
                    }
                });
            }
        });
        assert!(budget.tripped(), "round {round}: 40 of 80 failed");
        assert_eq!(told.load(Ordering::Relaxed), round);
        assert_eq!(*engaged.lock().unwrap(), 1);
        budget.reset();
        assert_eq!(*engaged.lock().unwrap(), 0);
    }
    assert_eq!(budget.stats().samples, u64::from(ROUNDS) * 80, "none lost, none twice");
    assert_eq!(budget.stats().breaches, u64::from(ROUNDS));
}

#[test]
fn levers_end_as_the_state_does_when_trips_and_resets_race() {
    let engaged = Arc::new(Mutex::new((0_i32, 0_i32, 0_i32)));
    let lever = Arc::clone(&engaged);
    let budget = builder()
        // Makes room for others between the decision and what comes of it.
        .lever(|_: bool| std::thread::yield_now())
        .lever(move |on: bool| {
            let mut seen = lever.lock().unwrap();
            seen.0 += if on { 1 } else { -1 };
            seen.1 = seen.1.min(seen.0);
            seen.2 = seen.2.max(seen.0);
        })
        .build()
        .unwrap();
    for _ in 0..50 {
        std::thread::scope(|scope| {
            for n in 0..8 {
                let budget = budget.clone();
                scope.spawn(move || {
                    for _ in 0..50 {
                        if n % 2 == 0 { budget.trip() } else { budget.reset() }
                    }
                });
            }
        });
        let seen = *engaged.lock().unwrap();
        assert_eq!(seen.0 == 1, budget.tripped());
        assert!(seen.1 >= 0 && seen.2 <= 1, "one engage, one release: {seen:?}");
    }
    budget.trip();
    drop(budget);
    assert_eq!(engaged.lock().unwrap().0, 0, "the last handle lets go");
}

#[test]
fn a_lever_that_panics_or_resets_its_budget_does_no_harm() {
    let levers = Levers::new(vec![Arc::new(|_: bool| panic!("caught"))]);
    levers.settle(|| true);
    levers.settle(|| false);
    let budget = Arc::new(Mutex::new(None::<FailureBudget>));
    let inside = Arc::clone(&budget);
    let made = builder()
        .lever(move |on: bool| {
            let budget = inside.lock().unwrap().clone();
            if let (true, Some(budget)) = (on, budget) {
                budget.reset();
            }
        })
        .build()
        .unwrap();
    *budget.lock().unwrap() = Some(made.clone());
    made.trip();
    assert!(!made.tripped());
    *budget.lock().unwrap() = None;
}

#[test]
fn a_reset_is_no_recovery() {
    let budget = core(builder().min_samples(1));
    budget.record(at(0.0), true, false);
    assert_eq!(budget.state(), BudgetState::Breached);
    budget.reset(at(0.0));
    assert_eq!((budget.stats().breaches, budget.stats().recoveries), (1, 0));
}

#[test]
fn a_snapshot_shows_a_breach_just_while_it_acts() {
    let budget = builder().build().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20_000 {
                budget.trip();
                budget.reset();
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let seen = budget.snapshot();
            assert_eq!(seen.breach.is_some(), seen.state.is_acting(), "{seen:?}");
        }
    });
}
