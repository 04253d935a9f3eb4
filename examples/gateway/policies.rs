//! The policies and the two stacks. Everything a user of the crate would write is in this file.
//!
//! Whoever runs a gateway knows three things: how long a caller waits, how long a normal answer takes and
//! how much a caller normally sends. All numbers here follow from these.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, CircuitState};
use buttress::http::{forwarded_for, problem, replay_up_to, standard, try_replay_request};
use buttress::observe::{Event, EventKind};
use buttress::rate_limit::{KeyedRateLimiter, RateLimitLayer};
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::{Backoff, BoxError, ConfigError, Quota, RetryBudget};
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;
use tower::{Service, ServiceBuilder};

use crate::view::{Paint, bar};

/// What is normal.
pub(crate) struct Normal {
    /// A caller waits so long.
    pub(crate) patience: Duration,
    /// Nearly all answers of a healthy backend take less.
    pub(crate) answer: Duration,
    /// A caller rarely sends more, per second.
    pub(crate) rate: u64,
}

/// The objects that hold the state. The layers are views of them, and so is the terminal view.
pub(crate) struct Policies {
    /// An attempt may take so long: after a hanging one there is still time for another.
    attempt: Duration,
    limiter: KeyedRateLimiter<IpAddr>,
    breaker: CircuitBreaker,
    budget: RetryBudget,
    retry: RetryPolicy,
    seen: Arc<Seen>,
}

impl Policies {
    pub(crate) fn new(normal: &Normal, start: Instant) -> Result<Self, ConfigError> {
        let Normal { patience, answer, rate } = *normal;
        let seen = Arc::new(Seen { start, events: Mutex::default() });
        let limiter = KeyedRateLimiter::builder("callers")
            .quota(Quota::per_second(rate)?)
            // More callers than that at a time are an attack; the limit must not become one on memory.
            .capacity(10_000)
            .observe(seen.listener())
            .build()?;
        let breaker = CircuitBreaker::builder("backend")
            // A brown-out is for the retry; beyond this share retries would only add to the trouble.
            .failure_rate(0.7)
            // A dead backend shows at once; 30 % errors come to ten in a row once in 170,000 calls.
            .consecutive_failures(10)
            // A queue is building up, and it is still short.
            .slow_calls(answer * 2, 0.5)
            // As fast as a queue grows beyond what a caller waits for.
            .window(patience / 2)
            // Below this the shares are chance.
            .min_calls(20)
            // A probe costs little; a recovery not noticed costs every caller.
            .open_for(patience / 20)
            // A few at a time, so that one unlucky probe does not decide.
            .half_open_calls(3)
            .observe(seen.listener())
            .build()?;
        let retry = RetryPolicy::builder()
            // One retry turns 30 % of errors into 9 %, two into 3 %; more would rarely come in time.
            .max_attempts(3)
            // An error is a coin, there is nothing to wait for: less than an answer takes.
            .backoff(Backoff::exponential(answer / 3, patience / 10))
            // Just short of the caller's patience, so that it hears from us.
            .deadline(patience.mul_f64(0.95))
            .build()?;
        let budget = RetryBudget::builder("backend")
            // The backend has 40 % to spare at the usual load, and a failed answer costs it less.
            .ratio(0.5)
            // 30 % errors should be retried in full: the default price stops at about 20 %.
            .cost(5)
            .tokens(TOKENS)
            .build()?;
        Ok(Self { attempt: patience / 2, limiter, breaker, budget, retry, seen })
    }

    /// The server stack: what a request passes first. Behind `hops` proxies of ours the caller is the one
    /// they name; without any it is the peer.
    pub(crate) fn protect(&self, app: Router, hops: usize) -> Router {
        let caller = forwarded_for(hops)
            .or_extension(|extensions| Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip()));
        app.layer(
            RateLimitLayer::new(self.limiter.clone())
                .key(caller)
                // The layer answers by itself: its error is `Infallible`, as axum wants it.
                .on_reject(problem()),
        )
    }

    /// The client stack: what a request passes on its way to the backend, outermost first.
    pub(crate) fn client(
        &self,
        on_attempt: impl Fn() + Clone + Send + Sync + 'static,
    ) -> impl Service<Request<Body>, Response = Response<Incoming>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(self.attempt / 2));
        let transport = Client::builder(TokioExecutor::new()).build(connector);
        ServiceBuilder::new()
            .layer(replay_up_to(64 * 1024))
            .layer(
                RetryLayer::new(self.retry)
                    .budget(self.budget.clone())
                    .replay(try_replay_request)
                    .classify(standard())
                    .observe(self.seen.listener()),
            )
            .layer(CircuitBreakerLayer::new(self.breaker.clone()).classify(standard()))
            .timeout(self.attempt)
            .map_request(move |request| {
                on_attempt();
                request
            })
            .service(transport)
    }

    /// For the line per second.
    pub(crate) fn in_short(&self) -> String {
        let (breaker, budget) = (self.breaker.snapshot(), self.budget.stats());
        format!(
            "breaker {:<9} retries {}",
            breaker.state.as_str(),
            budget.allowed - budget.returned
        )
    }

    /// For the live view.
    pub(crate) fn in_detail(&self, paint: Paint) -> Vec<String> {
        let now = self.breaker.snapshot();
        let state = format!("{:<9}", now.state.as_str().replace('_', " "));
        let state = match now.state {
            CircuitState::Closed => paint.green(&state),
            CircuitState::HalfOpen | CircuitState::Ramping => paint.yellow(&state),
            _ => paint.red(&state),
        };
        let why = match now.next_probe {
            Some(left) => format!("{}, next probe in {} ms", now.reason, left.as_millis()),
            None => format!(
                "{}, {:.0} % of {} calls failed, {:.0} % slow",
                now.reason,
                100.0 * now.failure_rate,
                now.window_calls,
                100.0 * now.slow_rate,
            ),
        };
        let budget = self.budget.stats();
        let seen = self.seen.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut refused = String::new();
        for (reason, count) in &seen.refused {
            let _ = write!(refused, "{} {count}   ", reason.replace('_', " "));
        }
        let mut lines = vec![
            format!("{:<14}{state} {}", "breaker", paint.dim(&why)),
            format!(
                "{:<14}{} {} tokens, {:.1} retries of credit",
                "retry budget",
                bar(f64::from(budget.tokens) / f64::from(TOKENS), 20),
                budget.tokens,
                budget.credit,
            ),
            format!(
                "{:<14}{} made, {} of them worked, {} refused by the budget",
                "retries",
                budget.allowed - budget.returned,
                budget.succeeded,
                budget.denied,
            ),
            format!("{:<14}{refused}", "refused"),
            String::new(),
        ];
        // Always as many lines, or the frame would jump.
        lines.extend((0..EVENTS).map(|n| match seen.latest.get(n) {
            Some((at, text)) => paint.dim(&format!("{at:>6.1} s      {text}")),
            None => String::new(),
        }));
        lines
    }
}

/// What retries that fail can cost at most before they stop; successes earn it back.
const TOKENS: u32 = 140;
/// Lines of history in the live view.
const EVENTS: usize = 4;

/// Listens to all policies: what was refused and why, and when the breaker tripped and closed.
struct Seen {
    start: Instant,
    events: Mutex<Events>,
}

#[derive(Default)]
struct Events {
    refused: BTreeMap<&'static str, u64>,
    latest: VecDeque<(f64, String)>,
}

impl Seen {
    fn listener(self: &Arc<Self>) -> impl Fn(&Event<'_>) + Send + Sync + 'static {
        let seen = self.clone();
        move |event| seen.note(event)
    }

    fn note(&self, event: &Event<'_>) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        match event.kind {
            EventKind::Rejected(why) => {
                *events.refused.entry(why.kind().as_str()).or_default() += 1;
            }
            // Probes that fail are the ordinary course of an outage, not news.
            EventKind::StateChanged { from, to, reason } if from == "closed" || to == "closed" => {
                let at = Instant::now().saturating_duration_since(self.start).as_secs_f64();
                events.latest.truncate(EVENTS - 1);
                events.latest.push_front((at, format!("breaker {from} -> {to}: {reason}")));
            }
            _ => {}
        }
    }
}
