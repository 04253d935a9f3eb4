//! The mark of a fault that was made on purpose. Here and not in the conditioner's room because
//! classifiers look for it.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// What a fault does.
///
/// ```
/// assert_eq!(buttress::conditioner::FaultKind::ReplyLost.as_str(), "reply_lost");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum FaultKind {
    /// The call is made later.
    Latency,
    /// The call is not made; its caller sees a broken connection.
    Loss,
    /// The call is not made; its caller sees another error.
    Error,
    /// The call is not made; an HTTP response with a status answers it.
    Status,
    /// The call is not made; a gRPC response with a status answers it.
    Grpc,
    /// The call is not made and not answered.
    Hang,
    /// The call is made, and its answer thrown away.
    ReplyLost,
    /// Each frame of the response's body comes later.
    SlowBody,
    /// The response's body comes with so many bytes a second.
    Bandwidth,
    /// The response's body breaks off.
    TruncatedBody,
    /// Bytes of the response's body are changed.
    CorruptedBody,
}

impl FaultKind {
    /// Lower-case name with underscores, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::conditioner::FaultKind::Loss.as_str(), "loss");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Loss => "loss",
            Self::Error => "error",
            Self::Status => "status",
            Self::Grpc => "grpc",
            Self::Hang => "hang",
            Self::ReplyLost => "reply_lost",
            Self::SlowBody => "slow_body",
            Self::Bandwidth => "bandwidth",
            Self::TruncatedBody => "truncated_body",
            Self::CorruptedBody => "corrupted_body",
        }
    }
}

/// Says that an error or a response is not the callee's own: which rule of a conditioner made it, and
/// what kind of fault it is.
///
/// In the extensions of HTTP responses, and in the `source()` chain of errors, where [`find`](Self::find)
/// finds it. Of several faults that met on one call it names the first. Budgets and breakers that are not
/// to count such calls use [`ignore_injected`](crate::conditioner::ignore_injected).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use buttress::conditioner::{Call, Conditioner, FaultKind, Injected};
/// use std::time::Duration;
///
/// let lossy = Conditioner::network(Duration::ZERO, Duration::ZERO, 1.0, None).unwrap();
/// let lost = lossy.apply(&Call::new()).await.unwrap_err();
/// let mark = Injected::find(&lost).unwrap();
/// assert_eq!((mark.rule(), mark.fault()), (0, FaultKind::Loss));
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Injected {
    rule: usize,
    fault: FaultKind,
}

impl Injected {
    pub(crate) const fn new(rule: usize, fault: FaultKind) -> Self {
        Self { rule, fault }
    }

    /// The number of the rule, from 0, in the order in which they were given.
    ///
    /// ```
    /// # use buttress::conditioner::Injected;
    /// fn first(mark: Injected) -> bool { mark.rule() == 0 }
    /// ```
    #[must_use]
    pub const fn rule(self) -> usize {
        self.rule
    }

    /// What was done.
    ///
    /// ```
    /// # use buttress::conditioner::{FaultKind, Injected};
    /// fn lost(mark: Injected) -> bool { mark.fault() == FaultKind::Loss }
    /// ```
    #[must_use]
    pub const fn fault(self) -> FaultKind {
        self.fault
    }

    /// The mark in the `source()` chain of `error`, itself included.
    ///
    /// ```
    /// use buttress::conditioner::Injected;
    /// assert!(Injected::find(&std::io::Error::other("real")).is_none());
    /// ```
    #[must_use]
    pub fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        for _ in 0..32 {
            let error = next?;
            if let Some(found) = error.downcast_ref::<InjectedError>() {
                return Some(found.mark);
            }
            next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

/// The error behind a fault; inside an [`io::Error`], so that it is judged as a real one would be.
pub(crate) struct InjectedError {
    pub(crate) mark: Injected,
    pub(crate) message: String,
    /// What the user's own closure made, if the fault is one of those.
    pub(crate) source: Option<Box<dyn StdError + Send + Sync>>,
}

impl InjectedError {
    pub(crate) fn io(kind: io::ErrorKind, mark: Injected, message: String) -> io::Error {
        io::Error::new(kind, Self { mark, message, source: None })
    }
}

impl fmt::Display for InjectedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for InjectedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InjectedError({}, rule {})", self.message, self.mark.rule)
    }
}

impl StdError for InjectedError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&**self.source.as_ref()?)
    }
}
