use std::hash::Hash;
use std::time::Duration;

use super::core::Denied;
use super::handle::RateLimiter;
use super::keyed::KeyedRateLimiter;
use super::keyed_config::WhenFull;
use super::model_tests::{START, rule};
use super::print::Seeds;
use super::shared::Shared;
use super::table::Table;
use super::wait::{Here, Holder, Place, Through};
use crate::rejection::{RejectionDetail, RejectionKind};
use crate::slot::Slot;

#[test]
fn a_table_holds_its_capacity_however_worn() {
    let rule = rule(1_000_000, 1);
    for capacity in [1, 2, 3, 10, 63, 64, 65, 100, 129, 1_000, 10_000, 100_000] {
        let table = Table::new(capacity);
        let seeds = Seeds::random();
        let mut now = START;
        for generation in 0_u64..6 {
            for key in 0..capacity as u64 {
                let print = seeds.print(&(generation, key));
                assert!(
                    table.charge(print, rule, now, rule.interval).is_ok(),
                    "{key} of {capacity}, {generation}"
                );
            }
            assert_eq!(table.live(now), capacity);
            for key in 0..capacity as u64 {
                let print = seeds.print(&(generation, key));
                assert!(
                    table.charge(print, rule, now, rule.interval).is_err(),
                    "{key} of {capacity}"
                );
            }
            now += rule.tolerance;
            assert_eq!(table.live(now), 0);
        }
    }
}

#[test]
fn a_full_table_says_when_a_slot_dies() {
    let rule = rule(1_000, 1);
    let table = Table::new(1);
    let seeds = Seeds::random();
    let slots = 4;
    for key in 0_u64..slots {
        assert!(table.charge(seeds.print(&key), rule, START + key, rule.interval).is_ok());
    }
    let miss = table.charge(seeds.print(&slots), rule, START + slots, rule.interval);
    assert!(
        matches!(miss, Err(super::table::Miss::Full(until)) if until == START + 1_000),
        "{miss:?}"
    );
    assert!(table.charge(seeds.print(&slots), rule, START + 1_000, rule.interval).is_ok());
}

#[test]
fn prints_spread_whatever_the_keys_look_like() {
    fn spread<K: Hash>(keys: impl Iterator<Item = K>) {
        let seeds = Seeds::random();
        let mut groups = vec![0_u32; 1024];
        let mut all = std::collections::HashSet::new();
        let mut count = 0;
        for key in keys {
            let table = seeds.print(&key);
            let bits = format!("{table:?}");
            let number: u64 =
                bits.trim_start_matches("Print(").trim_end_matches(')').parse().unwrap();
            groups[(number >> 54) as usize] += 1;
            all.insert(number);
            count += 1;
        }
        assert_eq!(all.len(), count, "two of {count} keys collide");
        // Poisson with mean 16: more than 64 in one of 1024 cells has probability below 1e-15.
        assert!(groups.iter().all(|n| *n < 64), "{:?}", groups.iter().max());
    }
    spread(0_u64..16_384);
    spread((0_u64..16_384).map(|n| n << 48));
    spread((0_u32..16_384).map(|n| std::net::IpAddr::from(n.to_be_bytes())));
    spread((0_u32..16_384).map(|n| format!("tenant-{n}")));
    spread((0_usize..16_384).map(|n| "a".repeat(n / 128) + &"b".repeat(n % 128)));
    spread((0_u64..16_384).map(|n| (n % 128, n / 128)));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_tells_exactly_what_is_left() {
    let limiter = RateLimiter::new("2/s burst 4".parse().unwrap());
    limiter.try_acquire_n(3).unwrap();
    let refused = limiter.try_acquire_n(3).unwrap_err();
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!(
        refused.detail(),
        RejectionDetail::Quota {
            limit: 4,
            remaining: 1,
            reset: Duration::from_millis(1500),
            window: Duration::from_secs(2),
        }
    );
    tokio::time::advance(Duration::from_secs(1) - Duration::from_nanos(1)).await;
    assert!(limiter.try_acquire_n(3).is_err());
    tokio::time::advance(Duration::from_nanos(1)).await;
    assert!(limiter.try_acquire_n(3).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_full_table_follows_its_policy() {
    let build = |policy| {
        KeyedRateLimiter::<u64>::builder("k")
            .quota("1/min".parse().unwrap())
            .capacity(1)
            .when_full(policy)
            .build()
            .unwrap()
    };
    let fill = |limiter: &KeyedRateLimiter<u64>| {
        for key in 0..4 {
            limiter.try_acquire(&key).unwrap();
        }
    };
    let reject = build(WhenFull::Reject);
    fill(&reject);
    let refused = reject.try_acquire(&100).unwrap_err();
    assert_eq!(refused.kind(), RejectionKind::Overloaded);
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(60)));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(reject.try_acquire(&100).is_ok());

    let allow = build(WhenFull::Allow);
    fill(&allow);
    assert!((0..10).all(|_| allow.try_acquire(&100).is_ok()));
    assert!(allow.try_acquire(&1).is_err());

    let share = build(WhenFull::ShareOne);
    fill(&share);
    assert!(share.try_acquire(&100).is_ok());
    let refused = share.try_acquire(&101).unwrap_err();
    assert_eq!(refused.kind(), RejectionKind::RateLimited);
}

#[test]
fn a_denial_orders_by_never_then_wait() {
    let rule = rule(16, 2);
    let denied = Denied { rule, tat: START + 32, now: START, cost: 16 };
    assert_eq!(denied.wait(), 16);
    assert!(Denied { cost: 48, ..denied }.never());
}

/// A part of a combination that never has room, and one that counts how often it is charged.
#[test]
fn a_full_table_is_not_asked_again_and_again() {
    use super::ledger::{Level, Refusal};
    use super::meter::{Meter, sealed};
    use std::cell::Cell;

    struct Counting(Cell<u32>, RateLimiter);
    impl sealed::Meter for Counting {
        type Charge = ();
        fn probe(&self, _: u64, _: u64) -> Result<(), Refusal<'_>> {
            Ok(())
        }
        fn charge(&self, _: u64, now: u64) -> Result<(Level, ()), Refusal<'_>> {
            self.0.set(self.0.get() + 1);
            Ok((self.1.shared.level(now), ()))
        }
        fn refund(&self, (): ()) {}
        fn count(&self, (): ()) {}
    }
    for policy in [WhenFull::Reject, WhenFull::ShareOne] {
        let table = KeyedRateLimiter::<u64>::builder("k")
            .quota("1/h".parse().unwrap())
            .capacity(1)
            .when_full(policy)
            .build()
            .unwrap();
        for key in 0..5 {
            let _ = table.try_acquire(&key);
        }
        let first = Counting(Cell::new(0), RateLimiter::new("1/h".parse().unwrap()));
        assert!((&first).and(table.bucket(&100)).try_acquire().is_err());
        assert!(first.0.get() <= 4, "{policy:?}: charged {} times for one call", first.0.get());
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_quota_reaches_the_shared_bucket_too() {
    let limiter = KeyedRateLimiter::<u64>::builder("k")
        .quota("1/h".parse().unwrap())
        .capacity(1)
        .when_full(WhenFull::ShareOne)
        .build()
        .unwrap();
    for key in 0..5 {
        limiter.try_acquire(&key).unwrap();
    }
    assert!(limiter.try_acquire(&100).is_err());
    limiter.set_quota("2/h".parse().unwrap());
    assert!(limiter.try_acquire(&100).is_err(), "a change of the quota grants no tokens");
    tokio::time::advance(Duration::from_secs(1801)).await;
    assert!(limiter.try_acquire(&100).is_ok());
}

/// Between the look into the slot and the place in the line somebody takes the limiter out: who waits then has been let go, and
/// this one was not among them.
#[tokio::test(start_paused = true)]
async fn a_limiter_that_leaves_its_slot_while_a_call_queues_holds_nobody_up() {
    let limiter = || RateLimiter::new("1/h".parse().unwrap());
    for other in [None, Some(limiter())] {
        let there = limiter();
        there.try_acquire().unwrap();
        let slot = Slot::with(there.clone());
        let through = Through { shared: there.shared.clone(), slot: Some(slot.clone()) };
        let mut place = Place::new(through);
        let leaves = || {
            match &other {
                Some(other) => slot.install(other.clone()),
                None => slot.uninstall(),
            };
            there.release_waiting_by(&slot);
            std::task::Waker::noop().clone()
        };
        let std::task::Poll::Ready(Ok(grant)) = place.start(1, None, leaves) else {
            panic!("it waits")
        };
        assert_eq!(grant.is_some(), other.is_some());
        assert_eq!((there.waiting(), there.stats().acquired), (0, 1));
        assert_eq!(there.stats().released, u64::from(other.is_none()));
    }
}

/// Taken out between its joining and its look whether that is so.
struct TakenOut(RateLimiter);

impl Holder for TakenOut {
    fn shared(&self) -> &Shared {
        &self.0.shared
    }

    fn look(&mut self) -> Here {
        if self.0.stats().released == 0 { Here::Same } else { Here::Nothing }
    }

    fn is_there(&self) -> bool {
        self.0.release_waiting();
        false
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_let_go_as_it_joins_is_counted_once() {
    let limiter = RateLimiter::new("1/h".parse().unwrap());
    limiter.try_acquire().unwrap();
    let mut place = Place::new(TakenOut(limiter.clone()));
    let started = place.start(1, None, || std::task::Waker::noop().clone());
    assert!(matches!(started, std::task::Poll::Ready(Ok(None))));
    assert_eq!((limiter.waiting(), limiter.stats().released, limiter.stats().acquired), (0, 1, 1));
}

/// An earlier price was forgotten once a second limit was added: the bytes of a call were charged as 1.
#[tokio::test(start_paused = true)]
async fn a_price_is_that_of_the_limits_before_it() {
    use super::RateLimitLayer;
    use tower::{Layer, Service, ServiceExt, service_fn};

    let bytes = RateLimiter::new("1/h burst 1000".parse().unwrap());
    let each = RateLimiter::keyed::<u64>("1/h burst 10".parse().unwrap(), 100).unwrap();
    let calls = RateLimiter::new("1/h burst 100".parse().unwrap());
    let answer = service_fn(async |n: u64| Ok::<_, std::io::Error>(n));

    let mut before = RateLimitLayer::new(bytes.clone())
        .cost(|n: &u64| *n)
        .and(each.by(|_: &u64| Some(1)))
        .and(calls.clone())
        .layer(answer);
    before.ready().await.unwrap().call(400).await.unwrap();
    assert_eq!((bytes.tokens(), each.tokens(&1), calls.tokens()), (600.0, 9.0, 99.0));
    before.ready().await.unwrap().call(601).await.unwrap_err();
    assert_eq!((bytes.tokens(), each.tokens(&1), calls.tokens()), (600.0, 9.0, 99.0));

    // After all of them it is everybody's, and of what has a price already a multiple.
    let mut after = RateLimitLayer::new(bytes.clone())
        .cost(|_: &u64| 100)
        .and(each.by(|_: &u64| Some(1)))
        .cost(|n: &u64| *n)
        .layer(answer);
    after.ready().await.unwrap().call(2).await.unwrap();
    assert_eq!((bytes.tokens(), each.tokens(&1)), (400.0, 7.0));
    after.ready().await.unwrap().call(0).await.unwrap();
    after.ready().await.unwrap().call(u64::MAX).await.unwrap_err();
    assert_eq!((bytes.tokens(), each.tokens(&1)), (400.0, 7.0));

    // Who waits for one bucket pays the same there.
    let mut waits = RateLimitLayer::new(bytes.clone())
        .cost(|_: &u64| 100)
        .cost(|n: &u64| *n)
        .wait(Duration::ZERO)
        .layer(answer);
    waits.ready().await.unwrap().call(3).await.unwrap();
    assert_eq!((bytes.tokens(), bytes.waiting()), (100.0, 0));
    waits.ready().await.unwrap().call(u64::MAX).await.unwrap_err();
}

/// Their places reached beyond the last instant that there is, and when they left, what they had not all taken was given
/// back: a token nobody had.
#[tokio::test(start_paused = true)]
async fn waiters_beyond_the_end_of_time_leave_no_tokens_behind() {
    let quota = "1/365d".parse().unwrap();
    // As they queue, or as the quota changes under them.
    let minted = [false, true].map(|is_slowed| {
        let limiter = RateLimiter::new(if is_slowed { "1/s".parse().unwrap() } else { quota });
        limiter.try_acquire().unwrap();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut waiters: Vec<_> = (0..40).map(|_| Box::pin(limiter.acquire())).collect();
        for waiter in &mut waiters {
            let _ = waiter.as_mut().poll(&mut cx);
        }
        assert!(limiter.waiting() > 30, "they wait");
        limiter.set_quota(quota);
        drop(waiters);
        limiter.try_acquire().is_ok()
    });
    assert_eq!(minted, [false, false]);
}
