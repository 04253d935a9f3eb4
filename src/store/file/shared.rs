//! What the handle and the threads of a store share.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock};
use std::task::Poll;
use std::thread::Thread;
use std::time::Duration;

use redb::Database;
use tokio::sync::Notify;

use super::clock::{Clock, Moment};
use super::error::Failure;
use super::lane::Lane;
use super::medium::{Health, Medium, Staged};
use super::reader::Read;
use super::tables;
use super::writer::Write;
use crate::caught::caught;
use crate::store::{OpenErrorKind, RecordId, StoreError, StoreErrorKind};
use crate::sync::lock;

/// How long to wait before a file that could not be opened again is tried once more.
const RETRY: Duration = Duration::from_millis(500);

pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) medium: Box<dyn Medium>,
    pub(super) cache: usize,
    pub(super) timeout: Duration,
    pub(super) clock: Clock,
    pub(super) health: Arc<Health>,
    pub(super) slot: RwLock<Slot>,
    pub(super) writes: Lane<Write>,
    pub(super) reads: Lane<Read>,
    pub(super) watch: Arc<Watch>,
    pub(super) waiters: Waiters,
    pub(super) end: End,
}

/// The database, or why there is none.
pub(super) enum Slot {
    Open(Database),
    /// It is opened again when it is needed, if that was not tried a moment ago.
    Failed {
        why: Arc<str>,
        tried: Option<Moment>,
    },
    /// For good.
    Broken(Arc<str>),
    Closed,
}

impl Slot {
    /// What to tell whoever asks for it.
    pub(super) fn error(&self) -> StoreError {
        let why: &str = match self {
            Self::Open(_) | Self::Closed => "the store is closed",
            Self::Failed { why, .. } | Self::Broken(why) => why,
        };
        StoreError::from(StoreErrorKind::Unavailable).with_source(why)
    }
}

impl Shared {
    /// With the database, if there is one.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, NoUse> {
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Slot::Open(database) => {
                // The file may be damaged in ways that redb does not expect.
                match caught(|| work(database)) {
                    Some(done) => done.map_err(NoUse::Failed),
                    None => Err(NoUse::Panicked),
                }
            }
            slot => Err(NoUse::Absent(slot.error())),
        }
    }

    /// The database cannot be used any more. It is closed, to be opened again.
    pub(super) fn give_up(&self, why: &str) {
        let why = format!("{}: {why}", self.path.display()).into();
        let next = if self.health.sync_failed() {
            Slot::Broken(why)
        } else {
            Slot::Failed { why, tried: None }
        };
        self.replace(next);
    }

    /// What was there is closed before what comes: the file is locked by whoever has it open.
    fn replace(&self, next: Slot) {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *slot, Slot::Closed);
        caught(|| drop(old));
        *slot = next;
    }

    /// Opens the database again if it has failed. `latest`: what it must know at least. Says what it knows, if
    /// it was opened: more if another process had it meanwhile.
    pub(super) fn reopen(&self, latest: u64) -> Option<u64> {
        {
            let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
            let Slot::Failed { tried, .. } = &*slot else { return None };
            if tried.is_some_and(|tried| tried.age(Moment::now()) < RETRY) {
                return None;
            }
        }
        let mut known = None;
        let opened = open(&*self.medium, self.cache, false, false, &self.health);
        self.replace(match opened {
            // Another file, or an earlier state of this one: what was answered is not in it.
            Ok((_, found)) if found < latest => Slot::Broken(
                format!("{} is not what was written to it", self.path.display()).into(),
            ),
            Ok((database, found)) => {
                self.clock.catch_up(found);
                known = Some(found);
                Slot::Open(database)
            }
            Err(failure) => {
                let why = match failure.source {
                    Some(source) => source.to_string(),
                    None => failure.kind.as_str().to_owned(),
                };
                let why = format!("{} cannot be opened again: {why}", self.path.display()).into();
                Slot::Failed { why, tried: Some(Moment::now()) }
            }
        });
        known
    }

    /// Nothing more comes in.
    pub(super) fn close(&self) {
        self.reads.close();
        self.writes.close();
        self.watch.wake();
    }

    /// Closes the file.
    pub(super) fn close_file(&self) -> Result<(), StoreError> {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *slot, Slot::Closed) {
            Slot::Open(database) => {
                let closed = caught(|| database.close());
                let why = match closed {
                    Some(Ok(())) => return Ok(()),
                    Some(Err(error)) => error.to_string(),
                    None => "the file is damaged".to_owned(),
                };
                Err(StoreError::from(StoreErrorKind::Unavailable).with_source(why))
            }
            slot => Err(slot.error()),
        }
    }
}

/// Why nothing came of it.
pub(super) enum NoUse {
    Absent(StoreError),
    Failed(redb::Error),
    Panicked,
}

impl NoUse {
    /// The error to answer, and why the database is to be given up, if it is.
    pub(super) fn explain(self, maybe_applied: bool) -> (StoreError, Option<String>) {
        let (kind, why) = match self {
            Self::Absent(error) => return (error, None),
            Self::Panicked => (StoreErrorKind::Corrupt, "the file is damaged".to_owned()),
            Self::Failed(error) => (kind_of(&error), error.to_string()),
        };
        let kind = if maybe_applied { StoreErrorKind::Unknown } else { kind };
        (StoreError::from(kind).with_source(why.clone()), Some(why))
    }
}

fn kind_of(error: &redb::Error) -> StoreErrorKind {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error {
        redb::Error::Io(error)
            if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge) =>
        {
            StoreErrorKind::Full
        }
        redb::Error::Corrupted(_) => StoreErrorKind::Corrupt,
        _ => StoreErrorKind::Unavailable,
    }
}

/// Opens the file, if it is a store or empty; otherwise it is left as it is. Also says the latest time in it.
pub(super) fn open(
    medium: &dyn Medium,
    cache: usize,
    verify: bool,
    create: bool,
    health: &Arc<Health>,
) -> Result<(Database, u64), Failure> {
    let file = Staged::new(medium.open(create)?, Arc::clone(health));
    let (staged, repaired) = (file.clone(), Arc::clone(health));
    let opened = caught(|| {
        let database = Database::builder()
            .set_cache_size(cache)
            .set_check_integrity_on_open(verify)
            .set_repair_callback(move |_| repaired.repaired.store(true, Ordering::Relaxed))
            .create_with_backend(staged)?;
        let latest = tables::recognise(&database)?;
        Ok::<_, Failure>((database, latest))
    });
    let opened = opened.unwrap_or_else(|| Err(Failure::new(OpenErrorKind::Corrupt)))?;
    let blank = file.is_blank();
    if blank && !create {
        return Err(Failure::because(OpenErrorKind::Foreign, "it is empty"));
    }
    file.accept()?;
    if blank {
        medium.settle()?;
    }
    Ok(opened)
}

/// Wakes the thread that looks whether the others are stuck. It sleeps while there is nothing to do.
#[derive(Default)]
pub(super) struct Watch {
    awake: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Watch {
    pub(super) fn set(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    pub(super) fn wake(&self) {
        let asleep = !self.awake.load(Ordering::SeqCst) && !self.awake.swap(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.get().filter(|_| asleep) {
            thread.unpark();
        }
    }

    pub(super) fn run(&self, shared: &Shared) {
        let tick = (shared.timeout / 8).clamp(Duration::from_millis(1), Duration::from_secs(1));
        let check = || {
            let now = Moment::now();
            shared.writes.check(now, shared.timeout) | shared.reads.check(now, shared.timeout)
        };
        let ended = || shared.writes.has_ended() && shared.reads.has_ended();
        while !ended() {
            if check() {
                std::thread::park_timeout(tick);
                continue;
            }
            // Whoever puts something in from here on wakes us.
            self.awake.store(false, Ordering::SeqCst);
            if !check() && !ended() {
                std::thread::park();
            }
            self.awake.store(true, Ordering::SeqCst);
        }
    }
}

/// Who waits for a record to change.
#[derive(Default)]
pub(super) struct Waiters {
    count: AtomicUsize,
    of: Mutex<HashMap<RecordId, Arc<Notify>>>,
}

impl Waiters {
    pub(super) fn join(&self, id: RecordId) -> Waiting<'_> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let change = Arc::clone(lock(&self.of).entry(id).or_default());
        Waiting { waiters: self, id, change }
    }

    /// After a commit.
    pub(super) fn tell<'a>(&self, ids: impl Iterator<Item = &'a RecordId>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let of = lock(&self.of);
        ids.filter_map(|id| of.get(id)).for_each(|change| change.notify_waiters());
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.of).len()
    }
}

pub(super) struct Waiting<'a> {
    waiters: &'a Waiters,
    id: RecordId,
    pub(super) change: Arc<Notify>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut of = lock(&self.waiters.of);
        // Ours and the map's.
        if Arc::strong_count(&self.change) == 2 {
            of.remove(&self.id);
        }
        self.waiters.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// That the file is closed, and how that went.
#[derive(Default)]
pub(super) struct End {
    closed: Mutex<Option<Result<(), StoreError>>>,
    condition: Condvar,
    told: Notify,
}

impl End {
    pub(super) fn tell(&self, result: Result<(), StoreError>) {
        *lock(&self.closed) = Some(result);
        self.condition.notify_all();
        self.told.notify_waiters();
    }

    /// Does not wait for a thread that is stuck.
    pub(super) async fn wait(&self, writes: &Lane<Write>) -> Result<(), StoreError> {
        let mut told = pin!(self.told.notified());
        let mut stuck = pin!(writes.is_stuck());
        poll_fn(|cx| {
            if let Some(closed) = &*lock(&self.closed) {
                return Poll::Ready(closed.clone());
            }
            if told.as_mut().poll(cx).is_ready() {
                return Poll::Ready(lock(&self.closed).clone().unwrap_or(Ok(())));
            }
            let why = "the store's disk did not answer in time";
            let error = || StoreError::from(StoreErrorKind::Unknown).with_source(why);
            stuck.as_mut().poll(cx).map(|()| Err(error()))
        })
        .await
    }

    /// Gives up after `most`.
    pub(super) fn wait_blocking(&self, most: Duration) {
        let closed = lock(&self.closed);
        let waited = self.condition.wait_timeout_while(closed, most, |closed| closed.is_none());
        drop(waited);
    }
}
