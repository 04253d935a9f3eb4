//! Entries as bytes, for stores that keep them as such.
//!
//! Little-endian, fixed fields first. A version byte comes first of all: an entry of a later version is an
//! error, never an absent record. The whole input must be used up, so a truncated or an extended entry is
//! an error, too, and a checksum tells most other damage.
//!
//! | bytes | |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | state: 0 pending, 1 completed, 2 interrupted, 3 completed without a body |
//! | 2 | runs |
//! | 8 each | generation, lease until, expires at, created at |
//! | 32 | fingerprint |
//! | 16 | attempt |
//! | 2 | status, if completed |
//! | 4, then as many | head, if completed |
//! | 4, then as many | body, if completed with one |
//! | 4 | the first bytes of the SHA-256 of all before |

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Attempt, Entry, Fingerprint, Outcome, State, StoreError, StoreErrorKind, StoreTime};

const VERSION: u8 = 1;

const PENDING: u8 = 0;
const COMPLETED: u8 = 1;
const INTERRUPTED: u8 = 2;
const NOT_RETAINED: u8 = 3;

impl Entry {
    /// As bytes, for [`decode`](Self::decode).
    ///
    /// # Errors
    /// [`StoreErrorKind::TooLarge`] if head or body have 4 GiB or more.
    ///
    /// ```
    /// use buttress::store::{Attempt, Claim, Entry, Fingerprint, StoreTime};
    /// let claim = Claim::new(Fingerprint::of(b"10 EUR"), Attempt::new());
    /// let entry = Entry::claimed(&claim, StoreTime::from_micros(7), 1);
    /// let bytes = entry.encode()?;
    /// assert_eq!(Entry::decode(&bytes)?, entry);
    /// # Ok::<(), buttress::store::StoreError>(())
    /// ```
    pub fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let outcome = self.state.outcome();
        let mut bytes = Vec::with_capacity(104 + outcome.map_or(0, |outcome| outcome.len() + 10));
        bytes.push(VERSION);
        bytes.push(match &self.state {
            State::Pending => PENDING,
            State::Completed(outcome) if outcome.is_retained() => COMPLETED,
            State::Completed(_) => NOT_RETAINED,
            State::Interrupted => INTERRUPTED,
        });
        bytes.extend_from_slice(&self.runs.to_le_bytes());
        for number in [
            self.generation,
            self.lease_until.as_micros(),
            self.expires_at.as_micros(),
            self.created_at.as_micros(),
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(self.fingerprint.as_bytes());
        bytes.extend_from_slice(self.attempt.as_bytes());
        if let Some(outcome) = outcome {
            bytes.extend_from_slice(&outcome.status().to_le_bytes());
            for part in [Some(outcome.head()), outcome.body()].into_iter().flatten() {
                let length = u32::try_from(part.len()).map_err(|error| {
                    StoreError::from(StoreErrorKind::TooLarge).with_source(error)
                })?;
                bytes.extend_from_slice(&length.to_le_bytes());
                bytes.extend_from_slice(part);
            }
        }
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        Ok(bytes)
    }

    /// From bytes that [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// [`StoreErrorKind::Corrupt`] if they are damaged, cut off, or of another version. Such a record is
    /// there and must not be taken for absent.
    ///
    /// ```
    /// use buttress::store::{Entry, StoreErrorKind};
    /// assert_eq!(Entry::decode(&[2]).unwrap_err().kind(), StoreErrorKind::Corrupt);
    /// ```
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let corrupt = |what: &str| StoreError::from(StoreErrorKind::Corrupt).with_source(what);
        match bytes.first() {
            Some(&VERSION) => {}
            Some(version) => {
                return Err(corrupt(&format!("a record of version {version}, expected {VERSION}")));
            }
            None => return Err(corrupt("an empty record")),
        }
        let (rest, sum) = bytes.split_last_chunk().ok_or_else(|| corrupt("a truncated record"))?;
        if checksum(rest) != *sum {
            return Err(corrupt("a record with a wrong checksum"));
        }
        Reader(&rest[1..]).entry().ok_or_else(|| corrupt("a record with fields out of range"))
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    [hash[0], hash[1], hash[2], hash[3]]
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<StoreTime> {
        self.number().map(StoreTime::from_micros)
    }

    fn part(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(u32::from_le_bytes(self.array()?)).ok()?;
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(part)
    }

    fn entry(mut self) -> Option<Entry> {
        let [state] = self.array()?;
        let mut entry = Entry {
            runs: u16::from_le_bytes(self.array()?),
            generation: self.number()?,
            lease_until: self.time()?,
            expires_at: self.time()?,
            created_at: self.time()?,
            fingerprint: Fingerprint::from_bytes(self.array()?),
            attempt: Attempt::from_bytes(self.array()?),
            state: State::Pending,
        };
        entry.state = match state {
            PENDING => State::Pending,
            INTERRUPTED => State::Interrupted,
            COMPLETED | NOT_RETAINED => {
                let status = u16::from_le_bytes(self.array()?);
                let head = self.part()?;
                let outcome = if state == COMPLETED {
                    Outcome::new(status, head, self.part()?)
                } else {
                    Outcome::not_retained(status, head)
                };
                State::Completed(Arc::new(outcome))
            }
            _ => return None,
        };
        self.0.is_empty().then_some(entry)
    }
}
