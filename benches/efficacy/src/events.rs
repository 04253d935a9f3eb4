//! What the layers of a run decide, as they tell it to `tracing`: also those of the preset, as it is.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// One decision of one object.
pub(crate) struct Heard {
    /// Microseconds since the run began.
    pub(crate) at: u64,
    /// The name of the object: that of its client.
    name: String,
    layer: String,
    event: String,
    from: String,
    to: String,
    /// Why, as it is written for a state or a refusal.
    reason: String,
    /// What an attempt came to.
    outcome: String,
    /// Everything else, with its name.
    rest: String,
}

impl Heard {
    pub(crate) fn is_change(&self) -> bool {
        self.event == "state_changed"
    }

    /// Layer, event and kind of reason: without what differs from call to call.
    pub(crate) fn group(&self) -> String {
        // The numbers of a refusal come behind its sentence.
        let kind = self.reason.split(" (").next().unwrap_or_default();
        let words = [kind, self.outcome.as_str()];
        let why: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let colon = if why.is_empty() { "" } else { ": " };
        format!("{} {}{colon}{}", self.layer, self.event, why.join(" after "))
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.at / 1_000_000, self.at / 1000 % 1000);
        write!(f, "{seconds}.{millis:03} {} {} ", self.name, self.layer)?;
        if self.is_change() {
            write!(f, "{} -> {}: {}", self.from, self.to, self.reason)
        } else {
            let colon = if self.reason.is_empty() { "" } else { ": " };
            write!(f, "{}{colon}{}{}", self.event, self.reason, self.rest)?;
            if self.outcome.is_empty() { Ok(()) } else { write!(f, " after {}", self.outcome) }
        }
    }
}

/// Listens on the thread of the run.
struct Ear {
    start: Instant,
    heard: Arc<Mutex<Vec<Heard>>>,
}

/// Everything that is decided on this thread while `run` runs.
pub(crate) async fn listen<T>(run: impl Future<Output = T>) -> (T, Vec<Heard>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Ear { start: Instant::now(), heard: Arc::clone(&heard) };
    let guard = tracing::subscriber::set_default(ear);
    let out = run.await;
    drop(guard);
    let heard = std::mem::take(&mut *heard.lock().expect("no panic under the lock"));
    (out, heard)
}

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "buttress"
    }

    fn event(&self, event: &Event<'_>) {
        let mut heard = Heard {
            at: self.start.elapsed().as_micros() as u64,
            name: String::new(),
            layer: String::new(),
            event: String::new(),
            from: String::new(),
            to: String::new(),
            reason: String::new(),
            outcome: String::new(),
            rest: String::new(),
        };
        event.record(&mut heard);
        self.heard.lock().expect("no panic under the lock").push(heard);
    }

    // No spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Heard {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let into = match field.name() {
            "layer" => &mut self.layer,
            "name" => &mut self.name,
            "event" => &mut self.event,
            "from" => &mut self.from,
            "to" => &mut self.to,
            "reason" | "why" => &mut self.reason,
            "outcome" => &mut self.outcome,
            name => {
                let comma = if self.rest.is_empty() { ", " } else { " " };
                let _ = write!(self.rest, "{comma}{name} {value}");
                return;
            }
        };
        let _ = into.write_fmt(value);
    }
}

impl Visit for Heard {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}
