//! What a process says last.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// How long it may hold the end.
const PATIENCE: Duration = Duration::from_millis(250);

/// Has it said, on a thread of its own, and waits for that, but not long: standard error may be a pipe that nobody
/// reads, or closed; locks may be taken and observers hang.
pub(super) fn last_words(say: impl FnOnce() + Send + 'static) {
    let (alive, said) = channel::<()>();
    let thread = thread::Builder::new().name("buttress-last-words".into());
    let thread = thread.spawn(move || {
        let _alive = alive; // dropped last, also by a panic
        say();
    });
    if thread.is_ok() {
        let _ = said.recv_timeout(PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_hang_or_panic_hold_nobody_up() {
        last_words(|| panic!("expected in this test"));
        let (_never, hears) = channel::<()>();
        last_words(move || assert!(hears.recv().is_err()));
        let (tell, told) = channel();
        last_words(move || tell.send(()).unwrap());
        assert_eq!(told.try_recv(), Ok(()), "what can be said is waited for");
    }
}
