use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use redb::{CommitError, DatabaseError, StorageError};

use crate::error::{BoxError, ConfigError};

/// Why a file could not be opened as a store. The file is as it was before.
///
/// ```
/// assert_eq!(buttress::store::OpenErrorKind::Locked.as_str(), "locked");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// A setting is out of range.
    Config,
    /// Another process has it open, or another store of this one.
    Locked,
    /// It is a directory, a device or the like.
    NotAFile,
    /// It may not be read and written.
    Denied,
    /// It is something else: not a store of this crate, or its first bytes are damaged.
    Foreign,
    /// It is a store of a version that this one does not know.
    Version,
    /// It is damaged.
    Corrupt,
    /// The operating system refused.
    Io,
}

impl OpenErrorKind {
    /// Lower-case name with underscores, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::store::OpenErrorKind::NotAFile.as_str(), "not_a_file");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Locked => "locked",
            Self::NotAFile => "not_a_file",
            Self::Denied => "denied",
            Self::Foreign => "foreign",
            Self::Version => "version",
            Self::Corrupt => "corrupt",
            Self::Io => "io",
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::Config => "a setting is out of range",
            Self::Locked => "it is open elsewhere",
            Self::NotAFile => "it is not a regular file",
            Self::Denied => "it may not be read and written",
            Self::Foreign => "it is something else than a store of executions",
            Self::Version => "it is a store of another version",
            Self::Corrupt => "it is damaged",
            Self::Io => "the operating system refused",
        }
    }
}

/// The error of [`FileStore::open`](super::FileStore::open): which file, and what is the matter with it.
///
/// ```
/// use buttress::store::{FileStore, OpenErrorKind};
/// let error = FileStore::open(std::env::temp_dir()).unwrap_err();
/// assert_eq!(error.kind(), OpenErrorKind::NotAFile);
/// assert!(error.to_string().ends_with("it is not a regular file"));
/// ```
#[derive(Debug)]
pub struct OpenError {
    path: PathBuf,
    kind: OpenErrorKind,
    source: Option<BoxError>,
}

impl OpenError {
    pub(super) fn new(path: &Path, failure: Failure) -> Self {
        Self { path: path.to_owned(), kind: failure.kind, source: failure.source }
    }

    /// The file, as it was given.
    ///
    /// ```
    /// use buttress::store::FileStore;
    /// let error = FileStore::open("/").unwrap_err();
    /// assert_eq!(error.path(), std::path::Path::new("/"));
    /// ```
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is the matter.
    ///
    /// ```
    /// use buttress::store::{FileStore, OpenErrorKind};
    /// assert_eq!(FileStore::open("/").unwrap_err().kind(), OpenErrorKind::NotAFile);
    /// ```
    #[must_use]
    pub const fn kind(&self) -> OpenErrorKind {
        self.kind
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot open the store {}: {}", self.path.display(), self.kind.sentence())
    }
}

impl StdError for OpenError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}

/// An [`OpenError`] that does not know its path yet.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: OpenErrorKind,
    pub(super) source: Option<BoxError>,
}

impl Failure {
    pub(super) fn new(kind: OpenErrorKind) -> Self {
        Self { kind, source: None }
    }

    pub(super) fn because(kind: OpenErrorKind, source: impl Into<BoxError>) -> Self {
        Self { kind, source: Some(source.into()) }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::because(OpenErrorKind::Config, error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                OpenErrorKind::Denied
            }
            io::ErrorKind::IsADirectory => OpenErrorKind::NotAFile,
            // What redb says of a file that does not begin as one of its own.
            io::ErrorKind::InvalidData => OpenErrorKind::Foreign,
            // The file ends before it should.
            io::ErrorKind::UnexpectedEof => OpenErrorKind::Corrupt,
            _ => OpenErrorKind::Io,
        };
        Self::because(kind, error)
    }
}

impl From<redb::Error> for Failure {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
                Self::because(OpenErrorKind::Locked, error)
            }
            redb::Error::UpgradeRequired(_) => Self::because(OpenErrorKind::Version, error),
            redb::Error::Io(error) => error.into(),
            redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableDoesNotExist(_) => Self::because(OpenErrorKind::Foreign, error),
            error => Self::because(OpenErrorKind::Corrupt, error),
        }
    }
}

macro_rules! through_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}

through_redb!(
    CommitError,
    DatabaseError,
    StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::SetDurabilityError
);
