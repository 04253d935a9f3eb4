//! What serves the page: a process of its own as far as its connections go, for they all end with it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use data_encoding::BASE64;
use futures_util::stream;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const TOKEN: &str = "a-token-of-32-characters-or-more";
pub const PAGE: &str = include_str!("../../src/admin/page.html");

/// The text between two marks, of which there is one each.
pub fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let mut parts = text.split(from);
    let inner = parts.nth(1).unwrap().split(to).next().unwrap();
    assert!(parts.next().is_none(), "more than one {from}");
    inner
}

fn policy() -> String {
    let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(&Sha256::digest(text)));
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        hash(between(PAGE, "<script>", "</script>")),
        hash(between(PAGE, "<style>", "</style>")),
    )
}

#[derive(Default)]
pub struct Model {
    pub instance: String,
    pub forced: bool,
    pub failing: bool,
    pub events: Vec<Value>,
    pub extra: usize,
    ticks: u64,
    rejected: u64,
    failed: u64,
    ok: u64,
    spark: Vec<[u64; 3]>,
}

type Shared = Arc<Mutex<Model>>;

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

impl Model {
    fn open(&self) -> bool {
        self.forced || self.failing
    }

    pub fn event(&mut self, severity: &str, event: &str, detail: &str) {
        let seq = self.events.len() + 1;
        self.events.push(json!({"seq": seq, "at_ms": now_ms(), "severity": severity,
            "layer": "circuit_breaker", "name": "payments", "event": event, "detail": detail}));
    }

    fn tick(&mut self) {
        self.ticks += 1;
        let wave = 80 + (self.ticks * 7) % 23;
        let one = match (self.forced, self.failing) {
            (true, _) => [0, 0, wave],
            (_, true) => [wave / 8, wave / 2, wave / 3],
            _ => [wave, 0, 0],
        };
        self.ok += one[0];
        self.failed += one[1];
        self.rejected += one[2];
        self.spark.push(one);
        let keep = self.spark.len().saturating_sub(60);
        self.spark.drain(..keep);
    }

    fn spark(&self, scale: u64) -> Value {
        let of = |which: usize| -> Vec<Value> {
            let missing = std::iter::repeat_n(Value::Null, 60 - self.spark.len());
            missing.chain(self.spark.iter().map(|one| json!(one[which] / scale))).collect()
        };
        json!({"step_s": 2, "ok": of(0), "failed": of(1), "rejected": of(2)})
    }

    fn status(&self) -> Value {
        let (level, state, why) = match (self.forced, self.failing) {
            (true, _) => ("bad", "forced_open", "forced open by a command".to_owned()),
            (_, true) => ("bad", "open", "61 % of 100 calls failed, threshold 50 %".to_owned()),
            _ => ("ok", "closed", "0 % of 100 calls failed".to_owned()),
        };
        let open = self.open();
        let rate = if self.failing { 0.61 } else { 0.0 };
        let mut objects = vec![
            json!({"id": "circuit_breaker/payments", "kind": "circuit_breaker", "name": "payments",
                "level": level, "state": state, "why": why, "since_s": self.ticks as f64 / 5.0,
                "next": if open { json!({"what": "probe", "in_s": 4.2}) } else { Value::Null },
                "gauges": [
                    {"id": "window_fill", "label": "window", "value": 100.0, "max": 100.0, "threshold": null, "unit": "calls"},
                    {"id": "failure_rate", "label": "failures", "value": rate, "max": 1.0, "threshold": 0.5, "unit": "ratio"}],
                "counters": [{"id": "calls", "value": self.ok + self.failed}, {"id": "trips", "value": u8::from(open)}],
                "rejects": [{"reason": "circuit_open", "value": self.rejected}],
                "facts": [{"label": "open for", "value": "5 s, doubling to 60 s"}],
                "commands": ["force_open", "force_closed", "reset"], "spark": self.spark(1)}),
            json!({"id": "conditioner/ledger", "kind": "conditioner", "name": "ledger", "level": "warn", "state": "active",
                "why": "50 ms latency on 10 % of calls", "since_s": 312.0, "next": null,
                "gauges": [{"id": "active", "label": "held up", "value": 3.0, "max": 20.0, "threshold": null, "unit": "calls"}],
                "counters": [{"id": "injected", "value": 941}], "rejects": [], "facts": [], "commands": ["disarm"], "spark": null}),
            json!({"id": "failure_budget/api", "kind": "failure_budget", "name": "api", "level": "ok", "state": "intact",
                "why": "0.02 % failed in 24 h", "since_s": 86400.0, "next": null,
                "gauges": [{"id": "remaining", "label": "remaining", "value": 0.78, "max": 1.0, "threshold": null, "unit": "ratio"},
                    {"id": "burn", "label": "burn", "value": 0.4, "max": null, "threshold": 14.4, "unit": ""},
                    {"id": "exhaustion", "label": "exhausted in", "value": 168_000.0, "max": null, "threshold": null, "unit": "s"}],
                "counters": [], "rejects": [], "facts": [], "commands": [], "spark": self.spark(2)}),
            json!({"id": "heartbeat/worker", "kind": "heartbeat", "name": "worker", "level": "ok", "state": "beating",
                "why": "last beat 1 s ago", "since_s": null, "next": null, "gauges": [], "counters": [], "rejects": [],
                "facts": [{"label": "file", "value": "/run/orders/worker.beat"}], "commands": [], "spark": null}),
            json!({"id": "idempotency/orders", "kind": "idempotency", "name": "orders", "level": "ok", "state": "serving",
                "why": "", "since_s": 7200.0, "next": null,
                "gauges": [{"id": "pending", "label": "in flight", "value": 2.0, "max": 10_000.0, "threshold": null, "unit": "keys"}],
                "counters": [{"id": "hits", "value": 1201}, {"id": "takeovers", "value": 1}],
                "rejects": [{"reason": "conflict", "value": 17}], "facts": [], "commands": [], "spark": self.spark(5)}),
            json!({"id": "rate_limit/tenants", "kind": "rate_limit", "name": "tenants", "level": "ok", "state": "limiting",
                "why": "<b>100/s</b> burst 20, per key", "since_s": 7200.0, "next": null,
                "gauges": [{"id": "level", "label": "used", "value": 12.0, "max": 20.0, "threshold": null, "unit": "permits"}],
                "counters": [{"id": "allowed", "value": 88_123}],
                "rejects": [{"reason": "rate_limited", "value": 312}, {"reason": "waiting_room_full", "value": 4}],
                "facts": [], "commands": ["set_quota"], "spark": self.spark(1)}),
        ];
        objects.extend((0..self.extra).map(|n| {
            json!({"id": format!("timeout/shard-{n:04}"), "kind": "timeout", "name": format!("shard-{n:04}"), "level": "ok",
                "state": "on", "why": format!("p99 {} ms of 250 ms", (self.ticks * 13 + n as u64) % 250), "since_s": 12.0, "next": null,
                "gauges": [{"id": "p99", "label": "p99", "value": ((self.ticks * 13 + n as u64) % 250) as f64 / 1000.0, "max": 0.25,
                    "threshold": 0.25, "unit": "s"}],
                "counters": [{"id": "calls", "value": self.ok}], "rejects": [], "facts": [], "commands": ["reset"], "spark": self.spark(1)})
        }));
        let (verdict, text) =
            if open { ("bad", "1 breaker open") } else { ("warn", "faults are injected") };
        json!({"service": "orders", "instance": self.instance, "now_ms": now_ms(), "uptime_s": self.ticks as f64 / 5.0,
            "generation": 3, "omitted": 0,
            "verdict": {"level": verdict, "text": text, "causes": [if open { "circuit_breaker/payments" } else { "conditioner/ledger" }]},
            "process": {"phase": "ready", "since_s": 40.0, "status": null},
            "objects": objects, "events": self.events,
            "lint": [{"severity": "warning", "rule": "attempt_timeout_exceeds_total", "text": "2 attempts of 3 s do not fit into 5 s",
                "objects": ["circuit_breaker/payments"]}]})
    }
}

/// A service that runs until it is dropped, with every connection it has.
pub struct Service {
    pub at: SocketAddr,
    pub model: Shared,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Service {
    /// On a port that is free, or on that of a service that was there before.
    pub fn start(instance: &str, port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let model =
            Shared::new(Mutex::new(Model { instance: instance.into(), ..Model::default() }));
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let at = listener.local_addr().unwrap();
        let _guard = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let admin = Router::new()
            .route("/", get(page))
            .route("/status.json", get(status))
            .route("/events", get(events))
            .route("/commands", post(commands))
            .route(
                "/config",
                get(async || {
                    ([(header::CONTENT_TYPE, "text/plain")], "payments:\n  max_failures: 5\n")
                }),
            )
            .route("/metrics", get(async || "# EOF\n"))
            .with_state(model.clone());
        let app = Router::new().nest("/ops/admin", admin.clone()).route("/ops/admin/", get(page));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { at, model, runtime: Some(runtime) }
    }

    pub fn url(&self) -> String {
        format!("http://{}/ops/admin", self.at)
    }
}

async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    (headers, PAGE).into_response()
}

async fn status(State(model): State<Shared>) -> axum::Json<Value> {
    axum::Json(model.lock().unwrap().status())
}

async fn events(State(model): State<Shared>) -> Response {
    let stream = stream::unfold(model, |model| async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let text = {
            let mut model = model.lock().unwrap();
            model.tick();
            let mut text = format!("event: status\ndata: {}\n\n", model.status());
            if let Some(event) = model.events.last() {
                text = format!("event: event\ndata: {event}\n\n{text}");
            }
            text
        };
        Some((Ok::<_, std::convert::Infallible>(text), model))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], axum::body::Body::from_stream(stream))
        .into_response()
}

async fn commands(State(model): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let token = headers.get(header::AUTHORIZATION).and_then(|token| token.to_str().ok());
    if token != Some(&format!("Bearer {TOKEN}")) {
        return (StatusCode::UNAUTHORIZED, r#"{"title":"wrong token","status":401}"#)
            .into_response();
    }
    let command: Value = serde_json::from_str(&body).unwrap();
    let mut model = model.lock().unwrap();
    match (command["command"].as_str(), command["target"].as_str()) {
        (Some("force_open"), Some("circuit_breaker/payments")) => {
            model.forced = true;
            model.event("warning", "forced_open", "by a command");
        }
        (Some("reset"), Some("circuit_breaker/payments")) => {
            model.forced = false;
            model.event("info", "reset", "by a command");
        }
        _ => {
            return axum::Json(json!([{"action": command, "error": "no such object"}]))
                .into_response();
        }
    }
    axum::Json(json!([{"action": command, "result": null}])).into_response()
}
