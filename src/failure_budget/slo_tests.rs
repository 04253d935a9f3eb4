//! Burn-rate alerts on a clock of numbers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::float_cmp, reason = "numbers that are exact in binary")]

use std::time::Duration;

use proptest::prelude::*;

use crate::clock::Tick;

use super::burn::Burn;
use super::config::Parts;
use super::core::{Change, Core};
use super::{BudgetState, BurnAlert, FailureBudget, FailureBudgetBuilder, Severity};
use crate::window::Ledger;

const START: u64 = 1 << 50;
const SECOND: u64 = 1_000_000_000;
const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: u64) -> Tick {
    Tick(START + seconds * SECOND)
}

fn builder(objective: f64, period: Duration) -> FailureBudgetBuilder {
    FailureBudget::builder("slo").slo(objective, period)
}

fn core(builder: FailureBudgetBuilder) -> Core {
    let Parts { config, .. } = builder.into_parts().unwrap();
    Core::new(config, 4, Tick(START))
}

/// One alert: burning five times too fast over an hour and over five minutes.
fn one_alert(severity: Severity) -> FailureBudgetBuilder {
    builder(0.9, DAY).burn_alerts([BurnAlert::new(severity, HOUR, 5.0)])
}

/// `per_second` calls of which every `failing`-th fails, each second of `seconds`.
fn traffic(
    budget: &Core,
    seconds: std::ops::Range<u64>,
    per_second: u64,
    failing: u64,
) -> Vec<(u64, Change)> {
    let mut changes = Vec::new();
    for second in seconds {
        for n in 0..per_second {
            let failed = failing > 0 && n % failing == 0;
            changes.extend(budget.record(at(second), failed, true).map(|change| (second, change)));
        }
    }
    changes
}

#[test]
fn the_workbook_is_scaled_to_any_period() {
    let seconds = |period| {
        BurnAlert::workbook(period).map(|a| (a.long.as_secs_f64(), a.short.as_secs_f64(), a.factor))
    };
    assert_eq!(
        seconds(30 * DAY),
        [
            (3600.0, 300.0, 14.4),
            (21_600.0, 1800.0, 6.0),
            (86_400.0, 7200.0, 3.0),
            (259_200.0, 21_600.0, 1.0)
        ]
    );
    assert_eq!(
        seconds(DAY),
        [(120.0, 10.0, 14.4), (720.0, 60.0, 6.0), (2880.0, 240.0, 3.0), (8640.0, 720.0, 1.0)]
    );
}

#[test]
fn both_windows_must_burn() {
    // All fail for four minutes: the short window burns ten times too fast, the long one does not yet.
    let budget = core(one_alert(Severity::Page));
    assert!(traffic(&budget, 0..3600, 10, 0).is_empty());
    assert!(traffic(&budget, 3600..3840, 10, 1).is_empty(), "240 of 3840 s: burn 0.6");
    let slo = budget.slo(at(3840)).unwrap();
    assert!(slo.alerts[0].short_burn > 7.0 && slo.alerts[0].long_burn < 0.7);
    // For half an hour: both.
    let changes = traffic(&budget, 3840..5700, 10, 1);
    assert_eq!(changes.len(), 1);
    let (second, change) = &changes[0];
    assert_eq!(change.to, BudgetState::Breached);
    assert!((5400..5460).contains(second), "{second}: half of the hour, within a minute");
    assert_eq!(change.breach.unwrap().threshold, 5.0);
    // All is well again: the short window ends it, long before the long one would.
    let changes = traffic(&budget, 5700..5900, 10, 0);
    assert_eq!(changes.len(), 1);
    let (second, change) = &changes[0];
    assert_eq!(change.to, BudgetState::Healthy);
    assert!((5865..5875).contains(second), "{second}: 45 % of the short window left");
    assert!(budget.slo(at(5900)).unwrap().alerts[0].long_burn > 5.0);
    assert!(traffic(&budget, 5900..9000, 10, 0).is_empty());
}

#[test]
fn a_few_failures_in_a_quiet_hour_are_no_alert() {
    let budget = core(one_alert(Severity::Page));
    for minute in 0..60 {
        assert!(budget.record(at(minute * 60), true, true).is_none());
    }
    assert_eq!(budget.state(), BudgetState::Healthy, "60 in the hour, but 5 in five minutes");
    assert!(budget.poll(at(3600)).is_none());
    let slo = budget.slo(at(3600)).unwrap();
    assert_eq!((slo.alerts[0].long_samples, slo.alerts[0].firing), (60, false));
}

#[test]
fn a_rate_that_sways_around_the_factor_is_one_alert() {
    let budget = core(one_alert(Severity::Page));
    // 55 % and 48 % in turn: burn 5.5 and 4.8, of which the second is above 0.9 of the factor.
    let mut changes = Vec::new();
    for minute in 0..180 {
        let of_hundred = if minute / 6 % 2 == 0 { 55 } else { 48 };
        for second in minute * 60..(minute + 1) * 60 {
            for n in 0..100 {
                changes.extend(budget.record(at(second), n < of_hundred, true));
            }
        }
    }
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(budget.state(), BudgetState::Breached);
}

#[test]
fn tickets_tell_and_act_only_if_asked_to() {
    let budget = core(one_alert(Severity::Ticket).reject());
    let changes = traffic(&budget, 0..600, 10, 1);
    let told: Vec<_> = changes.iter().map(|(_, change)| (change.from, change.to)).collect();
    assert_eq!(told, [(BudgetState::Healthy, BudgetState::Warned)]);
    assert!(changes[0].1.alerts[0].firing && changes[0].1.breach.is_none());
    assert!(budget.passes() && !budget.is_breached(at(600)));

    let budget = core(one_alert(Severity::Ticket).act_on(Severity::Ticket).reject());
    let changes = traffic(&budget, 0..600, 10, 1);
    assert_eq!(changes[0].1.to, BudgetState::Breached);
    assert!(!budget.passes() && budget.is_breached(at(600)));
}

#[test]
fn latched_alerts_stay_until_reset() {
    let budget = core(one_alert(Severity::Page).latch());
    traffic(&budget, 0..600, 10, 1);
    assert_eq!(budget.state(), BudgetState::Tripped);
    assert!(budget.poll(at(100_000)).is_none());
    budget.reset(at(100_000));
    assert_eq!(budget.state(), BudgetState::Healthy);
    assert_eq!(budget.slo(at(100_000)).unwrap().samples, 0);
    traffic(&budget, 100_000..100_600, 10, 1);
    assert_eq!(budget.state(), BudgetState::Tripped);
}

#[test]
fn remaining_budget_and_time_to_exhaustion() {
    let budget = core(builder(0.9, DAY));
    assert_eq!(budget.slo(at(0)).unwrap().time_to_exhaustion, None);
    // 5 % fail for ten hours: half of what may.
    traffic(&budget, 0..36_000, 20, 20);
    let slo = budget.slo(at(36_000)).unwrap();
    assert!((slo.budget_remaining - 0.5).abs() < 1e-9);
    let left = slo.time_to_exhaustion.unwrap().as_secs_f64();
    assert!((left - DAY.as_secs_f64()).abs() < 1.0, "half is left, burning at half speed: {left}");
    // More than may: overdrawn.
    traffic(&budget, 36_000..60_000, 20, 2);
    let slo = budget.slo(at(60_000)).unwrap();
    assert!(slo.budget_remaining < 0.0);
    assert_eq!(slo.time_to_exhaustion, Some(Duration::ZERO));
    // After a period without calls nothing is left of it.
    let slo = budget.slo(at(60_000 + 90_000)).unwrap();
    assert_eq!((slo.samples, slo.budget_remaining), (0, 1.0));
}

#[test]
fn calls_before_a_silence_are_not_taken_for_calls_after_it() {
    let budget = core(one_alert(Severity::Page));
    for _ in 0..100 {
        budget.record(at(10), true, true);
    }
    // An hour and two minutes later the first call brings in what came before the silence.
    budget.record(at(10 + 3720), false, true);
    let slo = budget.slo(at(10 + 3720)).unwrap();
    assert_eq!((slo.alerts[0].long_samples, slo.samples), (1, 101));
}

#[test]
fn saved_state_goes_on_and_grows_old_in_between() {
    let before = core(one_alert(Severity::Page));
    traffic(&before, 0..7200, 10, 0);
    traffic(&before, 7200..8400, 10, 2);
    let saved = before.save(at(8400));
    let was = before.slo(at(8400)).unwrap();
    assert_eq!((was.samples, was.failures), (84_000, 6000));

    // At once: as before, but for the edges of buckets.
    let after = core(one_alert(Severity::Page));
    after.restore(&saved, at(0));
    let is = after.slo(at(0)).unwrap();
    assert_eq!((is.samples, is.failures), (84_000, 6000));
    assert!((is.alerts[0].long_burn - was.alerts[0].long_burn).abs() < 0.1);
    assert_eq!(is.budget_remaining, was.budget_remaining);
    // What passes between saving and restoring is time, too: a second at 10 calls is not held against it.
    let (calls, were) = (after.totals(at(0)).calls, before.totals(at(8400)).calls);
    assert!(were >= calls && were - calls <= 20, "{calls} of {were}");

    // Half an hour later: the short window is empty, the long one has kept the failures.
    let after = core(one_alert(Severity::Page));
    after.restore(&saved.clone().aged(HOUR / 2), at(0));
    let is = after.slo(at(0)).unwrap();
    assert_eq!((is.alerts[0].short_samples, is.failures), (0, 6000));
    assert!(is.alerts[0].long_samples > 17_000 && is.alerts[0].long_burn > 3.0);

    // Two days later: nothing.
    let after = core(one_alert(Severity::Page));
    after.restore(&saved.aged(2 * DAY), at(0));
    assert_eq!(after.slo(at(0)).unwrap().samples, 0);
}

#[test]
fn a_tripped_budget_is_tripped_after_a_restart_and_pulls_its_levers() {
    let before = FailureBudget::builder("slo").latch().build().unwrap();
    before.trip();
    let engaged = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let lever = std::sync::Arc::clone(&engaged);
    let after = FailureBudget::builder("slo")
        .lever(move |on: bool| lever.store(on, std::sync::atomic::Ordering::Relaxed))
        .restore(before.save())
        .build()
        .unwrap();
    assert_eq!(after.state(), BudgetState::Tripped);
    assert!(engaged.load(std::sync::atomic::Ordering::Relaxed));
}

#[test]
fn a_breach_goes_on_after_a_restart_because_its_windows_do() {
    let before = core(builder(0.9, DAY).reject());
    traffic(&before, 0..600, 10, 1);
    assert_eq!(before.state(), BudgetState::Breached);
    let after = core(builder(0.9, DAY).reject());
    after.restore(&before.save(at(600)), at(0));
    let change = after.record(at(1), false, true).unwrap();
    assert_eq!((change.from, change.to), (BudgetState::Healthy, BudgetState::Breached));
}

#[test]
fn what_is_older_than_the_process_goes_on_growing_old() {
    // Restarted once a week; ticks begin thirteen days before the process.
    let month = 30 * DAY;
    let before = FailureBudget::builder("slo").slo(0.9, month).build().unwrap();
    before.record(true);
    let mut saved = before.save();
    for week in 1..=6_u64 {
        saved = saved.aged(7 * DAY);
        let after = FailureBudget::builder("slo").slo(0.9, month).restore(saved).build().unwrap();
        let samples = after.snapshot().slo.unwrap().samples;
        assert_eq!(samples, u64::from(week < 5), "after {week} weeks");
        saved = after.save();
    }

    let before = FailureBudget::builder("year").window(month).build().unwrap();
    before.record(true);
    let mut saved = before.save();
    for week in 1..=6_u64 {
        saved = saved.aged(7 * DAY);
        let after = FailureBudget::builder("year").window(month).restore(saved).build().unwrap();
        assert_eq!(after.sample_count(), u64::from(week < 5), "after {week} weeks");
        saved = after.save();
    }
}

#[test]
fn the_period_forgets_even_if_nobody_asks_for_it() {
    let Parts { config, .. } = one_alert(Severity::Page).into_parts().unwrap();
    let ledger = Ledger::new(HOUR, 1);
    let mut burn = Burn::new(config.slo.unwrap(), 50, 0.9, 1, at(0));
    // A month of a period of a day.
    for minute in 0..30 * 24 * 60 {
        burn.bring(&ledger, at(minute * 60));
        ledger.record(at(minute * 60), true);
        burn.judge(at(minute * 60), 0, Severity::Page);
    }
    let saved = burn.saved(at(30 * 24 * 3600));
    assert!(saved.iter().all(|(_, buckets)| buckets.len() <= 62), "{:?}", saved[2].1.len());
}

#[cfg(feature = "serde")]
#[test]
fn a_saved_state_that_cannot_be_is_refused() {
    let saved = FailureBudget::new("slo").save();
    let mut json = serde_json::to_value(&saved).unwrap();
    json["window"] = serde_json::json!([[{"secs": 1, "nanos": 0}, 1, 2]]);
    let saved = serde_json::from_value(json.clone()).unwrap();
    let error = FailureBudget::builder("slo").restore(saved).build().unwrap_err();
    assert_eq!((error.field(), error.value()), ("restore", "2 failures in 1 calls"));
    let second = serde_json::json!({"secs": 1, "nanos": 0});
    json["window"] = serde_json::json!([[second, 1_u64 << 60, 0], [second, 1, 0]]);
    let saved = serde_json::from_value(json.clone()).unwrap();
    assert!(FailureBudget::builder("slo").restore(saved).build().is_err(), "too many to add up");
    // Each list is small enough, but two are of one window.
    json["window"] = serde_json::json!([]);
    let window = serde_json::json!([{"secs": 60, "nanos": 0}, [[second, 1_u64 << 60, 0]]]);
    json["slo"] = serde_json::json!(vec![window; 16]);
    let saved = serde_json::from_value(json.clone()).unwrap();
    let error = FailureBudget::builder("slo").restore(saved).build().unwrap_err();
    assert_eq!(error.field(), "restore");
    json["extra"] = 1.into();
    assert!(serde_json::from_value::<super::SavedState>(json).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Each window holds what is in it, and at most what came in a sixtieth before.
    #[test]
    fn windows_hold_their_length_and_up_to_a_sixtieth_more(
        steps in prop::collection::vec((0_u64..90, any::<bool>()), 1..400),
    ) {
        let Parts { config, .. } = one_alert(Severity::Page).into_parts().unwrap();
        let ledger = Ledger::new(HOUR, 1);
        let mut burn = Burn::new(config.slo.unwrap(), 50, 0.9, 1, at(0));
        let interval = burn.interval();
        let (mut now, mut due) = (at(0), at(0));
        let mut all = Vec::new();
        for (wait, failed) in steps {
            now.0 += wait * SECOND;
            if now >= due {
                burn.bring(&ledger, now);
                due = Tick(now.0 + interval);
            }
            ledger.record(now, failed);
            all.push((now, failed));
        }
        burn.bring(&ledger, now);
        let seen = burn.status(now, 0).alerts[0];
        for (span, samples) in [(300, seen.short_samples), (3600, seen.long_samples)] {
            let within = |s: u64| all.iter().filter(|(t, _)| now.0 - t.0 <= s).count() as u64;
            // Brought in up to an interval late, and a bucket's width is kept longer.
            let (least, most) = (span * SECOND, span * SECOND * 61 / 60 + interval);
            prop_assert!(within(least) <= samples && samples <= within(most));
        }
        let total = burn.status(now, 0);
        prop_assert!(total.failures <= total.samples);
    }
}
