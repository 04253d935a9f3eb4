//! What a registry shows of a throttle, and the orders it takes.

use super::core::Core;
use super::handle::{Shared, ThrottleStats};
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
        let (stats, (asked, taken), due, most) = self.read(|core, now| {
            let pace = core.pace_at(now);
            let (stats, next) = (ThrottleStats::of(core, &pace, now), pace.due().since(now));
            (stats, core.window(now), next, core.max_share())
        });
        let sheds = stats.shed_share > 0.0;
        let few = || format!("only {taken} of the last {asked} calls were taken");
        let (level, mut why) = match (stats.state, stats.quota) {
            ("stopped", _) => (Level::Bad, "nothing is taken: single calls ask".to_owned()),
            (_, Some(rate)) => (Level::Warn, format!("it takes about {rate:.1} calls a second")),
            ("measuring", _) => {
                (Level::Warn, "calls were throttled: it is learned how many".into())
            }
            _ if sheds => (Level::Warn, few()),
            _ => (Level::Ok, String::new()),
        };
        if sheds && stats.state != "free" {
            why = format!("{why}; {}", few());
        }
        let state = if sheds && stats.state == "free" { "shedding" } else { stats.state };
        let mut status = ObjectStatus::new(state).level(level).why(why).commands(COMMANDS);
        if let Some(rate) = stats.quota {
            status = status.gauge("rate", "rate of its quota", rate, "1/s", |_| {});
        }
        if stats.state == "stopped" {
            status = status.next("probe", due);
        }
        status
            .gauge("shed_share", "refused as others failed", stats.shed_share, "ratio", |gauge| {
                gauge.max = Some(most);
            })
            .counter("sent", stats.sent)
            .counter("failed", stats.failed)
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
