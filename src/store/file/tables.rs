//! What is in the file.
//!
//! | table | key | value |
//! |---|---|---|
//! | `buttress.meta` | `version` | 1 |
//! | | `clock` | the latest time, and the greatest generation, of anything in the file |
//! | `buttress.records` | id | due (8), written (8), [the entry](crate::store::Entry::encode) |
//! | `buttress.expiry` | due, id | |
//!
//! Each record has one line in `expiry`, at `due`, which is when it expires or before: a record that turns
//! out to live longer is put back when its turn comes. `written` tells records of this process from those of
//! an earlier one. Numbers in values are little-endian.

use std::time::Duration;

use redb::{
    Database, Durability, MultimapTableHandle, ReadTransaction, ReadableDatabase, ReadableTable,
    Table, TableDefinition, TableHandle, WriteTransaction,
};

use super::error::Failure;
use crate::store::{
    Begun, Change, Claim, Entry, OpenErrorKind, RecordId, State, Step, StoreError, StoreTime,
};

pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("buttress.meta");
pub(super) const RECORDS: TableDefinition<'static, &[u8; 32], &[u8]> =
    TableDefinition::new("buttress.records");
const EXPIRY: TableDefinition<'static, (u64, &[u8; 32]), ()> =
    TableDefinition::new("buttress.expiry");

const VERSION: u64 = 1;

/// A transaction that is on the disk when it has been committed, and that needs no repair after a crash.
fn transaction(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Whether it is a store of ours, making one of an empty database. Returns the latest time in it.
pub(super) fn recognise(database: &Database) -> Result<u64, Failure> {
    let reading = database.begin_read()?;
    let mut names: Vec<_> = reading.list_tables()?.map(|table| table.name().to_owned()).collect();
    names.extend(reading.list_multimap_tables()?.map(|table| table.name().to_owned()));
    if names.is_empty() {
        drop(reading);
        let transaction = transaction(database)?;
        transaction.open_table(META)?.insert("version", VERSION)?;
        transaction.open_table(RECORDS)?;
        transaction.open_table(EXPIRY)?;
        transaction.commit()?;
        return Ok(0);
    }
    if !names.iter().any(|name| name.starts_with("buttress.")) {
        let found = format!("it holds {}", names.join(", "));
        return Err(Failure::because(OpenErrorKind::Foreign, found));
    }
    let meta = reading.open_table(META)?;
    let number = |key| Ok::<_, redb::Error>(meta.get(key)?.map(|guard| guard.value()));
    match number("version")? {
        Some(VERSION) => {}
        Some(other) => {
            let found = format!("version {other}, expected {VERSION}");
            return Err(Failure::because(OpenErrorKind::Version, found));
        }
        None => return Err(Failure::because(OpenErrorKind::Corrupt, "no version")),
    }
    reading.open_table(RECORDS)?;
    reading.open_table(EXPIRY)?;
    Ok(number("clock")?.unwrap_or(0))
}

/// A record as it is in the file.
struct Row {
    due: StoreTime,
    entry: Entry,
}

fn encode(row: &Row, now: StoreTime) -> Result<Vec<u8>, StoreError> {
    let mut bytes = row.entry.encode()?;
    let times = [row.due.as_micros().to_le_bytes(), now.as_micros().to_le_bytes()];
    bytes.splice(0..0, times.concat());
    Ok(bytes)
}

/// `opened`: a record that was pending before is nobody's any more, since nobody else has the file open.
fn decode(bytes: &[u8], opened: StoreTime) -> Result<Row, StoreError> {
    // The decoder says what is wrong with fewer bytes.
    let Some((due, rest)) = bytes.split_first_chunk() else { return Err(short()) };
    let Some((written, rest)) = rest.split_first_chunk() else { return Err(short()) };
    let [due, written] = [due, written].map(|b| StoreTime::from_micros(u64::from_le_bytes(*b)));
    let mut entry = Entry::decode(rest)?;
    if entry.state == State::Pending && written < opened {
        entry.lease_until = entry.lease_until.min(opened);
    }
    Ok(Row { due, entry })
}

fn short() -> StoreError {
    Entry::decode(&[]).err().unwrap_or(crate::store::StoreErrorKind::Corrupt.into())
}

/// What can go wrong with one operation.
pub(super) enum Trouble {
    /// Only this one.
    One(StoreError),
    /// The file: nothing more can be done in this transaction.
    All(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::All(error.into())
    }
}

/// What the latest commit left.
pub(super) struct Snapshot {
    transaction: ReadTransaction,
    opened: StoreTime,
}

impl Snapshot {
    pub(super) fn new(database: &Database, opened: StoreTime) -> Result<Self, redb::Error> {
        Ok(Self { transaction: database.begin_read()?, opened })
    }

    pub(super) fn entry(&self, id: &RecordId) -> Result<Option<Entry>, Trouble> {
        let records = self.transaction.open_table(RECORDS)?;
        let Some(bytes) = records.get(id.as_bytes())? else { return Ok(None) };
        decode(bytes.value(), self.opened).map(|row| Some(row.entry)).map_err(Trouble::One)
    }

    /// Whether anything is due.
    pub(super) fn is_due(&self, now: StoreTime) -> Result<bool, redb::Error> {
        let expiry = self.transaction.open_table(EXPIRY)?;
        let first = expiry.first()?;
        Ok(first.is_some_and(|(key, _)| key.value().0 <= now.as_micros()))
    }

    pub(super) fn len(&self) -> Result<u64, redb::Error> {
        use redb::ReadableTableMetadata;
        Ok(self.transaction.open_table(RECORDS)?.len()?)
    }
}

/// The tables in a transaction that changes them.
pub(super) struct Tables<'t> {
    meta: Table<'t, &'static str, u64>,
    records: Table<'t, &'static [u8; 32], &'static [u8]>,
    expiry: Table<'t, (u64, &'static [u8; 32]), ()>,
    opened: StoreTime,
    pub(super) now: StoreTime,
    pub(super) changed: bool,
}

/// Makes changes in a transaction of their own. They are on the disk when this returns.
pub(super) fn write<T>(
    database: &Database,
    opened: StoreTime,
    now: StoreTime,
    work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error>,
) -> Result<T, redb::Error> {
    let transaction = transaction(database)?;
    let mut tables = Tables {
        meta: transaction.open_table(META)?,
        records: transaction.open_table(RECORDS)?,
        expiry: transaction.open_table(EXPIRY)?,
        opened,
        now,
        changed: false,
    };
    let done = work(&mut tables)?;
    let changed = tables.changed;
    drop(tables);
    if changed {
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(done)
}

impl Tables<'_> {
    fn find(&self, id: &RecordId) -> Result<Option<Row>, Trouble> {
        let Some(bytes) = self.records.get(id.as_bytes())? else { return Ok(None) };
        decode(bytes.value(), self.opened).map(Some).map_err(Trouble::One)
    }

    /// `generation` as for [`Entry::claimed`].
    pub(super) fn begin(
        &mut self,
        id: &RecordId,
        claim: &Claim,
        generation: u64,
    ) -> Result<Begun, Trouble> {
        if let Some(mut row) = self.find(id)? {
            let step = row.entry.begin(claim, self.now, generation);
            return self.settle(id, row, step);
        }
        let entry = Entry::claimed(claim, self.now, generation);
        self.put(id, &Row { due: entry.expires_at, entry }, None)?;
        Ok(Begun::Run { generation, runs: 1 })
    }

    /// An operation of an owner or an operator; `absent` if there is no such record.
    pub(super) fn with<T>(
        &mut self,
        id: &RecordId,
        absent: T,
        operation: impl FnOnce(&mut Entry, StoreTime) -> Step<T>,
    ) -> Result<T, Trouble> {
        let Some(mut row) = self.find(id)? else { return Ok(absent) };
        let step = operation(&mut row.entry, self.now);
        self.settle(id, row, step)
    }

    fn settle<T>(&mut self, id: &RecordId, mut row: Row, step: Step<T>) -> Result<T, Trouble> {
        match step.change {
            Change::Keep => {}
            Change::Put => {
                let before = row.due;
                // A line may come too early, not too late.
                row.due = row.due.min(row.entry.expires_at);
                self.put(id, &row, Some(before))?;
            }
            Change::Remove => self.remove(id, row.due)?,
        }
        Ok(step.answer)
    }

    fn put(&mut self, id: &RecordId, row: &Row, before: Option<StoreTime>) -> Result<(), Trouble> {
        let bytes = encode(row, self.now).map_err(Trouble::One)?;
        self.changed = true;
        self.records.insert(id.as_bytes(), &bytes[..])?;
        self.reschedule(id, before, row.due)?;
        Ok(())
    }

    fn reschedule(
        &mut self,
        id: &RecordId,
        before: Option<StoreTime>,
        due: StoreTime,
    ) -> Result<(), redb::Error> {
        if before == Some(due) {
            return Ok(());
        }
        if let Some(before) = before {
            self.expiry.remove((before.as_micros(), id.as_bytes()))?;
        }
        self.expiry.insert((due.as_micros(), id.as_bytes()), ())?;
        Ok(())
    }

    fn remove(&mut self, id: &RecordId, due: StoreTime) -> Result<(), redb::Error> {
        self.changed = true;
        self.records.remove(id.as_bytes())?;
        self.expiry.remove((due.as_micros(), id.as_bytes()))?;
        Ok(())
    }

    /// Looks at up to `at_most` records whose turn has come and removes those that have expired. How many,
    /// and whether there may be more to look at.
    pub(super) fn expire(&mut self, at_most: usize) -> Result<(usize, bool), redb::Error> {
        let mut turns = Vec::new();
        for line in self.expiry.iter()?.take(at_most) {
            let (key, ()) = line.map(|(key, _)| (key, ()))?;
            let (due, id) = key.value();
            if due > self.now.as_micros() {
                break;
            }
            turns.push((StoreTime::from_micros(due), RecordId::from_bytes(*id)));
        }
        let more = turns.len() == at_most;
        let mut removed = 0;
        for (due, id) in turns {
            let found = self.records.get(id.as_bytes())?.map(|bytes| bytes.value().to_vec());
            let next = match found.as_deref().map(|bytes| decode(bytes, self.opened)) {
                None => None,
                Some(Ok(row)) if row.entry.is_expired(self.now) => None,
                Some(Ok(row)) => Some(row.entry.expires_at.max(row.entry.lease_until)),
                // Cannot be read: it is there, so it stays. It must not be in the way of the others.
                Some(Err(_)) => Some(self.now.after(UNREADABLE)),
            };
            match (next, found) {
                (Some(next), Some(mut bytes)) => {
                    self.changed = true;
                    if let Some(first) = bytes.first_chunk_mut() {
                        *first = next.as_micros().to_le_bytes();
                        self.records.insert(id.as_bytes(), &bytes[..])?;
                    }
                    self.reschedule(&id, Some(due), next)?;
                }
                (_, found) => {
                    removed += usize::from(found.is_some());
                    self.remove(&id, due)?;
                }
            }
        }
        Ok((removed, more))
    }

    /// Nothing in the file is later than this.
    pub(super) fn set_clock(&mut self, latest: u64) -> Result<(), redb::Error> {
        self.meta.insert("clock", latest)?;
        Ok(())
    }
}

/// When a record that cannot be read is looked at again.
const UNREADABLE: Duration = Duration::from_secs(60 * 60);
