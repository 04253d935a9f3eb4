//! Where settings come from, and in which order.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ::config_rs::{Map, Value};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::fields::ROOT;
use super::files::{self, read_file, searched, usual_places};
use super::gather;
use super::keys;
use super::merge::merge;
use super::parse::{self, Format};
use super::problem::LoadError;
use super::settings::Config;
use super::value::from_json;

/// The settings of the process as a type of yours: [`Loader::new`] with [`load_as`](Loader::load_as).
///
/// The type's `Deserialize` must have no effects: when something does not fit it is called again, also with values that
/// are in no source.
///
/// # Errors
/// Every problem of every source.
///
/// ```no_run
/// #[derive(serde::Deserialize)]
/// struct Settings {
///     port: u16,
///     grace: std::time::Duration, // "1m 30s" in the file
/// }
/// let settings: Settings = buttress::config::load()?;
/// # Ok::<(), buttress::config::LoadError>(())
/// ```
pub fn load<T: DeserializeOwned>() -> Result<T, LoadError> {
    Loader::new().load_as()
}

const ARGUMENT: &str = "argument";
const DEFAULT: &str = "default";

/// Looks at the sources and at what they are together.
type User<'a> = &'a mut dyn FnMut(&[Map<String, Value>], &Value);

#[derive(Clone)]
enum File {
    Path(PathBuf),
    Text(String, Format, String),
}

/// Collects the sources, the strongest last: defaults, files that are searched for, files that are named,
/// the environment, arguments. They are merged key by key.
///
/// ```
/// use buttress::config::{Format, Loader};
/// let config = Loader::empty()
///     .text("buttress.yml", Format::Yaml, "breakers: {db: {open_for: 30s, min_calls: 5, failure_rate: 50%}}")
///     .env_from([("BUTTRESS__BREAKERS__DB__OPEN_FOR", "5s")])
///     .set("breakers.db.min_calls", 7)
///     .load()?;
/// assert_eq!(config.origin("breakers.db.open_for"), Some("variable BUTTRESS__BREAKERS__DB__OPEN_FOR"));
/// assert_eq!(config.origin("breakers.db.min_calls"), Some("argument"));
/// assert_eq!(config.origin("breakers.db.failure_rate"), Some("buttress.yml:1"));
/// # Ok::<(), buttress::config::LoadError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Loader {
    defaults: Vec<(String, Value)>,
    search: Vec<PathBuf>,
    files: Vec<File>,
    env: BTreeMap<String, String>,
    prefix: String,
    arguments: Vec<(String, Value)>,
    sections: Vec<String>,
    clamp: bool,
}

/// Shows no values: the environment is full of secrets.
impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("search", &self.search)
            .field("files", &self.files.len())
            .field("prefix", &self.prefix)
            .field("clamp", &self.clamp)
            .finish_non_exhaustive()
    }
}

impl Default for Loader {
    fn default() -> Self {
        Self::new()
    }
}

impl Loader {
    /// Looks in the usual places, and at the environment of the process.
    ///
    /// ```no_run
    /// let config = buttress::config::Loader::new().load()?;
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn new() -> Self {
        let lossy = |name: std::ffi::OsString| name.to_string_lossy().into_owned();
        let env = std::env::vars_os().map(|(key, value)| (lossy(key), lossy(value)));
        let mut loader = Self::empty().env_from(env);
        loader.search = usual_places(&loader.env);
        loader
    }

    /// Nothing yet: no places to look in, no environment.
    ///
    /// ```
    /// assert!(buttress::config::Loader::empty().load().is_ok());
    /// ```
    pub fn empty() -> Self {
        Self {
            defaults: Vec::new(),
            search: Vec::new(),
            files: Vec::new(),
            env: BTreeMap::new(),
            prefix: "BUTTRESS__".to_owned(),
            arguments: Vec::new(),
            sections: Vec::new(),
            clamp: false,
        }
    }

    /// Looks in these directories instead, the strongest first. Each may have `kstlib.conf.yml`, of which only the block
    /// `resilience` is read, and one of `buttress.yml`, `.yaml`, `.toml` and `.json`, which is stronger.
    ///
    /// ```
    /// let loader = buttress::config::Loader::empty().search(["/etc/payments"]);
    /// assert!(loader.load().is_ok());
    /// ```
    pub fn search<P: Into<PathBuf>>(mut self, directories: impl IntoIterator<Item = P>) -> Self {
        self.search = directories.into_iter().map(Into::into).collect();
        self
    }

    /// A file that must be there; later ones are stronger.
    ///
    /// ```
    /// let error = buttress::config::Loader::empty().file("/nowhere/a.yml").load().unwrap_err();
    /// assert!(error.to_string().contains("/nowhere/a.yml"));
    /// ```
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(File::Path(path.into()));
        self
    }

    /// What a file of this name would say.
    ///
    /// ```
    /// use buttress::config::{Format, Loader};
    /// let config = Loader::empty().text("a.json", Format::Json, r#"{"breakers": {"db": {}}}"#).load()?;
    /// assert!(config.names("breakers").eq(["db"]));
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn text(
        mut self,
        name: impl Into<String>,
        format: Format,
        text: impl Into<String>,
    ) -> Self {
        self.files.push(File::Text(name.into(), format, text.into()));
        self
    }

    /// This environment instead of the process's. `BUTTRESS__BREAKERS__DB__OPEN_FOR` is `breakers.db.open_for`; a part
    /// that differs from a key of the files only in case, or in `_` for `-`, means that key. A value that begins with
    /// `{` or `[` and is JSON is read as such. An empty variable is an empty text, and two for one key are a problem.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().env_from([("BUTTRESS__RATE_LIMITS__API", "5/s")]).load()?;
    /// assert!(config.rate_limiter("api").is_ok());
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn env_from<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.env = variables.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        self
    }

    /// Another beginning for the variables' names than `BUTTRESS__`.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let loader = Loader::empty().env_prefix("PAY_").env_from([("PAY_RATE_LIMITS__API", "5/s")]);
    /// assert!(loader.load()?.rate_limiter("api").is_ok());
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn env_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// An argument: stronger than everything else. The key is a path; a part with a dot stands in quotes.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().set("breakers.db.open_for", "5s").load()?;
    /// assert_eq!(config.value("breakers.db.open_for"), Some("5.0".to_owned()));
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn set(mut self, key: impl Into<String>, value: impl Into<Json>) -> Self {
        self.arguments.push((key.into(), from_json(&value.into(), ARGUMENT)));
        self
    }

    /// An argument that is a number, also one that JSON does not have: with [`clamp`](Self::clamp) "not a number" is
    /// forced into its range like any other.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let loader = Loader::empty().set_number("breakers.db.open_for", f64::INFINITY);
    /// assert!(loader.load().is_err());
    /// ```
    pub fn set_number(mut self, key: impl Into<String>, value: f64) -> Self {
        self.arguments.push((key.into(), Value::new(Some(&ARGUMENT.to_owned()), value)));
        self
    }

    /// A default: weaker than everything else.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let config = Loader::empty().set_default("breakers.db.open_for", 5).load()?;
    /// assert_eq!(config.origin("breakers.db.open_for"), Some("default"));
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn set_default(mut self, key: impl Into<String>, value: impl Into<Json>) -> Self {
        self.defaults.push((key.into(), from_json(&value.into(), DEFAULT)));
        self
    }

    /// A top-level key of yours, which is no mistake; read it with [`Config::read`].
    ///
    /// ```
    /// use buttress::config::{Format, Loader};
    /// let config = Loader::empty()
    ///     .text("a.yml", Format::Yaml, "app: {port: 80}")
    ///     .section("app")
    ///     .load()?;
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn section(mut self, key: impl Into<String>) -> Self {
        self.sections.push(key.into());
        self
    }

    /// Compatibility: numbers of the block `resilience` that are out of range are forced into it, and what cannot be read
    /// there is ignored, silently, as the other tool does.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// let key = "resilience.circuit_breaker.max_failures";
    /// assert!(Loader::empty().set(key, 1000).load().is_err());
    /// let config = Loader::empty().set(key, 1000).clamp(true).load()?;
    /// assert_eq!(config.limits().circuit_max_failures, 100);
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub const fn clamp(mut self, on: bool) -> Self {
        self.clamp = on;
        self
    }

    /// Reads, merges and checks everything.
    ///
    /// # Errors
    /// Every problem of every source.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// assert!(Loader::empty().set("breaker.db.open_for", 1).load().is_err());
    /// ```
    pub fn load(&self) -> Result<Config, LoadError> {
        self.collect(None)
    }

    /// Reads the settings as a type of yours. Its top-level keys and this crate's stand side by side in the same
    /// files. A key that neither knows is a problem, and so is one that a struct in it does not know; a
    /// `Duration` is a number of seconds or a text.
    ///
    /// # Errors
    /// Every problem of the crate's own keys and of yours: values that do not fit, in any source, also single ones that a stronger
    /// one overrides, if they cannot be right; keys that a struct does not know; keys that are missing.
    ///
    /// serde stops at the first error, so your type is read again and again with something else in the place of what did not fit.
    /// Its `Deserialize` must therefore have no effects, and may be called with values that are in no source, or not together: what
    /// comes of them is thrown away, and a panic at them is caught. (The hook for panics still hears of it.) Where a panic ends the process
    /// (`panic = "abort"`) no values are made up and no source is looked at alone, so fewer problems are told at once.
    ///
    /// What cannot be found that way comes up when the rest is mended: what else is wrong in a value that an untagged enum refuses
    /// whole, which keys are missing beside a value for which nothing that fits could be found (as with some types that
    /// read a text of their own), and unknown keys of a struct with a flattened part, which takes them all. After some hundred
    /// readings it ends and says so.
    ///
    /// ```
    /// use buttress::config::{Format, Loader};
    /// #[derive(serde::Deserialize)]
    /// struct Settings {
    ///     port: u16,
    ///     grace: std::time::Duration,
    /// }
    /// let loader = Loader::empty().text("a.yml", Format::Yaml, "port: 80\ngrace: 1m 30s\n");
    /// let settings: Settings = loader.load_as()?;
    /// assert_eq!((settings.port, settings.grace.as_secs()), (80, 90));
    ///
    /// let loader = loader.set("port", "many").set("grace", "soon");
    /// let error = loader.load_as::<Settings>().err().unwrap();
    /// let keys: Vec<_> = error.problems().iter().map(|problem| problem.key()).collect();
    /// assert_eq!(keys, ["grace", "port"]);
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn load_as<T: DeserializeOwned>(&self) -> Result<T, LoadError> {
        let mut problems = Vec::new();
        let mut read = None;
        let config = self.collect(Some(&mut |sources, root| {
            let mut whole = Vec::new();
            read = gather::read(root, "", true, &mut whole);
            let several = sources.iter().filter(|source| !source.is_empty()).count() > 1;
            for (n, source) in sources.iter().enumerate() {
                if gather::MADE_UP && several && !source.is_empty() {
                    // Also what a stronger one has, with all that the others have around it.
                    let mut all = sources.to_vec();
                    all.push(source.clone());
                    let up_to = || merge(sources.get(..=n).unwrap_or(sources));
                    gather::read_part::<T>(&merge(&all), up_to, source, &whole, &mut problems);
                }
            }
            gather::add(&mut problems, whole.into_iter());
        }));
        match (config, read) {
            (Ok(_), Some(value)) if problems.is_empty() => Ok(value),
            (config, _) => {
                let mut all = config.err().map_or_else(Vec::new, |e| e.problems().to_vec());
                all.extend(problems);
                Err(LoadError::new(all))
            }
        }
    }

    /// Every file that is read if it is there.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let found = self.search.iter().flat_map(|directory| {
            std::iter::once(files::SEED_FILE).chain(files::NAMES).map(|name| directory.join(name))
        });
        let named = self.files.iter().filter_map(|file| match file {
            File::Path(path) => Some(path.clone()),
            File::Text(..) => None,
        });
        found.chain(named).collect()
    }

    fn collect(&self, user: Option<User<'_>>) -> Result<Config, LoadError> {
        let mut problems = Vec::new();
        let mut sources = vec![keys::keyed(&self.defaults, DEFAULT, &mut problems)];
        searched(&self.search, &mut sources, &mut problems);
        for file in &self.files {
            match file {
                File::Path(path) => sources.extend(read_file(path, &mut problems)),
                File::Text(name, format, text) => {
                    sources.push(parse::parse(name, *format, text, &mut problems));
                }
            }
        }
        sources.iter_mut().for_each(keys::spell_out);
        let files = merge(&sources);
        sources.push(keys::environment(&self.env, &self.prefix, &files, &mut problems));
        sources.push(keys::keyed(&self.arguments, ARGUMENT, &mut problems));
        let root = merge(&sources);
        // Keys of a user's type are checked against that type.
        let strict = user.is_none();
        if let Some(user) = user {
            user(&sources, &root);
        }
        let known: Option<Vec<&str>> = strict.then(|| {
            ROOT.iter()
                .map(|field| field.key)
                .chain(self.sections.iter().map(String::as_str))
                .collect()
        });
        Config::build(&sources, root, known.as_deref(), self.clamp, problems)
    }
}
