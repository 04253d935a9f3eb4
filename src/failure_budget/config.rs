//! The numbers of a failure budget, checked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::ConfigError;
use crate::lever::Lever;
use crate::name::Name;
use crate::observe::{Observe, Observers};

use super::handle::FailureBudget;
use super::saved::SavedState;
use super::slo::{AlertStatus, BurnAlert, Severity, Slo};
use super::state::Breach;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const MAX_ALERTS: usize = 16;

/// What becomes of calls while the budget is spent. Levers, callbacks and events come on top.
///
/// ```
/// use buttress::failure_budget::BreachAction;
/// assert_eq!(BreachAction::default(), BreachAction::Notify);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum BreachAction {
    /// Nothing: they pass.
    #[default]
    Notify,
    /// They are refused, but for the [`probes`](FailureBudgetBuilder::probes).
    Reject,
    /// A share of them is refused that grows with the burn. It is just so large that the failures let
    /// through are no more than the budget allows for all the calls that are made: at burn `b` (failure
    /// rate through threshold, or burn rate through factor) it is `1 - 1/b`, a half at 2, nine tenths at
    /// 10, and never more than leaves the [`probes`](FailureBudgetBuilder::probes).
    Shed,
}

impl BreachAction {
    /// Lower-case name, as in configuration.
    ///
    /// ```
    /// assert_eq!(buttress::failure_budget::BreachAction::Shed.as_str(), "shed");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Reject => "reject",
            Self::Shed => "shed",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) threshold: f64,
    pub(super) window: Duration,
    pub(super) min_samples: u64,
    /// The failure rate at which it has recovered, or in SLO mode the share of an alert's factor.
    pub(super) recovery: f64,
    pub(super) latch: bool,
    pub(super) action: BreachAction,
    pub(super) probes: f64,
    pub(super) cancelled_after: Option<Duration>,
    pub(super) slo: Option<Slo>,
    pub(super) act_on: Severity,
}

pub(super) type OnBreach = Arc<dyn Fn(&Breach) + Send + Sync>;
pub(super) type OnAlert = Arc<dyn Fn(&AlertStatus) + Send + Sync>;

/// User code that a budget calls.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(super) breach: Vec<OnBreach>,
    pub(super) alert: Vec<OnAlert>,
    pub(super) levers: Vec<Arc<dyn Lever>>,
    pub(crate) observers: Observers,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("breach", &self.breach.len())
            .field("alert", &self.alert.len())
            .field("levers", &self.levers.len())
            .field("observers", &self.observers)
            .finish()
    }
}

/// Builds a [`FailureBudget`]; see [`FailureBudget::builder`].
///
/// | setting | default | range |
/// |---|---|---|
/// | [`threshold`](Self::threshold) | 0.05 | 0 to 1 |
/// | [`window`](Self::window) | 30 s | 1 ms to 1 year |
/// | [`min_samples`](Self::min_samples) | 50 | at least 1 |
/// | [`recovery`](Self::recovery) | 0.5, with an SLO 0.9 | 0 to 1 |
/// | [`latch`](Self::latch) | off: it recovers | |
/// | [`action`](Self::action) | notify | notify, reject, shed |
/// | [`probes`](Self::probes) | 0.01 | above 0, at most 1 |
/// | [`cancelled_after`](Self::cancelled_after) | 1 s | 0 to 1 year |
/// | [`slo`](Self::slo) | off | objective above 0 and below 1; period 1 s to 10 years |
/// | [`burn_alerts`](Self::burn_alerts) | the workbook's four | 1 to 16 |
/// | [`act_on`](Self::act_on) | pages | pages, tickets |
///
/// ```
/// use buttress::failure_budget::FailureBudget;
/// use std::time::Duration;
/// let budget = FailureBudget::builder("api")
///     .threshold(0.02)
///     .window(Duration::from_secs(60))
///     .min_samples(200)
///     .build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct FailureBudgetBuilder {
    name: Name,
    config: Config,
    min_samples: u32,
    recovery: Option<f64>,
    slo: Option<(f64, Duration)>,
    alerts: Option<Vec<BurnAlert>>,
    pub(crate) hooks: Hooks,
    restore: Option<SavedState>,
}

pub(super) struct Parts {
    pub(super) name: Name,
    pub(super) config: Config,
    pub(super) hooks: Hooks,
    pub(super) restore: Option<SavedState>,
}

impl FailureBudgetBuilder {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            config: Config {
                threshold: 0.05,
                window: Duration::from_secs(30),
                min_samples: 50,
                recovery: 0.5,
                latch: false,
                action: BreachAction::Notify,
                probes: 0.01,
                cancelled_after: Some(Duration::from_secs(1)),
                slo: None,
                act_on: Severity::Page,
            },
            min_samples: 50,
            recovery: None,
            slo: None,
            alerts: None,
            hooks: Hooks::default(),
            restore: None,
        }
    }

    /// The budget is spent when more than this share of the calls in the window failed. Exactly this
    /// share is within the budget; 1 is never exceeded.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::builder("api").threshold(0.01).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn threshold(mut self, share: f64) -> Self {
        self.config.threshold = share;
        self
    }

    /// Measures over the calls of the last `window`. A call that is exactly that old is in it.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// # use std::time::Duration;
    /// let budget = FailureBudget::builder("api").window(Duration::from_secs(60)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn window(mut self, window: Duration) -> Self {
        self.config.window = window;
        self
    }

    /// With fewer calls than this in the window nothing is breached. Calls that have left it do not count.
    /// In SLO mode it holds for both windows of an alert.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::builder("api").min_samples(200).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn min_samples(mut self, samples: u32) -> Self {
        self.min_samples = samples;
        self
    }

    /// It has recovered when the failure rate is no more than this share of the threshold: 0.5 of a
    /// threshold of 0.05 is 0.025. Less than 1 keeps a rate that sways around the threshold from being
    /// many breaches. In SLO mode an alert ends when its short window burns no faster than this share
    /// of its factor.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::builder("api").recovery(0.8).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn recovery(mut self, share_of_threshold: f64) -> Self {
        self.recovery = Some(share_of_threshold);
        self
    }

    /// A breach stays until [`reset`](FailureBudget::reset), whatever the calls after it do, and the
    /// layer measures no more. For what must not go on by itself, for example a load test.
    ///
    /// ```
    /// # use buttress::failure_budget::{BudgetState, FailureBudget};
    /// let budget = FailureBudget::builder("load test").min_samples(1).latch().build()?;
    /// budget.record(true);
    /// assert_eq!(budget.state(), BudgetState::Tripped);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn latch(mut self) -> Self {
        self.config.latch = true;
        self
    }

    /// What becomes of calls while it is spent.
    ///
    /// ```
    /// # use buttress::failure_budget::{BreachAction, FailureBudget};
    /// let budget = FailureBudget::builder("api").action(BreachAction::Reject).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn action(mut self, action: BreachAction) -> Self {
        self.config.action = action;
        self
    }

    /// Refuses calls while it is spent: [`BreachAction::Reject`].
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::builder("api").reject().build()?;
    /// budget.trip();
    /// assert!(budget.try_acquire().is_err());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn reject(self) -> Self {
        self.action(BreachAction::Reject)
    }

    /// Refuses a share of calls while it is spent that grows with the burn: [`BreachAction::Shed`].
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::builder("api").threshold(0.1).min_samples(10).shed().build()?;
    /// for n in 0..10 {
    ///     budget.record(n < 5);
    /// }
    /// assert_eq!(budget.snapshot().refused_share, 0.8, "half of a fifth fails");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn shed(self) -> Self {
        self.action(BreachAction::Shed)
    }

    /// At least this share of calls passes while it is breached, spread evenly, so that it finds out
    /// whether things are better. None pass while it is tripped.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::builder("api").reject().probes(0.05).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn probes(mut self, share: f64) -> Self {
        self.config.probes = share;
        self
    }

    /// A call its caller dropped counts as failed if it had been waiting longer than this; calls dropped
    /// sooner are not counted. Measured from when the call is first found pending.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// # use std::time::Duration;
    /// let budget = FailureBudget::builder("api").cancelled_after(Duration::from_secs(5)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn cancelled_after(mut self, duration: Duration) -> Self {
        self.config.cancelled_after = Some(duration);
        self
    }

    /// Dropped calls are never counted.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::builder("api").ignore_cancelled().build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn ignore_cancelled(mut self) -> Self {
        self.config.cancelled_after = None;
        self
    }

    /// SLO mode: `objective` (0.999: one call in a thousand may fail) over `period`. The budget acts on
    /// burn-rate alerts instead of the threshold; [`BurnAlert::workbook`] unless
    /// [`burn_alerts`](Self::burn_alerts) says otherwise.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// # use std::time::Duration;
    /// let day = Duration::from_secs(24 * 3600);
    /// let budget = FailureBudget::builder("api").slo(0.999, day).reject().build()?;
    /// assert_eq!(budget.budget_remaining(), Some(1.0));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn slo(mut self, objective: f64, period: Duration) -> Self {
        self.slo = Some((objective, period));
        self
    }

    /// Other alerts than the workbook's. Needs [`slo`](Self::slo).
    ///
    /// ```
    /// # use buttress::failure_budget::{BurnAlert, FailureBudget, Severity};
    /// # use std::time::Duration;
    /// let hour = Duration::from_secs(3600);
    /// let budget = FailureBudget::builder("api")
    ///     .slo(0.999, 24 * hour)
    ///     .burn_alerts([BurnAlert::new(Severity::Page, hour / 2, 14.4)])
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn burn_alerts(mut self, alerts: impl IntoIterator<Item = BurnAlert>) -> Self {
        self.alerts = Some(alerts.into_iter().collect());
        self
    }

    /// Acts on alerts of this severity and above. The others are told to
    /// [`on_alert`](Self::on_alert) and the observers.
    ///
    /// ```
    /// # use buttress::failure_budget::{FailureBudget, Severity};
    /// # use std::time::Duration;
    /// let budget = FailureBudget::builder("batch")
    ///     .slo(0.99, Duration::from_secs(86_400))
    ///     .act_on(Severity::Ticket)
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn act_on(mut self, severity: Severity) -> Self {
        self.config.act_on = severity;
        self
    }

    /// Called once for each breach, [`trip`](FailureBudget::trip) included, on the thread whose call
    /// tipped the balance, outside all locks. A panic in it is caught and dropped.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::builder("api").on_breach(|breach| eprintln!("{breach}")).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_breach(mut self, f: impl Fn(&Breach) + Send + Sync + 'static) -> Self {
        self.hooks.breach.push(Arc::new(f));
        self
    }

    /// In SLO mode called once for each alert that begins or ends, of whatever severity; as
    /// [`on_breach`](Self::on_breach).
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// # use std::time::Duration;
    /// let budget = FailureBudget::builder("api")
    ///     .slo(0.999, Duration::from_secs(86_400))
    ///     .on_alert(|alert| eprintln!("{} {}", alert.alert.severity.as_str(), alert.firing))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_alert(mut self, f: impl Fn(&AlertStatus) + Send + Sync + 'static) -> Self {
        self.hooks.alert.push(Arc::new(f));
        self
    }

    /// Engages `lever` while the budget is spent: cut a [`RetryBudget`](crate::RetryBudget), stop a
    /// conditioner, or with a closure whatever else. Released when the budget recovers, is reset or
    /// retired, or when its last handle is dropped.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// use buttress::RetryBudget;
    /// let retries = RetryBudget::new("payments");
    /// let budget = FailureBudget::builder("payments").lever(retries.clone()).build()?;
    /// budget.trip();
    /// assert!(retries.failed(buttress::RetryCost::Failed).is_none());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn lever(mut self, lever: impl Lever) -> Self {
        self.hooks.levers.push(Arc::new(lever));
        self
    }

    /// Adds a listener; see [`crate::observe`].
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// let budget = FailureBudget::builder("api")
    ///     .observe(|event: &buttress::observe::Event<'_>| eprintln!("{event:?}"))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.hooks.observers.add(observer);
        self
    }

    /// Goes on from what [`save`](FailureBudget::save) gave before a restart. The time since then counts:
    /// what is too old by now is left out. In SLO mode the period and the alerts' windows must be those
    /// of the saved budget.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// let before = FailureBudget::new("api");
    /// before.record(true);
    /// let after = FailureBudget::builder("api").restore(before.save()).build()?;
    /// assert_eq!(after.failure_rate(), 1.0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn restore(mut self, saved: SavedState) -> Self {
        self.restore = Some(saved);
        self
    }

    /// Checks the settings and makes the budget.
    ///
    /// # Errors
    /// A [`ConfigError`] naming the first setting that is out of range or contradicts another.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// let error = FailureBudget::builder("api").threshold(-1.0).build().unwrap_err();
    /// assert_eq!(error.field(), "threshold");
    /// ```
    pub fn build(self) -> Result<FailureBudget, ConfigError> {
        Ok(FailureBudget::from_parts(self.into_parts()?))
    }

    pub(super) fn into_parts(self) -> Result<Parts, ConfigError> {
        let config = self.check()?;
        if let Some(saved) = &self.restore {
            saved.check(&config)?;
        }
        Ok(Parts { name: self.name, config, hooks: self.hooks, restore: self.restore })
    }

    /// Only the numbers.
    pub(super) fn into_config(self) -> Result<Config, ConfigError> {
        self.check()
    }

    fn check(&self) -> Result<Config, ConfigError> {
        let mut config = self.config.clone();
        share("threshold", config.threshold)?;
        span("window", config.window, Duration::from_millis(1), YEAR)?;
        if self.min_samples == 0 {
            return Err(ConfigError::new("min_samples", 0, "at least 1"));
        }
        config.min_samples = u64::from(self.min_samples);
        let recovery = self.recovery.unwrap_or(if self.slo.is_some() { 0.9 } else { 0.5 });
        share("recovery", recovery)?;
        // As a failure rate where that is what is judged.
        config.recovery = if self.slo.is_some() { recovery } else { recovery * config.threshold };
        share("probes", config.probes)?;
        if config.probes == 0.0 {
            return Err(ConfigError::new("probes", 0, "above 0: without probes it cannot recover"));
        }
        if let Some(after) = config.cancelled_after {
            span("cancelled_after", after, Duration::ZERO, YEAR)?;
        }
        config.slo = match (self.slo, &self.alerts) {
            (Some((objective, period)), alerts) => Some(slo(objective, period, alerts.as_deref())?),
            (None, Some(_)) => {
                return Err(ConfigError::new("burn_alerts", "set", "slo with them"));
            }
            (None, None) => None,
        };
        Ok(config)
    }
}

fn slo(objective: f64, period: Duration, alerts: Option<&[BurnAlert]>) -> Result<Slo, ConfigError> {
    if !(objective > 0.0 && objective < 1.0) {
        return Err(ConfigError::new("slo.objective", objective, "above 0 and below 1"));
    }
    span("slo.period", period, Duration::from_secs(1), 10 * YEAR)?;
    let workbook = BurnAlert::workbook(period);
    let custom = alerts.is_some();
    let alerts = alerts.unwrap_or(&workbook);
    if alerts.is_empty() || alerts.len() > MAX_ALERTS {
        return Err(ConfigError::new(
            "burn_alerts",
            alerts.len(),
            format!("at least 1 and at most {MAX_ALERTS} alerts"),
        ));
    }
    for (n, alert) in alerts.iter().enumerate() {
        // The workbook's factors are what they are: with a lax objective the steepest cannot be reached.
        let most = if custom { 1.0 / (1.0 - objective) } else { f64::INFINITY };
        if !(alert.factor > 0.0 && alert.factor < most) {
            return Err(ConfigError::new(
                format!("burn_alerts[{n}].factor"),
                alert.factor,
                format!("above 0 and below {most:.1}, the burn rate when every call fails"),
            ));
        }
        let us = Duration::from_micros(1);
        span_of(format!("burn_alerts[{n}].long"), alert.long, us, period)?;
        span_of(format!("burn_alerts[{n}].short"), alert.short, us, alert.long)?;
    }
    Ok(Slo { objective, period, alerts: alerts.into() })
}

fn share(field: &'static str, value: f64) -> Result<(), ConfigError> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::new(field, value, "at least 0 and at most 1"))
    }
}

fn span(
    field: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), ConfigError> {
    span_of(field.to_owned(), value, min, max)
}

fn span_of(
    field: String,
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
