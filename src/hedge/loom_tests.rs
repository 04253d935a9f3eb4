//! Every interleaving of calls that pay, ask, send and give back while answers, settings and the lever change: no hedge is
//! sent that is not paid for, none is lost, and what is read of answers was answered.

use loom::sync::Arc;
use loom::thread;

use super::super::Hedge;
use super::super::handle::{Grant, Withheld};
use super::*;
use crate::managed::Home;
use crate::{Lever, RetryBudget};

/// All interleavings with up to so many switches where none is forced.
fn model_within(switches: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(switches);
    model.check(f);
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    model_within(4, f);
}

const US: u64 = 1000;
const DEPOSIT: u64 = HEDGE / 4;

fn limits(burst: u32) -> Limits {
    Limits { percentile: 0.5, min_samples: 2, min_delay: US, deposit: DEPOSIT, burst, hedges: 2 }
}

/// One hedge is saved up.
fn core(burst: u32) -> Arc<Core> {
    Arc::new(Core::new(limits(burst)))
}

fn saved(core: &Core) -> u64 {
    core.share.load(Ordering::Relaxed)
}

/// One hedge is saved up.
fn hedge(budget: Option<RetryBudget>) -> Hedge {
    let mut builder = Hedge::builder("loom");
    builder.observers.move_to(Home::Nowhere);
    builder.budget = budget;
    builder.build().unwrap()
}

fn ask(hedge: &Hedge) -> Result<Grant, Withheld> {
    hedge.shared.shared().ask()
}

/// As the future does it.
fn send(hedge: &Hedge, grant: Grant) {
    drop(grant.send());
    hedge.shared.sent(std::time::Duration::ZERO);
}

#[test]
fn loom_the_last_hedge_is_one_calls() {
    model(|| {
        let hedge = hedge(None);
        let threads = [true, false].map(|sends| {
            let hedge = hedge.clone();
            thread::spawn(move || match ask(&hedge) {
                Ok(grant) if sends => {
                    send(&hedge, grant);
                    true
                }
                Ok(_) => true,
                Err(why) => {
                    assert_eq!(why, Withheld::ExtraLoad);
                    false
                }
            })
        });
        // Another call pays meanwhile.
        hedge.shared.core.deposit();
        let [sender, other] = threads.map(|thread| thread.join().unwrap());
        assert!(sender || other, "one is there for one of them");
        let paid = HEDGE + hedge.shared.core.limits.deposit();
        let left = paid - HEDGE * u64::from(sender);
        assert_eq!(saved(&hedge.shared.core), left, "spent twice, or lost");
        assert_eq!(hedge.stats().sent, u64::from(sender));
    });
}

/// What is paid, spent and given back at once is all counted, and no more of it than may be saved is ever seen.
#[test]
fn loom_nothing_is_minted_or_lost() {
    model(|| {
        let core = core(2);
        let pays = Arc::clone(&core);
        let pays = thread::spawn(move || (0..2).for_each(|_| pays.deposit()));
        let asks = Arc::clone(&core);
        let asks = thread::spawn(move || {
            if let Some(price) = asks.take() {
                asks.give_back(price);
            }
            asks.take().is_some()
        });
        assert!(saved(&core) <= 2 * HEDGE);
        pays.join().unwrap();
        assert!(asks.join().unwrap(), "one was there all the time");
        assert_eq!(saved(&core), 2 * DEPOSIT);
    });
}

/// What is given back where all is full is lost, as what is paid: one more is not there even for a moment.
#[test]
fn loom_no_more_is_saved_than_may_be() {
    model(|| {
        let core = core(1);
        let price = core.take().unwrap();
        let threads = [true, false].map(|gives_back| {
            let core = Arc::clone(&core);
            thread::spawn(move || match gives_back {
                true => core.give_back(price),
                false => core.deposit(),
            })
        });
        assert!(saved(&core) <= HEDGE);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(saved(&core), HEDGE);
    });
}

/// A smaller burst cuts what is saved, also what is paid or given back by one that saw the larger one.
#[test]
fn loom_a_smaller_burst_cuts_what_comes_beside_it() {
    for gives_back in [true, false] {
        model(move || {
            let core = core(3);
            core.give_back(HEDGE);
            let other = Arc::clone(&core);
            let other = thread::spawn(move || match gives_back {
                true => other.give_back(HEDGE),
                false => other.deposit(),
            });
            core.reconfigure(limits(1));
            other.join().unwrap();
            assert_eq!(saved(&core), HEDGE);
        });
    }
}

/// A larger burst, beside two that come back: who saw the smaller one does not cut to it what came after.
#[test]
fn loom_a_larger_burst_loses_nothing_of_what_comes_after_it() {
    model(|| {
        let core = core(1);
        let other = Arc::clone(&core);
        let other = thread::spawn(move || other.give_back(HEDGE));
        core.reconfigure(limits(3));
        core.give_back(HEDGE);
        assert!(saved(&core) >= 2 * HEDGE);
        other.join().unwrap();
        let saved = saved(&core);
        assert!((2 * HEDGE..=3 * HEDGE).contains(&saved), "{saved}");
    });
}

/// While hedges are in vain one costs all: it is one, and comes back as a whole.
#[test]
fn loom_one_that_costs_all_is_one() {
    model(|| {
        let core = core(2);
        core.give_back(HEDGE);
        let threads = [true, false].map(|sends| {
            let core = Arc::clone(&core);
            thread::spawn(move || match core.take_all() {
                Some(_) if sends => true,
                Some(price) => {
                    core.give_back(price);
                    false
                }
                None => false,
            })
        });
        let [sent, _] = threads.map(|thread| thread.join().unwrap());
        assert_eq!(saved(&core), if sent { 0 } else { 2 * HEDGE });
    });
}

/// Two are saved up, but the budget pays for one: the other gives back what it took.
#[test]
fn loom_what_the_budget_does_not_pay_for_is_given_back() {
    model_within(3, || {
        let mut budget = RetryBudget::builder("loom").floor(1).burst(1);
        budget.home = Home::Nowhere;
        let budget = budget.build().unwrap();
        let hedge = hedge(Some(budget.clone()));
        hedge.shared.core.give_back(HEDGE);
        let threads = [(); 2].map(|()| {
            let hedge = hedge.clone();
            thread::spawn(move || match ask(&hedge) {
                Ok(grant) => {
                    send(&hedge, grant);
                    1
                }
                Err(why) => {
                    assert_eq!(why, Withheld::Budget);
                    0
                }
            })
        });
        let sent: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!((sent, hedge.stats().sent), (1, 1));
        assert_eq!(saved(&hedge.shared.core), HEDGE);
        let stats = budget.stats();
        assert_eq!((stats.allowed, stats.denied, stats.returned), (1, 1, 0));
    });
}

#[test]
fn loom_a_reading_never_shows_more_won_than_sent() {
    model(|| {
        let hedge = hedge(None);
        let threads = [(); 2].map(|()| {
            let hedge = hedge.clone();
            thread::spawn(move || {
                hedge.shared.sent(std::time::Duration::ZERO);
                hedge.shared.won();
            })
        });
        let stats = hedge.stats();
        assert!(stats.won <= stats.sent, "{stats:?}");
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let stats = hedge.stats();
        assert_eq!((stats.sent, stats.won), (2, 2));
    });
}

/// One release too many, whenever it comes, does not hold the next one off, and does not hold hedges back.
#[test]
fn loom_the_lever_is_let_go_as_often_as_it_is_pulled() {
    model(|| {
        let hedge = hedge(None);
        let other = hedge.clone();
        let other = thread::spawn(move || other.release());
        hedge.engage();
        hedge.engage();
        assert_eq!(ask(&hedge).err(), Some(Withheld::Engaged), "at least one holds");
        hedge.release();
        other.join().unwrap();
        let before = hedge.shared.engaged.load(Ordering::Relaxed);
        hedge.release();
        assert!(before <= 1 && ask(&hedge).is_ok());
    });
}

/// Where answers come from 20 to 60 us.
const LEAST: u64 = 20 * US;
const MOST_OF_ALL: u64 = 60 * US;

fn is_within(nanos: Option<u64>) {
    let (from, to) = (lower_edge(bucket(LEAST)), lower_edge(bucket(MOST_OF_ALL) + 1));
    assert!(nanos.is_none_or(|nanos| (from..=to).contains(&nanos)), "{nanos:?}");
}

/// Later than any pause after which the percentile is taken.
fn later(n: u64) -> Tick {
    Tick((1 << 50) + n * 2 * LATER)
}

#[test]
fn loom_a_percentile_is_within_what_was_answered_and_each_answer_counts_once() {
    model_within(2, || {
        let core = core(1);
        let threads = [(LEAST, 1), (MOST_OF_ALL, 2)].map(|(nanos, at)| {
            let core = Arc::clone(&core);
            thread::spawn(move || {
                core.answered(nanos, 1, later(at));
                core.answered(nanos, 3, later(at + 2));
                core.censored(nanos, later(at + 4));
            })
        });
        is_within(core.delay());
        is_within(core.median());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        core.censored(LEAST, later(9));
        is_within(Some(core.delay().unwrap()));
        is_within(Some(core.median().unwrap()));
        assert_eq!(lock(&core.past).seen, 8.0);
    });
}

/// More answers are asked for than there are: no percentile stays, whoever takes one at that moment.
#[test]
fn loom_limits_that_ask_for_more_leave_no_percentile() {
    model_within(2, || {
        let core = core(1);
        core.answered(LEAST, 2, later(1));
        assert!(core.delay().is_some());
        let other = Arc::clone(&core);
        let other = thread::spawn(move || other.answered(MOST_OF_ALL, 2, later(2)));
        core.reconfigure(Limits { min_samples: 100, ..limits(1) });
        assert_eq!(core.delay(), None);
        other.join().unwrap();
        assert_eq!(core.delay(), None);
    });
}

#[test]
fn loom_shares_are_shares() {
    model(|| {
        let core = core(1);
        (0..8).for_each(|_| core.missed());
        let threads = [true, false].map(|rescued| {
            let core = Arc::clone(&core);
            thread::spawn(move || {
                core.kept(rescued);
                core.missed();
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        for of in [&core.missed, &core.rescued] {
            assert!((0.0..=1.0).contains(&share(of)), "{}", share(of));
        }
    });
}
