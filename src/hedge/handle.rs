use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use tower_service::Service;

use super::config::{Gate, HedgeBuilder};
use super::core::{Core, Limits};
use super::layer::HedgeLayer;
use super::service::start;
use crate::budget::{RetryBudget, RetryCost, RetryToken};
use crate::classify::AnyError;
use crate::clock::{Tick, UNREAD};
use crate::deadline::Deadline;
use crate::error::ConfigError;
use crate::lever::Lever;
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::replay::{Attempt, Replay};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Lease, Mutex, lock};

/// What is known of the latencies of one backend, and how many second attempts it can be asked for: see the
/// [module](super). Clones are the same object.
///
/// ```
/// use buttress::hedge::Hedge;
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let hedge = Hedge::new("search");
/// // Called again, with 2, if the first takes longer than 98 in 100 answers.
/// let answer = hedge.run(|attempt| async move { Ok::<_, std::io::Error>(attempt) }).await.unwrap();
/// assert_eq!(answer, 1);
/// # });
/// ```
#[derive(Clone)]
pub struct Hedge {
    pub(super) shared: Lease<Shared>,
}

pub(super) struct Shared {
    pub(super) name: Name,
    pub(super) core: Core,
    paid: Mutex<Paid>,
    pub(super) engaged: AtomicU32,
    observers: Observers,
    pub(super) counts: Counts,
}

/// Who pays for hedges. Asked only when there is to be one.
#[derive(Clone)]
struct Paid {
    budget: Option<RetryBudget>,
    gate: Option<Gate>,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) won: AtomicU64,
    pub(super) withheld: [AtomicU64; Withheld::ALL.len()],
}

/// Why a hedge that was due was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withheld {
    Engaged,
    Congested,
    ExtraLoad,
    Budget,
    Unsafe,
    NotReplayable,
    NotReady,
}

impl Withheld {
    pub(super) const ALL: [Self; 7] = [
        Self::Engaged,
        Self::Congested,
        Self::ExtraLoad,
        Self::Budget,
        Self::Unsafe,
        Self::NotReplayable,
        Self::NotReady,
    ];

    /// Whether another answer can be had a moment later.
    pub(super) const fn may_change(self) -> bool {
        matches!(self, Self::Congested | Self::ExtraLoad | Self::Budget)
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Engaged => "engaged",
            Self::Congested => "congested",
            Self::ExtraLoad => "extra_load",
            Self::Budget => "budget",
            Self::Unsafe => "unsafe",
            Self::NotReplayable => "not_replayable",
            Self::NotReady => "not_ready",
        }
    }
}

/// A hedge that may be sent. Dropping it gives everything back.
pub(super) struct Grant {
    /// `None` once it was sent.
    shared: Option<Arc<Shared>>,
    price: u64,
    token: Option<RetryToken>,
}

impl Grant {
    pub(super) fn send(mut self) -> Option<crate::budget::SentRetry> {
        self.shared = None;
        self.token.take().map(RetryToken::send)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.core.give_back(self.price);
        }
    }
}

impl Shared {
    pub(super) fn withhold(&self, why: Withheld) {
        self.counts.withheld[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the backend can be asked for another attempt.
    pub(super) fn ask(self: &Arc<Self>) -> Result<Grant, Withheld> {
        if self.engaged.load(Ordering::Relaxed) != 0 {
            return Err(Withheld::Engaged);
        }
        let Paid { budget, gate } = lock(&self.paid).clone();
        if gate.is_some_and(|has_headroom| !has_headroom()) {
            return Err(Withheld::Congested);
        }
        let price = if self.core.is_in_vain() {
            self.core.take_all().ok_or(Withheld::Congested)?
        } else {
            self.core.take().ok_or(Withheld::ExtraLoad)?
        };
        let mut grant = Grant { shared: Some(Arc::clone(self)), price, token: None };
        if let Some(budget) = budget {
            grant.token = Some(budget.withdraw(RetryCost::Failed).ok_or(Withheld::Budget)?);
        }
        Ok(grant)
    }

    pub(super) fn sent(&self, after: Duration) {
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        if self.observers.see_refusals() {
            self.observers.emit(LayerKind::Hedge, self.name, EventKind::Hedged { after });
        }
    }

    /// After it was [`sent`](Self::sent), and so it is read: never more than were sent.
    pub(super) fn won(&self) {
        self.counts.won.fetch_add(1, Ordering::Release);
    }
}

impl Hedge {
    /// A hedge with the defaults.
    ///
    /// ```
    /// assert_eq!(buttress::hedge::Hedge::new("db").name(), "db");
    /// ```
    ///
    /// # Panics
    /// Never: the defaults are valid.
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self::builder(name).build().expect("the defaults are valid")
    }

    /// A hedge with other numbers.
    ///
    /// ```
    /// use buttress::hedge::Hedge;
    /// let hedge = Hedge::builder("db").percentile(0.95).extra_load(0.06).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> HedgeBuilder {
        HedgeBuilder::new(name.into())
    }

    pub(super) fn from_parts(config: HedgeBuilder, limits: Limits) -> Self {
        let shared = Arc::new(Shared {
            name: config.name,
            core: Core::new(limits),
            paid: Mutex::new(Paid { budget: config.budget, gate: config.gate }),
            engaged: AtomicU32::new(0),
            observers: config.observers,
            counts: Counts::default(),
        });
        shared.observers.register(&shared);
        Self { shared: Lease::new(shared) }
    }

    /// Its name.
    ///
    /// ```
    /// assert_eq!(buttress::hedge::Hedge::new("db").name(), "db");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.name.as_str()
    }

    /// As a layer.
    ///
    /// ```
    /// let layer = buttress::hedge::Hedge::new("db").layer();
    /// ```
    #[must_use]
    pub fn layer(&self) -> HedgeLayer {
        HedgeLayer::new(self.clone())
    }

    /// After how long there is a second attempt now; `None` until enough answers have been seen.
    ///
    /// ```
    /// assert_eq!(buttress::hedge::Hedge::new("db").delay(), None);
    /// ```
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.shared.core.delay().map(Duration::from_nanos)
    }

    /// What it knows and has done.
    ///
    /// ```
    /// assert_eq!(buttress::hedge::Hedge::new("db").stats().sent, 0);
    /// ```
    #[must_use]
    pub fn stats(&self) -> HedgeStats {
        self.shared.stats()
    }

    /// Makes a call, and a second one if the first takes too long. It is given the number of the attempt,
    /// from 1; it must do no harm to do it twice.
    ///
    /// # Errors
    /// The call's own: of the second to end, if both fail.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let hedge = buttress::hedge::Hedge::new("db");
    /// assert!(hedge.run(|_| async { Err::<(), _>(std::fmt::Error) }).await.is_err());
    /// # });
    /// ```
    pub async fn run<F, Fut, T, E>(&self, call: F) -> Result<T, E>
    where
        F: Fn(u32) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: 'static,
    {
        self.run_until(call, None).await
    }

    /// As [`run`](Self::run), without a second attempt that could not answer by this deadline. It does not end
    /// the call: that is a [timeout](crate::timeout)'s.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// ```
    /// use buttress::{Deadline, hedge::Hedge};
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let soon = Deadline::after(std::time::Duration::from_secs(1));
    /// let answer = Hedge::new("db").run_until(|_| async { Ok::<_, std::fmt::Error>(7) }, soon).await;
    /// assert_eq!(answer, Ok(7));
    /// # });
    /// ```
    pub async fn run_until<F, Fut, T, E>(
        &self,
        call: F,
        deadline: impl Into<Option<Deadline>>,
    ) -> Result<T, E>
    where
        F: Fn(u32) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: 'static,
    {
        let shared = self.shared.clone().for_call();
        let replay = Numbered { deadline: deadline.into() };
        start(&mut Calls(&call), 1, shared, &AnyError, &replay).await
    }
}

impl Hedge {
    /// Gives a running hedge all the settings of `builder`.
    ///
    /// What it has seen of answers is kept, and so are the counters and what is saved up, cut to the new `burst`. A setting that the
    /// builder was not given has its default; without a budget or a gate in it there is none from now on. The name
    /// stays, and so do observers and the place in a registry: the builder's are not looked at.
    ///
    /// # Errors
    /// As [`HedgeBuilder::build`]; then nothing has changed.
    ///
    /// ```
    /// use buttress::hedge::Hedge;
    /// let hedge = Hedge::builder("search").burst(5).build()?;
    /// hedge.reconfigure(Hedge::builder("search").percentile(0.9))?;
    /// let error = hedge.reconfigure(Hedge::builder("search").percentile(9.0)).unwrap_err();
    /// assert_eq!(error.field(), "percentile");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn reconfigure(&self, builder: HedgeBuilder) -> Result<(), ConfigError> {
        builder.check()?;
        self.shared.core.reconfigure(builder.limits());
        let paid = Paid { budget: builder.budget, gate: builder.gate };
        let before = std::mem::replace(&mut *lock(&self.shared.paid), paid);
        // Outside of the lock: a gate is user code.
        drop(before);
        Ok(())
    }

    #[cfg(all(test, feature = "config"))]
    pub(crate) fn limits(&self) -> String {
        format!("{:?}", self.shared.core.limits)
    }

    /// No registry shows it any more.
    #[cfg(feature = "config")]
    pub(crate) fn forget(&self, home: &crate::managed::Home) {
        home.forget(self.shared.shared());
    }
}

/// Engaged, it sends no hedge. One `release` too many is ignored.
///
/// ```
/// use buttress::{Lever, hedge::Hedge};
/// let hedge = Hedge::new("db");
/// hedge.engage();
/// hedge.release();
/// ```
impl Lever for Hedge {
    fn engage(&self) {
        self.shared.engage();
    }

    fn release(&self) {
        self.shared.release();
    }
}

impl fmt::Debug for Hedge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedge")
            .field("name", &self.name())
            .field("delay", &self.delay())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a [`Hedge`] knows and has done.
///
/// ```
/// let stats = buttress::hedge::Hedge::new("db").stats();
/// assert_eq!(stats.delay, None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HedgeStats {
    /// After how long there is a second attempt; `None` until that is known.
    pub delay: Option<Duration>,
    /// What half of the answers take at most; `None` until that is known.
    pub median: Option<Duration>,
    /// Hedges that the calls so far have paid for.
    pub saved: f64,
    /// Hedges sent.
    pub sent: u64,
    /// Hedges whose answer was used.
    pub won: u64,
    /// Hedges that were due and not sent then, though perhaps a little later.
    pub withheld: u64,
}

struct Calls<'a, F>(&'a F);

impl<F> Clone for Calls<'_, F> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<F, Fut, T, E> Service<u32> for Calls<'_, F>
where
    F: Fn(u32) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Response = T;
    type Error = E;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, attempt: u32) -> Fut {
        (self.0)(attempt)
    }
}

#[derive(Clone, Copy)]
struct Numbered {
    deadline: Option<Deadline>,
}

impl Replay<u32> for Numbered {
    fn try_replay(&self, req: &u32) -> Option<u32> {
        Some(*req)
    }

    fn deadline(&self, _: &u32) -> Option<Deadline> {
        self.deadline
    }

    fn mark(&self, req: &mut u32, attempt: Attempt) {
        *req = attempt.0;
    }
}

/// A call whose latency is being measured. Dropped before it is told of an answer, it was given up.
pub(super) struct Watch {
    pub(super) shared: Option<crate::sync::Ref<Shared>>,
    pub(super) started: Tick,
    /// Of the call.
    pub(super) deadline: Option<Tick>,
    /// The first attempt is over.
    pub(super) measured: bool,
    /// Calls for which its time stands: none, if it is answered in the poll in which it was sent and need not be measured.
    pub(super) stands_for: u32,
}

impl Watch {
    /// Of a call that is not measured.
    pub(super) const NONE: Self =
        Self { shared: None, started: Tick(0), deadline: None, measured: false, stands_for: 1 };
}

impl Watch {
    /// Now, by a hedge or by the first attempt.
    pub(super) fn answered(&self, shared: &Shared, rescued: bool) -> Tick {
        let now = crate::clock::now();
        match self.deadline {
            Some(deadline) if deadline <= now => shared.core.missed(),
            _ => shared.core.kept(rescued),
        }
        now
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            if self.started == UNREAD {
                self.started = crate::clock::beginning();
            }
            let now = crate::clock::now();
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                shared.core.missed();
            }
            if !self.measured {
                shared.core.censored(now.0.saturating_sub(self.started.0), now);
            }
        }
    }
}
