use std::fmt;

use super::{Made, Slot, UNTOUCHED};

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
