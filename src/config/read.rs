//! A value read as what the table says it is, with every problem on the way.

use ::config_rs::{Value, ValueKind};
use serde_json::{Map, Value as Json};

pub(super) use super::keys::join;
use super::problem::{Problem, ProblemKind};
use super::schema::{Field, Kind, nearest};
use super::value::{is_secret, origin, shown, sorted, strongest, to_json};
use crate::quota::Quota;
use crate::units;

/// Whether the top-level map of the first name has an entry of the second.
type Known<'a> = &'a dyn Fn(&str, &str) -> bool;

/// One reading of a tree.
pub(super) struct Reader<'a> {
    pub(super) clamp: bool,
    pub(super) problems: &'a mut Vec<Problem>,
    /// The names of each top-level map; `None` while single sources are read.
    pub(super) names: Option<Known<'a>>,
    /// Path, value and origin of every leaf.
    pub(super) leaf: &'a mut dyn FnMut(&str, &Json, &str),
}

impl Reader<'_> {
    fn bad(&mut self, kind: ProblemKind, path: &str, value: &Value, expected: String) {
        if self.lax(path) {
            return;
        }
        let shown = match value.kind {
            // JSON has no such number.
            ValueKind::Float(n) if !n.is_finite() && !is_secret(path) => n.to_string(),
            _ => shown(path, &to_json(value)),
        };
        self.problems.push(Problem::new(kind, path, shown, origin(value), expected));
    }

    /// In the block of the other tool, and read as that reads it: nothing there is a problem.
    fn lax(&self, path: &str) -> bool {
        self.clamp && (path == "resilience" || path.starts_with("resilience."))
    }

    fn leaf(&mut self, path: &str, json: Json, value: &Value) -> Option<Json> {
        (self.leaf)(path, &json, origin(value));
        Some(json)
    }

    pub(super) fn read(&mut self, kind: &Kind, value: &Value, path: &str) -> Option<Json> {
        if matches!(value.kind, ValueKind::Nil) {
            return None;
        }
        let wrong = ProblemKind::WrongType;
        match kind {
            Kind::Def(_, kind) => return self.read(kind, value, path),
            Kind::Ignored | Kind::Unit => return None,
            // The other tool never looks at this one.
            _ if path == "resilience.shutdown.default_timeout" && self.clamp => return None,
            Kind::Legacy { min, max, whole } if self.clamp => {
                let number = clamped(value, *whole)?.clamp(*min, *max);
                return self.leaf(path, Json::from(number), value);
            }
            Kind::Off(word, _) if text(value) == Some(*word) => {
                return self.leaf(path, Json::from(*word), value);
            }
            Kind::Off(word, kind) => {
                let before = self.problems.len();
                let json = self.read(kind, value, path);
                for problem in self.problems.iter_mut().skip(before) {
                    if problem.key == path && problem.kind == wrong {
                        problem.expected.push_str(&format!(", or {word:?}"));
                    }
                }
                return json;
            }
            Kind::Table(fields) => {
                if matches!(value.kind, ValueKind::Table(_)) {
                    return self.table(fields, value, path);
                }
            }
            Kind::Short(key, fields) => match &value.kind {
                ValueKind::Table(_) => return self.table(fields, value, path),
                // Where it cannot be a number, what is expected is said as a whole.
                ValueKind::Nil | ValueKind::Boolean(_) | ValueKind::Array(_) => {}
                short => {
                    let field = fields.iter().find(|field| field.key == *key)?;
                    let text_only = matches!(field.kind, Kind::Text | Kind::Rate);
                    if text_only && !matches!(short, ValueKind::String(_)) {
                        self.bad(wrong, path, value, kind.expected());
                        return None;
                    }
                    let json = self.read(&field.kind, value, &format!("{path}.{key}"))?;
                    return Some(Json::Object(Map::from_iter([((*key).to_owned(), json)])));
                }
            },
            Kind::Map(of) => {
                if let ValueKind::Table(table) = &value.kind {
                    let mut map = Map::new();
                    for (key, value) in sorted(table) {
                        if let Some(json) = self.read(of, value, &join(path, key)) {
                            map.insert(key.clone(), json);
                        } else if matches!(value.kind, ValueKind::Nil) {
                            // A name alone: an entry with nothing but defaults.
                            map.insert(key.clone(), Json::Object(Map::new()));
                        }
                    }
                    return Some(Json::Object(map));
                }
            }
            Kind::Named(map, of) => {
                let Some(name) = text(value) else { return self.read(of, value, path) };
                let Some(known) = self.names else { return Some(Json::from(name)) };
                if known(map, name) {
                    return self.leaf(path, Json::from(name), value);
                }
                if matches!(of.plain(), Kind::Short(..)) {
                    let before = self.problems.len();
                    let json = self.read(of, value, path);
                    if json.is_some() && self.problems.len() == before {
                        return json;
                    }
                    self.problems.truncate(before);
                }
                self.bad(ProblemKind::Missing, path, value, kind.expected());
                return None;
            }
            Kind::List(of) => {
                if let ValueKind::Array(list) = &value.kind {
                    let all = list.iter().enumerate();
                    let read = all.filter_map(|(n, one)| {
                        let path = format!("{path}[{n}]");
                        if matches!(one.kind, ValueKind::Nil) {
                            self.bad(wrong, &path, one, of.expected());
                        }
                        self.read(of, one, &path)
                    });
                    let list = read.collect::<Vec<_>>();
                    if list.is_empty() {
                        return self.leaf(path, Json::Array(list), value);
                    }
                    return Some(Json::Array(list));
                }
            }
            Kind::Variant(of) => return self.variant(kind, of, value, path),
            scalar => match scalar_of(scalar, value) {
                Ok(json) => return self.leaf(path, json, value),
                Err(Some((expected, kind))) => {
                    self.bad(kind, path, value, expected);
                    return None;
                }
                Err(None) => {}
            },
        }
        self.bad(wrong, path, value, kind.expected());
        None
    }

    pub(super) fn table(&mut self, fields: &[Field], value: &Value, path: &str) -> Option<Json> {
        let ValueKind::Table(table) = &value.kind else { return None };
        let mut map = Map::new();
        for field in fields {
            if let Some(value) = table.get(field.key)
                && let Some(json) = self.read(&field.kind, value, &join(path, field.key))
            {
                map.insert(field.key.to_owned(), json);
            }
        }
        if !self.lax(path) {
            for (key, value) in sorted(table) {
                if !fields.iter().any(|field| field.key == key) {
                    self.unknown(
                        &join(path, key),
                        key,
                        value,
                        fields.iter().map(|field| field.key),
                    );
                }
            }
        }
        Some(Json::Object(map))
    }

    pub(super) fn unknown<'k>(
        &mut self,
        path: &str,
        key: &str,
        value: &Value,
        known: impl Iterator<Item = &'k str> + Clone,
    ) {
        let expected = match nearest(key, known.clone()) {
            Some(near) => format!("{near:?}"),
            None => format!("one of {}", known.collect::<Vec<_>>().join(", ")),
        };
        let kind = ProblemKind::UnknownKey;
        self.problems.push(Problem::new(kind, path, "unknown key", origin(value), expected));
    }

    fn variant(&mut self, kind: &Kind, of: &[Field], value: &Value, path: &str) -> Option<Json> {
        let find = |key: &str| of.iter().find(|field| field.key == key);
        match &value.kind {
            ValueKind::String(word)
                if find(word).is_some_and(|field| matches!(field.kind, Kind::Unit)) =>
            {
                return self.leaf(path, Json::from(word.as_str()), value);
            }
            ValueKind::String(word) if find(word).is_none() => {
                let known = of.iter().filter(|field| matches!(field.kind, Kind::Unit));
                if let Some(near) = nearest(word, known.map(|field| field.key)) {
                    self.bad(ProblemKind::WrongType, path, value, format!("{near:?}"));
                    return None;
                }
            }
            ValueKind::Table(table) => {
                if let Some((key, inner)) = strongest(value, table) {
                    if find(key).is_none() {
                        let known = of.iter().map(|field| field.key);
                        self.unknown(&join(path, key), key, inner, known);
                        return None;
                    }
                    if let Some(field) = find(key).filter(|it| !matches!(it.kind, Kind::Unit)) {
                        let json = self.read(&field.kind, inner, &join(path, key))?;
                        return Some(Json::Object(Map::from_iter([(key.clone(), json)])));
                    }
                }
            }
            _ => {}
        }
        self.bad(ProblemKind::WrongType, path, value, kind.expected());
        None
    }
}

/// A word for true or false, as a text.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "as far as a number of seconds or a share goes")]
fn number(value: &Value) -> Option<f64> {
    match value.kind {
        ValueKind::I64(n) => Some(n as f64),
        ValueKind::U64(n) => Some(n as f64),
        ValueKind::Float(n) => Some(n),
        _ => None,
    }
}

/// Whether numbers may come as text: variables and arguments have nothing else.
fn lenient(value: &Value) -> bool {
    let origin = origin(value);
    origin.starts_with("variable ") || origin == "argument"
}

/// What is wrong, if it is not simply the type.
type Wrong = Option<(String, ProblemKind)>;

fn scalar_of(kind: &Kind, value: &Value) -> Result<Json, Wrong> {
    let typed = text(value).filter(|_| lenient(value)).map(str::trim);
    let within = |number: f64, min: f64, max: f64, expected: String| {
        if number >= min && number <= max {
            Ok(Json::from(number))
        } else {
            Err(Some((expected, ProblemKind::OutOfRange)))
        }
    };
    match kind {
        Kind::Flag => match &value.kind {
            ValueKind::Boolean(flag) => Ok(Json::from(*flag)),
            _ => typed.and_then(flag).map(Json::from).ok_or(None),
        },
        Kind::Count { min, max } => {
            let count = match value.kind {
                ValueKind::I64(n) => i128::from(n),
                ValueKind::U64(n) => i128::from(n),
                _ => typed.and_then(|text| text.parse::<i64>().ok()).map(i128::from).ok_or(None)?,
            };
            match u64::try_from(count) {
                Ok(count) if (*min..=*max).contains(&count) => Ok(Json::from(count)),
                _ => Err(Some((kind.expected(), ProblemKind::OutOfRange))),
            }
        }
        Kind::Number { min, max, percent } => {
            let read = if *percent { units::ratio } else { units::number };
            let words = text(value).filter(|_| *percent).or(typed);
            let number = number(value).or_else(|| words.and_then(read)).ok_or(None)?;
            within(number, *min, *max, kind.expected())
        }
        Kind::Legacy { min, max, whole: true } => {
            let number = number(value).or_else(|| typed.and_then(units::number)).ok_or(None)?;
            if number.fract().abs() > 0.0 {
                return Err(None);
            }
            within(number, *min, *max, kind.expected())
        }
        Kind::Seconds { min, max } | Kind::Legacy { min, max, .. } => {
            let number =
                number(value).or_else(|| text(value).and_then(units::seconds)).ok_or(None)?;
            let (from, to) = (units::print(*min), units::print(*max));
            within(number, *min, *max, format!("a time from {from} to {to}"))
        }
        Kind::Rate => {
            let quota: Quota = text(value).and_then(|text| text.parse().ok()).ok_or(None)?;
            Ok(Json::from(quota.to_string()))
        }
        Kind::Text => match &value.kind {
            ValueKind::String(text) => Ok(Json::from(text.as_str())),
            ValueKind::I64(n) if lenient(value) => Ok(Json::from(n.to_string())),
            _ => Err(None),
        },
        Kind::Choice(words) => match text(value) {
            Some(word) if words.contains(&word) => Ok(Json::from(word)),
            _ => Err(None),
        },
        _ => Err(None),
    }
}

/// A number as the seed reads it: text and booleans are numbers, whole ones are cut off, what cannot be
/// read is absent, and "not a number" is below everything.
fn clamped(value: &Value, whole: bool) -> Option<f64> {
    let number = match &value.kind {
        ValueKind::Boolean(flag) => f64::from(u8::from(*flag)),
        ValueKind::String(text) => units::number(text.trim())?,
        _ => number(value)?,
    };
    if number.is_nan() {
        return Some(f64::NEG_INFINITY);
    }
    Some(if whole { number.trunc() } else { number })
}
