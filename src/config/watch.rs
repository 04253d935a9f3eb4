//! The thread that looks at files and listens to SIGHUP.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use super::reload::Inner;
use crate::caught::caught;

/// What can be seen of files without reading them.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<One>>);

/// When it was written, how long it is, and which file it is: one that is moved over another may have the
/// time and length of that.
type One = (Option<SystemTime>, u64, u64);

impl Stamp {
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        Self(paths.iter().map(|path| look(path)).collect())
    }
}

fn look(path: &Path) -> Option<One> {
    let found = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(&found);
    #[cfg(not(unix))]
    let number = 0;
    Some((found.modified().ok(), found.len(), number))
}

/// Settings are read again until this is dropped.
///
/// ```
/// use buttress::config::{Loader, Reloader};
/// let loader = Loader::empty();
/// let stacks = loader.load()?.stacks();
/// let watch = Reloader::new(loader, &stacks).watch()?;
/// drop(watch); // no more
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping it ends the watch"]
pub struct Watch {
    _wire: wire::End,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

pub(super) fn start(inner: &Arc<Inner>, every: Duration) -> io::Result<Watch> {
    let (wire, mut ear) = wire::pair(every)?;
    let inner = Arc::clone(inner);
    // Here, not in the thread, which may begin late: what is written after this call is a change.
    let mut before = Stamp::of(&inner.paths());
    thread::Builder::new().name("buttress-config".into()).spawn(move || {
        loop {
            let now = Stamp::of(&inner.paths());
            // While somebody writes, half a file would be read.
            if now == before && inner.last().as_ref() != Some(&now) {
                read(&inner, false);
            }
            before = now;
            match ear.wait(every) {
                Heard::Nothing => {}
                Heard::Hangup => read(&inner, true),
                Heard::End => return,
            }
        }
    })?;
    Ok(Watch { _wire: wire })
}

/// What was in a stack ends with user code. If that panics, the next change must still be seen.
fn read(inner: &Inner, asked: bool) {
    if caught(|| inner.run(asked)).is_none() {
        inner.panicked();
    }
}

/// What the thread waits for.
pub(super) enum Heard {
    Nothing,
    #[cfg_attr(not(unix), expect(dead_code, reason = "there is no such signal"))]
    Hangup,
    End,
}

#[cfg(unix)]
mod wire {
    use std::io::{self, ErrorKind, Read};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use signal_hook::SigId;
    use signal_hook::consts::SIGHUP;
    use signal_hook::low_level::{pipe, unregister};

    use super::Heard;

    /// The handler of the signal has the other end of the pipe; when it goes, the thread ends.
    pub(super) struct End(SigId);

    impl Drop for End {
        fn drop(&mut self) {
            unregister(self.0);
        }
    }

    pub(super) struct Ear(UnixStream);

    pub(super) fn pair(every: Duration) -> io::Result<(End, Ear)> {
        let (ear, end) = UnixStream::pair()?;
        ear.set_read_timeout(Some(every))?;
        Ok((End(pipe::register(SIGHUP, end)?), Ear(ear)))
    }

    impl Ear {
        pub(super) fn wait(&mut self, _: Duration) -> Heard {
            match self.0.read(&mut [0; 64]) {
                Ok(0) => Heard::End,
                Ok(_) => Heard::Hangup,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                        Heard::Nothing
                    }
                    _ => Heard::End,
                },
            }
        }
    }
}

#[cfg(not(unix))]
mod wire {
    use std::io;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
    use std::time::Duration;

    use super::Heard;

    pub(super) struct End(
        #[expect(dead_code, reason = "when it goes, the thread ends")] Sender<()>,
    );

    pub(super) struct Ear(Receiver<()>);

    pub(super) fn pair(_: Duration) -> io::Result<(End, Ear)> {
        let (end, ear) = channel();
        Ok((End(end), Ear(ear)))
    }

    impl Ear {
        pub(super) fn wait(&mut self, every: Duration) -> Heard {
            match self.0.recv_timeout(every) {
                Err(RecvTimeoutError::Timeout) => Heard::Nothing,
                _ => Heard::End,
            }
        }
    }
}
