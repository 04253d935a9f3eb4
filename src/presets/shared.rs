use super::lint::{LintSeverity, Plan, lint};
use crate::error::ConfigError;
use crate::rate_limit::{RateLimitLayer, RateLimiter, Wait};

pub(super) fn checked<P: Plan>(plan: &P) -> Result<(), ConfigError> {
    match lint(plan).into_iter().find(|lint| lint.severity == LintSeverity::Error) {
        Some(lint) => Err(ConfigError::new(lint.field, lint.text, format!("no {}", lint.rule))),
        None => Ok(()),
    }
}

pub(super) type Limited<X, R> = RateLimitLayer<RateLimiter, R, Wait<X>>;

pub(super) fn limited<X: Clone, R: Clone>(
    limiter: Option<&(RateLimiter, std::time::Duration)>,
    context: &X,
    reject: &R,
) -> Limited<X, R> {
    let wait = limiter.map_or(std::time::Duration::ZERO, |(_, wait)| *wait);
    let limiter = limiter.map(|(limiter, _)| limiter.clone());
    let layer = RateLimitLayer::maybe(limiter).wait(wait);
    layer.context(context.clone()).on_reject(reject.clone())
}
