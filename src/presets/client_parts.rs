//! The objects of a client.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::plan::ClientPlan;
use crate::admission::Admission;
use crate::backend::Backend;
use crate::budget::RetryBudget;
use crate::circuit_breaker::CircuitBreaker;
use crate::control::Registry;
use crate::endpoints::EndpointsBuilder;
use crate::error::ConfigError;
use crate::hedge::{Hedge, HedgeBuilder};
use crate::name::Name;
use crate::rate_limit::RateLimiter;
use crate::retry::{RetryLayer, RetryPolicy};
use crate::timeout::Timeout;

/// The objects of a client.
#[derive(Clone, Debug)]
pub(crate) struct ClientParts {
    pub(super) name: Name,
    pub(crate) total: Option<Timeout>,
    pub(super) policy: Option<RetryPolicy>,
    pub(crate) budget: Option<RetryBudget>,
    pub(crate) limiter: Option<(RateLimiter, Duration)>,
    pub(super) admission: Option<Admission>,
    pub(super) hedge: Option<Hedging>,
    pub(super) endpoints: EndpointsBuilder,
    pub(crate) attempt: Option<Timeout>,
    pub(crate) breaker: Option<CircuitBreaker>,
    /// The budget of the backend, whether it is the one in use or not.
    #[cfg(feature = "config")]
    pub(super) paid: Option<RetryBudget>,
    /// Those of a stack whose parts are exchanged.
    #[cfg(feature = "config")]
    pub(super) pools: crate::endpoints::Pools,
    /// What the configuration says of them, of a stack whose parts are exchanged: one may have taken in the other.
    #[cfg(feature = "config")]
    pub(super) written: (Option<RetryPolicy>, Option<Timeout>),
    /// Of a stack whose parts are exchanged.
    #[cfg(feature = "config")]
    pub(super) record: Option<crate::retry::Record>,
    /// As long as these are the parts, it has what a command or the configuration puts there.
    #[cfg(feature = "config")]
    pub(crate) faults: crate::slot::Slot<crate::conditioner::Conditioner>,
}

/// A hedge that is made with the first service or pool.
#[derive(Clone, Debug)]
pub(super) struct Hedging {
    pub(super) builder: HedgeBuilder,
    pub(super) made: Arc<MadeHedge>,
}

/// The hedge of a client, whatever its parts are by and by.
#[derive(Debug, Default)]
pub(super) struct MadeHedge {
    hedge: OnceLock<Hedge>,
    /// What it goes by, if that is not what its first parts say: whoever makes it may still have those.
    #[cfg(feature = "config")]
    latest: crate::sync::Mutex<Latest>,
}

#[cfg(feature = "config")]
#[derive(Debug, Default)]
enum Latest {
    #[default]
    First,
    Changed(HedgeBuilder),
    /// The configuration has none any more.
    Gone,
}

impl MadeHedge {
    pub(super) fn get(&self) -> Option<&Hedge> {
        self.hedge.get()
    }

    fn get_or_make(&self, builder: impl FnOnce() -> HedgeBuilder) -> Hedge {
        if let Some(hedge) = self.get() {
            return hedge.clone();
        }
        #[cfg(feature = "config")]
        let latest = crate::sync::lock(&self.latest);
        #[cfg(feature = "config")]
        let builder = || match &*latest {
            Latest::First => builder(),
            Latest::Changed(builder) => builder.clone(),
            // For a service that does not know it yet. No registry is to show that one.
            Latest::Gone => builder().unregistered(),
        };
        self.hedge.get_or_init(|| builder().make()).clone()
    }

    /// Its numbers have been checked.
    #[cfg(feature = "config")]
    pub(super) fn reconfigure(&self, builder: HedgeBuilder) {
        let mut latest = crate::sync::lock(&self.latest);
        let before = std::mem::replace(&mut *latest, Latest::Changed(builder.clone()));
        let _ = self.get().map(|hedge| hedge.reconfigure(builder));
        drop(latest);
        drop(before);
    }
}

#[cfg(feature = "config")]
impl MadeHedge {
    /// It is in no configuration any more.
    pub(super) fn end(&self, home: &crate::managed::Home) {
        let mut latest = crate::sync::lock(&self.latest);
        let before = std::mem::replace(&mut *latest, Latest::Gone);
        if let Some(hedge) = self.get() {
            hedge.forget(home);
        }
        drop(latest);
        drop(before);
    }
}

impl Hedging {
    /// # Errors
    /// If a number is out of its range.
    fn new(builder: HedgeBuilder) -> Result<Self, ConfigError> {
        builder.check()?;
        Ok(Self { builder, made: Arc::default() })
    }

    /// Paid from the headroom of `backend`.
    pub(super) fn get(&self, backend: Option<&Backend>, budget: Option<&RetryBudget>) -> Hedge {
        self.made.get_or_make(|| self.paid(backend, budget))
    }

    pub(super) fn paid(
        &self,
        backend: Option<&Backend>,
        budget: Option<&RetryBudget>,
    ) -> HedgeBuilder {
        let mut builder = self.builder.clone();
        if let Some(budget) = budget {
            builder = builder.budget(budget.clone());
        }
        if let Some(backend) = backend.cloned() {
            builder = builder.gate(move || backend.has_headroom());
        }
        builder
    }
}

impl ClientParts {
    /// What only this plan can have: the backend and the retries that it pays for, hedges, endpoints.
    ///
    /// # Errors
    /// If a value is out of range.
    pub(crate) fn of(plan: &ClientPlan, registry: Option<&Registry>) -> Result<Self, ConfigError> {
        let name = Name::from(plan.name.clone());
        let backend = plan.backend.map(|backend| backend.build(name, plan.patience()));
        let admission = backend.transpose()?.map(|admission| match registry {
            Some(registry) => admission.move_to(registry.home()),
            None => admission,
        });
        if let Some(admission) = &admission {
            // What it asks for is asked of this process, not of one of many callers.
            admission.backend().learn_quota();
        }
        let budget = admission.as_ref().map(|admission| admission.backend().retry_budget());
        let mut endpoints = plan.endpoints.builder(name);
        let mut hedge = plan.hedge.map(|hedge| hedge.builder(name));
        if let Some(registry) = registry {
            endpoints = endpoints.register_in(registry);
            hedge = hedge.map(|hedge| hedge.register_in(registry));
        }
        endpoints.check()?;
        Ok(Self {
            policy: plan.policy(),
            #[cfg(feature = "config")]
            paid: budget.clone(),
            budget,
            admission,
            hedge: hedge.map(Hedging::new).transpose()?,
            ..Self::none(name, endpoints)
        })
    }

    pub(super) fn none(name: Name, endpoints: EndpointsBuilder) -> Self {
        Self {
            name,
            total: None,
            policy: None,
            budget: None,
            limiter: None,
            admission: None,
            hedge: None,
            endpoints,
            attempt: None,
            breaker: None,
            #[cfg(feature = "config")]
            paid: None,
            #[cfg(feature = "config")]
            pools: crate::endpoints::Pools::default(),
            #[cfg(feature = "config")]
            written: (None, None),
            #[cfg(feature = "config")]
            record: None,
            #[cfg(feature = "config")]
            faults: crate::slot::Slot::new(),
        }
    }

    pub(super) fn retry(&self, policy: RetryPolicy) -> RetryLayer {
        #[cfg(feature = "config")]
        if let Some(record) = &self.record {
            return record.layer(policy, self.budget.clone());
        }
        let layer = RetryLayer::new(policy).name(self.name);
        match &self.budget {
            Some(budget) => layer.budget(budget.clone()),
            None => layer.without_budget(),
        }
    }

    /// # Errors
    /// If the attempt timeout is none that a policy can have.
    pub(crate) fn settled(mut self) -> Result<Self, ConfigError> {
        if self.admission.is_none()
            && let (Some(policy), Some(attempt)) = (self.policy, self.attempt)
            && let Some(after) = attempt.duration()
        {
            // Nobody waits inside of the retry: it can end attempts itself, whatever errors look like.
            let after = policy.attempt_timeout().map_or(after, |own| own.min(after));
            self.policy = Some(policy.to_builder().attempt_timeout(after).build()?);
            self.attempt = None;
        }
        Ok(self)
    }
}

#[cfg(all(test, feature = "config"))]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_comes_late_registers_no_hedge_that_is_gone() {
        let registry = Registry::new();
        let builder = || Hedge::builder("db").register_in(&registry);
        let made = MadeHedge::default();
        made.get_or_make(builder);
        assert_eq!(registry.status().objects.len(), 1);
        made.end(&registry.home());
        assert_eq!(registry.status().objects.len(), 0);

        let made = MadeHedge::default();
        made.end(&registry.home());
        let late = made.get_or_make(builder);
        assert_eq!((late.name(), registry.status().objects.len()), ("db", 0));
    }
}
