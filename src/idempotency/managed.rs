//! What a registry shows of an idempotency gate.

use super::handle::{Begin, Shared};
use crate::managed::{Managed, ObjectStatus};
use crate::name::LayerKind;
use crate::store::Store;

use std::sync::atomic::{AtomicU64, Ordering};

/// What claims came to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    executed: AtomicU64,
    hits: AtomicU64,
    conflicts: AtomicU64,
    mismatches: AtomicU64,
    interrupted: AtomicU64,
    overloaded: AtomicU64,
}

impl Tally {
    pub(super) fn count<S: Store>(&self, begun: &Begin<S>) {
        let counter = match begun {
            Begin::Execute(_) | Begin::Probe(_) => &self.executed,
            Begin::Replay(_) => &self.hits,
            Begin::InFlight { .. } => &self.conflicts,
            Begin::Mismatch => &self.mismatches,
            Begin::Interrupted(_) => &self.interrupted,
            Begin::Overloaded { .. } => &self.overloaded,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl<S: Store> Managed for Shared<S> {
    fn kind(&self) -> LayerKind {
        LayerKind::Idempotency
    }

    fn name(&self) -> &str {
        self.object_name().as_str()
    }

    fn describe(&self) -> ObjectStatus {
        let seen = &self.tally;
        ObjectStatus::new("gating")
            .counter("executed", seen.executed.load(Ordering::Relaxed))
            .counter("hits", seen.hits.load(Ordering::Relaxed))
            .counter("conflicts", seen.conflicts.load(Ordering::Relaxed))
            .counter("mismatches", seen.mismatches.load(Ordering::Relaxed))
            .counter("interrupted", seen.interrupted.load(Ordering::Relaxed))
            .counter("overloaded", seen.overloaded.load(Ordering::Relaxed))
            .fact("lease", format!("{:?}", self.settings.lease))
            .fact("retention", format!("{:?}", self.settings.retention))
    }
}
