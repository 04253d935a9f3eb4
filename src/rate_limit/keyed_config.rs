use std::marker::PhantomData;

use super::config::missing_quota;
use super::keyed::KeyedRateLimiter;
use super::keyed_shared::Keyed;
use super::ledger::Ledger;
use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};
use crate::quota::Quota;

const MAX_CAPACITY: usize = 1 << 28;

/// What happens to a key that finds no room in a [`KeyedRateLimiter`]: more than `capacity` keys are
/// alive, that is, have not got all their tokens back.
///
/// ```
/// assert_eq!(buttress::rate_limit::WhenFull::default(), buttress::rate_limit::WhenFull::Reject);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// Its calls are refused as `Overloaded` until a slot dies; the refusal says when. The default: a
    /// flood of made-up keys must not switch the limit off.
    #[default]
    Reject,
    /// Its calls are let through unlimited.
    Allow,
    /// It shares one bucket with all others that found no room.
    ShareOne,
}

impl WhenFull {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Reject => 0,
            Self::Allow => 1,
            Self::ShareOne => 2,
        }
    }

    pub(crate) fn of(code: u8) -> Self {
        match code {
            1 => Self::Allow,
            2 => Self::ShareOne,
            _ => Self::Reject,
        }
    }
}

/// Makes a [`KeyedRateLimiter`]; see [`KeyedRateLimiter::builder`].
///
/// | setter | range | default |
/// |---|---|---|
/// | [`quota`](Self::quota) | any valid one | none: must be given |
/// | [`capacity`](Self::capacity) | 1 to 2^28 | none: must be given |
/// | [`when_full`](Self::when_full) | | [`WhenFull::Reject`] |
/// | [`shadow`](Self::shadow) | | off |
///
/// ```
/// use buttress::rate_limit::{KeyedRateLimiter, WhenFull};
/// let limiter = KeyedRateLimiter::<u32>::builder("per user")
///     .quota("5/s burst 10".parse()?)
///     .capacity(10_000)
///     .when_full(WhenFull::ShareOne)
///     .build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct KeyedRateLimiterBuilder<K: ?Sized> {
    name: Name,
    quota: Option<Quota>,
    capacity: Option<usize>,
    when_full: WhenFull,
    shadow: bool,
    pub(crate) observers: Observers,
    key: PhantomData<fn(&K)>,
}

impl<K: ?Sized> KeyedRateLimiterBuilder<K> {
    pub(crate) fn new(name: Name) -> Self {
        Self {
            name,
            quota: None,
            capacity: None,
            when_full: WhenFull::default(),
            shadow: false,
            observers: Observers::default(),
            key: PhantomData,
        }
    }

    /// What each key is let through.
    ///
    /// ```
    /// # use buttress::rate_limit::KeyedRateLimiter;
    /// let builder = KeyedRateLimiter::<u64>::builder("clients").quota("10/s".parse()?);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// For how many live keys there must be room. Choose the number of keys you expect to see within
    /// [`Quota::fill_time`], with a margin: 32 bytes each.
    ///
    /// ```
    /// # use buttress::rate_limit::KeyedRateLimiter;
    /// let builder = KeyedRateLimiter::<u64>::builder("clients").capacity(10_000);
    /// ```
    pub fn capacity(mut self, keys: usize) -> Self {
        self.capacity = Some(keys);
        self
    }

    /// What happens to a key that finds no room.
    ///
    /// ```
    /// # use buttress::rate_limit::{KeyedRateLimiter, WhenFull};
    /// let builder = KeyedRateLimiter::<u64>::builder("clients").when_full(WhenFull::ShareOne);
    /// ```
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.when_full = policy;
        self
    }

    /// Shadow mode; see [`RateLimiterBuilder::shadow`](super::RateLimiterBuilder::shadow).
    ///
    /// ```
    /// # use buttress::rate_limit::KeyedRateLimiter;
    /// let builder = KeyedRateLimiter::<u64>::builder("clients").shadow(true);
    /// ```
    pub fn shadow(mut self, on: bool) -> Self {
        self.shadow = on;
        self
    }

    /// Adds a listener for refusals, and for a full table (at most once a second).
    ///
    /// ```
    /// # use buttress::rate_limit::KeyedRateLimiter;
    /// # use buttress::observe::Event;
    /// let builder = KeyedRateLimiter::<u64>::builder("clients").observe(|_: &Event<'_>| ());
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// The limiter.
    ///
    /// # Errors
    /// No quota, no capacity, or a capacity of 0 or above 2^28.
    ///
    /// ```
    /// # use buttress::rate_limit::KeyedRateLimiter;
    /// let error = KeyedRateLimiter::<u64>::builder("clients").quota("10/s".parse()?).build().unwrap_err();
    /// assert_eq!(error.field(), "capacity");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn build(self) -> Result<KeyedRateLimiter<K>, ConfigError> {
        const EXPECTED: &str = "room for at least 1 and at most 2^28 keys";
        let quota = self.quota.ok_or_else(missing_quota)?;
        let capacity =
            self.capacity.ok_or_else(|| ConfigError::new("capacity", "none", EXPECTED))?;
        if !(1..=MAX_CAPACITY).contains(&capacity) {
            return Err(ConfigError::new("capacity", capacity, EXPECTED));
        }
        let ledger = Ledger::new(self.name, self.observers);
        let keyed = Keyed::new(quota, self.shadow, capacity, self.when_full, ledger);
        Ok(KeyedRateLimiter::from_shared(keyed))
    }

    pub(crate) fn apply(&self, running: &Keyed) -> Result<(), ConfigError> {
        let quota = self.quota.ok_or_else(missing_quota)?;
        let room = running.capacity();
        if let Some(capacity) = self.capacity.filter(|capacity| *capacity != room) {
            let expected = format!("{room}, as it was built with: the table does not grow");
            return Err(ConfigError::new("capacity", capacity, expected));
        }
        running.reconfigure(quota, self.shadow, self.when_full);
        Ok(())
    }
}
