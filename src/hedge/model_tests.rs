//! What a hedge knows beside a slow, obvious reading of the same calls: the percentile from a sorted list, when there is a
//! hedge from what it says in words, and what is saved as one would keep a purse.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::seed::seed;

const MS: u64 = 1_000_000;

fn limits(random: &mut SmallRng) -> Limits {
    Limits {
        percentile: random.random_range(0.5..0.99),
        min_samples: random.random_range(1..200),
        min_delay: MS * random.random_range(1..20),
        deposit: deposit(random.random_range(0.01..0.5)),
        burst: random.random_range(1..6),
        hedges: 2,
    }
}

/// The time by which so many have answered, if who was given up would have answered later like those who were out as
/// long: each that was given up is shared out among those after it. `None`: later than any that answered.
fn percentile_of(sorted: &[(u64, bool)], percentile: f64) -> Option<u64> {
    let mut weights = vec![1.0; sorted.len()];
    let mut answered = 0.0;
    for (i, (nanos, is_answer)) in sorted.iter().enumerate() {
        if *is_answer {
            answered += weights[i];
            if answered >= percentile * sorted.len() as f64 - 1e-9 {
                return Some(*nanos);
            }
        } else {
            let after = (sorted.len() - i - 1) as f64;
            let share = weights[i] / after;
            weights[i + 1..].iter_mut().for_each(|weight| *weight += share);
        }
    }
    None
}

#[test]
fn the_percentile_is_that_of_a_sorted_list_also_where_calls_were_given_up() {
    let seed = seed();
    let mut later_than_any = 0;
    for n in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(n));
        let core = Core::new(Limits { min_samples: 1, min_delay: 1, ..limits(&mut random) });
        let percentile = core.limits.percentile();
        let many = random.random_range(300..600);
        let mut calls: Vec<_> = (0..many)
            .map(|_| {
                // In the middle of a bucket: of one bucket those that answered come first.
                let at = bucket(random.random_range(20_000..2_000 * MS));
                (u64::midpoint(lower_edge(at), lower_edge(at + 1)), random.random_bool(0.8))
            })
            .collect();
        for (nanos, is_answer) in &calls {
            let of = if *is_answer { &core.answered } else { &core.censored };
            of.0[bucket(*nanos)].fetch_add(1, Ordering::Relaxed);
        }
        core.refresh(Tick(1 << 50));
        calls.sort_by_key(|(nanos, is_answer)| (*nanos, !is_answer));
        for (found, percentile) in [
            (core.delay().unwrap(), percentile),
            (core.median().unwrap(), 0.5),
            (core.most.load(Ordering::Relaxed), 0.9),
        ] {
            if let Some(exact) = percentile_of(&calls, percentile) {
                let of = bucket(exact);
                let (from, to) = (lower_edge(of), lower_edge(of + 1));
                assert!((from..=to).contains(&found), "{found} for {exact} at {percentile}");
            } else {
                later_than_any += 1;
                assert!(found >= calls[calls.len() - 1].0, "{found} at {percentile}");
            }
        }
    }
    println!("{later_than_any} later than any answer");
}

#[test]
fn a_hedge_is_due_when_it_says_in_words() {
    let seed = seed();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut seen = [0; 5];
    for _ in 0..20_000 {
        let core = Core::new(limits(&mut random));
        let now = Tick(1 << 50);
        let mut any = |to: u64| random.random_range(1..to * MS);
        let (median, more, delay, left) = (any(100), any(200), any(400), any(1000));
        let most = median + more;
        core.delay.store(delay, Ordering::Relaxed);
        core.median.store(median, Ordering::Relaxed);
        core.most.store(most, Ordering::Relaxed);
        let after = |nanos: u64| Some(Tick(now.0 + nanos));
        let deadline = after(left);
        assert_eq!(core.plan(None, now), after(delay));
        // After the delay if most hedges are in time then, else earlier, so that they are; but never before most first
        // attempts have answered. Where that leaves no time, after the delay if half of them are in time, or earlier, so that
        // they are.
        let (case, due) = if delay + most <= left {
            (0, after(delay))
        } else if 2 * most <= left {
            (1, after(left - most))
        } else if delay + median <= left {
            (2, after(delay))
        } else if most + median <= left {
            (3, after(left - median))
        } else {
            (4, None)
        };
        seen[case] += 1;
        assert_eq!(core.plan(deadline, now), due, "{median} {most} {delay} {left}");
        // Another one after the first hedge, if most of both are in time; and again after a refusal, if half are.
        let pause = most.max(core.limits.min_delay());
        let next = after(pause).filter(|_| most + median <= left);
        assert_eq!(core.plan_next(deadline, now), next);
        let pause = median.max(core.limits.min_delay());
        let again = after(pause).filter(|_| pause + median <= left);
        assert_eq!(core.plan_again(deadline, now), again);
    }
    assert!(seen.iter().all(|seen| *seen > 100), "{seen:?}");
}

#[test]
fn what_is_saved_is_kept_as_in_a_purse() {
    let seed = seed();
    let (mut refused, mut given_back) = (0, 0);
    for n in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(n));
        let mut limits_now = limits(&mut random);
        let core = Core::new(limits_now);
        let (mut purse, mut out) = (HEDGE, Vec::new());
        for _ in 0..300 {
            let full = u64::from(limits_now.burst) * HEDGE;
            match random.random_range(0..20) {
                0..12 => {
                    core.deposit();
                    purse = (purse + limits_now.deposit).min(full);
                }
                12..17 => {
                    let all = random.random_bool(0.3);
                    let price = if all { full } else { HEDGE };
                    let paid = if all { core.take_all() } else { core.take() };
                    assert_eq!(paid, (purse >= price).then_some(price));
                    purse -= paid.unwrap_or(0);
                    refused += u32::from(paid.is_none());
                    out.extend(paid);
                }
                17..19 => {
                    if let Some(price) = out.pop() {
                        core.give_back(price);
                        purse = (purse + price).min(full);
                        given_back += 1;
                    }
                }
                _ => {
                    limits_now = limits(&mut random);
                    core.reconfigure(limits_now);
                    purse = purse.min(u64::from(limits_now.burst) * HEDGE);
                }
            }
            assert_eq!(core.share.load(Ordering::Relaxed), purse);
        }
    }
    assert!(refused > 100 && given_back > 100, "{refused} {given_back}");
}
