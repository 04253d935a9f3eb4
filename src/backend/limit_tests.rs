//! How many are in flight, and whose they are.

use std::time::Duration;

use super::core::Core;
use super::tests::{ABANDONED, arrive, at, calls, finish};
use super::turn::{Arrival, End, Settled, State, Turn, Wakers};
use crate::clock::Tick;
use crate::context::Criticality;

fn arrive_as(core: &mut Core, class: Criticality, now: u64) -> Arrival {
    core.arrive(at(now + 1000), class, at(now), &mut Wakers::default())
}

/// How many more are in flight once one of this class has to wait.
fn fill(core: &mut Core, class: Criticality, now: u64) -> u32 {
    let before = core.in_flight;
    loop {
        let known = core.in_flight;
        let _ = arrive_as(core, class, now);
        if core.in_flight == known {
            return known - before;
        }
    }
}

/// Calls of 10 ms, one each millisecond, of which every `n`th is critical and the others can wait.
fn mixed(core: &mut Core, from: u64, n: u64) -> u64 {
    for i in 0..400 {
        if i >= 10 && core.in_flight > 0 {
            finish(core, from + i - 10, End::Success, from + i);
        }
        let class = if i % n == 0 { Criticality::Critical } else { Criticality::Sheddable };
        let _ = arrive_as(core, class, from + i);
    }
    while core.in_flight > 0 {
        finish(core, from + 390, End::Success, from + 400);
    }
    from + 400
}

#[test]
fn the_critical_go_beyond_the_limit_by_the_share_of_what_can_wait() {
    let mut core = Core::new(None, 1000);
    let now = mixed(&mut core, 0, 4);
    assert_eq!((core.in_flight, core.waiting()), (0, 0));
    let limit = core.limit();
    assert_eq!(fill(&mut core, Criticality::Sheddable, now), limit);
    let more = fill(&mut core, Criticality::Critical, now);
    let share = f64::from(more) / f64::from(limit);
    assert!((0.5..=0.9).contains(&share), "{more} beyond {limit}, three quarters can wait");
}

#[test]
fn who_is_as_important_as_all_others_has_the_limit() {
    for class in Criticality::ALL {
        let mut core = Core::new(None, 1000);
        for n in 0..100 {
            assert!(matches!(arrive_as(&mut core, class, 10 * n), Arrival::Admitted));
            finish(&mut core, 10 * n, End::Success, 10 * n + 10);
        }
        let limit = core.limit();
        assert_eq!(fill(&mut core, class, 1000), limit, "{class:?}");
    }
    let mut core = Core::new(Some(8), 1000);
    let now = mixed(&mut core, 0, 2);
    fill(&mut core, Criticality::CriticalPlus, now);
    assert_eq!(core.in_flight, 8, "a bulkhead is one for all");
}

#[test]
fn few_critical_ones_get_what_they_need_however_small_the_limit_is() {
    // Ten calls at a time, a third of them critical; then others take the backend, and the limit is one.
    let mut core = Core::new(None, 1000);
    let mut now = mixed(&mut core, 0, 3);
    while core.limit() > 1 {
        let class =
            if now.is_multiple_of(3) { Criticality::Critical } else { Criticality::Sheddable };
        assert!(matches!(arrive_as(&mut core, class, now), Arrival::Admitted));
        finish(&mut core, now, End::TooMany, now + 1);
        now += 1;
    }
    let sent = fill(&mut core, Criticality::Critical, now);
    assert!((4..=8).contains(&sent), "{sent}");
}

/// One at a time, of one that can wait, would be a limit for the critical, too.
#[test]
fn a_critical_one_goes_beyond_a_limit_of_one_that_is_taken_by_what_can_wait() {
    let mut core = Core::new(None, 1000);
    for n in 0..100 {
        let class = if n % 4 == 0 { Criticality::Critical } else { Criticality::Sheddable };
        assert!(matches!(arrive_as(&mut core, class, 10 * n), Arrival::Admitted));
        finish(&mut core, 10 * n, End::Success, 10 * n + 1);
    }
    core.make_wide(1);
    assert_eq!(fill(&mut core, Criticality::Sheddable, 1000), 1);
    assert_eq!(fill(&mut core, Criticality::Critical, 1000), 1);
}

#[test]
fn a_cold_backend_gets_few_of_the_critical_too() {
    let mut core = Core::new(None, 1000);
    let now = mixed(&mut core, 0, 4);
    let now = calls(&mut core, now, 12, 1, End::Failure);
    assert!(matches!(core.state, State::Down { .. }));
    assert!(matches!(arrive(&mut core, now + 1, 1000), Arrival::Admitted), "the first probe");
    finish(&mut core, now + 1, End::Success, now + 11);
    assert_eq!(core.state, State::Recovering);
    let limit = core.limit();
    let sent = fill(&mut core, Criticality::CriticalPlus, now + 12);
    assert!(sent <= 2 * limit, "{sent} with a limit of {limit}");
}

/// As many calls as the limit lets through, over and over, which take what `took` says of each; until `done`, or
/// for a minute. How long that was.
fn until(
    core: &mut Core,
    from: u64,
    took: impl Fn(u64) -> u64,
    done: impl Fn(&Core) -> bool,
) -> u64 {
    let (mut now, mut n, mut out) = (from, 0, Vec::new());
    while now < from + 60_000 && !done(core) {
        while core.in_flight < core.limit() {
            match arrive(core, now, 1000) {
                Arrival::Admitted => {}
                Arrival::Wait(key) => {
                    core.leave(key, at(now), &mut Wakers::default());
                    break;
                }
                other => panic!("{other:?}"),
            }
            n += 1;
            out.push((now + took(n), now));
        }
        out.sort_unstable_by(|one, other| other.cmp(one));
        let Some((end, started)) = out.pop() else {
            now += 1;
            continue;
        };
        now = end;
        finish(core, started, End::Success, now);
    }
    while let Some((_, started)) = out.pop() {
        finish(core, started, End::Ignored, now);
    }
    now - from
}

#[test]
fn a_queue_of_others_is_not_taken_for_slow_service() {
    let usual = |n: u64| [5, 10, 20, 40][usize::try_from(n % 4).expect("below four")];
    let warm = || {
        let mut core = Core::new(None, 1000);
        let mut now = 0;
        for n in 0..400 {
            now += calls(&mut core, now, 1, usual(n), End::Success) - now;
        }
        (core, now)
    };
    let rebased = |core: &Core| core.latency.baseline() > 100 * super::tests::MS;
    let (mut slow, now) = warm();
    let service = until(&mut slow, now, |n| 20 * usual(n), rebased);
    let (mut queue, now) = warm();
    let others = until(&mut queue, now, |n| 270 + usual(n), rebased);
    assert!(service < 10_000, "twenty times as slow: {service} ms");
    assert!(others > 20_000, "a queue: {others} ms");
    // It may be a delay that stays, which nobody's limit can change.
    assert!(others < 60_000, "not for ever: {others} ms");
}

/// Four at a time, then others queue in front until that is taken for normal; how many may be in flight then.
fn in_doubt(usual: impl Fn(u64) -> u64) -> (Core, u64, f64) {
    let mut core = Core::new(None, 1000);
    let mut now = 0;
    for n in 0..400 {
        now += calls(&mut core, now, 1, usual(n), End::Success) - now;
    }
    let rebased = |core: &Core| core.latency.baseline() > 100 * super::tests::MS;
    now += until(&mut core, now, |n| 270 + usual(n), rebased);
    let before = core.before;
    assert!(core.is_in_doubt());
    (core, now, before)
}

#[test]
fn a_baseline_that_may_be_a_queue_of_others_is_no_reason_for_more_than_before() {
    // Four at a time, as many as come; then others queue in front for a minute, until that is taken for normal.
    let usual = |n: u64| [5, 10, 20, 40][usize::try_from(n % 4).expect("below four")];
    let (mut core, mut now, before) = in_doubt(usual);
    for _ in 0..5 {
        // As many as it lets through: each more of ours would be one of theirs less.
        let more = |core: &Core| f64::from(core.limit()) > before;
        now += until(&mut core, now, |n| 270 + usual(n), more);
        assert!(!more(&core), "{} after {before}", core.limit());
    }
    // Once there is no queue it is known again what is normal.
    for n in 0..400 {
        now += calls(&mut core, now, 1, usual(n), End::Success) - now;
    }
    until(&mut core, now, |_| 10, |core| f64::from(core.limit()) > 2.0 * before);
    assert!(f64::from(core.limit()) > 2.0 * before, "{}", core.limit());
}

#[test]
fn a_delay_that_stays_holds_the_limit_down_for_minutes_and_not_for_ever() {
    let usual = |n: u64| [5, 10, 20, 40][usize::try_from(n % 4).expect("below four")];
    let (mut core, mut now, before) = in_doubt(usual);
    let more = |core: &Core| f64::from(core.limit()) > before;
    for _ in 0..60 {
        now += until(&mut core, now, |n| 270 + usual(n), more);
        // A small trouble at a quiet time does not lower it further.
        assert!(core.before >= before || !core.is_in_doubt(), "{}", core.before);
    }
    assert!(more(&core), "{} after {before}", core.limit());
}

#[test]
fn what_has_never_answered_in_time_is_asked_less() {
    // Else many clients that begin at once with a few calls each keep a small backend busy with what nobody waits for
    // any more: without one answer nothing is known of how long it takes.
    let mut core = Core::new(None, 1000);
    let began = core.limit();
    let mut now = 0;
    for expected in [began / 2, began / 4, 1, 1] {
        let mut sent = 0;
        loop {
            match arrive(&mut core, now, 1000) {
                Arrival::Admitted => sent += 1,
                Arrival::Wait(key) => {
                    core.leave(key, at(now), &mut Wakers::default());
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(sent >= 1, "somebody is always sent");
        for _ in 0..sent {
            finish(&mut core, now, ABANDONED, now + 600);
        }
        assert_eq!(core.limit(), expected);
        // What was abandoned is taken to be worked on for as long again.
        now += 2000;
    }
    // Who goes at once has not waited in vain, and with answers it is known how long they take.
    let mut core = Core::new(None, 1000);
    assert!(matches!(arrive(&mut core, 0, 1000), Arrival::Admitted));
    finish(&mut core, 0, ABANDONED, 20);
    assert_eq!(core.limit(), began);
    let now = calls(&mut core, 100, 20, 10, End::Success);
    let known = core.limit();
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    finish(&mut core, now, ABANDONED, now + 600);
    assert_eq!(core.limit(), known);
}

/// With a queue before each of several, calls wait at one while others are free. At a tenth of what callers wait clients of a
/// pool with capacity left held calls back, and sent them away in the end.
#[test]
fn where_each_of_several_has_a_queue_answers_may_take_a_third_of_what_callers_wait() {
    let slower = |several, took| {
        let mut core = Core::new(None, 1000);
        core.several = several;
        let now = calls(&mut core, 0, 40, 100, End::Success);
        calls(&mut core, now, 20, took, End::Success);
        core.state
    };
    assert_eq!(slower(false, 250), State::Congested);
    assert_eq!(slower(true, 250), State::Up);
    // ... but no longer than that.
    assert_eq!(slower(true, 400), State::Congested);
}

/// A deadline of a second, and an answer after as long.
fn late(core: &mut Core, now: u64) -> u64 {
    assert!(matches!(arrive(core, now, 1000), Arrival::Admitted), "limit {}", core.limit());
    let end = End::Abandoned { deadline: at(now + 1000) };
    finish(core, now, end, now + 1000);
    now + 2000
}

#[test]
fn what_comes_too_late_again_and_again_is_sent_less_often_than_one_at_a_time() {
    // Its first answers came out of a queue already, and the target is twice that.
    let mut core = Core::new(None, 1000);
    let mut now = calls(&mut core, 0, 40, 600, End::Success);
    for _ in 0..12 {
        now = late(&mut core, now);
    }
    // Nobody waits and nothing is out, and yet:
    assert!(!core.has_headroom(at(now)));
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    finish(&mut core, now, End::Success, now + 300);
    let key = super::tests::wait(&mut core, now + 300, 10_000);
    core.leave(key, at(now + 300), &mut Wakers::default());
    // ... but not for longer than callers wait.
    assert!(matches!(arrive(&mut core, now + 1400, 1000), Arrival::Admitted));
}

#[test]
fn late_answers_of_a_slow_tail_lower_no_limit() {
    let mut core = Core::new(None, 1000);
    let mut now = calls(&mut core, 0, 40, 50, End::Success);
    let limit = core.limit();
    // Every fourth is late, but the others are as quick as ever: no queue has held it up.
    for _ in 0..40 {
        now = calls(&mut core, now, 3, 50, End::Success);
        now = late(&mut core, now);
    }
    assert_eq!(core.limit(), limit);
}

/// One of many callers with four calls a second each: sixteen answers are four seconds of an overload that all of them
/// keep up meanwhile.
#[test]
fn where_few_come_a_queue_is_seen_after_few_answers() {
    let mut core = Core::new(None, 10);
    let patience = 340;
    let mut now = 0;
    let mut call = |core: &mut Core, took| {
        assert!(matches!(arrive(core, now, patience), Arrival::Admitted));
        finish(core, now, End::Success, now + took);
        now += 250;
    };
    (0..40).for_each(|_| call(&mut core, 10));
    assert_eq!(core.state, State::Up);
    (0..6).for_each(|_| call(&mut core, 150));
    assert_eq!(core.state, State::Congested);
}

/// With a low limit and calls that wait for it few answers come, however many calls there are: after a time of slow answers
/// the limit took a second longer to come back.
#[test]
fn few_answers_while_calls_wait_are_not_few_calls() {
    let mut core = Core::new(None, 10);
    let patience = 340;
    let mut now = 0;
    for _ in 0..40 {
        assert!(matches!(arrive(&mut core, now, patience), Arrival::Admitted));
        finish(&mut core, now, End::Success, now + 10);
        now += 250;
    }
    let sent = now;
    for _ in 0..6 {
        while matches!(arrive(&mut core, now, patience), Arrival::Admitted) {}
        finish(&mut core, sent, End::Success, now + 150);
        now += 150;
    }
    assert_eq!(core.state, State::Up);
}

/// A call now and then all night, and in the morning many at once, into a queue that others have made. While they wait the
/// quick answers of the night counted as if they had come just now, and the limit grew into that queue.
#[test]
fn quick_answers_of_long_ago_hide_no_queue_while_calls_wait() {
    let mut core = Core::new(None, 100);
    let (patience, mut now) = (10_000, 0);
    for _ in 0..40 {
        assert!(matches!(arrive(&mut core, now, patience), Arrival::Admitted));
        finish(&mut core, now, End::Success, now + 10);
        now += 30_000;
    }
    let (mut out, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        match arrive(&mut core, now, patience) {
            Arrival::Admitted => out.push(now),
            Arrival::Wait(key) => waiting.push(key),
            other => panic!("{other:?}"),
        }
    }
    let mut answers = 0;
    while core.state != State::Congested {
        now += 50;
        assert!(answers < 12, "after {answers} slow answers: limit {}", core.limit());
        if out.first().is_some_and(|sent| sent + 200 <= now) {
            finish(&mut core, out.remove(0), End::Success, now);
            answers += 1;
        }
        waiting.retain(|&key| match super::tests::poll(&mut core, key, now) {
            Turn::Settled(_) => {
                out.push(now);
                false
            }
            Turn::At(_) => true,
        });
    }
    assert!(core.limit() <= 12, "{}", core.limit());
}

#[test]
fn slow_answers_that_nobody_feels_leave_one_in_flight_without_a_pause() {
    // Ten times as slow as they were, and a hundredth of what callers wait: `calls` wants each admitted at once.
    let mut core = Core::new(None, 1000);
    let now = calls(&mut core, 0, 40, 1, End::Success);
    calls(&mut core, now, 400, 10, End::Success);
}

#[test]
fn who_asks_for_less_without_a_time_still_gets_one_at_a_time() {
    // Below one there is a pause, and a hundred successes would have to come before it got shorter: minutes.
    for known in [0, 40] {
        let mut core = Core::new(None, 1000);
        let mut now = calls(&mut core, 0, known, 50, End::Success);
        for _ in 0..100 {
            now = calls(&mut core, now, 1, 60, End::TooMany);
        }
        assert!(!core.pauses());
        now = calls(&mut core, now, 120, 50, End::Success);
        // One at a time needs no more.
        assert!(core.limit() >= 2, "{} at {now}", core.limit());
    }
}

#[test]
fn what_begins_in_an_outage_is_back_with_the_first_answers() {
    let mut core = Core::new(None, 1000);
    let mut now = 0;
    for _ in 0..20 {
        assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
        finish(&mut core, now, End::Abandoned { deadline: at(now + 1000) }, now + 1000);
        now += 2000;
    }
    assert_eq!((core.limit(), core.pauses()), (1, false));
    // `calls` wants each admitted at once, and has no use for more than two.
    calls(&mut core, now, 10, 1, End::Success);
    assert!(core.limit() >= 2, "{}", core.limit());
}

#[test]
fn calls_that_are_late_as_usual_are_not_a_silence() {
    // To be down would end the pause: probes are sent whatever the limit is.
    let mut core = Core::new(None, 1000);
    let mut now = calls(&mut core, 0, 40, 900, End::Success);
    for _ in 0..12 {
        now = late(&mut core, now);
    }
    assert!(core.pauses());
    let downs = core.counts.downs;
    let (mut out, from) = (None, now);
    while now < from + 20_000 {
        match arrive(&mut core, now, 1000) {
            Arrival::Admitted => out = Some(now),
            Arrival::Wait(key) => core.leave(key, at(now), &mut Wakers::default()),
            other => panic!("{other:?}"),
        }
        now += 100;
        if let Some(sent) = out.take_if(|sent| *sent + 1000 <= now) {
            finish(&mut core, sent, End::Abandoned { deadline: at(sent + 1000) }, now);
        }
    }
    assert_eq!(core.counts.downs, downs);
    assert!(core.pauses());
}

#[test]
fn who_got_its_turn_after_a_pause_and_is_not_sent_leaves_it_to_the_next() {
    let paused = || {
        let mut core = Core::new(None, 1000);
        let mut now = calls(&mut core, 0, 40, 600, End::Success);
        for _ in 0..12 {
            now = late(&mut core, now);
        }
        (core, now)
    };
    let (mut core, now) = paused();
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    core.finish_unsent(at(now), at(now), &mut Wakers::default());
    assert!(matches!(arrive(&mut core, now + 1, 1000), Arrival::Admitted));
    // As a waiter that has gone before it saw that it may.
    let (mut core, now) = paused();
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    finish(&mut core, now, End::Success, now + 300);
    let key = super::tests::wait(&mut core, now + 300, 10_000);
    let next = super::tests::wait(&mut core, now + 300, 20_000);
    assert!(matches!(super::tests::poll(&mut core, next, now + 2000), Turn::At(_)));
    core.leave(key, at(now + 2000), &mut Wakers::default());
    let turn = super::tests::poll(&mut core, next, now + 2000);
    assert!(matches!(turn, Turn::Settled(Settled::Granted(_))), "{turn:?}");
}

#[test]
fn an_answer_that_nobody_timed_ends_a_silence() {
    let mut core = Core::new(None, 1000);
    let now = calls(&mut core, 0, 100, 0, End::Success);
    assert!(core.stands_for() == 0, "its like are quick");
    // Two are out; the second keeps the thread busy for long, and answers in the poll in which it is sent.
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
    core.finish_at_once(at(now), &mut Wakers::default());
    assert!(matches!(arrive(&mut core, now + 500, 1000), Arrival::Admitted));
    assert!(!matches!(core.state, State::Down { .. }));
}

/// In two threads each call finds the cache as the other has left it, and takes longer than in one, and the longer for
/// having waited: that is no queue.
/// Taken for one, it let those two wait for each other for good.
#[test]
fn a_difference_of_nanoseconds_is_no_queue() {
    let mut core = Core::new(None, 1000);
    let mut now = at(0);
    let mut one = |core: &mut Core, nanos: u64| {
        let deadline = now.after(Duration::from_secs(1));
        let wakers = &mut Wakers::default();
        let (first, second) = (now, Tick(now.0 + nanos / 2));
        for at in [first, second] {
            let arrival = core.arrive(deadline, Criticality::Critical, at, wakers);
            assert!(matches!(arrival, Arrival::Admitted), "{arrival:?}");
        }
        for at in [first, second] {
            core.finish(at, End::Success, Tick(at.0 + nanos), wakers);
        }
        now = Tick(second.0 + 2 * nanos);
    };
    (0..1000).for_each(|_| one(&mut core, 160));
    let limit = core.limit();
    (0..10_000).for_each(|_| one(&mut core, 1600));
    assert_eq!((core.state, core.limit() >= limit), (State::Up, true), "{} {limit}", core.limit());
    // Nor is there an edge where it begins to matter.
    for nanos in [8000, 11_000] {
        (0..1000).for_each(|_| one(&mut core, nanos));
        assert_eq!((core.state, core.limit() >= limit), (State::Up, true), "{nanos} ns");
    }
}
