use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use super::handle::Coalesce;
use super::table::Table;
use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};

/// Builds a [`Coalesce`]; see [`Coalesce::builder`].
///
/// | setting | default | range |
/// |---|---|---|
/// | [`max_keys`](Self::max_keys) | 10 000 | 1 to 10 000 000 |
/// | [`max_followers`](Self::max_followers) | 1 000 | 1 to 1 000 000 |
///
/// ```
/// use buttress::coalesce::Coalesce;
/// let coalesce: Coalesce<u32, String> = Coalesce::builder("users").max_followers(100).build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct CoalesceBuilder {
    name: Name,
    limits: Limits,
    pub(crate) observers: Observers,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) keys: u32,
    pub(super) followers: usize,
}

impl CoalesceBuilder {
    pub(super) fn new(name: Name) -> Self {
        let limits = Limits { keys: 10_000, followers: 1_000 };
        Self { name, limits, observers: Observers::default() }
    }

    /// How many calls that others can join are under way at most, nearly always of as many keys. Further ones are made each for itself.
    ///
    /// ```
    /// use buttress::coalesce::Coalesce;
    /// let error = Coalesce::builder("db").max_keys(0).build::<u8, u8, u8>().unwrap_err();
    /// assert_eq!(error.field(), "max_keys");
    /// ```
    pub fn max_keys(mut self, keys: u32) -> Self {
        self.limits.keys = keys;
        self
    }

    /// How many wait for the call of another one at most. Further ones are refused
    /// ([`Overloaded`](crate::RejectionKind::Overloaded)).
    ///
    /// ```
    /// use buttress::coalesce::Coalesce;
    /// let coalesce = Coalesce::builder("db").max_followers(50).build::<u8, u8, u8>()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn max_followers(mut self, followers: usize) -> Self {
        self.limits.followers = followers;
        self
    }

    /// Adds a listener; see [`crate::observe`].
    ///
    /// ```
    /// use buttress::coalesce::Coalesce;
    /// let coalesce = Coalesce::builder("db")
    ///     .observe(|event: &buttress::observe::Event<'_>| eprintln!("{event:?}"))
    ///     .build::<u8, u8, u8>()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// For keys `K` and answers `V`; both are mostly inferred.
    ///
    /// # Errors
    /// If a number is out of its range.
    ///
    /// ```
    /// use buttress::coalesce::Coalesce;
    /// let coalesce: Coalesce<u32, String> = Coalesce::builder("users").build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn build<K, V, O>(self) -> Result<Coalesce<K, V, O>, ConfigError>
    where
        K: Hash + Eq + Send + Sync + 'static,
        V: Send + Sync + 'static,
        O: Send + 'static,
    {
        let Limits { keys, followers } = self.limits;
        if !(1..=10_000_000).contains(&keys) {
            return Err(ConfigError::new("max_keys", keys, "from 1 to 10000000"));
        }
        if !(1..=1_000_000).contains(&followers) {
            return Err(ConfigError::new("max_followers", followers, "from 1 to 1000000"));
        }
        Ok(self.finish())
    }

    pub(super) fn finish<K, V, O>(self) -> Coalesce<K, V, O>
    where
        K: Hash + Eq + Send + Sync + 'static,
        V: Send + Sync + 'static,
        O: Send + 'static,
    {
        let table = Arc::new(Table::new(self.name, self.limits, self.observers));
        table.observers.register(&table);
        Coalesce { table }
    }
}

impl fmt::Debug for CoalesceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoalesceBuilder")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
