use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, histogram};

use super::instruments::{
    EVENTS, FALLBACKS, INJECTIONS, INSTRUMENTS, InstrumentKind, REJECTIONS, RETRIES, RETRY_DELAY,
    STATE_CHANGES, WAIT,
};
use super::{Event, EventKind, Observe};

/// Counts events through the `metrics` facade: the instruments of the [table](super#metrics) that are not
/// pulled. Labels are the layer, the object's name and fixed words, so their number is bounded by the
/// program, never by its traffic.
///
/// ```
/// use buttress::circuit_breaker::CircuitBreaker;
/// use buttress::observe::Metrics;
/// let breaker = CircuitBreaker::builder("db").observe(Metrics).build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Metrics;

impl Metrics {
    /// Tells the recorder units and descriptions. Call it once, after the recorder is installed.
    ///
    /// ```
    /// buttress::observe::Metrics::describe();
    /// ```
    pub fn describe() {
        for instrument in INSTRUMENTS {
            let (name, text) = (instrument.name, instrument.description);
            let unit = if instrument.unit == "s" { Unit::Seconds } else { Unit::Count };
            match instrument.kind {
                InstrumentKind::Counter => describe_counter!(name, unit, text),
                InstrumentKind::Gauge => describe_gauge!(name, unit, text),
                InstrumentKind::Histogram => describe_histogram!(name, unit, text),
            }
        }
    }
}

impl Observe for Metrics {
    fn on_event(&self, event: &Event<'_>) {
        let layer = event.layer.as_str();
        let name = event.name.as_str();
        counter!(
            EVENTS.name,
            "layer" => layer,
            "name" => name,
            "event" => event.kind.as_str(),
            "severity" => event.kind.severity().as_str(),
        )
        .increment(1);
        match &event.kind {
            EventKind::Rejected(why) | EventKind::WouldReject(why) => {
                let shadow = matches!(event.kind, EventKind::WouldReject(_));
                counter!(
                    REJECTIONS.name,
                    "layer" => layer,
                    "name" => name,
                    "reason" => why.kind().as_str(),
                    "shadow" => if shadow { "true" } else { "false" },
                )
                .increment(1);
            }
            EventKind::StateChanged { from, to, .. } => {
                counter!(
                    STATE_CHANGES.name,
                    "layer" => layer, "name" => name, "from" => *from, "to" => *to,
                )
                .increment(1);
            }
            EventKind::Retried { delay, outcome, .. } => {
                counter!(
                    RETRIES.name,
                    "layer" => layer, "name" => name, "outcome" => outcome.as_str(),
                )
                .increment(1);
                histogram!(RETRY_DELAY.name, "layer" => layer, "name" => name)
                    .record(delay.as_secs_f64());
            }
            EventKind::Waited { waited } => {
                histogram!(WAIT.name, "layer" => layer, "name" => name)
                    .record(waited.as_secs_f64());
            }
            EventKind::Injected { rule, fault } => {
                counter!(
                    INJECTIONS.name,
                    "layer" => layer, "name" => name, "rule" => rule.to_string(), "fault" => *fault,
                )
                .increment(1);
            }
            EventKind::FellBack { cause, answered } => {
                counter!(
                    FALLBACKS.name,
                    "layer" => layer, "name" => name, "cause" => *cause,
                    "answered" => if *answered { "true" } else { "false" },
                )
                .increment(1);
            }
            EventKind::RetryAbandoned { .. }
            | EventKind::Hedged { .. }
            | EventKind::TableFull { .. }
            | EventKind::Replayed
            | EventKind::TakenOver { .. }
            | EventKind::Unrecorded { .. }
            | EventKind::Supervised { .. } => {}
        }
    }
}
