//! A store in memory whose answers go wrong as told, once each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::store::{
    Attempt, Begun, Claim, Finish, MemoryStore, Outcome, Record, RecordId, Renewed, Resolution,
    Store, StoreError, StoreErrorKind,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum On {
    Begin,
    Renew,
    Complete,
    Release,
    Get,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Not applied, and said so.
    Error(StoreErrorKind),
    /// Applied, and the answer lost.
    LostAnswer,
    /// Not applied, and no answer ever.
    Hang,
    /// Applied, and no answer ever.
    HangAfter,
    /// Applied that much later, and no answer ever: it lay in a queue. Of a claim only.
    Late(Duration),
    Fine,
}

#[derive(Default)]
struct Script {
    faults: VecDeque<(On, Fault)>,
    always: Option<(On, Fault)>,
    asked: Vec<On>,
    /// It does not answer before, whatever it is asked, unless something else is told.
    stalled_until: Option<Instant>,
}

#[derive(Clone, Default)]
pub(super) struct Faulty {
    pub(super) store: MemoryStore,
    script: Arc<Mutex<Script>>,
    late: Arc<Mutex<JoinSet<Result<Begun, StoreError>>>>,
}

impl Faulty {
    /// The next operations of that kind go like this, in order.
    pub(super) fn next(&self, on: On, faults: &[Fault]) {
        let mut script = self.script.lock().unwrap();
        script.faults.extend(faults.iter().map(|fault| (on, *fault)));
    }

    /// All operations of that kind go like this, if nothing else is told.
    pub(super) fn always(&self, on: On, fault: Fault) {
        self.script.lock().unwrap().always = Some((on, fault));
    }

    pub(super) fn stalls_for(&self, time: Duration) {
        self.script.lock().unwrap().stalled_until = Some(Instant::now() + time);
    }

    pub(super) fn asked(&self, on: On) -> usize {
        self.script.lock().unwrap().asked.iter().filter(|asked| **asked == on).count()
    }

    fn fault(&self, on: On) -> Fault {
        let mut script = self.script.lock().unwrap();
        script.asked.push(on);
        if let Some(at) = script.faults.iter().position(|(of, _)| *of == on) {
            return script.faults.remove(at).unwrap().1;
        }
        match script.always {
            Some((of, fault)) if of == on => fault,
            _ if script.stalled_until.is_some_and(|until| Instant::now() < until) => Fault::Hang,
            _ => Fault::Fine,
        }
    }

    async fn with<T>(
        &self,
        on: On,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match self.fault(on) {
            Fault::Error(kind) => Err(kind.into()),
            Fault::Hang | Fault::Late(_) => std::future::pending().await,
            Fault::LostAnswer => {
                operation.await?;
                Err(StoreErrorKind::Unknown.into())
            }
            Fault::HangAfter => {
                operation.await?;
                std::future::pending().await
            }
            Fault::Fine => operation.await,
        }
    }
}

impl Store for Faulty {
    async fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        let begun = self.with(On::Begin, self.store.begin(id, claim));
        let first = self.script.lock().unwrap().faults.front().copied();
        if let Some((On::Begin, Fault::Late(after))) = first {
            let (store, id, claim) = (self.store.clone(), *id, *claim);
            let _ = self.late.lock().unwrap().spawn(async move {
                tokio::time::sleep(after).await;
                store.begin(&id, &claim).await
            });
        }
        begun.await
    }

    async fn renew(
        &self,
        id: &RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> Result<Renewed, StoreError> {
        self.with(On::Renew, self.store.renew(id, attempt, lease, retention)).await
    }

    async fn complete(
        &self,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Arc<Outcome>,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.with(On::Complete, self.store.complete(id, attempt, outcome, retention)).await
    }

    async fn release(&self, id: &RecordId, attempt: Attempt) -> Result<Finish, StoreError> {
        self.with(On::Release, self.store.release(id, attempt)).await
    }

    async fn interrupt(
        &self,
        id: &RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.store.interrupt(id, attempt, retention).await
    }

    async fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> Result<Finish, StoreError> {
        self.store.resolve(id, generation, resolution).await
    }

    async fn get(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.with(On::Get, self.store.get(id)).await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.store.purge(limit).await
    }

    fn abandon(&self, id: &RecordId, attempt: Attempt) {
        self.store.abandon(id, attempt);
    }

    // `changed` is left as it is by default: waiters of this store have to look again.
}
