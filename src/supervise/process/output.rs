//! What children write, read by a thread so that no pipe is ever full.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::caught::caught;
use crate::name::Name;
use crate::sync::lock;

use super::sys::Waker;

/// Which of the two.
///
/// ```
/// assert_eq!(buttress::supervise::process::Stream::Stderr.as_str(), "stderr");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::process::Stream::Stdout.as_str(), "stdout");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A line that a child wrote, without its end. One of over 16 KiB comes in pieces.
///
/// ```
/// # fn sink(line: &buttress::supervise::process::Line<'_>) {
/// println!("[{} {}] {}", line.child, line.pid, line.text());
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Line<'a> {
    /// Whose it is.
    pub child: Name,
    /// The process that the stream was made for. What that has started may write to it, too.
    pub pid: u32,
    /// From where.
    pub stream: Stream,
    /// The bytes: a program may write any.
    pub bytes: &'a [u8],
}

impl Line<'_> {
    /// As text; what is not UTF-8 is replaced.
    ///
    /// ```
    /// # fn sink(line: &buttress::supervise::process::Line<'_>) -> bool {
    /// line.text().contains("panicked")
    /// # }
    /// ```
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.bytes)
    }
}

/// Where a stream of a child goes. Whatever is chosen, a child never waits for a full pipe, unless a closure
/// does not return.
///
/// ```
/// use buttress::supervise::process::Output;
/// let _ = Output::lines(|line| eprintln!("{}", line.text()));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Output {
    /// Where ours goes.
    Inherit,
    /// Nowhere.
    Null,
    /// Line by line to `tracing`, at `INFO`, with target `buttress::child`.
    #[cfg(feature = "tracing")]
    Tracing,
    /// Line by line to a closure: see [`lines`](Self::lines).
    Lines(LineSink),
}

impl Output {
    /// Line by line to `sink`, on a thread for the output of all children. It should be quick: while it runs
    /// nobody reads what the others write. A panic in it is caught, and that line is lost. When all children
    /// have ended, one that takes more than two seconds for a line is not waited for.
    ///
    /// ```
    /// let _ = buttress::supervise::process::Output::lines(|line| print!("{}", line.text()));
    /// ```
    pub fn lines(sink: impl Fn(&Line<'_>) + Send + Sync + 'static) -> Self {
        Self::Lines(LineSink(Arc::new(sink)))
    }

    pub(super) fn stdio(&self) -> Stdio {
        match self {
            Self::Inherit => Stdio::inherit(),
            Self::Null => Stdio::null(),
            _ => Stdio::piped(),
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inherit => "Inherit",
            Self::Null => "Null",
            #[cfg(feature = "tracing")]
            Self::Tracing => "Tracing",
            Self::Lines(_) => "Lines",
        })
    }
}

/// A closure that takes lines: see [`Output::lines`].
///
/// ```
/// use buttress::supervise::process::Output;
/// assert!(matches!(Output::lines(|_| {}), Output::Lines(_)));
/// ```
#[derive(Clone)]
pub struct LineSink(Arc<dyn Fn(&Line<'_>) + Send + Sync>);

impl fmt::Debug for LineSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LineSink")
    }
}

const LONGEST_LINE: usize = 16 * 1024;
/// A closure that takes so long for one line, when all have ended, is not waited for.
const HUNG: Duration = Duration::from_secs(2);

struct Source {
    from: std::fs::File,
    child: Name,
    pid: u32,
    stream: Stream,
    to: Output,
    /// The beginning of a line.
    kept: Vec<u8>,
    /// A piece of this line has been told before.
    cut: bool,
    told: Arc<Shared>,
}

impl Source {
    /// False: there will be no more.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        // A bounded number, so that one that never stops writing does not starve the others.
        for _ in 0..16 {
            match self.from.read(buffer) {
                Ok(0) => {
                    self.flush();
                    return false;
                }
                Ok(count) => self.take(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.kept.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            // Not the end alone of a line that has been told.
            if !std::mem::take(&mut self.cut) || !self.kept.is_empty() {
                self.tell();
            }
        }
        for piece in bytes.chunks(LONGEST_LINE) {
            self.kept.extend_from_slice(piece);
            if self.kept.len() >= LONGEST_LINE {
                self.tell();
                self.cut = true;
            }
        }
    }

    fn flush(&mut self) {
        if !self.kept.is_empty() {
            self.tell();
        }
    }

    fn tell(&mut self) {
        for bytes in self.kept.chunks(LONGEST_LINE).chain(self.kept.is_empty().then_some(&[][..])) {
            let line = Line { child: self.child, pid: self.pid, stream: self.stream, bytes };
            // A lost line if it panics; the next one may do better.
            caught(|| match &self.to {
                Output::Lines(LineSink(sink)) => sink(&line),
                #[cfg(feature = "tracing")]
                Output::Tracing => {
                    let (child, stream) = (line.child.as_str(), line.stream.as_str());
                    let pid = line.pid;
                    ::tracing::info!(target: "buttress::child", child, pid, stream, "{}", line.text());
                }
                Output::Inherit | Output::Null => {}
            });
            self.told.lines.fetch_add(1, Ordering::Relaxed);
        }
        self.kept.clear();
    }
}

/// Reads all streams until [`finish`](Self::finish).
pub(super) struct Drain {
    shared: Arc<Shared>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

struct Shared {
    inner: Mutex<Inner>,
    waker: Waker,
    /// How many have been told.
    lines: AtomicU64,
}

#[derive(Default)]
struct Inner {
    new: Vec<Source>,
    finish: bool,
}

impl Drain {
    pub(super) fn start() -> io::Result<Self> {
        let (inner, lines) = (Mutex::default(), AtomicU64::new(0));
        let shared = Arc::new(Shared { inner, waker: Waker::new()?, lines });
        let (alive, ended) = channel::<()>();
        std::thread::Builder::new().name("buttress-output".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.run();
                drop(alive);
            }
        })?;
        Ok(Self { shared, ended })
    }

    pub(super) fn add(
        &self,
        from: impl Into<OwnedFd>,
        child: Name,
        pid: u32,
        stream: Stream,
        to: &Output,
    ) -> io::Result<()> {
        let from = from.into();
        rustix::io::ioctl_fionbio(&from, true)?;
        let source = Source {
            from: std::fs::File::from(from),
            child,
            pid,
            stream,
            to: to.clone(),
            kept: Vec::new(),
            cut: false,
            told: Arc::clone(&self.shared),
        };
        lock(&self.shared.inner).new.push(source);
        self.shared.waker.wake();
        Ok(())
    }

    /// Tells what can be read now and ends: what a grandchild may write later is nobody's. A closure that
    /// does not return is left behind.
    pub(super) fn finish(self) {
        self.end();
        let mut before = self.shared.lines.load(Ordering::Relaxed);
        while self.ended.recv_timeout(HUNG) == Err(RecvTimeoutError::Timeout) {
            let now = self.shared.lines.load(Ordering::Relaxed);
            if std::mem::replace(&mut before, now) == now {
                return;
            }
        }
    }

    fn end(&self) {
        lock(&self.shared.inner).finish = true;
        self.shared.waker.wake();
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn run(&self) {
        let mut sources: Vec<Source> = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let finish = {
                let mut inner = lock(&self.inner);
                sources.append(&mut inner.new);
                inner.finish
            };
            let ready: Vec<bool> = {
                let mut fds: Vec<_> = std::iter::once(self.waker.fd())
                    .chain(sources.iter().map(|source| std::os::fd::AsFd::as_fd(&source.from)))
                    .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                    .collect();
                let none = Timespec { tv_sec: 0, tv_nsec: 0 };
                // An interruption is a round with nothing in it.
                let polled = poll(&mut fds, finish.then_some(&none));
                if polled.is_err_and(|error| error != rustix::io::Errno::INTR) {
                    crate::clock::park(Duration::from_millis(20));
                }
                fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect()
            };
            self.waker.clear();
            let mut index = 0;
            sources.retain_mut(|source| {
                index += 1;
                !ready[index - 1] || source.read(&mut buffer)
            });
            if finish {
                sources.iter_mut().for_each(Source::flush);
                return;
            }
        }
    }
}
