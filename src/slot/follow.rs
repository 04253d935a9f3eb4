//! Slots that follow one another, and those who are told of a change before it is seen.

use std::sync::{Arc, Weak};

use crate::sync::{Lease, lock};

use super::{Place, Slot};

/// What it returns is dropped when no lock is held.
pub(super) type Told<T> = Box<dyn Fn(Option<&T>) -> Box<dyn std::any::Any> + Send>;

pub(super) struct Follower<T> {
    /// It ends with whoever looks at it.
    pub(super) place: Weak<Place<T>>,
    pub(super) clone: fn(&T) -> T,
}

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
