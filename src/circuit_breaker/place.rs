//! Who may wait for the inner service while nobody knows whether the callee is well.
//!
//! An inner service that is never ready would hide such a circuit as it would an open one: nobody would get as far as a
//! probe, nobody would be refused. So only as many wait for it as may probe, and all others are refused.

use std::fmt;
use std::sync::Arc;

use crate::clock::Tick;
use crate::sync::lock;

use super::core::{Core, Probe};
use super::shared::Shared;

/// One who waits. Free again when it is dropped, and for others when its lease has run out.
pub(super) struct Place {
    shared: Arc<Shared>,
    id: u32,
}

impl Place {
    /// `None`: enough wait.
    pub(super) fn take(shared: &Arc<Shared>, now: Tick) -> Option<Box<Self>> {
        let id = shared.core.take_place(now)?;
        Some(Box::new(Self { shared: Arc::clone(shared), id }))
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
    fn take_place(&self, now: Tick) -> Option<u32> {
        let mut machine = lock(&self.machine);
        machine.waiters.retain(|waiter| waiter.lease_until > now);
        if machine.waiters.len() >= machine.config.half_open_calls as usize {
            return None;
        }
        machine.waiters_ever = machine.waiters_ever.wrapping_add(1);
        let id = machine.waiters_ever;
        let lease_until = now.after(machine.config.probe_lease);
        machine.waiters.push(Probe { id, lease_until });
        Some(id)
    }

    fn free_place(&self, id: u32) {
        lock(&self.machine).waiters.retain(|waiter| waiter.id != id);
    }
}
