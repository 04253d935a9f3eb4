use crate::error::ConfigError;

use super::fault::Fault;
use super::matcher::Matcher;
use super::schedule::Schedule;

/// One fault, and when it happens: to which share of which calls, when, and to how many at a time.
///
/// ```
/// use buttress::conditioner::{Fault, Matcher, Rule, Schedule};
/// use std::time::Duration;
/// let rule = Rule::new(Fault::status(503))
///     .share(0.2)
///     .matching(Matcher::path("/checkout/**"))
///     .during(Schedule::always().start(Duration::from_secs(60)))
///     .max_active(10);
/// ```
///
/// With the feature `serde` it can be read from a file; times are in seconds.
///
/// ```
/// # #[cfg(feature = "serde")] {
/// use buttress::conditioner::{Conditioner, Rule};
/// let rules: Vec<Rule> = serde_json::from_str(
///     r#"[
///         {"fault": "loss", "share": 0.01},
///         {"fault": {"latency": {"lognormal": {"median": 0.03, "sigma": 1, "at_most": 5}}},
///          "matching": {"any_of": [{"path": "/orders/**"}, {"name_or_url": "pay"}]},
///          "during": {"start": 10, "end": 30, "ramp": 5, "period": 60}, "max_active": 20}
///     ]"#,
/// )
/// .unwrap();
/// let conditioner = Conditioner::builder("shop").rules(rules).build().unwrap();
/// assert_eq!(conditioner.stats().rules.len(), 2);
/// # }
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(try_from = "super::wire::Rule"))]
#[must_use]
pub struct Rule {
    pub(super) fault: Fault,
    pub(super) share: f64,
    pub(super) matcher: Matcher,
    pub(super) schedule: Schedule,
    pub(super) max_active: Option<u32>,
}

impl Rule {
    /// `fault`, to every call, always.
    ///
    /// ```
    /// use buttress::conditioner::{Fault, Rule};
    /// let rule = Rule::new(Fault::loss());
    /// ```
    pub const fn new(fault: Fault) -> Self {
        Self {
            fault,
            share: 1.0,
            matcher: Matcher::everything(),
            schedule: Schedule::always(),
            max_active: None,
        }
    }

    /// To this share of the calls that match, from 0 to 1.
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let error = Conditioner::builder("x").rule(Rule::new(Fault::loss()).share(1.5)).build().unwrap_err();
    /// assert_eq!(error.field(), "rules[0].share");
    /// ```
    pub const fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Only to calls that match.
    ///
    /// ```
    /// use buttress::conditioner::{Fault, Matcher, Rule};
    /// let rule = Rule::new(Fault::loss()).matching(Matcher::method("GET"));
    /// ```
    pub fn matching(mut self, matcher: Matcher) -> Self {
        self.matcher = matcher;
        self
    }

    /// Only at these times.
    ///
    /// ```
    /// use buttress::conditioner::{Fault, Rule, Schedule};
    /// let rule = Rule::new(Fault::loss()).during(Schedule::always().end(std::time::Duration::from_secs(60)));
    /// ```
    pub const fn during(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// To at most so many calls at a time; beyond, calls are left alone. A call counts until its response
    /// is there, with a fault of the body until that has ended.
    ///
    /// ```
    /// use buttress::conditioner::{Fault, Rule};
    /// let rule = Rule::new(Fault::hang()).max_active(5);
    /// ```
    pub const fn max_active(mut self, calls: u32) -> Self {
        self.max_active = Some(calls);
        self
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(0.0..=1.0).contains(&self.share) {
            return Err(ConfigError::new("share", self.share, "a share from 0 to 1"));
        }
        if self.max_active == Some(0) {
            return Err(ConfigError::new("max_active", 0, "at least 1"));
        }
        self.fault.check()?;
        self.matcher.check()?;
        self.schedule.check()
    }
}
