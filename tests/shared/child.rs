//! The process that serves: this binary, told by the environment what to be and where to stand still.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use buttress::idempotency::{Idempotency, IdempotencyLayer, InFlight};
use buttress::store::{
    AnyStore, Attempt, Begun, Claim, Finish, Outcome, Record, RecordId, Renewed, Resolution, Store,
    StoreError,
};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

use super::{Place, Scratch};

const TOLD: &str = "BUTTRESS_SERVER";

/// What the child tells begins with this, to tell it from what the test harness prints.
const MARK: char = '@';

/// What a server is told.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    place: Place,
    effects: PathBuf,
    step: String,
    lease: Duration,
    /// How long it waits for a call in flight; not at all if zero.
    wait: Duration,
    /// How long the effect takes.
    takes: Duration,
    env: Vec<(String, String)>,
}

impl Orders {
    pub(super) fn new(place: &Place, scratch: &Scratch) -> Self {
        Self {
            place: place.clone(),
            effects: scratch.0.join("effects"),
            step: "none".to_owned(),
            lease: Duration::from_secs(30),
            wait: Duration::ZERO,
            takes: Duration::from_millis(5),
            env: vec![],
        }
    }

    pub(super) fn stop_at(&self, step: &str) -> Self {
        Self { step: step.to_owned(), ..self.clone() }
    }

    pub(super) fn lease(&self, lease: Duration) -> Self {
        Self { lease, ..self.clone() }
    }

    pub(super) fn wait(&self, wait: Duration) -> Self {
        Self { wait, ..self.clone() }
    }

    pub(super) fn takes(&self, takes: Duration) -> Self {
        Self { takes, ..self.clone() }
    }

    #[cfg(target_os = "linux")]
    pub(super) fn env(&self, env: Vec<(String, String)>) -> Self {
        Self { env, ..self.clone() }
    }

    fn words(&self) -> String {
        let millis = [self.lease, self.wait, self.takes].map(|time| time.as_millis().to_string());
        let words = [&self.place.0, self.effects.to_str().unwrap(), &self.step];
        words.into_iter().chain(millis.iter().map(|time| &**time)).collect::<Vec<_>>().join("\n")
    }

    fn read(words: &str) -> Self {
        let words: Vec<_> = words.split('\n').collect();
        let millis = |index: usize| Duration::from_millis(words[index].parse().unwrap());
        Self {
            place: Place(words[0].to_owned()),
            effects: words[1].into(),
            step: words[2].to_owned(),
            lease: millis(3),
            wait: millis(4),
            takes: millis(5),
            env: vec![],
        }
    }

    /// Starts a server and waits until it serves.
    pub(super) async fn serve(&self) -> Server {
        let mut process = self.start();
        let said = process.hear().await.expect("it ended before it served");
        let port = said.strip_prefix("port ").unwrap_or_else(|| panic!("{said}"));
        let port = port.parse().unwrap();
        Server { process, port }
    }

    pub(super) fn start(&self) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::be_a_server", "--nocapture", "--test-threads=1"])
            .env(TOLD, self.words())
            .envs(self.env.iter().cloned())
            // It ends when this ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        Process { child, out }
    }
}

pub(super) struct Process {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// The next thing it says, or `None` if it has ended.
    pub(super) async fn hear(&mut self) -> Option<String> {
        while let Ok(Some(line)) = self.out.next_line().await {
            if let Some(said) = line.strip_prefix(MARK) {
                return Some(said.to_owned());
            }
        }
        None
    }
}

/// A process that serves.
pub(super) struct Server {
    process: Process,
    pub(super) port: u16,
}

impl Server {
    pub(super) async fn wait_for(&mut self, what: &str) {
        loop {
            let said = self.process.hear().await;
            if said.unwrap_or_else(|| panic!("it ended before {what}")) == what {
                return;
            }
        }
    }

    /// With SIGKILL.
    pub(super) async fn kill(mut self) {
        self.process.child.kill().await.unwrap();
    }
}

fn say(what: &str) {
    // One write, so that a kill does not leave half of it.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{MARK}{what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Waits to be killed.
async fn stop(at: &str) {
    say(at);
    std::future::pending().await
}

/// Not a test but what the tests start, unless nobody has.
#[test]
fn be_a_server() {
    let Ok(words) = std::env::var(TOLD) else { return };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut vec![]);
        std::process::exit(0);
    });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(live(Orders::read(&words)));
}

async fn live(orders: Orders) {
    let store = match orders.place.open() {
        Ok(store) => store,
        Err(error) => return say(&format!("{:?} {error}", error.kind())),
    };
    // So that an operation is an operation, and no connecting.
    store.get(&RecordId::of(b"", b"")).await.unwrap();
    let store = Stops { store, step: orders.step.clone() };
    let in_flight =
        if orders.wait.is_zero() { InFlight::Reject } else { InFlight::Wait(orders.wait) };
    let gate = Idempotency::builder("payments", store)
        .scope(buttress::idempotency::Scope::global())
        .lease(orders.lease)
        .in_flight(in_flight)
        .store_timeout(orders.lease.min(Duration::from_secs(10)))
        .build()
        .unwrap();
    let layer =
        IdempotencyLayer::http(gate).single_tenant().required().key_length(1..=64).build().unwrap();
    let orders = Arc::new(orders);
    let handler = move |headers: HeaderMap, body: String| pay(Arc::clone(&orders), headers, body);
    let router = Router::new().route("/payments", post(handler)).layer(layer);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    say(&format!("port {}", listener.local_addr().unwrap().port()));
    axum::serve(listener, router).await.unwrap();
}

/// The effect is a line in a file, written at once. No two answers are the same.
async fn pay(orders: Arc<Orders>, headers: HeaderMap, body: String) -> Response {
    if orders.step == "handler" {
        stop("handler").await;
    }
    tokio::time::sleep(orders.takes).await;
    let key = headers["idempotency-key"].to_str().unwrap();
    let log = OpenOptions::new().append(true).create(true).open(&orders.effects);
    log.unwrap().write_all(format!("{key}\n").as_bytes()).unwrap();
    if matches!(&*orders.step, "effect" | "renewing") {
        stop("effect").await;
    }
    let mut receipt = format!("{body} for {key}: {:?} ", Attempt::new().as_bytes()).into_bytes();
    receipt.extend(0..=255);
    let location = format!("/payments/{:?}", Attempt::new()).replace(' ', "");
    let head = [("content-type", "application/x-receipt"), ("location", &*location)];
    (StatusCode::CREATED, head, receipt).into_response()
}

/// A store that tells where it is, and stands still at one step.
struct Stops {
    store: AnyStore,
    step: String,
}

impl Stops {
    async fn at(&self, step: &str) {
        if self.step == step {
            stop(step).await;
        }
    }

    /// Goes on after a moment, in which the other process may have heard of it and acted.
    fn tell(&self, step: &str) {
        if self.step == step {
            say(step);
            let since = Instant::now();
            let moment = Duration::from_micros(rand::random_range(0..1_500));
            while since.elapsed() < moment {
                std::hint::spin_loop();
            }
        }
    }
}

impl Store for Stops {
    async fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        self.at("before begin").await;
        self.tell("beginning");
        let begun = self.store.begin(id, claim).await;
        self.at("begun").await;
        begun
    }

    async fn renew(
        &self,
        id: &RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> Result<Renewed, StoreError> {
        self.tell("renewing");
        loop {
            let renewed = self.store.renew(id, attempt, lease, retention).await;
            // So that it is killed while it renews.
            if self.step != "renewing" {
                return renewed;
            }
            assert_eq!(renewed.unwrap(), Renewed::Held);
        }
    }

    async fn complete(
        &self,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Arc<Outcome>,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.tell("completing");
        let finish = self.store.complete(id, attempt, outcome, retention).await;
        self.at("completed").await;
        finish
    }

    async fn release(&self, id: &RecordId, attempt: Attempt) -> Result<Finish, StoreError> {
        self.store.release(id, attempt).await
    }

    async fn interrupt(
        &self,
        id: &RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        self.store.interrupt(id, attempt, retention).await
    }

    async fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> Result<Finish, StoreError> {
        self.store.resolve(id, generation, resolution).await
    }

    async fn get(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.store.get(id).await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.store.purge(limit).await
    }

    fn abandon(&self, id: &RecordId, attempt: Attempt) {
        self.store.abandon(id, attempt);
    }

    async fn changed(&self, id: &RecordId, generation: u64) {
        self.store.changed(id, generation).await;
    }
}
