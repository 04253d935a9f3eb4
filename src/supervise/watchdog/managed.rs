//! What a registry shows of a watchdog.

use std::sync::atomic::Ordering;

use super::shared::{Shared, hold};
use crate::clock;
use crate::managed::{Level, Managed, ObjectStatus};
use crate::name::LayerKind;

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::Custom("watchdog")
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn describe(&self) -> ObjectStatus {
        let (running, frozen, silent) = {
            let state = hold(&self.state);
            (state.running, state.core.is_frozen(), state.core.silent_as_seen(clock::now()))
        };
        let (state, level) = match (frozen, running) {
            (true, _) => ("triggered", Level::Bad),
            (false, true) => ("watching", Level::Ok),
            (false, false) => ("stopped", Level::Warn),
        };
        let timeout = self.limits.timeout.as_secs_f64();
        let silent = if running { silent.as_secs_f64() } else { f64::NAN };
        ObjectStatus::new(state)
            .level(level)
            .why(match (frozen, running) {
                (true, _) => format!("no progress within {:?}", self.limits.timeout),
                (false, true) => String::new(),
                (false, false) => "it is not started, or was stopped".to_owned(),
            })
            .gauge("silent", "since the last progress seen", silent, "s", |gauge| {
                (gauge.max, gauge.threshold) = (Some(timeout), Some(timeout));
            })
            .counter("timeouts", self.timeouts.load(Ordering::Relaxed))
            .counter("observer_gaps", self.gaps.load(Ordering::Relaxed))
    }
}
