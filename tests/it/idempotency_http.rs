//! The layer around HTTP services: keys, answers, policies, real connections, gRPC, the client's half.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::routing::any;
use buttress::idempotency::{HttpIdempotencyBuilder, Idempotency, IdempotencyLayer, Scope};
use buttress::store::{
    AnyStore, Attempt, Begun, Claim, Finish, MemoryStore, Outcome, Record, RecordId, Renewed,
    Resolution, Store, StoreError, StoreErrorKind,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use tower::{Service, ServiceExt};

mod answers;
mod client;
mod detached;
mod grpc;
mod keys;
mod outage;
mod secrets;

const KEY: &str = "8e03978e-40d5-43dd-bc93-6894a57f9324";
const SECOND: Duration = Duration::from_secs(1);

fn gate() -> Idempotency<MemoryStore> {
    Idempotency::new("payments", MemoryStore::default(), Scope::global())
}

fn builder() -> HttpIdempotencyBuilder<MemoryStore> {
    IdempotencyLayer::http(gate()).single_tenant()
}

fn post(key: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post("/payments").header("host", "localhost");
    request.header("idempotency-key", key).body(body.into()).unwrap()
}

/// How often a handler ran.
#[derive(Clone, Default)]
struct Runs(Arc<AtomicU32>);

impl Runs {
    fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Answers with the number of its run and the body it got.
fn echo(runs: &Runs) -> Router {
    let runs = runs.clone();
    Router::new().fallback(any(move |body: Bytes| {
        let run = runs.next();
        async move { format!("run {run}: {}", String::from_utf8_lossy(&body)) }
    }))
}

/// An answer, read whole.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Answer {
    async fn of<B>(response: Response<B>) -> Self
    where
        B: http_body::Body,
        B::Error: std::fmt::Debug,
    {
        let (parts, body) = response.into_parts();
        let collected = body.collect().await.unwrap();
        let trailers = collected.trailers().cloned();
        let (status, headers) = (parts.status, parts.headers);
        Self { status, headers, body: collected.to_bytes(), trailers }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }

    fn is_replayed(&self) -> bool {
        self.header("idempotency-replayed") == Some("true")
    }

    /// What a problem document says of the kind.
    fn kind(&self) -> Option<&str> {
        let (_, rest) = self.text().split_once(r#""kind":""#)?;
        Some(rest.split_once('"')?.0)
    }
}

async fn send<S, B>(service: &S, request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body,
    B::Error: std::fmt::Debug,
{
    let Ok(response) = service.clone().oneshot(request).await;
    Answer::of(response).await
}

/// A store that fails as it is told.
#[derive(Clone)]
struct Faulty {
    inner: MemoryStore,
    begin: Arc<std::sync::Mutex<Option<StoreErrorKind>>>,
    complete: Arc<std::sync::Mutex<Option<StoreErrorKind>>>,
    /// Everything that the store was given, as bytes.
    seen: Arc<std::sync::Mutex<Vec<u8>>>,
    completions: Runs,
}

impl Faulty {
    fn new() -> Self {
        Self {
            inner: MemoryStore::default(),
            begin: Arc::default(),
            complete: Arc::default(),
            seen: Arc::default(),
            completions: Runs::default(),
        }
    }

    fn gate(&self) -> Idempotency<Self> {
        Idempotency::new("payments", self.clone(), Scope::global())
    }

    fn fail_begin(&self, kind: Option<StoreErrorKind>) {
        *self.begin.lock().unwrap() = kind;
    }

    fn fail_complete(&self, kind: Option<StoreErrorKind>) {
        *self.complete.lock().unwrap() = kind;
    }

    fn see(&self, bytes: &[u8]) {
        self.seen.lock().unwrap().extend_from_slice(bytes);
    }
}

impl Store for Faulty {
    async fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        self.see(id.as_bytes());
        self.see(claim.fingerprint.as_bytes());
        let fault = *self.begin.lock().unwrap();
        match fault {
            Some(kind) => Err(kind.into()),
            None => self.inner.begin(id, claim).await,
        }
    }

    async fn renew(
        &self,
        id: &RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> Result<Renewed, StoreError> {
        self.inner.renew(id, attempt, lease, retention).await
    }

    async fn complete(
        &self,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Arc<Outcome>,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.see(outcome.head());
        self.see(outcome.body().unwrap_or_default());
        self.completions.next();
        let fault = *self.complete.lock().unwrap();
        match fault {
            Some(kind) => Err(kind.into()),
            None => self.inner.complete(id, attempt, outcome, retention).await,
        }
    }

    async fn release(&self, id: &RecordId, attempt: Attempt) -> Result<Finish, StoreError> {
        self.inner.release(id, attempt).await
    }

    async fn interrupt(
        &self,
        id: &RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.inner.interrupt(id, attempt, retention).await
    }

    async fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> Result<Finish, StoreError> {
        self.inner.resolve(id, generation, resolution).await
    }

    async fn get(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.inner.get(id).await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.inner.purge(limit).await
    }
}

#[tokio::test]
async fn it_works_with_a_store_chosen_at_run_time() {
    let runs = Runs::default();
    let store = AnyStore::new(MemoryStore::default());
    let gate = Idempotency::new("payments", store, Scope::global());
    let app =
        echo(&runs).layer(IdempotencyLayer::http(gate).single_tenant().required().build().unwrap());
    assert_eq!(send(&app, post(KEY, "a")).await.text(), "run 1: a");
    assert!(send(&app, post(KEY, "a")).await.is_replayed());
}
