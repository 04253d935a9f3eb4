//! Plans of whole stacks, from `clients` and `servers`.

use serde_json::{Map, Value as Json};

use super::build::{self, Block};
use super::settings::Config;
use crate::error::ConfigError;
use crate::presets::{
    BackendPlan, BreakerPlan, ClientPlan, EndpointsPlan, FailureBudgetPlan, HedgePlan,
    RateLimitPlan, RetryBudgetPlan, RetryPlan, ServerPlan,
};

impl Config {
    /// The plan of a client's stack as `clients` has it. What its entry does not name is not in the stack; a `backend` comes with
    /// retries and hedges that are paid from its headroom, unless `retry` and `hedge` say otherwise. Faults are not part of a plan:
    /// see [`conditioner`](Self::conditioner).
    ///
    /// # Errors
    /// If there is no such entry, or a block has a key that plans do not have.
    ///
    /// ```
    /// use buttress::config::{Format, Loader};
    /// let text = "clients: {pay: {total_timeout: 5s, attempt_timeout: 1s, retry: adaptive}}";
    /// let config = Loader::empty().text("a.yml", Format::Yaml, text).load()?;
    /// let plan = config.client("pay")?;
    /// assert_eq!(plan.total_timeout.unwrap().as_secs(), 5);
    /// assert!(plan.policy().is_some() && plan.breaker.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn client(&self, name: &str) -> Result<ClientPlan, ConfigError> {
        self.client_plan(name, true)
    }

    /// Not `strict`: what plans do not have is left out, for the linter.
    pub(super) fn client_plan(&self, name: &str, strict: bool) -> Result<ClientPlan, ConfigError> {
        let block = self.entry("clients", name)?;
        let mut plan = ClientPlan::bare(name);
        plan.total_timeout = block.time("total_timeout");
        plan.attempt_timeout = block.time("attempt_timeout");
        plan.backend = block.table("backend").map(backend_plan);
        plan.hedge = hedge_plan(block);
        plan.endpoints = endpoints_plan(block.table("endpoints").unwrap_or(Block(None)));
        plan.retry = match self.part(block, "retry", "retries") {
            Some(block) => RetryPlan::Policy(build::policy(block)?),
            None if plan.backend.is_some() => RetryPlan::Paced,
            None => RetryPlan::Never,
        };
        plan.retry_budget = match self.part(block, "retry_budget", "retry_budgets") {
            Some(block) => {
                known("retry_budget", block, &["ratio"], strict)?;
                // The default of a budget, not of a plan: the same block means the same wherever it is used.
                Some(RetryBudgetPlan { ratio: block.number("ratio").unwrap_or(0.2) })
            }
            None => None,
        };
        plan.rate_limit = self.limit(block, strict)?;
        plan.breaker = match self.part(block, "breaker", "breakers") {
            Some(block) => Some(self.breaker_plan(block, strict)?),
            None => None,
        };
        Ok(plan)
    }

    /// The plan of a server's stack as `servers` has it. What its entry does not name is not in the stack.
    ///
    /// # Errors
    /// If there is no such entry, or a block has a key that plans do not have.
    ///
    /// ```
    /// use buttress::config::{Format, Loader};
    /// let text = "servers: {api: {timeout: 5s, rate_limit: 100/s burst 20}}";
    /// let config = Loader::empty().text("a.yml", Format::Yaml, text).load()?;
    /// let plan = config.server("api")?;
    /// assert_eq!(plan.rate_limit.unwrap().quota.capacity(), 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn server(&self, name: &str) -> Result<ServerPlan, ConfigError> {
        self.server_plan(name, true)
    }

    pub(super) fn server_plan(&self, name: &str, strict: bool) -> Result<ServerPlan, ConfigError> {
        let block = self.entry("servers", name)?;
        let mut plan = ServerPlan::new(name);
        plan.timeout = block.time("timeout");
        plan.backend = block.table("backend").map(backend_plan);
        plan.rate_limit = self.limit(block, strict)?;
        plan.failure_budget = match self.part(block, "failure_budget", "failure_budgets") {
            Some(block) => {
                let keys = ["threshold", "window", "min_samples", "action"];
                known("failure_budget", block, &keys, strict)?;
                Some(read::<FailureBudgetPlan>("failure_budget", block, &keys)?)
            }
            None => None,
        };
        Ok(plan)
    }

    /// A part that is written here, or named.
    fn part<'a>(&'a self, block: Block<'a>, key: &str, map: &str) -> Option<Block<'a>> {
        match block.get(key)? {
            Json::String(name) => Some(Block::of(self.tree.get(map)?.get(name))),
            inline => Some(Block::of(Some(inline))),
        }
    }

    fn limit(&self, block: Block<'_>, strict: bool) -> Result<Option<RateLimitPlan>, ConfigError> {
        let Some(block) = self.part(block, "rate_limit", "rate_limits") else { return Ok(None) };
        known("rate_limit", block, &["rate"], strict)?;
        let rate = block.text("rate").unwrap_or_default();
        Ok(Some(RateLimitPlan::new(rate.parse()?)))
    }

    /// With the defaults of a breaker, not of a plan: the same block means the same wherever it is used.
    fn breaker_plan(&self, block: Block<'_>, strict: bool) -> Result<BreakerPlan, ConfigError> {
        let keys = [
            "consecutive_failures",
            "failure_rate",
            "window",
            "window_calls",
            "min_calls",
            "open_for",
        ];
        known("breaker", block, &keys, strict)?;
        let limits = self.limits();
        let mut plan = BreakerPlan::default();
        plan.failure_rate = block.number("failure_rate");
        plan.consecutive_failures = block
            .count("consecutive_failures")
            .or((plan.failure_rate.is_none()).then_some(limits.circuit_max_failures));
        plan.window = block.time("window").unwrap_or(plan.window);
        plan.window_calls = block.count("window_calls");
        plan.min_calls = block.count("min_calls").unwrap_or(plan.min_calls);
        if let (None, Some(calls)) = (block.count("min_calls"), plan.window_calls) {
            plan.min_calls = plan.min_calls.min(calls);
        }
        let reset = std::time::Duration::try_from_secs_f64(limits.circuit_reset_timeout);
        plan.open_for = block.time("open_for").or(reset.ok()).unwrap_or(plan.open_for);
        Ok(plan)
    }
}

fn backend_plan(block: Block<'_>) -> BackendPlan {
    BackendPlan { in_flight: block.count("limit"), patience: block.time("patience") }
}

fn hedge_plan(client: Block<'_>) -> Option<HedgePlan> {
    let mut plan = HedgePlan::default();
    match client.table("hedge") {
        Some(block) => {
            plan.percentile = block.number("percentile").unwrap_or(plan.percentile);
            plan.min_delay = block.time("min_delay").unwrap_or(plan.min_delay);
            plan.extra_load = block.number("extra_load").unwrap_or(plan.extra_load);
        }
        None if client.get("hedge").is_some() || client.get("backend").is_none() => return None,
        None => {}
    }
    Some(plan)
}

pub(super) fn endpoints_plan(block: Block<'_>) -> EndpointsPlan {
    let mut plan = EndpointsPlan::default();
    plan.max_ejected = block.number("max_ejected").unwrap_or(plan.max_ejected);
    plan.failures_in_row = block.count("failures_in_row").unwrap_or(plan.failures_in_row);
    plan.probe_after = block.time("probe_after").unwrap_or(plan.probe_after);
    plan.probe_after_max = block.time("probe_after_max").unwrap_or(plan.probe_after_max);
    plan.slow_start = block.time("slow_start").unwrap_or(plan.slow_start);
    plan.memory = block.time("memory").unwrap_or(plan.memory);
    plan
}

fn known(part: &str, block: Block<'_>, keys: &[&str], strict: bool) -> Result<(), ConfigError> {
    let mut all = block.0.into_iter().flat_map(Map::keys);
    match all.find(|key| strict && !keys.contains(&key.as_str())) {
        Some(key) => {
            Err(ConfigError::new(format!("{part}.{key}"), "set", "only keys that a plan has"))
        }
        None => Ok(()),
    }
}

fn read<T: serde::de::DeserializeOwned>(
    part: &str,
    block: Block<'_>,
    keys: &[&str],
) -> Result<T, ConfigError> {
    let mut json = block.0.cloned().unwrap_or_default();
    json.retain(|key, _| keys.contains(&key.as_str()));
    serde_json::from_value(Json::Object(json))
        .map_err(|error| ConfigError::new(part.to_owned(), error, "only keys that a plan has"))
}
