//! Tells observers of what a thread does that nothing may hold up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers, Severity};

use super::alert::{Job, Runner};

/// How long it is waited for that something has been told.
const PATIENCE: Duration = Duration::from_millis(250);

/// An observer that takes longer is left behind, with its thread.
const LIMIT: Duration = Duration::from_secs(10);

/// Tells on a thread of its own: an observer may hang in a lock, or write to a pipe that nobody reads. What is told is
/// heard before whoever tells it goes on, as long as that takes a moment only.
pub(super) struct Teller {
    name: Name,
    observers: Observers,
    runner: Runner,
    /// Somebody takes his time, and is not waited for until he is done.
    behind: Arc<AtomicBool>,
}

impl Teller {
    pub(super) fn new(name: Name, observers: Observers) -> Self {
        let runner = Runner::new(name, LIMIT, observers.clone());
        Self { name, observers, runner, behind: Arc::default() }
    }

    pub(super) fn tell(&self, severity: Severity, what: &'static str, detail: fmt::Arguments<'_>) {
        let (name, observers, behind) =
            (self.name, self.observers.clone(), Arc::clone(&self.behind));
        let detail = detail.to_string();
        let (tell, told) = channel::<()>();
        let job = move || {
            let detail = format_args!("{detail}");
            let kind = EventKind::Supervised { severity, what, detail };
            observers.emit(LayerKind::Supervise, name, kind);
            behind.store(false, Ordering::SeqCst);
            drop(tell);
        };
        self.runner.submit([Job::Plain(Box::new(job))]);
        if !self.behind.load(Ordering::SeqCst)
            && told.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout)
        {
            self.behind.store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender};

    use crate::observe::Event;

    use super::*;

    /// An observer that says what it hears, and hangs at `hangs` until its sender is dropped.
    fn observers(heard: Sender<&'static str>, hangs: Receiver<()>) -> Observers {
        let hangs = Mutex::new(hangs);
        let mut observers = Observers::default();
        observers.add(move |event: &Event<'_>| {
            if let EventKind::Supervised { what, .. } = event.kind {
                if what == "hangs" {
                    let _ = hangs.lock().unwrap().recv();
                }
                let _ = heard.send(what);
            }
        });
        observers
    }

    #[test]
    fn what_is_told_is_heard_before_and_one_that_hangs_holds_nobody_up() {
        let (heard, hears) = channel();
        let (release, hangs) = channel();
        let teller = Teller::new("t".into(), observers(heard, hangs));
        let tell = |what| teller.tell(Severity::Info, what, format_args!(""));
        tell("first");
        assert_eq!(hears.try_recv(), Ok("first"));
        // Far more than may wait: none of them takes anybody's time, whatever becomes of it.
        tell("hangs");
        for _ in 0..1_000 {
            tell("next");
        }
        assert!(hears.try_recv().is_err());
        drop(release);
        let limit = Duration::from_secs(20);
        assert_eq!(hears.recv_timeout(limit), Ok("hangs"));
        let rest: Vec<_> =
            std::iter::from_fn(|| hears.recv_timeout(limit).ok()).take(257).collect();
        assert_eq!(rest.iter().filter(|what| **what == "next").count(), 256, "{rest:?}");
        assert!(rest.contains(&"callback_dropped"), "{rest:?}");
    }
}
