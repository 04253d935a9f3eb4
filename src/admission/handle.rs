use std::time::Duration;

use crate::backend::Backend;
use crate::error::ConfigError;
use crate::managed::Home;
use crate::name::Name;

/// Decides who may call a [`Backend`] when. Clones share it.
///
/// ```
/// use buttress::admission::{Admission, AdmissionLayer};
/// use tower::ServiceBuilder;
/// let stack = ServiceBuilder::new().layer(AdmissionLayer::new(Admission::new("search")));
/// ```
#[derive(Clone, Debug)]
pub struct Admission {
    backend: Backend,
    patience: Duration,
}

impl Admission {
    /// In front of a backend of that name, with a limit that is learned.
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// assert_eq!(Admission::new("search").backend().name(), "search");
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self::of(&Backend::new(name))
    }

    /// In front of a backend that others share.
    ///
    /// ```
    /// use buttress::{Backend, admission::Admission};
    /// let backend = Backend::new("search");
    /// let admission = Admission::of(&backend);
    /// ```
    #[must_use]
    pub fn of(backend: &Backend) -> Self {
        Self { backend: backend.clone(), patience: Duration::from_secs(1) }
    }

    /// At most `in_flight` at a time, whatever is observed.
    ///
    /// # Errors
    /// If `in_flight` is not from 1 to 1,000,000.
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// assert_eq!(Admission::bulkhead("db", 8)?.backend().stats().limit, 8);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn bulkhead(name: impl Into<Name>, in_flight: u32) -> Result<Self, ConfigError> {
        Backend::fixed(name, in_flight).map(|backend| Self::of(&backend))
    }

    /// How long a request without a deadline waits at most, default 1 s; at least a millisecond. In a stack of the
    /// [presets](crate::presets) no longer than the total timeout leaves it, also after a retry or a wait for a token.
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// use std::time::Duration;
    /// let admission = Admission::new("search").patience(Duration::from_millis(200));
    /// ```
    #[must_use]
    pub fn patience(mut self, longest: Duration) -> Self {
        self.patience = longest.max(Duration::from_millis(1));
        self
    }

    /// The backend.
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// assert!(Admission::new("search").backend().has_headroom());
    /// ```
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The same in front of another backend.
    #[cfg(feature = "config")]
    pub(crate) fn around(&self, backend: &Backend) -> Self {
        Self { backend: backend.clone(), ..*self }
    }

    /// With a backend of its own, in another registry.
    pub(crate) fn move_to(self, home: Home) -> Self {
        Self { backend: self.backend.move_to(home), ..self }
    }

    pub(super) fn longest(&self) -> Duration {
        self.patience
    }
}
