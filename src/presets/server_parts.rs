//! The objects of a server.

use std::time::Duration;

use super::plan::ServerPlan;
use crate::admission::Admission;
use crate::control::Registry;
use crate::error::ConfigError;
use crate::failure_budget::FailureBudget;
use crate::name::Name;
use crate::rate_limit::RateLimiter;
use crate::slot::Slot;
use crate::timeout::Timeout;

/// The objects of a server.
#[derive(Clone, Debug)]
pub(crate) struct ServerParts {
    pub(super) name: Name,
    pub(super) limiter: Option<(RateLimiter, Duration)>,
    pub(super) timeout: Option<Timeout>,
    pub(super) admission: Option<Admission>,
    /// That of the plan.
    pub(super) planned: Option<FailureBudget>,
    /// Where the layers look for it. As long as these are the parts of a stack from a configuration, it has what a
    /// command or the configuration puts there.
    pub(crate) budget: Slot<FailureBudget>,
    /// As long as these are the parts, it has what a command or the configuration puts there.
    #[cfg(feature = "config")]
    pub(crate) faults: Slot<crate::conditioner::Conditioner>,
}

impl ServerParts {
    /// What nobody else can have: the timeout, and what is known of the handlers.
    ///
    /// # Errors
    /// If a value is out of range.
    pub(crate) fn of(plan: &ServerPlan, registry: Option<&Registry>) -> Result<Self, ConfigError> {
        let name = Name::from(plan.name.clone());
        let patience = plan.patience();
        let admission = plan.backend.map(|backend| backend.build(name, patience)).transpose()?;
        let admission = admission.map(|admission| match registry {
            Some(registry) => admission.move_to(registry.home()),
            None => admission,
        });
        if let Some(admission) = &admission {
            admission.backend().be_local();
        }
        Ok(Self {
            timeout: plan.timeout.map(|after| Timeout::new(name, after)).transpose()?,
            admission,
            ..Self::none(name)
        })
    }

    pub(super) fn none(name: Name) -> Self {
        Self {
            name,
            limiter: None,
            timeout: None,
            admission: None,
            planned: None,
            budget: Slot::new(),
            #[cfg(feature = "config")]
            faults: Slot::new(),
        }
    }
}
