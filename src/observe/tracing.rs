use ::tracing::Level;

use super::{Event, EventKind, Observe, Severity};

/// Writes events as `tracing` records with target `buttress`, the fields `layer`, `name` and `event`, and
/// those of the [table](super#events), each at the level of its [severity](EventKind::severity).
///
/// ```
/// use buttress::observe::{Observe, Tracing};
/// let _: Box<dyn Observe> = Box::new(Tracing);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing;

impl Observe for Tracing {
    fn on_event(&self, event: &Event<'_>) {
        let layer = event.layer.as_str();
        let name = event.name.as_str();
        let what = event.kind.as_str();
        let severity = event.kind.severity();
        // A level is part of the place in the code, so there is one place for each.
        macro_rules! record {
            (at $level:expr, $($field:tt)*) => {
                ::tracing::event!(target: "buttress", $level, layer, name, event = what, $($field)*)
            };
            ($($field:tt)*) => { match severity {
                Severity::Debug => record!(at Level::DEBUG, $($field)*),
                Severity::Info => record!(at Level::INFO, $($field)*),
                Severity::Warning => record!(at Level::WARN, $($field)*),
                Severity::Error => record!(at Level::ERROR, $($field)*),
            } };
        }
        match &event.kind {
            EventKind::Rejected(why) | EventKind::WouldReject(why) => record!(%why),
            EventKind::Waited { waited } => record!(?waited),
            EventKind::StateChanged { from, to, reason } => record!(from, to, %reason),
            EventKind::Retried { attempt, delay, outcome } => record!(attempt, ?delay, ?outcome),
            EventKind::RetryAbandoned { attempts, reason, outcome } => {
                record!(attempts, reason, ?outcome);
            }
            EventKind::Hedged { after } => record!(?after),
            EventKind::FellBack { cause, answered } => record!(cause, answered),
            EventKind::Injected { rule, fault } => record!(rule, fault),
            EventKind::TableFull { capacity } => record!(capacity),
            EventKind::Replayed => record!(),
            EventKind::TakenOver { generation, runs } => record!(generation, runs),
            EventKind::Unrecorded { reason } => record!(reason),
            EventKind::Supervised { detail, .. } => record!(%detail),
        }
    }
}
