//! Two balances in one word, so that a retry is granted by both or by neither.

use crate::sync::atomic::{AtomicU64, Ordering};

/// One retry in units of credit: deposits are shares of it with six decimals.
pub(super) const RETRY: u64 = 1_000_000;
/// The largest burst in retries, and the largest number of tokens. Both fit their part of the word.
pub(super) const MAX_RETRIES: u32 = 1_000_000;

const CREDIT_BITS: u32 = 40;
const CREDIT_MASK: u64 = (1 << CREDIT_BITS) - 1;
/// Above the credit 20 bits of tokens, and above them the generation.
const GENERATION_SHIFT: u32 = 60;
const BALANCE_MASK: u64 = (1 << GENERATION_SHIFT) - 1;

/// Counts resets, modulo 16. What was taken in one generation does not come back in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation(u64);

impl Generation {
    pub(super) const FIRST: Self = Self(0);

    const fn of(word: u64) -> Self {
        Self(word >> GENERATION_SHIFT)
    }

    const fn mark(self, balance: Balance) -> u64 {
        // Shifted, what is beyond four bits falls out.
        self.0 << GENERATION_SHIFT | balance.pack()
    }

    const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Tokens (what outcomes are paid with) and credit (what bounds retries to a share of the requests).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Balance {
    pub(super) tokens: u64,
    pub(super) credit: u64,
}

impl Balance {
    pub(super) const fn pack(self) -> u64 {
        self.tokens << CREDIT_BITS | self.credit
    }

    pub(super) const fn unpack(word: u64) -> Self {
        Self { tokens: (word & BALANCE_MASK) >> CREDIT_BITS, credit: word & CREDIT_MASK }
    }

    fn plus(self, tokens: u64, credit: u64, full: Self) -> Self {
        Self {
            tokens: (self.tokens + tokens).min(full.tokens),
            credit: (self.credit + credit).min(full.credit),
        }
    }

    fn minus(self, tokens: u64) -> Option<Self> {
        Some(Self {
            tokens: self.tokens.checked_sub(tokens)?,
            credit: self.credit.checked_sub(RETRY)?,
        })
    }
}

/// The word. `full` and `deposit` are passed in: they may change at run time. Who changes them
/// [cuts](Self::cut) afterwards, and who finds after an operation that they have changed cuts again.
#[derive(Debug)]
pub(super) struct Purse(AtomicU64);

impl Purse {
    pub(super) fn new(balance: Balance) -> Self {
        Self(AtomicU64::new(balance.pack()))
    }

    pub(super) fn balance(&self) -> Balance {
        Balance::unpack(self.0.load(Ordering::Relaxed))
    }

    fn update<T>(&self, mut f: impl FnMut(Balance) -> (Balance, T)) -> T {
        self.update_word(|balance, generation| {
            let (next, answer) = f(balance);
            (next, generation, answer)
        })
    }

    fn update_word<T>(
        &self,
        mut f: impl FnMut(Balance, Generation) -> (Balance, Generation, T),
    ) -> T {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (next, generation, answer) = f(Balance::unpack(word), Generation::of(word));
            let next = generation.mark(next);
            // Nothing to change, nothing to write: while all is well the line stays shared.
            if next == word {
                return answer;
            }
            match self.0.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return answer,
                Err(now) => word = now,
            }
        }
    }

    #[inline]
    pub(super) fn is_full(&self, full: u64) -> bool {
        self.0.load(Ordering::Relaxed) & BALANCE_MASK == full
    }

    /// Puts tokens and credit in, each up to its limit.
    #[cold]
    pub(super) fn add(&self, tokens: u64, credit: u64, full: u64) {
        let full = Balance::unpack(full);
        self.update(|balance| (balance.plus(tokens, credit, full), ()));
    }

    /// Puts `deposit` in, then takes one retry's credit and `price` tokens out, or neither if either is
    /// short. The deposit stays in any case.
    pub(super) fn withdraw(&self, price: u64, deposit: u64, full: u64) -> Option<Generation> {
        let full = Balance::unpack(full);
        self.update_word(|balance, generation| {
            let balance = balance.plus(0, deposit, full);
            match balance.minus(price) {
                Some(left) => (left, generation, Some(generation)),
                None => (balance, generation, None),
            }
        })
    }

    /// As [`add`](Self::add), for what was taken in `taken`: nothing if there was a reset since.
    pub(super) fn put_back(&self, taken: Generation, tokens: u64, credit: u64, full: u64) {
        let full = Balance::unpack(full);
        self.update_word(|balance, generation| {
            let next =
                if generation == taken { balance.plus(tokens, credit, full) } else { balance };
            (next, generation, ())
        });
    }

    /// Lowers what exceeds a new limit.
    ///
    /// Writes in any case: an operation that writes later has then read (as all of them do, with acquire)
    /// what follows from this, and sees what was stored before it: that the limits have changed.
    pub(super) fn cut(&self, full: u64) {
        self.0.fetch_add(0, Ordering::AcqRel);
        self.add(0, 0, full);
    }

    /// Starts anew, with no more than is possible now.
    pub(super) fn reset(&self, start: Balance, full: u64) {
        let start = start.plus(0, 0, Balance::unpack(full));
        self.update_word(|_, generation| (start, generation.next(), ()));
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    const FULL: u64 = Balance { tokens: 30, credit: 3 * RETRY }.pack();

    #[test]
    fn loom_two_withdrawals_never_share_the_last_retry() {
        loom::model(|| {
            let purse = Arc::new(Purse::new(Balance { tokens: 20, credit: RETRY }));
            let other = {
                let purse = purse.clone();
                thread::spawn(move || purse.withdraw(14, 0, FULL))
            };
            let mine = purse.withdraw(5, 0, FULL);
            let theirs = other.join().unwrap();
            assert!(mine.is_some() ^ theirs.is_some());
            let spent = if mine.is_some() { 5 } else { 14 };
            assert_eq!(purse.balance(), Balance { tokens: 20 - spent, credit: 0 });
        });
    }

    #[test]
    fn loom_nothing_is_minted_or_lost() {
        loom::model(|| {
            let purse = Arc::new(Purse::new(Balance { tokens: 15, credit: RETRY }));
            let other = {
                let purse = purse.clone();
                thread::spawn(move || {
                    purse.add(1, RETRY / 4, FULL);
                    purse.withdraw(14, RETRY / 4, FULL)
                })
            };
            // Granted and given back unsent: as if it had never been.
            let mine = purse.withdraw(14, 0, FULL);
            if let Some(taken) = mine {
                purse.put_back(taken, 14, RETRY, FULL);
            }
            let theirs = other.join().unwrap();
            let (tokens, credit) =
                if theirs.is_some() { (2, RETRY / 2) } else { (16, RETRY * 3 / 2) };
            assert_eq!(purse.balance(), Balance { tokens, credit });
        });
    }

    #[test]
    fn loom_a_reset_leaves_exactly_the_start_whatever_comes_back() {
        loom::model(|| {
            let start = Balance { tokens: 15, credit: RETRY };
            let purse = Arc::new(Purse::new(start));
            let other = {
                let purse = purse.clone();
                thread::spawn(move || purse.reset(start, FULL))
            };
            if let Some(taken) = purse.withdraw(14, 0, FULL) {
                purse.put_back(taken, 14, RETRY, FULL);
            }
            other.join().unwrap();
            assert_eq!(purse.balance(), start);
        });
    }
}
