//! A callee that takes so many calls a second, or at a time, and says of the others only that they
//! are too many.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::core::Core;
use super::played::{Answer, Ran, SECOND, Source};
use super::tests::MS;
use crate::clock::nanos;
use crate::pace::Phase;

/// Twice as many come as are taken, evenly, for so many seconds; they wait for a second.
fn run(core: &mut Core, rate: u64, seconds: u64, answer: impl FnMut(u64, u64) -> Answer) -> Ran {
    run_at(core, 2 * rate, seconds, answer)
}

fn run_at(core: &mut Core, rate: u64, seconds: u64, answer: impl FnMut(u64, u64) -> Answer) -> Ran {
    let mut answer = answer;
    let requests = u32::try_from(rate * seconds).expect("not so many");
    let source = Source { requests, patience: SECOND, sink: false, classes: false };
    source.play(core, 0, |_| SECOND / rate, |level, _, now| answer(level, now))
}

fn learning() -> Core {
    learning_by(None)
}

fn learning_by(fixed: Option<u32>) -> Core {
    let mut core = Core::new(fixed, 10_000);
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

/// Refused at once, a call made room for the next one, which was refused as well: all that came was
/// sent, and nine of ten for nothing. Where next to nothing is saved up it is still fewer in flight
/// that help, and much is left unused.
#[test]
fn without_a_time_to_come_again_a_quota_is_learned_as_well() {
    for (rate, burst) in [(100, 10), (500, 50)] {
        for refusal in [MS / 100, 10 * MS] {
            let ran = run(&mut learning(), rate, 12, quota(rate, burst, refusal));
            let (used, what) = (ran.goodput(5, 12) / rate as f64, (rate, burst, refusal));
            assert!((0.9..=1.1).contains(&used), "{what:?}: {used}");
            let answered = ran.answered.iter().sum::<u32>();
            assert!(ran.refused * 6 <= answered, "{what:?}: {} of {answered}", ran.refused);
        }
    }
}

/// Fewer in flight help, or else the rate at which it answers is its quota.
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

/// By a rate at which few are refused it would be sent half of what it can do.
#[test]
fn what_takes_few_at_a_time_and_some_for_long_is_used() {
    for (most, mean, fixed) in
        [(5, 20, None), (5, 100, None), (20, 50, None), (5, 20, Some(6)), (20, 50, Some(24))]
    {
        for heavy in [false, true] {
            let mut rng = SmallRng::seed_from_u64(7);
            let over = |level, _| {
                let took = match heavy {
                    false => rng.random_range(0.2..1.8),
                    true => {
                        let sum: f64 = (0..12).map(|_| rng.random::<f64>()).sum();
                        (0.6 * (sum - 6.0) - 0.18).exp()
                    }
                };
                if level > most {
                    Answer::Refused(MS)
                } else {
                    Answer::After(nanos(Duration::from_millis(mean).mul_f64(took)))
                }
            };
            let rate = most * 1000 / mean;
            let mut core = learning_by(fixed);
            let ran = run(&mut core, rate, 15, over);
            let used = ran.goodput(5, 15) / rate as f64;
            let answered = ran.answered.iter().sum::<u32>();
            let what = format!("{most} at a time, for {mean} ms, {heavy}, {fixed:?}");
            assert!((0.85..=1.05).contains(&used), "{what}: {used}");
            // It is known better, and not to be lowered.
            let spared = fixed.is_some() || ran.refused * 8 <= answered;
            assert!(spared, "{what}: {} of {answered}", ran.refused);
        }
    }
}

/// One that is refused for whatever reason made a rate for all.
#[test]
fn one_that_is_refused_among_many_holds_back_nobody() {
    let mut n = 0;
    let mut core = learning();
    let ran = run_at(&mut core, 1000, 10, |_, _| {
        n += 1;
        if n % 2500 == 0 { Answer::Refused(MS) } else { Answer::After(10 * MS) }
    });
    assert_eq!((ran.refused, ran.unsent, core.pace.phase()), (4, 0, Phase::Free));
}
