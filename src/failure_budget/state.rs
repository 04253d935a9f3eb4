//! What a budget says about itself.

use std::fmt;
use std::time::Duration;

use super::slo::SloStatus;

/// Where a budget stands.
///
/// ```
/// use buttress::failure_budget::{BudgetState, FailureBudget};
/// assert_eq!(FailureBudget::new("checkout").state(), BudgetState::Healthy);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BudgetState {
    /// Within the budget.
    Healthy,
    /// In SLO mode: an alert fires that does not act, by default a ticket.
    Warned,
    /// Out of service: counts nothing, refuses nothing, until it is reset.
    Retired,
    /// The budget is spent and acts, until it has recovered.
    Breached,
    /// The budget acts until it is reset: tripped by hand, or breached and latched.
    Tripped,
}

/// Set in the states that act.
pub(super) const ACTING: u64 = 4;
pub(super) const STATE: u64 = 7;

impl BudgetState {
    pub(super) const fn to_bits(self) -> u64 {
        match self {
            Self::Healthy => 0,
            Self::Warned => 1,
            Self::Retired => 2,
            Self::Breached => ACTING,
            Self::Tripped => ACTING | 1,
        }
    }

    pub(super) const fn from_bits(word: u64) -> Self {
        match word & STATE {
            0 => Self::Healthy,
            1 => Self::Warned,
            2 => Self::Retired,
            ACTING => Self::Breached,
            _ => Self::Tripped,
        }
    }

    /// Whether the budget refuses, sheds and holds its levers.
    ///
    /// ```
    /// use buttress::failure_budget::BudgetState;
    /// assert!(BudgetState::Tripped.is_acting());
    /// assert!(!BudgetState::Warned.is_acting());
    /// ```
    #[must_use]
    pub const fn is_acting(self) -> bool {
        self.to_bits() & ACTING != 0
    }

    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::failure_budget::BudgetState::Breached.as_str(), "breached");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Warned => "warned",
            Self::Retired => "retired",
            Self::Breached => "breached",
            Self::Tripped => "tripped",
        }
    }
}

impl fmt::Display for BudgetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What spent a budget.
///
/// ```
/// assert_eq!(buttress::failure_budget::BreachReason::FailureRate.as_str(), "failure_rate");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreachReason {
    /// The failure rate of the window.
    FailureRate,
    /// In SLO mode: the burn rate of an alert's windows.
    BurnRate,
    /// [`trip`](super::FailureBudget::trip).
    Operator,
}

impl BreachReason {
    /// Lower-case name with underscores.
    ///
    /// ```
    /// assert_eq!(buttress::failure_budget::BreachReason::Operator.as_str(), "operator");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FailureRate => "failure_rate",
            Self::BurnRate => "burn_rate",
            Self::Operator => "operator",
        }
    }
}

/// One breach: what was measured, against what.
///
/// ```
/// use buttress::failure_budget::{BreachReason, FailureBudget};
/// use std::sync::{Arc, Mutex};
///
/// let seen = Arc::new(Mutex::new(None));
/// let sink = seen.clone();
/// let budget = FailureBudget::builder("checkout")
///     .threshold(0.2)
///     .min_samples(4)
///     .on_breach(move |breach| *sink.lock().unwrap() = Some(*breach))
///     .build()?;
/// for failed in [false, false, true, true] {
///     budget.record(failed);
/// }
/// let breach = seen.lock().unwrap().unwrap();
/// assert_eq!(breach.reason, BreachReason::FailureRate);
/// assert_eq!((breach.measured, breach.threshold, breach.samples), (0.5, 0.2, 4));
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Breach {
    /// What kind of number `measured` is.
    pub reason: BreachReason,
    /// The failure rate, or the burn rate of the alert's short window.
    pub measured: f64,
    /// What it is above: the threshold, or the alert's factor.
    pub threshold: f64,
    /// How many calls it was measured on.
    pub samples: u64,
    /// Over which time.
    pub window: Duration,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, measured, threshold, samples, window } = self;
        match reason {
            BreachReason::Operator => f.write_str("operator"),
            reason => write!(
                f,
                "{} {measured:.4} above {threshold} ({samples} calls in {window:?})",
                reason.as_str()
            ),
        }
    }
}

/// Totals of a budget, ever.
///
/// ```
/// use buttress::failure_budget::FailureBudget;
/// let budget = FailureBudget::new("checkout");
/// budget.record(true);
/// assert_eq!((budget.stats().samples, budget.stats().failures), (1, 1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailureBudgetStats {
    /// Calls recorded.
    pub samples: u64,
    /// Those that failed.
    pub failures: u64,
    /// Calls refused or shed.
    pub rejected: u64,
    /// Times the budget began to act.
    pub breaches: u64,
    /// Times it stopped by itself.
    pub recoveries: u64,
}

/// A budget at one instant.
///
/// ```
/// use buttress::failure_budget::FailureBudget;
/// let budget = FailureBudget::new("checkout");
/// budget.record(false);
/// let seen = budget.snapshot();
/// assert_eq!((seen.samples, seen.failures, seen.failure_rate), (1, 0, 0.0));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FailureBudgetSnapshot {
    /// Where it stands.
    pub state: BudgetState,
    /// For how long.
    pub in_state: Duration,
    /// Calls in the window.
    pub samples: u64,
    /// Those that failed.
    pub failures: u64,
    /// The share of them; 0 if there are none.
    pub failure_rate: f64,
    /// The share of calls refused now, from 0 to 1.
    pub refused_share: f64,
    /// What began the breach it is in.
    pub breach: Option<Breach>,
    /// Totals.
    pub stats: FailureBudgetStats,
    /// In SLO mode.
    pub slo: Option<SloStatus>,
}
