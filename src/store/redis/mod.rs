//! Records and shared buckets in Redis or Valkey.

mod config;
mod error;
mod link;
mod script;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionManager;
use redis::{Client, FromRedisValue, Script};
use tokio::sync::OnceCell;

pub use self::config::RedisStoreBuilder;
pub use self::error::EvictionPolicyError;
use self::link::{Link, Sent};
use self::script::Scripts;
use super::net::{in_background, met, need_runtime, once, reruns};
use super::{
    Attempt, Begun, Claim, Entry, Fingerprint, Finish, Outcome, RateStore, Record, RecordId,
    Renewed, Resolution, State, Store, StoreError, StoreErrorKind, StoreTime, Taken,
};
use crate::quota::{Quota, UNITS_PER_NANO};

/// Records in Redis or Valkey: shared by all that reach the server, and fast, but *dedupe grade*.
///
/// Redis acknowledges before its replicas, and by default before its disk, have what it acknowledges. After
/// a failover, or a crash without `appendfsync always`, a claim or an outcome can be missing, and then its
/// effect can happen again. Where that must not be, use [`PostgresStore`](super::PostgresStore) (feature
/// `store-postgres`). `min-replicas-to-write` and `appendonly yes` make the gap smaller, not zero.
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use buttress::store::RedisStore;
/// let store = RedisStore::builder(redis::Client::open("redis://127.0.0.1/")?).build()?;
/// store.check().await?;
/// # Ok(()) }
/// ```
///
/// *Server.* Redis from 5.0 or Valkey, one primary; a cluster's nodes would send us elsewhere, which is
/// [`StoreErrorKind::Refused`]. `maxmemory-policy` must be `noeviction`, or the server throws records away
/// when it is full instead of refusing new ones ([`StoreErrorKind::Full`]). The first operation asks it;
/// another answer is [`StoreErrorKind::Refused`] with an [`EvictionPolicyError`] as its source.
///
/// *How.* Every operation is a script on one key, sent once by its hash; a server that does not know it is
/// given it. All go through one connection, which is made again when it breaks, and when it is silent: nothing
/// has come over it for a second, though three operations or more were sent. While it is being made it has
/// `connect_timeout` besides, and operations that wait for it count. The server removes records when
/// their retention is over: [`purge`](Store::purge) does nothing.
///
/// *Time* is the clock of the server. Generations come from it, too: when it was set back, a claim of a key whose
/// record was gone can get a smaller one than before. *Runtime:* needs tokio's; anywhere else operations are refused.
///
/// *Waiting.* The client's own defaults wait nine seconds for a server that is away. Ours are 50 ms for an
/// answer and 100 ms for a connection, tried once. For TLS, or other settings, make the
/// [`ConnectionManager`] and use [`over`](Self::over).
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    link: Link,
    scripts: Scripts,
    prefix: String,
    longest: Duration,
    max_outcome: usize,
    check_eviction: bool,
    checked: OnceCell<()>,
}

/// The attempt of a record that belongs to nobody.
const NOBODY: [u8; 16] = [0; 16];

/// The longest a duration can be here: 71 years, so that two of them can be added to today's date exactly.
const MAX_MICROS: u64 = 1 << 51;

fn micros(duration: Duration) -> u64 {
    let micros = duration.as_nanos().div_ceil(1_000);
    u64::try_from(micros).unwrap_or(u64::MAX).min(MAX_MICROS)
}

/// What a change comes to. The numbers are those in the scripts.
fn finish(code: i64) -> Result<Finish, StoreError> {
    Ok(match code {
        0 => Finish::Applied,
        1 => Finish::Already,
        2 => Finish::Fenced,
        _ => return Err(StoreErrorKind::Corrupt.into()),
    })
}

fn corrupt(what: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt).with_source(format!("field {what}"))
}

/// A record as the scripts give it.
struct Fields(Vec<Option<Vec<u8>>>);

impl Fields {
    fn bytes(&self, index: usize, name: &str) -> Result<&[u8], StoreError> {
        self.0.get(index).and_then(Option::as_deref).ok_or_else(|| corrupt(name))
    }

    fn array<const N: usize>(&self, index: usize, name: &str) -> Result<[u8; N], StoreError> {
        self.bytes(index, name)?.try_into().map_err(|_| corrupt(name))
    }

    fn number<T: FromStr>(&self, index: usize, name: &str) -> Result<T, StoreError> {
        let text = std::str::from_utf8(self.bytes(index, name)?);
        text.ok().and_then(|text| text.parse().ok()).ok_or_else(|| corrupt(name))
    }

    fn time(&self, index: usize, name: &str) -> Result<StoreTime, StoreError> {
        Ok(StoreTime::from_micros(self.number(index, name)?))
    }

    fn now(&self) -> Result<StoreTime, StoreError> {
        self.time(0, "now")
    }

    fn entry(&self) -> Result<Entry, StoreError> {
        let state = match self.bytes(1, "state")? {
            b"0" => State::Pending,
            b"1" => {
                let (status, head) = (self.number(9, "status")?, self.bytes(10, "head")?);
                let body = self.0.get(11).and_then(Option::as_deref);
                State::Completed(Arc::new(match body {
                    Some(body) => Outcome::new(status, head, body),
                    None => Outcome::not_retained(status, head),
                }))
            }
            b"2" => State::Interrupted,
            _ => return Err(corrupt("state")),
        };
        Ok(Entry {
            state,
            generation: self.number(2, "generation")?,
            attempt: Attempt::from_bytes(self.array(3, "attempt")?),
            fingerprint: Fingerprint::from_bytes(self.array(4, "fingerprint")?),
            runs: self.number(5, "runs")?,
            lease_until: self.time(6, "lease_until")?,
            expires_at: self.time(7, "expires_at")?,
            created_at: self.time(8, "created_at")?,
        })
    }
}

impl RedisStore {
    /// A store with a connection of its own.
    ///
    /// ```
    /// use buttress::store::RedisStore;
    /// let store = RedisStore::builder(redis::Client::open("redis://127.0.0.1/")?).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(client: Client) -> RedisStoreBuilder {
        RedisStoreBuilder::of_client(client)
    }

    /// A store on a connection of yours. Give it short timeouts and no retries, as [`builder`](Self::builder)
    /// does; the store's own `timeout` and `connect_timeout` still bound an operation as a whole. The store cannot
    /// make it anew when it is silent: set `keepalive` and `user_timeout` in the client's `TcpSettings`, or a server
    /// that went without a word is noticed when the system gives up, a quarter of an hour later.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// use buttress::store::RedisStore;
    /// use redis::aio::{ConnectionManager, ConnectionManagerConfig};
    /// use std::time::Duration;
    /// let config = ConnectionManagerConfig::new()
    ///     .set_number_of_retries(0)
    ///     .set_response_timeout(Some(Duration::from_millis(20)));
    /// let client = redis::Client::open("redis://127.0.0.1/")?;
    /// let manager = ConnectionManager::new_lazy_with_config(client, config)?;
    /// let store = RedisStore::over(manager).build()?;
    /// # Ok(()) }
    /// ```
    pub fn over(manager: ConnectionManager) -> RedisStoreBuilder {
        RedisStoreBuilder::of_manager(manager)
    }

    /// Whether the server answers and keeps what it is given. The first operation asks it, too. Without
    /// [`check_eviction`](RedisStoreBuilder::check_eviction), whether it answers.
    ///
    /// # Errors
    /// [`StoreErrorKind::Refused`] with an [`EvictionPolicyError`] if it evicts; otherwise as of any operation.
    ///
    /// ```no_run
    /// # async fn f(store: buttress::store::RedisStore) {
    /// if let Err(error) = store.check().await {
    ///     eprintln!("{error}: {:?}", std::error::Error::source(&error));
    /// }
    /// # }
    /// ```
    pub async fn check(&self) -> Result<(), StoreError> {
        self.0.check_now().await
    }
}

impl Inner {
    fn open(&self) -> Result<(ConnectionManager, Sent<'_>), StoreError> {
        need_runtime()?;
        self.link.open()
    }

    async fn check(&self) -> Result<(), StoreError> {
        if !self.check_eviction {
            return Ok(());
        }
        once(&self.checked, self.longest, || self.check_now()).await
    }

    async fn check_now(&self) -> Result<(), StoreError> {
        if !self.check_eviction {
            return self.tell::<()>(&redis::cmd("PING")).await;
        }
        let told = self.tell::<String>(redis::cmd("INFO").arg("memory")).await?;
        let policy = told.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        let policy = policy.unwrap_or_default().trim();
        if policy == "noeviction" {
            return Ok(());
        }
        let error = EvictionPolicyError { policy: policy.to_owned() };
        Err(StoreError::new(StoreErrorKind::Refused).with_source(error))
    }

    /// The answer to a command that changes nothing.
    async fn tell<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, StoreError> {
        let (mut manager, sent) = self.open()?;
        let told = sent.answer(self.longest, command.query_async(&mut manager)).await;
        // Nothing was to be applied.
        told.map_err(|error| match error.kind() {
            StoreErrorKind::Unknown => {
                StoreError::new(StoreErrorKind::Unavailable).with_source(error)
            }
            _ => error,
        })
    }

    /// Runs a script on one key.
    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        (kind, id): (char, &RecordId),
        args: &[&[u8]],
    ) -> Result<T, StoreError> {
        self.check().await?;
        let (mut manager, sent) = self.open()?;
        let mut call = script.key(format!("{}:{kind}:{id}", self.prefix));
        for arg in args {
            call.arg(*arg);
        }
        sent.answer(self.longest, call.invoke_async(&mut manager)).await
    }

    async fn change(
        &self,
        script: &Script,
        id: &RecordId,
        args: &[&[u8]],
    ) -> Result<i64, StoreError> {
        self.run(script, ('r', id), args).await
    }

    /// A change that records an outcome, whose parts are the last arguments.
    async fn decide(
        &self,
        script: &Script,
        id: &RecordId,
        args: [&[u8]; 2],
        outcome: &Outcome,
    ) -> Result<Finish, StoreError> {
        let smaller = outcome.trimmed_to(self.max_outcome);
        let (trimmed, outcome) = (smaller.is_some(), smaller.as_ref().unwrap_or(outcome));
        let status = outcome.status().to_string();
        let mut args = vec![args[0], args[1], status.as_bytes(), outcome.head()];
        args.extend(outcome.body());
        let finish = finish(self.change(script, id, &args).await?)?;
        Ok(if trimmed && finish == Finish::Applied { Finish::Trimmed } else { finish })
    }

    async fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        let numbers = [micros(claim.lease), micros(claim.retention)].map(|n| n.to_string());
        let reruns = reruns(claim.on_interrupted).to_string();
        let args = [
            &claim.attempt.as_bytes()[..],
            claim.fingerprint.as_bytes(),
            numbers[0].as_bytes(),
            numbers[1].as_bytes(),
            reruns.as_bytes(),
        ];
        let fields = Fields(self.run(&self.scripts.begin, ('r', id), &args).await?);
        met(&fields.entry()?, claim, fields.now()?).ok_or_else(|| corrupt("state"))
    }
}

impl Store for RedisStore {
    async fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        self.0.begin(id, claim).await
    }

    async fn renew(
        &self,
        id: &RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> Result<Renewed, StoreError> {
        let (lease, retention) = (micros(lease).to_string(), micros(retention).to_string());
        let args = [&attempt.as_bytes()[..], lease.as_bytes(), retention.as_bytes()];
        match self.0.change(&self.0.scripts.renew, id, &args).await? {
            0 => Ok(Renewed::Held),
            4 => Ok(Renewed::Interrupted),
            2 => Ok(Renewed::Fenced),
            _ => Err(StoreErrorKind::Corrupt.into()),
        }
    }

    async fn complete(
        &self,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Arc<Outcome>,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        let retention = micros(retention).to_string();
        let args = [&attempt.as_bytes()[..], retention.as_bytes()];
        self.0.decide(&self.0.scripts.complete, id, args, outcome).await
    }

    async fn release(&self, id: &RecordId, attempt: Attempt) -> Result<Finish, StoreError> {
        finish(self.0.change(&self.0.scripts.release, id, &[attempt.as_bytes(), &NOBODY]).await?)
    }

    async fn interrupt(
        &self,
        id: &RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        let retention = micros(retention).to_string();
        let args = [&attempt.as_bytes()[..], retention.as_bytes()];
        finish(self.0.change(&self.0.scripts.interrupt, id, &args).await?)
    }

    async fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> Result<Finish, StoreError> {
        let generation = generation.to_string();
        match resolution {
            Resolution::Forget => {
                let args = [generation.as_bytes()];
                finish(self.0.change(&self.0.scripts.forget, id, &args).await?)
            }
            Resolution::Completed(outcome) => {
                let args = [generation.as_bytes(), &NOBODY[..]];
                self.0.decide(&self.0.scripts.resolve, id, args, &outcome).await
            }
        }
    }

    async fn get(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let fields: Option<Vec<Option<Vec<u8>>>> =
            self.0.run(&self.0.scripts.get, ('r', id), &[]).await?;
        let Some(fields) = fields.map(Fields) else { return Ok(None) };
        Ok(Some(fields.entry()?.record(fields.now()?)))
    }

    async fn purge(&self, _: usize) -> Result<usize, StoreError> {
        Ok(0)
    }

    /// Done by a task, once and within the timeout; if that fails the lease ends by itself.
    fn abandon(&self, id: &RecordId, attempt: Attempt) {
        let (inner, id) = (Arc::clone(&self.0), *id);
        in_background(async move {
            let _ = inner.change(&inner.scripts.abandon, &id, &[attempt.as_bytes()]).await;
        });
    }
}

impl RateStore for RedisStore {
    async fn take(
        &self,
        bucket: &RecordId,
        quota: &Quota,
        at_least: u64,
        at_most: u64,
    ) -> Result<Taken, StoreError> {
        let numbers = [quota.interval_units(), quota.capacity(), at_least, at_most];
        let args = numbers.map(|number| number.to_string());
        let args = args.each_ref().map(String::as_bytes);
        let fields = Fields(self.0.run(&self.0.scripts.take, ('l', bucket), &args).await?);
        let debt: u64 = fields.number(1, "debt")?;
        let debt = Duration::from_nanos(debt.div_ceil(UNITS_PER_NANO));
        Ok(Taken::new(fields.number(0, "granted")?, debt))
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("keys", &self.0.prefix).finish_non_exhaustive()
    }
}
