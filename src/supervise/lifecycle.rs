//! The phases of a process and what keeps it from going on to the next.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::name::Name;

/// Where a process is between its start and its end. Later ones are greater.
///
/// ```
/// use buttress::supervise::Phase;
/// assert!(Phase::Draining > Phase::Ready);
/// assert_eq!(Phase::LameDuck.as_str(), "lame_duck");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Not ready for traffic yet.
    Starting,
    /// Serving.
    Ready,
    /// Serving still, while the outside learns that it should go elsewhere: readiness fails, answers
    /// say that the connection ends.
    LameDuck,
    /// Nothing new is accepted; what is in flight is finished.
    Draining,
    /// The cleanup callbacks run.
    Cleanup,
    /// Over.
    Exited,
}

impl Phase {
    const ALL: [Self; 6] =
        [Self::Starting, Self::Ready, Self::LameDuck, Self::Draining, Self::Cleanup, Self::Exited];

    /// The one after it; the last stays.
    pub(crate) const fn next(self) -> Self {
        match self {
            Self::Starting => Self::Ready,
            Self::Ready => Self::LameDuck,
            Self::LameDuck => Self::Draining,
            Self::Draining => Self::Cleanup,
            Self::Cleanup | Self::Exited => Self::Exited,
        }
    }

    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::Phase::Ready.as_str(), "ready");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::LameDuck => "lame_duck",
            Self::Draining => "draining",
            Self::Cleanup => "cleanup",
            Self::Exited => "exited",
        }
    }
}

/// The phases of one process, seen and moved by everything that has a part in them.
///
/// Phases only go forward. Clones share them; nothing here needs a runtime, and every wait has an async
/// and a blocking form. Whoever still has work when the process drains keeps a [`Hold`].
///
/// ```
/// use buttress::supervise::{Lifecycle, Phase};
///
/// let life = Lifecycle::new();
/// assert_eq!(life.phase(), Phase::Starting);
/// life.advance(Phase::Ready, None);
/// assert!(!life.advance(Phase::Starting, None), "never back");
/// ```
#[derive(Clone)]
pub struct Lifecycle(Arc<Shared>);

struct Shared {
    /// The index in `Phase::ALL`, for readers on hot paths.
    phase: AtomicU8,
    inner: Mutex<Inner>,
    changed: Condvar,
    told: watch::Sender<Phase>,
    holds: watch::Sender<usize>,
}

#[derive(Default)]
struct Inner {
    deadline: Option<Instant>,
    holds: Vec<(u64, Name)>,
    next_hold: u64,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// A process that is [`Starting`](Phase::Starting).
    ///
    /// ```
    /// assert!(!buttress::supervise::Lifecycle::new().is_shutting_down());
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            phase: AtomicU8::new(0),
            inner: Mutex::new(Inner::default()),
            changed: Condvar::new(),
            told: watch::Sender::new(Phase::Starting),
            holds: watch::Sender::new(0),
        }))
    }

    /// The phase now: one load.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, Phase};
    /// assert_eq!(Lifecycle::new().phase(), Phase::Starting);
    /// ```
    #[must_use]
    #[inline]
    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.0.phase.load(Ordering::Acquire))]
    }

    /// Whether it is [`LameDuck`](Phase::LameDuck) or later.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, Phase};
    /// let life = Lifecycle::new();
    /// life.advance(Phase::Draining, None);
    /// assert!(life.is_shutting_down());
    /// ```
    #[must_use]
    #[inline]
    pub fn is_shutting_down(&self) -> bool {
        self.phase() >= Phase::LameDuck
    }

    /// Goes on to `to`, which is to end at `deadline`; phases between are passed over. False, and
    /// nothing changes, if it is there already or further.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, Phase};
    /// let life = Lifecycle::new();
    /// assert!(life.advance(Phase::Ready, None));
    /// assert!(!life.advance(Phase::Ready, None));
    /// ```
    #[allow(clippy::must_use_candidate, reason = "most callers do not care who was first")]
    pub fn advance(&self, to: Phase, deadline: Option<Instant>) -> bool {
        let mut inner = self.0.inner();
        if self.phase() >= to {
            return false;
        }
        inner.deadline = deadline;
        self.0.phase.store(to as u8, Ordering::Release);
        // Under the lock, so that subscribers see the phases in order. Wakers only schedule.
        self.0.told.send_replace(to);
        drop(inner);
        self.0.changed.notify_all();
        true
    }

    /// When the present phase has to end, if whoever moved it here said so.
    ///
    /// ```
    /// assert!(buttress::supervise::Lifecycle::new().deadline().is_none());
    /// ```
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.inner().deadline
    }

    /// Every change of phase. A slow reader sees the latest only.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, Phase};
    /// assert_eq!(*Lifecycle::new().subscribe().borrow(), Phase::Starting);
    /// ```
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Phase> {
        self.0.told.subscribe()
    }

    /// Returns when the phase is `phase` or later. Dropping the future has no effect.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use buttress::supervise::{Lifecycle, Phase};
    /// let life = Lifecycle::new();
    /// life.advance(Phase::Draining, None);
    /// life.reached(Phase::LameDuck).await;
    /// # })
    /// ```
    pub async fn reached(&self, phase: Phase) {
        let mut phases = self.0.told.subscribe();
        // The sender is in `self`: it cannot be gone.
        let _ = phases.wait_for(|now| *now >= phase).await;
    }

    /// As [`reached`](Self::reached), blocking the thread for at most `timeout`. Whether it is reached.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, Phase};
    /// assert!(!Lifecycle::new().wait_blocking(Phase::Ready, std::time::Duration::ZERO));
    /// ```
    #[must_use]
    pub fn wait_blocking(&self, phase: Phase, timeout: Duration) -> bool {
        let (_inner, timeout) = self
            .0
            .changed
            .wait_timeout_while(self.0.inner(), timeout, |_| self.phase() < phase)
            .unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out() || self.phase() >= phase
    }

    /// Keeps [`Draining`](Phase::Draining) from ending before the guard is dropped: for a server, a
    /// consumer, whatever has work in flight. The deadline ends it nevertheless.
    ///
    /// ```
    /// let life = buttress::supervise::Lifecycle::new();
    /// let hold = life.hold("http");
    /// assert_eq!(life.held_by(), ["http".into()]);
    /// drop(hold);
    /// assert!(life.held_by().is_empty());
    /// ```
    pub fn hold(&self, name: impl Into<Name>) -> Hold {
        let name = name.into();
        let mut inner = self.0.inner();
        let id = inner.next_hold;
        inner.next_hold += 1;
        inner.holds.push((id, name));
        self.0.holds.send_replace(inner.holds.len());
        drop(inner);
        Hold { life: self.clone(), id, name }
    }

    /// Who keeps a hold, in the order taken.
    ///
    /// ```
    /// assert!(buttress::supervise::Lifecycle::new().held_by().is_empty());
    /// ```
    #[must_use]
    pub fn held_by(&self) -> Vec<Name> {
        self.0.inner().holds.iter().map(|(_, name)| *name).collect()
    }

    /// Returns when there is no hold. Dropping the future has no effect.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// buttress::supervise::Lifecycle::new().released().await;
    /// # })
    /// ```
    pub async fn released(&self) {
        let mut holds = self.0.holds.subscribe();
        let _ = holds.wait_for(|count| *count == 0).await;
    }

    /// As [`released`](Self::released), blocking the thread for at most `timeout`. Whether there is none.
    ///
    /// ```
    /// assert!(buttress::supervise::Lifecycle::new().released_blocking(std::time::Duration::ZERO));
    /// ```
    #[must_use]
    pub fn released_blocking(&self, timeout: Duration) -> bool {
        let (inner, _) = self
            .0
            .changed
            .wait_timeout_while(self.0.inner(), timeout, |inner| !inner.holds.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        inner.holds.is_empty()
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifecycle")
            .field("phase", &self.phase())
            .field("held_by", &self.held_by())
            .finish_non_exhaustive()
    }
}

/// Keeps a process from ending its drain: see [`Lifecycle::hold`].
///
/// ```
/// let hold: buttress::supervise::Hold = buttress::supervise::Lifecycle::new().hold("worker");
/// assert_eq!(hold.name().as_str(), "worker");
/// ```
#[must_use = "the drain is held only as long as this lives"]
pub struct Hold {
    life: Lifecycle,
    id: u64,
    name: Name,
}

impl Hold {
    /// The name it was taken with.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::Lifecycle::new().hold("worker").name().as_str(), "worker");
    /// ```
    #[must_use]
    pub const fn name(&self) -> Name {
        self.name
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let shared = &self.life.0;
        let mut inner = shared.inner();
        inner.holds.retain(|(id, _)| *id != self.id);
        shared.holds.send_replace(inner.holds.len());
        drop(inner);
        shared.changed.notify_all();
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_go_forward_only_and_keep_their_deadline() {
        let life = Lifecycle::new();
        let end = Instant::now() + Duration::from_secs(5);
        assert!(life.advance(Phase::LameDuck, Some(end)));
        assert!(!life.advance(Phase::LameDuck, None), "a second signal must not move the deadline");
        assert_eq!(life.deadline(), Some(end));
        assert!(life.advance(Phase::Exited, None));
        assert_eq!((life.phase(), life.deadline()), (Phase::Exited, None));
    }

    #[tokio::test]
    async fn waits_end_for_phases_passed_over_and_for_the_last_hold() {
        let life = Lifecycle::new();
        let holds = [life.hold("a"), life.hold("b")];
        let waiter = life.clone();
        let waits = async { tokio::join!(waiter.reached(Phase::LameDuck), waiter.released()) };
        let moves = async {
            tokio::task::yield_now().await;
            life.advance(Phase::Draining, None);
            drop(holds);
        };
        tokio::join!(waits, moves);
        assert!(life.released_blocking(Duration::ZERO));
    }

    #[test]
    fn a_blocked_thread_is_woken() {
        let life = Lifecycle::new();
        let hold = life.hold("http");
        let waiter = life.clone();
        let thread = std::thread::spawn(move || {
            waiter.wait_blocking(Phase::Ready, Duration::from_secs(20))
                && waiter.released_blocking(Duration::from_secs(20))
        });
        life.advance(Phase::Ready, None);
        drop(hold);
        assert!(thread.join().unwrap());
    }
}
