//! The one thread that looks at everything that has to be looked at: watchdogs, deadlines, overdue beats.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{self, Tick};

/// What is looked at. Must not block: others wait for their turn.
pub(super) trait Checked: Send + Sync {
    /// How long until the next look, from when this one was due. `None`: no more.
    fn check(&self, now: Tick) -> Option<Duration>;
}

/// Names an entry, so that it can be taken out before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry(u64);

struct Agenda {
    /// What the thread has not seen yet. It reads its own clock: that of the caller may be paused.
    arrivals: BTreeMap<Entry, (Duration, Arc<dyn Checked>)>,
    due: BTreeMap<(Tick, Entry), Arc<dyn Checked>>,
    when: BTreeMap<Entry, Tick>,
    next: u64,
    runs: bool,
}

static AGENDA: Mutex<Agenda> = Mutex::new(Agenda {
    arrivals: BTreeMap::new(),
    due: BTreeMap::new(),
    when: BTreeMap::new(),
    next: 0,
    runs: false,
});
static CHANGED: Condvar = Condvar::new();

fn agenda() -> MutexGuard<'static, Agenda> {
    AGENDA.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has `what` looked at after `first`, and then as often as it says.
pub(super) fn enroll(what: Arc<dyn Checked>, first: Duration) -> io::Result<Entry> {
    let mut agenda = agenda();
    if !agenda.runs {
        std::thread::Builder::new().name("buttress-monitor".into()).spawn(run)?;
        agenda.runs = true;
    }
    let entry = Entry(agenda.next);
    agenda.next += 1;
    agenda.arrivals.insert(entry, (first, what));
    drop(agenda);
    CHANGED.notify_one();
    Ok(entry)
}

/// Takes it out. A look that is being taken goes on.
pub(super) fn withdraw(entry: Entry) {
    let mut agenda = agenda();
    let removed = match agenda.when.remove(&entry) {
        Some(when) => agenda.due.remove(&(when, entry)),
        None => agenda.arrivals.remove(&entry).map(|(_, what)| what),
    };
    // The last reference may be that of the agenda, and what it drops may be anything.
    drop(agenda);
    drop(removed);
}

fn run() {
    let mut agenda = agenda();
    loop {
        let now = clock::now();
        for (entry, (first, what)) in std::mem::take(&mut agenda.arrivals) {
            let when = now.after(first);
            agenda.when.insert(entry, when);
            agenda.due.insert((when, entry), what);
        }
        let Some((&(when, entry), _)) = agenda.due.first_key_value() else {
            agenda.runs = false;
            return;
        };
        if when > now {
            let wait = when.since(now);
            agenda = CHANGED.wait_timeout(agenda, wait).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        let Some(what) = agenda.due.remove(&(when, entry)) else { continue };
        drop(agenda);
        // A source of progress is the user's and may panic. It is looked at no more.
        let next = catch_unwind(AssertUnwindSafe(|| what.check(now))).unwrap_or_default();
        agenda = self::agenda();
        // Withdrawn meanwhile?
        let wanted = agenda.when.remove(&entry).is_some();
        if let (Some(next), true) = (next, wanted) {
            // A fixed schedule; looks that were missed are not made up for.
            let planned = when.after(next);
            let when = if planned > now { planned } else { now.after(next) };
            agenda.when.insert(entry, when);
            agenda.due.insert((when, entry), what);
        } else {
            drop(agenda);
            drop(what);
            agenda = self::agenda();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Sender};

    use super::*;

    struct Looks(Mutex<(u32, Sender<u32>)>);

    impl Checked for Looks {
        fn check(&self, _: Tick) -> Option<Duration> {
            let mut looks = self.0.lock().unwrap();
            looks.0 += 1;
            looks.1.send(looks.0).unwrap();
            (looks.0 < 3).then_some(Duration::from_millis(1))
        }
    }

    struct Panics;

    impl Checked for Panics {
        fn check(&self, _: Tick) -> Option<Duration> {
            panic!("expected in this test")
        }
    }

    #[test]
    fn looks_are_taken_until_they_are_enough_whatever_others_do() {
        let (told, heard) = mpsc::channel();
        enroll(Arc::new(Panics), Duration::ZERO).unwrap();
        enroll(Arc::new(Looks(Mutex::new((0, told)))), Duration::ZERO).unwrap();
        // The channel closes when the entry is dropped after its last look.
        assert_eq!(heard.iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn what_is_withdrawn_is_dropped_at_once() {
        let (told, heard) = mpsc::channel();
        let what = Arc::new(Looks(Mutex::new((0, told))));
        let entry = enroll(what, Duration::from_secs(3600)).unwrap();
        withdraw(entry);
        assert!(heard.recv().is_err());
    }
}
