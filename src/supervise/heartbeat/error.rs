//! What can go wrong with a beat.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::name::Name;

/// A heartbeat that cannot start, or a beat that cannot be written.
///
/// ```
/// use buttress::supervise::{Heartbeat, HeartbeatError};
/// let heart = Heartbeat::builder("api").file("/proc/none/beat").build()?;
/// assert!(matches!(heart.start(), Err(HeartbeatError::Write { .. } | HeartbeatError::Lock { .. })));
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum HeartbeatError {
    /// It beats already.
    AlreadyRunning,
    /// Another one writes this file.
    Held {
        /// The file.
        path: PathBuf,
        /// Who: process number and machine, as it says itself.
        holder: String,
    },
    /// The lock beside the file cannot be had.
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The file cannot be written. The one before, if any, is as it was.
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// There is no thread to be had.
    Thread(Arc<io::Error>),
    /// The metadata cannot be written as JSON.
    Metadata(String),
}

impl fmt::Display for HeartbeatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyRunning => f.write_str("the heartbeat is running already"),
            Self::Held { path, holder } => {
                write!(f, "{} is written by {holder}", path.display())
            }
            Self::Lock { path, source } => write!(f, "cannot lock {}: {source}", path.display()),
            Self::Write { path, source } => write!(f, "cannot write {}: {source}", path.display()),
            Self::Thread(source) => write!(f, "cannot start a thread: {source}"),
            Self::Metadata(why) => write!(f, "the metadata is no JSON: {why}"),
        }
    }
}

impl std::error::Error for HeartbeatError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Lock { source, .. } | Self::Write { source, .. } | Self::Thread(source) => {
                Some(source)
            }
            _ => None,
        }
    }
}

/// Why a beat was missed. Told once when it begins, not at every beat.
///
/// ```
/// use buttress::supervise::MissedBeat;
/// let missed = MissedBeat::NoProgress { source: "worker".into() };
/// assert_eq!(missed.to_string(), "worker has made no progress");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum MissedBeat {
    /// It came late, or has not come yet: a slow disk, a machine that slept, a starved process.
    Late {
        /// How late it was when that was seen.
        by: Duration,
    },
    /// It could not be written.
    WriteFailed(HeartbeatError),
    /// A required source of progress made none, so there was no beat.
    NoProgress {
        /// Which.
        source: Name,
    },
}

impl MissedBeat {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// use buttress::supervise::MissedBeat;
    /// assert_eq!(MissedBeat::Late { by: std::time::Duration::ZERO }.as_str(), "late");
    /// ```
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Late { .. } => "late",
            Self::WriteFailed(_) => "write_failed",
            Self::NoProgress { .. } => "no_progress",
        }
    }
}

impl fmt::Display for MissedBeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late { by } => write!(f, "late by {by:?}"),
            Self::WriteFailed(error) => error.fmt(f),
            Self::NoProgress { source } => write!(f, "{source} has made no progress"),
        }
    }
}
