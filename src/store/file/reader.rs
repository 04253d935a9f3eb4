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
            // Taken off when it is answered: what is left is refused.
            while let Some(read) = batch.last() {
                match *read {
                    Read::Get(id, _) => {
                        let answer = look(&snapshot, shared, &id)?;
                        if let Some(Read::Get(_, reply)) = batch.pop() {
                            let _ = reply.send(answer);
                        }
                    }
                    Read::Count(_) => {
                        let records = snapshot.len()?;
                        if let Some(Read::Count(reply)) = batch.pop() {
                            let _ = reply.send(Ok(records));
                        }
                    }
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

type Answer = Result<Option<Record>, StoreError>;

fn look(snapshot: &Snapshot, shared: &Shared, id: &RecordId) -> Result<Answer, redb::Error> {
    let now = shared.clock.now();
    let entry = match snapshot.entry(id) {
        Ok(entry) => entry.filter(|entry| !entry.is_expired(now)),
        Err(Trouble::One(error)) => return Ok(Err(error)),
        Err(Trouble::All(error)) => return Err(error),
    };
    Ok(Ok(entry.map(|entry| entry.record(now))))
}
