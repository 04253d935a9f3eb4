use std::sync::atomic::{AtomicUsize, Ordering};

use buttress::{RetryBudget, RetryBudgetBuilder, RetryCost};
use proptest::prelude::*;

use super::{CALLS, under_load};

fn builder() -> RetryBudgetBuilder {
    RetryBudget::builder("db")
}

fn balances(budget: &RetryBudget) -> (u32, f64) {
    (budget.stats().tokens, budget.stats().credit)
}

#[test]
fn balances_are_kept_and_cut_and_the_start_counts_from_the_next_reset() {
    let budget = builder().floor(5).build().unwrap();
    let early = budget.withdraw(RetryCost::Failed).unwrap();
    let more = builder().tokens(300).initial_tokens(300).burst(9).floor(9).cost(1);
    budget.reconfigure(more).unwrap();
    assert_eq!(balances(&budget), (14, 4.0));
    drop(early);
    assert_eq!(balances(&budget), (28, 5.0), "what it was charged comes back");
    budget.reset();
    assert_eq!(balances(&budget), (300, 9.0));
    let late = budget.withdraw(RetryCost::Failed).unwrap();
    let less = builder().tokens(20).initial_tokens(0).cost(20).burst(2).floor(0);
    budget.reconfigure(less).unwrap();
    assert_eq!(balances(&budget), (20, 2.0));
    drop(late);
    assert_eq!(balances(&budget), (20, 2.0), "not beyond the limits");
    assert_eq!((budget.stats().allowed, budget.stats().returned), (2, 2));
}

#[test]
fn a_bad_value_changes_nothing() {
    let budget = builder().build().unwrap();
    let before = budget.stats();
    for (bad, field) in [
        (builder().burst(1), "floor"),
        (builder().ratio(0.0).tokens(1), "ratio"),
        (builder().tokens(200).cost(201), "cost"),
    ] {
        assert_eq!(budget.reconfigure(bad).unwrap_err().field(), field);
        assert_eq!(budget.stats(), before);
    }
    let unlimited = RetryBudget::unlimited("db");
    assert_eq!(unlimited.reconfigure(builder()).unwrap_err().field(), "budget");
}

/// Two settings of which neither has a smaller limit in both parts.
fn setting(number: usize) -> RetryBudgetBuilder {
    if number.is_multiple_of(2) {
        builder().ratio(1.0).burst(1).floor(1).tokens(7).initial_tokens(7).cost(7).throttled_cost(7)
    } else {
        builder().ratio(2.0).burst(2).floor(1).tokens(3).initial_tokens(3).cost(3).throttled_cost(3)
    }
}

#[test]
fn ten_thousand_calls_over_fifty_changes_mint_and_lose_nothing() {
    let budget = setting(0).build().unwrap();
    let (granted, denied, torn) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let call = |number: usize| {
        match budget.failed(RetryCost::Failed) {
            Some(token) if number.is_multiple_of(3) => drop(token),
            Some(token) => token.send().succeeded(),
            None => {
                denied.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        granted.fetch_add(1, Ordering::Relaxed);
        let stats = budget.stats();
        // One of the two, and never more than it allows.
        let known = matches!((stats.max_tokens, stats.burst), (7, 1) | (3, 2));
        let within = stats.tokens <= stats.max_tokens && stats.credit <= f64::from(stats.burst);
        torn.fetch_add(usize::from(!(known && within)), Ordering::Relaxed);
    };
    under_load(call, |number| budget.reconfigure(setting(number + 1)).unwrap());
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let stats = budget.stats();
    assert_eq!(count(&torn), 0);
    assert_eq!(count(&granted) + count(&denied), CALLS);
    let told = (stats.allowed, stats.denied);
    assert_eq!(told, (count(&granted) as u64, count(&denied) as u64));
    assert_eq!(stats.allowed, stats.returned + stats.succeeded);
    assert!(count(&granted) > 0);
    // The last setting is the first again.
    assert_eq!((stats.max_tokens, stats.burst), (7, 1));
    assert!(stats.tokens <= 7 && stats.credit <= 1.0, "{stats:?}");
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Reconfigure { tokens: u32, burst: u32, cost: u32 },
    Withdraw,
    Drop(usize),
    Worked(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (1_u32..200, 1_u32..20, 0_u32..200).prop_map(|(tokens, burst, cost)| {
            Op::Reconfigure { tokens, burst, cost: cost.min(tokens) }
        }),
        4 => Just(Op::Withdraw),
        2 => any::<usize>().prop_map(Op::Drop),
        2 => any::<usize>().prop_map(Op::Worked),
    ]
}

proptest! {
    /// Nobody earns here: what is there and what is under way together can only become less.
    #[test]
    fn changes_never_mint(ops in prop::collection::vec(op(), 0..200)) {
        let start = builder().tokens(200).initial_tokens(200).burst(20).floor(20).cost(5);
        let budget = start.build().unwrap();
        let mut price = 5;
        let mut held = vec![];
        let (mut tokens, mut credit) = (200, 20.0);
        for op in ops {
            match op {
                Op::Reconfigure { tokens, burst, cost } => {
                    let settings = builder().tokens(tokens).initial_tokens(tokens).cost(cost);
                    let settings = settings.burst(burst).floor(burst).throttled_cost(0);
                    budget.reconfigure(settings).unwrap();
                    price = cost;
                }
                Op::Withdraw => held.extend(budget.withdraw(RetryCost::Failed).map(|t| (t, price))),
                Op::Drop(at) if !held.is_empty() => drop(held.swap_remove(at % held.len())),
                Op::Worked(at) if !held.is_empty() => {
                    held.swap_remove(at % held.len()).0.send().succeeded();
                }
                _ => {}
            }
            let stats = budget.stats();
            prop_assert!(stats.tokens <= stats.max_tokens && stats.credit <= f64::from(stats.burst));
            let now_tokens = stats.tokens + held.iter().map(|(_, price)| price).sum::<u32>();
            let now_credit = stats.credit + held.iter().map(|_| 1.0).sum::<f64>();
            prop_assert!(now_tokens <= tokens && now_credit <= credit + 1e-9);
            (tokens, credit) = (now_tokens, now_credit);
        }
    }
}
