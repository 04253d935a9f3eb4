use std::fmt;
use std::sync::Arc;

use super::core::{Change, Core, Health, Why};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};

/// Everything clones of one pool share, but for the services.
pub(super) struct Shared {
    pub(super) core: Core,
    pub(super) name: Name,
    pub(super) observers: Observers,
}

impl Shared {
    #[cold]
    pub(super) fn changed(&self, health: &Arc<Health>, change: Change) {
        let (from, to) = if change.out { ("in", "ejected") } else { ("ejected", "in") };
        let reason = format_args!("{}: {}", health.label, change.why);
        let kind = EventKind::StateChanged { from, to, reason };
        self.observers.emit(LayerKind::Endpoints, self.name, kind);
    }
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
