use std::task::{self, Poll};

use tower_service::Service;

use super::future::{Bound, End, ResponseFuture, State};
use super::handle::Timeout;
use crate::context::{Context, NoContext, ReadContext};
use crate::deadline::Deadline;
use crate::reject::{AsError, Reject, Remember};

/// A service whose calls end in time: see the [module](super).
///
/// ```
/// use tower::Layer;
/// let service = buttress::timeout::Timeout::deadlines("db").layer().layer(7);
/// assert_eq!(*service.get_ref(), 7);
/// ```
#[derive(Debug)]
pub struct TimeoutService<S, C = NoContext, R = AsError> {
    pub(super) inner: S,
    pub(super) timeout: Option<Timeout>,
    pub(super) context: C,
    pub(super) reject: R,
}

impl<S: Clone, C: Clone, R: Clone> Clone for TimeoutService<S, C, R> {
    // The inner service last: made in its place, or all of it is copied for each layer of a stack.
    #[inline(always)]
    fn clone(&self) -> Self {
        Self {
            timeout: self.timeout,
            context: self.context.clone(),
            reject: self.reject.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<S, C, R> TimeoutService<S, C, R> {
    /// The inner service.
    ///
    /// ```
    /// use tower::Layer;
    /// assert_eq!(*buttress::timeout::Timeout::deadlines("db").layer().layer(7).get_ref(), 7);
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, C, R, Req> Service<Req> for TimeoutService<S, C, R>
where
    S: Service<Req>,
    C: ReadContext<Req>,
    R: Reject<(), S::Response, S::Error> + Remember<Req>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S::Future, R>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(R::map_err)
    }

    // The future is made in the place that it is to have, and nothing that is not inlined writes into it: it would
    // be made elsewhere and copied.
    #[inline(always)]
    fn call(&mut self, mut req: Req) -> Self::Future {
        let (end, reject) = match &self.timeout {
            None => (End::NONE, self.reject.clone()),
            Some(timeout) => {
                let context = self.context.context(&req);
                let reject = self.reject.remember(&req);
                let end = match timeout.begins_later(&context) {
                    Some(after) => End::later(timeout, after, &context),
                    None => self.end(timeout, context, &mut req),
                };
                (end, reject)
            }
        };
        ResponseFuture {
            state: if end.is_past() {
                State::TooLate
            } else {
                State::Called { call: self.inner.call(req) }
            },
            sleep: None,
            bound: self.timeout.as_ref().map(|timeout| Bound::new(timeout, end)),
            reject,
        }
    }
}

impl<S, C, R> TimeoutService<S, C, R> {
    #[inline(never)]
    fn end<Req>(&self, timeout: &Timeout, context: Context, req: &mut Req) -> End
    where
        C: ReadContext<Req>,
    {
        let Ok(end) = timeout.end(&context) else {
            return End::past(timeout, &context);
        };
        if let Some(end) = end
            && !timeout.is_handed_down()
            && context.deadline().map(Deadline::tick) != Some(end)
        {
            self.context.set_context(req, context.with_deadline(Deadline::at(end)));
        }
        End::at(timeout, end, &context)
    }
}
