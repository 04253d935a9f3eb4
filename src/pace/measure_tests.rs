//! What is measured before there is a rate.

use std::collections::VecDeque;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::tests::{Answers, Callee, MS, SECONDS, World, crowds, tick, within};
use super::*;

/// It was taken for as quick as the quickest, and those that were on their way for calls that are taken.
#[test]
fn what_is_measured_does_not_depend_on_the_quickest_refusal() {
    let (mut pace, mut answers, mut ms) = (Pace::new(), Answers::new(), 0);
    pace.refused(tick(0), None, tick(1));
    while pace.phase() == Phase::Measuring {
        ms += 1;
        pace.take(tick(ms));
        let took = if ms % 8 == 1 { 1 } else { 30 };
        answers.push(std::cmp::Reverse((ms + took, ms, false)));
        while answers.peek().is_some_and(|answer| answer.0.0 <= ms) {
            let std::cmp::Reverse((_, sent, _)) = answers.pop().expect("one is due");
            pace.refused(tick(sent), None, tick(ms));
        }
    }
    within("the rate of what takes none", pace.rate().unwrap(), 0.0, 500.0);
}

/// As many as can be sent in 5 ms were.
#[test]
fn what_refuses_all_at_once_is_known_however_short_that_is() {
    let mut pace = Pace::new();
    for n in 0..=40 {
        if pace.rate().is_some() {
            return;
        }
        pace.take(tick(0));
        pace.refused(tick(0), Some(Duration::from_secs(5)), tick(0));
        assert!(n < 40, "{:?}", pace.phase());
    }
}

/// Two of sixteen were enough to begin a rate, and fewer ended the measurement, for the next to begin another.
#[test]
fn a_few_that_are_refused_by_chance_begin_no_rate_and_few_measurements() {
    let mut rng = SmallRng::seed_from_u64(7);
    let (mut pace, mut phase, mut changes) = (Pace::new(), Phase::Free, 0);
    for ms in 0..20 * SECONDS {
        pace.take(tick(ms));
        if rng.random_bool(0.03) {
            pace.refused(tick(ms), None, tick(ms));
        } else {
            pace.taken(tick(ms), tick(ms));
        }
        changes += u32::from(phase != pace.phase());
        phase = pace.phase();
        assert!(pace.rate().is_none(), "{ms}");
    }
    assert!(changes <= 150, "{changes}");
}

/// One of eleven was sent to be refused for ever, whatever it was told.
#[test]
fn who_is_told_when_to_come_again_is_held_to_it_also_if_little_is_too_much() {
    let mut world = World::new(Callee::new(100.0, 10.0), 1, 0.0);
    crowds(&mut world, 1, 9, 10 * SECONDS);
    world.clients[0].taken = 0;
    crowds(&mut world, 1, 9, 30 * SECONDS);
    let client = &world.clients[0];
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    let (sent, taken) = (client.sent as f64, client.taken as f64);
    within("used", taken / 3000.0, 0.95, 1.05);
    within("attempts", sent / taken, 1.0, 1.05);
}

/// One that was refused for whatever reason had all the others sent at a rate, for half a minute at least.
#[test]
fn one_that_is_refused_among_many_begins_no_rate() {
    for (each, took) in [(1, 1), (1, 50), (20, 5), (2000, 10)] {
        let mut pace = Pace::new();
        let mut answers = VecDeque::new();
        for n in 0..2000_u64 {
            let now = n * each;
            while answers.front().is_some_and(|sent| sent + took <= now) {
                let sent = answers.pop_front().expect("it is there");
                pace.taken(tick(sent), tick(now));
            }
            pace.take(tick(now));
            if n % 1000 == 500 {
                pace.refused(tick(now), None, tick(now));
            } else {
                answers.push_back(now);
            }
            assert!(pace.rate().is_none(), "{each} {took}: {n}");
        }
        assert_eq!(pace.phase(), Phase::Free, "{each} {took}");
    }
}

/// Everything was sent until the first answer of a call that was taken could be known, or nothing any more because there was
/// none.
#[test]
fn a_quota_is_measured_as_quickly_as_calls_are_refused_however_long_answers_take() {
    let mut pace = Pace::new();
    pace.taken(tick(0), tick(10 * SECONDS));
    let mut sent = 0;
    for ms in 20 * SECONDS.. {
        if pace.phase() == Phase::Limiting {
            break;
        }
        // One of ten is taken, and its answer is far.
        for n in 0..10 {
            pace.take(tick(ms));
            sent += 1;
            if n > 0 {
                pace.refused(tick(ms), None, tick(ms + 1));
            }
        }
    }
    within("sent", f64::from(sent), 20.0, 200.0);
    within("the rate", pace.rate().unwrap(), 500.0, 2000.0);
}

/// Those that hang may be taken, as long as nothing is known of what answers take: for ever, if nothing is ever answered.
#[test]
fn who_takes_nothing_at_all_and_lets_half_hang_is_soon_asked_seldom() {
    for hang in [0.0, 0.25, 0.4, 0.5] {
        let mut rng = SmallRng::seed_from_u64(7);
        let (mut pace, mut late) = (Pace::new(), 0);
        for ms in (0..20 * SECONDS).step_by(20) {
            if pace.next(tick(ms)) <= tick(ms) {
                pace.take(tick(ms));
                late += u32::from(ms > 10 * SECONDS);
                if !rng.random_bool(hang) {
                    pace.refused(tick(ms), None, tick(ms + 2));
                }
            }
        }
        assert_eq!(pace.phase(), Phase::Stopped, "{hang}");
        assert!(late <= 20, "{hang}: {late}");
    }
}

#[test]
fn a_single_refusal_starves_nobody() {
    for batch in [1.0, 5.0] {
        let mut world = World::new(Callee::new(1e6, 1e6), 1, 100.0);
        world.clients[0].batch = batch;
        world.run(SECONDS);
        let sent = tick(world.now - 10);
        world.clients[0].pace.refused(sent, world.hint, tick(world.now));
        world.run(10 * SECONDS);
        let client = &world.clients[0];
        #[expect(clippy::cast_precision_loss, reason = "counts")]
        let share = client.sent as f64 / client.wanted as f64;
        within("sent of what was wanted", share, 0.97, 1.0);
    }
}

#[test]
fn a_refusal_long_ago_is_no_rate() {
    let mut world = World::new(Callee::new(1e6, 1e6), 1, 100.0);
    world.clients[0].pace.refused(tick(0), world.hint, tick(10));
    // A call each minute, then as many as ever.
    for minute in 1..10 {
        let now = tick(minute * 60 * SECONDS);
        world.clients[0].pace.taken(now, Tick(now.0 + 20 * MS));
    }
    world.now = 600 * SECONDS;
    world.run(10 * SECONDS);
    assert_eq!((world.clients[0].pace.phase(), world.rate()), (Phase::Free, None));
    assert_eq!(world.clients[0].sent, world.clients[0].wanted);
}
