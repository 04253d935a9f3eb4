//! What a registry shows of a retry.

use std::sync::atomic::{AtomicU64, Ordering};

use super::RetryPolicy;
use crate::budget::RetryBudget;
use crate::managed::{Managed, ObjectStatus};
use crate::name::{LayerKind, Name};
use crate::slot::Slot;

/// What came of failures. First attempts that work are not counted: they cost nothing here.
#[derive(Debug)]
pub(super) struct Tally {
    name: Name,
    policy: Slot<RetryPolicy>,
    budget: Slot<Name>,
    retried: AtomicU64,
    recovered: AtomicU64,
    abandoned: AtomicU64,
}

impl Tally {
    /// `policy`: the one in force, whichever that is.
    pub(super) fn new(name: Name, policy: Slot<RetryPolicy>, budget: Option<&RetryBudget>) -> Self {
        Self {
            name,
            policy,
            budget: budget.map_or_else(Slot::new, |budget| Slot::with(budget.name().into())),
            retried: AtomicU64::new(0),
            recovered: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
        }
    }

    /// That from now on.
    #[cfg(feature = "config")]
    pub(super) fn show(&self, policy: RetryPolicy, budget: Option<&RetryBudget>) {
        self.policy.install(policy);
        match budget {
            Some(budget) => self.budget.install(budget.name().into()),
            None => self.budget.uninstall(),
        };
    }

    pub(super) fn retried(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn recovered(&self) {
        self.recovered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn abandoned(&self) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn describe(&self) -> ObjectStatus {
        let policy = self.policy.get().unwrap_or(RetryPolicy::NO_RETRY);
        let attempts = match policy.max_attempts() {
            Some(most) => format!("at most {most}"),
            None => "as many as the other limits allow".to_owned(),
        };
        let mut status = ObjectStatus::new(if policy.can_retry() { "active" } else { "off" })
            .counter("retried", self.retried.load(Ordering::Relaxed))
            .counter("recovered", self.recovered.load(Ordering::Relaxed))
            .counter("abandoned", self.abandoned.load(Ordering::Relaxed))
            .fact("attempts", attempts);
        if let Some(deadline) = policy.deadline() {
            status = status.fact("deadline", format!("{deadline:?}"));
        }
        if let Some(timeout) = policy.attempt_timeout() {
            status = status.fact("attempt timeout", format!("{timeout:?}"));
        }
        let budget = self.budget.get();
        status.fact("budget", budget.map_or("none", |name| name.as_str()))
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    #[cfg(feature = "config")]
    pub(super) const fn label(&self) -> Name {
        self.name
    }
}

impl Managed for Tally {
    fn kind(&self) -> LayerKind {
        LayerKind::Retry
    }

    fn name(&self) -> &str {
        self.name()
    }

    fn describe(&self) -> ObjectStatus {
        self.describe()
    }
}

impl Managed for super::service::Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::Retry
    }

    fn name(&self) -> &str {
        self.tally.name()
    }

    fn describe(&self) -> ObjectStatus {
        self.tally.describe()
    }
}
