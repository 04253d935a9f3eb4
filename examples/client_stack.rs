//! The default stack on both sides, and a server that dies: `cargo run --example client_stack`.
//!
//! Two servers do the same work, each of 16 requests at a time; the others wait, and none is begun whose caller has
//! gone. The client is told their addresses and nothing else: it learns what they bear, tries again at the other one
//! what failed at one, as far as that has headroom, and leaves out who is dead.

#![allow(clippy::disallowed_methods, reason = "an application spawns its tasks")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::{Router, routing::get};
use buttress::http::{ContextLayer, SendContextLayer};
use buttress::presets::{BackendPlan, ClientPlan, ServerPlan, client, server};
use buttress::{BoxError, Deadline};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{net::TcpListener, runtime::Runtime, time::sleep};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

type Prices = BoxCloneSyncService<Request<Full<Bytes>>, Response<Incoming>, BoxError>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (one, two) = (Process::start("one")?, Process::start("two")?);

    // By `http` the stack knows where a request has its deadline, and the pool which attempt of a call it gets.
    let stack = client(&ClientPlan::new("prices"))?.http();
    let pool = stack.endpoints();
    pool.extend([("one", at(one.addr)), ("two", at(two.addr))]);
    let prices = Prices::new(stack.pool(&pool));

    println!("both are well: {}", twenty_callers(&prices).await);
    let dies = async {
        sleep(Duration::from_millis(30)).await;
        one.die();
    };
    let (seen, ()) = tokio::join!(twenty_callers(&prices), dies);
    println!("one dies: {seen}");
    println!("one is dead: {}", twenty_callers(&prices).await);

    for server in pool.stats() {
        let state = if server.ejected { "left out" } else { "in use" };
        println!("{}: {} calls, {} failed, {state}", server.endpoint, server.calls, server.failed);
    }
    assert!(pool.stats().iter().any(|server| server.ejected), "who is dead is left out");
    two.die();
    Ok(())
}

/// A server of the pool.
fn at(addr: SocketAddr) -> Prices {
    let service = ServiceBuilder::new()
        .layer(SendContextLayer::new("prices")) // tells the server what time is left
        .map_request(move |mut request: Request<_>| {
            let uri = format!("http://{addr}{}", request.uri());
            *request.uri_mut() = uri.parse().expect("a path on an address");
            request
        })
        .service(Client::builder(TokioExecutor::new()).build_http());
    Prices::new(service)
}

/// What twenty callers see, each of whom asks 25 times.
async fn twenty_callers(prices: &Prices) -> String {
    let caller = async || {
        let mut seen = Vec::new();
        for _ in 0..25 {
            seen.push(ask(prices).await.unwrap_or_else(|error| error.to_string()));
        }
        seen
    };
    let mut counts = BTreeMap::<String, u32>::new();
    for what in join_all((0..20).map(|_| caller())).await.into_iter().flatten() {
        *counts.entry(what).or_default() += 1;
    }
    counts.iter().map(|(what, n)| format!("{n} x {what}")).collect::<Vec<_>>().join(", ")
}

/// Nobody waits longer than a second.
async fn ask(prices: &Prices) -> Result<String, BoxError> {
    let mut request = Request::get("/price").body(Full::default())?;
    Deadline::after(Duration::from_secs(1)).put(request.extensions_mut());
    let response = prices.clone().oneshot(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status.to_string())
}

/// A server with a runtime of its own: as of a process that is killed, all that it has ends at once.
struct Process {
    addr: SocketAddr,
    runtime: Runtime,
}

impl Process {
    fn start(name: &str) -> Result<Self, BoxError> {
        let mut plan = ServerPlan::new(name);
        plan.backend = Some(BackendPlan::fixed(16));
        let price = async || sleep(Duration::from_millis(5)).await;
        let app = Router::new().route("/price", get(price)).layer(
            ServiceBuilder::new()
                .layer(ContextLayer::new("prices")) // reads what time callers leave
                .layer(server(&plan)?.http()), // goes by it
        );
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let (addr, runtime) = (listener.local_addr()?, Runtime::new()?);
        runtime.spawn(async { axum::serve(TcpListener::from_std(listener)?, app).await });
        Ok(Self { addr, runtime })
    }

    fn die(self) {
        self.runtime.shutdown_background();
    }
}
