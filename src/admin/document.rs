//! The status, as JSON.

use serde_json::{Value, json};

use super::builder::Shared;
use super::redact::redact;
use crate::caught::caught;
use crate::control::Registry;
use crate::sync::lock;

/// What the registry tells.
pub(super) fn of(registry: &Registry) -> Value {
    // Texts and numbers only: it cannot fail.
    serde_json::to_value(registry.status()).unwrap_or_default()
}

impl Shared {
    /// The registry's status; `None` if a closure in it panics.
    pub(super) fn raw_status(&self) -> Option<Value> {
        let mut status = caught(|| (self.source)())?;
        if let Some(status) = status.as_object_mut() {
            let admin = json!({
                "commands": self.token.is_some(),
                "config": self.config.is_some(),
                "interval_s": self.interval.as_secs_f64(),
                "viewers": self.hub.viewers(),
            });
            status.insert("admin".into(), admin);
            // The registry is that of one process: ids of events and what the page knows hang on this.
            if let Some(instance) = status.get_mut("instance") {
                instance.clone_from(self.instance.get_or_init(|| instance.clone()));
            }
        }
        Some(status)
    }

    /// With the last two minutes.
    pub(super) fn status(&self) -> Option<Value> {
        let mut status = self.raw_status()?;
        lock(&self.history).draw(&mut status);
        Some(status)
    }

    /// The configuration without its secrets; `None` if the closure panics.
    pub(super) fn configuration(&self) -> Option<Value> {
        let Some(config) = &self.config else { return Some(Value::Null) };
        let mut config = caught(|| config())?;
        redact(&mut config, &self.hidden);
        Some(config)
    }
}
