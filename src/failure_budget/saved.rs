//! A budget's memory, for the time between two processes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::ConfigError;

use super::burn::Aged;
use super::config::Config;

/// What a budget remembers, for its successor: see
/// [`FailureBudget::save`](super::FailureBudget::save) and
/// [`FailureBudgetBuilder::restore`](super::FailureBudgetBuilder::restore).
///
/// Times are ages, and one wall-clock time at which they were true: a successor adds what has passed since.
/// With the feature `serde` it can be written to a file; its fields are not part of the interface.
///
/// ```
/// use buttress::failure_budget::FailureBudget;
/// let budget = FailureBudget::new("api");
/// budget.record(true);
/// let saved = budget.save();
/// # #[cfg(feature = "serde")] {
/// use buttress::failure_budget::SavedState;
/// let file = serde_json::to_string(&saved).unwrap();
/// assert_eq!(serde_json::from_str::<SavedState>(&file).unwrap(), saved);
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct SavedState {
    /// Milliseconds since 1970.
    saved_at: u64,
    /// Whether it was tripped, which only a reset undoes.
    tripped: bool,
    window: Vec<Aged>,
    /// In SLO mode, of each window: its length and what is in it.
    slo: Option<Vec<(Duration, Vec<Aged>)>>,
}

fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl SavedState {
    pub(super) fn new(
        tripped: bool,
        window: Vec<Aged>,
        slo: Option<Vec<(Duration, Vec<Aged>)>>,
    ) -> Self {
        Self { saved_at: unix_millis(), tripped, window, slo }
    }

    /// The same, saved `by` earlier.
    ///
    /// ```
    /// use buttress::failure_budget::FailureBudget;
    /// use std::time::Duration;
    /// let before = FailureBudget::new("api");
    /// before.record(true);
    /// let saved = before.save().aged(Duration::from_secs(31));
    /// let after = FailureBudget::builder("api").restore(saved).build()?;
    /// assert_eq!(after.sample_count(), 0, "the window is 30 s");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn aged(mut self, by: Duration) -> Self {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.saved_at = self.saved_at.saturating_sub(by);
        self
    }

    pub(super) fn tripped(&self) -> bool {
        self.tripped
    }

    pub(super) fn window(&self) -> &[Aged] {
        &self.window
    }

    pub(super) fn slo(&self) -> &[(Duration, Vec<Aged>)] {
        self.slo.as_deref().unwrap_or_default()
    }

    /// How long ago it was saved. A clock that was set back since makes it no younger than now.
    pub(super) fn age(&self) -> Duration {
        Duration::from_millis(unix_millis().saturating_sub(self.saved_at))
    }

    /// Whether a budget with these settings can go on from it, and the numbers are possible ones.
    pub(super) fn check(&self, config: &Config) -> Result<(), ConfigError> {
        let mut sum = 0_u64;
        for aged in self.slo().iter().map(|(_, aged)| aged).chain([&self.window]) {
            for &(_, calls, failures) in aged {
                sum = sum.saturating_add(calls);
                if failures > calls || sum > 1 << 60 {
                    return Err(ConfigError::new(
                        "restore",
                        format_args!("{failures} failures in {calls} calls"),
                        "no more failures than calls, and at most 2^60 calls in all",
                    ));
                }
            }
        }
        let Some(slo) = &config.slo else { return Ok(()) };
        let saved = |span: Duration| self.slo().iter().any(|&(saved, _)| saved == span);
        let spans = slo.alerts.iter().flat_map(|alert| [alert.long, alert.short]);
        match spans.chain([slo.period]).find(|&span| !saved(span)) {
            Some(span) => Err(ConfigError::new(
                "restore",
                format_args!("a state without a window of {span:?}"),
                "the state of a budget with the same period and alert windows",
            )),
            None => Ok(()),
        }
    }
}
