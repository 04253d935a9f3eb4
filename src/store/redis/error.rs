//! What the errors of the client mean: above all, whether the script may have run.

use std::fmt;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::{StoreError, StoreErrorKind};

pub(super) fn of(error: RedisError) -> StoreError {
    StoreError::new(kind(&error)).with_source(error)
}

fn kind(error: &RedisError) -> StoreErrorKind {
    use ServerErrorKind as Server;
    match error.kind() {
        // Not even a connection.
        ErrorKind::Io if error.is_connection_refusal() => StoreErrorKind::Unavailable,
        // It broke, or there was no answer in time: before or after the script was run.
        ErrorKind::Io => StoreErrorKind::Unknown,
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => StoreErrorKind::Corrupt,
        ErrorKind::Server(
            Server::BusyLoading
            | Server::ReadOnly
            | Server::MasterDown
            | Server::ClusterDown
            | Server::TryAgain
            | Server::NoScript,
        ) => StoreErrorKind::Unavailable,
        _ => match error.code() {
            // Before the script has written anything: the server looks first.
            Some("OOM") => StoreErrorKind::Full,
            // It cannot write to its disk, or has too few replicas, or somebody's script does not end.
            Some("MISCONF" | "NOREPLICAS" | "BUSY" | "UNKILLABLE") => StoreErrorKind::Unavailable,
            // The former is ours.
            Some("VERSION" | "WRONGTYPE") => StoreErrorKind::Corrupt,
            _ => StoreErrorKind::Refused,
        },
    }
}

/// The server may evict records to make room, which would let their effects happen again: the source of a
/// [`StoreErrorKind::Refused`].
///
/// ```
/// use buttress::store::{EvictionPolicyError, StoreError};
/// use std::error::Error;
/// fn explain(error: &StoreError) -> Option<&str> {
///     Some(error.source()?.downcast_ref::<EvictionPolicyError>()?.policy())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictionPolicyError {
    pub(super) policy: String,
}

impl EvictionPolicyError {
    /// What the server says: its `maxmemory-policy`; empty if it does not say.
    ///
    /// ```
    /// # use buttress::store::EvictionPolicyError;
    /// fn evicts_any(error: &EvictionPolicyError) -> bool {
    ///     error.policy().starts_with("allkeys-")
    /// }
    /// ```
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.policy
    }
}

impl fmt::Display for EvictionPolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = &self.policy;
        write!(f, "the server's maxmemory-policy is `{policy}`, and must be `noeviction`")
    }
}

impl std::error::Error for EvictionPolicyError {}
