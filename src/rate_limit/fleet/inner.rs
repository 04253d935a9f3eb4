//! How a call is decided: by what is known here, by the store, or without it.

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

pub(super) struct Inner {
    store: StoreRef,
    pub(super) ledger: Ledger,
    pub(super) shadow: AtomicBool,
    pub(super) quota: Quota,
    rule: Rule,
    advance: Advance,
    share: Rule,
    pub(super) when_down: WhenDown,
    deadline: Duration,
    pub(super) health: Health,
    table: Table,
    /// For keys that find no room.
    rest: Seat,
    pub(super) whole: RecordId,
    pub(super) questions: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) without_store: AtomicU64,
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

impl Inner {
    #[expect(clippy::too_many_arguments, reason = "called once, by the builder")]
    pub(super) fn new(
        store: StoreRef,
        ledger: Ledger,
        shadow: bool,
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
            shadow: AtomicBool::new(shadow),
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
    pub(super) async fn acquire(&self, id: &RecordId, n: u64) -> Result<Level, Rejection> {
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
                if self.shadow.load(Ordering::Relaxed) {
                    refusal.pass();
                    return Ok(refusal.level());
                }
                Err(refusal.finish())
            }
            Refused::Down(rejection) => {
                if self.shadow.load(Ordering::Relaxed) {
                    self.ledger.would_refuse(&rejection);
                    return Ok(self.level(self.rule, 0, clock::now()));
                }
                Err(self.ledger.refused(rejection))
            }
        }
    }
}
