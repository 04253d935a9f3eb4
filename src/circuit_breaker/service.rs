use std::fmt;
use std::marker::PhantomData;
use std::task::{Context, Poll, ready};

use tower_service::Service;

use crate::classify::{AnyError, Classify};
use crate::clock;
use crate::guarded::{Call, Guarding};
use crate::reject::{AsError, Reject};
use crate::slot::Held;
use crate::sync::Lease;
use crate::wide::Flag;

use super::core::{Refusal, Ticket, Until};
use super::future::{ResponseFuture, State};
use super::guard::Guard;
use super::handle::CircuitBreaker;
use super::place::Place;
use super::reopening::Reopening;
use super::shared::Shared;

/// A service behind a circuit breaker: see the [module](super).
///
/// ```
/// use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerService};
/// use tower::Layer;
/// // By name, in a client of our own.
/// struct Client<S> {
///     service: CircuitBreakerService<S>,
/// }
/// impl<S> Client<S> {
///     fn new(inner: S) -> Self {
///         Self { service: CircuitBreaker::new("db").layer().layer(inner) }
///     }
/// }
/// let client = Client::new(7);
/// ```
pub struct CircuitBreakerService<S, C = AnyError, R = AsError> {
    inner: S,
    /// With none it is as if the layer were not there.
    breaker: Held<CircuitBreaker>,
    classify: C,
    reject: R,
    mode: Mode,
    /// Under a load balancer, while open.
    waiting: Option<Reopening>,
    /// In [`Mode::Queued`].
    place: Option<Box<Place>>,
}

#[derive(Clone, Copy, Debug)]
#[repr(usize)]
enum Mode {
    Plain,
    /// The circuit was open when readiness was asked, and the inner service was not: the next call must
    /// be refused, even if the circuit has closed meanwhile or the breaker is another one.
    Refusing(Until),
    /// The circuit is not closed, and this is one of the few that wait for the inner service.
    Queued,
    /// Under a load balancer: not ready while open. The inner service may already have said that it is
    /// ready; the circuit must not take that back.
    Balanced {
        ready: Flag,
    },
}

impl Mode {
    #[inline]
    const fn of(unready_while_open: bool) -> Self {
        if unready_while_open { Self::Balanced { ready: Flag::No } } else { Self::Plain }
    }
}

impl<S, C, R> CircuitBreakerService<S, C, R> {
    #[inline]
    pub(super) fn new(
        inner: S,
        breaker: Held<CircuitBreaker>,
        classify: C,
        reject: R,
        unready_while_open: bool,
    ) -> Self {
        let mode = Mode::of(unready_while_open);
        Self { inner, breaker, classify, reject, mode, waiting: None, place: None }
    }

    /// The inner service.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// use tower::Layer;
    /// assert_eq!(*CircuitBreaker::new("db").layer().layer(7).get_ref(), 7);
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// use tower::Layer;
    /// assert_eq!(CircuitBreaker::new("db").layer().layer(7).into_inner(), 7);
    /// ```
    pub fn into_inner(self) -> S {
        self.inner
    }
}

// Not derived: a clone has been promised nothing, neither readiness nor a refusal.
impl<S: Clone, C: Clone, R: Clone> Clone for CircuitBreakerService<S, C, R> {
    // The inner service last, and not by `new`: made in its place, or all of it is copied for each layer of a stack.
    #[inline(always)]
    fn clone(&self) -> Self {
        Self {
            breaker: self.breaker.clone(),
            classify: self.classify.clone(),
            reject: self.reject.clone(),
            mode: Mode::of(matches!(self.mode, Mode::Balanced { .. })),
            waiting: None,
            place: None,
            inner: self.inner.clone(),
        }
    }
}

impl<S: fmt::Debug, C, R> fmt::Debug for CircuitBreakerService<S, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerService")
            .field("inner", &self.inner)
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

impl<S, C, R, Req> Service<Req> for CircuitBreakerService<S, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error> + Clone,
    R: Reject<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, C, R>;

    /// Asks the breaker before the inner service: an inner service that is never ready must not hide that
    /// the circuit is open.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if matches!(self.mode, Mode::Plain) {
            let breaker = self.breaker.current();
            if breaker.is_some_and(|breaker| breaker.lease.core.is_in_doubt()) && self.will_refuse()
            {
                return Poll::Ready(Ok(()));
            }
        } else if !ready!(self.poll_unusual(cx)) {
            return Poll::Ready(Ok(()));
        }
        let Poll::Ready(ready) = self.inner.poll_ready(cx) else {
            if matches!(self.mode, Mode::Queued) && !self.is_still_queued(cx) {
                return Poll::Ready(Ok(()));
            }
            return Poll::Pending;
        };
        if !matches!(self.mode, Mode::Plain) {
            self.found_ready(ready.is_ok());
        }
        Poll::Ready(ready.map_err(R::map_err))
    }

    #[inline(always)]
    fn call(&mut self, req: Req) -> Self::Future {
        // A refusal that has been promised is that of the breaker which has.
        let breaker = match self.mode {
            Mode::Refusing(_) => self.breaker.seen(),
            Mode::Plain | Mode::Queued | Mode::Balanced { .. } => self.breaker.current(),
        };
        let Some(CircuitBreaker { lease }) = breaker else {
            return self.through(req);
        };
        let admitted = if matches!(self.mode, Mode::Plain) {
            lease.admit()
        } else {
            admit_unusual(&mut self.mode, lease)
        };
        call(&mut self.inner, req, lease, admitted, &self.classify, &self.reject)
    }
}

#[inline(never)]
fn admit_unusual(mode: &mut Mode, shared: &Shared) -> Result<Ticket, Refusal> {
    match *mode {
        Mode::Plain | Mode::Queued => shared.admit(),
        Mode::Refusing(until) => {
            *mode = Mode::Plain;
            shared.core.count_refusal();
            Err(until.refusal(clock::now()))
        }
        Mode::Balanced { .. } => {
            *mode = Mode::Balanced { ready: Flag::No };
            shared.admit()
        }
    }
}

/// Makes an admitted call, or answers a refused one.
#[inline(always)]
pub(super) fn call<S, C, R, Req>(
    inner: &mut S,
    req: Req,
    lease: &mut Lease<Shared>,
    admitted: Result<Ticket, Refusal>,
    classify: &C,
    reject: &R,
) -> ResponseFuture<S, Req, C, R>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error> + Clone,
    R: Reject<Req, S::Response, S::Error>,
{
    match admitted {
        Ok(ticket) => {
            let mut guard = Guard::new(lease.for_call(), ticket);
            // The future is made in its place: moved, it would be copied.
            ResponseFuture {
                state: State::Called {
                    judge: Some(classify.start(&req)),
                    classify: classify.clone(),
                    call: Call { inner: guard.run(|| inner.call(req)), guard },
                },
                marker: PhantomData,
            }
        }
        Err(refusal) => ResponseFuture::refused(reject.reject(req, lease.refused(refusal))),
    }
}

impl<S, C, R> CircuitBreakerService<S, C, R> {
    /// Without a breaker.
    #[inline]
    fn through<Req>(&mut self, req: Req) -> ResponseFuture<S, Req, C, R>
    where
        S: Service<Req>,
        C: Classify<Req, S::Response, S::Error>,
        R: Reject<Req, S::Response, S::Error>,
    {
        if let Mode::Balanced { ready } = &mut self.mode {
            *ready = Flag::No;
        }
        ResponseFuture::through(self.inner.call(req))
    }

    /// The circuit is not closed. Promises a refusal, unless nothing is refused, or the open time has passed and this may
    /// be one of those that wait for the inner service.
    #[inline(never)]
    fn will_refuse(&mut self) -> bool {
        let Some(CircuitBreaker { lease }) = self.breaker.seen() else { return false };
        if lease.is_shadow() {
            return false;
        }
        let now = clock::now();
        let until = lease.core.shut(now).or_else(|| {
            self.place = Place::take(lease.shared(), now);
            self.place.is_none().then(|| Until::soon(now))
        });
        self.mode = until.map_or(Mode::Queued, Mode::Refusing);
        until.is_some()
    }

    /// The inner service is not ready, and has the caller's waker. False if the next call is refused now; else the caller
    /// is woken too when it may have to be.
    #[inline(never)]
    fn is_still_queued(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            // Before looking: a change in between must wake the caller.
            self.place.iter_mut().for_each(|place| place.watch());
            if !self.poll_queued() {
                return false;
            }
            let Some(place) = &mut self.place else { return true };
            if place.is_quiet(cx) {
                return true;
            }
        }
    }

    /// It has waited for the inner service. Whoever has a place keeps it while it may still be needed, until its lease ends:
    /// then it is refused, so that a caller who holds the only place learns of it.
    fn poll_queued(&mut self) -> bool {
        let now = clock::now();
        let breaker = self.breaker.current();
        let doubtful = breaker.filter(|breaker| breaker.lease.core.is_in_doubt());
        if let Some(CircuitBreaker { lease }) = doubtful
            && self.place.as_ref().is_some_and(|place| place.is_at(lease.shared()))
            && !lease.is_shadow()
            && lease.core.shut(now).is_none()
        {
            if self.place.as_ref().is_some_and(|place| place.is_over(now)) {
                self.place = None;
                self.mode = Mode::Refusing(Until::soon(now));
                return false;
            }
            return true;
        }
        self.place = None;
        self.mode = Mode::Plain;
        let is_in_doubt = self.breaker.seen().is_some_and(|it| it.lease.core.is_in_doubt());
        !(is_in_doubt && self.will_refuse())
    }

    /// The inner service is ready, or broken.
    #[inline(never)]
    fn found_ready(&mut self, is_ok: bool) {
        match &mut self.mode {
            Mode::Balanced { ready } => *ready = Flag::of(is_ok),
            mode => {
                *mode = Mode::Plain;
                self.place = None;
            }
        }
    }

    /// Whether the inner service has to be asked too.
    #[inline(never)]
    fn poll_unusual(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self.mode {
            Mode::Plain | Mode::Balanced { ready: Flag::Yes } => Poll::Ready(true),
            Mode::Refusing(_) => Poll::Ready(false),
            Mode::Queued => Poll::Ready(self.poll_queued()),
            Mode::Balanced { ready: Flag::No } => self.poll_open(cx).map(|()| true),
        }
    }

    /// Waits until the circuit lets calls through.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.poll(cx));
            }
            let live = self.breaker.is_live();
            let breaker = self.breaker.current();
            self.waiting = breaker.and_then(|it| Reopening::of(it.lease.shared(), live));
            if self.waiting.is_none() {
                return Poll::Ready(());
            }
        }
    }
}
