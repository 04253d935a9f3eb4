//! How the layers of a client judge and send its attempts.

use std::fmt;

use crate::classify::{Classify, as_std_error};
use crate::context::{ReadContext, next_call};
use crate::deadline::Deadline;
use crate::name::Name;
use crate::outcome::Verdict;
use crate::rejection::Rejection;
use crate::replay::{Attempt, Replay, RetryOverride};
use crate::wide::Flag;

/// Judges attempts as `C` does, and those that took too long as its [`expired`](Classify::expired) does: to the
/// layers outside of the attempt timeout its refusal is an attempt that failed.
///
/// ```
/// use buttress::presets::Attempts;
/// use buttress::{AnyError, Classify};
/// fn judges<C: Classify<u32, u32, std::io::Error>>() {}
/// judges::<Attempts<AnyError>>();
/// ```
#[derive(Clone, Copy)]
pub struct Attempts<C> {
    pub(super) classify: C,
    /// Of the stack.
    pub(super) name: Name,
}

impl<C> fmt::Debug for Attempts<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempts").finish_non_exhaustive()
    }
}

#[cold]
fn took_too_long<E: 'static>(error: &E, stack: Name) -> bool {
    as_std_error(error).and_then(Rejection::find).is_some_and(|why| why.is_attempt_of(stack))
}

impl<Req, Res, E: 'static, C: Classify<Req, Res, E>> Classify<Req, Res, E> for Attempts<C> {
    type Ticket = C::Ticket;

    #[inline]
    fn start(&self, req: &Req) -> C::Ticket {
        self.classify.start(req)
    }

    #[inline]
    fn finish(&self, ticket: C::Ticket, result: Result<&Res, &E>) -> Verdict {
        match result {
            Err(error) if took_too_long(error, self.name) => self.classify.expired(ticket),
            result => self.classify.finish(ticket, result),
        }
    }

    fn expired(&self, ticket: C::Ticket) -> Verdict {
        self.classify.expired(ticket)
    }
}

/// Sends requests as `P` does, with what `X` keeps of them: the deadline, the number of the attempt and, to a
/// pool, that of the call.
///
/// ```
/// use buttress::presets::Sends;
/// use buttress::retry::{CloneRequest, Replay};
/// use buttress::NoContext;
/// fn sends<P: Replay<u32>>() {}
/// sends::<Sends<CloneRequest, NoContext>>();
/// ```
#[derive(Clone, Copy)]
pub struct Sends<P, X> {
    pub(super) replay: P,
    pub(super) context: X,
    pub(super) numbered: Flag,
}

impl<P, X> fmt::Debug for Sends<P, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sends").finish_non_exhaustive()
    }
}

impl<Req, P: Replay<Req>, X: ReadContext<Req>> Replay<Req> for Sends<P, X> {
    #[inline]
    fn try_replay(&self, req: &Req) -> Option<Req> {
        self.replay.try_replay(req)
    }

    fn can_send(&self, copy: &Req) -> bool {
        self.replay.can_send(copy)
    }

    fn is_lost(&self, copy: &Req) -> bool {
        self.replay.is_lost(copy)
    }

    #[inline]
    fn deadline(&self, req: &Req) -> Option<Deadline> {
        match (self.replay.deadline(req), self.context.context(req).deadline()) {
            (Some(one), Some(other)) => Some(one.earliest(other)),
            (one, other) => one.or(other),
        }
    }

    fn attempt(&self, req: &Req) -> Attempt {
        self.replay.attempt(req).max(Attempt(self.context.context(req).attempt()))
    }

    #[inline]
    fn overrides(&self, req: &Req) -> Option<RetryOverride> {
        self.replay.overrides(req)
    }

    #[inline]
    fn set_deadline(&self, req: &mut Req, deadline: Deadline) {
        self.replay.set_deadline(req, deadline);
    }

    #[inline]
    fn begin(&self, req: &mut Req) {
        self.replay.begin(req);
        if self.numbered.is() {
            let context = self.context.context(req);
            if context.call().is_none() {
                self.context.set_context(req, context.with_call(next_call()));
            }
        }
    }

    fn mark(&self, req: &mut Req, attempt: Attempt) {
        self.replay.mark(req, attempt);
        let context = self.context.context(req);
        if context.attempt() != attempt.0 {
            self.context.set_context(req, context.with_attempt(attempt.0));
        }
    }
}
