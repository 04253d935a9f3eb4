//! Why a call is dropped: its caller gave up, or has an answer from another attempt. Only the layer that drops
//! it knows, and whoever counts what becomes of calls needs to.

use std::cell::Cell;

thread_local!(static SUPERSEDED: Cell<bool> = const { Cell::new(false) });

struct Restore(bool);

impl Drop for Restore {
    fn drop(&mut self) {
        // There is no other thread-local to wait for: while a thread ends nothing is superseded.
        let _ = SUPERSEDED.try_with(|cell| cell.set(self.0));
    }
}

/// Runs `drop`, which drops attempts of a call that another attempt has answered.
pub(crate) fn superseded(drop: impl FnOnce()) {
    let before = SUPERSEDED.try_with(|cell| cell.replace(true)).unwrap_or(false);
    let _restore = Restore(before);
    drop();
}

/// Whether what is being dropped is such an attempt.
pub(crate) fn is_superseded() -> bool {
    SUPERSEDED.try_with(Cell::get).unwrap_or(false)
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::{is_superseded, superseded};

    #[test]
    fn it_ends_with_the_drop_even_by_a_panic() {
        assert!(!is_superseded());
        superseded(|| {
            superseded(|| assert!(is_superseded()));
            assert!(is_superseded());
        });
        assert!(!is_superseded());
        assert!(std::panic::catch_unwind(|| superseded(|| panic!("in a drop"))).is_err());
        assert!(!is_superseded());
    }
}
