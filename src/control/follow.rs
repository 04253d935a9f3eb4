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
    is_there: Box<dyn Fn() -> bool + Send + Sync>,
    go_by: Box<dyn Fn(Option<Duration>) + Send + Sync>,
    /// What it goes by.
    now: Mutex<Option<Duration>>,
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

    /// Lets all that commands have put into stacks go by the timeouts that are in force. Not under a lock: it may be an event.
    pub(crate) fn follow_given_up(&self) {
        for it in self.still_following() {
            let mut now = *lock(&it.now);
            loop {
                // Again after each change: whoever is late and has brought an old one sees it here.
                let after = self.cancelled_after(&it.slot);
                if now == after {
                    break;
                }
                (it.go_by)(after);
                *lock(&it.now) = after;
                now = after;
            }
        }
    }

    /// Those that are in their slots. Of the others nothing is kept.
    pub(super) fn still_following(&self) -> Vec<Arc<Following>> {
        let all = lock(&self.places).following.clone();
        let (there, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| (it.is_there)());
        let is_gone = |it: &mut Arc<Following>| gone.iter().any(|gone| Arc::ptr_eq(gone, it));
        let out: Vec<_> = lock(&self.places).following.extract_if(.., is_gone).collect();
        drop(out);
        there
    }

    fn follow(&self, following: Following) {
        lock(&self.places).following.push(Arc::new(following));
        // It has perhaps changed since the object was built, and what was there before follows no more.
        self.follow_given_up();
    }

    /// `object` is what `is` says it is, and goes by what `go_by` is given.
    pub(super) fn goes_by_stack<T: Clone + Send + Sync + 'static>(
        &self,
        (name, slot): (String, Slot<T>),
        object: &T,
        is: fn(&T, &T) -> bool,
        now: GivenUp,
        go_by: impl Fn(&T, GivenUp) + Send + Sync + 'static,
    ) {
        let (there, object) = (object.clone(), object.clone());
        self.follow(Following {
            slot: name,
            is_there: Box::new(move || slot.holds(|it| is(it, &there))),
            go_by: Box::new(move |after| go_by(&object, after)),
            now: Mutex::new(now),
        });
    }
}
