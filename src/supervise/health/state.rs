use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::{Lifecycle, Phase};
use super::check::HealthCheckBuilder;
use super::gate::{LiveGate, ReadyGate};
use super::report::{HealthItem, HealthReport, Probe, unmet, unready};
use crate::caught::caught;
use crate::clock::{self, Tick};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observe, Observers, Severity};

/// The health of a process: see the [module](crate::supervise::health).
///
/// ```
/// use buttress::supervise::{Lifecycle, health::Health};
/// let health = Health::new(Lifecycle::new());
/// assert!(health.is_live());
/// ```
#[derive(Clone)]
pub struct Health(pub(super) Arc<Shared>);

pub(super) struct Shared {
    life: Lifecycle,
    started: AtomicBool,
    inner: Mutex<Inner>,
    observers: Mutex<Observers>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    items: Vec<Item>,
}

struct Item {
    id: u64,
    name: Name,
    liveness: bool,
    what: What,
}

enum What {
    Gate(GateState),
    Condition(Arc<dyn Fn() -> bool + Send + Sync>),
}

/// Sans-IO: what one gate has been told.
pub(super) struct GateState {
    wanted: bool,
    /// Levers that hold it closed.
    engaged: u32,
    reason: Cow<'static, str>,
    since: Tick,
    /// Results in a row that say otherwise.
    against: u32,
    pub(super) failures: u32,
    pub(super) successes: u32,
}

impl GateState {
    fn ok(&self) -> bool {
        self.wanted && self.engaged == 0
    }

    fn why(&self) -> Option<Cow<'static, str>> {
        if self.ok() {
            None
        } else if self.wanted {
            Some("held by a lever".into())
        } else {
            Some(self.reason.clone())
        }
    }

    pub(super) fn set(&mut self, open: bool, reason: Cow<'static, str>) {
        self.wanted = open;
        self.against = 0;
        self.reason = reason;
    }

    pub(super) const fn engage(&mut self) {
        self.engaged = self.engaged.saturating_add(1);
    }

    pub(super) const fn release(&mut self) {
        self.engaged = self.engaged.saturating_sub(1);
    }

    /// One result of a check. The first failure of an unopened gate only explains it.
    pub(super) fn result(&mut self, result: Result<(), Cow<'static, str>>) {
        if result.is_ok() == self.wanted {
            self.against = 0;
            if let Err(reason) = result {
                self.reason = reason;
            }
            return;
        }
        self.against += 1;
        match result {
            Ok(()) if self.against >= self.successes => self.set(true, "".into()),
            Err(reason) if self.against >= self.failures => self.set(false, reason),
            _ => {}
        }
    }
}

impl Health {
    /// Of the process whose phases are `life`'s. Without gates it is ready in [`Phase::Ready`].
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, Phase, health::Health};
    /// let life = Lifecycle::new();
    /// let health = Health::new(life.clone());
    /// life.advance(Phase::Ready, None);
    /// assert!(health.is_ready());
    /// ```
    #[must_use]
    pub fn new(life: Lifecycle) -> Self {
        Self(Arc::new(Shared {
            life,
            started: AtomicBool::new(false),
            inner: Mutex::default(),
            observers: Mutex::new(Observers::default()),
        }))
    }

    /// Tells `observer` when a gate opens or closes (`gate_opened`, `gate_closed`).
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// Health::new(Lifecycle::new()).observe(|event: &buttress::observe::Event<'_>| eprintln!("{event:?}"));
    /// ```
    pub fn observe(&self, observer: impl Observe) {
        self.0.observers.lock().unwrap_or_else(PoisonError::into_inner).add(observer);
    }

    /// The phases it goes by.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, Phase, health::Health};
    /// assert_eq!(Health::new(Lifecycle::new()).lifecycle().phase(), Phase::Starting);
    /// ```
    #[must_use]
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.0.life
    }

    /// A gate that must be open for readiness. It is closed at first.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// let health = Health::new(Lifecycle::new());
    /// let cache = health.gate("cache");
    /// cache.open();
    /// ```
    pub fn gate(&self, name: impl Into<Name>) -> ReadyGate {
        ReadyGate::new(self.clone(), self.add_gate(name.into(), false))
    }

    /// A gate for liveness: failed means "restart me", so it is for what a restart mends. It is open at
    /// first.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// let health = Health::new(Lifecycle::new());
    /// let worker = health.live("worker");
    /// worker.fail("its thread has died");
    /// assert!(!health.is_live());
    /// ```
    pub fn live(&self, name: impl Into<Name>) -> LiveGate {
        LiveGate::new(self.clone(), self.add_gate(name.into(), true))
    }

    /// Ready only while `condition` says so. It is asked for every answer, so it must be quick: look at
    /// state that is there, for example a breaker's.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// Health::new(Lifecycle::new()).ready_while("disk", || std::path::Path::new("/").exists());
    /// ```
    pub fn ready_while(
        &self,
        name: impl Into<Name>,
        condition: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        self.add(name.into(), false, What::Condition(Arc::new(condition)));
    }

    /// Alive only while `condition` says so: for example while a watchdog has not fired.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// let health = Health::new(Lifecycle::new());
    /// health.live_while("main loop", || false);
    /// assert!(!health.is_live());
    /// ```
    pub fn live_while(
        &self,
        name: impl Into<Name>,
        condition: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        self.add(name.into(), true, What::Condition(Arc::new(condition)));
    }

    /// A check to run beside: see [`HealthCheckBuilder`].
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// let check = Health::new(Lifecycle::new()).check("database").build()?;
    /// # drop(check);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn check(&self, name: impl Into<Name>) -> HealthCheckBuilder {
        HealthCheckBuilder::new(self.clone(), name.into())
    }

    /// Withdraws all gates and conditions of this name: they count no more, and gates that are still held
    /// have no effect. How many there were.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// let health = Health::new(Lifecycle::new());
    /// drop(health.gate("cache")); // closed for good
    /// assert_eq!(health.forget("cache"), 1);
    /// ```
    #[allow(clippy::must_use_candidate, reason = "the effect is what is wanted")]
    pub fn forget(&self, name: impl Into<Name>) -> usize {
        let name = name.into();
        let gone: Vec<_> = self.0.inner().items.extract_if(.., |item| item.name == name).collect();
        gone.len() // what the closures hold is dropped here, outside the lock
    }

    /// Whether it is alive.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// assert!(Health::new(Lifecycle::new()).is_live());
    /// ```
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.look(Some(Probe::Live)).live
    }

    /// Whether it should get traffic.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// assert!(!Health::new(Lifecycle::new()).is_ready(), "it is starting");
    /// ```
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.look(Some(Probe::Ready)).ready
    }

    /// Everything, at one moment.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// println!("{}", Health::new(Lifecycle::new()).report()); // "not ready: starting"
    /// ```
    #[must_use]
    pub fn report(&self) -> HealthReport {
        self.look(None)
    }

    /// As far as it matters for `probe`: liveness must not wait for what readiness asks.
    pub(in super::super) fn look(&self, probe: Option<Probe>) -> HealthReport {
        let matters = |liveness| probe.is_none_or(|probe| liveness == (probe == Probe::Live));
        let now = clock::now();
        let mut conditions = Vec::new();
        let mut items: Vec<HealthItem> = {
            let inner = self.0.inner();
            let items = inner.items.iter().filter(|item| matters(item.liveness));
            let known = items.enumerate().map(|(index, item)| {
                let (ok, reason, since) = match &item.what {
                    What::Gate(gate) => (gate.ok(), gate.why(), Some(now.since(gate.since))),
                    What::Condition(condition) => {
                        conditions.push((index, condition.clone()));
                        (true, None, None)
                    }
                };
                let name = item.name.as_str().into();
                HealthItem { name, liveness: item.liveness, ok, reason, since }
            });
            known.collect()
        };
        for (index, condition) in conditions {
            // User code: outside the lock, and a panic is a "no".
            let (ok, reason) = match caught(|| condition()) {
                Some(ok) => (ok, "the condition does not hold"),
                None => (false, "the condition panicked"),
            };
            items[index].ok = ok;
            items[index].reason = (!ok).then(|| reason.into());
        }

        let phase = self.0.life.phase();
        let (dead, unready) = (unmet(&items, true), unready(phase, &items));
        // If readiness was not asked for, nothing is known of it.
        let ready = matters(false) && unready.is_none();
        if ready || phase > Phase::Ready {
            self.0.started.store(true, Ordering::Relaxed);
        }
        let live = dead.is_none();
        let started = self.0.started.load(Ordering::Relaxed);
        HealthReport { phase, live, ready, started, reason: dead.or(unready), items }
    }

    /// Calls `told` with the answer to `probe` at once and then whenever it has changed, looking every
    /// `every`. Never returns; dropping it stops it. For systems that are told instead of asking, as gRPC
    /// health is:
    ///
    /// ```no_run
    /// # async fn doc(health: buttress::supervise::health::Health) {
    /// use buttress::supervise::health::Probe;
    /// use std::time::Duration;
    /// use tonic_health::ServingStatus;
    ///
    /// let (reporter, service) = tonic_health::server::health_reporter();
    /// let told = health.follow(Probe::Ready, Duration::from_millis(100), move |ready| {
    ///     let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    ///     let reporter = reporter.clone();
    ///     async move { reporter.set_service_status("", status).await }
    /// });
    /// tokio::spawn(told);
    /// # drop(service);
    /// # }
    /// ```
    ///
    /// A change of phase is seen at once.
    pub fn follow<F, Fut>(
        &self,
        probe: Probe,
        every: Duration,
        mut told: F,
    ) -> impl Future<Output = ()> + Send + use<F, Fut>
    where
        F: FnMut(bool) -> Fut + Send,
        Fut: Future<Output = ()> + Send,
    {
        let health = self.clone();
        async move {
            let mut phases = health.0.life.subscribe();
            let mut last = None;
            loop {
                phases.mark_unchanged();
                let answer = health.look(Some(probe)).answer(probe);
                if last.replace(answer) != Some(answer) {
                    told(answer).await;
                }
                let _ = tokio::time::timeout(every, phases.changed()).await;
            }
        }
    }

    fn add_gate(&self, name: Name, liveness: bool) -> u64 {
        let gate = GateState {
            wanted: liveness,
            engaged: 0,
            reason: "not opened yet".into(),
            since: clock::now(),
            against: 0,
            failures: 1,
            successes: 1,
        };
        self.add(name, liveness, What::Gate(gate))
    }

    fn add(&self, name: Name, liveness: bool, what: What) -> u64 {
        let mut inner = self.0.inner();
        let id = inner.next;
        inner.next += 1;
        inner.items.push(Item { id, name, liveness, what });
        id
    }

    /// Changes one gate and tells of it if that opened or closed it.
    pub(super) fn with_gate(&self, id: u64, change: impl FnOnce(&mut GateState)) {
        let now = clock::now();
        let mut inner = self.0.inner();
        self.0.note_started(&inner);
        let Some(item) = inner.items.iter_mut().find(|item| item.id == id) else { return };
        let What::Gate(gate) = &mut item.what else { return };
        let before = gate.ok();
        change(gate);
        let after = gate.ok();
        if before == after {
            return;
        }
        gate.since = now;
        let (name, why) = (item.name, gate.why());
        drop(inner);
        let (severity, what) = match after {
            true => (Severity::Info, "gate_opened"),
            false => (Severity::Warning, "gate_closed"),
        };
        let detail = format_args!("{}", why.as_deref().unwrap_or("open"));
        let observers = self.0.observers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let kind = EventKind::Supervised { severity, what, detail };
        observers.emit(LayerKind::Supervise, name, kind);
    }

    pub(super) fn gate_ok(&self, id: u64) -> bool {
        let inner = self.0.inner();
        let found = inner.items.iter().find(|item| item.id == id);
        found.is_some_and(|item| matches!(&item.what, What::Gate(gate) if gate.ok()))
    }

    pub(super) fn remove(&self, id: u64) {
        self.0.inner().items.retain(|item| item.id != id);
    }
}

impl Shared {
    /// Before a gate changes: it may have been ready without anybody asking. Where closures have a say, only
    /// those who ask can tell.
    fn note_started(&self, inner: &Inner) {
        if !self.started.load(Ordering::Relaxed) && self.life.phase() == Phase::Ready {
            let open = |item: &Item| matches!(&item.what, What::Gate(gate) if gate.ok());
            if inner.items.iter().all(|item| item.liveness || open(item)) {
                self.started.store(true, Ordering::Relaxed);
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = self.0.inner().items.len();
        let mut debug = f.debug_struct("Health");
        debug.field("phase", &self.0.life.phase()).field("items", &items).finish_non_exhaustive()
    }
}
