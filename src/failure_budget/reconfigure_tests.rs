//! Live changes of the settings: what stays, and that nobody sees half of one.

#![expect(clippy::disallowed_methods, reason = "real threads race with real time")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::float_cmp, reason = "numbers that are passed on as they are")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Tick;

use super::core::{Change, Core};
use super::{BreachAction, BudgetState, BurnAlert, FailureBudget, FailureBudgetBuilder, Severity};

const NOW: Tick = Tick(1 << 50);

fn at(seconds: f64) -> Tick {
    NOW.after(Duration::from_secs_f64(seconds))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn builder() -> FailureBudgetBuilder {
    FailureBudget::builder("test").min_samples(10)
}

fn core(builder: FailureBudgetBuilder) -> Core {
    Core::new(builder.into_config().unwrap(), 4, NOW)
}

fn change(core: &Core, builder: FailureBudgetBuilder, now: f64) -> Option<Change> {
    core.reconfigure(builder.into_config().unwrap(), at(now)).unwrap()
}

fn record(core: &Core, calls: u32, failures: u32, now: f64) {
    for n in 0..calls {
        core.record(at(now), n < failures, false);
    }
}

#[test]
fn a_breach_begins_and_ends_with_the_threshold() {
    let core = core(builder().threshold(0.5));
    record(&core, 20, 4, 0.0);
    let breach = change(&core, builder().threshold(0.1), 1.0).unwrap().breach.unwrap();
    assert_eq!((breach.measured, breach.threshold, breach.samples), (0.2, 0.1, 20));
    assert!(change(&core, builder().threshold(0.15), 1.0).is_none(), "not recovered: above 0.075");
    let change = change(&core, builder().threshold(0.5), 1.0).unwrap();
    assert_eq!((change.from, change.to), (BudgetState::Breached, BudgetState::Healthy));
    let stats = core.stats();
    assert_eq!((stats.samples, stats.failures, stats.breaches, stats.recoveries), (20, 4, 1, 1));
}

#[test]
fn the_share_that_is_refused_goes_by_the_new_action() {
    let core = core(builder().threshold(0.1));
    record(&core, 20, 10, 0.0);
    let share = || core.snapshot(at(1.0)).refused_share;
    assert_eq!((core.state(), share()), (BudgetState::Breached, 0.0));
    change(&core, builder().threshold(0.1).shed(), 1.0);
    assert_eq!(share(), 0.8);
    let refused = |core: &Core| (0..1000).filter(|_| core.admit(at(1.0)).0.is_err()).count();
    assert!(refused(&core).abs_diff(800) < 10);
    change(&core, builder().threshold(0.25).action(BreachAction::Shed), 1.0);
    assert_eq!(share(), 0.5);
    assert!(refused(&core).abs_diff(500) < 10);
    let refusal = std::iter::repeat_with(|| core.admit(at(1.0)).0).find_map(Result::err).unwrap();
    assert_eq!((refusal.measured, refusal.threshold), (0.5, 0.25));
    change(&core, builder().threshold(0.25), 1.0);
    assert_eq!(refused(&core), 0);
}

#[test]
fn the_window_keeps_its_calls() {
    let window = |length| builder().threshold(0.9).window(seconds(length));
    let core = core(window(30));
    record(&core, 10, 1, 0.0);
    record(&core, 20, 2, 20.0);
    change(&core, window(30).min_samples(5), 20.0);
    assert_eq!(core.totals(at(20.0)).calls, 30, "the same length");
    change(&core, window(300), 21.0);
    assert_eq!(core.totals(at(100.0)).calls, 30, "longer: nothing has left");
    change(&core, window(90), 100.0);
    assert_eq!(core.totals(at(100.0)).calls, 20, "shorter: what is too old has");
    record(&core, 7, 0, 105.0);
    assert_eq!(core.totals(at(110.1)).calls, 7);
    change(&core, window(300), 120.0);
    assert_eq!(core.totals(at(120.0)).calls, 7, "what has left does not come back");
    assert_eq!(core.stats().samples, 37);
}

/// The open page of a long window is longer than all of a short one.
#[test]
fn calls_after_a_window_has_become_short_are_not_put_on_a_page_of_the_long_one() {
    let core = core(builder().threshold(0.9).window(seconds(128 * 60)));
    for n in 0..400 {
        core.record(at(f64::from(n)), false, false);
    }
    change(&core, builder().threshold(0.9).window(seconds(10)), 400.0);
    record(&core, 50, 0, 400.5);
    assert_eq!(core.totals(at(405.0)).calls, 50);
    assert_eq!(core.totals(at(411.0)).calls, 0);
}

#[test]
fn what_is_tripped_or_retired_stays_so() {
    let core = core(builder());
    core.trip(at(0.0));
    assert!(change(&core, builder().threshold(1.0), 1.0).is_none());
    assert_eq!(core.state(), BudgetState::Tripped);
    core.reset(at(1.0));
    core.retire(at(1.0));
    record(&core, 100, 100, 1.0);
    assert!(change(&core, builder().threshold(0.01), 1.0).is_none());
    assert_eq!(core.state(), BudgetState::Retired);
}

#[test]
fn objective_and_factors_of_an_slo_change_and_its_windows_do_not() {
    let slo = |objective, factor| {
        let alert = BurnAlert::new(Severity::Page, seconds(60), factor);
        builder().slo(objective, seconds(3600)).burn_alerts([alert])
    };
    let core = core(slo(0.5, 1.9));
    record(&core, 100, 20, 0.0);
    assert!(core.poll(at(0.0)).is_none(), "0.4 of what is allowed");
    let change = change(&core, slo(0.9, 1.5), 1.0).unwrap();
    assert_eq!((change.to, change.alerts.len()), (BudgetState::Breached, 1));
    assert_eq!(core.slo(at(1.0)).unwrap().objective, 0.9);
    let refused = |builder: FailureBudgetBuilder| {
        let config = builder.into_config().unwrap();
        core.reconfigure(config, at(1.0)).unwrap_err().field().to_owned()
    };
    let alert = |long| BurnAlert::new(Severity::Page, seconds(long), 1.5);
    assert_eq!(refused(builder()), "slo");
    assert_eq!(refused(builder().slo(0.9, seconds(60))), "slo.period");
    let hour = || builder().slo(0.9, seconds(3600));
    assert_eq!(refused(hour().burn_alerts([alert(61)])), "burn_alerts");
    assert_eq!(refused(hour().burn_alerts([alert(60), alert(60)])), "burn_alerts");
    assert_eq!(core.slo(at(1.0)).unwrap().alerts[0].alert.factor, 1.5);
    assert_eq!(core.state(), BudgetState::Breached);
    let config = slo(0.9, 1.5).into_config().unwrap();
    assert_eq!(self::core(builder()).reconfigure(config, NOW).unwrap_err().field(), "slo");
}

#[tokio::test(start_paused = true)]
async fn callbacks_and_name_stay_and_a_bad_value_changes_nothing() {
    let told = std::sync::Arc::new(AtomicU64::new(0));
    let tell = std::sync::Arc::clone(&told);
    let budget = builder().threshold(0.5).on_breach(move |_| {
        tell.fetch_add(1, Ordering::Relaxed);
    });
    let budget = budget.build().unwrap();
    for n in 0..20 {
        budget.record(n < 5);
    }
    let other = || {
        let other = FailureBudget::builder("other").min_samples(10).threshold(0.1);
        other.on_breach(|_| panic!("not of this budget"))
    };
    assert_eq!(budget.reconfigure(other().probes(0.0)).unwrap_err().field(), "probes");
    assert_eq!((budget.threshold(), budget.state()), (0.5, BudgetState::Healthy));
    budget.reconfigure(other()).unwrap();
    assert_eq!((budget.name(), budget.threshold()), ("test", 0.1));
    assert_eq!((budget.state(), told.load(Ordering::Relaxed)), (BudgetState::Breached, 1));
    // It recovers when the window is empty, as it would have.
    tokio::time::advance(seconds(31)).await;
    assert_eq!(budget.state(), BudgetState::Healthy);
}

/// Two settings of which no mixture can be taken for either.
fn a() -> FailureBudgetBuilder {
    builder().threshold(0.2).min_samples(10).window(seconds(10)).reject()
}

fn b() -> FailureBudgetBuilder {
    builder().threshold(0.3).min_samples(200).window(seconds(40)).reject()
}

/// 10,000 calls on threads over 50 changes: each is counted once, and each breach and each refusal goes by
/// all of one setting or all of the other.
#[test]
fn calls_on_threads_over_changes_are_neither_lost_nor_torn() {
    const THREADS: u64 = 4;
    const CALLS: u64 = 2_500;
    let core = core(a());
    let clock = AtomicU64::new(NOW.0);
    let now = || Tick(clock.fetch_add(5_000_000, Ordering::Relaxed));
    let check = |change: Option<Change>| {
        let Some(breach) = change.and_then(|change| change.breach) else { return 0 };
        let (window, samples) = (breach.window.as_secs(), breach.samples);
        let of_a = breach.threshold == 0.2 && window == 10 && samples >= 10;
        let of_b = breach.threshold == 0.3 && window == 40 && samples >= 200;
        assert!((of_a || of_b) && breach.measured > breach.threshold, "{breach:?}");
        1
    };
    let (changes, left) = (AtomicU64::new(0), AtomicU64::new(THREADS));
    let (recorded, failed, refused) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let breaches = AtomicU64::new(0);
    let add = |to: &AtomicU64, n| {
        to.fetch_add(n, Ordering::Relaxed);
    };
    let seed: u64 = 7;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (core, now, check, add) = (&core, &now, &check, &add);
            let (changes, left, breaches) = (&changes, &left, &breaches);
            let (recorded, failed, refused) = (&recorded, &failed, &refused);
            scope.spawn(move || {
                let mut random = seed + thread;
                for n in 0..CALLS {
                    // Spread over all the changes, however fast either side is.
                    while changes.load(Ordering::Relaxed) < n * 50 / CALLS {
                        std::thread::yield_now();
                    }
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if !core.passes() {
                        let (admitted, change) = core.admit(now());
                        add(breaches, check(change));
                        if let Err(refusal) = admitted {
                            core.count_refusal();
                            add(refused, 1);
                            // A breach goes on down to half of its threshold.
                            let of_a = refusal.threshold == 0.2 && refusal.measured > 0.1;
                            let of_b = refusal.threshold == 0.3 && refusal.measured > 0.15;
                            assert!(of_a || of_b, "{refusal:?}");
                            continue;
                        }
                    }
                    // Good and bad times, so that there are breaches and recoveries.
                    let fails = random >> 33 & 7 < if n / 250 % 2 == 0 { 4 } else { 0 };
                    add(breaches, check(core.record(now(), fails, true)));
                    add(recorded, 1);
                    add(failed, u64::from(fails));
                }
                left.fetch_sub(1, Ordering::Relaxed);
            });
        }
        scope.spawn(|| {
            while changes.load(Ordering::Relaxed) < 50 || left.load(Ordering::Relaxed) > 0 {
                let settings = if changes.load(Ordering::Relaxed) % 2 == 0 { b() } else { a() };
                let config = settings.into_config().unwrap();
                add(&breaches, check(core.reconfigure(config, now()).unwrap()));
                changes.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
    });
    let stats = core.stats();
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    assert_eq!(stats.samples, count(&recorded), "seed {seed}");
    assert_eq!(stats.failures, count(&failed), "seed {seed}");
    assert_eq!(stats.samples + stats.rejected, THREADS * CALLS, "seed {seed}");
    assert_eq!(stats.breaches, count(&breaches), "each was told once, seed {seed}");
    assert!(stats.breaches > 0 && count(&refused) > 0, "seed {seed}");
}
