use super::core::{Bucket, Rule};
use super::handle::RateLimiter;
use super::ledger::Ledger;
use super::shared::{Shared, now};
use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};
use crate::quota::Quota;

pub(crate) const DEFAULT_MAX_WAITING: usize = 1024;

/// Makes a [`RateLimiter`]; see [`RateLimiter::builder`].
///
/// | setter | range | default |
/// |---|---|---|
/// | [`quota`](Self::quota) | any valid one | none: must be given |
/// | [`initial_tokens`](Self::initial_tokens) | 0 to the capacity | a full bucket |
/// | [`max_waiting`](Self::max_waiting) | any; 0 means that nobody may wait | 1024 |
/// | [`shadow`](Self::shadow) | | off |
///
/// ```
/// use buttress::rate_limit::RateLimiter;
/// // On trial: what it would refuse is only told.
/// let limiter = RateLimiter::builder("api").quota("100/s burst 20".parse()?).shadow(true).build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RateLimiterBuilder {
    name: Name,
    quota: Option<Quota>,
    initial: Option<f64>,
    max_waiting: usize,
    shadow: bool,
    pub(crate) observers: Observers,
}

impl RateLimiterBuilder {
    pub(crate) fn new(name: Name) -> Self {
        Self {
            name,
            quota: None,
            initial: None,
            max_waiting: DEFAULT_MAX_WAITING,
            shadow: false,
            observers: Observers::default(),
        }
    }

    /// What is let through.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// let limiter = RateLimiter::builder("api").quota("100/s burst 20".parse()?).build()?;
    /// assert_eq!(limiter.quota().capacity(), 20);
    /// assert_eq!(RateLimiter::builder("api").build().unwrap_err().field(), "quota");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// Tokens in the bucket at the start. Fewer than the capacity where a restart must not grant a
    /// fresh burst: a fleet that is rolled out would spend all its bursts at once.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// let limiter = RateLimiter::builder("api").quota("1/10s burst 5".parse()?).initial_tokens(0.0).build()?;
    /// assert!(limiter.try_acquire().is_err());
    /// let error = RateLimiter::builder("api").quota("1/s".parse()?).initial_tokens(2.0).build();
    /// assert_eq!(error.unwrap_err().field(), "initial_tokens");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn initial_tokens(mut self, tokens: f64) -> Self {
        self.initial = Some(tokens);
        self
    }

    /// How many may wait at a time; one more is refused as `Overloaded`. With 0 `acquire` never waits.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// let limiter = RateLimiter::builder("api").quota("1/s".parse()?).max_waiting(10).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn max_waiting(mut self, waiting: usize) -> Self {
        self.max_waiting = waiting;
        self
    }

    /// Shadow mode: everything is computed, counted and reported as usual, nothing is ever refused and
    /// nobody waits. For trying a limit out on live traffic. A call that would have been refused is not
    /// charged.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// let limiter = RateLimiter::builder("api").quota("1/h".parse()?).shadow(true).build()?;
    /// assert!(limiter.try_acquire().is_ok());
    /// assert!(limiter.try_acquire().is_ok());
    /// assert_eq!(limiter.stats().would_reject, 1);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn shadow(mut self, on: bool) -> Self {
        self.shadow = on;
        self
    }

    /// Adds a listener for refusals and waits.
    ///
    /// ```
    /// use buttress::observe::Event;
    /// use buttress::rate_limit::RateLimiter;
    /// let limiter = RateLimiter::builder("api")
    ///     .quota("1/h".parse()?)
    ///     .observe(|event: &Event<'_>| println!("{}: {}", event.name, event.kind.as_str()))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// The limiter.
    ///
    /// # Errors
    /// No quota, or initial tokens that are negative, NaN or above the capacity.
    ///
    /// ```
    /// use buttress::rate_limit::RateLimiter;
    /// let limiter = RateLimiter::builder("api").quota("100/s".parse()?).build()?;
    /// assert_eq!(limiter.name(), "api");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn build(self) -> Result<RateLimiter, ConfigError> {
        let quota = self.check()?;
        let bucket = match self.initial {
            None => Bucket::full(),
            Some(tokens) => Bucket::at(Rule::from(quota).tat_holding(tokens, now())),
        };
        let ledger = Ledger::new(self.name, self.observers);
        let shared = Shared::new(quota, self.shadow, bucket, ledger, self.max_waiting);
        Ok(RateLimiter::from_shared(shared))
    }

    fn check(&self) -> Result<Quota, ConfigError> {
        let quota = self.quota.ok_or_else(missing_quota)?;
        match self.initial {
            #[expect(clippy::cast_precision_loss, reason = "a bound to compare with")]
            Some(tokens) if !(0.0..=quota.capacity() as f64).contains(&tokens) => {
                let expected = format!("a number from 0 to the capacity, {}", quota.capacity());
                Err(ConfigError::new("initial_tokens", tokens, expected))
            }
            _ => Ok(quota),
        }
    }

    pub(crate) fn apply(&self, running: &Shared) -> Result<(), ConfigError> {
        running.reconfigure(self.check()?, self.shadow, self.max_waiting);
        Ok(())
    }
}

pub(crate) fn missing_quota() -> ConfigError {
    ConfigError::new("quota", "none", "a quota, for example `Quota::per_second(100)?`")
}
