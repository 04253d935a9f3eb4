//! Instances that are never called, only cloned, by whichever thread needs a clone.

use crate::sync::{Mutex, lock, stripe_count};

#[cfg(buttress_loom)]
use loom::thread::yield_now;
#[cfg(not(buttress_loom))]
use std::thread::yield_now;

/// So often a thread steps aside for those that have all of them in hand.
#[cfg(not(buttress_loom))]
const PATIENCE: u32 = 1000;
#[cfg(buttress_loom)]
const PATIENCE: u32 = 2;

/// One to begin with, and more once threads have come at the same time. Cloning is user code: one is taken out for
/// that, under no lock.
pub(super) struct Spares<S> {
    all: Mutex<All<S>>,
    clone: fn(&S) -> S,
}

struct All<S> {
    free: Vec<S>,
    /// How many there are, with those that are being cloned.
    made: usize,
}

/// One that is out. It comes back, also from a panic.
struct Out<'a, S> {
    one: Option<S>,
    spares: &'a Spares<S>,
}

impl<S> Drop for Out<'_, S> {
    fn drop(&mut self) {
        if let Some(one) = self.one.take() {
            lock(&self.spares.all).free.push(one);
        }
    }
}

impl<S: Clone> Spares<S> {
    pub(super) fn new(one: S) -> Self {
        Self { all: Mutex::new(All { free: vec![one], made: 1 }), clone: S::clone }
    }
}

impl<S> Spares<S> {
    /// A clone. `None` if for long all have been in the hands of others, or in our own: a `Clone` may make calls.
    pub(super) fn get(&self) -> Option<S> {
        let mut waits = 0;
        let one = loop {
            let one = lock(&self.all).free.pop();
            if one.is_some() || waits == PATIENCE {
                break one?;
            }
            waits += 1;
            yield_now();
        };
        let out = Out { one: Some(one), spares: self };
        let clone = out.one.as_ref().map(self.clone);
        if waits > 0 && self.may_grow() {
            let more = Growing(self);
            let another = out.one.as_ref().map(self.clone);
            std::mem::forget(more);
            drop(Out { one: another, spares: self });
        }
        clone
    }

    fn may_grow(&self) -> bool {
        let mut all = lock(&self.all);
        let few = all.made < stripe_count();
        all.made += usize::from(few);
        few
    }
}

/// One more is being made. If that fails, there is none more.
struct Growing<'a, S>(&'a Spares<S>);

impl<S> Drop for Growing<'_, S> {
    fn drop(&mut self) {
        lock(&self.0.all).made -= 1;
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::sync::{Arc, Barrier, OnceLock, Weak};
    use std::time::Duration;

    use super::*;

    type Hook = Arc<dyn Fn() + Send + Sync>;

    struct Hooked(Hook);

    impl Clone for Hooked {
        fn clone(&self) -> Self {
            (self.0)();
            Self(Arc::clone(&self.0))
        }
    }

    #[test]
    fn a_clone_that_asks_for_a_clone_gets_none_and_the_next_one_does() {
        static SPARES: OnceLock<Spares<Hooked>> = OnceLock::new();
        let depth = AtomicU32::new(0);
        let hook: Hook = Arc::new(move || {
            if depth.fetch_add(1, Relaxed) == 0 {
                assert!(SPARES.get().is_none_or(|spares| spares.get().is_none()));
            }
            depth.fetch_sub(1, Relaxed);
        });
        let spares = SPARES.get_or_init(|| Spares::new(Hooked(hook)));
        for _ in 0..3 {
            assert!(spares.get().is_some());
        }
    }

    #[test]
    fn clones_are_made_at_the_same_time_once_threads_have_come_at_the_same_time() {
        // Each waits in its clone until another is in its own: under a lock none would end.
        let meet = Arc::new(Barrier::new(2));
        let (clones, slow) = (Arc::new(AtomicU32::new(0)), Duration::from_millis(50));
        let hook: Hook = {
            let (meet, clones) = (Arc::clone(&meet), Arc::clone(&clones));
            Arc::new(move || {
                match clones.fetch_add(1, Relaxed) {
                    // The first is slow enough for another thread to miss it.
                    0 => crate::clock::park(slow),
                    // What that one gets, and the second instance.
                    1 | 2 => {}
                    _ => drop(meet.wait()),
                }
            })
        };
        let spares = Spares::new(Hooked(hook));
        std::thread::scope(|scope| {
            scope.spawn(|| spares.get().is_some());
            while clones.load(Relaxed) == 0 {
                std::thread::yield_now();
            }
            // It may have to ask more than once, if it is very quick to give up.
            scope.spawn(|| while spares.get().is_none() {});
        });
        assert_eq!(lock(&spares.all).made, 2, "{}", clones.load(Relaxed));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| assert!(spares.get().is_some()));
            }
        });
        assert_eq!(lock(&spares.all).free.len(), 2);
    }

    #[test]
    fn a_panic_in_a_clone_loses_none() {
        let clones = AtomicU32::new(0);
        let hook: Hook = Arc::new(move || {
            assert_ne!(clones.fetch_add(1, Relaxed), 0, "the first");
        });
        let spares = Spares::new(Hooked(hook));
        let once =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| spares.get().is_some()));
        assert!(once.is_err());
        assert!(spares.get().is_some());
    }

    #[test]
    fn nothing_is_kept_after_the_last() {
        let one = Arc::new(());
        let weak: Weak<()> = Arc::downgrade(&one);
        let spares = Spares::new(one);
        drop((spares.get(), spares.get()));
        assert_eq!(weak.strong_count(), 1);
        drop(spares);
        assert_eq!(weak.strong_count(), 0);
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Whoever comes at the same time, each gets a clone or has waited, and all come back.
    #[test]
    fn loom_spares_come_back_from_threads_that_meet() {
        loom::model(|| {
            let spares = Arc::new(Spares::new(std::sync::Arc::new(())));
            let other = {
                let spares = Arc::clone(&spares);
                thread::spawn(move || spares.get().is_some())
            };
            let here = spares.get().is_some();
            assert!(other.join().expect("no panic") || here, "somebody always gets one");
            let all = lock(&spares.all);
            assert!(all.free.len() == all.made && all.made <= 2);
        });
    }
}
