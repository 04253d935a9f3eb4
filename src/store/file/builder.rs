use std::fmt;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::clock::{Clock, Machine, Times};
use super::error::{Failure, OpenError};
use super::lane::Lane;
use super::medium::{FileMedium, Health, Medium};
use super::shared::{End, Shared, Slot, Waiters, Watch, open};
use super::{FileStore, Handle, reader, writer};
use crate::error::ConfigError;
use crate::store::OpenErrorKind;
use crate::store::buckets::Buckets;

const MAX_QUEUE: usize = 1 << 20;
const MAX_BUCKETS: usize = 100_000;
const MIN_CACHE: usize = 1 << 20;
const TIMEOUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(600);

/// Opens a [`FileStore`].
///
/// | setter | range | default |
/// |---|---|---|
/// | [`cache_bytes`](Self::cache_bytes) | 1 MiB and more | 64 MiB |
/// | [`queue`](Self::queue) | 1 to 2^20 | 16 384 |
/// | [`timeout`](Self::timeout) | 10 ms to 10 min | 5 s |
/// | [`verify`](Self::verify) | | off |
///
/// ```
/// use buttress::store::{FileStore, OpenErrorKind};
/// let path = std::env::temp_dir().join("buttress-doc-never-made");
/// let error = FileStore::builder().queue(0).open(path).unwrap_err();
/// assert_eq!(error.kind(), OpenErrorKind::Config);
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `open` is called"]
pub struct FileStoreBuilder {
    cache_bytes: usize,
    queue: usize,
    timeout: Duration,
    verify: bool,
    times: Option<Arc<dyn Times>>,
}

impl FileStoreBuilder {
    pub(super) const fn new() -> Self {
        Self {
            cache_bytes: 64 << 20,
            queue: 16_384,
            timeout: Duration::from_secs(5),
            verify: false,
            times: None,
        }
    }

    /// Memory for pages of the file. What does not fit is read again, mostly from the memory of the
    /// operating system.
    ///
    /// ```
    /// let builder = buttress::store::FileStore::builder().cache_bytes(256 << 20);
    /// ```
    pub const fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// How many operations can wait. When so many do, claims are refused as
    /// [`Unavailable`](crate::store::StoreErrorKind::Unavailable); those who have begun have as much room
    /// again. More than the number of requests that are served at once is never used.
    ///
    /// ```
    /// let builder = buttress::store::FileStore::builder().queue(1_000);
    /// ```
    pub const fn queue(mut self, operations: usize) -> Self {
        self.queue = operations;
        self
    }

    /// How long the disk may take. After that, what is on its way is answered as
    /// [`Unknown`](crate::store::StoreErrorKind::Unknown), what waits behind it as `Unavailable`, and
    /// everything new is refused until the disk answers. Choose it longer than the longest stall that is
    /// worth waiting for, and shorter than a lease.
    ///
    /// ```
    /// use std::time::Duration;
    /// let builder = buttress::store::FileStore::builder().timeout(Duration::from_secs(1));
    /// ```
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether the checksums of all of the file are checked when it is opened, which takes as long as
    /// reading it. Records have checksums of their own, which are checked whenever one is read.
    ///
    /// ```
    /// let builder = buttress::store::FileStore::builder().verify(true);
    /// ```
    pub const fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    #[cfg(test)]
    pub(super) fn times(mut self, times: Arc<dyn Times>) -> Self {
        self.times = Some(times);
        self
    }

    /// Opens the file, or makes it. Blocks until that is done: some milliseconds, also after a crash.
    ///
    /// # Errors
    /// See [`OpenErrorKind`]. The file is then as it was before.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("buttress-doc-builder-{}", std::process::id()));
    /// let store = buttress::store::FileStore::builder().queue(1_000).open(&path)?;
    /// # drop(store);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(self, path: impl AsRef<Path>) -> Result<FileStore, OpenError> {
        let path = path.as_ref();
        self.open_on(Box::new(FileMedium(path.to_owned())), path)
            .map_err(|failure| OpenError::new(path, failure))
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.cache_bytes < MIN_CACHE {
            let expected = format!("{MIN_CACHE} bytes or more");
            return Err(ConfigError::new("cache_bytes", self.cache_bytes, expected));
        }
        if !(1..=MAX_QUEUE).contains(&self.queue) {
            return Err(ConfigError::new("queue", self.queue, format!("1 to {MAX_QUEUE}")));
        }
        if !TIMEOUTS.contains(&self.timeout) {
            let found = format!("{:?}", self.timeout);
            return Err(ConfigError::new("timeout", found, "10 ms to 10 min"));
        }
        Ok(())
    }

    pub(super) fn open_on(
        self,
        medium: Box<dyn Medium>,
        path: &Path,
    ) -> Result<FileStore, Failure> {
        self.check()?;
        let health = Arc::new(Health::default());
        let (database, latest) = open(&*medium, self.cache_bytes, self.verify, true, &health)?;
        let times = self.times.unwrap_or_else(|| Arc::new(Machine::new()));
        let clock = Clock::starting(times, latest);
        let watch = Arc::new(Watch::default());
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            medium,
            cache: self.cache_bytes,
            timeout: self.timeout,
            clock,
            health,
            slot: RwLock::new(Slot::Open(database)),
            writes: Lane::new(self.queue, Arc::clone(&watch)),
            reads: Lane::new(self.queue, Arc::clone(&watch)),
            watch,
            waiters: Waiters::default(),
            end: End::default(),
        });
        // From here on, to drop it is to stop the threads.
        let store = FileStore(Arc::new(Handle(Arc::clone(&shared), Buckets::new(MAX_BUCKETS))));
        let start = |name: &str, run: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared))
        };
        let started = start("buttress-write", Box::new(move |s| writer::run(s, latest)))
            .and_then(|_| start("buttress-read", Box::new(reader::run)))
            .and_then(|_| start("buttress-watch", Box::new(|s| s.watch.run(s))));
        match started {
            Ok(watch) => shared.watch.set(watch.thread().clone()),
            Err(error) => return Err(Failure::because(OpenErrorKind::Io, error)),
        }
        Ok(store)
    }
}

impl fmt::Debug for FileStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStoreBuilder")
            .field("cache_bytes", &self.cache_bytes)
            .field("queue", &self.queue)
            .field("timeout", &self.timeout)
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}
