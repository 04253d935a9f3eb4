//! recloser's breaker with its defaults under three attempts.

use std::task::{Context, Poll};
use std::time::Duration;

use ::recloser::{AnyError, AsyncRecloser, Error, Recloser as Breaker, RecloserFuture};
use tower::{Layer, Service};
use tower_resilience::retry::RetryLayer;

use super::attempts::{Spread, Timed};
use super::{Candidate, Client, Known};
use crate::request::{Answer, Endpoint, Request};

pub(crate) struct Recloser;

/// The few lines that make it a service.
#[derive(Clone)]
struct Reclosed<S>(S, AsyncRecloser);

impl<S: Service<Request, Response = Answer>> Service<Request> for Reclosed<S> {
    type Response = Answer;
    type Error = Error<S::Error>;
    type Future = RecloserFuture<S::Future, AnyError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx).map_err(Error::Inner)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.1.call(self.0.call(request))
    }
}

impl Candidate for Recloser {
    fn name(&self) -> &'static str {
        "recloser dflt + retry x3"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let service = Timed(Spread::new(known, endpoints), known.attempt_timeout);
        let service = Reclosed(service, AsyncRecloser::from(Breaker::default()));
        let retry = RetryLayer::builder()
            .max_attempts(known.attempts as usize)
            .fixed_backoff(Duration::from_millis(50))
            .build();
        Client::of(retry.layer(service))
    }
}
