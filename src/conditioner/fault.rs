use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{BoxError, ConfigError};
use crate::injected::{FaultKind, Injected, InjectedError};

use super::call::Call;
use super::draw::{Draws, FAULT};
use super::latency::{Latency, not_zero, within_a_day};

/// What a rule does to a call.
///
/// | fault | the callee | the caller |
/// |---|---|---|
/// | [`latency`](Self::latency) | is called later | waits |
/// | [`loss`](Self::loss) | is not called | gets a connection error at once |
/// | [`error`](Self::error), [`error_with`](Self::error_with) | is not called | gets this error |
/// | [`status`](Self::status), [`grpc`](Self::grpc) | is not called | gets this response |
/// | [`hang`](Self::hang), [`hang_for`](Self::hang_for) | is not called | waits for nothing |
/// | [`reply_lost`](Self::reply_lost) | does its work | gets a connection error |
/// | [`slow_body`](Self::slow_body), [`bandwidth`](Self::bandwidth) | does its work | gets the response's body slowly |
/// | [`truncate_body`](Self::truncate_body) | does its work | sees the body break off |
/// | [`corrupt_body`](Self::corrupt_body) | does its work | gets changed bytes |
///
/// ```
/// use buttress::conditioner::{Fault, FaultKind};
/// assert_eq!(Fault::reply_lost().kind(), FaultKind::ReplyLost);
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(try_from = "super::wire::Fault"))]
#[must_use]
pub struct Fault(pub(super) What);

#[derive(Clone)]
pub(super) enum What {
    Latency(Latency),
    Loss,
    Error(io::ErrorKind, Arc<str>),
    Make(Make),
    Status(u16),
    Grpc(u32, Arc<str>),
    Hang(Option<Duration>),
    ReplyLost,
    SlowBody(Duration),
    Bandwidth(u64),
    Truncate(u64),
    Corrupt(u64),
}

type Make = Arc<dyn Fn(&Call<'_>) -> BoxError + Send + Sync>;

impl Fault {
    /// The call is made after a time drawn from `law`.
    ///
    /// ```
    /// use buttress::conditioner::{Fault, Latency};
    /// use std::time::Duration;
    /// let slow = Fault::latency(Latency::fixed(Duration::from_millis(50))?);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub const fn latency(law: Latency) -> Self {
        Self(What::Latency(law))
    }

    /// The call is not made. The error is a refusal of kind
    /// [`Injected`](crate::RejectionKind::Injected), its source an [`io::Error`] of kind connection reset.
    ///
    /// ```
    /// # use buttress::conditioner::Fault;
    /// let lost = Fault::loss();
    /// ```
    pub const fn loss() -> Self {
        Self(What::Loss)
    }

    /// The call is not made. The source of the refusal is an [`io::Error`] of this kind, and classifiers
    /// judge it as one.
    ///
    /// ```
    /// # use buttress::conditioner::Fault;
    /// let full = Fault::error(std::io::ErrorKind::StorageFull, "the disk is full");
    /// ```
    pub fn error(kind: io::ErrorKind, message: &str) -> Self {
        Self(What::Error(kind, message.into()))
    }

    /// The same with an error that `make` makes.
    ///
    /// ```
    /// # use buttress::conditioner::Fault;
    /// let denied = Fault::error_with(|call| format!("{:?} is denied", call.get_name()).into());
    /// ```
    pub fn error_with(make: impl Fn(&Call<'_>) -> BoxError + Send + Sync + 'static) -> Self {
        Self(What::Make(Arc::new(make)))
    }

    /// The call is not made; an empty response with this status answers it. Where the layer does not know
    /// HTTP (see `ConditionerLayer::http`) it is an error like
    /// [`error`](Self::error) with the status in its text.
    ///
    /// ```
    /// # use buttress::conditioner::Fault;
    /// let unavailable = Fault::status(503);
    /// ```
    pub const fn status(status: u16) -> Self {
        Self(What::Status(status))
    }

    /// The call is not made; a gRPC response without body and trailers answers it: HTTP 200,
    /// `grpc-status`, `grpc-message`. Elsewhere as [`status`](Self::status).
    ///
    /// ```
    /// # use buttress::conditioner::Fault;
    /// let unavailable = Fault::grpc(14, "try later");
    /// ```
    pub fn grpc(code: u32, message: &str) -> Self {
        Self(What::Grpc(code, message.into()))
    }

    /// The call is not made and never answered: it hangs until its caller gives up, or injection is turned
    /// off, which ends it with a connection error.
    ///
    /// ```
    /// # use buttress::conditioner::Fault;
    /// let silent = Fault::hang();
    /// ```
    pub const fn hang() -> Self {
        Self(What::Hang(None))
    }

    /// The same, but after `time` it ends with an [`io::Error`] of kind timed out.
    ///
    /// ```
    /// # use buttress::conditioner::Fault;
    /// let silent = Fault::hang_for(std::time::Duration::from_secs(30));
    /// ```
    pub const fn hang_for(time: Duration) -> Self {
        Self(What::Hang(Some(time)))
    }

    /// The call is made, and when its answer comes it is dropped; then a connection error. What tests
    /// idempotency: the effect is there and the caller does not know.
    ///
    /// ```
    /// # use buttress::conditioner::Fault;
    /// let unknown = Fault::reply_lost();
    /// ```
    pub const fn reply_lost() -> Self {
        Self(What::ReplyLost)
    }

    /// Each frame of the response's body comes so much later. HTTP only, as the next three.
    ///
    /// ```
    /// # use buttress::conditioner::Fault;
    /// let dripping = Fault::slow_body(std::time::Duration::from_millis(100));
    /// ```
    pub const fn slow_body(per_frame: Duration) -> Self {
        Self(What::SlowBody(per_frame))
    }

    /// The response's body comes with so many bytes a second, in small pieces.
    ///
    /// ```
    /// # use buttress::conditioner::Fault;
    /// let modem = Fault::bandwidth(7_000);
    /// ```
    pub const fn bandwidth(bytes_per_second: u64) -> Self {
        Self(What::Bandwidth(bytes_per_second))
    }

    /// The response's body ends with an error after so many bytes, if it has more. A server that sends it
    /// breaks the connection (HTTP/1) or resets the stream (HTTP/2).
    ///
    /// ```
    /// # use buttress::conditioner::Fault;
    /// let half = Fault::truncate_body(1024);
    /// ```
    pub const fn truncate_body(after: u64) -> Self {
        Self(What::Truncate(after))
    }

    /// In each stretch of so many bytes of the response's body one byte is changed. The length stays.
    ///
    /// ```
    /// # use buttress::conditioner::Fault;
    /// let noisy = Fault::corrupt_body(1000);
    /// ```
    pub const fn corrupt_body(one_byte_in: u64) -> Self {
        Self(What::Corrupt(one_byte_in))
    }

    /// What kind it is.
    ///
    /// ```
    /// use buttress::conditioner::{Fault, FaultKind};
    /// assert_eq!(Fault::hang().kind(), FaultKind::Hang);
    /// ```
    #[must_use]
    pub const fn kind(&self) -> FaultKind {
        match self.0 {
            What::Latency(_) => FaultKind::Latency,
            What::Loss => FaultKind::Loss,
            What::Error(..) | What::Make(_) => FaultKind::Error,
            What::Status(_) => FaultKind::Status,
            What::Grpc(..) => FaultKind::Grpc,
            What::Hang(_) => FaultKind::Hang,
            What::ReplyLost => FaultKind::ReplyLost,
            What::SlowBody(_) => FaultKind::SlowBody,
            What::Bandwidth(_) => FaultKind::Bandwidth,
            What::Truncate(_) => FaultKind::TruncatedBody,
            What::Corrupt(_) => FaultKind::CorruptedBody,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self.0 {
            What::Status(status) if !(200..=999).contains(&status) => {
                Err(ConfigError::new("status", status, "from 200 to 999"))
            }
            What::Grpc(code, _) if !(1..=16).contains(&code) => {
                Err(ConfigError::new("grpc", code, "a code from 1 to 16, not 0, which is success"))
            }
            What::Hang(Some(time)) => {
                not_zero("hang_for", within_a_day("hang_for", time)?).map(drop)
            }
            What::SlowBody(time) => {
                not_zero("slow_body", within_a_day("slow_body", time)?).map(drop)
            }
            What::Bandwidth(0) => Err(ConfigError::new("bandwidth", 0, "at least 1 byte a second")),
            What::Corrupt(0) => Err(ConfigError::new("corrupt_body", 0, "at least 1")),
            _ => Ok(()),
        }
    }

    /// The fault as it happens to one call, with all that is drawn drawn.
    pub(super) fn settle(&self, draws: Draws, share: f64) -> Act {
        match &self.0 {
            What::Latency(law) => Act::Latency(law.sample(draws)),
            What::Loss => Act::Loss(share),
            What::Error(kind, message) => Act::Error(*kind, Arc::clone(message)),
            What::Make(make) => Act::Make(Arc::clone(make)),
            What::Status(status) => Act::Status(*status),
            What::Grpc(code, message) => Act::Grpc(*code, Arc::clone(message)),
            What::Hang(time) => Act::Hang(*time),
            What::ReplyLost => Act::ReplyLost,
            What::SlowBody(time) => Act::SlowBody(*time),
            What::Bandwidth(rate) => Act::Bandwidth(*rate),
            What::Truncate(after) => Act::Truncate(*after),
            What::Corrupt(one_in) => Act::Corrupt(*one_in, draws.bits(FAULT)),
        }
    }
}

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latency(law) => write!(f, "latency {law:?}"),
            Self::Loss => f.write_str("loss"),
            Self::Error(kind, message) => write!(f, "error {kind:?} {message:?}"),
            Self::Make(_) => f.write_str("error_with(..)"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Grpc(code, message) => write!(f, "grpc {code} {message:?}"),
            Self::Hang(time) => write!(f, "hang {time:?}"),
            Self::ReplyLost => f.write_str("reply lost"),
            Self::SlowBody(time) => write!(f, "slow body {time:?}"),
            Self::Bandwidth(rate) => write!(f, "bandwidth {rate} B/s"),
            Self::Truncate(after) => write!(f, "body cut after {after} B"),
            Self::Corrupt(one_in) => write!(f, "one byte in {one_in} corrupted"),
        }
    }
}

/// What is done to one call.
#[derive(Clone)]
pub(super) enum Act {
    Latency(Duration),
    /// With the rule's share, which the message names.
    Loss(f64),
    Error(io::ErrorKind, Arc<str>),
    Make(Make),
    Status(u16),
    Grpc(u32, Arc<str>),
    Hang(Option<Duration>),
    ReplyLost,
    SlowBody(Duration),
    Bandwidth(u64),
    Truncate(u64),
    /// One byte in so many, and the key that says which.
    Corrupt(u64, u64),
}

impl Act {
    pub(super) const fn kind(&self) -> FaultKind {
        match self {
            Self::Latency(_) => FaultKind::Latency,
            Self::Loss(_) => FaultKind::Loss,
            Self::Error(..) | Self::Make(_) => FaultKind::Error,
            Self::Status(_) => FaultKind::Status,
            Self::Grpc(..) => FaultKind::Grpc,
            Self::Hang(_) => FaultKind::Hang,
            Self::ReplyLost => FaultKind::ReplyLost,
            Self::SlowBody(_) => FaultKind::SlowBody,
            Self::Bandwidth(_) => FaultKind::Bandwidth,
            Self::Truncate(_) => FaultKind::TruncatedBody,
            Self::Corrupt(..) => FaultKind::CorruptedBody,
        }
    }

    pub(super) const fn is_of_body(&self) -> bool {
        matches!(
            self.kind(),
            FaultKind::SlowBody
                | FaultKind::Bandwidth
                | FaultKind::TruncatedBody
                | FaultKind::CorruptedBody
        )
    }
}

/// The error a caller sees instead of an answer.
#[derive(Debug)]
pub enum Cause {
    Io(io::ErrorKind, String),
    Made(BoxError),
}

impl Cause {
    pub(super) fn lost(share: f64) -> Self {
        let message = format!("network_conditioner: simulated drop ({})", rate(share));
        Self::Io(io::ErrorKind::ConnectionReset, message)
    }

    pub(super) fn into_error(self, mark: Injected) -> io::Error {
        match self {
            Self::Io(kind, message) => InjectedError::io(kind, mark, message),
            Self::Made(error) => {
                let message = error.to_string();
                io::Error::other(InjectedError { mark, message, source: Some(error) })
            }
        }
    }
}

/// A share as Python prints a float: `0.5`, `1.0`, `1e-05`.
pub(super) fn rate(share: f64) -> String {
    let text = format!("{share:?}");
    match text.split_once("e-") {
        Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
        None => text,
    }
}

impl Act {
    /// A fault of the same kind.
    pub(super) fn stand_in(&self) -> Fault {
        Fault(match self {
            Self::Latency(latency) => match Latency::fixed(*latency) {
                Ok(law) => What::Latency(law),
                Err(_) => What::Loss,
            },
            Self::Loss(_) => What::Loss,
            Self::Error(kind, message) => What::Error(*kind, Arc::clone(message)),
            Self::Make(make) => What::Make(Arc::clone(make)),
            Self::Status(status) => What::Status(*status),
            Self::Grpc(code, message) => What::Grpc(*code, Arc::clone(message)),
            Self::Hang(time) => What::Hang(*time),
            Self::ReplyLost => What::ReplyLost,
            Self::SlowBody(time) => What::SlowBody(*time),
            Self::Bandwidth(rate) => What::Bandwidth(*rate),
            Self::Truncate(after) => What::Truncate(*after),
            Self::Corrupt(one_in, _) => What::Corrupt(*one_in),
        })
    }
}
