//! The settings that hold, and where each came from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ::config_rs::{Map, Value, ValueKind};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::fields::ROOT;
use super::problem::{LoadError, Problem, ProblemKind};
use super::read::Reader;
use super::schema::{Field, Kind};
use super::value::shown;
use super::{contradictions, effective};

#[derive(Clone, PartialEq)]
pub(super) struct Setting {
    pub(super) value: Json,
    pub(super) origin: String,
}

/// Settings that were checked: every object they describe can be built.
///
/// Two are equal if the same keys have the same values, wherever those came from.
///
/// ```
/// use buttress::config::{Format, Loader};
/// let text = "breakers:\n  payments:\n    failure_rate: 50%\n    open_for: 30s\n";
/// let config = Loader::empty().text("buttress.yml", Format::Yaml, text).load()?;
/// let breaker = config.circuit_breaker("payments")?;
/// assert_eq!(breaker.name(), "payments");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Config {
    pub(super) tree: Json,
    pub(super) settings: BTreeMap<String, Setting>,
    pub(super) raw: Value,
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.tree == other.tree
    }
}

/// Keys with value and origin; secrets are hidden.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.settings.iter();
        let lines = lines.map(|(key, s)| (key, format!("{} ({})", shown(key, &s.value), s.origin)));
        f.debug_map().entries(lines).finish()
    }
}

/// A key whose value differs between two [`Config`]s; values are as `explain` shows them.
///
/// ```
/// use buttress::config::Loader;
/// let key = "breakers.db.open_for";
/// let (old, new) = (Loader::empty().set(key, 1).load()?, Loader::empty().set(key, 2).load()?);
/// let change = &new.changes_since(&old)[0];
/// assert_eq!((change.key(), change.old(), change.new()), (key, Some("1.0"), Some("2.0")));
/// # Ok::<(), buttress::config::LoadError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    key: String,
    old: Option<String>,
    new: Option<String>,
}

impl Change {
    /// The path of the key.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let new = Loader::empty().set("breakers.db.seed", 1).load()?;
    /// assert_eq!(new.changes_since(&Loader::empty().load()?)[0].key(), "breakers.db.seed");
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value before; `None` if the default held.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let new = Loader::empty().set("breakers.db.seed", 1).load()?;
    /// assert_eq!(new.changes_since(&Loader::empty().load()?)[0].old(), None);
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn old(&self) -> Option<&str> {
        self.old.as_deref()
    }

    /// The value now; `None` if the default holds.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let new = Loader::empty().set("breakers.db.seed", 1).load()?;
    /// assert_eq!(new.changes_since(&Loader::empty().load()?)[0].new(), Some("1"));
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    #[expect(clippy::new_ret_no_self, clippy::wrong_self_convention, reason = "old and new")]
    pub fn new(&self) -> Option<&str> {
        self.new.as_deref()
    }
}

impl Config {
    pub(super) fn build(
        sources: &[Map<String, Value>],
        raw: Value,
        known: Option<&[&str]>,
        clamp: bool,
        mut problems: Vec<Problem>,
    ) -> Result<Self, LoadError> {
        for source in sources {
            let root = Value::new(None, ValueKind::Table(source.clone()));
            let mut leaf = |_: &str, _: &Json, _: &str| {};
            let mut reader =
                Reader { clamp, problems: &mut problems, names: None, leaf: &mut leaf };
            reader.root(&root, known);
        }
        let names = |map: &str, name: &str| match &raw.kind {
            ValueKind::Table(root) => match root.get(map).map(|value| &value.kind) {
                Some(ValueKind::Table(entries)) => entries.contains_key(name),
                _ => false,
            },
            _ => false,
        };
        let mut settings = BTreeMap::new();
        let mut leaf = |path: &str, value: &Json, origin: &str| {
            let setting = Setting { value: value.clone(), origin: origin.to_owned() };
            settings.insert(path.to_owned(), setting);
        };
        let mut merged = Vec::new();
        let mut reader =
            Reader { clamp, problems: &mut merged, names: Some(&names), leaf: &mut leaf };
        let mut tree = reader.root(&raw, None);
        if clamp {
            // The other tool does not know this name.
            if let Some(shutdown) = tree.pointer_mut("/resilience/shutdown") {
                shutdown.as_object_mut().and_then(|keys| keys.remove("default_timeout"));
            }
            settings.remove("resilience.shutdown.default_timeout");
        }
        // What single sources do not show: names that are nowhere.
        problems.extend(merged.into_iter().filter(|p| p.kind == ProblemKind::Missing));
        let config = Self { tree, settings, raw };
        contradictions::check(&config, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(LoadError::new(problems)) }
    }

    /// The names in a top-level map: `breakers`, `rate_limits`, `retries`, `retry_budgets`, `failure_budgets`, `faults`,
    /// `clients`, `servers`.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().set("breakers.db.open_for", 5).load()?;
    /// assert!(config.names("breakers").eq(["db"]));
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn names(&self, map: &str) -> impl Iterator<Item = &str> {
        self.tree
            .get(map)
            .and_then(Json::as_object)
            .into_iter()
            .flat_map(|m| m.keys().map(String::as_str))
    }

    /// Where the value of a key came from: `file:line`, `variable NAME`, `argument` or `default`. `None` if no source
    /// has the key.
    ///
    /// ```
    /// use buttress::config::{Format, Loader};
    /// let config = Loader::empty().text("a.yml", Format::Yaml, "breakers:\n db:\n  seed: 1").load()?;
    /// assert_eq!(config.origin("breakers.db.seed"), Some("a.yml:3"));
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(|setting| setting.origin.as_str())
    }

    /// The value of a key as JSON, with times in seconds; secrets are hidden. `None` if no source has the key.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().set("breakers.db.open_for", "1m 30s").load()?;
    /// assert_eq!(config.value("breakers.db.open_for").as_deref(), Some("90.0"));
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn value(&self, key: &str) -> Option<String> {
        self.settings.get(key).map(|setting| shown(key, &setting.value))
    }

    /// What is different from `old`, in the order of the keys.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().set("breakers.db.open_for", "60s").load()?;
    /// let same = Loader::empty().set("breakers.db.open_for", "1m").load()?;
    /// assert!(config.changes_since(&same).is_empty());
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn changes_since(&self, old: &Self) -> Vec<Change> {
        let keys: BTreeSet<_> = self.settings.keys().chain(old.settings.keys()).collect();
        let value = |config: &Self, key: &str| config.settings.get(key).map(|s| s.value.clone());
        keys.into_iter()
            .filter(|key| value(self, key) != value(old, key))
            .map(|key| Change { key: key.clone(), old: old.value(key), new: self.value(key) })
            .collect()
    }

    /// Whether what is not the crate's own is the same in both.
    pub(super) fn same_sections(&self, other: &Self) -> bool {
        let theirs = |config: &Self| match super::value::to_json(&config.raw) {
            Json::Object(mut all) => {
                all.retain(|key, _| !ROOT.iter().any(|field| field.key == key));
                all
            }
            _ => serde_json::Map::new(),
        };
        theirs(self) == theirs(other)
    }

    /// A section of yours; see [`Loader::section`](super::Loader::section).
    ///
    /// # Errors
    /// All that does not fit, as far as it can be seen: see [`Loader::load_as`](super::Loader::load_as).
    ///
    /// ```
    /// use buttress::config::Loader;
    /// #[derive(serde::Deserialize)]
    /// struct App { port: u16 }
    /// let config = Loader::empty().set("app.port", 80).section("app").load()?;
    /// assert_eq!(config.read::<App>("app")?.port, 80);
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn read<T: DeserializeOwned>(&self, section: &str) -> Result<T, LoadError> {
        let mut problems = Vec::new();
        let nothing = Value::new(None, ValueKind::Nil);
        let value = match &self.raw.kind {
            ValueKind::Table(table) => table.get(section).unwrap_or(&nothing),
            _ => &nothing,
        };
        super::gather::read(value, section, false, &mut problems)
            .ok_or_else(|| LoadError::new(problems))
    }

    /// Every key that has an effect, with its value and where that came from. Keys no source has are there with their default, for
    /// each entry.
    ///
    /// ```
    /// use buttress::config::{Format, Loader};
    /// let config = Loader::empty().text("a.yml", Format::Yaml, "rate_limits: {api: 5/s}").load()?;
    /// let text = config.explain();
    /// assert!(text.contains("rate_limits.api.rate = \"5/s\"  (a.yml:1)"), "{text}");
    /// assert!(text.contains("rate_limits.api.shadow = false  (default)"), "{text}");
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn explain(&self) -> String {
        let mut lines = BTreeMap::new();
        defaults(ROOT, &self.tree, "", &mut lines);
        effective::effective(self, &mut lines);
        for (key, setting) in &self.settings {
            lines.insert(key.clone(), (shown(key, &setting.value), setting.origin.clone()));
        }
        let print = |(key, (value, origin))| format!("{key} = {value}  ({origin})\n");
        lines.into_iter().map(print).collect()
    }
}

impl Reader<'_> {
    /// The crate's own keys, and the rest if `known` says what else there may be.
    fn root(&mut self, root: &Value, known: Option<&[&str]>) -> Json {
        let ValueKind::Table(table) = &root.kind else { return Json::Null };
        let ours = |key: &str| ROOT.iter().any(|field| field.key == key);
        if let Some(known) = known {
            for (key, value) in super::value::sorted(table) {
                if !known.contains(&key.as_str()) {
                    self.unknown(key, key, value, known.iter().copied());
                }
            }
        }
        let table = table.iter().filter(|(key, _)| ours(key)).map(|(k, v)| (k.clone(), v.clone()));
        let root = Value::new(None, ValueKind::Table(table.collect()));
        self.table(ROOT, &root, "").unwrap_or_default()
    }
}

fn defaults(
    fields: &[Field],
    tree: &Json,
    path: &str,
    lines: &mut BTreeMap<String, (String, String)>,
) {
    for field in fields {
        let path = super::read::join(path, field.key);
        let here = tree.get(field.key);
        match (field.kind.plain(), here) {
            (Kind::Table(fields) | Kind::Short(_, fields), Some(tree)) if tree.is_object() => {
                defaults(fields, tree, &path, lines);
            }
            (Kind::Table(fields), None) if path.starts_with("resilience") => {
                defaults(fields, &Json::Null, &path, lines);
            }
            (Kind::Named(_, kind), Some(tree)) if tree.is_object() => {
                if let Kind::Table(fields) | Kind::Short(_, fields) = kind.plain() {
                    defaults(fields, tree, &path, lines);
                }
            }
            (Kind::Map(kind), Some(Json::Object(entries))) => {
                if let Kind::Table(fields) | Kind::Short(_, fields) = kind.plain() {
                    for (name, tree) in entries {
                        defaults(fields, tree, &super::read::join(&path, name), lines);
                    }
                }
            }
            (_, None) if !field.default.is_empty() && !field.default.contains(' ') => {
                lines.insert(path, (field.default.to_owned(), "default".to_owned()));
            }
            _ => {}
        }
    }
}
