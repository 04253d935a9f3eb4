//! tower's hedge at the 95th percentile, as its documentation shows it: at least 10 samples, 10 s of history.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower::Service;
use tower::hedge::{Hedge, Policy};

use super::attempts::Spread;
use super::{Candidate, Client, Known};
use crate::request::{Endpoint, Request};

pub(crate) struct TowerHedge;

#[derive(Clone)]
struct Always;

impl Policy<Request> for Always {
    fn clone_request(&self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }

    fn can_retry(&self, _: &Request) -> bool {
        true
    }
}

impl Candidate for TowerHedge {
    fn name(&self) -> &'static str {
        "tower hedge p95"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let service = Spread::new(known, endpoints);
        let hedge = Hedge::new(service, Always, 10, 0.95, Duration::from_secs(10));
        // Not `Clone`: one service for all calls of the process. What is under it is always ready.
        let hedge = Arc::new(Mutex::new(hedge));
        Client::from_fn(move |request| {
            let hedge = Arc::clone(&hedge);
            Box::pin(async move {
                let answer = std::future::poll_fn(|cx| {
                    let mut hedge = hedge.lock().expect("no panic under the lock");
                    std::task::ready!(hedge.poll_ready(cx)).ok();
                    std::task::Poll::Ready(hedge.call(request.clone()))
                })
                .await;
                answer.await.is_ok()
            })
        })
    }
}
