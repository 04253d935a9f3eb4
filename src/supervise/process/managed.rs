//! What a registry shows of a supervisor and its children.

use super::handle::Shared;
use super::status::ChildState;
use crate::managed::{Level, Managed, ObjectStatus};
use crate::name::LayerKind;

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::Custom("process_supervisor")
    }

    fn name(&self) -> &str {
        self.settings.name.as_str()
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of children")]
    fn describe(&self) -> ObjectStatus {
        let (children, stats, gave_up) = self.seen();
        let up = |state: &ChildState| matches!(state, ChildState::Up { .. });
        let running = children.iter().filter(|child| up(&child.state)).count();
        let missing = children.iter().any(|child| {
            matches!(child.state, ChildState::Backoff { .. } | ChildState::Unkillable)
        });
        let (state, level) = match () {
            () if gave_up => ("given_up", Level::Bad),
            () if missing => ("restarting", Level::Warn),
            () => ("supervising", Level::Ok),
        };
        let mut status = ObjectStatus::new(state)
            .level(level)
            .gauge("up", "children up", running as f64, "children", |gauge| {
                gauge.max = Some(children.len() as f64);
            })
            .counter("starts", stats.starts)
            .counter("restarts", stats.restarts)
            .counter("freezes", stats.freezes)
            .counter("kills", stats.kills);
        for child in children.iter().take(50) {
            let pid = child.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
            let (name, state, restarts) = (child.name, child.state.as_str(), child.restarts);
            status = status.fact("child", format!("{name}: {state}{pid}, {restarts} restarts"));
        }
        status
    }
}
