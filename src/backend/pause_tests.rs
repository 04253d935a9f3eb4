//! Below one in flight a call is followed by a pause: what is said of it, and to whom.

use std::time::Duration;

use super::core::Core;
use super::tests::{arrive, at, calls, finish, poll, wait};
use super::turn::{Arrival, End, Settled, Turn};
use super::{Backend, BackendState};
use crate::managed::{Home, Level, Managed};

/// Until it pauses: callers wait for a second, and what took most of that does not come any more.
fn pauses(core: &mut Core) -> u64 {
    let mut now = calls(core, 0, 40, 600, End::Success);
    for _ in 0..12 {
        assert!(matches!(arrive(core, now, 1000), Arrival::Admitted));
        let end = End::Abandoned { deadline: at(now + 1000) };
        finish(core, now, end, now + 1000);
        // What was abandoned is taken to be worked on for as long again.
        now += 2000;
    }
    assert!(core.pauses());
    now
}

/// Nothing is in flight and the quota has room: that it was over its quota would send the caller away to come again for
/// nothing, and would tell people to ask for a larger one.
#[test]
fn who_waits_out_a_pause_in_vain_is_late_and_not_over_its_quota() {
    for learned in [false, true] {
        let mut core = Core::new(None, 1000);
        core.learns_quota = true;
        let now = pauses(&mut core);
        if learned {
            // Some ten a second are taken, of single calls that were out before.
            for n in 0..20 {
                let (sent, now) = (at(now + 100 * n), at(now + 100 * n + 10));
                if n % 2 == 0 {
                    core.pace.refused(sent, None, now);
                } else {
                    core.pace.taken(sent, now);
                }
            }
        }
        assert_eq!(core.pace.rate().is_some(), learned);
        let now = now + 5000;
        assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
        finish(&mut core, now, End::Answered, now + 1);
        assert!(core.pauses() && core.in_flight == 0, "limit {}", core.limit());
        assert!(core.pace.next(at(now + 200)) <= at(now + 200), "its quota has room");
        // An answer takes half a second and more.
        let key = wait(&mut core, now + 1, 800);
        let Turn::At(until) = poll(&mut core, key, now + 1) else { panic!("there is a pause") };
        assert!(until <= at(now + 400));
        let turn = poll(&mut core, key, now + 400);
        assert!(matches!(turn, Turn::Settled(Settled::Hopeless)), "{turn:?}, learned: {learned}");
        assert_eq!((core.counts.hopeless, core.counts.throttled), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn its_status_says_that_there_is_a_pause_and_why() {
    // What the tests of the core play lies in the past.
    tokio::time::advance(Duration::from_secs(3600)).await;
    let backend = Backend::new("db").move_to(Home::Nowhere);
    let of = |what: &str| {
        let status = backend.shared.describe();
        let fact = status.facts.iter().find(|fact| fact.label == "pause between calls");
        assert_eq!(fact.unwrap().value, what);
        (status.state, status.level, status.why)
    };
    assert_eq!(of("no"), ("up".into(), Level::Ok, String::new()));
    let now = pauses(&mut backend.shared.core.lock());
    let (state, level, why) = of("yes");
    assert_eq!((state.as_str(), level), ("congested", Level::Warn));
    assert!(why.ends_with(" % are given up at their deadline, limit 1, then a pause"), "{why}");
    let share: f64 = why.split(' ').next().unwrap().parse().unwrap();
    assert!((25.0..=100.0).contains(&share), "{why}");
    // One is answered as quickly as ever: it is up, but goes on pausing until more are.
    {
        let mut core = backend.shared.core.lock();
        assert!(matches!(arrive(&mut core, now, 1000), Arrival::Admitted));
        finish(&mut core, now, End::Success, now + 300);
        wait(&mut core, now + 301, 3_600_000);
        wait(&mut core, now + 301, 3_600_000);
    }
    assert_eq!(backend.state(), BackendState::Up);
    let (_, level, why) = of("yes");
    assert_eq!((level, why.as_str()), (Level::Ok, "a pause between calls, 2 wait"));
}
