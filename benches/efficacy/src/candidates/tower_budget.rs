//! tower's retry with its own budget and backoff, all with defaults: three attempts,
//! exponential backoff, each process a budget.

use std::sync::Arc;

use tower::Layer;
use tower::retry::backoff::{Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff};
use tower::retry::budget::{Budget, TpsBudget};

use super::attempts::{Spread, Timed};
use super::{Candidate, Client, Known};
use crate::request::{Answer, Endpoint, Fault, Request};

pub(crate) struct TowerBudget;

#[derive(Clone)]
struct Attempts {
    left: u32,
    budget: Arc<TpsBudget>,
    backoff: ExponentialBackoff,
}

impl tower::retry::Policy<Request, Answer, Fault> for Attempts {
    type Future = <ExponentialBackoff as Backoff>::Future;

    fn retry(
        &mut self,
        _: &mut Request,
        result: &mut Result<Answer, Fault>,
    ) -> Option<Self::Future> {
        if result.is_ok() {
            self.budget.deposit();
            return None;
        }
        if self.left == 0 || !self.budget.withdraw() {
            return None;
        }
        self.left -= 1;
        Some(self.backoff.next_backoff())
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }
}

impl Candidate for TowerBudget {
    fn name(&self) -> &'static str {
        "tower retry x3 + TpsBudget"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let policy = Attempts {
            left: known.attempts - 1,
            budget: Arc::new(TpsBudget::default()),
            backoff: ExponentialBackoffMaker::default().make_backoff(),
        };
        let service = Timed(Spread::new(known, endpoints), known.attempt_timeout);
        Client::of(tower::retry::RetryLayer::new(policy).layer(service))
    }
}
