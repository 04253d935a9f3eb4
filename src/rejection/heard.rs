//! What a call leaves behind when it is dropped, for the refusal that is made in its place. Whoever gives up a call
//! drops it first; and on the way out, where nothing is in a hurry, it can say how its backend was.

use std::cell::Cell;

use super::RejectionDetail;

#[derive(Clone, Copy)]
enum Ear {
    Closed,
    Open,
    Heard(RejectionDetail),
}

thread_local!(static EAR: Cell<Ear> = const { Cell::new(Ear::Closed) });

/// Closes it also if a destructor panics.
struct Close(Ear);

impl Drop for Close {
    fn drop(&mut self) {
        EAR.set(self.0);
    }
}

/// What is said last while `drop` drops a call: of all that it goes through the outermost drops what it holds last, and whoever
/// gives the call up is a part of that stack.
pub(crate) fn last_words(drop: impl FnOnce()) -> RejectionDetail {
    let _close = Close(EAR.replace(Ear::Open));
    drop();
    match EAR.get() {
        Ear::Heard(detail) => detail,
        Ear::Open | Ear::Closed => RejectionDetail::None,
    }
}

/// Says it, if somebody listens.
pub(crate) fn say(detail: impl FnOnce() -> RejectionDetail) {
    if !matches!(EAR.get(), Ear::Closed) {
        EAR.set(Ear::Heard(detail()));
    }
}
