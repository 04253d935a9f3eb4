use std::fmt;
use std::io;

use crate::injected::Injected;
use crate::rejection::Rejection;

use super::fault::Cause;
use super::injection::{Held, Injection};

/// What [`Conditioner::apply`](super::Conditioner::apply) did to a call that is to be made. Keep it until the call has ended: it
/// counts for [`max_active`](super::Rule::max_active) until it is dropped.
///
/// ```
/// use buttress::conditioner::{Call, Conditioner, Fault, Rule};
/// let conditioner = Conditioner::builder("api").rule(Rule::new(Fault::reply_lost())).build()?;
/// conditioner.arm().unwrap();
/// let applied = conditioner.apply_blocking(&Call::new()).unwrap();
/// let answer = "charged"; // the call
/// let answer = applied.after(answer);
/// assert!(answer.is_err(), "the money is gone, the caller does not know");
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[must_use = "a lost reply is lost only if it is asked for"]
pub struct Applied(Option<Injection>);

impl Applied {
    pub(super) const NOTHING: Self = Self(None);

    /// The waits are over.
    pub(super) fn of(mut injection: Injection) -> Result<Self, Rejection> {
        match injection.instead.take() {
            None => Ok(Self(Some(injection))),
            Some(instead) => {
                let (mark, cause) = instead.into_cause();
                Err(injection.shared().rejection(mark, cause))
            }
        }
    }

    /// What was done, if anything.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Conditioner, FaultKind};
    /// # use std::time::Duration;
    /// let slow = Conditioner::network(Duration::from_secs(5), Duration::ZERO, 0.0, None)?;
    /// let applied = slow.apply_blocking_with(|_| {}, &Call::new()).unwrap();
    /// assert_eq!(applied.injected().unwrap().fault(), FaultKind::Latency);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn injected(&self) -> Option<Injected> {
        self.0.as_ref().map(|injection| injection.mark)
    }

    /// Hands the answer on, or loses it.
    ///
    /// # Errors
    /// A [`Rejection`] if the reply is to be lost; the answer is dropped.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Conditioner};
    /// # use std::time::Duration;
    /// let slow = Conditioner::network(Duration::ZERO, Duration::ZERO, 0.0, None)?;
    /// assert_eq!(slow.apply_blocking(&Call::new()).unwrap().after(7).unwrap(), 7);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn after<T>(self, answer: T) -> Result<T, Rejection> {
        match self.0 {
            Some(Injection { reply_lost: Some(mark), held, .. }) => Err(reply_lost(mark, &held)),
            _ => Ok(answer),
        }
    }
}

impl fmt::Debug for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Applied").field(&self.injected()).finish()
    }
}

pub(super) fn reply_lost(mark: Injected, held: &Held) -> Rejection {
    let message = "the reply was lost on purpose".to_owned();
    held.shared.rejection(mark, Cause::Io(io::ErrorKind::ConnectionReset, message))
}
