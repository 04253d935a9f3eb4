//! YAML: anchors and merge keys work, and a few bytes cannot become a billion values.

use std::collections::HashMap;

use ::config_rs::{Map, Value, ValueKind};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::{Lines, MAX_DEPTH, MAX_VALUES, Out};

pub(super) fn parse(text: &str, out: &mut Out<'_>) -> Option<Value> {
    let odd =
        |c: char| c == '\0' || (c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}'));
    if let Some(at) = text.find(odd) {
        // The parser takes the first NUL for the end.
        out.syntax(Lines::of(text).line(at), "a control character");
        return None;
    }
    let mut reader = Reader { parser: Parser::new_from_str(text), out, anchors: HashMap::new() };
    match reader.document() {
        Ok(value) => value,
        Err((line, message)) => {
            reader.out.syntax(line, &message);
            None
        }
    }
}

type Fail = (usize, String);

struct Reader<'a, 'o, 'p> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    out: &'o mut Out<'p>,
    /// With the number of values and of levels.
    anchors: HashMap<usize, (Value, usize, usize)>,
}

impl<'a> Reader<'a, '_, '_> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Fail> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err((error.marker().line(), error.info().to_owned())),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Result<Option<Value>, Fail> {
        let mut value = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(value),
                Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Nothing => {}
                _ if value.is_some() => {
                    return Err((span.start.line(), "more than one document".to_owned()));
                }
                event => value = Some(self.node(event, span.start.line(), 0)?),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, line: usize, depth: usize) -> Result<Value, Fail> {
        if depth > MAX_DEPTH {
            return Err((line, format!("deeper than {MAX_DEPTH} levels")));
        }
        if self.out.values > MAX_VALUES {
            return Err((line, format!("more than {MAX_VALUES} values")));
        }
        let before = self.out.values;
        let (value, anchor) = match event {
            Event::Alias(id) => {
                let (value, weight, levels) =
                    self.anchors.get(&id).ok_or((line, "an alias without anchor".to_owned()))?;
                if depth + levels > MAX_DEPTH {
                    return Err((line, format!("deeper than {MAX_DEPTH} levels")));
                }
                self.out.values += weight;
                return Ok(value.clone());
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = tag.is_some();
                allowed(tag.as_deref(), "str", line)?;
                let kind = if style == ScalarStyle::Plain && !tagged {
                    plain(&text)
                } else {
                    ValueKind::String(text.into_owned())
                };
                let value = match kind {
                    ValueKind::Float(number) => match self.out.float(line, number) {
                        Some(value) => value,
                        None => self.out.value(line, ValueKind::Nil),
                    },
                    kind => self.out.value(line, kind),
                };
                (value, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                allowed(tag.as_deref(), "seq", line)?;
                let mut list = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    match event {
                        Event::SequenceEnd => break,
                        event => list.push(self.node(event, span.start.line(), depth + 1)?),
                    }
                }
                (self.out.value(line, list), anchor)
            }
            Event::MappingStart(anchor, tag) => {
                allowed(tag.as_deref(), "map", line)?;
                let table = self.mapping(depth)?;
                (self.out.value(line, ValueKind::Table(table)), anchor)
            }
            _ => return Err((line, "an end without a beginning".to_owned())),
        };
        if anchor != 0 {
            let weight = self.out.values - before;
            self.anchors.insert(anchor, (value.clone(), weight, levels(&value)));
        }
        Ok(value)
    }

    fn mapping(&mut self, depth: usize) -> Result<Map<String, Value>, Fail> {
        let mut table: Map<String, Value> = Map::new();
        let mut merged: Map<String, Value> = Map::new();
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            let (key, style) = match event {
                Event::MappingEnd => break,
                Event::Scalar(key, style, ..) => (key.into_owned(), style),
                _ => return Err((line, "a key that is not a text".to_owned())),
            };
            let (event, at) = self.next()?;
            // The key's line: a value may stand below it.
            let line =
                if matches!(event, Event::Alias(_)) { line } else { at.start.line().min(line) };
            let value = self.node(event, line, depth + 1)?;
            if key == "<<" && style == ScalarStyle::Plain {
                let all = match value.kind {
                    ValueKind::Array(all) => all,
                    kind => vec![Value::new(None, kind)],
                };
                for one in all {
                    match one.kind {
                        ValueKind::Table(one) => {
                            for (key, value) in one {
                                merged.entry(key).or_insert(value);
                            }
                        }
                        _ => return Err((line, "a merge key whose value is no table".to_owned())),
                    }
                }
            } else if table.insert(key.clone(), value).is_some() {
                self.out.duplicate(line, &key);
            }
        }
        for (key, value) in merged {
            table.entry(key).or_insert(value);
        }
        Ok(table)
    }
}

/// Whether a tag says no more than what the node is anyway.
fn allowed(tag: Option<&Tag>, suffix: &str, line: usize) -> Result<(), Fail> {
    let plain = |tag: &Tag| tag.handle.is_empty() && tag.suffix == "!";
    match tag {
        Some(tag) if !plain(tag) && (tag.suffix != suffix || !tag.is_yaml_core_schema()) => {
            Err((line, "a tag other than !!str, !!seq and !!map".to_owned()))
        }
        _ => Ok(()),
    }
}

fn levels(value: &Value) -> usize {
    let below = match &value.kind {
        ValueKind::Array(list) => list.iter().map(levels).max(),
        ValueKind::Table(table) => table.values().map(levels).max(),
        _ => return 0,
    };
    below.unwrap_or(0) + 1
}

/// The core schema.
fn plain(text: &str) -> ValueKind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return ValueKind::Nil,
        "true" | "True" | "TRUE" => return ValueKind::Boolean(true),
        "false" | "False" | "FALSE" => return ValueKind::Boolean(false),
        ".nan" | ".NaN" | ".NAN" => return ValueKind::Float(f64::NAN),
        _ => {}
    }
    let (minus, unsigned) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return ValueKind::Float(if minus { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    let radix = [("0x", 16), ("0o", 8)];
    for (prefix, radix) in radix {
        if let Some(digits) = text.strip_prefix(prefix)
            && digits.bytes().all(|b| b.is_ascii_hexdigit())
            && let Ok(number) = i64::from_str_radix(digits, radix)
        {
            return ValueKind::I64(number);
        }
    }
    let digits = unsigned.bytes().all(|b| b.is_ascii_digit()) && !unsigned.is_empty();
    if digits && let Ok(number) = text.parse::<i64>() {
        return ValueKind::I64(number);
    }
    let numeric = unsigned.bytes().any(|b| b.is_ascii_digit())
        && unsigned.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
        && unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    match text.parse::<f64>() {
        Ok(number) if numeric => ValueKind::Float(number),
        _ => ValueKind::String(text.to_owned()),
    }
}
