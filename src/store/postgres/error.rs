//! What the errors of the driver and of the pool mean: above all, whether the statement may have been applied.

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::store::{StoreError, StoreErrorKind};

/// No connection was to be had: nothing was sent.
pub(super) fn no_connection(error: PoolError) -> StoreError {
    let kind = match &error {
        PoolError::NoRuntimeSpecified => StoreErrorKind::Refused,
        _ => StoreErrorKind::Unavailable,
    };
    StoreError::new(kind).with_source(error)
}

/// A statement failed, of its own.
pub(super) fn statement(error: tokio_postgres::Error) -> StoreError {
    let kind = match error.code() {
        Some(code) => of_state(code),
        // The row was not what it was asked to be.
        None if is_conversion(&error) => StoreErrorKind::Corrupt,
        // The connection broke, before or after the statement got through.
        None => StoreErrorKind::Unknown,
    };
    StoreError::new(kind).with_source(error)
}

/// The error of what changes nothing.
pub(super) fn unapplied(error: StoreError) -> StoreError {
    match error.kind() {
        StoreErrorKind::Unknown => StoreError::new(StoreErrorKind::Unavailable).with_source(error),
        _ => error,
    }
}

/// The driver does not tell its kinds apart, except by their words and by having a source of that kind.
fn is_conversion(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    text.starts_with("error deserializing") || text.starts_with("query returned an unexpected")
}

fn of_state(code: &SqlState) -> StoreErrorKind {
    // The server ended the connection, perhaps between the commit and its answer; or says that it does not
    // know itself.
    let unknown = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN,
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
    ];
    // It tried, and took all of it back; or did not try.
    let not_now = [
        SqlState::QUERY_CANCELED,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::OUT_OF_MEMORY,
        SqlState::TOO_MANY_CONNECTIONS,
        // The connection has lost its prepared statements, or their tables have been changed: another one
        // has its own.
        SqlState::INVALID_SQL_STATEMENT_NAME,
        SqlState::FEATURE_NOT_SUPPORTED,
    ];
    match code {
        code if unknown.contains(code) || code.code().starts_with("08") => StoreErrorKind::Unknown,
        code if not_now.contains(code) => StoreErrorKind::Unavailable,
        code if *code == SqlState::DISK_FULL => StoreErrorKind::Full,
        code if *code == SqlState::PROGRAM_LIMIT_EXCEEDED => StoreErrorKind::TooLarge,
        _ => StoreErrorKind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ends_a_connection_leaves_it_open_what_was_done() {
        for (code, kind) in [
            ("57P01", StoreErrorKind::Unknown),
            ("57P02", StoreErrorKind::Unknown),
            ("40003", StoreErrorKind::Unknown),
            ("08006", StoreErrorKind::Unknown),
            ("57P03", StoreErrorKind::Unavailable),
            ("57014", StoreErrorKind::Unavailable),
            ("55P03", StoreErrorKind::Unavailable),
            ("25006", StoreErrorKind::Unavailable),
            ("53100", StoreErrorKind::Full),
            ("42P01", StoreErrorKind::Refused),
        ] {
            assert_eq!(of_state(&SqlState::from_code(code)), kind, "{code}");
        }
    }
}
