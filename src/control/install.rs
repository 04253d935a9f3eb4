//! What the commands that install and uninstall do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::command::{
    InstallCircuitBreaker, InstallFailureBudget, InstallNetworkConditioner, InstallRateLimit,
    Uninstall,
};
use super::registry::{Done, Registry};
use crate::circuit_breaker::CircuitBreaker;
use crate::conditioner::Conditioner;
use crate::error::ConfigError;
use crate::failure_budget::FailureBudget;
use crate::lever::Lever;
use crate::presets::cancelled_after;
use crate::rate_limit::RateLimiter;
use crate::retry::RetryPolicy;
use crate::slot::Slot;
use crate::sync::lock;

/// Slots by name, of objects that are in no registry's hands once they are out of theirs.
pub(super) struct Slots<T> {
    slots: BTreeMap<String, Slot<T>>,
    /// What commands have made for them, as long as it is in one.
    made: Vec<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: BTreeMap::new(), made: Vec::new() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Slots<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slots.fmt(f)
    }
}

impl<T: Clone> Slots<T> {
    pub(super) fn slot(&mut self, name: &str) -> Slot<T> {
        self.slots.entry(name.to_owned()).or_default().clone()
    }

    fn find(&self, target: Option<&str>) -> Result<(String, Slot<T>), ConfigError> {
        find(&self.slots, target)
    }

    /// Whether it is in one of them.
    fn has(&self, is: impl Fn(&T) -> bool) -> bool {
        self.slots.values().filter_map(Slot::get).any(|there| is(&there))
    }

    /// Takes out those that commands have made and that are in no slot any more: nobody else has them. After anything has been
    /// put in or taken out, so whoever comes last sees what is in none. The second are others, to be dropped when no lock is held.
    fn take_gone(&mut self, is: impl Fn(&T, &T) -> bool) -> (Vec<T>, Vec<T>) {
        let there: Vec<_> = self.slots.values().filter_map(Slot::get).collect();
        let gone = |made: &mut T| !there.iter().any(|there| is(there, made));
        (self.made.extract_if(.., gone).collect(), there)
    }
}

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
        let (name, slot) = lock(&self.places).circuit_breakers.find(install.target.as_deref())?;
        let mut settings = install.breaker.clone();
        if settings.cancelled_after.is_none() && !settings.ignore_cancelled {
            settings.cancelled_after = cancelled_after(self.given_up(&name));
        }
        let breaker = settings.builder(&name).register_in(self).build();
        let breaker = breaker.map_err(|error| within("breaker", &error))?;
        let out = slot.install(breaker.clone());
        lock(&self.places).circuit_breakers.made.push(breaker);
        drop(out);
        self.forget_gone();
        Ok(Done::Installed("CircuitBreaker"))
    }

    pub(super) fn uninstall_circuit_breaker(
        &self,
        uninstall: &Uninstall,
    ) -> Result<Done, ConfigError> {
        let (_, slot) = lock(&self.places).circuit_breakers.find(uninstall.target.as_deref())?;
        let was_installed = slot.uninstall().is_some();
        self.forget_gone();
        Ok(Done::Uninstalled { was_installed })
    }

    pub(super) fn install_rate_limit(
        &self,
        install: &InstallRateLimit,
    ) -> Result<Done, ConfigError> {
        let (name, slot) = lock(&self.places).rate_limiters.find(install.target.as_deref())?;
        let limiter = install.rate_limit.builder(&name).register_in(self).build();
        let limiter = limiter.map_err(|error| within("rate_limit", &error))?;
        let out = slot.install(limiter.clone());
        lock(&self.places).rate_limiters.made.push(limiter);
        drop(out);
        self.forget_gone();
        Ok(Done::Installed("RateLimiter"))
    }

    pub(super) fn uninstall_rate_limit(&self, uninstall: &Uninstall) -> Result<Done, ConfigError> {
        let (_, slot) = lock(&self.places).rate_limiters.find(uninstall.target.as_deref())?;
        let out = slot.uninstall();
        // Nobody is to be held up by a limit that is not there any more.
        if let Some(out) = &out
            && !lock(&self.places).rate_limiters.has(|there| there.is(out))
        {
            out.release_waiting();
        }
        self.forget_gone();
        Ok(Done::Uninstalled { was_installed: out.is_some() })
    }

    /// What commands have made and is in no slot any more is shown no more: services that are not called again may hold it
    /// for long.
    pub(crate) fn forget_gone(&self) {
        let mut places = lock(&self.places);
        let breakers = places.circuit_breakers.take_gone(CircuitBreaker::is);
        let limiters = places.rate_limiters.take_gone(RateLimiter::is);
        drop(places);
        let home = self.home();
        breakers.0.iter().for_each(|it| it.forget(&home));
        limiters.0.iter().for_each(|it| it.forget(&home));
    }

    /// When calls through the stack with this place are cut off.
    fn given_up(&self, name: &str) -> Option<Duration> {
        lock(&self.places).given_up.get(name).copied()
    }

    /// The stack that has this place cuts calls off after that time.
    #[cfg(feature = "config")]
    pub(crate) fn set_given_up(&self, name: String, after: Option<Duration>) {
        let mut places = lock(&self.places);
        match after {
            Some(after) => places.given_up.insert(name, after),
            None => places.given_up.remove(&name),
        };
    }

    pub(super) fn install_failure_budget(
        &self,
        install: &InstallFailureBudget,
    ) -> Result<Done, ConfigError> {
        let (name, slot) = self.failure_budget_at(install.target.as_deref())?;
        let place = name.clone();
        let window = span("window_seconds", install.window_seconds, Duration::try_from_secs_f64)?;
        let mut builder = FailureBudget::builder(name)
            .register_in(self)
            .threshold(install.threshold)
            .window(window)
            .min_samples(install.min_samples)
            .action(install.on_breach);
        if let Some(after) = cancelled_after(self.given_up(&place)) {
            builder = builder.cancelled_after(after);
        }
        for lever in self.levers(install.levers.as_deref())? {
            builder = builder.lever(lever);
        }
        let budget =
            builder.build().map_err(|error| renamed(error, &[("window", "window_seconds")]))?;
        self.retire(slot.install(budget));
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
        let conditioner = Conditioner::builder(name)
            .register_in(self)
            .network(latency, jitter, install.loss_rate, install.name_filter.as_deref())
            .build()
            .map_err(|error| {
                renamed(error, &[("latency", "latency_ms"), ("jitter", "jitter_ms")])
            })?;
        // It names no environments that it could be outside of.
        conditioner
            .arm()
            .map_err(|error| ConfigError::new("environment", error, "one it may arm in"))?;
        self.disarm(slot.install(conditioner));
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
        0 => "one that the program has made, and it has made none".to_owned(),
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
