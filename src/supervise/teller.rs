//! Tells observers of what a thread does that nothing may hold up.

use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers, Severity};
use crate::sync::lock;

use super::alert::{Job, Runner};

/// How long it is waited for that something has been told.
const PATIENCE: Duration = Duration::from_millis(250);

/// The same of the last that there is to tell: the program may end after it.
const LAST: Duration = Duration::from_secs(1);

/// And if there is no time left, since a shutdown that overran is the one of which it matters.
const LAST_AT_LEAST: Duration = Duration::from_millis(50);

/// Tells on a thread of its own: an observer may hang in a lock, or write to a pipe that nobody reads. What is told is
/// heard before whoever tells it goes on, as long as that takes a moment only. There is one thread, whatever hangs on
/// it: what is told meanwhile waits, and very much of it is dropped, but not the last.
pub(super) struct Teller {
    name: Name,
    observers: Observers,
    runner: Runner,
    /// Somebody takes his time, and is not waited for until he is done.
    behind: Arc<Mutex<bool>>,
}

impl Teller {
    pub(super) fn new(name: Name, observers: Observers) -> Self {
        let runner = Runner::patient(name, observers.clone());
        Self { name, observers, runner, behind: Arc::default() }
    }

    pub(super) fn tell(&self, severity: Severity, what: &'static str, detail: fmt::Arguments<'_>) {
        self.tell_within(PATIENCE, severity, what, detail);
    }

    /// What nothing comes after: waited for longer, and also if something else takes its time. `left` is the time
    /// that there is; without any it is waited for a moment.
    pub(super) fn tell_last(
        &self,
        left: Duration,
        severity: Severity,
        what: &'static str,
        detail: fmt::Arguments<'_>,
    ) {
        let (job, told) = self.job(severity, what, detail);
        self.runner.submit_last(job);
        let _ = told.recv_timeout((left / 2).clamp(LAST_AT_LEAST, LAST));
    }

    fn tell_within(
        &self,
        patience: Duration,
        severity: Severity,
        what: &'static str,
        detail: fmt::Arguments<'_>,
    ) {
        let (job, told) = self.job(severity, what, detail);
        self.runner.submit([job]);
        let is_behind = *lock(&self.behind);
        if is_behind || told.recv_timeout(patience) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let mut behind = lock(&self.behind);
        *behind = told.try_recv() == Err(TryRecvError::Empty);
    }

    /// The call that tells it, and what is over when it has, or never will.
    fn job(
        &self,
        severity: Severity,
        what: &'static str,
        detail: fmt::Arguments<'_>,
    ) -> (Job, Receiver<()>) {
        let (name, observers, behind) =
            (self.name, self.observers.clone(), Arc::clone(&self.behind));
        let detail = detail.to_string();
        let (tell, told) = channel::<()>();
        let job = move || {
            let detail = format_args!("{detail}");
            let kind = EventKind::Supervised { severity, what, detail };
            observers.emit(LayerKind::Supervise, name, kind);
            // Together: nobody is to be called late after he is done.
            let mut behind = lock(&behind);
            *behind = false;
            drop(tell);
        };
        (Job::Plain(Box::new(job)), told)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::Sender;

    use tokio::time::Instant;

    use crate::observe::Event;

    use super::*;

    /// An observer that says what it begins and ends to hear, and hangs at `hangs` until its sender is dropped.
    fn observers(heard: Sender<&'static str>, hangs: Receiver<()>) -> Observers {
        let hangs = Mutex::new(hangs);
        let mut observers = Observers::default();
        observers.add(move |event: &Event<'_>| {
            if let EventKind::Supervised { what, .. } = event.kind {
                if what == "hangs" {
                    let _ = heard.send("begins");
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
        let limit = Duration::from_secs(20);
        tell("first");
        assert_eq!(hears.recv_timeout(limit), Ok("first"));
        // No longer than it takes.
        let begun = Instant::now();
        teller.tell_within(limit, Severity::Info, "second", format_args!(""));
        assert!(begun.elapsed() < limit);
        assert_eq!(hears.recv_timeout(limit), Ok("second"));
        // Far more than may wait: none of them takes anybody's time, whatever becomes of it.
        tell("hangs");
        assert_eq!(hears.recv_timeout(limit), Ok("begins"));
        for _ in 0..1_000 {
            tell("next");
        }
        assert!(hears.try_recv().is_err());
        drop(release);
        assert_eq!(hears.recv_timeout(limit), Ok("hangs"));
        let rest: Vec<_> =
            std::iter::from_fn(|| hears.recv_timeout(limit).ok()).take(257).collect();
        assert_eq!(rest.iter().filter(|what| **what == "next").count(), 256, "{rest:?}");
        assert!(rest.contains(&"callback_dropped"), "{rest:?}");
    }

    #[test]
    fn the_last_that_there_is_to_tell_is_waited_for_longer_though_an_observer_takes_its_time() {
        let (heard, hears) = channel();
        let (release, hangs) = channel();
        let teller = Teller::new("t".into(), observers(heard, hangs));
        teller.tell(Severity::Info, "hangs", format_args!(""));
        assert_eq!(hears.recv_timeout(Duration::from_secs(20)), Ok("begins"));
        for (left, waits) in [(Duration::from_millis(200), LAST / 10), (Duration::MAX, LAST)] {
            let begun = Instant::now();
            teller.tell_last(left, Severity::Info, "last", format_args!(""));
            assert!(begun.elapsed() >= waits, "{left:?}: {:?}", begun.elapsed());
        }
        drop(release);
    }

    /// Nobody was to hear of a shutdown that took too long, nor of one whose observers were slow.
    #[test]
    fn the_last_is_waited_for_without_any_time_and_is_not_the_one_that_is_dropped() {
        let (heard, hears) = channel();
        let (release, hangs) = channel();
        let teller = Teller::new("t".into(), observers(heard, hangs));
        let tell = |what| teller.tell(Severity::Info, what, format_args!(""));
        let limit = Duration::from_secs(20);
        tell("hangs");
        for _ in 0..1_000 {
            tell("next");
        }
        let begun = Instant::now();
        teller.tell_last(Duration::ZERO, Severity::Info, "last", format_args!(""));
        let waited = begun.elapsed();
        assert!(waited >= LAST_AT_LEAST && waited < limit, "{waited:?}");
        drop(release);
        let told = || hears.recv_timeout(limit).expect("the last is never told");
        let before: Vec<_> =
            std::iter::from_fn(|| Some(told()).filter(|what| *what != "last")).collect();
        assert_eq!(before.iter().filter(|what| **what == "next").count(), 255, "{before:?}");
        assert!(before.contains(&"callback_dropped"), "{before:?}");
    }
}
