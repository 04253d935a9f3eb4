//! How the time of a shutdown is shared out.

use std::time::Duration;

use crate::error::ConfigError;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// What the exit itself may take: the last log lines, the operating system's tidying up, and the
/// orchestrator's clock, which was started before ours.
const EXIT: Duration = Duration::from_secs(2);

/// How long a shutdown may take, and how much of it each phase.
///
/// There is one deadline, set when the shutdown begins; a phase ends at its own limit or at the deadline,
/// whichever comes first, and time that a phase did not need is the next one's. A plan whose phases do not
/// fit is refused when it is built.
///
/// ```
/// use buttress::supervise::shutdown::{Budget, GracefulShutdown};
/// use std::time::Duration;
///
/// const SECOND: Duration = Duration::from_secs(1);
/// let budget = Budget::kubernetes(30 * SECOND).pre_stop(5 * SECOND).lame_duck(5 * SECOND);
/// assert_eq!(budget.total(), 23 * SECOND, "two are kept for the exit");
///
/// let too_long = budget.drain(20 * SECOND);
/// let error = GracefulShutdown::builder("orders").budget(too_long).build().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "invalid budget: 5s lame duck + 20s drain + 0ns cleanup, expected at most 23s"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Budget {
    grace: Duration,
    before: Duration,
    reserve: Duration,
    lame_duck: Duration,
    drain: Option<Duration>,
    cleanup: Option<Duration>,
}

impl Default for Budget {
    /// Fits into the 30 seconds that Kubernetes gives by default.
    fn default() -> Self {
        Self::kubernetes(Duration::from_secs(30))
    }
}

/// A budget that was found possible.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) total: Duration,
    pub(super) lame_duck: Duration,
    pub(super) drain: Duration,
    /// Without a limit: what is left.
    pub(super) cleanup: Option<Duration>,
}

impl Budget {
    /// `total` from the first signal to the deadline. No lame duck; the drain may take two thirds.
    ///
    /// ```
    /// use buttress::supervise::shutdown::Budget;
    /// use std::time::Duration;
    /// assert_eq!(Budget::new(Duration::from_secs(10)).total(), Duration::from_secs(10));
    /// ```
    pub const fn new(total: Duration) -> Self {
        Self {
            grace: total,
            before: Duration::ZERO,
            reserve: Duration::ZERO,
            lame_duck: Duration::ZERO,
            drain: None,
            cleanup: None,
        }
    }

    /// For a `terminationGracePeriodSeconds` of `grace`, at whose end the process is killed. Two seconds of
    /// it are kept for the exit itself: see [`exit_reserve`](Self::exit_reserve).
    ///
    /// ```
    /// use buttress::supervise::shutdown::Budget;
    /// use std::time::Duration;
    /// assert_eq!(Budget::kubernetes(Duration::from_secs(30)), Budget::default());
    /// ```
    pub const fn kubernetes(grace: Duration) -> Self {
        Self::new(grace).exit_reserve(EXIT)
    }

    /// What the `preStop` hook takes. It runs before the signal and within the grace period.
    ///
    /// ```
    /// use buttress::supervise::shutdown::Budget;
    /// use std::time::Duration;
    /// let budget = Budget::kubernetes(Duration::from_secs(30)).pre_stop(Duration::from_secs(10));
    /// assert_eq!(budget.total(), Duration::from_secs(18));
    /// ```
    pub const fn pre_stop(mut self, takes: Duration) -> Self {
        self.before = takes;
        self
    }

    /// What is kept free at the end.
    ///
    /// ```
    /// use buttress::supervise::shutdown::Budget;
    /// use std::time::Duration;
    /// let budget = Budget::new(Duration::from_secs(10)).exit_reserve(Duration::from_secs(1));
    /// assert_eq!(budget.total(), Duration::from_secs(9));
    /// ```
    pub const fn exit_reserve(mut self, reserve: Duration) -> Self {
        self.reserve = reserve;
        self
    }

    /// How long new work is still accepted while the outside learns that it should go elsewhere. Always
    /// waited in full: longer than the load balancer takes to notice. 0 unless set.
    ///
    /// ```
    /// use buttress::supervise::shutdown::Budget;
    /// let budget = Budget::default().lame_duck(std::time::Duration::from_secs(5));
    /// ```
    pub const fn lame_duck(mut self, wait: Duration) -> Self {
        self.lame_duck = wait;
        self
    }

    /// How long what is in flight may take. Unless set, what the other limits leave; two thirds of it if the
    /// cleanup has none.
    ///
    /// ```
    /// use buttress::supervise::shutdown::Budget;
    /// let budget = Budget::default().drain(std::time::Duration::from_secs(15));
    /// ```
    pub const fn drain(mut self, limit: Duration) -> Self {
        self.drain = Some(limit);
        self
    }

    /// How long the callbacks may take together. Unless set, what is left.
    ///
    /// ```
    /// use buttress::supervise::shutdown::Budget;
    /// let budget = Budget::default().cleanup(std::time::Duration::from_secs(5));
    /// ```
    pub const fn cleanup(mut self, limit: Duration) -> Self {
        self.cleanup = Some(limit);
        self
    }

    /// From the first signal to the deadline.
    ///
    /// ```
    /// use buttress::supervise::shutdown::Budget;
    /// assert_eq!(Budget::default().total(), std::time::Duration::from_secs(28));
    /// ```
    #[must_use]
    pub const fn total(&self) -> Duration {
        self.grace.saturating_sub(self.before).saturating_sub(self.reserve)
    }

    pub(super) fn plan(&self) -> Result<Plan, ConfigError> {
        let total = self.total();
        if total.is_zero() || total > DAY {
            let given = if self.before.is_zero() && self.reserve.is_zero() {
                format!("{total:?}")
            } else {
                let (grace, before, reserve) = (self.grace, self.before, self.reserve);
                format!("{grace:?} less {before:?} before the signal and {reserve:?} for the exit")
            };
            return Err(ConfigError::new("budget", given, "above 0 and at most a day"));
        }
        let (drain, cleanup) = (self.drain.unwrap_or_default(), self.cleanup.unwrap_or_default());
        let planned = self.lame_duck.saturating_add(drain).saturating_add(cleanup);
        if planned > total {
            let lame_duck = self.lame_duck;
            return Err(ConfigError::new(
                "budget",
                format_args!("{lame_duck:?} lame duck + {drain:?} drain + {cleanup:?} cleanup"),
                format!("at most {total:?}"),
            ));
        }
        let rest = total - planned;
        let drain = match (self.drain, self.cleanup) {
            (Some(drain), _) => drain,
            (None, Some(_)) => rest,
            (None, None) => rest * 2 / 3,
        };
        Ok(Plan { total, lame_duck: self.lame_duck, drain, cleanup: self.cleanup })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_not_set_is_taken_from_what_is_left() {
        let plan = |budget: Budget| {
            let plan = budget.plan().unwrap();
            (plan.lame_duck, plan.drain, plan.cleanup)
        };
        let budget = Budget::new(secs(30));
        assert_eq!(plan(budget), (secs(0), secs(20), None));
        assert_eq!(plan(budget.lame_duck(secs(6))), (secs(6), secs(16), None));
        assert_eq!(plan(budget.drain(secs(30))), (secs(0), secs(30), None));
        assert_eq!(plan(budget.cleanup(secs(7))), (secs(0), secs(23), Some(secs(7))));
        let all = budget.lame_duck(secs(5)).drain(secs(15)).cleanup(secs(10));
        assert_eq!(plan(all), (secs(5), secs(15), Some(secs(10))));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |budget: Budget| budget.plan().unwrap_err().to_string();
        let budget = Budget::kubernetes(secs(30)).pre_stop(secs(10));
        assert!(budget.drain(secs(18)).plan().is_ok());
        assert_eq!(
            refused(budget.lame_duck(secs(1)).drain(secs(17)).cleanup(Duration::from_millis(1))),
            "invalid budget: 1s lame duck + 17s drain + 1ms cleanup, expected at most 18s"
        );
        assert_eq!(
            refused(Budget::kubernetes(secs(5)).pre_stop(secs(3))),
            "invalid budget: 5s less 3s before the signal and 2s for the exit, expected above 0 and at most a day"
        );
        assert!(refused(Budget::new(Duration::ZERO)).starts_with("invalid budget: 0ns"));
        assert!(Budget::new(Duration::MAX).plan().is_err());
        assert!(Budget::new(secs(30)).drain(Duration::MAX).lame_duck(secs(1)).plan().is_err());
    }
}
