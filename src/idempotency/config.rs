use std::time::Duration;

use super::handle::Idempotency;
use super::scope::Scope;
use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};
use crate::store::{OnInterrupted, Store};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a caller gets whose key is being executed by somebody else.
///
/// ```
/// assert_eq!(buttress::idempotency::InFlight::default(), buttress::idempotency::InFlight::Reject);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InFlight {
    /// A refusal that says when to come back. The default: a waiting duplicate holds a connection and
    /// gets nothing that it could not ask for later.
    #[default]
    Reject,
    /// The answer, if it comes within this time; then the refusal.
    Wait(Duration),
}

/// What happens to a call when the store does not answer.
///
/// ```
/// assert_eq!(buttress::idempotency::Outage::default(), buttress::idempotency::Outage::Refuse);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outage {
    /// It is refused. The default: what cannot be claimed cannot be kept from running twice.
    #[default]
    Refuse,
    /// It is let through without a record, so that duplicates run. A store that is full still refuses, and
    /// so does a record that cannot be read.
    RunUngated,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) lease: Duration,
    pub(super) retention: Duration,
    pub(super) on_interrupted: OnInterrupted,
    pub(super) in_flight: InFlight,
    pub(super) outage: Outage,
    pub(super) store_timeout: Duration,
    pub(super) max_outcome: usize,
    pub(super) max_pending: Option<usize>,
    pub(super) max_run: Option<Duration>,
}

impl Settings {
    pub(super) const DEFAULT: Self = Self {
        lease: Duration::from_secs(30),
        retention: DAY,
        on_interrupted: OnInterrupted::Fail,
        in_flight: InFlight::Reject,
        outage: Outage::Refuse,
        store_timeout: Duration::from_secs(2),
        max_outcome: 256 * 1024,
        max_pending: None,
        max_run: None,
    };
}

/// Makes an [`Idempotency`] gate; see [`Idempotency::builder`].
///
/// | setter | range | default |
/// |---|---|---|
/// | [`scope`](Self::scope) | | none: must be given |
/// | [`lease`](Self::lease) | 10 ms to 1 h | 30 s |
/// | [`retention`](Self::retention) | 1 s to 366 days | 24 h |
/// | [`on_interrupted`](Self::on_interrupted) | `Rerun` of 1 or more | [`OnInterrupted::Fail`] |
/// | [`in_flight`](Self::in_flight) | waits up to 10 min | [`InFlight::Reject`] |
/// | [`on_outage`](Self::on_outage) | | [`Outage::Refuse`] |
/// | [`store_timeout`](Self::store_timeout) | 1 ms to the lease | 2 s, a third of the lease at most |
/// | [`max_outcome`](Self::max_outcome) | up to 16 MiB | 256 KiB |
/// | [`max_pending_per_scope`](Self::max_pending_per_scope) | at least 1 | not limited |
/// | [`max_run`](Self::max_run) | the lease to 24 h | not limited |
///
/// ```
/// use buttress::idempotency::{Idempotency, IdempotencyBuilder, Scope};
/// use buttress::store::MemoryStore;
/// use std::time::Duration;
/// // What all gates of a program have in common.
/// fn settings<S>(gate: IdempotencyBuilder<S>) -> IdempotencyBuilder<S> {
///     gate.scope(Scope::global()).lease(Duration::from_secs(10)).store_timeout(Duration::from_millis(500))
/// }
/// let orders = settings(Idempotency::builder("orders", MemoryStore::default())).build()?;
/// # let _ = orders;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct IdempotencyBuilder<S> {
    name: Name,
    store: S,
    scope: Option<Scope>,
    settings: Settings,
    store_timeout: Option<Duration>,
    pub(crate) observers: Observers,
}

impl<S> IdempotencyBuilder<S> {
    pub(super) fn new(name: Name, store: S) -> Self {
        let observers = Observers::default();
        let settings = Settings::DEFAULT;
        Self { name, store, scope: None, settings, store_timeout: None, observers }
    }

    /// Whose keys these are. Where each request has a tenant of its own, give any scope here and use
    /// [`in_scope`](Idempotency::in_scope).
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::MemoryStore;
    /// let error = Idempotency::builder("orders", MemoryStore::default()).build().unwrap_err();
    /// assert_eq!(error.field(), "scope");
    /// ```
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// How long a claim holds without being renewed: after a crash, nobody can do anything about the key
    /// for that long. Async runs renew it every third; for blocking ones it must be longer than they take.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::MemoryStore;
    /// use std::time::Duration;
    /// let gate = Idempotency::builder("orders", MemoryStore::default())
    ///     .scope(Scope::global())
    ///     .lease(Duration::from_secs(60))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long a record is kept after it is completed, and one that is not after its lease has ended: for longer
    /// than any client goes on retrying. Below an hour only where you know all clients.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::MemoryStore;
    /// use std::time::Duration;
    /// let gate = Idempotency::builder("orders", MemoryStore::default())
    ///     .scope(Scope::global())
    ///     .retention(Duration::from_secs(7 * 24 * 60 * 60))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn retention(mut self, retention: Duration) -> Self {
        self.settings.retention = retention;
        self
    }

    /// What becomes of a key whose owner has gone.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::{MemoryStore, OnInterrupted};
    /// // Setting a value twice does no harm.
    /// let gate = Idempotency::builder("profile", MemoryStore::default())
    ///     .scope(Scope::global())
    ///     .on_interrupted(OnInterrupted::Rerun(3))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_interrupted(mut self, policy: OnInterrupted) -> Self {
        self.settings.on_interrupted = policy;
        self
    }

    /// What a duplicate gets while the first is at it.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, InFlight, Scope};
    /// use buttress::store::MemoryStore;
    /// use std::time::Duration;
    /// let gate = Idempotency::builder("orders", MemoryStore::default())
    ///     .scope(Scope::global())
    ///     .in_flight(InFlight::Wait(Duration::from_secs(5)))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn in_flight(mut self, policy: InFlight) -> Self {
        self.settings.in_flight = policy;
        self
    }

    /// What happens when the store does not answer.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Outage, Scope};
    /// use buttress::store::MemoryStore;
    /// let gate = Idempotency::builder("newsletter", MemoryStore::default())
    ///     .scope(Scope::global())
    ///     .on_outage(Outage::RunUngated)
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_outage(mut self, policy: Outage) -> Self {
        self.settings.outage = policy;
        self
    }

    /// How long one operation of the store may take; then its outcome is unknown and it is repeated, three
    /// times in all.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::MemoryStore;
    /// use std::time::Duration;
    /// let gate = Idempotency::builder("orders", MemoryStore::default())
    ///     .scope(Scope::global())
    ///     .store_timeout(Duration::from_millis(500))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.store_timeout = Some(timeout);
        self
    }

    /// How large an answer may be to be kept, in bytes. What is larger is recorded without its body; if its head
    /// (for HTTP: the fields that are replayed) is larger by itself, as its number alone (for HTTP: the status). So
    /// it never runs again, and who asks again is told that the rest was not kept. A store may take less.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::MemoryStore;
    /// let gate = Idempotency::builder("orders", MemoryStore::default())
    ///     .scope(Scope::global())
    ///     .max_outcome(4096)
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn max_outcome(mut self, bytes: usize) -> Self {
        self.settings.max_outcome = bytes;
        self
    }

    /// How many claims one scope (one tenant) may hold at the same time, so that one alone cannot fill the store
    /// with pending records, or take all that handlers run on. Not limited by default: what is too many depends
    /// on the service, and a scope may be all there is.
    ///
    /// Counted are claims from when the store is asked until they are recorded, released or dropped, in this
    /// gate, its clones and the layers made of it. So it is a limit of each process: with `k` servers a tenant may
    /// hold `k` times as many. Records whose owner has gone do not count, nor do duplicates that
    /// [wait](InFlight::Wait). A call over the limit that would be answered from the record still is; one that
    /// would have to claim is refused as [`Overloaded`](crate::RejectionKind::Overloaded) and told to come back
    /// in a second.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use buttress::idempotency::{Begin, Idempotency, Scope};
    /// use buttress::store::{Fingerprint, MemoryStore};
    /// let gate = Idempotency::builder("orders", MemoryStore::default())
    ///     .scope(Scope::tenant("account-7"))
    ///     .max_pending_per_scope(1)
    ///     .build()?;
    /// let first = gate.begin("order-1", Fingerprint::NONE).await?;
    /// let second = gate.begin("order-2", Fingerprint::NONE).await?;
    /// assert!(matches!((first, second), (Begin::Execute(_), Begin::Overloaded { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_pending_per_scope(mut self, claims: usize) -> Self {
        self.settings.max_pending = Some(claims);
        self
    }

    /// How long an execution may take, from its claim. Not limited by default: its lease is renewed for as long as
    /// it runs, so one that never ends holds its key for ever, and duplicates are told each time to come back. A
    /// timeout around the gate, or around its layer, does not end it, since the layer's calls go on without
    /// their callers.
    ///
    /// When the time is over the execution is dropped where it waits, and the key is treated like one whose owner
    /// has gone: nobody knows whether the effect happened. So choose far more than it ever takes, and give what may
    /// hang inside of it a timeout of its own, which can say how it ended. Blocking runs cannot be stopped and are
    /// not limited.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::MemoryStore;
    /// use std::time::Duration;
    /// let gate = Idempotency::builder("orders", MemoryStore::default())
    ///     .scope(Scope::global())
    ///     .max_run(Duration::from_secs(600))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn max_run(mut self, longest: Duration) -> Self {
        self.settings.max_run = Some(longest);
        self
    }

    /// Adds a listener for refusals, replays, take-overs and effects that could not be recorded.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::observe::Event;
    /// use buttress::store::MemoryStore;
    /// let gate = Idempotency::builder("orders", MemoryStore::default())
    ///     .scope(Scope::global())
    ///     .observe(|event: &Event<'_>| println!("{}: {}", event.name, event.kind.as_str()))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// The gate.
    ///
    /// # Errors
    /// No scope, or a setting out of the range that the table above tells.
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, Scope};
    /// use buttress::store::MemoryStore;
    /// let gate = Idempotency::builder("orders", MemoryStore::default()).scope(Scope::global()).build()?;
    /// assert_eq!(gate.name(), "orders");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn build(self) -> Result<Idempotency<S>, ConfigError>
    where
        S: Store,
    {
        let mut settings = self.settings;
        let scope = self.scope.ok_or_else(|| {
            ConfigError::new(
                "scope",
                "none",
                "`Scope::tenant(…)`, or `Scope::global()` written out",
            )
        })?;
        let (ms, second, hour) =
            (Duration::from_millis(1), Duration::from_secs(1), Duration::from_secs(3600));
        within("lease", settings.lease, 10 * ms, hour)?;
        within("retention", settings.retention, second, 366 * DAY)?;
        settings.store_timeout = match self.store_timeout {
            Some(timeout) => within("store_timeout", timeout, ms, settings.lease)?,
            None => settings.store_timeout.min(settings.lease / 3),
        };
        if let OnInterrupted::Rerun(0) = settings.on_interrupted {
            return Err(ConfigError::new("on_interrupted", "Rerun(0)", "at least 1 run"));
        }
        if let InFlight::Wait(limit) = settings.in_flight {
            within("in_flight", limit, Duration::ZERO, Duration::from_secs(600))?;
        }
        if settings.max_pending == Some(0) {
            return Err(ConfigError::new("max_pending_per_scope", 0, "at least 1 claim"));
        }
        if let Some(longest) = settings.max_run {
            within("max_run", longest, settings.lease, DAY)?;
        }
        if settings.max_outcome > 16 << 20 {
            return Err(ConfigError::new("max_outcome", settings.max_outcome, "at most 16 MiB"));
        }
        Ok(Idempotency::from_parts(self.name, self.store, scope, settings, self.observers))
    }
}

fn within(
    field: &'static str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<Duration, ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    let expected = format!("{least:?} to {most:?}");
    Err(ConfigError::new(field, format_args!("{value:?}"), expected))
}
