use std::fmt;
use std::time::Duration;

use super::core::Limits;
use super::handle::Throttle;
use crate::backoff::Random;
use crate::clock::nanos;
use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};

/// Builds a [`Throttle`]; see [`Throttle::builder`].
///
/// ```
/// use buttress::throttle::Throttle;
/// use std::time::Duration;
/// // A quota alone: calls wait up to a second for their turn, and failures refuse nothing.
/// let quota = || Throttle::builder("api").without_shedding().max_wait(Duration::from_secs(1));
/// let throttle = quota().build()?;
/// // The same settings but one, in a throttle that runs.
/// throttle.reconfigure(quota().max_wait(Duration::ZERO))?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
///
/// | setting | default | range |
/// |---|---|---|
/// | [`quota`](Self::quota) | on | |
/// | [`k`](Self::k) | 2 | 1 to 100, or [`without_shedding`](Self::without_shedding) |
/// | [`max_share`](Self::max_share) | 0.9 | 0.01 to 0.99 |
/// | [`window`](Self::window) | 2 min | 1 s to 1 hour |
/// | [`max_wait`](Self::max_wait) | 200 ms | 0 to 1 hour |
/// | [`seed`](Self::seed) | random | |
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct ThrottleBuilder {
    pub(super) name: Name,
    quota: bool,
    k: Option<f64>,
    max_share: f64,
    window: Duration,
    max_wait: Duration,
    seed: Option<u64>,
    pub(crate) observers: Observers,
}

impl ThrottleBuilder {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            quota: true,
            k: Some(2.0),
            max_share: 0.9,
            window: Duration::from_secs(120),
            max_wait: Duration::from_millis(200),
            seed: None,
            observers: Observers::default(),
        }
    }

    /// Whether the rate of calls that are taken is learned from those that are throttled.
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// let throttle = Throttle::builder("api").quota(false).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn quota(mut self, learn: bool) -> Self {
        self.quota = learn;
        self
    }

    /// So many calls are asked for, for each that is taken, before some are refused here. More lets more through to a
    /// backend that fails, and sees sooner that it is well again.
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// assert_eq!(Throttle::builder("api").k(0.5).build().unwrap_err().field(), "k");
    /// ```
    pub fn k(mut self, requests: f64) -> Self {
        self.k = Some(requests);
        self
    }

    /// Refuses nothing because others failed.
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// let throttle = Throttle::builder("api").without_shedding().build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn without_shedding(mut self) -> Self {
        self.k = None;
        self
    }

    /// The largest share that is refused because others failed.
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// assert_eq!(Throttle::builder("api").max_share(1.0).build().unwrap_err().field(), "max_share");
    /// ```
    pub fn max_share(mut self, share: f64) -> Self {
        self.max_share = share;
        self
    }

    /// For how long what was asked for and taken counts.
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// use std::time::Duration;
    /// let built = Throttle::builder("api").window(Duration::ZERO).build();
    /// assert_eq!(built.unwrap_err().field(), "window");
    /// ```
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// How long a call waits for its turn in the quota, as far as is known when it comes; zero refuses what cannot be sent
    /// at once.
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// use std::time::Duration;
    /// let throttle = Throttle::builder("api").max_wait(Duration::from_secs(1)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn max_wait(mut self, longest: Duration) -> Self {
        self.max_wait = longest;
        self
    }

    /// The same calls are refused each time.
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// let throttle = Throttle::builder("api").seed(7).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Adds a listener; see [`crate::observe`].
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// let throttle = Throttle::builder("api")
    ///     .observe(|event: &buttress::observe::Event<'_>| eprintln!("{event:?}"))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// # Errors
    /// If a number is out of its range.
    ///
    /// ```
    /// let throttle = buttress::throttle::Throttle::builder("api").build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn build(self) -> Result<Throttle, ConfigError> {
        let limits = self.limits()?;
        let random = self.random().unwrap_or_else(Random::fresh);
        Ok(Throttle::from_parts(self.name, self.observers, limits, random))
    }

    pub(super) fn random(&self) -> Option<Random> {
        self.seed.map(Random::seeded)
    }

    /// # Errors
    /// If a number is out of its range.
    pub(super) fn limits(&self) -> Result<Limits, ConfigError> {
        let hour = Duration::from_secs(3600);
        if let Some(k) = self.k
            && !(1.0..=100.0).contains(&k)
        {
            return Err(ConfigError::new("k", k, "from 1 to 100"));
        }
        if !(0.01..=0.99).contains(&self.max_share) {
            return Err(ConfigError::new("max_share", self.max_share, "from 0.01 to 0.99"));
        }
        if !(Duration::from_secs(1)..=hour).contains(&self.window) {
            let window = format!("{:?}", self.window);
            return Err(ConfigError::new("window", window, "from 1 s to 1 hour"));
        }
        if self.max_wait > hour {
            let wait = format!("{:?}", self.max_wait);
            return Err(ConfigError::new("max_wait", wait, "at most 1 hour"));
        }
        Ok(Limits {
            quota: self.quota,
            k: self.k,
            max_share: self.max_share,
            window: nanos(self.window),
            max_wait: nanos(self.max_wait),
        })
    }
}

impl fmt::Debug for ThrottleBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleBuilder")
            .field("name", &self.name)
            .field("quota", &self.quota)
            .field("k", &self.k)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
