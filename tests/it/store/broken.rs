//! A store with one defect of a kind that has been seen.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::store::{
    Attempt, Begun, Claim, Finish, MemoryStore, OnInterrupted, Outcome, Record, RecordId, Renewed,
    Resolution, State, Store, StoreError,
};
use buttress::testing::store::StoreProperty as P;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    LooksThenWrites,
    LooksThenTakesOver,
    NewTokenForEachClaim,
    InFlightBeforeMismatch,
    OneRecord,
    StandingGeneration,
    TakesNoLease,
    DoesNotRenew,
    LockWithATimeLimit,
    RerunsForEver,
    ProbeForTwo,
    NoLateOwners,
    UnfencedComplete,
    UnfencedRenew,
    UnfencedRelease,
    FreesWhenDropped,
    ForgetsHead,
    CutsBody,
    EmptyBodyIsNoBody,
    LastOutcomeWins,
    ReleasesNothing,
    ReleasesAll,
    InterruptIsALease,
    ResolvesAnyGeneration,
    KeepsForEver,
    LeaseEndsWithRetention,
    RetentionBesideLease,
    PurgesAll,
    GetInterrupts,
    TellsTooEarly,
}

impl Defect {
    /// Each, and the property that is there for it.
    pub(super) const ALL: [(Self, P); 31] = [
        (Self::LooksThenWrites, P::OneOfManyClaimsWins),
        (Self::LooksThenTakesOver, P::OneOfManyTakesOver),
        (Self::NewTokenForEachClaim, P::SameAttemptIsTheSameClaim),
        (Self::NewTokenForEachClaim, P::CancelledClaimCanBeRepeated),
        (Self::InFlightBeforeMismatch, P::MismatchComesFirst),
        (Self::OneRecord, P::RecordsDoNotMix),
        (Self::StandingGeneration, P::GenerationsGrow),
        (Self::TakesNoLease, P::LeaseKeepsOthersOut),
        (Self::DoesNotRenew, P::RenewalExtendsTheLease),
        (Self::LockWithATimeLimit, P::EndedLeaseIsNotRunAgain),
        (Self::RerunsForEver, P::RerunHasALimit),
        (Self::ProbeForTwo, P::ProbeKeepsOthersOut),
        (Self::NoLateOwners, P::LateOwnerSetsItRight),
        (Self::UnfencedComplete, P::ZombieIsFencedOff),
        (Self::UnfencedRenew, P::ZombieIsFencedOff),
        (Self::UnfencedRelease, P::ZombieIsFencedOff),
        (Self::FreesWhenDropped, P::AbandonedIsNotRunAgain),
        (Self::ForgetsHead, P::OutcomeIsGivenAsItWas),
        (Self::CutsBody, P::OutcomeIsGivenAsItWas),
        (Self::EmptyBodyIsNoBody, P::OutcomeIsGivenAsItWas),
        (Self::LastOutcomeWins, P::FirstOutcomeStays),
        (Self::ReleasesNothing, P::ReleaseFreesTheKey),
        (Self::ReleasesAll, P::ReleaseLeavesTheFormerOwner),
        (Self::InterruptIsALease, P::InterruptedStays),
        (Self::ResolvesAnyGeneration, P::ResolveNeedsTheGeneration),
        (Self::KeepsForEver, P::RetentionEnds),
        (Self::LeaseEndsWithRetention, P::LeaseOutlivesRetention),
        (Self::RetentionBesideLease, P::RetentionFollowsTheLease),
        (Self::PurgesAll, P::PurgeTakesOnlyTheExpired),
        (Self::GetInterrupts, P::GetChangesNothing),
        (Self::TellsTooEarly, P::ChangedIsNotEarly),
    ];
}

#[derive(Clone)]
pub(super) struct Broken {
    pub(super) defect: Defect,
    store: MemoryStore,
    ids: Arc<Mutex<Vec<RecordId>>>,
}

impl Broken {
    pub(super) fn new(defect: Defect) -> Self {
        Self { defect, store: MemoryStore::default(), ids: Arc::default() }
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn id(&self, id: &RecordId) -> RecordId {
        if self.has(Defect::OneRecord) { RecordId::of(b"", b"") } else { *id }
    }

    /// The owner, whoever asks.
    async fn owner(&self, id: &RecordId, attempt: Attempt) -> Attempt {
        self.store.get(id).await.unwrap().map_or(attempt, |record| record.attempt)
    }
}

impl Store for Broken {
    async fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        let id = self.id(id);
        self.ids.lock().unwrap().push(id);
        let mut claim = *claim;
        let seen = self.store.get(&id).await?;
        tokio::task::yield_now().await;
        match &seen {
            None if self.has(Defect::LooksThenWrites) => {
                self.store.begin(&id, &claim).await?;
                return Ok(Begun::Run { generation: 1, runs: 1 });
            }
            Some(record) if self.has(Defect::LooksThenTakesOver) && record.lease_left.is_zero() => {
                if let (State::Pending, OnInterrupted::Rerun(_)) =
                    (&record.state, claim.on_interrupted)
                {
                    self.store.begin(&id, &claim).await?;
                    return Ok(Begun::Run { generation: 2, runs: 2 });
                }
            }
            _ => {}
        }
        match self.defect {
            Defect::NewTokenForEachClaim => claim.attempt = Attempt::new(),
            Defect::TakesNoLease => claim.lease = Duration::ZERO,
            Defect::LeaseEndsWithRetention => claim.lease = claim.lease.min(claim.retention),
            Defect::RetentionBesideLease => {
                claim.retention = claim.retention.saturating_sub(claim.lease);
            }
            Defect::RerunsForEver => {
                if let OnInterrupted::Rerun(_) = claim.on_interrupted {
                    claim.on_interrupted = OnInterrupted::Rerun(u16::MAX);
                }
            }
            Defect::LockWithATimeLimit => claim.on_interrupted = OnInterrupted::Rerun(u16::MAX),
            _ => {}
        }
        let mut begun = self.store.begin(&id, &claim).await?;
        if self.has(Defect::InFlightBeforeMismatch)
            && let (Begun::Mismatch, Some(Record { state: State::Pending, generation, .. })) =
                (&begun, &seen)
        {
            begun = Begun::Busy { generation: *generation, retry_in: Duration::from_secs(1) };
        }
        if let (Defect::StandingGeneration, Begun::Run { generation, .. }) =
            (self.defect, &mut begun)
        {
            *generation = 1;
        }
        if let (Defect::ProbeForTwo, Begun::Probe { .. }) = (self.defect, &begun) {
            self.store.abandon(&id, claim.attempt);
        }
        Ok(begun)
    }

    async fn renew(
        &self,
        id: &RecordId,
        mut attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> Result<Renewed, StoreError> {
        let id = self.id(id);
        if self.has(Defect::DoesNotRenew) {
            return Ok(Renewed::Held);
        }
        let retention = match self.defect {
            Defect::RetentionBesideLease => retention.saturating_sub(lease),
            _ => retention,
        };
        if self.has(Defect::UnfencedRenew) {
            attempt = self.owner(&id, attempt).await;
        }
        self.store.renew(&id, attempt, lease, retention).await
    }

    async fn complete(
        &self,
        id: &RecordId,
        mut attempt: Attempt,
        outcome: &Arc<Outcome>,
        mut retention: Duration,
    ) -> Result<Finish, StoreError> {
        let id = self.id(id);
        let mut outcome = Arc::clone(outcome);
        let body = || outcome.body().unwrap_or_default().to_vec();
        match self.defect {
            Defect::UnfencedComplete => attempt = self.owner(&id, attempt).await,
            Defect::ForgetsHead => {
                outcome = Arc::new(Outcome::new(outcome.status(), vec![], body()));
            }
            Defect::CutsBody => {
                let mut body = body();
                body.truncate(65_535);
                outcome = Arc::new(Outcome::new(outcome.status(), outcome.head(), body));
            }
            Defect::EmptyBodyIsNoBody if outcome.body() == Some(&[]) => {
                outcome = Arc::new(outcome.without_body());
            }
            Defect::KeepsForEver => retention *= 1_000,
            Defect::NoLateOwners => {
                let record = self.store.get(&id).await?;
                if record.is_some_and(|record| record.state == State::Interrupted) {
                    return Ok(Finish::Fenced);
                }
            }
            Defect::LastOutcomeWins => {
                let record = self.store.get(&id).await?;
                if let Some(record) = record
                    && record.attempt == attempt
                    && record.state.outcome().is_some()
                {
                    let claim = Claim::new(record.fingerprint, attempt);
                    self.store.resolve(&id, record.generation, Resolution::Forget).await?;
                    self.store.begin(&id, &claim).await?;
                    self.store.complete(&id, attempt, &outcome, retention).await?;
                    return Ok(Finish::Already);
                }
            }
            _ => {}
        }
        self.store.complete(&id, attempt, &outcome, retention).await
    }

    async fn release(&self, id: &RecordId, mut attempt: Attempt) -> Result<Finish, StoreError> {
        let id = self.id(id);
        match self.defect {
            Defect::ReleasesNothing => return Ok(Finish::Applied),
            Defect::UnfencedRelease => attempt = self.owner(&id, attempt).await,
            _ => {}
        }
        let finish = self.store.release(&id, attempt).await?;
        if let (Defect::ReleasesAll, Finish::Applied) = (self.defect, finish)
            && let Some(record) = self.store.get(&id).await?
        {
            self.store.resolve(&id, record.generation, Resolution::Forget).await?;
        }
        Ok(finish)
    }

    async fn interrupt(
        &self,
        id: &RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        let id = self.id(id);
        if self.has(Defect::InterruptIsALease) {
            self.store.abandon(&id, attempt);
            return Ok(Finish::Applied);
        }
        self.store.interrupt(&id, attempt, retention).await
    }

    async fn resolve(
        &self,
        id: &RecordId,
        mut generation: u64,
        resolution: Resolution,
    ) -> Result<Finish, StoreError> {
        let id = self.id(id);
        if self.has(Defect::ResolvesAnyGeneration) {
            let record = self.store.get(&id).await?;
            generation = record.map_or(generation, |record| record.generation);
        }
        self.store.resolve(&id, generation, resolution).await
    }

    async fn get(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let id = self.id(id);
        let record = self.store.get(&id).await?;
        if let (Defect::GetInterrupts, Some(record)) = (self.defect, &record)
            && record.state == State::Pending
            && record.lease_left.is_zero()
        {
            let claim = Claim::new(record.fingerprint, Attempt::new());
            self.store.begin(&id, &claim).await?;
        }
        Ok(record)
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        if !self.has(Defect::PurgesAll) {
            return self.store.purge(limit).await;
        }
        let ids = self.ids.lock().unwrap().clone();
        for id in ids.iter().take(limit) {
            if let Some(record) = self.store.get(id).await? {
                self.store.resolve(id, record.generation, Resolution::Forget).await?;
            }
        }
        Ok(0)
    }

    fn abandon(&self, id: &RecordId, attempt: Attempt) {
        let id = self.id(id);
        if self.has(Defect::FreesWhenDropped) {
            let mut release = std::pin::pin!(self.store.release(&id, attempt));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            let _ = release.as_mut().poll(&mut cx);
            return;
        }
        self.store.abandon(&id, attempt);
    }

    async fn changed(&self, id: &RecordId, generation: u64) {
        if !self.has(Defect::TellsTooEarly) {
            self.store.changed(&self.id(id), generation).await;
        }
    }
}
