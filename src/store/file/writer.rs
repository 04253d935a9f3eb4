//! The thread that changes records. It takes everything that waits, makes it in one transaction, and
//! answers when that is on the disk: so a hundred callers share the price of one sync. It never waits for a
//! batch to fill, because the next one fills while the disk syncs this one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redb::Database;

use super::lane::{Class, Operation, Reply};
use super::shared::Shared;
use super::tables::{self, Snapshot, Tables, Trouble};
use crate::store::{
    Attempt, Begun, Change, Claim, Finish, Outcome, RecordId, Renewed, Resolution, StoreError,
    StoreTime,
};

/// Operations in one transaction.
const MOST: usize = 512;
/// Expired records that a claim of a new key removes on its way. More than one, so that a file of short
/// retention does not grow.
const ON_THE_WAY: usize = 2;
/// Expired records that one transaction removes for a purge, so that others do not wait long.
const AT_ONCE: usize = 512;

pub(super) enum Write {
    Begin(RecordId, Claim, Reply<Begun>),
    Renew(RecordId, Attempt, Duration, Duration, Reply<Renewed>),
    Finish(RecordId, Finishing, Reply<Finish>),
    Purge {
        left: usize,
        removed: usize,
        reply: Reply<usize>,
    },
    Abandon(RecordId, Attempt),
    /// Nothing but to see that the file is open.
    Reopen,
}

pub(super) enum Finishing {
    Complete(Attempt, Arc<Outcome>, Duration),
    Release(Attempt),
    Interrupt(Attempt, Duration),
    Resolve(u64, Resolution),
}

impl Write {
    fn id(&self) -> Option<&RecordId> {
        match self {
            Self::Begin(id, ..)
            | Self::Renew(id, ..)
            | Self::Finish(id, ..)
            | Self::Abandon(id, _) => Some(id),
            Self::Purge { .. } | Self::Reopen => None,
        }
    }
}

impl Operation for Write {
    fn refuse(self, error: &StoreError) {
        match self {
            Self::Begin(_, _, reply) => drop(reply.send(Err(error.clone()))),
            Self::Renew(.., reply) => drop(reply.send(Err(error.clone()))),
            Self::Finish(_, _, reply) => drop(reply.send(Err(error.clone()))),
            Self::Purge { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Abandon(..) | Self::Reopen => {}
        }
    }
}

/// An operation that was made, and what to answer when that is on the disk.
enum Made {
    Begin(Reply<Begun>, Result<Begun, StoreError>),
    Renew(Reply<Renewed>, Result<Renewed, StoreError>),
    Finish(Reply<Finish>, Result<Finish, StoreError>),
    Purge(Reply<usize>, usize),
}

impl Made {
    fn tell(self) {
        match self {
            Self::Begin(reply, answer) => drop(reply.send(answer)),
            Self::Renew(reply, answer) => drop(reply.send(answer)),
            Self::Finish(reply, answer) => drop(reply.send(answer)),
            Self::Purge(reply, removed) => drop(reply.send(Ok(removed))),
        }
    }

    fn refuse(self, error: &StoreError) {
        match self {
            Self::Begin(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Renew(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Finish(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Purge(reply, _) => drop(reply.send(Err(error.clone()))),
        }
    }
}

#[derive(Default)]
struct Batch {
    waiting: Vec<Write>,
    made: Vec<Made>,
    /// Records that have changed, if anybody wants to know.
    touched: Vec<RecordId>,
    /// What is to go on in a later batch.
    later: Vec<Write>,
}

pub(super) fn run(shared: &Shared, latest: u64) {
    let mut writer = Writer { shared, latest, durable: latest };
    let mut batch = Batch::default();
    while shared.writes.take(MOST, &mut batch.waiting) {
        if let Some(found) = shared.reopen(writer.durable) {
            writer.latest = writer.latest.max(found);
            writer.durable = found;
        }
        let done = shared.with(|database| writer.make(database, &mut batch));
        match done {
            Ok(()) => {
                writer.durable = writer.latest;
                batch.made.drain(..).for_each(Made::tell);
                shared.waiters.tell(batch.touched.iter());
                for purge in batch.later.drain(..) {
                    let _ = shared.writes.push(purge, Class::Own);
                }
            }
            Err(failure) => {
                let (error, why) = failure.explain(shared.health.may_be_applied());
                if let Some(why) = why {
                    shared.give_up(&why);
                }
                batch.made.drain(..).for_each(|made| made.refuse(&error));
                let unmade = batch.waiting.drain(..).chain(batch.later.drain(..));
                unmade.for_each(|operation| operation.refuse(&error));
            }
        }
        batch.touched.clear();
    }
    let closed = shared.close_file();
    // First: who waits for the end hears of it before hearing that nothing more is done.
    shared.end.tell(closed);
    shared.writes.end();
    shared.watch.wake();
}

struct Writer<'s> {
    shared: &'s Shared,
    /// The latest time and the greatest generation that was given out.
    latest: u64,
    /// As of the last commit.
    durable: u64,
}

impl Writer<'_> {
    fn make(&mut self, database: &Database, batch: &mut Batch) -> Result<(), redb::Error> {
        self.shared.health.reset();
        let now = self.shared.clock.now();
        self.look(database, batch, now)?;
        if batch.waiting.is_empty() {
            return Ok(());
        }
        let opened = self.shared.clock.opened();
        tables::write(database, opened, now, |tables| {
            let mut fresh = 0;
            // Taken from the front, and put back there if the file fails, so that nobody is left out.
            let waiting = std::mem::take(&mut batch.waiting);
            let mut rest = waiting.into_iter();
            let mut done = Ok(());
            for operation in rest.by_ref() {
                if let Err(error) = self.apply(tables, operation, batch, &mut fresh) {
                    done = Err(error);
                    break;
                }
            }
            batch.waiting.extend(rest);
            done?;
            if fresh > 0 {
                tables.expire(ON_THE_WAY * fresh)?;
            }
            if tables.changed {
                self.latest = self.latest.max(now.as_micros());
                tables.set_clock(self.latest)?;
            }
            Ok(())
        })
    }

    /// Answers what needs no change, from what is on the disk already: above all duplicates.
    fn look(
        &self,
        database: &Database,
        batch: &mut Batch,
        now: StoreTime,
    ) -> Result<(), redb::Error> {
        let snapshot = Snapshot::new(database, self.shared.clock.opened())?;
        let mut others = HashSet::new();
        let waiting = std::mem::take(&mut batch.waiting);
        let mut rest = waiting.into_iter();
        let mut done = Ok(());
        for operation in rest.by_ref() {
            match operation {
                // What is asked of one record is done in the order in which it came.
                Write::Begin(id, claim, reply) if !others.contains(&id) => {
                    if reply.is_closed() {
                        continue;
                    }
                    let answer = match snapshot.entry(&id) {
                        Ok(Some(mut entry)) => {
                            let step = entry.begin(&claim, now, self.latest);
                            (step.change == Change::Keep).then_some(Ok(step.answer))
                        }
                        Ok(None) => None,
                        Err(Trouble::One(error)) => Some(Err(error)),
                        Err(Trouble::All(error)) => {
                            batch.waiting.push(Write::Begin(id, claim, reply));
                            done = Err(error);
                            break;
                        }
                    };
                    match answer {
                        Some(answer) => drop(reply.send(answer)),
                        None => batch.waiting.push(Write::Begin(id, claim, reply)),
                    }
                }
                Write::Purge { left, removed, reply } => {
                    match snapshot.is_due(now).map(|due| due && left > 0) {
                        Ok(false) => drop(reply.send(Ok(removed))),
                        Ok(true) => batch.waiting.push(Write::Purge { left, removed, reply }),
                        Err(error) => {
                            batch.waiting.push(Write::Purge { left, removed, reply });
                            done = Err(error);
                            break;
                        }
                    }
                }
                Write::Reopen => {}
                other => {
                    others.extend(other.id().copied());
                    batch.waiting.push(other);
                }
            }
        }
        batch.waiting.extend(rest);
        done
    }

    /// Grows even where the clock stands, also from one record of an id to the next.
    fn next_generation(&mut self, now: StoreTime) -> u64 {
        self.latest = now.as_micros().max(self.latest.saturating_add(1));
        self.latest
    }

    fn apply(
        &mut self,
        tables: &mut Tables<'_>,
        operation: Write,
        batch: &mut Batch,
        fresh: &mut usize,
    ) -> Result<(), redb::Error> {
        batch.touched.extend(operation.id().copied());
        match operation {
            Write::Begin(id, claim, reply) => {
                let generation = self.next_generation(tables.now);
                let (answer, failed) = part(tables.begin(&id, &claim, generation));
                *fresh += usize::from(matches!(answer, Ok(Begun::Run { runs: 1, .. })));
                batch.made.push(Made::Begin(reply, answer));
                failed
            }
            Write::Renew(id, attempt, lease, retention, reply) => {
                let renewed = tables.with(&id, Renewed::Fenced, |entry, now| {
                    entry.renew(attempt, lease, retention, now)
                });
                let (answer, failed) = part(renewed);
                batch.made.push(Made::Renew(reply, answer));
                failed
            }
            Write::Finish(id, finishing, reply) => {
                let finished = match finishing {
                    Finishing::Complete(attempt, outcome, retention) => {
                        tables.with(&id, Finish::Fenced, |entry, now| {
                            entry.complete(attempt, outcome, retention, now)
                        })
                    }
                    Finishing::Release(attempt) => {
                        tables.with(&id, Finish::Already, |entry, now| entry.release(attempt, now))
                    }
                    Finishing::Interrupt(attempt, retention) => {
                        tables.with(&id, Finish::Fenced, |entry, now| {
                            entry.interrupt(attempt, retention, now)
                        })
                    }
                    Finishing::Resolve(generation, resolution) => {
                        tables.with(&id, Finish::Fenced, |entry, now| {
                            entry.resolve(generation, resolution, now)
                        })
                    }
                };
                let (answer, failed) = part(finished);
                batch.made.push(Made::Finish(reply, answer));
                failed
            }
            Write::Purge { left, removed, reply } => {
                let (some, more) = match tables.expire(left.min(AT_ONCE)) {
                    Ok(done) => done,
                    Err(error) => {
                        batch.made.push(Made::Purge(reply, removed));
                        return Err(error);
                    }
                };
                let (left, removed) = (left - some, removed + some);
                if more && left > 0 && !reply.is_closed() {
                    batch.later.push(Write::Purge { left, removed, reply });
                } else {
                    batch.made.push(Made::Purge(reply, removed));
                }
                Ok(())
            }
            Write::Abandon(id, attempt) => {
                let (_, failed) = part(
                    tables.with(&id, Finish::Fenced, |entry, now| entry.abandon(attempt, now)),
                );
                failed
            }
            Write::Reopen => Ok(()),
        }
    }
}

/// What to answer, and whether the file failed.
fn part<T>(result: Result<T, Trouble>) -> (Result<T, StoreError>, Result<(), redb::Error>) {
    match result {
        Ok(answer) => (Ok(answer), Ok(())),
        Err(Trouble::One(error)) => (Err(error), Ok(())),
        // Replaced by what the failure comes to.
        Err(Trouble::All(error)) => {
            (Err(crate::store::StoreErrorKind::Unavailable.into()), Err(error))
        }
    }
}
