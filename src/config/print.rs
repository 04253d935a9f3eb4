//! Settings as a file again, and the schema of such files for editors.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::fields::ROOT;
use super::parse::Format;
use super::schema::{Field, Kind};
use super::settings::Config;

impl Config {
    /// The settings as a file that says the same. **With its secrets:** what `explain` hides is written out here. Sections of
    /// yours are not in it.
    ///
    /// ```
    /// use buttress::config::{Format, Loader};
    /// let config = Loader::empty().set("breakers.db.open_for", "1m 30s").load()?;
    /// let text = config.print(Format::Yaml);
    /// assert_eq!(text, "\"breakers\":\n  \"db\":\n    \"open_for\": 90.0\n");
    /// assert!(Loader::empty().text("a.yml", Format::Yaml, text).load()? == config);
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn print(&self, format: Format) -> String {
        match format {
            Format::Json => format!("{:#}\n", self.tree),
            Format::Toml => toml::to_string(&self.tree).unwrap_or_default(),
            Format::Yaml => {
                let mut out = String::new();
                match &self.tree {
                    Json::Object(map) if !map.is_empty() => yaml(map, 0, &mut out),
                    other => _ = writeln!(out, "{other}"),
                }
                out
            }
        }
    }
}

/// Tables as blocks; lists and leaves as JSON, which YAML is a superset of.
fn yaml(map: &Map<String, Json>, depth: usize, out: &mut String) {
    for (key, value) in map {
        for _ in 0..depth {
            out.push_str("  ");
        }
        let key = quoted(key);
        match value {
            Json::Object(map) if !map.is_empty() => {
                _ = writeln!(out, "{key}:");
                yaml(map, depth + 1, out);
            }
            value => {
                _ = write!(out, "{key}: ");
                flow(value, out);
                out.push('\n');
            }
        }
    }
}

fn flow(value: &Json, out: &mut String) {
    match value {
        Json::String(text) => out.push_str(&quoted(text)),
        Json::Array(list) => {
            out.push('[');
            for (n, one) in list.iter().enumerate() {
                out.push_str(if n == 0 { "" } else { ", " });
                flow(one, out);
            }
            out.push(']');
        }
        Json::Object(map) => {
            out.push('{');
            for (n, (key, one)) in map.iter().enumerate() {
                out.push_str(if n == 0 { "" } else { ", " });
                _ = write!(out, "{}: ", quoted(key));
                flow(one, out);
            }
            out.push('}');
        }
        other => _ = write!(out, "{other}"),
    }
}

/// In double quotes, with everything escaped that YAML does not print.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c => _ = write!(out, "\\U{:08x}", u32::from(c)),
        }
    }
    out.push('"');
    out
}

/// A JSON Schema of settings files, for editors.
///
/// ```
/// let schema = buttress::config::schema();
/// assert!(schema.contains("\"consecutive_failures\""));
/// ```
#[must_use]
pub fn schema() -> String {
    let mut defs = Map::new();
    let mut schema = table(ROOT, &mut defs);
    if let Json::Object(root) = &mut schema {
        root.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        root.insert("title".to_owned(), json!("buttress"));
        root.insert("$defs".to_owned(), Json::Object(defs));
    }
    format!("{schema:#}\n")
}

fn table(fields: &[Field], defs: &mut Map<String, Json>) -> Json {
    let mut properties = Map::new();
    for field in fields {
        let doc = match field.default {
            "" => field.doc.to_owned(),
            default => format!("{} Default: {default}.", field.doc),
        };
        // Beside `$ref` a description is allowed since draft 2019-09.
        let mut schema = of(&field.kind, defs);
        if let Json::Object(schema) = &mut schema {
            schema.insert("description".to_owned(), Json::from(doc));
        }
        properties.insert(field.key.to_owned(), schema);
    }
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn of(kind: &Kind, defs: &mut Map<String, Json>) -> Json {
    let time = r"^\s*[0-9.]+\s*([a-zµ]+\s*([0-9.]+\s*[a-zµ]+\s*)*)?$";
    match kind {
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Count { min, max: u64::MAX } => json!({"type": "integer", "minimum": min}),
        Kind::Count { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Legacy { min, max, whole: true } => {
            json!({"type": "integer", "minimum": min, "maximum": max})
        }
        Kind::Number { min, max, percent: false } => {
            json!({"type": "number", "minimum": min, "maximum": max})
        }
        Kind::Number { min, max, .. } => json!({"anyOf": [
            {"type": "number", "minimum": min, "maximum": max},
            {"type": "string", "pattern": r"^\s*[0-9.eE+-]+\s*%?\s*$"},
        ]}),
        Kind::Seconds { min, max } | Kind::Legacy { min, max, .. } => json!({"anyOf": [
            {"type": "number", "minimum": min, "maximum": max},
            {"type": "string", "pattern": time},
        ]}),
        Kind::Rate => json!({"type": "string", "examples": ["100/s burst 20", "5/10s"]}),
        Kind::Text => json!({"type": "string"}),
        Kind::Choice(words) => json!({"enum": words}),
        Kind::Off(word, kind) => json!({"anyOf": [of(kind, defs), {"const": word}]}),
        Kind::Table(fields) => table(fields, defs),
        Kind::Short(key, fields) => {
            let short = fields.iter().find(|field| field.key == *key);
            let short = short.map_or(Json::Bool(false), |field| of(&field.kind, defs));
            json!({"anyOf": [table(fields, defs), short]})
        }
        Kind::Map(kind) => {
            let entry = of(kind, defs);
            json!({"type": "object", "additionalProperties": {"anyOf": [entry, {"type": "null"}]}})
        }
        Kind::Named(_, kind) => json!({"anyOf": [{"type": "string"}, of(kind, defs)]}),
        Kind::List(kind) => json!({"type": "array", "items": of(kind, defs)}),
        Kind::Variant(fields) => {
            let mut all = Vec::new();
            for field in *fields {
                all.push(match field.kind {
                    Kind::Unit => json!({"const": field.key, "description": field.doc}),
                    _ => {
                        let inner = of(&field.kind, defs);
                        let properties = Map::from_iter([(field.key.to_owned(), inner)]);
                        json!({
                            "type": "object", "additionalProperties": false,
                            "required": [field.key], "properties": properties,
                            "description": field.doc,
                        })
                    }
                });
            }
            json!({"anyOf": all})
        }
        Kind::Unit => json!({"type": "null"}),
        Kind::Ignored => json!({}),
        Kind::Def(name, kind) => {
            if !defs.contains_key(*name) {
                // First a place, for kinds that contain themselves.
                defs.insert((*name).to_owned(), Json::Null);
                let schema = of(kind, defs);
                defs.insert((*name).to_owned(), schema);
            }
            json!({"$ref": format!("#/$defs/{name}")})
        }
    }
}
