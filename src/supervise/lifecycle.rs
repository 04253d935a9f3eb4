//! The phases of a process and what keeps it from going on to the next.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{self, Tick};
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
    #[cfg(unix)] // where systemd may be told
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
    /// assert_eq!(buttress::supervise::Phase::Ready.to_string(), "ready");
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

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
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
    /// How many wait for the holds to end, and have to be told by tallies before the drain, too.
    waiting: AtomicUsize,
}

struct Inner {
    /// When the phase began.
    since: Tick,
    deadline: Option<Instant>,
    /// When all of it is to be over.
    end: Option<Instant>,
    /// It has been ready, for whoever did not look at that time.
    was_ready: bool,
    holds: Vec<(u64, Name)>,
    next_hold: u64,
    tallies: Vec<(Name, Weak<AtomicUsize>)>,
}

impl Inner {
    /// Who keeps the drain from ending.
    fn held_by(&self) -> impl Iterator<Item = Name> {
        let busy = |count: &Weak<AtomicUsize>| {
            count.upgrade().is_some_and(|count| count.load(Ordering::SeqCst) > 0)
        };
        let tallies = self.tallies.iter().filter(move |(_, count)| busy(count));
        self.holds.iter().map(|(_, name)| *name).chain(tallies.map(|(name, _)| *name))
    }
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
            inner: Mutex::new(Inner {
                since: clock::now(),
                deadline: None,
                end: None,
                was_ready: false,
                holds: Vec::new(),
                next_hold: 0,
                tallies: Vec::new(),
            }),
            changed: Condvar::new(),
            told: watch::Sender::new(Phase::Starting),
            holds: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
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
        let now = clock::now();
        let mut inner = self.0.inner();
        if self.phase() >= to {
            return false;
        }
        (inner.since, inner.deadline) = (now, deadline);
        inner.was_ready |= to == Phase::Ready;
        // Sequentially consistent, as what a `Tally` does: either it sees the phase or we see its count.
        self.0.phase.store(to as u8, Ordering::SeqCst);
        drop(inner);
        // Without the lock: a waker may drop a task, and with it a hold. The count first: whoever waits for the
        // phase looks at it then.
        self.0.tell_holds();
        // Who comes second does not go back.
        self.0.told.send_if_modified(|told| {
            let news = *told < to;
            *told = to.max(*told);
            news
        });
        true
    }

    /// Whether it is, or has been, [`Ready`](Phase::Ready).
    #[cfg_attr(not(unix), expect(dead_code, reason = "only systemd is told"))]
    pub(super) fn was_ready(&self) -> bool {
        self.0.inner().was_ready
    }

    /// For how long it has been in the present phase.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// assert!(Lifecycle::new().in_phase() < std::time::Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn in_phase(&self) -> Duration {
        clock::now().since(self.0.inner().since)
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

    /// By when the whole shutdown has to be over, said by whoever begins it.
    pub(super) fn end_by(&self, end: Instant) {
        self.0.inner().end = Some(end);
    }

    /// What [`end_by`](Self::end_by) was told, or else the [`deadline`](Self::deadline).
    pub(super) fn end(&self) -> Option<Instant> {
        let inner = self.0.inner();
        inner.end.or(inner.deadline)
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
        drop(inner);
        self.0.tell_holds();
        Hold { life: self.clone(), id, name }
    }

    /// As [`hold`](Self::hold), for what is in flight by the thousand: held while more than nothing has
    /// begun and not ended. Looked at from [`Draining`](Phase::Draining) on, or when somebody waits; until then
    /// nobody locks.
    pub(crate) fn tally(&self, name: impl Into<Name>) -> Tally {
        let count = Arc::default();
        let mut inner = self.0.inner();
        inner.tallies.retain(|(_, count)| count.strong_count() > 0);
        inner.tallies.push((name.into(), Arc::downgrade(&count)));
        drop(inner);
        Tally { life: self.clone(), count }
    }

    /// Who keeps a hold, in the order taken.
    ///
    /// ```
    /// assert!(buttress::supervise::Lifecycle::new().held_by().is_empty());
    /// ```
    #[must_use]
    pub fn held_by(&self) -> Vec<Name> {
        self.0.inner().held_by().collect()
    }

    /// Returns when there is no hold. Dropping the future has no effect.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// buttress::supervise::Lifecycle::new().released().await;
    /// # })
    /// ```
    pub async fn released(&self) {
        let _waiting = Waiting::new(&self.0);
        let mut holds = self.0.holds.subscribe();
        self.0.tell_holds(); // nobody has told of the tallies until now
        let _ = holds.wait_for(|count| *count == 0).await;
    }

    /// As [`released`](Self::released), blocking the thread for at most `timeout`. Whether there is none.
    ///
    /// ```
    /// assert!(buttress::supervise::Lifecycle::new().released_blocking(std::time::Duration::ZERO));
    /// ```
    #[must_use]
    pub fn released_blocking(&self, timeout: Duration) -> bool {
        let _waiting = Waiting::new(&self.0);
        let (inner, _) = self
            .0
            .changed
            .wait_timeout_while(self.0.inner(), timeout, |inner| inner.held_by().next().is_some())
            .unwrap_or_else(PoisonError::into_inner);
        inner.held_by().next().is_none()
    }

    /// As [`released_blocking`](Self::released_blocking), for who drives the phases: ends too when somebody
    /// else has moved them beyond [`Draining`](Phase::Draining).
    pub(super) fn drained_blocking(&self, timeout: Duration) {
        let _ = self.0.changed.wait_timeout_while(self.0.inner(), timeout, |inner| {
            self.phase() <= Phase::Draining && inner.held_by().next().is_some()
        });
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes who waits. Counts within, so that the last to tell tells the latest; wakers are called without any
    /// lock.
    fn tell_holds(&self) {
        // Whoever has looked at a tally that has changed since waits by now: the count changes without the lock.
        drop(self.inner());
        self.changed.notify_all();
        self.holds.send_if_modified(|count| {
            let now = self.inner().held_by().count();
            std::mem::replace(count, now) != now
        });
    }
}

/// Has tallies tell while it lives.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    /// Before the holds are looked at: sequentially consistent, as what a `Tally` does.
    fn new(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
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
        drop(inner);
        shared.tell_holds();
    }
}

/// See [`Lifecycle::tally`].
#[derive(Debug)]
pub(crate) struct Tally {
    life: Lifecycle,
    count: Arc<AtomicUsize>,
}

impl Tally {
    pub(crate) fn life(&self) -> &Lifecycle {
        &self.life
    }

    /// How many have begun and not ended.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn begin(&self) {
        if self.count.fetch_add(1, Ordering::SeqCst) == 0 {
            self.turned();
        }
    }

    #[inline]
    pub(crate) fn end(&self) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.turned();
        }
    }

    /// From none to some, or back.
    #[inline]
    fn turned(&self) {
        let shared = &self.life.0;
        if shared.phase.load(Ordering::SeqCst) >= Phase::Draining as u8
            || shared.waiting.load(Ordering::SeqCst) > 0
        {
            self.tell();
        }
    }

    #[cold]
    fn tell(&self) {
        self.life.0.tell_holds();
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({})", self.name)
    }
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
