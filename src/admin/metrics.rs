//! A status as Prometheus or OpenMetrics text.

use std::collections::HashSet;
use std::fmt::Write as _;

use http::HeaderValue;
use serde_json::Value;

use crate::observe::instruments::{
    ADMIN_VIEWERS, GENERATION, INFO, OBJECT_COUNT, OBJECT_IN_STATE, OBJECT_LEVEL, OBJECT_MAX,
    OBJECT_REJECTIONS, OBJECT_SHARE, OBJECT_STATE, OBJECT_THRESHOLD, OBJECT_TIME, OBJECT_VALUE,
    OBJECTS_OMITTED, PHASE, SERIES_OMITTED, UPTIME, VERDICT, of_unit,
};
use crate::observe::{Instrument, InstrumentKind};

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
    pub(super) fn family(&mut self, instrument: &Instrument, series: impl FnOnce(&mut Series<'_>)) {
        let begun = self.text.len();
        let (name, is_counter) =
            (instrument.prometheus(), instrument.kind == InstrumentKind::Counter);
        let family = match self.format {
            Format::OpenMetrics if is_counter => name.strip_suffix("_total").unwrap_or(&name),
            _ => &name,
        };
        let (help, word) = (instrument.description, if is_counter { "counter" } else { "gauge" });
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {word}");
        self.seen.clear();
        series(&mut Series { all: self, name: &name });
        if self.seen.is_empty() {
            self.text.truncate(begun);
        }
    }

    pub(super) fn finish(mut self) -> String {
        let omitted = self.omitted;
        // This one is never one too many.
        self.in_all = 0;
        self.family(&SERIES_OMITTED, |series| series.put(&[], omitted as f64));
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

pub(super) struct Series<'a> {
    all: &'a mut Exposition,
    name: &'a str,
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
    all.family(&INFO, |series| {
        let labels = [
            ("service", text(status, "service")),
            ("instance", text(status, "instance")),
            ("version", env!("CARGO_PKG_VERSION")),
        ];
        series.put(&labels, 1.0);
    });
    let mut one = |instrument, value: &Value| {
        if let Some(value) = value.as_f64() {
            all.family(instrument, |series| series.put(&[], value));
        }
    };
    one(&UPTIME, &status["uptime_s"]);
    one(&GENERATION, &status["generation"]);
    one(&OBJECTS_OMITTED, &status["omitted"]);
    one(&ADMIN_VIEWERS, &status["admin"]["viewers"]);
    all.family(&VERDICT, |series| {
        if let Some(verdict) = status["verdict"]["level"].as_str() {
            for level in ["ok", "warn", "bad"] {
                series.put(&[("level", level)], f64::from(u8::from(level == verdict)));
            }
        }
    });
    all.family(&PHASE, |series| {
        if let Some(phase) = status["process"]["phase"].as_str() {
            series.put(&[("phase", phase)], 1.0);
        }
    });
}

fn objects(all: &mut Exposition, status: &Value) {
    let objects = list(status, "objects");
    // A family is written as a whole, so the objects are gone through once for each.
    let mut each = |instrument, put: Put<'_>| {
        all.family(instrument, |series| {
            for object in objects {
                let labels = [
                    ("layer", text(object, "kind")),
                    ("name", text(object, "name")),
                    ("object", text(object, "id")),
                ];
                put(series, labels, object);
            }
        });
    };
    each(&OBJECT_LEVEL, &|series, of, object| {
        let level = match text(object, "level") {
            "ok" => 0.0,
            "warn" => 1.0,
            "bad" => 2.0,
            _ => f64::NAN,
        };
        series.put(&of, level);
    });
    each(&OBJECT_STATE, &|series, [a, b, c], object| {
        if let Some(state) = object["state"].as_str() {
            series.put(&[a, b, c, ("state", state)], 1.0);
        }
    });
    each(&OBJECT_IN_STATE, &|series, of, object| {
        if let Some(since) = object["since_s"].as_f64() {
            series.put(&of, since);
        }
    });
    each(&OBJECT_COUNT, &|series, of, object| {
        counted(series, of, list(object, "counters"), "counter", "id");
    });
    each(&OBJECT_REJECTIONS, &|series, of, object| {
        counted(series, of, list(object, "rejects"), "reason", "reason");
    });
    for instrument in [&OBJECT_VALUE, &OBJECT_SHARE, &OBJECT_TIME] {
        each(instrument, &|series, of, object| {
            gauges(series, of, object, "value", |unit| of_unit(unit).name == instrument.name);
        });
    }
    each(&OBJECT_MAX, &|series, of, object| gauges(series, of, object, "max", |_| true));
    each(&OBJECT_THRESHOLD, &|series, of, object| {
        gauges(series, of, object, "threshold", |_| true);
    });
}

/// One number of those gauges of an object that have such a unit.
fn gauges(
    series: &mut Series<'_>,
    [a, b, c]: Of<'_>,
    object: &Value,
    field: &str,
    with: impl Fn(&str) -> bool,
) {
    let gauges = list(object, "gauges");
    for gauge in gauges.iter().take(PER_OBJECT) {
        let (id, unit) = (text(gauge, "id"), text(gauge, "unit"));
        if let Some(value) = gauge[field].as_f64().filter(|_| with(unit)) {
            series.put(&[a, b, c, ("gauge", id), ("unit", unit)], value);
        }
    }
    let over = gauges.iter().skip(PER_OBJECT);
    series.left_out(over.filter(|gauge| with(text(gauge, "unit"))).count());
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
