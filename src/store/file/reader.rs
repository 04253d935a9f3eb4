//! The thread that looks records up, so that they do not wait for commits.

use super::lane::{Operation, Reply};
use super::shared::Shared;
use super::tables::{Snapshot, Trouble};
use super::writer::Write;
use crate::store::{Record, RecordId, StoreError};

const MOST: usize = 256;

pub(super) enum Read {
    Get(RecordId, Reply<Option<Record>>),
    Count(Reply<u64>),
}

impl Operation for Read {
    fn refuse(self, error: &StoreError) {
        match self {
            Self::Get(_, reply) => drop(reply.send(Err(error.clone()))),
            Self::Count(reply) => drop(reply.send(Err(error.clone()))),
        }
    }
}

pub(super) fn run(shared: &Shared) {
    let mut batch = Vec::new();
    while shared.reads.take(MOST, &mut batch) {
        let done = shared.with(|database| {
            let snapshot = Snapshot::new(database, shared.clock.opened())?;
            while let Some(read) = batch.pop() {
                if let Err((read, error)) = answer(&snapshot, shared, read) {
                    batch.push(read);
                    return Err(error);
                }
            }
            Ok(())
        });
        if let Err(failure) = done {
            let (error, why) = failure.explain(false);
            if let Some(why) = why {
                // The thread that writes opens it again.
                shared.give_up(&why);
            }
            let _ = shared.writes.push(Write::Reopen, super::lane::Class::Own);
            batch.drain(..).for_each(|read| read.refuse(&error));
        }
    }
    shared.reads.end();
    shared.watch.wake();
}

fn answer(snapshot: &Snapshot, shared: &Shared, read: Read) -> Result<(), (Read, redb::Error)> {
    match read {
        Read::Get(id, reply) => {
            let now = shared.clock.now();
            let answer = match snapshot.entry(&id) {
                Ok(entry) => {
                    Ok(entry.filter(|entry| !entry.is_expired(now)).map(|entry| entry.record(now)))
                }
                Err(Trouble::One(error)) => Err(error),
                Err(Trouble::All(error)) => return Err((Read::Get(id, reply), error)),
            };
            let _ = reply.send(answer);
        }
        Read::Count(reply) => match snapshot.len() {
            Ok(records) => drop(reply.send(Ok(records))),
            Err(error) => return Err((Read::Count(reply), error)),
        },
    }
    Ok(())
}
