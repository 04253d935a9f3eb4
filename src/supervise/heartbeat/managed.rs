//! What a registry shows of a heartbeat.

use std::sync::atomic::Ordering;

use super::shared::{Phase, Shared, hold};
use crate::clock::{self, Tick};
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
        let trouble = hold(&self.trouble).clone();
        let (state, level, why) = match (running, trouble) {
            (true, None) => ("beating", Level::Ok, String::new()),
            (true, Some(trouble)) => ("missing", Level::Bad, trouble),
            (false, _) => ("stopped", Level::Warn, "it is not started, or was stopped".to_owned()),
        };
        let since = match self.last.load(Ordering::Relaxed) {
            0 => f64::NAN,
            last => clock::now().since(Tick(last)).as_secs_f64(),
        };
        let late = self.late_after.as_secs_f64();
        ObjectStatus::new(state)
            .level(level)
            .why(why)
            .gauge("since_beat", "since the last beat", since, "s", |gauge| {
                gauge.threshold = Some(late);
            })
            .gauge("interval", "interval", self.interval.as_secs_f64(), "s", |_| {})
            .counter("beats", self.beats.load(Ordering::Relaxed))
            .counter("missed", self.missed.load(Ordering::Relaxed))
    }
}
