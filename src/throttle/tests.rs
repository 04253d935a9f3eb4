#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::Throttle;
use super::core::{Answer, Core, End, Limits};
use super::line::Place;
use super::permit::{Asked, Waiting};
use crate::backoff::Random;
use crate::clock::Tick;
use crate::observe::{Event, EventKind};
use crate::pace::Phase;
use crate::rejection::RejectionKind;
use crate::sync::{Mutex, lock};

const MS: u64 = 1_000_000;

pub(super) fn at(ms: u64) -> Tick {
    Tick((1 << 50) + ms * MS)
}

fn limits(k: Option<f64>) -> Limits {
    Limits { quota: true, k, max_share: 0.9, window: 10_000 * MS, max_wait: 200 * MS }
}

pub(super) fn core(k: Option<f64>) -> Core {
    Core::new(limits(k), Random::seeded(7))
}

/// Calls every ten milliseconds; what was sent.
fn run(core: &mut Core, from: u64, calls: u64, mut end: impl FnMut(u64) -> End) -> u64 {
    let before = core.counts.sent;
    for i in 0..calls {
        let now = from + 10 * i;
        match core.admit(None, at(now)) {
            Answer::Go { .. } => {
                core.sent(at(now));
                let end = end(core.counts.sent);
                core.finish(at(now), end, at(now + 5));
            }
            Answer::Wait(place) => core.leave(place),
            _ => {}
        }
    }
    core.counts.sent - before
}

#[test]
fn while_all_is_taken_all_is_sent() {
    let mut core = core(Some(2.0));
    assert_eq!(run(&mut core, 0, 3000, |_| End::Taken), 3000);
    // As many may fail as are taken.
    assert_eq!(
        run(&mut core, 30_000, 3000, |n| if n % 2 == 0 { End::Taken } else { End::Failed }),
        3000
    );
}

#[test]
fn of_what_fails_only_a_share_is_sent() {
    for (k, least, most) in [(2.0, 0.05, 0.4), (1.2, 0.05, 0.3), (10.0, 1.0, 1.0)] {
        let mut core = core(Some(k));
        let end = |n: u64| if n.is_multiple_of(5) { End::Taken } else { End::Failed };
        run(&mut core, 0, 3000, end);
        let sent = run(&mut core, 30_000, 6000, end);
        #[expect(clippy::cast_precision_loss, reason = "counts")]
        let share = sent as f64 / 6000.0;
        // Fewer and fewer while most fail, down to the tenth that `max_share` leaves.
        assert!((least..=most).contains(&share), "k {k}: {share:.3}");
    }
}

#[test]
fn a_backend_that_takes_nothing_is_asked_on_and_found_again() {
    let mut core = core(Some(2.0));
    run(&mut core, 0, 2000, |_| End::Failed);
    assert!((core.share(at(20_000)) - 0.9).abs() < 1e-9, "{}", core.share(at(20_000)));
    let sent = run(&mut core, 20_000, 2000, |_| End::Failed);
    assert!((120..320).contains(&sent), "a tenth, and one a second: {sent}");
    run(&mut core, 40_000, 2000, |_| End::Taken);
    assert_eq!(run(&mut core, 60_000, 1000, |_| End::Taken), 1000);
}

#[test]
fn one_passes_each_second_whatever_the_share() {
    let mut core = core(Some(1.0));
    run(&mut core, 0, 1000, |_| End::Failed);
    let mut now = 10_000;
    for _ in 0..20 {
        now += 1000;
        assert!(matches!(core.admit(None, at(now)), Answer::Go { .. }));
        core.sent(at(now));
        core.finish(at(now), End::Failed, at(now + 1));
    }
}

#[test]
fn a_few_failures_say_nothing_and_what_says_nothing_does_not_count() {
    let mut core = core(Some(2.0));
    run(&mut core, 0, 9, |_| End::Failed);
    assert!(core.share(at(100)).abs() < 1e-9);
    run(&mut core, 100, 500, |_| End::Ignored);
    assert!(core.share(at(6000)).abs() < 1e-9);
    run(&mut core, 6000, 1, |_| End::Failed);
    assert!(core.share(at(6100)) > 0.5);
    // It is gone with its window.
    assert!(core.share(at(30_000)).abs() < 1e-9);
}

/// It was taken to answer as late as what had timed out before, and was asked for three times as long.
#[test]
fn what_timed_out_does_not_hide_that_nothing_is_taken() {
    let mut core = core(None);
    let minute = Some(Duration::from_secs(60));
    for n in 0..50 {
        core.finish(at(n), End::Failed, at(30_000 + n));
    }
    let mut sent = 0;
    for ms in (31_000..).step_by(10) {
        match core.admit(None, at(ms)) {
            Answer::Go { .. } => {
                sent += 1;
                core.sent(at(ms));
                core.finish(at(ms), End::Refused(minute), at(ms + 5));
            }
            Answer::Wait(place) => core.leave(place),
            _ => {}
        }
        if core.phase() == Phase::Stopped {
            break;
        }
        assert!(sent <= 30, "{sent} were sent by {ms}");
    }
}

#[test]
fn who_has_no_turn_in_time_is_told_when() {
    let mut core = core(None);
    let hint = Some(Duration::from_secs(1));
    let mut last = 0;
    // One in fifty milliseconds is taken.
    for now in 0..20_000 {
        if now % 5 == 0 {
            match core.admit(None, at(now)) {
                Answer::Go { .. } => {
                    core.sent(at(now));
                    let taken = now >= last + 50;
                    last = if taken { now } else { last };
                    core.finish(
                        at(now),
                        if taken { End::Taken } else { End::Refused(hint) },
                        at(now),
                    );
                }
                Answer::Wait(place) => core.leave(place),
                _ => {}
            }
        }
    }
    let rate = core.pace.rate().expect("it is throttled");
    assert!((10.0..30.0).contains(&rate), "{rate}");
    // Turns are given until the wait is too long, and then the time is said.
    let mut given = 0;
    let refused = loop {
        match core.admit(None, at(20_000)) {
            Answer::Go { .. } | Answer::Wait(_) => given += 1,
            other => break other,
        }
        assert!(given < 100);
    };
    let Answer::NoRoom(when) = refused else { panic!("{refused:?}") };
    assert!(when > at(20_200) && when < at(20_400), "{when:?}");
    assert_eq!(core.admit(Some(at(20_000)), at(20_000)), Answer::Expired);
    core.reset();
    assert!(matches!(core.admit(None, at(20_000)), Answer::Go { .. }));
    assert_eq!(core.pace.rate(), None);
}

#[test]
fn who_leaves_before_its_turn_keeps_nobody_from_it() {
    for leave_after in [0, 40, 100, 150] {
        let mut core = core(None);
        let hint = Some(Duration::from_secs(1));
        let mut waiting: Vec<(u64, Place)> = Vec::new();
        let (mut last, mut sent) = (0, 0);
        for now in 0..60_000 {
            let mut send = |core: &mut Core| {
                core.sent(at(now));
                sent += u64::from(now >= 30_000);
                let taken = now >= last + 20;
                last = if taken { now } else { last };
                core.finish(at(now), if taken { End::Taken } else { End::Refused(hint) }, at(now));
            };
            for (arrived, place) in std::mem::take(&mut waiting) {
                if now >= arrived + leave_after && place.turn > at(now) {
                    core.leave(place);
                } else if place.turn > at(now) {
                    waiting.push((arrived, place));
                } else {
                    match core.again(place, None, at(now)) {
                        Answer::Go { .. } => send(&mut core),
                        Answer::Wait(place) => waiting.push((arrived, place)),
                        _ => {}
                    }
                }
            }
            match core.admit(None, at(now)) {
                Answer::Go { .. } => send(&mut core),
                Answer::Wait(place) => waiting.push((now, place)),
                _ => {}
            }
        }
        // Fifty a second are taken.
        assert!((1000..2200).contains(&sent), "{sent} were sent, gone after {leave_after} ms");
    }
}

/// All that waited were sent one after the other, into a backend that had said to the first of them not to come before
/// long; and where it says nothing of when, each of them made the pause twice as long.
#[test]
fn a_refusal_while_nothing_is_taken_voids_the_turns_that_were_given() {
    for (hint, next) in [(Some(30), 30_000), (None, 2_000)] {
        let mut core =
            Core::new(Limits { max_wait: 5_000 * MS, ..limits(None) }, Random::seeded(7));
        run(&mut core, 0, 100, |n| if n % 2 == 0 { End::Taken } else { End::Refused(None) });
        assert_eq!(core.phase(), Phase::Limiting);
        let (mut now, second) = (5_000, Some(Duration::from_secs(1)));
        while core.phase() != Phase::Stopped {
            now += 100;
            core.sent(at(now));
            core.finish(at(now), End::Refused(second), at(now));
        }
        let sent = core.counts.sent;
        let turns = [1, 2, 3, 4].map(|n| match core.admit(None, at(now)) {
            Answer::Wait(place) => {
                assert_eq!(place.turn, at(now + 1_000 * n));
                place
            }
            other => panic!("{other:?}"),
        });
        let mut waiting = turns.into_iter();
        let place = waiting.next().unwrap();
        let first = place.turn;
        assert!(matches!(core.again(place, None, first), Answer::Go { .. }));
        core.sent(first);
        core.finish(first, End::Refused(hint.map(Duration::from_secs)), first);
        let after = |ms| first.after(Duration::from_millis(ms));
        for place in waiting {
            match core.again(place, None, first) {
                Answer::NoRoom(when) => assert!(when >= after(next), "{when:?}"),
                Answer::Wait(Place { turn: again, .. }) => {
                    assert!(hint.is_none() && again >= after(next), "{again:?}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(core.counts.sent, sent + 1);
    }
}

/// It slept until its turn, after the deadline.
#[test]
fn who_keeps_its_place_is_told_at_its_deadline_that_it_has_passed() {
    let throttle = Throttle::new("api");
    for n in 0..17 {
        let end = if n % 2 == 0 { End::Refused(None) } else { End::Taken };
        throttle.shared.step(|core| core.finish(at(5 * n), end, at(5 * n)));
    }
    let ask = |deadline| match throttle.shared.step(|core| core.admit(deadline, at(80))) {
        Answer::Wait(place) => place,
        other => panic!("{other:?}"),
    };
    let _before = [(); 8].map(|()| ask(None));
    let turn = throttle.shared.step(|core| core.pace.turn(8, at(80)));
    let deadline = turn.after(Duration::from_millis(1));
    let place = ask(Some(deadline));
    assert_eq!(place.turn, turn);
    let shared = Arc::clone(throttle.shared.shared());
    let mut waiting = Waiting::new(shared, place, Some(deadline), at(80));
    for _ in 0..5 {
        throttle.shared.step(|core| core.finish(at(80), End::Refused(None), at(80)));
    }
    let (why, then) = loop {
        let then = waiting.at();
        match waiting.again_at(then) {
            Asked::Wait(again) => waiting = again,
            Asked::Granted(_) => panic!("it has its turn"),
            Asked::Refused(why) => break (why, then),
        }
    };
    assert_eq!((why.kind(), then), (RejectionKind::DeadlineExceeded, deadline));
}

/// Learned, and then nobody called for ten minutes. Each step by an end or a call; the changes that were told.
fn told_after_long(
    measured_only: bool,
    step: impl Fn(&mut Core, Tick),
) -> Vec<(&'static str, &'static str)> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tells = Arc::clone(&told);
    let throttle = Throttle::builder("api").observe(move |event: &Event<'_>| {
        if let EventKind::StateChanged { from, to, .. } = event.kind {
            lock(&tells).push((from, to));
        }
    });
    let throttle = throttle.build().unwrap();
    throttle.shared.step(|core| core.finish(at(0), End::Refused(None), at(0)));
    if !measured_only {
        for now in 0..500 {
            let end = if now % 4 == 0 { End::Refused(None) } else { End::Taken };
            throttle.shared.step(|core| core.finish(at(now), end, at(now)));
        }
    }
    lock(&told).clear();
    throttle.shared.step(|core| step(core, at(600_000)));
    std::mem::take(&mut lock(&told))
}

#[test]
fn that_a_measurement_was_too_old_is_told_also_when_another_begins() {
    let told = told_after_long(true, |core, now| core.finish(now, End::Refused(None), now));
    assert_eq!(told, [("measuring", "free"), ("free", "measuring")]);
    assert_eq!(
        told_after_long(true, |core, now| core.finish(now, End::Taken, now)),
        [("measuring", "free")]
    );
    assert_eq!(told_after_long(true, |core, now| core.finish(now, End::Ignored, now)), []);
}

#[test]
fn that_a_quota_is_too_old_is_told_also_by_a_call_that_is_not_sent() {
    let late = |core: &mut Core, now: Tick| {
        assert_eq!(core.admit(Some(now), now), Answer::Expired);
    };
    assert_eq!(told_after_long(false, late), [("limiting", "free")]);
    // Nine of ten are refused.
    for _ in 0..30 {
        let shed = |core: &mut Core, now: Tick| {
            core.sent(now);
            (0..50).for_each(|_| core.finish(now, End::Failed, Tick(now.0 - 1)));
            let _ = core.admit(None, now);
        };
        assert_eq!(told_after_long(false, shed), [("limiting", "free")]);
    }
}

/// An observer that takes its time had the last change told before the first.
#[test]
fn changes_are_told_in_order() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let (tells, throttle) = (Arc::clone(&told), Arc::new(OnceLock::<Throttle>::new()));
    let other = Arc::clone(&throttle);
    let built = Throttle::builder("api").observe(move |event: &Event<'_>| {
        if let EventKind::StateChanged { from, to, .. } = event.kind {
            if from == "free" {
                let reset = Throttle::clone(other.get().expect("it is built"));
                std::thread::spawn(move || reset.reset()).join().expect("it does not panic");
            }
            lock(&tells).push((from, to));
        }
    });
    let throttle = throttle.get_or_init(|| built.build().unwrap());
    throttle.shared.step(|core| core.finish(at(0), End::Refused(None), at(0)));
    assert_eq!(*lock(&told), [("free", "measuring"), ("measuring", "free")]);
}
