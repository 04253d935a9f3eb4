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
        let unwell: Vec<_> = children
            .iter()
            .filter(|child| {
                matches!(child.state, ChildState::Backoff { .. } | ChildState::Unkillable)
            })
            .map(|child| {
                let exit = child.last_exit.as_ref().map(|exit| format!(", {exit}"));
                format!("{}: {}{}", child.name, child.state.as_str(), exit.unwrap_or_default())
            })
            .collect();
        let next = children.iter().filter_map(|child| match child.state {
            ChildState::Backoff { remaining } => Some(remaining),
            _ => None,
        });
        let (state, level) = match () {
            () if gave_up => ("given_up", Level::Bad),
            () if !unwell.is_empty() => ("restarting", Level::Warn),
            () => ("supervising", Level::Ok),
        };
        let why = match (gave_up, unwell.join("; ")) {
            (true, why) if why.is_empty() => "children failed too often".to_owned(),
            (_, why) => why,
        };
        let mut status = ObjectStatus::new(state)
            .level(level)
            .why(why)
            .gauge("up", "children up", running as f64, "children", |gauge| {
                gauge.max = Some(children.len() as f64);
            })
            .counter("starts", stats.starts)
            .counter("restarts", stats.restarts)
            .counter("freezes", stats.freezes)
            .counter("kills", stats.kills);
        if let Some(next) = next.min() {
            status = status.next("restart", next);
        }
        for child in children.iter().take(50) {
            let pid = child.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
            let (name, state, restarts) = (child.name, child.state.as_str(), child.restarts);
            status = status.fact("child", format!("{name}: {state}{pid}, {restarts} restarts"));
        }
        status
    }
}
