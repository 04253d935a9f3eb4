//! Retries with the budget that each layer has by default.

use buttress::classify_fn;
use buttress::retry::RetryLayer;
use tower::Layer;

use super::attempts::Spread;
use super::layers::{Opaque, deadline, judge_any, policy};
use super::{Candidate, Client, Known};
use crate::request::Endpoint;

pub(crate) struct Budget;

impl Candidate for Budget {
    fn name(&self) -> &'static str {
        "ours: + budget"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let retry =
            RetryLayer::new(policy(known)).deadlines(deadline).classify(classify_fn(judge_any));
        Client::of_ours(retry.layer(Opaque(Spread::new(known, endpoints))))
    }
}
