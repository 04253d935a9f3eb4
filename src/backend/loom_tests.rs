//! Every interleaving of calls that come, wait, leave and end at one backend: no place is lost, no waiter that has
//! one sleeps on, and never are more out than the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use loom::thread;

use super::turn::{Arrival, End, Key, Settled, Turn};
use super::{Backend, Observers};
use crate::clock::{Tick, now};
use crate::context::Criticality;
use crate::managed::Home;
use crate::name::Name;

/// All interleavings with up to so many switches where none is forced: more of them finds nothing more here.
fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(f);
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Flag {
    /// Whether it was up.
    fn lower(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

fn of(limit: u32) -> (Backend, Tick) {
    let mut observers = Observers::default();
    observers.move_to(Home::Nowhere);
    (Backend::with(Name::from("loom"), Some(limit), observers), now())
}

fn arrive(backend: &Backend, start: Tick) -> Arrival {
    backend.arrive(start.after(Duration::from_secs(3600)), Criticality::Critical, start).0
}

/// At a backend that is full.
fn waits(backend: &Backend, start: Tick) -> Key {
    match arrive(backend, start) {
        Arrival::Wait(key) => key,
        other => panic!("{other:?}"),
    }
}

/// It has the place: at once, or it was told while `others` were at work.
fn gets_it(backend: &Backend, key: Key, others: impl FnOnce()) {
    let flag = Arc::<Flag>::default();
    let waker = Waker::from(Arc::clone(&flag));
    let first = backend.poll(key, &waker);
    others();
    match first {
        Turn::Settled(how) => assert!(matches!(how, Settled::Granted(_)), "{how:?}"),
        Turn::At(_) => {
            assert!(flag.lower(), "it has a place and does not know");
            let again = backend.poll(key, &waker);
            assert!(matches!(again, Turn::Settled(Settled::Granted(_))), "{again:?}");
        }
    }
}

fn is_empty(backend: &Backend) {
    let stats = backend.stats();
    assert_eq!((stats.in_flight, stats.waiting), (0, 0));
    assert!(backend.shared.core.lock().has_settled_all());
}

#[test]
fn loom_a_place_that_comes_back_beside_a_call_that_comes() {
    model(|| {
        let (backend, start) = of(1);
        assert!(matches!(arrive(&backend, start), Arrival::Admitted));
        let other = backend.clone();
        let ends = thread::spawn(move || other.finish(start, End::Success));
        match arrive(&backend, start) {
            Arrival::Admitted => ends.join().unwrap(),
            Arrival::Wait(key) => gets_it(&backend, key, || ends.join().unwrap()),
            other => panic!("{other:?}"),
        }
        backend.finish(start, End::Success);
        is_empty(&backend);
    });
}

/// It may have been handed the place already, which then is the next one's.
#[test]
fn loom_a_waiter_that_leaves_beside_a_place_that_comes_back() {
    model(|| {
        let (backend, start) = of(1);
        assert!(matches!(arrive(&backend, start), Arrival::Admitted));
        let (gone, stays) = (waits(&backend, start), waits(&backend, start));
        let (ending, leaving) = (backend.clone(), backend.clone());
        let ends = thread::spawn(move || ending.finish(start, End::Success));
        let leaves = thread::spawn(move || leaving.leave(gone));
        gets_it(&backend, stays, || {
            ends.join().unwrap();
            leaves.join().unwrap();
        });
        backend.finish(start, End::Success);
        is_empty(&backend);
    });
}

/// Both that could have it leave while it comes back: it is free.
#[test]
fn loom_all_waiters_leave_beside_a_place_that_comes_back() {
    model(|| {
        let (backend, start) = of(1);
        assert!(matches!(arrive(&backend, start), Arrival::Admitted));
        let (one, two) = (waits(&backend, start), waits(&backend, start));
        let (ending, leaving) = (backend.clone(), backend.clone());
        let ends = thread::spawn(move || ending.finish(start, End::Success));
        let leaves = thread::spawn(move || leaving.leave(one));
        backend.leave(two);
        ends.join().unwrap();
        leaves.join().unwrap();
        is_empty(&backend);
        assert!(matches!(arrive(&backend, start), Arrival::Admitted));
    });
}

/// A call that moves to another task while its place comes: who has polled it last is told.
#[test]
fn loom_a_waiter_that_is_polled_by_another_task() {
    model(|| {
        let (backend, start) = of(1);
        assert!(matches!(arrive(&backend, start), Arrival::Admitted));
        let key = waits(&backend, start);
        let before = Arc::<Flag>::default();
        assert!(matches!(backend.poll(key, &Waker::from(before)), Turn::At(_)));
        let ending = backend.clone();
        let ends = thread::spawn(move || ending.finish(start, End::Success));
        gets_it(&backend, key, || ends.join().unwrap());
        backend.finish(start, End::Success);
        is_empty(&backend);
    });
}

/// The one that is awake for the core's own times leaves: somebody else is then.
#[test]
fn loom_the_keeper_leaves_beside_one_that_comes() {
    model(|| {
        let (backend, start) = of(1);
        assert!(matches!(arrive(&backend, start), Arrival::Admitted));
        let keeper = waits(&backend, start);
        let leaving = backend.clone();
        let leaves = thread::spawn(move || leaving.leave(keeper));
        let key = waits(&backend, start);
        leaves.join().unwrap();
        assert!(backend.shared.core.lock().has_keeper());
        gets_it(&backend, key, || backend.finish(start, End::Success));
        backend.finish(start, End::Success);
        is_empty(&backend);
    });
}

/// Two come while the place comes back: one at a time is out, and each in its turn.
#[test]
fn loom_never_more_than_the_limit() {
    fn call(backend: &Backend, start: Tick, out: &AtomicU32, flag: &Arc<Flag>) -> Option<Key> {
        match arrive(backend, start) {
            Arrival::Admitted => {
                assert_eq!(out.fetch_add(1, Ordering::SeqCst), 0);
                thread::yield_now();
                out.fetch_sub(1, Ordering::SeqCst);
                backend.finish(start, End::Success);
                None
            }
            Arrival::Wait(key) => match backend.poll(key, &Waker::from(Arc::clone(flag))) {
                Turn::Settled(how) => {
                    assert!(matches!(how, Settled::Granted(_)), "{how:?}");
                    assert_eq!(out.fetch_add(1, Ordering::SeqCst), 0);
                    out.fetch_sub(1, Ordering::SeqCst);
                    backend.finish(start, End::Success);
                    None
                }
                Turn::At(_) => Some(key),
            },
            other => panic!("{other:?}"),
        }
    }
    model(|| {
        let (backend, start) = of(1);
        let out = Arc::new(AtomicU32::new(1));
        assert!(matches!(arrive(&backend, start), Arrival::Admitted));
        let flags: [Arc<Flag>; 2] = Default::default();
        let threads = flags.clone().map(|flag| {
            let (backend, out) = (backend.clone(), Arc::clone(&out));
            thread::spawn(move || call(&backend, start, &out, &flag))
        });
        out.fetch_sub(1, Ordering::SeqCst);
        backend.finish(start, End::Success);
        let mut left: Vec<_> = Vec::new();
        for (thread, flag) in threads.into_iter().zip(&flags) {
            left.extend(thread.join().unwrap().map(|key| (key, flag)));
        }
        // Who still waits is woken, one after the other; some perhaps only to keep watch.
        while !left.is_empty() {
            let at = left.iter().position(|(_, flag)| flag.lower()).expect("somebody is told");
            let (key, flag) = left[at];
            match backend.poll(key, &Waker::from(Arc::clone(flag))) {
                Turn::Settled(how) => {
                    assert!(matches!(how, Settled::Granted(_)), "{how:?}");
                    assert_eq!(backend.stats().in_flight, 1);
                    backend.finish(start, End::Success);
                    left.remove(at);
                }
                Turn::At(_) => assert_eq!(backend.stats().in_flight, 1),
            }
        }
        is_empty(&backend);
    });
}

/// At which calls go past the lock while one or none is in flight.
fn quick(limit: u32) -> (Backend, Tick) {
    let (backend, start) = of(limit);
    backend.shared.core.lock().make_quick(start);
    (backend, start)
}

fn admitted(backend: &Backend, start: Tick) -> bool {
    let end = start.after(Duration::from_secs(3600));
    let (arrival, stands_for) = backend.arrive(end, Criticality::Critical, start);
    assert!(matches!(arrival, Arrival::Admitted), "{arrival:?}");
    stands_for == 0
}

/// Who has come past the lock and wants to go so finds that somebody waits for the place.
#[test]
fn loom_a_place_that_was_had_past_the_lock_goes_to_who_waits() {
    model(|| {
        let (backend, start) = quick(3);
        let other = backend.clone();
        let calls = thread::spawn(move || {
            match other.arrive(start.after(Duration::from_secs(3600)), Criticality::Critical, start)
            {
                (Arrival::Admitted, 0) => other.finish_at_once(|| start),
                (Arrival::Admitted, _) => other.finish(start, End::Success),
                (Arrival::Wait(key), _) => other.leave(key),
                other => panic!("{other:?}"),
            }
        });
        let mut waiting = None;
        for _ in 0..3 {
            match arrive(&backend, start) {
                Arrival::Admitted => {}
                Arrival::Wait(key) => {
                    assert!(waiting.replace(key).is_none(), "only one more is there");
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(backend.stats().in_flight <= 3);
        match waiting {
            Some(key) => gets_it(&backend, key, || calls.join().unwrap()),
            None => calls.join().unwrap(),
        }
        assert_eq!(backend.stats().in_flight, 3);
        (0..3).for_each(|_| backend.finish(start, End::Success));
        is_empty(&backend);
    });
}

/// Some go past the lock while others take it: each is counted once.
#[test]
fn loom_calls_past_the_lock_beside_those_that_take_it() {
    model(|| {
        let (backend, start) = quick(100);
        let threads = [End::Success, End::Ignored].map(|end| {
            let backend = backend.clone();
            thread::spawn(move || {
                if admitted(&backend, start) && end == End::Success {
                    backend.finish_at_once(|| start);
                } else {
                    backend.finish(start, end);
                }
            })
        });
        assert!(backend.stats().in_flight <= 2);
        let _ = threads.map(|thread| thread.join().unwrap());
        assert_eq!(backend.stats().admitted, 2);
        is_empty(&backend);
    });
}

/// One that has come past the lock is not answered at once, while another takes the lock: it is counted, once.
#[test]
fn loom_one_that_is_not_answered_at_once_counts_beside_the_lock() {
    model(|| {
        let (backend, start) = quick(100);
        assert!(admitted(&backend, start));
        let other = backend.clone();
        let looks = thread::spawn(move || other.stats().in_flight);
        backend.not_at_once();
        assert_eq!(looks.join().unwrap(), 1);
        assert_eq!(backend.shared.core.lock().unmeasured(), (1, 1));
        backend.finish(start, End::Success);
        is_empty(&backend);
    });
}

/// The last place that can be had so: one gets it, the other comes by the lock, whoever is first.
#[test]
fn loom_the_last_place_past_the_lock() {
    model(|| {
        let (backend, start) = quick(3);
        let core = &backend.shared.core;
        assert_eq!(core.lock().calm().map(|calm| calm.most), Some(1));
        let other = backend.clone();
        let comes = thread::spawn(move || other.shared.core.enter());
        let here = core.enter();
        let there = comes.join().unwrap();
        assert!(here != there, "one of both");
        assert!(!core.enter());
        assert_eq!(backend.stats().in_flight, 1);
        backend.finish_at_once(|| start);
        is_empty(&backend);
    });
}
