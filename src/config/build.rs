//! From settings to objects.

use std::time::Duration;

use ::config_rs::ValueKind;
use serde_json::{Map, Value as Json, json};

use super::settings::{Config, Setting};
use super::value::origin;
use crate::budget::{RetryBudget, RetryBudgetBuilder};
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerBuilder};
use crate::conditioner::{Conditioner, ConditionerBuilder, Rule};
use crate::control::{CircuitBreakerSettings, RateLimitSettings, missing, set};
use crate::error::ConfigError;
use crate::failure_budget::{BreachAction, FailureBudget, FailureBudgetBuilder};
use crate::rate_limit::{RateLimiter, RateLimiterBuilder};
use crate::retry::{RetryOverride, RetryPolicy};

/// The numbers of the seed's block, with its defaults. Times are seconds.
///
/// ```
/// use buttress::config::Loader;
/// let limits = Loader::empty().load()?.limits();
/// assert_eq!((limits.circuit_max_failures, limits.watchdog_timeout), (5, 30.0));
/// # Ok::<(), buttress::config::LoadError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// `heartbeat.interval`.
    pub heartbeat_interval: f64,
    /// `shutdown.timeout`, or its other name `default_timeout`.
    pub shutdown_timeout: f64,
    /// `circuit_breaker.max_failures`.
    pub circuit_max_failures: u32,
    /// `circuit_breaker.reset_timeout`.
    pub circuit_reset_timeout: f64,
    /// `circuit_breaker.half_open_max_calls`.
    pub circuit_half_open_calls: u32,
    /// `watchdog.timeout`.
    pub watchdog_timeout: f64,
}

/// One entry's keys.
#[derive(Clone, Copy)]
pub(super) struct Block<'a>(pub(super) Option<&'a Map<String, Json>>);

impl<'a> Block<'a> {
    pub(super) fn of(json: Option<&'a Json>) -> Self {
        Self(json.and_then(Json::as_object))
    }
    pub(super) fn get(self, key: &str) -> Option<&'a Json> {
        self.0?.get(key)
    }
    pub(super) fn table(self, key: &str) -> Option<Self> {
        Some(Self(Some(self.get(key)?.as_object()?)))
    }
    pub(super) fn number(self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }
    pub(super) fn time(self, key: &str) -> Option<Duration> {
        Duration::try_from_secs_f64(self.number(key)?).ok()
    }
    pub(super) fn int(self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }
    pub(super) fn count(self, key: &str) -> Option<u32> {
        u32::try_from(self.int(key)?).ok()
    }
    pub(super) fn flag(self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }
    pub(super) fn text(self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }
}

impl Config {
    pub(super) fn entry(&self, map: &'static str, name: &str) -> Result<Block<'_>, ConfigError> {
        match self.tree.get(map).and_then(|map| map.get(name)) {
            Some(json) => Ok(Block::of(Some(json))),
            None => {
                let known: Vec<_> = self.names(map).collect();
                let expected = match known.is_empty() {
                    true => "an entry with this name".to_owned(),
                    false => format!("one of {}", known.join(", ")),
                };
                Err(ConfigError::new(map, format_args!("{name:?}"), expected))
            }
        }
    }

    /// The key's own origin, or that of something near it below `parts`, or of the table it is missing in.
    pub(super) fn near(&self, parts: &[&str], key: &str) -> &str {
        let path = parts.join(".");
        let inside = |key: &str| {
            key.strip_prefix(&path).is_some_and(|k| k.is_empty() || k.starts_with(['.', '[']))
        };
        let near = |(k, _): &(&String, &Setting)| k.starts_with(key) || key.starts_with(k.as_str());
        let mut within = self.settings.iter().filter(|(k, _)| inside(k));
        let setting =
            self.settings.get(key).or_else(|| within.find(near).map(|(_, setting)| setting));
        let mut table = &self.raw;
        for part in parts {
            if let ValueKind::Table(entries) = &table.kind {
                table = entries.get(*part).unwrap_or(table);
            }
        }
        setting.map_or_else(|| origin(table), |setting| setting.origin.as_str())
    }

    pub(super) fn legacy(&self, section: &str, key: &str) -> Option<f64> {
        self.tree.get("resilience")?.get(section)?.get(key)?.as_f64()
    }

    /// What the block `resilience` says.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().set("resilience.shutdown.default_timeout", 20).load()?;
    /// assert_eq!(config.limits().shutdown_timeout, 20.0);
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1..=100")]
    pub fn limits(&self) -> Limits {
        let shutdown = |key| self.legacy("shutdown", key);
        let breaker = |key| self.legacy("circuit_breaker", key);
        Limits {
            heartbeat_interval: self.legacy("heartbeat", "interval").unwrap_or(10.0),
            shutdown_timeout: shutdown("timeout").or(shutdown("default_timeout")).unwrap_or(30.0),
            circuit_max_failures: breaker("max_failures").unwrap_or(5.0) as u32,
            circuit_reset_timeout: breaker("reset_timeout").unwrap_or(60.0),
            circuit_half_open_calls: breaker("half_open_max_calls").unwrap_or(1.0) as u32,
            watchdog_timeout: self.legacy("watchdog", "timeout").unwrap_or(30.0),
        }
    }

    /// A new breaker as `breakers` has it. What its entry does not say, the block `resilience` may: with that block, every name
    /// has a breaker.
    ///
    /// Each call makes another breaker with a state of its own, here and below: keep it and clone it.
    ///
    /// # Errors
    /// If there is no such entry.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().set("breakers.db.consecutive_failures", 3).load()?;
    /// assert!(config.circuit_breaker("db").is_ok());
    /// let error = config.circuit_breaker("bd").unwrap_err();
    /// assert_eq!(error.to_string(), "invalid breakers: \"bd\", expected one of db");
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn circuit_breaker(&self, name: &str) -> Result<CircuitBreaker, ConfigError> {
        self.breaker(name, self.breaker_entry(name)?)?.build()
    }

    pub(super) fn breaker_entry(&self, name: &str) -> Result<Block<'_>, ConfigError> {
        let seed = self.tree.get("resilience").and_then(|seed| seed.get("circuit_breaker"));
        match (self.entry("breakers", name), seed) {
            (Err(_), Some(_)) => Ok(Block(None)),
            (block, _) => block,
        }
    }

    pub(super) fn breaker(
        &self,
        name: &str,
        b: Block<'_>,
    ) -> Result<CircuitBreakerBuilder, ConfigError> {
        let mut settings = match b.0 {
            Some(block) => CircuitBreakerSettings::from_json(block)?,
            None => CircuitBreakerSettings::default(),
        };
        let rates = settings.failure_rate.is_some() || settings.slow_calls.is_some();
        let limits = self.limits();
        if self.legacy("circuit_breaker", "max_failures").is_some() && !rates {
            settings.consecutive_failures.get_or_insert(limits.circuit_max_failures);
        }
        if self.legacy("circuit_breaker", "reset_timeout").is_some() {
            let open = Duration::from_secs_f64(limits.circuit_reset_timeout);
            settings.open_for.get_or_insert(open);
        }
        if self.legacy("circuit_breaker", "half_open_max_calls").is_some() {
            settings.half_open_calls.get_or_insert(limits.circuit_half_open_calls);
        }
        Ok(settings.builder(name))
    }

    /// A new limiter as `rate_limits` has it.
    ///
    /// # Errors
    /// If there is no such entry.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().set("rate_limits.api", "100/s burst 20").load()?;
    /// assert!(config.rate_limiter("api").is_ok());
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn rate_limiter(&self, name: &str) -> Result<RateLimiter, ConfigError> {
        limiter(name, self.entry("rate_limits", name)?)?.build()
    }

    /// A policy as `retries` has it.
    ///
    /// # Errors
    /// If there is no such entry.
    ///
    /// ```
    /// use buttress::{FailureClass, config::Loader};
    /// let config = Loader::empty().set("retries.pay.transient", 3).load()?;
    /// let policy = config.retry_policy("pay")?;
    /// assert_eq!(policy.class_budget(FailureClass::Transient), Some(3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retry_policy(&self, name: &str) -> Result<RetryPolicy, ConfigError> {
        policy(self.entry("retries", name)?)
    }

    /// A new budget as `retry_budgets` has it.
    ///
    /// # Errors
    /// If there is no such entry.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().set("retry_budgets.pay.ratio", "10%").load()?;
    /// assert!(config.retry_budget("pay").is_ok());
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn retry_budget(&self, name: &str) -> Result<RetryBudget, ConfigError> {
        retry_budget(name, self.entry("retry_budgets", name)?)?.build()
    }

    /// A new budget as `failure_budgets` has it.
    ///
    /// # Errors
    /// If there is no such entry.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().set("failure_budgets.api.threshold", "5%").load()?;
    /// assert!(config.failure_budget("api").is_ok());
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn failure_budget(&self, name: &str) -> Result<FailureBudget, ConfigError> {
        failure_budget(name, self.entry("failure_budgets", name)?)?.build()
    }

    /// A new conditioner as `faults` has it.
    ///
    /// # Errors
    /// If there is no such entry.
    ///
    /// ```
    /// use buttress::config::{Format, Loader};
    /// let text = "faults: {slow: {rules: [{fault: {latency: {fixed: 50ms}}, share: 10%}]}}";
    /// let config = Loader::empty().text("a.yml", Format::Yaml, text).load()?;
    /// assert!(config.conditioner("slow").is_ok());
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn conditioner(&self, name: &str) -> Result<Conditioner, ConfigError> {
        conditioner(name, self.entry("faults", name)?)?.build()
    }
}

pub(super) fn limiter(name: &str, b: Block<'_>) -> Result<RateLimiterBuilder, ConfigError> {
    let block = b.0.cloned().unwrap_or_default();
    Ok(RateLimitSettings::from_json(&block)?.builder(name))
}

pub(super) fn policy(b: Block<'_>) -> Result<RetryPolicy, ConfigError> {
    let like = b.text("like").unwrap_or("adaptive");
    let base = match like {
        "adaptive" => RetryPolicy::adaptive(),
        "default" => RetryPolicy::DEFAULT,
        name => RetryPolicy::named(name).ok_or_else(|| {
            let expected = "default, adaptive, FLOW_NODE_DEFAULT, AGENT_LOW_MEDIUM, \
                            AGENT_HIGH_RISK, ASYNC_JOB_DEFAULT, NODUS_SCHEDULED_DEFAULT or NO_RETRY";
            ConfigError::new("like", format_args!("{name:?}"), expected)
        })?,
    };
    let short = ["base_delay", "max_delay", "backoff_factor", "jitter"];
    let short: Map<_, _> =
        short.iter().filter_map(|key| Some(((*key).to_owned(), b.get(key)?.clone()))).collect();
    if let (Some(key), true) = (short.keys().next(), b.get("backoff").is_some()) {
        return Err(ConfigError::new(
            "backoff",
            "set",
            format!("either backoff or {key}, not both"),
        ));
    }
    let base = RetryOverride::from_json(&Json::Object(short))?.apply(base);
    let bad = |error: serde_json::Error| ConfigError::new("backoff", error, "a usable policy");
    let Json::Object(mut wire) = serde_json::to_value(base).map_err(bad)? else {
        return Ok(base);
    };
    let mut changed = false;
    for (key, value) in b.0.into_iter().flatten() {
        if ["like", "base_delay", "max_delay", "backoff_factor", "jitter"].contains(&key.as_str()) {
            continue;
        }
        changed = true;
        let off = matches!(value.as_str(), Some("unlimited" | "ignore"));
        wire.insert(key.clone(), if off { Json::Null } else { value.clone() });
    }
    if !changed {
        return base.to_builder().build();
    }
    serde_json::from_value(Json::Object(wire)).map_err(|error| {
        let error = spoken("retry", &error);
        match error.field() {
            field @ ("base" | "cap" | "factor" | "jitter") => ConfigError::new(
                format!("backoff.{field}"),
                error.value(),
                error.expected().to_owned(),
            ),
            _ => error,
        }
    })
}

/// A builder's own words again, of which serde made one text.
fn spoken(field: &str, error: &serde_json::Error) -> ConfigError {
    let text = error.to_string();
    let parts = text.strip_prefix("invalid ").and_then(|text| text.split_once(": "));
    match parts.and_then(|(field, rest)| Some((field, rest.split_once(", expected ")?))) {
        Some((field, (value, expected))) => {
            ConfigError::new(field.to_owned(), value, expected.to_owned())
        }
        None => ConfigError::new(field.to_owned(), text, "complete and consistent keys"),
    }
}

pub(super) fn retry_budget(name: &str, b: Block<'_>) -> Result<RetryBudgetBuilder, ConfigError> {
    let mut builder = RetryBudget::builder(name.to_owned());
    set!(builder,
        b.number("ratio") => ratio,
        b.count("burst") => burst,
        b.count("floor") => floor,
        b.count("tokens") => tokens,
        b.count("initial_tokens") => initial_tokens,
        b.count("cost") => cost,
        b.count("throttled_cost") => throttled_cost,
    );
    Ok(builder)
}

pub(super) fn failure_budget(
    name: &str,
    b: Block<'_>,
) -> Result<FailureBudgetBuilder, ConfigError> {
    let mut builder = FailureBudget::builder(name.to_owned());
    let action = b.text("action").map(|word| match word {
        "reject" => BreachAction::Reject,
        "shed" => BreachAction::Shed,
        _ => BreachAction::Notify,
    });
    set!(builder,
        b.number("threshold") => threshold,
        b.time("window") => window,
        b.count("min_samples") => min_samples,
        b.number("recovery") => recovery,
        action => action,
        b.number("probes") => probes,
        b.time("cancelled_after") => cancelled_after,
    );
    if b.flag("latch") == Some(true) {
        builder = builder.latch();
    }
    if b.text("cancelled_after").is_some() {
        builder = builder.ignore_cancelled();
    }
    if let Some(slo) = b.table("slo") {
        let objective =
            slo.number("objective").ok_or_else(|| missing("slo.objective", "a share"))?;
        let period = slo.time("period").ok_or_else(|| missing("slo.period", "a time"))?;
        builder = builder.slo(objective, period);
    }
    Ok(builder)
}

pub(super) fn conditioner(name: &str, b: Block<'_>) -> Result<ConditionerBuilder, ConfigError> {
    let mut builder = Conditioner::builder(name.to_owned());
    let rules = b.get("rules").cloned().unwrap_or_else(|| json!([]));
    for (n, rule) in rules.as_array().into_iter().flatten().enumerate() {
        let rule: Rule = serde_json::from_value(rule.clone()).map_err(|error| {
            let error = spoken("fault", &error);
            // Its name in code.
            let field = error.field().replacen("schedule", "during", 1);
            let field = format!("rules[{n}].{field}");
            ConfigError::new(field, error.value(), error.expected().to_owned())
        })?;
        builder = builder.rule(rule);
    }
    if let Some(list) = b.get("allow_in").and_then(Json::as_array) {
        builder = builder.allow_in(list.iter().filter_map(Json::as_str));
    }
    if b.flag("match_all") == Some(true) {
        builder = builder.match_all();
    }
    set!(builder,
        b.int("seed") => seed,
        b.number("max_share") => max_share,
        b.text("environment") => environment,
        b.text("environment_from") => environment_from,
    );
    Ok(builder)
}
