//! Values as wide as words, for futures. A future is copied after it is made, and the processor copies words: one of
//! which a byte has just been written must first leave for the cache, for which a copy waits as long as a call takes.

/// An [`Option`] whose tag is a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Wide<T> {
    None,
    Some(T),
}

impl<T> Wide<T> {
    #[inline]
    pub(crate) fn take(&mut self) -> Option<T> {
        match std::mem::replace(self, Self::None) {
            Self::None => None,
            Self::Some(value) => Some(value),
        }
    }
}

impl<T> From<Option<T>> for Wide<T> {
    #[inline]
    fn from(value: Option<T>) -> Self {
        match value {
            None => Self::None,
            Some(value) => Self::Some(value),
        }
    }
}

/// A `bool` that is a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Flag {
    No,
    Yes,
}

impl Flag {
    #[inline]
    pub(crate) const fn of(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }

    #[inline]
    pub(crate) const fn is(self) -> bool {
        matches!(self, Self::Yes)
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    #[test]
    fn they_are_words_and_so_are_their_niches() {
        assert_eq!(size_of::<Wide<()>>(), size_of::<usize>());
        assert_eq!(size_of::<Option<Wide<()>>>(), size_of::<usize>());
        assert_eq!(size_of::<Option<Flag>>(), size_of::<usize>());
    }

    #[test]
    fn what_is_taken_is_gone() {
        let mut wide = Wide::from(Some(7));
        assert_eq!((wide.take(), wide.take()), (Some(7), None));
        assert_eq!(Wide::<u8>::from(None), Wide::None);
        assert!(Flag::of(true).is() && !Flag::of(false).is());
    }
}
