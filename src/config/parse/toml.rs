//! TOML, whose parser knows where each value stands.

use ::config_rs::{Map, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Out, line_of};

pub(super) fn parse(text: &str, out: &mut Out<'_>) -> Option<Value> {
    match DeTable::parse(text) {
        Ok(table) => Some(read(&DeValue::Table(table.into_inner()), 1, text, out)),
        Err(error) => {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            out.syntax(line, error.message());
            None
        }
    }
}

fn read(value: &DeValue<'_>, line: usize, text: &str, out: &mut Out<'_>) -> Value {
    let at = |spanned: &Spanned<DeValue<'_>>| line_of(text, spanned.span().start);
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
            list.iter().map(|one| read(one.get_ref(), at(one), text, out)).collect(),
        ),
        DeValue::Table(table) => {
            let mut map = Map::new();
            for (key, value) in table.iter() {
                let line = line_of(text, key.span().start);
                map.insert(key.get_ref().to_string(), read(value.get_ref(), line, text, out));
            }
            ValueKind::Table(map)
        }
    };
    out.value(line, kind)
}
