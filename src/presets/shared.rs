use super::lint::{LintSeverity, Plan, lint};
use crate::error::ConfigError;
use crate::rate_limit::{RateLimitLayer, RateLimiter, Wait};

pub(super) fn checked<P: Plan>(plan: &P) -> Result<(), ConfigError> {
    match lint(plan).into_iter().find(|lint| lint.severity == LintSeverity::Error) {
        Some(lint) => Err(ConfigError::new(lint.field, lint.text, format!("no {}", lint.rule))),
        None => Ok(()),
    }
}

pub(super) type Limited<R> = RateLimitLayer<RateLimiter, R, Wait>;

pub(super) fn limited<R: Clone>(
    limiter: Option<&(RateLimiter, std::time::Duration)>,
    reject: &R,
) -> Limited<R> {
    let wait = limiter.map_or(std::time::Duration::ZERO, |(_, wait)| *wait);
    let limiter = limiter.map(|(limiter, _)| limiter.clone());
    RateLimitLayer::maybe(limiter).wait(wait).on_reject(reject.clone())
}
