//! What the mechanisms in front of one backend share: how many may be in flight, how long answers take, whether
//! there is headroom, whether it is up.

mod core;
#[cfg(all(test, not(buttress_loom)))]
mod edge_tests;
mod lane;
#[cfg(all(test, not(buttress_loom)))]
mod lane_tests;
mod latency;
#[cfg(all(test, not(buttress_loom)))]
mod limit_tests;
#[cfg(all(test, not(buttress_loom)))]
mod link_tests;
#[cfg(all(test, buttress_loom))]
mod loom_tests;
mod managed;
#[cfg(all(test, not(buttress_loom)))]
mod model_tests;
#[cfg(all(test, not(buttress_loom)))]
mod pause_tests;
#[cfg(all(test, not(buttress_loom)))]
mod played;
#[cfg(all(test, not(buttress_loom)))]
mod quota_tests;
#[cfg(all(test, not(buttress_loom)))]
mod scenario_tests;
#[cfg(all(test, not(buttress_loom)))]
mod start_tests;
#[cfg(all(test, not(buttress_loom)))]
mod tests;
mod turn;
#[cfg(all(test, not(buttress_loom)))]
mod unavailable_tests;
#[cfg(all(test, not(buttress_loom)))]
mod worth_tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use self::core::Core;
use self::lane::{Guarded, Locked};
use self::managed::Why;
pub(crate) use self::turn::{Arrival, End, Key, Settled, Turn};
use self::turn::{State, Wakers};
use crate::budget::RetryBudget;
use crate::clock::{Tick, now};
use crate::context::Criticality;
use crate::error::ConfigError;
use crate::managed::Home;
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observe, Observers, WaitSpan};
use crate::rejection::{Rejection, RejectionDetail, RejectionKind};

/// One backend as this process sees it, shared by everything in front of it. Clones are the same backend.
///
/// Without one each mechanism guesses on its own: the retries do not know that calls wait already, and send a backend
/// that is full still more of them.
///
/// It learns from what passes: how many calls can be in flight before answers take longer, how long they take
/// when nothing is wrong, whether it is up. Retries that are paid with its [`retry_budget`](Self::retry_budget)
/// stop when nothing more may be sent at once, or answers become slow, before they hurt.
///
/// ```
/// use buttress::{Backend, BackendState};
/// let search = Backend::new("search");
/// assert_eq!(search.state(), BackendState::Up);
/// assert!(search.has_headroom());
/// ```
#[derive(Clone)]
pub struct Backend {
    shared: Arc<Shared>,
}

struct Shared {
    name: Name,
    core: Guarded,
    /// When it came into its state.
    since: AtomicU64,
    observers: Observers,
}

impl Shared {
    /// As it is now, also if nobody has come for a while.
    fn core_now(&self) -> (Locked<'_>, Tick) {
        let mut core = self.core.lock();
        let now = now();
        core.reap(now);
        core.pace.age(now);
        (core, now)
    }
}

/// How a [`Backend`] is.
///
/// ```
/// assert_eq!(buttress::BackendState::Down.as_str(), "down");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum BackendState {
    /// Answers as usual.
    Up,
    /// Answers take more than twice as long as usual, or up to four times where that is little of what callers wait;
    /// or too many calls are given up at their deadline.
    Congested,
    /// Nothing answers, or everything fails. Single requests probe it.
    Down,
    /// It answers again; the limit doubles with what is answered, and grows by less as that takes longer than the baseline.
    Recovering,
}

impl BackendState {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::BackendState::Recovering.as_str(), "recovering");
    /// assert_eq!(buttress::BackendState::Recovering.to_string(), "recovering");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Congested => "congested",
            Self::Down => "down",
            Self::Recovering => "recovering",
        }
    }

    /// A word wide, as the fields of a [`Rejection`] are.
    pub(crate) const fn word(self) -> &'static Self {
        match self {
            Self::Up => &Self::Up,
            Self::Congested => &Self::Congested,
            Self::Down => &Self::Down,
            Self::Recovering => &Self::Recovering,
        }
    }

    const fn of(state: State) -> Self {
        match state {
            State::Up => Self::Up,
            State::Congested => Self::Congested,
            State::Down { .. } => Self::Down,
            State::Recovering => Self::Recovering,
        }
    }
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a [`Backend`] knows and has done, all read at one moment.
///
/// ```
/// let stats = buttress::Backend::new("db").stats();
/// assert_eq!((stats.in_flight, stats.waiting), (0, 0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BackendStats {
    /// How it is.
    pub state: BackendState,
    /// So many may be in flight; of a higher criticality than others some more.
    pub limit: u32,
    /// So many are, with abandoned calls that are perhaps still worked on.
    pub in_flight: u32,
    /// So many wait.
    pub waiting: usize,
    /// What an answer takes now; zero until there are some.
    pub latency: Duration,
    /// What an answer takes when nothing is wrong; zero until it is known.
    pub baseline: Duration,
    /// Whether more can be sent without anybody waiting longer for it.
    pub headroom: bool,
    /// Calls let through.
    pub admitted: u64,
    /// Calls that had to wait.
    pub waited: u64,
    /// Calls dropped from the room because no answer could come in time any more.
    pub hopeless: u64,
    /// Calls refused because the room was full, or because they would have had to wait and did not want to.
    pub full: u64,
    /// Calls whose deadline had passed when they came.
    pub expired: u64,
    /// Calls refused because its quota had no room for them within their time.
    pub throttled: u64,
    /// Calls sent to see whether it is up again.
    pub probes: u64,
    /// How often it went down.
    pub downs: u64,
}

/// So many may wait: a bound for memory, named on the page of [`admission`](crate::admission).
const ROOM: usize = 10_000;

impl Backend {
    /// With a limit that is learned. It starts with 4 in flight, or with up to 32 of those that wait if the first
    /// answer is slow, and doubles from there: [how it starts](crate::admission#how-it-decides).
    ///
    /// ```
    /// assert_eq!(buttress::Backend::new("db").name(), "db");
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self::of(name.into(), None)
    }

    /// With a limit that stays: a bulkhead. It is always up.
    ///
    /// # Errors
    /// If `in_flight` is not from 1 to 1,000,000.
    ///
    /// ```
    /// use buttress::Backend;
    /// assert_eq!(Backend::fixed("db", 8)?.stats().limit, 8);
    /// assert_eq!(Backend::fixed("db", 0).unwrap_err().field(), "in_flight");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn fixed(name: impl Into<Name>, in_flight: u32) -> Result<Self, ConfigError> {
        if !(1..=core::MAX_LIMIT).contains(&in_flight) {
            return Err(ConfigError::new("in_flight", in_flight, "from 1 to 1000000"));
        }
        Ok(Self::of(name.into(), Some(in_flight)))
    }

    fn of(name: Name, fixed: Option<u32>) -> Self {
        Self::with(name, fixed, Observers::default())
    }

    fn with(name: Name, fixed: Option<u32>, observers: Observers) -> Self {
        let core = Guarded::new(Core::new(fixed, ROOM));
        let since = AtomicU64::new(now().0);
        let shared = Arc::new(Shared { name, core, since, observers });
        shared.observers.register(&shared);
        Self { shared }
    }

    /// A new one of the same name and limit, with other observers.
    fn rebuilt(self, change: impl FnOnce(&mut Observers)) -> Self {
        let mut observers = self.shared.observers.clone();
        change(&mut observers);
        let limit = self.shared.core.lock().fixed_limit();
        Self::with(self.shared.name, limit, observers)
    }

    /// In another registry than that of the process, or in none.
    pub(crate) fn move_to(self, home: Home) -> Self {
        self.rebuilt(|observers| observers.move_to(home))
    }

    /// Tells its changes of state, and the refusals and waits of an [`Admission`](crate::admission::Admission)
    /// in front of it, to `observer`. A backend that is shared already is left as it is, and a new
    /// one with the same name and limit returned: call this first.
    ///
    /// ```
    /// use buttress::{Backend, observe::Event};
    /// let backend = Backend::new("db").observe(|event: &Event<'_>| println!("{event:?}"));
    /// ```
    #[must_use]
    pub fn observe(self, observer: impl Observe) -> Self {
        self.rebuilt(|observers| observers.add(observer))
    }

    /// Its name.
    ///
    /// ```
    /// assert_eq!(buttress::Backend::new("db").name(), "db");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.name.as_str()
    }

    pub(crate) fn label(&self) -> Name {
        self.shared.name
    }

    /// Where it is registered.
    pub(crate) fn home(&self) -> &Home {
        self.shared.observers.home()
    }

    /// How it is.
    ///
    /// ```
    /// assert_eq!(buttress::Backend::new("db").state(), buttress::BackendState::Up);
    /// ```
    #[must_use]
    pub fn state(&self) -> BackendState {
        BackendState::of(self.shared.core.lock().state)
    }

    /// Whether more can be sent without anybody waiting longer for it: the limit is not reached, nobody waits, answers
    /// take about as long as usual, of several calls that are out some have been answered lately, and it is not down,
    /// nor recovering from having been down for as long as callers wait.
    ///
    /// ```
    /// assert!(buttress::Backend::new("db").has_headroom());
    /// ```
    #[must_use]
    pub fn has_headroom(&self) -> bool {
        let (core, now) = self.shared.core_now();
        core.has_headroom(now)
    }

    /// A budget for retries and hedges that is paid from headroom: each answer while answers are not much slower than those for
    /// which the limit falls (if it is fixed: twice as slow as usual) earns one, up to three; so does a failure, but not
    /// with a fixed limit, which is never down. While no place is free it pays only a retry before which all attempts may have
    /// failed by chance, as often as first attempts fail now: calls that never succeed keep nobody waiting. While the backend
    /// is down retries are granted, but for what follows: they wait with the others until it is up, or are the next probe.
    ///
    /// When no more than a quarter of attempts succeeds, with more than three for two calls, none is earned for a while (12
    /// looks, each of 32 calls and four times what an answer takes). If far more succeeds then, it was all those attempts that
    /// made them fail: five successes earn one, and a limit that is learned falls while more than an eighth fails. That ends when
    /// nobody waits and no more than a sixteenth fails, or after 96 looks that have not made a quarter fewer fail: then the limit
    /// comes back. It works since all callers see at about the same time that hardly anything succeeds.
    ///
    /// ```
    /// use buttress::{Backend, RetryCost};
    /// let budget = Backend::new("db").retry_budget();
    /// let granted: Vec<_> = (0..9).filter_map(|_| budget.failed(RetryCost::Failed)).collect();
    /// assert_eq!(granted.len(), 3);
    /// ```
    #[must_use]
    pub fn retry_budget(&self) -> RetryBudget {
        RetryBudget::of_backend(self.clone())
    }

    /// From now on what it throttles (429, or unavailable with a `Retry-After`) shows how many calls a second it takes from
    /// this process: no more are sent, and those that are most important and most urgent. Until it throttles more than
    /// one of some, nothing is held back. A 429 that does not say when to come again lowers how many are in flight; where
    /// half as many do not help, it shows the quota as well, if one of eight is refused. A [fixed](Self::fixed) limit is not
    /// lowered: then it shows none. Not for a server's own handlers, where one caller over its quota would hold back the
    /// others.
    ///
    /// ```
    /// let api = buttress::Backend::new("api");
    /// api.learn_quota();
    /// assert_eq!(api.quota(), None);
    /// ```
    pub fn learn_quota(&self) {
        self.shared.core.lock().learns_quota = true;
    }

    /// What answers is a part of this process. However long nothing answers, it is not down.
    pub(crate) fn be_local(&self) {
        self.shared.core.lock().local = true;
    }

    /// It is several, and each has a queue of its own.
    pub(crate) fn be_several(&self) {
        self.shared.core.lock().several = true;
    }

    /// Calls a second that are sent, if it throttles; see [`learn_quota`](Self::learn_quota).
    ///
    /// ```
    /// assert_eq!(buttress::Backend::new("api").quota(), None);
    /// ```
    #[must_use]
    pub fn quota(&self) -> Option<f64> {
        self.shared.core_now().0.pace.rate()
    }

    /// What it knows and has done.
    ///
    /// ```
    /// assert_eq!(buttress::Backend::new("db").stats().probes, 0);
    /// ```
    #[must_use]
    pub fn stats(&self) -> BackendStats {
        let (core, now) = self.shared.core_now();
        let counts = core.counts;
        BackendStats {
            state: BackendState::of(core.state),
            limit: core.limit(),
            in_flight: core.in_flight,
            waiting: core.waiting(),
            latency: Duration::from_nanos(core.latency.typical()),
            baseline: Duration::from_nanos(core.latency.baseline()),
            headroom: core.has_headroom(now),
            admitted: counts.admitted,
            waited: counts.waited,
            hopeless: counts.hopeless,
            full: counts.full,
            expired: counts.expired,
            throttled: counts.throttled,
            probes: counts.probes,
            downs: counts.downs,
        }
    }

    /// The limit, if it is not learned.
    #[cfg(feature = "config")]
    pub(crate) fn fixed_limit(&self) -> Option<u32> {
        self.shared.core.lock().fixed_limit()
    }

    /// Another fixed limit, or that it is learned.
    #[cfg(feature = "config")]
    pub(crate) fn fix(&self, fixed: Option<u32>) {
        if self.fixed_limit() != fixed {
            self.step(|core, wakers| core.fix(fixed, now(), wakers));
        }
    }

    /// No registry shows it any more.
    #[cfg(feature = "config")]
    pub(crate) fn forget(&self, home: &Home) {
        home.forget(&self.shared);
    }

    /// For a call of which so many attempts have failed; none: for another attempt beside one.
    pub(crate) fn take_retry(&self, failed: Option<u32>) -> bool {
        self.shared.core.lock().take_retry(failed)
    }

    /// Retries that it would grant now, and at most; `None` while it is down and grants all.
    pub(crate) fn retries(&self) -> Option<(u32, u32)> {
        self.shared.core.lock().retries()
    }

    pub(crate) fn give_retry_back(&self) {
        self.shared.core.lock().give_retry_back();
    }

    /// One step of the core. Wakers run and changes are told once the lock is gone.
    #[inline]
    fn step<T>(&self, f: impl FnOnce(&mut Core, &mut Wakers) -> T) -> T {
        let mut wakers = Wakers::default();
        let mut core = self.shared.core.lock();
        let before = BackendState::of(core.state);
        let done = f(&mut core, &mut wakers);
        let after = BackendState::of(core.state);
        let why = (before != after).then(|| self.shared.changed(&core));
        drop(core);
        if let Some(why) = why {
            self.tell(before, after, &why);
        }
        wakers.wake();
        done
    }

    #[cold]
    fn tell(&self, from: BackendState, to: BackendState, why: &Why) {
        let (from, to) = (from.as_str(), to.as_str());
        let reason = format_args!("{why}");
        let kind = EventKind::StateChanged { from, to, reason };
        self.shared.observers.emit(LayerKind::Backend, self.shared.name, kind);
    }

    /// The refusal of a call, which is told.
    #[cold]
    pub(crate) fn refuse(&self, kind: RejectionKind) -> Rejection {
        self.tell_refusal(Rejection::new(kind, LayerKind::Admission, self.shared.name))
    }

    /// The same of a call for which the quota has no room within its time.
    #[cold]
    pub(crate) fn refuse_until(&self, after: Duration) -> Rejection {
        let why =
            Rejection::new(RejectionKind::RateLimited, LayerKind::Admission, self.shared.name);
        self.tell_refusal(why.with_retry_after(after))
    }

    /// How it is, for a refusal.
    pub(crate) fn seen(&self) -> RejectionDetail {
        let core = self.shared.core.lock();
        RejectionDetail::Backend { state: BackendState::of(core.state), failures: core.failures }
    }

    fn tell_refusal(&self, why: Rejection) -> Rejection {
        let why = why.with_detail(self.seen());
        if self.shared.observers.see_refusals() {
            self.tell_of_call(EventKind::Rejected(&why));
        }
        why
    }

    /// A call begins to wait.
    pub(crate) fn wait_span(&self) -> WaitSpan {
        WaitSpan::begin(LayerKind::Admission, self.shared.name)
    }

    /// A call had to wait since `arrived` and has its place.
    #[cold]
    pub(crate) fn waited(&self, arrived: Tick, now: Tick) {
        if self.shared.observers.see_refusals() {
            self.tell_of_call(EventKind::Waited { waited: now.since(arrived) });
        }
    }

    fn tell_of_call(&self, kind: EventKind<'_>) {
        self.shared.observers.emit(LayerKind::Admission, self.shared.name, kind);
    }

    /// A call without a deadline comes. `true`: it is admitted, and need not be measured if it is answered in the poll
    /// in which it is sent. Else it is to [`arrive`](Self::arrive).
    #[inline]
    pub(crate) fn enter(&self, class: Criticality) -> bool {
        class == Criticality::Critical && self.shared.core.enter()
    }

    /// And whether a call that was admitted has to be measured even if it is answered at once.
    #[inline]
    pub(crate) fn arrive(&self, deadline: Tick, class: Criticality, now: Tick) -> (Arrival, u32) {
        if deadline > now && self.enter(class) {
            return (Arrival::Admitted, 0);
        }
        self.arrive_slowly(deadline, class, now)
    }

    #[inline(never)]
    fn arrive_slowly(&self, deadline: Tick, class: Criticality, now: Tick) -> (Arrival, u32) {
        self.step(|core, wakers| {
            let arrival = core.arrive(deadline, class, now, wakers);
            let admitted = matches!(arrival, Arrival::Admitted);
            let stands_for = if admitted { core.stands_for() } else { 1 };
            (arrival, stands_for)
        })
    }

    /// The same for a call that does not wait: it is let through or refused.
    pub(crate) fn arrive_at_once(&self, deadline: Tick, class: Criticality, now: Tick) -> Arrival {
        if deadline > now && self.enter(class) {
            self.not_at_once();
            return Arrival::Admitted;
        }
        self.step(|core, wakers| {
            let arrival = core.arrive_at_once(deadline, class, now, wakers);
            if matches!(arrival, Arrival::Admitted) {
                // Measured in any case: the next ones need not be.
                core.stands_for();
            }
            arrival
        })
    }

    pub(crate) fn poll(&self, key: Key, waker: &std::task::Waker) -> Turn {
        self.step(|core, wakers| core.poll(key, waker, now(), wakers))
    }

    pub(crate) fn leave(&self, key: Key) {
        self.step(|core, wakers| core.leave(key, now(), wakers));
    }

    #[inline(never)]
    pub(crate) fn finish(&self, started: Tick, end: End) {
        self.step(|core, wakers| core.finish(started, end, now(), wakers));
    }

    /// A call that need not be measured if it is answered in the poll in which it is sent is not.
    #[cold]
    pub(crate) fn not_at_once(&self) {
        self.shared.core.not_at_once();
    }

    /// A call that need not be measured has succeeded in the poll in which it was sent.
    #[inline]
    pub(crate) fn finish_at_once(&self, started: impl FnOnce() -> Tick) {
        if !self.shared.core.leave() {
            self.finish_and_tell(started());
        }
    }

    #[inline(never)]
    fn finish_and_tell(&self, started: Tick) {
        self.step(|core, wakers| core.finish_at_once(started, wakers));
    }

    /// Admitted, and then not sent: its turn in the quota is somebody else's.
    pub(crate) fn finish_unsent(&self, started: Tick) {
        self.step(|core, wakers| core.finish_unsent(started, now(), wakers));
    }

    /// A call that was admitted cannot be sent: the service fails before it takes one.
    pub(crate) fn finish_unready(&self, started: Tick) {
        self.step(|core, wakers| core.finish_unready(started, now(), wakers));
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        f.debug_struct("Backend")
            .field("name", &self.name())
            .field("state", &stats.state)
            .field("limit", &stats.limit)
            .field("in_flight", &stats.in_flight)
            .field("waiting", &stats.waiting)
            .finish_non_exhaustive()
    }
}
