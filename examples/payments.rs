//! A payment endpoint that pays once: `cargo run --example payments --features store-redb`, then twice, with
//! a restart in between if you like,
//!
//! ```sh
//! curl -si localhost:3000/payments -H 'content-type: application/json' -d '{"cents":1000}' \
//!     -H 'idempotency-key: 8e03978e-40d5-43dd-bc93-6894a57f9324'
//! ```
//!
//! The second is answered from the record of the first, with `Idempotency-Replayed: true`, whatever became
//! of the first connection and of the first process. The records are in the store that `--store` names:
//! `file:PATH` (`file:payments.redb` if you name none), `postgres://…`, `redis://…`, or `memory`, where they
//! end with the process.

#![allow(clippy::disallowed_methods, reason = "an application spawns its tasks")]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use buttress::BoxError;
use buttress::http::{replay_up_to, standard};
use buttress::idempotency::{
    Detached, EffectContext, Idempotency, IdempotencyKeyLayer, IdempotencyLayer, InFlight,
    NotExecuted, Scope,
};
use buttress::retry::{HttpRequest, RetryLayer, RetryPolicy};
use buttress::store::{AnyStore, FileStore, MemoryStore};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower::{Service, ServiceBuilder, ServiceExt};

/// The store that `--store` names. Those on servers are compiled in with their feature.
async fn open(store: &str) -> Result<AnyStore, BoxError> {
    let (kind, rest) = store.split_once(':').unwrap_or((store, ""));
    match kind {
        "memory" => Ok(AnyStore::new(MemoryStore::default())),
        "file" if !rest.is_empty() => Ok(AnyStore::new(FileStore::open(rest)?)),
        #[cfg(feature = "store-postgres")]
        "postgres" | "postgresql" => {
            let store = buttress::store::PostgresStore::builder(store.parse()?).build()?;
            // A real deployment does this once, not at each start.
            store.create_schema().await?;
            Ok(AnyStore::new(store))
        }
        #[cfg(feature = "store-redis")]
        "redis" => {
            let store =
                buttress::store::RedisStore::builder(redis::Client::open(store)?).build()?;
            store.check().await?;
            Ok(AnyStore::new(store))
        }
        #[cfg(not(feature = "store-postgres"))]
        "postgres" | "postgresql" => Err(not_compiled_in(kind, "store-postgres")),
        #[cfg(not(feature = "store-redis"))]
        "redis" => Err(not_compiled_in(kind, "store-redis")),
        // Not the whole: an address may hold a password.
        _ => {
            Err(format!("--store {kind}: expected memory, file:PATH, postgres://… or redis://…")
                .into())
        }
    }
}

#[cfg(not(all(feature = "store-postgres", feature = "store-redis")))]
fn not_compiled_in(kind: &str, feature: &str) -> BoxError {
    format!("--store {kind}: this program was compiled without the feature `{feature}`").into()
}

/// Stands for a bank. It takes a while.
#[derive(Clone, Default)]
struct Bank {
    transfers: Arc<AtomicU64>,
}

impl Bank {
    async fn transfer(&self, cents: u64, key: &str) -> Result<u64, &'static str> {
        if cents == 0 {
            return Err("nothing to transfer");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let number = self.transfers.fetch_add(1, Ordering::SeqCst) + 1;
        println!("bank: transfer {number} of {cents} cents, key {}…", &key[..8]);
        Ok(number)
    }
}

#[derive(Clone)]
struct Account(String);

/// Stands for real authentication: whose request it is must be known before the layer looks at its key.
async fn authenticate(mut request: Request, next: Next) -> Response {
    let account = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let account = Account(account.unwrap_or("nobody in particular").to_owned());
    request.extensions_mut().insert(account);
    next.run(request).await
}

async fn pay(
    State(bank): State<Bank>,
    Extension(effect): Extension<EffectContext>,
    Json(order): Json<serde_json::Value>,
) -> Response {
    let cents = order["cents"].as_u64().unwrap_or(0);
    // The bank gets a key, too, made of ours: were it to see a transfer twice, it would know.
    match bank.transfer(cents, &effect.derive_key("transfer")).await {
        Ok(number) => {
            let receipt = serde_json::json!({ "transfer": number, "cents": cents });
            (StatusCode::CREATED, Json(receipt)).into_response()
        }
        // Nothing was paid, so nothing needs to be recorded.
        Err(why) => (StatusCode::BAD_REQUEST, Extension(NotExecuted), why).into_response(),
    }
}

fn app(store: AnyStore, bank: Bank) -> Result<(Router, Detached), BoxError> {
    let gate = Idempotency::builder("payments", store)
        .scope(Scope::global())
        // A duplicate waits for the first for a while, and gets its answer.
        .in_flight(InFlight::Wait(Duration::from_secs(5)))
        .build()?;
    let layer = IdempotencyLayer::http(gate)
        .tenant(|request| Some(Scope::tenant(&request.extensions.get::<Account>()?.0)))
        .required()
        .build()?;
    let executions = layer.detached();
    let router = Router::new()
        .route("/payments", post(pay))
        .layer(layer)
        .layer(from_fn(authenticate))
        .route("/health", get(|| async { "ok\n" }))
        .with_state(bank);
    Ok((router, executions))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    if std::env::var_os("BUTTRESS_SMOKE").is_some_and(|value| value == "1") {
        return try_it().await;
    }
    let mut store = "file:payments.redb".to_owned();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match (arg.as_str(), arg.strip_prefix("--store=")) {
            (_, Some(named)) => named.clone_into(&mut store),
            ("--store", _) => store = args.next().ok_or("--store: expected a store after it")?,
            _ => return Err(format!("{arg:?}: the only option is --store").into()),
        }
    }
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    let (router, executions) = app(open(&store).await?, Bank::default())?;
    serve(listener, router, &executions, async { drop(tokio::signal::ctrl_c().await) }).await
}

async fn serve(
    listener: TcpListener,
    router: Router,
    executions: &Detached,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), BoxError> {
    axum::serve(listener, router).with_graceful_shutdown(stop).await?;
    // Payments whose clients have gone are still under way.
    Ok(tokio::time::timeout(Duration::from_secs(30), executions.idle()).await?)
}

/// One life of the server, as a process would live it.
struct Life {
    addr: SocketAddr,
    bank: Bank,
    executions: Detached,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), BoxError>>,
}

impl Life {
    async fn begin(store: &str) -> Result<Self, BoxError> {
        let bank = Bank::default();
        let (router, executions) = app(open(store).await?, bank.clone())?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let running = executions.clone();
        let server = tokio::spawn(async move {
            serve(listener, router, &running, async { drop(stopped.await) }).await
        });
        Ok(Self { addr, bank, executions, stop, server })
    }

    async fn end(self) -> Result<(), BoxError> {
        drop(self.stop);
        self.server.await?
    }
}

/// A payment, what can go wrong with it, and its duplicate after a restart.
async fn try_it() -> Result<(), BoxError> {
    let path = std::env::temp_dir().join(format!("buttress-payments-{}.redb", std::process::id()));
    let store = format!("file:{}", path.display());
    let life = Life::begin(&store).await?;
    let receipt = one_day(life.addr, &life.bank, &life.executions).await?;
    life.end().await?;

    let life = Life::begin(&store).await?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let again = client.request(with_key(payment(life.addr, 1000)?, KEY)).await?;
    let (status, same, replayed) = show("the first again, after a restart", again).await?;
    assert!((status, same, replayed) == (201, receipt, true));
    assert_eq!(life.bank.transfers.load(Ordering::SeqCst), 0, "nothing was paid in this life");
    drop(client);
    life.end().await?;
    Ok(std::fs::remove_file(path)?)
}

const KEY: &str = "8e03978e-40d5-43dd-bc93-6894a57f9324";

fn payment(addr: SocketAddr, cents: u64) -> Result<hyper::Request<Full<Bytes>>, BoxError> {
    Ok(hyper::Request::post(format!("http://{addr}/payments"))
        .header("content-type", "application/json")
        .header("authorization", "account-7")
        .body(Full::from(format!(r#"{{"cents":{cents}}}"#)))?)
}

fn with_key(
    mut request: hyper::Request<Full<Bytes>>,
    key: &'static str,
) -> hyper::Request<Full<Bytes>> {
    let value = hyper::header::HeaderValue::from_static(key);
    request.headers_mut().insert("idempotency-key", value);
    request
}

/// Prints an answer as `curl -i` would, and gives its status and body.
async fn show(
    what: &str,
    response: hyper::Response<Incoming>,
) -> Result<(u16, String, bool), BoxError> {
    let (parts, body) = response.into_parts();
    let body = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
    println!("\n{what}: {}", parts.status);
    for (name, value) in &parts.headers {
        if name.as_str().starts_with("idempotency") || name == "retry-after" {
            println!("  {name}: {}", value.to_str()?);
        }
    }
    println!("  {body}");
    let replayed = parts.headers.contains_key("idempotency-replayed");
    Ok((parts.status.as_u16(), body, replayed))
}

/// A payment, its duplicate, a mistake, a client that hangs up, and a client that need not think of it.
/// Returns the receipt of the first.
async fn one_day(addr: SocketAddr, bank: &Bank, executions: &Detached) -> Result<String, BoxError> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();

    let first = client.request(with_key(payment(addr, 1000)?, KEY)).await?;
    let (status, receipt, _) = show("first", first).await?;
    assert_eq!(status, 201);
    let second = client.request(with_key(payment(addr, 1000)?, KEY)).await?;
    let (status, same, replayed) = show("the same again", second).await?;
    assert!((status, &same, replayed) == (201, &receipt, true));
    let other = client.request(with_key(payment(addr, 9900)?, KEY)).await?;
    assert_eq!(show("another payment with the same key", other).await?.0, 422);
    let keyless = client.request(payment(addr, 1000)?).await?;
    assert_eq!(show("without a key", keyless).await?.0, 400);
    assert_eq!(bank.transfers.load(Ordering::SeqCst), 1);

    // Sends its payment and hangs up. The transfer is made all the same, and on record.
    let mut stream = TcpStream::connect(addr).await?;
    let request = "POST /payments HTTP/1.1\r\nhost: localhost\r\nauthorization: account-7\r\n\
                   content-type: application/json\r\ncontent-length: 13\r\n\
                   idempotency-key: the-key-of-an-impatient-client\r\n\r\n{\"cents\":500}";
    stream.write_all(request.as_bytes()).await?;
    while executions.count() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(stream);
    tokio::time::timeout(Duration::from_secs(10), executions.idle()).await?;
    let again = with_key(payment(addr, 500)?, "the-key-of-an-impatient-client");
    let (status, _, replayed) = show("after hanging up", client.request(again).await?).await?;
    assert!((status, replayed) == (201, true));
    assert_eq!(bank.transfers.load(Ordering::SeqCst), 2);

    // Makes a key for each call, keeps it over the attempts, and may therefore try again.
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut thoughtful = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(replay_up_to(64 * 1024))
        .layer(
            RetryLayer::new(RetryPolicy::default()).classify(standard()).replay(HttpRequest::new()),
        )
        .service(client);
    let answer = thoughtful.ready().await?.call(payment(addr, 250)?).await?;
    assert_eq!(show("by a client that makes its keys", answer).await?.0, 201);
    assert_eq!(bank.transfers.load(Ordering::SeqCst), 3);
    Ok(receipt)
}
