//! Who is started again.

/// When a child that ended is started again.
///
/// ```
/// assert_eq!(buttress::supervise::process::Restart::default().as_str(), "permanent");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Restart {
    /// Always: it is to run as long as the supervisor does.
    #[default]
    Permanent,
    /// If it failed: by a signal, frozen, not ready in time, or with a code that is not among its
    /// [`success_codes`](super::Child::success_codes).
    Transient,
    /// Never.
    Temporary,
}

impl Restart {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::process::Restart::Transient.as_str(), "transient");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Transient => "transient",
            Self::Temporary => "temporary",
        }
    }
}

/// Who else is started again when one child failed.
///
/// ```
/// assert_eq!(buttress::supervise::process::Strategy::default().as_str(), "one_for_one");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// Nobody.
    #[default]
    OneForOne,
    /// All: they are stopped in reverse order, then all start in order. But for temporary ones, which do
    /// not come back.
    OneForAll,
    /// Those after it in the order, likewise: they depend on it.
    RestForOne,
}

impl Strategy {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::process::Strategy::RestForOne.as_str(), "rest_for_one");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OneForOne => "one_for_one",
            Self::OneForAll => "one_for_all",
            Self::RestForOne => "rest_for_one",
        }
    }
}
