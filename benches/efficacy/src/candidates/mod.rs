//! The candidates, one file each, and what several of them share in `attempts` (peers), `layers` and `preset` (ours).
//! A candidate makes one client for each process; it may know the deadline, the number of endpoints and what a request
//! carries.

mod attempts;
mod jittered;
mod layers;
mod naive;
mod none;
mod oracle;
mod ours;
mod ours_admission;
mod ours_breaker;
mod ours_budget;
mod ours_endpoints;
mod ours_paid;
mod ours_quota;
mod ours_retry;
mod preset;
mod recloser;
mod tower_budget;
mod tower_hedge;
mod tower_resilience_budget;
mod tower_resilience_defaults;
mod tower_resilience_tuned;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::{BoxError, Rejection};
use tower::{Service, ServiceExt};

use crate::request::{Answer, Boxed, Endpoint, Request};

/// What a candidate is told.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The process.
    pub(crate) client: usize,
    /// For what this process draws at random.
    pub(crate) seed: u64,
    /// Within which an answer is of use to its caller.
    pub(crate) deadline: Duration,
    /// What peers are configured with.
    pub(crate) attempt_timeout: Duration,
    pub(crate) attempts: u32,
}

impl Known {
    /// For what has a name, so that the time-line can tell whose it is.
    pub(crate) fn name(&self) -> String {
        format!("c{}", self.client)
    }
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

/// The counter of calls that ended with a refusal of one of our layers.
pub(crate) const REFUSED: &str = "refused";

pub(crate) struct Client {
    call: Box<Call>,
    says: Box<Says>,
    counts: Box<dyn Fn() -> Counts + Send + Sync>,
    /// Calls that ended with a refusal of one of our layers.
    refused: Arc<AtomicU64>,
}

impl Client {
    /// A service that is cloned for each call, as servers do.
    pub(crate) fn of<S>(service: S) -> Self
    where
        S: Service<Request, Response = Answer> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send,
    {
        Self::with(service, |_| false)
    }

    /// The same with layers of buttress, whose refusals are counted.
    pub(crate) fn of_ours<S>(service: S) -> Self
    where
        S: Service<Request, Response = Answer, Error = BoxError> + Clone + Send + 'static,
        S::Future: Send,
    {
        Self::with(service, |error| Rejection::find(&**error).is_some())
    }

    fn with<S>(service: S, is_refusal: fn(&S::Error) -> bool) -> Self
    where
        S: Service<Request, Response = Answer> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send,
    {
        let service = Mutex::new(service);
        let refused = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&refused);
        let client = Self::from_fn(move |request| {
            let one = service.lock().expect("no panic under the lock").clone();
            let refused = Arc::clone(&counter);
            Box::pin(async move {
                let answered = one.oneshot(request).await;
                let refusal = answered.as_ref().is_err_and(is_refusal);
                refused.fetch_add(u64::from(refusal), Relaxed);
                answered.is_ok()
            })
        });
        Self { refused, ..client }
    }

    pub(crate) fn from_fn(call: impl Fn(Request) -> Boxed<bool> + Send + Sync + 'static) -> Self {
        Self {
            call: Box::new(call),
            says: Box::new(String::new),
            counts: Box::new(Vec::new),
            refused: Arc::default(),
        }
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
        let mut counts = (self.counts)();
        counts.insert(0, (REFUSED, self.refused.load(Relaxed)));
        counts
    }

    pub(crate) fn call(&self, request: Request) -> Boxed<bool> {
        (self.call)(request)
    }

    pub(crate) fn says(&self) -> String {
        (self.says)()
    }
}

/// Ours after those of others: single layers, then what leads to the default part by part, then the default.
pub(crate) fn all() -> Vec<Box<dyn Candidate>> {
    vec![
        Box::new(none::None),
        Box::new(naive::Naive),
        Box::new(jittered::Jittered),
        Box::new(tower_budget::TowerBudget),
        Box::new(tower_resilience_budget::Budgeted),
        Box::new(tower_resilience_defaults::Defaults),
        Box::new(tower_resilience_tuned::Tuned),
        Box::new(recloser::Recloser),
        Box::new(tower_hedge::TowerHedge),
        Box::new(ours_retry::Retry),
        Box::new(ours_budget::Budget),
        Box::new(ours_breaker::Breaker),
        Box::new(ours_admission::Admission),
        Box::new(ours_paid::Paid),
        Box::new(ours_quota::Quota),
        Box::new(ours_endpoints::Endpoints),
        Box::new(ours::Ours),
        Box::new(oracle::Oracle),
    ]
}
