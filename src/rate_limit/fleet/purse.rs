//! What one process knows of one bucket that it shares with others: the tokens it has paid for in advance, and
//! how empty the bucket was when it last heard of it. No clock, no lock, no I/O.

use crate::clock::Tick;
use crate::rate_limit::core::{Denied, Rule, units};
use crate::store::Taken;

/// How many tokens are taken in advance, and for how long they are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Advance {
    pub(super) tokens: u64,
    /// In units.
    pub(super) hold: u64,
}

/// What the purse alone says to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    /// Paid with tokens that are here.
    Paid,
    /// The store would refuse it: the bucket can only have become emptier than it was known to be.
    Denied(Denied),
    /// The store must be asked.
    Ask { at_least: u64, at_most: u64 },
}

#[derive(Debug, Default)]
pub(super) struct Purse {
    tokens: u64,
    /// Until when they may be spent, in units.
    good_until: u64,
    /// When the bucket is full at the earliest, in units: as heard, counted from when it was asked.
    tat: u64,
    /// How much later it may be: how long the answer took.
    slack: u64,
    /// The bucket of this process's own share, for when the store is down.
    share: u64,
}

impl Purse {
    /// Drops tokens that are good no more.
    fn check(&mut self, now: u64) {
        if now >= self.good_until {
            self.tokens = 0;
        }
    }

    /// Pays for a call of cost `n`, if that can be known here.
    pub(super) fn spend(&mut self, rule: Rule, advance: Advance, n: u64, now: u64) -> Spent {
        self.check(now);
        if n <= self.tokens {
            self.tokens -= n;
            return Spent::Paid;
        }
        if n > rule.burst {
            return Spent::Denied(Denied { rule, tat: now, now, cost: rule.cost(n) });
        }
        let at_least = n - self.tokens;
        match rule.admit(self.tat, now, rule.cost(at_least)) {
            Err(denied) => {
                Spent::Denied(Denied { tat: denied.tat.saturating_add(self.slack), ..denied })
            }
            Ok(_) => Spent::Ask { at_least, at_most: at_least.max(advance.tokens) },
        }
    }

    /// The store has answered, at `now`, what it was asked at `sent`.
    pub(super) fn heard(
        &mut self,
        rule: Rule,
        advance: Advance,
        taken: Taken,
        sent: u64,
        now: u64,
    ) {
        let debt = units(Tick(crate::clock::nanos(taken.debt))).min(rule.tolerance);
        self.tat = self.tat.max(sent.saturating_add(debt));
        self.slack = now.saturating_sub(sent);
        if taken.granted == 0 {
            return;
        }
        self.check(now);
        let good = sent.saturating_add(advance.hold);
        // Together they are good for as long as the older ones. With nothing in advance they are spent at once,
        // under the same lock.
        let until = if self.tokens > 0 { good.min(self.good_until) } else { good };
        self.tokens = self.tokens.saturating_add(taken.granted);
        self.good_until = until;
    }

    /// Spends what was just heard to be granted. Not if others have been faster.
    pub(super) fn settle(&mut self, n: u64) -> bool {
        let enough = n <= self.tokens;
        if enough {
            self.tokens -= n;
        }
        enough
    }

    /// Charges the process's own share.
    pub(super) fn charge_share(&mut self, rule: Rule, n: u64, now: u64) -> Result<u64, Denied> {
        let after = rule.admit(self.share, now, rule.cost(n))?;
        self.share = after;
        Ok(after)
    }

    /// When the bucket is full, as far as is known; tokens that are here are not missing from it.
    pub(super) fn level(&self, rule: Rule) -> u64 {
        self.tat.saturating_sub(rule.cost(self.tokens))
    }

    /// Whether there is anything in it that counts.
    pub(super) fn is_blank(&self, now: u64) -> bool {
        let no_tokens = self.tokens == 0 || now >= self.good_until;
        no_tokens && self.tat <= now && self.share <= now
    }
}
