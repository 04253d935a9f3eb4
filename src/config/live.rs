//! How objects that run go by other settings.

use super::build;
use super::made::Object;
use super::settings::Config;
use super::stacks::Written;
use crate::error::ConfigError;

/// Changes one object. It has been checked: an error means that the object cannot do that while it runs.
pub(super) type Step = Box<dyn FnOnce() -> Result<(), ConfigError> + Send>;

/// A kind of object that can go by another block while it runs.
pub(super) trait Live {
    /// Keys that only a new object would go by.
    const FIXED: &'static [&'static str];

    /// Checks the settings, and changes nothing yet.
    fn prepare(&self, config: &Config, at: &Written<'_>) -> Result<Step, ConfigError>;
}

impl Live for crate::circuit_breaker::CircuitBreaker {
    const FIXED: &'static [&'static str] = &["seed"];

    fn prepare(&self, config: &Config, at: &Written<'_>) -> Result<Step, ConfigError> {
        config.breaker_at(at)?.unregistered().build()?;
        let (breaker, builder) = (self.clone(), config.breaker_at(at)?);
        let shadow = at.block.flag("shadow").unwrap_or(false);
        Ok(Box::new(move || {
            breaker.reconfigure(builder)?;
            breaker.set_shadow(shadow);
            Ok(())
        }))
    }
}

impl Live for crate::rate_limit::RateLimiter {
    const FIXED: &'static [&'static str] = &["initial_tokens"];

    fn prepare(&self, _: &Config, at: &Written<'_>) -> Result<Step, ConfigError> {
        build::limiter(at.name, at.block)?.unregistered().build()?;
        let (limiter, builder) = (self.clone(), build::limiter(at.name, at.block)?);
        Ok(Box::new(move || limiter.reconfigure(builder)))
    }
}

impl Live for crate::budget::RetryBudget {
    const FIXED: &'static [&'static str] = &["floor", "initial_tokens"];

    fn prepare(&self, _: &Config, at: &Written<'_>) -> Result<Step, ConfigError> {
        build::retry_budget(at.name, at.block)?.unregistered().build()?;
        let (budget, builder) = (self.clone(), build::retry_budget(at.name, at.block)?);
        Ok(Box::new(move || budget.reconfigure(builder)))
    }
}

impl Live for crate::failure_budget::FailureBudget {
    const FIXED: &'static [&'static str] = &[];

    fn prepare(&self, config: &Config, at: &Written<'_>) -> Result<Step, ConfigError> {
        config.failure_budget_at(at)?.unregistered().build()?;
        let (budget, builder) = (self.clone(), config.failure_budget_at(at)?);
        Ok(Box::new(move || budget.reconfigure(builder)))
    }
}

impl Live for crate::conditioner::Conditioner {
    const FIXED: &'static [&'static str] = &[];

    fn prepare(&self, _: &Config, at: &Written<'_>) -> Result<Step, ConfigError> {
        build::conditioner(at.name, at.block)?.unregistered().build()?;
        let (faults, builder) = (self.clone(), build::conditioner(at.name, at.block)?);
        Ok(Box::new(move || faults.reconfigure(builder)))
    }
}

impl Object {
    pub(super) fn prepare(&self, config: &Config, at: &Written<'_>) -> Result<Step, ConfigError> {
        match self {
            Self::Breaker(breaker) => breaker.prepare(config, at),
            Self::Limiter(limiter) => limiter.prepare(config, at),
            Self::RetryBudget(budget) => budget.prepare(config, at),
            Self::FailureBudget(budget) => budget.prepare(config, at),
            Self::Conditioner(conditioner) => conditioner.prepare(config, at),
        }
    }

    /// Whether it goes by this key of its block only from its beginning.
    pub(super) fn is_fixed(&self, key: &str) -> bool {
        fn fixed<L: Live>(_: &L) -> &'static [&'static str] {
            L::FIXED
        }
        let fixed = match self {
            Self::Breaker(it) => fixed(it),
            Self::Limiter(it) => fixed(it),
            Self::RetryBudget(it) => fixed(it),
            Self::FailureBudget(it) => fixed(it),
            Self::Conditioner(it) => fixed(it),
        };
        fixed.contains(&key.split(['.', '[']).next().unwrap_or_default())
    }
}
