//! User code whose panic ends where it is called.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs it; `None` if it panics.
pub(crate) fn caught<T>(f: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(done) => Some(done),
        Err(panic) => {
            discard(panic);
            None
        }
    }
}

/// Drops what a panic was made with: user code as well, which may panic in turn.
pub(crate) fn discard(panic: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // It could go on for ever: what is left of it is.
        mem::forget(again);
    }
}

/// A panic that panics again when it is dropped, and so does that panic.
#[cfg(test)]
pub(crate) struct Again(pub(crate) u32);

#[cfg(test)]
impl Drop for Again {
    fn drop(&mut self) {
        if let Some(left) = self.0.checked_sub(1) {
            std::panic::resume_unwind(Box::new(Self(left)));
        }
    }
}

#[cfg(test)]
pub(crate) fn panics_again() -> ! {
    std::panic::resume_unwind(Box::new(Again(2)))
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::{caught, panics_again};

    #[test]
    fn a_panic_that_panics_when_it_is_dropped_ends_here_as_well() {
        assert_eq!(caught(|| 7), Some(7));
        assert_eq!(caught(|| -> u32 { panics_again() }), None);
    }
}
