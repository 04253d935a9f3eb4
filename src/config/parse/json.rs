//! JSON: `serde_json` says whether it is any, and reads the leaves; the lines are counted here.

use ::config_rs::{Map, Value, ValueKind};
use serde_json::Value as Json;

use super::{MAX_DEPTH, MAX_VALUES, Out};

pub(super) fn parse(text: &str, out: &mut Out<'_>) -> Option<Value> {
    if text.trim().is_empty() {
        return None;
    }
    // Also the guard for the walk below: what it walks over is valid, and no deeper than 128 levels.
    if let Err(error) = serde_json::from_str::<Json>(text) {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        out.syntax(error.line().max(1), message);
        return None;
    }
    let mut walk = Walk { text, at: 0, line: 1, out };
    Some(walk.value(0, None))
}

struct Walk<'a, 'o, 'p> {
    text: &'a str,
    at: usize,
    line: usize,
    out: &'o mut Out<'p>,
}

impl Walk<'_, '_, '_> {
    fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'\n' => self.line += 1,
                b' ' | b'\t' | b'\r' => {}
                _ => return *byte,
            }
            self.at += 1;
        }
        0
    }

    fn leaf(&mut self) -> Json {
        let bytes = self.text.as_bytes();
        let start = self.at;
        if bytes.get(start) == Some(&b'"') {
            self.at += 1;
            while let Some(byte) = bytes.get(self.at) {
                self.at += if *byte == b'\\' { 2 } else { 1 };
                if *byte == b'"' {
                    break;
                }
            }
        } else {
            while bytes.get(self.at).is_some_and(|b| !b" \t\r\n,]}:".contains(b)) {
                self.at += 1;
            }
        }
        let slice = self.text.get(start..self.at).unwrap_or_default();
        serde_json::from_str(slice).unwrap_or(Json::Null)
    }

    /// The nearest number to what is written; `serde_json`'s may be the one beside it.
    fn scalar(&mut self) -> ValueKind {
        let start = self.at;
        let leaf = self.leaf();
        let slice = self.text.get(start..self.at).unwrap_or_default();
        match leaf {
            Json::Number(n) if n.is_f64() => ValueKind::Float(slice.parse().unwrap_or(f64::NAN)),
            leaf => super::super::value::kind_of(&leaf),
        }
    }

    /// The line of a value is its key's, if it has one: a value may stand below it.
    fn value(&mut self, depth: usize, key: Option<usize>) -> Value {
        let open = self.peek();
        let line = key.unwrap_or(self.line);
        if depth > MAX_DEPTH && (open == b'{' || open == b'[') {
            self.out.syntax(line, &format!("deeper than {MAX_DEPTH} levels"));
            self.at = self.text.len();
            return self.out.value(line, ValueKind::Nil);
        }
        if self.out.values > MAX_VALUES {
            self.at = self.text.len();
            return Value::new(None, ValueKind::Nil);
        }
        match open {
            b'{' => {
                let mut table: Map<String, Value> = Map::new();
                self.at += 1;
                while !matches!(self.peek(), b'}' | 0) {
                    let line = self.line;
                    let key = self.leaf();
                    let key = key.as_str().unwrap_or_default().to_owned();
                    self.peek();
                    self.at += 1;
                    let value = self.value(depth + 1, Some(line));
                    if table.insert(key.clone(), value).is_some() {
                        self.out.duplicate(line, &key);
                    }
                    if self.peek() == b',' {
                        self.at += 1;
                    }
                }
                self.at += 1;
                self.out.value(line, ValueKind::Table(table))
            }
            b'[' => {
                let mut list = Vec::new();
                self.at += 1;
                while !matches!(self.peek(), b']' | 0) {
                    list.push(self.value(depth + 1, None));
                    if self.peek() == b',' {
                        self.at += 1;
                    }
                }
                self.at += 1;
                self.out.value(line, list)
            }
            _ => {
                let kind = self.scalar();
                self.out.value(line, kind)
            }
        }
    }
}
