//! Who is there: weak references to the objects of a program, and their timeline.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use super::{Managed, ObjectStatus, timeline::Timeline};
use crate::clock::Tick;
use crate::observe::Event;

static GLOBAL: LazyLock<Arc<Roster>> = LazyLock::new(Arc::default);
/// Whether anybody has asked for the global registry: until then nobody reads its timeline.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// The objects and the timeline behind a registry.
#[derive(Default)]
pub(crate) struct Roster {
    objects: Mutex<Objects>,
    /// What the last look showed of those that do not tell since when.
    seen: Mutex<HashMap<usize, Seen>>,
    pub(crate) timeline: Timeline,
    /// The configuration's, for the document.
    pub(crate) generation: AtomicU64,
}

#[derive(Default)]
struct Objects {
    /// In the order in which they came.
    entries: Vec<Weak<dyn Managed>>,
    /// At this many entries the dead ones are taken out.
    prune_at: usize,
}

struct Seen {
    /// Keeps the address from being another object's.
    _object: Weak<dyn Managed>,
    state: String,
    since: Tick,
}

impl Roster {
    /// For those that do not tell it: since when looks have found them in their state.
    pub(crate) fn date(&self, looked: &mut [(Arc<dyn Managed>, ObjectStatus)], now: Tick) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *seen);
        for (object, status) in looked.iter_mut().filter(|(_, status)| status.since_s.is_none()) {
            let address = Arc::as_ptr(object).cast::<()>().addr();
            let entry = match before.remove(&address) {
                Some(entry) if entry.state == status.state => {
                    status.since_s = Some(now.since(entry.since).as_secs_f64());
                    entry
                }
                _ => {
                    let (object, state) = (Arc::downgrade(object), status.state.clone());
                    Seen { _object: object, state, since: now }
                }
            };
            seen.insert(address, entry);
        }
    }

    /// The one of the process.
    pub(crate) fn global() -> Arc<Self> {
        Arc::clone(&GLOBAL)
    }

    /// From now on that one has a timeline.
    pub(crate) fn watch() {
        WATCHED.store(true, Ordering::Relaxed);
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, object: Weak<dyn Managed>) {
        let mut objects = self.objects();
        if objects.entries.len() >= objects.prune_at {
            // A weak reference is dropped here, never an object: no user code under the lock.
            objects.entries.retain(|entry| entry.strong_count() > 0);
            // Twice what lives: each entry pays for two looks at most, and no more than half are dead.
            objects.prune_at = (2 * objects.entries.len()).max(16);
        }
        objects.entries.push(object);
    }

    /// It lives on, unseen: a service that is never called again may hold it for as long as the program runs.
    #[cfg(feature = "config")]
    fn remove(&self, object: *const ()) {
        self.objects().entries.retain(|entry| entry.as_ptr().cast::<()>() != object);
    }

    /// Those that live, in the order in which they came.
    pub(crate) fn living(&self) -> Vec<Arc<dyn Managed>> {
        self.objects().entries.iter().filter_map(Weak::upgrade).collect()
    }

    #[cfg(test)]
    pub(crate) fn entries(&self) -> usize {
        self.objects().entries.len()
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster").finish_non_exhaustive()
    }
}

/// Where an object is registered and its events are kept.
#[derive(Clone, Debug, Default)]
pub(crate) enum Home {
    /// In the registry of the process.
    #[default]
    Global,
    /// In one of its own.
    In(Arc<Roster>),
    /// In none.
    Nowhere,
}

impl Home {
    /// Enters an object that has just been made.
    pub(crate) fn register<T: Managed>(&self, object: &Arc<T>) {
        let roster = match self {
            Self::Global => &GLOBAL,
            Self::In(roster) => roster,
            Self::Nowhere => return,
        };
        let weak: Weak<T> = Arc::downgrade(object);
        roster.add(weak);
    }

    /// No status shows it any more.
    #[cfg(feature = "config")]
    pub(crate) fn forget<T: Managed>(&self, object: &Arc<T>) {
        let roster = match self {
            Self::Global => &GLOBAL,
            Self::In(roster) => roster,
            Self::Nowhere => return,
        };
        roster.remove(Arc::as_ptr(object).cast());
    }

    /// Whether somebody may read what happens.
    #[inline]
    pub(crate) fn listens(&self) -> bool {
        match self {
            Self::Global => WATCHED.load(Ordering::Relaxed),
            Self::In(_) => true,
            Self::Nowhere => false,
        }
    }

    /// Runs the `Display` of what is in the event.
    pub(crate) fn note(&self, event: &Event<'_>) {
        match self {
            Self::Global if self.listens() => GLOBAL.timeline.note(event),
            Self::In(roster) => roster.timeline.note(event),
            Self::Global | Self::Nowhere => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::managed::ObjectStatus;
    use crate::name::LayerKind;

    struct Short;

    impl Managed for Short {
        fn kind(&self) -> LayerKind {
            LayerKind::Custom("short")
        }

        fn name(&self) -> &'static str {
            "short"
        }

        fn describe(&self) -> ObjectStatus {
            ObjectStatus::new("there")
        }
    }

    #[test]
    fn the_dead_take_no_more_room_than_the_living() {
        let roster = Arc::new(Roster::default());
        let home = Home::In(Arc::clone(&roster));
        let kept: Vec<_> = (0..100).map(|_| Arc::new(Short)).collect();
        kept.iter().for_each(|one| home.register(one));
        for _ in 0..10_000 {
            home.register(&Arc::new(Short));
        }
        assert_eq!(roster.living().len(), 100);
        assert!(roster.entries() <= 2 * 100 + 1, "{}", roster.entries());
    }
}
