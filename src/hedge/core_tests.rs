#![expect(clippy::cast_possible_truncation, reason = "times are short")]

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

const MS: u64 = 1_000_000;

fn limits() -> Limits {
    Limits {
        percentile: 0.98,
        min_samples: 100,
        min_delay: MS,
        deposit: deposit(0.03),
        burst: 3,
        hedges: 2,
    }
}

/// About lognormal: half of them below `median`, one in fifty above 3.4 times of it.
fn latency(rng: &mut SmallRng, median: u64) -> u64 {
    let normal: f64 = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
    (median as f64 * (0.6 * normal).exp()) as u64
}

#[test]
fn buckets_are_in_order_and_narrow() {
    assert_eq!(bucket(0), 0);
    assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    for i in 0..BUCKETS {
        assert_eq!(bucket(lower_edge(i)), i);
        assert_eq!(bucket(lower_edge(i + 1) - 1), i);
        assert!(lower_edge(i + 1) * 8 <= lower_edge(i) * 9);
    }
}

#[test]
fn nothing_is_known_before_enough_answers() {
    let core = Core::new(limits());
    for n in 1..100 {
        core.answered(5 * MS, 1, Tick(n * 50 * MS));
        assert_eq!(core.delay(), None);
    }
    // Abandoned calls are no answers.
    core.censored(5 * MS, Tick(6000 * MS));
    assert_eq!(core.delay(), None);
    core.answered(5 * MS, 1, Tick(6050 * MS));
    assert!(core.delay().is_some());
}

#[test]
fn the_delay_is_never_below_its_minimum() {
    let core = Core::new(limits());
    for n in 1..=200 {
        core.answered(1000, 1, Tick(n * 50 * MS));
    }
    assert_eq!(core.delay(), Some(MS));
}

/// Hedged answers are given up at the delay: the percentile must stay where it is. An estimator that counts what
/// the caller has seen as an answer is shown to drift.
#[test]
fn a_percentile_of_hedged_calls_does_not_drift() {
    let truth = {
        let mut rng = SmallRng::seed_from_u64(99);
        let mut all: Vec<u64> = (0..200_000).map(|_| latency(&mut rng, 20 * MS)).collect();
        all.sort_unstable();
        all[196_000] as f64
    };
    let (mut means, runs) = ([0.0; 2], 8);
    for seed in 0..runs {
        for (mean, honest) in means.iter_mut().zip([true, false]) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let core = Core::new(limits());
            let (mut sum, mut looks) = (0.0, 0.0);
            for n in 1..40_000_u64 {
                let now = Tick(n * 5 * MS);
                let first = latency(&mut rng, 20 * MS);
                let second = latency(&mut rng, 20 * MS);
                let hedged = core.delay().unwrap_or(u64::MAX).saturating_add(second);
                if first <= hedged {
                    core.answered(first, 1, now);
                } else if honest {
                    core.censored(hedged, now);
                } else {
                    core.answered(second, 1, now);
                }
                if n > 5000 {
                    sum += core.delay().unwrap() as f64 / truth;
                    looks += 1.0;
                }
            }
            *mean += sum / looks / runs as f64;
        }
    }
    let [ours, naive] = means;
    assert!((0.96..1.04).contains(&ours), "{ours} beside {naive}");
    assert!(naive < ours - 0.04, "{ours} beside {naive}");
}

#[test]
fn it_follows_a_change_within_a_thousand_answers_or_so() {
    let core = Core::new(limits());
    let mut rng = SmallRng::seed_from_u64(3);
    let mut now = 0;
    for (median, answers) in [(10 * MS, 1000), (100 * MS, 8000)] {
        for _ in 0..answers {
            now += 50 * MS;
            core.answered(latency(&mut rng, median), 1, Tick(now));
        }
    }
    let median = core.median().unwrap();
    assert!((90 * MS..112 * MS).contains(&median), "{median}");
}

#[test]
fn no_hedge_is_planned_that_could_not_answer_in_time() {
    let core = Core::new(limits());
    for n in 1..=200 {
        core.answered(10 * MS, 1, Tick(n * 50 * MS));
    }
    let (delay, median) = (core.delay().unwrap(), core.median().unwrap());
    let most = core.most.load(Ordering::Relaxed);
    let now = Tick(1 << 50);
    let at = |after: u64| Some(Tick(now.0 + after));
    assert_eq!(core.plan(None, now), at(delay));
    assert_eq!(core.plan(at(delay + median), now), at(delay));
    assert_eq!(core.plan(at(most + median), now), at(most));
    assert_eq!(core.plan(at(most + median - 1), now), None);
    assert_eq!(core.plan(Some(Tick(0)), now), None);
}

#[test]
fn a_hedge_is_planned_earlier_where_the_deadline_asks_for_it() {
    let core = Core::new(limits());
    let mut rng = SmallRng::seed_from_u64(5);
    for n in 1..=5000 {
        core.answered(latency(&mut rng, 20 * MS), 1, Tick(n * 50 * MS));
    }
    let (delay, most) = (core.delay().unwrap(), core.most.load(Ordering::Relaxed));
    assert!(2 * most > delay + MS, "{delay} {most}");
    let now = Tick(1 << 50);
    let at = |after: u64| Some(Tick(now.0 + after));
    assert_eq!(core.plan(at(delay + most), now), at(delay));
    assert_eq!(core.plan(at(delay + most - MS), now), at(delay - MS));
    let median = core.median().unwrap();
    assert_eq!(core.plan_next(None, now), at(most));
    assert_eq!(core.plan_next(at(most + median), now), at(most));
    assert_eq!(core.plan_next(at(most + median - 1), now), None);
    assert_eq!(core.plan_again(at(2 * median), now), at(median));
    assert_eq!(core.plan_again(at(2 * median - 1), now), None);
    // At the end of all time nothing overflows.
    let last = Tick(u64::MAX);
    for deadline in [None, Some(last), Some(Tick(0))] {
        let plans = [
            core.plan(deadline, last),
            core.plan_next(deadline, last),
            core.plan_again(deadline, last),
        ];
        assert!(plans.iter().flatten().all(|due| *due == last), "{plans:?}");
    }
}

/// A second in which all was stuck, and for a quarter of a minute the percentile is more than callers wait: they had no
/// hedge until that was forgotten.
#[test]
fn a_percentile_beyond_the_deadline_leaves_the_hedge_that_can_still_answer() {
    let core = Core::new(limits());
    let mut rng = SmallRng::seed_from_u64(6);
    let mut answers = |from: u64, many: u64, times: u64| {
        for n in from..from + many {
            core.answered(times * latency(&mut rng, 20 * MS), 1, Tick(n * 10 * MS));
        }
    };
    answers(0, 1000, 1);
    answers(1000, 50, 50);
    answers(1050, 200, 1);
    let (delay, median) = (core.delay().unwrap(), core.median().unwrap());
    let most = core.most.load(Ordering::Relaxed);
    let left = 2 * most - MS;
    assert!(delay > left && median < most / 2 && most < 100 * MS, "{delay} {most} {median}");
    let now = Tick(1 << 50);
    let plan = core.plan(Some(Tick(now.0 + left)), now);
    assert_eq!(plan, Some(Tick(now.0 + left - median)));
}

proptest! {
    #[test]
    fn hedges_never_exceed_their_share_of_any_stretch(
        calls in proptest::collection::vec(any::<bool>(), 1..2000),
        share in 0.001..0.5_f64,
    ) {
        let core = Core::new(Limits { deposit: deposit(share), ..limits() });
        let mut hedges: Vec<f64> = Vec::new();
        for wants in calls {
            core.deposit();
            hedges.push(f64::from(u8::from(wants && core.take().is_some())));
        }
        // The worst stretch: the most that hedges are ahead of what was paid since some moment.
        let (mut ahead, mut worst) = (0.0_f64, 0.0_f64);
        for hedge in hedges {
            ahead = (ahead - share + hedge).max(0.0);
            worst = worst.max(ahead);
        }
        prop_assert!(worst <= 3.0 + 1e-6, "{worst}");
    }

    #[test]
    fn without_censored_calls_it_is_the_ordinary_percentile(
        nanos in proptest::collection::vec(20_000_u64..10_000 * MS, 200..400),
    ) {
        let core = Core::new(limits());
        for nanos in &nanos {
            core.answered.0[bucket(*nanos)].fetch_add(1, Ordering::Relaxed);
        }
        core.refresh(Tick(1));
        let mut nanos = nanos;
        nanos.sort_unstable();
        let exact = nanos[(nanos.len() * 98).div_ceil(100) - 1].max(MS);
        let found = core.delay().unwrap();
        prop_assert!(found * 8 <= exact * 9 && exact * 8 <= found * 9, "{found} for {exact}");
    }
}

#[test]
fn what_few_answers_do_not_show_is_not_taken_for_the_percentile() {
    // Of 16 answers not one is likely to be as slow as one in fifty is: their slowest would be a delay for one in
    // sixteen.
    let mut above = [0.0; 2];
    let runs = 400;
    for seed in 0..runs {
        let mut rng = SmallRng::seed_from_u64(seed);
        let core = Core::new(Limits { min_samples: 16, ..limits() });
        let mut slowest = 0;
        for n in 1..=16 {
            let took = latency(&mut rng, 20 * MS);
            slowest = slowest.max(took);
            core.answered(took, 1, Tick(n * 50 * MS));
        }
        let delay = core.delay().unwrap();
        for _ in 0..100 {
            let next = latency(&mut rng, 20 * MS);
            for (above, limit) in above.iter_mut().zip([delay, slowest]) {
                *above += f64::from(u8::from(next > limit)) / (100.0 * runs as f64);
            }
        }
    }
    let [ours, naive] = above;
    assert!((0.01..0.035).contains(&ours), "{ours} beside {naive}");
    assert!(naive > 0.045, "{ours} beside {naive}");
}

#[test]
fn a_percentile_is_so_many_deviations_above_the_mean() {
    for (percentile, expected) in [(0.5, 0.0), (0.9, 1.2816), (0.98, 2.0537), (0.9999, 3.7190)] {
        let deviations = deviations(percentile);
        assert!((deviations - expected).abs() < 1e-3, "{percentile}: {deviations}");
    }
}

#[test]
fn hedges_are_in_vain_while_more_is_missed_than_they_rescue() {
    // However much is paid for.
    let core = Core::new(Limits { deposit: deposit(0.3), ..limits() });
    let calls = |missed: u32, rescued: u32, kept: u32| {
        for _ in 0..20 {
            (0..missed).for_each(|_| core.missed());
            (0..rescued).for_each(|_| core.kept(true));
            (0..kept).for_each(|_| core.kept(false));
        }
    };
    // A few are missed anyhow.
    calls(1, 0, 99);
    assert!(!core.is_in_vain());
    // More than are slow by the percentile, and none that helps: all wait in one queue.
    calls(5, 0, 45);
    assert!(core.is_in_vain());
    // As many, but as many more would be.
    calls(5, 5, 90);
    assert!(!core.is_in_vain());
    // An outage is forgotten.
    calls(50, 0, 0);
    assert!(core.is_in_vain());
    calls(0, 0, 20);
    assert!(!core.is_in_vain());
}

/// Where every second call may ask, it does not take every second that is late to see that hedges do not help.
#[test]
fn how_many_may_ask_says_nothing_of_how_many_may_be_late() {
    for percentile in [0.5, 0.9, 0.98] {
        let core = Core::new(Limits { percentile, ..limits() });
        (0..20).for_each(|_| {
            (0..10).for_each(|n| if n == 0 { core.missed() } else { core.kept(false) })
        });
        assert!(core.is_in_vain(), "a tenth is late, at {percentile}");
    }
}

#[test]
fn while_they_are_in_vain_a_few_hedges_show_whether_they_still_are() {
    let core = Core::new(limits());
    (0..200).for_each(|_| core.missed());
    assert!(core.is_in_vain());
    // After an outage one call in twelve is late, and each hedge rescues one: few are sent, and they are enough.
    let (mut sent, mut calls) = (0, 0);
    while core.is_in_vain() {
        calls += 1;
        assert!(calls < 3_000, "{sent} sent, and they are still taken to be in vain");
        core.deposit();
        if calls % 12 > 0 {
            core.kept(false);
        } else if core.take_all().is_some() {
            sent += 1;
            core.kept(true);
        } else {
            core.missed();
        }
    }
    assert!((1..=12).contains(&sent), "{sent} of {calls}");
}
