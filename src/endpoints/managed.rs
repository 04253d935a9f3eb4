//! What a registry shows of a pool, and the order it takes.

use std::sync::atomic::Ordering::Relaxed;

use super::shared::Shared;
use crate::clock;
use crate::error::ConfigError;
use crate::managed::{Level, Managed, ObjectStatus, Operation, unknown};
use crate::name::LayerKind;
use crate::sync::lock;

const COMMANDS: &[&str] = &["reset"];

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::Endpoints
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn describe(&self) -> ObjectStatus {
        let core = &self.core;
        let all = core.all();
        let out: Vec<_> = all.iter().filter(|one| one.is_out()).map(|one| &*one.label).collect();
        let (state, level) = match (all.len(), out.len()) {
            (0, _) => ("empty", Level::Bad),
            _ if core.in_panic() => ("uses_all", Level::Bad),
            (_, 0) => ("ok", Level::Ok),
            _ => ("ejecting", Level::Warn),
        };
        let why = match out.len() {
            0 => String::new(),
            n => format!("{n} of {} ejected", all.len()),
        };
        let last = lock(&self.last).clone();
        let last = last.map(|(at, last)| format!("{last}, {:.0?} ago", clock::now().since(at)));
        let why = match (last, out.len()) {
            _ if all.is_empty() => "there is no endpoint".to_owned(),
            (Some(last), 0) => format!("back: {last}"),
            (Some(last), _) => format!("{why}; {last}"),
            (None, _) => why,
        };
        let in_flight: u32 = all.iter().map(|one| one.in_flight.load(Relaxed)).sum();
        let total = |of: fn(&super::health::Health) -> u64| all.iter().map(|one| of(one)).sum();
        let most = (core.max_ejected() * all.len() as f64).floor();
        let mut status = ObjectStatus::new(state)
            .level(level)
            .why(why)
            .gauge("endpoints", "endpoints", all.len() as f64, "endpoints", |_| ())
            .gauge("ejected", "ejected", out.len() as f64, "endpoints", |gauge| {
                (gauge.max, gauge.threshold) = (Some(all.len() as f64), Some(most));
            })
            .gauge("in_flight", "in flight", f64::from(in_flight), "calls", |_| ())
            .counter("calls", total(|one| one.calls.load(Relaxed)))
            .counter("failed", total(|one| one.failed.load(Relaxed)))
            .counter("ejections", core.ejections.load(Relaxed))
            .counter("returns", core.returns.load(Relaxed))
            .counter("probes", core.probes.load(Relaxed))
            .reject("overloaded", self.refused.load(Relaxed))
            .commands(COMMANDS);
        if !out.is_empty() {
            status = status.fact("ejected", out.join(", "));
        }
        if let Some(at) = core.next_probe() {
            status = status.next("probe", at.since(clock::now()));
        }
        status
    }

    fn operate(&self, operation: &Operation) -> Result<(), ConfigError> {
        match operation {
            Operation::Reset => self.reset(),
            other => return Err(unknown(other, COMMANDS)),
        }
        Ok(())
    }
}
