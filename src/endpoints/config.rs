use std::time::Duration;

use super::handle::Endpoints;
use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};

#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) max_ejected: f64,
    pub(crate) failures_in_row: u32,
    pub(crate) probe_after: Duration,
    pub(crate) probe_after_max: Duration,
    pub(crate) slow_start: Duration,
    pub(crate) memory: Duration,
    pub(crate) seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_ejected: 0.5,
            failures_in_row: 3,
            probe_after: Duration::from_secs(1),
            probe_after_max: Duration::from_secs(30),
            slow_start: Duration::from_secs(2),
            memory: Duration::from_secs(10),
            seed: None,
        }
    }
}

/// Builds [`Endpoints`]; see [`Endpoints::builder`].
///
/// | setting | default | range |
/// |---|---|---|
/// | [`max_ejected`](Self::max_ejected) | 0.5 | 0 to below 1 |
/// | [`failures_in_row`](Self::failures_in_row) | 3 | from 1 |
/// | [`probe_after`](Self::probe_after) | 1 s | above 0 |
/// | [`probe_after_max`](Self::probe_after_max) | 30 s | from `probe_after` |
/// | [`slow_start`](Self::slow_start) | 2 s | from 0 |
/// | [`memory`](Self::memory) | 10 s | above 0 |
/// | [`seed`](Self::seed) | by chance | |
///
/// ```
/// use buttress::endpoints::Endpoints;
/// use std::time::Duration;
/// let pool: Endpoints<u8> = Endpoints::<u8>::builder("search")
///     .max_ejected(0.3)
///     .probe_after(Duration::from_millis(500))
///     .build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct EndpointsBuilder {
    name: Name,
    config: Config,
    pub(crate) observers: Observers,
}

impl EndpointsBuilder {
    pub(super) fn new(name: Name) -> Self {
        Self { name, config: Config::default(), observers: Observers::default() }
    }

    /// The share of the endpoints that may be ejected at a time: from 0 (none) to below 1, default a half,
    /// rounded down. When more have failed, all are used.
    ///
    /// ```
    /// use buttress::endpoints::Endpoints;
    /// let error = Endpoints::<u8>::builder("db").max_ejected(1.0).build::<u8>().unwrap_err();
    /// assert_eq!(error.field(), "max_ejected");
    /// ```
    pub fn max_ejected(mut self, share: f64) -> Self {
        self.config.max_ejected = share;
        self
    }

    /// Failures in a row after which an endpoint is ejected: at least 1, default 3.
    ///
    /// ```
    /// use buttress::endpoints::Endpoints;
    /// let error = Endpoints::<u8>::builder("db").failures_in_row(0).build::<u8>().unwrap_err();
    /// assert_eq!(error.field(), "failures_in_row");
    /// ```
    pub fn failures_in_row(mut self, failures: u32) -> Self {
        self.config.failures_in_row = failures;
        self
    }

    /// Time from an ejection to the first probe, default 1 s. It doubles with each probe that fails.
    ///
    /// ```
    /// use buttress::endpoints::Endpoints;
    /// use std::time::Duration;
    /// let error = Endpoints::<u8>::builder("db").probe_after(Duration::ZERO).build::<u8>().unwrap_err();
    /// assert_eq!(error.field(), "probe_after");
    /// ```
    pub fn probe_after(mut self, interval: Duration) -> Self {
        self.config.probe_after = interval;
        self
    }

    /// The longest time between two probes: at least [`probe_after`](Self::probe_after), default 30 s.
    ///
    /// ```
    /// use buttress::endpoints::Endpoints;
    /// use std::time::Duration;
    /// let builder = Endpoints::<u8>::builder("db").probe_after_max(Duration::from_millis(1));
    /// assert_eq!(builder.build::<u8>().unwrap_err().field(), "probe_after_max");
    /// ```
    pub fn probe_after_max(mut self, interval: Duration) -> Self {
        self.config.probe_after_max = interval;
        self
    }

    /// How long an endpoint that has returned, or come to others, takes to get its full share, default 2 s. 0: at once.
    ///
    /// ```
    /// use buttress::endpoints::Endpoints;
    /// use std::time::Duration;
    /// assert!(Endpoints::<u8>::builder("db").slow_start(Duration::ZERO).build::<u8>().is_ok());
    /// ```
    pub fn slow_start(mut self, time: Duration) -> Self {
        self.config.slow_start = time;
        self
    }

    /// After this time without a call, two thirds of what is remembered of an endpoint are forgotten, default
    /// 10 s. After three times this all is, and the endpoint gets a call. Somewhat longer than a bad patch of a server
    /// lasts: if it is shorter, the server is asked while it is still ill; if it is much longer, one that is well again
    /// is avoided for that time.
    ///
    /// ```
    /// use buttress::endpoints::Endpoints;
    /// use std::time::Duration;
    /// let error = Endpoints::<u8>::builder("db").memory(Duration::ZERO).build::<u8>().unwrap_err();
    /// assert_eq!(error.field(), "memory");
    /// ```
    pub fn memory(mut self, time: Duration) -> Self {
        self.config.memory = time;
        self
    }

    /// Makes the choices repeatable.
    ///
    /// ```
    /// assert!(buttress::endpoints::Endpoints::<u8>::builder("db").seed(7).build::<u8>().is_ok());
    /// ```
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = Some(seed);
        self
    }

    /// Adds an observer of ejections and returns.
    ///
    /// ```
    /// use buttress::{endpoints::Endpoints, observe::Event};
    /// let builder = Endpoints::<u8>::builder("db").observe(|event: &Event<'_>| println!("{event:?}"));
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// The pool, still without endpoints.
    ///
    /// # Errors
    /// If a number is out of the range its setter names.
    ///
    /// ```
    /// assert!(buttress::endpoints::Endpoints::<u8>::builder("db").build::<u8>().unwrap().is_empty());
    /// ```
    pub fn build<S>(self) -> Result<Endpoints<S>, ConfigError> {
        self.check()?;
        Ok(self.make())
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        if !(0.0..1.0).contains(&config.max_ejected) {
            return Err(ConfigError::new("max_ejected", config.max_ejected, "from 0 to below 1"));
        }
        if config.failures_in_row == 0 {
            return Err(ConfigError::new("failures_in_row", 0, "at least 1"));
        }
        for (field, value) in [("probe_after", config.probe_after), ("memory", config.memory)] {
            if value.is_zero() {
                return Err(ConfigError::new(field, "0s", "a time above 0"));
            }
        }
        if config.probe_after_max < config.probe_after {
            let expected = format!("at least probe_after, {:?}", config.probe_after);
            let value = format!("{:?}", config.probe_after_max);
            return Err(ConfigError::new("probe_after_max", value, expected));
        }
        Ok(())
    }

    /// What was checked.
    pub(super) fn config(self) -> Config {
        self.config
    }

    pub(crate) fn make<S>(self) -> Endpoints<S> {
        Endpoints::from_parts(self.name, self.config, self.observers)
    }
}
