//! A callee that takes so many calls a second, or at a time, and says of the others only that they are too many.

use super::core::Core;
use super::played::{Answer, Ran, SECOND, Source};
use super::tests::MS;

/// Twice as many come as are taken, evenly, for so many seconds; they wait for a second.
fn run(core: &mut Core, rate: u64, seconds: u64, answer: impl FnMut(u64, u64) -> Answer) -> Ran {
    let mut answer = answer;
    let requests = u32::try_from(2 * rate * seconds).expect("not so many");
    let source = Source { requests, patience: SECOND, sink: false, classes: false };
    source.play(core, 0, |_| SECOND / (2 * rate), |level, _, now| answer(level, now))
}

fn learning() -> Core {
    let mut core = Core::new(None, 10_000);
    core.learns_quota = true;
    core
}

/// A token bucket.
fn quota(rate: u64, burst: u64, refusal: u64) -> impl FnMut(u64, u64) -> Answer {
    let each = SECOND / rate;
    // When it would be full.
    let mut full = 0;
    move |_, now| {
        let due = u64::max(full, now) + each;
        if due - now > burst * each {
            return Answer::Refused(refusal);
        }
        full = due;
        Answer::After(50 * MS)
    }
}

/// Refused at once, a call made room for the next one, which was refused as well: all that came was sent, and nine of ten for
/// nothing. And where nothing is saved up, fewer in flight were as close together: a tenth was sent of what is taken.
#[test]
fn without_a_time_to_come_again_a_quota_is_learned_as_well() {
    for (rate, burst) in [(100, 10), (500, 1), (500, 50)] {
        for refusal in [MS / 100, 10 * MS] {
            let ran = run(&mut learning(), rate, 12, quota(rate, burst, refusal));
            let (used, what) = (ran.goodput(5, 12) / rate as f64, (rate, burst, refusal));
            // Where nothing can be saved up, each that comes a moment too soon is refused.
            let least = if burst > 1 { 0.9 } else { 0.5 };
            assert!((least..=1.1).contains(&used), "{what:?}: {used}");
            let answered = ran.answered.iter().sum::<u32>();
            assert!(ran.refused * 6 <= answered, "{what:?}: {} of {answered}", ran.refused);
        }
    }
}

/// The rate at which it answers is its quota then.
#[test]
fn what_is_refused_for_being_the_sixth_at_a_time_is_held_to_as_well() {
    for took in [20, 100] {
        let sixth = |level, _| match level > 5 {
            true => Answer::Refused(MS),
            false => Answer::After(took * MS),
        };
        let rate = 5 * 1000 / took;
        let ran = run(&mut learning(), rate, 20, sixth);
        let used = ran.goodput(5, 20) / rate as f64;
        assert!((0.85..=1.01).contains(&used), "{took} ms: {used}");
        let answered = ran.answered.iter().sum::<u32>();
        assert!(ran.refused * 5 <= answered, "{took} ms: {} of {answered}", ran.refused);
    }
}
