//! What the linter says of the stacks in a configuration, and where it is written.

use std::fmt;

use serde_json::Value as Json;

use super::settings::Config;
use crate::observe::Severity;
use crate::presets::{Lint, LintSeverity, Plan, Report};

/// A [`Lint`] of one stack, with the place it is about.
///
/// ```
/// use buttress::config::{Format, Loader};
/// let text = "clients:\n  pay:\n    total_timeout: 1s\n    attempt_timeout: 2s\n";
/// let config = Loader::empty().text("a.yml", Format::Yaml, text).load()?;
/// let finding = &config.lint()[0];
/// assert_eq!(
///     finding.to_string(),
///     "a.yml:4: clients.pay.attempt_timeout: warning [attempt_not_below_total] \
///      2s for an attempt, 1s for the whole call"
/// );
/// # Ok::<(), buttress::config::LoadError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The stack: `clients.pay`.
    pub stack: String,
    /// The path of the key.
    pub key: String,
    /// `file:line`, `variable NAME`, `argument` or `default`.
    pub origin: String,
    /// What is wrong.
    pub lint: Lint,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lint { severity, rule, text, .. } = &self.lint;
        write!(f, "{}: {}: {} [{rule}] {text}", self.origin, self.key, severity.as_str())
    }
}

impl Finding {
    pub(super) fn is_error(&self) -> bool {
        self.lint.severity == LintSeverity::Error
    }

    pub(super) fn told(&self) -> crate::control::Lint {
        let severity = if self.is_error() { Severity::Error } else { Severity::Warning };
        let text = format!("{}: {}: {}", self.origin, self.key, self.lint.text);
        crate::control::Lint::new(severity, self.lint.rule, text, [self.stack.as_str()])
    }
}

impl Config {
    /// What the [linter](crate::presets::lint) says of every client and server. An error is something that a
    /// stack refuses to be built with.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().set("clients.pay.retry", "adaptive").load()?;
    /// let rules: Vec<_> = config.lint().iter().map(|finding| finding.lint.rule).collect();
    /// assert_eq!(rules, ["retry_without_budget"]);
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn lint(&self) -> Vec<Finding> {
        self.reports()
            .into_iter()
            .flat_map(|(stack, report)| {
                let found = report.lints.into_iter();
                found.map(move |lint| self.finding(&stack, lint)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// The report of every client and server, by its path: how many attempts a call can make at worst, what that
    /// multiplies the load by, and how long a call can take.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().set("servers.api.timeout", "5s").load()?;
    /// let (stack, report) = &config.reports()[0];
    /// assert_eq!((stack.as_str(), report.worst_latency.unwrap().as_secs()), ("servers.api", 5));
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn reports(&self) -> Vec<(String, Report)> {
        let clients = self.names("clients").map(|name| {
            (format!("clients.{name}"), self.client_plan(name, false).map(|plan| plan.report()))
        });
        let servers = self.names("servers").map(|name| {
            (format!("servers.{name}"), self.server_plan(name, false).map(|plan| plan.report()))
        });
        // What cannot be a plan has been refused when it was loaded.
        clients.chain(servers).filter_map(|(stack, report)| Some((stack, report.ok()?))).collect()
    }

    fn finding(&self, stack: &str, lint: Lint) -> Finding {
        let (part, rest) = match lint.field.split_once('.') {
            Some((part, rest)) => (part, Some(rest)),
            None => (lint.field, None),
        };
        let (map, name) = stack.split_once('.').unwrap_or((stack, ""));
        let written = self.tree.get(map).and_then(|map| map.get(name)?.get(part));
        let (map, name) = match written {
            Some(Json::String(named)) if rest.is_some() => (map_of(part), named.as_str()),
            _ => (map, name),
        };
        let (place, key) = match (written, rest) {
            (Some(Json::String(_)), Some(rest)) => {
                (vec![map, name], format!("{map}.{name}.{rest}"))
            }
            _ => (vec![map, name, part], format!("{stack}.{}", lint.field)),
        };
        let origin = self.near(&place, &key).to_owned();
        Finding { stack: stack.to_owned(), key, origin, lint }
    }
}

/// The top-level map that has the entries which this key names.
pub(super) fn map_of(part: &str) -> &'static str {
    match part {
        "breaker" => "breakers",
        "rate_limit" => "rate_limits",
        "retry" => "retries",
        "retry_budget" => "retry_budgets",
        "failure_budget" => "failure_budgets",
        _ => "faults",
    }
}
