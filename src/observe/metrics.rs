use ::metrics::{counter, histogram};

use super::{Event, EventKind, Observe};

/// Counts events through the `metrics` facade. Labels are the layer, the object's name and fixed words,
/// so their number is bounded by the program, never by its traffic.
///
/// | metric | type | labels |
/// |---|---|---|
/// | `buttress_events_total` | counter | `layer`, `name`, `event` |
/// | `buttress_rejections_total` | counter | `layer`, `name`, `kind`, `shadow` |
/// | `buttress_state_changes_total` | counter | `layer`, `name`, `from`, `to` |
/// | `buttress_injected_total` | counter | `layer`, `name`, `rule`, `fault` |
/// | `buttress_retry_delay_seconds` | histogram | `name` |
/// | `buttress_wait_seconds` | histogram | `layer`, `name` |
///
/// ```
/// use buttress::circuit_breaker::CircuitBreaker;
/// use buttress::observe::Metrics;
/// let breaker = CircuitBreaker::builder("db").observe(Metrics).build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Metrics;

impl Observe for Metrics {
    fn on_event(&self, event: &Event<'_>) {
        let layer = event.layer.as_str();
        let name = event.name.as_str();
        counter!("buttress_events_total", "layer" => layer, "name" => name, "event" => event.kind.as_str())
            .increment(1);
        match &event.kind {
            EventKind::Rejected(why) | EventKind::WouldReject(why) => {
                let shadow = matches!(event.kind, EventKind::WouldReject(_));
                counter!(
                    "buttress_rejections_total",
                    "layer" => layer,
                    "name" => name,
                    "kind" => why.kind().as_str(),
                    "shadow" => if shadow { "true" } else { "false" },
                )
                .increment(1);
            }
            EventKind::StateChanged { from, to, .. } => {
                counter!(
                    "buttress_state_changes_total",
                    "layer" => layer, "name" => name, "from" => *from, "to" => *to,
                )
                .increment(1);
            }
            EventKind::Retried { delay, .. } => {
                histogram!("buttress_retry_delay_seconds", "name" => name)
                    .record(delay.as_secs_f64());
            }
            EventKind::Waited { waited } => {
                histogram!("buttress_wait_seconds", "layer" => layer, "name" => name)
                    .record(waited.as_secs_f64());
            }
            EventKind::Injected { rule, fault } => {
                counter!(
                    "buttress_injected_total",
                    "layer" => layer, "name" => name, "rule" => rule.to_string(), "fault" => *fault,
                )
                .increment(1);
            }
            EventKind::RetryAbandoned { .. }
            | EventKind::TableFull { .. }
            | EventKind::Replayed
            | EventKind::TakenOver { .. }
            | EventKind::Unrecorded { .. }
            | EventKind::Supervised { .. } => {}
        }
    }
}
