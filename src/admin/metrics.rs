//! A status as Prometheus or OpenMetrics text.

use std::collections::HashSet;
use std::fmt::Write as _;

use http::HeaderValue;
use serde_json::Value;

/// Series of one family for one object.
const PER_OBJECT: usize = 32;
/// Series of one answer.
const IN_ALL: usize = 20_000;
/// Characters of a label's value.
const LABEL: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    pub(super) fn asked_for(accept: Option<&HeaderValue>) -> Self {
        match accept.and_then(|accept| accept.to_str().ok()) {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Type {
    Gauge,
    /// Its name ends with `_total`.
    Counter,
}

/// Writes families one after the other. A series that was written already, whose value is no number, or that
/// is one too many is left out: a scrape must not fail because of one object.
pub(super) struct Exposition {
    format: Format,
    text: String,
    /// Labels of the family's series so far.
    seen: HashSet<String>,
    in_all: usize,
    omitted: u64,
}

impl Exposition {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::new(), seen: HashSet::new(), in_all: 0, omitted: 0 }
    }

    /// `series` writes what belongs to it. Families without series are not mentioned.
    pub(super) fn family(
        &mut self,
        name: &'static str,
        kind: Type,
        help: &str,
        series: impl FnOnce(&mut Series<'_>),
    ) {
        let begun = self.text.len();
        let family = match self.format {
            Format::OpenMetrics if kind == Type::Counter => {
                name.strip_suffix("_total").unwrap_or(name)
            }
            _ => name,
        };
        let word = if kind == Type::Counter { "counter" } else { "gauge" };
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {word}");
        self.seen.clear();
        series(&mut Series { all: self, name });
        if self.seen.is_empty() {
            self.text.truncate(begun);
        }
    }

    pub(super) fn finish(mut self) -> String {
        let omitted = self.omitted;
        // This one is never one too many.
        self.in_all = 0;
        self.family(
            "buttress_series_omitted",
            Type::Gauge,
            "Series this answer left out.",
            |series| {
                series.put(&[], omitted as f64);
            },
        );
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

pub(super) struct Series<'a> {
    all: &'a mut Exposition,
    name: &'static str,
}

impl Series<'_> {
    /// The names of labels are words of this crate; the values are anything.
    pub(super) fn put(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut text = String::new();
        for (at, (name, value)) in labels.iter().enumerate() {
            let _ = write!(text, "{}{name}=\"", if at > 0 { "," } else { "" });
            escape(&mut text, value);
            text.push('"');
        }
        let all = &mut *self.all;
        if !value.is_finite() || all.in_all >= IN_ALL || all.seen.contains(&text) {
            all.omitted += 1;
            return;
        }
        all.in_all += 1;
        let _ = match text.is_empty() {
            true => writeln!(all.text, "{} {value}", self.name),
            false => writeln!(all.text, "{}{{{text}}} {value}", self.name),
        };
        all.seen.insert(text);
    }

    fn left_out(&mut self, count: usize) {
        self.all.omitted += count as u64;
    }
}

fn escape(text: &mut String, value: &str) {
    for c in value.chars().take(LABEL) {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            // Allowed, but no tool shows them.
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
}

/// Which object: its kind, name and id.
type Of<'a> = [(&'a str, &'a str); 3];
/// Writes an object's series of a family.
type Put<'a> = &'a dyn Fn(&mut Series<'_>, Of<'_>, &Value);

pub(super) fn render(status: &Value, format: Format) -> String {
    let mut all = Exposition::new(format);
    process(&mut all, status);
    objects(&mut all, status);
    all.finish()
}

fn process(all: &mut Exposition, status: &Value) {
    use Type::Gauge;

    all.family("buttress_info", Gauge, "Which process this is.", |series| {
        let labels = [
            ("service", text(status, "service")),
            ("instance", text(status, "instance")),
            ("version", env!("CARGO_PKG_VERSION")),
        ];
        series.put(&labels, 1.0);
    });
    let mut one = |name, help, value: &Value| {
        if let Some(value) = value.as_f64() {
            all.family(name, Gauge, help, |series| series.put(&[], value));
        }
    };
    one("buttress_uptime_seconds", "Since the registry was made.", &status["uptime_s"]);
    one(
        "buttress_config_generation",
        "How often the configuration was loaded.",
        &status["generation"],
    );
    one("buttress_objects_omitted", "Objects the status left out.", &status["omitted"]);
    one("buttress_admin_viewers", "Connected to /events.", &status["admin"]["viewers"]);
    all.family("buttress_verdict", Gauge, "1 for the worst level of all objects.", |series| {
        if let Some(verdict) = status["verdict"]["level"].as_str() {
            for level in ["ok", "warn", "bad"] {
                series.put(&[("level", level)], f64::from(u8::from(level == verdict)));
            }
        }
    });
    all.family("buttress_process_phase", Gauge, "1 for the phase of the process.", |series| {
        if let Some(phase) = status["process"]["phase"].as_str() {
            series.put(&[("phase", phase)], 1.0);
        }
    });
}

fn objects(all: &mut Exposition, status: &Value) {
    use Type::{Counter, Gauge};

    let objects = list(status, "objects");
    // A family is written as a whole, so the objects are gone through once for each.
    let mut each = |name, kind, help, put: Put<'_>| {
        all.family(name, kind, help, |series| {
            for object in objects {
                let labels = [
                    ("kind", text(object, "kind")),
                    ("name", text(object, "name")),
                    ("object", text(object, "id")),
                ];
                put(series, labels, object);
            }
        });
    };
    each(
        "buttress_strategy_level",
        Gauge,
        "How it is: 0 ok, 1 warn, 2 bad.",
        &|series, of, object| {
            let level = match text(object, "level") {
                "ok" => 0.0,
                "warn" => 1.0,
                "bad" => 2.0,
                _ => f64::NAN,
            };
            series.put(&of, level);
        },
    );
    each(
        "buttress_strategy_state",
        Gauge,
        "1 for the state it is in.",
        &|series, [a, b, c], object| {
            if let Some(state) = object["state"].as_str() {
                series.put(&[a, b, c, ("state", state)], 1.0);
            }
        },
    );
    each(
        "buttress_strategy_state_seconds",
        Gauge,
        "How long it has been in its state.",
        &|series, of, object| {
            if let Some(since) = object["since_s"].as_f64() {
                series.put(&of, since);
            }
        },
    );
    each(
        "buttress_strategy_events_total",
        Counter,
        "What it has counted, by event.",
        &|series, of, object| {
            counted(series, of, list(object, "counters"), "event", "id");
        },
    );
    each(
        "buttress_strategy_rejections_total",
        Counter,
        "What it has refused, by reason.",
        &|series, of, object| {
            counted(series, of, list(object, "rejects"), "reason", "reason");
        },
    );
    let gauges = [
        ("buttress_strategy_gauge", "A value of now.", "value"),
        ("buttress_strategy_gauge_max", "The most that value can be.", "max"),
        ("buttress_strategy_gauge_threshold", "Where that value makes a difference.", "threshold"),
    ];
    for (name, help, field) in gauges {
        each(name, Gauge, help, &|series, [a, b, c], object| {
            let gauges = list(object, "gauges");
            for gauge in gauges.iter().take(PER_OBJECT) {
                if let Some(value) = gauge[field].as_f64() {
                    let of = [("gauge", text(gauge, "id")), ("unit", text(gauge, "unit"))];
                    series.put(&[a, b, c, of[0], of[1]], value);
                }
            }
            series.left_out(gauges.len().saturating_sub(PER_OBJECT));
        });
    }
}

fn counted(
    series: &mut Series<'_>,
    [a, b, c]: Of<'_>,
    counters: &[Value],
    label: &str,
    field: &str,
) {
    for counter in counters.iter().take(PER_OBJECT) {
        if let Some(value) = counter["value"].as_f64() {
            series.put(&[a, b, c, (label, text(counter, field))], value);
        }
    }
    series.left_out(counters.len().saturating_sub(PER_OBJECT));
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
