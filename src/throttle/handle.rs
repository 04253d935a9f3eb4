use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::config::ThrottleBuilder;
use super::core::{Answer, Core, End, Limits};
use super::layer::ThrottleLayer;
use super::permit::{Asked, Permit};
use crate::backoff::Random;
use crate::classify::{AnyError, Classify};
use crate::clock::{Tick, instant, now, park};
use crate::deadline::Deadline;
use crate::error::{ConfigError, Error};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::outcome::{FailureClass, Outcome, Verdict};
use crate::pace::{Pace, Phase};
use crate::rejection::{Rejection, RejectionKind};
use crate::sync::{Lease, Mutex, lock};

/// What one backend takes, as far as it is known, and who may call it: see the [module](super). Clones are the same
/// object.
///
/// ```
/// use buttress::throttle::Throttle;
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let throttle = Throttle::new("api");
/// assert_eq!(throttle.run(async { Ok::<_, std::io::Error>(7) }).await.unwrap(), 7);
/// assert_eq!(throttle.stats().sent, 1);
/// # });
/// ```
#[derive(Clone)]
pub struct Throttle {
    pub(super) shared: Lease<Shared>,
}

pub(super) struct Shared {
    pub(super) name: Name,
    pub(super) core: Mutex<Core>,
    observers: Observers,
}

pub(super) const fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Free => "free",
        Phase::Measuring => "measuring",
        Phase::Limiting => "limiting",
        Phase::Stopped => "stopped",
    }
}

pub(super) fn end(verdict: &Verdict) -> End {
    match verdict.outcome {
        Outcome::Success | Outcome::Failure(FailureClass::Permanent) => End::Taken,
        Outcome::Throttled => End::Refused(verdict.retry.after()),
        Outcome::Failure(_) => match verdict.retry.after() {
            // Unavailable, and it says until when.
            Some(after) if !after.is_zero() => End::Refused(Some(after)),
            _ => End::Failed,
        },
        Outcome::Cancelled { .. } | Outcome::Ignored => End::Ignored,
    }
}

impl Shared {
    /// One step of the core; a change of phase is told once the lock is gone.
    pub(super) fn step<T>(&self, f: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = lock(&self.core);
        let before = core.phase();
        let done = f(&mut core);
        let tells = core.stepped(before);
        drop(core);
        if tells {
            self.tell();
        }
        done
    }

    #[cold]
    fn tell(&self) {
        loop {
            let next = lock(&self.core).untold();
            let Some((from, to)) = next else { return };
            self.changed(from, to);
        }
    }

    fn changed(&self, from: Phase, to: Phase) {
        let reason = match to {
            Phase::Free if from == Phase::Measuring => "few calls are throttled",
            Phase::Free => "nothing is throttled any more",
            Phase::Measuring => "a call was throttled",
            Phase::Limiting => "it is known how many it takes",
            Phase::Stopped => "it takes none",
        };
        let (from, to, reason) = (word(from), word(to), format_args!("{reason}"));
        let kind = EventKind::StateChanged { from, to, reason };
        self.observers.emit(LayerKind::Throttle, self.name, kind);
    }

    #[cold]
    pub(super) fn refuse(&self, why: Answer, now: Tick) -> Rejection {
        let new = |kind| Rejection::new(kind, LayerKind::Throttle, self.name);
        let why = match why {
            Answer::NoRoom(at) => new(RejectionKind::RateLimited).with_retry_after(at.since(now)),
            Answer::Expired => new(RejectionKind::DeadlineExceeded),
            Answer::Shed | Answer::Go { .. } | Answer::Wait(_) => new(RejectionKind::Overloaded),
        };
        if self.observers.see_refusals() {
            self.observers.emit(LayerKind::Throttle, self.name, EventKind::Rejected(&why));
        }
        why
    }

    #[cold]
    pub(super) fn waited(&self, waited: Duration) {
        if self.observers.see_refusals() {
            self.observers.emit(LayerKind::Throttle, self.name, EventKind::Waited { waited });
        }
    }

    pub(super) fn stats(&self) -> ThrottleStats {
        self.read(|core, now| ThrottleStats::of(core, &core.pace_at(now), now))
    }

    /// Changes nothing and tells nobody: whoever reads may hold locks that an observer takes.
    pub(super) fn read<T>(&self, f: impl FnOnce(&Core, Tick) -> T) -> T {
        let now = now();
        f(&lock(&self.core), now)
    }
}

impl Throttle {
    /// With the defaults.
    ///
    /// ```
    /// assert_eq!(buttress::throttle::Throttle::new("api").name(), "api");
    /// ```
    ///
    /// # Panics
    /// Never: the defaults are valid.
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self::builder(name).build().expect("the defaults are valid")
    }

    /// With other numbers.
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// let throttle = Throttle::builder("api").k(1.5).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> ThrottleBuilder {
        ThrottleBuilder::new(name.into())
    }

    pub(super) fn from_parts(
        name: Name,
        observers: Observers,
        limits: Limits,
        random: Random,
    ) -> Self {
        let core = Mutex::new(Core::new(limits, random));
        let shared = Arc::new(Shared { name, core, observers });
        shared.observers.register(&shared);
        Self { shared: Lease::new(shared) }
    }

    /// Its name.
    ///
    /// ```
    /// assert_eq!(buttress::throttle::Throttle::new("api").name(), "api");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.name.as_str()
    }

    /// As a layer.
    ///
    /// ```
    /// let layer = buttress::throttle::Throttle::new("api").layer();
    /// ```
    #[must_use]
    pub fn layer(&self) -> ThrottleLayer {
        ThrottleLayer::new(self.clone())
    }

    /// Calls a second that are sent, once some were throttled.
    ///
    /// ```
    /// assert_eq!(buttress::throttle::Throttle::new("api").quota(), None);
    /// ```
    #[must_use]
    pub fn quota(&self) -> Option<f64> {
        self.shared.read(|core, now| core.pace_at(now).rate())
    }

    /// What it knows and has done. As all readings, without effects: that a quota has grown too old is seen at once and
    /// [told](super#events) with the next call.
    ///
    /// ```
    /// assert_eq!(buttress::throttle::Throttle::new("api").stats().shed, 0);
    /// ```
    #[must_use]
    pub fn stats(&self) -> ThrottleStats {
        self.shared.stats()
    }

    /// Forgets what it has learned.
    ///
    /// ```
    /// buttress::throttle::Throttle::new("api").reset();
    /// ```
    pub fn reset(&self) {
        self.shared.step(Core::reset);
    }

    /// Gives a running throttle all the settings of `builder`.
    ///
    /// What it has learned is kept, unless [`quota`](ThrottleBuilder::quota) is off from now on; so are the counters,
    /// and the turns of calls that wait. A setting that the builder was not given has its default. The name stays, and so
    /// do observers and the place in a registry: the builder's are not looked at.
    ///
    /// # Errors
    /// As [`ThrottleBuilder::build`]; then nothing has changed.
    ///
    /// ```
    /// use buttress::throttle::Throttle;
    /// let throttle = Throttle::new("api");
    /// throttle.reconfigure(Throttle::builder("api").k(1.5))?;
    /// let error = throttle.reconfigure(Throttle::builder("api").k(0.5)).unwrap_err();
    /// assert_eq!(error.field(), "k");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn reconfigure(&self, builder: ThrottleBuilder) -> Result<(), ConfigError> {
        let limits = builder.limits()?;
        let random = builder.random();
        // Outside of the lock: what is left of the builder is user code, too.
        drop(builder);
        self.shared.step(|core| core.reconfigure(limits, random, now()));
        Ok(())
    }

    /// Makes a call in its turn, or refuses it. Every error is a failure; [`run_with`](Self::run_with) judges.
    ///
    /// # Errors
    /// The call's own, or the refusal.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let throttle = buttress::throttle::Throttle::new("api");
    /// assert!(throttle.run(async { Err::<(), _>("broken") }).await.is_err());
    /// # });
    /// ```
    pub async fn run<F, T, E>(&self, call: F) -> Result<T, Error<E>>
    where
        F: Future<Output = Result<T, E>>,
        E: 'static,
    {
        self.run_with(call, &AnyError, None).await
    }

    /// As [`run`](Self::run), judged by a classifier for the request `()`, and in time for a deadline.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// ```
    /// use buttress::{Verdict, classify_fn, throttle::Throttle};
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let throttle = Throttle::new("api");
    /// let classify = classify_fn(|result: Result<&(), &u16>| match result {
    ///     Err(429) => Verdict::throttled(None),
    ///     Err(_) => Verdict::failure(buttress::FailureClass::Transient),
    ///     Ok(()) => Verdict::success(),
    /// });
    /// assert!(throttle.run_with(async { Err(429) }, &classify, None).await.is_err());
    /// # });
    /// ```
    pub async fn run_with<F, T, E, C>(
        &self,
        call: F,
        classify: &C,
        deadline: impl Into<Option<Deadline>>,
    ) -> Result<T, Error<E>>
    where
        F: Future<Output = Result<T, E>>,
        C: Classify<(), T, E>,
    {
        let shared = Arc::clone(self.shared.shared());
        let deadline = deadline.into().map(Deadline::tick);
        let mut asked = Permit::ask(shared, deadline);
        let mut permit = loop {
            match asked {
                Asked::Refused(why) => return Err(why.into()),
                Asked::Granted(permit) => break permit,
                Asked::Wait(turn) => {
                    if let Some(at) = instant(turn.at()) {
                        tokio::time::sleep_until(at).await;
                    }
                    asked = turn.again();
                }
            }
        };
        permit.sent();
        let ticket = classify.start(&());
        let result = call.await;
        permit.finish(end(&classify.finish(ticket, result.as_ref())));
        result.map_err(Error::Inner)
    }

    /// As [`run`](Self::run) on a thread, which is blocked until its turn. Needs no runtime.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// ```
    /// let throttle = buttress::throttle::Throttle::new("api");
    /// assert_eq!(throttle.run_blocking(|| Ok::<_, std::io::Error>(7)).unwrap(), 7);
    /// ```
    pub fn run_blocking<F, T, E>(&self, call: F) -> Result<T, Error<E>>
    where
        F: FnOnce() -> Result<T, E>,
        E: 'static,
    {
        self.run_blocking_with(call, &AnyError, None)
    }

    /// As [`run_with`](Self::run_with) on a thread, which is blocked until its turn. It is refused at once if that comes
    /// after the deadline.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// ```
    /// use buttress::{AnyError, Deadline, throttle::Throttle};
    /// use std::time::Duration;
    /// let passed = Deadline::after(Duration::ZERO);
    /// let call = || -> std::io::Result<()> { panic!("it is not made") };
    /// let refused = Throttle::new("api").run_blocking_with(call, &AnyError, passed).unwrap_err();
    /// assert!(refused.rejection().is_some());
    /// ```
    pub fn run_blocking_with<F, T, E, C>(
        &self,
        call: F,
        classify: &C,
        deadline: impl Into<Option<Deadline>>,
    ) -> Result<T, Error<E>>
    where
        F: FnOnce() -> Result<T, E>,
        C: Classify<(), T, E>,
    {
        let shared = Arc::clone(self.shared.shared());
        let mut asked = Permit::ask(shared, deadline.into().map(Deadline::tick));
        let mut permit = loop {
            match asked {
                Asked::Refused(why) => return Err(why.into()),
                Asked::Granted(permit) => break permit,
                Asked::Wait(turn) => {
                    park(turn.at().since(now()));
                    asked = turn.again();
                }
            }
        };
        permit.sent();
        let ticket = classify.start(&());
        let result = call();
        permit.finish(end(&classify.finish(ticket, result.as_ref())));
        result.map_err(Error::Inner)
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("name", &self.name())
            .field("quota", &self.quota())
            .finish_non_exhaustive()
    }
}

/// What a [`Throttle`] knows and has done, all read at one moment.
///
/// ```
/// let stats = buttress::throttle::Throttle::new("api").stats();
/// assert_eq!((stats.state, stats.quota), ("free", None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThrottleStats {
    /// `free`, `measuring`, `limiting` or `stopped`.
    pub state: &'static str,
    /// Calls a second that are sent, once some were throttled.
    pub quota: Option<f64>,
    /// The share of calls that is refused because others failed.
    pub shed_share: f64,
    /// Calls sent.
    pub sent: u64,
    /// Of those, calls that were throttled or failed.
    pub failed: u64,
    /// Calls that had to wait for their turn.
    pub waited: u64,
    /// Calls refused because the quota had no room for them in time, also of those that waited when all turns were lost.
    pub no_room: u64,
    /// Calls refused because others failed.
    pub shed: u64,
    /// Calls whose deadline had passed when they came, or as they waited.
    pub expired: u64,
}

impl ThrottleStats {
    pub(super) fn of(core: &Core, pace: &Pace, now: Tick) -> Self {
        let counts = core.counts;
        Self {
            state: word(pace.phase()),
            quota: pace.rate(),
            shed_share: core.share(now),
            sent: counts.sent,
            failed: counts.failed,
            waited: counts.waited,
            no_room: counts.no_room,
            shed: counts.shed,
            expired: counts.expired,
        }
    }
}
