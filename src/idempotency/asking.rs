//! A claim on its way: what is done about it when nobody waits for its answer any more.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use super::pace::{Pace, Timer};
use super::permit::{TRIES, may_help};
use crate::clock::now;
use crate::store::{Attempt, Begun, Claim, Finish, RecordId, Store, StoreError, StoreErrorKind};
use crate::sync::{Mutex, lock};

/// How many claims of one gate are being taken back at the same time, at most. With one more, the oldest ends with its
/// lease: it has been looked for longest.
const MOST: usize = 10_000;
/// How many of them ask the store at the same time, so that they do not stand in the way of its other work; and of those
/// that were not found by the first looks, so that they do not stand in the way of the others.
const AT_ONCE: usize = 16;
const LATER_AT_ONCE: usize = 4;
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
    places: Arc<Mutex<Places>>,
    turns: Semaphore,
    later: Semaphore,
}

/// Those that are held, the oldest first.
#[derive(Default)]
struct Places {
    next: u64,
    held: BTreeMap<u64, oneshot::Sender<()>>,
}

struct Place {
    places: Arc<Mutex<Places>>,
    number: u64,
    /// Ready when it was taken away.
    taken_away: oneshot::Receiver<()>,
}

impl TakingBack {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::default(),
            turns: Semaphore::new(AT_ONCE),
            later: Semaphore::new(LATER_AT_ONCE),
        }
    }

    fn enter(&self) -> Place {
        let (tell, taken_away) = oneshot::channel();
        let mut places = lock(&self.places);
        let number = places.next;
        places.next += 1;
        places.held.insert(number, tell);
        let oldest = if places.held.len() > MOST { places.held.pop_first() } else { None };
        drop(places);
        // Outside of the lock: it wakes the oldest.
        drop(oldest);
        Place { places: Arc::clone(&self.places), number, taken_away }
    }
}

impl Place {
    /// Until the place is taken away.
    async fn hold(mut self, work: impl Future<Output = ()>) {
        let mut work = pin!(work);
        poll_fn(|cx| match Pin::new(&mut self.taken_away).poll(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => work.as_mut().poll(cx),
        })
        .await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ours = lock(&self.places).held.remove(&self.number);
        drop(ours);
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
    let place = claimant.taking_back().enter();
    let (claimant, attempt, lease) = (Arc::clone(claimant), claim.attempt, claim.lease);
    runtime.spawn(async move {
        place.hold(take_back(&*claimant, id, attempt, doubtful, lease.max(PATIENCE))).await;
    });
}

/// The claim may come to the store after us, and what was sent more than once may come again. That a store says it is
/// not there says little: a claim that hangs in its commit, or in the buffer of another connection, is not seen by
/// whoever asks beside it, who is answered at once. So it ends early only when as many have been taken back as were
/// sent, or when the record has been decided and whatever comes later finds that.
async fn take_back<C: Claimant>(
    claimant: &C,
    id: RecordId,
    attempt: Attempt,
    doubtful: u32,
    patience: Duration,
) {
    let started = now();
    let mut pause = claimant.limit().min(Duration::from_secs(1)) / 10;
    let (mut looks, mut applied) = (0, 0);
    loop {
        let TakingBack { turns, later, .. } = claimant.taking_back();
        let wait = async {
            let later = if looks < TRIES { None } else { Some(later.acquire().await) };
            (turns.acquire().await, later)
        };
        // Behind thousands of others, and a store that answers slowly, a turn may come long after the time is over.
        let left = patience.saturating_sub(now().since(started));
        let Some(turn) = Timer.within(left, wait).await else { return };
        let released = claimant.store().release(&id, attempt);
        let answer = Timer.within(claimant.limit(), released).await;
        let left = patience.saturating_sub(now().since(started));
        if let Some(Ok(finish)) = &answer {
            looks += 1;
            applied += u32::from(*finish == Finish::Applied);
            if applied == doubtful
                || (*finish == Finish::Fenced && is_decided(claimant, &id, left).await)
            {
                return;
            }
        }
        drop(turn);
        let asked_for = now().since(started);
        let longest = match answer {
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

/// Another one has completed it, and that is known for as long as a claim is looked for: no claim is granted.
async fn is_decided<C: Claimant>(claimant: &C, id: &RecordId, patience: Duration) -> bool {
    let found = Timer.within(claimant.limit(), claimant.store().get(id)).await;
    matches!(found, Some(Ok(Some(record)))
        if record.state.outcome().is_some() && record.expires_in >= patience)
}
