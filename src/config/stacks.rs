//! The objects of a configuration, each made once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::build::{self, Block};
use super::findings::map_of;
use super::made::Made;
use super::settings::Config;
use crate::budget::RetryBudget;
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerBuilder};
use crate::classify::AnyError;
use crate::conditioner::Conditioner;
use crate::context::NoContext;
use crate::control::Registry;
use crate::error::ConfigError;
use crate::failure_budget::{FailureBudget, FailureBudgetBuilder};
use crate::presets::{Absent, ClientLayer, Faults, Live, ServerLayer, cancelled_after};
use crate::rate_limit::RateLimiter;
use crate::reject::AsError;
use crate::retry::CloneRequest;
use crate::sync::{Mutex, MutexGuard, lock};

/// Whole stacks from a configuration. Every object is made once: two calls with one name give the same breaker, and two clients
/// that name the same entry of `rate_limits` share its bucket. An object that is written out in a client or
/// server has that one's name.
///
/// Clones are the same stacks.
///
/// ```
/// use buttress::config::{Format, Loader};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let file = "
/// breakers:
///   db: {failure_rate: 50%, open_for: 5s}
/// clients:
///   payments: {total_timeout: 5s, attempt_timeout: 1s, breaker: db}
/// ";
/// let stacks = Loader::empty().text("buttress.yml", Format::Yaml, file).load()?.stacks();
/// let service = ServiceBuilder::new()
///     .layer(stacks.client("payments")?)
///     .service(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n + 1) }));
/// assert_eq!(service.oneshot(1).await.unwrap(), 2);
/// assert_eq!(stacks.circuit_breaker("db")?.stats().successful_calls, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Stacks {
    pub(super) made: Arc<Mutex<Made>>,
    /// Held over a whole reload, whoever does it.
    pub(super) reloading: Arc<Mutex<()>>,
}

/// The layers of a client, with a place for faults.
///
/// ```
/// use buttress::config::{ClientStack, Loader};
/// let stacks = Loader::empty().set("clients.db.backend", "learned").load()?.stacks();
/// let stack: ClientStack = stacks.client("db")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type ClientStack = Live<ClientLayer<AnyError, CloneRequest, NoContext, AsError, Faults>>;

/// The layers of a server, with a place for faults.
///
/// ```
/// use buttress::config::{Loader, ServerStack};
/// let stacks = Loader::empty().set("servers.api.timeout", "5s").load()?.stacks();
/// let stack: ServerStack = stacks.server("api")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type ServerStack = Live<ServerLayer<AnyError, NoContext, AsError, Absent, Faults>>;

/// The keys that lead to the block of an object; the second is the object's name.
pub(super) type Place = Vec<String>;

/// Where an object is written, and the name it gets.
pub(super) struct Written<'a> {
    pub(super) place: Place,
    pub(super) name: &'a str,
    pub(super) block: Block<'a>,
}

impl fmt::Debug for Stacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.made();
        f.debug_struct("Stacks")
            .field("generation", &made.generation)
            .field("objects", &made.objects.keys())
            .finish_non_exhaustive()
    }
}

fn place<const N: usize>(keys: [&str; N]) -> Place {
    keys.map(str::to_owned).to_vec()
}

impl Config {
    /// The object at a place, if the configuration still has one there.
    pub(super) fn at<'a>(&'a self, place: &'a Place) -> Option<Written<'a>> {
        let mut json = &self.tree;
        for key in place {
            let Some(next) = json.get(key) else {
                // The breaker of a name that only the block `resilience` knows.
                let entry = (place.len() == 2).then(|| place.first().zip(place.last()))??;
                let (_, name) = (entry.0 == "breakers").then_some(entry)?;
                let block = self.breaker_entry(name).ok()?;
                return Some(Written { place: place.clone(), name, block });
            };
            json = next;
        }
        let name = place.get(1)?;
        json.as_object()?;
        Some(Written { place: place.clone(), name, block: Block::of(Some(json)) })
    }

    /// The stacks that it describes. Each call of this begins anew, with other objects: keep the result.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let stacks = Loader::empty().set("servers.api.rate_limit", "100/s").load()?.stacks();
    /// let layer = stacks.server("api")?;
    /// assert_eq!(layer.rate_limiter().unwrap().name(), "api");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn stacks(&self) -> Stacks {
        let made = Made::new(Arc::new(self.clone()));
        Stacks { made: Arc::new(Mutex::new(made)), reloading: Arc::default() }
    }

    /// A part of a stack that is written there, or named.
    pub(super) fn written<'a>(
        &'a self,
        top: &str,
        stack: &'a str,
        part: &str,
    ) -> Option<Written<'a>> {
        let json = self.tree.get(top)?.get(stack)?.get(part)?;
        match json {
            Json::String(name) => {
                let map = map_of(part);
                let block = Block::of(self.tree.get(map)?.get(name));
                Some(Written { place: place([map, name]), name, block })
            }
            inline => Some(Written {
                place: place([top, stack, part]),
                name: stack,
                block: Block::of(Some(inline)),
            }),
        }
    }

    /// The shortest time after which what the breaker or failure budget at this place sees is cut off.
    pub(super) fn given_up_of(&self, place: &Place) -> Option<Duration> {
        let uses = |map, name: &str, part| {
            self.written(map, name, part).is_some_and(|written| written.place == *place)
        };
        let attempts = self
            .names("clients")
            .filter(|name| uses("clients", name, "breaker"))
            .filter_map(|name| self.attempt_given_up(name));
        let calls = self
            .names("servers")
            .filter(|name| uses("servers", name, "failure_budget"))
            .filter_map(|name| self.call_given_up(name));
        attempts.chain(calls).min()
    }

    /// The time after which a client cuts off one attempt.
    pub(super) fn attempt_given_up(&self, name: &str) -> Option<Duration> {
        let client = Block::of(self.tree.get("clients")?.get(name));
        let retry = self.written("clients", name, "retry");
        let own = retry.and_then(|retry| build::policy(retry.block).ok());
        let own = own.map(|own| [own.attempt_timeout(), own.deadline()]);
        let ends = [client.time("attempt_timeout"), client.time("total_timeout")];
        ends.into_iter().chain(own.into_iter().flatten()).flatten().min()
    }

    /// The time after which a server gives a call up.
    pub(super) fn call_given_up(&self, name: &str) -> Option<Duration> {
        Block::of(self.tree.get("servers")?.get(name)).time("timeout")
    }

    /// Half of that: who is cut off is a failure, however short the time was. None where the block says it, or the
    /// layers' own is short enough.
    fn cancelled_after(&self, written: &Written<'_>) -> Option<Duration> {
        let given_up = match written.block.get("cancelled_after") {
            Some(_) => None,
            None => self.given_up_of(&written.place),
        };
        cancelled_after(given_up)
    }

    pub(super) fn breaker_at(
        &self,
        written: &Written<'_>,
    ) -> Result<CircuitBreakerBuilder, ConfigError> {
        let mut builder = self.breaker(written.name, written.block)?;
        if let Some(after) = self.cancelled_after(written) {
            builder = builder.cancelled_after(after);
        }
        Ok(builder)
    }

    pub(super) fn failure_budget_at(
        &self,
        written: &Written<'_>,
    ) -> Result<FailureBudgetBuilder, ConfigError> {
        let mut builder = build::failure_budget(written.name, written.block)?;
        if let Some(after) = self.cancelled_after(written) {
            builder = builder.cancelled_after(after);
        }
        Ok(builder)
    }
}

impl Stacks {
    pub(super) fn made(&self) -> MutexGuard<'_, Made> {
        lock(&self.made)
    }

    /// Registers what is made from now on in this registry instead of [`Registry::global`], and tells it what the
    /// linter says. Its commands install and uninstall in these stacks by the names `clients.pay` and `servers.api`; without
    /// this no registry knows those places. While a stack or a service of other `Stacks` in the same registry has such a name,
    /// making another one of that name is an error.
    ///
    /// ```
    /// use buttress::{config::Loader, control::Registry};
    /// let registry = Registry::new();
    /// let config = Loader::empty().set("breakers.db.consecutive_failures", 3).load()?;
    /// let stacks = config.stacks().register_in(&registry);
    /// let breaker = stacks.circuit_breaker("db")?;
    /// assert_eq!(registry.status().objects[0].id, "circuit_breaker/db");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn register_in(self, registry: &Registry) -> Self {
        let mut made = self.made();
        made.registry = Some(registry.clone());
        made.tell();
        drop(made);
        self
    }

    /// The configuration in force. A call that reads two values from one of these sees values that belong together,
    /// whatever is loaded meanwhile.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let stacks = Loader::empty().set("app.port", 80).section("app").load()?.stacks();
    /// let config = stacks.config();
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.made().config)
    }

    /// How often a configuration has come into force: 1 before the first reload.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// assert_eq!(Loader::empty().load()?.stacks().generation(), 1);
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.made().generation
    }

    /// The layers of a client as `clients` has it.
    ///
    /// # Errors
    /// If there is no such entry, or the linter says that a part of it can never do what it is for.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let stacks = Loader::empty().set("clients.pay.total_timeout", "5s").load()?.stacks();
    /// assert!(stacks.client("pay").is_ok() && stacks.client("ship").is_err());
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn client(&self, name: &str) -> Result<ClientStack, ConfigError> {
        let (stack, changes) = self.made().client(name)?;
        changes.into_iter().for_each(|change| change());
        self.settle_commands();
        Ok(stack)
    }

    /// The layers of a server as `servers` has it.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let stacks = Loader::empty().set("servers.api.timeout", "5s").load()?.stacks();
    /// assert!(stacks.server("api").is_ok());
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn server(&self, name: &str) -> Result<ServerStack, ConfigError> {
        let (stack, changes) = self.made().server(name)?;
        changes.into_iter().for_each(|change| change());
        self.settle_commands();
        Ok(stack)
    }

    /// A stack that has just been made may have another object where a command had put one. Not under a lock.
    fn settle_commands(&self) {
        let registry = self.made().registry.clone();
        if let Some(registry) = registry {
            registry.follow_given_up();
            registry.sort_out();
        }
    }

    fn named<T>(
        &self,
        map: &'static str,
        name: &str,
        make: impl FnOnce(&mut Made, &Written<'_>, &Config) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        let mut made = self.made();
        let config = made.newest();
        let at = Written { place: place([map, name]), name, block: config.entry(map, name)? };
        let object = make(&mut made, &at, &config)?;
        let (there, registry) = (made.objects.get(&at.place).cloned(), made.registry());
        made.asked.insert(at.place);
        drop(made);
        // It may have been in no stack any more.
        there.inspect(|it| it.revive(&registry));
        Ok(object)
    }

    /// The breaker of an entry of `breakers`. With the block `resilience`, every name has one.
    ///
    /// # Errors
    /// If there is no such entry.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let stacks = Loader::empty().set("breakers.db.consecutive_failures", 3).load()?.stacks();
    /// stacks.circuit_breaker("db")?.force_open();
    /// assert_eq!(stacks.circuit_breaker("db")?.state().as_str(), "forced_open");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn circuit_breaker(&self, name: &str) -> Result<CircuitBreaker, ConfigError> {
        let mut made = self.made();
        let config = made.newest();
        let at =
            Written { place: place(["breakers", name]), name, block: config.breaker_entry(name)? };
        made.asked.insert(at.place.clone());
        made.breaker(&at, &config)
    }

    /// The limiter of an entry of `rate_limits`.
    ///
    /// # Errors
    /// If there is no such entry.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let stacks = Loader::empty().set("rate_limits.api", "5/h").load()?.stacks();
    /// stacks.rate_limiter("api")?.try_acquire_n(5).unwrap();
    /// assert!(stacks.rate_limiter("api")?.try_acquire().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn rate_limiter(&self, name: &str) -> Result<RateLimiter, ConfigError> {
        self.named("rate_limits", name, |made, at, _| made.limiter(at))
    }

    /// The budget of an entry of `retry_budgets`.
    ///
    /// # Errors
    /// If there is no such entry.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let stacks = Loader::empty().set("retry_budgets.pay.ratio", "10%").load()?.stacks();
    /// assert_eq!(stacks.retry_budget("pay")?.name(), "pay");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retry_budget(&self, name: &str) -> Result<RetryBudget, ConfigError> {
        self.named("retry_budgets", name, |made, at, _| made.retry_budget(at))
    }

    /// The budget of an entry of `failure_budgets`. One that is retired begins anew.
    ///
    /// # Errors
    /// If there is no such entry.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let stacks = Loader::empty().set("failure_budgets.api.threshold", "5%").load()?.stacks();
    /// assert_eq!(stacks.failure_budget("api")?.name(), "api");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn failure_budget(&self, name: &str) -> Result<FailureBudget, ConfigError> {
        self.named("failure_budgets", name, Made::failure_budget)
    }

    /// The conditioner of an entry of `faults`, armed if its environment allows it and nobody has disarmed it or killed
    /// all faults.
    ///
    /// # Errors
    /// If there is no such entry.
    ///
    /// ```
    /// use buttress::config::{Format, Loader};
    /// let text = "faults: {slow: {rules: [{fault: {latency: {fixed: 50ms}}, share: 10%}]}}";
    /// let stacks = Loader::empty().text("a.yml", Format::Yaml, text).load()?.stacks();
    /// assert!(stacks.conditioner("slow")?.is_injecting());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn conditioner(&self, name: &str) -> Result<Conditioner, ConfigError> {
        self.named("faults", name, |made, at, _| made.conditioner(at))
    }
}
