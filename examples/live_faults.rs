//! Faults that come and go while a server runs: `cargo run --example live_faults --features serde`.
//!
//! The stack has two slots that nothing is in: that costs a request two relaxed loads. An admin route takes
//! documents of commands and fills or empties them. A real one would ask for a token first.

#![allow(clippy::disallowed_methods, reason = "an application spawns its tasks")]

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use buttress::BoxError;
use buttress::conditioner::ConditionerLayer;
use buttress::control::{Registry, execute};
use buttress::failure_budget::FailureBudgetLayer;
use buttress::http::{problem, standard};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

fn app(registry: &Registry) -> Router {
    let guarded = ServiceBuilder::new()
        .layer(
            FailureBudgetLayer::from_slot(registry.failure_budget("api"))
                .classify(standard())
                .on_reject(problem()),
        )
        .layer(
            ConditionerLayer::from_slot(registry.conditioner("api")).http().on_reject(problem()),
        );
    let admin = Router::new().route("/admin/commands", post(commands)).with_state(registry.clone());
    Router::new().route("/", get(|| async { "fine\n" })).layer(guarded).merge(admin)
}

async fn commands(
    State(registry): State<Registry>,
    Json(document): Json<Value>,
) -> Result<Json<Value>, (StatusCode, String)> {
    match execute(&registry, &document) {
        Ok(executed) => Ok(Json(json!(executed))),
        Err(error) => Err((StatusCode::BAD_REQUEST, error.to_string())),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let caller = Caller { url: format!("http://{}", listener.local_addr()?) };
    tokio::spawn(axum::serve(listener, app(&Registry::new())).into_future());

    println!("as it is: {:?}", caller.ask(40).await?);

    let document = json!([
        ["LD_install_failure_budget", {"threshold": 0.5, "min_samples": 20}],
        ["LD_install_network_conditioner", {"loss_rate": 1.0, "latency": 5}],
        ["LD_install_network_conditioner", {"loss_rate": 1.0}],
    ]);
    println!("\n{document:#}\n\n{:#}\n", caller.command(&document).await?);
    let hit = caller.ask(40).await?;
    println!("with both in: {hit:?}");
    assert!(hit.refused > 0, "the budget acts");

    let document = json!({"load_density": [
        ["LD_uninstall_network_conditioner"],
        ["LD_uninstall_failure_budget"],
    ]});
    caller.command(&document).await?;
    let after = caller.ask(40).await?;
    println!("with both out: {after:?}");
    assert_eq!(after.fine, 40);
    Ok(())
}

#[derive(Debug, Default)]
struct Answers {
    fine: u32,
    lost: u32,
    refused: u32,
}

struct Caller {
    url: String,
}

impl Caller {
    async fn ask(&self, times: u32) -> Result<Answers, BoxError> {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let mut answers = Answers::default();
        for _ in 0..times {
            let response = client.get(self.url.parse()?).await?;
            let body = response.collect().await?.to_bytes();
            let kind = serde_json::from_slice::<Value>(&body).unwrap_or_default();
            match kind["kind"].as_str() {
                Some("injected") => answers.lost += 1,
                Some(_) => answers.refused += 1,
                None => answers.fine += 1,
            }
        }
        Ok(answers)
    }

    async fn command(&self, document: &Value) -> Result<Value, BoxError> {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let request = Request::post(format!("{}/admin/commands", self.url))
            .header("content-type", "application/json")
            .body(Full::from(document.to_string()))?;
        let response = client.request(request).await?;
        Ok(serde_json::from_slice(&response.collect().await?.to_bytes())?)
    }
}
