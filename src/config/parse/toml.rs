//! TOML, whose parser knows where each value stands.

use ::config_rs::{Map, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Lines, MAX_DEPTH, MAX_VALUES, Out};

pub(super) fn parse(text: &str, out: &mut Out<'_>) -> Option<Value> {
    let lines = Lines::of(text);
    match DeTable::parse(text) {
        Ok(table) => Some(read(&DeValue::Table(table.into_inner()), 1, 0, &lines, out)),
        Err(error) => {
            let line = error.span().map_or(1, |span| lines.line(span.start));
            out.syntax(line, error.message());
            None
        }
    }
}

fn read(value: &DeValue<'_>, line: usize, depth: usize, lines: &Lines, out: &mut Out<'_>) -> Value {
    let at = |spanned: &Spanned<DeValue<'_>>| lines.line(spanned.span().start);
    if out.values > MAX_VALUES {
        return Value::new(None, ValueKind::Nil);
    }
    if depth > MAX_DEPTH {
        out.syntax(line, &format!("deeper than {MAX_DEPTH} levels"));
        return out.value(line, ValueKind::Nil);
    }
    let kind = match value {
        DeValue::String(text) => ValueKind::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => ValueKind::I64(number),
            Err(_) => {
                out.syntax(line, "a whole number beyond 64 bits");
                ValueKind::Nil
            }
        },
        DeValue::Float(number) => {
            let number = number.as_str().parse().unwrap_or(f64::NAN);
            return match out.float(line, number) {
                Some(value) => value,
                None => out.value(line, ValueKind::Nil),
            };
        }
        DeValue::Boolean(flag) => ValueKind::Boolean(*flag),
        DeValue::Datetime(time) => ValueKind::String(time.to_string()),
        DeValue::Array(list) => ValueKind::Array(
            list.iter().map(|one| read(one.get_ref(), at(one), depth + 1, lines, out)).collect(),
        ),
        DeValue::Table(table) => {
            let mut map = Map::new();
            for (key, value) in table.iter() {
                let line = lines.line(key.span().start);
                let value = read(value.get_ref(), line, depth + 1, lines, out);
                map.insert(key.get_ref().to_string(), value);
            }
            ValueKind::Table(map)
        }
    };
    out.value(line, kind)
}
