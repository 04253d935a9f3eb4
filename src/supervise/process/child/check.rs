//! Whether a child's values go together, and what its supervisor goes by.

use std::ffi::OsStr;
use std::time::Duration;

use crate::error::ConfigError;

use super::super::core::Rule;
use super::super::policy::Restart;
use super::super::probe::STRIKES;
use super::super::sys;
use super::Child;

const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

impl Child {
    pub(in crate::supervise::process) fn rule(&self) -> Rule {
        Rule {
            restart: self.restart,
            success: self.success.clone(),
            backoff: self.backoff,
            stable_after: self.stable_after,
            frozen_for: self.max_age.unwrap_or_default() + self.probe_every * STRIKES,
            ready_within: self.ready.is_some().then_some(self.ready_within),
            grace: self.grace,
            kill_wait: self.kill_wait,
        }
    }

    /// Checks every value.
    pub(in crate::supervise::process) fn validate(&self) -> Result<(), ConfigError> {
        let field = |field: &str| format!("{}.{field}", self.name);
        let text = |text: &OsStr| text.as_encoded_bytes().contains(&0);
        if self.program.is_empty() || text(&self.program) {
            let program = self.program.to_string_lossy();
            return Err(ConfigError::new(field("program"), format!("{program:?}"), "a program"));
        }
        if let Some(arg) = self.args.iter().find(|arg| text(arg)) {
            let arg = format!("{:?}", arg.to_string_lossy());
            return Err(ConfigError::new(field("args"), arg, "no zero byte"));
        }
        for (key, value) in &self.env {
            let bytes = key.as_encoded_bytes();
            if bytes.is_empty() || bytes.contains(&b'=') || bytes.contains(&0) {
                let key = format!("{:?}", key.to_string_lossy());
                return Err(ConfigError::new(field("env"), key, "a name without = or zero byte"));
            }
            if value.as_deref().is_some_and(text) {
                let key = key.to_string_lossy();
                return Err(ConfigError::new(field("env"), key, "a value without zero byte"));
            }
        }
        self.backoff.validate().map_err(|error| {
            let name = field(&format!("backoff.{}", error.field()));
            ConfigError::new(name, error.value(), error.expected().to_owned())
        })?;
        if self.success.iter().any(|code| !(0..256).contains(code)) {
            let codes = format!("{:?}", self.success);
            return Err(ConfigError::new(field("success_codes"), codes, "codes of 0 to 255"));
        }
        for (name, time, shortest) in [
            ("stable_after", self.stable_after, Duration::ZERO),
            ("ready_within", self.ready_within, Duration::from_millis(1)),
            ("probe_every", self.probe_every, Duration::from_millis(1)),
            ("probe_timeout", self.probe_timeout, Duration::from_millis(1)),
            ("grace", self.grace, Duration::ZERO),
            ("kill_wait", self.kill_wait, Duration::from_millis(1)),
        ] {
            if time < shortest || time > LONGEST {
                let expected = format!("{shortest:?} to a year");
                return Err(ConfigError::new(field(name), format!("{time:?}"), expected));
            }
        }
        if let Some(max_age) = self.max_age
            && (max_age <= self.probe_every || max_age > LONGEST)
        {
            let expected = format!("more than probe_every, {:?}", self.probe_every);
            return Err(ConfigError::new(field("heartbeat"), format!("{max_age:?}"), expected));
        }
        let signals =
            [("stop_signal", Some(self.stop_signal)), ("parent_death_signal", self.death_signal)];
        for (name, signal) in signals {
            let Some(signal) = signal else { continue };
            if sys::signal(signal).is_none() {
                return Err(ConfigError::new(field(name), signal, "the number of a signal"));
            }
        }
        if self.death_signal.is_some() && !cfg!(target_os = "linux") {
            let value = "a signal";
            return Err(ConfigError::new(
                field("parent_death_signal"),
                value,
                "None outside Linux",
            ));
        }
        Ok(())
    }

    /// The time that `restarts` restarts in a row take by their delays alone, on average.
    pub(in crate::supervise::process) fn usual_delays(&self, restarts: u32) -> Option<Duration> {
        if self.restart == Restart::Temporary {
            return None;
        }
        // Past so many the delays are the cap, near enough.
        const COUNTED: u32 = 10_000;
        let middle = |n| {
            let (low, high) = self.backoff.range(n);
            low.saturating_add(high.saturating_sub(low) / 2)
        };
        let counted = restarts.min(COUNTED);
        let sum = (1..=counted).fold(Duration::ZERO, |sum, n| sum.saturating_add(middle(n)));
        Some(sum.saturating_add(middle(COUNTED).saturating_mul(restarts - counted)))
    }
}
