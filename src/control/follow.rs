//! What commands have put into stacks goes by the timeouts of those, also when a file changes them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::registry::Registry;
use crate::presets::cancelled_after;
use crate::slot::Slot;
use crate::sync::{Mutex, lock};

/// An object whose `cancelled_after` follows from the timeouts of its stack, as nobody has said what it is to be.
pub(super) struct Following {
    slot: String,
    find: Box<dyn Fn() -> Found + Send + Sync>,
    go_by: Box<dyn Fn(Option<Duration>) + Send + Sync>,
    /// What it goes by.
    now: Mutex<Option<Duration>>,
}

/// Where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    InItsSlot,
    /// Perhaps for a moment.
    Elsewhere,
    Nowhere,
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Following").field(&self.slot).finish()
    }
}

/// When the calls are cut off that go through what is in this slot.
pub(super) type GivenUp = Option<Duration>;

impl Registry {
    /// What a breaker or a budget in this slot is to count if it is given up.
    pub(super) fn cancelled_after(&self, slot: &str) -> GivenUp {
        cancelled_after(lock(&self.places).given_up.get(slot).copied().flatten())
    }

    /// Whether a stack from a configuration has this slot.
    pub(super) fn has_stack(&self, slot: &str) -> bool {
        lock(&self.places).given_up.contains_key(slot)
    }

    /// The stack that has this slot cuts calls off after that time. What is in it does not follow before
    /// [`follow_given_up`](Self::follow_given_up).
    #[cfg(feature = "config")]
    pub(crate) fn set_given_up(&self, slot: String, after: GivenUp) {
        lock(&self.places).given_up.insert(slot, after);
    }

    /// Lets all that commands have put into stacks, and that is there, go by the timeouts that are in force. Not under a
    /// lock: it may be an event.
    pub(crate) fn follow_given_up(&self) {
        for it in self.still_following() {
            let mut now = *lock(&it.now);
            loop {
                // Again after each change: whoever is late and has brought an old one sees it here.
                let after = self.cancelled_after(&it.slot);
                if now == after {
                    break;
                }
                // Before: it may be an event, and who hears of it may look at the status, which comes here.
                *lock(&it.now) = after;
                (it.go_by)(after);
                now = after;
            }
        }
    }

    /// Those that are in their slots. Of what is gone nothing is kept.
    fn still_following(&self) -> Vec<Arc<Following>> {
        let all = lock(&self.places).following.clone();
        let found: Vec<_> = all.into_iter().map(|it| ((it.find)(), it)).collect();
        let is_gone = |it: &mut Arc<Following>| {
            found.iter().any(|(at, gone)| *at == Found::Nowhere && Arc::ptr_eq(gone, it))
        };
        let out: Vec<_> = lock(&self.places).following.extract_if(.., is_gone).collect();
        drop(out);
        found.into_iter().filter(|(at, _)| *at == Found::InItsSlot).map(|(_, it)| it).collect()
    }

    fn follow(&self, following: Following) {
        lock(&self.places).following.push(Arc::new(following));
        // It has perhaps changed since the object was built, and what was there before follows no more.
        self.follow_given_up();
    }

    /// What `find` finds while it lives is what `is` says it is, and goes by what `go_by` is given.
    pub(super) fn goes_by_stack<T: Clone + Send + Sync + 'static>(
        &self,
        (name, slot): (String, Slot<T>),
        find: impl Fn() -> Option<T> + Clone + Send + Sync + 'static,
        is: fn(&T, &T) -> bool,
        now: GivenUp,
        go_by: impl Fn(&T, GivenUp) + Send + Sync + 'static,
    ) {
        let there = find.clone();
        self.follow(Following {
            slot: name,
            find: Box::new(move || match there() {
                Some(object) if slot.holds(|it| is(it, &object)) => Found::InItsSlot,
                Some(_) => Found::Elsewhere,
                None => Found::Nowhere,
            }),
            go_by: Box::new(move |after| {
                if let Some(object) = find() {
                    go_by(&object, after);
                }
            }),
            now: Mutex::new(now),
        });
    }
}
