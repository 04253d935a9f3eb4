//! What a registry shows of a throttle.

use super::handle::Shared;
use crate::managed::{Level, Managed, ObjectStatus};
use crate::name::LayerKind;

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::Throttle
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn describe(&self) -> ObjectStatus {
        let stats = self.stats();
        let mut status = match (stats.rate, stats.accepted_rate) {
            (Some(rate), Some(accepted)) => ObjectStatus::new("limiting")
                .level(Level::Warn)
                .why(format!("the callee accepts {accepted:.1} calls a second"))
                .gauge("rate", "rate", rate, "calls/s", |_| {})
                .gauge("accepted_rate", "accepted", accepted, "calls/s", |_| {}),
            _ => ObjectStatus::new("up"),
        };
        status = status.counter("throttled", stats.throttled).counter("waited", stats.waited);
        status.reject("rate_limited", stats.refused)
    }
}
