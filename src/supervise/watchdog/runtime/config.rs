//! The settings of a runtime watchdog, checked.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};

use super::super::super::alert::{Alert, Hook};
use super::handle::RuntimeWatchdog;
use super::report::{RuntimeFreeze, RuntimeRecovery};

const HOUR: Duration = Duration::from_secs(3600);

/// User code that a runtime watchdog calls.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    pub(super) frozen: Option<Hook<RuntimeFreeze>>,
    pub(super) recovered: Option<Hook<RuntimeRecovery>>,
    pub(super) alert: Option<Hook<Alert>>,
}

/// Builds a [`RuntimeWatchdog`]; see [`RuntimeWatchdog::builder`].
///
/// | setting | default | range |
/// |---|---|---|
/// | [`frozen_after`](Self::frozen_after) | 1 s | 10 ms to 1 hour |
/// | [`check_interval`](Self::check_interval) | an eighth of that, 5 ms to 250 ms | 1 ms to `frozen_after` |
/// | [`abort_after`](Self::abort_after) | never | up to 1 hour |
/// | [`callback_timeout`](Self::callback_timeout) | 10 s | 1 ms to 1 hour |
///
/// ```
/// use buttress::supervise::watchdog::{RuntimeWatchdog, RuntimeWatchdogBuilder};
/// use std::time::Duration;
/// // What all runtimes of a program have in common.
/// fn settings(dog: RuntimeWatchdogBuilder) -> RuntimeWatchdogBuilder {
///     dog.frozen_after(Duration::from_secs(2)).abort_after(Duration::from_secs(60))
/// }
/// # let runtime = tokio::runtime::Runtime::new().unwrap();
/// let dog = settings(RuntimeWatchdog::builder("api", runtime.handle())).build()?;
/// # let _ = dog;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[must_use]
pub struct RuntimeWatchdogBuilder {
    pub(super) name: Name,
    pub(super) runtime: Handle,
    pub(super) threshold: Duration,
    check: Option<Duration>,
    pub(super) abort_after: Option<Duration>,
    pub(super) callback_timeout: Duration,
    pub(super) hooks: Hooks,
    pub(super) observers: Observers,
}

impl fmt::Debug for RuntimeWatchdogBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeWatchdogBuilder")
            .field("name", &self.name)
            .field("frozen_after", &self.threshold)
            .finish_non_exhaustive()
    }
}

impl RuntimeWatchdogBuilder {
    pub(super) fn new(name: Name, runtime: Handle) -> Self {
        Self {
            name,
            runtime,
            threshold: Duration::from_secs(1),
            check: None,
            abort_after: None,
            callback_timeout: Duration::from_secs(10),
            hooks: Hooks::default(),
            observers: Observers::NONE,
        }
    }

    /// A worker that has been in one poll for this long is blocked.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// # use std::time::Duration;
    /// let dog = RuntimeWatchdog::builder("api", runtime.handle())
    ///     .frozen_after(Duration::from_millis(250))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn frozen_after(mut self, threshold: Duration) -> Self {
        self.threshold = threshold;
        self
    }

    /// Looks this often.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// # use std::time::Duration;
    /// let dog = RuntimeWatchdog::builder("api", runtime.handle())
    ///     .check_interval(Duration::from_millis(50))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.check = Some(interval);
        self
    }

    /// Ends the process by `SIGABRT`, with a core if the system keeps one, when a freeze has gone on for
    /// this long after it was told. Time in which this process did not run (it was stopped, the machine slept) does
    /// not count. Default: never.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// # use std::time::Duration;
    /// let dog = RuntimeWatchdog::builder("api", runtime.handle())
    ///     .abort_after(Duration::from_secs(60))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn abort_after(mut self, delay: Duration) -> Self {
        self.abort_after = Some(delay);
        self
    }

    /// Called when a worker is blocked, once for each time. On a thread outside of the runtime.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// let dog = RuntimeWatchdog::builder("api", runtime.handle())
    ///     .on_frozen(|freeze| eprintln!("worker {:?} for {:?}", freeze.worker, freeze.silent))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_frozen(mut self, call: impl Fn(RuntimeFreeze) + Send + Sync + 'static) -> Self {
        self.hooks.frozen = Some(Hook::plain(call));
        self
    }

    /// As [`on_frozen`](Self::on_frozen), async, on a runtime of its own.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// let dog = RuntimeWatchdog::builder("api", runtime.handle())
    ///     .on_frozen_async(|freeze| async move { drop(freeze) })
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_frozen_async<F>(
        mut self,
        call: impl Fn(RuntimeFreeze) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.hooks.frozen = Some(Hook::pending(call));
        self
    }

    /// Called when it goes on.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// let dog = RuntimeWatchdog::builder("api", runtime.handle())
    ///     .on_recovered(|recovery| println!("after {:?}", recovery.after))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_recovered(mut self, call: impl Fn(RuntimeRecovery) + Send + Sync + 'static) -> Self {
        self.hooks.recovered = Some(Hook::plain(call));
        self
    }

    /// Called before `on_frozen`, with a line for a reader.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// let dog = RuntimeWatchdog::builder("api", runtime.handle())
    ///     .on_alert(|alert| eprintln!("{}", alert.message))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_alert(mut self, call: impl Fn(Alert) + Send + Sync + 'static) -> Self {
        self.hooks.alert = Some(Hook::plain(call));
        self
    }

    /// How long one callback may take. Then an async one is dropped, and a blocking one left to itself.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// # use std::time::Duration;
    /// let dog = RuntimeWatchdog::builder("api", runtime.handle())
    ///     .callback_timeout(Duration::from_secs(1))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn callback_timeout(mut self, limit: Duration) -> Self {
        self.callback_timeout = limit;
        self
    }

    /// Also tells `observer` what happens.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// use buttress::observe::Event;
    /// let dog = RuntimeWatchdog::builder("api", runtime.handle())
    ///     .observe(|event: &Event<'_>| drop(event.name))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// Checks the settings. Nothing is watched before [`RuntimeWatchdog::start`].
    ///
    /// # Errors
    /// A setting that cannot be used, by name.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// use buttress::supervise::watchdog::RuntimeWatchdog;
    /// # use std::time::Duration;
    /// let builder = RuntimeWatchdog::builder("api", runtime.handle());
    /// assert!(builder.frozen_after(Duration::ZERO).build().is_err());
    /// ```
    pub fn build(self) -> Result<RuntimeWatchdog, ConfigError> {
        let wrong = |field: &'static str, value: Duration, expected: &'static str| {
            Err(ConfigError::new(field, format!("{value:?}"), expected))
        };
        let ms = Duration::from_millis;
        if !(ms(10)..=HOUR).contains(&self.threshold) {
            return wrong("frozen_after", self.threshold, "10 ms to 1 hour");
        }
        let check = (self.threshold / 8).clamp(ms(5), ms(250));
        let check = self.check.unwrap_or(check);
        if !(ms(1)..=self.threshold).contains(&check) {
            return wrong("check_interval", check, "1 ms to frozen_after");
        }
        if let Some(delay) = self.abort_after
            && delay > HOUR
        {
            return wrong("abort_after", delay, "up to 1 hour");
        }
        if !(ms(1)..=HOUR).contains(&self.callback_timeout) {
            return wrong("callback_timeout", self.callback_timeout, "1 ms to 1 hour");
        }
        Ok(RuntimeWatchdog::from_builder(self, check))
    }
}
