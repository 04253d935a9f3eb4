//! The core under a clock of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use super::config::Config;
use super::core::{Asked, Core, End, Why};
use super::health::Health;
use crate::clock::Tick;

pub(super) const FIRST: Asked = Asked { attempt: 1, call: 0 };

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) struct Pool {
    pub(super) core: Core,
    pub(super) all: Vec<Arc<Health>>,
    pub(super) now: Tick,
}

impl Pool {
    pub(super) fn new(count: usize, config: Config) -> Self {
        Self::seeded(count, config, 42)
    }

    pub(super) fn seeded(count: usize, config: Config, seed: u64) -> Self {
        let core = Core::new(config, seed);
        let all = (0..count).map(|n| core.insert(n.to_string().into(), Tick(1 << 50))).collect();
        Self { core, all, now: Tick(1 << 50) }
    }

    pub(super) fn insert(&mut self, label: &str) {
        self.all.push(self.core.insert(label.into(), self.now));
    }

    pub(super) fn pick(&self, asked: Asked) -> usize {
        self.core.pick(self.all.len(), |n| &self.all[n], asked, self.now).unwrap()
    }

    pub(super) fn end(&self, place: usize, started: Tick, end: End) -> Option<super::core::Change> {
        self.core.end(&self.all[place], started, end, self.now)
    }

    /// One call after another, `took` and `end` by the endpoint. How many each got.
    pub(super) fn run(&mut self, calls: usize, how: impl Fn(usize) -> (u64, End)) -> Vec<u32> {
        let mut got = vec![0; self.all.len()];
        for _ in 0..calls {
            let (place, started) = (self.pick(FIRST), self.now);
            let (took, end) = how(place);
            self.now = self.now.after(ms(took));
            self.end(place, started, end);
            got[place] += 1;
        }
        got
    }

    /// A call there, wherever the choice would have gone.
    fn force(&self, place: usize, end: End) -> Option<super::core::Change> {
        self.all[place].in_flight.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.end(place, self.now, end)
    }

    pub(super) fn eject(&self, place: usize) {
        for _ in 0..3 {
            self.force(place, End::Failure);
        }
        assert!(self.all[place].is_out());
    }

    pub(super) fn out(&self) -> Vec<usize> {
        (0..self.all.len()).filter(|&n| self.all[n].is_out()).collect()
    }
}

pub(super) fn all_well(_: usize) -> (u64, End) {
    (10, End::Success)
}

fn first_fails(n: usize) -> (u64, End) {
    if n == 0 { (1, End::Failure) } else { (10, End::Success) }
}

#[test]
fn equals_get_equal_shares() {
    let mut pool = Pool::new(5, Config::default());
    let got = pool.run(10_000, all_well);
    for n in got {
        // 2000 expected, standard deviation 40.
        assert!((1800..2200).contains(&n), "{n}");
    }
}

/// A few slow answers are chance, the calls that wait with the others are not.
#[test]
fn the_only_idle_one_gets_the_call_although_its_last_answers_were_slow() {
    let mut pool = Pool::new(5, Config::default());
    pool.run(1000, all_well);
    for _ in 0..4 {
        let started = pool.now;
        pool.all[0].in_flight.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        pool.now = pool.now.after(ms(30));
        assert_eq!(pool.end(0, started, End::Success), None);
    }
    let busy: Vec<_> = pool.all[1..].to_vec();
    busy.iter().for_each(|one| one.begin(Tick(0), pool.now));
    let mut got = 0;
    for _ in 0..1000 {
        let place = pool.pick(FIRST);
        got += u32::from(place == 0);
        pool.end(place, pool.now, End::Ignored);
    }
    // Four times out of five it is drawn.
    assert!((750..=850).contains(&got), "{got}");
}

#[test]
fn one_that_fails_at_once_attracts_nothing_and_is_ejected() {
    let mut pool = Pool::new(5, Config::default());
    pool.run(1000, all_well);
    // 10 s.
    let got = pool.run(1000, first_fails);
    assert!(got[0] <= 6, "{got:?}");
}

#[test]
fn failures_in_a_row_eject_and_a_probe_takes_back() {
    let mut pool = Pool::new(3, Config::default());
    pool.run(100, all_well);
    assert_eq!(pool.force(0, End::Failure), None);
    assert_eq!(pool.force(0, End::Failure), None);
    let change = pool.force(0, End::Failure).unwrap();
    assert!(change.out);
    assert_eq!(change.why, Why::InRow(3));
    assert_eq!(pool.out(), [0]);
    // Nothing for a second, then one probe, which fails, then none for two.
    let start = pool.now;
    let mut probed = Vec::new();
    while pool.now.since(start) < ms(8500) {
        let started = pool.now;
        let place = pool.pick(FIRST);
        pool.now = pool.now.after(ms(10));
        pool.end(place, started, if place == 0 { End::Failure } else { End::Success });
        if place == 0 {
            probed.push(started.since(start).as_millis());
        }
    }
    assert_eq!(probed, [1000, 3000, 7000]);
    // The next one answers.
    let got = pool.run(1000, all_well);
    assert!(pool.out().is_empty());
    assert!(got[0] > 50, "{got:?}");
}

#[test]
fn retries_are_no_probes_and_go_elsewhere() {
    let mut pool = Pool::new(2, Config::default());
    pool.run(100, all_well);
    for call in 1..1000 {
        let first = pool.pick(Asked { attempt: 1, call });
        pool.end(first, pool.now, End::Ignored);
        let second = pool.pick(Asked { attempt: 2, call });
        pool.end(second, pool.now, End::Ignored);
        let third = pool.pick(Asked { attempt: 3, call });
        pool.end(third, pool.now, End::Ignored);
        assert_ne!(first, second);
        assert_ne!(second, third);
    }
    pool.eject(0);
    pool.now = pool.now.after(ms(5000));
    assert_eq!(pool.pick(Asked { attempt: 2, call: 0 }), 1);
    assert_eq!(pool.pick(FIRST), 0);
}

#[test]
fn when_more_than_half_have_failed_all_are_used() {
    let mut pool = Pool::new(4, Config::default());
    pool.run(100, all_well);
    pool.eject(0);
    pool.eject(1);
    assert!(!pool.core.in_panic());
    let got = pool.run(90, all_well);
    assert_eq!(got[..2], [0, 0], "nothing before the probe");
    pool.eject(2);
    assert!(pool.core.in_panic());
    let down = |_: usize| (1, End::Failure);
    pool.run(1000, down);
    assert_eq!(pool.out().len(), 4);
    let got = pool.run(400, down);
    assert!(got.iter().all(|&n| n > 20), "{got:?}");
    pool.run(100, all_well);
    assert!(pool.out().is_empty() && !pool.core.in_panic());
}

#[test]
fn the_first_to_recover_of_all_is_not_held_back_for_those_that_are_still_down() {
    let mut pool = Pool::new(2, Config::default());
    pool.run(100, all_well);
    pool.eject(0);
    pool.eject(1);
    assert!(pool.core.in_panic());
    pool.now = pool.now.after(ms(1));
    // One answers again, and the slow start begins.
    while pool.out() != [1] {
        pool.run(1, |n| if n == 1 { (1, End::Failure) } else { (10, End::Success) });
    }
    // The other one may be ejected now, and gets its probes.
    let got = pool.run(50, |n| if n == 1 { (1, End::Failure) } else { (10, End::Success) });
    assert!(got[1] <= 1, "{got:?}");
    // Where more are down than may be ejected they are still used, but not for its sake.
    let mut pool = Pool::new(4, Config::default());
    pool.run(100, all_well);
    (0..4).for_each(|n| pool.eject(n));
    let down = |n| if n == 0 { (10, End::Success) } else { (1, End::Failure) };
    while pool.out().len() == 4 {
        pool.now = pool.now.after(ms(1));
        pool.run(1, down);
    }
    assert!(pool.core.in_panic());
    // Half of all pairs have it.
    let got = pool.run(100, down);
    assert!(got[0] > 35, "{got:?}");
}

#[test]
fn a_share_of_failures_that_chance_does_not_explain_ejects() {
    // Every third call of the first fails: never three in a row.
    let mut pool = Pool::new(5, Config::default());
    let mut change = None;
    for n in 0..30 {
        pool.now = pool.now.after(ms(10));
        for other in 1..5 {
            assert_eq!(pool.force(other, End::Success), None);
        }
        let end = if n % 3 == 0 { End::Failure } else { End::Success };
        change = change.or(pool.force(0, end));
    }
    assert!(matches!(change.unwrap().why, Why::Share { .. }), "{change:?}");
}

#[test]
fn failures_of_all_alike_eject_few() {
    let mut pool = Pool::new(5, Config { failures_in_row: 100, ..Config::default() });
    let n = std::cell::Cell::new(7_u64);
    pool.run(20_000, |_| {
        n.set(
            n.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407),
        );
        if n.get() >> 33 & 3 == 0 { (10, End::Failure) } else { (10, End::Success) }
    });
    assert_eq!(pool.core.ejections.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn an_answer_to_a_call_from_before_takes_nobody_back() {
    let mut pool = Pool::new(3, Config::default());
    pool.run(100, all_well);
    // Out since one of every two has failed; one that was sent before is answered.
    let sent = pool.now;
    pool.all[0].in_flight.fetch_add(2, std::sync::atomic::Ordering::Relaxed);
    pool.now = pool.now.after(ms(5));
    pool.eject(0);
    pool.now = pool.now.after(ms(5));
    assert_eq!(pool.end(0, sent, End::Success), None);
    assert_eq!(pool.out(), [0]);
    // Nor does its failure make the wait for the probe longer.
    pool.end(0, sent, End::Failure);
    pool.now = pool.now.after(ms(1000));
    assert_eq!(pool.pick(FIRST), 0);
    assert_eq!(pool.end(0, pool.now, End::Success).unwrap().why, Why::Answered);
}

#[test]
fn one_that_hangs_gets_no_more() {
    let mut pool = Pool::new(3, Config::default());
    pool.run(100, all_well);
    let mut hung = 0;
    for _ in 0..1000 {
        let (place, started) = (pool.pick(FIRST), pool.now);
        pool.now = pool.now.after(ms(10));
        if place == 0 {
            hung += 1;
        } else {
            pool.end(place, started, End::Success);
        }
    }
    assert!(hung <= 3, "{hung}");
}

#[test]
fn one_with_a_call_that_never_ends_is_asked_again() {
    // A long poll, or a call that leaked: the endpoint is well.
    let mut pool = Pool::new(3, Config::default());
    pool.run(100, all_well);
    pool.all[0].in_flight.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    pool.now = pool.now.after(ms(1000));
    // It looks as if it hung, for three times the memory, and is then asked whether it does.
    let got = pool.run(2890, all_well);
    assert_eq!(got[0], 0, "{got:?}");
    let got = pool.run(17_110, all_well);
    assert!(got[0] >= 5, "{got:?}");
}

/// Nanoseconds a call, the first of all a thousand times slower, one call at a time: whoever was measured is far
/// below what is taken to be typical.
fn tiny(pool: &mut Pool, calls: usize) -> Vec<u32> {
    let mut got = vec![0; pool.all.len()];
    for n in 0..calls {
        let (place, started) = (pool.pick(FIRST), pool.now);
        pool.now = pool.now.after(Duration::from_nanos(if n == 0 { 100_000 } else { 100 }));
        pool.end(place, started, End::Success);
        got[place] += 1;
    }
    got
}

#[test]
fn each_is_asked_with_one_of_the_first_calls() {
    for seed in 0..200 {
        let mut pool = Pool::seeded(5, Config::default(), seed);
        assert_eq!(tiny(&mut pool, 5), [1; 5], "seed {seed}");
        // One that comes later gets the next first attempt, but not all that follow.
        pool.insert("late");
        assert_eq!(pool.pick(FIRST), 5, "seed {seed}");
        let got = (0..5).filter(|_| pool.pick(FIRST) == 5).count();
        assert!(got < 5, "seed {seed}");
    }
}

#[test]
fn a_pause_of_this_process_is_no_failure() {
    let mut pool = Pool::new(3, Config { failures_in_row: 1, ..Config::default() });
    tiny(&mut pool, 1000);
    let mut slow = |time: Duration| {
        pool.all[1].in_flight.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let started = pool.now;
        pool.now = pool.now.after(time);
        pool.end(1, started, End::Success)
    };
    // Ten thousand times what the others take.
    assert_eq!(slow(ms(1)), None);
    assert!(slow(ms(2)).is_some());
}

#[test]
fn who_loses_to_a_hedge_has_not_failed_but_counts_as_slow() {
    let mut pool = Pool::new(3, Config { failures_in_row: 21, ..Config::default() });
    pool.run(100, all_well);
    let lose = |pool: &mut Pool, end| {
        let started = pool.now;
        pool.all[0].in_flight.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        pool.now = pool.now.after(ms(60));
        pool.end(0, started, end)
    };
    for _ in 0..20 {
        assert_eq!(lose(&mut pool, End::Superseded), None);
    }
    assert_eq!(pool.all[0].failed.load(std::sync::atomic::Ordering::Relaxed), 0);
    let latency = pool.all[0].latency();
    assert!((ms(42)..=ms(43)).contains(&latency), "{latency:?}");
    // Less than what is known says nothing.
    let started = pool.now;
    pool.all[0].in_flight.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    pool.end(0, started, End::Superseded);
    assert_eq!(pool.all[0].latency(), latency);
    // Too often in a row is too often, but an answer in between is a sign of life.
    assert_eq!(lose(&mut pool, End::Superseded).unwrap().why, Why::InRow(21));
    pool.core.put_back(&pool.all[0], Why::Operator, pool.now);
    for _ in 0..20 {
        assert_eq!(lose(&mut pool, End::Superseded), None);
    }
    pool.force(0, End::Success);
    assert_eq!(lose(&mut pool, End::Superseded), None);
    assert_eq!(pool.all[0].failed.load(std::sync::atomic::Ordering::Relaxed), 0);
    // Given up after as long, it has failed.
    assert_eq!(lose(&mut pool, End::Cancelled), None);
    assert_eq!(pool.all[0].failed.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn one_whose_callers_leave_early_gets_fewer() {
    let mut pool = Pool::new(4, Config::default());
    pool.run(100, all_well);
    // They wait for three typical answers, which is no failure yet.
    let mut calls: Vec<(usize, Tick)> = Vec::new();
    let mut got = [0; 4];
    for _ in 0..4000 {
        let place = pool.pick(FIRST);
        got[place] += 1;
        calls.push((place, pool.now));
        pool.now = pool.now.after(ms(2));
        let over: Vec<_> = calls
            .extract_if(.., |(place, started)| {
                pool.now.since(*started) >= ms(if *place == 0 { 30 } else { 10 })
            })
            .collect();
        for (place, started) in over {
            let end = if place == 0 { End::Cancelled } else { End::Success };
            assert_eq!(pool.end(place, started, end), None);
        }
    }
    // A fourth, were it as good as the others.
    assert!(got[0] < 300, "{got:?}");
}

#[test]
fn a_call_that_is_given_up_is_no_sign_of_life() {
    let mut pool = Pool::new(2, Config::default());
    pool.run(100, all_well);
    let begin = |place: usize| {
        pool.all[place].in_flight.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    };
    // One is always out there, none of the others is waited for as long as an answer takes.
    while pool.pick(FIRST) != 0 {}
    for _ in 0..300 {
        begin(0);
        pool.now = pool.now.after(ms(3));
        pool.end(0, Tick(pool.now.0 - 3_000_000), End::Cancelled);
    }
    // The other one has far more calls, which it answers.
    (0..9).for_each(|_| begin(1));
    pool.end(1, Tick(pool.now.0 - 10_000_000), End::Success);
    let got = (0..50).filter(|_| pool.pick(FIRST) == 0).count();
    assert_eq!(got, 0);
}

#[test]
fn after_many_insertions_a_retry_still_knows_where_it_was() {
    let mut pool = Pool::new(1, Config::default());
    for _ in 0..0xffff {
        let passing = pool.core.insert("passing".into(), pool.now);
        pool.core.remove(&passing);
    }
    // Its number is that of the first and 65,536.
    pool.insert("late");
    for call in 1..100 {
        let first = pool.pick(Asked { attempt: 1, call });
        pool.end(first, pool.now, End::Ignored);
        let second = pool.pick(Asked { attempt: 2, call });
        pool.end(second, pool.now, End::Ignored);
        assert_ne!(first, second);
    }
}

#[test]
fn one_without_an_answer_yet_is_not_asked_for_that_alone() {
    // Whether its calls are cancelled or say nothing: as much as the others, at most.
    for end in [End::Cancelled, End::Ignored] {
        let mut pool = Pool::new(4, Config::default());
        let got = pool.run(4000, |n| (10, if n == 0 { end } else { End::Success }));
        assert!(got[0] < 1400, "{end:?}: {got:?}");
    }
}

#[test]
fn one_that_was_slow_is_asked_again_and_believed() {
    let mut pool = Pool::new(3, Config::default());
    tiny(&mut pool, 100);
    // Ten seconds, where the others take nothing.
    pool.all[0].in_flight.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let started = pool.now;
    pool.now = pool.now.after(ms(10_000));
    pool.end(0, started, End::Success);
    let begin = pool.now;
    let mut asked = Vec::new();
    while pool.now.since(begin) < ms(40_000) {
        let (place, started) = (pool.pick(FIRST), pool.now);
        pool.now = pool.now.after(Duration::from_nanos(100));
        pool.end(place, started, End::Success);
        if place == 0 {
            asked.push(started.since(begin));
        }
        pool.now = pool.now.after(ms(10));
    }
    // Three times the memory after its last call, and then as anybody: a third of a thousand.
    assert!((ms(30_000)..ms(30_020)).contains(&asked[0]), "{:?}", asked[0]);
    assert!(asked.len() > 200, "{}", asked.len());
}

#[test]
fn one_that_hangs_from_its_first_call_gets_no_more() {
    let mut pool = Pool::new(3, Config::default());
    pool.run(100, all_well);
    pool.insert("late");
    let (mut hung, mut calls) = (0, Vec::new());
    // Ten at a time, and then forty.
    for n in 0..2000 {
        let place = pool.pick(FIRST);
        if place == 3 {
            hung += 1;
        } else {
            calls.push((place, pool.now));
        }
        pool.now = pool.now.after(ms(1));
        if calls.len() == if n < 1000 { 10 } else { 40 } {
            let (place, started) = calls.remove(0);
            pool.end(place, started, End::Success);
        }
    }
    assert!(hung <= 6, "{hung}");
}

#[test]
fn a_returned_endpoint_starts_slowly() {
    let mut pool = Pool::new(2, Config::default());
    pool.run(100, all_well);
    pool.eject(0);
    while !pool.out().is_empty() {
        pool.run(1, all_well);
    }
    let early = pool.run(40, all_well)[0];
    pool.now = pool.now.after(ms(2000));
    pool.run(200, all_well);
    let late = pool.run(400, all_well)[0];
    assert!(early <= 16, "{early}");
    assert!(late >= 120, "{late}");
}
