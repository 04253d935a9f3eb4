use crate::sync::{Mutex, Padded, lock, stripe_count, thread_number};

use super::Slot;

/// What services make of the object in a slot: made again after a change, by each of a few groups of threads
/// once. A service that is never called itself, only cloned for each call, does not see changes; its clones
/// find here what has been made of them.
pub(crate) struct Made<T> {
    stripes: Box<[Padded<Known<T>>]>,
}

/// With the version that it was made of.
type Known<T> = Mutex<Option<(u64, T)>>;

impl<T> Made<T> {
    pub(crate) fn new() -> Self {
        Self { stripes: (0..stripe_count()).map(|_| Padded(Mutex::new(None))).collect() }
    }

    pub(super) fn clear(&self) {
        for stripe in &self.stripes {
            let before = lock(stripe).take();
            drop(before);
        }
    }
}

impl<T: Clone> Made<T> {
    /// What `make` makes of what is in the slot, and the version of that.
    pub(crate) fn of<O: Clone>(
        &self,
        slot: &Slot<O>,
        make: impl FnOnce(Option<O>) -> T,
    ) -> (u64, T) {
        let stripe = &*self.stripes[thread_number() & (self.stripes.len() - 1)];
        let version = slot.version();
        let known = lock(stripe).as_ref().filter(|known| known.0 == version).cloned();
        if let Some(known) = known {
            return known;
        }
        let (version, object) = slot.versioned();
        let made = (version, make(object));
        let before = lock(stripe).replace(made.clone());
        // Its last reference may be ours, and dropping it may run user code.
        drop(before);
        if slot.version() != version {
            // Whoever has changed it has perhaps cleared this before.
            let late = lock(stripe).take_if(|known| known.0 == version);
            drop(late);
        }
        made
    }
}
