//! The settings of a budget, exchanged as one while calls read them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::core::Balance;
use crate::sync::{Mutex, lock};

/// One consistent set of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// A packed [`Balance`].
    pub(super) full: u64,
    pub(super) deposit: u64,
    pub(super) price: u64,
    pub(super) throttled_price: u64,
    pub(super) start: Balance,
}

/// A sequence lock over [`Terms`]: the version is odd while they are exchanged.
///
/// Each load is `Acquire` and each store `Release`, so none passes another, and who sees a new word also
/// sees the odd version that was stored before it.
pub(super) struct TermsCell {
    version: AtomicU64,
    full: AtomicU64,
    deposit: AtomicU64,
    /// Both: each has 20 bits.
    prices: AtomicU64,
    start: AtomicU64,
    writer: Mutex<()>,
}

const PRICE_BITS: u32 = 32;

impl TermsCell {
    pub(super) fn new(terms: Terms) -> Self {
        Self {
            version: AtomicU64::new(0),
            full: AtomicU64::new(terms.full),
            deposit: AtomicU64::new(terms.deposit),
            prices: AtomicU64::new(terms.price | terms.throttled_price << PRICE_BITS),
            start: AtomicU64::new(terms.start.pack()),
            writer: Mutex::new(()),
        }
    }

    /// The limits alone: one word, which cannot be torn.
    #[inline]
    pub(super) fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    /// The terms in force, and their version.
    pub(super) fn read(&self) -> (Terms, u64) {
        loop {
            let version = self.version.load(Ordering::Acquire);
            let full = self.full.load(Ordering::Acquire);
            let deposit = self.deposit.load(Ordering::Acquire);
            let prices = self.prices.load(Ordering::Acquire);
            let start = Balance::unpack(self.start.load(Ordering::Acquire));
            if version & 1 == 0 && self.is(version) {
                let (price, throttled_price) =
                    (prices & ((1 << PRICE_BITS) - 1), prices >> PRICE_BITS);
                return (Terms { full, deposit, price, throttled_price, start }, version);
            }
            // Held for as long as they cannot be read.
            drop(lock(&self.writer));
        }
    }

    #[inline]
    pub(super) fn is(&self, version: u64) -> bool {
        self.version.load(Ordering::Acquire) == version
    }

    /// Calls `f` with the limits, which do not change meanwhile.
    #[cold]
    pub(super) fn steady(&self, f: impl FnOnce(u64)) {
        let _no_change = lock(&self.writer);
        f(self.full());
    }

    /// Exchanges the terms, then calls `done` with the limits, before anybody else can exchange them.
    pub(super) fn change(&self, change: impl FnOnce(Terms) -> Terms, done: impl FnOnce(u64)) {
        let _one_at_a_time = lock(&self.writer);
        // Nobody else writes, so this does not wait for the lock.
        let (old, version) = self.read();
        let new = change(old);
        self.version.store(version + 1, Ordering::Release);
        self.full.store(new.full, Ordering::Release);
        self.deposit.store(new.deposit, Ordering::Release);
        self.prices.store(new.price | new.throttled_price << PRICE_BITS, Ordering::Release);
        self.start.store(new.start.pack(), Ordering::Release);
        self.version.store(version + 2, Ordering::Release);
        done(new.full);
    }
}
