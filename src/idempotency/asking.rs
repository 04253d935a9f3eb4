//! A claim on its way: what is done about it when nobody waits for its answer any more.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::pace::{Pace, Timer};
use super::permit::{TRIES, may_help};
use crate::clock::now;
use crate::store::{Attempt, Begun, Claim, Finish, RecordId, Store, StoreError, StoreErrorKind};

/// How many claims of one gate are being taken back at the same time, at most: what a stall of a second leaves
/// behind on a busy server. Others end with their leases.
const MOST: usize = 10_000;
/// How many of them ask the store at the same time, so that they do not stand in the way of its other work.
const AT_ONCE: usize = 16;
/// How long a claim that was not found, or a store that does not answer, goes on being asked for; for as long as the
/// lease where that is longer.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two questions to a store that does not answer, at most. One that answers is asked ever less often.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Who claims records.
pub(super) trait Claimant: Send + Sync + 'static {
    type Store: Store;

    fn store(&self) -> &Self::Store;
    fn taking_back(&self) -> &TakingBack;
    /// How long the store may take to answer.
    fn limit(&self) -> Duration;
}

/// The claims that are being taken back.
pub(super) struct TakingBack {
    places: Arc<Semaphore>,
    turns: Semaphore,
}

impl TakingBack {
    pub(super) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(MOST)), turns: Semaphore::new(AT_ONCE) }
    }
}

/// Asks until there is an answer: the same claim again is the same claim. `begin` sends it once, and is ready
/// with nothing if no answer has come in time.
pub(super) async fn ask<C: Claimant, F: Future<Output = Option<Result<Begun, StoreError>>>>(
    claimant: &Arc<C>,
    id: &RecordId,
    claim: &Claim,
    mut begin: impl FnMut() -> F,
) -> Result<Begun, StoreError> {
    let mut unknown = None;
    let mut asking = Asking { claimant, id, claim, doubtful: 0 };
    for _ in 0..TRIES {
        asking.doubtful += 1;
        let error = match begin().await {
            Some(Ok(begun)) => {
                asking.doubtful = 0;
                return Ok(begun);
            }
            Some(Err(error)) => error,
            None => StoreErrorKind::Unknown.into(),
        };
        if error.kind() == StoreErrorKind::Unknown {
            unknown = Some(error);
            continue;
        }
        asking.doubtful -= 1;
        // The first time may have been applied, though this one was not.
        if unknown.is_none() || error.kind() != StoreErrorKind::Unavailable {
            return Err(unknown.unwrap_or(error));
        }
    }
    Err(unknown.unwrap_or_else(|| StoreErrorKind::Unknown.into()))
}

/// A claim that may be in the store although no answer has come. Dropped like that, it is taken back, by a
/// task, if there is a runtime: nobody has executed anything for it.
struct Asking<'a, C: Claimant> {
    claimant: &'a Arc<C>,
    id: &'a RecordId,
    claim: &'a Claim,
    /// How often it was sent and not answered.
    doubtful: u32,
}

impl<C: Claimant> Drop for Asking<'_, C> {
    fn drop(&mut self) {
        if self.doubtful > 0 {
            spawn(self.claimant, *self.id, self.claim, self.doubtful);
        }
    }
}

#[cold]
fn spawn<C: Claimant>(claimant: &Arc<C>, id: RecordId, claim: &Claim, doubtful: u32) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let places = Arc::clone(&claimant.taking_back().places);
    let Ok(place) = places.try_acquire_owned() else { return };
    let (claimant, attempt, lease) = (Arc::clone(claimant), claim.attempt, claim.lease);
    runtime.spawn(async move {
        let _place = place;
        take_back(&*claimant, id, attempt, doubtful, lease.max(PATIENCE)).await;
    });
}

/// The claim may come to the store after us, and what was sent more than once may come again. That a store says it is
/// not there says little: a claim that hangs in its commit, or in the buffer of another connection, is not seen by
/// whoever asks beside it, who is answered at once. So only having taken back the only one ends it early.
async fn take_back<C: Claimant>(
    claimant: &C,
    id: RecordId,
    attempt: Attempt,
    doubtful: u32,
    patience: Duration,
) {
    let started = now();
    let mut pause = claimant.limit().min(Duration::from_secs(1)) / 10;
    loop {
        let turn = claimant.taking_back().turns.acquire().await;
        let released = claimant.store().release(&id, attempt);
        let answer = Timer.within(claimant.limit(), released).await;
        drop(turn);
        let asked_for = now().since(started);
        let longest = match answer {
            Some(Ok(Finish::Applied)) if doubtful == 1 => return,
            Some(Err(error)) if !may_help(&error) => return,
            _ if asked_for >= patience => return,
            Some(Ok(_)) => LONGEST_PAUSE.max(asked_for / 4),
            _ => LONGEST_PAUSE,
        };
        pause = pause.min(longest);
        Timer.pause(pause).await;
        pause = pause.saturating_mul(4);
    }
}
