//! The state behind a `KeyedRateLimiter`: a table of buckets, their rule, and what happens when the table
//! is full.

use std::hash::Hash;

use super::core::{Bucket, Denied, Receipt, Rule, RuleCell};
use super::keyed_config::WhenFull;
use super::ledger::{Ledger, Level, Refusal};
use super::print::Seeds;
use super::shared::{now, wind_up};
use super::table::{Miss, Print, Table};
use crate::observe::EventKind;
use crate::quota::Quota;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use crate::sync::{Mutex, Padded, lock};

/// A full table is reported at most this often.
const REPORT_EVERY: u64 = 16 * 1_000_000_000;

#[derive(Debug)]
pub(crate) struct Keyed {
    table: Table,
    seeds: Seeds,
    rule: RuleCell,
    /// A [`WhenFull`].
    when_full: AtomicU8,
    capacity: usize,
    ledger: Ledger,
    /// The bucket of `WhenFull::ShareOne`.
    overflow: Padded<Bucket>,
    /// Units given back so far. Written under the lock, after the bucket: who reads it before charging
    /// counts too much rather than too little.
    refunded: AtomicU64,
    /// When a full table was last reported.
    reported: AtomicU64,
    /// Held by whoever changes the rule or gives tokens back, one at a time.
    quota: Mutex<Quota>,
}

/// Where a charge of a [`Keyed`] went.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Charged {
    Slot(Receipt),
    Overflow(Receipt),
    Nothing,
}

impl Keyed {
    pub(crate) fn new(
        quota: Quota,
        shadow: bool,
        capacity: usize,
        when_full: WhenFull,
        ledger: Ledger,
    ) -> Self {
        wind_up();
        Self {
            table: Table::new(capacity),
            seeds: Seeds::random(),
            rule: RuleCell::new(Rule::from(quota).in_shadow(shadow)),
            when_full: AtomicU8::new(when_full.code()),
            capacity,
            ledger,
            overflow: Padded(Bucket::full()),
            refunded: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            quota: Mutex::new(quota),
        }
    }

    pub(crate) fn quota(&self) -> Quota {
        *lock(&self.quota)
    }

    pub(crate) fn is_shadow(&self) -> bool {
        self.rule().0.shadow
    }

    pub(crate) fn set_shadow(&self, on: bool) {
        let _one_at_a_time = lock(&self.quota);
        self.rule.set_shadow(on);
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn live(&self) -> usize {
        self.table.live(now())
    }

    #[inline]
    fn rule(&self) -> (Rule, u64) {
        self.rule.read().unwrap_or_else(|| self.rule_after_change())
    }

    #[cold]
    fn rule_after_change(&self) -> (Rule, u64) {
        loop {
            drop(lock(&self.quota));
            if let Some(read) = self.rule.read() {
                return read;
            }
        }
    }

    fn at(&self, rule: Rule, tat: u64, now: u64) -> Level {
        Level { name: self.ledger.name, rule, tat, now }
    }

    /// The level of a bucket nobody has touched.
    pub(crate) fn full(&self, now: u64) -> Level {
        self.at(self.rule().0, 0, now)
    }

    #[inline]
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    #[inline]
    pub(crate) fn print<Q: Hash + ?Sized>(&self, key: &Q) -> Print {
        self.seeds.print(key)
    }

    pub(crate) fn nobody(&self) -> Print {
        self.seeds.nobody()
    }

    /// Only the way of nearly every call, so that this much can be inlined and kept in registers.
    #[inline(always)]
    pub(crate) fn charge(&self, print: Print, n: u64, now: u64) -> Result<Level, Refusal<'_>> {
        if let Some((rule, version)) = self.rule.read() {
            let cost = rule.cost(n);
            let in_force = || self.rule.is(version);
            if cost != 0
                && let Some(tat) = self.table.charge_near(in_force, print, rule, now, cost)
            {
                return Ok(self.at(rule, tat, now));
            }
        }
        self.charge_anyhow(print, n, now)
    }

    #[inline(never)]
    fn charge_anyhow(&self, print: Print, n: u64, now: u64) -> Result<Level, Refusal<'_>> {
        loop {
            let (rule, version) = self.rule();
            let cost = rule.cost(n);
            if cost == 0 {
                return Ok(self.at(rule, self.table.tat(print), now));
            }
            let in_force = || self.rule.is(version);
            match self.table.charge_while(&in_force, print, rule, now, cost) {
                Ok(tat) => return Ok(self.at(rule, tat, now)),
                Err(Miss::Denied(denied)) => return Err(Refusal::quota(&self.ledger, denied)),
                Err(Miss::Full(until)) => match self.no_room(in_force, rule, now, cost, until) {
                    Ok((level, _)) => return Ok(level),
                    Err(Some(refusal)) => return Err(refusal),
                    Err(None) => {}
                },
                Err(Miss::Outdated) => {}
            }
        }
    }

    pub(crate) fn charge_refundably(
        &self,
        print: Print,
        n: u64,
        now: u64,
    ) -> Result<(Level, Charged), Refusal<'_>> {
        loop {
            let refunded = self.refunded.load(Ordering::Acquire);
            let (rule, version) = self.rule();
            let cost = rule.cost(n);
            if cost == 0 {
                return Ok((self.at(rule, self.table.tat(print), now), Charged::Nothing));
            }
            let receipt = |after| Receipt { after, cost, version, refunded };
            let in_force = || self.rule.is(version);
            match self.table.charge_while(&in_force, print, rule, now, cost) {
                Ok(after) => {
                    return Ok((self.at(rule, after, now), Charged::Slot(receipt(after))));
                }
                Err(Miss::Denied(denied)) => return Err(Refusal::quota(&self.ledger, denied)),
                Err(Miss::Full(until)) => match self.no_room(in_force, rule, now, cost, until) {
                    Ok((level, true)) => {
                        return Ok((level, Charged::Overflow(receipt(level.tat))));
                    }
                    Ok((level, false)) => return Ok((level, Charged::Nothing)),
                    Err(Some(refusal)) => return Err(refusal),
                    Err(None) => {}
                },
                Err(Miss::Outdated) => {}
            }
        }
    }

    /// The table has no slot for a key. `Ok((_, true))`: charged to the shared bucket. `Err(None)`: the rule
    /// has changed.
    #[cold]
    fn no_room(
        &self,
        in_force: impl Fn() -> bool,
        rule: Rule,
        now: u64,
        cost: u64,
        until: u64,
    ) -> Result<(Level, bool), Option<Refusal<'_>>> {
        let last = self.reported.load(Ordering::Relaxed);
        if now.saturating_sub(last) >= REPORT_EVERY
            && self
                .reported
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.ledger.emit(EventKind::TableFull { capacity: self.capacity });
        }
        let when_full = WhenFull::of(self.when_full.load(Ordering::Acquire));
        // Read before this is asked: it is the one that belongs to the rule.
        if !in_force() {
            return Err(None);
        }
        match when_full {
            WhenFull::Allow => Ok((self.at(rule, 0, now), false)),
            WhenFull::ShareOne => match self.overflow.charge_while(in_force, rule, now, cost) {
                Ok(tat) => Ok((self.at(rule, tat, now), true)),
                Err(denied) => Err(denied.map(|denied| Refusal::quota(&self.ledger, denied))),
            },
            WhenFull::Reject => {
                // As if the bucket of the first slot to die were the key's own, full when it dies.
                let tat = until.saturating_add(rule.tolerance).saturating_sub(cost);
                let denied = Denied { rule, tat, now, cost };
                Err(Some(Refusal { ledger: &self.ledger, denied, no_room: true }))
            }
        }
    }

    pub(crate) fn probe(&self, print: Print, n: u64, now: u64) -> Result<(), Refusal<'_>> {
        let (rule, _) = self.rule();
        let cost = rule.cost(n);
        if cost == 0 {
            return Ok(());
        }
        self.table
            .probe(print, rule, now, cost)
            .map_err(|denied| Refusal::quota(&self.ledger, denied))
    }

    pub(crate) fn refund(&self, print: Print, charged: Charged) {
        let (Charged::Slot(receipt) | Charged::Overflow(receipt)) = charged else { return };
        let _one_at_a_time = lock(&self.quota);
        if !self.rule.is(receipt.version) {
            return;
        }
        let refunded = self.refunded.load(Ordering::Relaxed);
        let given = match charged {
            Charged::Slot(_) => self.table.refund(print, receipt, refunded, now),
            _ => self.overflow.refund(receipt, refunded, now),
        };
        self.refunded.store(refunded.wrapping_add(given), Ordering::Release);
    }

    pub(crate) fn reset(&self, print: Print) {
        let _one_at_a_time = lock(&self.quota);
        let given = self.table.reset(print, now());
        self.refunded.fetch_add(given, Ordering::Release);
    }

    pub(crate) fn level(&self, print: Print) -> Level {
        self.at(self.rule().0, self.table.tat(print), now())
    }

    pub(crate) fn set_quota(&self, quota: Quota) {
        self.change(quota, None);
    }

    pub(crate) fn reconfigure(&self, quota: Quota, shadow: bool, when_full: WhenFull) {
        self.change(quota, Some((shadow, when_full)));
    }

    fn change(&self, quota: Quota, rest: Option<(bool, WhenFull)>) {
        let mut shown = lock(&self.quota);
        if let Some((old, _)) = self.rule.read() {
            let new = Rule::from(quota).in_shadow(rest.map_or(old.shadow, |(shadow, _)| shadow));
            self.rule.begin();
            if let Some((_, when_full)) = rest {
                // `Release`: who sees it also sees that the old rule is no longer in force.
                self.when_full.store(when_full.code(), Ordering::Release);
            }
            let now = now();
            let change = |tat| old.rescale(new, tat, now);
            self.table.rebuild(now, change);
            self.overflow.rebuild(now, change);
            self.rule.end(new);
        }
        *shown = quota;
    }
}
