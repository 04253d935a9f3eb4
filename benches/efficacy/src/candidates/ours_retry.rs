//! Retries without the budget: what the budget adds is the difference to the next.

use buttress::classify_fn;
use buttress::retry::RetryLayer;
use tower::Layer;

use super::attempts::Spread;
use super::layers::{Opaque, judge_any, policy};
use super::{Candidate, Client, Known};
use crate::request::Endpoint;

pub(crate) struct Retry;

impl Candidate for Retry {
    fn name(&self) -> &'static str {
        "ours: retry alone"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let retry =
            RetryLayer::new(policy(known)).without_budget().classify(classify_fn(judge_any));
        Client::of_ours(retry.layer(Opaque(Spread::new(known, endpoints))))
    }
}
