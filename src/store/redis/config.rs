use std::sync::Arc;
use std::time::Duration;

use redis::Client;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::sync::OnceCell;

use super::link::Link;
use super::script::Scripts;
use super::{Inner, RedisStore};
use crate::error::ConfigError;

const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Makes a [`RedisStore`].
///
/// | setter | range | default |
/// |---|---|---|
/// | [`key_prefix`](Self::key_prefix) | visible ASCII, up to 100 characters | `buttress` |
/// | [`timeout`](Self::timeout) | 1 ms to 1 h | 50 ms |
/// | [`connect_timeout`](Self::connect_timeout) | 1 ms to 1 h | 100 ms |
/// | [`max_outcome`](Self::max_outcome) | up to 256 MiB | 1 MiB |
/// | [`check_eviction`](Self::check_eviction) | | yes |
///
/// ```
/// use buttress::store::{RedisStore, RedisStoreBuilder};
/// use std::time::Duration;
/// // What all stores of a program have in common.
/// fn settings(store: RedisStoreBuilder) -> RedisStoreBuilder {
///     store.key_prefix("shop").timeout(Duration::from_millis(20))
/// }
/// let store = settings(RedisStore::builder(redis::Client::open("redis://127.0.0.1/")?)).build()?;
/// # let _ = store;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RedisStoreBuilder {
    source: Source,
    prefix: String,
    timeout: Duration,
    connect_timeout: Duration,
    max_outcome: usize,
    check_eviction: bool,
}

#[derive(Debug)]
enum Source {
    Client(Client),
    Manager(ConnectionManager),
}

impl RedisStoreBuilder {
    fn new(source: Source) -> Self {
        Self {
            source,
            prefix: "buttress".to_owned(),
            timeout: Duration::from_millis(50),
            connect_timeout: Duration::from_millis(100),
            max_outcome: 1 << 20,
            check_eviction: true,
        }
    }

    pub(super) fn of_client(client: Client) -> Self {
        Self::new(Source::Client(client))
    }

    pub(super) fn of_manager(manager: ConnectionManager) -> Self {
        Self::new(Source::Manager(manager))
    }

    /// How all keys begin. Stores with different ones know nothing of each other.
    ///
    /// ```
    /// # use buttress::store::RedisStore;
    /// let client = redis::Client::open("redis://127.0.0.1/")?;
    /// let store = RedisStore::builder(client.clone()).key_prefix("shop").build()?;
    /// let error = RedisStore::builder(client).key_prefix("a b").build().unwrap_err();
    /// assert_eq!(error.field(), "key_prefix");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long the server may take to answer. What takes longer ends in
    /// [`Unknown`](super::StoreErrorKind::Unknown).
    ///
    /// ```
    /// # use buttress::store::RedisStore;
    /// # use std::time::Duration;
    /// let client = redis::Client::open("redis://127.0.0.1/")?;
    /// let store = RedisStore::builder(client).timeout(Duration::from_millis(20)).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long it may take to connect. Tried once by whoever finds no connection.
    ///
    /// ```
    /// # use buttress::store::RedisStore;
    /// # use std::time::Duration;
    /// let client = redis::Client::open("redis://127.0.0.1/")?;
    /// let store = RedisStore::builder(client).connect_timeout(Duration::from_secs(1)).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How many bytes an outcome may have, head and body. A larger one is kept without its body, which is
    /// answered with [`Finish::Trimmed`](super::Finish::Trimmed).
    ///
    /// ```
    /// # use buttress::store::RedisStore;
    /// let client = redis::Client::open("redis://127.0.0.1/")?;
    /// let store = RedisStore::builder(client).max_outcome(64 << 10).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_outcome(mut self, bytes: usize) -> Self {
        self.max_outcome = bytes;
        self
    }

    /// Whether the first operation asks the server for its `maxmemory-policy`, with `INFO`. Without, nobody
    /// notices that records can be evicted; for servers that do not tell, or not this user.
    ///
    /// ```
    /// # use buttress::store::RedisStore;
    /// let client = redis::Client::open("redis://127.0.0.1/")?;
    /// let store = RedisStore::builder(client).check_eviction(false).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_eviction(mut self, yes: bool) -> Self {
        self.check_eviction = yes;
        self
    }

    /// The store. Nothing is sent yet.
    ///
    /// # Errors
    /// A value out of range.
    ///
    /// ```
    /// # use buttress::store::RedisStore;
    /// # use std::time::Duration;
    /// let client = redis::Client::open("redis://127.0.0.1/")?;
    /// let error = RedisStore::builder(client).timeout(Duration::ZERO).build().unwrap_err();
    /// assert_eq!(error.field(), "timeout");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build(self) -> Result<RedisStore, ConfigError> {
        if self.prefix.len() > 100 || !self.prefix.chars().all(|c| c.is_ascii_graphic()) {
            let shown: String = self.prefix.chars().take(110).collect();
            let expected = "up to 100 visible ASCII characters";
            return Err(ConfigError::new("key_prefix", format_args!("{shown:?}"), expected));
        }
        for (name, time) in [("timeout", self.timeout), ("connect_timeout", self.connect_timeout)] {
            if !(Duration::from_millis(1)..=MAX_TIMEOUT).contains(&time) {
                return Err(ConfigError::new(name, format_args!("{time:?}"), "1 ms to 1 h"));
            }
        }
        if self.max_outcome > 256 << 20 {
            let expected = "at most 268435456 bytes";
            return Err(ConfigError::new("max_outcome", self.max_outcome, expected));
        }
        let link = match self.source {
            Source::Manager(manager) => Link::over(manager),
            Source::Client(client) => {
                let config = ConnectionManagerConfig::new()
                    .set_number_of_retries(0)
                    .set_response_timeout(Some(self.timeout))
                    .set_connection_timeout(Some(self.connect_timeout));
                Link::to(client, config, self.connect_timeout)
            }
        };
        Ok(RedisStore(Arc::new(Inner {
            link,
            scripts: Scripts::new(),
            prefix: self.prefix,
            // To connect, to be told that the script is not known, to load it, to run it.
            longest: self.connect_timeout + 3 * self.timeout,
            max_outcome: self.max_outcome,
            check_eviction: self.check_eviction,
            checked: OnceCell::new(),
        })))
    }
}
