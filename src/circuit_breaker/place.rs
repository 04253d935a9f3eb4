//! Who may wait for the inner service while nobody knows whether the callee is well.
//!
//! An inner service that is never ready would hide such a circuit as it would an open one: nobody would get as far as a
//! probe, nobody would be refused. So only as many wait for it as may probe, each for a while, and all others are refused.

use std::fmt;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use crate::clock::{self, Tick};
use crate::sync::lock;

use super::core::{Core, Probe};
use super::reopening::Reopening;
use super::shared::Shared;

/// At most: long enough to connect, and short enough for an instance that nobody polls any more.
const WAIT: Duration = Duration::from_secs(5);

/// One who waits. Free again when it is dropped, and for others when its lease has run out.
pub(super) struct Place {
    shared: Arc<Shared>,
    id: u32,
    lease_until: Tick,
    /// The inner service wakes nobody when the circuit opens, or when the lease ends.
    watch: Option<Reopening>,
}

impl Place {
    /// `None`: enough wait.
    pub(super) fn take(shared: &Arc<Shared>, now: Tick) -> Option<Box<Self>> {
        let Probe { id, lease_until } = shared.core.take_place(now)?;
        Some(Box::new(Self { shared: Arc::clone(shared), id, lease_until, watch: None }))
    }

    pub(super) fn is_over(&self, now: Tick) -> bool {
        now >= self.lease_until
    }

    /// From now on a change is not missed.
    pub(super) fn watch(&mut self) {
        if self.watch.is_none() {
            let wait = self.lease_until.since(clock::now());
            self.watch = Some(Reopening::within(&self.shared, wait));
        }
    }

    /// Wakes the caller once it has to look again. False: it has to now.
    pub(super) fn is_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        let quiet = self.watch.as_mut().is_some_and(|watch| watch.poll(cx).is_pending());
        if !quiet {
            self.watch = None;
        }
        quiet
    }

    pub(super) fn is_at(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.core.free_place(self.id);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Core {
    fn take_place(&self, now: Tick) -> Option<Probe> {
        let mut machine = lock(&self.machine);
        machine.waiters.retain(|waiter| waiter.lease_until > now);
        if machine.waiters.len() >= machine.config.half_open_calls as usize {
            return None;
        }
        machine.waiters_ever = machine.waiters_ever.wrapping_add(1);
        let id = machine.waiters_ever;
        let lease_until = now.after(machine.config.probe_lease.min(WAIT));
        machine.waiters.push(Probe { id, lease_until });
        Some(Probe { id, lease_until })
    }

    fn free_place(&self, id: u32) {
        lock(&self.machine).waiters.retain(|waiter| waiter.id != id);
    }
}
