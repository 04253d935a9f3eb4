//! What a store's bytes lie on, and the stage on which a file is looked at before anything is written to it.
//!
//! To open a database is to write to it: redb notes that it is in use, and repairs what a crash has left. A
//! file that turns out to be somebody else's must stay as it is. So everything that is written while it is
//! being opened stays in memory, and goes to the file, in the same order, once it is known to be ours.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::error::Failure;
use crate::store::OpenErrorKind;
use crate::sync::lock;

/// Where the bytes are: a file, or what a test puts in its place.
pub(super) trait Medium: Send + Sync + 'static {
    /// `create`: an absent file is made.
    fn open(&self, create: bool) -> Result<Box<dyn StorageBackend>, Failure>;

    /// Makes it last that the file was made.
    fn settle(&self) -> io::Result<()>;
}

pub(super) struct FileMedium(pub(super) PathBuf);

impl Medium for FileMedium {
    fn open(&self, create: bool) -> Result<Box<dyn StorageBackend>, Failure> {
        // Before it is opened: to open a pipe or a device can do things.
        if fs::metadata(&self.0).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(Failure::new(OpenErrorKind::NotAFile));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).truncate(false);
        #[cfg(unix)]
        {
            // It holds answers, which are nobody else's business.
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        let file = options.open(&self.0)?;
        Ok(Box::new(FileBackend::new(file)?))
    }

    fn settle(&self) -> io::Result<()> {
        // The name is in the directory, which has to be synced, too. Only Unix can.
        if cfg!(unix) {
            let parent = self.0.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or_else(|| ".".as_ref()))?.sync_all()?;
        }
        Ok(())
    }
}

/// What has happened to a file since it was opened.
#[derive(Debug, Default)]
pub(super) struct Health {
    sync_failed: AtomicBool,
    synced: AtomicBool,
    promoted: AtomicBool,
    /// It had to be read as a whole when it was opened. Tests see by this that a crash does not lead to it.
    pub(super) repaired: AtomicBool,
}

impl Health {
    /// The operating system may have forgotten what it did not write, so nobody knows what the disk holds.
    pub(super) fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    /// Before a commit.
    pub(super) fn reset(&self) {
        self.synced.store(false, Ordering::Release);
        self.promoted.store(false, Ordering::Release);
    }

    /// Whether the commit may be found in the file although it failed. It is in two phases: what it consists
    /// of is written and synced, and then the first sector says that it counts.
    pub(super) fn may_be_applied(&self) -> bool {
        self.promoted.load(Ordering::Acquire)
    }
}

/// A file that is not there until its first sector is written with something else than this.
const MARK: &[u8] = b"buttress store, being created\n";
/// What disks write as a whole. redb's header is shorter.
const SECTOR: usize = 512;
const BLOCK: usize = 4096;
/// A file of zeros, as a power cut may leave it when a file was made, is at most so long.
const MAX_ZEROS: u64 = 1 << 20;

enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

struct Overlay {
    /// The file holds nothing yet.
    blank: bool,
    /// As much of the file is as it was.
    base: u64,
    len: u64,
    blocks: HashMap<u64, Box<[u8]>>,
    log: Vec<Change>,
}

struct Stage {
    file: Box<dyn StorageBackend>,
    health: Arc<Health>,
    overlay: Mutex<Option<Overlay>>,
    accepted: OnceLock<()>,
}

/// A file that is only written to after [`accept`](Self::accept).
#[derive(Clone)]
pub(super) struct Staged(Arc<Stage>);

impl Staged {
    pub(super) fn new(file: Box<dyn StorageBackend>, health: Arc<Health>) -> Self {
        let (overlay, accepted) = (Mutex::new(None), OnceLock::new());
        Self(Arc::new(Stage { file, health, overlay, accepted }))
    }

    /// Whether the file held nothing when it was opened.
    pub(super) fn is_blank(&self) -> bool {
        lock(&self.0.overlay).as_ref().is_some_and(|overlay| overlay.blank)
    }

    /// Writes what was held back, and holds nothing back from now on.
    pub(super) fn accept(&self) -> io::Result<()> {
        let mut overlay = lock(&self.0.overlay);
        match overlay.take() {
            Some(overlay) if overlay.blank => self.0.create(&overlay)?,
            Some(overlay) => self.0.replay(overlay.log)?,
            None => {}
        }
        let _ = self.0.accepted.set(());
        Ok(())
    }
}

impl Stage {
    /// In such an order that a power cut leaves nothing, or a file that is taken for nothing, or all of it.
    fn create(&self, overlay: &Overlay) -> io::Result<()> {
        let mut sector = [0; SECTOR];
        sector[..MARK.len()].copy_from_slice(MARK);
        self.file.set_len(SECTOR as u64)?;
        self.file.write(0, &sector)?;
        self.file.sync_data()?;

        self.file.set_len(overlay.len)?;
        for (number, block) in &overlay.blocks {
            let start = number * BLOCK as u64;
            let end = block.len().min(usize::try_from(overlay.len - start).unwrap_or(usize::MAX));
            let from = if *number == 0 { SECTOR } else { 0 };
            self.file.write(start + from as u64, &block[from..end])?;
        }
        self.file.sync_data()?;

        self.file.write(0, &overlay.blocks[&0][..SECTOR])?;
        self.file.sync_data()
    }

    fn replay(&self, log: Vec<Change>) -> io::Result<()> {
        log.into_iter().try_for_each(|change| match change {
            Change::Write(offset, data) => self.file.write(offset, &data),
            Change::SetLen(len) => self.file.set_len(len),
            Change::Sync => self.file.sync_data(),
        })
    }

    fn is_accepted(&self) -> bool {
        self.accepted.get().is_some()
    }

    /// The first call comes when the file is locked.
    fn staged<T>(&self, work: impl FnOnce(&mut Overlay) -> io::Result<T>) -> io::Result<T> {
        let mut overlay = lock(&self.overlay);
        if overlay.is_none() {
            let len = self.file.len()?;
            let blank = self.holds_nothing(len)?;
            let len = if blank { 0 } else { len };
            let (blocks, log) = (HashMap::new(), Vec::new());
            *overlay = Some(Overlay { blank, base: len, len, blocks, log });
        }
        match overlay.as_mut() {
            Some(overlay) => work(overlay),
            None => unreachable!("made above"),
        }
    }

    fn holds_nothing(&self, len: u64) -> io::Result<bool> {
        let mut start = vec![0; usize::try_from(len.min(MAX_ZEROS)).unwrap_or(0)];
        self.file.read(0, &mut start)?;
        Ok(start.starts_with(MARK) || len <= MAX_ZEROS && start.iter().all(|byte| *byte == 0))
    }
}

impl Overlay {
    fn check(&self, offset: u64, length: usize) -> io::Result<()> {
        let end = offset.checked_add(length as u64);
        if end.is_some_and(|end| end <= self.len) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn read(&self, file: &dyn StorageBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check(offset, out.len())?;
        for (number, at, range) in pieces(offset, out.len()) {
            let piece = &mut out[range];
            match self.blocks.get(&number) {
                Some(block) => piece.copy_from_slice(&block[at..at + piece.len()]),
                None => self.read_base(file, number * BLOCK as u64 + at as u64, piece)?,
            }
        }
        Ok(())
    }

    /// What lies behind the end of the file is zero.
    fn read_base(&self, file: &dyn StorageBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = usize::try_from(self.base.saturating_sub(offset)).unwrap_or(usize::MAX);
        let there = there.min(out.len());
        out[there..].fill(0);
        if there == 0 {
            return Ok(());
        }
        file.read(offset, &mut out[..there])
    }

    fn write(&mut self, file: &dyn StorageBackend, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len())?;
        for (number, at, range) in pieces(offset, data.len()) {
            if !self.blocks.contains_key(&number) {
                let mut block = vec![0; BLOCK].into_boxed_slice();
                self.read_base(file, number * BLOCK as u64, &mut block)?;
                self.blocks.insert(number, block);
            }
            if let Some(block) = self.blocks.get_mut(&number) {
                block[at..at + range.len()].copy_from_slice(&data[range]);
            }
        }
        if !self.blank {
            self.log.push(Change::Write(offset, data.to_vec()));
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            // What was cut off comes back as zeros.
            self.base = self.base.min(len);
            self.blocks.retain(|number, block| {
                let start = number * BLOCK as u64;
                if let Ok(kept) = usize::try_from(len.saturating_sub(start)) {
                    block[kept.min(BLOCK)..].fill(0);
                }
                start < len
            });
        }
        self.len = len;
        if !self.blank {
            self.log.push(Change::SetLen(len));
        }
    }
}

/// Number of the block, where in the block, which bytes of the data.
fn pieces(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let position = offset + done as u64;
        #[expect(clippy::cast_possible_truncation, reason = "less than a block")]
        let at = (position % BLOCK as u64) as usize;
        let size = (BLOCK - at).min(length - done);
        let piece = (position / BLOCK as u64, at, done..done + size);
        done += size;
        Some(piece)
    })
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.file.fmt(f)
    }
}

impl StorageBackend for Staged {
    fn len(&self) -> io::Result<u64> {
        if self.0.is_accepted() {
            return self.0.file.len();
        }
        self.0.staged(|overlay| Ok(overlay.len))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.0.is_accepted() {
            return self.0.file.read(offset, out);
        }
        self.0.staged(|overlay| overlay.read(&*self.0.file, offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.0.is_accepted() {
            return self.0.file.set_len(len);
        }
        self.0.staged(|overlay| {
            overlay.set_len(len);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        if !self.0.is_accepted() {
            return self.0.staged(|overlay| {
                overlay.log.push(Change::Sync);
                Ok(())
            });
        }
        let health = &self.0.health;
        let synced = self.0.file.sync_data();
        match synced {
            Ok(()) => health.synced.store(true, Ordering::Release),
            Err(_) => health.sync_failed.store(true, Ordering::Release),
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.0.is_accepted() {
            let health = &self.0.health;
            if offset < SECTOR as u64 && health.synced.load(Ordering::Acquire) {
                health.promoted.store(true, Ordering::Release);
            }
            return self.0.file.write(offset, data);
        }
        self.0.staged(|overlay| overlay.write(&*self.0.file, offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.0.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.0.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.query_lock_range(start, end)
    }
}
