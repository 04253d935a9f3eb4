//! Records and shared buckets in PostgreSQL.

mod config;
mod error;
mod ops;
mod row;
mod schema;
mod sql;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

pub use self::config::PostgresStoreBuilder;
use self::row::micros;
use self::sql::Statements;
use super::net::{met, need_runtime, reruns};
use super::{
    Attempt, Begun, Claim, Finish, Outcome, RecordId, Resolution, StoreError, StoreErrorKind,
};

/// How often a statement is sent again that met a contradiction: each time somebody else has changed the
/// record in between.
const TRIES: usize = 5;
/// Rows that one statement removes.
const BATCH: usize = 1_000;

type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// Records in PostgreSQL: shared by all that reach the database, and as durable as it is.
///
/// The only store in which an effect and its record can be one: if the effect is a change in the same
/// database, write it and [`complete_in`](Self::complete_in) in one transaction, and it happens exactly once.
/// Everything else is at most one *recorded* execution, as in every store.
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use buttress::store::PostgresStore;
/// let store = PostgresStore::builder("host=localhost user=app dbname=shop".parse()?).build()?;
/// store.create_schema().await?; // once, for example when the program is deployed
/// # Ok(()) }
/// ```
///
/// *Tables.* `buttress_records`, `buttress_limits` (for [shared rate limits](super::RateStore); unlogged, so it is
/// empty after a crash of the server), a sequence and the version of all that. They are made by
/// [`create_schema`](Self::create_schema) and nothing else. A store that meets tables of a version it does not
/// know refuses every operation with [`StoreErrorKind::Refused`]. Call [`purge`](super::Store::purge) from time to
/// time, say each minute: nothing is removed by itself.
///
/// *How.* Every operation is one statement in a transaction of its own, sent once. Nothing is left behind in
/// the session, so an operation can be dropped at any point; the connection it was using is then closed, and
/// the pool makes another.
///
/// *Time* is the clock of the server. Nothing that callers' clocks do matters.
///
/// *Generations* come from a sequence that [`create_schema`](Self::create_schema) starts at the present time, in
/// microseconds. They grow from claim to claim of a key, also when its record has been removed in between, as long
/// as the sequence does not go back; see there. Two claims of one key that overlap, of which one is released or
/// forgotten within the time that the other one's statement takes, may get them in the order in which they came
/// and not in that in which they were granted.
///
/// *Durability* is that of the database: `synchronous_commit` must not be off for it, and after a failover to an
/// asynchronous replica claims can be missing.
///
/// *TLS.* The crate brings none. With `sslmode=prefer`, the default, the connection is in the clear;
/// `require` is refused. For TLS make the pool, with the connector you prefer, and use [`over`](Self::over).
///
/// *Runtime.* Needs tokio's; anywhere else operations are refused.
///
/// *Restarts of the server.* An operation that was under way ends in [`StoreErrorKind::Unknown`]; later ones in
/// [`StoreErrorKind::Unavailable`] until the server is back.
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    pool: Pool,
    statements: Statements,
    timeout: Duration,
    max_outcome: usize,
    prepared: bool,
    /// Whether the tables are of our version.
    checked: OnceCell<()>,
}

/// A connection with a statement on its way: not given back if that is dropped, because the next user would
/// have to wait for its answer.
struct Lent(Option<Object>);

impl Lent {
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

/// What a change comes to. The numbers are those in the statements.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Code {
    Done,
    Before,
    Fenced,
    Again,
    Interrupted,
}

impl Code {
    fn of(row: Option<&Row>) -> Result<Self, StoreError> {
        let code = row.and_then(|row| row.try_get::<_, i32>(0).ok());
        Ok(match code {
            Some(0) => Self::Done,
            Some(1) => Self::Before,
            Some(2) => Self::Fenced,
            Some(3) => Self::Again,
            Some(4) => Self::Interrupted,
            _ => return Err(StoreErrorKind::Corrupt.into()),
        })
    }

    fn finish(self) -> Finish {
        match self {
            Self::Done => Finish::Applied,
            Self::Before => Finish::Already,
            Self::Fenced | Self::Again | Self::Interrupted => Finish::Fenced,
        }
    }
}

fn contended() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable)
        .with_source("others changed the record each time it was looked at")
}

impl PostgresStore {
    /// A store of its own pool of connections, without TLS.
    ///
    /// ```
    /// use buttress::store::PostgresStore;
    /// let store = PostgresStore::builder("host=localhost user=app".parse()?).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(config: tokio_postgres::Config) -> PostgresStoreBuilder {
        PostgresStoreBuilder::of_config(config)
    }

    /// A store on a pool of yours, for example with TLS, or the one your queries use. Its connections should
    /// have a `statement_timeout`, else an operation that was given up here can go on in the server.
    ///
    /// ```no_run
    /// use buttress::store::PostgresStore;
    /// use deadpool_postgres::{Manager, Pool};
    /// # let my_tls = tokio_postgres::NoTls;
    /// let manager = Manager::new("host=db sslmode=require".parse()?, my_tls);
    /// let store = PostgresStore::over(Pool::builder(manager).build()?).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn over(pool: Pool) -> PostgresStoreBuilder {
        PostgresStoreBuilder::of_pool(pool)
    }

    /// The pool, for transactions with [`complete_in`](Self::complete_in).
    ///
    /// ```
    /// # let store = buttress::store::PostgresStore::builder("host=db user=app".parse()?).build()?;
    /// assert_eq!(store.pool().status().size, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Records what came of it as part of a transaction of the caller: the effect, made in the same
    /// transaction, and the record come to be together or not at all.
    ///
    /// Call it last, and commit only if the record [is applied](Finish::is_applied) by this very call. Otherwise
    /// roll back: [`Already`](Finish::Already) says that a transaction before this one has been committed, whose
    /// answer was lost perhaps, and with it the effect; [`Fenced`](Finish::Fenced) that somebody else has taken
    /// the key over. The row is locked until the transaction ends. Use the default isolation (`READ COMMITTED`):
    /// a renewal of the lease meanwhile makes stricter ones fail.
    ///
    /// If `commit` fails, nobody knows whether it was done: make the whole transaction again, with the same
    /// permit, and this will tell.
    ///
    /// Under this rule [`OnInterrupted::Rerun`](super::OnInterrupted::Rerun) is safe: an effect that was not
    /// recorded was rolled back.
    ///
    /// # Errors
    /// As of any statement. The transaction cannot be committed after one.
    ///
    /// ```no_run
    /// # async fn f(store: buttress::store::PostgresStore) -> Result<(), Box<dyn std::error::Error>> {
    /// use buttress::idempotency::{Begin, Idempotency, Scope};
    /// use buttress::store::{Fingerprint, OnInterrupted, Outcome};
    /// use std::time::Duration;
    ///
    /// let gate = Idempotency::builder("orders", store.clone())
    ///     .scope(Scope::global())
    ///     .on_interrupted(OnInterrupted::Rerun(10))
    ///     .build()?;
    /// let day = Duration::from_secs(24 * 60 * 60);
    /// if let Begin::Execute(permit) = gate.begin("order-1", Fingerprint::of(b"10 EUR")).await? {
    ///     let mut client = store.pool().get().await?;
    ///     let tx = client.transaction().await?;
    ///     tx.execute("UPDATE accounts SET balance = balance - 10 WHERE id = 7", &[]).await?;
    ///     let paid = Outcome::new(200, vec![], b"paid".to_vec());
    ///     let (id, attempt) = (permit.id(), permit.attempt());
    ///     if store.complete_in(&tx, &id, attempt, &paid, day).await?.is_applied() {
    ///         tx.commit().await?;
    ///     } else {
    ///         tx.rollback().await?; // paid before, or by somebody else
    ///     }
    ///     permit.settled();
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn complete_in(
        &self,
        transaction: &tokio_postgres::Transaction<'_>,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Outcome,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        let kept = Kept::of(outcome, self.0.max_outcome);
        let (id, attempt, retention) =
            (&id.as_bytes()[..], &attempt.as_bytes()[..], micros(retention));
        for _ in 0..TRIES {
            let params = kept.after(&id, &attempt, &retention);
            let rows = transaction.query_typed(&self.0.statements.complete, &params).await;
            let code = Code::of(rows.map_err(error::statement)?.first())?;
            if code != Code::Again {
                return Ok(kept.finish(code));
            }
        }
        Err(contended())
    }

    /// Removes up to `limit` buckets of shared rate limits that are full again, and says how many. Nothing
    /// depends on it but the size of the table. Where few are full it reads all of it, for want of an index that
    /// each request would have to write to: once an hour is enough.
    ///
    /// # Errors
    /// As of any operation.
    ///
    /// ```no_run
    /// # async fn f(store: buttress::store::PostgresStore) -> Result<(), buttress::store::StoreError> {
    /// while store.purge_limits(1_000).await? > 0 {}
    /// # Ok(()) }
    /// ```
    pub async fn purge_limits(&self, limit: usize) -> Result<usize, StoreError> {
        self.0.purge(&self.0.statements.purge_limits, limit).await
    }
}

/// An outcome as it is kept.
struct Kept<'a> {
    status: i32,
    head: &'a [u8],
    body: Option<&'a [u8]>,
    trimmed: bool,
}

impl<'a> Kept<'a> {
    fn of(outcome: &'a Outcome, max: usize) -> Self {
        let trimmed = outcome.len() > max;
        let head = if outcome.head().len() > max { &[] } else { outcome.head() };
        let body = outcome.body().filter(|_| !trimmed);
        Self { status: i32::from(outcome.status()), head, body, trimmed }
    }

    fn finish(&self, code: Code) -> Finish {
        match code.finish() {
            Finish::Applied if self.trimmed => Finish::Trimmed,
            finish => finish,
        }
    }

    /// The parameters of `complete`.
    fn after<'b>(
        &'b self,
        id: &'b &[u8],
        attempt: &'b &[u8],
        retention: &'b i64,
    ) -> [Param<'b>; 6] {
        let [status, head, body] = self.params();
        [(id, Type::BYTEA), (attempt, Type::BYTEA), (retention, Type::INT8), status, head, body]
    }

    fn params(&self) -> [Param<'_>; 3] {
        [(&self.status, Type::INT4), (&self.head, Type::BYTEA), (&self.body, Type::BYTEA)]
    }
}

impl Inner {
    /// Runs `work` with a connection, within the timeout.
    async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&Object) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        need_runtime()?;
        let deadline = Instant::now() + self.timeout;
        let object = match timeout_at(deadline, self.pool.get()).await {
            Ok(object) => object.map_err(error::no_connection)?,
            Err(late) => return Err(StoreError::new(StoreErrorKind::Unavailable).with_source(late)),
        };
        let lent = Lent(Some(object));
        let Some(object) = &lent.0 else { return Err(contended()) };
        match timeout_at(deadline, work(object)).await {
            Ok(done) => {
                use StoreErrorKind::{Unavailable, Unknown};
                let doubtful = |error: &StoreError| matches!(error.kind(), Unknown | Unavailable);
                // A connection that broke is not noticed at once: the next user would.
                if !done.as_ref().is_err_and(doubtful) {
                    lent.give_back();
                }
                done
            }
            Err(late) => Err(StoreError::new(StoreErrorKind::Unknown).with_source(late)),
        }
    }

    async fn send(
        &self,
        client: &Object,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let rows = if self.prepared {
            let types: Vec<Type> = params.iter().map(|(_, of)| of.clone()).collect();
            let values: Vec<_> = params.iter().map(|(value, _)| *value).collect();
            // Preparing changes nothing, so what breaks here has surely not been applied.
            let prepared = client.prepare_typed_cached(sql, &types).await;
            let statement = prepared.map_err(|error| error::unapplied(error::statement(error)))?;
            client.query(&statement, &values).await
        } else {
            client.query_typed(sql, params).await
        };
        rows.map_err(error::statement)
    }

    /// One statement.
    async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, StoreError> {
        self.check().await?;
        self.with(async |client| self.send(client, sql, params).await).await
    }

    /// A statement that changes a record, until it knows what it has done.
    async fn change(&self, sql: &str, params: &[Param<'_>]) -> Result<Code, StoreError> {
        for _ in 0..TRIES {
            let code = Code::of(self.query(sql, params).await?.first())?;
            if code != Code::Again {
                return Ok(code);
            }
        }
        Err(contended())
    }

    async fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        let (lease, retention) = (micros(claim.lease), micros(claim.retention));
        let reruns = reruns(claim.on_interrupted);
        let params: [Param<'_>; 6] = [
            (&&id.as_bytes()[..], Type::BYTEA),
            (&&claim.attempt.as_bytes()[..], Type::BYTEA),
            (&&claim.fingerprint.as_bytes()[..], Type::BYTEA),
            (&lease, Type::INT8),
            (&retention, Type::INT8),
            (&reruns, Type::INT4),
        ];
        for _ in 0..TRIES {
            let rows = self.query(&self.statements.begin, &params).await?;
            // None: somebody was faster, and what he wrote was not there yet when the statement began.
            let Some(row) = rows.first() else { continue };
            let (entry, now) = (row::entry(row)?, row::time(row, 11, "now")?);
            if let Some(begun) = met(&entry, claim, now) {
                return Ok(begun);
            }
        }
        Err(contended())
    }

    async fn complete(
        &self,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Outcome,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        let kept = Kept::of(outcome, self.max_outcome);
        let (id, attempt, retention) =
            (&id.as_bytes()[..], &attempt.as_bytes()[..], micros(retention));
        let params = kept.after(&id, &attempt, &retention);
        Ok(kept.finish(self.change(&self.statements.complete, &params).await?))
    }

    async fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: &Resolution,
    ) -> Result<Finish, StoreError> {
        let Ok(generation) = i64::try_from(generation) else { return Ok(Finish::Fenced) };
        let id = &id.as_bytes()[..];
        let which: [Param<'_>; 2] = [(&id, Type::BYTEA), (&generation, Type::INT8)];
        match resolution {
            Resolution::Forget => Ok(self.change(&self.statements.forget, &which).await?.finish()),
            Resolution::Completed(outcome) => {
                let kept = Kept::of(outcome, self.max_outcome);
                let params = [&which[..], &kept.params()].concat();
                Ok(kept.finish(self.change(&self.statements.resolve, &params).await?))
            }
        }
    }

    async fn purge(&self, sql: &str, limit: usize) -> Result<usize, StoreError> {
        let mut all = 0;
        while all < limit {
            let batch = (limit - all).min(BATCH);
            let most = i64::try_from(batch).unwrap_or(i64::MAX);
            let rows = self.query(sql, &[(&most, Type::INT8)]).await?;
            let removed = rows.first().map_or(Ok(0), |row| row::number(row, 0, "count"))?;
            let removed = usize::try_from(removed).unwrap_or(usize::MAX);
            all += removed;
            if removed < batch {
                break;
            }
        }
        Ok(all)
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("tables", &self.0.statements.prefix)
            .field("pool", &self.0.pool.status())
            .finish_non_exhaustive()
    }
}
