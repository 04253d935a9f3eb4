//! The file: its text, its replacement in one step, and the lock beside it.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// How much a write waits for the disk.
///
/// A beat is worth nothing after a power cut, since the next boot has another identity. So by default it
/// does not wait: on ext4 that is 0.15 ms instead of 8, and a file in `/run` or `/dev/shm` never waits.
///
/// ```
/// use buttress::supervise::heartbeat::Durability;
/// assert_eq!(Durability::default(), Durability::Rename);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Not at all. Readers see the old file or the new one, never a part.
    #[default]
    Rename,
    /// Until the new content is on the disk.
    File,
    /// Until the directory is, too.
    FileAndDir,
}

/// JSON as the original writes it: two spaces, nothing but ASCII.
struct Ascii(PrettyFormatter<'static>);

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut units = [0; 2];
        for character in fragment.chars() {
            if (' '..='~').contains(&character) {
                writer.write_all(&[character as u8])?;
            } else {
                for unit in character.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

/// `value` as the original would write it. Keys stay in the order given; NaN, which is not JSON, is null.
pub(super) fn json(value: &(impl Serialize + ?Sized)) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Ascii(PrettyFormatter::new())))?;
    // The formatter writes ASCII only.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn beside(path: &Path, name: &str) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(name)
}

#[cfg(unix)]
fn no_links(options: &mut OpenOptions, mode: u32) {
    use std::os::unix::fs::OpenOptionsExt;
    // Nor waits for the other end of a pipe that somebody put there.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    options.mode(mode).custom_flags(flags.bits().cast_signed());
}

#[cfg(not(unix))]
fn no_links(_: &mut OpenOptions, _: u32) {}

/// Removes what was begun, if it does not come to a rename.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// The key of the standard library's hash comes from the operating system.
fn unguessable() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    RandomState::new().hash_one((std::process::id(), now.unwrap_or_default()))
}

/// Replaces the file in one step. A name that nobody can guess and that must be new: a link that somebody
/// put in its place is never followed, and two writers do not meet.
pub(super) fn replace(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    let mut temporary = Temporary(beside(path, &format!(".beat-{:016x}.tmp", unguessable())));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    no_links(&mut options, mode);
    let mut file = match options.open(&temporary.0) {
        Ok(file) => file,
        Err(error) => {
            // Nothing of ours to remove.
            temporary.0 = PathBuf::new();
            return Err(error);
        }
    };
    file.write_all(bytes)?;
    if durability != Durability::Rename {
        file.sync_all()?;
    }
    drop(file);
    fs::rename(&temporary.0, path)?;
    temporary.0 = PathBuf::new();
    if durability == Durability::FileAndDir {
        let directory = beside(path, "");
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { &directory };
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Makes the directory of the file, and those above it.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::create_dir_all(parent),
        _ => Ok(()),
    }
}

/// The owner's alone.
#[cfg(unix)]
const PRIVATE: u32 = 0o600;

/// There are file systems without permissions (vfat, some of FUSE), where everybody's are those of the mount.
#[cfg(unix)]
fn none_to_change(error: io::Error) -> io::Result<()> {
    use rustix::io::Errno;
    match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::OPNOTSUPP | Errno::ROFS) => Ok(()),
        _ => Err(error),
    }
}

/// Takes a file of an earlier version from everybody but its owner. One that is not ours cannot be changed.
#[cfg(unix)]
fn narrow(file: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let found = file.metadata()?;
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    file.set_permissions(fs::Permissions::from_mode(PRIVATE)).or_else(none_to_change)
}

/// Says that this object writes the file. The system gives it up when the process ends, however it does.
#[derive(Debug)]
pub(super) struct Claim {
    _file: Option<File>,
}

/// Why there is no claim.
#[cfg_attr(not(unix), allow(dead_code, reason = "there is no lock there"))]
pub(super) enum NoClaim {
    Held(String),
    Failed(PathBuf, io::Error),
}

impl Claim {
    /// A lock on a file of its own: that of the state is replaced at each beat. `flock`, since a POSIX lock
    /// would be lost when anything in the process closes the file; and closed on exec, since otherwise a
    /// child would keep it. Nobody else may open it: whoever can read a file can lock it.
    #[cfg(unix)]
    pub(super) fn of(path: &Path, holder: &str) -> Result<Self, NoClaim> {
        use std::io::Read;

        use rustix::fs::{FlockOperation, flock};

        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".lock");
        let lock = path.with_file_name(name);
        let failed = |error| NoClaim::Failed(lock.clone(), error);
        let mut writing = OpenOptions::new();
        writing.write(true).create(true).truncate(false);
        no_links(&mut writing, PRIVATE);
        narrow(&writing.open(&lock).map_err(failed)?).map_err(failed)?;
        // Held for reading only: a file that is open for writing keeps its file system from being mounted
        // read-only.
        let mut reading = OpenOptions::new();
        reading.read(true);
        no_links(&mut reading, PRIVATE);
        let mut file = reading.open(&lock).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "not a file")));
        }
        let mut claimed = flock(&file, FlockOperation::NonBlockingLockExclusive);
        if claimed == Err(rustix::io::Errno::BADF) {
            // NFS, which makes of it a lock of another kind, for writers only.
            file = writing.clone().read(true).open(&lock).map_err(failed)?;
            claimed = flock(&file, FlockOperation::NonBlockingLockExclusive);
        }
        match claimed {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = Vec::new();
                let _ = file.take(200).read_to_end(&mut holder);
                let holder = String::from_utf8_lossy(&holder).trim().to_owned();
                return Err(NoClaim::Held(holder));
            }
            Err(error) => return Err(failed(error.into())),
        }
        // Only for the error message of others; without it (a full disk) the lock holds as well.
        let _ = writing
            .truncate(true)
            .open(&lock)
            .and_then(|mut file| file.write_all(holder.as_bytes()));
        Ok(Self { _file: Some(file) })
    }

    /// Not known here.
    #[cfg(not(unix))]
    pub(super) fn of(_: &Path, _: &str) -> Result<Self, NoClaim> {
        Ok(Self { _file: None })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_permissions_keeps_no_heartbeat_from_starting() {
        for errno in [libc::EPERM, libc::EOPNOTSUPP, libc::EROFS] {
            assert!(none_to_change(io::Error::from_raw_os_error(errno)).is_ok(), "{errno}");
        }
        assert!(none_to_change(io::Error::from_raw_os_error(libc::EIO)).is_err());
    }

    /// As there, nobody may change the permissions of a file in `/proc`, its owner neither.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_whose_permissions_cannot_be_changed_is_taken_as_it_is() {
        let file = OpenOptions::new().write(true).open("/proc/self/comm").unwrap();
        narrow(&file).unwrap();
        // A failure of another kind: of a file that is opened for its path alone.
        let mut path = OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(path.read(true), libc::O_PATH);
        let error = narrow(&path.open("/proc/self/comm").unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
