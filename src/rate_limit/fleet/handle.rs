use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::config::WhenDown;
use super::health::Health;
use super::purse::{Advance, Spent};
use super::store::StoreRef;
use super::table::{Seat, Table};
use crate::clock::{self, Tick};
use crate::name::LayerKind;
use crate::observe::EventKind;
use crate::quota::Quota;
use crate::rate_limit::core::{Denied, Rule, units};
use crate::rate_limit::ledger::{Ledger, Level, Refusal};
use crate::rejection::{Rejection, RejectionKind};
use crate::store::{Fingerprint, RecordId, StoreError, StoreErrorKind, Taken};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::lock;

/// A limit that several processes keep together: the bucket is in a [store](crate::store::RateStore) that all
/// of them reach. Cheap to clone; clones are one limiter.
///
/// Used directly, or through a [`SharedRateLimitLayer`](super::SharedRateLimitLayer). The same limiter has one
/// bucket for all calls ([`try_acquire`](Self::try_acquire)) and one for each key ([`bucket`](Self::bucket)).
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "store-redis")] {
/// use buttress::rate_limit::{RateLimiter, WhenDown};
/// use buttress::store::RedisStore;
///
/// let store = RedisStore::builder(redis::Client::open("redis://127.0.0.1/")?).build()?;
/// let limiter = RateLimiter::shared(store, "tenant", WhenDown::LocalShare { of: 4 })
///     .quota("100/s burst 20".parse()?)
///     .build()?;
/// if let Err(why) = limiter.bucket("tenant-7").try_acquire().await {
///     eprintln!("{why}");
/// }
/// # }
/// # Ok(()) }
/// ```
///
/// # Semantics
///
/// *What is promised.* All processes with the same store, name and quota together let through at most
/// `burst + rate * t` in every interval of length `t`, by the clock of the store. Also with tokens taken in
/// [advance](super::SharedRateLimiterBuilder::advance). Not promised while the store is down
/// ([`WhenDown`] decides), nor if it forgets: then the bucket is full again.
///
/// *A call* asks the store, once. No question is needed for a call that tokens taken in advance pay for, and
/// for one that the store would surely refuse, because it has told how empty the bucket is. It never waits
/// for tokens, only for the store, and no longer than the [deadline](super::SharedRateLimiterBuilder::deadline).
///
/// *Cancellation.* A call that is dropped while it asks may have taken its tokens.
///
/// *Outage.* After 5 errors in a row the store is left alone for a second, then one call asks again. So an
/// outage costs each process one deadline per second.
///
/// *Keys* are told apart by their text, and the store is given a hash.
#[derive(Clone)]
pub struct SharedRateLimiter {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    store: StoreRef,
    pub(super) ledger: Ledger,
    quota: Quota,
    rule: Rule,
    advance: Advance,
    share: Rule,
    when_down: WhenDown,
    deadline: Duration,
    health: Health,
    table: Table,
    /// For keys that find no room.
    rest: Seat,
    whole: RecordId,
    questions: AtomicU64,
    errors: AtomicU64,
    without_store: AtomicU64,
}

/// What a [`SharedRateLimiter`] has done so far, in this process.
///
/// ```no_run
/// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
/// let stats = limiter.stats();
/// println!("{} questions for {} calls", stats.questions, stats.acquired + stats.rejected);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedRateLimitStats {
    /// Calls let through and charged.
    pub acquired: u64,
    /// Calls refused.
    pub rejected: u64,
    /// Calls let through in shadow mode that would have been refused.
    pub would_reject: u64,
    /// How often the store was asked.
    pub questions: u64,
    /// How often it did not answer in time, or with an error.
    pub errors: u64,
    /// Calls that [`WhenDown`] decided.
    pub without_store: u64,
}

/// Why a call is not admitted.
enum Refused {
    Denied(Denied),
    Down(Rejection),
}

/// Whether a call can be decided without asking the store.
pub(super) enum Known {
    Decided(Result<Level, Rejection>),
    Ask(Option<Arc<Seat>>),
}

impl SharedRateLimiter {
    pub(super) fn from_inner(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// Takes one token from the bucket for all, or says when there will be one.
    ///
    /// # Errors
    /// `RateLimited` with `retry_after`; `StoreUnavailable` while the store is down and
    /// [`WhenDown`] says so.
    ///
    /// ```no_run
    /// # async fn f(limiter: buttress::rate_limit::SharedRateLimiter) -> Result<(), buttress::Rejection> {
    /// limiter.try_acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(&self) -> Result<(), Rejection> {
        self.try_acquire_n(1).await
    }

    /// Takes `n` tokens from the bucket for all, or none. 0 is always granted.
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire); `ExceedsBurst` if `n` is more than a full bucket holds.
    ///
    /// ```no_run
    /// # async fn f(limiter: buttress::rate_limit::SharedRateLimiter) -> Result<(), buttress::Rejection> {
    /// limiter.try_acquire_n(10).await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire_n(&self, n: u64) -> Result<(), Rejection> {
        self.inner.acquire(&self.inner.whole, n).await.map(drop)
    }

    /// The bucket of one key.
    ///
    /// ```no_run
    /// # async fn f(limiter: buttress::rate_limit::SharedRateLimiter) -> Result<(), buttress::Rejection> {
    /// let address: std::net::IpAddr = [127, 0, 0, 1].into();
    /// limiter.bucket(address).try_acquire().await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn bucket(&self, key: impl fmt::Display) -> SharedBucket {
        SharedBucket { limiter: self.clone(), id: self.inner.id(Some(&key)) }
    }

    /// What it has done so far.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// assert_eq!(limiter.stats().errors, 0);
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> SharedRateLimitStats {
        let inner = &*self.inner;
        let counted = inner.ledger.stats();
        SharedRateLimitStats {
            acquired: counted.acquired,
            rejected: counted.rejected,
            would_reject: counted.would_reject,
            questions: inner.questions.load(Ordering::Relaxed),
            errors: inner.errors.load(Ordering::Relaxed),
            without_store: inner.without_store.load(Ordering::Relaxed),
        }
    }

    /// The quota of the bucket in the store: what was asked for, except that tokens taken in advance make the
    /// burst smaller.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// println!("{}", limiter.quota());
    /// # }
    /// ```
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.inner.quota
    }

    /// Whether the store is left alone at the moment, after some errors in a row.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// let healthy = !limiter.is_store_down();
    /// # }
    /// ```
    #[must_use]
    pub fn is_store_down(&self) -> bool {
        self.inner.health.is_resting()
    }

    /// Switches shadow mode.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// limiter.set_shadow(true);
    /// # }
    /// ```
    pub fn set_shadow(&self, on: bool) {
        self.inner.ledger.set_shadow(on);
    }

    /// Its name in events, refusals, and in what the store keeps: limiters with different names share
    /// nothing.
    ///
    /// ```no_run
    /// # fn f(limiter: buttress::rate_limit::SharedRateLimiter) {
    /// assert_eq!(limiter.name(), "tenant");
    /// # }
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.inner.ledger.name.as_str()
    }
}

/// The bucket of one key; see [`SharedRateLimiter::bucket`].
#[derive(Clone)]
pub struct SharedBucket {
    limiter: SharedRateLimiter,
    id: RecordId,
}

impl SharedBucket {
    /// Takes one token, or says when there will be one.
    ///
    /// # Errors
    /// As [`SharedRateLimiter::try_acquire`].
    ///
    /// ```no_run
    /// # async fn f(limiter: buttress::rate_limit::SharedRateLimiter) -> Result<(), buttress::Rejection> {
    /// limiter.bucket("tenant-7").try_acquire().await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(&self) -> Result<(), Rejection> {
        self.try_acquire_n(1).await
    }

    /// Takes `n` tokens, or none.
    ///
    /// # Errors
    /// As [`SharedRateLimiter::try_acquire_n`].
    ///
    /// ```no_run
    /// # async fn f(limiter: buttress::rate_limit::SharedRateLimiter) -> Result<(), buttress::Rejection> {
    /// limiter.bucket("tenant-7").try_acquire_n(10).await?;
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire_n(&self, n: u64) -> Result<(), Rejection> {
        self.limiter.inner.acquire(&self.id, n).await.map(drop)
    }
}

impl Inner {
    #[expect(clippy::too_many_arguments, reason = "called once, by the builder")]
    pub(super) fn new(
        store: StoreRef,
        ledger: Ledger,
        quota: Quota,
        advance: Advance,
        share: Rule,
        when_down: WhenDown,
        deadline: Duration,
        max_keys: usize,
    ) -> Self {
        let mut inner = Self {
            store,
            ledger,
            quota,
            rule: Rule::from(quota),
            advance,
            share,
            when_down,
            deadline,
            health: Health::default(),
            table: Table::new(max_keys),
            rest: Seat::default(),
            whole: RecordId::from_bytes([0; 32]),
            questions: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            without_store: AtomicU64::new(0),
        };
        inner.whole = inner.id(None);
        inner
    }

    /// What the bucket of a key is called in the store: a hash, the same in all processes.
    pub(super) fn id(&self, key: Option<&dyn fmt::Display>) -> RecordId {
        use fmt::Write;
        struct Hashing(crate::store::FingerprintBuilder);
        impl Write for Hashing {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0 = self.0.clone().chunk(text.as_bytes());
                Ok(())
            }
        }
        let kind: &[u8] = if key.is_some() { b"key" } else { b"whole" };
        let hash = Fingerprint::builder().field(b"buttress/limit/1");
        let mut hash = Hashing(hash.field(self.ledger.name.as_str().as_bytes()).field(kind));
        if let Some(key) = key {
            // A `Display` that fails has written what it has.
            let _ = write!(hash, "{key}");
        }
        RecordId::from_bytes(*hash.0.finish().as_bytes())
    }

    /// The bucket for all.
    pub(super) fn whole(&self) -> RecordId {
        self.whole
    }

    /// What a call is told that is charged to nothing.
    pub(super) fn unlimited(&self) -> Level {
        self.level(self.rule, 0, clock::now())
    }

    fn level(&self, rule: Rule, tat: u64, now: Tick) -> Level {
        Level { name: self.ledger.name, rule, tat, now: units(now) }
    }

    /// Decides a call, counts it, tells the observers.
    async fn acquire(&self, id: &RecordId, n: u64) -> Result<Level, Rejection> {
        match self.known(id, n) {
            Known::Decided(decided) => decided,
            Known::Ask(seat) => self.ask(id, seat, n).await,
        }
    }

    /// What can be said of a call at once.
    pub(super) fn known(&self, id: &RecordId, n: u64) -> Known {
        let now = clock::now();
        if n == 0 {
            return Known::Decided(Ok(self.level(self.rule, 0, now)));
        }
        let Some(seat) = self.table.seat(id, now) else { return Known::Ask(None) };
        let mut purse = lock(&seat.purse);
        let spent = purse.spend(self.rule, self.advance, n, units(now));
        let tat = purse.level(self.rule);
        drop(purse);
        match spent {
            Spent::Paid => {
                self.ledger.acquired();
                Known::Decided(Ok(self.level(self.rule, tat, now)))
            }
            Spent::Denied(denied) => Known::Decided(self.refuse(Refused::Denied(denied))),
            Spent::Ask { .. } => Known::Ask(Some(seat)),
        }
    }

    /// The rest of a call that must ask the store.
    pub(super) async fn ask(
        &self,
        id: &RecordId,
        seat: Option<Arc<Seat>>,
        n: u64,
    ) -> Result<Level, Rejection> {
        let waiting = AtomicBool::new(false);
        let asked = self.ask_store(id, seat.as_deref(), n, &waiting);
        let answer = timeout(self.deadline, asked).await;
        let decided = match answer {
            Ok(Ok(decided)) => decided,
            Ok(Err(error)) => self.without_store(seat.as_deref(), n, error),
            Err(late) => {
                let error = StoreError::new(StoreErrorKind::Unknown).with_source(late);
                // Unless it was another call that asked.
                if waiting.load(Ordering::Relaxed) {
                    self.failed(&error);
                }
                self.without_store(seat.as_deref(), n, Some(error))
            }
        };
        match decided {
            Ok(level) => {
                self.ledger.acquired();
                Ok(level)
            }
            Err(refused) => self.refuse(refused),
        }
    }

    /// `Err` if the store is down: with the error, or without one if it was not asked.
    async fn ask_store(
        &self,
        id: &RecordId,
        seat: Option<&Seat>,
        n: u64,
        waiting: &AtomicBool,
    ) -> Result<Result<Level, Refused>, Option<StoreError>> {
        let Some(seat) = seat else { return self.ask_for_itself(id, n, waiting).await };
        // With tokens in advance the first one asks for all; without, everybody for himself, at once.
        let _turn = match self.advance.tokens {
            0 => None,
            _ => Some(seat.asking.lock().await),
        };
        loop {
            let sent = clock::now();
            let spent = lock(&seat.purse).spend(self.rule, self.advance, n, units(sent));
            let (at_least, at_most) = match spent {
                Spent::Paid => {
                    let tat = lock(&seat.purse).level(self.rule);
                    return Ok(Ok(self.level(self.rule, tat, sent)));
                }
                Spent::Denied(denied) => return Ok(Err(Refused::Denied(denied))),
                Spent::Ask { at_least, at_most } => (at_least, at_most),
            };
            let taken = self.take(id, at_least, at_most, sent, waiting).await?;
            let now = clock::now();
            let mut purse = lock(&seat.purse);
            if taken.granted < at_least {
                purse.heard(
                    self.rule,
                    self.advance,
                    Taken::new(0, taken.debt),
                    units(sent),
                    units(now),
                );
                drop(purse);
                return Ok(Err(Refused::Denied(self.denied(taken, at_least, now))));
            }
            if self.advance.tokens == 0 {
                // What was asked for is all there is; it is not put where others could take it.
                purse.heard(
                    self.rule,
                    self.advance,
                    Taken::new(0, taken.debt),
                    units(sent),
                    units(now),
                );
                let tat = purse.level(self.rule);
                return Ok(Ok(self.level(self.rule, tat, now)));
            }
            purse.heard(self.rule, self.advance, taken, units(sent), units(now));
            if purse.settle(n) {
                let tat = purse.level(self.rule);
                return Ok(Ok(self.level(self.rule, tat, now)));
            }
            // Others have spent what was here before.
        }
    }

    /// For a key that found no room in the table.
    async fn ask_for_itself(
        &self,
        id: &RecordId,
        n: u64,
        waiting: &AtomicBool,
    ) -> Result<Result<Level, Refused>, Option<StoreError>> {
        let sent = clock::now();
        if n > self.rule.burst {
            let (now, cost) = (units(sent), self.rule.cost(n));
            return Ok(Err(Refused::Denied(Denied { rule: self.rule, tat: now, now, cost })));
        }
        let taken = self.take(id, n, n, sent, waiting).await?;
        let now = clock::now();
        let denied = self.denied(taken, n, now);
        if taken.granted < n {
            return Ok(Err(Refused::Denied(denied)));
        }
        Ok(Ok(self.level(self.rule, denied.tat, now)))
    }

    fn denied(&self, taken: Taken, cost: u64, now: Tick) -> Denied {
        let (rule, cost) = (self.rule, self.rule.cost(cost));
        let debt = units(Tick(clock::nanos(taken.debt))).min(rule.tolerance);
        Denied { rule, tat: units(now).saturating_add(debt), now: units(now), cost }
    }

    /// One question. `waiting` is set while there is no answer.
    async fn take(
        &self,
        id: &RecordId,
        at_least: u64,
        at_most: u64,
        now: Tick,
        waiting: &AtomicBool,
    ) -> Result<Taken, Option<StoreError>> {
        if !self.health.may_ask(now) {
            return Err(None);
        }
        self.questions.fetch_add(1, Ordering::Relaxed);
        waiting.store(true, Ordering::Relaxed);
        let taken = self.store.0.take(id, &self.quota, at_least, at_most).await;
        waiting.store(false, Ordering::Relaxed);
        match taken {
            Ok(taken) => {
                if self.health.answered() {
                    let (from, to) = (self.when_down.as_str(), "shared");
                    let reason = format_args!("the store answers");
                    self.ledger.emit(EventKind::StateChanged { from, to, reason });
                }
                Ok(taken)
            }
            Err(error) => {
                self.failed(&error);
                Err(Some(error))
            }
        }
    }

    #[cold]
    fn failed(&self, error: &StoreError) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        if self.health.failed(clock::now()) {
            let (from, to) = ("shared", self.when_down.as_str());
            let reason = format_args!("{error}");
            self.ledger.emit(EventKind::StateChanged { from, to, reason });
        }
    }

    /// Decides a call as long as the store is down.
    #[cold]
    fn without_store(
        &self,
        seat: Option<&Seat>,
        n: u64,
        error: Option<StoreError>,
    ) -> Result<Level, Refused> {
        self.without_store.fetch_add(1, Ordering::Relaxed);
        let now = clock::now();
        let down = || {
            let (kind, layer) = (RejectionKind::StoreUnavailable, LayerKind::RateLimit);
            let rejection = Rejection::new(kind, layer, self.ledger.name);
            Refused::Down(match error {
                Some(error) => rejection.with_source(error),
                None => rejection,
            })
        };
        match self.when_down {
            WhenDown::Allow => Ok(self.level(self.rule, 0, now)),
            WhenDown::Deny => Err(down()),
            WhenDown::LocalShare { .. } => {
                let seat = seat.unwrap_or(&self.rest);
                let charged = lock(&seat.purse).charge_share(self.share, n, units(now));
                match charged {
                    Ok(tat) => Ok(self.level(self.share, tat, now)),
                    // More than the share ever holds, but not than the bucket does.
                    Err(denied) if denied.never() => Err(down()),
                    Err(denied) => Err(Refused::Denied(denied)),
                }
            }
        }
    }

    /// Counts a refusal and tells it; in shadow mode the call passes.
    fn refuse(&self, refused: Refused) -> Result<Level, Rejection> {
        match refused {
            Refused::Denied(denied) => {
                let refusal = Refusal::quota(&self.ledger, denied);
                if self.ledger.is_shadow() {
                    refusal.pass();
                    return Ok(refusal.level());
                }
                Err(refusal.finish())
            }
            Refused::Down(rejection) => {
                if self.ledger.is_shadow() {
                    self.ledger.would_refuse(&rejection);
                    return Ok(self.level(self.rule, 0, clock::now()));
                }
                Err(self.ledger.refused(rejection))
            }
        }
    }
}

impl fmt::Debug for SharedRateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRateLimiter")
            .field("name", &self.name())
            .field("quota", &self.inner.quota)
            .field("when_down", &self.inner.when_down)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SharedBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBucket").field("limiter", &self.limiter).finish_non_exhaustive()
    }
}
