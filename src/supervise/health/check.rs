use std::fmt;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::gate::ReadyGate;
use super::state::Health;
use crate::caught::caught;
use crate::error::ConfigError;
use crate::name::Name;

/// A check that opens and closes a gate, run beside the program: every 5 s, given up after 1 s, closed
/// after 3 failures in a row, opened by 1 success.
///
/// ```
/// use buttress::supervise::{Lifecycle, health::Health};
/// use std::time::Duration;
///
/// let health = Health::new(Lifecycle::new());
/// let check = health.check("database").every(Duration::from_secs(2)).failures(2).build()?;
/// # drop(check);
/// let wrong = health.check("database").failures(0).build().unwrap_err();
/// assert!(wrong.to_string().contains("failures"));
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct HealthCheckBuilder {
    health: Health,
    name: Name,
    every: Duration,
    timeout: Duration,
    failures: u32,
    successes: u32,
}

impl HealthCheckBuilder {
    pub(super) const fn new(health: Health, name: Name) -> Self {
        Self {
            health,
            name,
            every: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            failures: 3,
            successes: 1,
        }
    }

    /// Time from the start of one check to that of the next: 1 ms or more, default 5 s. A check that takes
    /// longer delays the next one.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// # use std::time::Duration;
    /// let builder = Health::new(Lifecycle::new()).check("db").every(Duration::from_secs(1));
    /// ```
    #[must_use]
    pub const fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// How long a check may take before it counts as failed: above zero, default 1 s.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// # use std::time::Duration;
    /// let builder = Health::new(Lifecycle::new()).check("db").timeout(Duration::from_millis(200));
    /// ```
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Failures in a row that close the gate: 1 or more, default 3.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// let builder = Health::new(Lifecycle::new()).check("db").failures(1);
    /// ```
    #[must_use]
    pub const fn failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// Successes in a row that open it: 1 or more, default 1.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// let builder = Health::new(Lifecycle::new()).check("db").successes(2);
    /// ```
    #[must_use]
    pub const fn successes(mut self, successes: u32) -> Self {
        self.successes = successes;
        self
    }

    /// The check, with a gate that is closed until it has succeeded.
    ///
    /// # Errors
    /// If a value is out of its range.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// # use std::time::Duration;
    /// let health = Health::new(Lifecycle::new());
    /// assert!(health.check("db").timeout(Duration::ZERO).build().is_err());
    /// ```
    pub fn build(self) -> Result<HealthCheck, ConfigError> {
        let wrong = |field, value: String, expected| Err(ConfigError::new(field, value, expected));
        if self.every < Duration::from_millis(1) {
            return wrong("every", format!("{:?}", self.every), "1 ms or more");
        }
        if self.timeout.is_zero() {
            return wrong("timeout", "0ns".into(), "more than zero");
        }
        if self.failures == 0 {
            return wrong("failures", "0".into(), "1 or more");
        }
        if self.successes == 0 {
            return wrong("successes", "0".into(), "1 or more");
        }
        let gate = self.health.gate(self.name);
        gate.hysteresis(self.failures, self.successes);
        Ok(HealthCheck { gate, every: self.every, timeout: self.timeout })
    }
}

/// A check, ready to run: see [`HealthCheckBuilder`].
///
/// ```
/// # use buttress::supervise::{Lifecycle, health::Health};
/// let check = Health::new(Lifecycle::new()).check("database").build()?;
/// assert!(!check.gate().is_open());
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct HealthCheck {
    gate: ReadyGate,
    every: Duration,
    timeout: Duration,
}

impl HealthCheck {
    /// Its gate, to close by hand or to hang on a lever.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// let check = Health::new(Lifecycle::new()).check("database").build()?;
    /// let _lever = check.gate().clone();
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub const fn gate(&self) -> &ReadyGate {
        &self.gate
    }

    /// Checks at once and then again and again; spawn it. Dropping it closes the gate. A check that panics
    /// has failed.
    ///
    /// ```no_run
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// # #[tokio::main] async fn main() -> Result<(), buttress::ConfigError> {
    /// # let health = Health::new(Lifecycle::new());
    /// let check = health.check("upstream").build()?;
    /// tokio::spawn(check.run(|| async {
    ///     tokio::net::TcpStream::connect("10.0.0.7:5432").await.map(drop)
    /// }));
    /// # Ok(()) }
    /// ```
    pub async fn run<F, Fut, E>(self, mut check: F)
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: fmt::Display,
    {
        let mut ticks = interval_at(Instant::now(), self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let result = match caught(&mut check) {
                Some(checking) => {
                    // What an error displays is the user's code as well.
                    let told = async { checking.await.map_err(|error| error.to_string()) };
                    timeout(self.timeout, Caught(pin!(told))).await
                }
                None => Ok(None),
            };
            self.gate.result(match result {
                Ok(Some(Ok(()))) => Ok(()),
                Ok(Some(Err(error))) => Err(error.into()),
                Ok(None) => Err("the check panicked".into()),
                Err(_) => Err(format!("no answer within {:?}", self.timeout).into()),
            });
        }
    }
}

/// A future whose panic is an answer: none.
struct Caught<'a, F>(std::pin::Pin<&'a mut F>);

impl<F: Future> Future for Caught<'_, F> {
    type Output = Option<F::Output>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        match caught(|| self.0.as_mut().poll(cx)) {
            Some(poll) => poll.map(Some),
            None => std::task::Poll::Ready(None),
        }
    }
}
