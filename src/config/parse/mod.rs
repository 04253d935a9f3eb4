//! Text to values that know their line.

mod json;
mod toml;
mod yaml;

use ::config_rs::{Map, Value, ValueKind};

use super::problem::{Problem, ProblemKind};

/// The format of a file.
///
/// ```
/// use buttress::config::Format;
/// assert_eq!(Format::of("buttress.yml".as_ref()), Some(Format::Yaml));
/// assert_eq!(Format::of("buttress.ini".as_ref()), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// YAML 1.2.
    Yaml,
    /// TOML.
    Toml,
    /// JSON.
    Json,
}

impl Format {
    /// By the ending of the name: `yml`, `yaml`, `toml`, `json`.
    ///
    /// ```
    /// use buttress::config::Format;
    /// assert_eq!(Format::of("/etc/buttress.toml".as_ref()), Some(Format::Toml));
    /// ```
    #[must_use]
    pub fn of(path: &std::path::Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "yml" | "yaml" => Some(Self::Yaml),
            "toml" => Some(Self::Toml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Yaml => "YAML",
            Self::Toml => "TOML",
            Self::Json => "JSON",
        }
    }
}

/// As deep as a file may be, and as many values as it may have with all aliases written out.
const MAX_DEPTH: usize = 64;
const MAX_VALUES: usize = 100_000;

/// A file's table. What could be read is returned also when there are problems.
pub(super) fn parse(
    name: &str,
    format: Format,
    text: &str,
    problems: &mut Vec<Problem>,
) -> Map<String, Value> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = Out { name, format, problems, values: 0 };
    let value = match format {
        Format::Yaml => yaml::parse(text, &mut out),
        Format::Toml => toml::parse(text, &mut out),
        Format::Json => json::parse(text, &mut out),
    };
    if out.values > MAX_VALUES {
        // Half a file would only give more problems.
        return Map::new();
    }
    match value.map(|value| value.kind) {
        Some(ValueKind::Table(table)) => table,
        None | Some(ValueKind::Nil) => Map::new(),
        Some(_) => {
            out.syntax(1, "the file is a single value or a list, not a table of keys");
            Map::new()
        }
    }
}

/// Names the origin of values and collects problems.
struct Out<'a> {
    name: &'a str,
    format: Format,
    problems: &'a mut Vec<Problem>,
    values: usize,
}

impl Out<'_> {
    fn origin(&self, line: usize) -> String {
        format!("{}:{line}", self.name)
    }

    fn value(&mut self, line: usize, kind: impl Into<ValueKind>) -> Value {
        self.values += 1;
        if self.values == MAX_VALUES + 1 && self.format != Format::Yaml {
            self.syntax(line, &format!("more than {MAX_VALUES} values"));
        }
        Value::new(Some(&self.origin(line)), kind)
    }

    fn syntax(&mut self, line: usize, message: &str) {
        let message = message.trim().replace('\n', " ");
        self.problems.push(Problem::new(
            ProblemKind::Syntax,
            "",
            format!("not {} that can be used: {message}", self.format.name()),
            self.origin(line),
            "",
        ));
    }

    fn duplicate(&mut self, line: usize, key: &str) {
        let message = format!("the key {key:?} is there twice");
        self.syntax(line, &message);
    }

    /// A number that is none is a mistake wherever it stands.
    fn float(&mut self, line: usize, number: f64) -> Option<Value> {
        if number.is_finite() {
            return Some(self.value(line, number));
        }
        self.syntax(line, "a number that is not finite");
        None
    }
}

/// Where the lines of a text end.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect())
    }

    /// The line, from 1, of a byte.
    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|end| *end < at) + 1
    }
}
