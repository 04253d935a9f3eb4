use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Weak};

use super::command::Command;
use super::error::CommandError;
use super::follow::{Following, GivenUp};
use super::taken_out::TakenOut;
use crate::circuit_breaker::CircuitBreaker;
use crate::clock::{self, Tick};
use crate::conditioner::Conditioner;
use crate::error::ConfigError;
use crate::failure_budget::FailureBudget;
use crate::lever::Lever;
use crate::managed::{Home, Managed, Operation, Roster, epoch_ms};
use crate::rate_limit::{RateLimiter, WeakRateLimiter};
use crate::retry::RetryPolicy;
use crate::slot::Slot;
use crate::sync::{Mutex, lock};

/// What commands act on: the slots of a program by name, and its levers.
///
/// Clones are the same registry.
///
/// ```
/// use buttress::control::Registry;
/// let registry = Registry::new();
/// let slot = registry.conditioner("backend");
/// assert!(slot.get().is_none(), "nothing is installed");
/// ```
#[derive(Clone)]
pub struct Registry {
    pub(super) places: Arc<Mutex<Places>>,
    pub(super) roster: Arc<Roster>,
    pub(super) made: Tick,
    pub(super) made_ms: u64,
}

/// As many findings of the linter are kept.
const LINTS: usize = 200;

impl Default for Registry {
    fn default() -> Self {
        Self::of(Arc::default())
    }
}

#[derive(Default)]
pub(super) struct Places {
    pub(super) failure_budgets: BTreeMap<String, Slot<FailureBudget>>,
    pub(super) conditioners: BTreeMap<String, Slot<Conditioner>>,
    pub(super) retry_policies: BTreeMap<String, Slot<RetryPolicy>>,
    pub(super) circuit_breakers: BTreeMap<String, Slot<CircuitBreaker>>,
    pub(super) rate_limiters: BTreeMap<String, Slot<RateLimiter>>,
    /// Those that commands have replaced while calls waited, by slot.
    pub(super) replaced_limiters: BTreeMap<String, Vec<WeakRateLimiter>>,
    /// The shortest time after which calls through the stacks that have these slots are cut off.
    pub(super) given_up: BTreeMap<String, GivenUp>,
    pub(super) following: Vec<Arc<Following>>,
    /// What commands have taken out of slots, or replaced there.
    pub(super) taken_out: Vec<TakenOut>,
    /// What commands have made.
    pub(super) made: Vec<Weak<dyn Managed>>,
    pub(super) levers: BTreeMap<String, Arc<dyn Lever>>,
    #[cfg(feature = "supervise")]
    lifecycle: Option<crate::supervise::Lifecycle>,
    #[cfg(feature = "supervise")]
    shutdown: Option<crate::supervise::shutdown::GracefulShutdown>,
    /// Faults that a configuration brings are not armed any more.
    killed: bool,
    service: String,
    lint: Vec<super::status::Lint>,
}

impl Registry {
    /// An empty registry.
    ///
    /// ```
    /// let registry = buttress::control::Registry::new();
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn of(roster: Arc<Roster>) -> Self {
        Self { places: Arc::default(), roster, made: clock::now(), made_ms: epoch_ms() }
    }

    /// The registry of the process: objects that are not told otherwise are in it. Its timeline begins with
    /// the first call of this, so call it early.
    ///
    /// ```
    /// use buttress::{circuit_breaker::CircuitBreaker, control::Registry};
    /// let registry = Registry::global();
    /// let breaker = CircuitBreaker::new("global_example");
    /// let shown = |registry: &Registry| {
    ///     registry.status().objects.iter().any(|object| object.name == "global_example")
    /// };
    /// assert!(shown(&registry));
    /// drop(breaker);
    /// assert!(!shown(&registry));
    /// ```
    #[must_use]
    pub fn global() -> Self {
        Roster::watch();
        Self::global_unwatched()
    }

    /// The same, without making its timeline listen to every object.
    pub(crate) fn global_unwatched() -> Self {
        static GLOBAL: LazyLock<Registry> = LazyLock::new(|| Registry::of(Roster::global()));
        GLOBAL.clone()
    }

    pub(crate) fn home(&self) -> Home {
        Home::In(Arc::clone(&self.roster))
    }

    /// The slot `name` for a failure budget: the one there is, or a new empty one.
    ///
    /// ```
    /// use buttress::{control::Registry, failure_budget::FailureBudgetLayer};
    /// let registry = Registry::new();
    /// let layer = FailureBudgetLayer::from_slot(registry.failure_budget("api"));
    /// ```
    #[expect(clippy::must_use_candidate, reason = "it makes the slot")]
    pub fn failure_budget(&self, name: &str) -> Slot<FailureBudget> {
        lock(&self.places).failure_budgets.entry(name.to_owned()).or_default().clone()
    }

    /// The slot `name` for a conditioner: the one there is, or a new empty one.
    ///
    /// ```
    /// use buttress::{conditioner::ConditionerLayer, control::Registry};
    /// let registry = Registry::new();
    /// let layer = ConditionerLayer::from_slot(registry.conditioner("backend"));
    /// ```
    #[expect(clippy::must_use_candidate, reason = "it makes the slot")]
    pub fn conditioner(&self, name: &str) -> Slot<Conditioner> {
        lock(&self.places).conditioners.entry(name.to_owned()).or_default().clone()
    }

    /// The slot `name` for a retry policy: the one there is, or a new empty one. With nothing in it nothing is tried
    /// again.
    ///
    /// ```
    /// use buttress::control::Registry;
    /// use buttress::retry::{RetryLayer, RetryPolicy};
    /// let registry = Registry::new();
    /// registry.retry_policy("pay").install(RetryPolicy::default());
    /// let layer = RetryLayer::from_slot(registry.retry_policy("pay"));
    /// ```
    #[expect(clippy::must_use_candidate, reason = "it makes the slot")]
    pub fn retry_policy(&self, name: &str) -> Slot<RetryPolicy> {
        lock(&self.places).retry_policies.entry(name.to_owned()).or_default().clone()
    }

    /// The slot `name` for a breaker: the one there is, or a new empty one.
    ///
    /// ```
    /// use buttress::{circuit_breaker::CircuitBreakerLayer, control::Registry};
    /// let registry = Registry::new();
    /// let layer = CircuitBreakerLayer::from_slot(registry.circuit_breaker("backend"));
    /// ```
    #[expect(clippy::must_use_candidate, reason = "it makes the slot")]
    pub fn circuit_breaker(&self, name: &str) -> Slot<CircuitBreaker> {
        lock(&self.places).circuit_breakers.entry(name.to_owned()).or_default().clone()
    }

    /// The slot `name` for a limiter: the one there is, or a new empty one.
    ///
    /// ```
    /// use buttress::{control::Registry, rate_limit::RateLimitLayer};
    /// let registry = Registry::new();
    /// let layer = RateLimitLayer::from_slot(registry.rate_limiter("api"));
    /// ```
    #[expect(clippy::must_use_candidate, reason = "it makes the slot")]
    pub fn rate_limiter(&self, name: &str) -> Slot<RateLimiter> {
        lock(&self.places).rate_limiters.entry(name.to_owned()).or_default().clone()
    }

    /// Adds a lever that budgets installed by commands engage while they are spent, in place of one of the
    /// same name. Budgets that are installed already keep theirs.
    ///
    /// ```
    /// use buttress::{RetryBudget, control::Registry};
    /// let retries = RetryBudget::new("backend");
    /// let registry = Registry::new();
    /// registry.add_lever("retries", retries.clone());
    /// // The faults that are in this slot when the budget is spent are not injected until it recovers.
    /// registry.add_lever("faults", registry.conditioner("backend"));
    /// registry.add_lever("quit", |engaged: bool| if engaged { eprintln!("too many failures") });
    /// ```
    pub fn add_lever(&self, name: impl Into<String>, lever: impl Lever) {
        let before = lock(&self.places).levers.insert(name.into(), Arc::new(lever));
        // After the lock: dropping a lever runs user code.
        drop(before);
    }

    /// Shows the phase of the process, and lets the command `drain` move it to
    /// [`Draining`](crate::supervise::Phase::Draining), whoever acts on that. With a shutdown, use
    /// [`set_shutdown`](Self::set_shutdown): a lifecycle alone runs no callbacks and has no deadline.
    ///
    /// ```
    /// use buttress::control::{Command, Operate, Operation, Registry};
    /// use buttress::supervise::{Lifecycle, Phase};
    /// let (registry, life) = (Registry::new(), Lifecycle::new());
    /// registry.set_lifecycle(&life);
    /// registry.apply(&Operate::on("process", Operation::Drain).into())?;
    /// assert_eq!(life.phase(), Phase::Draining);
    /// assert_eq!(registry.status().process.unwrap().phase, "draining");
    /// # Ok::<(), buttress::control::CommandError>(())
    /// ```
    #[cfg(feature = "supervise")]
    pub fn set_lifecycle(&self, lifecycle: &crate::supervise::Lifecycle) {
        let mut places = lock(&self.places);
        let before = (places.lifecycle.replace(lifecycle.clone()), places.shutdown.take());
        drop(places);
        drop(before);
    }

    /// Shows the phase of the process, and lets the command `drain` begin its shutdown, with lame duck, callbacks and
    /// deadline.
    ///
    /// ```
    /// use buttress::control::{Command, Operate, Operation, Registry};
    /// use buttress::supervise::shutdown::GracefulShutdown;
    /// let (registry, shutdown) = (Registry::new(), GracefulShutdown::new("orders"));
    /// registry.set_shutdown(&shutdown);
    /// registry.apply(&Operate::on("process", Operation::Drain).into())?;
    /// assert!(shutdown.is_shutting_down());
    /// # Ok::<(), buttress::control::CommandError>(())
    /// ```
    #[cfg(feature = "supervise")]
    pub fn set_shutdown(&self, shutdown: &crate::supervise::shutdown::GracefulShutdown) {
        let mut places = lock(&self.places);
        let life = shutdown.lifecycle().clone();
        let before = (places.lifecycle.replace(life), places.shutdown.replace(shutdown.clone()));
        drop(places);
        drop(before);
    }

    #[cfg(feature = "supervise")]
    pub(super) fn process(&self) -> Option<super::status::ProcessPhase> {
        let life = lock(&self.places).lifecycle.clone()?;
        Some(super::status::assemble::process(&life))
    }

    #[cfg(not(feature = "supervise"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    pub(super) fn process(&self) -> Option<super::status::ProcessPhase> {
        None
    }

    /// Nothing, if there is no process to drain.
    #[cfg(feature = "supervise")]
    fn drain(&self) -> Option<Done> {
        let (life, shutdown) = {
            let places = lock(&self.places);
            (places.lifecycle.clone()?, places.shutdown.clone())
        };
        let begun = match shutdown {
            Some(shutdown) => shutdown.begin(),
            None => life.advance(crate::supervise::Phase::Draining, None),
        };
        Some(Done::Operated(usize::from(begun)))
    }

    #[cfg(not(feature = "supervise"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    fn drain(&self) -> Option<Done> {
        None
    }

    /// Tells the document the service's name.
    ///
    /// ```
    /// let registry = buttress::control::Registry::new();
    /// registry.set_service("orders");
    /// assert_eq!(registry.status().service, "orders");
    /// ```
    pub fn set_service(&self, name: impl Into<String>) {
        let name = name.into();
        lock(&self.places).service = name;
    }

    /// Tells the document what the linter has found, in place of what it had before. Of more than 200 findings
    /// the worst are shown.
    ///
    /// ```
    /// use buttress::control::{Level, Lint, Registry};
    /// use buttress::observe::Severity;
    /// let registry = Registry::new();
    /// registry.set_lint([Lint::new(Severity::Warning, "retry_inside_breaker", "counts twice", ["retry/db"])]);
    /// assert_eq!(registry.status().lint[0].rule, "retry_inside_breaker");
    /// registry.set_lint([]);
    /// assert!(registry.status().lint.is_empty());
    /// ```
    pub fn set_lint(&self, findings: impl IntoIterator<Item = super::status::Lint>) {
        // Before the lock: the iterator is user code.
        let mut findings: Vec<_> = findings.into_iter().collect();
        findings.sort_by_key(|lint| std::cmp::Reverse(lint.severity));
        findings.truncate(LINTS);
        lock(&self.places).lint = findings;
    }

    pub(super) fn told(&self) -> (String, Vec<super::status::Lint>) {
        let places = lock(&self.places);
        (places.service.clone(), places.lint.clone())
    }

    /// Carries out one command.
    ///
    /// # Errors
    /// When its slot or one of its levers is not there, or an argument is out of range. Then nothing is
    /// changed.
    ///
    /// ```
    /// use buttress::control::{Command, Done, Registry, Uninstall};
    /// let registry = Registry::new();
    /// registry.conditioner("backend");
    /// let done = registry.apply(&Command::UninstallNetworkConditioner(Uninstall::default()))?;
    /// assert_eq!(done, Done::Uninstalled { was_installed: false });
    /// # Ok::<(), buttress::control::CommandError>(())
    /// ```
    pub fn apply(&self, command: &Command) -> Result<Done, CommandError> {
        let done = self.carry_out(command);
        self.note_command(command, done.as_ref().err());
        done.map_err(|error| CommandError::new(command.as_str(), error))
    }

    fn carry_out(&self, command: &Command) -> Result<Done, ConfigError> {
        match command {
            Command::InstallFailureBudget(install) => self.install_failure_budget(install),
            Command::InstallNetworkConditioner(install) => self.install_conditioner(install),
            Command::UninstallFailureBudget(uninstall) => {
                self.failure_budget_at(uninstall.target.as_deref()).map(|(_, slot)| {
                    let was_installed = self.retire(slot.uninstall());
                    self.sort_out();
                    Done::Uninstalled { was_installed }
                })
            }
            Command::UninstallNetworkConditioner(uninstall) => {
                self.conditioner_at(uninstall.target.as_deref()).map(|(_, slot)| {
                    let was_installed = self.disarm(slot.uninstall());
                    self.sort_out();
                    Done::Uninstalled { was_installed }
                })
            }
            Command::InstallRetryPolicy(install) => self.install_retry_policy(install),
            Command::UninstallRetryPolicy(uninstall) => self
                .retry_policy_at(uninstall.target.as_deref())
                .map(|(_, slot)| Done::Uninstalled { was_installed: slot.uninstall().is_some() }),
            Command::InstallCircuitBreaker(install) => self.install_circuit_breaker(install),
            Command::UninstallCircuitBreaker(uninstall) => {
                self.uninstall_circuit_breaker(uninstall)
            }
            Command::InstallRateLimit(install) => self.install_rate_limit(install),
            Command::UninstallRateLimit(uninstall) => self.uninstall_rate_limit(uninstall),
            Command::KillFaults => Ok(self.kill_faults()),
            Command::ArmFaults => Ok(self.arm_faults()),
            Command::Operate(operate) if operate.operation == Operation::Drain => {
                self.drain().ok_or_else(|| {
                    let expected = "a process whose lifecycle the registry has been given";
                    ConfigError::new("command", "drain", expected)
                })
            }
            Command::Operate(operate) => {
                let lever = operate.target.as_deref().and_then(|name| self.lever(name));
                self.operate(operate, lever.as_deref())
            }
        }
    }

    pub(super) fn keep_faults_off(&self, off: bool) {
        lock(&self.places).killed = off;
    }

    /// Whether somebody has switched all faults off.
    #[cfg(feature = "config")]
    pub(crate) fn faults_are_killed(&self) -> bool {
        lock(&self.places).killed
    }

    /// The conditioners in the slots, which may be registered elsewhere.
    pub(super) fn installed_faults(&self) -> Vec<Conditioner> {
        let slots: Vec<_> = lock(&self.places).conditioners.values().cloned().collect();
        slots.iter().filter_map(Slot::get).collect()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = lock(&self.places);
        f.debug_struct("Registry")
            .field("failure_budgets", &places.failure_budgets)
            .field("conditioners", &places.conditioners)
            .field("retry_policies", &places.retry_policies)
            .field("circuit_breakers", &places.circuit_breakers)
            .field("rate_limiters", &places.rate_limiters)
            .field("levers", &places.levers.keys())
            .finish()
    }
}

/// What a command did.
///
/// ```
/// use buttress::control::Done;
/// assert_eq!(Done::Installed("FailureBudget").installed(), Some("FailureBudget"));
/// assert_eq!(Done::Uninstalled { was_installed: true }.installed(), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Done {
    /// An object of this type is in the slot now.
    Installed(&'static str),
    /// The order was carried out by so many objects. Of one that is [taken out](crate::control) no stack feels it before it
    /// is back.
    Operated(usize),
    /// The slot is empty now.
    Uninstalled {
        /// Whether there was something in it.
        was_installed: bool,
    },
}

impl Done {
    /// The type of what was installed.
    ///
    /// ```
    /// # use buttress::control::{Command, InstallNetworkConditioner, Registry};
    /// let registry = Registry::new();
    /// registry.conditioner("backend");
    /// let install = Command::InstallNetworkConditioner(InstallNetworkConditioner::default());
    /// assert_eq!(registry.apply(&install)?.installed(), Some("Conditioner"));
    /// # Ok::<(), buttress::control::CommandError>(())
    /// ```
    #[must_use]
    pub const fn installed(self) -> Option<&'static str> {
        match self {
            Self::Installed(what) => Some(what),
            Self::Operated(_) | Self::Uninstalled { .. } => None,
        }
    }
}
