//! What the commands that install and uninstall do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::command::{
    InstallCircuitBreaker, InstallFailureBudget, InstallNetworkConditioner, InstallRateLimit,
    InstallRetryPolicy, Uninstall,
};
use super::follow::GivenUp;
use super::registry::{Done, Registry};
use crate::circuit_breaker::CircuitBreaker;
use crate::conditioner::Conditioner;
use crate::error::ConfigError;
use crate::failure_budget::FailureBudget;
use crate::lever::Lever;
use crate::presets::cancelled_after;
use crate::rate_limit::{RateLimiter, WeakRateLimiter};
use crate::retry::RetryPolicy;
use crate::slot::Slot;
use crate::sync::lock;

impl Registry {
    pub(super) fn lever(&self, name: &str) -> Option<Arc<dyn Lever>> {
        lock(&self.places).levers.get(name).cloned()
    }

    /// A budget that is out of its slot lets go of its levers, unless another slot has it, too. Says whether there was one.
    pub(super) fn retire(&self, budget: Option<FailureBudget>) -> bool {
        let Some(budget) = budget else { return false };
        let slots: Vec<_> = lock(&self.places).failure_budgets.values().cloned().collect();
        if !slots.iter().filter_map(Slot::get).any(|there| there.is(&budget)) {
            budget.retire();
        }
        true
    }

    /// Calls that a conditioner holds up or lets hang must not outlive the command that ended it, unless another slot has
    /// it, too. Says whether there was one.
    pub(super) fn disarm(&self, conditioner: Option<Conditioner>) -> bool {
        let Some(conditioner) = conditioner else { return false };
        if !self.installed_faults().iter().any(|there| there.is(&conditioner)) {
            conditioner.disarm();
        }
        true
    }

    pub(super) fn install_circuit_breaker(
        &self,
        install: &InstallCircuitBreaker,
    ) -> Result<Done, ConfigError> {
        let (name, slot) = find(&lock(&self.places).circuit_breakers, install.target.as_deref())?;
        let settings = install.breaker.clone();
        let follows = settings.cancelled_after.is_none() && !settings.ignore_cancelled;
        let builder = move |name: &str, after: GivenUp| {
            let builder = settings.builder(name);
            match after {
                Some(after) => builder.cancelled_after(after),
                None => builder,
            }
        };
        let now = if follows { self.cancelled_after(&name) } else { None };
        let checked = builder(&name, now).unregistered().build();
        checked.map_err(|error| within("breaker", &error))?;
        let old = self.leaves(&name, slot.get().map(|old| old.managed()));
        let breaker = builder(&name, now).register_in(self).build();
        let out = breaker.as_ref().ok().and_then(|breaker| slot.install(breaker.clone()));
        self.left(old);
        let breaker = breaker?;
        self.note_made(breaker.managed());
        self.note_taken_out(&name, out.map(|out| out.managed()));
        self.sort_out();
        if follows {
            let is = CircuitBreaker::is;
            self.goes_by_stack((name, slot), breaker.weakly(), is, now, move |breaker, after| {
                // It differs from one that could be built in this time alone.
                let _ = breaker.reconfigure(builder(breaker.name(), after).unregistered());
            });
        }
        Ok(Done::Installed("CircuitBreaker"))
    }

    pub(super) fn uninstall_circuit_breaker(
        &self,
        uninstall: &Uninstall,
    ) -> Result<Done, ConfigError> {
        let (name, slot) = find(&lock(&self.places).circuit_breakers, uninstall.target.as_deref())?;
        let out = slot.uninstall();
        let was_installed = out.is_some();
        self.note_taken_out(&name, out.map(|out| out.managed()));
        self.sort_out();
        Ok(Done::Uninstalled { was_installed })
    }

    pub(super) fn install_rate_limit(
        &self,
        install: &InstallRateLimit,
    ) -> Result<Done, ConfigError> {
        let (name, slot) = find(&lock(&self.places).rate_limiters, install.target.as_deref())?;
        let checked = install.rate_limit.builder(&name).unregistered().build();
        checked.map_err(|error| within("rate_limit", &error))?;
        let old = self.leaves(&name, slot.get().map(|old| old.managed()));
        let limiter = install.rate_limit.builder(&name).register_in(self).build();
        let out = limiter.as_ref().ok().and_then(|limiter| slot.install(limiter.clone()));
        self.left(old);
        self.note_made(limiter?.managed());
        let before = lock(&self.places).replaced_limiters.remove(&name).unwrap_or_default();
        let (before, _awaited): (Vec<_>, Vec<_>) = (before.into_iter())
            .chain(out.iter().map(RateLimiter::downgrade))
            .filter_map(|it| it.awaited().map(|awaited| (it, awaited)))
            .unzip();
        self.note_taken_out(&name, out.map(|out| out.managed()));
        lock(&self.places).replaced_limiters.entry(name.clone()).or_default().extend(before);
        if !slot.holds(|_| true) {
            // Whoever has taken it out meanwhile has not seen them.
            self.release_replaced(&name, &slot);
        }
        self.sort_out();
        Ok(Done::Installed("RateLimiter"))
    }

    pub(super) fn uninstall_rate_limit(&self, uninstall: &Uninstall) -> Result<Done, ConfigError> {
        let (name, slot) = find(&lock(&self.places).rate_limiters, uninstall.target.as_deref())?;
        let out = slot.uninstall();
        // Nobody is to be held up by a limit that is not there any more. Who waits at it elsewhere still waits.
        out.iter().for_each(|it| it.release_waiting_by(&slot));
        self.release_replaced(&name, &slot);
        let was_installed = out.is_some();
        self.note_taken_out(&name, out.map(|out| out.managed()));
        self.sort_out();
        Ok(Done::Uninstalled { was_installed })
    }

    /// Lets go who waits, by this slot, at limiters that others have replaced in it.
    fn release_replaced(&self, name: &str, slot: &Slot<RateLimiter>) {
        let replaced = lock(&self.places).replaced_limiters.remove(name).unwrap_or_default();
        let replaced: Vec<_> = replaced.iter().filter_map(WeakRateLimiter::awaited).collect();
        replaced.iter().for_each(|it| it.release_waiting_by(slot));
    }

    pub(super) fn install_retry_policy(
        &self,
        install: &InstallRetryPolicy,
    ) -> Result<Done, ConfigError> {
        let (name, slot) = self.retry_policy_at(install.target.as_deref())?;
        let policy = &install.policy;
        let ends = [("attempt_timeout", policy.attempt_timeout()), ("deadline", policy.deadline())];
        for (field, after) in ends {
            // What the breaker and the linter go by are the timeouts of the file.
            if let Some(after) = after.filter(|after| cancelled_after(Some(*after)).is_some())
                && self.has_stack(&name)
            {
                let expected = "none below 2s: short timeouts of a stack are its configuration's, \
                                or its breaker would not count what is cut off";
                let error = ConfigError::new(field, format_args!("{after:?}"), expected);
                return Err(within("policy", &error));
            }
        }
        slot.install(*policy);
        Ok(Done::Installed("RetryPolicy"))
    }

    pub(super) fn install_failure_budget(
        &self,
        install: &InstallFailureBudget,
    ) -> Result<Done, ConfigError> {
        let (name, slot) = self.failure_budget_at(install.target.as_deref())?;
        let window = span("window_seconds", install.window_seconds, Duration::try_from_secs_f64)?;
        let InstallFailureBudget { threshold, min_samples, on_breach, .. } = *install;
        let settings = move |name: &str, after: GivenUp| {
            let builder = FailureBudget::builder(name.to_owned())
                .threshold(threshold)
                .window(window)
                .min_samples(min_samples)
                .action(on_breach);
            match after {
                Some(after) => builder.cancelled_after(after),
                None => builder,
            }
        };
        let now = self.cancelled_after(&name);
        let mut builder = settings(&name, now).register_in(self);
        for lever in self.levers(install.levers.as_deref())? {
            builder = builder.lever(lever);
        }
        let old = self.leaves(&name, slot.get().map(|old| old.managed()));
        let budget = builder.build();
        let out = budget.as_ref().ok().and_then(|budget| slot.install(budget.clone()));
        self.left(old);
        let budget = budget.map_err(|error| renamed(error, &[("window", "window_seconds")]))?;
        self.note_made(budget.managed());
        self.retire(out);
        self.sort_out();
        let is = FailureBudget::is;
        self.goes_by_stack((name, slot), budget.weakly(), is, now, move |budget, after| {
            let _ = budget.reconfigure(settings(budget.name(), after).unregistered());
        });
        Ok(Done::Installed("FailureBudget"))
    }

    pub(super) fn install_conditioner(
        &self,
        install: &InstallNetworkConditioner,
    ) -> Result<Done, ConfigError> {
        let (name, slot) = self.conditioner_at(install.target.as_deref())?;
        let ms = |ms: f64| Duration::try_from_secs_f64(ms / 1e3);
        let (latency, jitter) = (
            span("latency_ms", install.latency_ms, ms)?,
            span("jitter_ms", install.jitter_ms, ms)?,
        );
        if !(0.0..=1.0).contains(&install.loss_rate) {
            return Err(ConfigError::new("loss_rate", install.loss_rate, "a share from 0 to 1"));
        }
        let old = self.leaves(&name, slot.get().map(|old| old.managed()));
        let built = Conditioner::builder(name)
            .register_in(self)
            .network(latency, jitter, install.loss_rate, install.name_filter.as_deref())
            .build()
            .map_err(|error| renamed(error, &[("latency", "latency_ms"), ("jitter", "jitter_ms")]))
            .and_then(|faults| match faults.arm() {
                Ok(_) => Ok(faults),
                // It names no environments that it could be outside of.
                Err(error) => Err(ConfigError::new("environment", error, "one it may arm in")),
            });
        let out = built.as_ref().ok().and_then(|faults| slot.install(faults.clone()));
        self.left(old);
        self.note_made(built?.managed());
        self.disarm(out);
        self.sort_out();
        Ok(Done::Installed("Conditioner"))
    }

    pub(super) fn failure_budget_at(
        &self,
        target: Option<&str>,
    ) -> Result<(String, Slot<FailureBudget>), ConfigError> {
        find(&lock(&self.places).failure_budgets, target)
    }

    pub(super) fn conditioner_at(
        &self,
        target: Option<&str>,
    ) -> Result<(String, Slot<Conditioner>), ConfigError> {
        find(&lock(&self.places).conditioners, target)
    }

    pub(super) fn retry_policy_at(
        &self,
        target: Option<&str>,
    ) -> Result<(String, Slot<RetryPolicy>), ConfigError> {
        find(&lock(&self.places).retry_policies, target)
    }

    fn levers(&self, names: Option<&[String]>) -> Result<Vec<Arc<dyn Lever>>, ConfigError> {
        let places = lock(&self.places);
        let Some(names) = names else { return Ok(places.levers.values().cloned().collect()) };
        let mut levers = Vec::new();
        for name in names {
            let lever = places.levers.get(name).ok_or_else(|| {
                ConfigError::new("levers", format_args!("{name:?}"), one_of(&places.levers))
            })?;
            levers.push(Arc::clone(lever));
        }
        Ok(levers)
    }
}

fn find<T>(
    slots: &BTreeMap<String, Slot<T>>,
    target: Option<&str>,
) -> Result<(String, Slot<T>), ConfigError> {
    let found = match target {
        Some(name) => slots.get_key_value(name),
        None if slots.len() == 1 => slots.iter().next(),
        None => None,
    };
    found.map(|(name, slot)| (name.clone(), slot.clone())).ok_or_else(|| match target {
        Some(name) => ConfigError::new("target", format_args!("{name:?}"), one_of(slots)),
        None => ConfigError::new("target", "none", one_of(slots)),
    })
}

fn one_of<T>(known: &BTreeMap<String, T>) -> String {
    match known.len() {
        0 => "one that the program has made, and it has made none; stacks from a configuration bring \
              theirs when they are registered in this registry"
            .to_owned(),
        _ => {
            let names: Vec<_> = known.keys().map(|name| format!("{name:?}")).collect();
            format!("one of {}", names.join(", "))
        }
    }
}

/// The same error under the name that the argument has in a command.
fn renamed(error: ConfigError, names: &[(&str, &'static str)]) -> ConfigError {
    match names.iter().find(|(name, _)| *name == error.field()) {
        Some((_, name)) => ConfigError::new(*name, error.value(), error.expected().to_owned()),
        None => error,
    }
}

fn span<E>(
    field: &'static str,
    value: f64,
    convert: impl FnOnce(f64) -> Result<Duration, E>,
) -> Result<Duration, ConfigError> {
    convert(value).map_err(|_| {
        ConfigError::new(field, value, "a finite number, at least 0 and below 584 years")
    })
}

/// The same error of a key in a block.
pub(super) fn within(block: &str, error: &ConfigError) -> ConfigError {
    let field = format!("{block}.{}", error.field());
    ConfigError::new(field, error.value(), error.expected().to_owned())
}
