//! The policies and the two stacks. Everything a user of the crate would write is in this file.
//!
//! Whoever runs a gateway knows two things: how long a caller waits and how much a caller normally sends. What
//! the backend can take, and how long it takes, the client stack learns.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use buttress::control::Registry;
use buttress::http::{Extensions, forwarded_for, problem, replay_up_to};
use buttress::presets::{self, Absent, AnyHttp, ClientLayer, ClientPlan};
use buttress::rate_limit::{KeyedRateLimiter, RateLimitLayer};
use buttress::retry::HttpRequest;
use buttress::{AsError, BackendState, BackendStats, BoxError, ConfigError, Quota};
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
    /// A caller rarely sends more, per second.
    pub(crate) rate: u64,
}

/// A client's stack for `http::Request`.
type HttpClientLayer =
    ClientLayer<AnyHttp, HttpRequest, Extensions, AsError, Absent<buttress::conditioner::Http>>;

/// What holds the state. The services are views of it, and so is the terminal view.
pub(crate) struct Policies {
    limiter: KeyedRateLimiter<IpAddr>,
    stack: HttpClientLayer,
    patience: Duration,
    start: Instant,
}

impl Policies {
    pub(crate) fn new(normal: &Normal, start: Instant) -> Result<Self, ConfigError> {
        let Normal { patience, rate } = *normal;
        let limiter = KeyedRateLimiter::builder("callers")
            .quota(Quota::per_second(rate)?)
            // More callers than that at a time are an attack; the limit must not become one on memory.
            .capacity(10_000)
            .build()?;
        let mut plan = ClientPlan::new("backend");
        // Just short of the caller's patience, so that it hears from us. All else is the default.
        plan.total_timeout = Some(patience.mul_f64(0.95));
        let stack = presets::client(&plan)?.http();
        Ok(Self { limiter, stack, patience, start })
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
        connector.set_connect_timeout(Some(self.patience / 4));
        let transport = Client::builder(TokioExecutor::new()).build(connector);
        ServiceBuilder::new()
            // A body can be sent again if it is not longer than this.
            .layer(replay_up_to(64 * 1024))
            .layer(self.stack.clone())
            .map_request(move |request| {
                on_attempt();
                request
            })
            .service(transport)
    }

    /// What the stack knows of the backend.
    fn backend(&self) -> Option<BackendStats> {
        Some(self.stack.backend()?.stats())
    }

    /// Retries that were sent, and those that were not granted.
    fn retries(&self) -> (u64, u64) {
        let stats = self.stack.retry_budget().map(|budget| budget.stats());
        stats.map_or((0, 0), |stats| (stats.allowed - stats.returned, stats.denied))
    }

    /// For the line per second.
    pub(crate) fn in_short(&self) -> String {
        let Some(now) = self.backend() else { return String::new() };
        let (sent, _) = self.retries();
        format!("{:<10} limit {:>3}  retries {sent}", now.state.as_str(), now.limit)
    }

    /// For the live view. Always as many lines, or the frame would jump.
    pub(crate) fn in_detail(&self, paint: Paint) -> Vec<String> {
        let Some(now) = self.backend() else { return Vec::new() };
        let state = format!("{:<10}", now.state.as_str());
        let state = match now.state {
            BackendState::Up => paint.green(&state),
            BackendState::Congested | BackendState::Recovering => paint.yellow(&state),
            _ => paint.red(&state),
        };
        let takes = format!("answers take {:.0?}, usually {:.0?}", now.latency, now.baseline);
        let (sent, denied) = self.retries();
        let mut refused = String::new();
        for (reason, count) in [
            ("rate limited", self.limiter.stats().rejected + now.throttled),
            ("hopeless", now.hopeless + now.expired),
            ("room full", now.full),
        ] {
            if count > 0 {
                let _ = write!(refused, "{reason} {count}   ");
            }
        }
        let mut lines = vec![
            format!("{:<14}{state} {}", "backend", paint.dim(&takes)),
            format!(
                "{:<14}{} {} of {}, {} wait",
                "in flight",
                bar(f64::from(now.in_flight) / f64::from(now.limit.max(1)), 20),
                now.in_flight,
                now.limit,
                now.waiting,
            ),
            format!(
                "{:<14}{sent} sent, {denied} without headroom; {} probes",
                "retries", now.probes
            ),
            format!("{:<14}{refused}", "refused"),
            String::new(),
        ];
        lines.extend(self.latest().into_iter().map(|event| paint.dim(&event)));
        lines
    }

    /// The last times the backend went down and came back: every object tells its registry what happens to it.
    fn latest(&self) -> [String; EVENTS] {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since_start = Instant::now().saturating_duration_since(self.start);
        let mut lines = <[String; EVENTS]>::default();
        let news = Registry::global().events_since(0);
        // Congestion comes and goes, and is shown above.
        let down = |change: &str| change.starts_with("down to ") || change.contains(" to down");
        let news = news.events.iter().rev();
        let news = news.filter(|event| event.layer == "backend" && down(&event.detail));
        for (line, event) in lines.iter_mut().zip(news) {
            let ago = since_epoch.saturating_sub(Duration::from_millis(event.at_ms));
            let at = since_start.saturating_sub(ago).as_secs_f64();
            *line = format!("{at:>6.1} s      {}", event.detail);
        }
        lines
    }
}

/// Lines of history in the live view.
const EVENTS: usize = 4;
