//! What a registry shows of a throttle, and the orders it takes.

use super::core::Core;
use super::handle::Shared;
use crate::error::ConfigError;
use crate::managed::{Level, Managed, ObjectStatus, Operation, unknown};
use crate::name::LayerKind;

const COMMANDS: &[&str] = &["reset"];

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::Throttle
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn describe(&self) -> ObjectStatus {
        let stats = self.stats();
        let (level, why) = match (stats.state, stats.quota) {
            ("stopped", _) => (Level::Bad, "nothing is taken: single calls ask".to_owned()),
            (_, Some(rate)) => (Level::Warn, format!("it takes about {rate:.1} calls a second")),
            _ if stats.shed_share > 0.0 => (Level::Warn, "so many calls failed".to_owned()),
            _ => (Level::Ok, String::new()),
        };
        let mut status = ObjectStatus::new(stats.state).level(level).why(why).commands(COMMANDS);
        if let Some(rate) = stats.quota {
            status = status.gauge("quota", "quota", rate, "calls/s", |_| {});
        }
        status
            .gauge("shed_share", "refused because others failed", stats.shed_share, "share", |_| {})
            .counter("sent", stats.sent)
            .counter("waited", stats.waited)
            .reject("rate_limited", stats.no_room)
            .reject("overloaded", stats.shed)
            .reject("deadline_exceeded", stats.expired)
    }

    fn operate(&self, operation: &Operation) -> Result<(), ConfigError> {
        match operation {
            Operation::Reset => self.step(Core::reset),
            other => return Err(unknown(other, COMMANDS)),
        }
        Ok(())
    }
}
