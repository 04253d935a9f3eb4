use super::settings::{CircuitBreakerSettings, RateLimitSettings};
use crate::failure_budget::BreachAction;
use crate::managed::Operation;
use crate::retry::RetryPolicy;

/// A change to a running stack. In JSON an object whose `command` says which.
///
/// ```
/// # #[cfg(feature = "serde")] {
/// use buttress::control::Command;
/// let command: Command =
///     serde_json::from_str(r#"{"command": "install_network_conditioner", "latency_ms": 50}"#)?;
/// let Command::InstallNetworkConditioner(install) = &command else { unreachable!() };
/// assert_eq!((install.latency_ms, install.jitter_ms), (50.0, 0.0));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(tag = "command", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Command {
    /// Puts a new failure budget into a slot, in place of what is there.
    InstallFailureBudget(InstallFailureBudget),
    /// Empties a slot of a failure budget.
    UninstallFailureBudget(Uninstall),
    /// Puts a new conditioner into a slot, in place of what is there.
    InstallNetworkConditioner(InstallNetworkConditioner),
    /// Empties a slot of a conditioner.
    UninstallNetworkConditioner(Uninstall),
    /// Puts a retry policy into a slot, in place of what is there.
    InstallRetryPolicy(InstallRetryPolicy),
    /// Empties a slot of a retry policy: nothing is tried again.
    UninstallRetryPolicy(Uninstall),
    /// Puts a new breaker into a slot, in place of what is there.
    InstallCircuitBreaker(InstallCircuitBreaker),
    /// Empties a slot of a breaker.
    UninstallCircuitBreaker(Uninstall),
    /// Puts a new limiter into a slot, in place of what is there.
    InstallRateLimit(InstallRateLimit),
    /// Empties a slot of a limiter. Calls that wait at it go on.
    UninstallRateLimit(Uninstall),
    /// Ends the faults of every conditioner of the registry, now. Those that a configuration brings afterwards come disarmed,
    /// too: whoever wants them arms them.
    KillFaults,
    /// Takes [`KillFaults`](Self::KillFaults) back: arms every conditioner of the registry that may be armed where it is, whoever
    /// has disarmed it, and those that a configuration brings afterwards come armed again.
    ArmFaults,
    /// Something that one object is to do.
    #[cfg_attr(feature = "serde", serde(untagged))]
    Operate(Operate),
}

impl Command {
    /// Lower-case name with underscores.
    ///
    /// ```
    /// use buttress::control::{Command, Uninstall};
    /// let command = Command::UninstallFailureBudget(Uninstall::default());
    /// assert_eq!(command.as_str(), "uninstall_failure_budget");
    /// ```
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::InstallFailureBudget(_) => "install_failure_budget",
            Self::UninstallFailureBudget(_) => "uninstall_failure_budget",
            Self::InstallNetworkConditioner(_) => "install_network_conditioner",
            Self::UninstallNetworkConditioner(_) => "uninstall_network_conditioner",
            Self::InstallRetryPolicy(_) => "install_retry_policy",
            Self::UninstallRetryPolicy(_) => "uninstall_retry_policy",
            Self::InstallCircuitBreaker(_) => "install_circuit_breaker",
            Self::UninstallCircuitBreaker(_) => "uninstall_circuit_breaker",
            Self::InstallRateLimit(_) => "install_rate_limit",
            Self::UninstallRateLimit(_) => "uninstall_rate_limit",
            Self::KillFaults => "kill_faults",
            Self::ArmFaults => "arm_faults",
            Self::Operate(operate) => operate.operation.as_str(),
        }
    }

    /// What it names as its target.
    pub(super) fn target(&self) -> Option<&str> {
        match self {
            Self::InstallFailureBudget(install) => install.target.as_deref(),
            Self::InstallNetworkConditioner(install) => install.target.as_deref(),
            Self::InstallRetryPolicy(install) => install.target.as_deref(),
            Self::InstallCircuitBreaker(install) => install.target.as_deref(),
            Self::InstallRateLimit(install) => install.target.as_deref(),
            Self::UninstallFailureBudget(uninstall)
            | Self::UninstallNetworkConditioner(uninstall)
            | Self::UninstallRetryPolicy(uninstall)
            | Self::UninstallCircuitBreaker(uninstall)
            | Self::UninstallRateLimit(uninstall) => uninstall.target.as_deref(),
            Self::Operate(operate) => operate.target.as_deref(),
            Self::KillFaults | Self::ArmFaults => None,
        }
    }
}

/// Arguments of [`Command::InstallFailureBudget`].
///
/// ```
/// let install = buttress::control::InstallFailureBudget::default();
/// assert_eq!((install.threshold, install.window_seconds, install.min_samples), (0.05, 30.0, 50));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct InstallFailureBudget {
    /// Which slot; `None` for the only one.
    pub target: Option<String>,
    /// The failure rate above which the budget is spent, 0 to 1.
    pub threshold: f64,
    /// How far back calls are looked at, in seconds.
    pub window_seconds: f64,
    /// With fewer calls in the window it is never spent.
    pub min_samples: u32,
    /// What becomes of calls while it is spent. Reject by default: a budget that nobody looks at must act.
    pub on_breach: BreachAction,
    /// Which levers of the registry a breach engages; `None` for all of them.
    pub levers: Option<Vec<String>>,
}

impl Default for InstallFailureBudget {
    fn default() -> Self {
        Self {
            target: None,
            threshold: 0.05,
            window_seconds: 30.0,
            min_samples: 50,
            on_breach: BreachAction::Reject,
            levers: None,
        }
    }
}

/// Arguments of [`Command::InstallNetworkConditioner`].
///
/// ```
/// let install = buttress::control::InstallNetworkConditioner::default();
/// assert_eq!(install.loss_rate, 0.0);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct InstallNetworkConditioner {
    /// Which slot; `None` for the only one.
    pub target: Option<String>,
    /// How long each call is held up, in milliseconds.
    pub latency_ms: f64,
    /// By how many milliseconds that varies, up and down.
    pub jitter_ms: f64,
    /// The share of calls that is lost, 0 to 1.
    pub loss_rate: f64,
    /// Only calls whose name or URL contains this.
    pub name_filter: Option<String>,
}

/// Arguments of [`Command::InstallRetryPolicy`].
///
/// ```
/// use buttress::{control::InstallRetryPolicy, retry::RetryPolicy};
/// assert_eq!(InstallRetryPolicy::default().policy, RetryPolicy::default());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct InstallRetryPolicy {
    /// Which slot; `None` for the only one.
    pub target: Option<String>,
    /// What calls that begin from now on are tried by. In a stack of a configuration it is refused with an
    /// [`attempt_timeout`](RetryPolicy::attempt_timeout) or a [`deadline`](RetryPolicy::deadline) below 2 s: what guards that
    /// stack counts calls that are cut off by the timeouts of its file, and those that are cut off sooner would be nobody's
    /// failure, so that a callee that hangs would never be found out. Write `attempt_timeout` of the client, which a reload
    /// changes.
    pub policy: RetryPolicy,
}

/// Arguments of [`Command::InstallCircuitBreaker`].
///
/// ```
/// # #[cfg(feature = "serde")] {
/// use buttress::control::Command;
/// let command = serde_json::json!({
///     "command": "install_circuit_breaker", "target": "clients.pay",
///     "breaker": {"failure_rate": "50%", "open_for": "5s"},
/// });
/// let Command::InstallCircuitBreaker(install) = serde_json::from_value(command)? else { unreachable!() };
/// assert_eq!((install.breaker.failure_rate, install.breaker.window), (Some(0.5), None));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct InstallCircuitBreaker {
    /// Which slot; `None` for the only one.
    pub target: Option<String>,
    /// What it goes by.
    pub breaker: CircuitBreakerSettings,
}

/// Arguments of [`Command::InstallRateLimit`].
///
/// ```
/// # #[cfg(feature = "serde")] {
/// use buttress::control::{Command, InstallRateLimit};
/// let mut install = InstallRateLimit::new("100/s burst 20".parse::<buttress::Quota>()?);
/// install.target = Some("servers.api".into());
/// let command = serde_json::json!({
///     "command": "install_rate_limit", "target": "servers.api", "rate_limit": "100/s burst 20",
/// });
/// assert_eq!(serde_json::from_value::<Command>(command)?, Command::InstallRateLimit(install));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct InstallRateLimit {
    /// Which slot; `None` for the only one.
    pub target: Option<String>,
    /// What it goes by.
    pub rate_limit: RateLimitSettings,
}

impl InstallRateLimit {
    /// Of a limiter with these settings, or with this rate.
    ///
    /// ```
    /// use buttress::control::InstallRateLimit;
    /// let install = InstallRateLimit::new("5/s".parse::<buttress::Quota>()?);
    /// assert_eq!(install.target, None);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn new(rate_limit: impl Into<RateLimitSettings>) -> Self {
        Self { target: None, rate_limit: rate_limit.into() }
    }
}

/// Arguments of the commands that uninstall.
///
/// ```
/// assert_eq!(buttress::control::Uninstall::default().target, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Uninstall {
    /// Which slot; `None` for the only one.
    pub target: Option<String>,
}

/// Arguments of [`Command::Operate`].
///
/// ```
/// use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
/// use buttress::control::{Operate, Operation, Registry};
/// let registry = Registry::new();
/// let breaker = CircuitBreaker::builder("payments").register_in(&registry).build()?;
/// registry.apply(&Operate::on("circuit_breaker/payments", Operation::ForceOpen).into())?;
/// assert_eq!(breaker.state(), CircuitState::ForcedOpen);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Operate {
    /// Which object: its `id`, its name if that is the only one of the name that takes the order, or for
    /// `engage` and `release` the name of a lever. `None` for the only object that takes it.
    pub target: Option<String>,
    /// What it is to do.
    pub operation: Operation,
}

impl Operate {
    /// An order to one object.
    ///
    /// ```
    /// use buttress::control::{Operate, Operation};
    /// assert_eq!(Operate::on("db", Operation::Reset).target.as_deref(), Some("db"));
    /// ```
    #[must_use]
    pub fn on(target: impl Into<String>, operation: Operation) -> Self {
        Self { target: Some(target.into()), operation }
    }
}

impl From<Operate> for Command {
    fn from(operate: Operate) -> Self {
        Self::Operate(operate)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Operate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("command", self.operation.as_str())?;
        map.serialize_entry("target", &self.target)?;
        if let Operation::SetQuota(quota) = &self.operation {
            map.serialize_entry("quota", quota)?;
        }
        map.end()
    }
}
