//! The limiter against slow, obvious ones: a bucket, its refunds, the queue, the table of keys.

use std::collections::{HashMap, VecDeque};
use std::task::{Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;

use super::core::{Bucket, Receipt, Rule};
use super::handle::RateLimiter;
use super::print::Seeds;
use super::shared::now;
use super::table::Table;
use super::wait::Place;
use crate::quota::Quota;
use crate::rejection::RejectionKind;

/// A token bucket as one would explain it: so many units of room, `interval` of them a token.
#[derive(Clone, Debug)]
struct Slow {
    rule: Rule,
    room: u64,
    at: u64,
}

impl Slow {
    fn new(rule: Rule, at: u64) -> Self {
        Self { rule, room: rule.tolerance, at }
    }

    fn flow(&mut self, now: u64) {
        self.room = self.room.saturating_add(now - self.at).min(self.rule.tolerance);
        self.at = now;
    }

    fn take(&mut self, now: u64, n: u64) -> Result<(), Option<u64>> {
        self.flow(now);
        let cost = n * self.rule.interval;
        if cost <= self.room {
            self.room -= cost;
            Ok(())
        } else if cost > self.rule.tolerance {
            Err(None)
        } else {
            Err(Some(cost - self.room))
        }
    }
}

pub(super) fn rule(interval: u64, burst: u64) -> Rule {
    Rule { interval, tolerance: interval * burst, burst, shadow: false }
}

fn rules() -> impl Strategy<Value = Rule> {
    (16_u64..5000, 1_u64..20).prop_map(|(interval, burst)| rule(interval, burst))
}

/// On every interval at most its length plus a full bucket was granted.
fn never_over_admits(rule: Rule, admitted: &[(u64, u64)]) -> Result<(), TestCaseError> {
    for (i, (start, _)) in admitted.iter().enumerate() {
        let mut sum = 0_u64;
        for (end, cost) in &admitted[i..] {
            sum += cost;
            prop_assert!(
                sum <= rule.tolerance + (end - start),
                "{sum} units in {} under {rule:?}",
                end - start
            );
        }
    }
    Ok(())
}

pub(super) const START: u64 = 1 << 54;

proptest! {
    #[test]
    fn a_bucket_decides_as_the_slow_model(
        rule in rules(),
        steps in prop::collection::vec((0_u64..20_000, 1_u64..25), 1..60),
    ) {
        let bucket = Bucket::full();
        let mut slow = Slow::new(rule, START);
        let mut admitted = Vec::new();
        let mut now = START;
        for (wait, n) in steps {
            now += wait;
            let cost = rule.cost(n);
            match (bucket.charge(rule, now, cost), slow.take(now, n)) {
                (Ok(_), Ok(())) => admitted.push((now, cost)),
                (Err(denied), Err(None)) => prop_assert!(denied.never()),
                (Err(denied), Err(Some(wait))) => {
                    prop_assert!(!denied.never());
                    prop_assert_eq!(denied.wait(), wait);
                    // Exactly then, and not one unit earlier.
                    prop_assert!(rule.admit(bucket.load(), now + wait, cost).is_ok());
                    prop_assert!(rule.admit(bucket.load(), now + wait - 1, cost).is_err());
                }
                (fast, slow) => prop_assert!(false, "{fast:?} against {slow:?}"),
            }
            prop_assert_eq!(rule.room(bucket.load(), now), slow.room);
        }
        never_over_admits(rule, &admitted)?;
    }

    #[test]
    fn refunds_never_over_admit(
        rule in rules(),
        steps in prop::collection::vec((0_u64..8_000, 1_u64..6, any::<prop::sample::Index>(), 0_u8..3), 1..80),
    ) {
        let bucket = Bucket::full();
        let mut refunded = 0;
        let mut open: Vec<(u64, Receipt)> = Vec::new();
        let mut kept: Vec<(u64, u64)> = Vec::new();
        let mut now = START;
        for (wait, n, which, action) in steps {
            now += wait;
            if action == 0 && !open.is_empty() {
                let (at, receipt) = open.remove(which.index(open.len()));
                let given = bucket.refund(receipt, refunded, || now);
                refunded += given;
                // What was not given back counts as granted; time has made it good.
                kept.push((at, receipt.cost - given));
            } else if let Ok(after) = bucket.charge(rule, now, rule.cost(n)) {
                open.push((now, Receipt { after, cost: rule.cost(n), version: 0, refunded }));
            }
        }
        kept.extend(open.into_iter().map(|(at, receipt)| (at, receipt.cost)));
        kept.sort_unstable();
        never_over_admits(rule, &kept)?;
    }

    #[test]
    fn a_refund_at_once_leaves_no_trace(rule in rules(), before in 0_u64..5, idle in 0_u64..10_000) {
        let bucket = Bucket::full();
        for _ in 0..before {
            let _ = bucket.charge(rule, START, rule.interval);
        }
        let now = START + idle;
        let room = rule.room(bucket.load(), now);
        if let Ok(after) = bucket.charge(rule, now, rule.interval) {
            let receipt = Receipt { after, cost: rule.interval, version: 0, refunded: 0 };
            prop_assert_eq!(bucket.refund(receipt, 0, || now), rule.interval);
            prop_assert_eq!(rule.room(bucket.load(), now), room);
        }
    }

    #[test]
    fn a_changed_rule_keeps_the_level(
        old in rules(), new in rules(), debt in 0_u64..100_000,
    ) {
        let tat = START + debt;
        let scaled = old.rescale(new, tat, START);
        let before = old.tokens(tat, START);
        let after = new.tokens(scaled, START);
        let expected = before.min(new.tokens(0, START));
        prop_assert!(after <= expected + 1e-9);
        prop_assert!(after > expected - 1.0 / 16.0 - 1e-9);
    }

    #[test]
    fn nothing_overflows(
        tat in any::<u64>(), now in any::<u64>(), n in any::<u64>(), old in any::<u64>(), interval in 16_u64..(1 << 62),
    ) {
        let burst = (1 << 62) / interval;
        let rule = rule(interval, burst);
        let bucket = Bucket::at(tat);
        if let Err(denied) = bucket.charge(rule, now, rule.cost(n)) {
            let _ = (denied.wait(), denied.never());
        }
        let _ = rule.rescale(super::model_tests::rule(16, old >> 5), tat, now);
        let _ = rule.tokens(tat, now);
        let receipt = Receipt { after: tat, cost: old, version: 0, refunded: n };
        let _ = bucket.refund(receipt, old, || now);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Join { n: u64, patience: Option<u64> },
    Leave(prop::sample::Index),
    Take(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u64..3_000).prop_map(Step::Wait),
        4 => (1_u64..5, prop::option::of(0_u64..6_000))
            .prop_map(|(n, patience)| Step::Join { n, patience }),
        2 => any::<prop::sample::Index>().prop_map(Step::Leave),
        2 => (1_u64..4).prop_map(Step::Take),
    ];
    prop::collection::vec(step, 1..80)
}

/// The queue one would write down: whoever is first takes its tokens as soon as they are there.
struct SlowQueue {
    bucket: Slow,
    waiting: VecDeque<(usize, u64)>,
    granted: Vec<(usize, u64)>,
}

impl SlowQueue {
    fn flow(&mut self, now: u64) {
        while let Some(&(who, n)) = self.waiting.front() {
            let missing = (n * self.bucket.rule.interval).saturating_sub(self.bucket.room);
            let when = self.bucket.at + missing;
            if when > now {
                break;
            }
            assert!(self.bucket.take(when, n).is_ok());
            self.granted.push((who, when));
            self.waiting.pop_front();
        }
        self.bucket.flow(now);
    }

    fn take(&mut self, now: u64, n: u64) -> bool {
        self.flow(now);
        self.waiting.is_empty() && self.bucket.take(now, n).is_ok()
    }

    fn wait_of(&self, n: u64) -> u64 {
        let ahead: u64 = self.waiting.iter().map(|(_, n)| n).sum();
        ((ahead + n) * self.bucket.rule.interval).saturating_sub(self.bucket.room)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// One millisecond steps; a token each 400 to 700 ms. Waiters come, go and are served exactly as if
    /// those who left had never been there.
    #[test]
    fn the_queue_serves_as_the_slow_model(millis in 400_u64..700, burst in 1_u64..6, steps in steps()) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let quota = Quota::new(1, Duration::from_millis(millis)).unwrap().burst(burst).unwrap();
            let limiter = RateLimiter::new(quota);
            let shared = &*limiter.shared;
            let waker = Waker::noop();
            let mut slow = SlowQueue {
                bucket: Slow::new(Rule::from(quota), now()),
                waiting: VecDeque::new(),
                granted: Vec::new(),
            };
            let mut places = Vec::new();
            let mut served = Vec::new();
            let mut names = 0;
            let mut expected = Vec::new();
            for step in steps {
                match step {
                    Step::Wait(millis) => {
                        tokio::time::advance(Duration::from_millis(millis)).await;
                    }
                    Step::Join { n, patience } => {
                        names += 1;
                        let mut place = Place::new(shared);
                        let timeout = patience.map(Duration::from_millis);
                        let answer = place.start(n, timeout, || waker.clone());
                        slow.flow(now());
                        match answer {
                            Poll::Ready(Ok(_)) => {
                                prop_assert!(slow.take(now(), n));
                            }
                            Poll::Ready(Err(why)) if n > burst => {
                                prop_assert_eq!(why.kind(), RejectionKind::ExceedsBurst);
                            }
                            Poll::Ready(Err(why)) => {
                                prop_assert_eq!(why.kind(), RejectionKind::RateLimited);
                                let wait = Duration::from_nanos(slow.wait_of(n).div_ceil(16));
                                prop_assert_eq!(why.retry_after(), Some(wait));
                                prop_assert!(wait > timeout.unwrap());
                            }
                            Poll::Pending => {
                                slow.waiting.push_back((names, n));
                                places.push((names, n, place));
                            }
                        }
                    }
                    Step::Leave(which) if !places.is_empty() => {
                        slow.flow(now());
                        let (name, _, place) = places.remove(which.index(places.len()));
                        drop(place);
                        slow.waiting.retain(|(who, _)| *who != name);
                    }
                    Step::Leave(_) => {}
                    Step::Take(n) => {
                        prop_assert_eq!(limiter.try_acquire_n(n).is_ok(), slow.take(now(), n));
                    }
                }
                slow.flow(now());
                let mut i = 0;
                while i < places.len() {
                    if let Ok(result) = places[i].2.look(true, waker.clone()) {
                        let (name, ..) = places.remove(i);
                        prop_assert!(result.is_ok());
                        served.push(name);
                    } else {
                        i += 1;
                    }
                }
                expected.extend(slow.granted.drain(..).map(|(who, _)| who));
                prop_assert_eq!(&served, &expected);
                prop_assert_eq!(limiter.waiting(), slow.waiting.len());
                let level = shared.level(now());
                if slow.waiting.is_empty() {
                    prop_assert_eq!(level.rule.room(level.tat, level.now), slow.bucket.room);
                }
            }
            // Nobody is left behind.
            tokio::time::advance(Duration::from_secs(3600)).await;
            for (_, _, mut place) in places.drain(..) {
                prop_assert!(place.look(true, waker.clone()).is_ok());
            }
            prop_assert_eq!(limiter.waiting(), 0);
            Ok(())
        })?;
    }

    /// Whatever calls, waiters, refunds and changes of the burst do to each other: at one rate, no
    /// interval sees more than the largest burst and what flowed in.
    #[test]
    fn nothing_over_admits_whatever_comes_together(
        first in 1_u64..6,
        steps in prop::collection::vec((0_u8..7, 1_u64..5, any::<prop::sample::Index>()), 1..120),
    ) {
        const STEP: u64 = 100;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let quota = |burst| Quota::new(1, Duration::from_millis(400)).unwrap().burst(burst).unwrap();
            let limiter = RateLimiter::new(quota(first));
            let shared = &*limiter.shared;
            let waker = Waker::noop();
            let mut most = first;
            let mut places: Vec<Place<&super::shared::Shared>> = Vec::new();
            let mut open: Vec<(u64, Receipt)> = Vec::new();
            let mut kept: Vec<(u64, u64)> = Vec::new();
            for (action, n, which) in steps {
                match action {
                    0 | 1 => tokio::time::advance(Duration::from_millis(STEP * n / 4)).await,
                    2 => open.extend(shared.charge_refundably(n, now()).map(|(_, r)| (now(), r))),
                    3 => {
                        let mut place = Place::new(shared);
                        match place.start(n, None, || waker.clone()) {
                            Poll::Pending => places.push(place),
                            Poll::Ready(Ok(Some(receipt))) => open.push((now(), receipt)),
                            Poll::Ready(_) => {}
                        }
                    }
                    4 if !places.is_empty() => drop(places.remove(which.index(places.len()))),
                    5 if !open.is_empty() => {
                        let (at, receipt) = open.remove(which.index(open.len()));
                        let before = shared.given_back();
                        shared.refund(receipt);
                        kept.push((at, receipt.cost - (shared.given_back() - before)));
                    }
                    6 => {
                        most = most.max(n);
                        limiter.set_quota(quota(n));
                    }
                    _ => {}
                }
                places.retain_mut(|place| match place.look(true, waker.clone()) {
                    Ok(Ok(Some(receipt))) => {
                        open.push((now(), receipt));
                        false
                    }
                    Ok(_) => false,
                    Err(_) => true,
                });
            }
            kept.extend(open.into_iter().map(|(at, receipt)| (at, receipt.cost)));
            kept.sort_unstable();
            // Waiters are looked at once a step, so a grant may be seen a step late.
            let rule = Rule::from(quota(most));
            let late = STEP * 16 * 1_000_000;
            never_over_admits(Rule { tolerance: rule.tolerance + late, ..rule }, &kept)
        })?;
    }

    #[test]
    fn a_table_decides_as_one_slow_bucket_per_key(
        rule in rules(),
        capacity in 1_usize..40,
        steps in prop::collection::vec((0_u64..4_000, 0_usize..40, 1_u64..4), 1..300),
    ) {
        let table = Table::new(capacity);
        let seeds = Seeds::random();
        let mut slow: HashMap<usize, Slow> = HashMap::new();
        let mut now = START;
        for (wait, key, n) in steps {
            now += wait;
            let key = key % capacity;
            let bucket = slow.entry(key).or_insert_with(|| Slow::new(rule, now));
            let fast = table.charge(seeds.print(&key), rule, now, rule.cost(n));
            let decided = match (&fast, bucket.take(now, n)) {
                (Ok(_), Ok(())) => true,
                (Err(super::table::Miss::Denied(denied)), Err(None)) => denied.never(),
                (Err(super::table::Miss::Denied(denied)), Err(Some(wait))) => denied.wait() == wait,
                _ => false,
            };
            prop_assert!(decided, "{:?} against {:?}", fast, bucket);
            let live = slow.values_mut().filter(|slow| {
                let mut slow = (*slow).clone();
                slow.flow(now);
                slow.room < rule.tolerance
            });
            prop_assert_eq!(table.live(now), live.count());
        }
    }
}
