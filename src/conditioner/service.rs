use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::reject::{AsError, Reject, Remember};
use crate::slot::Seat;

use super::call::{Describe, Unnamed};
use super::future::{Conditioned, ResponseFuture};
use super::handle::Conditioner;
use super::mode::{Plain, sealed::Mode};

/// A service behind a conditioner: see the [module](super).
///
/// ```
/// use buttress::conditioner::{Conditioner, ConditionerLayer, ConditionerService};
/// use std::time::Duration;
/// use tower::Layer;
/// // By name, in a client of our own.
/// struct Client<S> {
///     service: ConditionerService<S>,
/// }
/// let slow = Conditioner::network(Duration::from_millis(80), Duration::ZERO, 0.1, None)?;
/// let client = Client { service: ConditionerLayer::new(slow).layer(7) };
/// # Ok::<(), buttress::ConfigError>(())
/// ```
pub struct ConditionerService<S, D = Unnamed, R = AsError, M = Plain> {
    pub(super) inner: S,
    pub(super) seat: Seat<Conditioner>,
    pub(super) describe: D,
    pub(super) reject: R,
    pub(super) mode: M,
}

type Boxed<S, Req, R, M> = Pin<Box<Conditioned<S, Req, R, M>>>;

impl<S, D, R, M> ConditionerService<S, D, R, M> {
    /// The inner service.
    ///
    /// ```
    /// use buttress::conditioner::ConditionerLayer;
    /// use tower::Layer;
    /// assert_eq!(*ConditionerLayer::from_slot(Default::default()).layer(7).get_ref(), 7);
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    ///
    /// ```
    /// use buttress::conditioner::ConditionerLayer;
    /// use tower::Layer;
    /// assert_eq!(ConditionerLayer::from_slot(Default::default()).layer(7).into_inner(), 7);
    /// ```
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, D: Clone, R: Clone, M: Clone> Clone for ConditionerService<S, D, R, M> {
    #[inline]
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            seat: self.seat.clone(),
            describe: self.describe.clone(),
            reject: self.reject.clone(),
            mode: self.mode.clone(),
        }
    }
}

impl<S: fmt::Debug, D, R, M> fmt::Debug for ConditionerService<S, D, R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConditionerService")
            .field("inner", &self.inner)
            .field("conditioner", &self.seat)
            .finish_non_exhaustive()
    }
}

impl<S, Req, D, R, M> Service<Req> for ConditionerService<S, D, R, M>
where
    S: Service<Req> + Clone,
    D: Describe<Req>,
    R: Reject<Req, M::Response, S::Error> + Remember<Req>,
    M: Mode<Req, S::Response> + Clone,
{
    type Response = M::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, R, M>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(R::map_err)
    }

    #[inline(always)]
    fn call(&mut self, req: Req) -> Self::Future {
        let injecting = self.seat.current().is_some_and(|conditioner| conditioner.is_injecting());
        let req = if injecting {
            match self.call_conditioned(req) {
                Ok(call) => return ResponseFuture::conditioned(call),
                Err(req) => req,
            }
        } else {
            req
        };
        ResponseFuture::through(self.inner.call(req))
    }
}

impl<S, D, R, M> ConditionerService<S, D, R, M> {
    /// The call with what is done to it, or the request back if that is nothing.
    #[cold]
    #[inline(never)]
    fn call_conditioned<Req>(&mut self, mut req: Req) -> Result<Boxed<S, Req, R, M>, Req>
    where
        S: Service<Req> + Clone,
        D: Describe<Req>,
        R: Reject<Req, M::Response, S::Error> + Remember<Req>,
        M: Mode<Req, S::Response> + Clone,
    {
        let injection = self.seat.current().and_then(|conditioner| {
            let call = self.describe.describe(&req);
            conditioner.lease.shared().inject(&call, M::BODIES)
        });
        let Some(injection) = injection else {
            return Err(req);
        };
        let reject = self.reject.remember(&req);
        let call = if injection.instead.is_some() {
            // The inner service is not called: its readiness stays for the next call on this instance.
            Conditioned::instead(injection, req, reject)
        } else {
            self.mode.mark(&mut req, injection.mark);
            if injection.delay.is_zero() {
                Conditioned::called(injection, self.inner.call(req), reject)
            } else {
                // The clone stays here; the call that waits keeps the instance that is ready.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                Conditioned::later(injection, inner, req, reject)
            }
        };
        Ok(Box::pin(call))
    }
}
