//! Paths of keys, and the sources that are made of paths: variables and arguments.

use std::collections::BTreeMap;

use ::config_rs::{Map, Value, ValueKind};
use serde_json::Value as Json;

use super::fields::ROOT;
use super::problem::{Problem, ProblemKind};
use super::schema::Kind;
use super::value::{from_json, shown};

/// A path with one more key. A key with a dot, and any other that would not read as one, stands in quotes.
pub(super) fn join(path: &str, key: &str) -> String {
    let odd = |c: char| c.is_whitespace() || c.is_control() || ".[]\"".contains(c);
    let key = match key.is_empty() || key.contains(odd) {
        true => Json::from(key).to_string(),
        false => key.to_owned(),
    };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// The keys of a path.
fn split(path: &str) -> Option<Vec<String>> {
    let mut keys = Vec::new();
    let mut rest = path;
    loop {
        let end = if rest.starts_with('"') {
            let mut quoted = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            keys.push(quoted.next()?.ok()?);
            quoted.byte_offset()
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            keys.push(rest.get(..end).filter(|key| !key.is_empty())?.to_owned());
            end
        };
        rest = match rest.get(end..)? {
            "" => return Some(keys),
            rest => rest.strip_prefix('.')?,
        };
    }
}

/// The key for which a text is short, in entries of this top-level map.
fn short(map: &str) -> Option<&'static str> {
    let field = ROOT.iter().find(|field| field.key == map)?;
    match &field.kind {
        Kind::Map(of) => match of.plain() {
            Kind::Short(key, _) => Some(key),
            _ => None,
        },
        _ => None,
    }
}

/// Entries that are a text become the table they are short for, so that they can be merged with one.
pub(super) fn spell_out(source: &mut Map<String, Value>) {
    for (map, value) in source {
        if let (Some(key), ValueKind::Table(entries)) = (short(map), &mut value.kind) {
            for entry in entries.values_mut() {
                if matches!(entry.kind, ValueKind::String(_)) {
                    let origin = entry.origin().map(str::to_owned);
                    let text = std::mem::replace(entry, Value::new(None, ValueKind::Nil));
                    let table = Map::from_iter([(key.to_owned(), text)]);
                    *entry = Value::new(origin.as_ref(), ValueKind::Table(table));
                }
            }
        }
    }
}

/// Arguments or defaults.
pub(super) fn keyed(
    values: &[(String, Value)],
    origin: &str,
    problems: &mut Vec<Problem>,
) -> Map<String, Value> {
    let mut table = Map::new();
    for (path, value) in values {
        match split(path) {
            Some(keys) => put(&mut table, keys, value.clone()),
            None => {
                let expected = "a path of keys such as breakers.db.open_for";
                let kind = ProblemKind::UnknownKey;
                problems.push(Problem::new(kind, path, "not a path", origin, expected));
            }
        }
    }
    spell_out(&mut table);
    table
}

/// The variables that begin with `prefix`. What the files have already says how names are written.
pub(super) fn environment(
    variables: &BTreeMap<String, String>,
    prefix: &str,
    files: &Value,
    problems: &mut Vec<Problem>,
) -> Map<String, Value> {
    let mut table = Map::new();
    let mut seen: BTreeMap<Vec<String>, &str> = BTreeMap::new();
    for (name, text) in variables {
        let Some(path) = name.strip_prefix(prefix) else { continue };
        let origin = format!("variable {name}");
        let keys = keys_of(path, files);
        if keys.iter().any(String::is_empty) {
            let expected = format!("a name such as {prefix}BREAKERS__DB__OPEN_FOR");
            let kind = ProblemKind::UnknownKey;
            problems.push(Problem::new(kind, "", "not a path", origin, expected));
            continue;
        }
        if let Some(other) = seen.insert(keys.clone(), name) {
            let path = keys.iter().fold(String::new(), |path, key| join(&path, key));
            let value = shown(&path, &Json::from(text.as_str()));
            let expected = format!("one variable for this key, and there is {other}");
            let kind = ProblemKind::Contradiction;
            problems.push(Problem::new(kind, path, value, &origin, expected));
        }
        let structure = text.trim_start().starts_with(['{', '[']);
        let value = match serde_json::from_str::<Json>(text) {
            Ok(json) if structure => from_json(&json, &origin),
            _ => Value::new(Some(&origin), text.as_str()),
        };
        put(&mut table, keys, value);
    }
    spell_out(&mut table);
    table
}

fn keys_of(path: &str, files: &Value) -> Vec<String> {
    let mut keys = Vec::new();
    let mut known = Some(files);
    for part in path.split("__") {
        let table = match known.map(|value| &value.kind) {
            Some(ValueKind::Table(table)) => Some(table),
            _ => None,
        };
        let fold = |key: &str| key.to_lowercase().replace('-', "_");
        let same = table.and_then(|t| t.keys().filter(|key| fold(key) == fold(part)).min());
        let key = same.cloned().unwrap_or_else(|| part.to_lowercase());
        known = table.and_then(|table| table.get(&key));
        keys.push(key);
    }
    keys
}

fn put(table: &mut Map<String, Value>, mut path: Vec<String>, value: Value) {
    if let ([map, _], ValueKind::String(_)) = (path.as_slice(), &value.kind)
        && let Some(key) = short(map)
    {
        path.push(key.to_owned());
    }
    insert(table, &path, value);
}

/// Tables are merged, also those of one source.
fn insert(table: &mut Map<String, Value>, path: &[String], value: Value) {
    let Some((key, rest)) = path.split_first() else { return };
    let origin = value.origin().map(str::to_owned);
    if rest.is_empty() && !matches!(value.kind, ValueKind::Table(_)) {
        table.insert(key.clone(), value);
        return;
    }
    let entry = table
        .entry(key.clone())
        .or_insert_with(|| Value::new(origin.as_ref(), ValueKind::Table(Map::new())));
    if !matches!(entry.kind, ValueKind::Table(_)) {
        *entry = Value::new(origin.as_ref(), ValueKind::Table(Map::new()));
    }
    let ValueKind::Table(inner) = &mut entry.kind else { return };
    match value.kind {
        ValueKind::Table(more) if rest.is_empty() => {
            for (key, value) in more {
                insert(inner, &[key], value);
            }
        }
        _ => insert(inner, rest, value),
    }
}
