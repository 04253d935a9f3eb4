//! Who waits for a turn and does not ask when it has come, or leaves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use super::core::{Answer, Core, End, Limits};
use super::line::Place;
use crate::backoff::Random;
use crate::clock::Tick;
use crate::pace::Phase;

const MS: u64 = 1_000_000;
/// The first turn after the quota is known is later than this.
const KNOWN: u64 = 1_000;

fn at(ms: u64) -> Tick {
    Tick((1 << 50) + ms * MS)
}

/// Of a hundred a second, as is known, none is left.
fn limited(max_wait: u64) -> Core {
    let limits = Limits {
        quota: true,
        k: None,
        max_share: 0.9,
        window: 10_000 * MS,
        max_wait: max_wait * MS,
    };
    let mut core = Core::new(limits, Random::seeded(7));
    for n in 0..=16 {
        let now = at(KNOWN - 5 * (16 - n));
        let end = if n % 2 == 0 { End::Refused(None) } else { End::Taken };
        core.finish(now, end, now);
    }
    assert_eq!(core.phase(), Phase::Limiting);
    assert!((90.0..110.0).contains(&core.pace.rate().unwrap()), "{:?}", core.pace.rate());
    core
}

fn waits(answer: Answer) -> Place {
    match answer {
        Answer::Wait(place) => place,
        other => panic!("{other:?}"),
    }
}

fn comes(core: &mut Core, now: Tick) -> Place {
    waits(core.admit(None, now))
}

/// A deadline that leaves no time to wait.
fn impatient(ms: u64) -> Option<Tick> {
    Some(Tick(at(ms).0 + 1))
}

/// One that was neither polled nor dropped held up all behind it for good.
#[test]
fn who_does_not_ask_holds_up_nobody() {
    let mut core = limited(200);
    let _asleep = [(); 5].map(|()| comes(&mut core, at(KNOWN)));
    let live = comes(&mut core, at(KNOWN));
    assert!(matches!(core.again(live, None, at(KNOWN), live.0), Answer::Go { .. }));
}

/// ... nor are their turns lost: those who come later have them.
#[test]
fn a_turn_that_is_not_asked_for_is_anothers() {
    let mut core = limited(200);
    let mut sent = 0;
    for ms in KNOWN..KNOWN + 2000 {
        if ms % 10 == 0 {
            // It is never asked again.
            let _ = core.admit(None, at(ms));
        }
        sent += u32::from(matches!(core.admit(impatient(ms), at(ms)), Answer::Go { .. }));
    }
    assert!((150..=220).contains(&sent), "{sent} of 200");
}

/// Who wakes long after its turn asks anew.
#[test]
fn who_asks_too_late_has_no_turn_any_more() {
    let mut core = limited(200);
    let late = [(); 10].map(|()| comes(&mut core, at(KNOWN)));
    // Others want every turn there is.
    for ms in KNOWN..KNOWN + 1000 {
        let _ = core.admit(impatient(ms), at(ms));
    }
    let goes = late.map(|place| core.again(place, None, at(KNOWN), at(KNOWN + 1000)));
    let went = goes.iter().filter(|answer| matches!(answer, Answer::Go { .. })).count();
    assert!(went <= 1, "{goes:?}");
}

fn stopped(max_wait: u64) -> (Core, u64) {
    let mut core = limited(max_wait);
    let (mut now, second) = (KNOWN, Some(Duration::from_secs(1)));
    while core.phase() != Phase::Stopped {
        now += 100;
        core.sent(at(now));
        core.finish(at(now), End::Refused(second), at(now));
    }
    (core, now)
}

/// Those who had waited for single turns to ask slept on, and all that came waited behind them.
#[test]
fn who_sleeps_since_nothing_was_taken_holds_back_nobody() {
    let (mut core, now) = stopped(3_600_000);
    let first = comes(&mut core, at(now));
    let asleep = [(); 500].map(|()| comes(&mut core, at(now)));
    assert!(matches!(core.again(first, None, at(now), first.0), Answer::Go { .. }));
    core.finish(first.0, End::Taken, first.0);
    assert_eq!(core.phase(), Phase::Limiting);
    let each = Duration::from_secs_f64(1.0 / core.pace.rate().unwrap());
    while let Answer::Go { .. } = core.admit(None, first.0) {}
    let next = comes(&mut core, first.0);
    assert!(next.0 <= first.0.after(each * 3), "{:?}", next.0.since(first.0));
    // They have lost their turns, and get others.
    let woken = asleep[0];
    let answer = core.again(woken, None, at(now), woken.0);
    assert!(matches!(answer, Answer::Go { .. } | Answer::Wait(_)), "{answer:?}");
}

#[test]
fn a_refusal_while_nothing_is_taken_voids_a_turn_that_has_come() {
    let (mut core, now) = stopped(3_600_000);
    let [first, second] = [(); 2].map(|()| comes(&mut core, at(now)));
    assert!(matches!(core.again(first, None, at(now), first.0), Answer::Go { .. }));
    // Its turn comes as another asks.
    let _ = comes(&mut core, second.0);
    core.finish(first.0, End::Refused(Some(Duration::from_secs(1))), second.0);
    let answer = core.again(second, None, at(now), second.0);
    assert!(matches!(answer, Answer::Wait(_)), "{answer:?}");
}

/// Of those before it some had left, and some did not ask: when the rate fell, it was refused for all of their turns.
#[test]
fn nobody_is_refused_for_places_that_nobody_has() {
    for leave in [true, false] {
        let mut core = limited(200);
        let before = [(); 4].map(|()| comes(&mut core, at(KNOWN)));
        let live = comes(&mut core, at(KNOWN));
        if leave {
            before.into_iter().for_each(|place| core.leave(place));
        }
        let rate = core.pace.rate().unwrap();
        for _ in 0..32 {
            core.finish(at(KNOWN), End::Refused(None), at(KNOWN));
        }
        assert!(core.pace.rate().unwrap() < rate / 3.0, "{:?}", core.pace.rate());
        let answer = core.again(live, None, at(KNOWN), live.0);
        assert!(matches!(answer, Answer::Go { .. } | Answer::Wait(_)), "{leave}: {answer:?}");
    }
}

/// A rate that falls is that of all who wait.
#[test]
fn turns_come_at_the_rate_as_it_is() {
    let mut core = limited(10_000);
    let waiting = [(); 20].map(|()| comes(&mut core, at(KNOWN)));
    for _ in 0..60 {
        core.finish(at(KNOWN), End::Refused(None), at(KNOWN));
    }
    let each = 1e3 / core.pace.rate().unwrap();
    let last = waiting[19];
    let now = last.0;
    let went = waiting.map(|place| core.again(place, None, at(KNOWN), now));
    let went = went.iter().filter(|answer| matches!(answer, Answer::Go { .. })).count();
    assert!(
        f64::from(u32::try_from(went).unwrap()) < 250.0 / each + 2.0,
        "{went}, one in {each} ms"
    );
}
