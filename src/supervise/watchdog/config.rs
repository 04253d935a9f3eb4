//! The settings of a watchdog, checked.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};

use super::super::alert::{Alert, Hook};
use super::super::progress::Progress;
use super::core::Limits;
use super::error::Freeze;
use super::handle::Watchdog;

const HOUR: Duration = Duration::from_secs(3600);

/// What is watched.
#[derive(Clone)]
pub(super) enum Source {
    /// The watchdog's own pings.
    Pings,
    Progress(Arc<dyn Progress>),
    File(PathBuf),
}

/// User code that a watchdog calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Hooks {
    pub(super) timeout: Option<Hook<Freeze>>,
    pub(super) recovered: Option<Hook<Duration>>,
    pub(super) alert: Option<Hook<Alert>>,
}

/// Builds a [`Watchdog`]; see [`Watchdog::builder`] and [`Watchdog::from_state_file`].
///
/// | setting | default | range |
/// |---|---|---|
/// | [`timeout`](Self::timeout) | 30 s | 1 s to 1 hour |
/// | [`check_interval`](Self::check_interval) | a quarter of the timeout, at most 1 s; for a file half of it | 10 ms to 1 hour |
/// | [`startup_grace`](Self::startup_grace) | the timeout | 0 to 1 hour; for a file only |
/// | [`callback_timeout`](Self::callback_timeout) | 10 s | 1 ms to 1 hour |
///
/// ```
/// use buttress::supervise::watchdog::{Watchdog, WatchdogBuilder};
/// use std::time::Duration;
/// // What all watchdogs of a program have in common.
/// fn settings(dog: WatchdogBuilder) -> WatchdogBuilder {
///     dog.timeout(Duration::from_secs(10)).callback_timeout(Duration::from_secs(2))
/// }
/// let worker = settings(Watchdog::builder("worker")).build()?;
/// let bot = settings(Watchdog::from_state_file("bot", "/run/bot/heartbeat.json")).build()?;
/// # let _ = (worker, bot);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[must_use]
pub struct WatchdogBuilder {
    pub(super) name: Name,
    pub(super) source: Source,
    timeout: Duration,
    check: Option<Duration>,
    grace: Option<Duration>,
    pub(super) callback_timeout: Duration,
    pub(super) hooks: Hooks,
    pub(crate) observers: Observers,
}

impl fmt::Debug for WatchdogBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchdogBuilder")
            .field("name", &self.name)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl WatchdogBuilder {
    pub(super) fn new(name: Name, source: Source) -> Self {
        Self {
            name,
            source,
            timeout: Duration::from_secs(30),
            check: None,
            grace: None,
            callback_timeout: Duration::from_secs(10),
            hooks: Hooks::default(),
            observers: Observers::default(),
        }
    }

    /// Fires after this much silence, and is at most two checks late.
    ///
    /// ```
    /// # use buttress::supervise::watchdog::Watchdog;
    /// # use std::time::Duration;
    /// let error = Watchdog::builder("worker").timeout(Duration::ZERO).build().unwrap_err();
    /// assert_eq!(error.to_string(), "invalid timeout: 0ns, expected 1 s to 1 hour");
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same, as it is called for a state file: how old a beat may be.
    ///
    /// ```
    /// # use buttress::supervise::watchdog::Watchdog;
    /// # use std::time::Duration;
    /// let dog = Watchdog::from_state_file("bot", "/run/bot.json")
    ///     .max_age(Duration::from_secs(60))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn max_age(self, age: Duration) -> Self {
        self.timeout(age)
    }

    /// Looks this often.
    ///
    /// ```
    /// # use buttress::supervise::watchdog::Watchdog;
    /// # use std::time::Duration;
    /// let dog = Watchdog::builder("worker").check_interval(Duration::from_millis(100)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.check = Some(interval);
        self
    }

    /// For a state file: how long after the start, or a [`reset`](Watchdog::reset), there may be no beat of a
    /// running process. What watches anything else has the timeout itself from the start on, and with this set it is
    /// [refused](Self::build).
    ///
    /// ```
    /// # use buttress::supervise::watchdog::Watchdog;
    /// # use std::time::Duration;
    /// let dog = Watchdog::from_state_file("bot", "/run/bot.json")
    ///     .startup_grace(Duration::from_secs(120))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn startup_grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Watches `source` instead of the pings.
    ///
    /// ```
    /// # use buttress::supervise::{Pulse, watchdog::Watchdog};
    /// let worker = Pulse::new();
    /// let dog = Watchdog::builder("worker").watch(worker.clone()).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn watch(mut self, source: impl Progress) -> Self {
        self.source = Source::Progress(Arc::new(source));
        self
    }

    /// Called at a freeze: once, and again when it has recovered and frozen again. On a thread of its own,
    /// never on the one that is frozen.
    ///
    /// ```
    /// # use buttress::supervise::watchdog::Watchdog;
    /// let dog = Watchdog::builder("worker").on_timeout(|freeze| eprintln!("{freeze:?}")).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_timeout(mut self, call: impl Fn(Freeze) + Send + Sync + 'static) -> Self {
        self.hooks.timeout = Some(Hook::plain(call));
        self
    }

    /// As [`on_timeout`](Self::on_timeout), async, on a runtime of its own.
    ///
    /// ```
    /// # use buttress::supervise::watchdog::Watchdog;
    /// let dog =
    ///     Watchdog::builder("worker").on_timeout_async(|freeze| async move { drop(freeze) }).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_timeout_async<F>(mut self, call: impl Fn(Freeze) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.hooks.timeout = Some(Hook::pending(call));
        self
    }

    /// Called when it goes on after a freeze, with how long it was silent.
    ///
    /// ```
    /// # use buttress::supervise::watchdog::Watchdog;
    /// let dog = Watchdog::builder("worker").on_recovered(|after| println!("{after:?}")).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_recovered(mut self, call: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        self.hooks.recovered = Some(Hook::plain(call));
        self
    }

    /// As [`on_recovered`](Self::on_recovered), async.
    ///
    /// ```
    /// # use buttress::supervise::watchdog::Watchdog;
    /// let dog =
    ///     Watchdog::builder("worker").on_recovered_async(|after| async move { drop(after) }).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_recovered_async<F>(
        mut self,
        call: impl Fn(Duration) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.hooks.recovered = Some(Hook::pending(call));
        self
    }

    /// Called at a freeze, before `on_timeout`, with a line for a reader.
    ///
    /// ```
    /// # use buttress::supervise::watchdog::Watchdog;
    /// let dog = Watchdog::builder("worker").on_alert(|alert| eprintln!("{}", alert.message)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_alert(mut self, call: impl Fn(Alert) + Send + Sync + 'static) -> Self {
        self.hooks.alert = Some(Hook::plain(call));
        self
    }

    /// As [`on_alert`](Self::on_alert), async.
    ///
    /// ```
    /// # use buttress::supervise::watchdog::Watchdog;
    /// let dog = Watchdog::builder("worker").on_alert_async(|alert| async move { drop(alert) }).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_alert_async<F>(mut self, call: impl Fn(Alert) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.hooks.alert = Some(Hook::pending(call));
        self
    }

    /// How long one callback may take. Then an async one is dropped, and a blocking one left to itself.
    ///
    /// ```
    /// # use buttress::supervise::watchdog::Watchdog;
    /// # use std::time::Duration;
    /// let dog = Watchdog::builder("worker").callback_timeout(Duration::from_secs(1)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn callback_timeout(mut self, limit: Duration) -> Self {
        self.callback_timeout = limit;
        self
    }

    /// Also tells `observer` what happens.
    ///
    /// ```
    /// # use buttress::supervise::watchdog::Watchdog;
    /// use buttress::observe::Event;
    /// let dog = Watchdog::builder("worker").observe(|event: &Event<'_>| drop(event.name)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// Checks the settings. Nothing is watched before [`Watchdog::start`].
    ///
    /// # Errors
    /// A setting that cannot be used, by name.
    ///
    /// ```
    /// use buttress::supervise::watchdog::Watchdog;
    /// assert!(Watchdog::from_state_file("bot", "").build().is_err());
    /// ```
    pub fn build(self) -> Result<Watchdog, ConfigError> {
        let within =
            |field: &'static str, value: Duration, low: Duration, expected: &'static str| {
                if (low..=HOUR).contains(&value) {
                    return Ok(value);
                }
                Err(ConfigError::new(field, format!("{value:?}"), expected))
            };
        let second = Duration::from_secs(1);
        let timeout = within("timeout", self.timeout, second, "1 s to 1 hour")?;
        let file = matches!(self.source, Source::File(_));
        let check = if file { timeout / 2 } else { (timeout / 4).min(second) };
        let check = self.check.unwrap_or(check);
        let low = Duration::from_millis(10);
        let check = within("check_interval", check, low, "10 ms to 1 hour")?;
        let grace = self.grace.unwrap_or(timeout);
        let grace = within("startup_grace", grace, Duration::ZERO, "0 to 1 hour")?;
        let low = Duration::from_millis(1);
        within("callback_timeout", self.callback_timeout, low, "1 ms to 1 hour")?;
        if let Source::File(path) = &self.source
            && path.file_name().is_none()
        {
            return Err(ConfigError::new("file", path.display(), "a path that ends in a name"));
        }
        if self.grace.is_some() && !file {
            return Err(ConfigError::new("startup_grace", "set", "a state file to wait for"));
        }
        let gap = (check / 2).max(timeout / 4).max(Duration::from_millis(50));
        let limits = Limits { timeout, check, grace, gap, inclusive: !file };
        Ok(Watchdog::from_builder(self, limits))
    }
}
