use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::core::{Limits, deposit};
use super::handle::Hedge;
use crate::budget::RetryBudget;
use crate::clock::nanos;
use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};

pub(super) type Gate = Arc<dyn Fn() -> bool + Send + Sync>;

/// Builds a [`Hedge`]; see [`Hedge::builder`].
///
/// | setting | default | range |
/// |---|---|---|
/// | [`percentile`](Self::percentile) | 0.98 | 0.5 to 0.9999 |
/// | [`min_samples`](Self::min_samples) | 24 | 1 to 1 000 000 |
/// | [`min_delay`](Self::min_delay) | 1 ms | 1 ms to 1 hour |
/// | [`extra_load`](Self::extra_load) | 0.1 | 0.000001 to 1 |
/// | [`burst`](Self::burst) | 5 | 1 to 1 000 |
/// | [`hedges`](Self::hedges) | 2 | 1 to 10 |
/// | [`budget`](Self::budget) | none | |
/// | [`gate`](Self::gate) | none | |
///
/// ```
/// use buttress::hedge::Hedge;
/// use std::time::Duration;
/// // For answers of some ten milliseconds: a second attempt beside the slowest twentieth, one in fifty calls at most.
/// let hedge = Hedge::builder("search")
///     .percentile(0.95)
///     .min_delay(Duration::from_millis(5))
///     .extra_load(0.02)
///     .build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct HedgeBuilder {
    pub(super) name: Name,
    percentile: f64,
    min_samples: u32,
    min_delay: Duration,
    extra_load: f64,
    burst: u32,
    hedges: u32,
    pub(super) budget: Option<RetryBudget>,
    pub(super) gate: Option<Gate>,
    pub(crate) observers: Observers,
}

impl HedgeBuilder {
    pub(crate) const PERCENTILE: f64 = 0.98;
    pub(crate) const MIN_DELAY: Duration = Duration::from_millis(1);
    pub(crate) const EXTRA_LOAD: f64 = 0.1;
    pub(crate) const HEDGES: u32 = 2;

    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            percentile: Self::PERCENTILE,
            min_samples: 24,
            min_delay: Self::MIN_DELAY,
            extra_load: Self::EXTRA_LOAD,
            burst: 5,
            hedges: Self::HEDGES,
            budget: None,
            gate: None,
            observers: Observers::default(),
        }
    }

    /// The share of answers that come before a second attempt is made.
    ///
    /// ```
    /// use buttress::hedge::Hedge;
    /// assert_eq!(Hedge::builder("db").percentile(98.0).build().unwrap_err().field(), "percentile");
    /// ```
    pub fn percentile(mut self, share: f64) -> Self {
        self.percentile = share;
        self
    }

    /// Answers before the first hedge: the percentile means nothing without them.
    ///
    /// ```
    /// use buttress::hedge::Hedge;
    /// assert_eq!(Hedge::builder("db").min_samples(0).build().unwrap_err().field(), "min_samples");
    /// ```
    pub fn min_samples(mut self, answers: u32) -> Self {
        self.min_samples = answers;
        self
    }

    /// No hedge sooner than this. Below tokio's millisecond it would be one for nearly every call.
    ///
    /// ```
    /// use buttress::hedge::Hedge;
    /// use std::time::Duration;
    /// let built = Hedge::builder("db").min_delay(Duration::ZERO).build();
    /// assert_eq!(built.unwrap_err().field(), "min_delay");
    /// ```
    pub fn min_delay(mut self, delay: Duration) -> Self {
        self.min_delay = delay;
        self
    }

    /// Hedges that each call pays for: on every stretch of time `hedges <= extra_load * calls + burst`, also
    /// when all calls are slow at once.
    ///
    /// ```
    /// use buttress::hedge::Hedge;
    /// assert_eq!(Hedge::builder("db").extra_load(0.0).build().unwrap_err().field(), "extra_load");
    /// ```
    pub fn extra_load(mut self, share: f64) -> Self {
        self.extra_load = share;
        self
    }

    /// Hedges that can be saved up. Keep it small: in a fleet every process has its own.
    ///
    /// ```
    /// use buttress::hedge::Hedge;
    /// assert_eq!(Hedge::builder("db").burst(0).build().unwrap_err().field(), "burst");
    /// ```
    pub fn burst(mut self, hedges: u32) -> Self {
        self.burst = hedges;
        self
    }

    /// Hedges that one call may have. A second one follows when the first has not answered either within the
    /// time that nine of ten answers take; it costs about a tenth of the first.
    ///
    /// ```
    /// use buttress::hedge::Hedge;
    /// assert_eq!(Hedge::builder("db").hedges(0).build().unwrap_err().field(), "hedges");
    /// ```
    pub fn hedges(mut self, hedges: u32) -> Self {
        self.hedges = hedges;
        self
    }

    /// Also draws from this budget: the one of the retries to the same backend, which deposit in it. (A budget
    /// that no first attempt deposits in is soon spent.)
    ///
    /// ```
    /// use buttress::{RetryBudget, hedge::Hedge};
    /// let backend = RetryBudget::new("db");
    /// let hedge = Hedge::builder("db").budget(backend.clone()).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Asked before each hedge: false if the backend has no headroom for it. It should be quick.
    ///
    /// ```
    /// use buttress::hedge::Hedge;
    /// use std::sync::{Arc, atomic::{AtomicBool, Ordering}};
    /// let busy = Arc::new(AtomicBool::new(false));
    /// let hedge = Hedge::builder("db").gate(move || !busy.load(Ordering::Relaxed)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn gate(mut self, has_headroom: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.gate = Some(Arc::new(has_headroom));
        self
    }

    /// Adds a listener; see [`crate::observe`].
    ///
    /// ```
    /// use buttress::hedge::Hedge;
    /// let hedge = Hedge::builder("db")
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
    /// assert!(buttress::hedge::Hedge::builder("db").build().is_ok());
    /// ```
    pub fn build(self) -> Result<Hedge, ConfigError> {
        self.check()?;
        Ok(self.make())
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !(0.5..=0.9999).contains(&self.percentile) {
            return Err(ConfigError::new("percentile", self.percentile, "from 0.5 to 0.9999"));
        }
        if !(1..=1_000_000).contains(&self.min_samples) {
            return Err(ConfigError::new("min_samples", self.min_samples, "from 1 to 1000000"));
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&self.min_delay) {
            let value = format!("{:?}", self.min_delay);
            return Err(ConfigError::new("min_delay", value, "from 1 ms to 1 hour"));
        }
        if !(1e-6..=1.0).contains(&self.extra_load) {
            return Err(ConfigError::new("extra_load", self.extra_load, "from 0.000001 to 1"));
        }
        if !(1..=1000).contains(&self.burst) {
            return Err(ConfigError::new("burst", self.burst, "from 1 to 1000"));
        }
        if !(1..=10).contains(&self.hedges) {
            return Err(ConfigError::new("hedges", self.hedges, "from 1 to 10"));
        }
        Ok(())
    }

    /// What was checked.
    pub(crate) fn make(self) -> Hedge {
        let limits = self.limits();
        Hedge::from_parts(self, limits)
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            percentile: self.percentile,
            min_samples: self.min_samples,
            min_delay: nanos(self.min_delay),
            deposit: deposit(self.extra_load),
            burst: self.burst,
            hedges: self.hedges,
        }
    }
}

impl fmt::Debug for HedgeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeBuilder")
            .field("name", &self.name)
            .field("percentile", &self.percentile)
            .field("min_delay", &self.min_delay)
            .field("extra_load", &self.extra_load)
            .finish_non_exhaustive()
    }
}
