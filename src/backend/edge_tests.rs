//! What does not happen in an ordinary minute.

use std::sync::{Arc, mpsc};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::core::Core;
use super::tests::{ABANDONED, arrive, at, calls, finish, wait};
use super::turn::{Arrival, End, Key, Settled, State, Turn, Wakers};
use super::{Backend, BackendState};
use crate::clock::{Tick, now};
use crate::context::Criticality;
use crate::pace::Phase;

/// Probes in the first second after everything has begun to fail, while callers who wait for a second come every
/// ten milliseconds.
fn probes_in_a_second(core: &mut Core, now: u64) -> u64 {
    let now = calls(core, now, 12, 1, End::Failure);
    assert!(matches!(core.state, State::Down { .. }));
    let before = core.counts.probes;
    for ms in (0..1000).step_by(10) {
        let _ = arrive(core, now + ms, 1000);
        while core.in_flight > 0 {
            finish(core, now + ms, End::Failure, now + ms);
        }
    }
    core.counts.probes - before
}

#[test]
fn one_who_waits_for_ever_does_not_keep_the_others_from_probing() {
    // A mean would take the one for all: the next probe came when the others had long gone.
    let mut core = Core::new(None, 1000);
    let mut now = calls(&mut core, 0, 200, 10, End::Success);
    for patience in [Tick(u64::MAX), at(now + 3_600_000)] {
        let arrival =
            core.arrive(patience, Criticality::Sheddable, at(now), &mut super::Wakers::default());
        assert!(matches!(arrival, Arrival::Admitted));
        finish(&mut core, now, End::Success, now + 10);
        now += 10;
    }
    let probes = probes_in_a_second(&mut core, now);
    assert!(probes >= 5, "{probes} probes");
}

#[test]
fn the_first_who_comes_does_not_either() {
    let mut core = Core::new(None, 1000);
    let first =
        core.arrive(Tick(u64::MAX), Criticality::Critical, at(0), &mut super::Wakers::default());
    assert!(matches!(first, Arrival::Admitted));
    finish(&mut core, 0, End::Success, 10);
    let now = calls(&mut core, 10, 200, 10, End::Success);
    let probes = probes_in_a_second(&mut core, now);
    assert!(probes >= 5, "{probes} probes");
}

#[test]
fn answers_that_take_most_of_what_callers_wait_are_no_silence() {
    let mut core = Core::new(None, 10);
    let mut now = calls(&mut core, 0, 50, 600, End::Success);
    for _ in 0..50 {
        assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
        assert!(matches!(arrive(&mut core, now + 590, 1000), Arrival::Admitted));
        finish(&mut core, now, End::Success, now + 600);
        finish(&mut core, now + 590, End::Success, now + 1190);
        now += 1200;
    }
    assert_eq!((core.state, core.counts.downs), (State::Up, 0));
}

#[test]
fn quick_no_is_not_how_long_an_answer_takes() {
    // `Answered` is what a 404 or a 400 is: it lives, and took no time to say no. Had that lowered the baseline,
    // every answer after it would have been congestion.
    let mut core = Core::new(None, 10);
    let now = calls(&mut core, 0, 100, 50, End::Success);
    let baseline = core.latency.baseline();
    let now = calls(&mut core, now, 1000, 1, End::Answered);
    assert_eq!(core.latency.baseline(), baseline);
    let now = calls(&mut core, now, 11, 1, End::Failure);
    let now = calls(&mut core, now, 1, 1, End::Answered);
    let now = calls(&mut core, now, 11, 1, End::Failure);
    assert_eq!(core.state, State::Up, "it answers in between");
    calls(&mut core, now, 50, 50, End::Success);
    assert_eq!(core.state, State::Up);
}

#[test]
fn a_backend_that_asks_for_less_gets_less() {
    // It says no at once beyond five at a time: no answer ever takes longer, and the limit would never fall.
    let mut core = Core::new(None, 10);
    let mut now = 0;
    let (mut most, mut refused, mut sent) = (0, 0, 0);
    for round in 0..1000 {
        let limit = core.limit();
        for _ in 0..limit {
            assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
        }
        for _ in 5..limit {
            finish(&mut core, now, End::TooMany, now + 1);
        }
        for _ in 0..limit.min(5) {
            finish(&mut core, now, End::Success, now + 100);
        }
        now += 101;
        if round >= 100 {
            most = most.max(limit);
            sent += limit;
            refused += limit.saturating_sub(5);
        }
    }
    assert!(most <= 9, "{most}");
    assert!(f64::from(refused) <= 0.15 * f64::from(sent), "{refused} of {sent}");
    assert!(
        f64::from(sent - refused) >= 0.8 * 5.0 * 900.0,
        "{sent} sent, {refused} of them refused"
    );
}

#[test]
fn after_a_throttled_answer_there_is_no_headroom_for_a_hundred_successes() {
    for less in [End::Throttled(Duration::from_secs(1)), End::TooMany] {
        let mut core = Core::new(None, 10);
        let now = calls(&mut core, 0, 50, 10, End::Success);
        assert!(core.has_headroom(at(now)));
        let now = calls(&mut core, now, 1, 10, less);
        assert!(!core.has_headroom(at(now)));
        let now = calls(&mut core, now, 5, 10, End::Failure);
        let now = calls(&mut core, now, 99, 10, End::Success);
        assert!(!core.has_headroom(at(now)));
        let now = calls(&mut core, now, 1, 10, End::Success);
        assert!(core.has_headroom(at(now)));
    }
}

#[test]
fn calls_that_are_late_together_leave_no_headroom_and_one_that_is_late_alone_does() {
    let mut core = Core::new(None, 10);
    let now = calls(&mut core, 0, 50, 10, End::Success);
    assert!(matches!(arrive(&mut core, now, 10_000), Arrival::Admitted));
    // Perhaps it has met a pause, which another attempt would not.
    assert!(core.has_headroom(at(now + 40)));
    assert!(matches!(arrive(&mut core, now + 5, 10_000), Arrival::Admitted));
    assert!(core.has_headroom(at(now + 5)));
    // Now they wait behind the same.
    assert!(!core.has_headroom(at(now + 40)));
    finish(&mut core, now + 5, End::Success, now + 41);
    // One of them was answered: the other one is late alone, as far as it goes.
    calls(&mut core, now + 41, 10, 10, End::Success);
    assert!(core.has_headroom(at(now + 141)));
}

/// A waker whose drop asks the backend: as that of an executor whose task is held by its wakers only, and holds
/// a handle of the backend.
struct Asks(Backend);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Asks {
    fn drop(&mut self) {
        assert_eq!(self.0.state(), BackendState::Up);
    }
}

/// Whoever calls it has something that has gathered, and all of it comes at once: hedges and retries beside it made a
/// queue as long as what callers wait.
#[test]
fn after_an_outage_as_long_as_callers_wait_there_is_no_headroom_until_it_has_recovered() {
    for (outage, headroom) in [(100, true), (1500, false)] {
        let mut core = Core::new(None, 10);
        let now = calls(&mut core, 0, 50, 10, End::Success);
        let now = calls(&mut core, now, 12, 1, End::Failure);
        assert!(matches!(core.state, State::Down { .. }));
        let now = calls(&mut core, now + outage, 1, 10, End::Success);
        assert_eq!(core.state, State::Recovering);
        assert_eq!(core.has_headroom(at(now)), headroom, "after {outage} ms");
        // A flap changes nothing about what has gathered.
        let now = calls(&mut core, now, 12, 1, End::Failure);
        assert!(matches!(core.state, State::Down { .. }));
        let now = calls(&mut core, now + 100, 1, 10, End::Success);
        assert_eq!(core.state, State::Recovering);
        assert_eq!(core.has_headroom(at(now)), headroom, "after {outage} ms and a flap");
        let now = calls(&mut core, now, 50, 10, End::Success);
        assert_eq!(core.state, State::Up);
        assert!(core.has_headroom(at(now)));
        // It is over with the recovery.
        let now = calls(&mut core, now, 12, 1, End::Failure);
        let now = calls(&mut core, now + 100, 1, 10, End::Success);
        assert_eq!(core.state, State::Recovering);
        assert!(core.has_headroom(at(now)));
    }
}

#[test]
fn a_waker_is_dropped_outside_of_the_lock() {
    let backend = Backend::fixed("db", 1).unwrap();
    let start = now();
    let soon = start.after(Duration::from_secs(10));
    assert!(matches!(backend.arrive(soon, Criticality::Critical, start).0, Arrival::Admitted));
    let Arrival::Wait(key) = backend.arrive(soon, Criticality::Critical, start).0 else { panic!() };
    let (done, ended) = mpsc::channel();
    let inside = backend.clone();
    // It hangs for ever if the lock is held.
    std::thread::spawn(move || {
        for _ in 0..3 {
            inside.poll(key, &Waker::from(Arc::new(Asks(inside.clone()))));
        }
        inside.leave(key);
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(backend.stats().waiting, 0);
}

#[test]
fn who_waits_in_vain_is_gone_from_the_room() {
    let mut core = Core::new(Some(1), 10);
    assert!(matches!(arrive(&mut core, 0, 1000), Arrival::Admitted));
    for n in 0..5 {
        let key = wait(&mut core, n, 10);
        let _ = super::tests::poll(&mut core, key, n + 20);
    }
    assert_eq!((core.waiting(), core.counts.hopeless), (0, 5));
}

/// Attempts of a hundred calls that all end so, one after the other, each tried again for as long as it is paid.
fn attempts_while_all(end: End, core: &mut Core) -> u32 {
    let (mut now, mut attempts) = (0, 0);
    for _ in 0..100 {
        for failed in 1..=100 {
            now += 10;
            let admitted = matches!(arrive(core, now, 60_000), Arrival::Admitted);
            if !admitted {
                break;
            }
            attempts += 1;
            finish(core, now, end, now + 5);
            if !core.take_retry(Some(failed)) {
                break;
            }
        }
    }
    attempts
}

#[test]
fn retries_do_not_pay_for_themselves() {
    // Each failure with a free place earned the next attempt, for as long as callers waited: a bulkhead is never
    // down, and who asks for less is not either.
    for fixed in [Some(8), None] {
        for end in [End::Failure, End::Throttled(Duration::from_secs(1)), End::TooMany, ABANDONED] {
            let attempts = attempts_while_all(end, &mut Core::new(fixed, 1000));
            assert!(attempts <= 200, "{attempts} attempts of 100 calls, {end:?}, {fixed:?}");
        }
    }
}

/// While errors made a queue, and not one for which the limit falls, what had failed was not tried again.
#[test]
fn retries_are_paid_until_answers_are_far_slower_than_those_for_which_the_limit_falls() {
    // It falls beyond 40 ms. One that is fixed never does.
    for (fixed, took, paid) in
        [(None, 30, true), (None, 60, true), (None, 200, false), (Some(8), 30, false)]
    {
        let mut core = Core::new(fixed, 10);
        let now = calls(&mut core, 0, 50, 10, End::Success);
        let now = calls(&mut core, now, 15, took, End::Success);
        while core.take_retry(Some(1)) {}
        calls(&mut core, now, 1, took, End::Success);
        assert_eq!(core.take_retry(Some(1)), paid, "with answers after {took} ms, {fixed:?}");
    }
}

#[test]
fn probes_that_are_tried_again_are_not_more_than_three_of_ten() {
    let mut core = Core::new(None, 1000);
    let now = calls(&mut core, 0, 200, 10, End::Success);
    let now = calls(&mut core, now, 12, 1, End::Failure);
    let (mut sent, mut asked) = (0, 0);
    for ms in (0..20_000).step_by(20) {
        asked += 1;
        let _ = arrive(&mut core, now + ms, 1000);
        while core.in_flight > 0 {
            sent += 1;
            finish(&mut core, now + ms, End::Failure, now + ms);
            let _ = arrive(&mut core, now + ms, 1000);
        }
    }
    assert!((200..=300).contains(&sent), "{sent} of {asked}");
}

#[test]
fn a_backend_that_hardly_anybody_asks_recovers_too() {
    let mut core = Core::new(None, 1000);
    let now = super::tests::saturate(&mut core, 0, 8, |_| 10);
    let (limit, now) = (core.limit(), calls(&mut core, now, 12, 1, End::Failure));
    assert!(matches!(core.state, State::Down { .. }));
    let now = calls(&mut core, now + 1, 1, 10, End::Success);
    assert_eq!(core.state, State::Recovering);
    let small = core.limit();
    // One at a time: the limit is never reached, and does not grow.
    calls(&mut core, now, u64::from(limit), 10, End::Success);
    assert_eq!(core.state, State::Up);
    assert!(core.limit() <= small + 1, "{small}, then {}", core.limit());
}

#[test]
fn retries_that_cost_nothing_while_it_was_down_are_worth_nothing() {
    let mut core = Core::new(None, 1000);
    let now = calls(&mut core, 0, 50, 10, End::Success);
    assert_eq!((0..9).filter(|_| core.take_retry(Some(1))).count(), 3);
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    let _ = arrive(&mut core, now + 200, 1000);
    assert!(matches!(core.state, State::Down { silent: true, .. }));
    for _ in 0..3 {
        assert!(core.take_retry(Some(1)));
        core.give_retry_back();
    }
    finish(&mut core, now, End::Success, now + 210);
    assert_eq!(core.state, State::Recovering);
    let granted = (0..9).filter(|_| core.take_retry(Some(1))).count();
    assert!(granted <= 1, "{granted}: the answer has earned no more");
}

/// A callee that takes one call in `interval` milliseconds, and what has been learned of it after some seconds.
fn paced(interval: u64, callers: u64) -> (Core, u64) {
    let mut core = Core::new(None, 1000);
    core.learns_quota = true;
    let (mut now, mut taken_at, mut waiting) = (0, 0, Vec::new());
    let mut out: Vec<u64> = Vec::new();
    while now < 20_000 {
        now += 1;
        out.retain(|&sent| {
            if now < sent + 5 {
                return true;
            }
            let takes = sent >= taken_at + interval;
            if takes {
                taken_at = sent;
            }
            let refused = End::Throttled(Duration::from_millis(interval));
            finish(&mut core, sent, if takes { End::Success } else { refused }, now);
            false
        });
        if now % callers == 0 {
            match arrive(&mut core, now, 500) {
                Arrival::Admitted => out.push(now),
                Arrival::Wait(key) => waiting.push(key),
                _ => {}
            }
        }
        waiting.retain(|&key| match wait_on(&mut core, key, now) {
            Turn::Settled(Settled::Granted(_)) => {
                out.push(now);
                false
            }
            Turn::Settled(_) => false,
            Turn::At(_) => true,
        });
    }
    (core, now)
}

fn wait_on(core: &mut Core, key: Key, now: u64) -> Turn {
    core.poll(key, Waker::noop(), at(now), &mut Wakers::default())
}

#[test]
fn who_finds_no_room_in_a_quota_is_told_so_and_not_that_it_is_late() {
    let (core, _) = paced(40, 10);
    let rate = core.pace.rate().expect("it is throttled");
    assert!((15.0..35.0).contains(&rate), "{rate} a second, 25 are taken");
    let counts = core.counts;
    assert!(counts.throttled > 1000, "{counts:?}");
    assert!(counts.hopeless < counts.throttled / 20, "{counts:?}");
}

#[test]
fn without_learning_nobody_is_held_back_by_what_is_throttled() {
    let mut core = Core::new(None, 1000);
    for ms in 1..200 {
        assert!(matches!(arrive(&mut core, 10 * ms, 500), Arrival::Admitted));
        finish(&mut core, 10 * ms, End::Throttled(Duration::from_secs(1)), 10 * ms + 5);
    }
    assert_eq!(core.pace.rate(), None);
}

#[test]
fn the_most_important_is_awake_for_its_turn_beyond_the_limit_too() {
    let (mut core, now) = paced(40, 10);
    // Those who wait have given up, and what is out takes long.
    let now = now + 600;
    core.in_flight = core.limit() + 1;
    finish(&mut core, now - 5, End::Success, now);
    let mut wakers = Wakers::default();
    let deadline = at(now + 5000);
    while core.pace.next(at(now)) <= at(now) {
        core.pace.take(at(now));
    }
    let plus = Criticality::CriticalPlus;
    let Arrival::Wait(key) = core.arrive(deadline, plus, at(now), &mut wakers) else {
        panic!("there is no turn")
    };
    let due = core.pace.due();
    assert!(due > at(now) && due < at(now + 1000), "it is the pace that it waits for");
    let Turn::At(awake) = wait_on(&mut core, key, now) else { panic!("too early") };
    assert_eq!(awake, due);
    let then = core.poll(key, Waker::noop(), due, &mut wakers);
    assert!(matches!(then, Turn::Settled(Settled::Granted(_))), "{then:?}");
}

#[test]
fn who_was_admitted_before_there_was_a_rate_has_no_turn_to_give_back() {
    let (mut core, now) = paced(40, 10);
    let now = now + 600;
    while core.pace.next(at(now)) <= at(now) {
        core.pace.take(at(now));
    }
    let due = core.pace.due();
    let mut wakers = Wakers::default();
    for _ in 0..3 {
        core.in_flight += 1;
        core.finish_unsent(at(1), at(now), &mut wakers);
    }
    assert_eq!(core.pace.due(), due);
    core.in_flight += 1;
    core.finish_unsent(at(now), at(now), &mut wakers);
    assert!(core.pace.due() < due);
}

/// One waits for its turn, which comes now, and has not looked yet.
fn with_a_turn_not_looked_at() -> (Core, Key, Tick) {
    let (mut core, now) = paced(10, 5);
    let now = now + 600;
    core.in_flight = 0;
    core.make_wide(50);
    while core.pace.next(at(now)) <= at(now) {
        core.pace.take(at(now));
    }
    let mut wakers = Wakers::default();
    let [key, beside] = [wait(&mut core, now, 400), wait(&mut core, now, 450)];
    let due = core.pace.due();
    assert!(matches!(core.poll(beside, Waker::noop(), due, &mut wakers), Turn::At(_)));
    core.leave(beside, due, &mut wakers);
    assert_eq!(core.in_flight, 1);
    (core, key, due)
}

/// The turn was of the rate before, and what it gave back was the time of another one's probe: a second went out beside it.
#[test]
fn who_leaves_with_a_turn_of_another_pace_gives_none_back() {
    let (mut core, key, due) = with_a_turn_not_looked_at();
    let mut wakers = Wakers::default();
    // Then nothing is taken any more.
    (0..8).for_each(|_| core.pace.refused(due, Some(Duration::from_millis(20)), due));
    assert_eq!(core.pace.phase(), Phase::Stopped);
    let due = core.pace.due();
    let ask = |core: &mut Core| {
        core.arrive(
            due.after(Duration::from_millis(500)),
            Criticality::Critical,
            due,
            &mut Wakers::default(),
        )
    };
    assert!(matches!(ask(&mut core), Arrival::Admitted), "a single call asks");
    core.leave(key, due, &mut wakers);
    assert_eq!(core.in_flight, 1);
    let next = ask(&mut core);
    assert!(matches!(next, Arrival::Wait(_)), "{next:?}");
}

/// It looks when the pace is another one, which it has no turn of.
#[test]
fn who_sees_late_that_it_had_a_turn_of_another_pace_gives_none_back() {
    let (mut core, key, due) = with_a_turn_not_looked_at();
    let mut wakers = Wakers::default();
    let then = due.after(Duration::from_millis(1));
    (0..8).for_each(|_| core.pace.refused(then, Some(Duration::from_millis(20)), then));
    assert_eq!(core.pace.phase(), Phase::Stopped);
    let due = core.pace.due();
    let by = due.after(Duration::from_millis(500));
    let ask = |core: &mut Core| core.arrive(by, Criticality::Critical, due, &mut Wakers::default());
    assert!(matches!(ask(&mut core), Arrival::Admitted), "a single call asks");
    let turn = core.poll(key, Waker::noop(), due, &mut wakers);
    let Turn::Settled(Settled::Granted(since)) = turn else { panic!("{turn:?}") };
    core.finish_unsent(since, due, &mut wakers);
    assert_eq!(core.in_flight, 1);
    let next = ask(&mut core);
    assert!(matches!(next, Arrival::Wait(_)), "{next:?}");
}

/// The probe after that was let out at once, beside the one that was out.
#[test]
fn who_sees_late_that_it_was_admitted_before_it_went_down_leaves_no_probe() {
    let mut core = Core::new(None, 1000);
    let now = calls(&mut core, 0, 50, 10, End::Success);
    core.make_wide(30);
    let mut out = 0;
    while let Arrival::Admitted = arrive(&mut core, now, 5000) {
        out += 1;
    }
    let key = wait(&mut core, now, 5000);
    finish(&mut core, now, End::Success, now + 10);
    (1..out).for_each(|_| finish(&mut core, now + 1, End::Failure, now + 11));
    assert!(matches!(core.state, State::Down { .. }));
    let now = now + 1000;
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted), "the probe");
    let turn = wait_on(&mut core, key, now);
    let Turn::Settled(Settled::Granted(since)) = turn else { panic!("{turn:?}") };
    core.finish_unsent(since, at(now), &mut Wakers::default());
    let next = arrive(&mut core, now, 1000);
    assert!(matches!(next, Arrival::Wait(_)), "{next:?}");
}

/// It was not sent, and all others waited for what it would find out: up to a twenty-fifth of their time, or all of it.
#[test]
fn a_probe_that_is_not_sent_leaves_its_time_to_the_next() {
    let mut core = Core::new(None, 1000);
    let now = calls(&mut core, 0, 50, 10, End::Success);
    let now = calls(&mut core, now, 12, 1, End::Failure);
    assert!(matches!(core.state, State::Down { .. }));
    let mut wakers = Wakers::default();
    assert!(matches!(arrive(&mut core, now + 1, 1000), Arrival::Admitted), "the first probe");
    core.finish_unsent(at(now + 1), at(now + 2), &mut wakers);
    assert!(matches!(arrive(&mut core, now + 2, 1000), Arrival::Admitted));
    // As a waiter that has gone before it saw that it may.
    let [key, other] = [1000, 2000].map(|patience| wait(&mut core, now + 3, patience));
    assert!(matches!(wait_on(&mut core, other, now + 300), Turn::At(_)));
    core.leave(key, at(now + 300), &mut wakers);
    let turn = wait_on(&mut core, other, now + 300);
    assert!(matches!(turn, Turn::Settled(Settled::Granted(_))), "{turn:?}");
    // One that was admitted before has nothing to do with it.
    core.finish_unsent(at(1), at(now + 301), &mut wakers);
    assert!(matches!(arrive(&mut core, now + 301, 1000), Arrival::Wait(_)));
}

/// What a waker panicked with panicked when it was dropped: the others slept on, and the caller was told.
#[test]
fn a_waker_that_panics_again_keeps_nobody_asleep() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            crate::caught::panics_again();
        }
    }
    let other = Arc::<super::model_tests::Flag>::default();
    let mut wakers = Wakers::default();
    wakers.add(Some(Waker::from(Arc::new(Panics))));
    wakers.add(Some(Waker::from(Arc::clone(&other))));
    wakers.wake();
    assert!(other.0.load(std::sync::atomic::Ordering::Relaxed));
}

/// Of a request without a deadline that is all that is known, too: its patience is its deadline.
#[test]
fn what_takes_longer_than_its_caller_was_to_wait_is_late_only_if_it_is_given_up() {
    let mut core = Core::new(None, 10);
    let mut now = 0;
    let mut ends = |core: &mut Core, many: u32, end: fn(u64) -> End| {
        for _ in 0..many {
            assert!(matches!(arrive(core, now, 1000), Arrival::Admitted));
            finish(core, now, end(now), now + 2000);
            now += 10_000;
        }
    };
    ends(&mut core, 64, |_| End::Success);
    assert_eq!((core.late(), core.limit()), (None, 4));
    ends(&mut core, 8, |now| End::Abandoned { deadline: at(now + 1000) });
    assert!(core.late().is_some_and(|share| share > 0.3), "{:?}", core.late());
}
