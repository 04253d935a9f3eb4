//! The one thread that looks at everything that has to be looked at: watchdogs, deadlines, overdue beats; and its
//! deputy, which goes on when a look hangs.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::caught::caught;
use crate::clock::{self, Tick};

/// What is looked at. Should not block: others wait for their turn, up to a second.
pub(super) trait Checked: Send + Sync {
    /// How long until the next look, from when this one was due. `None`: no more.
    fn check(&self, now: Tick) -> Option<Duration>;
}

/// Names an entry, so that it can be taken out before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry(u64);

/// A look that takes longer than this keeps the others waiting no more: another thread goes on.
const PATIENCE: Duration = Duration::from_secs(1);

struct Agenda {
    /// What the thread has not seen yet. It reads its own clock: that of the caller may be paused.
    arrivals: BTreeMap<Entry, (Duration, Arc<dyn Checked>)>,
    due: BTreeMap<(Tick, Entry), Arc<dyn Checked>>,
    when: BTreeMap<Entry, Tick>,
    next: u64,
    runs: bool,
    /// Counts the threads that had the agenda: one that is not the latest has been left behind.
    shift: u64,
    /// Since when it takes a look.
    looking: Option<Tick>,
}

static AGENDA: Mutex<Agenda> = Mutex::new(Agenda {
    arrivals: BTreeMap::new(),
    due: BTreeMap::new(),
    when: BTreeMap::new(),
    next: 0,
    runs: false,
    shift: 0,
    looking: None,
});
static CHANGED: Condvar = Condvar::new();
/// For the deputy.
static OVER: Condvar = Condvar::new();

fn agenda() -> MutexGuard<'static, Agenda> {
    AGENDA.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has `what` looked at after `first`, and then as often as it says.
pub(super) fn enroll(what: Arc<dyn Checked>, first: Duration) -> io::Result<Entry> {
    let mut agenda = agenda();
    if !agenda.runs {
        let shift = agenda.shift + 1;
        std::thread::Builder::new().name("buttress-monitor".into()).spawn(move || run(shift))?;
        agenda.shift = shift;
        agenda.runs = true;
        appoint_deputy(shift);
    }
    let entry = Entry(agenda.next);
    agenda.next += 1;
    agenda.arrivals.insert(entry, (first, what));
    drop(agenda);
    CHANGED.notify_one();
    Ok(entry)
}

/// Without one (no thread to be had) a look that hangs is waited for.
fn appoint_deputy(shift: u64) {
    let deputy = std::thread::Builder::new().name("buttress-deputy".into());
    let _ = deputy.spawn(move || stand_by(shift));
}

/// Takes the agenda over from a thread that does not come back from a look: what the user observes, or counts
/// as progress, may hang in the very lock that is to be told of.
fn stand_by(shift: u64) {
    let mut agenda = agenda();
    loop {
        if !agenda.runs || agenda.shift != shift {
            return;
        }
        if agenda.looking.is_some_and(|since| clock::now().since(since) > PATIENCE) {
            break;
        }
        agenda = OVER.wait_timeout(agenda, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
    }
    agenda.looking = None;
    agenda.shift += 1;
    let shift = agenda.shift;
    drop(agenda);
    appoint_deputy(shift);
    run(shift);
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

fn run(shift: u64) {
    let mut agenda = agenda();
    loop {
        if agenda.shift != shift {
            return;
        }
        let now = clock::now();
        for (entry, (first, what)) in std::mem::take(&mut agenda.arrivals) {
            let when = now.after(first);
            agenda.when.insert(entry, when);
            agenda.due.insert((when, entry), what);
        }
        let Some((&(when, entry), _)) = agenda.due.first_key_value() else {
            if agenda.when.is_empty() {
                agenda.runs = false;
                OVER.notify_all();
                return;
            }
            // The thread before this one is still at it.
            agenda =
                CHANGED.wait_timeout(agenda, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        };
        if when > now {
            let wait = when.since(now);
            agenda = CHANGED.wait_timeout(agenda, wait).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        let Some(what) = agenda.due.remove(&(when, entry)) else { continue };
        agenda.looking = Some(now);
        drop(agenda);
        // A source of progress is the user's and may panic. It is looked at no more.
        let next = caught(|| what.check(now)).unwrap_or_default();
        agenda = self::agenda();
        if agenda.shift == shift {
            agenda.looking = None;
        } else {
            // Whoever has taken over does not know yet how long it may sleep.
            CHANGED.notify_one();
        }
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

    struct Hangs(Mutex<mpsc::Receiver<()>>);

    impl Checked for Hangs {
        fn check(&self, _: Tick) -> Option<Duration> {
            let _ = self.0.lock().unwrap().recv();
            Some(Duration::from_secs(3600))
        }
    }

    #[test]
    fn one_that_hangs_does_not_keep_the_others_from_being_looked_at() {
        let (release, held) = mpsc::channel();
        let hangs = Arc::new(Hangs(Mutex::new(held)));
        let entry = enroll(Arc::clone(&hangs) as Arc<dyn Checked>, Duration::ZERO).unwrap();
        let (told, heard) = mpsc::channel();
        let first = Duration::from_millis(50);
        enroll(Arc::new(Looks(Mutex::new((0, told)))), first).unwrap();
        for look in 1..=3 {
            assert_eq!(heard.recv_timeout(Duration::from_secs(20)), Ok(look));
        }
        // It comes back and keeps its place, until it is taken out.
        release.send(()).unwrap();
        let begun = clock::now();
        while !agenda().due.keys().any(|(_, due)| *due == entry) {
            assert!(clock::now().since(begun) < Duration::from_secs(20), "it has lost its place");
            clock::park(Duration::from_millis(5));
        }
        withdraw(entry);
        assert_eq!(Arc::strong_count(&hangs), 1);
    }
}
