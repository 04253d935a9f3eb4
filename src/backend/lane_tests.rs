//! Beside a core that sees each call: what goes past the lock leads to the same decisions, counts and means.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::core::Core;
use super::lane::Guarded;
use super::turn::{Arrival, End, State, Wakers};
use crate::clock::Tick;
use crate::context::Criticality;
use crate::seed::seed;

const START: u64 = 1 << 50;
const SECOND: u64 = 1_000_000_000;

struct Twins {
    plain: Core,
    laned: Guarded,
    now: Tick,
    past_the_lock: u32,
    gaps: (f64, f64),
}

/// When it was sent, and whether it has to be measured.
type Out = (Tick, bool);

impl Twins {
    fn new(fixed: Option<u32>) -> Self {
        let core = || {
            let mut core = Core::new(fixed, 10);
            core.make_quick(Tick(START));
            core
        };
        Self {
            plain: core(),
            laned: Guarded::new(core()),
            now: Tick(START),
            past_the_lock: 0,
            gaps: (0.0, 0.0),
        }
    }

    fn arrive(&mut self, class: Criticality) -> Option<Out> {
        let Self { plain, laned, now, .. } = self;
        let wakers = &mut Wakers::default();
        let deadline = Tick(now.0 + SECOND);
        let arrival = plain.arrive(deadline, class, *now, wakers);
        let admitted = matches!(arrival, Arrival::Admitted);
        let stands_for = if admitted { plain.stands_for() } else { 1 };
        if class == Criticality::Critical && laned.enter() {
            self.past_the_lock += 1;
            assert!(admitted && stands_for == 0, "{arrival:?}");
            return Some((*now, false));
        }
        let mut core = laned.lock();
        let other = core.arrive(deadline, class, *now, wakers);
        assert_eq!(format!("{arrival:?}"), format!("{other:?}"));
        assert_eq!(stands_for, if admitted { core.stands_for() } else { 1 });
        if let Arrival::Wait(key) = other {
            core.leave(key, *now, wakers);
            plain.leave(key, *now, wakers);
        }
        admitted.then_some((*now, stands_for != 0))
    }

    fn end(&mut self, (started, measured): Out, end: End) {
        let wakers = &mut Wakers::default();
        if end == End::Success && !measured {
            self.plain.finish_at_once(started, wakers);
            if !self.laned.leave() {
                self.laned.lock().finish_at_once(started, wakers);
            }
        } else {
            self.plain.finish(started, end, self.now, wakers);
            self.laned.lock().finish(started, end, self.now, wakers);
        }
    }

    /// It is not answered in the poll in which it was sent.
    fn wait(&mut self, (_, measured): &mut Out) {
        if !*measured {
            self.plain.not_at_once();
            self.laned.not_at_once();
            *measured = true;
        }
    }

    fn compare(&mut self) {
        let core = self.laned.lock();
        assert_eq!(self.plain.whole(), core.whole());
        let [missed, failing, class, gap] = self.plain.means();
        let means = core.means();
        assert!((missed - means[0]).abs() < 1e-9, "{missed} {means:?}");
        assert!((class - means[2]).abs() < 1e-9, "{class} {means:?}");
        // A success may be one of a call that was sent before a failure.
        assert!((failing - means[1]).abs() <= 0.1 * failing, "{failing} {means:?}");
        self.gaps.0 += gap;
        self.gaps.1 += means[3];
    }
}

#[test]
fn what_goes_past_the_lock_leads_to_the_same() {
    let seed = seed();
    for (n, own) in (seed..=u64::MAX).chain(0..60).take(60).enumerate() {
        let mut random = StdRng::seed_from_u64(own);
        let mut twins = Twins::new([None, Some(4), Some(40)][n % 3]);
        let mut out: Vec<Out> = Vec::new();
        let ends_badly = [0.0, 0.01, 0.2][n / 3 % 3];
        for _ in 0..3000 {
            twins.now.0 += 400;
            if random.random_bool(0.55) {
                let class = match random.random_range(0..20) {
                    0 => Criticality::Sheddable,
                    1 => Criticality::CriticalPlus,
                    _ => Criticality::Critical,
                };
                let mut call = twins.arrive(class);
                if let Some(call) = call.as_mut().filter(|_| random.random_bool(0.1)) {
                    twins.wait(call);
                }
                out.extend(call);
            } else if !out.is_empty() {
                let call = out.swap_remove(random.random_range(0..out.len()));
                let end = match random.random_bool(ends_badly) {
                    true if random.random_bool(0.5) => End::Failure,
                    true => End::Ignored,
                    false => End::Success,
                };
                twins.end(call, end);
            }
            // Far fewer than half, or only few go past the lock.
            while out.len() > 3 {
                twins.end(out[0], End::Success);
                out.remove(0);
            }
            if random.random_bool(0.02) {
                twins.compare();
            }
        }
        for call in out {
            twins.end(call, End::Success);
        }
        twins.compare();
        assert_eq!(twins.laned.lock().in_flight, 0);
        // Calls of which nobody has seen when they came are taken to have come one like the other.
        let (one, other) = twins.gaps;
        assert!((one - other).abs() < 0.1 * one, "{one} {other}");
        let some = twins.past_the_lock;
        assert!(some > 20 || ends_badly > 0.1, "{some}");
    }
}

/// With nobody out there is no silence, however long it lasts.
#[test]
fn a_call_that_went_past_the_lock_is_not_taken_for_an_old_one() {
    let mut core = Core::new(None, 10);
    core.make_quick(Tick(START));
    let laned = Guarded::new(core);
    drop(laned.lock());
    let later = Tick(START + 3600 * SECOND);
    assert!(laned.enter(), "all is well");
    let arrival = laned.lock().arrive(
        Tick(later.0 + SECOND),
        Criticality::Critical,
        later,
        &mut Wakers::default(),
    );
    assert!(matches!(arrival, Arrival::Admitted));
    let core = laned.lock();
    assert_eq!((core.state, core.in_flight), (State::Up, 2));
}

/// Nothing answers any more, and calls go on coming: that they come past the lock is no answer.
#[test]
fn a_silence_is_noticed_though_calls_come_past_the_lock() {
    let seed = seed();
    for own in (seed..=u64::MAX).chain(0..60).take(60) {
        let mut random = StdRng::seed_from_u64(own);
        let limit = [100, 400, 1000][random.random_range(0..3)];
        let mut twins = Twins::new(None);
        twins.plain.make_wide(limit);
        twins.laned.lock().make_wide(limit);
        let gap = random.random_range(1..15) * 1_000_000;
        for _ in 0..random.random_range(1..40) {
            twins.now.0 += gap;
            let call = twins.arrive(Criticality::Critical).expect("all is well");
            twins.now.0 += 1000;
            twins.end(call, End::Success);
        }
        let since = twins.now.0;
        let comes = |core: &mut Core, now: Tick| {
            let deadline = Tick(now.0 + SECOND);
            let _ = core.arrive(deadline, Criticality::Critical, now, &mut Wakers::default());
            core.stands_for();
            matches!(core.state, State::Down { silent: true, .. })
        };
        // Who saw none of the first few come counts from the next that it sees, and looks when it sees one: of those that
        // are not answered at once each eighth.
        let (mut noticed, mut late) = (false, 0);
        loop {
            twins.now.0 += gap;
            noticed = noticed || comes(&mut twins.plain, twins.now);
            if twins.laned.enter() {
                twins.laned.not_at_once();
            } else if comes(&mut twins.laned.lock(), twins.now) {
                break;
            }
            late += u32::from(noticed);
            let after = twins.now.0 - since;
            assert!(late <= 16, "seed {own}, limit {limit}, gap {gap}: still up after {after}");
        }
    }
}

/// What is out of the ordinary is decided with the lock.
#[test]
fn nobody_goes_past_the_lock_unless_all_is_well() {
    let open = |change: &dyn Fn(&mut Core)| {
        let mut core = Core::new(None, 10);
        core.make_quick(Tick(START));
        let laned = Guarded::new(core);
        change(&mut laned.lock());
        laned.enter()
    };
    let (now, end) = (Tick(START + SECOND), Tick(START + 2 * SECOND));
    let after = |how: End| {
        open(&move |core: &mut Core| {
            core.arrive(end, Criticality::Critical, now, &mut Wakers::default());
            core.finish(now, how, now, &mut Wakers::default());
        })
    };
    assert!(open(&|_| {}));
    assert!(after(End::Success));
    assert!(!after(End::Failure));
    assert!(!after(End::TooMany));
    // What is given up after a second may still be worked on.
    assert!(!open(&|core: &mut Core| {
        core.arrive(end, Criticality::Critical, Tick(START), &mut Wakers::default());
        let gone = End::Abandoned { deadline: now };
        core.finish(Tick(START), gone, now, &mut Wakers::default());
    }));
    // Half of the limit of four is in flight.
    assert!(!open(&|core: &mut Core| {
        core.arrive(end, Criticality::Critical, now, &mut Wakers::default());
        core.arrive(end, Criticality::Critical, now, &mut Wakers::default());
    }));
    let mut cold = Core::new(None, 10);
    cold.arrive(end, Criticality::Critical, now, &mut Wakers::default());
    let laned = Guarded::new(cold);
    drop(laned.lock());
    assert!(!laned.enter() && !laned.leave());
}

/// Nobody but who waits counted those that were not measured: after seven the way past the lock was closed for good.
#[tokio::test(start_paused = true)]
async fn who_does_not_wait_opens_the_lane_again() {
    let backend = crate::Backend::new("db");
    let mut past_the_lock = 0;
    for _ in 0..1000 {
        let now = crate::clock::now();
        let end = now.after(std::time::Duration::from_secs(1));
        if backend.shared.core.enter() {
            past_the_lock += 1;
        } else {
            let arrival = backend.arrive_at_once(end, Criticality::Critical, now);
            assert!(matches!(arrival, Arrival::Admitted), "{arrival:?}");
        }
        backend.finish(now, End::Success);
    }
    assert!(past_the_lock > 500, "{past_the_lock}");
}
