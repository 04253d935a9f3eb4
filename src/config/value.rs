//! Between the library's values and JSON's.

use std::collections::BTreeSet;

use ::config_rs::{Map, Value, ValueKind};
use serde_json::Value as Json;

/// A JSON value with one origin for all of it.
pub(super) fn from_json(json: &Json, origin: &str) -> Value {
    let kind = match json {
        Json::Array(list) => {
            ValueKind::Array(list.iter().map(|one| from_json(one, origin)).collect())
        }
        Json::Object(map) => ValueKind::Table(
            map.iter().map(|(key, value)| (key.clone(), from_json(value, origin))).collect(),
        ),
        leaf => kind_of(leaf),
    };
    Value::new(Some(&origin.to_owned()), kind)
}

/// A leaf; lists and tables are null here.
pub(super) fn kind_of(leaf: &Json) -> ValueKind {
    match leaf {
        Json::Bool(flag) => ValueKind::Boolean(*flag),
        Json::String(text) => ValueKind::String(text.clone()),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => ValueKind::I64(number),
            (None, Some(number)) => ValueKind::U64(number),
            (None, None) => ValueKind::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::Null | Json::Array(_) | Json::Object(_) => ValueKind::Nil,
    }
}

/// The value without its origins. A number that is none becomes null.
pub(super) fn to_json(value: &Value) -> Json {
    match &value.kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(flag) => Json::Bool(*flag),
        ValueKind::I64(n) => Json::from(*n),
        ValueKind::U64(n) => Json::from(*n),
        ValueKind::I128(n) => i64::try_from(*n).map_or(Json::Null, Json::from),
        ValueKind::U128(n) => u64::try_from(*n).map_or(Json::Null, Json::from),
        ValueKind::Float(n) => Json::from(*n),
        ValueKind::String(text) => Json::String(text.clone()),
        ValueKind::Array(list) => Json::Array(list.iter().map(to_json).collect()),
        ValueKind::Table(table) => {
            Json::Object(table.iter().map(|(key, value)| (key.clone(), to_json(value))).collect())
        }
    }
}

pub(super) fn origin(value: &Value) -> &str {
    value.origin().unwrap_or("default")
}

/// The one key that the strongest source says, of a table that may have only one: each source had one, and they stand side by
/// side. `None` if that source said more than one itself.
pub(super) fn strongest<'v>(
    value: &Value,
    table: &'v Map<String, Value>,
) -> Option<(&'v String, &'v Value)> {
    let file = |origin: &str| origin.rsplit_once(':').map(|(file, _)| file.to_owned());
    let last = file(origin(value));
    let rank = |origin: &str| match origin {
        "argument" => 4,
        "default" => 0,
        variable if variable.starts_with("variable ") => 3,
        // A table has the origin of the last file that has it.
        of_file if file(of_file) == last => 2,
        _ => 1,
    };
    let ranked = table.iter().map(|entry| {
        let mut origins = BTreeSet::new();
        collect_origins(entry.1, &mut origins);
        (origins.into_iter().map(rank).max().unwrap_or(0), entry)
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    match ranked.as_slice() {
        [(_, entry)] => Some(*entry),
        [(first, entry), (second, _), ..] if first > second => Some(*entry),
        _ => None,
    }
}

pub(super) fn collect_origins<'v>(value: &'v Value, origins: &mut BTreeSet<&'v str>) {
    origins.insert(origin(value));
    match &value.kind {
        ValueKind::Table(table) => table.values().for_each(|one| collect_origins(one, origins)),
        ValueKind::Array(list) => list.iter().for_each(|one| collect_origins(one, origins)),
        _ => {}
    }
}

/// The keys of a table in a fixed order.
pub(super) fn sorted(table: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut all: Vec<_> = table.iter().collect();
    all.sort_by_key(|(key, _)| *key);
    all
}

/// Whether a value at this path is not to be shown.
pub(super) fn is_secret(path: &str) -> bool {
    let mut budget = false;
    for key in path.split(['.', '[', ']', '"']) {
        let tokens = key == "initial_tokens" || (budget && key == "tokens");
        if !tokens && is_secret_key(key) {
            return true;
        }
        budget |= key.starts_with("retry_budget");
    }
    false
}

/// By whole words, or how the last one ends: `dbPassword` is one, `tokenizer` is none.
fn is_secret_key(key: &str) -> bool {
    let mut words = String::new();
    let mut lower = false;
    for c in key.chars() {
        if lower && c.is_uppercase() {
            words.push(' ');
        }
        lower = c.is_lowercase() || c.is_numeric();
        if c.is_alphanumeric() { words.extend(c.to_lowercase()) } else { words.push(' ') }
    }
    let ends = ["token", "password", "passwd", "passphrase", "secret", "credential", "apikey"];
    let secret = |word: &str| {
        let word = word.strip_suffix('s').unwrap_or(word);
        word == "pwd" || ends.iter().any(|end| word.ends_with(end))
    };
    let run = words.replace(' ', "");
    words.split(' ').any(secret) || run.contains("apikey") || run.contains("privatekey")
}

/// What `explain` and errors show: `path` is the whole path, any part of which may make it a secret.
pub(super) fn shown(path: &str, value: &Json) -> String {
    if is_secret(path) { HIDDEN.to_owned() } else { redacted(value).to_string() }
}

/// Instead of a secret.
pub(super) const HIDDEN: &str = "(hidden)";

/// A text without what is before the `@` of a URL, and without a table that was not read as one.
fn redacted_text(text: &str) -> String {
    let structure = text.trim_start().starts_with(['{', '[']);
    if structure && text.split(|c: char| !c.is_alphanumeric() && c != '_').any(is_secret_key) {
        return HIDDEN.to_owned();
    }
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (_, host))) => format!("{scheme}://{HIDDEN}@{host}"),
        None => text.to_owned(),
    }
}

/// The same value with every secret below it hidden.
pub(super) fn redacted(value: &Json) -> Json {
    match value {
        Json::Object(map) => Json::Object(
            map.iter()
                .map(|(key, value)| {
                    let value =
                        if is_secret_key(key) { Json::from(HIDDEN) } else { redacted(value) };
                    (key.clone(), value)
                })
                .collect(),
        ),
        Json::Array(list) => Json::Array(list.iter().map(redacted).collect()),
        Json::String(text) => Json::String(redacted_text(text)),
        leaf => leaf.clone(),
    }
}
