use std::fmt;

use super::handle::Fallback;
use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};

/// Builds a [`Fallback`]; see [`Fallback::builder`].
///
/// | setting | default | range |
/// |---|---|---|
/// | [`max_in_flight`](Self::max_in_flight) | 1 000 000: as good as none | 1 to 1 000 000 |
///
/// ```
/// use buttress::fallback::Fallback;
/// let fallback = Fallback::builder("prices").max_in_flight(100).build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct FallbackBuilder {
    pub(super) name: Name,
    pub(super) max_in_flight: u32,
    pub(crate) observers: Observers,
}

const MOST: u32 = 1_000_000;

impl FallbackBuilder {
    pub(super) fn new(name: Name) -> Self {
        Self { name, max_in_flight: MOST, observers: Observers::default() }
    }

    /// How many fallbacks are under way at most; further calls get their original result. Set it where the fallback
    /// calls anything, to what that can bear when all calls come to it at once.
    ///
    /// The default, 1,000,000, is as good as none. A value is given at once and loads nothing, so a bound would only take
    /// answers away; and what another service bears nobody knows but you: a guess that is too low fails calls that could
    /// have been answered, one that is too high looks like protection.
    ///
    /// ```
    /// use buttress::fallback::Fallback;
    /// let error = Fallback::builder("db").max_in_flight(0).build().unwrap_err();
    /// assert_eq!(error.field(), "max_in_flight");
    /// ```
    pub fn max_in_flight(mut self, calls: u32) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// Adds a listener; see [`crate::observe`].
    ///
    /// ```
    /// use buttress::fallback::Fallback;
    /// let fallback = Fallback::builder("db")
    ///     .observe(|event: &buttress::observe::Event<'_>| eprintln!("{event:?}"))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// # Errors
    /// If a number is out of its range.
    ///
    /// ```
    /// assert!(buttress::fallback::Fallback::builder("db").build().is_ok());
    /// ```
    pub fn build(self) -> Result<Fallback, ConfigError> {
        if !(1..=MOST).contains(&self.max_in_flight) {
            return Err(ConfigError::new("max_in_flight", self.max_in_flight, "from 1 to 1000000"));
        }
        Ok(Fallback::from_parts(self))
    }
}

impl fmt::Debug for FallbackBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackBuilder")
            .field("name", &self.name)
            .field("max_in_flight", &self.max_in_flight)
            .finish_non_exhaustive()
    }
}
