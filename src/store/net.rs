//! What the stores on other machines have in common.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::{Begun, Claim, Entry, OnInterrupted, State, StoreError, StoreErrorKind, StoreTime};

/// The clients behind these stores panic where there is no runtime.
pub(super) fn need_runtime() -> Result<(), StoreError> {
    match Handle::try_current() {
        Ok(_) => Ok(()),
        Err(error) => Err(StoreError::new(StoreErrorKind::Refused).with_source(error)),
    }
}

/// For what nobody waits for: where there is no runtime it is not done.
pub(super) fn in_background(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(work);
    }
}

/// Asks what has to be asked once, before the first operation. If that fails the next caller asks: those who
/// came at the same time must not stand in line for it, each for as long as an answer may take.
pub(super) async fn once<F>(
    asked: &OnceCell<()>,
    limit: Duration,
    ask: impl FnOnce() -> F,
) -> Result<(), StoreError>
where
    F: Future<Output = Result<(), StoreError>>,
{
    if asked.initialized() {
        return Ok(());
    }
    need_runtime()?;
    match timeout(limit, asked.get_or_try_init(ask)).await {
        Ok(done) => done.copied(),
        // Nothing was to be applied.
        Err(late) => Err(StoreError::new(StoreErrorKind::Unavailable).with_source(late)),
    }
}

/// How many runs a claim may take over, as a number: none, some, any.
pub(super) fn reruns(policy: OnInterrupted) -> i32 {
    match policy {
        OnInterrupted::Fail => 0,
        OnInterrupted::Rerun(runs) => i32::from(runs),
        OnInterrupted::Probe => i32::MAX,
    }
}

/// What a claim is answered when the record is this after it; `None` if it should have been taken over.
pub(super) fn met(entry: &Entry, claim: &Claim, now: StoreTime) -> Option<Begun> {
    if entry.attempt == claim.attempt && entry.state == State::Pending {
        return Some(entry.granted(claim));
    }
    if entry.fingerprint != claim.fingerprint {
        return Some(Begun::Mismatch);
    }
    match entry.state {
        State::Completed(_) => Some(Begun::Done(entry.record(now))),
        State::Interrupted => Some(Begun::Interrupted(entry.record(now))),
        State::Pending if now < entry.lease_until => Some(Begun::Busy {
            generation: entry.generation,
            retry_in: entry.lease_until.since(now),
        }),
        State::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::store::{Attempt, Fingerprint, RecordId, Store};

    fn is_refused(store: &impl Store) {
        let claim = Claim::new(Fingerprint::NONE, Attempt::new());
        let id = RecordId::of(b"", b"k");
        let begun = pin!(store.begin(&id, &claim)).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Err(error)) = begun else { panic!("{begun:?}") };
        assert_eq!(error.kind(), StoreErrorKind::Refused);
    }

    #[test]
    fn without_a_runtime_there_is_an_error_and_no_panic() {
        need_runtime().unwrap_err();
        #[cfg(feature = "store-postgres")]
        {
            let config = "host=db".parse().unwrap();
            let store = crate::store::PostgresStore::builder(config).build().unwrap();
            is_refused(&store);
            let made = pin!(store.create_schema()).poll(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(Err(error)) = made else { panic!("{made:?}") };
            assert_eq!(error.kind(), StoreErrorKind::Refused);
        }
        #[cfg(feature = "store-redis")]
        {
            let client = redis::Client::open("redis://127.0.0.1:1/").unwrap();
            is_refused(&crate::store::RedisStore::builder(client).build().unwrap());
        }
    }
}
