//! What has been made from a configuration, and how the next one is made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::build;
use super::findings::Finding;
use super::keys::join;
use super::settings::Config;
use super::stacks::{ClientStack, Place, ServerStack, Written};
use super::staged::OldParts;
use crate::budget::RetryBudget;
use crate::circuit_breaker::CircuitBreaker;
use crate::conditioner::Conditioner;
use crate::control::Registry;
use crate::error::ConfigError;
use crate::failure_budget::{BudgetState, FailureBudget};
use crate::managed::Home;
use crate::presets::{ClientParts, Live, Parts, PartsChange, RetryPlan, ServerParts};
use crate::rate_limit::RateLimiter;
use crate::retry::RetryPolicy;
use crate::slot::Slot;
use crate::timeout::Timeout;

#[derive(Clone)]
pub(super) struct Made {
    /// The one in force.
    pub(super) config: Arc<Config>,
    /// The one that objects are being changed to, which can no longer fail: what is made meanwhile is made of it.
    pub(super) coming: Option<Arc<Config>>,
    pub(super) registry: Option<Registry>,
    /// How often a configuration has come into force.
    pub(super) generation: u64,
    pub(super) objects: BTreeMap<Place, Object>,
    /// Those that the program has asked for by their name.
    pub(super) asked: BTreeSet<Place>,
    /// Those whose faults somebody had switched off when they went.
    pub(super) off: BTreeSet<Place>,
    /// While the next configuration is built: budgets that others are to take the place of.
    pub(super) replaced: BTreeMap<Place, FailureBudget>,
    pub(super) clients: BTreeMap<String, Running<ClientStack>>,
    pub(super) servers: BTreeMap<String, Running<ServerStack>>,
}

#[derive(Clone)]
pub(super) enum Object {
    Breaker(CircuitBreaker),
    Limiter(RateLimiter),
    RetryBudget(RetryBudget),
    FailureBudget(FailureBudget),
    Conditioner(Conditioner),
}

/// A stack that has been made.
#[derive(Clone)]
pub(super) struct Running<L> {
    pub(super) stack: L,
    pub(super) places: Places,
    pub(super) uses: Uses,
}

/// Where commands put things into a stack. What its services look at follows these.
#[derive(Clone, Default)]
pub(super) struct Places {
    pub(super) faults: Slot<Conditioner>,
    pub(super) budget: Slot<FailureBudget>,
    pub(super) breaker: Slot<CircuitBreaker>,
    pub(super) limiter: Slot<RateLimiter>,
    pub(super) policy: Slot<RetryPolicy>,
    /// Where what is counted of retries is shown.
    home: Home,
}

/// The objects of a stack.
#[derive(Clone, Default)]
pub(super) struct Uses {
    pub(super) places: BTreeSet<Place>,
    pub(super) conditioner: Option<Conditioner>,
    pub(super) budget: Option<FailureBudget>,
    pub(super) breaker: Option<CircuitBreaker>,
    pub(super) limiter: Option<RateLimiter>,
    /// And whether it follows from the timeouts.
    pub(super) policy: Option<(RetryPolicy, bool)>,
}

/// `object!(made, path, Kind, build)`: the object there is, or a new one.
macro_rules! object {
    ($made:expr, $path:expr, $kind:ident, $builder:expr) => {{
        match $made.objects.get($path) {
            Some(Object::$kind(object)) => Ok(object.clone()),
            _ => {
                let builder = $builder?;
                let built = match &$made.registry {
                    Some(registry) => builder.register_in(registry).build(),
                    None => builder.build(),
                };
                built.inspect(|object| {
                    $made.objects.insert($path.clone(), Object::$kind(object.clone()));
                })
            }
        }
    }};
}

impl Made {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            coming: None,
            registry: None,
            generation: 1,
            objects: BTreeMap::new(),
            asked: BTreeSet::new(),
            off: BTreeSet::new(),
            replaced: BTreeMap::new(),
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
        }
    }

    /// What new things are made of.
    pub(super) fn newest(&self) -> Arc<Config> {
        Arc::clone(self.coming.as_ref().unwrap_or(&self.config))
    }

    pub(super) fn home(&self) -> Home {
        self.registry.as_ref().map_or(Home::Global, Registry::home)
    }

    pub(super) fn breaker(
        &mut self,
        at: &Written<'_>,
        config: &Config,
    ) -> Result<CircuitBreaker, ConfigError> {
        object!(self, &at.place, Breaker, config.breaker_at(at))
    }

    pub(super) fn limiter(&mut self, at: &Written<'_>) -> Result<RateLimiter, ConfigError> {
        object!(self, &at.place, Limiter, build::limiter(at.name, at.block))
    }

    pub(super) fn retry_budget(&mut self, at: &Written<'_>) -> Result<RetryBudget, ConfigError> {
        object!(self, &at.place, RetryBudget, build::retry_budget(at.name, at.block))
    }

    pub(super) fn failure_budget(
        &mut self,
        at: &Written<'_>,
        config: &Config,
    ) -> Result<FailureBudget, ConfigError> {
        let before = self.replaced.get(&at.place).filter(|_| !self.objects.contains_key(&at.place));
        // The windows of an objective are its own.
        let saved = before.filter(|_| at.block.get("slo").is_none());
        let builder = config.failure_budget_at(at).map(|builder| match saved {
            Some(before) => builder.restore(before.save()),
            None => builder,
        });
        object!(self, &at.place, FailureBudget, builder)
    }

    pub(super) fn conditioner(&mut self, at: &Written<'_>) -> Result<Conditioner, ConfigError> {
        let new = !self.objects.contains_key(&at.place);
        let made = object!(self, &at.place, Conditioner, build::conditioner(at.name, at.block))?;
        if new && !self.off.contains(&at.place) {
            made.begin_at_rest();
        }
        Ok(made)
    }

    /// That of the process is not made to listen by this.
    pub(super) fn registry(&self) -> Registry {
        self.registry.clone().unwrap_or_else(Registry::global_unwatched)
    }

    /// And what is to be done when no lock is held.
    pub(super) fn client(
        &mut self,
        name: &str,
    ) -> Result<(ClientStack, Vec<PartsChange>), ConfigError> {
        if let Some(running) = self.clients.get(name) {
            return Ok((running.stack.clone(), Vec::new()));
        }
        let config = self.newest();
        refuse(&config, "clients", name)?;
        let (places, claim) = self.places("clients", name)?;
        let (parts, uses, mut changes) = self.client_parts(name, &config, None)?;
        changes.extend(self.reviving(&uses, &Uses::default()).all());
        let (slot, old) = places.begin(Parts::Client(Box::new(parts)), &uses);
        changes.push(Box::new(move || old.end()));
        drop(claim);
        let stack = Live::client(name.to_owned().into(), slot);
        self.tell_given_up("clients", name, &config);
        let running = Running { stack: stack.clone(), places, uses };
        self.clients.insert(name.to_owned(), running);
        Ok((stack, changes))
    }

    /// As [`client`](Self::client).
    pub(super) fn server(
        &mut self,
        name: &str,
    ) -> Result<(ServerStack, Vec<PartsChange>), ConfigError> {
        if let Some(running) = self.servers.get(name) {
            return Ok((running.stack.clone(), Vec::new()));
        }
        let config = self.newest();
        refuse(&config, "servers", name)?;
        let (places, claim) = self.places("servers", name)?;
        let (parts, uses, _) = self.server_parts(name, &config, None)?;
        let mut changes = self.reviving(&uses, &Uses::default()).all();
        let (slot, old) = places.begin(Parts::Server(parts), &uses);
        changes.push(Box::new(move || old.end()));
        drop(claim);
        let stack = Live::server(name.to_owned().into(), slot);
        self.tell_given_up("servers", name, &config);
        let running = Running { stack: stack.clone(), places, uses };
        self.servers.insert(name.to_owned(), running);
        Ok((stack, changes))
    }

    /// The places of a new stack. With a registry they are those that commands know, and nobody else gets them as long as the
    /// second is kept.
    ///
    /// # Errors
    /// If another stack has them: commands would reach only one.
    fn places(
        &self,
        map: &str,
        name: &str,
    ) -> Result<(Places, Option<Slot<Conditioner>>), ConfigError> {
        let Some(registry) = &self.registry else { return Ok((Places::default(), None)) };
        let key = join(map, name);
        let faults = registry.conditioner(&key);
        let Some(claim) = faults.claim() else {
            let expected = "a registry in which no stack of other `Stacks` has this name";
            return Err(ConfigError::new(key, "there is one already", expected));
        };
        let (limiter, home) = (registry.rate_limiter(&key), registry.home());
        let mut places = Places { faults, limiter, home, ..Places::default() };
        if map == "clients" {
            places.breaker = registry.circuit_breaker(&key);
            places.policy = registry.retry_policy(&key);
        } else {
            places.budget = registry.failure_budget(&key);
        }
        Ok((places, Some(claim)))
    }

    /// What a command puts into a stack counts calls that the stack gives up.
    pub(super) fn tell_given_up(&self, map: &str, name: &str, config: &Config) {
        if let Some(registry) = &self.registry {
            let after = match map {
                "clients" => config.attempt_given_up(name),
                _ => config.call_given_up(name),
            };
            registry.set_given_up(join(map, name), after);
        }
    }

    /// Of a client that runs, its parts `before` keep what they know.
    pub(super) fn client_parts(
        &mut self,
        name: &str,
        config: &Config,
        before: Option<&ClientParts>,
    ) -> Result<(ClientParts, Uses, Vec<PartsChange>), ConfigError> {
        let block = config.entry("clients", name)?;
        let mut uses = Uses::default();
        let mut part = |part| {
            let written = config.written("clients", name, part);
            written.inspect(|at| {
                uses.places.insert(at.place.clone());
            })
        };
        let timeout = |after: Option<Duration>| {
            after.map(|after| Timeout::new(name.to_owned(), after)).transpose()
        };
        // The parts that are in no map, so that nobody shares them.
        let plan = config.client_plan(name, false)?;
        let mut parts = ClientParts::of(&plan, self.registry.as_ref())?;
        let backend = parts.keep_backend(before);
        parts.total = timeout(block.time("total_timeout"))?;
        uses.limiter = part("rate_limit").map(|at| self.limiter(&at)).transpose()?;
        parts.attempt = timeout(block.time("attempt_timeout"))?;
        uses.breaker = part("breaker").map(|at| self.breaker(&at, config)).transpose()?;
        if let Some(at) = part("retry_budget") {
            parts.budget = Some(self.retry_budget(&at)?);
        }
        uses.conditioner = part("faults").map(|at| self.conditioner(&at)).transpose()?;
        let paced = plan.retry == RetryPlan::Paced;
        uses.policy = parts.note_policy()?.map(|policy| (policy, paced));
        let mut changes = parts.keep(before, &self.home());
        changes.extend(backend);
        Ok((parts, uses, changes))
    }

    /// As [`client_parts`](Self::client_parts).
    pub(super) fn server_parts(
        &mut self,
        name: &str,
        config: &Config,
        before: Option<&ServerParts>,
    ) -> Result<(ServerParts, Uses, Option<PartsChange>), ConfigError> {
        let mut uses = Uses::default();
        let mut part = |part| {
            let written = config.written("servers", name, part);
            written.inspect(|at| {
                uses.places.insert(at.place.clone());
            })
        };
        let plan = config.server_plan(name, false)?;
        let mut parts = ServerParts::of(&plan, self.registry.as_ref())?;
        let backend = parts.keep(before, &self.home());
        let budget = part("failure_budget").map(|at| self.failure_budget(&at, config));
        let budget = budget.transpose()?;
        let limiter = part("rate_limit").map(|at| self.limiter(&at)).transpose()?;
        uses.conditioner = part("faults").map(|at| self.conditioner(&at)).transpose()?;
        (uses.budget, uses.limiter) = (budget, limiter);
        Ok((parts, uses, backend))
    }

    /// What the status document says of the configuration.
    pub(super) fn tell(&self) {
        if let Some(registry) = &self.registry {
            registry.set_generation(self.generation);
            registry.set_lint(self.config.lint().iter().map(Finding::told));
        }
    }
}

impl Object {
    /// It is in no stack any more, and in no configuration.
    pub(super) fn forget(&self, home: &Home) {
        self.rest();
        match self {
            Self::Breaker(it) => it.forget(home),
            Self::Limiter(it) => it.forget(home),
            Self::RetryBudget(it) => it.forget(home),
            Self::FailureBudget(it) => it.forget(home),
            Self::Conditioner(it) => it.forget(home),
        }
    }

    /// It is in no stack any more: levers are let go of, and calls that hang go on.
    pub(super) fn rest(&self) {
        match self {
            Self::Breaker(_) | Self::Limiter(_) | Self::RetryBudget(_) => {}
            Self::FailureBudget(it) => it.retire(),
            Self::Conditioner(it) => it.rest(),
        }
    }

    /// A stack or the program has it, perhaps again. Not under a lock: it may be an event.
    pub(super) fn revive(&self, registry: &Registry) {
        match self {
            Self::Breaker(_) | Self::Limiter(_) | Self::RetryBudget(_) => {}
            Self::FailureBudget(it) => {
                if it.state() == BudgetState::Retired {
                    it.reset();
                }
            }
            Self::Conditioner(it) => {
                // Looked at afterwards: who kills what there is has either seen this one, or is seen here.
                if it.wake() && registry.faults_are_killed() {
                    it.disarm();
                }
            }
        }
    }
}

/// What was in a stack's places.
pub(super) struct Was {
    pub(super) faults: Option<Conditioner>,
    pub(super) budget: Option<FailureBudget>,
    /// Dropped when no lock is held.
    _rest: (Option<CircuitBreaker>, Option<RateLimiter>),
}

impl Places {
    /// Where a new stack finds its parts, whatever is put into these places later.
    /// And what was in these.
    fn begin(&self, parts: Parts, uses: &Uses) -> (Slot<Parts>, OldParts) {
        let slot = Slot::new();
        self.breaker.tell(&slot, Parts::set_breaker);
        self.limiter.tell(&slot, Parts::set_limiter);
        let home = self.home.clone();
        self.policy.tell(&slot, move |parts, policy| Parts::set_policy(parts, policy, &home));
        let before = Uses::default();
        let old = self.exchange(&slot, parts, (&before, uses));
        (slot, old)
    }

    /// Puts parts into the slot that services look at, with what belongs into these places.
    pub(super) fn exchange(
        &self,
        slot: &Slot<Parts>,
        parts: Parts,
        (before, now): (&Uses, &Uses),
    ) -> OldParts {
        let (was, parts) = self.fill(parts, before, now, |mut parts, policy| {
            // The one by which commands have gone meanwhile, too: nothing changes it from here on.
            let there = slot.get();
            parts.keep_record(there.as_ref());
            parts.set_policy(policy, &self.home);
            (slot.install(parts), there)
        });
        OldParts::new(parts, was, (before, self))
    }

    /// Gives parts what belongs into these places, and hands them to `then`, with the policy, before anything else can be
    /// put there. Returns what was there.
    fn fill<R>(
        &self,
        mut parts: Parts,
        before: &Uses,
        now: &Uses,
        then: impl FnOnce(Parts, Option<&RetryPolicy>) -> R,
    ) -> (Was, R) {
        let (old, new) = (before.budget.as_ref(), now.budget.as_ref());
        let budget = |there: Option<&_>| next(there, old, new, FailureBudget::is);
        let (old, new) = (before.conditioner.as_ref(), now.conditioner.as_ref());
        let faults = |there: Option<&_>| next(there, old, new, Conditioner::is);
        let (old, new) = (before.breaker.as_ref(), now.breaker.as_ref());
        let breaker = |there: Option<&_>| next(there, old, new, CircuitBreaker::is);
        let (old, new) = (before.limiter.as_ref(), now.limiter.as_ref());
        let limiter = |there: Option<&_>| next(there, old, new, RateLimiter::is);
        let policy = |there: Option<&_>| match (before.policy, now.policy) {
            // With another timeout it is still what it was.
            (Some((old, true)), Some((new, true))) if there == Some(&old) => Some(new),
            (Some((_, true)), Some((_, true))) => there.copied(),
            (old, new) => {
                let (old, new) = (old.map(|it| it.0), new.map(|it| it.0));
                next(there, old.as_ref(), new.as_ref(), RetryPolicy::eq)
            }
        };
        let inner = |budget, faults| {
            match &mut parts {
                Parts::Client(parts) => parts.faults = faults,
                Parts::Server(parts) => (parts.faults, parts.budget) = (faults, budget),
            }
            self.breaker.settle(breaker, |breaker| {
                parts.set_breaker(breaker);
                self.limiter.settle(limiter, |limiter| {
                    parts.set_limiter(limiter);
                    self.policy.settle(policy, |policy| then(parts, policy)).1
                })
            })
        };
        let (budget, (faults, (breaker, (limiter, done)))) =
            self.budget.hand_over(budget, |budget| {
                self.faults.hand_over(faults, |faults| inner(budget, faults))
            });
        (Was { faults, budget, _rest: (breaker, limiter) }, done)
    }
}

/// What comes into a place: what the configuration has there, if it has another one now. What a command has put there
/// stays otherwise.
fn next<T: Clone>(
    there: Option<&T>,
    old: Option<&T>,
    new: Option<&T>,
    is: impl Fn(&T, &T) -> bool,
) -> Option<T> {
    match (old, new) {
        (Some(old), Some(new)) if is(old, new) => there.cloned(),
        (_, Some(new)) => Some(new.clone()),
        (Some(old), None) if there.is_some_and(|there| is(there, old)) => None,
        (_, None) => there.cloned(),
    }
}

/// The first lint of a stack that is an error.
fn refuse(config: &Config, map: &str, name: &str) -> Result<(), ConfigError> {
    let stack = format!("{map}.{name}");
    let found = config.lint().into_iter().find(|found| found.stack == stack && found.is_error());
    match found {
        Some(found) => {
            let expected = format!("no {}", found.lint.rule);
            Err(ConfigError::new(found.key, found.lint.text, expected))
        }
        None => Ok(()),
    }
}
