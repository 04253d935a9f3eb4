//! The numbers of a breaker, checked.

use std::time::Duration;

use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};

use super::handle::CircuitBreaker;

pub(super) const MAX_CONSECUTIVE: u32 = (1 << 20) - 1;
const MAX_CALLS: u32 = 1_000_000;
const MAX_PROBES: u32 = 1_024;
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Over which calls the rates are measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Window {
    Calls(u32),
    Time(Duration),
}

/// When a call counts as slow, and which share of slow calls trips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slow {
    pub(super) after: Duration,
    pub(super) rate: f64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub(super) consecutive: Option<u32>,
    pub(super) failure_rate: Option<f64>,
    pub(super) slow: Option<Slow>,
    pub(super) window: Option<Window>,
    pub(super) min_calls: u32,
    pub(super) open_for: Duration,
    pub(super) open_for_max: Option<Duration>,
    pub(super) half_open_calls: u32,
    pub(super) half_open_for: Duration,
    pub(super) probe_lease: Duration,
    pub(super) ramp: Option<Duration>,
    pub(super) cancelled_after: Option<Duration>,
    pub(super) seed: Option<u64>,
}

/// Builds a [`CircuitBreaker`]; see [`CircuitBreaker::builder`].
///
/// | setting | default | range |
/// |---|---|---|
/// | [`consecutive_failures`](Self::consecutive_failures) | 5, unless a rate is set | 1 to 1 048 575 |
/// | [`failure_rate`](Self::failure_rate) | off | above 0, at most 1 |
/// | [`slow_calls`](Self::slow_calls) | off | above 0; rate above 0, at most 1 |
/// | [`window`](Self::window) | 10 s once a rate is set | 10 ms to 1 year |
/// | [`window_calls`](Self::window_calls) | off | 1 to 1 000 000 |
/// | [`min_calls`](Self::min_calls) | 20, or the call window if smaller | 1 to the call window |
/// | [`open_for`](Self::open_for) | 60 s | 1 ms to 1 year |
/// | [`open_for_max`](Self::open_for_max) | off: the open time is fixed | `open_for` to 1 year |
/// | [`half_open_calls`](Self::half_open_calls) | 1 | 1 to 1 024 |
/// | [`half_open_for`](Self::half_open_for) | 60 s | 1 ms to 1 year |
/// | [`probe_lease`](Self::probe_lease) | 30 s | 1 ms to `half_open_for` |
/// | [`ramp`](Self::ramp) | off | 1 ms to 1 year |
/// | [`cancelled_after`](Self::cancelled_after) | 1 s | 0 to 1 year |
///
/// ```
/// use buttress::circuit_breaker::CircuitBreaker;
/// use std::time::Duration;
/// // Half of twenty calls or more in half a minute; then five seconds, and up to a minute if that does not help.
/// let breaker = CircuitBreaker::builder("db")
///     .failure_rate(0.5)
///     .window(Duration::from_secs(30))
///     .open_for(Duration::from_secs(5))
///     .open_for_max(Duration::from_secs(60))
///     .build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct CircuitBreakerBuilder {
    name: Name,
    consecutive: Option<u32>,
    min_calls: Option<u32>,
    half_open_for: Option<Duration>,
    probe_lease: Option<Duration>,
    windows: (Option<u32>, Option<Duration>),
    config: Config,
    shadow: bool,
    pub(crate) observers: Observers,
}

impl CircuitBreakerBuilder {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            consecutive: None,
            min_calls: None,
            half_open_for: None,
            probe_lease: None,
            windows: (None, None),
            config: Config {
                consecutive: None,
                failure_rate: None,
                slow: None,
                window: None,
                min_calls: 20,
                open_for: Duration::from_secs(60),
                open_for_max: None,
                half_open_calls: 1,
                half_open_for: Duration::from_secs(60),
                probe_lease: Duration::from_secs(30),
                ramp: None,
                cancelled_after: Some(Duration::from_secs(1)),
                seed: None,
            },
            shadow: false,
            observers: Observers::default(),
        }
    }

    /// Trips after `n` failures in a row; a success starts the count anew. Can be combined with the rates,
    /// to catch a dead callee at once and a half-dead one by its rate.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::builder("db").consecutive_failures(3).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn consecutive_failures(mut self, n: u32) -> Self {
        self.consecutive = Some(n);
        self
    }

    /// Trips when at least this share of the calls in the window failed, and there were at least
    /// [`min_calls`](Self::min_calls).
    ///
    /// Judged whenever a failed or slow call is recorded: a success never opens a circuit.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::builder("db").failure_rate(0.5).min_calls(10).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn failure_rate(mut self, share: f64) -> Self {
        self.config.failure_rate = Some(share);
        self
    }

    /// Calls that take longer than `after` are slow; trips when at least the share `rate` of the calls in
    /// the window were. A slow call that also fails counts in both rates.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// # use std::time::Duration;
    /// let breaker = CircuitBreaker::builder("db").slow_calls(Duration::from_secs(2), 0.8).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn slow_calls(mut self, after: Duration, rate: f64) -> Self {
        self.config.slow = Some(Slow { after, rate });
        self
    }

    /// Measures the rates over the calls of the last `window`, in ten buckets, the oldest leaving
    /// gradually.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// # use std::time::Duration;
    /// let breaker =
    ///     CircuitBreaker::builder("db").failure_rate(0.5).window(Duration::from_secs(30)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn window(mut self, window: Duration) -> Self {
        self.windows.1 = Some(window);
        self
    }

    /// Measures the rates over exactly the last `calls` calls. Costs one byte a call.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::builder("db").failure_rate(0.5).window_calls(100).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn window_calls(mut self, calls: u32) -> Self {
        self.windows.0 = Some(calls);
        self
    }

    /// The rates mean nothing below this many calls in the window.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::builder("db").failure_rate(0.5).min_calls(50).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = Some(calls);
        self
    }

    /// How long it stays open before probes may try.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// # use std::time::Duration;
    /// let breaker = CircuitBreaker::builder("db").open_for(Duration::from_secs(5)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn open_for(mut self, duration: Duration) -> Self {
        self.config.open_for = duration;
        self
    }

    /// Doubles the open time each time the probes fail, up to `max`, and draws each from its upper half
    /// (equal jitter), so that a fleet does not probe in step. It falls back to
    /// [`open_for`](Self::open_for) once the circuit has stayed closed for as long as it was last open.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// # use std::time::Duration;
    /// let breaker = CircuitBreaker::builder("db")
    ///     .open_for(Duration::from_secs(1))
    ///     .open_for_max(Duration::from_secs(60))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn open_for_max(mut self, max: Duration) -> Self {
        self.config.open_for_max = Some(max);
        self
    }

    /// How many probes are let through while half-open, and whose results decide. Without a failure rate
    /// one failed probe reopens the circuit and all must succeed to close it; with one, the rate decides,
    /// as soon as the outstanding probes can no longer change the result.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::builder("db").half_open_calls(3).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn half_open_calls(mut self, calls: u32) -> Self {
        self.config.half_open_calls = calls;
        self
    }

    /// If the probes bring no verdict within this time (they hang, or say nothing about the callee), the
    /// circuit opens again instead of staying half-open for ever.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// # use std::time::Duration;
    /// let breaker = CircuitBreaker::builder("db").half_open_for(Duration::from_secs(120)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn half_open_for(mut self, duration: Duration) -> Self {
        self.half_open_for = Some(duration);
        self
    }

    /// A probe that has not finished after this time loses its place to the next call that asks, and from
    /// then on its own result no longer counts. If nobody asks meanwhile, it still does.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// # use std::time::Duration;
    /// let breaker = CircuitBreaker::builder("db").probe_lease(Duration::from_secs(5)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn probe_lease(mut self, duration: Duration) -> Self {
        self.probe_lease = Some(duration);
        self
    }

    /// After closing, lets a share of calls through that grows from a tenth to all over `duration`, so
    /// that a callee with cold caches is not hit by everyone at once.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// # use std::time::Duration;
    /// let breaker = CircuitBreaker::builder("db").ramp(Duration::from_secs(10)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn ramp(mut self, duration: Duration) -> Self {
        self.config.ramp = Some(duration);
        self
    }

    /// A call its caller dropped counts as a failure if it had been waiting longer than this: a caller's own
    /// timeout is how a hanging callee shows itself. Calls dropped sooner are neutral. Measured from
    /// when the call is first found pending.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// # use std::time::Duration;
    /// let breaker = CircuitBreaker::builder("db").cancelled_after(Duration::from_millis(300)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn cancelled_after(mut self, duration: Duration) -> Self {
        self.config.cancelled_after = Some(duration);
        self
    }

    /// Dropped calls are always neutral.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::builder("db").ignore_cancelled().build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn ignore_cancelled(mut self) -> Self {
        self.config.cancelled_after = None;
        self
    }

    /// Starts in shadow mode: it counts, trips, probes and reports, but lets every call through. Also
    /// [`CircuitBreaker::set_shadow`].
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::builder("db").shadow(true).build()?;
    /// breaker.force_open();
    /// assert!(breaker.try_acquire().is_ok());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn shadow(mut self, shadow: bool) -> Self {
        self.shadow = shadow;
        self
    }

    /// Makes the jitter of the open time reproducible.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::builder("db").seed(7).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = Some(seed);
        self
    }

    /// Adds a listener; see [`crate::observe`].
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::builder("db")
    ///     .observe(|event: &buttress::observe::Event<'_>| eprintln!("{event:?}"))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// Checks the settings and makes the breaker, closed.
    ///
    /// # Errors
    /// A [`ConfigError`] naming the first setting that is out of range or contradicts another.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// let error = CircuitBreaker::builder("db")
    ///     .failure_rate(0.5)
    ///     .window_calls(10)
    ///     .min_calls(20)
    ///     .build()
    ///     .unwrap_err();
    /// assert_eq!(error.field(), "min_calls");
    /// ```
    pub fn build(self) -> Result<CircuitBreaker, ConfigError> {
        let config = self.check()?;
        Ok(CircuitBreaker::from_parts(self.name, config, self.shadow, self.observers, None)
            .registered())
    }

    pub(super) fn into_parts(self) -> Result<(Name, Config, bool, Observers), ConfigError> {
        let config = self.check()?;
        Ok((self.name, config, self.shadow, self.observers))
    }

    fn check(&self) -> Result<Config, ConfigError> {
        let mut config = self.config;
        let rates = config.failure_rate.is_some() || config.slow.is_some();
        config.consecutive = match self.consecutive {
            Some(n) => Some(count("consecutive_failures", n, MAX_CONSECUTIVE)?),
            None if rates => None,
            None => Some(5),
        };
        if let Some(rate) = config.failure_rate {
            share("failure_rate", rate)?;
        }
        if let Some(slow) = config.slow {
            share("slow_calls.rate", slow.rate)?;
            span("slow_calls.after", slow.after, Duration::from_nanos(1), YEAR)?;
        }
        config.window = match self.windows {
            (Some(_), Some(time)) => {
                return Err(ConfigError::new(
                    "window",
                    format_args!("{time:?}"),
                    "either window or window_calls, not both",
                ));
            }
            (Some(calls), None) => Some(Window::Calls(count("window_calls", calls, MAX_CALLS)?)),
            (None, Some(time)) => {
                span("window", time, Duration::from_millis(10), YEAR)?;
                Some(Window::Time(time))
            }
            (None, None) if rates => Some(Window::Time(Duration::from_secs(10))),
            (None, None) => None,
        };
        if config.window.is_some() && !rates {
            return Err(ConfigError::new(
                "window",
                "set",
                "failure_rate or slow_calls with it: consecutive failures need no window",
            ));
        }
        let most = match config.window {
            Some(Window::Calls(calls)) => calls,
            Some(Window::Time(_)) | None => u32::MAX,
        };
        config.min_calls = match self.min_calls {
            Some(_) if !rates => {
                return Err(ConfigError::new(
                    "min_calls",
                    "set",
                    "failure_rate or slow_calls with it",
                ));
            }
            Some(0) => return Err(ConfigError::new("min_calls", 0, "at least 1")),
            Some(calls) if calls > most => {
                return Err(ConfigError::new(
                    "min_calls",
                    calls,
                    format!("at least 1 and at most {most}, the window"),
                ));
            }
            Some(calls) => calls,
            None => config.min_calls.min(most),
        };
        let ms = Duration::from_millis(1);
        span("open_for", config.open_for, ms, YEAR)?;
        if let Some(max) = config.open_for_max {
            span("open_for_max", max, config.open_for, YEAR)?;
        }
        count("half_open_calls", config.half_open_calls, MAX_PROBES)?;
        if let Some(stay) = self.half_open_for {
            span("half_open_for", stay, ms, YEAR)?;
            config.half_open_for = stay;
        }
        config.probe_lease = match self.probe_lease {
            Some(lease) => {
                span("probe_lease", lease, ms, config.half_open_for)?;
                lease
            }
            None => config.probe_lease.min(config.half_open_for),
        };
        if let Some(ramp) = config.ramp {
            span("ramp", ramp, ms, YEAR)?;
        }
        if let Some(after) = config.cancelled_after {
            span("cancelled_after", after, Duration::ZERO, YEAR)?;
        }
        Ok(config)
    }
}

fn count(field: &'static str, value: u32, max: u32) -> Result<u32, ConfigError> {
    if (1..=max).contains(&value) {
        Ok(value)
    } else {
        Err(ConfigError::new(field, value, format!("at least 1 and at most {max}")))
    }
}

fn share(field: &'static str, value: f64) -> Result<(), ConfigError> {
    if value > 0.0 && value <= 1.0 {
        Ok(())
    } else {
        Err(ConfigError::new(field, value, "a share above 0 and at most 1"))
    }
}

fn span(
    field: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::new(
            field,
            format_args!("{value:?}"),
            format!("at least {min:?} and at most {max:?}"),
        ))
    }
}
