//! The core on a clock of its own.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::backoff::{Backoff, Jitter, Random};
use crate::clock::Tick;

use super::core::{Core, End, Intensity, Out, Rule, Seen, Then};
use super::exit::Exit;
use super::policy::{Restart, Strategy};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn rule(restart: Restart) -> Rule {
    Rule {
        restart,
        success: vec![0],
        backoff: Backoff::exponential(SECOND, SECOND * 60).jitter(Jitter::None),
        stable_after: SECOND * 10,
        frozen_for: SECOND * 15,
        ready_within: None,
        grace: SECOND * 5,
        kill_wait: SECOND * 2,
    }
}

/// A core, its clock, and what it has asked for. Processes exist as soon as they are started.
pub(super) struct Rig {
    pub(super) core: Core,
    pub(super) now: Tick,
    log: Vec<Out>,
    next_pid: u32,
}

impl Rig {
    pub(super) fn new(rules: Vec<Rule>, strategy: Strategy, intensity: Option<(u32, u32)>) -> Self {
        let intensity =
            intensity.map(|(restarts, seconds)| Intensity { restarts, within: SECOND * seconds });
        let core = Core::new(rules, strategy, intensity, false, Random::seeded(1));
        let mut rig = Self { core, now: Tick(1), log: Vec::new(), next_pid: 100 };
        rig.settle();
        rig
    }

    /// Does what the core asks for at this moment.
    pub(super) fn settle(&mut self) {
        loop {
            let outs = self.core.advance(self.now);
            if outs.is_empty() {
                return;
            }
            for out in &outs {
                if let Out::Start(index) = *out {
                    self.next_pid += 1;
                    self.core.started(index, self.next_pid, self.now);
                    self.core.asked(index, self.core.run(index), self.now);
                }
            }
            self.log.extend(outs);
        }
    }

    pub(super) fn sleep(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(due) = self.core.deadline().filter(|due| *due <= end) {
            assert!(due > self.now, "a timer that is due and not done would spin");
            self.now = due;
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    pub(super) fn exit(&mut self, index: usize, exit: Exit) {
        self.core.exited(index, exit, self.now);
        self.settle();
    }

    pub(super) fn fail(&mut self, index: usize) {
        self.exit(index, Exit::Code(1));
    }

    pub(super) fn stop(&mut self, deadline: Option<Tick>) {
        self.core.request_stop(deadline);
        self.settle();
    }

    pub(super) fn seen(&self, index: usize) -> Seen {
        self.core.seen(index, self.now)
    }

    pub(super) fn take(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.log)
    }

    /// The delay that the last restart was given.
    pub(super) fn last_delay(&self) -> Duration {
        let delay = self.log.iter().rev().find_map(|out| match out {
            Out::Exited(_, _, Then::Restarts(delay)) => Some(*delay),
            _ => None,
        });
        delay.unwrap()
    }
}

fn three(strategy: Strategy) -> Rig {
    let mut rig = Rig::new(vec![rule(Restart::Permanent); 3], strategy, None);
    rig.take();
    rig
}

pub(super) const KILLED: Exit = Exit::Signal { number: 9, core_dumped: false };
const TERMED: Exit = Exit::Signal { number: 15, core_dumped: false };

#[test]
fn more_than_n_restarts_in_the_window_escalate_at_exactly_the_next() {
    for limit in 0..6 {
        let mut rig =
            Rig::new(vec![rule(Restart::Permanent)], Strategy::OneForOne, Some((limit, 3_600)));
        for _ in 0..limit {
            rig.fail(0);
            assert_eq!(rig.core.ended(), None);
            rig.sleep(SECOND * 60);
        }
        assert_eq!(rig.core.totals().starts, u64::from(limit) + 1);
        rig.fail(0);
        assert_eq!(rig.core.ended(), Some(End::Escalated { child: 0 }), "limit {limit}");
        assert_eq!(rig.core.totals().restarts, u64::from(limit));
        assert!(rig.log.contains(&Out::Exited(0, Exit::Code(1), Then::Escalates)));
    }
}

#[test]
fn restarts_that_have_left_the_window_do_not_count_and_those_of_all_children_do() {
    let rules = vec![rule(Restart::Permanent); 2];
    let mut rig = Rig::new(rules, Strategy::OneForOne, Some((2, 30)));
    rig.fail(0);
    rig.sleep(SECOND * 29);
    rig.fail(1);
    rig.sleep(SECOND);
    // The first is just out.
    rig.fail(0);
    assert_eq!(rig.core.ended(), None);
    rig.sleep(SECOND * 28);
    rig.fail(1);
    rig.exit(0, TERMED);
    assert_eq!(rig.core.ended(), Some(End::Escalated { child: 1 }));
}

#[test]
fn an_escalation_stops_the_others_first() {
    let rules = vec![rule(Restart::Permanent); 3];
    let mut rig = Rig::new(rules, Strategy::OneForOne, Some((0, 60)));
    rig.take();
    rig.fail(1);
    assert_eq!(rig.take()[1..], [Out::Stop(2)]);
    rig.exit(2, TERMED);
    rig.exit(0, TERMED);
    assert_eq!(rig.core.ended(), Some(End::Escalated { child: 1 }));
    assert_eq!(rig.log.last(), Some(&Out::Ended(End::Escalated { child: 1 })));
}

#[test]
fn the_backoff_begins_anew_only_after_a_stable_time_and_not_after_a_start() {
    let mut rig = three(Strategy::OneForOne);
    for seconds in [1, 2, 4, 8] {
        rig.fail(0);
        assert_eq!(rig.last_delay(), SECOND * seconds);
        rig.sleep(SECOND * seconds);
        // Up for a moment less than is stable.
        rig.sleep(SECOND * 10 - Duration::from_nanos(1));
    }
    rig.sleep(Duration::from_nanos(1));
    rig.fail(0);
    assert_eq!(rig.last_delay(), SECOND, "stable for ten seconds");
}

#[test]
fn time_before_it_is_ready_is_not_stable_time() {
    let slow = Rule { ready_within: Some(SECOND * 100), ..rule(Restart::Permanent) };
    let mut rig = Rig::new(vec![slow], Strategy::OneForOne, None);
    for seconds in [1, 2, 4] {
        rig.sleep(SECOND * 50);
        rig.fail(0);
        assert_eq!(rig.last_delay(), SECOND * seconds);
        rig.sleep(SECOND * seconds);
    }
}

#[test]
fn policies_decide_by_how_it_ended() {
    let cases = [
        (Restart::Permanent, Exit::Code(0), true),
        (Restart::Permanent, Exit::Code(1), true),
        (Restart::Transient, Exit::Code(0), false),
        (Restart::Transient, Exit::Code(7), false),
        (Restart::Transient, Exit::Code(1), true),
        (Restart::Transient, KILLED, true),
        (Restart::Transient, Exit::OutOfMemory, true),
        (Restart::Transient, Exit::NotStarted(std::io::ErrorKind::NotFound), true),
        (Restart::Transient, Exit::Unknown, true),
        (Restart::Temporary, KILLED, false),
    ];
    for (restart, exit, again) in cases {
        let rule = Rule { success: vec![0, 7], ..rule(restart) };
        let mut rig = Rig::new(vec![rule], Strategy::OneForOne, None);
        rig.exit(0, exit);
        rig.sleep(SECOND * 2);
        let ended = rig.core.ended();
        assert_eq!(ended, (!again).then_some(End::Finished), "{restart:?} {exit:?}");
        assert_eq!(rig.core.totals().starts, 1 + u64::from(again));
    }
}

#[test]
fn one_for_all_stops_the_others_in_reverse_and_starts_all_in_order() {
    let mut rig = three(Strategy::OneForAll);
    rig.fail(1);
    assert_eq!(rig.take()[1..], [Out::Stop(2)]);
    rig.sleep(SECOND * 3);
    assert_eq!(rig.take(), [], "the next is not stopped before this one has ended");
    rig.exit(2, TERMED);
    assert_eq!(rig.take()[1..], [Out::Stop(0)]);
    rig.exit(0, TERMED);
    let log = rig.take();
    let starts: Vec<_> = log.iter().filter(|out| matches!(out, Out::Start(_))).collect();
    assert_eq!(starts, [&Out::Start(0), &Out::Start(1), &Out::Start(2)]);
    assert_eq!(rig.core.totals().restarts, 1, "one failure, one restart");
    assert!(rig.core.all_ready());
}

#[test]
fn one_for_all_waits_out_the_backoff() {
    let mut rig = three(Strategy::OneForAll);
    rig.fail(2);
    rig.exit(1, TERMED);
    rig.exit(0, TERMED);
    rig.take();
    rig.sleep(SECOND - Duration::from_nanos(1));
    assert_eq!(rig.take(), []);
    rig.sleep(Duration::from_nanos(1));
    assert_eq!(rig.take()[0], Out::Start(0));
}

#[test]
fn rest_for_one_leaves_those_before_alone() {
    let mut rig = three(Strategy::RestForOne);
    rig.fail(1);
    rig.exit(2, TERMED);
    rig.sleep(SECOND);
    let log = rig.take();
    assert!(!log.contains(&Out::Stop(0)) && !log.contains(&Out::Start(0)), "{log:?}");
    assert!(log.contains(&Out::Start(1)) && log.contains(&Out::Start(2)));
}

#[test]
fn one_before_the_group_that_fails_meanwhile_takes_the_group_along() {
    let mut rig = three(Strategy::RestForOne);
    rig.fail(1);
    rig.fail(0);
    rig.exit(2, TERMED);
    rig.sleep(SECOND * 4);
    assert!(rig.core.all_ready(), "{:?}", rig.log);
    assert_eq!((0..3).map(|index| rig.core.run(index)).collect::<Vec<_>>(), [2, 2, 2]);
}

#[test]
fn temporary_ones_do_not_come_back_with_their_group() {
    let rules = vec![rule(Restart::Permanent), rule(Restart::Temporary), rule(Restart::Transient)];
    let mut rig = Rig::new(rules, Strategy::OneForAll, None);
    rig.fail(0);
    rig.exit(2, TERMED);
    rig.exit(1, TERMED);
    rig.sleep(SECOND);
    let seen: Vec<_> = (0..3).map(|index| rig.seen(index)).collect();
    assert!(matches!(seen[..], [Seen::Up(_), Seen::Finished, Seen::Up(_)]), "{seen:?}");
}

#[test]
fn a_frozen_one_is_asked_killed_and_restarted_and_a_verdict_on_an_earlier_run_does_not_count() {
    let mut rig = three(Strategy::OneForOne);
    rig.core.frozen(0, 1, rig.now);
    rig.settle();
    rig.core.frozen(0, 1, rig.now);
    rig.sleep(SECOND * 5);
    assert_eq!(rig.take(), [Out::Frozen(0), Out::Stop(0), Out::Kill(0)]);
    rig.exit(0, KILLED);
    assert!(rig.take().contains(&Out::Exited(0, Exit::Frozen, Then::Restarts(SECOND))));
    rig.sleep(SECOND);
    rig.core.frozen(0, 1, rig.now);
    rig.settle();
    assert!(matches!(rig.seen(0), Seen::Up(_)));
}

#[test]
fn time_in_which_it_was_frozen_or_being_stopped_does_not_make_it_stable() {
    let mut rig = three(Strategy::OneForOne);
    for run in 1..4 {
        rig.sleep(SECOND * 20);
        rig.core.frozen(0, run, rig.now);
        rig.settle();
        rig.sleep(SECOND * 6);
        rig.exit(0, KILLED);
        assert_eq!(rig.last_delay(), SECOND * 2_u32.pow(u32::try_from(run - 1).unwrap()));
        rig.sleep(rig.last_delay());
    }
    rig.sleep(SECOND * 25);
    rig.core.frozen(0, 4, rig.now);
    rig.exit(0, KILLED);
    assert_eq!(rig.last_delay(), SECOND, "it had been well for ten seconds");
}

#[test]
fn it_has_escalated_from_the_decision_on() {
    let mut rig = Rig::new(vec![rule(Restart::Permanent); 2], Strategy::OneForOne, Some((0, 60)));
    assert!(!rig.core.has_escalated());
    rig.fail(0);
    assert!(rig.core.has_escalated() && rig.core.ended().is_none());
    rig.exit(1, TERMED);
    assert!(rig.core.has_escalated() && rig.core.ended().is_some());
    let mut stopped = three(Strategy::OneForOne);
    stopped.stop(None);
    assert!(!stopped.core.has_escalated());
}

#[test]
fn all_stop_in_reverse_order_each_by_its_ladder() {
    let mut rig = three(Strategy::OneForOne);
    rig.stop(None);
    assert_eq!(rig.take(), [Out::Stop(2)]);
    rig.exit(2, Exit::Code(0));
    assert_eq!(rig.take()[1..], [Out::Stop(1)]);
    rig.sleep(SECOND * 5);
    assert_eq!(rig.take(), [Out::Kill(1)]);
    rig.exit(1, KILLED);
    rig.exit(0, TERMED);
    assert_eq!(rig.core.ended(), Some(End::Stopped));
    assert_eq!(rig.core.totals().restarts, 0);
}

#[test]
fn at_the_deadline_all_are_killed_whatever_their_grace_is() {
    let mut rig = three(Strategy::OneForOne);
    rig.stop(Some(rig.now.after(SECOND * 2)));
    rig.sleep(SECOND);
    assert_eq!(rig.take(), [Out::Stop(2)]);
    rig.sleep(SECOND);
    let log = rig.take();
    assert_eq!(log.iter().filter(|out| matches!(out, Out::Kill(_))).count(), 3, "{log:?}");
}

#[test]
fn a_later_stop_only_brings_the_deadline_nearer() {
    let mut rig = three(Strategy::OneForOne);
    rig.stop(Some(rig.now.after(SECOND)));
    rig.stop(Some(rig.now.after(SECOND * 100)));
    rig.stop(None);
    rig.sleep(SECOND);
    assert!(rig.take().contains(&Out::Kill(0)));
}

#[test]
fn one_that_cannot_die_is_reported_and_holds_nobody_up() {
    let mut rig = three(Strategy::OneForOne);
    rig.stop(None);
    rig.sleep(SECOND * 7);
    assert_eq!(rig.take()[..3], [Out::Stop(2), Out::Kill(2), Out::Unkillable(2)]);
    rig.exit(1, TERMED);
    rig.exit(0, TERMED);
    assert_eq!(rig.core.ended(), Some(End::Stopped));
    assert_eq!(rig.seen(2), Seen::Unkillable);
}

#[test]
fn no_second_one_is_started_beside_one_that_cannot_die() {
    for strategy in [Strategy::OneForOne, Strategy::OneForAll] {
        let mut rig = three(strategy);
        rig.core.frozen(2, 1, rig.now);
        rig.sleep(SECOND * 100);
        assert_eq!((rig.seen(2), rig.core.run(2)), (Seen::Unkillable, 1));
        // Its disk is back: now it dies.
        rig.exit(2, KILLED);
        rig.exit(1, TERMED);
        rig.exit(0, TERMED);
        rig.sleep(SECOND * 100);
        assert_eq!(rig.core.run(2), 2);
    }
}

#[test]
fn a_restart_that_is_asked_for_is_no_failure() {
    let rules = vec![rule(Restart::Temporary)];
    let mut rig = Rig::new(rules, Strategy::OneForOne, Some((0, 60)));
    assert!(rig.core.restart(0, rig.now));
    rig.settle();
    assert!(!rig.core.restart(0, rig.now), "it is being stopped");
    rig.exit(0, TERMED);
    assert!(matches!(rig.seen(0), Seen::Up(_)));
    assert_eq!((rig.core.run(0), rig.core.totals().restarts), (2, 0));
}

#[test]
fn a_stop_ends_a_backoff_and_a_group_that_is_being_restarted() {
    let mut rig = three(Strategy::OneForOne);
    rig.fail(0);
    rig.fail(1);
    rig.fail(2);
    rig.stop(None);
    assert_eq!(rig.core.ended(), Some(End::Stopped));

    let mut rig = three(Strategy::OneForAll);
    rig.fail(0);
    rig.stop(None);
    rig.exit(2, TERMED);
    rig.exit(1, TERMED);
    assert_eq!(rig.core.ended(), Some(End::Stopped));
    rig.sleep(SECOND * 100);
    assert_eq!(rig.core.totals().starts, 3);
}

/// Whatever happens: a child has at most one process, an end comes, and after it nothing does.
#[test]
fn chaos() {
    let seed = std::env::var("BUTTRESS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("BUTTRESS_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    for _ in 0..400 {
        let count = random.random_range(1..6);
        let rules = (0..count).map(|_| Rule {
            ready_within: random.random_bool(0.5).then_some(SECOND * 3),
            grace: SECOND * random.random_range(0..3),
            ..rule(
                [Restart::Permanent, Restart::Transient, Restart::Temporary]
                    [random.random_range(0..3)],
            )
        });
        let rules: Vec<_> = rules.collect();
        let strategy = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne]
            [random.random_range(0..3)];
        let intensity = random.random_bool(0.5).then(|| (random.random_range(0..9), 60));
        let mut rig = Rig::new(rules, strategy, intensity);
        let mut lives = vec![false; count];
        let mut ended = false;
        for step in 0..200 {
            for out in rig.take() {
                assert!(!ended, "something after the end");
                match out {
                    Out::Start(index) => {
                        assert!(!std::mem::replace(&mut lives[index], true), "two processes");
                    }
                    Out::Stop(index) | Out::Kill(index) => assert!(lives[index]),
                    Out::Ended(_) => ended = true,
                    _ => {}
                }
            }
            let index = random.random_range(0..count);
            let now = rig.now;
            match random.random_range(0..8) {
                0..3 if lives[index] => {
                    lives[index] = false;
                    rig.exit(index, Exit::Code(random.random_range(0..2)));
                    // What comes after the end of one that could not die is no event of a child.
                    rig.log.retain(|out| !ended || !matches!(out, Out::Exited(..)));
                }
                3 => rig.core.ready(index, rig.core.run(index), now),
                4 => rig.core.frozen(index, rig.core.run(index), now),
                5 => drop(rig.core.restart(index, now)),
                6 if step > 150 => rig.stop(random.random_bool(0.5).then(|| now.after(SECOND))),
                _ => rig.sleep(Duration::from_millis(random.random_range(0..4_000))),
            }
            rig.settle();
        }
        rig.stop(Some(rig.now));
        for (index, lives) in lives.iter_mut().enumerate() {
            // Also those that were started while the log was not looked at.
            if *lives || rig.core.pid(index).is_some() {
                *lives = false;
                rig.core.exited(index, KILLED, rig.now);
                rig.settle();
            }
        }
        assert!(rig.core.ended().is_some(), "seed {seed}");
    }
}
