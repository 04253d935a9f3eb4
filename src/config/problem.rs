//! What is wrong with the settings, all of it at once.

use std::error::Error as StdError;
use std::fmt;

/// What sort of problem it is.
///
/// ```
/// use buttress::config::{Format, Loader, ProblemKind};
/// let error = Loader::empty().text("a.yml", Format::Yaml, "braekers: {}").load().unwrap_err();
/// assert_eq!(error.problems()[0].kind(), ProblemKind::UnknownKey);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// A file that cannot be read.
    Unreadable,
    /// Text that is not in the file's format.
    Syntax,
    /// A key nobody knows.
    UnknownKey,
    /// A value of another type or form.
    WrongType,
    /// A value outside its range.
    OutOfRange,
    /// A value that does not go with another.
    Contradiction,
    /// Something is asked for that is not there.
    Missing,
}

/// One thing that is wrong: key, value, where it came from, and what was expected.
///
/// ```
/// use buttress::config::{Format, Loader};
/// let text = "breakers:\n  db:\n    open_for: soon\n";
/// let error = Loader::empty().text("a.yml", Format::Yaml, text).load().unwrap_err();
/// assert_eq!(
///     error.problems()[0].to_string(),
///     "a.yml:3: breakers.db.open_for: \"soon\", \
///      expected a time: seconds, or a text such as \"250ms\" or \"1m 30s\""
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) kind: ProblemKind,
    pub(super) key: String,
    pub(super) value: String,
    pub(super) origin: String,
    pub(super) expected: String,
}

impl Problem {
    pub(super) fn new(
        kind: ProblemKind,
        key: impl Into<String>,
        value: impl Into<String>,
        origin: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            key: key.into(),
            value: value.into(),
            origin: origin.into(),
            expected: expected.into(),
        }
    }

    /// What sort of problem it is.
    ///
    /// ```
    /// # use buttress::config::{Format, Loader, ProblemKind};
    /// let error = Loader::empty().text("a.json", Format::Json, "{").load().unwrap_err();
    /// assert_eq!(error.problems()[0].kind(), ProblemKind::Syntax);
    /// ```
    #[must_use]
    pub const fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// The path of the key, as `breakers.db.open_for`; empty when the whole file is meant.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let error = Loader::empty().set("breakers.db.open_for", -1).load().unwrap_err();
    /// assert_eq!(error.problems()[0].key(), "breakers.db.open_for");
    /// ```
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value, as it was written; secrets are hidden.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let error = Loader::empty().set("breakers.db.open_for", -1).load().unwrap_err();
    /// assert_eq!(error.problems()[0].value(), "-1");
    /// ```
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// `file:line`, `variable NAME`, `argument` or `default`.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let error = Loader::empty().set("breakers.db.open_for", -1).load().unwrap_err();
    /// assert_eq!(error.problems()[0].origin(), "argument");
    /// ```
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What was expected.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let error = Loader::empty().set("breakers.db.shadow", 3).load().unwrap_err();
    /// assert_eq!(error.problems()[0].expected(), "true or false");
    /// ```
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.value)?;
        if !self.expected.is_empty() {
            write!(f, ", expected {}", self.expected)?;
        }
        Ok(())
    }
}

/// Settings that cannot be used, with every problem of every source.
///
/// ```
/// use buttress::config::{Format, Loader};
/// let text = "[breakers.db]\nopen_for = -1\nmin_cals = 3\n";
/// let error = Loader::empty().text("a.toml", Format::Toml, text).load().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "2 problems in the configuration\n\
///      a.toml:2: breakers.db.open_for: -1, expected a time from 1ms to 365d\n\
///      a.toml:3: breakers.db.min_cals: unknown key, expected \"min_calls\""
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    problems: Vec<Problem>,
}

impl LoadError {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// All of them, in the order of the sources.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let error = Loader::empty().file("/nowhere/b.yml").load().unwrap_err();
    /// assert_eq!(error.problems().len(), 1);
    /// ```
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("1 problem in the configuration")?,
            n => write!(f, "{n} problems in the configuration")?,
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl StdError for LoadError {}
