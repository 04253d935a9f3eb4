//! The operations of the traits, as statements and their parameters.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::Type;

use super::row::{self, micros};
use super::{Code, Param, PostgresStore, TRIES, contended};
use crate::quota::{Quota, UNITS_PER_NANO};
use crate::store::net::in_background;
use crate::store::{
    Attempt, Begun, Claim, Finish, Outcome, RateStore, Record, RecordId, Renewed, Resolution,
    Store, StoreError, Taken,
};

impl Store for PostgresStore {
    fn begin(
        &self,
        id: &RecordId,
        claim: &Claim,
    ) -> impl Future<Output = Result<Begun, StoreError>> + Send {
        self.0.begin(id, claim)
    }

    async fn renew(
        &self,
        id: &RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> Result<Renewed, StoreError> {
        let (lease, retention) = (micros(lease), micros(retention));
        let params: [Param<'_>; 4] = [
            (&&id.as_bytes()[..], Type::BYTEA),
            (&&attempt.as_bytes()[..], Type::BYTEA),
            (&lease, Type::INT8),
            (&retention, Type::INT8),
        ];
        Ok(match self.0.change(&self.0.statements.renew, &params).await? {
            Code::Done => Renewed::Held,
            Code::Interrupted => Renewed::Interrupted,
            Code::Before | Code::Fenced | Code::Again => Renewed::Fenced,
        })
    }

    async fn complete(
        &self,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Arc<Outcome>,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.0.complete(id, attempt, outcome, retention).await
    }

    async fn release(&self, id: &RecordId, attempt: Attempt) -> Result<Finish, StoreError> {
        let params: [Param<'_>; 2] =
            [(&&id.as_bytes()[..], Type::BYTEA), (&&attempt.as_bytes()[..], Type::BYTEA)];
        Ok(self.0.change(&self.0.statements.release, &params).await?.finish())
    }

    async fn interrupt(
        &self,
        id: &RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        let retention = micros(retention);
        let params: [Param<'_>; 3] = [
            (&&id.as_bytes()[..], Type::BYTEA),
            (&&attempt.as_bytes()[..], Type::BYTEA),
            (&retention, Type::INT8),
        ];
        Ok(self.0.change(&self.0.statements.interrupt, &params).await?.finish())
    }

    async fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> Result<Finish, StoreError> {
        self.0.resolve(id, generation, &resolution).await
    }

    async fn get(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let params: [Param<'_>; 1] = [(&&id.as_bytes()[..], Type::BYTEA)];
        let rows = self.0.query(&self.0.statements.get, &params).await?;
        let record = |row| Ok(row::entry(row)?.record(row::time(row, 11, "now")?));
        rows.first().map(record).transpose()
    }

    /// Done by a task, once and within the timeout; if that fails the lease ends by itself.
    fn abandon(&self, id: &RecordId, attempt: Attempt) {
        let (inner, id) = (Arc::clone(&self.0), *id);
        in_background(async move {
            let params: [Param<'_>; 2] =
                [(&&id.as_bytes()[..], Type::BYTEA), (&&attempt.as_bytes()[..], Type::BYTEA)];
            let _ = inner.query(&inner.statements.abandon, &params).await;
        });
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.0.purge(&self.0.statements.purge, limit).await
    }
}

impl RateStore for PostgresStore {
    async fn take(
        &self,
        bucket: &RecordId,
        quota: &Quota,
        at_least: u64,
        at_most: u64,
    ) -> Result<Taken, StoreError> {
        // None is more than 2^62.
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let (interval, burst) = (number(quota.interval_units()), number(quota.capacity()));
        let (at_least, at_most) = (number(at_least), number(at_most));
        let params: [Param<'_>; 5] = [
            (&&bucket.as_bytes()[..], Type::BYTEA),
            (&interval, Type::INT8),
            (&burst, Type::INT8),
            (&at_least, Type::INT8),
            (&at_most, Type::INT8),
        ];
        for _ in 0..TRIES {
            let rows = self.0.query(&self.0.statements.take, &params).await?;
            let Some(row) = rows.first() else { continue };
            let granted = row::number(row, 0, "granted")?;
            let debt = row::number(row, 1, "tat")?.div_ceil(UNITS_PER_NANO);
            return Ok(Taken { granted, debt: Duration::from_nanos(debt) });
        }
        Err(contended())
    }
}
