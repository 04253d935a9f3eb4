//! What is in a tree, by path, and what else a value can be.

use ::config_rs::{Map, Value, ValueKind};

use super::keys::join;
use super::read::flag;
use super::value::{origin, sorted};
use crate::units;

/// Values of all sorts.
pub(super) fn others() -> [ValueKind; 8] {
    let time = [("secs", 1_u64), ("nanos", 0)].map(|(key, n)| (key.to_owned(), Value::from(n)));
    [
        ValueKind::Nil,
        ValueKind::Boolean(true),
        ValueKind::I64(1),
        ValueKind::Float(0.5),
        ValueKind::String("a".to_owned()),
        ValueKind::Array(Vec::new()),
        ValueKind::Table(Map::new()),
        ValueKind::Table(time.into()),
    ]
}

/// Whether one path is on the way to the other, or the same.
pub(super) fn leads(path: &str, to: &str) -> bool {
    to.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

pub(super) fn below<'v>(value: &'v Value, path: &str) -> Vec<(String, &'v Value)> {
    match &value.kind {
        ValueKind::Table(table) => {
            sorted(table).into_iter().map(|(key, value)| (join(path, key), value)).collect()
        }
        ValueKind::Array(list) => {
            let all = list.iter().enumerate();
            all.map(|(n, value)| (format!("{path}[{n}]"), value)).collect()
        }
        _ => Vec::new(),
    }
}

/// The keys of that name in it.
pub(super) fn named(value: &Value, path: &str, name: &str, places: &mut Vec<String>) {
    let keys = match &value.kind {
        ValueKind::Table(table) => table.contains_key(name).then(|| join(path, name)),
        _ => None,
    };
    places.extend(keys);
    for (path, value) in below(value, path) {
        named(value, &path, name, places);
    }
}

pub(super) fn collect_tables(value: &Value, path: &str, tables: &mut Vec<String>) {
    if matches!(value.kind, ValueKind::Table(_)) {
        tables.push(path.to_owned());
    }
    for (path, value) in below(value, path) {
        collect_tables(value, &path, tables);
    }
}

pub(super) fn count(value: &Value) -> usize {
    match &value.kind {
        ValueKind::Table(table) => 1 + table.values().map(count).sum::<usize>(),
        ValueKind::Array(list) => 1 + list.iter().map(count).sum::<usize>(),
        _ => 1,
    }
}

/// What else a value can be, of which was not known what it is for when it was read: a time, or a number or flag
/// that came as text.
pub(super) fn readings(value: &Value, expected: &str) -> Vec<Value> {
    let mut all = Vec::new();
    if expected.contains("Duration") {
        let seconds = match &value.kind {
            ValueKind::String(text) => units::seconds(text),
            #[expect(clippy::cast_precision_loss, reason = "a number of seconds")]
            ValueKind::I64(n) => Some(*n as f64),
            ValueKind::Float(n) => Some(*n),
            _ => None,
        };
        let time = seconds.and_then(|s| std::time::Duration::try_from_secs_f64(s).ok());
        all.extend(time.map(|time| {
            let parts = [("secs", time.as_secs()), ("nanos", u64::from(time.subsec_nanos()))];
            ValueKind::Table(parts.map(|(key, n)| (key.to_owned(), Value::from(n))).into())
        }));
    }
    let origin = origin(value);
    if let ValueKind::String(text) = &value.kind
        && (origin.starts_with("variable ") || origin == "argument")
    {
        let text = text.trim();
        all.extend(text.parse().ok().map(ValueKind::I64));
        all.extend(text.parse().ok().map(ValueKind::U64));
        all.extend(units::number(text).map(ValueKind::Float));
        all.extend(flag(text).map(ValueKind::Boolean));
    }
    all.into_iter().map(|kind| Value::new(None, kind)).collect()
}
