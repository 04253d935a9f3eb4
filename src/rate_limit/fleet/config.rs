use std::sync::Arc;
use std::time::Duration;

use super::handle::SharedRateLimiter;
use super::inner::Inner;
use super::purse::Advance;
use super::store::{Erased, StoreRef};
use crate::clock::nanos;
use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};
use crate::quota::{Quota, UNITS_PER_NANO};
use crate::rate_limit::config::missing_quota;
use crate::rate_limit::core::Rule;
use crate::rate_limit::ledger::Ledger;
use crate::store::RateStore;

/// What becomes of calls while the store of a [`SharedRateLimiter`] does not answer. There is no default:
/// whether a service without its limits is worse than no service is nothing a library can know.
///
/// ```
/// use buttress::rate_limit::WhenDown;
/// assert_ne!(WhenDown::Allow, WhenDown::LocalShare { of: 4 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenDown {
    /// They are let through unlimited.
    Allow,
    /// They are refused as [`StoreUnavailable`](crate::RejectionKind::StoreUnavailable).
    Deny,
    /// Each process keeps a limit of its own, of one `of`-th of the rate and of the burst (at least 1).
    LocalShare {
        /// How many processes there are, about. With fewer than there really are all together let more
        /// through.
        of: u32,
    },
}

impl WhenDown {
    /// Lower-case name with underscores.
    ///
    /// ```
    /// assert_eq!(buttress::rate_limit::WhenDown::LocalShare { of: 4 }.as_str(), "local_share");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::LocalShare { .. } => "local_share",
        }
    }
}

const MAX_KEYS: usize = 1 << 24;
const MAX_DEADLINE: Duration = Duration::from_secs(60);
const MAX_HOLD: Duration = Duration::from_secs(60);

/// Makes a [`SharedRateLimiter`]; see [`RateLimiter::shared`](super::super::RateLimiter::shared).
///
/// | setter | range | default |
/// |---|---|---|
/// | [`quota`](Self::quota) | any valid one | none: must be given |
/// | [`advance`](Self::advance) | see there | nothing in advance |
/// | [`deadline`](Self::deadline) | 1 ms to 60 s | 50 ms |
/// | [`max_keys`](Self::max_keys) | 1 to 2^24 | 10 000 |
/// | [`shadow`](Self::shadow) | | off |
///
/// ```
/// use buttress::rate_limit::{RateLimiter, SharedRateLimiterBuilder, WhenDown};
/// use buttress::store::MemoryStore;
/// use std::time::Duration;
/// // What all limits of a program have in common.
/// fn settings(limit: SharedRateLimiterBuilder) -> SharedRateLimiterBuilder {
///     limit.deadline(Duration::from_millis(20)).max_keys(100_000)
/// }
/// let limit = RateLimiter::shared(MemoryStore::default(), "tenant", WhenDown::Allow);
/// let limiter = settings(limit).quota("100/s burst 20".parse()?).build()?;
/// assert_eq!(limiter.name(), "tenant");
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct SharedRateLimiterBuilder {
    store: StoreRef,
    name: Name,
    when_down: WhenDown,
    quota: Option<Quota>,
    advance: Option<(u64, Duration)>,
    deadline: Duration,
    max_keys: usize,
    shadow: bool,
    pub(crate) observers: Observers,
}

impl SharedRateLimiterBuilder {
    pub(crate) fn new(store: impl RateStore, name: Name, when_down: WhenDown) -> Self {
        let store: Arc<dyn Erased> = Arc::new(store);
        Self {
            store: StoreRef(store),
            name,
            when_down,
            quota: None,
            advance: None,
            deadline: Duration::from_millis(50),
            max_keys: 10_000,
            shadow: false,
            observers: Observers::default(),
        }
    }

    /// What all processes together let through. All must be given the same.
    ///
    /// ```no_run
    /// # fn f(store: impl buttress::store::RateStore) -> Result<(), buttress::ConfigError> {
    /// use buttress::rate_limit::{RateLimiter, WhenDown};
    /// let limiter = RateLimiter::shared(store, "api", WhenDown::Deny).quota("100/s".parse()?).build()?;
    /// # Ok(()) }
    /// ```
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// Takes up to `tokens` with one question to the store, and spends them here, for as long as `hold` after
    /// the question. So calls that come faster than one per `hold` cost far less than a question each.
    ///
    /// What is held here can come late, on top of what others take later. So that no interval ever sees more
    /// than `burst + rate * t`, the bucket in the store is smaller than the quota says, by what comes back in
    /// `hold`: 50 ms at 1000/s are 50 tokens of the burst. No call can cost more than what is left.
    ///
    /// Tokens that are not spent in time are lost. So the limit is never exceeded, and it is not reached by a
    /// process that needs fewer than it takes: choose what one process needs in `hold`.
    ///
    /// ```no_run
    /// # fn f(store: impl buttress::store::RateStore) -> Result<(), buttress::ConfigError> {
    /// use buttress::rate_limit::{RateLimiter, WhenDown};
    /// use std::time::Duration;
    /// let limiter = RateLimiter::shared(store, "api", WhenDown::Allow)
    ///     .quota("10000/s burst 2000".parse()?)
    ///     .advance(100, Duration::from_millis(50))
    ///     .build()?;
    /// assert_eq!(limiter.quota().capacity(), 1500);
    /// # Ok(()) }
    /// ```
    pub fn advance(mut self, tokens: u64, hold: Duration) -> Self {
        self.advance = Some((tokens, hold));
        self
    }

    /// How long a call waits for the store. After that [`WhenDown`] decides.
    ///
    /// ```no_run
    /// # fn f(store: impl buttress::store::RateStore) -> Result<(), buttress::ConfigError> {
    /// use buttress::rate_limit::{RateLimiter, WhenDown};
    /// use std::time::Duration;
    /// let limiter = RateLimiter::shared(store, "api", WhenDown::Allow)
    ///     .quota("100/s".parse()?)
    ///     .deadline(Duration::from_millis(10))
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// For how many keys this process remembers what it knows of their buckets. The buckets are in the store,
    /// so a key that finds no room is limited all the same, but with a question for each call; while the
    /// store is down all of these have one share together.
    ///
    /// ```no_run
    /// # fn f(store: impl buttress::store::RateStore) -> Result<(), buttress::ConfigError> {
    /// use buttress::rate_limit::{RateLimiter, WhenDown};
    /// let limiter = RateLimiter::shared(store, "tenant", WhenDown::Allow)
    ///     .quota("100/s".parse()?)
    ///     .max_keys(100_000)
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// Shadow mode: everything is asked, counted and reported as usual, nothing is ever refused.
    ///
    /// ```no_run
    /// # fn f(store: impl buttress::store::RateStore) -> Result<(), buttress::ConfigError> {
    /// use buttress::rate_limit::{RateLimiter, WhenDown};
    /// let limiter = RateLimiter::shared(store, "api", WhenDown::Deny)
    ///     .quota("100/s".parse()?)
    ///     .shadow(true)
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn shadow(mut self, on: bool) -> Self {
        self.shadow = on;
        self
    }

    /// Adds a listener for refusals, and for when the store goes down and comes back.
    ///
    /// ```no_run
    /// # fn f(store: impl buttress::store::RateStore) -> Result<(), buttress::ConfigError> {
    /// use buttress::observe::Event;
    /// use buttress::rate_limit::{RateLimiter, WhenDown};
    /// let limiter = RateLimiter::shared(store, "api", WhenDown::Deny)
    ///     .quota("100/s".parse()?)
    ///     .observe(|event: &Event<'_>| println!("{}: {}", event.name, event.kind.as_str()))
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// The limiter. Nothing is asked yet.
    ///
    /// # Errors
    /// No quota; a value out of range; an advance of more tokens than the bucket then has, or that is held
    /// for as long as the bucket takes to fill; a share of no process.
    ///
    /// ```no_run
    /// # fn f(store: impl buttress::store::RateStore) -> Result<(), buttress::ConfigError> {
    /// use buttress::rate_limit::{RateLimiter, WhenDown};
    /// let nobody = RateLimiter::shared(store, "api", WhenDown::LocalShare { of: 0 });
    /// assert_eq!(nobody.quota("100/s".parse()?).build().unwrap_err().field(), "when_down");
    /// # Ok(()) }
    /// ```
    pub fn build(self) -> Result<SharedRateLimiter, ConfigError> {
        let asked = self.quota.ok_or_else(missing_quota)?;
        let (quota, advance) = match self.advance {
            None => (asked, Advance { tokens: 0, hold: 0 }),
            Some((tokens, hold)) => in_advance(asked, tokens, hold)?,
        };
        if !(Duration::from_millis(1)..=MAX_DEADLINE).contains(&self.deadline) {
            let deadline = format!("{:?}", self.deadline);
            return Err(ConfigError::new("deadline", deadline, "1 ms to 60 s"));
        }
        if !(1..=MAX_KEYS).contains(&self.max_keys) {
            let expected = format!("1 to {MAX_KEYS} keys");
            return Err(ConfigError::new("max_keys", self.max_keys, expected));
        }
        let share = match self.when_down {
            WhenDown::LocalShare { of } => share(asked, of)?,
            WhenDown::Allow | WhenDown::Deny => Rule::from(asked),
        };
        crate::rate_limit::shared::wind_up();
        Ok(SharedRateLimiter::from_inner(Inner::new(
            self.store,
            Ledger::new(self.name, self.observers),
            self.shadow,
            quota,
            advance,
            share,
            self.when_down,
            self.deadline,
            self.max_keys,
        )))
    }
}

/// The quota of the bucket in the store, and the rest.
fn in_advance(asked: Quota, tokens: u64, hold: Duration) -> Result<(Quota, Advance), ConfigError> {
    if !(Duration::from_millis(1)..=MAX_HOLD).contains(&hold) {
        return Err(ConfigError::new("hold", format_args!("{hold:?}"), "1 ms to 60 s"));
    }
    let hold = nanos(hold).saturating_mul(UNITS_PER_NANO);
    let comes_back = hold.div_ceil(asked.interval_units());
    let Some(left) = asked.capacity().checked_sub(comes_back).filter(|left| *left > 0) else {
        let burst = asked.capacity();
        return Err(ConfigError::new(
            "hold",
            format_args!("{:?}", Duration::from_nanos(hold / UNITS_PER_NANO)),
            format!("less than the {:?} in which {burst} tokens come back", asked.fill_time()),
        ));
    };
    if !(1..=left).contains(&tokens) {
        let expected = format!("1 to {left}: the burst without what comes back in `hold`");
        return Err(ConfigError::new("tokens", tokens, expected));
    }
    Ok((asked.burst(left)?, Advance { tokens, hold }))
}

fn share(quota: Quota, of: u32) -> Result<Rule, ConfigError> {
    const EXPECTED: &str =
        "a share of at least 1 process, with a burst that fills within nine years";
    let bad = || ConfigError::new("when_down", format_args!("LocalShare {{ of: {of} }}"), EXPECTED);
    if of == 0 {
        return Err(bad());
    }
    let burst = (quota.capacity() / u64::from(of)).max(1);
    let interval = quota.interval_units().checked_mul(u64::from(of)).ok_or_else(bad)?;
    let tolerance = interval.checked_mul(burst).filter(|fill| *fill <= 1 << 62).ok_or_else(bad)?;
    Ok(Rule { interval, tolerance, burst, shadow: false })
}
