//! How many extra attempts one backend can be asked for.

use std::fmt;
use std::sync::Arc;
// Limits and counters are not part of the loom model: they guard nothing.
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::backend::Backend;
use crate::error::ConfigError;
use crate::lever::Lever;
use crate::name::Name;
use crate::sync::Padded;

mod config;
mod core;
mod managed;
mod terms;
mod token;

pub use config::RetryBudgetBuilder;
pub use token::{RetryToken, SentRetry};

use self::core::{Balance, Generation, Purse, RETRY};
use self::terms::{Terms, TermsCell};
use self::token::Held;

/// What made another attempt necessary; it decides the price.
///
/// ```
/// use buttress::RetryCost;
/// assert_ne!(RetryCost::Failed, RetryCost::Throttled);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryCost {
    /// The attempt before failed.
    Failed,
    /// The callee is alive and asked for less. Cheaper: it is not the sign of an outage.
    Throttled,
}

/// The retries one backend can take, shared by everything that makes extra attempts to it.
///
/// Retries are a loan against the backend's spare capacity. When a tenth of the calls fails, retrying
/// each is right; when all fail, retrying each triples the load on something that is already down and
/// can keep it down after the cause has gone. A budget tells the two apart. Make one per backend and
/// hand clones of it (cheap, all the same budget) to every policy that calls it.
///
/// Two balances, and a retry needs both:
///
/// - **Tokens** price outcomes (the algorithm of AWS's SDKs, with a small start). There are at most 140,
///   28 at the start. A retry costs 14, or 5 if the callee was throttling. One that works is refunded
///   in full, one that fails is paid. A first attempt that works earns 1. So retries that help are free,
///   up to failure rates of about 20 %, and in an outage they stop after a handful.
/// - **Credit** bounds retries by requests: each first attempt deposits 0.2 of a retry, each retry takes
///   a whole one and never gets it back by working, at most 10 retries are saved up, 3 are there at the
///   start. On every stretch of time `retries <= 0.2 * requests + 10`, whatever happens.
///
/// A little traffic is served by the start and by what was saved; there is no "so many per second in any
/// case", because in an outage every process of a fleet would claim it.
///
/// Both live in one atomic word; no lock and no clock. While both are full a success only reads it. A
/// retry holds its [`RetryToken`] while it waits in backoff, so waiting retries count.
///
/// ```
/// use buttress::{RetryBudget, RetryCost};
///
/// let payments = RetryBudget::new("payments");
/// // A first attempt failed: may it be retried?
/// let token = payments.failed(RetryCost::Failed).expect("a fresh budget has room");
/// // ... back off, then:
/// let sent = token.send();
/// // It worked, so the tokens come back. Dropping `sent` instead would pay them.
/// sent.succeeded();
/// assert_eq!(payments.stats().tokens, 28);
/// ```
#[derive(Clone)]
pub struct RetryBudget {
    shared: Arc<Shared>,
}

struct Shared {
    purse: Padded<Purse>,
    limits: Padded<Limits>,
    counts: Padded<Counts>,
}

/// Read by every call, written almost never.
struct Limits {
    name: Name,
    terms: TermsCell,
    /// How many failure budgets hold it back.
    engaged: AtomicU32,
    unlimited: bool,
    /// Pays instead of the purse.
    backend: Option<Backend>,
}

#[derive(Default)]
struct Counts {
    allowed: AtomicU64,
    denied: AtomicU64,
    succeeded: AtomicU64,
    returned: AtomicU64,
}

impl Shared {
    fn reset(&self) {
        self.under_terms(|purse, terms| purse.reset(terms.start, terms.full));
    }

    /// Does something to the balances, by one set of terms. If these were exchanged meanwhile, their
    /// successors' limits hold when it returns.
    fn under_terms<T>(&self, op: impl FnOnce(&Purse, Terms) -> T) -> T {
        let (terms, version) = self.limits.terms.read();
        let answer = op(&self.purse, terms);
        // What was written before the change is cut by who makes it; who writes after it sees it here:
        // see `Purse::cut`.
        if !self.limits.terms.is(version) {
            self.limits.terms.steady(|full| self.purse.cut(full));
        }
        answer
    }

    /// A first attempt worked, and there is room for what it earns.
    #[cold]
    fn earn(&self) {
        self.under_terms(|purse, terms| purse.add(1, terms.deposit, terms.full));
    }

    #[cold]
    fn exchange(&self, change: impl FnOnce(Terms) -> Terms) {
        self.limits.terms.change(change, |full| self.purse.cut(full));
    }

    fn engage(&self) {
        self.limits.engaged.fetch_add(1, Ordering::Relaxed);
    }

    fn release(&self) {
        let engaged = &self.limits.engaged;
        let _ = engaged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }

    fn stats(&self) -> RetryBudgetStats {
        let Self { purse, limits, counts } = self;
        let (balance, full) = loop {
            let (terms, version) = limits.terms.read();
            let balance = purse.balance();
            if limits.terms.is(version) {
                break (balance, Balance::unpack(terms.full));
            }
        };
        // A call that overlaps a change may not yet have cut what it wrote.
        let tokens = balance.tokens.min(full.tokens);
        let credit = balance.credit.min(full.credit);
        let whole = |n| u32::try_from(n).unwrap_or(u32::MAX);
        // What became of a retry before its grant, which was counted first: then the numbers add up.
        let succeeded = counts.succeeded.load(Ordering::Acquire);
        let returned = counts.returned.load(Ordering::Acquire);
        RetryBudgetStats {
            tokens: whole(tokens),
            max_tokens: whole(full.tokens),
            credit: config::in_retries(credit),
            burst: whole(full.credit / RETRY),
            allowed: counts.allowed.load(Ordering::Relaxed),
            denied: counts.denied.load(Ordering::Relaxed),
            succeeded,
            returned,
        }
    }
}

impl RetryBudget {
    /// A budget with the defaults above.
    ///
    /// ```
    /// let budget = buttress::RetryBudget::new("payments");
    /// assert_eq!(budget.stats().credit, 3.0);
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self::from_builder(&RetryBudgetBuilder::new(name.into()), false)
    }

    /// A budget with other numbers.
    ///
    /// ```
    /// let budget = buttress::RetryBudget::builder("search").ratio(0.1).burst(50).build()?;
    /// assert_eq!(budget.name(), "search");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> RetryBudgetBuilder {
        RetryBudgetBuilder::new(name.into())
    }

    /// A budget that grants everything and only counts. For backends that cannot be overloaded.
    ///
    /// ```
    /// use buttress::{RetryBudget, RetryCost};
    /// let budget = RetryBudget::unlimited("local-file");
    /// for _ in 0..1000 {
    ///     assert!(budget.failed(RetryCost::Failed).is_some());
    /// }
    /// ```
    #[must_use]
    pub fn unlimited(name: impl Into<Name>) -> Self {
        Self::from_builder(&RetryBudgetBuilder::new(name.into()), true)
    }

    /// Grants what the backend's headroom pays for.
    pub(crate) fn of_backend(backend: Backend) -> Self {
        let mut config = RetryBudgetBuilder::new(backend.label());
        config.home = backend.home().clone();
        Self::with(&config, true, Some(backend))
    }

    fn from_builder(config: &RetryBudgetBuilder, unlimited: bool) -> Self {
        Self::with(config, unlimited, None)
    }

    fn with(config: &RetryBudgetBuilder, unlimited: bool, backend: Option<Backend>) -> Self {
        let start = config.start();
        let limits = Limits {
            name: config.name,
            terms: TermsCell::new(config.terms()),
            engaged: AtomicU32::new(0),
            unlimited,
            backend,
        };
        let shared = Shared {
            purse: Padded(Purse::new(start)),
            limits: Padded(limits),
            counts: Padded::default(),
        };
        let shared = Arc::new(shared);
        config.home.register(&shared);
        Self { shared }
    }

    /// Its name.
    ///
    /// ```
    /// assert_eq!(buttress::RetryBudget::new("db").name(), "db");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.limits.name.as_str()
    }

    /// A first attempt worked: one token and the deposit.
    ///
    /// ```
    /// let budget = buttress::RetryBudget::new("db");
    /// budget.succeeded();
    /// assert_eq!(budget.stats().tokens, 29);
    /// ```
    #[inline]
    pub fn succeeded(&self) {
        let limits = &self.shared.limits;
        if limits.unlimited {
            return;
        }
        if !self.shared.purse.is_full(limits.terms.full()) {
            self.shared.earn();
        }
    }

    /// A first attempt failed and will not be retried whatever the budget says: only the deposit.
    ///
    /// ```
    /// let budget = buttress::RetryBudget::new("db");
    /// budget.failed_for_good();
    /// assert_eq!(budget.stats().credit, 3.2);
    /// ```
    pub fn failed_for_good(&self) {
        if !self.shared.limits.unlimited {
            self.shared.under_terms(|purse, terms| purse.add(0, terms.deposit, terms.full));
        }
    }

    /// A first attempt failed and should be retried: the deposit and the withdrawal in one step.
    /// `None` if the budget is spent.
    ///
    /// ```
    /// use buttress::{RetryBudget, RetryCost};
    /// let budget = RetryBudget::new("db");
    /// let first = budget.failed(RetryCost::Failed);
    /// let second = budget.failed(RetryCost::Failed);
    /// assert!(first.is_some() && second.is_some());
    /// // 28 tokens are two retries, and neither has worked yet.
    /// assert!(budget.failed(RetryCost::Failed).is_none());
    /// ```
    #[must_use]
    pub fn failed(&self, cost: RetryCost) -> Option<RetryToken> {
        self.take(cost, Some(1), |terms| terms.deposit)
    }

    /// One more attempt that no first attempt pays for: a retry of a retry, or a hedge. `None` if the
    /// budget is spent.
    ///
    /// ```
    /// use buttress::{RetryBudget, RetryCost};
    /// let budget = RetryBudget::new("db");
    /// let hedge = budget.withdraw(RetryCost::Failed).expect("a fresh budget has room");
    /// drop(hedge); // not sent after all: everything comes back
    /// assert_eq!(budget.stats().credit, 3.0);
    /// ```
    #[must_use]
    pub fn withdraw(&self, cost: RetryCost) -> Option<RetryToken> {
        self.take(cost, None, |_| 0)
    }

    /// The same for a retry of a call of which so many attempts have failed.
    pub(crate) fn withdraw_after(&self, failed: u32, cost: RetryCost) -> Option<RetryToken> {
        self.take(cost, Some(failed), |_| 0)
    }

    fn take(
        &self,
        cost: RetryCost,
        failed: Option<u32>,
        deposit: impl FnOnce(Terms) -> u64,
    ) -> Option<RetryToken> {
        let Shared { limits, counts, .. } = &*self.shared;
        let engaged = limits.engaged.load(Ordering::Relaxed) != 0;
        let taken = if limits.unlimited {
            let pays = |backend: &Backend| backend.take_retry(failed);
            let paid = !engaged && limits.backend.as_ref().is_none_or(pays);
            paid.then_some((Generation::FIRST, 0))
        } else {
            self.shared.under_terms(|purse, terms| {
                let deposit = deposit(terms);
                let price = match cost {
                    RetryCost::Failed => terms.price,
                    RetryCost::Throttled => terms.throttled_price,
                };
                if engaged {
                    purse.add(0, deposit, terms.full);
                    return None;
                }
                purse.withdraw(price, deposit, terms.full).map(|taken| (taken, price))
            })
        };
        if let Some((taken, price)) = taken {
            counts.allowed.fetch_add(1, Ordering::Relaxed);
            Some(RetryToken { held: Some(Held { budget: self.clone(), price, taken }) })
        } else {
            counts.denied.fetch_add(1, Ordering::Relaxed);
            None
        }
    }

    fn put_back(&self, taken: Generation, tokens: u64, credit: u64) {
        let limits = &self.shared.limits;
        if let Some(backend) = &limits.backend {
            // What has been sent is paid.
            if credit > 0 {
                backend.give_retry_back();
            }
        } else if !limits.unlimited {
            self.shared
                .under_terms(|purse, terms| purse.put_back(taken, tokens, credit, terms.full));
        }
    }

    /// Changes the share of a retry that each first attempt deposits, from the next one on.
    ///
    /// # Errors
    /// As [`RetryBudgetBuilder::ratio`].
    ///
    /// ```
    /// let budget = buttress::RetryBudget::new("db");
    /// budget.set_ratio(0.05)?;
    /// assert!(budget.set_ratio(f64::NAN).is_err());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn set_ratio(&self, ratio: f64) -> Result<(), ConfigError> {
        config::check_ratio(ratio)?;
        let deposit = config::deposit(ratio);
        self.shared.exchange(|terms| Terms { deposit, ..terms });
        Ok(())
    }

    /// Changes how many retries can be saved up; what exceeds it is lost at once.
    ///
    /// # Errors
    /// As [`RetryBudgetBuilder::burst`].
    ///
    /// ```
    /// let budget = buttress::RetryBudget::new("db");
    /// budget.set_burst(1)?;
    /// assert_eq!(budget.stats().credit, 1.0);
    /// assert!(budget.set_burst(0).is_err());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn set_burst(&self, retries: u32) -> Result<(), ConfigError> {
        config::check_retries("burst", retries)?;
        let credit = u64::from(retries) * RETRY;
        self.shared.exchange(|terms| {
            let full = Balance { credit, ..Balance::unpack(terms.full) }.pack();
            Terms { full, ..terms }
        });
        Ok(())
    }

    /// Gives a running budget all the settings of `builder`.
    ///
    /// They change at one point in time: no call is decided by some of the old and some of the new. Tokens
    /// and credit are kept, and cut to the new limits; none are added, so `floor` and `initial_tokens` count
    /// from the next [`reset`](Self::reset). A retry that was granted before gives back what it was charged
    /// then. Counters and levers stay. A setting that the builder was not given has its default. The name
    /// stays, and so does the place in a registry: the builder's are not looked at.
    ///
    /// # Errors
    /// As [`RetryBudgetBuilder::build`], and for a budget without limits, which has no settings; then nothing
    /// has changed.
    ///
    /// ```
    /// use buttress::RetryBudget;
    /// let budget = RetryBudget::new("db");
    /// budget.reconfigure(RetryBudget::builder("db").tokens(20).initial_tokens(20).burst(50))?;
    /// let stats = budget.stats();
    /// assert_eq!((stats.tokens, stats.max_tokens), (20, 20), "it had 28");
    /// assert_eq!((stats.credit, stats.burst), (3.0, 50));
    ///
    /// let error = budget.reconfigure(RetryBudget::builder("db").burst(0)).unwrap_err();
    /// assert_eq!((error.field(), budget.stats().burst), ("burst", 50));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[expect(clippy::needless_pass_by_value, reason = "as `build` takes it")]
    pub fn reconfigure(&self, builder: RetryBudgetBuilder) -> Result<(), ConfigError> {
        builder.check()?;
        if self.shared.limits.unlimited {
            return Err(ConfigError::new("budget", "unlimited", "a budget that has limits"));
        }
        self.shared.exchange(|_| builder.terms());
        Ok(())
    }

    /// No registry shows it any more.
    #[cfg(feature = "config")]
    pub(crate) fn forget(&self, home: &crate::managed::Home) {
        home.forget(&self.shared);
    }

    /// Back to the balances of the start. The counters go on. What retries granted before give back later
    /// counts for nothing: it is in those balances already. (One is told apart from those granted after by
    /// a number that repeats after 16 resets.)
    ///
    /// ```
    /// use buttress::{RetryBudget, RetryCost};
    /// let budget = RetryBudget::new("db");
    /// budget.failed(RetryCost::Failed).map(|token| token.send());
    /// budget.reset();
    /// assert_eq!(budget.stats().tokens, 28);
    /// ```
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// The balances (both read at one moment), their limits and the counters. Never more is told to have
    /// worked or come back than was granted.
    ///
    /// ```
    /// let stats = buttress::RetryBudget::new("db").stats();
    /// assert_eq!((stats.allowed, stats.denied), (0, 0));
    /// ```
    #[must_use]
    pub fn stats(&self) -> RetryBudgetStats {
        self.shared.stats()
    }
}

/// Engaged, it grants no retry; first attempts go on to earn and deposit, so that it can go on at once when
/// released. One `release` too many is ignored.
///
/// ```
/// use buttress::{Lever, RetryBudget, RetryCost};
/// let budget = RetryBudget::unlimited("db");
/// budget.engage();
/// assert!(budget.withdraw(RetryCost::Failed).is_none());
/// ```
impl Lever for RetryBudget {
    fn engage(&self) {
        self.shared.engage();
    }

    fn release(&self) {
        self.shared.release();
    }
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        f.debug_struct("RetryBudget")
            .field("name", &self.name())
            .field("tokens", &stats.tokens)
            .field("credit", &stats.credit)
            .finish_non_exhaustive()
    }
}

/// What a [`RetryBudget`] holds and has done. Of an unlimited one the balances mean nothing.
///
/// ```
/// let stats = buttress::RetryBudget::new("db").stats();
/// assert_eq!(stats.tokens, 28);
/// // For a bar of what is left: a retry needs both.
/// let left = (f64::from(stats.tokens) / f64::from(stats.max_tokens))
///     .min(stats.credit / f64::from(stats.burst));
/// assert_eq!(left, 0.2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RetryBudgetStats {
    /// Tokens now.
    pub tokens: u32,
    /// The most tokens there can be.
    pub max_tokens: u32,
    /// Retries that the credit is good for now.
    pub credit: f64,
    /// The most retries that can be saved up: the limit of `credit`.
    pub burst: u32,
    /// Retries granted.
    pub allowed: u64,
    /// Retries refused.
    pub denied: u64,
    /// Granted retries that worked, and were refunded.
    pub succeeded: u64,
    /// Granted retries that were not sent, or were refused on their way, and given back.
    pub returned: u64,
}

#[cfg(all(test, not(buttress_loom)))]
mod tests;
