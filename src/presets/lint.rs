//! What in a plan contradicts itself.

use std::fmt;
use std::time::Duration;

use super::objects::{BackendPlan, RateLimitPlan};
use super::plan::{ClientPlan, RetryPlan, ServerPlan};
use crate::hedge::HedgeBuilder;
use crate::name::LayerKind;
use crate::outcome::FailureClass;
use crate::retry::RetryPolicy;

/// How bad a [`Lint`] is.
///
/// ```
/// use buttress::presets::LintSeverity;
/// assert!(LintSeverity::Error > LintSeverity::Warning);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LintSeverity {
    /// It works, and likely not as meant.
    Warning,
    /// A part of the plan can never do what it is for.
    Error,
}

impl LintSeverity {
    /// Lower-case name.
    ///
    /// ```
    /// assert_eq!(buttress::presets::LintSeverity::Error.as_str(), "error");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something in a plan that contradicts something else in it.
///
/// ```
/// use buttress::presets::{ClientPlan, lint};
/// let mut plan = ClientPlan::new("db");
/// plan.backend = None;
/// assert_eq!(lint(&plan)[0].rule, "retry_without_budget");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lint {
    /// How bad it is.
    pub severity: LintSeverity,
    /// The name of the rule.
    pub rule: &'static str,
    /// What is wrong, with the numbers.
    pub text: String,
    /// The field of the plan.
    pub field: &'static str,
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] {}: {}", self.severity.as_str(), self.rule, self.field, self.text)
    }
}

/// All that is wrong with a plan, and what it can cost at worst.
///
/// ```
/// use buttress::presets::{ClientPlan, Plan};
/// let report = ClientPlan::new("db").report();
/// assert_eq!((report.amplification, report.worst_latency.unwrap().as_secs()), (Some(2.0), 10));
/// println!("{report}");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// What [`lint`] says.
    pub lints: Vec<Lint>,
    /// The most attempts one call can make, with hedges if the plan has some; `None` is no bound.
    pub worst_attempts: Option<u64>,
    /// Attempts for each call in the long run, if everything fails; `None` is no bound.
    pub amplification: Option<f64>,
    /// The longest that one call can take; `None` is no bound.
    pub worst_latency: Option<Duration>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for lint in &self.lints {
            writeln!(f, "{lint}")?;
        }
        match self.worst_attempts {
            Some(1) => write!(f, "worst case: 1 attempt a call")?,
            Some(n) => write!(f, "worst case: {n} attempts a call")?,
            None => f.write_str("worst case: attempts without bound")?,
        }
        match self.amplification {
            Some(times) => write!(f, ", {times:.2} times the load while all fails")?,
            None => f.write_str(", load without bound while all fails")?,
        }
        match self.worst_latency {
            Some(time) => write!(f, ", an answer within {time:?}"),
            None => f.write_str(", an answer at any time"),
        }
    }
}

/// A plan that can be judged: [`ClientPlan`], [`ServerPlan`].
///
/// ```
/// use buttress::presets::{Plan, ServerPlan};
/// assert!(ServerPlan::default().report().lints.is_empty());
/// ```
pub trait Plan: sealed::Sealed {
    /// What is wrong with it, and what it can cost.
    fn report(&self) -> Report;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ClientPlan {}
    impl Sealed for super::ServerPlan {}
}

/// What is wrong with a plan.
///
/// | rule | severity | when |
/// |---|---|---|
/// | `attempt_not_below_total` | error; without retries a warning | an attempt may take as long as the whole call |
/// | `backoff_cannot_fit` | error | the shortest first pause is not below the total timeout |
/// | `attempts_do_not_fit` | warning | all attempts and pauses at their longest exceed the total timeout |
/// | `window_below_min_calls` | error | the breaker's window holds fewer calls than it needs |
/// | `breaker_never_judges` | warning | the rate limit lets too few calls through in the breaker's window |
/// | `budget_never_judges` | warning | the same of a failure budget |
/// | `breaker_window_short` | warning | the window is shorter than two attempts |
/// | `open_below_attempt` | warning | the circuit probes before the attempts that opened it have ended |
/// | `hedge_above_attempt` | error | the hedge would be sent after the attempt was given up |
/// | `wait_cannot_fit` | warning | a call may wait for the rate limit until its time is over |
/// | `wait_above_attempt` | warning | ... as long as an attempt may take, or longer |
/// | `retry_without_budget` | warning | nothing bounds the retries of all calls together |
/// | `breaker_beside_backend` | warning | while the breaker is open it refuses what the backend sends as a probe, and that is not tried again |
/// | `patience_above_total` | warning | a call may wait for the backend until its time is over |
/// | `timeout_twice` | warning | the retry policy has a time of its own that never counts |
///
/// ```
/// use buttress::presets::{ClientPlan, lint};
/// assert!(lint(&ClientPlan::default()).is_empty());
/// ```
#[must_use]
pub fn lint<P: Plan + ?Sized>(plan: &P) -> Vec<Lint> {
    plan.report().lints
}

/// What is wrong with the order of layers, from the outside in: `retry_inside_breaker`, a breaker that sees
/// one call for all attempts, so that it learns late and cannot stop a retry.
///
/// ```
/// use buttress::{LayerKind, presets::lint_order};
/// assert!(lint_order(&[LayerKind::Retry, LayerKind::CircuitBreaker]).is_empty());
/// assert_eq!(lint_order(&[LayerKind::CircuitBreaker, LayerKind::Retry]).len(), 1);
/// ```
#[must_use]
pub fn lint_order(order: &[LayerKind]) -> Vec<Lint> {
    let mut found = Findings::default();
    let place = |kind| order.iter().position(|there| *there == kind);
    if let (Some(breaker), Some(retry)) =
        (place(LayerKind::CircuitBreaker), place(LayerKind::Retry))
        && breaker < retry
    {
        let text = "retries inside of the breaker: it sees one call for all attempts".to_owned();
        found.warn("retry_inside_breaker", "order", text);
    }
    found.0
}

#[derive(Default)]
struct Findings(Vec<Lint>);

impl Findings {
    fn add(
        &mut self,
        severity: LintSeverity,
        rule: &'static str,
        field: &'static str,
        text: String,
    ) {
        self.0.push(Lint { severity, rule, text, field });
    }

    fn warn(&mut self, rule: &'static str, field: &'static str, text: String) {
        self.add(LintSeverity::Warning, rule, field, text);
    }

    fn error(&mut self, rule: &'static str, field: &'static str, text: String) {
        self.add(LintSeverity::Error, rule, field, text);
    }
}

/// The most attempts one call can make.
fn attempts(policy: &RetryPolicy) -> Option<u64> {
    if !policy.can_retry() {
        return Some(1);
    }
    let mut by_class = Some(1);
    for class in [FailureClass::Transient, FailureClass::Flaky, FailureClass::Permanent] {
        let retries = policy.class_budget(class).map(u64::from);
        by_class = by_class.zip(retries).map(|(sum, more)| sum + more);
    }
    let by_count = policy.max_attempts().map(u64::from);
    match (by_count, by_class) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The longest that all pauses between so many attempts can take together.
fn pauses(policy: &RetryPolicy, attempts: u64) -> Duration {
    let mut sum = Duration::ZERO;
    let mut last = Duration::ZERO;
    let retries = attempts.saturating_sub(1);
    for n in 1..=retries.min(128) {
        last = policy.backoff().range(u32::try_from(n).unwrap_or(u32::MAX)).1;
        sum = sum.saturating_add(last);
    }
    // It has long reached its cap.
    let rest = u32::try_from(retries.saturating_sub(128)).unwrap_or(u32::MAX);
    sum.saturating_add(last.saturating_mul(rest))
}

/// Calls that a limit lets through in a window.
fn calls_in(limit: &RateLimitPlan, window: Duration) -> f64 {
    limit.quota.rate_per_second().mul_add(window.as_secs_f64(), limit.quota.capacity() as f64)
}

impl Plan for ClientPlan {
    fn report(&self) -> Report {
        let mut found = Findings::default();
        let policy = self.policy();
        let most = policy.as_ref().map_or(Some(1), attempts);
        self.lint_times(most, &mut found);
        self.lint_parts(most, &mut found);
        let (copies, share) = match self.hedge {
            Some(hedge) => (u64::from(HedgeBuilder::HEDGES), hedge.extra_load),
            None => (0, 0.0),
        };
        let worst_attempts = most.map(|most| most.saturating_mul(1 + copies));
        // Hedges are paid from the same budget. Each answer while there is headroom earns one.
        let earned = self.retry_budget.map(|budget| budget.ratio).or(self.backend.map(|_| 1.0));
        let amplification = match (&policy, earned) {
            (Some(_), Some(ratio)) => {
                let bound = 1.0 + ratio;
                Some(worst_attempts.map_or(bound, |most| bound.min(most as f64)))
            }
            _ => most.map(|most| most as f64 * (1.0 + share)),
        };
        let unbounded = self.bounded_by_parts(most);
        let worst_latency = match (self.total_timeout, unbounded) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Report { lints: found.0, worst_attempts, amplification, worst_latency }
    }
}

impl ClientPlan {
    /// Without the total timeout.
    fn bounded_by_parts(&self, most: Option<u64>) -> Option<Duration> {
        let (most, attempt) = (most?, self.attempt_timeout?);
        let wait = self.rate_limit.map_or(Duration::ZERO, |limit| limit.max_wait);
        let each = attempt.saturating_add(wait);
        let all = each.saturating_mul(u32::try_from(most).unwrap_or(u32::MAX));
        Some(all.saturating_add(self.policy().map_or(Duration::ZERO, |retry| pauses(&retry, most))))
    }

    fn lint_times(&self, most: Option<u64>, found: &mut Findings) {
        let retries = most != Some(1);
        if let (Some(attempt), Some(total)) = (self.attempt_timeout, self.total_timeout) {
            if attempt >= total {
                let severity = if retries { LintSeverity::Error } else { LintSeverity::Warning };
                let text = format!("{attempt:?} for an attempt, {total:?} for the whole call");
                found.add(severity, "attempt_not_below_total", "attempt_timeout", text);
            } else if let Some(all) = self.bounded_by_parts(most).filter(|all| *all > total)
                && self.retry != RetryPlan::Paced
            {
                let text = format!("all attempts and pauses can take {all:?}, the call {total:?}");
                found.warn("attempts_do_not_fit", "retry", text);
            }
        }
        if let (Some(retry), Some(total)) = (&self.policy(), self.total_timeout) {
            let shortest = retry.backoff().range(1).0;
            if retries && shortest >= total {
                let text =
                    format!("a first pause of at least {shortest:?}, {total:?} for the call");
                found.error("backoff_cannot_fit", "retry", text);
            }
            if let Some(own) = retry.deadline().filter(|own| *own >= total) {
                let text = format!("its deadline of {own:?} is not below the total of {total:?}");
                found.warn("timeout_twice", "retry", text);
            }
        }
        if let (Some(own), Some(attempt)) =
            (self.policy().and_then(|retry| retry.attempt_timeout()), self.attempt_timeout)
            && own >= attempt
        {
            let text = format!("its attempt timeout of {own:?} is not below {attempt:?}");
            found.warn("timeout_twice", "retry", text);
        }
        if let (Some(hedge), Some(attempt)) = (self.hedge, self.attempt_timeout)
            && hedge.min_delay >= attempt
        {
            let after = hedge.min_delay;
            let text = format!("not before {after:?}, when an attempt ends after {attempt:?}");
            found.error("hedge_above_attempt", "hedge.min_delay", text);
        }
        let Some(limit) = &self.rate_limit else { return };
        if let Some(total) = self.total_timeout {
            lint_wait(limit, total, found);
        }
        // Where it cannot fit at all that is said already.
        if let Some(attempt) = self.attempt_timeout.filter(|attempt| limit.max_wait >= *attempt)
            && self.total_timeout.is_none_or(|total| limit.max_wait < total)
        {
            let text = format!("waits up to {:?}, {attempt:?} for an attempt", limit.max_wait);
            found.warn("wait_above_attempt", "rate_limit.max_wait", text);
        }
    }

    fn lint_parts(&self, most: Option<u64>, found: &mut Findings) {
        if most != Some(1) && self.retry_budget.is_none() && self.backend.is_none() {
            let most = most.map_or("any number of".to_owned(), |most| most.to_string());
            let text = format!("{most} attempts for each call while the backend is down");
            found.warn("retry_without_budget", "retry_budget", text);
        }
        lint_patience(self.backend, self.total_timeout, found);
        let Some(breaker) = &self.breaker else { return };
        if self.backend.is_some() {
            let text =
                "while it is open calls that probe the backend fail, not tried again".to_owned();
            found.warn("breaker_beside_backend", "breaker", text);
        }
        if let Some(attempt) = self.attempt_timeout.filter(|time| breaker.open_for < *time) {
            let text =
                format!("open for {:?}, an attempt takes up to {attempt:?}", breaker.open_for);
            found.warn("open_below_attempt", "breaker.open_for", text);
        }
        if breaker.failure_rate.is_none() {
            return;
        }
        let least = breaker.min_calls;
        if let Some(calls) = breaker.window_calls {
            if calls < least {
                let text = format!("{calls} calls in the window, {least} needed");
                found.error("window_below_min_calls", "breaker.min_calls", text);
            }
            return;
        }
        if let Some(limit) = &self.rate_limit {
            let calls = calls_in(limit, breaker.window);
            if calls < f64::from(least) {
                let text =
                    format!("at most {calls:.0} calls in {:?}, {least} needed", breaker.window);
                found.warn("breaker_never_judges", "breaker.min_calls", text);
            }
        }
        if let Some(attempt) =
            self.attempt_timeout.filter(|time| breaker.window < time.saturating_mul(2))
        {
            let text = format!("{:?}, an attempt takes up to {attempt:?}", breaker.window);
            found.warn("breaker_window_short", "breaker.window", text);
        }
    }
}

fn lint_wait(limit: &RateLimitPlan, total: Duration, found: &mut Findings) {
    if limit.max_wait >= total {
        let text = format!("waits up to {:?}, {total:?} for the call", limit.max_wait);
        found.warn("wait_cannot_fit", "rate_limit.max_wait", text);
    }
}

fn lint_patience(backend: Option<BackendPlan>, total: Option<Duration>, found: &mut Findings) {
    if let (Some(own), Some(total)) = (backend.and_then(|backend| backend.patience), total)
        && own > total
    {
        let text = format!("waits up to {own:?}, {total:?} for the call");
        found.warn("patience_above_total", "backend.patience", text);
    }
}

impl Plan for ServerPlan {
    fn report(&self) -> Report {
        let mut found = Findings::default();
        if let (Some(limit), Some(timeout)) = (&self.rate_limit, self.timeout) {
            lint_wait(limit, timeout, &mut found);
        }
        lint_patience(self.backend, self.timeout, &mut found);
        if let (Some(limit), Some(budget)) = (&self.rate_limit, &self.failure_budget) {
            let calls = calls_in(limit, budget.window);
            let least = budget.min_samples;
            if calls < f64::from(least) {
                let text =
                    format!("at most {calls:.0} calls in {:?}, {least} needed", budget.window);
                found.warn("budget_never_judges", "failure_budget.min_samples", text);
            }
        }
        let wait = self.rate_limit.map_or(Duration::ZERO, |limit| limit.max_wait);
        Report {
            lints: found.0,
            worst_attempts: Some(1),
            amplification: Some(1.0),
            worst_latency: self.timeout.map(|timeout| timeout.saturating_add(wait)),
        }
    }
}
