//! Rows and parameters.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;

use crate::store::{
    Attempt, Entry, Fingerprint, Outcome, State, StoreError, StoreErrorKind, StoreTime,
};

/// The longest a duration can be here: 73 000 years, with room for another one and today's date beside it.
const MAX_MICROS: i64 = 1 << 61;

/// A duration in microseconds, rounded up.
pub(super) fn micros(duration: Duration) -> i64 {
    let micros = duration.as_nanos().div_ceil(1_000);
    i64::try_from(micros).unwrap_or(i64::MAX).min(MAX_MICROS)
}

fn corrupt(what: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt).with_source(format!("column {what}"))
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
    name: &str,
) -> Result<T, StoreError> {
    row.try_get(index).map_err(|_| corrupt(name))
}

pub(super) fn number(row: &Row, index: usize, name: &str) -> Result<u64, StoreError> {
    u64::try_from(column::<i64>(row, index, name)?).map_err(|_| corrupt(name))
}

pub(super) fn time(row: &Row, index: usize, name: &str) -> Result<StoreTime, StoreError> {
    Ok(StoreTime::from_micros(number(row, index, name)?))
}

fn bytes<const N: usize>(row: &Row, index: usize, name: &str) -> Result<[u8; N], StoreError> {
    column::<&[u8]>(row, index, name)?.try_into().map_err(|_| corrupt(name))
}

/// From the columns that every statement reads first.
pub(super) fn entry(row: &Row) -> Result<Entry, StoreError> {
    let state = match column::<i16>(row, 0, "state")? {
        0 => State::Pending,
        1 => {
            let status: Option<i32> = column(row, 8, "status")?;
            let status = status.and_then(|status| u16::try_from(status).ok());
            let status = status.ok_or_else(|| corrupt("status"))?;
            let head: &[u8] =
                column::<Option<&[u8]>>(row, 9, "head")?.ok_or_else(|| corrupt("head"))?;
            let body: Option<&[u8]> = column(row, 10, "body")?;
            State::Completed(Arc::new(match body {
                Some(body) => Outcome::new(status, head, body),
                None => Outcome::not_retained(status, head),
            }))
        }
        2 => State::Interrupted,
        _ => return Err(corrupt("state")),
    };
    let runs: i32 = column(row, 4, "runs")?;
    Ok(Entry {
        state,
        generation: number(row, 1, "generation")?,
        attempt: Attempt::from_bytes(bytes(row, 2, "attempt")?),
        fingerprint: Fingerprint::from_bytes(bytes(row, 3, "fingerprint")?),
        runs: u16::try_from(runs).map_err(|_| corrupt("runs"))?,
        lease_until: time(row, 5, "lease_until")?,
        expires_at: time(row, 6, "expires_at")?,
        created_at: time(row, 7, "created_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_up_and_bounded() {
        assert_eq!(micros(Duration::from_nanos(1)), 1);
        assert_eq!(micros(Duration::from_secs(1)), 1_000_000);
        let today = 1_800_000_000_000_000_i64;
        let longest = micros(Duration::MAX);
        assert!(longest.checked_add(longest).and_then(|both| both.checked_add(today)).is_some());
    }
}
