//! Burn-rate alerts: their settings and what they show.

use std::time::Duration;

/// How urgent an alert is.
///
/// ```
/// use buttress::failure_budget::Severity;
/// assert!(Severity::Page > Severity::Ticket);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Severity {
    /// Somebody should look at it in the next days.
    Ticket,
    /// Somebody, or the budget itself, has to act now.
    Page,
}

impl Severity {
    /// Lower-case name.
    ///
    /// ```
    /// assert_eq!(buttress::failure_budget::Severity::Page.as_str(), "page");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Page => "page",
        }
    }
}

/// Fires while the error budget burns faster than `factor`, over a long window (so that it is worth it)
/// and over a short one (so that it is still going on).
///
/// Burning with factor 1 spends the budget in just its period.
///
/// ```
/// use buttress::failure_budget::{BurnAlert, Severity};
/// use std::time::Duration;
/// // A tenth of a 30-day budget in three hours.
/// let alert = BurnAlert::new(Severity::Page, Duration::from_secs(3 * 3600), 24.0);
/// assert_eq!(alert.short, Duration::from_secs(900));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BurnAlert {
    /// Pages act, tickets tell.
    pub severity: Severity,
    /// The long window.
    pub long: Duration,
    /// The short window.
    pub short: Duration,
    /// Fires above this burn rate.
    pub factor: f64,
}

impl BurnAlert {
    /// An alert whose short window is a twelfth of the long one.
    ///
    /// ```
    /// # use buttress::failure_budget::{BurnAlert, Severity};
    /// # use std::time::Duration;
    /// let alert = BurnAlert::new(Severity::Ticket, Duration::from_secs(3600), 3.0);
    /// assert_eq!(alert.factor, 3.0);
    /// ```
    #[must_use]
    pub fn new(severity: Severity, long: Duration, factor: f64) -> Self {
        Self { severity, long, short: long / 12, factor }
    }

    /// Another short window.
    ///
    /// ```
    /// # use buttress::failure_budget::{BurnAlert, Severity};
    /// # use std::time::Duration;
    /// let alert = BurnAlert::new(Severity::Ticket, Duration::from_secs(3600), 3.0)
    ///     .with_short(Duration::from_secs(60));
    /// assert_eq!(alert.short.as_secs(), 60);
    /// ```
    #[must_use]
    pub fn with_short(mut self, short: Duration) -> Self {
        self.short = short;
        self
    }

    /// The four alerts of Google's SRE workbook, scaled from its 30 days to `period`.
    ///
    /// | severity | share of the budget | long | short | factor |
    /// |---|---|---|---|---|
    /// | page | 2 % | period/720 | period/8640 | 14.4 |
    /// | page | 5 % | period/120 | period/1440 | 6 |
    /// | ticket | 10 % | period/30 | period/360 | 3 |
    /// | ticket | 10 % | period/10 | period/120 | 1 |
    ///
    /// ```
    /// # use buttress::failure_budget::{BurnAlert, Severity};
    /// # use std::time::Duration;
    /// let [page, ..] = BurnAlert::workbook(Duration::from_secs(30 * 24 * 3600));
    /// assert_eq!((page.long.as_secs(), page.short.as_secs()), (3600, 300));
    /// ```
    #[must_use]
    pub fn workbook(period: Duration) -> [Self; 4] {
        [
            Self::new(Severity::Page, period / 720, 14.4),
            Self::new(Severity::Page, period / 120, 6.0),
            Self::new(Severity::Ticket, period / 30, 3.0),
            Self::new(Severity::Ticket, period / 10, 1.0),
        ]
    }
}

/// An objective over a period, and its alerts, checked.
#[derive(Clone, Debug)]
pub(super) struct Slo {
    /// The share of calls that must not fail.
    pub(super) objective: f64,
    pub(super) period: Duration,
    pub(super) alerts: Box<[BurnAlert]>,
}

impl Slo {
    /// The share of calls that may fail.
    pub(super) fn allowed(&self) -> f64 {
        1.0 - self.objective
    }
}

/// One alert now.
///
/// ```
/// use buttress::failure_budget::FailureBudget;
/// use std::time::Duration;
/// let budget = FailureBudget::builder("api").slo(0.999, Duration::from_secs(86_400)).build()?;
/// let slo = budget.snapshot().slo.unwrap();
/// assert!(slo.alerts.iter().all(|alert| !alert.firing && alert.long_burn == 0.0));
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct AlertStatus {
    /// Its settings.
    pub alert: BurnAlert,
    /// Whether it fires.
    pub firing: bool,
    /// Burn rate over the long window.
    pub long_burn: f64,
    /// Burn rate over the short window.
    pub short_burn: f64,
    /// Calls in the long window.
    pub long_samples: u64,
    /// Calls in the short window.
    pub short_samples: u64,
}

/// A budget in SLO mode, now.
///
/// ```
/// use buttress::failure_budget::FailureBudget;
/// use std::time::Duration;
/// let budget = FailureBudget::builder("api").slo(0.9, Duration::from_secs(86_400)).build()?;
/// for n in 0..100 {
///     budget.record(n % 20 == 0);
/// }
/// let slo = budget.snapshot().slo.unwrap();
/// assert!((slo.budget_remaining - 0.5).abs() < 1e-9, "5 of the 10 that may fail");
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SloStatus {
    /// The objective.
    pub objective: f64,
    /// Its period.
    pub period: Duration,
    /// The share of the period's error budget that is left: 1 if nothing has failed, below 0 if more has
    /// failed than may.
    pub budget_remaining: f64,
    /// When the budget is spent if it goes on to burn as over the shortest long window; `None` if nothing
    /// burns there.
    pub time_to_exhaustion: Option<Duration>,
    /// Calls in the period.
    pub samples: u64,
    /// Those that failed.
    pub failures: u64,
    /// The alerts, in the order of the settings.
    pub alerts: Vec<AlertStatus>,
}
