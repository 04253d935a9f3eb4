//! A place in a running stack for an object that comes and goes.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::sync::Padded;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Lease, Mutex, lock, stripe_count, thread_number};

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

/// What it returns is dropped when no lock is held.
#[cfg(feature = "config")]
type Told<T> = Box<dyn Fn(Option<&T>) -> Box<dyn std::any::Any> + Send>;

#[cfg(feature = "config")]
struct Follower<T> {
    /// It ends with whoever looks at it.
    place: std::sync::Weak<Place<T>>,
    clone: fn(&T) -> T,
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

#[cfg(feature = "config")]
impl<T: Clone> Slot<T> {
    /// Puts what `next` makes of what is there into it and into a new slot, which follows it from now on instead of the
    /// one that did so far: that one stays as it is. `then` is run with the new one before anything else can change it.
    /// Returns what was there.
    pub(crate) fn hand_over<R>(
        &self,
        next: impl FnOnce(Option<&T>) -> Option<T>,
        then: impl FnOnce(Self) -> R,
    ) -> (Option<T>, R) {
        let mut held = lock(&self.place.held);
        let object = next(held.object.as_ref());
        let slot = object.clone().map_or_else(Self::new, Self::with);
        let follower = slot.as_follower();
        let done = then(slot);
        held.follower = Some(follower);
        let before = std::mem::replace(&mut held.object, object);
        self.changed();
        drop(held);
        self.forget();
        (before, done)
    }

    /// Puts what `next` makes of what is there into it, and runs `then` with that before anything else can change it. Returns
    /// what was there.
    pub(crate) fn settle<R>(
        &self,
        next: impl FnOnce(Option<&T>) -> Option<T>,
        then: impl FnOnce(Option<&T>) -> R,
    ) -> (Option<T>, R) {
        let mut held = lock(&self.place.held);
        let object = next(held.object.as_ref());
        let done = then(object.as_ref());
        let before = std::mem::replace(&mut held.object, object);
        self.changed();
        drop(held);
        self.forget();
        (before, done)
    }

    /// Puts what `change` makes of what is there in its place, if anything is there. Returns what was there.
    pub(crate) fn alter(&self, change: impl FnOnce(&mut T)) -> Option<T> {
        let mut held = lock(&self.place.held);
        let mut object = held.object.clone()?;
        change(&mut object);
        let before = held.object.replace(object);
        self.changed();
        drop(held);
        self.forget();
        before
    }

    /// From now on, each [`install`](Self::install) and [`uninstall`](Self::uninstall) also changes what is in `other`, at
    /// the same time.
    pub(crate) fn tell<P: Clone + Send + Sync + 'static>(
        &self,
        other: &Slot<P>,
        change: impl Fn(&mut P, Option<&T>) + Send + 'static,
    ) {
        // It ends with whoever looks at the other one.
        let other = Arc::downgrade(other.place.shared());
        let tell = move |object: Option<&T>| -> Box<dyn std::any::Any> {
            let other = other.upgrade().map(|place| Slot { place: Lease::new(place) });
            Box::new(other.map(|other| (other.alter(|it| change(it, object)), other)))
        };
        let before = lock(&self.place.held).told.replace(Box::new(tell));
        drop(before);
    }

    /// A slot that follows it from now on, unless there is one that somebody looks at.
    pub(crate) fn claim(&self) -> Option<Self> {
        let mut held = lock(&self.place.held);
        if held.follower.as_ref().is_some_and(|it| it.place.strong_count() > 0) {
            return None;
        }
        let slot = held.object.clone().map_or_else(Self::new, Self::with);
        held.follower = Some(slot.as_follower());
        Some(slot)
    }

    fn as_follower(&self) -> Follower<T> {
        Follower { place: Arc::downgrade(self.place.shared()), clone: T::clone }
    }
}

impl<T: Clone> Slot<T> {
    /// A clone of what is there, and the version of just that.
    pub(crate) fn versioned(&self) -> (u64, Option<T>) {
        let held = lock(&self.place.held);
        (self.version(), held.object.clone())
    }
}

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

    fn clear(&self) {
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

/// A service's view of a slot: what it last saw there.
pub(crate) struct Seat<T> {
    slot: Slot<T>,
    seen: u64,
    current: Option<T>,
}

impl<T: Clone> Seat<T> {
    /// It has seen nothing yet: an instance of which only clones are called must not keep for its whole life what was
    /// there when it was made.
    pub(crate) const fn new(slot: Slot<T>) -> Self {
        Self { slot, seen: UNTOUCHED, current: None }
    }

    pub(crate) const fn slot(&self) -> &Slot<T> {
        &self.slot
    }

    /// What was there when it was last looked at.
    #[inline]
    pub(crate) fn seen(&mut self) -> Option<&mut T> {
        self.current.as_mut()
    }

    /// What is in the slot now.
    #[inline]
    pub(crate) fn current(&mut self) -> Option<&mut T> {
        if self.slot.version() != self.seen {
            self.look();
        }
        self.current.as_mut()
    }

    #[cold]
    #[inline(never)]
    fn look(&mut self) {
        let known = self.slot.place.known.get_or_init(Made::new);
        let (seen, current) = known.of(&self.slot, |object| object);
        self.seen = seen;
        // The last reference to what was there may be ours, and dropping it may run user code.
        let before = std::mem::replace(&mut self.current, current);
        drop(before);
    }
}

/// What a service goes by: the same object always, or none, or whichever is in a slot.
pub(crate) enum Held<T> {
    Fixed(Option<T>),
    Live(Seat<T>),
}

// Not derived: most stacks lack most parts, and what is not there is cloned where it is to be.
impl<T: Clone> Clone for Held<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        match self {
            Self::Fixed(None) => Self::Fixed(None),
            there => there.clone_there(),
        }
    }
}

impl<T: Clone> Held<T> {
    #[inline(never)]
    fn clone_there(&self) -> Self {
        match self {
            Self::Fixed(object) => Self::Fixed(object.clone()),
            Self::Live(seat) => Self::Live(seat.clone()),
        }
    }

    /// The object to go by now.
    #[inline]
    pub(crate) fn current(&mut self) -> Option<&mut T> {
        match self {
            Self::Fixed(object) => object.as_mut(),
            Self::Live(seat) => seat.current(),
        }
    }

    /// What was there when it was last looked at.
    #[inline]
    pub(crate) fn seen(&mut self) -> Option<&mut T> {
        match self {
            Self::Fixed(object) => object.as_mut(),
            Self::Live(seat) => seat.seen(),
        }
    }

    pub(crate) const fn is_live(&self) -> bool {
        matches!(self, Self::Live(_))
    }
}

impl<T: Clone + fmt::Debug> fmt::Debug for Held<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(object) => object.fmt(f),
            Self::Live(seat) => seat.fmt(f),
        }
    }
}

impl<T: Clone> Clone for Seat<T> {
    #[inline]
    fn clone(&self) -> Self {
        Self { slot: self.slot.clone(), seen: self.seen, current: self.current.clone() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Seat<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slot.fmt(f)
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_seat_sees_each_change_and_keeps_what_it_has_handed_out() {
        let slot = Slot::new();
        let mut seat = Seat::new(slot.clone());
        assert_eq!(seat.current(), None);
        slot.install(1);
        let mut other = seat.clone();
        assert_eq!(seat.current(), Some(&mut 1));
        slot.install(2);
        assert_eq!(seat.current(), Some(&mut 2));
        slot.uninstall();
        assert_eq!((seat.current(), other.current()), (None, None));
    }

    #[test]
    fn what_has_been_taken_out_is_not_kept_for_those_who_look() {
        let slot = Slot::new();
        let mut seat = Seat::new(slot.clone());
        let first = Arc::new(1);
        slot.install(Arc::clone(&first));
        // Each of many that have not looked yet finds it, and so does the next.
        for _ in 0..9 {
            assert_eq!(seat.clone().current(), Some(&mut Arc::clone(&first)));
        }
        assert!(Arc::strong_count(&first) > 2, "somebody keeps one for them");
        let second = Arc::new(2);
        assert!(slot.install(Arc::clone(&second)).is_some());
        assert_eq!(Arc::strong_count(&first), 1);
        assert_eq!(seat.current(), Some(&mut Arc::clone(&second)));
        assert!(slot.uninstall().is_some());
        assert_eq!(
            (Arc::strong_count(&second), seat.seen().cloned()),
            (2, Some(Arc::clone(&second)))
        );
        assert_eq!(seat.current(), None);
        assert_eq!(Arc::strong_count(&second), 1);
    }

    #[test]
    fn a_seat_of_which_only_clones_look_keeps_nothing() {
        let first = Arc::new(1);
        let slot = Slot::with(Arc::clone(&first));
        let seat = Seat::new(slot.clone());
        for _ in 0..3 {
            assert_eq!(seat.clone().current(), Some(&mut Arc::clone(&first)));
        }
        slot.install(Arc::new(2));
        assert_eq!(Arc::strong_count(&first), 1);
        assert_eq!(seat.clone().current(), Some(&mut Arc::new(2)));
    }

    #[cfg(feature = "config")]
    #[test]
    fn the_last_follower_follows_and_those_before_stay_as_they_were() {
        let slot = Slot::with(1);
        let (before, first) = slot.hand_over(|there| there.map(|n| n + 1), |follower| follower);
        assert_eq!((before, slot.get(), first.get()), (Some(1), Some(2), Some(2)));
        slot.install(3);
        assert_eq!(first.get(), Some(3));
        let (_, second) = slot.hand_over(|_| None, |follower| follower);
        assert_eq!((slot.get(), first.get(), second.get()), (None, Some(3), None));
        assert_eq!(second.version(), UNTOUCHED);
        slot.install(4);
        assert_eq!((slot.get(), first.get(), second.get()), (Some(4), Some(3), Some(4)));
        slot.uninstall();
        assert_eq!((slot.get(), first.get(), second.get()), (None, Some(3), None));
        drop(first);
        assert!(slot.claim().is_none());
        drop(second);
        let third = slot.claim().unwrap();
        assert!(slot.claim().is_none());
        drop(third);
        assert_eq!((slot.install(5), slot.get()), (None, Some(5)));
    }

    #[cfg(feature = "config")]
    #[test]
    fn what_is_told_is_there_before_the_change_is_seen_elsewhere_and_ends_with_the_other() {
        let (slot, sum) = (Slot::with(1), Slot::with((0, 7)));
        slot.tell(&sum, |sum: &mut (i32, i32), there| sum.0 = there.copied().unwrap_or(-1));
        assert_eq!(sum.get(), Some((0, 7)), "not what is there already");
        slot.install(2);
        assert_eq!(sum.get(), Some((2, 7)));
        let (before, seen) =
            slot.settle(|there| there.map(|n| n + 1), |it| (it.copied(), sum.get()));
        assert_eq!((before, seen, slot.get()), (Some(2), (Some(3), Some((2, 7))), Some(3)));
        slot.uninstall();
        assert_eq!(sum.get(), Some((-1, 7)));
        sum.uninstall();
        slot.install(4);
        assert_eq!(sum.get(), None, "nothing is put there");
        drop(sum);
        assert_eq!((slot.install(5), slot.get()), (Some(4), Some(5)));
    }

    #[test]
    fn threads_that_install_and_look_never_see_a_mixture() {
        let slot = Slot::with((0_u64, !0_u64));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let mut seat = Seat::new(slot.clone());
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        if let Some((a, b)) = seat.current() {
                            assert_eq!(*a, !*b);
                        }
                    }
                });
            }
            for n in 0..5_000 {
                slot.install((n, !n));
                if n % 7 == 0 {
                    slot.uninstall();
                }
            }
        });
        let mut seat = Seat::new(slot);
        assert_eq!(seat.current(), Some(&mut (4_999, !4_999)));
    }
}
