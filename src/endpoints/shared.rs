use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::core::{Change, Core, Why};
use super::health::Health;
use crate::clock::{self, Tick};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::rejection::{Rejection, RejectionKind};
use crate::sync::{Mutex, lock};

/// Everything clones of one pool share, but for the services.
pub(super) struct Shared {
    pub(super) core: Core,
    pub(super) name: Name,
    pub(super) observers: Observers,
    /// Calls that found no endpoint.
    pub(super) refused: AtomicU64,
    /// The last ejection or return: when, which and why.
    pub(super) last: Mutex<Option<(Tick, String)>>,
}

impl Shared {
    #[cold]
    pub(super) fn changed(&self, health: &Arc<Health>, change: Change) {
        let (from, to) = if change.out { ("in", "ejected") } else { ("ejected", "in") };
        let reason = format_args!("{}: {}", health.label, change.why);
        *lock(&self.last) = Some((clock::now(), reason.to_string()));
        let kind = EventKind::StateChanged { from, to, reason };
        self.observers.emit(LayerKind::Endpoints, self.name, kind);
    }

    #[cold]
    pub(super) fn refuse(&self) -> Rejection {
        self.refused.fetch_add(1, Relaxed);
        let why = no_endpoint(self.name);
        if self.observers.see_refusals() {
            self.observers.emit(LayerKind::Endpoints, self.name, EventKind::Rejected(&why));
        }
        why
    }
}

pub(super) fn no_endpoint(name: Name) -> Rejection {
    Rejection::new(RejectionKind::Overloaded, LayerKind::Endpoints, name)
        .with_advice("the pool has no endpoint")
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InRow(1) => f.write_str("1 failure in a row"),
            Self::InRow(failures) => write!(f, "{failures} failures in a row"),
            Self::Share { failed, others } => {
                write!(f, "{:.0} % failed, of the others {:.0} %", failed * 100.0, others * 100.0)
            }
            Self::Answered => f.write_str("answered"),
            Self::Operator => f.write_str("taken back by command"),
        }
    }
}
