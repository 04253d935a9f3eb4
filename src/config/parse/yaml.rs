//! YAML: anchors and merge keys work, and a few bytes cannot become a billion values.

use std::collections::HashMap;

use ::config_rs::{Map, Value, ValueKind};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::{MAX_DEPTH, MAX_VALUES, Out};

pub(super) fn parse(text: &str, out: &mut Out<'_>) -> Option<Value> {
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
    anchors: HashMap<usize, (Value, usize)>,
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
                let (value, weight) =
                    self.anchors.get(&id).ok_or((line, "an alias without anchor".to_owned()))?;
                self.out.values += weight;
                return Ok(value.clone());
            }
            Event::Scalar(text, style, anchor, tag) => {
                if tag.is_some_and(|tag| tag.suffix != "str" || !tag.is_yaml_core_schema()) {
                    return Err((line, "a tag other than !!str".to_owned()));
                }
                let kind = if style == ScalarStyle::Plain {
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
            Event::SequenceStart(anchor, _) => {
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
            Event::MappingStart(anchor, _) => {
                let table = self.mapping(depth)?;
                (self.out.value(line, ValueKind::Table(table)), anchor)
            }
            _ => return Err((line, "an end without a beginning".to_owned())),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), self.out.values - before));
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
