//! What a registry shows of a heartbeat.

use std::sync::atomic::Ordering;

use super::shared::{Phase, Shared, hold};
use crate::managed::{Level, Managed, ObjectStatus};
use crate::name::LayerKind;

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::Custom("heartbeat")
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn describe(&self) -> ObjectStatus {
        let running = hold(&self.run).phase == Phase::Running;
        ObjectStatus::new(if running { "beating" } else { "stopped" })
            .level(if running { Level::Ok } else { Level::Warn })
            .gauge("interval", "interval", self.interval.as_secs_f64(), "s", |_| {})
            .counter("beats", self.beats.load(Ordering::Relaxed))
            .counter("missed", self.missed.load(Ordering::Relaxed))
    }
}
