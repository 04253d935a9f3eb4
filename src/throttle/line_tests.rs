//! Who waits for a turn and does not ask when it has come, or leaves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::VecDeque;
use std::time::Duration;

use super::core::{Answer, Core, End, Limits};
use super::line::Place;
use crate::backoff::Random;
use crate::clock::Tick;
use crate::pace::Phase;

const MS: u64 = 1_000_000;
/// The first turn after the quota is known is later than this.
const KNOWN: u64 = 10_000;

fn at(ms: u64) -> Tick {
    Tick((1 << 50) + ms * MS)
}

fn limits(max_wait: u64) -> Limits {
    let (window, max_wait) = (10_000 * MS, max_wait * MS);
    Limits { quota: true, k: None, max_share: 0.9, window, max_wait }
}

/// Of a hundred a second, as is known, none is left.
fn limited(max_wait: u64) -> Core {
    limited_to(10, max_wait)
}

/// One in so many milliseconds.
fn limited_to(each: u64, max_wait: u64) -> Core {
    let mut core = Core::new(limits(max_wait), Random::seeded(7));
    for n in 0..=16 {
        let now = at(KNOWN - each / 2 * (16 - n));
        let end = if n % 2 == 0 { End::Refused(None) } else { End::Taken };
        core.finish(now, end, now);
    }
    assert_eq!(core.phase(), Phase::Limiting);
    let part = core.pace.rate().unwrap() * Duration::from_millis(each).as_secs_f64();
    assert!((0.9..1.1).contains(&part), "{:?}", core.pace.rate());
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
    assert!(matches!(core.again(live, None, live.turn), Answer::Go { .. }));
}

/// Asks as its timer has it until its turn has come; when that was, in milliseconds.
fn goes(core: &mut Core, place: Place, from: u64) -> u64 {
    let (mut place, mut asks) = (place, place.asks(at(from)));
    for ms in from..from + 100_000 {
        if at(ms) >= asks {
            match core.again(place, None, at(ms)) {
                Answer::Go { .. } => return ms,
                answer => place = waits(answer),
            }
            asks = place.asks(at(ms));
        }
    }
    panic!("{place:?}");
}

/// One that did not ask cost those behind it a part of a turn where little is saved, and then they had
/// no room any more.
#[test]
fn who_does_not_ask_takes_nobodys_place() {
    let mut core = limited_to(1000, 1550);
    let now = KNOWN + 500;
    let _asleep = comes(&mut core, at(now));
    let live = comes(&mut core, at(now));
    let told = u64::try_from(live.turn.since(at(now)).as_millis()).unwrap();
    let went = goes(&mut core, live, now) - now;
    assert!((told..told + 1000).contains(&went), "{went}, {told}");
    let (mut core, now) = stopped(1500);
    let now = now + 900;
    let _asleep = comes(&mut core, at(now));
    let live = comes(&mut core, at(now));
    let went = goes(&mut core, live, now) - now;
    assert!((1100..2100).contains(&went), "{went}");
}

/// Of turns that nobody took only as many came each time somebody asked as are saved: behind twenty that slept it was four
/// times as long as it was told.
#[test]
fn those_who_do_not_ask_hold_up_nobody_for_longer_than_their_turns() {
    let slow = [(1000, 5), (1000, 20), (200, 20), (90, 20), (60, 20)];
    for (each, before) in slow.into_iter().chain([(20, 200), (10, 20), (6, 400)]) {
        let mut core = limited_to(each, 60_000);
        let now = KNOWN + each / 2;
        for _ in 0..before {
            let _asleep = comes(&mut core, at(now));
        }
        let live = comes(&mut core, at(now));
        let told = live.turn.since(at(now)).as_millis();
        let went = u128::from(goes(&mut core, live, now) - now);
        let late = 2 * u128::from(each) + told / 10;
        assert!((told / 2..=told + late).contains(&went), "{each}: {went}, {told}");
    }
}

/// After a pause of all, who was to go first came last: all turns until then had come and were over.
#[test]
fn a_pause_of_all_puts_nobody_behind_the_others() {
    let mut core = limited_to(1000, 60_000);
    let mut waiting: Vec<_> = (0..20).map(|n| (n, comes(&mut core, at(KNOWN + 500)))).collect();
    let mut went = Vec::new();
    for ms in KNOWN + 3500..KNOWN + 40_000 {
        for (n, place) in std::mem::take(&mut waiting) {
            match core.again(place, None, at(ms)) {
                Answer::Go { .. } => went.push((n, ms - KNOWN)),
                answer => waiting.push((n, waits(answer))),
            }
        }
    }
    assert!(went.is_sorted() && went.len() == 20, "{went:?}");
    assert!(went[0].1 <= 3501 && went[19].1 <= 25_000, "{went:?}");
    assert!(went.windows(2).all(|two| two[1].1 - two[0].1 >= 800), "{went:?}");
}

/// Who waited was refused half-way, since all who waited had no time left, and others came into their places.
#[test]
fn who_waits_keeps_its_place_when_the_rate_falls() {
    let mut core = limited(2000);
    let rate = core.pace.rate().unwrap();
    let (mut waiting, mut came, mut went) = (Vec::new(), 0, Vec::new());
    for ms in KNOWN..KNOWN + 6000 {
        waiting.retain_mut(|(n, asks, place)| {
            if *asks > at(ms) {
                return true;
            }
            match core.again(*place, None, at(ms)) {
                Answer::Go { .. } => went.push(*n),
                answer => *place = waits(answer),
            }
            *asks = place.asks(at(ms));
            went.last() != Some(n)
        });
        // Nobody leaves: the line is full, and stays so.
        if let Answer::Wait(place) = core.admit(None, at(ms)) {
            waiting.push((came, place.asks(at(ms)), place));
            came += 1;
        }
        if (KNOWN + 3000..KNOWN + 3005).contains(&ms) {
            core.finish(at(ms), End::Refused(None), at(ms));
        }
    }
    assert!(core.pace.rate().unwrap() < 0.9 * rate, "{:?}", core.pace.rate());
    assert!(went.is_sorted() && went.len() > 400, "{went:?}");
}

/// It asked half-way when its turn was long over, and was refused since others had come.
#[test]
fn who_waits_when_the_rate_rises_is_not_refused() {
    let mut core = limited(2000);
    let place = [(); 190].map(|()| comes(&mut core, at(KNOWN)))[189];
    let asks = place.asks(at(KNOWN));
    let mut ms = KNOWN;
    while at(ms) < asks {
        ms += 1;
        let _ = core.admit(impatient(ms), at(ms));
        if core.pace.rate().unwrap() < 1000.0 {
            core.finish(at(ms), End::Taken, at(ms));
        }
    }
    while let Answer::Go { .. } | Answer::Wait(_) = core.admit(None, at(ms)) {}
    let place = waits(core.again(place, None, at(ms)));
    assert!(place.turn > place.latest, "{place:?}");
}

/// All but as many as are saved were refused, since meanwhile their turns had moved.
#[test]
fn who_waits_keeps_its_place_when_nobody_asks_for_long() {
    let mut core = limited(200);
    let waiting = [(); 19].map(|()| comes(&mut core, at(KNOWN)));
    let now = KNOWN + 300;
    let went = waiting.map(|place| match core.again(place, None, at(now)) {
        Answer::Go { .. } => now,
        answer => goes(&mut core, waits(answer), now),
    });
    assert!(went.is_sorted() && went[18] < now + 200, "{went:?}");
}

/// ... nor do turns stop coming, if all others do not ask.
#[test]
fn turns_come_whoever_asks() {
    let mut core = limited(200);
    let (mut waiting, mut went) = (Vec::new(), 0);
    for ms in KNOWN..KNOWN + 2000 {
        if ms % 10 == 0 {
            // One that is never asked again, and one in time; either first.
            for asks in [ms % 20 == 0, ms % 20 != 0] {
                match core.admit(None, at(ms)) {
                    Answer::Wait(place) if asks => waiting.push(place),
                    answer => went += u32::from(asks && matches!(answer, Answer::Go { .. })),
                }
            }
        }
        waiting.retain(|place| {
            let asks = place.turn <= at(ms);
            if asks {
                let answer = core.again(*place, None, at(ms));
                assert!(matches!(answer, Answer::Go { .. }), "{answer:?}");
                went += 1;
            }
            !asks
        });
    }
    // Of two hundred turns each has had its part.
    assert!((80..=120).contains(&went), "{went} of 200");
}

/// A timer wakes later than it was set, also where nothing can be saved up.
#[test]
fn a_turn_is_kept_for_as_long_as_timers_are_late() {
    for late in [5, 20, 45] {
        let mut core = limited(200);
        let waiting = [(); 10].map(|()| comes(&mut core, at(KNOWN)));
        let mut ms = KNOWN;
        for place in waiting {
            let then = place.turn.after(Duration::from_millis(late));
            while at(ms) < then {
                ms += 1;
                // Others want every turn there is.
                let _ = core.admit(impatient(ms), at(ms));
            }
            let answer = core.again(place, None, then);
            assert!(matches!(answer, Answer::Go { .. }), "{late}: {answer:?}");
        }
    }
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
    let goes = late.map(|place| core.again(place, None, at(KNOWN + 1000)));
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
    assert!(matches!(core.again(first, None, first.turn), Answer::Go { .. }));
    core.finish(first.turn, End::Taken, first.turn);
    assert_eq!(core.phase(), Phase::Limiting);
    let each = Duration::from_secs_f64(1.0 / core.pace.rate().unwrap());
    while let Answer::Go { .. } = core.admit(None, first.turn) {}
    let next = comes(&mut core, first.turn);
    assert!(next.turn <= first.turn.after(each * 3), "{:?}", next.turn.since(first.turn));
    // They have lost their turns, and get others.
    let woken = asleep[0];
    let answer = core.again(woken, None, woken.turn);
    assert!(matches!(answer, Answer::Go { .. } | Answer::Wait(_)), "{answer:?}");
}

/// They all went once they asked, and each that was refused doubled the pause; who came was told of a
/// pause for each of them.
#[test]
fn who_waits_when_nothing_is_taken_any_more_has_no_turn() {
    let mut core = limited(3_600_000);
    let waiting = [(); 20].map(|()| comes(&mut core, at(KNOWN)));
    let mut now = KNOWN;
    while core.phase() != Phase::Stopped {
        now += 20;
        // Turns come.
        let place = comes(&mut core, at(now));
        core.leave(place);
        core.finish(at(now), End::Refused(Some(Duration::from_secs(1))), at(now));
    }
    assert!(waiting[2].turn <= at(now), "{:?}", waiting[2]);
    let due = core.pace.due();
    assert_eq!(comes(&mut core, at(now)).turn, due);
    for place in waiting {
        let answer = core.again(place, None, place.turn.max(at(now)));
        assert!(matches!(answer, Answer::Wait(_)), "{answer:?}");
    }
}

/// Three of four wait until their turns are over, and then `leave`. Fails if it is not seen that nothing is taken.
fn nothing_is_taken_beside_those_who(leave: impl Fn(&mut Core, Place, Tick)) {
    let mut core = limited(3_600_000);
    let (mut ms, mut refused, mut asleep) = (KNOWN, 0, VecDeque::new());
    while core.phase() == Phase::Limiting {
        let [late @ .., sends] = [(); 4].map(|()| comes(&mut core, at(ms)));
        ms = goes(&mut core, sends, ms);
        core.finish(at(ms), End::Refused(None), at(ms));
        refused += 1;
        assert!(refused <= 50, "{refused} refused, and it is not seen");
        asleep.push_back(late);
        if asleep.len() > 5 {
            for place in asleep.pop_front().unwrap() {
                leave(&mut core, place, at(ms));
            }
        }
    }
}

/// Turns of those who leave without asking counted as sent, and that nothing is taken was not seen.
#[test]
fn who_leaves_after_its_turn_does_not_hide_that_nothing_is_taken() {
    nothing_is_taken_beside_those_who(|core, place, _| core.leave(place));
}

/// They ask before they leave, and their turns counted as sent as well.
#[test]
fn who_asks_after_its_turn_does_not_hide_that_nothing_is_taken() {
    nothing_is_taken_beside_those_who(|core, place, now| {
        if let Answer::Wait(place) = core.again(place, None, now) {
            core.leave(place);
        }
    });
}

/// It was asked half-way whether it may wait as long as those who come now.
#[test]
fn who_waits_does_so_for_as_long_as_when_it_came() {
    let mut core = limited(200);
    let waiting = [(); 10].map(|()| comes(&mut core, at(KNOWN)));
    core.reconfigure(limits(0), None, at(KNOWN));
    let answer = core.admit(None, at(KNOWN));
    assert!(matches!(answer, Answer::NoRoom(_)), "{answer:?}");
    let place = waiting[9];
    let asks = place.asks(at(KNOWN));
    assert!(asks < place.turn, "{place:?}");
    let place = waits(core.again(place, None, asks));
    assert!(matches!(core.again(place, None, place.turn), Answer::Go { .. }));
}

/// It looked again half-way only, after minutes.
#[test]
fn who_waits_for_long_sees_within_a_second_that_there_is_no_rate_any_more() {
    let mut core = limited_to(1000, 3_600_000);
    let waiting = [(); 300].map(|()| comes(&mut core, at(KNOWN)));
    core.reset();
    let went = goes(&mut core, waiting[299], KNOWN) - KNOWN;
    assert!(went <= 1000, "{went}");
}

#[test]
fn a_refusal_while_nothing_is_taken_voids_a_turn_that_has_come() {
    let (mut core, now) = stopped(3_600_000);
    let [first, second] = [(); 2].map(|()| comes(&mut core, at(now)));
    assert!(matches!(core.again(first, None, first.turn), Answer::Go { .. }));
    // Its turn comes as another asks.
    let _ = comes(&mut core, second.turn);
    core.finish(first.turn, End::Refused(Some(Duration::from_secs(1))), second.turn);
    let answer = core.again(second, None, second.turn);
    assert!(matches!(answer, Answer::Wait(_)), "{answer:?}");
}

/// Of those before it some had left, and some did not ask: when the rate fell, it was refused for all
/// of their turns.
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
        let answer = core.again(live, None, live.turn);
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
    let now = last.turn;
    let went = waiting.map(|place| core.again(place, None, now));
    let went = went.iter().filter(|answer| matches!(answer, Answer::Go { .. })).count();
    assert!(
        f64::from(u32::try_from(went).unwrap()) < 250.0 / each + 2.0,
        "{went}, one in {each} ms"
    );
}
