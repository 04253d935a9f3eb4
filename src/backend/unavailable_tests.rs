//! A callee that cannot, and says when to come again.

use std::cell::Cell;
use std::task::Waker;
use std::time::Duration;

use super::core::Core;
use super::tests::{at, finish};
use super::turn::{Arrival, End, Settled, State, Turn, Wakers};
use crate::context::Criticality;
use crate::pace::Phase;

/// Callers wait for a second. A call each ten milliseconds.
const PATIENCE: u64 = 1000;
const EVERY: u64 = 10;

/// What became of calls.
#[derive(Debug, Default)]
struct Fate {
    sent: u64,
    waited: u64,
    /// At once.
    given_up: u64,
}

/// Each that is sent ends as is said, after five milliseconds.
fn run(core: &mut Core, from: u64, until: u64, end: impl Fn(u64) -> End) -> Fate {
    let (mut fate, mut out, mut waiting) = (Fate::default(), Vec::new(), Vec::new());
    for now in from..until {
        out.retain(|&sent| {
            let over = now >= sent + 5;
            if over {
                finish(core, sent, end(sent), now);
            }
            !over
        });
        if now % EVERY == 0 {
            let deadline = at(now + PATIENCE);
            match core.arrive(deadline, Criticality::Critical, at(now), &mut Wakers::default()) {
                Arrival::Admitted => out.push(now),
                Arrival::Wait(key) => {
                    fate.waited += 1;
                    waiting.push(key);
                }
                Arrival::Throttled(until) => {
                    assert!(until >= deadline);
                    fate.given_up += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        waiting.retain(|&key| {
            match core.poll(key, Waker::noop(), at(now), &mut Wakers::default()) {
                Turn::Settled(Settled::Granted(_)) => out.push(now),
                Turn::Settled(_) => {}
                Turn::At(_) => return true,
            }
            false
        });
        fate.sent += out.iter().filter(|&&sent| sent == now).count() as u64;
    }
    // Of the next run nobody is left here.
    for key in waiting {
        core.leave(key, at(until), &mut Wakers::default());
    }
    for sent in out {
        finish(core, sent, end(sent), until);
    }
    fate
}

fn learning() -> Core {
    let mut core = Core::new(None, 10_000);
    core.learns_quota = true;
    core
}

const fn maintained(_: u64) -> End {
    End::Unavailable(Duration::from_secs(120))
}

const SECOND: u64 = 1000;

/// Probes went on ten times a second, for the whole two minutes that it had asked for.
#[test]
fn one_that_is_maintained_is_asked_as_seldom_as_may_be_and_nobody_waits_for_it() {
    let mut core = learning();
    let well = run(&mut core, 0, 5 * SECOND, |_| End::Success);
    assert_eq!((well.sent, well.given_up), (500, 0));
    let begins = run(&mut core, 5 * SECOND, 10 * SECOND, maintained);
    assert!(begins.sent <= 40, "{begins:?}");
    assert_eq!((core.pace.phase(), core.counts.downs), (Phase::Stopped, 0));
    let goes_on = run(&mut core, 10 * SECOND, 100 * SECOND, maintained);
    assert!((2..=4).contains(&goes_on.sent), "each half minute one: {goes_on:?}");
    // But those who come when it is about to be asked.
    assert!(goes_on.given_up >= 8_600, "{goes_on:?}");
    // It is back before the time is over.
    let mut now = 100 * SECOND;
    while core.pace.phase() == Phase::Stopped {
        run(&mut core, now, now + 100, |_| End::Success);
        now += 100;
    }
    assert!(now <= 131 * SECOND, "{now}");
    run(&mut core, now, now + 2 * SECOND, |_| End::Success);
    let back = run(&mut core, now + 2 * SECOND, now + 4 * SECOND, |_| End::Success);
    assert!(back.sent >= 195, "{back:?}");
}

/// Then nothing else would hold anybody back: it is down, as it is for failures that say nothing.
#[test]
fn where_no_quota_is_learned_it_is_a_failure() {
    let mut core = Core::new(None, 10_000);
    run(&mut core, 0, 5 * SECOND, |_| End::Success);
    run(&mut core, 5 * SECOND, 6 * SECOND, maintained);
    assert!(matches!(core.state, State::Down { .. }), "{:?}", core.state);
    assert_eq!(core.pace.phase(), Phase::Free);
}

/// And what says nothing is a failure beside what does.
#[test]
fn failures_without_a_time_are_an_outage_also_among_others() {
    let mut core = learning();
    run(&mut core, 0, 5 * SECOND, |_| End::Success);
    let count = Cell::new(0);
    let mixed = |sent| {
        count.set(count.get() + 1);
        if count.get() % 2 == 0 { End::Failure } else { maintained(sent) }
    };
    let fate = run(&mut core, 5 * SECOND, 10 * SECOND, mixed);
    assert!(matches!(core.state, State::Down { .. }), "{:?} {fate:?}", core.state);
}

/// It was down when somebody put up the sign.
#[test]
fn probes_of_one_that_is_down_come_when_it_says() {
    let mut core = learning();
    run(&mut core, 0, 5 * SECOND, |_| End::Success);
    run(&mut core, 5 * SECOND, 10 * SECOND, |_| End::Failure);
    assert!(matches!(core.state, State::Down { .. }));
    let fate = run(&mut core, 10 * SECOND, 100 * SECOND, maintained);
    assert!((3..=6).contains(&fate.sent), "{fate:?}");
    assert!(fate.given_up >= 8_600, "{fate:?}");
    assert!(matches!(core.state, State::Down { .. }), "nothing has been taken");
}

/// What it said of one outage held up the probes of the next: for half a minute, and everybody was refused.
#[test]
fn what_was_said_of_one_outage_is_not_held_against_the_next() {
    let mut core = learning();
    run(&mut core, 0, 5 * SECOND, |_| End::Success);
    run(&mut core, 5 * SECOND, 6 * SECOND, |_| End::Failure);
    assert!(matches!(core.state, State::Down { .. }), "{:?}", core.state);
    // A probe is told to come again much later; and then another that was out succeeds.
    let probed = run(&mut core, 6 * SECOND, 7 * SECOND, maintained);
    assert_eq!(probed.sent, 1);
    core.in_flight += 1;
    let probe = 7 * SECOND;
    finish(&mut core, probe - 500, End::Success, probe);
    assert!(!matches!(core.state, State::Down { .. }), "{:?}", core.state);
    let mut now = probe + 10;
    while !matches!(core.state, State::Down { .. }) {
        run(&mut core, now, now + 100, |_| End::Failure);
        now += 100;
        assert!(now < probe + 20 * SECOND, "it is down again: {:?}", core.state);
    }
    let fate = run(&mut core, now, now + 2 * SECOND, |_| End::Failure);
    assert!(fate.sent >= 2, "it is probed: {fate:?}");
}
