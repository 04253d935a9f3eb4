use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::state::Health;
use crate::lever::Lever;

/// One condition for readiness, kept by whoever can tell. Closed at first; closed for good when the last
/// clone is dropped.
///
/// It is a [`Lever`]: a failure budget that engages it closes it until it lets go.
///
/// ```
/// use buttress::supervise::{Lifecycle, health::Health};
/// let health = Health::new(Lifecycle::new());
/// let gate = health.gate("database");
/// gate.open();
/// assert!(gate.is_open());
/// gate.close("no connection");
/// assert!(!gate.is_open());
/// ```
#[derive(Clone)]
#[must_use = "dropped means not ready"]
pub struct ReadyGate(Arc<Gate>);

/// One condition for liveness. Open at first; dropping it withdraws it.
///
/// ```
/// use buttress::supervise::{Lifecycle, health::Health};
/// let health = Health::new(Lifecycle::new());
/// let worker = health.live("worker");
/// worker.fail("stuck");
/// assert!(!health.is_live());
/// drop(worker);
/// assert!(health.is_live());
/// ```
#[must_use = "dropped means withdrawn"]
pub struct LiveGate {
    health: Health,
    id: u64,
}

struct Gate {
    health: Health,
    id: u64,
}

impl ReadyGate {
    pub(super) fn new(health: Health, id: u64) -> Self {
        Self(Arc::new(Gate { health, id }))
    }

    /// Opens it.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// Health::new(Lifecycle::new()).gate("cache").open();
    /// ```
    pub fn open(&self) {
        self.0.with(|gate| gate.set(true, "".into()));
    }

    /// Closes it.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// Health::new(Lifecycle::new()).gate("cache").close("it is being filled");
    /// ```
    pub fn close(&self, reason: impl Into<Cow<'static, str>>) {
        let reason = reason.into();
        self.0.with(|gate| gate.set(false, reason));
    }

    /// Whether it is open now, levers included.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// assert!(!Health::new(Lifecycle::new()).gate("cache").is_open());
    /// ```
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.health.gate_ok(self.0.id)
    }

    /// So many failures in a row close it, so many successes open it, when it is told by
    /// [`result`](Self::result). At least 1 each (0 counts as 1), which is the default.
    pub(super) fn hysteresis(&self, failures: u32, successes: u32) {
        self.0.with(|gate| (gate.failures, gate.successes) = (failures, successes));
    }

    /// What a check found.
    pub(super) fn result(&self, result: Result<(), Cow<'static, str>>) {
        self.0.with(|gate| gate.result(result));
    }
}

impl Gate {
    fn with(&self, change: impl FnOnce(&mut super::state::GateState)) {
        self.health.with_gate(self.id, change);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.with(|gate| gate.set(false, "its owner has gone".into()));
    }
}

impl Lever for ReadyGate {
    fn engage(&self) {
        self.0.with(super::state::GateState::engage);
    }

    fn release(&self) {
        self.0.with(super::state::GateState::release);
    }
}

impl LiveGate {
    pub(super) const fn new(health: Health, id: u64) -> Self {
        Self { health, id }
    }

    /// It is alive (again).
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// Health::new(Lifecycle::new()).live("worker").ok();
    /// ```
    pub fn ok(&self) {
        self.health.with_gate(self.id, |gate| gate.set(true, "".into()));
    }

    /// It is not: the process should be restarted.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// Health::new(Lifecycle::new()).live("worker").fail("stuck");
    /// ```
    pub fn fail(&self, reason: impl Into<Cow<'static, str>>) {
        let reason = reason.into();
        self.health.with_gate(self.id, |gate| gate.set(false, reason));
    }
}

impl Drop for LiveGate {
    fn drop(&mut self) {
        self.health.remove(self.id);
    }
}

impl fmt::Debug for ReadyGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadyGate({})", if self.is_open() { "open" } else { "closed" })
    }
}

impl fmt::Debug for LiveGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveGate({})", if self.health.gate_ok(self.id) { "ok" } else { "failed" })
    }
}
