//! Children that have to say that they are ready, or be asked.

use std::time::Duration;

use crate::backoff::Random;
use crate::clock::Tick;

use super::core::{Core, End, Intensity, Out, Rule, Then};
use super::core_tests::{KILLED, Rig, SECOND, rule};
use super::exit::Exit;
use super::policy::{Restart, Strategy};

#[test]
fn children_start_one_after_the_other_when_the_one_before_is_ready() {
    let slow = Rule { ready_within: Some(SECOND * 30), ..rule(Restart::Permanent) };
    let mut rig = Rig::new(vec![slow; 3], Strategy::OneForOne, None);
    assert_eq!(rig.take(), [Out::Start(0)]);
    rig.core.ready(0, 7, rig.now);
    rig.settle();
    assert_eq!(rig.take(), [], "another run is ready");
    rig.core.ready(0, 1, rig.now);
    rig.settle();
    assert_eq!(rig.take(), [Out::Ready(0), Out::Start(1)]);
    rig.fail(1);
    rig.sleep(SECOND);
    assert_eq!(rig.take()[1..], [Out::Start(1)], "the third still waits");
}

#[test]
fn one_that_is_not_ready_in_time_is_stopped_and_has_failed() {
    let slow = Rule { ready_within: Some(SECOND * 3), ..rule(Restart::Transient) };
    let mut rig = Rig::new(vec![slow], Strategy::OneForOne, None);
    rig.sleep(SECOND * 3);
    assert_eq!(rig.take()[1..], [Out::StartTimeout(0), Out::Stop(0)]);
    // It ends as one that succeeded does; it did not.
    rig.exit(0, Exit::Code(0));
    let restarts = Then::Restarts(SECOND);
    assert_eq!(rig.take(), [Out::Exited(0, Exit::StartTimeout, restarts)]);
}

/// In no window are there as many of them as would be too many, and all after it wait.
#[test]
fn one_that_is_never_ready_is_given_up_however_long_each_start_takes() {
    let slow =
        Rule { ready_within: Some(SECOND * 30), grace: Duration::ZERO, ..rule(Restart::Permanent) };
    let mut rig = Rig::new(vec![slow], Strategy::OneForOne, Some((5, 60)));
    let ran = |rig: &mut Rig, ready: bool| {
        if ready {
            rig.core.ready(0, rig.core.run(0), rig.now);
            rig.fail(0);
        } else {
            rig.sleep(SECOND * 30);
            rig.exit(0, KILLED);
        }
        rig.core.has_escalated() || {
            rig.sleep(rig.last_delay());
            false
        }
    };
    // In a row: one that was ready begins anew.
    for ready in [false, false, false, false, false, true, false, false, false, false, false] {
        assert!(!ran(&mut rig, ready));
    }
    assert!(ran(&mut rig, false), "the sixth");
    assert_eq!(rig.core.ended(), Some(End::Escalated { child: 0 }));
    assert_eq!(rig.core.totals().start_timeouts, 11);

    let slow = Rule { ready_within: Some(SECOND * 30), ..rule(Restart::Permanent) };
    let mut rig = Rig::new(vec![slow], Strategy::OneForOne, None);
    assert!((0..50).all(|_| !ran(&mut rig, false)), "without a limit");
}

#[test]
fn the_time_to_become_ready_begins_with_the_question() {
    let slow = Rule { ready_within: Some(SECOND * 3), ..rule(Restart::Transient) };
    let mut core = Core::new(vec![slow], Strategy::OneForOne, None, false, Random::seeded(1));
    assert_eq!(core.advance(Tick(1)), [Out::Start(0)]);
    core.started(0, 100, Tick(1));
    let later = Tick(1).after(SECOND * 100);
    assert_eq!((core.deadline(), core.advance(later)), (None, vec![]));
    core.unasked(0);
    core.unasked(0);
    assert_eq!(core.advance(later), [Out::Unasked(0)], "once");
    assert!(!core.asked(0, 7, later), "another run");
    assert!(core.asked(0, 1, later) && !core.asked(0, 1, later.after(SECOND)));
    let end = later.after(SECOND * 3);
    assert_eq!(core.deadline(), Some(end));
    assert_eq!(core.advance(end), [Out::StartTimeout(0), Out::Stop(0)]);
}

/// A question about an earlier run hangs for good: who waits for its end waits for ever, and nobody learns of it.
#[test]
fn runs_that_nobody_can_ask_fail_and_are_too_many_in_the_end() {
    let slow =
        Rule { ready_within: Some(SECOND * 3), grace: Duration::ZERO, ..rule(Restart::Permanent) };
    let rules = vec![slow, rule(Restart::Permanent)];
    let intensity = Some(Intensity { restarts: 2, within: SECOND * 60 });
    let mut core = Core::new(rules, Strategy::OneForAll, intensity, false, Random::seeded(1));
    let mut now = Tick(1);
    for run in 1..=3 {
        assert_eq!(core.advance(now), [Out::Start(0)]);
        core.started(0, 100, now);
        assert!(!core.not_asked(0, run + 1, now), "another run");
        assert!(core.not_asked(0, run, now) && !core.not_asked(0, run, now.after(SECOND)));
        now = now.after(SECOND * 3);
        assert_eq!(core.deadline(), Some(now), "from the first time on");
        // Why it fails is told first, and once.
        let outs = [Out::Unasked(0), Out::StartTimeout(0), Out::Kill(0)];
        assert_eq!(core.advance(now), outs[usize::from(run > 1)..], "run {run}");
        core.exited(0, KILLED, now);
        // Also past what is told, and to the end of its backoff.
        core.advance(now);
        now = core.deadline().unwrap_or(now);
    }
    assert_eq!(
        (core.ended(), core.totals().start_timeouts),
        (Some(End::Escalated { child: 0 }), 3)
    );
}

#[test]
fn one_that_can_be_asked_after_all_has_its_whole_time() {
    let slow = Rule { ready_within: Some(SECOND * 3), ..rule(Restart::Permanent) };
    let mut core = Core::new(vec![slow], Strategy::OneForOne, None, false, Random::seeded(1));
    let now = Tick(1);
    assert_eq!(core.advance(now), [Out::Start(0)]);
    core.started(0, 100, now);
    assert!(core.not_asked(0, 1, now));
    let later = now.after(SECOND * 2);
    assert!(core.asked(0, 1, later) && !core.not_asked(0, 1, later.after(SECOND)));
    assert_eq!(core.deadline(), Some(later.after(SECOND * 3)));
}
