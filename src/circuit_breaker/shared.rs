use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::clock;
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::rejection::{Rejection, RejectionDetail, RejectionKind};

use super::config::Config;
use super::core::{Change, Core, Refusal, Ticket};
use super::state::CircuitState;

/// Everything clones of one breaker share.
pub(super) struct Shared {
    pub(super) core: Core,
    pub(super) name: Name,
    pub(super) shadow: AtomicBool,
    pub(super) observers: Observers,
    pub(super) states: watch::Sender<(u64, CircuitState)>,
}

impl Shared {
    /// Admits a call or says why not. Reports changes of state; the refusal is reported by
    /// [`refused`](Self::refused).
    #[inline]
    pub(super) fn admit(&self) -> Result<Ticket, Refusal> {
        match self.core.pass() {
            Some(ticket) => Ok(ticket),
            None => self.admit_slow(),
        }
    }

    // Not `#[cold]`: this is also the way of every refusal.
    #[inline(never)]
    fn admit_slow(&self) -> Result<Ticket, Refusal> {
        let (result, change) = self.core.admit(clock::now());
        if let Some(change) = change {
            self.changed(change);
        }
        match result {
            Err(refusal) if self.shadow.load(Ordering::Relaxed) => {
                let why = self.rejection(refusal);
                self.observers.emit(
                    LayerKind::CircuitBreaker,
                    self.name,
                    EventKind::WouldReject(&why),
                );
                Ok(Ticket::UNCOUNTED)
            }
            result => result,
        }
    }

    pub(super) fn is_shadow(&self) -> bool {
        self.shadow.load(Ordering::Relaxed)
    }

    /// Turns a counted refusal into the rejection that leaves the breaker, and reports it.
    ///
    /// Inlined, and the report apart: so it is built where it stays.
    #[inline]
    pub(super) fn refused(&self, refusal: Refusal) -> Rejection {
        if self.observers.see_refusals() {
            self.report(refusal);
        }
        self.rejection(refusal)
    }

    #[cold]
    #[inline(never)]
    fn report(&self, refusal: Refusal) {
        let why = self.rejection(refusal);
        self.observers.emit(LayerKind::CircuitBreaker, self.name, EventKind::Rejected(&why));
    }

    #[inline]
    fn rejection(&self, refusal: Refusal) -> Rejection {
        let mut why =
            Rejection::new(RejectionKind::CircuitOpen, LayerKind::CircuitBreaker, self.name);
        if let Some(after) = refusal.retry_after() {
            why = why.with_retry_after(after);
        }
        if let Some((what, measured, threshold)) = self.core.trip.read() {
            why = why.with_detail(RejectionDetail::Threshold { what, measured, threshold });
        }
        why
    }

    pub(super) fn changed(&self, change: Change) {
        // Two changes in quick succession may be told by two threads: the later one must stay.
        self.states.send_if_modified(|(version, state)| {
            let newer = change.version > *version;
            if newer {
                (*version, *state) = (change.version, change.to);
            }
            newer
        });
        self.observers.emit(
            LayerKind::CircuitBreaker,
            self.name,
            EventKind::StateChanged {
                from: change.from.as_str(),
                to: change.to.as_str(),
                reason: format_args!("{}", change.reason),
            },
        );
    }

    pub(super) fn reconfigure(&self, config: Config) {
        self.reconfigured(self.core.reconfigure(config, clock::now()));
    }

    pub(super) fn reconfigured(&self, change: Option<Change>) {
        match change {
            Some(change) => self.changed(change),
            // Who waits for an open circuit may have less to wait for.
            None => self.states.send_modify(|_| ()),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<(u64, CircuitState)> {
        self.states.subscribe()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("name", &self.name)
            .field("state", &self.core.state())
            .field("shadow", &self.is_shadow())
            .finish_non_exhaustive()
    }
}
