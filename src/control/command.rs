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
    /// Ends the faults of every conditioner of the registry, now. Those that a configuration brings afterwards come disarmed,
    /// too: whoever wants them arms them.
    KillFaults,
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
            Self::KillFaults => "kill_faults",
            Self::Operate(operate) => operate.operation.as_str(),
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
    /// What calls that begin from now on are tried by.
    pub policy: RetryPolicy,
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
