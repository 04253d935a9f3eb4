//! What the stacks of peers send their attempts with.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tower::Service;

use super::{Client, Known};
use crate::request::{Answer, Boxed, Endpoint, Fault, Reply, Request};
use crate::rng::Rng;

/// Picks an endpoint at random for each attempt: what stacks do that know of no endpoints.
#[derive(Clone)]
pub(crate) struct Spread {
    endpoints: Arc<[Endpoint]>,
    rng: Arc<Mutex<Rng>>,
}

impl Spread {
    pub(crate) fn new(known: &Known, endpoints: Vec<Endpoint>) -> Self {
        let rng = Rng::new(known.seed, 77);
        Self { endpoints: endpoints.into(), rng: Arc::new(Mutex::new(rng)) }
    }
}

impl Service<Request> for Spread {
    type Response = Answer;
    type Error = Fault;
    type Future = Boxed<Reply>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
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
    S: Service<Request, Response = Answer, Error = Fault>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = Fault;
    type Future = Boxed<Reply>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let attempt = tokio::time::timeout(self.1, self.0.call(request));
        Box::pin(async move { attempt.await.unwrap_or(Err(Fault::TimedOut)) })
    }
}

/// Between the attempts of those who write the loop themselves.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// That loop, with the pause after each attempt.
pub(super) fn retrying(
    known: &Known,
    endpoints: Vec<Endpoint>,
    pause: impl Fn(u32) -> Duration + Clone + Send + Sync + 'static,
) -> Client {
    let service = Timed(Spread::new(known, endpoints), known.attempt_timeout);
    let attempts = known.attempts;
    Client::from_fn(move |request| {
        let (mut service, pause) = (service.clone(), pause.clone());
        Box::pin(async move {
            for attempt in 1..=attempts {
                if service.call(request.clone()).await.is_ok() {
                    return true;
                }
                if attempt < attempts {
                    tokio::time::sleep(pause(attempt)).await;
                }
            }
            false
        })
    })
}
