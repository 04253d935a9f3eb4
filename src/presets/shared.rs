use super::lint::{LintSeverity, Plan, lint};
use super::optional::Optional;
use crate::error::ConfigError;
use crate::rate_limit::{RateLimitLayer, RateLimiter, Wait};

pub(super) fn checked<P: Plan>(plan: &P) -> Result<(), ConfigError> {
    match lint(plan).into_iter().find(|lint| lint.severity == LintSeverity::Error) {
        Some(lint) => Err(ConfigError::new(lint.field, lint.text, format!("no {}", lint.rule))),
        None => Ok(()),
    }
}

pub(super) type Limited<R> = Optional<RateLimitLayer<RateLimiter, R, Wait>, R>;

pub(super) fn limited<R: Clone>(
    limiter: Option<&(RateLimiter, std::time::Duration)>,
    reject: &R,
) -> Limited<R> {
    Optional::new(limiter.map(|(limiter, wait)| {
        RateLimitLayer::new(limiter.clone()).wait(*wait).on_reject(reject.clone())
    }))
}
