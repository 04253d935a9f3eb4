//! The `Idempotency-Key` field.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::ops::RangeInclusive;

use ::http::{HeaderMap, HeaderName};

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The value of an `Idempotency-Key` field: a structured-field string in quotes (RFC 8941, which the IETF
/// draft asks for), or bare, as everybody sends it. Both forms of a key are the same key.
///
/// A quoted key is printable ASCII, blanks included, with `\"` and `\\` for `"` and `\`. A bare one is visible
/// ASCII without `"`, `\`, `,` and `;`: two keys that a proxy has put on one line are not one key. Parameters
/// are refused, since nobody has said what they would mean.
///
/// Neither its `Debug` nor an error shows the key.
///
/// ```
/// use buttress::idempotency::{IdempotencyKey, KeyError};
/// let quoted = IdempotencyKey::parse(br#""8e03978e-40d5-43dd-bc93-6894a57f9324""#)?;
/// let bare = IdempotencyKey::parse(b"8e03978e-40d5-43dd-bc93-6894a57f9324")?;
/// assert_eq!(quoted, bare);
/// assert!(IdempotencyKey::parse(br#""first", "second""#).is_err());
/// # Ok::<(), KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey<'a>(Cow<'a, str>);

impl<'a> IdempotencyKey<'a> {
    /// Reads one value. Its length is for the layer to judge; only an empty one is refused here.
    ///
    /// # Errors
    /// [`KeyError::Empty`] or [`KeyError::Malformed`].
    ///
    /// ```
    /// use buttress::idempotency::{IdempotencyKey, KeyError};
    /// assert_eq!(IdempotencyKey::parse(b"order-1")?.as_str(), "order-1");
    /// assert_eq!(IdempotencyKey::parse(br#"  "say \"hi\"" "#)?.as_str(), r#"say "hi""#);
    /// assert_eq!(IdempotencyKey::parse(b""), Err(KeyError::Empty));
    /// assert_eq!(IdempotencyKey::parse(br#""open"#), Err(KeyError::Malformed));
    /// # Ok::<(), KeyError>(())
    /// ```
    pub fn parse(value: &'a [u8]) -> Result<Self, KeyError> {
        // RFC 8941, section 4.2: "Discard any leading SP characters", and the same at the end.
        let value = trim_spaces(value);
        let inner = match value {
            [] => return Err(KeyError::Empty),
            [b'"', rest @ ..] => quoted(rest)?,
            // Without a way out, so that many bytes are looked at at once.
            bare if bare.iter().fold(true, |all, byte| all & is_bare(*byte)) => {
                text(bare).map(Cow::Borrowed)?
            }
            _ => return Err(KeyError::Malformed),
        };
        if inner.is_empty() { Err(KeyError::Empty) } else { Ok(Self(inner)) }
    }

    /// The key, without quotes.
    ///
    /// ```
    /// # use buttress::idempotency::IdempotencyKey;
    /// assert_eq!(IdempotencyKey::parse(b"\"a b\"").unwrap().as_str(), "a b");
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn trim_spaces(mut value: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' '] = value {
        value = rest;
    }
    value
}

const fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() & (byte != b'"') & (byte != b'\\') & (byte != b',') & (byte != b';')
}

fn text(ascii: &[u8]) -> Result<&str, KeyError> {
    std::str::from_utf8(ascii).map_err(|_| KeyError::Malformed)
}

/// What comes after the first quote.
fn quoted(rest: &[u8]) -> Result<Cow<'_, str>, KeyError> {
    let special = |byte: &u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\');
    let plain = rest.iter().position(special).ok_or(KeyError::Malformed)?;
    if rest[plain..] == *b"\"" {
        return text(&rest[..plain]).map(Cow::Borrowed);
    }
    let mut key = String::with_capacity(rest.len());
    let mut bytes = rest.iter().copied();
    loop {
        let byte = match bytes.next() {
            Some(b'\\') => match bytes.next() {
                Some(escaped @ (b'"' | b'\\')) => escaped,
                _ => return Err(KeyError::Malformed),
            },
            Some(b'"') if bytes.len() == 0 => return Ok(Cow::Owned(key)),
            Some(byte @ b' '..=b'~') if byte != b'"' => byte,
            _ => return Err(KeyError::Malformed),
        };
        key.push(char::from(byte));
    }
}

impl fmt::Debug for IdempotencyKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({} bytes)", self.0.len())
    }
}

/// What is wrong with an idempotency key.
///
/// ```
/// use buttress::idempotency::KeyError;
/// let text = KeyError::Repeated.to_string();
/// assert_eq!(text, "there are several idempotency keys");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyError {
    /// There are several header fields. Also if they are alike.
    Repeated,
    /// It is empty.
    Empty,
    /// It is neither a structured-field string nor a bare key; or it is bare where only the former is
    /// accepted.
    Malformed,
    /// It is shorter than the layer takes: too easily drawn twice.
    TooShort,
    /// It is longer than the layer takes.
    TooLong,
    /// The layer's closure does not say whose it is.
    NoTenant,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repeated => "there are several idempotency keys",
            Self::Empty => "the idempotency key is empty",
            Self::Malformed => {
                r#"the idempotency key is neither printable ASCII in double quotes nor, where that is taken, visible ASCII without `"`, `\`, `,` and `;`"#
            }
            Self::TooShort => "the idempotency key is too short",
            Self::TooLong => "the idempotency key is too long",
            Self::NoTenant => "it is not known whose the idempotency key is",
        })
    }
}

impl StdError for KeyError {}

/// What keys a layer takes.
#[derive(Clone, Debug)]
pub(super) struct KeyRules {
    pub(super) header: HeaderName,
    pub(super) length: RangeInclusive<usize>,
    pub(super) quoted_only: bool,
}

/// For callers.
impl fmt::Display for KeyRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (header, least, most) = (&self.header, self.length.start(), self.length.end());
        write!(f, "expected one `{header}` field with {least} to {most} characters: ")?;
        if !self.quoted_only {
            f.write_str(r#"visible ASCII without `"`, `\`, `,` and `;`, or "#)?;
        }
        f.write_str(r#"printable ASCII in double quotes, with `\` before `"` and `\`"#)
    }
}

impl KeyRules {
    /// The key of a request, if it has one.
    pub(super) fn find<'a>(
        &self,
        headers: &'a HeaderMap,
    ) -> Result<Option<IdempotencyKey<'a>>, KeyError> {
        let mut values = headers.get_all(&self.header).into_iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(KeyError::Repeated);
        }
        let value = value.as_bytes();
        if self.quoted_only && trim_spaces(value).first() != Some(&b'"') {
            return Err(KeyError::Malformed);
        }
        let key = IdempotencyKey::parse(value)?;
        if key.0.len() < *self.length.start() {
            return Err(KeyError::TooShort);
        }
        if key.0.len() > *self.length.end() {
            return Err(KeyError::TooLong);
        }
        Ok(Some(key))
    }
}
