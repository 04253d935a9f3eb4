use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// What a store could not do, and above all whether it may have done it all the same.
///
/// ```
/// assert_eq!(buttress::store::StoreErrorKind::Full.as_str(), "full");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store was not reached. The operation was surely not applied.
    Unavailable,
    /// No answer came. The operation may have been applied; it can be repeated with the same attempt.
    Unknown,
    /// The store has no room for another record. Not applied.
    Full,
    /// What the store holds cannot be read, or is of a version that this one does not know. Never treat it
    /// as absent.
    Corrupt,
    /// The record is larger than the store takes. Not applied.
    TooLarge,
    /// The store refused for a reason of its own. Not applied.
    Refused,
}

impl StoreErrorKind {
    /// Lower-case name with underscores, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::store::StoreErrorKind::TooLarge.as_str(), "too_large");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::Full => "full",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too_large",
            Self::Refused => "refused",
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::Unavailable => "the store cannot be reached",
            Self::Unknown => "the store did not answer: the operation may have been applied",
            Self::Full => "the store is full",
            Self::Corrupt => "the store holds a record that cannot be read",
            Self::TooLarge => "the record is too large for the store",
            Self::Refused => "the store refused the operation",
        }
    }
}

/// The error of a store.
///
/// ```
/// use buttress::store::{StoreError, StoreErrorKind};
/// use std::io;
/// let error = StoreError::new(StoreErrorKind::Unavailable)
///     .with_source(io::Error::from(io::ErrorKind::ConnectionRefused));
/// assert_eq!(error.kind(), StoreErrorKind::Unavailable);
/// assert_eq!(error.to_string(), "the store cannot be reached");
/// ```
#[derive(Clone, Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl StoreError {
    /// Without more to say.
    ///
    /// ```
    /// use buttress::store::{StoreError, StoreErrorKind};
    /// assert_eq!(StoreError::new(StoreErrorKind::Full).kind(), StoreErrorKind::Full);
    /// ```
    #[must_use]
    pub const fn new(kind: StoreErrorKind) -> Self {
        Self { kind, source: None }
    }

    /// Adds the error that led to it. A text will do.
    ///
    /// ```
    /// use buttress::store::{StoreError, StoreErrorKind};
    /// use std::error::Error;
    /// let error = StoreError::new(StoreErrorKind::Corrupt).with_source("byte 7 is 9");
    /// assert_eq!(error.source().unwrap().to_string(), "byte 7 is 9");
    /// ```
    #[must_use]
    pub fn with_source(mut self, source: impl Into<crate::error::BoxError>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// What went wrong.
    ///
    /// ```
    /// use buttress::store::{StoreError, StoreErrorKind};
    /// assert_eq!(StoreError::new(StoreErrorKind::Corrupt).kind(), StoreErrorKind::Corrupt);
    /// ```
    #[must_use]
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether the operation may have been applied.
    ///
    /// ```
    /// use buttress::store::{StoreError, StoreErrorKind};
    /// assert!(StoreError::new(StoreErrorKind::Unknown).may_be_applied());
    /// ```
    #[must_use]
    pub const fn may_be_applied(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Unknown)
    }
}

impl From<StoreErrorKind> for StoreError {
    fn from(kind: StoreErrorKind) -> Self {
        Self::new(kind)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.sentence())
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}
