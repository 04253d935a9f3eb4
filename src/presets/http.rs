//! One classifier for all the error types within a stack.

use ::http::{Request, Response};

use crate::classify::{Classify, Typed, as_std_error};
use crate::http::{Standard, Ticket, standard};
use crate::outcome::{FailureClass, Verdict};

/// [`standard`] for any error type: errors that are not a [`BoxError`](crate::BoxError) or known by name are
/// transient failures, sent or not.
///
/// ```
/// use buttress::presets::AnyHttp;
/// use buttress::{Classify, Outcome};
/// use http::{Request, Response};
/// let request = Request::get("/").body(()).unwrap();
/// let ticket = Classify::<_, Response<()>, &str>::start(&AnyHttp::default(), &request);
/// let verdict = Classify::<Request<()>, Response<()>, &str>::finish(&AnyHttp::default(), ticket, Err(&"down"));
/// assert!(matches!(verdict.outcome, Outcome::Failure(_)));
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AnyHttp {
    standard: Standard<Typed>,
}

impl Default for AnyHttp {
    fn default() -> Self {
        Self { standard: standard() }
    }
}

impl<B1, B2, E: 'static> Classify<Request<B1>, Response<B2>, E> for AnyHttp {
    type Ticket = Ticket;

    #[inline]
    fn start(&self, req: &Request<B1>) -> Ticket {
        Ticket::of(req)
    }

    #[inline]
    fn finish(&self, ticket: Ticket, result: Result<&Response<B2>, &E>) -> Verdict {
        match result {
            Ok(response) => self.standard.judge(ticket, Ok(response)),
            Err(error) => self.failed::<B2, E>(ticket, error),
        }
    }

    fn expired(&self, ticket: Ticket) -> Verdict {
        Verdict::failure(FailureClass::Transient).with_retry(ticket.hint(None))
    }
}

impl AnyHttp {
    #[cold]
    fn failed<B, E: 'static>(&self, ticket: Ticket, error: &E) -> Verdict {
        match as_std_error(error) {
            Some(error) => self.standard.judge::<B>(ticket, Err(error)),
            None => Verdict::failure(FailureClass::Transient).with_retry(ticket.hint(None)),
        }
    }
}
