//! Making the tables, and telling whether they are ours.

use tokio_postgres::Row;

use super::sql::SCHEMA_VERSION;
use super::{Inner, Lent, PostgresStore, error};
use crate::store::net::{need_runtime, once};
use crate::store::{StoreError, StoreErrorKind};
use tokio::time::{Instant, timeout_at};

fn refused(why: String) -> StoreError {
    StoreError::new(StoreErrorKind::Refused).with_source(why)
}

fn version(rows: &[Row]) -> Result<Option<i32>, StoreError> {
    let Some(row) = rows.first() else { return Ok(None) };
    let version = row
        .try_get(0)
        .map_err(|error| StoreError::new(StoreErrorKind::Corrupt).with_source(error))?;
    Ok(Some(version))
}

impl PostgresStore {
    /// Makes the tables, or brings older ones up to date. If they are there it only sees to it that the numbers
    /// of claims ([`Record::generation`](crate::store::Record::generation)) go on from the present time: so call
    /// it after the database was restored from a backup, or failed over to a replica that may have been behind,
    /// or the numbers of records that are gone may be given once more. May be called by several processes at once.
    ///
    /// The role needs the right to create tables, and to own those that are there. A program whose role must not have it can leave this to
    /// another one, such as a migration.
    ///
    /// # Errors
    /// [`StoreErrorKind::Refused`] if the tables are of a later version; they are left as they are.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = buttress::store::PostgresStore::builder("host=db".parse()?).build()?;
    /// store.create_schema().await?;
    /// # Ok(()) }
    /// ```
    pub async fn create_schema(&self) -> Result<(), StoreError> {
        need_runtime()?;
        let inner = &*self.0;
        // Longer than an operation: another process may be at it.
        let deadline = Instant::now() + 10 * inner.timeout;
        let late = |error| StoreError::new(StoreErrorKind::Unknown).with_source(error);
        timeout_at(deadline, inner.create()).await.map_err(late)?
    }

    /// Whether the tables are there and of a version that this store knows. The first operation asks it, too.
    ///
    /// # Errors
    /// [`StoreErrorKind::Refused`] if they are not; see its source.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = buttress::store::PostgresStore::builder("host=db".parse()?).build()?;
    /// if let Err(error) = store.check_schema().await {
    ///     eprintln!("{error}: {}", std::error::Error::source(&error).unwrap());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        self.0.check_now().await
    }
}

impl Inner {
    async fn create(&self) -> Result<(), StoreError> {
        // Not given back: a transaction that is given up half-way leaves its mark on a connection.
        let mut lent = Lent(Some(self.pool.get().await.map_err(error::no_connection)?));
        let Some(client) = &mut lent.0 else { return Ok(()) };
        let transaction = client.transaction().await.map_err(error::statement)?;
        let sql = &self.statements;
        // The connection's own limits are those of an operation.
        let limit = (10 * self.timeout).as_millis();
        let limits =
            format!("SET LOCAL statement_timeout = {limit}; SET LOCAL lock_timeout = {limit};");
        transaction.batch_execute(&limits).await.map_err(error::statement)?;
        transaction.batch_execute(&sql.lock_schema()).await.map_err(error::statement)?;
        let found = transaction.query(&sql.version, &[]).await.map_err(error::statement)?;
        match version(&found)?.unwrap_or(0) {
            SCHEMA_VERSION => {}
            found @ 0..SCHEMA_VERSION => {
                let steps = sql.migrate(found);
                transaction.batch_execute(&steps).await.map_err(error::statement)?;
            }
            found => return Err(self.unknown(found)),
        }
        transaction.batch_execute(&sql.catch_up()).await.map_err(error::statement)?;
        transaction.commit().await.map_err(error::statement)
    }

    /// Before each operation; asks the database once.
    pub(super) async fn check(&self) -> Result<(), StoreError> {
        once(&self.checked, self.timeout, || self.check_now()).await
    }

    async fn check_now(&self) -> Result<(), StoreError> {
        let sql = &self.statements.version;
        let found = self.with(async |client| {
            // Not prepared: it is asked once.
            client.query_typed(sql, &[]).await.map_err(error::statement)
        });
        let found = found.await.map_err(|error| match error.kind() {
            StoreErrorKind::Refused => self.hint(&error),
            // Nothing was to be applied.
            _ => error::unapplied(error),
        })?;
        match version(&found)? {
            Some(SCHEMA_VERSION) => Ok(()),
            Some(found) => Err(self.unknown(found)),
            None => Err(self.unknown(0)),
        }
    }

    fn unknown(&self, found: i32) -> StoreError {
        let prefix = &self.statements.prefix;
        refused(format!(
            "the tables `{prefix}_*` are of version {found}, and this program knows version {SCHEMA_VERSION}"
        ))
    }

    fn hint(&self, error: &StoreError) -> StoreError {
        let prefix = &self.statements.prefix;
        let why = std::error::Error::source(error)
            .and_then(|why| why.downcast_ref::<tokio_postgres::Error>());
        let why = why
            .and_then(|why| why.as_db_error())
            .map_or_else(String::new, |why| why.message().to_owned());
        refused(format!("{why}: `{prefix}_schema` cannot be read; was `create_schema` called?"))
    }
}
