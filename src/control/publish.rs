//! A status through the `metrics` facade.

use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, Mutex, PoisonError};

use ::metrics::{counter, gauge};

use super::status::{Level, ObjectStatus, Status};
use crate::observe::Metrics;
use crate::observe::instruments::{
    GENERATION, INFO, OBJECT_COUNT, OBJECT_IN_STATE, OBJECT_LEVEL, OBJECT_MAX, OBJECT_REJECTIONS,
    OBJECT_STATE, OBJECT_THRESHOLD, OBJECTS_OMITTED, PHASE, UPTIME, VERDICT, of_unit,
};

type Labels = Vec<(&'static str, String)>;

/// Gauges that are 1 for a word, by process and registry: when the word is another, the one before is set to 0.
static WORDS: LazyLock<Mutex<HashMap<String, HashSet<Word>>>> = LazyLock::new(Mutex::default);

/// The instrument's name and the labels.
type Word = (&'static str, Labels);

impl Metrics {
    /// Sets what is pulled in the [table](crate::observe#metrics) to the values of this status: counters
    /// absolutely, gauges as they are. Call it as often as your metrics are looked at. Levels and totals of objects that
    /// have gone stay where they were, since recorders forget nothing.
    ///
    /// ```
    /// use buttress::{control::Registry, observe::Metrics};
    /// let registry = Registry::new();
    /// Metrics::publish(&registry.status());
    /// ```
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub fn publish(status: &Status) {
        let mut words = HashSet::new();
        let info = vec![
            ("service", status.service.clone()),
            ("instance", status.instance.clone()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        words.insert((INFO.name, info));
        gauge!(UPTIME.name).set(status.uptime_s);
        gauge!(GENERATION.name).set(status.generation as f64);
        gauge!(OBJECTS_OMITTED.name).set(status.omitted as f64);
        for level in [Level::Ok, Level::Warn, Level::Bad] {
            let is = f64::from(u8::from(level == status.verdict.level));
            gauge!(VERDICT.name, "level" => level.as_str()).set(is);
        }
        if let Some(process) = &status.process {
            words.insert((PHASE.name, vec![("phase", process.phase.clone())]));
        }
        for object in &status.objects {
            publish(object, &mut words);
        }
        turn(status, &words);
    }
}

fn publish(object: &ObjectStatus, words: &mut HashSet<Word>) {
    let with = |more: &[(&'static str, &str)]| -> Labels {
        [("layer", &*object.kind), ("name", &*object.name), ("object", &*object.id)]
            .iter()
            .chain(more)
            .map(|(label, value)| (*label, (*value).to_owned()))
            .collect()
    };
    words.insert((OBJECT_STATE.name, with(&[("state", &object.state)])));
    let level = match object.level {
        Level::Ok => 0.0,
        Level::Warn => 1.0,
        Level::Bad => 2.0,
    };
    gauge!(OBJECT_LEVEL.name, &with(&[])).set(level);
    if let Some(since) = object.since_s {
        gauge!(OBJECT_IN_STATE.name, &with(&[])).set(since);
    }
    for (id, value) in &object.counters {
        counter!(OBJECT_COUNT.name, &with(&[("counter", id)])).absolute(*value);
    }
    for (reason, value) in &object.rejects {
        counter!(OBJECT_REJECTIONS.name, &with(&[("reason", reason)])).absolute(*value);
    }
    for told in &object.gauges {
        let labels = with(&[("gauge", told.id), ("unit", told.unit)]);
        // What is not known stays not a number: it must not stand at what it was.
        gauge!(of_unit(told.unit).name, &labels).set(told.value);
        if let Some(max) = told.max {
            gauge!(OBJECT_MAX.name, &labels).set(max);
        }
        if let Some(threshold) = told.threshold {
            gauge!(OBJECT_THRESHOLD.name, &labels).set(threshold);
        }
    }
}

/// Sets the words that hold to 1, and to 0 those that held the last time and do not any more.
fn turn(status: &Status, words: &HashSet<Word>) {
    for (name, labels) in words {
        gauge!(*name, labels).set(1.0);
    }
    let mut all = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    let before = all.insert(status.instance.clone(), words.clone());
    drop(all);
    for (name, labels) in before.unwrap_or_default().difference(words) {
        gauge!(*name, labels).set(0.0);
    }
}
