//! The core on a clock of its own.

use std::time::Duration;

use crate::clock::Tick;

use super::FreezeCause;
use super::core::{Core, Limits, Seen, Told};

fn at(seconds: f64) -> Tick {
    Tick(1 << 50).after(Duration::from_secs_f64(seconds))
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn core(inclusive: bool) -> Core {
    let limits = Limits {
        timeout: secs(4.0),
        check: secs(1.0),
        grace: secs(6.0),
        gap: secs(0.5),
        inclusive,
    };
    Core::new(limits)
}

/// Checks once a second, from `from` to before `to`.
fn run(core: &mut Core, from: u32, to: u32, seen: Seen) -> Vec<(u32, Told)> {
    let checks = (from..to).map(|t| (t, core.check(at(f64::from(t)), seen)));
    checks.flat_map(|(t, told)| told.into_iter().flatten().map(move |told| (t, told))).collect()
}

#[test]
fn a_freeze_is_told_once_and_so_is_its_end_and_the_next_one() {
    let mut core = core(true);
    let silent = |n| Told::Frozen { cause: FreezeCause::Silent, silent: secs(n) };
    assert_eq!(run(&mut core, 0, 10, Seen::Value(1)), [(4, silent(4.0))]);
    assert!(core.is_frozen());
    let recovered = Told::Recovered { after: secs(10.0) };
    assert_eq!(run(&mut core, 10, 20, Seen::Value(2)), [(10, recovered), (14, silent(4.0))]);
    core.reset();
    assert!(!core.is_frozen());
    assert_eq!(run(&mut core, 20, 25, Seen::Value(2)), [(24, silent(4.0))]);
}

#[test]
fn a_late_check_says_nothing_about_others() {
    let mut core = core(true);
    assert_eq!(run(&mut core, 0, 4, Seen::Value(1)), []);
    // Stopped for a minute, with everything else in the process.
    let told = core.check(at(63.0), Seen::Value(1));
    assert_eq!(told, [Some(Told::Gap(secs(59.0))), None]);
    let silent = Told::Frozen { cause: FreezeCause::Silent, silent: secs(4.0) };
    assert_eq!(run(&mut core, 64, 70, Seen::Value(1)), [(67, silent)], "a whole timeout later");
    // A recovery is one even so, and a death.
    let told = core.check(at(99.0), Seen::Value(2));
    assert!(matches!(told, [Some(Told::Gap(_)), Some(Told::Recovered { .. })]));
    let told = core.check(at(120.0), Seen::Nothing(FreezeCause::Dead));
    assert!(matches!(told, [Some(Told::Gap(_)), Some(Told::Frozen { .. })]));
}

#[test]
fn the_file_of_the_process_before_is_no_sign_of_this_one() {
    for before in [Seen::Nothing(FreezeCause::Dead), Seen::Nothing(FreezeCause::Missing)] {
        let mut core = core(false);
        assert_eq!(run(&mut core, 0, 7, before), [], "within the grace of 6 s");
        assert_eq!(run(&mut core, 7, 8, before).len(), 1);
        core.reset();
        assert_eq!(run(&mut core, 8, 11, before), [], "a new process, a new grace");
        assert_eq!(run(&mut core, 11, 15, Seen::Value(1)), []);
        let told = run(&mut core, 15, 20, Seen::Nothing(FreezeCause::Dead));
        let dead = Told::Frozen { cause: FreezeCause::Dead, silent: secs(4.0) };
        assert_eq!(told, [(15, dead)], "this one was there");
    }
}

#[test]
fn a_clean_stop_is_no_freeze_and_a_stopped_process_is_one_of_its_own_kind() {
    let mut core = core(false);
    run(&mut core, 0, 2, Seen::Value(1));
    assert_eq!(run(&mut core, 2, 90, Seen::Ended), [(2, Told::Ended)]);
    let gone = Seen::Nothing(FreezeCause::Missing);
    assert_eq!(run(&mut core, 90, 120, gone), [], "and may be cleaned up");
    assert_eq!(run(&mut core, 120, 125, Seen::Value(2)), []);
    let told = run(&mut core, 125, 130, Seen::Halted(2));
    let stopped = Told::Frozen { cause: FreezeCause::Stopped, silent: secs(5.0) };
    assert_eq!(told, [(125, stopped)], "more than 4 s after the beat");
}

#[test]
fn what_could_not_be_looked_at_says_nothing_and_what_cannot_say_has_not_changed() {
    let mut core = core(true);
    run(&mut core, 0, 3, Seen::Value(1));
    assert_eq!(run(&mut core, 3, 6, Seen::Unseen), []);
    let silent = Told::Frozen { cause: FreezeCause::Silent, silent: secs(4.0) };
    // It had been silent for two seconds.
    assert_eq!(run(&mut core, 6, 10, Seen::Value(1)), [(7, silent)]);

    let mut core = self::core(true);
    run(&mut core, 0, 3, Seen::Value(1));
    assert_eq!(run(&mut core, 3, 10, Seen::Same), [(4, silent)]);
    // From the start on.
    let mut core = self::core(true);
    assert_eq!(run(&mut core, 0, 10, Seen::Same), [(4, silent)]);
}

#[test]
fn what_cannot_be_looked_at_for_longer_than_the_timeout_is_told_once_and_again_when_it_is_seen() {
    let mut core = core(true);
    run(&mut core, 0, 3, Seen::Value(1));
    let blind = Told::Frozen { cause: FreezeCause::Unreadable, silent: secs(4.0) };
    assert_eq!(run(&mut core, 3, 100, Seen::Unseen), [(7, blind)]);
    assert_eq!(run(&mut core, 100, 101, Seen::Value(1)), [], "no beat has come yet");
    let recovered = Told::Recovered { after: secs(98.0) };
    assert_eq!(run(&mut core, 101, 102, Seen::Value(2)), [(101, recovered)]);
    // Looks without a gap: what was not looked at was not in vain.
    let mut core = self::core(true);
    run(&mut core, 0, 3, Seen::Value(1));
    assert_eq!(run(&mut core, 3, 6, Seen::Unseen), []);
    let told = run(&mut core, 1_000, 1_005, Seen::Unseen);
    assert!(matches!(told[0], (1_000, Told::Gap(_))), "{told:?}");
    assert_eq!(told[1..], [(1_004, blind)]);
    // One that has ended on purpose, or has not begun.
    let mut core = self::core(true);
    run(&mut core, 0, 3, Seen::Ended);
    assert_eq!(run(&mut core, 3, 100, Seen::Unseen), []);
}

/// A supervisor that starts again what has gone would wait for ever.
#[test]
fn one_that_goes_after_it_was_silent_is_told_to_have_gone_once() {
    for (seen, cause) in [
        (Seen::Value(1), FreezeCause::Silent),
        (Seen::Halted(1), FreezeCause::Stopped),
        (Seen::Nothing(FreezeCause::Corrupt), FreezeCause::Corrupt),
    ] {
        let mut core = core(true);
        run(&mut core, 0, 3, Seen::Value(1));
        let told = run(&mut core, 3, 10, seen);
        assert!(matches!(told[..], [(_, Told::Frozen { cause: told, .. })] if told == cause));
        let told = run(&mut core, 10, 20, Seen::Nothing(FreezeCause::Dead));
        let dead = |told| matches!(told, Told::Frozen { cause: FreezeCause::Dead, .. });
        assert!(matches!(told[..], [(10, told)] if dead(told)), "{told:?}");
        // Nothing of it is worse, and nothing is told twice.
        assert_eq!(run(&mut core, 20, 30, seen), []);
        assert_eq!(run(&mut core, 30, 40, Seen::Nothing(FreezeCause::Dead)), []);
        assert!(matches!(
            run(&mut core, 40, 41, Seen::Value(2))[..],
            [(40, Told::Recovered { .. })]
        ));
    }
}

/// Whoever acts upon a death has done nothing when it could not be read: that would be the last that is told.
#[test]
fn what_is_known_after_nothing_was_is_told() {
    let causes = [
        (Seen::Nothing(FreezeCause::Dead), FreezeCause::Dead),
        (Seen::Nothing(FreezeCause::Missing), FreezeCause::Missing),
        (Seen::Nothing(FreezeCause::Corrupt), FreezeCause::Corrupt),
        (Seen::Value(1), FreezeCause::Silent),
        (Seen::Halted(1), FreezeCause::Stopped),
    ];
    let caused = |told: Vec<(u32, Told)>| -> Vec<FreezeCause> {
        let cause = |(_, told)| match told {
            Told::Frozen { cause, .. } => Some(cause),
            _ => None,
        };
        told.into_iter().filter_map(cause).collect()
    };
    for (seen, cause) in causes {
        let mut core = core(true);
        run(&mut core, 0, 3, Seen::Value(1));
        assert_eq!(caused(run(&mut core, 3, 20, Seen::Unseen)), [FreezeCause::Unreadable]);
        assert_eq!(caused(run(&mut core, 20, 40, seen)), [cause], "once");
        assert_eq!(caused(run(&mut core, 40, 60, Seen::Unseen)), [], "no more than before");
        assert!(core.is_frozen());
        // From when it began.
        let recovered = Told::Recovered { after: secs(57.0) };
        assert_eq!(run(&mut core, 60, 61, Seen::Value(2)), [(60, recovered)]);
    }
}
