use ::tracing::Level;

use super::{Event, EventKind, Observe, Severity};

/// Writes events as `tracing` records with target `buttress`: refusals, retries, replays and injected
/// faults at `DEBUG`, waits at `TRACE`, changes of state, full tables and take-overs at `WARN` (a return to `closed` at
/// `INFO`), effects that could not be recorded at `ERROR`, the supervision's events as severe as they are.
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
        macro_rules! record {
            ($level:expr, $($field:tt)*) => {
                ::tracing::event!(target: "buttress", $level, layer, name, event = what, $($field)*)
            };
        }
        match &event.kind {
            EventKind::Rejected(why) | EventKind::WouldReject(why) => {
                record!(Level::DEBUG, %why);
            }
            EventKind::Waited { waited } => record!(Level::TRACE, ?waited),
            EventKind::StateChanged { from, to, reason } if *to == "closed" => {
                record!(Level::INFO, from, to, %reason);
            }
            EventKind::StateChanged { from, to, reason } => {
                record!(Level::WARN, from, to, %reason);
            }
            EventKind::Retried { attempt, delay, outcome } => {
                record!(Level::DEBUG, attempt, ?delay, ?outcome);
            }
            EventKind::RetryAbandoned { attempts, reason, outcome } => {
                record!(Level::DEBUG, attempts, reason, ?outcome);
            }
            EventKind::Injected { rule, fault } => record!(Level::DEBUG, rule, fault),
            EventKind::TableFull { capacity } => record!(Level::WARN, capacity),
            EventKind::Replayed => record!(Level::DEBUG,),
            EventKind::TakenOver { generation, runs } => record!(Level::WARN, generation, runs),
            EventKind::Unrecorded { reason } => record!(Level::ERROR, reason),
            EventKind::Supervised { severity, detail, .. } => match severity {
                Severity::Info => record!(Level::INFO, %detail),
                Severity::Warning => record!(Level::WARN, %detail),
                Severity::Error => record!(Level::ERROR, %detail),
            },
        }
    }
}
