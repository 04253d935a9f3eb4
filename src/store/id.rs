//! What identifies a record, a request and an attempt. Only hashes: no key and no payload is kept.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use super::fields::{Domain, Fields, domain};

static ID: Domain = Domain::new(|| domain("buttress/id/1"));
static SPACE: Domain = Domain::new(|| domain("buttress/space/1"));
static FINGERPRINT: Domain = Domain::new(|| domain("buttress/fingerprint/1"));

/// Lower-case hexadecimal.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The name of a record: a SHA-256 of a scope and a key, each with its length, and of what they are for.
///
/// ```
/// use buttress::store::RecordId;
/// let id = RecordId::of(b"tenant-7", b"order-1");
/// assert_ne!(id, RecordId::of(b"tenant-71", b"order-"));
/// assert_eq!(id.to_string().len(), 64);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId([u8; 32]);

impl RecordId {
    /// The record of `key` in `scope`.
    ///
    /// ```
    /// use buttress::store::RecordId;
    /// assert_eq!(RecordId::of(b"", b"k"), RecordId::of(b"", b"k"));
    /// ```
    #[must_use]
    pub fn of(scope: &[u8], key: &[u8]) -> Self {
        let mut fields = Fields::new(&ID);
        fields.add(scope);
        fields.add(key);
        Self(fields.finish())
    }

    /// The records of everybody who goes by this name. Both sides are as good as random and nobody can choose
    /// them, so to meet another name's record is as hard as to meet another key's.
    pub(crate) fn within(self, space: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] ^ space.0[at]))
    }

    /// What [`within`](Self::within) takes.
    pub(crate) fn space(name: &str) -> Self {
        Self(Fields::new(&SPACE).with(name.as_bytes()).finish())
    }

    /// From its bytes, as a store keeps them.
    ///
    /// ```
    /// use buttress::store::RecordId;
    /// let id = RecordId::of(b"", b"k");
    /// assert_eq!(RecordId::from_bytes(*id.as_bytes()), id);
    /// ```
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes. They are as good as random.
    ///
    /// ```
    /// assert_eq!(buttress::store::RecordId::of(b"", b"k").as_bytes().len(), 32);
    /// ```
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordId({self})")
    }
}

/// What a request asks for, as a SHA-256: the same key with another fingerprint is a mistake of the caller,
/// not a duplicate.
///
/// ```
/// use buttress::store::Fingerprint;
/// assert_ne!(Fingerprint::of(b"10 EUR"), Fingerprint::of(b"100 EUR"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// For keys that stand for what is asked themselves, as [`compute_action_id`] makes them.
    ///
    /// [`compute_action_id`]: crate::idempotency
    ///
    /// ```
    /// use buttress::store::Fingerprint;
    /// assert_eq!(Fingerprint::NONE, Fingerprint::from_bytes([0; 32]));
    /// ```
    pub const NONE: Self = Self([0; 32]);

    /// Of one piece.
    ///
    /// ```
    /// use buttress::store::Fingerprint;
    /// assert_eq!(Fingerprint::of(b"a"), Fingerprint::builder().field(b"a").finish());
    /// ```
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        Self::builder().field(payload).finish()
    }

    /// Of several fields and a payload that comes in pieces.
    ///
    /// ```
    /// use buttress::store::Fingerprint;
    /// let whole = Fingerprint::builder().field(b"POST").field(b"/charge").chunk(b"10 EUR").finish();
    /// let pieces =
    ///     Fingerprint::builder().field(b"POST").field(b"/charge").chunk(b"10 ").chunk(b"EUR").finish();
    /// assert_eq!(whole, pieces);
    /// ```
    pub fn builder() -> FingerprintBuilder {
        FingerprintBuilder { fields: Fields::new(&FINGERPRINT), payload: None }
    }

    /// From its bytes, as a store keeps them.
    ///
    /// ```
    /// use buttress::store::Fingerprint;
    /// let of = Fingerprint::of(b"a");
    /// assert_eq!(Fingerprint::from_bytes(*of.as_bytes()), of);
    /// ```
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    ///
    /// ```
    /// assert_eq!(buttress::store::Fingerprint::of(b"a").as_bytes().len(), 32);
    /// ```
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", Hex(&self.0))
    }
}

/// See [`Fingerprint::builder`].
///
/// ```
/// use buttress::store::{Fingerprint, FingerprintBuilder};
/// // The beginning that many have in common is worked out once.
/// struct Endpoint {
///     head: FingerprintBuilder,
/// }
/// let charge = Endpoint { head: Fingerprint::builder().field(b"POST").field(b"/charge") };
/// let ten = charge.head.clone().chunk(b"10 EUR").finish();
/// let nine = charge.head.clone().chunk(b"9 EUR").finish();
/// assert_ne!(ten, nine);
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `finish` is called"]
pub struct FingerprintBuilder {
    fields: Fields,
    /// How long the payload is so far.
    payload: Option<u64>,
}

impl FingerprintBuilder {
    /// Adds a field. Order counts.
    ///
    /// ```
    /// use buttress::store::Fingerprint;
    /// let ab = Fingerprint::builder().field(b"a").field(b"b").finish();
    /// assert_ne!(ab, Fingerprint::of(b"ab"));
    /// ```
    #[inline]
    pub fn field(mut self, field: &[u8]) -> Self {
        self.add(field);
        self
    }

    #[inline]
    pub(crate) fn add(&mut self, field: &[u8]) {
        self.end_payload();
        self.fields.add(field);
    }

    #[inline]
    fn end_payload(&mut self) {
        if let Some(length) = self.payload.take() {
            self.fields.end_payload(length);
        }
    }

    /// Adds a piece of the payload. How it is cut does not count.
    ///
    /// ```
    /// use buttress::store::Fingerprint;
    /// assert_ne!(Fingerprint::builder().chunk(b"a").finish(), Fingerprint::of(b"a"));
    /// ```
    #[inline]
    pub fn chunk(mut self, chunk: &[u8]) -> Self {
        self.add_chunk(chunk);
        self
    }

    #[inline]
    pub(crate) fn add_chunk(&mut self, chunk: &[u8]) {
        self.fields.write(chunk);
        *self.payload.get_or_insert(0) += chunk.len() as u64;
    }

    /// The fingerprint of what was added.
    ///
    /// ```
    /// let empty = buttress::store::Fingerprint::builder().finish();
    /// assert_ne!(empty, buttress::store::Fingerprint::NONE);
    /// ```
    #[must_use]
    pub fn finish(mut self) -> Fingerprint {
        self.end_payload();
        Fingerprint(self.fields.finish())
    }
}

impl fmt::Debug for FingerprintBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintBuilder")
    }
}

/// The name of one claim, and the token without which nobody changes its record: a random number, new for
/// each call of `begin`. A `begin` whose answer was lost is repeated with the same one.
///
/// ```
/// use buttress::store::Attempt;
/// assert_ne!(Attempt::new(), Attempt::new());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempt([u8; 16]);

impl Attempt {
    /// A new one.
    ///
    /// ```
    /// let attempt = buttress::store::Attempt::new();
    /// ```
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is different: there is no default one")]
    pub fn new() -> Self {
        // A process that forks gives its child key and number: the two must not draw the same, or both would
        // be told that the claim is theirs.
        Self::of_process(process())
    }

    /// A new one, of which another process may draw the same if it was forked from this one.
    pub(crate) fn in_process() -> Self {
        Self::of_process(0)
    }

    fn of_process(process: u32) -> Self {
        // The standard library's keyed hash of a number that is used once: its key of 128 bits comes from
        // the operating system, once per thread.
        thread_local! {
            static SOURCE: (RandomState, Cell<u64>) = (RandomState::new(), const { Cell::new(0) });
        }
        let drawn = SOURCE.try_with(|(random, next)| {
            let number = next.get();
            next.set(number.wrapping_add(1));
            Self::draw(random, number, process)
        });
        // The thread is going down and its generator is gone.
        drawn.unwrap_or_else(|_| Self::draw(&RandomState::new(), u64::MAX, process))
    }

    fn draw(random: &RandomState, number: u64, process: u32) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&random.hash_one((number, process, 0_u8)).to_le_bytes());
        bytes[8..].copy_from_slice(&random.hash_one((number, process, 1_u8)).to_le_bytes());
        Self(bytes)
    }

    /// From its bytes, as a store keeps them.
    ///
    /// ```
    /// use buttress::store::Attempt;
    /// let attempt = Attempt::new();
    /// assert_eq!(Attempt::from_bytes(*attempt.as_bytes()), attempt);
    /// ```
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    ///
    /// ```
    /// assert_eq!(buttress::store::Attempt::new().as_bytes().len(), 16);
    /// ```
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Tells a process from those it was forked from.
fn process() -> u32 {
    if cfg!(target_family = "wasm") {
        // There are none there, and asking panics.
        return 0;
    }
    std::process::id()
}

// The token is what protects a record from others: it does not go into logs.
impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempt({}…)", Hex(&self.0[..4]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_process_draws_other_attempts_than_its_parent() {
        let random = RandomState::new();
        let (parent, child) = (Attempt::draw(&random, 7, 100), Attempt::draw(&random, 7, 101));
        assert_ne!(parent, child);
        assert_ne!(parent.0[..8], parent.0[8..], "both halves are drawn");
        assert_ne!(parent, Attempt::draw(&random, 8, 100));
    }
}
