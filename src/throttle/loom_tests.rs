//! Every interleaving of calls that ask, wait, leave and end while answers, settings and orders change what is known:
//! no turn is two calls', none is lost, nobody waits for one that never comes, and all that happened is counted and told.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::Throttle;
use super::core::End;
use super::permit::{Asked, Permit, Waiting};
use crate::clock::{Tick, nanos, now};
use crate::managed::Home;
use crate::observe::{Event, EventKind};
use crate::rejection::RejectionKind;

/// All interleavings with up to so many switches where none is forced.
fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(f);
}

/// Changes of state as an observer is told of them. Not loom's lock: between its steps there are no switches.
type Told = Arc<std::sync::Mutex<Vec<(&'static str, &'static str)>>>;

/// The time between two turns: far more than a model takes.
const TURN: Duration = Duration::from_secs(10);

/// So many were refused until it knew.
const LEARNED: u64 = 9;

/// A throttle that knows its rate, and when the first turn is: now.
fn learned(max_wait: Duration) -> (Throttle, Tick, Told) {
    let told = Told::default();
    let tell = Arc::clone(&told);
    let mut builder =
        Throttle::builder("loom").max_wait(max_wait).seed(7).observe(move |event: &Event<'_>| {
            if let EventKind::StateChanged { from, to, .. } = event.kind {
                tell.lock().unwrap().push((from, to));
            }
        });
    builder.observers.move_to(Home::Nowhere);
    let throttle = builder.build().unwrap();
    let start = now();
    // Every second one is taken. A turn after the last one that was refused is the next.
    let before = |halves: u32| Tick(start.0 - nanos(TURN / 2 * (halves + 2)));
    for halves in (0..17).rev() {
        let end = if halves % 2 == 0 { End::Refused(None) } else { End::Taken };
        answers(&throttle, before(halves), end, before(halves));
    }
    assert_eq!((throttle.stats().state, throttle.stats().failed), ("limiting", LEARNED));
    assert!((throttle.quota().unwrap() - 0.1).abs() < 0.01);
    told.lock().unwrap().clear();
    (throttle, start, told)
}

/// A call sent then ends.
fn answers(throttle: &Throttle, sent: Tick, end: End, now: Tick) {
    throttle.shared.step(|core| core.finish(sent, end, now));
}

fn ask(throttle: &Throttle) -> Asked {
    Permit::ask(Arc::clone(throttle.shared.shared()), None)
}

fn granted(asked: Asked) -> Permit {
    match asked {
        Asked::Granted(permit) => permit,
        Asked::Wait(turn) => panic!("it waits until {:?}", turn.turn()),
        Asked::Refused(why) => panic!("{why}"),
    }
}

fn waits(asked: Asked) -> Waiting {
    match asked {
        Asked::Wait(turn) => turn,
        Asked::Granted(_) => panic!("it has its turn"),
        Asked::Refused(why) => panic!("{why}"),
    }
}

/// All others have done what they do: as a timer would, it is asked again at the time that it was told.
fn gets_its_turn(mut turn: Waiting, times: u32) -> Permit {
    for _ in 0..times {
        // Who waits long asks on the way, each second.
        for _ in 0..400 {
            let (at, due) = (turn.at(), turn.turn());
            match turn.again_at(at) {
                Asked::Granted(permit) => return permit,
                Asked::Wait(again) => {
                    assert!(again.at() > at, "it would ask for ever");
                    turn = again;
                    if at >= due {
                        break;
                    }
                }
                Asked::Refused(why) => panic!("{why}"),
            }
        }
    }
    panic!("it still waits after {times} turns");
}

/// When the turn is that a call would get now, which does not take it.
fn next_turn(throttle: &Throttle, now: Tick) -> Tick {
    match ask(throttle) {
        Asked::Granted(_) => now,
        Asked::Wait(turn) => turn.turn(),
        Asked::Refused(why) => panic!("{why}"),
    }
}

/// Changes are told after the lock and may overtake each other; but each is told once: in some order they lead from
/// what it was to what it is.
fn all_is_told(told: &Told, is: &'static str) {
    let told = told.lock().unwrap();
    for state in ["free", "measuring", "limiting", "stopped"] {
        let came =
            told.iter().filter(|(_, to)| *to == state).count() + usize::from(state == "limiting");
        let went =
            told.iter().filter(|(from, _)| *from == state).count() + usize::from(state == is);
        assert_eq!(came, went, "{state}: {told:?}, and it is {is}");
    }
}

fn in_bounds(throttle: &Throttle) {
    if let Some(rate) = throttle.quota() {
        assert!((1.0 / 30.0..=1e9).contains(&rate), "{rate}");
    }
}

#[test]
fn loom_a_turn_is_one_calls() {
    model(|| {
        let (throttle, start, told) = learned(TURN * 3);
        let threads = [(); 2].map(|()| {
            let throttle = throttle.clone();
            thread::spawn(move || match ask(&throttle) {
                Asked::Granted(mut permit) => {
                    permit.sent();
                    permit.finish(End::Taken);
                    None
                }
                Asked::Wait(turn) => Some(turn),
                Asked::Refused(why) => panic!("{why}"),
            })
        });
        let mut left: Vec<_> = threads.into_iter().filter_map(|t| t.join().unwrap()).collect();
        assert_eq!(left.len(), 1, "one has the turn, the other the next");
        let mut permit = gets_its_turn(left.remove(0), 1);
        permit.sent();
        permit.finish(End::Taken);
        let stats = throttle.stats();
        assert_eq!((stats.sent, stats.failed, stats.waited, stats.no_room), (2, LEARNED, 1, 0));
        assert!(next_turn(&throttle, start) > start.after(TURN), "both turns were used");
        all_is_told(&told, "limiting");
    });
}

/// Whoever asks meanwhile has the turn that was given back or the one after: not both, and not the same as another.
#[test]
fn loom_a_turn_that_is_given_back_beside_one_who_asks() {
    model(|| {
        let (throttle, start, _) = learned(TURN * 6);
        drop(granted_and_sent(&throttle));
        let (leaves, stays) = (waits(ask(&throttle)), waits(ask(&throttle)));
        let given = leaves.turn();
        assert!(given < stays.turn());
        let thread = thread::spawn(move || drop(leaves));
        let one = waits(ask(&throttle));
        thread.join().unwrap();
        let two = waits(ask(&throttle));
        let mut turns = [one.turn(), two.turn(), stays.turn()];
        turns.sort();
        assert_eq!(turns[0], given, "the turn is lost");
        assert!(turns[0] < turns[1] && turns[1] < turns[2], "one turn for two: {turns:?}");
        assert!(turns[2] < start.after(TURN * 4), "and none is left out: {turns:?}");
        // All leave at once.
        let threads = [one, two, stays].map(|turn| thread::spawn(move || drop(turn)));
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(next_turn(&throttle, start), given);
        assert_eq!((throttle.stats().sent, throttle.stats().waited), (1, 5));
    });
}

/// The first turn is used: its call is out, and says nothing when it is dropped.
fn granted_and_sent(throttle: &Throttle) -> Permit {
    let mut permit = granted(ask(throttle));
    permit.sent();
    permit
}

/// What is refused voids the turns that were given: who has one is told another, or is let through, or refused.
#[test]
fn loom_nobody_waits_for_a_turn_that_is_void() {
    model(|| {
        let (throttle, start, told) = learned(TURN * 300);
        drop(granted_and_sent(&throttle));
        let (waiting, late) = (waits(ask(&throttle)), waits(ask(&throttle)));
        let later = start.after(TURN * 12);
        // So many in a row, and nothing was taken for long: nothing is taken at all.
        let threads = [0, 1].map(|thread| {
            let throttle = throttle.clone();
            thread::spawn(move || {
                for n in 0..4 {
                    let sent = later.after(TURN * (2 * n + thread));
                    answers(&throttle, sent, End::Refused(None), sent);
                    in_bounds(&throttle);
                }
            })
        });
        let at = waiting.turn();
        let asked = waiting.again_at(at);
        for thread in threads {
            thread.join().unwrap();
        }
        match asked {
            Asked::Granted(mut permit) => {
                permit.sent();
                permit.finish(End::Ignored);
            }
            // Void again perhaps, by what came after it.
            Asked::Wait(turn) => drop(gets_its_turn(turn, 2)),
            Asked::Refused(why) => panic!("{why}"),
        }
        let turn = late.turn();
        let late = waits(late.again_at(turn));
        assert!(late.turn() > turn, "nothing is taken, and it would go");
        drop(gets_its_turn(late, 1));
        let stats = throttle.stats();
        assert_eq!(stats.failed, LEARNED + 8, "each that was refused is counted");
        let state = throttle.shared.step(|core| super::handle::word(core.phase()));
        all_is_told(&told, state);
    });
}

/// The quota is not to be learned any more, while one is refused and one waits: nothing holds anybody back.
#[test]
fn loom_the_quota_is_turned_off_beside_a_refusal_and_one_who_waits() {
    model(|| {
        let (throttle, start, told) = learned(TURN * 6);
        let mut sent = granted_and_sent(&throttle);
        let waiting = waits(ask(&throttle));
        let refused = thread::spawn(move || sent.finish(End::Refused(None)));
        let other = throttle.clone();
        let asks = thread::spawn(move || match ask(&other) {
            Asked::Granted(mut permit) => {
                permit.sent();
                permit.finish(End::Failed);
                None
            }
            Asked::Wait(turn) => Some(turn),
            Asked::Refused(why) => panic!("{why}"),
        });
        let mut off = Throttle::builder("loom").quota(false).max_wait(Duration::ZERO);
        off.observers.move_to(Home::Nowhere);
        throttle.reconfigure(off).unwrap();
        refused.join().unwrap();
        let asked = asks.join().unwrap();
        let at_once = u64::from(asked.is_none());
        for turn in asked.into_iter().chain([waiting]) {
            gets_its_turn(turn, 1).sent();
        }
        drop(granted(ask(&throttle)));
        let stats = throttle.stats();
        assert_eq!((stats.quota, stats.state), (None, "free"));
        assert_eq!((stats.sent, stats.failed), (3, LEARNED + 1 + at_once));
        assert_eq!(stats.waited, 2 - at_once);
        assert_eq!(next_turn(&throttle, start), start);
        all_is_told(&told, "free");
    });
}

/// Forgotten while one waits, one leaves and one reads.
#[test]
fn loom_a_reset_beside_one_who_leaves_and_one_who_reads() {
    model(|| {
        let (throttle, start, told) = learned(TURN * 6);
        drop(granted_and_sent(&throttle));
        let (leaves, stays) = (waits(ask(&throttle)), waits(ask(&throttle)));
        let leaves = thread::spawn(move || drop(leaves));
        let other = throttle.clone();
        let reads = thread::spawn(move || {
            let stats = other.stats();
            let known = stats.quota.is_some();
            assert_eq!(stats.state, if known { "limiting" } else { "free" }, "half of it");
            assert_eq!((stats.sent, stats.waited), (1, 2), "a reading changes nothing");
        });
        throttle.reset();
        leaves.join().unwrap();
        reads.join().unwrap();
        drop(gets_its_turn(stays, 1));
        // A turn of the old rate that was given back is nobody's.
        assert_eq!(next_turn(&throttle, start), start);
        all_is_told(&told, "free");
    });
}

/// Shorter patience, while one is let wait: who came before it has its turn, who comes after is refused.
#[test]
fn loom_shorter_patience_beside_one_who_asks() {
    model(|| {
        let (throttle, start, _) = learned(TURN * 6);
        drop(granted_and_sent(&throttle));
        let other = throttle.clone();
        let asks = thread::spawn(move || ask(&other));
        throttle.reconfigure(Throttle::builder("loom").max_wait(Duration::ZERO)).unwrap();
        let before = match asks.join().unwrap() {
            Asked::Wait(turn) => {
                drop(gets_its_turn(turn, 1));
                1
            }
            Asked::Refused(why) => {
                assert_eq!(why.kind(), RejectionKind::RateLimited);
                assert!(why.retry_after().unwrap() < TURN * 2);
                0
            }
            Asked::Granted(_) => panic!("there was no turn"),
        };
        assert!(matches!(ask(&throttle), Asked::Refused(_)));
        let stats = throttle.stats();
        assert_eq!((stats.sent, stats.waited, stats.no_room), (1, before, 2 - before));
        let _ = start;
    });
}
