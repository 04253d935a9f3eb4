use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::clock;

use super::shared::Shared;
use super::state::CircuitState;

/// How long to wait before looking again whether a probe's place has become free, or another breaker has come.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Waits until an open circuit may let a call through: until its time has passed or its state changes.
///
/// Boxed: only made while the circuit is not closed, under a load balancer or where the inner service is not ready.
pub(super) struct Reopening(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl Reopening {
    /// `None` if a call would be let through now. `live`: another breaker may come, which nobody tells of.
    pub(super) fn of(shared: &Arc<Shared>, live: bool) -> Option<Self> {
        if shared.is_shadow() {
            return None;
        }
        // Subscribe first: a change between looking and waiting must wake the waiter.
        let mut states = shared.subscribe();
        let now = clock::now();
        let wait = match shared.core.shut(now) {
            Some(until) => until.refusal(now).retry_after(),
            None if shared.core.state() == CircuitState::HalfOpen
                && shared.core.probes_taken(now) =>
            {
                Some(LOOK_AGAIN)
            }
            None => return None,
        };
        let wait = match live {
            true => Some(wait.map_or(LOOK_AGAIN, |wait| wait.min(LOOK_AGAIN))),
            false => wait,
        };
        Some(Self(Box::pin(async move {
            let changed = states.changed();
            match wait {
                // Either way somebody has to look again.
                Some(wait) => drop(tokio::time::timeout(wait, changed).await),
                None => drop(changed.await),
            }
        })))
    }

    /// Until something changes, and no longer than this where there is a timer: outside of a runtime one would panic.
    pub(super) fn within(shared: &Arc<Shared>, wait: Duration) -> Self {
        let mut states = shared.subscribe();
        Self(Box::pin(async move {
            let changed = states.changed();
            match Handle::try_current() {
                Ok(_) => drop(tokio::time::timeout(wait, changed).await),
                Err(_) => drop(changed.await),
            }
        }))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Reopening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reopening")
    }
}
