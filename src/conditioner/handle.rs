//! The object users hold.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock;
use crate::error::ConfigError;
use crate::lever::Lever;
use crate::name::Name;
use crate::observe::Observers;
use crate::rejection::Rejection;
use crate::slot::Slot;
use crate::sync::{Lease, Padded, lock};

use super::applied::Applied;
use super::arm::ArmError;
use super::call::Call;
use super::config::ConditionerBuilder;
use super::injection::Instead;
use super::layer::ConditionerLayer;
use super::plan::Plan;
use super::shared::{Current, DISARMED, HELD, KILLED, RESTING, Rules, Shared, wait};
use super::stats::ConditionerStats;

/// Injects faults into calls, by rules, so that they can be replayed.
///
/// Clones share one state; a layer made from it is a view of the same state. It works alone, async
/// ([`apply`](Self::apply)) and blocking ([`apply_blocking`](Self::apply_blocking)). It does nothing until it
/// is [armed](Self::arm). As a [`Lever`], a spent failure budget holds it back.
///
/// See the [module](super) for how it decides.
///
/// ```
/// use buttress::conditioner::{Call, Conditioner, Fault, Matcher, Rule};
///
/// let conditioner = Conditioner::builder("payments")
///     .rule(Rule::new(Fault::loss()).share(0.5).matching(Matcher::name_or_url("/charge")))
///     .build()?;
/// conditioner.arm().unwrap();
/// let lost = (0..1000)
///     .filter(|id| conditioner.apply_blocking(&Call::new().url("/charge").id(*id)).is_err())
///     .count();
/// assert!((450..550).contains(&lost));
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Conditioner {
    pub(super) lease: Lease<Shared>,
}

impl Shared {
    pub(super) fn arm(&self) -> Result<(), ArmError> {
        let rules = self.rules.get();
        rules.permission.check()?;
        rules.barred.store(false, Ordering::Relaxed);
        if self.gate.load(Ordering::Relaxed) & DISARMED != 0 {
            self.armed_at.store(clock::now().0, Ordering::Relaxed);
        }
        let armed = |gate: u32| (gate & KILLED == 0).then_some(gate & !(DISARMED | RESTING));
        // Release: who sees the gate open must not see the time of an earlier arming. The gate is read
        // relaxed, so this makes it likely, not certain; then a schedule is a moment late.
        match self.gate.fetch_update(Ordering::Release, Ordering::Relaxed, armed) {
            Ok(_) => Ok(()),
            Err(_) => Err(ArmError::Killed),
        }
    }

    /// As [`arm`](Self::arm), of one that rests.
    #[cfg(feature = "config")]
    fn wake(&self) -> bool {
        let rules = self.rules.get();
        let allowed = rules.permission.check().is_ok();
        if allowed {
            rules.barred.store(false, Ordering::Relaxed);
            self.armed_at.store(clock::now().0, Ordering::Relaxed);
        }
        let closed = if allowed { 0 } else { DISARMED };
        let awake =
            |gate: u32| (gate & RESTING != 0).then_some(gate & !(DISARMED | RESTING) | closed);
        let woken = self.gate.fetch_update(Ordering::Release, Ordering::Relaxed, awake);
        woken.is_ok() && allowed
    }

    pub(super) fn disarm(&self) {
        let _ = self.set_gate(|gate| Some((gate | DISARMED) & !RESTING));
    }
}

impl Conditioner {
    /// Rules and limits of your own.
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let conditioner = Conditioner::builder("api").rule(Rule::new(Fault::hang()).max_active(3)).build()?;
    /// assert!(!conditioner.is_injecting(), "not armed yet");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> ConditionerBuilder {
        ConditionerBuilder::new(name.into())
    }

    /// A bad network, armed: of the calls whose name or URL contains `name_filter` (all, if there is none)
    /// the share `loss` is lost, and the others come later by anything from `latency - jitter` to
    /// `latency + jitter`. Its name is `network`; for another, for a seed or for a guard use
    /// [`ConditionerBuilder::network`].
    ///
    /// # Errors
    /// If the loss is not a share from 0 to 1, or a time longer than a day.
    ///
    /// ```
    /// use buttress::conditioner::Conditioner;
    /// use std::time::Duration;
    /// let ms = Duration::from_millis;
    /// let mobile = Conditioner::network(ms(80), ms(40), 0.02, None)?;
    /// assert!(mobile.is_injecting());
    /// assert_eq!(Conditioner::network(ms(0), ms(0), 7.0, None).unwrap_err().field(), "loss");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn network(
        latency: Duration,
        jitter: Duration,
        loss: f64,
        name_filter: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let network =
            Self::builder("network").network(latency, jitter, loss, name_filter).build()?;
        // It has no environments to be outside of.
        let _ = network.arm();
        Ok(network)
    }

    pub(super) fn from_parts(name: Name, rules: Rules, observers: Observers) -> Self {
        let shared = Shared {
            gate: Padded(AtomicU32::new(DISARMED)),
            name,
            rules: Current::new(rules),
            observers,
            armed_at: AtomicU64::new(0),
            closed: Notify::new(),
            seen: Padded::default(),
            injected: AtomicU64::new(0),
        };
        let shared = Arc::new(shared);
        shared.observers.register(&shared);
        Self { lease: Lease::new(shared) }
    }

    /// The layer that puts it around a service. The same as `ConditionerLayer::new(self.clone())`.
    ///
    /// ```
    /// # use buttress::conditioner::Conditioner;
    /// # use std::time::Duration;
    /// let slow = Conditioner::network(Duration::from_millis(50), Duration::ZERO, 0.0, None)?;
    /// let stack = tower::ServiceBuilder::new().layer(slow.layer());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn layer(&self) -> ConditionerLayer {
        ConditionerLayer::new(self.clone())
    }

    /// Starts injecting, and starts the clock of the schedules. Arming what is armed changes nothing.
    ///
    /// # Errors
    /// [`ArmError::Environment`] if this is none of the environments it was allowed in,
    /// [`ArmError::Killed`] after [`kill`](Self::kill).
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, Fault, Rule};
    /// let conditioner = Conditioner::builder("api").rule(Rule::new(Fault::loss())).build()?;
    /// conditioner.arm().unwrap();
    /// assert!(conditioner.is_injecting());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn arm(&self) -> Result<(), ArmError> {
        self.lease.arm()
    }

    /// Stops injecting. Calls that wait because of a fault go on at once, those that hang end with a
    /// connection error; other faults that have begun (a reply to be lost, a body to be cut) take place.
    ///
    /// ```
    /// # use buttress::conditioner::Conditioner;
    /// # use std::time::Duration;
    /// let slow = Conditioner::network(Duration::from_secs(50), Duration::ZERO, 0.0, None)?;
    /// slow.disarm();
    /// assert!(!slow.is_injecting());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn disarm(&self) {
        self.lease.disarm();
    }

    /// Stops injecting for good, as [`disarm`](Self::disarm) does: it cannot be armed again.
    ///
    /// ```
    /// # use buttress::conditioner::{ArmError, Conditioner};
    /// # use std::time::Duration;
    /// let slow = Conditioner::network(Duration::from_secs(50), Duration::ZERO, 0.0, None)?;
    /// slow.kill();
    /// assert_eq!(slow.arm(), Err(ArmError::Killed));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn kill(&self) {
        let _ = self.lease.set_gate(|gate| Some((gate | DISARMED | KILLED) & !RESTING));
    }

    /// Whether it injects: armed, and not held back by a failure budget.
    ///
    /// ```
    /// # use buttress::conditioner::Conditioner;
    /// # use std::time::Duration;
    /// use buttress::Lever;
    /// let slow = Conditioner::network(Duration::from_millis(50), Duration::ZERO, 0.0, None)?;
    /// slow.engage();
    /// assert!(!slow.is_injecting());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn is_injecting(&self) -> bool {
        self.lease.is_on()
    }

    /// Gives a running conditioner all the settings of `builder`.
    ///
    /// They change at one point in time: no call is decided by some of the old and some of the new, and a call that has met a fault keeps it.
    /// Whether it is armed stays, and so do the time since then, what budgets hold it back, and the totals; what is
    /// counted of each rule begins anew, as do plans. In an environment that the new settings do not allow it is disarmed; where
    /// they allow one that the old did not, it is armed. Name, observers and the place in a registry stay: the
    /// builder's are not looked at.
    ///
    /// # Errors
    /// As [`ConditionerBuilder::build`]; then nothing has changed.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Conditioner, Fault, Rule};
    /// let lossy = |share| Conditioner::builder("api").rule(Rule::new(Fault::loss()).share(share));
    /// let faults = lossy(1.0).build()?;
    /// faults.arm().unwrap();
    /// assert!(faults.apply_blocking(&Call::new()).is_err());
    /// faults.reconfigure(lossy(0.0))?;
    /// assert!(faults.apply_blocking(&Call::new()).is_ok());
    /// assert_eq!(faults.stats().seen, 2);
    ///
    /// let error = faults.reconfigure(lossy(2.0)).unwrap_err();
    /// assert_eq!(error.field(), "rules[0].share");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn reconfigure(&self, builder: ConditionerBuilder) -> Result<(), ConfigError> {
        let rules = builder.into_rules()?;
        let allowed = rules.permission.check().is_ok();
        let newly = allowed && self.lease.rules.get().permission.check().is_err();
        rules.barred.store(!allowed, Ordering::Relaxed);
        self.lease.rules.install(rules);
        if !allowed {
            self.lease.disarm();
        } else if newly && self.lease.gate.load(Ordering::Relaxed) & RESTING == 0 {
            // Unless it was killed, which is for good.
            let _ = self.lease.arm();
        }
        Ok(())
    }

    /// What a registry shows of it.
    pub(crate) fn managed(&self) -> Weak<dyn crate::managed::Managed> {
        let weak: Weak<Shared> = Arc::downgrade(self.lease.shared());
        weak
    }

    /// No registry shows it any more.
    #[cfg(feature = "config")]
    pub(crate) fn forget(&self, home: &crate::managed::Home) {
        home.forget(self.lease.shared());
    }

    /// Whether it is disarmed, whoever did that.
    #[cfg(feature = "config")]
    pub(crate) fn is_disarmed(&self) -> bool {
        self.lease.gate.load(Ordering::Relaxed) & DISARMED != 0
    }

    /// Whether somebody has disarmed it: not because of where it is, and not because nobody has it.
    #[cfg(feature = "config")]
    pub(crate) fn is_off(&self) -> bool {
        let gate = self.lease.gate.load(Ordering::Relaxed);
        gate & (DISARMED | RESTING) == DISARMED && self.lease.rules.get().permission.check().is_ok()
    }

    /// Nobody has it so far: [`wake`](Self::wake) arms it.
    #[cfg(feature = "config")]
    pub(crate) fn begin_at_rest(&self) {
        let _ = self.lease.set_gate(|gate| Some(gate | DISARMED | RESTING));
    }

    /// Nobody has it any more. Whoever has disarmed it, or does so meanwhile, has done so for longer than that.
    #[cfg(feature = "config")]
    pub(crate) fn rest(&self) {
        let rest = |gate: u32| (gate & DISARMED == 0).then_some(gate | DISARMED | RESTING);
        let _ = self.lease.set_gate(rest);
    }

    /// Somebody has it again: it is armed unless anybody has disarmed it, or it may not be where it is. Says whether it was.
    #[cfg(feature = "config")]
    pub(crate) fn wake(&self) -> bool {
        self.lease.wake()
    }

    /// Somebody has it again, in place of one that is off.
    #[cfg(feature = "config")]
    pub(crate) fn stay_off(&self) {
        let off = |gate: u32| (gate & RESTING != 0).then_some(gate & !RESTING);
        let _ = self.lease.set_gate(off);
    }

    /// Whether that is this one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.lease.shared(), other.lease.shared())
    }

    /// The name, as in events and errors.
    ///
    /// ```
    /// # use buttress::conditioner::Conditioner;
    /// # use std::time::Duration;
    /// let slow = Conditioner::network(Duration::from_millis(50), Duration::ZERO, 0.0, None)?;
    /// assert_eq!(slow.name(), "network");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.lease.name.as_str()
    }

    /// The seed of its draws.
    ///
    /// ```
    /// # use buttress::conditioner::Conditioner;
    /// # use std::time::Duration;
    /// let slow = Conditioner::network(Duration::from_millis(50), Duration::ZERO, 0.0, None)?;
    /// assert_eq!(slow.seed(), 0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.lease.rules.get().core.seed
    }

    /// Totals so far. Each number is exact; taken while calls are made, they may be of slightly different
    /// moments.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Conditioner};
    /// # use std::time::Duration;
    /// let lossy = Conditioner::network(Duration::ZERO, Duration::ZERO, 1.0, None)?;
    /// assert!(lossy.apply_blocking(&Call::new()).is_err());
    /// assert_eq!(lossy.stats().rules[0].injected, 1);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> ConditionerStats {
        self.lease.stats()
    }

    /// What was decided so far, if it [records](ConditionerBuilder::record); else an empty plan.
    ///
    /// ```
    /// # use buttress::conditioner::Conditioner;
    /// # use std::time::Duration;
    /// let slow = Conditioner::network(Duration::from_millis(50), Duration::ZERO, 0.0, None)?;
    /// assert_eq!(slow.plan().decisions().count(), 0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn plan(&self) -> Plan {
        match &self.lease.rules.get().recorder {
            Some(recorder) => lock(&recorder.plan).clone(),
            None => Plan::default(),
        }
    }

    /// Does to a call what comes before it: filter, loss, then latency, in this order. Make the call if it
    /// returns `Ok`, and ask what it returns about what comes after. Needs a tokio runtime with time to wait.
    ///
    /// Nothing is decided before the returned future is first polled. Dropping it ends the wait.
    ///
    /// # Errors
    /// A [`Rejection`] of kind [`Injected`](crate::RejectionKind::Injected) if the call is not to be made;
    /// statuses are errors too.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use buttress::conditioner::{Call, Conditioner};
    /// use std::time::Duration;
    /// let slow = Conditioner::network(Duration::from_secs(5), Duration::ZERO, 0.0, Some("/pay")).unwrap();
    /// let start = tokio::time::Instant::now();
    /// slow.apply(&Call::new().name("/pay")).await.unwrap();
    /// assert_eq!(start.elapsed(), Duration::from_secs(5));
    /// slow.apply(&Call::new().name("/home")).await.unwrap();
    /// assert_eq!(start.elapsed(), Duration::from_secs(5));
    /// # }
    /// ```
    pub async fn apply(&self, call: &Call<'_>) -> Result<Applied, Rejection> {
        if !self.is_injecting() {
            return Ok(Applied::NOTHING);
        }
        let Some(injection) = self.lease.shared().inject(call, false) else {
            return Ok(Applied::NOTHING);
        };
        let shared = Arc::clone(injection.shared());
        if !injection.delay.is_zero() {
            wait(&shared, Some(injection.delay)).await;
        }
        if let Some(Instead::Hang(_, time)) = &injection.instead {
            wait(&shared, *time).await;
        }
        Applied::of(injection)
    }

    /// The same for blocking code, without a runtime. The thread sleeps; turning injection off does not
    /// wake it. A hang without an end lasts as long as the thread can sleep.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    ///
    /// ```
    /// use buttress::conditioner::{Call, Conditioner};
    /// use std::time::Duration;
    /// let lossy = Conditioner::network(Duration::ZERO, Duration::ZERO, 1.0, None)?;
    /// let lost = lossy.apply_blocking(&Call::new()).unwrap_err();
    /// let source = std::error::Error::source(&lost).unwrap();
    /// assert_eq!(source.to_string(), "network_conditioner: simulated drop (1.0)");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn apply_blocking(&self, call: &Call<'_>) -> Result<Applied, Rejection> {
        self.apply_blocking_with(clock::park, call)
    }

    /// The same with another way to sleep. It is not called for no time at all.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    ///
    /// ```
    /// use buttress::conditioner::{Call, Conditioner};
    /// use std::time::Duration;
    /// let slow = Conditioner::network(Duration::from_secs(5), Duration::ZERO, 0.0, None)?;
    /// let mut slept = vec![];
    /// slow.apply_blocking_with(|time| slept.push(time), &Call::new()).unwrap();
    /// assert_eq!(slept, [Duration::from_secs(5)]);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn apply_blocking_with(
        &self,
        mut sleeper: impl FnMut(Duration),
        call: &Call<'_>,
    ) -> Result<Applied, Rejection> {
        if !self.is_injecting() {
            return Ok(Applied::NOTHING);
        }
        let Some(injection) = self.lease.shared().inject(call, false) else {
            return Ok(Applied::NOTHING);
        };
        if !injection.delay.is_zero() {
            sleeper(injection.delay);
        }
        if let Some(Instead::Hang(_, time)) = &injection.instead {
            sleeper(time.unwrap_or(Duration::MAX));
        }
        Applied::of(injection)
    }
}

impl Lever for Conditioner {
    /// Holds injection back, as [`disarm`](Conditioner::disarm) does, until it is let go.
    fn engage(&self) {
        let _ = self.lease.set_gate(|gate| (gate & HELD != HELD).then(|| gate + 1));
    }

    fn release(&self) {
        let _ = self.lease.set_gate(|gate| (gate & HELD != 0).then(|| gate - 1));
    }
}

/// Holds back the conditioner that is in the slot, also when it leaves the slot, until all who have engaged have let
/// go. One that is installed meanwhile injects until the next `engage`.
///
/// ```
/// use buttress::conditioner::Conditioner;
/// use buttress::{Lever, Slot};
/// # use std::time::Duration;
/// let slot = Slot::with(Conditioner::network(Duration::ZERO, Duration::ZERO, 0.1, None)?);
/// slot.engage();
/// assert!(!slot.get().unwrap().is_injecting());
/// slot.release();
/// assert!(slot.get().unwrap().is_injecting());
/// # Ok::<(), buttress::ConfigError>(())
/// ```
impl Lever for Slot<Conditioner> {
    fn engage(&self) {
        let new = self.with_engaged(|there, engaged| {
            engaged.holds += 1;
            let new = there.filter(|it| !engaged.objects.iter().any(|held| held.is(it)))?;
            engaged.objects.push(new.clone());
            Some(new.clone())
        });
        if let Some(conditioner) = new {
            conditioner.engage();
        }
    }

    fn release(&self) {
        let free = self.with_engaged(|_, engaged| {
            let was_held = engaged.holds > 0;
            engaged.holds = engaged.holds.saturating_sub(1);
            let is_last = was_held && engaged.holds == 0;
            if is_last { mem::take(&mut engaged.objects) } else { Vec::new() }
        });
        // Whoever held has returned from `engage`, so each of them is held.
        for conditioner in free {
            conditioner.release();
        }
    }
}

impl fmt::Debug for Conditioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lease.fmt(f)
    }
}
