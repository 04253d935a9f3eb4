//! One store, and the moves every property is made of.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::subject::StoreSubject;
use super::violation::{StoreProperty, StoreViolation};
use crate::store::{
    Attempt, Begun, Claim, Fingerprint, Finish, OnInterrupted, Outcome, Record, RecordId, Renewed,
    Resolution, Store, StoreError,
};

pub(super) type Checked<T = ()> = Result<T, StoreViolation>;

pub(super) struct Lab<'a, S> {
    subject: &'a StoreSubject<S>,
    property: StoreProperty,
    pub(super) store: S,
}

/// Fails the property unless what was seen is of that shape.
macro_rules! want {
    ($lab:expr, $pattern:pat $(if $guard:expr)?, $seen:expr, $when:expr) => {
        match $seen {
            $pattern $(if $guard)? => {}
            seen => {
                let expected =
                    concat!(stringify!($pattern) $(, " where ", stringify!($guard))?);
                return $lab.fail(format!("{expected} {}", $when), format!("{seen:?}"));
            }
        }
    };
}
pub(super) use want;

impl<'a, S: Store + Clone> Lab<'a, S> {
    pub(super) async fn new(subject: &'a StoreSubject<S>, property: StoreProperty) -> Self {
        Self { subject, property, store: (subject.make)().await }
    }

    pub(super) fn fail<T>(
        &self,
        expected: impl Into<Cow<'static, str>>,
        seen: impl Into<Cow<'static, str>>,
    ) -> Checked<T> {
        Err(StoreViolation::new(self.property, expected, seen))
    }

    pub(super) fn equal<T: PartialEq + Debug>(
        &self,
        seen: &T,
        expected: &T,
        when: &str,
    ) -> Checked {
        if seen == expected {
            return Ok(());
        }
        self.fail(format!("{expected:?} {when}"), format!("{seen:?}"))
    }

    fn answer<T>(&self, operation: &str, answer: Result<T, StoreError>) -> Checked<T> {
        answer.or_else(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let source = source.map_or_else(String::new, |source| format!(" ({source})"));
            self.fail(format!("an answer to {operation}"), format!("an error: {error}{source}"))
        })
    }

    /// One that nobody has used before.
    pub(super) fn id(&self) -> RecordId {
        RecordId::of(b"conformance", Attempt::new().as_bytes())
    }

    pub(super) fn lease(&self) -> Duration {
        self.subject.unit * 4
    }

    pub(super) fn claim(&self) -> Claim {
        Claim::new(Fingerprint::of(b"a"), Attempt::new())
            .lease(self.lease())
            .retention(self.subject.unit * 1_000)
    }

    pub(super) fn rerun(&self, runs: u16) -> Claim {
        self.claim().on_interrupted(OnInterrupted::Rerun(runs))
    }

    pub(super) fn claims(&self) -> usize {
        self.subject.claims
    }

    pub(super) async fn pass(&self, units: u32) {
        (self.subject.pass)(self.store.clone(), self.subject.unit * units).await;
    }

    /// Until a lease that starts now has surely ended.
    pub(super) async fn pass_a_lease(&self) {
        self.pass(5).await;
    }

    pub(super) async fn begin(&self, id: &RecordId, claim: &Claim) -> Checked<Begun> {
        self.answer("begin", self.store.begin(id, claim).await)
    }

    /// A claim that must be granted.
    pub(super) async fn granted(&self, id: &RecordId, claim: &Claim) -> Checked<(u64, u16)> {
        match self.begin(id, claim).await? {
            Begun::Run { generation, runs } => Ok((generation, runs)),
            seen => self.fail("Begun::Run of a key that is free", format!("{seen:?}")),
        }
    }

    pub(super) async fn renew(&self, id: &RecordId, claim: &Claim) -> Checked<Renewed> {
        let renewed = self.store.renew(id, claim.attempt, claim.lease, claim.retention).await;
        self.answer("renew", renewed)
    }

    pub(super) async fn complete(
        &self,
        id: &RecordId,
        claim: &Claim,
        outcome: Outcome,
    ) -> Checked<Finish> {
        let outcome = Arc::new(outcome);
        let finish = self.store.complete(id, claim.attempt, &outcome, claim.retention).await;
        self.answer("complete", finish)
    }

    pub(super) async fn release(&self, id: &RecordId, claim: &Claim) -> Checked<Finish> {
        self.answer("release", self.store.release(id, claim.attempt).await)
    }

    pub(super) async fn interrupt(&self, id: &RecordId, claim: &Claim) -> Checked<Finish> {
        let finish = self.store.interrupt(id, claim.attempt, claim.retention).await;
        self.answer("interrupt", finish)
    }

    pub(super) async fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> Checked<Finish> {
        self.answer("resolve", self.store.resolve(id, generation, resolution).await)
    }

    pub(super) async fn get(&self, id: &RecordId) -> Checked<Option<Record>> {
        self.answer("get", self.store.get(id).await)
    }

    pub(super) async fn there(&self, id: &RecordId, when: &str) -> Checked<Record> {
        match self.get(id).await? {
            Some(record) => Ok(record),
            None => self.fail(format!("a record {when}"), "none"),
        }
    }

    /// These claims of one key, all at once.
    pub(super) async fn together(&self, id: RecordId, claims: Vec<Claim>) -> Checked<Vec<Begun>> {
        let mut tasks = JoinSet::new();
        for claim in claims {
            let store = self.store.clone();
            tasks.spawn(async move { store.begin(&id, &claim).await });
        }
        let mut all = vec![];
        while let Some(begun) = tasks.join_next().await {
            match begun {
                Ok(begun) => all.push(self.answer("begin", begun)?),
                Err(error) => return self.fail("an answer to begin", format!("{error}")),
            }
        }
        Ok(all)
    }
}

/// Told apart by its number.
pub(super) fn outcome(number: u16) -> Outcome {
    Outcome::new(200 + number, number.to_be_bytes(), format!("outcome {number}").into_bytes())
}
