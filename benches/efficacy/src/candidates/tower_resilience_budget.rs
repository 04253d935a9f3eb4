//! tower-resilience's retry, alone with the defaults of its token budget.

use tower::Layer;
use tower_resilience::retry::{RetryBudgetBuilder, RetryLayer};

use super::attempts::{Spread, Timed};
use super::{Candidate, Client, Known};
use crate::request::{Answer, Endpoint, Fault, Request};

pub(crate) struct Budgeted;

impl Candidate for Budgeted {
    fn name(&self) -> &'static str {
        "t-r retry + token budget dflt"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let budget = RetryBudgetBuilder::new().token_bucket().build().expect("its defaults");
        let retry = RetryLayer::<Request, Answer, Fault>::builder()
            .max_attempts(known.attempts as usize)
            .budget(budget)
            .build();
        Client::of(retry.layer(Timed(Spread::new(known, endpoints), known.attempt_timeout)))
    }
}
