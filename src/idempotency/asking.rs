//! A claim on its way: what is done about it when nobody waits for its answer any more.

use std::sync::Arc;
use std::time::Duration;

use super::handle::Shared;
use super::pace::{Pace, Timer};
use super::permit::TRIES;
use crate::store::{Attempt, RecordId, State, Store, StoreErrorKind};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// How many claims of one gate are being taken back at the same time, at most. Others end with their leases.
const MOST: usize = 1_000;

/// A claim that may be in the store although no answer has come. Dropped like that, it is taken back, by a
/// task, if there is a runtime: nobody has executed anything for it.
pub(super) struct Asking<'a, S: Store> {
    shared: &'a Arc<Shared<S>>,
    id: &'a RecordId,
    attempt: Attempt,
    pub(super) doubtful: bool,
}

impl<'a, S: Store> Asking<'a, S> {
    pub(super) fn new(shared: &'a Arc<Shared<S>>, id: &'a RecordId, attempt: Attempt) -> Self {
        Self { shared, id, attempt, doubtful: false }
    }
}

impl<S: Store> Drop for Asking<'_, S> {
    fn drop(&mut self) {
        if self.doubtful {
            spawn(self.shared, *self.id, self.attempt);
        }
    }
}

#[cold]
fn spawn<S: Store>(shared: &Arc<Shared<S>>, id: RecordId, attempt: Attempt) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let Some(place) = Place::take(&shared.taking_back) else { return };
    let shared = Arc::clone(shared);
    runtime.spawn(async move {
        let _place = place;
        take_back(&shared, id, attempt).await;
    });
}

/// The claim may come to the store after us: if it is not there, it is looked for once more.
async fn take_back<S: Store>(shared: &Shared<S>, id: RecordId, attempt: Attempt) {
    let (store, limit) = (&shared.store, shared.settings.store_timeout);
    let mut pause = limit.min(Duration::from_secs(1)) / 10;
    for _ in 0..TRIES {
        let record = Timer.within(limit, store.get(&id)).await;
        let record = record.unwrap_or_else(|| Err(StoreErrorKind::Unknown.into()));
        if let Ok(Some(record)) = record {
            let ours = record.attempt == attempt && record.state == State::Pending;
            if !ours {
                return;
            }
            if record.runs > 1 {
                // Whoever had it before may have had its effect: it must not look as if it had never been.
                store.abandon(&id, attempt);
                return;
            }
            let released = Timer.within(limit, store.release(&id, attempt)).await;
            if matches!(released, Some(Ok(_))) {
                return;
            }
        }
        Timer.pause(pause).await;
        pause = pause.saturating_mul(4).min(limit);
    }
}

struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(count: &Arc<AtomicUsize>) -> Option<Self> {
        let room = |count| (count < MOST).then_some(count + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
