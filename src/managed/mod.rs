//! How an object of any room tells what it is doing and takes an order: the floor that `control` and the
//! rooms share, so that neither needs to know the other.

use crate::error::ConfigError;
use crate::name::LayerKind;

mod folds;
mod roster;
mod status;
mod timeline;

pub(crate) use roster::{Home, Roster};
pub use status::{Fact, Gauge, Level, Next, ObjectStatus};
pub use timeline::TimelineEvent;
pub(crate) use timeline::epoch_ms;
#[cfg(feature = "serde")]
pub(crate) use timeline::severity;

/// An object that a [`Registry`](crate::control::Registry) can show and give orders to.
///
/// The objects of this crate implement it. Implement it for one of yours to see it beside them.
///
/// ```
/// use buttress::control::{Level, Managed, ObjectStatus, Operation};
/// use buttress::{ConfigError, LayerKind};
///
/// struct Pool;
/// impl Managed for Pool {
///     fn kind(&self) -> LayerKind {
///         LayerKind::Custom("pool")
///     }
///     fn name(&self) -> &str {
///         "db"
///     }
///     fn describe(&self) -> ObjectStatus {
///         ObjectStatus::new("ok").level(Level::Ok).gauge("in_use", "in use", 3.0, "connections", |gauge| {
///             gauge.max = Some(10.0);
///         })
///     }
/// }
/// assert!(Pool.operate(&Operation::Reset).is_err(), "it takes no orders");
/// ```
#[diagnostic::on_unimplemented(message = "`{Self}` cannot be shown by a registry")]
pub trait Managed: Send + Sync + 'static {
    /// The kind of object.
    fn kind(&self) -> LayerKind;

    /// Its name.
    fn name(&self) -> &str;

    /// What it is doing now. Changes nothing. `id`, `kind` and `name` are filled in by the registry.
    fn describe(&self) -> ObjectStatus;

    /// Carries out an order, one of [`ObjectStatus::commands`].
    ///
    /// # Errors
    /// When it does not take that order, or the order's value is out of range. Then nothing is changed.
    fn operate(&self, operation: &Operation) -> Result<(), ConfigError> {
        Err(unknown(operation, &self.describe().commands))
    }
}

/// The error of an object that does not take an order.
pub(crate) fn unknown(operation: &Operation, known: &[&'static str]) -> ConfigError {
    let expected = match known {
        [] => "no command: this object takes none".to_owned(),
        _ => format!("one of {}", known.join(", ")),
    };
    ConfigError::new("command", operation.as_str(), expected)
}

/// What an object can be ordered to do.
///
/// ```
/// assert_eq!(buttress::control::Operation::ForceOpen.as_str(), "force_open");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Operation {
    /// A breaker refuses every call.
    ForceOpen,
    /// A breaker lets every call through and never trips.
    ForceClosed,
    /// Back to the beginning: a breaker closes, a bucket is full, a budget has lost nothing.
    Reset,
    /// A breaker that is disabled or forced decides again; faults are injected again.
    Enable,
    /// A breaker lets every call through and counts nothing.
    Disable,
    /// Another rate for a limiter.
    SetQuota(crate::quota::Quota),
    /// The process ends in an orderly way.
    Drain,
    /// Faults end now.
    Disarm,
    /// A lever is pulled, once.
    Engage,
    /// A lever is let go, once.
    Release,
}

impl Operation {
    /// Lower-case name with underscores.
    ///
    /// ```
    /// assert_eq!(buttress::control::Operation::Drain.as_str(), "drain");
    /// ```
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::ForceOpen => "force_open",
            Self::ForceClosed => "force_closed",
            Self::Reset => "reset",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::SetQuota(_) => "set_quota",
            Self::Drain => "drain",
            Self::Disarm => "disarm",
            Self::Engage => "engage",
            Self::Release => "release",
        }
    }
}
