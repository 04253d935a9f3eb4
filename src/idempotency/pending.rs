//! How many claims a scope holds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::scope::Scope;
use crate::sync::{Mutex, lock};

/// When to come back: runs are mostly short, and nobody knows.
pub(super) const COME_BACK: Duration = Duration::from_secs(1);

/// A scope as it is counted. Zero where nobody counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tag(u64);

impl Tag {
    /// Keyed, so that tenants cannot look for names that meet in one tag.
    pub(super) fn of(scope: &Scope) -> Self {
        static RANDOM: OnceLock<RandomState> = OnceLock::new();
        Self(RANDOM.get_or_init(RandomState::new).hash_one(scope.as_bytes()))
    }
}

/// The claims of each scope that has any. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pending(Arc<Inner>);

struct Inner {
    limit: usize,
    counts: Mutex<HashMap<Tag, usize>>,
}

impl Pending {
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Inner { limit, counts: Mutex::new(HashMap::new()) }))
    }

    /// A place for one more claim, or none.
    pub(super) fn enter(&self, tag: Tag) -> Option<Place> {
        let mut counts = lock(&self.0.counts);
        let count = counts.entry(tag).or_insert(0);
        if *count >= self.0.limit {
            return None;
        }
        *count += 1;
        Some(Place { pending: self.clone(), tag })
    }

    #[cfg(test)]
    fn scopes(&self) -> usize {
        lock(&self.0.counts).len()
    }
}

/// Of one claim, until it is dropped.
pub(super) struct Place {
    pending: Pending,
    tag: Tag,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = lock(&self.pending.0.counts).entry(self.tag) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_counted_apart_and_forgotten_when_they_hold_nothing() {
        let pending = Pending::new(2);
        let (a, b) = (Tag::of(&Scope::tenant("a")), Tag::of(&Scope::tenant("b")));
        let held = [pending.enter(a), pending.enter(a), pending.enter(b)];
        assert!(held.iter().all(Option::is_some));
        assert!(pending.enter(a).is_none());
        assert!(pending.enter(b).is_some());
        drop(held);
        assert_eq!(pending.scopes(), 0);
        assert!(pending.enter(a).is_some());
    }
}
