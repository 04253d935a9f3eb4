//! From JSON to a [`Command`]. One place that knows the names and the order of arguments.

use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::{Map, Value};

use super::command::{
    Command, InstallFailureBudget, InstallNetworkConditioner, InstallRetryPolicy, Operate,
    Uninstall,
};
use super::error::CommandError;
use crate::error::ConfigError;
use crate::failure_budget::BreachAction;
use crate::managed::Operation;
use crate::retry::RetryPolicy;

const NAMES: &str = "install_failure_budget, uninstall_failure_budget, install_network_conditioner, \
                     uninstall_network_conditioner, install_retry_policy or uninstall_retry_policy, also with LD_ before it; force_open, force_closed, \
                     reset, enable, disable, set_quota, drain, disarm, engage, release or kill_faults";

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        command(&value).map_err(D::Error::custom)
    }
}

/// Reads one action, in either form.
pub(super) fn command(action: &Value) -> Result<Command, CommandError> {
    let malformed = |expected: &'static str| {
        CommandError::new("action", ConfigError::new("action", action, expected))
    };
    match action {
        Value::Object(map) => match map.get("command") {
            Some(Value::String(name)) => read(name, Arguments::Beside(map)),
            _ => {
                Err(malformed("an object with a `command`, or a list of a name and its arguments"))
            }
        },
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(name)] => read(name, Arguments::InOrder(&[])),
            [Value::String(name), Value::Object(map)] => read(name, Arguments::Named(map)),
            [Value::String(name), Value::Array(list)] => read(name, Arguments::InOrder(list)),
            _ => Err(malformed("a name, and an object or a list of arguments or nothing")),
        },
        _ => Err(malformed("an object with a `command`, or a list of a name and its arguments")),
    }
}

fn read(name: &str, arguments: Arguments<'_>) -> Result<Command, CommandError> {
    let known = match name.strip_prefix("LD_").unwrap_or(name) {
        "install_failure_budget" => install_failure_budget(arguments),
        "uninstall_failure_budget" => uninstall(arguments).map(Command::UninstallFailureBudget),
        "install_network_conditioner" => install_network_conditioner(arguments),
        "uninstall_network_conditioner" => {
            uninstall(arguments).map(Command::UninstallNetworkConditioner)
        }
        "install_retry_policy" => install_retry_policy(arguments),
        "uninstall_retry_policy" => uninstall(arguments).map(Command::UninstallRetryPolicy),
        "kill_faults" => arguments.fields(&[], &[]).map(|_| Command::KillFaults),
        "force_open" => operate(arguments, Operation::ForceOpen),
        "force_closed" => operate(arguments, Operation::ForceClosed),
        "reset" => operate(arguments, Operation::Reset),
        "enable" => operate(arguments, Operation::Enable),
        "disable" => operate(arguments, Operation::Disable),
        "drain" => operate(arguments, Operation::Drain),
        "disarm" => operate(arguments, Operation::Disarm),
        "engage" => operate(arguments, Operation::Engage),
        "release" => operate(arguments, Operation::Release),
        "set_quota" => set_quota(arguments),
        _ => Err(ConfigError::new("command", format_args!("{name:?}"), NAMES)),
    };
    known.map_err(|error| CommandError::new(name.to_owned(), error))
}

fn install_failure_budget(arguments: Arguments<'_>) -> Result<Command, ConfigError> {
    let read = arguments.fields(
        &["threshold", "window_seconds", "min_samples"],
        &["target", "on_breach", "levers", "runner_quit_callback"],
    )?;
    if let Some(given) = read.get("runner_quit_callback") {
        let expected = "nothing: a document cannot carry a function; name a lever in `levers`";
        return Err(ConfigError::new("runner_quit_callback", given, expected));
    }
    let mut install = InstallFailureBudget { target: read.text("target")?, ..Default::default() };
    if let Some(threshold) = read.number("threshold")? {
        install.threshold = threshold;
    }
    if let Some(seconds) = read.number("window_seconds")? {
        install.window_seconds = seconds;
    }
    if let Some(samples) = read.whole("min_samples")? {
        install.min_samples = samples;
    }
    if let Some(action) = read.get("on_breach") {
        install.on_breach = BreachAction::deserialize(action).map_err(|_| {
            ConfigError::new("on_breach", action, "\"notify\", \"reject\" or \"shed\"")
        })?;
    }
    install.levers = read.texts("levers")?;
    Ok(Command::InstallFailureBudget(install))
}

fn install_network_conditioner(arguments: Arguments<'_>) -> Result<Command, ConfigError> {
    let read =
        arguments.fields(&["latency_ms", "jitter_ms", "loss_rate", "name_filter"], &["target"])?;
    Ok(Command::InstallNetworkConditioner(InstallNetworkConditioner {
        target: read.text("target")?,
        latency_ms: read.number("latency_ms")?.unwrap_or_default(),
        jitter_ms: read.number("jitter_ms")?.unwrap_or_default(),
        loss_rate: read.number("loss_rate")?.unwrap_or_default(),
        name_filter: read.text("name_filter")?,
    }))
}

fn install_retry_policy(arguments: Arguments<'_>) -> Result<Command, ConfigError> {
    let read = arguments.fields(&["policy"], &["target"])?;
    let mut install = InstallRetryPolicy { target: read.text("target")?, ..Default::default() };
    if let Some(policy) = read.get("policy") {
        install.policy = RetryPolicy::deserialize(policy).map_err(|error| {
            ConfigError::new("policy", policy, format!("a retry policy: {error}"))
        })?;
    }
    Ok(Command::InstallRetryPolicy(install))
}

fn uninstall(arguments: Arguments<'_>) -> Result<Uninstall, ConfigError> {
    Ok(Uninstall { target: arguments.fields(&[], &["target"])?.text("target")? })
}

fn operate(arguments: Arguments<'_>, operation: Operation) -> Result<Command, ConfigError> {
    let target = arguments.fields(&["target"], &[])?.text("target")?;
    Ok(Command::Operate(Operate { target, operation }))
}

fn set_quota(arguments: Arguments<'_>) -> Result<Command, ConfigError> {
    const EXPECTED: &str = "a quota such as \"100/s burst 20\"";
    let read = arguments.fields(&["target", "quota"], &[])?;
    let target = read.text("target")?;
    let Some(text) = read.text("quota")? else {
        return Err(ConfigError::new("quota", "none", EXPECTED));
    };
    let quota = text.parse().map_err(|error| {
        ConfigError::new("quota", format_args!("{text:?}"), format!("{EXPECTED}: {error}"))
    })?;
    Ok(Command::Operate(Operate { target, operation: Operation::SetQuota(quota) }))
}

#[derive(Clone, Copy)]
enum Arguments<'a> {
    Named(&'a Map<String, Value>),
    /// With the command's name among them.
    Beside(&'a Map<String, Value>),
    InOrder(&'a [Value]),
}

impl<'a> Arguments<'a> {
    /// Checks that nothing else is there than `ordered` (which may be given in that order) and `named`.
    fn fields(
        self,
        ordered: &'static [&'static str],
        named: &[&'static str],
    ) -> Result<Fields<'a>, ConfigError> {
        match self {
            Self::Named(map) | Self::Beside(map) => {
                for (key, value) in map {
                    let known = matches!(self, Self::Beside(_)) && key == "command"
                        || ordered.contains(&key.as_str())
                        || named.contains(&key.as_str());
                    if !known {
                        let all: Vec<_> = ordered.iter().chain(named).copied().collect();
                        let expected = format!("one of the arguments {}", all.join(", "));
                        return Err(ConfigError::new(key.clone(), value, expected));
                    }
                }
            }
            Self::InOrder(list) => {
                if let Some(more) = list.get(ordered.len()) {
                    let expected = match ordered {
                        [] => "no arguments".to_owned(),
                        _ => format!("at most {}, in this order", ordered.join(", ")),
                    };
                    let field = format!("argument {}", ordered.len() + 1);
                    return Err(ConfigError::new(field, more, expected));
                }
            }
        }
        Ok(Fields { arguments: self, ordered })
    }
}

struct Fields<'a> {
    arguments: Arguments<'a>,
    ordered: &'static [&'static str],
}

impl<'a> Fields<'a> {
    /// `null` is as good as absent.
    fn get(&self, field: &str) -> Option<&'a Value> {
        let value = match self.arguments {
            Arguments::Named(map) | Arguments::Beside(map) => map.get(field),
            Arguments::InOrder(list) => {
                self.ordered.iter().position(|name| *name == field).and_then(|at| list.get(at))
            }
        };
        value.filter(|value| !value.is_null())
    }

    fn read<T>(
        &self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        self.get(field)
            .map(|value| read(value).ok_or_else(|| ConfigError::new(field, value, expected)))
            .transpose()
    }

    fn number(&self, field: &'static str) -> Result<Option<f64>, ConfigError> {
        self.read(field, "a number", |value| value.as_f64().filter(|n| n.is_finite()))
    }

    fn whole(&self, field: &'static str) -> Result<Option<u32>, ConfigError> {
        self.read(field, "a whole number from 0 to 4294967295", |value| {
            u32::try_from(value.as_u64()?).ok()
        })
    }

    fn text(&self, field: &'static str) -> Result<Option<String>, ConfigError> {
        self.read(field, "a text", |value| value.as_str().map(str::to_owned))
    }

    fn texts(&self, field: &'static str) -> Result<Option<Vec<String>>, ConfigError> {
        self.read(field, "a list of texts", |value| {
            value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        })
    }
}
