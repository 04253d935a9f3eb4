//! The candidates, one file each. A candidate makes one client for each process; it may know the deadline, the
//! number of endpoints and what a request carries.

mod none;
mod oracle;
mod ours;
mod recloser;
mod retry;
mod storm;
mod tower_budget;
mod tower_hedge;
mod tower_resilience;

use std::sync::Mutex;
use std::time::Duration;

use tower::{Service, ServiceExt};

use crate::request::{Answer, Boxed, Endpoint, Request};

/// What a candidate is told.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// For what this process draws at random.
    pub(crate) seed: u64,
    /// Within which an answer is of use to its caller.
    pub(crate) deadline: Duration,
    /// What peers are configured with.
    pub(crate) attempt_timeout: Duration,
    pub(crate) attempts: u32,
}

pub(crate) trait Candidate: Send + Sync {
    fn name(&self) -> &'static str;

    /// The stack of one process, over the servers it can reach.
    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client;

    /// Scheduled centrally instead.
    fn central(&self) -> bool {
        false
    }
}

type Call = dyn Fn(Request) -> Boxed<bool> + Send + Sync;
type Says = dyn Fn() -> String + Send + Sync;
/// Counters that only grow, with their names.
pub(crate) type Counts = Vec<(&'static str, u64)>;

pub(crate) struct Client {
    call: Box<Call>,
    says: Box<Says>,
    counts: Box<dyn Fn() -> Counts + Send + Sync>,
}

impl Client {
    /// A service that is cloned for each call, as servers do.
    pub(crate) fn of<S>(service: S) -> Self
    where
        S: Service<Request, Response = Answer> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send,
    {
        let service = Mutex::new(service);
        Self::from_fn(move |request| {
            let one = service.lock().expect("no panic under the lock").clone();
            Box::pin(async move { one.oneshot(request).await.is_ok() })
        })
    }

    pub(crate) fn from_fn(call: impl Fn(Request) -> Boxed<bool> + Send + Sync + 'static) -> Self {
        Self { call: Box::new(call), says: Box::new(String::new), counts: Box::new(Vec::new) }
    }

    /// With one line on its state, for the time-line.
    pub(crate) fn saying(self, says: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { says: Box::new(says), ..self }
    }

    /// With what it has done so far, for the time-line.
    pub(crate) fn counting(self, counts: impl Fn() -> Counts + Send + Sync + 'static) -> Self {
        Self { counts: Box::new(counts), ..self }
    }

    pub(crate) fn counts(&self) -> Counts {
        (self.counts)()
    }

    pub(crate) fn call(&self, request: Request) -> Boxed<bool> {
        (self.call)(request)
    }

    pub(crate) fn says(&self) -> String {
        (self.says)()
    }
}

/// Picks an endpoint at random for each attempt: what stacks do that know of no endpoints.
#[derive(Clone)]
pub(crate) struct Spread {
    endpoints: std::sync::Arc<[Endpoint]>,
    rng: std::sync::Arc<Mutex<crate::rng::Rng>>,
}

impl Spread {
    pub(crate) fn new(known: &Known, endpoints: Vec<Endpoint>) -> Self {
        let rng = crate::rng::Rng::new(known.seed, 77);
        Self { endpoints: endpoints.into(), rng: std::sync::Arc::new(Mutex::new(rng)) }
    }
}

impl Service<Request> for Spread {
    type Response = Answer;
    type Error = crate::request::Fault;
    type Future = Boxed<crate::request::Reply>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let n = self.endpoints.len();
        let chosen =
            if n == 1 { 0 } else { self.rng.lock().expect("no panic under the lock").below(n) };
        self.endpoints[chosen].clone().call(request)
    }
}

/// The attempt timeout that is given to every peer, as an error of the transport.
#[derive(Clone)]
pub(crate) struct Timed<S>(pub(crate) S, pub(crate) Duration);

impl<S> Service<Request> for Timed<S>
where
    S: Service<Request, Response = Answer, Error = crate::request::Fault>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = crate::request::Fault;
    type Future = Boxed<crate::request::Reply>;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let attempt = tokio::time::timeout(self.1, self.0.call(request));
        Box::pin(async move { attempt.await.unwrap_or(Err(crate::request::Fault::TimedOut)) })
    }
}

pub(crate) fn all() -> Vec<Box<dyn Candidate>> {
    vec![
        Box::new(none::None),
        Box::new(retry::Naive),
        Box::new(retry::Jittered),
        Box::new(tower_budget::TowerBudget),
        Box::new(tower_resilience::Budgeted),
        Box::new(tower_resilience::Defaults),
        Box::new(tower_resilience::Tuned),
        Box::new(recloser::Recloser),
        Box::new(tower_hedge::TowerHedge),
        Box::new(ours::Retry),
        Box::new(ours::Budget),
        Box::new(ours::Breaker),
        Box::new(storm::Storm),
        Box::new(oracle::Oracle),
    ]
}
