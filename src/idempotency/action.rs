//! Ids of actions, compatible with those of nodus-retry: the SHA-256 of a canonical JSON text.

mod canonical;
mod key;

use std::fmt;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::store::Hex;

/// The id of an action: the same for the same type, payload and scope, whatever the order of their fields.
///
/// It is the SHA-256, in hexadecimal, of `{"action_type":…,"payload":…,"scope":…}` as JSON with sorted keys,
/// no spaces and everything beyond ASCII escaped: byte for byte what Python's
/// `json.dumps(…, sort_keys=True, separators=(",", ":"))` gives, so ids agree with those of programs that use
/// nodus-retry.
///
/// Numbers count as they are written: `1`, `1.0` and `true` are different. Two texts that look alike but are
/// composed differently are, too.
///
/// # Errors
/// If the payload or the scope have no such form: a number that is not finite, a key that occurs twice, a
/// key that is no text, whole number or truth value.
///
/// ```
/// use buttress::idempotency::compute_action_id;
/// use std::collections::BTreeMap;
///
/// let payload = BTreeMap::from([("key", "k"), ("value", "v")]);
/// let id = compute_action_id("memory.write", &payload, "run-001")?;
/// assert_eq!(id, compute_action_id("memory.write", &payload, "run-001")?);
/// assert_ne!(id, compute_action_id("memory.write", &payload, "run-002")?);
/// # Ok::<(), buttress::idempotency::ActionIdError>(())
/// ```
pub fn compute_action_id<P, C>(
    action_type: &str,
    payload: &P,
    scope: &C,
) -> Result<String, ActionIdError>
where
    P: Serialize + ?Sized,
    C: Serialize + ?Sized,
{
    let mut text = String::from(r#"{"action_type":"#);
    canonical::write(action_type, &mut text)?;
    text.push_str(r#","payload":"#);
    canonical::write(payload, &mut text)?;
    text.push_str(r#","scope":"#);
    canonical::write(scope, &mut text)?;
    text.push('}');
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    Ok(Hex(&hash).to_string())
}

/// Why something has no [action id](compute_action_id).
///
/// ```
/// let error = buttress::idempotency::compute_action_id("t", &f64::NAN, "s").unwrap_err();
/// assert_eq!(error.to_string(), "no canonical JSON: NaN is not a number of JSON");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionIdError(String);

impl fmt::Display for ActionIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no canonical JSON: {}", self.0)
    }
}

impl std::error::Error for ActionIdError {}

impl serde::ser::Error for ActionIdError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}
