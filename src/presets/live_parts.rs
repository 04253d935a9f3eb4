//! What parts keep from one configuration to the next.

use std::sync::Arc;
use std::time::Duration;

use super::client::ClientLayer;
use super::client_parts::ClientParts;
use super::live::{Live, Parts};
use super::part::Faults;
use super::server::ServerLayer;
use super::server_parts::ServerParts;
use crate::admission::Admission;
use crate::circuit_breaker::CircuitBreaker;
use crate::conditioner::Conditioner;
use crate::endpoints::Endpoints;
use crate::error::ConfigError;
use crate::managed::Home;
use crate::name::Name;
use crate::rate_limit::RateLimiter;
use crate::retry::{Record, RetryPolicy};
use crate::slot::Slot;

/// What is to be done outside of all locks before new parts take the place of old ones.
pub(crate) type PartsChange = Box<dyn FnOnce() + Send>;

impl ClientParts {
    /// Takes the backend of `before`, with what has been learned of it. Changes nothing yet: the result does.
    pub(crate) fn keep_backend(&mut self, before: Option<&Self>) -> Option<PartsChange> {
        let (new, old) = (self.admission.as_ref()?, before?.admission.as_ref()?);
        let (fixed, backend) = (new.backend().fixed_limit(), old.backend().clone());
        self.admission = Some(new.around(&backend));
        self.paid = before.and_then(|before| before.paid.clone());
        self.budget = self.paid.clone();
        Some(Box::new(move || backend.fix(fixed)))
    }

    /// The same for the rest that nobody shares: hedge, pools. Once all else is there.
    pub(crate) fn keep(&mut self, before: Option<&Self>, home: &Home) -> Vec<PartsChange> {
        let mut changes: Vec<PartsChange> = Vec::new();
        if let Some(before) = before {
            if let (None, Some(gone)) = (&self.admission, &before.admission) {
                let (backend, home) = (gone.backend().clone(), home.clone());
                let paid = before.paid.clone();
                changes.push(Box::new(move || {
                    backend.forget(&home);
                    paid.inspect(|budget| budget.forget(&home));
                }));
            }
            changes.extend(self.keep_hedge(before, home));
            self.pools = before.pools.clone();
            let (pools, endpoints) = (self.pools.clone(), self.endpoints.clone());
            changes.push(Box::new(move || pools.reconfigure(&endpoints)));
        }
        changes
    }

    /// The policy that the configuration has for it. It has been checked that it goes with the timeouts.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn note_policy(&mut self) -> Result<Option<RetryPolicy>, ConfigError> {
        self.clone().settled()?;
        self.written = (self.policy, self.attempt);
        Ok(self.policy)
    }

    /// Goes by this policy from now on, and shows it.
    fn go_by(&mut self, policy: Option<RetryPolicy>, home: &Home) {
        (self.policy, self.attempt) = (policy, self.written.1);
        // Where an attempt timeout does not go with a policy, it stays a layer.
        if let Ok(settled) = self.clone().settled() {
            *self = settled;
        }
        match (self.policy, self.record.take()) {
            (None, Some(record)) if self.written.0.is_none() => record.forget(),
            (None, None) => {}
            (policy, record) => {
                let record = record.unwrap_or_else(|| Record::new(self.name, home.clone()));
                record.show(policy.unwrap_or(RetryPolicy::NO_RETRY), self.budget.as_ref());
                self.record = Some(record);
            }
        }
    }

    fn keep_hedge(&mut self, before: &Self, home: &Home) -> Option<PartsChange> {
        let old = Arc::clone(&before.hedge.as_ref()?.made);
        let Some(hedge) = &mut self.hedge else {
            let home = home.clone();
            return Some(Box::new(move || old.end(&home)));
        };
        hedge.made = Arc::clone(&old);
        let backend = self.admission.as_ref().map(Admission::backend);
        let builder = hedge.paid(backend, self.budget.as_ref());
        Some(Box::new(move || old.reconfigure(builder)))
    }
}

impl ServerParts {
    /// Takes the backend of `before`, with what has been learned of it, or lets it go. Changes nothing yet: the result does.
    pub(crate) fn keep(&mut self, before: Option<&Self>, home: &Home) -> Option<PartsChange> {
        let old = before?.admission.as_ref()?.backend().clone();
        let Some(new) = &self.admission else {
            let home = home.clone();
            return Some(Box::new(move || old.forget(&home)));
        };
        let fixed = new.backend().fixed_limit();
        self.admission = Some(new.around(&old));
        Some(Box::new(move || old.fix(fixed)))
    }
}

impl Live<ClientLayer> {
    /// A client that finds its parts there.
    pub(crate) fn client(
        name: Name,
        slot: Slot<Parts>,
    ) -> Live<
        ClientLayer<
            crate::AnyError,
            crate::retry::CloneRequest,
            crate::NoContext,
            crate::AsError,
            Faults,
        >,
    > {
        let layer = ClientLayer::of(ClientParts::none(name, Endpoints::<()>::builder(name)));
        let layer = layer.conditioner(Slot::<Conditioner>::new());
        Live { layer, slot }
    }
}

impl Live<ServerLayer> {
    /// A server that finds its parts there.
    pub(crate) fn server(
        name: Name,
        slot: Slot<Parts>,
    ) -> Live<ServerLayer<crate::AnyError, crate::NoContext, crate::AsError, super::Absent, Faults>>
    {
        let layer = ServerLayer::of(ServerParts::none(name));
        let layer = layer.conditioner(Slot::<Conditioner>::new());
        Live { layer, slot }
    }
}

impl Parts {
    /// A limiter is among the parts, or none.
    pub(crate) fn set_limiter(&mut self, limiter: Option<&RateLimiter>) {
        let limiter = limiter.map(|it| (it.clone(), Duration::ZERO));
        match self {
            Self::Client(parts) => parts.limiter = limiter,
            Self::Server(parts) => parts.limiter = limiter,
        }
    }

    /// Calls are tried again by this policy, or not at all. Servers do not.
    pub(crate) fn set_policy(&mut self, policy: Option<&RetryPolicy>, home: &Home) {
        if let Self::Client(parts) = self {
            parts.go_by(policy.copied(), home);
        }
    }

    /// What is counted of retries goes on in these.
    pub(crate) fn keep_record(&mut self, before: Option<&Self>) {
        if let (Self::Client(parts), Some(Self::Client(before))) = (self, before) {
            parts.record.clone_from(&before.record);
        }
    }

    /// A breaker is among the parts, or none. Servers have no place for one.
    pub(crate) fn set_breaker(&mut self, breaker: Option<&CircuitBreaker>) {
        if let Self::Client(parts) = self {
            parts.breaker = breaker.cloned();
        }
    }
}

impl<L> Live<L> {
    pub(crate) fn parts_slot(&self) -> &Slot<Parts> {
        &self.slot
    }
}
