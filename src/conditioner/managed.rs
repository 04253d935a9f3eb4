//! What a registry shows of faults, and the orders they take.

use std::sync::atomic::Ordering;

use super::shared::{DISARMED, HELD, KILLED, Shared};
use crate::clock::{self, Tick};
use crate::error::ConfigError;
use crate::managed::{Level, Managed, ObjectStatus, Operation, unknown};
use crate::name::LayerKind;

const COMMANDS: &[&str] = &["disarm", "enable"];

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::Conditioner
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn describe(&self) -> ObjectStatus {
        let gate = self.gate.load(Ordering::Relaxed);
        let (state, why) = match gate {
            0 => ("injecting", "armed".to_owned()),
            gate if gate & KILLED != 0 => ("killed", "killed for good".to_owned()),
            gate if gate & DISARMED != 0 => ("disarmed", "not armed".to_owned()),
            gate => ("held", format!("{} budgets hold it back", gate & HELD)),
        };
        let stats = self.stats();
        let active: u32 = stats.rules.iter().map(|rule| rule.active).sum();
        let level = if gate == 0 { Level::Warn } else { Level::Ok };
        let mut status = ObjectStatus::new(state)
            .level(level)
            .why(why)
            .gauge("active", "calls with a fault", f64::from(active), "calls", |_| {})
            .counter("seen", stats.seen)
            .counter("injected", stats.injected)
            .fact("seed", self.rules.get().core.seed.to_string())
            .commands(COMMANDS);
        if gate == 0 {
            let armed = Tick(self.armed_at.load(Ordering::Relaxed));
            status = status.since(clock::now().since(armed));
        }
        for (number, rule) in stats.rules.iter().enumerate().take(16) {
            let told = format!(
                "{number}: {}, {} of {} calls, {} under way",
                rule.fault.as_str(),
                rule.injected,
                rule.matched,
                rule.active
            );
            status = status.fact("rule", told);
        }
        status
    }

    fn operate(&self, operation: &Operation) -> Result<(), ConfigError> {
        match operation {
            Operation::Disarm | Operation::Disable => self.disarm(),
            Operation::Enable => self.arm().map_err(|error| {
                ConfigError::new("command", "enable", format!("faults that may be armed: {error}"))
            })?,
            other => return Err(unknown(other, COMMANDS)),
        }
        Ok(())
    }
}
