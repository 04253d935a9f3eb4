//! The purses of all keys. Bounded: what is in a purse is only knowledge, the buckets are in the store.

use std::collections::HashMap;
use std::sync::Arc;

use super::purse::Purse;
use crate::clock::{Tick, nanos};
use crate::rate_limit::core::units;
use crate::store::RecordId;
use crate::sync::{Mutex, lock};

/// A purse, and who asks the store for it: one at a time, if tokens are taken in advance.
#[derive(Debug, Default)]
pub(super) struct Seat {
    pub(super) purse: Mutex<Purse>,
    pub(super) asking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
pub(super) struct Table {
    max: usize,
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    seats: HashMap<RecordId, Arc<Seat>>,
    /// After a search for blank ones that found none.
    full_until: Tick,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self { max, keys: Mutex::default() }
    }

    /// The seat of this key; `None` if there is no room.
    pub(super) fn seat(&self, id: &RecordId, now: Tick) -> Option<Arc<Seat>> {
        let mut keys = lock(&self.keys);
        if let Some(seat) = keys.seats.get(id) {
            return Some(Arc::clone(seat));
        }
        if keys.seats.len() >= self.max && !keys.make_room(now) {
            return None;
        }
        let seat = Arc::<Seat>::default();
        keys.seats.insert(*id, Arc::clone(&seat));
        Some(seat)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.keys).seats.len()
    }
}

impl Keys {
    #[cold]
    fn make_room(&mut self, now: Tick) -> bool {
        if now < self.full_until {
            return false;
        }
        let before = self.seats.len();
        // Nobody holds it and nothing is in it: nobody will miss it. No other lock is held while that of a
        // purse is.
        self.seats.retain(|_, seat| {
            Arc::strong_count(seat) > 1 || !lock(&seat.purse).is_blank(units(now))
        });
        let room = self.seats.len() < before;
        if !room {
            self.full_until =
                Tick(now.0.saturating_add(nanos(std::time::Duration::from_millis(100))));
        }
        room
    }
}
