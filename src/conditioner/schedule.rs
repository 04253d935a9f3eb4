use std::time::Duration;

use crate::error::ConfigError;

/// When a rule acts, counted from the moment its conditioner was armed.
///
/// From `start` to `end`, with a share that grows from nothing to all of it over `ramp`; once, or again in
/// each `period`. The default is always.
///
/// ```
/// use buttress::conditioner::Schedule;
/// use std::time::Duration;
/// let s = Duration::from_secs;
/// // In each minute after the first 10 s for 20 s, the first 5 of them growing.
/// let bursts = Schedule::always().start(s(10)).end(s(30)).ramp(s(5)).period(s(60));
/// assert_eq!(bursts.strength(s(9)), 0.0);
/// assert_eq!(bursts.strength(s(12)), 0.4);
/// assert_eq!(bursts.strength(s(75)), 1.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize),
    serde(try_from = "super::wire::Schedule")
)]
#[must_use]
pub struct Schedule {
    pub(super) start: Duration,
    pub(super) end: Option<Duration>,
    pub(super) ramp: Duration,
    pub(super) period: Option<Duration>,
}

impl Schedule {
    /// From the beginning, without end.
    ///
    /// ```
    /// # use buttress::conditioner::Schedule;
    /// assert_eq!(Schedule::always().strength(std::time::Duration::ZERO), 1.0);
    /// ```
    pub const fn always() -> Self {
        Self { start: Duration::ZERO, end: None, ramp: Duration::ZERO, period: None }
    }

    /// Not before this.
    ///
    /// ```
    /// # use buttress::conditioner::Schedule;
    /// # use std::time::Duration;
    /// let later = Schedule::always().start(Duration::from_secs(60));
    /// ```
    pub const fn start(mut self, start: Duration) -> Self {
        self.start = start;
        self
    }

    /// Not from this on.
    ///
    /// ```
    /// # use buttress::conditioner::Schedule;
    /// # use std::time::Duration;
    /// let one_minute = Schedule::always().end(Duration::from_secs(60));
    /// ```
    pub const fn end(mut self, end: Duration) -> Self {
        self.end = Some(end);
        self
    }

    /// The rule's share grows evenly over this time after the start.
    ///
    /// ```
    /// # use buttress::conditioner::Schedule;
    /// # use std::time::Duration;
    /// let slowly = Schedule::always().ramp(Duration::from_secs(300));
    /// ```
    pub const fn ramp(mut self, ramp: Duration) -> Self {
        self.ramp = ramp;
        self
    }

    /// Starts over each time this has passed.
    ///
    /// ```
    /// # use buttress::conditioner::Schedule;
    /// # use std::time::Duration;
    /// let half_of_the_time = Schedule::always().end(Duration::from_secs(30)).period(Duration::from_secs(60));
    /// ```
    pub const fn period(mut self, period: Duration) -> Self {
        self.period = Some(period);
        self
    }

    /// The part of the rule's share that applies so long after arming, from 0 to 1.
    ///
    /// ```
    /// # use buttress::conditioner::Schedule;
    /// # use std::time::Duration;
    /// let s = Duration::from_secs;
    /// assert_eq!(Schedule::always().end(s(60)).strength(s(60)), 0.0);
    /// ```
    #[must_use]
    pub fn strength(&self, elapsed: Duration) -> f64 {
        let at = match self.period {
            Some(period) if !period.is_zero() => modulo(elapsed, period),
            _ => elapsed,
        };
        let Some(since) = at.checked_sub(self.start) else { return 0.0 };
        if self.end.is_some_and(|end| at >= end) {
            return 0.0;
        }
        if since >= self.ramp { 1.0 } else { since.as_secs_f64() / self.ramp.as_secs_f64() }
    }

    pub(super) fn is_always(&self) -> bool {
        self.start.is_zero() && self.end.is_none() && self.ramp.is_zero()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let show = |duration: Duration| format!("{duration:?}");
        let last = self.end.or(self.period);
        if let Some(end) = self.end
            && end <= self.start
        {
            let expected = format!("after the start, {:?}", self.start);
            return Err(ConfigError::new("schedule.end", show(end), expected));
        }
        if let Some(last) = last
            && self.ramp > last.saturating_sub(self.start)
        {
            let expected = format!("at most {:?}, from start to end", last - self.start.min(last));
            return Err(ConfigError::new("schedule.ramp", show(self.ramp), expected));
        }
        match self.period {
            Some(period) if period.is_zero() => {
                Err(ConfigError::new("schedule.period", show(period), "more than zero"))
            }
            Some(period) if self.start >= period => {
                let expected = format!("less than the period, {period:?}");
                Err(ConfigError::new("schedule.start", show(self.start), expected))
            }
            Some(period) if self.end.is_some_and(|end| end > period) => {
                let expected = format!("at most the period, {period:?}");
                Err(ConfigError::new("schedule.end", show(self.end.unwrap_or_default()), expected))
            }
            _ => Ok(()),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder of 584 years fits")]
fn modulo(elapsed: Duration, period: Duration) -> Duration {
    Duration::from_nanos((elapsed.as_nanos() % period.as_nanos()).min(u128::from(u64::MAX)) as u64)
}
