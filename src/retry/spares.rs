//! Instances that are never called, only cloned, by whichever thread needs a clone.

use std::time::Duration;

use crate::sync::{Mutex, lock, stripe_count};

#[cfg(buttress_loom)]
use loom::{sync::Condvar, thread};
#[cfg(not(buttress_loom))]
use std::{sync::Condvar, thread};

/// So long, in real time, a thread waits for those that have all of them in hand.
const PATIENCE: Duration = Duration::from_secs(1);

/// So many more than threads there may be, for clones that make calls.
const NESTED: usize = 4;

/// One to begin with, and more once threads have come at the same time, or a clone has asked for a clone. Cloning is user code: one is taken out for
/// that, under no lock.
pub(super) struct Spares<S> {
    all: Mutex<All<S>>,
    back: Condvar,
    clone: fn(&S) -> S,
}

struct All<S> {
    free: Vec<S>,
    /// How many there are, with those that are being cloned.
    made: usize,
    /// Who has one of them out.
    hands: Vec<thread::ThreadId>,
    waiting: usize,
    /// Who cloned one has asked for another, and there was none.
    short: bool,
}

/// One that is out. It comes back, also from a panic.
struct Out<'a, S> {
    one: Option<S>,
    spares: &'a Spares<S>,
}

impl<S> Drop for Out<'_, S> {
    fn drop(&mut self) {
        let mut all = lock(&self.spares.all);
        let me = thread::current().id();
        if let Some(at) = all.hands.iter().position(|hand| *hand == me) {
            all.hands.swap_remove(at);
        }
        all.free.extend(self.one.take());
        let awaited = all.waiting > 0;
        drop(all);
        if awaited {
            self.spares.back.notify_one();
        }
    }
}

impl<S: Clone> Spares<S> {
    pub(super) fn new(one: S) -> Self {
        let all = All { free: vec![one], made: 1, hands: Vec::new(), waiting: 0, short: false };
        Self { all: Mutex::new(all), back: Condvar::new(), clone: S::clone }
    }
}

impl<S> Spares<S> {
    /// A clone. `None` if all are in our own hands, as a `Clone` may make calls, or for long in those of others. The next
    /// time there is one more.
    pub(super) fn get(&self) -> Option<S> {
        let (out, waited) = self.take()?;
        let clone = out.one.as_ref().map(self.clone);
        if self.may_grow(waited) {
            let more = Growing(self);
            let another = out.one.as_ref().map(self.clone);
            std::mem::forget(more);
            let mut all = lock(&self.all);
            all.free.extend(another);
            // That clone has perhaps asked, too.
            all.short = false;
            let awaited = all.waiting > 0;
            drop(all);
            if awaited {
                self.back.notify_one();
            }
        }
        clone
    }

    /// One of them, and whether it had to be waited for.
    fn take(&self) -> Option<(Out<'_, S>, bool)> {
        let me = thread::current().id();
        let (mut waited, mut late) = (false, false);
        let mut all = lock(&self.all);
        loop {
            if let Some(one) = all.free.pop() {
                all.hands.push(me);
                return Some((Out { one: Some(one), spares: self }, waited));
            }
            if all.hands.contains(&me) {
                all.short = true;
                return None;
            }
            if late {
                return None;
            }
            waited = true;
            all.waiting += 1;
            let again = self.back.wait_timeout(all, PATIENCE);
            let (guard, result) = again.unwrap_or_else(std::sync::PoisonError::into_inner);
            (all, late) = (guard, result.timed_out());
            all.waiting -= 1;
        }
    }

    fn may_grow(&self, waited: bool) -> bool {
        let mut all = lock(&self.all);
        let most = match (std::mem::take(&mut all.short), waited) {
            (true, _) => stripe_count() + NESTED,
            (false, true) => stripe_count(),
            (false, false) => return false,
        };
        let few = all.made < most;
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

    /// It cannot be foreseen: only the first one goes without.
    #[test]
    fn a_clone_that_asks_for_a_clone_gets_none_once() {
        static SPARES: OnceLock<Spares<Hooked>> = OnceLock::new();
        let (depth, got) = (AtomicU32::new(0), Arc::<[AtomicU32; 2]>::default());
        let told = Arc::clone(&got);
        let hook: Hook = Arc::new(move || {
            if depth.fetch_add(1, Relaxed) == 0
                && let Some(spares) = SPARES.get()
            {
                told[usize::from(spares.get().is_some())].fetch_add(1, Relaxed);
            }
            depth.fetch_sub(1, Relaxed);
        });
        let spares = SPARES.get_or_init(|| Spares::new(Hooked(hook)));
        for turn in 0..4 {
            assert!(spares.get().is_some());
            // The second instance is a clone that asks, too.
            assert_eq!((got[0].load(Relaxed), got[1].load(Relaxed)), (2, turn));
        }
        let all = lock(&spares.all);
        assert_eq!((all.made, all.free.len(), all.hands.len(), all.short), (2, 2, 0, false));
    }

    #[test]
    fn who_comes_while_another_clones_waits_and_from_then_on_two_clone_at_once() {
        static SPARES: OnceLock<Spares<Hooked>> = OnceLock::new();
        let (meet, clones) = (Arc::new(Barrier::new(2)), Arc::new(AtomicU32::new(0)));
        let hook: Hook = {
            let (meet, clones) = (Arc::clone(&meet), Arc::clone(&clones));
            Arc::new(move || match clones.fetch_add(1, Relaxed) {
                // Until another thread waits for it, and longer than a few turns of that would take.
                0 => {
                    while SPARES.get().is_none_or(|spares| lock(&spares.all).waiting == 0) {
                        std::thread::yield_now();
                    }
                    crate::clock::park(Duration::from_millis(20));
                }
                // What that one gets, and the second instance.
                1 | 2 => {}
                // Each waits in its clone until another is in its own: under a lock none would end.
                _ => drop(meet.wait()),
            })
        };
        let spares = SPARES.get_or_init(|| Spares::new(Hooked(hook)));
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(spares.get().is_some()));
            while clones.load(Relaxed) == 0 {
                std::thread::yield_now();
            }
            scope.spawn(|| assert!(spares.get().is_some(), "its retry would not be made"));
        });
        assert_eq!(lock(&spares.all).made, 2);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| assert!(spares.get().is_some()));
            }
        });
        let all = lock(&spares.all);
        assert_eq!((all.free.len(), all.hands.len(), all.waiting), (2, 0, 0));
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

    /// Whoever comes at the same time, each gets a clone, and all come back.
    #[test]
    fn loom_spares_come_back_from_threads_that_meet() {
        loom::model(|| {
            let spares = Arc::new(Spares::new(std::sync::Arc::new(())));
            let other = {
                let spares = Arc::clone(&spares);
                thread::spawn(move || spares.get().is_some())
            };
            let here = spares.get().is_some();
            assert!(other.join().expect("no panic") && here, "each gets one");
            let all = lock(&spares.all);
            assert!(all.free.len() == all.made && all.made <= 2);
            assert!(all.hands.is_empty() && all.waiting == 0);
        });
    }
}
