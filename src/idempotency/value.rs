use crate::error::BoxError;

/// What [`run`](super::Idempotency::run) can record and answer with again. Implemented for texts, bytes,
/// whole numbers, `bool` and `()`; with the feature `serde` `Json<T>` takes everything else.
///
/// ```
/// use buttress::BoxError;
/// use buttress::idempotency::Replayable;
///
/// struct Receipt(u64);
/// impl Replayable for Receipt {
///     fn to_bytes(&self) -> Result<Vec<u8>, BoxError> {
///         Ok(self.0.to_le_bytes().into())
///     }
///     fn from_bytes(bytes: &[u8]) -> Result<Self, BoxError> {
///         Ok(Self(u64::from_le_bytes(bytes.try_into()?)))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be recorded and given again",
    note = "implement `buttress::idempotency::Replayable`, or use `Json<T>` (feature `serde`)"
)]
pub trait Replayable: Sized {
    /// As bytes.
    ///
    /// # Errors
    /// If it has no such form. Then the execution is recorded without its value.
    fn to_bytes(&self) -> Result<Vec<u8>, BoxError>;

    /// From bytes that [`to_bytes`](Self::to_bytes) made, possibly by an earlier version of the program.
    ///
    /// # Errors
    /// If they are not such bytes.
    fn from_bytes(bytes: &[u8]) -> Result<Self, BoxError>;
}

impl Replayable for () {
    fn to_bytes(&self) -> Result<Vec<u8>, BoxError> {
        Ok(Vec::new())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, BoxError> {
        if bytes.is_empty() { Ok(()) } else { Err("expected nothing".into()) }
    }
}

impl Replayable for Vec<u8> {
    fn to_bytes(&self) -> Result<Vec<u8>, BoxError> {
        Ok(self.clone())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, BoxError> {
        Ok(bytes.to_vec())
    }
}

impl Replayable for String {
    fn to_bytes(&self) -> Result<Vec<u8>, BoxError> {
        Ok(self.as_bytes().to_vec())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, BoxError> {
        Ok(std::str::from_utf8(bytes)?.to_owned())
    }
}

/// As text, so that a number can become wider in a later version.
macro_rules! as_text {
    ($($number:ty)*) => {
        $(impl Replayable for $number {
            fn to_bytes(&self) -> Result<Vec<u8>, BoxError> {
                Ok(self.to_string().into_bytes())
            }

            fn from_bytes(bytes: &[u8]) -> Result<Self, BoxError> {
                Ok(std::str::from_utf8(bytes)?.parse()?)
            }
        })*
    };
}

as_text!(bool u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);

/// A value that is recorded as JSON.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use buttress::idempotency::{Idempotency, Json, Scope};
/// use buttress::store::{Fingerprint, MemoryStore};
/// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
/// let ran = gate.run("order-1", Fingerprint::NONE, || async { Ok::<_, &str>(Json(vec![7, 8])) });
/// assert_eq!(ran.await.unwrap().value, Json(vec![7, 8]));
/// # }
/// ```
#[cfg(feature = "serde")]
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a value and nothing else")]
pub struct Json<T>(pub T);

#[cfg(feature = "serde")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Replayable for Json<T> {
    fn to_bytes(&self) -> Result<Vec<u8>, BoxError> {
        Ok(serde_json::to_vec(&self.0)?)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, BoxError> {
        Ok(Self(serde_json::from_slice(bytes)?))
    }
}
