//! From JSON to a [`Command`]. One place that knows the names and the order of arguments.

use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::{Map, Value};

use std::time::Duration;

use super::command::{
    Command, InstallCircuitBreaker, InstallFailureBudget, InstallNetworkConditioner,
    InstallRateLimit, InstallRetryPolicy, Operate, Uninstall,
};
use super::error::CommandError;
use super::install::within;
use super::settings::{CircuitBreakerSettings, RateLimitSettings};
use crate::error::ConfigError;
use crate::failure_budget::BreachAction;
use crate::managed::Operation;
use crate::quota::Quota;
use crate::retry::RetryPolicy;
use crate::units;

const NAMES: &str = "install_failure_budget, uninstall_failure_budget, install_network_conditioner, \
                     uninstall_network_conditioner, install_retry_policy, uninstall_retry_policy, \
                     install_circuit_breaker, uninstall_circuit_breaker, install_rate_limit or \
                     uninstall_rate_limit, also with LD_ before it; force_open, force_closed, \
                     reset, enable, disable, set_quota, drain, disarm, engage, release, kill_faults or arm_faults";

const QUOTA: &str = "a quota such as \"100/s burst 20\"";

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
        "install_circuit_breaker" => install_circuit_breaker(arguments),
        "uninstall_circuit_breaker" => uninstall(arguments).map(Command::UninstallCircuitBreaker),
        "install_rate_limit" => install_rate_limit(arguments),
        "uninstall_rate_limit" => uninstall(arguments).map(Command::UninstallRateLimit),
        "arm_faults" => arguments.fields(&[], &[]).map(|_| Command::ArmFaults),
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
    if let Some(threshold) =
        read.number_or("threshold", "a number, or such as \"5%\"", units::ratio)?
    {
        install.threshold = threshold;
    }
    if let Some(seconds) = read.number_or("window_seconds", TIME, units::seconds)? {
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

fn install_circuit_breaker(arguments: Arguments<'_>) -> Result<Command, ConfigError> {
    let read = arguments.fields(&["breaker"], &["target"])?;
    let breaker = match read.get("breaker") {
        None => CircuitBreakerSettings::default(),
        Some(Value::Object(block)) => {
            CircuitBreakerSettings::from_json(block).map_err(|error| within("breaker", &error))?
        }
        Some(other) => {
            let expected = "the keys of an entry of `breakers`, such as {\"failure_rate\": 0.5}";
            return Err(ConfigError::new("breaker", other, expected));
        }
    };
    let target = read.text("target")?;
    Ok(Command::InstallCircuitBreaker(InstallCircuitBreaker { target, breaker }))
}

fn install_rate_limit(arguments: Arguments<'_>) -> Result<Command, ConfigError> {
    const EXPECTED: &str =
        "a rate such as \"100/s burst 20\", or the keys of an entry of `rate_limits`";
    let read = arguments.fields(&["rate_limit"], &["target"])?;
    let rate_limit = match read.get("rate_limit") {
        None => return Err(ConfigError::new("rate_limit", "none", EXPECTED)),
        Some(Value::String(_)) => read.quota("rate_limit")?.map(RateLimitSettings::new),
        Some(Value::Object(block)) => {
            let settings = RateLimitSettings::from_json(block);
            Some(settings.map_err(|error| within("rate_limit", &error))?)
        }
        Some(_) => None,
    };
    let Some(rate_limit) = rate_limit else {
        let given = read.get("rate_limit").unwrap_or(&Value::Null);
        return Err(ConfigError::new("rate_limit", given, EXPECTED));
    };
    let target = read.text("target")?;
    Ok(Command::InstallRateLimit(InstallRateLimit { target, rate_limit }))
}

fn uninstall(arguments: Arguments<'_>) -> Result<Uninstall, ConfigError> {
    Ok(Uninstall { target: arguments.fields(&[], &["target"])?.text("target")? })
}

fn operate(arguments: Arguments<'_>, operation: Operation) -> Result<Command, ConfigError> {
    let target = arguments.fields(&["target"], &[])?.text("target")?;
    Ok(Command::Operate(Operate { target, operation }))
}

fn set_quota(arguments: Arguments<'_>) -> Result<Command, ConfigError> {
    let read = arguments.fields(&["target", "quota"], &[])?;
    let target = read.text("target")?;
    let quota = read.quota("quota")?.ok_or_else(|| ConfigError::new("quota", "none", QUOTA))?;
    Ok(Command::Operate(Operate { target, operation: Operation::SetQuota(quota) }))
}

const TIME: &str = "a time: seconds, or such as \"1m 30s\"";

fn time(value: &Value) -> Option<Duration> {
    let seconds = value.as_f64().or_else(|| units::seconds(value.as_str()?))?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[derive(Clone, Copy)]
pub(super) enum Arguments<'a> {
    Named(&'a Map<String, Value>),
    /// The keys of an argument.
    Block(&'a Map<String, Value>),
    /// With the command's name among them.
    Beside(&'a Map<String, Value>),
    InOrder(&'a [Value]),
}

impl<'a> Arguments<'a> {
    /// Checks that nothing else is there than `ordered` (which may be given in that order) and `named`.
    pub(super) fn fields(
        self,
        ordered: &'static [&'static str],
        named: &[&'static str],
    ) -> Result<Fields<'a>, ConfigError> {
        match self {
            Self::Named(map) | Self::Block(map) | Self::Beside(map) => {
                for (key, value) in map {
                    let known = matches!(self, Self::Beside(_)) && key == "command"
                        || ordered.contains(&key.as_str())
                        || named.contains(&key.as_str());
                    if !known {
                        let all: Vec<_> = ordered.iter().chain(named).copied().collect();
                        let what = match self {
                            Self::Block(_) => "keys",
                            _ => "arguments",
                        };
                        let expected = format!("one of the {what} {}", all.join(", "));
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

pub(super) struct Fields<'a> {
    arguments: Arguments<'a>,
    ordered: &'static [&'static str],
}

impl<'a> Fields<'a> {
    /// `null` is as good as absent.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        let value = match self.arguments {
            Arguments::Named(map) | Arguments::Block(map) | Arguments::Beside(map) => {
                map.get(field)
            }
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

    pub(super) fn number(&self, field: &'static str) -> Result<Option<f64>, ConfigError> {
        self.read(field, "a number", |value| value.as_f64().filter(|n| n.is_finite()))
    }

    /// Or a text with units.
    fn number_or(
        &self,
        field: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<f64>,
    ) -> Result<Option<f64>, ConfigError> {
        self.read(field, expected, |value| {
            // A number in quotes is a slip, as for all numbers.
            let units = |text: &&str| text.trim().parse::<f64>().is_err();
            let text = value.as_str().filter(units).and_then(&parse);
            value.as_f64().filter(|n| n.is_finite()).or(text)
        })
    }

    pub(super) fn whole(&self, field: &'static str) -> Result<Option<u32>, ConfigError> {
        self.read(field, "a whole number from 0 to 4294967295", |value| {
            u32::try_from(value.as_u64()?).ok()
        })
    }

    fn text(&self, field: &'static str) -> Result<Option<String>, ConfigError> {
        self.read(field, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// In seconds, or with units.
    pub(super) fn time(&self, field: &'static str) -> Result<Option<Duration>, ConfigError> {
        self.read(field, TIME, time)
    }

    /// The same where it may also be a word, which it is not.
    pub(super) fn time_or(
        &self,
        field: &'static str,
        word: &str,
    ) -> Result<Option<Duration>, ConfigError> {
        let or = |error: ConfigError| {
            ConfigError::new(field, error.value(), format!("{TIME}, or {word}"))
        };
        self.time(field).map_err(or)
    }

    pub(super) fn share(&self, field: &'static str) -> Result<Option<f64>, ConfigError> {
        self.read(field, "a number from 0 to 1, or such as \"5%\"", |value| {
            let share = value.as_f64().or_else(|| units::ratio(value.as_str()?))?;
            (0.0..=1.0).contains(&share).then_some(share)
        })
    }

    pub(super) fn flag(&self, field: &'static str) -> Result<Option<bool>, ConfigError> {
        self.read(field, "true or false", Value::as_bool)
    }

    pub(super) fn seed(&self, field: &'static str) -> Result<Option<u64>, ConfigError> {
        self.read(field, "a whole number that is not negative", Value::as_u64)
    }

    pub(super) fn quota(&self, field: &'static str) -> Result<Option<Quota>, ConfigError> {
        let text = self.read(field, QUOTA, |value| value.as_str().map(str::to_owned))?;
        let Some(text) = text else { return Ok(None) };
        text.parse().map(Some).map_err(|error| {
            ConfigError::new(field, format_args!("{text:?}"), format!("{QUOTA}: {error}"))
        })
    }

    fn texts(&self, field: &'static str) -> Result<Option<Vec<String>>, ConfigError> {
        self.read(field, "a list of texts", |value| {
            value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        })
    }
}
