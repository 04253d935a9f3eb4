#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails; the numbers are exact or small"
)]

use proptest::prelude::*;

use super::*;

fn tokens_only() -> RetryBudget {
    RetryBudget::builder("t").ratio(10.0).burst(1_000_000).floor(1_000_000).build().unwrap()
}

#[test]
fn in_an_outage_retries_stop_after_two() {
    let budget = RetryBudget::new("t");
    let sent =
        (0..1000).filter(|_| budget.failed(RetryCost::Failed).map(RetryToken::send).is_some());
    assert_eq!(sent.count(), 2);
    assert_eq!(budget.stats().denied, 998);
}

#[test]
fn an_unsent_token_gives_back_both_parts_exactly() {
    let budget = RetryBudget::new("t");
    for cost in [RetryCost::Failed, RetryCost::Throttled] {
        let before = budget.stats();
        let token = budget.withdraw(cost).unwrap();
        assert!(budget.stats().tokens < before.tokens && budget.stats().credit < before.credit);
        drop(token);
        let after = budget.stats();
        assert_eq!((after.tokens, after.credit), (before.tokens, before.credit));
    }
}

#[test]
fn success_refunds_tokens_but_never_credit() {
    let budget = tokens_only();
    let b = RetryBudget::builder("t").floor(10).build().unwrap();
    for _ in 0..10 {
        b.withdraw(RetryCost::Failed).unwrap().send().succeeded();
    }
    assert_eq!((b.stats().tokens, b.stats().credit), (28, 0.0));
    assert!(b.withdraw(RetryCost::Failed).is_none());
    for _ in 0..1000 {
        budget.withdraw(RetryCost::Failed).unwrap().send().succeeded();
    }
}

#[test]
fn stats_tell_the_limits_of_the_balances() {
    let budget = RetryBudget::builder("t").tokens(50).burst(7).build().unwrap();
    assert_eq!((budget.stats().max_tokens, budget.stats().burst), (50, 7));
    budget.set_burst(1_000_000).unwrap();
    assert_eq!((budget.stats().max_tokens, budget.stats().burst), (50, 1_000_000));
    for _ in 0..10_000 {
        budget.succeeded();
        let stats = budget.stats();
        assert!(stats.tokens <= stats.max_tokens && stats.credit <= f64::from(stats.burst));
    }
    assert_eq!(budget.stats().tokens, 50);
}

#[test]
fn what_was_granted_before_a_reset_comes_back_for_nothing() {
    let give_back: [fn(RetryToken); 3] =
        [drop, |token| token.send().succeeded(), |token| token.send().refused()];
    for give_back in give_back {
        let budget = RetryBudget::new("t");
        let early = budget.withdraw(RetryCost::Failed).unwrap();
        budget.reset();
        give_back(early);
        assert_eq!((budget.stats().tokens, budget.stats().credit), (28, 3.0));
        // One granted after it does come back.
        let late = budget.withdraw(RetryCost::Failed).unwrap();
        drop(late);
        assert_eq!((budget.stats().tokens, budget.stats().credit), (28, 3.0));
    }
    // The largest balances leave room for the number of resets.
    let budget = RetryBudget::builder("t")
        .tokens(1_000_000)
        .initial_tokens(1_000_000)
        .burst(1_000_000)
        .floor(1_000_000)
        .build()
        .unwrap();
    for _ in 0..40 {
        let early = budget.withdraw(RetryCost::Failed).unwrap();
        let paid = budget.withdraw(RetryCost::Failed).unwrap().send();
        budget.reset();
        drop((early, paid));
        budget.succeeded();
        assert_eq!((budget.stats().tokens, budget.stats().credit), (1_000_000, 1_000_000.0));
    }
}

#[test]
fn a_recovered_backend_earns_its_retries_back() {
    let budget = RetryBudget::new("t");
    while budget.failed(RetryCost::Failed).map(RetryToken::send).is_some() {}
    for _ in 0..14 {
        budget.succeeded();
    }
    assert!(budget.failed(RetryCost::Failed).is_some());
}

#[test]
fn throttling_is_cheaper_than_failing() {
    let budget = tokens_only();
    let count = std::iter::from_fn(|| budget.failed(RetryCost::Throttled).map(RetryToken::send));
    assert_eq!(count.count(), 28 / 5);
}

#[test]
fn nothing_grows_beyond_its_limit() {
    let budget = RetryBudget::new("t");
    for _ in 0..1000 {
        budget.succeeded();
        budget.failed_for_good();
    }
    assert_eq!((budget.stats().tokens, budget.stats().credit), (140, 10.0));
    let token = budget.withdraw(RetryCost::Failed).unwrap();
    for _ in 0..1000 {
        budget.succeeded();
    }
    drop(token);
    assert_eq!((budget.stats().tokens, budget.stats().credit), (140, 10.0));
}

#[test]
fn limits_change_at_run_time() {
    let budget = RetryBudget::new("t");
    for _ in 0..200 {
        budget.succeeded();
    }
    budget.set_burst(2).unwrap();
    assert_eq!(budget.stats().credit, 2.0);
    budget.set_ratio(1.0).unwrap();
    drop(budget.failed(RetryCost::Failed).unwrap().send());
    assert_eq!(budget.stats().credit, 1.0, "the deposit found the purse full");
    budget.failed_for_good();
    assert_eq!(budget.stats().credit, 2.0);
    budget.reset();
    assert_eq!(budget.stats().credit, 2.0, "the start does not exceed the new burst");
}

#[test]
fn bad_numbers_are_named() {
    let b = || RetryBudget::builder("t");
    for (builder, field) in [
        (b().ratio(0.0), "ratio"),
        (b().ratio(-0.1), "ratio"),
        (b().ratio(10.1), "ratio"),
        (b().ratio(f64::NAN), "ratio"),
        (b().ratio(f64::INFINITY), "ratio"),
        (b().burst(0), "burst"),
        (b().burst(1_000_001), "burst"),
        (b().burst(u32::MAX), "burst"),
        (b().burst(2), "floor"),
        (b().floor(11), "floor"),
        (b().tokens(0), "tokens"),
        (b().tokens(u32::MAX), "tokens"),
        (b().tokens(20), "initial_tokens"),
        (b().cost(141), "cost"),
        (b().throttled_cost(141), "throttled_cost"),
    ] {
        assert_eq!(builder.clone().build().unwrap_err().field(), field, "{builder:?}");
    }
    b().ratio(1e-6).build().unwrap();
    b().ratio(10.0).burst(1_000_000).tokens(1_000_000).build().unwrap();
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Succeeded,
    FailedForGood,
    Failed(bool),
    Withdraw(bool),
    Send(usize),
    Drop(usize),
    Worked(usize),
    Lost(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => Just(Op::Succeeded),
        1 => Just(Op::FailedForGood),
        6 => any::<bool>().prop_map(Op::Failed),
        2 => any::<bool>().prop_map(Op::Withdraw),
        4 => any::<usize>().prop_map(Op::Send),
        2 => any::<usize>().prop_map(Op::Drop),
        2 => any::<usize>().prop_map(Op::Worked),
        2 => any::<usize>().prop_map(Op::Lost),
    ];
    prop::collection::vec(op, 0..400)
}

fn pick<T>(from: &mut Vec<T>, at: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(at % from.len()))
}

fn cost(throttled: bool) -> RetryCost {
    if throttled { RetryCost::Throttled } else { RetryCost::Failed }
}

proptest! {
    /// Against a slow obvious model in whole numbers, and the bound on amplification on every interval.
    #[test]
    fn no_token_is_minted_or_lost_and_load_is_bounded_on_every_interval(
        ops in ops(),
        ratio in 1u64..=500,
        burst in 1u32..=20,
        floor in 0u32..=20,
    ) {
        let floor = floor.min(burst);
        let ratio_f = ratio as f64 / 1000.0;
        let budget = RetryBudget::builder("t").ratio(ratio_f).burst(burst).floor(floor).build().unwrap();
        let (mut tokens, mut credit) = (28u64, u64::from(floor) * 1000); // thousandths of a retry
        let full = u64::from(burst) * 1000;
        let (mut waiting, mut flying) = (vec![], vec![]);
        // Requests and net retries (granted minus given back) up to each step.
        let mut sums = vec![(0u64, 0i64)];
        for op in ops {
            let (mut requests, mut retries) = sums[sums.len() - 1];
            match op {
                Op::Succeeded => {
                    budget.succeeded();
                    requests += 1;
                    (tokens, credit) = ((tokens + 1).min(140), (credit + ratio).min(full));
                }
                Op::FailedForGood => {
                    budget.failed_for_good();
                    requests += 1;
                    credit = (credit + ratio).min(full);
                }
                Op::Failed(throttled) | Op::Withdraw(throttled) => {
                    let token = if matches!(op, Op::Failed(_)) {
                        requests += 1;
                        credit = (credit + ratio).min(full);
                        budget.failed(cost(throttled))
                    } else {
                        budget.withdraw(cost(throttled))
                    };
                    let price = if throttled { 5 } else { 14 };
                    let granted = tokens >= price && credit >= 1000;
                    prop_assert_eq!(granted, token.is_some());
                    if let Some(token) = token {
                        (tokens, credit, retries) = (tokens - price, credit - 1000, retries + 1);
                        waiting.push((token, price));
                    }
                }
                Op::Send(at) => {
                    if let Some((token, price)) = pick(&mut waiting, at) {
                        flying.push((token.send(), price));
                    }
                }
                Op::Drop(at) => {
                    if let Some((token, price)) = pick(&mut waiting, at) {
                        drop(token);
                        (tokens, credit) = ((tokens + price).min(140), (credit + 1000).min(full));
                        retries -= 1;
                    }
                }
                Op::Worked(at) => {
                    if let Some((sent, price)) = pick(&mut flying, at) {
                        sent.succeeded();
                        tokens = (tokens + price).min(140);
                    }
                }
                Op::Lost(at) => drop(pick(&mut flying, at)),
            }
            sums.push((requests, retries));
            let stats = budget.stats();
            prop_assert_eq!(u64::from(stats.tokens), tokens);
            prop_assert_eq!((stats.credit * 1000.0).round() as u64, credit);
        }
        for (i, from) in sums.iter().enumerate() {
            for to in &sums[i..] {
                let requests = (to.0 - from.0) as f64;
                let retries = (to.1 - from.1) as f64;
                prop_assert!(retries <= ratio_f * requests + f64::from(burst) + 1e-9);
            }
        }
    }
}

#[test]
fn threads_mint_nothing() {
    let budget = RetryBudget::builder("t").floor(10).build().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    drop(budget.withdraw(RetryCost::Failed));
                }
            });
        }
    });
    let stats = budget.stats();
    assert_eq!((stats.tokens, stats.credit), (28, 10.0));
    assert_eq!(stats.allowed, stats.returned);
    assert_eq!(stats.allowed + stats.denied, 80_000);
}

#[test]
fn no_more_has_come_back_than_was_granted_whenever_one_looks() {
    let budget = RetryBudget::unlimited("t");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let take = || {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            drop(budget.withdraw(RetryCost::Failed));
            budget.withdraw(RetryCost::Failed).expect("unlimited").send().succeeded();
        }
    };
    let worst = std::thread::scope(|scope| {
        scope.spawn(take);
        let look = |_| {
            let stats = budget.stats();
            (stats.returned + stats.succeeded).saturating_sub(stats.allowed)
        };
        let worst = (0..200_000).map(look).max();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        worst
    });
    assert_eq!(worst, Some(0));
}

/// Independent failures with probability `f`: 100 clients with a budget each, 600 requests a client, at
/// most 3 attempts. Returns the share of requests answered and the load per request.
fn simulate(f: f64, budget: impl Fn() -> RetryBudget) -> (f64, f64) {
    let mut random = crate::backoff::Random::seeded(11);
    let mut fails = || (random.between(0, (1 << 53) - 1) as f64) < f * (1u64 << 53) as f64;
    let (mut answered, mut attempts) = (0u32, 0u32);
    for _ in 0..100 {
        let budget = budget();
        for _ in 0..600 {
            attempts += 1;
            if !fails() {
                budget.succeeded();
                answered += 1;
                continue;
            }
            let mut token = budget.failed(RetryCost::Failed);
            for last in [false, true] {
                let Some(granted) = token.take() else { break };
                attempts += 1;
                let sent = granted.send();
                if !fails() {
                    sent.succeeded();
                    answered += 1;
                    break;
                }
                if !last {
                    token = budget.withdraw(RetryCost::Failed);
                }
            }
        }
    }
    (f64::from(answered) / 60_000.0, f64::from(attempts) / 60_000.0)
}

#[test]
fn partial_failures_are_hidden_and_outages_are_not_amplified() {
    // Failure rate, then success and load that the outcome-priced part alone reaches.
    for (f, success, load) in [
        (0.01, 1.0, 1.011),
        (0.1, 0.999, 1.109),
        (0.2, 0.978, 1.225),
        (0.5, 0.538, 1.076),
        (1.0, 0.0, 1.003),
    ] {
        let (got_success, got_load) = simulate(f, tokens_only);
        assert!((got_success - success).abs() < 0.015, "f {f}: success {got_success}");
        assert!((got_load - load).abs() < 0.015, "f {f}: load {got_load}");

        // The whole budget: never more load, and at most what the ratio takes away.
        let (whole_success, whole_load) = simulate(f, || RetryBudget::new("t"));
        assert!(
            whole_load <= got_load + 0.002 && whole_load <= 1.2 + 10.0 / 600.0,
            "f {f}: {whole_load}"
        );
        assert!(whole_success >= got_success - 0.03, "f {f}: {whole_success} {got_success}");
    }
}
