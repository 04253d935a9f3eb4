//! What a registry shows of a limiter that a fleet shares.

use std::sync::atomic::Ordering;

use super::inner::Inner;
use crate::managed::{Level, Managed, ObjectStatus};
use crate::name::LayerKind;
use crate::rate_limit::managed::common;

impl Managed for Inner {
    fn kind(&self) -> LayerKind {
        LayerKind::RateLimit
    }

    fn name(&self) -> &str {
        self.ledger.name.as_str()
    }

    fn describe(&self) -> ObjectStatus {
        let down = self.health.is_resting();
        let status = ObjectStatus::new(if down { "store_down" } else { "admitting" })
            .level(if down { Level::Bad } else { Level::Ok })
            .why(if down { "the store does not answer in time" } else { "" })
            .counter("questions", self.questions.load(Ordering::Relaxed))
            .counter("errors", self.errors.load(Ordering::Relaxed))
            .counter("without_store", self.without_store.load(Ordering::Relaxed));
        common(status, self.quota, self.ledger.stats(), self.shadow.load(Ordering::Relaxed))
    }
}
