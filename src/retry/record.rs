//! Retries whose policy and budget are exchanged together with the stack that they are a part of.

use std::sync::Arc;

use super::managed::Tally;
use super::{RetryLayer, RetryPolicy};
use crate::budget::RetryBudget;
use crate::managed::Home;
use crate::name::Name;
use crate::observe::Observers;
use crate::slot::Slot;

/// What is counted of a stack's retries, whatever they go by.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    tally: Arc<Tally>,
    observers: Observers,
}

impl Record {
    pub(crate) fn new(name: Name, home: Home) -> Self {
        let mut observers = Observers::default();
        observers.move_to(home);
        let tally = Arc::new(Tally::new(name, Slot::new(), None));
        observers.register(&tally);
        Self { tally, observers }
    }

    pub(crate) fn layer(&self, policy: RetryPolicy, budget: Option<RetryBudget>) -> RetryLayer {
        RetryLayer::counting(&self.tally, &self.observers, policy, budget)
    }

    /// What a registry says of it from now on.
    pub(crate) fn show(&self, policy: RetryPolicy, budget: Option<&RetryBudget>) {
        self.tally.show(policy, budget);
    }

    /// The stack has no retries any more.
    pub(crate) fn forget(&self) {
        self.observers.forget(&self.tally);
    }
}
