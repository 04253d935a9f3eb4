use std::task::{self, Poll};

use tower_service::Service;

use super::future::{NOT_BEGUN, ResponseFuture, State};
use super::handle::Timeout;
use crate::clock::Tick;
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
#[derive(Clone, Debug)]
pub struct TimeoutService<S, C = NoContext, R = AsError> {
    pub(super) inner: S,
    pub(super) timeout: Option<Timeout>,
    pub(super) context: C,
    pub(super) reject: R,
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

    // Each future is made in the place that it is to have: moved, it would be copied.
    #[inline(always)]
    fn call(&mut self, mut req: Req) -> Self::Future {
        let Some(timeout) = self.timeout else {
            return ResponseFuture {
                state: State::Called { call: self.inner.call(req) },
                sleep: None,
                end: None,
                timeout: None,
                reject: self.reject.clone(),
            };
        };
        let context = self.context.context(&req);
        let reject = self.reject.remember(&req);
        let end = if timeout.begins_later(&context, self.context.keeps()) {
            NOT_BEGUN
        } else {
            let Ok(end) = timeout.end(&context) else {
                return too_late(timeout, &context, reject);
            };
            self.pass_on(end, context, &mut req);
            end
        };
        ResponseFuture {
            timeout: Some(timeout.ending_at(end, &context)),
            end,
            sleep: None,
            reject,
            state: State::Called { call: self.inner.call(req) },
        }
    }
}

impl<S, C, R> TimeoutService<S, C, R> {
    /// To the layers inside.
    #[inline]
    fn pass_on<Req>(&self, end: Option<Tick>, context: Context, req: &mut Req)
    where
        C: ReadContext<Req>,
    {
        if let Some(end) = end
            && context.deadline().map(Deadline::tick) != Some(end)
        {
            self.context.set_context(req, context.with_deadline(Deadline::at(end)));
        }
    }
}

#[cold]
#[inline(never)]
fn too_late<F, R>(timeout: Timeout, context: &Context, reject: R) -> ResponseFuture<F, R> {
    let timeout = Some(timeout.ending_at(None, context));
    ResponseFuture { state: State::TooLate, sleep: None, end: None, timeout, reject }
}
