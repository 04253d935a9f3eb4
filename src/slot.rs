//! A place in a running stack for an object that comes and goes.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::sync::Padded;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Lease, Mutex, lock};

#[cfg(feature = "config")]
mod follow;
mod made;
mod seat;

#[cfg(feature = "config")]
use follow::{Follower, Told};
pub(crate) use made::Made;
pub(crate) use seat::{Held, Seat};

/// A place in a stack where an object is installed, replaced and uninstalled while the stack runs.
///
/// A layer made from a slot looks into it at each call. Clones of a slot, the layers made from it and
/// their services share one place. A call uses the object that was there when it was made, to its end:
/// none sees half of a change. Looking at an empty slot costs one relaxed load; a change costs each service
/// one mutex when it looks next, which only a few threads share. What was there before is let go of by each service
/// with its next call; one that is never called, only cloned for each call, holds nothing, and its clones look.
///
/// ```
/// use buttress::Slot;
///
/// let slot = Slot::new();
/// assert_eq!(slot.install("first"), None);
/// assert_eq!(slot.install("second"), Some("first"));
/// assert_eq!(slot.uninstall(), Some("second"));
/// assert_eq!(slot.uninstall(), None, "idempotent");
/// ```
pub struct Slot<T> {
    place: Lease<Place<T>>,
}

struct Place<T> {
    /// Rises with every change. Services compare it with the one that they have seen.
    version: Padded<AtomicU64>,
    held: Mutex<Content<T>>,
    /// For services that look after a change.
    known: OnceLock<Made<Option<T>>>,
}

struct Content<T> {
    object: Option<T>,
    engaged: Engaged<T>,
    /// One that has what this one has.
    #[cfg(feature = "config")]
    follower: Option<Follower<T>>,
    /// Who is told of each change.
    #[cfg(feature = "config")]
    told: Option<Told<T>>,
}

/// What is held back through a slot that is a lever: it may leave the slot before it is let go.
pub(crate) struct Engaged<T> {
    /// How many hold.
    pub(crate) holds: usize,
    /// Each once, until nobody holds any more.
    pub(crate) objects: Vec<T>,
}

/// The version of a slot that has always been empty.
const UNTOUCHED: u64 = 0;

impl<T> Slot<T> {
    /// An empty slot.
    ///
    /// ```
    /// assert_eq!(buttress::Slot::<u8>::new().get(), None);
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::of(None, UNTOUCHED)
    }

    /// A slot with `object` in it.
    ///
    /// ```
    /// assert_eq!(buttress::Slot::with(7).get(), Some(7));
    /// ```
    #[must_use]
    pub fn with(object: T) -> Self {
        Self::of(Some(object), UNTOUCHED + 1)
    }

    fn of(object: Option<T>, version: u64) -> Self {
        let held = Content {
            object,
            engaged: Engaged { holds: 0, objects: Vec::new() },
            #[cfg(feature = "config")]
            follower: None,
            #[cfg(feature = "config")]
            told: None,
        };
        let (version, held) = (Padded(AtomicU64::new(version)), Mutex::new(held));
        let place = Place { version, held, known: OnceLock::new() };
        Self { place: Lease::new(Arc::new(place)) }
    }

    /// Puts `object` in, and returns what was there.
    ///
    /// ```
    /// let slot = buttress::Slot::with(1);
    /// assert_eq!(slot.install(2), Some(1));
    /// ```
    pub fn install(&self, object: T) -> Option<T> {
        self.change(Some(object))
    }

    /// Takes out what is there. Calls that have begun finish with it.
    ///
    /// ```
    /// let slot = buttress::Slot::with(1);
    /// assert_eq!(slot.uninstall(), Some(1));
    /// ```
    pub fn uninstall(&self) -> Option<T> {
        self.change(None)
    }

    /// The same for clones of it, and for no other that is there at the same time. Never 0.
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(self.place.shared()).addr()
    }

    /// Rises with every change.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        // Relaxed: what the version stands for is read under the mutex.
        self.place.version.load(Ordering::Relaxed)
    }

    fn change(&self, object: Option<T>) -> Option<T> {
        let mut held = lock(&self.place.held);
        #[cfg(feature = "config")]
        let followed = held.follower.as_ref().and_then(|it| {
            let slot = Self { place: Lease::new(it.place.upgrade()?) };
            let before = slot.change(object.as_ref().map(|object| (it.clone)(object)));
            Some((slot, before))
        });
        #[cfg(feature = "config")]
        let told = held.told.as_ref().map(|tell| tell(object.as_ref()));
        let before = std::mem::replace(&mut held.object, object);
        self.changed();
        drop(held);
        #[cfg(feature = "config")]
        drop((followed, told));
        self.forget();
        before
    }

    /// Under the lock.
    fn changed(&self) {
        self.place.version.fetch_add(1, Ordering::Relaxed);
    }

    /// What has been is not kept for those who look.
    fn forget(&self) {
        if let Some(known) = self.place.known.get() {
            known.clear();
        }
    }
}

/// A slot with that in it.
impl<T> From<T> for Slot<T> {
    fn from(object: T) -> Self {
        Self::with(object)
    }
}

impl<T: Clone> Slot<T> {
    /// A clone of what is there.
    ///
    /// ```
    /// assert_eq!(buttress::Slot::with("object").get(), Some("object"));
    /// ```
    #[must_use]
    pub fn get(&self) -> Option<T> {
        lock(&self.place.held).object.clone()
    }
}

impl<T> Slot<T> {
    /// What is there, and what is held back through the slot, for `f` to change. Under the lock: `f` runs no user code and
    /// drops nothing.
    pub(crate) fn with_engaged<R>(&self, f: impl FnOnce(Option<&T>, &mut Engaged<T>) -> R) -> R {
        let mut held = lock(&self.place.held);
        let held = &mut *held;
        f(held.object.as_ref(), &mut held.engaged)
    }

    /// Whether something is there, and it is that. `is` runs under the lock, and nothing is dropped.
    pub(crate) fn holds(&self, is: impl FnOnce(&T) -> bool) -> bool {
        lock(&self.place.held).object.as_ref().is_some_and(is)
    }
}

impl<T: Clone> Slot<T> {
    /// A clone of what is there, and the version of just that.
    pub(crate) fn versioned(&self) -> (u64, Option<T>) {
        let held = lock(&self.place.held);
        (self.version(), held.object.clone())
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self { place: self.place.clone() }
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&lock(&self.place.held).object).finish()
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests;
