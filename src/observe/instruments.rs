//! The one table of what is measured: the documentation, the descriptions given to recorders, the
//! Prometheus text and the dashboard are made from it.

/// What kind of number an [`Instrument`] gives.
///
/// ```
/// use buttress::observe::{INSTRUMENTS, InstrumentKind};
/// assert!(INSTRUMENTS.iter().any(|i| i.kind == InstrumentKind::Histogram));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstrumentKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Its values are sorted into buckets.
    Histogram,
}

/// One measure, named after the conventions of OpenTelemetry: lower case, dots between the parts, the unit
/// beside the name, in the notation of UCUM.
///
/// ```
/// use buttress::observe::INSTRUMENTS;
/// let events = INSTRUMENTS.iter().find(|i| i.name == "buttress.events").unwrap();
/// assert_eq!(events.prometheus(), "buttress_events_total");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instrument {
    /// Its name.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: InstrumentKind,
    /// `s` for seconds, `1` for a share, `{call}` and the like for what is counted.
    pub unit: &'static str,
    /// Its labels. Each has a bounded set of values: fixed words, and names that the program gives.
    pub labels: &'static [&'static str],
    /// Whether it is read from the objects when somebody asks (and costs calls nothing), rather than
    /// recorded with each event.
    pub pulled: bool,
    /// What it says.
    pub description: &'static str,
}

impl Instrument {
    /// Its name in Prometheus, by the rules by which OpenTelemetry's exporters make one.
    ///
    /// ```
    /// use buttress::observe::INSTRUMENTS;
    /// let delay = INSTRUMENTS.iter().find(|i| i.name == "buttress.retry.delay").unwrap();
    /// assert_eq!(delay.prometheus(), "buttress_retry_delay_seconds");
    /// ```
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut name = self.name.replace('.', "_");
        match self.unit {
            "s" => name.push_str("_seconds"),
            "1" => name.push_str("_ratio"),
            _ => {}
        }
        if self.kind == InstrumentKind::Counter {
            name.push_str("_total");
        }
        name
    }
}

const BY_EVENT: &[&str] = &["layer", "name", "event", "severity"];
const BY_OBJECT: &[&str] = &["layer", "name"];
const BY_ID: &[&str] = &["layer", "name", "object"];
const BY_GAUGE: &[&str] = &["layer", "name", "object", "gauge", "unit"];

/// Everything that this crate measures, in the order of the [table](super#metrics).
///
/// ```
/// assert!(buttress::observe::INSTRUMENTS.iter().all(|i| i.name.starts_with("buttress.")));
/// ```
pub const INSTRUMENTS: &[Instrument] = &[
    EVENTS,
    REJECTIONS,
    STATE_CHANGES,
    INJECTIONS,
    FALLBACKS,
    RETRIES,
    RETRY_DELAY,
    WAIT,
    INFO,
    UPTIME,
    GENERATION,
    VERDICT,
    PHASE,
    OBJECTS_OMITTED,
    SERIES_OMITTED,
    ADMIN_VIEWERS,
    OBJECT_STATE,
    OBJECT_LEVEL,
    OBJECT_IN_STATE,
    OBJECT_COUNT,
    OBJECT_REJECTIONS,
    OBJECT_VALUE,
    OBJECT_SHARE,
    OBJECT_TIME,
    OBJECT_MAX,
    OBJECT_THRESHOLD,
];

pub(crate) const EVENTS: Instrument = Instrument {
    name: "buttress.events",
    kind: InstrumentKind::Counter,
    unit: "{event}",
    labels: BY_EVENT,
    pulled: false,
    description: "Decisions of all objects",
};
pub(crate) const REJECTIONS: Instrument = Instrument {
    name: "buttress.rejections",
    kind: InstrumentKind::Counter,
    unit: "{call}",
    labels: &["layer", "name", "reason", "shadow"],
    pulled: false,
    description: "Calls refused, or that would have been in shadow mode",
};
pub(crate) const STATE_CHANGES: Instrument = Instrument {
    name: "buttress.state_changes",
    kind: InstrumentKind::Counter,
    unit: "{change}",
    labels: &["layer", "name", "from", "to"],
    pulled: false,
    description: "Changes of state of breakers, budgets and the like",
};
pub(crate) const INJECTIONS: Instrument = Instrument {
    name: "buttress.injections",
    kind: InstrumentKind::Counter,
    unit: "{fault}",
    labels: &["layer", "name", "rule", "fault"],
    pulled: false,
    description: "Faults injected on purpose",
};
pub(crate) const FALLBACKS: Instrument = Instrument {
    name: "buttress.fallbacks",
    kind: InstrumentKind::Counter,
    unit: "{call}",
    labels: &["layer", "name", "cause", "answered"],
    pulled: false,
    description: "Fallbacks that ended, with or without an answer",
};
pub(crate) const RETRIES: Instrument = Instrument {
    name: "buttress.retries",
    kind: InstrumentKind::Counter,
    unit: "{attempt}",
    labels: &["layer", "name", "outcome"],
    pulled: false,
    description: "Attempts after the first, by what the one before came to",
};
pub(crate) const RETRY_DELAY: Instrument = Instrument {
    name: "buttress.retry.delay",
    kind: InstrumentKind::Histogram,
    unit: "s",
    labels: BY_OBJECT,
    pulled: false,
    description: "Pauses before retries",
};
pub(crate) const WAIT: Instrument = Instrument {
    name: "buttress.wait.duration",
    kind: InstrumentKind::Histogram,
    unit: "s",
    labels: BY_OBJECT,
    pulled: false,
    description: "Waits of calls that were then let through",
};
pub(crate) const INFO: Instrument = Instrument {
    name: "buttress.info",
    kind: InstrumentKind::Gauge,
    unit: "{process}",
    labels: &["service", "instance", "version"],
    pulled: true,
    description: "1, with which process this is",
};
pub(crate) const UPTIME: Instrument = Instrument {
    name: "buttress.uptime",
    kind: InstrumentKind::Gauge,
    unit: "s",
    labels: &[],
    pulled: true,
    description: "Since the registry was made",
};
pub(crate) const GENERATION: Instrument = Instrument {
    name: "buttress.config.generation",
    kind: InstrumentKind::Gauge,
    unit: "{generation}",
    labels: &[],
    pulled: true,
    description: "How often the configuration was read",
};
pub(crate) const VERDICT: Instrument = Instrument {
    name: "buttress.verdict",
    kind: InstrumentKind::Gauge,
    unit: "{level}",
    labels: &["level"],
    pulled: true,
    description: "1 for the worst level of all objects, 0 for the others",
};
pub(crate) const PHASE: Instrument = Instrument {
    name: "buttress.process.phase",
    kind: InstrumentKind::Gauge,
    unit: "{phase}",
    labels: &["phase"],
    pulled: true,
    description: "1 for the phase of the process",
};
pub(crate) const OBJECTS_OMITTED: Instrument = Instrument {
    name: "buttress.objects.omitted",
    kind: InstrumentKind::Gauge,
    unit: "{object}",
    labels: &[],
    pulled: true,
    description: "Objects that the status left out",
};
pub(crate) const SERIES_OMITTED: Instrument = Instrument {
    name: "buttress.series.omitted",
    kind: InstrumentKind::Gauge,
    unit: "{series}",
    labels: &[],
    pulled: true,
    description: "Series that an answer of `/metrics` left out",
};
pub(crate) const ADMIN_VIEWERS: Instrument = Instrument {
    name: "buttress.admin.viewers",
    kind: InstrumentKind::Gauge,
    unit: "{viewer}",
    labels: &[],
    pulled: true,
    description: "Connected to the events of the admin service",
};
pub(crate) const OBJECT_STATE: Instrument = Instrument {
    name: "buttress.object.state",
    kind: InstrumentKind::Gauge,
    unit: "{object}",
    labels: &["layer", "name", "object", "state"],
    pulled: true,
    description: "1 for the state that an object is in",
};
pub(crate) const OBJECT_LEVEL: Instrument = Instrument {
    name: "buttress.object.level",
    kind: InstrumentKind::Gauge,
    unit: "{level}",
    labels: BY_ID,
    pulled: true,
    description: "0 if an object is well, 1 if it warns, 2 if it is bad",
};
pub(crate) const OBJECT_IN_STATE: Instrument = Instrument {
    name: "buttress.object.state.duration",
    kind: InstrumentKind::Gauge,
    unit: "s",
    labels: BY_ID,
    pulled: true,
    description: "For how long an object has been in its state",
};
pub(crate) const OBJECT_COUNT: Instrument = Instrument {
    name: "buttress.object.count",
    kind: InstrumentKind::Counter,
    unit: "{event}",
    labels: &["layer", "name", "object", "counter"],
    pulled: true,
    description: "Totals that an object keeps: calls, failures, probes, replays and so on",
};
pub(crate) const OBJECT_REJECTIONS: Instrument = Instrument {
    name: "buttress.object.rejections",
    kind: InstrumentKind::Counter,
    unit: "{call}",
    labels: &["layer", "name", "object", "reason"],
    pulled: true,
    description: "Calls that an object has refused",
};
pub(crate) const OBJECT_VALUE: Instrument = Instrument {
    name: "buttress.object.value",
    kind: InstrumentKind::Gauge,
    unit: "{value}",
    labels: BY_GAUGE,
    pulled: true,
    description: "Levels that an object keeps: window fill, tokens, limits, calls in flight and so on",
};
pub(crate) const OBJECT_SHARE: Instrument = Instrument {
    name: "buttress.object.share",
    kind: InstrumentKind::Gauge,
    unit: "1",
    labels: BY_GAUGE,
    pulled: true,
    description: "Shares from 0 to 1 that an object keeps: failure rates, what is left of a budget",
};
pub(crate) const OBJECT_TIME: Instrument = Instrument {
    name: "buttress.object.time",
    kind: InstrumentKind::Gauge,
    unit: "s",
    labels: BY_GAUGE,
    pulled: true,
    description: "Times that an object keeps: until a budget is spent, since the last beat",
};
pub(crate) const OBJECT_MAX: Instrument = Instrument {
    name: "buttress.object.max",
    kind: InstrumentKind::Gauge,
    unit: "{value}",
    labels: BY_GAUGE,
    pulled: true,
    description: "The most that a level, share or time of an object can be",
};
pub(crate) const OBJECT_THRESHOLD: Instrument = Instrument {
    name: "buttress.object.threshold",
    kind: InstrumentKind::Gauge,
    unit: "{value}",
    labels: BY_GAUGE,
    pulled: true,
    description: "Where a level, share or time of an object makes a difference",
};

/// Where a gauge of an object is told.
#[cfg(any(feature = "admin", feature = "metrics"))]
pub(crate) fn of_unit(unit: &str) -> &'static Instrument {
    match unit {
        "ratio" => &OBJECT_SHARE,
        "s" => &OBJECT_TIME,
        _ => &OBJECT_VALUE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_this_table() {
        let documented: Vec<_> = include_str!("mod.rs")
            .lines()
            .filter(|line| line.starts_with("//! | `buttress."))
            .map(str::to_owned)
            .collect();
        let table: Vec<_> = INSTRUMENTS
            .iter()
            .map(|i| {
                let labels: Vec<_> = i.labels.iter().map(|label| format!("`{label}`")).collect();
                let kind = format!("{:?}", i.kind).to_lowercase();
                let (name, unit, labels) = (i.name, i.unit, labels.join(", "));
                let pulled = if i.pulled { "yes" } else { "" };
                format!(
                    "//! | `{name}` | {kind} | `{unit}` | {labels} | {pulled} | {} |",
                    i.description
                )
            })
            .collect();
        assert_eq!(documented, table);
    }

    #[test]
    fn names_are_those_of_the_conventions() {
        let mut names = std::collections::BTreeSet::new();
        for i in INSTRUMENTS {
            let plain = |c: char| c.is_ascii_lowercase() || c == '.' || c == '_';
            assert!(i.name.chars().all(plain), "{}", i.name);
            assert!(!i.name.ends_with("total"), "{}: the exporter adds it", i.name);
            assert!(names.insert(i.prometheus()), "{} twice", i.name);
            // Of an object, or of the whole process and pulled.
            let of_object = i.labels.starts_with(if i.pulled { BY_ID } else { BY_OBJECT });
            let of_process = i.pulled && !i.labels.iter().any(|label| BY_ID.contains(label));
            assert!(of_object || of_process, "{}", i.name);
        }
    }
}
