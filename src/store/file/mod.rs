//! Records in one file.

mod builder;
#[expect(clippy::disallowed_types, reason = "its threads need real time")]
mod clock;
mod error;
mod lane;
mod medium;
mod reader;
mod shared;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

pub use builder::FileStoreBuilder;
pub use error::{OpenError, OpenErrorKind};

use self::lane::Class;
use self::reader::Read;
use self::shared::Shared;
use self::writer::{Finishing, Write};
use super::buckets::Buckets;
use super::{
    Attempt, Begun, Claim, Finish, Outcome, RateStore, Record, RecordId, Renewed, Resolution,
    State, Store, StoreError, Taken,
};
use crate::quota::Quota;

/// Records in one file: for one process at a time, and still there when it is killed or the power fails.
///
/// The file is a [redb](https://docs.rs/redb) database. An operation answers when it is on the disk. All that
/// wait at the same time share one commit, so that the disk's syncs limit how long one takes and not how many
/// there are. Duplicates of what is on the disk already do not wait for a commit.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use buttress::store::{Attempt, Begun, Claim, FileStore, Fingerprint, Outcome, RecordId, Store};
/// use std::sync::Arc;
/// # let path = std::env::temp_dir().join(format!("buttress-doc-file-{}", std::process::id()));
///
/// let store = FileStore::open(&path)?;
/// let id = RecordId::of(b"tenant-7", b"order-1");
/// let claim = Claim::new(Fingerprint::of(b"10 EUR"), Attempt::new());
/// store.begin(&id, &claim).await?;
/// let outcome = Arc::new(Outcome::new(200, vec![], b"paid".to_vec()));
/// store.complete(&id, claim.attempt, &outcome, claim.retention).await?;
/// drop(store); // or the process is killed
///
/// let store = FileStore::open(&path)?;
/// let duplicate = Claim::new(Fingerprint::of(b"10 EUR"), Attempt::new());
/// let Begun::Done(record) = store.begin(&id, &duplicate).await? else { panic!("it is recorded") };
/// assert_eq!(record.state.outcome().unwrap().body(), Some(&b"paid"[..]));
/// # drop(store);
/// # std::fs::remove_file(path)?;
/// # Ok(())
/// # }
/// ```
///
/// # Semantics
///
/// **The file.** It is locked while it is open. It is made if it is absent, readable by its owner only. A file
/// that is something else, or damaged, or of another version is an [`OpenError`] and stays byte for byte as it
/// is. It does not shrink; room of records that have been removed is used again, and claims of new keys remove
/// expired records on their way.
///
/// **Damage.** It opens at once after a crash, whatever its size, which means that it is not read as a whole. A
/// damaged record is [`Corrupt`](super::StoreErrorKind::Corrupt) when it is read, by its own checksum. A damaged page
/// of the index can hide records; who fears for his disk opens with [`verify`](FileStoreBuilder::verify).
///
/// **After a crash.** Nobody else can have had the file open, so an execution that was pending is nobody's:
/// its lease has ended, and the next claim is answered by its [`OnInterrupted`](super::OnInterrupted), without
/// waiting.
///
/// **Time.** The machine's wall clock when it is opened, and the monotonic clock from there on: to set the
/// clock while it is open changes nothing. If it was set back before the file was opened, time goes on from the
/// latest time in the file; if it was set forward, records expire earlier by as much. Not tokio's: a paused
/// clock does not stop it.
///
/// **A disk that fails.** An operation that finds the disk full is [`Full`](super::StoreErrorKind::Full), one that
/// meets another error `Unavailable`, and [`Unknown`](super::StoreErrorKind::Unknown) if it may be on the disk all the
/// same. The file is opened again for the next one. For that moment its lock is given up, and another process
/// that waits for the file can get it: to that one, executions of this one are those of an owner who has gone, as
/// after a crash; this one is `Unavailable`, and should the file come back to it, it is fenced where the other one
/// has decided, and its time goes on after the other's. After a failed sync the file is not opened again, because nobody knows what the disk holds:
/// everything is `Unavailable` until the program has been started again. A disk that does not answer is noticed
/// after [`timeout`](FileStoreBuilder::timeout).
///
/// **Threads.** Three: one that writes, one that reads, one that watches the others and mostly sleeps. The
/// futures need no runtime. A begin whose future was dropped before it was taken up is not made.
///
/// **Sharing, dropping.** Clones share the file. When the last one is dropped, everything that was asked for
/// is written, which blocks for some milliseconds, at most for the timeout; [`close`](Self::close) does the same
/// without blocking and says how it went. Async code should call it first: after it, dropping does not block.
///
/// **Rate limits.** Its buckets ([`RateStore`]) are in memory, 100 000 of them at most, and not in the file: a
/// disk's sync for each token would cost more than the limit is worth, and no other process could use them. They
/// are full after a start, and follow tokio's clock.
///
/// **Rust.** The feature `store-redb` needs Rust 1.90.
#[derive(Clone)]
pub struct FileStore(Arc<Handle>);

struct Handle(Arc<Shared>, Buckets);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
        self.0.end.wait_blocking(self.0.timeout);
    }
}

impl FileStore {
    /// Larger outcomes are recorded without their body, and as their status alone if the head is larger by itself:
    /// 256 MiB.
    pub const MAX_OUTCOME: usize = 256 << 20;

    /// Opens the file, or makes it, with the default settings. Blocks for some milliseconds.
    ///
    /// # Errors
    /// See [`OpenErrorKind`]. The file is then as it was before.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("buttress-doc-open-{}", std::process::id()));
    /// use buttress::store::{FileStore, OpenErrorKind};
    /// let store = FileStore::open(&path)?;
    /// assert_eq!(FileStore::open(&path).unwrap_err().kind(), OpenErrorKind::Locked);
    /// # drop(store);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder().open(path)
    }

    /// With other settings.
    ///
    /// ```
    /// let builder = buttress::store::FileStore::builder().queue(1_000);
    /// ```
    pub const fn builder() -> FileStoreBuilder {
        FileStoreBuilder::new()
    }

    /// The file, as it was given.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("buttress-doc-path-{}", std::process::id()));
    /// let store = buttress::store::FileStore::open(&path)?;
    /// assert_eq!(store.path(), path);
    /// # drop(store);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.0.path
    }

    /// How many records there are, expired ones that nobody has removed yet included.
    ///
    /// # Errors
    /// If the file cannot be read.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = std::env::temp_dir().join(format!("buttress-doc-count-{}", std::process::id()));
    /// let store = buttress::store::FileStore::open(&path)?;
    /// assert_eq!(store.count().await?, 0);
    /// # drop(store);
    /// # std::fs::remove_file(path)?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn count(&self) -> Result<u64, StoreError> {
        self.0.0.reads.call(Class::New, Read::Count).await
    }

    /// Writes what was asked for until now and closes the file, for all clones. Operations that come later are
    /// refused.
    ///
    /// # Errors
    /// If the file had failed, or fails now, or was closed before. What was answered is on the disk all the
    /// same.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = std::env::temp_dir().join(format!("buttress-doc-close-{}", std::process::id()));
    /// let store = buttress::store::FileStore::open(&path)?;
    /// store.close().await?;
    /// assert!(store.count().await.is_err());
    /// # std::fs::remove_file(path)?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(&self) -> Result<(), StoreError> {
        self.0.0.close();
        self.0.0.end.wait(&self.0.0.writes).await
    }

    async fn finish(&self, id: &RecordId, finishing: Finishing) -> Result<Finish, StoreError> {
        let operation = |reply| Write::Finish(*id, finishing, reply);
        self.0.0.writes.call(Class::Owner, operation).await
    }

    /// Records an outcome, or as much of it as fits.
    async fn decide(
        &self,
        id: &RecordId,
        outcome: &Arc<Outcome>,
        finishing: impl FnOnce(Arc<Outcome>) -> Finishing,
    ) -> Result<Finish, StoreError> {
        let smaller = outcome.trimmed_to(Self::MAX_OUTCOME);
        let trimmed = smaller.is_some();
        let outcome = smaller.map_or_else(|| Arc::clone(outcome), Arc::new);
        let finish = self.finish(id, finishing(outcome)).await?;
        Ok(if trimmed && finish == Finish::Applied { Finish::Trimmed } else { finish })
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Store for FileStore {
    async fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        self.0.0.writes.call(Class::New, |reply| Write::Begin(*id, *claim, reply)).await
    }

    async fn renew(
        &self,
        id: &RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> Result<Renewed, StoreError> {
        let operation = |reply| Write::Renew(*id, attempt, lease, retention, reply);
        self.0.0.writes.call(Class::Owner, operation).await
    }

    async fn complete(
        &self,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Arc<Outcome>,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.decide(id, outcome, |outcome| Finishing::Complete(attempt, outcome, retention)).await
    }

    async fn release(&self, id: &RecordId, attempt: Attempt) -> Result<Finish, StoreError> {
        self.finish(id, Finishing::Release(attempt)).await
    }

    async fn interrupt(
        &self,
        id: &RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.finish(id, Finishing::Interrupt(attempt, retention)).await
    }

    async fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> Result<Finish, StoreError> {
        match resolution {
            Resolution::Completed(outcome) => {
                let completed =
                    |outcome| Finishing::Resolve(generation, Resolution::Completed(outcome));
                self.decide(id, &outcome, completed).await
            }
            Resolution::Forget => self.finish(id, Finishing::Resolve(generation, resolution)).await,
        }
    }

    async fn get(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.0.0.reads.call(Class::New, |reply| Read::Get(*id, reply)).await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        let operation = |reply| Write::Purge { left: limit, removed: 0, reply };
        self.0.0.writes.call(Class::New, operation).await
    }

    fn abandon(&self, id: &RecordId, attempt: Attempt) {
        // A hint: if there is no room for it the lease ends by itself.
        let _ = self.0.0.writes.push(Write::Abandon(*id, attempt), Class::Owner);
    }

    async fn changed(&self, id: &RecordId, generation: u64) {
        let waiting = self.0.0.waiters.join(*id);
        loop {
            // Notices every change from here on, also before it is polled.
            let change = pin!(waiting.change.notified());
            let pending =
                |record: Record| record.state == State::Pending && record.generation == generation;
            // If it cannot be read there is nothing to do but to wait.
            if self.get(id).await.is_ok_and(|record| !record.is_some_and(pending)) {
                return;
            }
            change.await;
        }
    }
}

impl RateStore for FileStore {
    async fn take(
        &self,
        bucket: &RecordId,
        quota: &Quota,
        at_least: u64,
        at_most: u64,
    ) -> Result<Taken, StoreError> {
        self.0.1.take(bucket, quota, at_least, at_most)
    }
}
