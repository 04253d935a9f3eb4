//! What a registry shows of a fallback.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::handle::Shared;
use crate::clock;
use crate::managed::{Level, Managed, ObjectStatus};
use crate::name::LayerKind;

/// For so long after an answer it is said to be answering.
const RECENT: Duration = Duration::from_secs(10);

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::Fallback
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn describe(&self) -> ObjectStatus {
        let stats = self.stats();
        let ago = self.last().map(|last| clock::now().since(last)).filter(|ago| *ago < RECENT);
        let (state, level, why) = match ago {
            Some(ago) => {
                let why = format!("answers in place of others, last {ago:.1?} ago");
                ("answering", Level::Warn, why)
            }
            None => ("idle", Level::Ok, String::new()),
        };
        let max = f64::from(self.max_in_flight);
        ObjectStatus::new(state)
            .level(level)
            .why(why)
            .gauge("in_flight", "in flight", f64::from(stats.in_flight), "calls", |gauge| {
                gauge.max = Some(max);
            })
            .counter("answered", stats.answered)
            .counter("failed", stats.failed)
            .counter("dropped", stats.dropped)
            .counter("full", self.full.load(Ordering::Relaxed))
            .counter("not_kept", self.not_kept.load(Ordering::Relaxed))
    }
}
