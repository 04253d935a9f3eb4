//! What the answers of a server's own handlers say of how many of them can be at work.

use std::fmt;

use crate::classify::Classify;
use crate::outcome::{FailureClass, Outcome, Verdict};

/// Judges what handlers answer as `C` does, and takes no failure for an outage: a handler that fails lives, and answers
/// quickly.
///
/// To a client whose calls fail the backend may be down, and it waits with single probes. A server that did so would let
/// requests wait that would be told at once what is wrong. What fails behind a handler is judged by who calls it,
/// and the share that fails by the failure budget; the admission goes by how long answers take. For the same reason a
/// server does not take it for an outage that none of its handlers answers for long.
///
/// ```
/// use buttress::presets::Handled;
/// use buttress::{AnyError, Classify};
/// fn judges<C: Classify<u32, u32, std::io::Error>>() {}
/// judges::<Handled<AnyError>>();
/// ```
#[derive(Clone, Copy)]
pub struct Handled<C> {
    pub(super) classify: C,
}

impl<C> fmt::Debug for Handled<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handled").finish_non_exhaustive()
    }
}

fn handled(verdict: Verdict) -> Verdict {
    match verdict.outcome {
        // That one caller is over its quota says nothing of the others either.
        Outcome::Failure(_) | Outcome::Throttled => Verdict::failure(FailureClass::Permanent),
        _ => verdict,
    }
}

impl<Req, Res, E, C: Classify<Req, Res, E>> Classify<Req, Res, E> for Handled<C> {
    type Ticket = C::Ticket;

    #[inline]
    fn start(&self, req: &Req) -> C::Ticket {
        self.classify.start(req)
    }

    #[inline]
    fn finish(&self, ticket: C::Ticket, result: Result<&Res, &E>) -> Verdict {
        handled(self.classify.finish(ticket, result))
    }

    fn expired(&self, ticket: C::Ticket) -> Verdict {
        handled(self.classify.expired(ticket))
    }
}
