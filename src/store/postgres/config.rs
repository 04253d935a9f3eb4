use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Hook, Manager, ManagerConfig, Pool, PoolConfig, QueueMode, RecyclingMethod, Runtime, Timeouts,
};
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;

use super::sql::Statements;
use super::{Inner, PostgresStore};
use crate::error::ConfigError;

const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Makes a [`PostgresStore`].
///
/// | setter | range | default |
/// |---|---|---|
/// | [`table_prefix`](Self::table_prefix) | lower-case letters, digits, `_`; up to 40 | `buttress` |
/// | [`timeout`](Self::timeout) | 1 ms to 1 h | 1 s |
/// | [`max_connections`](Self::max_connections) | 1 to 10 000 | 8 |
/// | [`max_outcome`](Self::max_outcome) | up to 512 MiB | 16 MiB |
/// | [`behind_pooler`](Self::behind_pooler) | | no |
///
/// ```
/// use buttress::store::{PostgresStore, PostgresStoreBuilder};
/// use std::time::Duration;
/// // What all stores of a program have in common.
/// fn settings(store: PostgresStoreBuilder) -> PostgresStoreBuilder {
///     store.table_prefix("shop").timeout(Duration::from_millis(300)).max_connections(16)
/// }
/// let store = settings(PostgresStore::builder("host=db user=app".parse()?)).build()?;
/// # let _ = store;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct PostgresStoreBuilder {
    source: Source,
    prefix: String,
    timeout: Duration,
    max_connections: usize,
    max_outcome: usize,
    pooler: bool,
}

#[derive(Debug)]
enum Source {
    Config(Box<tokio_postgres::Config>),
    Pool(Pool),
}

impl PostgresStoreBuilder {
    fn new(source: Source) -> Self {
        Self {
            source,
            prefix: "buttress".to_owned(),
            timeout: Duration::from_secs(1),
            max_connections: 8,
            max_outcome: 16 << 20,
            pooler: false,
        }
    }

    pub(super) fn of_config(config: tokio_postgres::Config) -> Self {
        Self::new(Source::Config(Box::new(config)))
    }

    pub(super) fn of_pool(pool: Pool) -> Self {
        Self::new(Source::Pool(pool))
    }

    /// How the names of the tables begin. Stores with different ones know nothing of each other.
    ///
    /// ```
    /// # use buttress::store::PostgresStore;
    /// let config = "host=db user=app".parse()?;
    /// let bad = PostgresStore::builder(config).table_prefix("x; DROP TABLE users").build();
    /// assert_eq!(bad.unwrap_err().field(), "table_prefix");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn table_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long an operation may take, with the wait for a connection and the making of one. What takes
    /// longer ends in [`Unavailable`](super::StoreErrorKind::Unavailable) if it was not sent yet, else in
    /// [`Unknown`](super::StoreErrorKind::Unknown). The server is told, too: a statement does not go on for
    /// longer than this there.
    ///
    /// ```
    /// # use buttress::store::PostgresStore;
    /// # use std::time::Duration;
    /// let config = "host=db user=app".parse()?;
    /// let store = PostgresStore::builder(config).timeout(Duration::from_millis(300)).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many connections are kept at most. Does nothing for a pool of yours.
    ///
    /// ```
    /// # use buttress::store::PostgresStore;
    /// let store = PostgresStore::builder("host=db user=app".parse()?).max_connections(32).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// How many bytes an outcome may have, head and body. A larger one is kept without its body, which is
    /// answered with [`Finish::Trimmed`](super::Finish::Trimmed).
    ///
    /// ```
    /// # use buttress::store::PostgresStore;
    /// let store = PostgresStore::builder("host=db user=app".parse()?).max_outcome(1 << 20).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_outcome(mut self, bytes: usize) -> Self {
        self.max_outcome = bytes;
        self
    }

    /// There is a pooler between (PgBouncer in transaction mode), which gives each statement to another
    /// connection of the server. Then statements are not prepared, and no limits of time are set for the
    /// connection: set `statement_timeout` and `lock_timeout` for the role instead.
    ///
    /// ```
    /// # use buttress::store::PostgresStore;
    /// let store = PostgresStore::builder("host=pooler user=app".parse()?).behind_pooler(true).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn behind_pooler(mut self, yes: bool) -> Self {
        self.pooler = yes;
        self
    }

    /// The store. Nothing is sent yet.
    ///
    /// # Errors
    /// A value out of range; or a configuration that demands TLS (`sslmode=require`), which needs a
    /// [pool of yours](PostgresStore::over).
    ///
    /// ```
    /// # use buttress::store::PostgresStore;
    /// let store = PostgresStore::builder("host=db user=app".parse()?).build()?;
    /// let tls = PostgresStore::builder("host=db sslmode=require".parse()?).build();
    /// assert_eq!(tls.unwrap_err().field(), "sslmode");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build(self) -> Result<PostgresStore, ConfigError> {
        check_prefix(&self.prefix)?;
        if !(Duration::from_millis(1)..=MAX_TIMEOUT).contains(&self.timeout) {
            let timeout = format!("{:?}", self.timeout);
            return Err(ConfigError::new("timeout", timeout, "1 ms to 1 h"));
        }
        if !(1..=10_000).contains(&self.max_connections) {
            return Err(ConfigError::new("max_connections", self.max_connections, "1 to 10000"));
        }
        if self.max_outcome > 512 << 20 {
            return Err(ConfigError::new(
                "max_outcome",
                self.max_outcome,
                "at most 536870912 bytes",
            ));
        }
        let pool = match self.source {
            Source::Pool(pool) => pool,
            Source::Config(config) => {
                make_pool(*config, self.timeout, self.max_connections, self.pooler)?
            }
        };
        Ok(PostgresStore(Arc::new(Inner {
            pool,
            statements: Statements::new(&self.prefix),
            timeout: self.timeout,
            max_outcome: self.max_outcome,
            prepared: !self.pooler,
            checked: OnceCell::new(),
        })))
    }
}

fn check_prefix(prefix: &str) -> Result<(), ConfigError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let begins = prefix.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if begins && prefix.len() <= 40 && prefix.chars().all(plain) {
        return Ok(());
    }
    let shown: String = prefix.chars().take(64).collect();
    Err(ConfigError::new(
        "table_prefix",
        format_args!("{shown:?}"),
        "up to 40 lower-case letters, digits and `_`, not beginning with a digit",
    ))
}

fn make_pool(
    mut config: tokio_postgres::Config,
    timeout: Duration,
    size: usize,
    pooler: bool,
) -> Result<Pool, ConfigError> {
    if config.get_ssl_mode() == SslMode::Require {
        return Err(ConfigError::new(
            "sslmode",
            "require",
            "`prefer` or `disable`: for TLS make the pool and use `PostgresStore::over`",
        ));
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(timeout);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(timeout.max(Duration::from_secs(5)));
    }
    // A hook instead of `options`, which would replace what the user has set there, or be replaced.
    let limit = timeout.as_millis().max(1);
    let limits = format!(
        "SET statement_timeout = {limit}; SET lock_timeout = {limit}; \
         SET idle_in_transaction_session_timeout = '60s'"
    );
    let manager = Manager::from_config(
        config,
        NoTls,
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let waits = Timeouts { wait: Some(timeout), create: Some(timeout), recycle: Some(timeout) };
    let mut pool_config = PoolConfig::new(size);
    pool_config.timeouts = waits;
    pool_config.queue_mode = QueueMode::Fifo;
    let mut builder = Pool::builder(manager).config(pool_config).runtime(Runtime::Tokio1);
    if !pooler {
        builder = builder.post_create(Hook::async_fn(move |client, _| {
            let limits = limits.clone();
            Box::pin(async move {
                client.batch_execute(&limits).await.map_err(deadpool_postgres::HookError::Backend)
            })
        }));
    }
    builder
        .build()
        .map_err(|error| ConfigError::new("pool", error.to_string(), "a pool that can be made"))
}
