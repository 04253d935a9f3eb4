//! A day of faults, from a file: `cargo run --example chaos_day --features serde`.
//!
//! A plan says when which fault begins and ends, as the same commands that a running service takes over an
//! admin endpoint. A client with the full stack (failure budget, retry, circuit breaker, timeout, and the
//! conditioner in front of the network) sends a steady load to a small service through that day. What each
//! layer did is printed every second and drawn at the end. `--plan FILE` runs another day, `--svg FILE`
//! says where the picture goes.

#![allow(clippy::disallowed_methods, reason = "an application spawns its tasks")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]

mod chart;
mod plan;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
use buttress::conditioner::ConditionerLayer;
use buttress::control::{Registry, execute};
use buttress::failure_budget::FailureBudgetLayer;
use buttress::http::standard;
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::{Backoff, BoxError, LayerKind, Rejection, RetryBudget};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::time::{Instant, interval, sleep_until};
use tower::{ServiceBuilder, ServiceExt};

use plan::Step;

/// Calls per second.
const RATE: f64 = 120.0;

/// What happened in one second (or less, in a short run): calls by how they ended, in the order of the
/// chart, and what was done to them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Second {
    pub(crate) ends: [u32; 4],
    pub(crate) injected: u32,
    pub(crate) retried: u32,
}

fn main() -> ExitCode {
    let done =
        arguments().and_then(|arguments| tokio::runtime::Runtime::new()?.block_on(day(arguments)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos_day: {error}");
            ExitCode::from(2)
        }
    }
}

struct Arguments {
    plan: Option<PathBuf>,
    svg: PathBuf,
}

fn arguments() -> Result<Arguments, BoxError> {
    let svg = std::env::temp_dir().join("buttress-chaos-day.svg");
    let mut all = Arguments { plan: None, svg };
    let mut given = std::env::args_os().skip(1);
    while let Some(argument) = given.next() {
        let mut file = || given.next().map(PathBuf::from).ok_or("expected a file after it");
        match argument.to_str() {
            Some("--plan") => all.plan = Some(file()?),
            Some("--svg") => all.svg = file()?,
            _ => {
                return Err(
                    format!("{}: expected --plan FILE or --svg FILE", argument.display()).into()
                );
            }
        }
    }
    Ok(all)
}

async fn day(arguments: Arguments) -> Result<(), BoxError> {
    let mut plan = plan::load(arguments.plan.as_deref())?;
    // A short run lives through the same day ten times as fast.
    let smoke = std::env::var_os("BUTTRESS_SMOKE").is_some_and(|value| value == "1");
    let width = if smoke { 0.1 } else { 1.0 };
    for step in &mut plan {
        step.at *= width;
    }
    std::fs::write(&arguments.svg, "")
        .map_err(|error| format!("cannot write {}: {error}", arguments.svg.display()))?;

    // The objects, and the slots that the plan's commands find by name.
    let retries = RetryBudget::new("orders");
    let breaker = CircuitBreaker::builder("orders")
        .consecutive_failures(10)
        .open_for(Duration::from_millis(if smoke { 50 } else { 500 }))
        .build()?;
    let registry = Registry::new();
    let budget = registry.failure_budget("orders");
    let network = registry.conditioner("network");
    // A spent budget also stops the retries.
    registry.add_lever("retries", retries.clone());

    let policy = RetryPolicy::builder()
        .max_attempts(3)
        .backoff(Backoff::exponential(Duration::from_millis(10), Duration::from_millis(100)))
        .deadline(Duration::from_secs(1))
        .build()?;
    let client = ServiceBuilder::new()
        .layer(FailureBudgetLayer::from_slot(budget.clone()).classify(standard()))
        .layer(RetryLayer::new(policy).budget(retries.clone()).classify(standard()))
        .layer(CircuitBreakerLayer::new(breaker.clone()).classify(standard()))
        .timeout(Duration::from_millis(200))
        .layer(ConditionerLayer::from_slot(network.clone()).http())
        .service(Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>());

    let url = service().await?;
    let start = Instant::now();
    let end = plan.last().map_or(0.0, |step| step.at);
    let seconds = Arc::new(Seconds::new((end / width).ceil() as usize, start, width));

    let load = {
        let (seconds, client) = (Arc::clone(&seconds), client.clone());
        tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs_f64(1.0 / RATE));
            while start.elapsed().as_secs_f64() < end {
                ticks.tick().await;
                let (seconds, client, url) = (Arc::clone(&seconds), client.clone(), url.clone());
                tokio::spawn(async move {
                    let sent = seconds.now();
                    let request = Request::get(url).body(Empty::new()).expect("a valid URL");
                    let answer = match client.oneshot(request).await {
                        Ok(response) => response.into_body().collect().await.map(drop),
                        Err(error) => Err(error),
                    };
                    seconds.ended(sent, &answer);
                });
            }
        })
    };

    let mut told = Told::default();
    let mut steps = plan.iter().peekable();
    for second in 0..seconds.all.len() {
        while let Some(step) = steps.next_if(|step| step.at < (second + 1) as f64 * width) {
            sleep_until(start + Duration::from_secs_f64(step.at)).await;
            carry_out(&registry, step)?;
        }
        sleep_until(start + Duration::from_secs_f64((second + 1) as f64 * width)).await;
        let injected = network.get().map_or(0, |network| network.stats().injected);
        let retried = retries.stats().allowed;
        seconds.all[second].did(told.since(injected, retried));
        let Second { ends: [worked, shed, open, failed], injected, retried } =
            seconds.all[second].get();
        println!(
            "{:>5.1} s  worked {worked:>3}  refused by the budget {shed:>3}, by the breaker {open:>3}  failed \
             {failed:>3}  |  injected {injected:>3}  retried {retried:>3}  breaker {:<9}  budget {}",
            (second + 1) as f64 * width,
            breaker.state().to_string(),
            budget.get().map_or("-".to_owned(), |budget| {
                let state = if budget.tripped() { "spent" } else { "fine" };
                format!("{state} ({:.0} % failing)", 100.0 * budget.failure_rate())
            }),
        );
    }
    load.await?;

    let all: Vec<Second> = seconds.all.iter().map(Bin::get).collect();
    std::fs::write(&arguments.svg, chart::svg(&plan, &all, width))?;
    let sum = |n: usize| all.iter().map(|second| second.ends[n]).sum::<u32>();
    println!(
        "\n{} worked, {} refused by the failure budget, {} by the circuit breaker, {} failed\nchart: {}",
        sum(0),
        sum(1),
        sum(2),
        sum(3),
        arguments.svg.display()
    );
    Ok(())
}

fn carry_out(registry: &Registry, step: &Step) -> Result<(), BoxError> {
    if step.document.as_array().is_some_and(Vec::is_empty) {
        return Ok(());
    }
    println!("--- {}", step.say);
    for executed in execute(registry, &step.document)? {
        match executed.result {
            Ok(_) => println!("    {}", executed.action),
            Err(error) => return Err(format!("at {} s: {error}", step.at).into()),
        }
    }
    Ok(())
}

/// A service that always answers; all that goes wrong is the plan's doing.
async fn service() -> Result<String, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/orders", listener.local_addr()?);
    let app = Router::new().route(
        "/orders",
        get(|| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            "an order\n"
        }),
    );
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok(url)
}

struct Seconds {
    all: Vec<Bin>,
    start: Instant,
    width: f64,
}

#[derive(Default)]
struct Bin {
    ends: [AtomicU32; 4],
    injected: AtomicU32,
    retried: AtomicU32,
}

impl Seconds {
    fn new(count: usize, start: Instant, width: f64) -> Self {
        Self { all: (0..count).map(|_| Bin::default()).collect(), start, width }
    }

    fn now(&self) -> usize {
        (self.start.elapsed().as_secs_f64() / self.width) as usize
    }

    fn ended(&self, sent: usize, answer: &Result<(), BoxError>) {
        let end = match answer.as_ref().err().map(|error| Rejection::find(&**error)) {
            None => 0,
            Some(Some(why)) if why.layer() == LayerKind::FailureBudget => 1,
            Some(Some(why)) if why.layer() == LayerKind::CircuitBreaker => 2,
            Some(_) => 3,
        };
        if let Some(bin) = self.all.get(sent) {
            bin.ends[end].fetch_add(1, Relaxed);
        }
    }
}

impl Bin {
    fn did(&self, (injected, retried): (u32, u32)) {
        self.injected.store(injected, Relaxed);
        self.retried.store(retried, Relaxed);
    }

    fn get(&self) -> Second {
        Second {
            ends: std::array::from_fn(|n| self.ends[n].load(Relaxed)),
            injected: self.injected.load(Relaxed),
            retried: self.retried.load(Relaxed),
        }
    }
}

/// Turns counters that only rise, or begin anew with a new object, into what was added.
#[derive(Default)]
struct Told {
    injected: u64,
    retried: u64,
}

impl Told {
    fn since(&mut self, injected: u64, retried: u64) -> (u32, u32) {
        let added = |now: u64, before: u64| if now >= before { now - before } else { now } as u32;
        let since = (added(injected, self.injected), added(retried, self.retried));
        (self.injected, self.retried) = (injected, retried);
        since
    }
}
