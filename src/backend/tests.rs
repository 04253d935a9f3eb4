use proptest::prelude::*;
use std::task::Waker;

use super::core::Core;
use super::turn::{Arrival, End, Key, Settled, State, Turn, Wakers};
use crate::clock::Tick;
use crate::context::Criticality;

pub(super) const MS: u64 = 1_000_000;
/// Given up before its deadline.
pub(super) const ABANDONED: End = End::Abandoned { deadline: Tick(u64::MAX) };
const CLASS: Criticality = Criticality::Critical;

pub(super) fn at(ms: u64) -> Tick {
    Tick((1 << 50) + ms * MS)
}

pub(super) fn arrive(core: &mut Core, now: u64, patience: u64) -> Arrival {
    core.arrive(at(now + patience), CLASS, at(now), &mut Wakers::default())
}

pub(super) fn finish(core: &mut Core, started: u64, end: End, now: u64) {
    core.finish(at(started), end, at(now), &mut Wakers::default());
}

pub(super) fn poll(core: &mut Core, key: Key, now: u64) -> Turn {
    core.poll(key, Waker::noop(), at(now), &mut Wakers::default())
}

pub(super) fn wait(core: &mut Core, now: u64, patience: u64) -> Key {
    match arrive(core, now, patience) {
        Arrival::Wait(key) => key,
        other => panic!("{other:?}"),
    }
}

/// One call after the other, `took` each.
pub(super) fn calls(core: &mut Core, from: u64, n: u64, took: u64, end: End) -> u64 {
    for i in 0..n {
        let now = from + i * took;
        assert!(matches!(arrive(core, now, 1000), Arrival::Admitted), "call {i}");
        finish(core, now, end, now + took);
    }
    from + n * took
}

/// As many as it lets through, over and over, each taking what `took` says for so many.
pub(super) fn saturate(core: &mut Core, from: u64, rounds: u64, took: impl Fn(u32) -> u64) -> u64 {
    let mut now = from;
    for _ in 0..rounds {
        let mut n = 0;
        while n < core.limit() {
            assert!(matches!(arrive(core, now, 1000), Arrival::Admitted));
            n += 1;
        }
        let took = took(n);
        for _ in 0..n {
            finish(core, now, End::Success, now + took);
        }
        now += took + 1;
    }
    now
}

#[test]
fn expired_work_is_refused_at_arrival() {
    let mut core = Core::new(None, 10);
    assert!(matches!(arrive(&mut core, 5, 0), Arrival::Expired));
    assert_eq!((core.in_flight, core.counts.expired), (0, 1));
}

#[test]
fn waiters_go_by_class_and_then_by_deadline() {
    let mut core = Core::new(Some(1), 10);
    assert!(matches!(arrive(&mut core, 0, 1000), Arrival::Admitted));
    let late = wait(&mut core, 1, 900);
    let early = wait(&mut core, 2, 500);
    let Arrival::Wait(batch) =
        core.arrive(at(100), Criticality::Sheddable, at(3), &mut Wakers::default())
    else {
        panic!("nothing is free")
    };
    let mut order = Vec::new();
    for now in 4..7 {
        finish(&mut core, 0, End::Success, now);
        for key in [late, early, batch] {
            if matches!(poll(&mut core, key, now), Turn::Settled(Settled::Granted(_))) {
                order.push(key);
            }
        }
    }
    assert_eq!(order, [early, late, batch]);
}

#[test]
fn a_full_room_keeps_the_most_important() {
    let mut core = Core::new(Some(1), 1);
    assert!(matches!(arrive(&mut core, 0, 1000), Arrival::Admitted));
    let later = wait(&mut core, 1, 900);
    assert!(matches!(arrive(&mut core, 1, 990), Arrival::Full));
    let sooner = wait(&mut core, 1, 100);
    assert!(matches!(poll(&mut core, later, 1), Turn::Settled(Settled::Displaced)));
    assert!(matches!(poll(&mut core, sooner, 1), Turn::At(_)));
}

#[test]
fn what_cannot_be_answered_in_time_is_dropped_unsent() {
    let mut core = Core::new(Some(1), 10);
    let now = calls(&mut core, 0, 50, 100, End::Success);
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    let key = wait(&mut core, now, 150);
    assert!(matches!(poll(&mut core, key, now + 45), Turn::At(_)));
    assert!(matches!(poll(&mut core, key, now + 55), Turn::Settled(Settled::Hopeless)));
}

#[test]
fn while_service_itself_is_slow_the_newest_goes_first() {
    let mut core = Core::new(Some(1), 10);
    // Answers take 600 ms, give or take: nobody is sure to get one within a second.
    let mut now = 0;
    for took in [300, 1200].repeat(40) {
        assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
        finish(&mut core, now, End::Success, now + took);
        now += took;
    }
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    let old = wait(&mut core, now, 1000);
    let new = wait(&mut core, now + 10, 1000);
    finish(&mut core, now, End::Success, now + 20);
    assert!(matches!(poll(&mut core, new, now + 20), Turn::Settled(Settled::Granted(_))));
    assert!(matches!(poll(&mut core, old, now + 20), Turn::At(_)));
}

#[test]
fn a_limit_that_is_not_used_does_not_grow() {
    let mut core = Core::new(None, 10);
    let before = core.limit();
    calls(&mut core, 0, 100_000, 10, End::Success);
    assert_eq!(core.limit(), before);
}

#[test]
fn it_grows_while_answers_stay_quick() {
    let mut core = Core::new(None, 10);
    saturate(&mut core, 0, 30, |_| 10);
    assert!(core.limit() >= 50, "{}", core.limit());
}

#[test]
fn under_steady_overload_the_limit_does_not_run_away() {
    let mut core = Core::new(None, 10);
    // Ten workers of 20 ms: what is beyond them queues.
    let took = |n: u32| 20 * u64::from(n.div_ceil(10));
    let now = saturate(&mut core, 0, 200, took);
    let early = core.limit();
    // Five minutes.
    saturate(&mut core, now, 6000, took);
    assert!(f64::from(core.limit()) <= 1.5 * f64::from(early), "{early}, then {}", core.limit());
    assert!(core.limit() >= 10, "and the workers have work: {}", core.limit());
}

#[test]
fn quick_failures_neither_raise_the_limit_nor_lower_the_baseline() {
    let mut core = Core::new(None, 10);
    let mut now = calls(&mut core, 0, 100, 50, End::Success);
    let (limit, baseline) = (core.limit(), core.latency.baseline());
    for _ in 0..1000 {
        now = calls(&mut core, now, 5, 1, End::Failure);
        now = calls(&mut core, now, 1, 50, End::Success);
    }
    assert_eq!(core.limit(), limit);
    let after = core.latency.baseline();
    assert!(after.abs_diff(baseline) < baseline / 50, "{baseline}, then {after}");
}

#[test]
fn what_is_slow_by_itself_becomes_the_new_baseline() {
    let mut core = Core::new(None, 10);
    let now = saturate(&mut core, 0, 50, |_| 10);
    let now = saturate(&mut core, now, 60, |_| 200);
    let (baseline, limit) = (core.latency.baseline(), core.limit());
    assert!(baseline.abs_diff(200 * MS) < 2 * MS, "{baseline}");
    // And the limit grows again from there.
    saturate(&mut core, now, 340, |_| 200);
    assert_eq!(core.state, State::Up);
    assert!(core.limit() >= 2 * limit, "{limit}, then {}", core.limit());
}

#[test]
fn when_everything_fails_one_in_a_while_probes_and_the_others_wait() {
    let mut core = Core::new(None, 1000);
    let now = calls(&mut core, 0, 50, 10, End::Success);
    let now = calls(&mut core, now, 12, 1, End::Failure);
    assert!(matches!(core.state, State::Down { silent: false, .. }));
    let mut sent = 0;
    for ms in 0..500 {
        if let Arrival::Admitted = arrive(&mut core, now + ms, 1000) {
            sent += 1;
        }
        // Whoever is let through fails.
        while core.in_flight > 0 {
            finish(&mut core, now + ms, End::Failure, now + ms);
        }
    }
    let probes = core.counts.probes;
    assert!(sent <= 1, "who comes later waits");
    assert!((5..=20).contains(&probes), "{probes} probes in half a deadline");
    assert!(core.waiting() > 300, "{}", core.waiting());
}

/// One that has just answered again, when that was, and its limit before it went down.
fn recovering() -> (Core, u64, u32) {
    let mut core = Core::new(None, 1000);
    let now = saturate(&mut core, 0, 8, |_| 10);
    let before = core.limit();
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    finish(&mut core, now, End::Success, now + 10);
    let now = calls(&mut core, now + 11, 12, 1, End::Failure);
    assert!(matches!(core.state, State::Down { .. }));
    assert!(matches!(arrive(&mut core, now + 1, 1000), Arrival::Admitted), "the first probe");
    finish(&mut core, now + 1, End::Success, now + 11);
    assert_eq!(core.state, State::Recovering);
    (core, now + 12, before)
}

#[test]
fn after_an_outage_the_limit_starts_small_and_doubles() {
    let (mut core, now, before) = recovering();
    assert!(core.limit() <= before / 4 + 1, "{before}, then {}", core.limit());
    // Half of a full round counts as reached.
    let small = core.limit();
    let now = saturate(&mut core, now, 3, |_| 10);
    assert!(core.limit() >= 2 * small, "{small}, then {}", core.limit());
    saturate(&mut core, now, 8, |_| 10);
    assert_eq!((core.state, core.limit() >= before), (State::Up, true));
}

/// It doubled whatever they took, until their average was too long, and by then had filled a queue that callers wait in for
/// the better part of a second.
#[test]
fn after_an_outage_answers_that_take_longer_let_fewer_through() {
    let growth = |took| {
        let (mut core, now, _) = recovering();
        let small = core.limit();
        saturate(&mut core, now, 1, |_| took);
        core.limit() - small
    };
    let more = [10, 20, 40].map(growth);
    let [usual, slow, slower] = more;
    assert!(slow * 3 <= usual * 2 && slower * 2 <= usual && slower > 0, "{more:?}");
}

#[test]
fn silence_is_an_outage_too() {
    let mut core = Core::new(None, 1000);
    let now = calls(&mut core, 0, 50, 10, End::Success);
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    let _ = arrive(&mut core, now + 90, 1000);
    assert_eq!(core.state, State::Up);
    let _ = arrive(&mut core, now + 110, 1000);
    assert!(matches!(core.state, State::Down { silent: true, .. }));
}

/// With as many out as was usual the next probe came after all that callers wait, and nobody saw for so long that the backend
/// was back.
#[test]
fn a_silent_backend_is_asked_again_when_what_was_sent_is_done() {
    let mut core = Core::new(None, 1000);
    let now = calls(&mut core, 0, 50, 10, End::Success);
    let (mut out, mut waiting, mut probes) = (Vec::new(), Vec::new(), Vec::new());
    for ms in now..now + 5000 {
        // Each is given up after 150 ms, and perhaps worked on for as long again.
        out.retain(|&started| {
            let stays = ms < started + 150;
            if !stays {
                finish(&mut core, started, ABANDONED, ms);
            }
            stays
        });
        let mut sent = out.len();
        if ms % 10 == 0 {
            match arrive(&mut core, ms, 1000) {
                Arrival::Admitted => out.push(ms),
                Arrival::Wait(key) => waiting.push(key),
                other => panic!("{other:?}"),
            }
        }
        waiting.retain(|key| match poll(&mut core, *key, ms) {
            Turn::At(_) => true,
            Turn::Settled(how) => {
                if let Settled::Granted(_) = how {
                    out.push(ms);
                }
                false
            }
        });
        sent = out.len() - sent;
        if ms >= now + 2000 {
            assert!(core.in_flight <= 4, "{} out", core.in_flight);
            probes.extend((0..sent).map(|_| ms));
        }
    }
    assert!(matches!(core.state, State::Down { silent: true, .. }));
    let longest = probes.windows(2).map(|two| two[1] - two[0]).max();
    assert!(longest.is_some_and(|longest| longest < 700), "{longest:?} between {probes:?}");
}

#[test]
fn an_abandoned_call_keeps_its_slot_as_long_as_it_was_waited_for() {
    let mut core = Core::new(None, 10);
    let now = calls(&mut core, 0, 50, 10, End::Success);
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    finish(&mut core, now, ABANDONED, now + 80);
    assert_eq!(core.in_flight, 1);
    let now = now + 159;
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    finish(&mut core, now, End::Success, now);
    assert_eq!(core.in_flight, 1);
    assert!(matches!(arrive(&mut core, now + 1, 1000), Arrival::Admitted));
    assert_eq!(core.in_flight, 1, "the abandoned one's is back, the new one has its own");
}

#[test]
fn seventy_errors_in_a_hundred_are_not_an_outage_once_they_are_usual() {
    let mut core = Core::new(None, 1000);
    let mut now = calls(&mut core, 0, 50, 10, End::Success);
    for share in [1, 2, 2, 3, 2] {
        for _ in 0..100 {
            now = calls(&mut core, now, share, 1, End::Failure);
            now = calls(&mut core, now, 1, 10, End::Success);
        }
    }
    calls(&mut core, now, 20, 1, End::Failure);
    assert!(!matches!(core.state, State::Down { .. }), "a row of 20 comes by chance then");
}

/// With a hundred in flight dozens of errors come before the first answer of what was sent after the first of them. With three
/// of ten failing it went down a few times a second.
#[test]
fn errors_that_come_sooner_than_answers_are_no_outage() {
    // Four calls each millisecond: some of ten fail after two, and the others take twenty.
    let play =
        |core: &mut Core, out: &mut Vec<(u64, u64, bool)>, from: u64, long: u64, failing: u64| {
            for now in from..from + long {
                for n in 0..4 {
                    let arrival = arrive(core, now, 1000);
                    if matches!(core.state, State::Down { .. }) {
                        return now - from;
                    }
                    assert!(matches!(arrival, Arrival::Admitted), "{:?}", core.state);
                    let fails = (now * 4 + n) * 3 % 10 < failing;
                    out.push((now + if fails { 2 } else { 20 }, now, fails));
                }
                for (_, sent, fails) in out.extract_if(.., |(at, ..)| *at <= now) {
                    finish(core, sent, if fails { End::Failure } else { End::Success }, now);
                }
            }
            long
        };
    let [mut killed, mut refused] = [(); 2].map(|()| {
        let mut core = Core::new(None, 1000);
        let now = saturate(&mut core, 0, 12, |_| 20);
        assert!(core.limit() >= 100);
        let mut out = Vec::new();
        play(&mut core, &mut out, now, 60, 3);
        assert_eq!((core.counts.downs, core.state), (0, State::Up));
        (core, out, now + 60)
    });
    // All that was out fails: nothing is left that may succeed.
    let (core, out, now) = &mut killed;
    for (n, (_, sent, _)) in out.drain(..).enumerate() {
        finish(core, sent, End::Failure, *now);
        assert!(n < 40 || matches!(core.state, State::Down { .. }), "after {n}");
    }
    // All that is sent fails: it is noticed before an answer could have come.
    let (core, out, now) = &mut refused;
    let after = play(core, out, *now, 20, 10);
    assert!(after < 10, "{after}");
    assert!(matches!(core.state, State::Down { .. }));
}

/// The retries of a few calls that never succeed would fill the room, as the most urgent there, and all others wait behind
/// them. Where many fail, what has failed often may yet succeed.
#[test]
fn while_others_wait_a_retry_is_paid_if_chance_may_have_failed_the_attempts_before() {
    // Of a limit that is fixed only a success earns one.
    for (fixed, end) in [(None, End::Failure), (Some(4), End::Success)] {
        // So many first attempts of ten fail, and after so many failures of one call the next is paid, or not.
        for (errors, paid, refused) in [(0, 1, 2), (3, 4, 9), (7, 10, 40)] {
            let mut core = Core::new(fixed, 100);
            let mut now = calls(&mut core, 0, 50, 10, End::Success);
            for n in 0..500 {
                if n * 3 % 10 < errors {
                    now = calls(&mut core, now, 1, 10, End::Failure);
                    let _ = core.take_retry(Some(1));
                }
                now = calls(&mut core, now, 1, 10, End::Success);
            }
            assert!(core.take_retry(Some(90)), "a place is free");
            let out = core.limit();
            for _ in 0..out {
                assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
            }
            let keys = [(); 3].map(|()| wait(&mut core, now, 1000));
            for _ in 0..2 {
                finish(&mut core, now, end, now + 10);
            }
            assert_eq!(core.waiting(), 1);
            let seen = format!("{errors} of ten fail, {fixed:?}");
            for failed in [Some(refused), None] {
                assert!(!core.take_retry(failed), "{failed:?}, {seen}");
            }
            assert!(core.take_retry(Some(1)), "{seen}");
            assert!(core.take_retry(Some(paid)), "{seen}");
            for key in keys {
                core.leave(key, at(now + 10), &mut Wakers::default());
            }
        }
    }
}

proptest! {
    #[test]
    fn no_place_is_lost_or_made_whatever_order_things_end_in(
        fixed in prop::option::of(1_u32..6),
        steps in prop::collection::vec((0_u8..8, 0_usize..64, 0_u64..60), 1..400),
    ) {
        let mut core = Core::new(fixed, 8);
        let (mut out, mut waiting): (Vec<u64>, Vec<Key>) = (Vec::new(), Vec::new());
        let mut now = 0;
        for (what, which, step) in steps {
            now += step;
            match what {
                0..=2 => match arrive(&mut core, now, 20 + 40 * which as u64) {
                    Arrival::Admitted => out.push(now),
                    Arrival::Wait(key) => waiting.push(key),
                    Arrival::Expired | Arrival::Full | Arrival::Throttled(_) => {}
                },
                3..=5 if !out.is_empty() => {
                    let started = out.swap_remove(which % out.len());
                    let end = [End::Success, End::Failure, ABANDONED][usize::from(what) - 3];
                    finish(&mut core, started, end, now);
                }
                6 if !waiting.is_empty() => {
                    let key = waiting.swap_remove(which % waiting.len());
                    core.leave(key, at(now), &mut Wakers::default());
                }
                _ => {}
            }
            waiting.retain(|key| match poll(&mut core, *key, now) {
                Turn::Settled(Settled::Granted(_)) => {
                    out.push(now);
                    false
                }
                Turn::Settled(_) => false,
                Turn::At(_) => true,
            });
            prop_assert_eq!(core.waiting(), waiting.len());
            prop_assert!(core.in_flight as usize >= out.len());
            prop_assert!(core.limit() >= 1);
            if let Some(fixed) = fixed {
                prop_assert_eq!(core.limit(), fixed);
                prop_assert!(core.in_flight <= fixed);
            }
        }
        for key in waiting {
            core.leave(key, at(now), &mut Wakers::default());
        }
        for started in out {
            finish(&mut core, started, End::Success, now);
        }
        // An hour later no abandoned call is worked on any more.
        let end = now + 3_600_000;
        let key = match arrive(&mut core, end, 1000) {
            Arrival::Wait(key) => Some(key),
            _ => None,
        };
        prop_assert_eq!(core.in_flight, u32::from(key.is_none()));
        if let Some(key) = key {
            core.leave(key, at(end), &mut Wakers::default());
        }
        prop_assert_eq!(core.waiting(), 0);
    }
}
