//! The child's side of the pipe that ends with its supervisor.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;

use super::marks;

/// The pipe that a child with [`Child::lifeline`](super::Child::lifeline) inherits: it ends when the
/// supervisor's process is gone, however it went.
///
/// ```
/// use buttress::supervise::process::Lifeline;
/// // In the child's main:
/// if let Some(lifeline) = Lifeline::from_env() {
///     std::thread::spawn(move || {
///         lifeline.wait_blocking();
///         std::process::exit(1);
///     });
/// }
/// ```
#[derive(Debug)]
pub struct Lifeline(File);

impl Lifeline {
    /// `None` if this process was not given one.
    ///
    /// ```
    /// assert!(buttress::supervise::process::Lifeline::from_env().is_none());
    /// ```
    #[must_use]
    pub fn from_env() -> Option<Self> {
        let number: u32 = std::env::var(marks::LIFELINE).ok()?.parse().ok()?;
        // Opened anew: the number alone might by now be anybody's, and is not ours to close.
        let file = File::open(format!("/dev/fd/{number}")).ok()?;
        file.metadata().ok()?.file_type().is_fifo().then_some(Self(file))
    }

    /// Returns when the supervisor's process is gone.
    ///
    /// ```no_run
    /// if let Some(lifeline) = buttress::supervise::process::Lifeline::from_env() {
    ///     lifeline.wait_blocking();
    /// }
    /// ```
    pub fn wait_blocking(&self) {
        // Nobody ever writes.
        while let Err(error) = (&self.0).read(&mut [0]) {
            if error.kind() != io::ErrorKind::Interrupted {
                return;
            }
        }
    }
}
