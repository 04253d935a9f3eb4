//! One object of every kind, each with something to tell, as the status, the page and `/metrics` show them.

use std::collections::BTreeSet;
use std::time::Duration;

use buttress::admin::{Admin, AdminBody};
use http_body_util::BodyExt;
use hyper::{Request, Response};
use serde_json::json;
use tower::ServiceExt;

use super::{Registry, TOKEN, Value};
use crate::grammar::parse;
use crate::kinds::{KINDS, everything, pausing};

fn admin(registry: &Registry) -> Admin {
    Admin::builder(registry).token(TOKEN).interval(Duration::from_millis(100)).build().unwrap()
}

async fn ask(admin: &Admin, request: Request<String>) -> Response<AdminBody> {
    admin.clone().oneshot(request).await.unwrap()
}

async fn get(admin: &Admin, path: &str, accept: &str) -> String {
    let request = Request::get(path).header("accept", accept).body(String::new()).unwrap();
    let bytes = ask(admin, request).await.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn status(admin: &Admin) -> Value {
    serde_json::from_str(&get(admin, "/status.json", "*/*").await).unwrap()
}

/// What the page's script reads of `receiver`.
fn read<'a>(page: &'a str, receiver: &str) -> BTreeSet<&'a str> {
    let mut fields = BTreeSet::new();
    for dot in [".", "?."] {
        let start = format!("{receiver}{dot}");
        for (at, _) in page.match_indices(&start) {
            let before = page[..at].chars().next_back().unwrap_or(' ');
            let field = &page[at + start.len()..];
            let end = field.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap();
            if !before.is_alphanumeric() && !"_.'$".contains(before) && end > 0 {
                fields.insert(&field[..end]);
            }
        }
    }
    fields
}

#[tokio::test]
async fn a_backend_below_one_in_flight_says_so() {
    let registry = Registry::new();
    let _kept = pausing(&registry, "late").await;
    let status = status(&admin(&registry)).await;
    let row = &status["objects"][0];
    assert_eq!((&row["id"], &row["state"]), (&json!("backend/late"), &json!("congested")));
    let why = row["why"].as_str().unwrap();
    assert!(why.contains(" % are given up at their deadline, limit 1, then a pause"), "{why}");
    let pause = json!({"label": "pause between calls", "value": "yes"});
    assert!(row["facts"].as_array().unwrap().contains(&pause), "{row:#}");
    assert_eq!(status["verdict"]["causes"], json!(["backend/late"]));
}

#[tokio::test]
async fn every_kind_has_a_row_that_says_what_the_page_reads() {
    let registry = Registry::new();
    let _kept = everything(&registry, "db").await;
    let admin = admin(&registry);
    // What does not know since when it is so is dated by the second look.
    status(&admin).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let status = status(&admin).await;
    let page = get(&admin, "/", "*/*").await;
    let objects = status["objects"].as_array().unwrap();
    let kinds: BTreeSet<_> = objects.iter().map(|o| o["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, KINDS.into());
    let of = |id: &str| {
        objects.iter().find(|o| o["id"] == id).unwrap_or_else(|| panic!("no {id} in {status:#}"))
    };
    for object in objects {
        for field in
            read(&page, "o").into_iter().filter(|field| !["all", "own", "spark"].contains(field))
        {
            assert!(object.get(field).is_some(), "{} has no {field}", object["id"]);
        }
        for gauge in object["gauges"].as_array().unwrap() {
            for field in read(&page, "g") {
                assert!(gauge.get(field).is_some(), "{}: {gauge} has no {field}", object["id"]);
            }
        }
        assert!(object["since_s"].is_number(), "since when: {object:#}");
        assert!(!object["state"].as_str().unwrap().is_empty(), "{object:#}");
        let reason = !object["why"].as_str().unwrap().is_empty();
        assert!(reason || object["level"] == "ok", "not well, and does not say why: {object:#}");
    }
    for field in read(&page, "doc") {
        assert!(status.get(field).is_some(), "the document has no {field}");
    }
    assert_eq!(status["process"]["phase"], "starting");
    let gauge = |object: &str, id: &str| {
        let gauges = of(object)["gauges"].as_array().unwrap();
        let found = gauges.iter().find(|gauge| gauge["id"] == id);
        found.unwrap_or_else(|| panic!("{object} has no {id}"))["value"].clone()
    };
    let counter = |object: &str, id: &str| {
        let counters = of(object)["counters"].as_array().unwrap();
        counters.iter().find(|counter| counter["id"] == id).unwrap()["value"].clone()
    };
    let rejects = |object: &str| of(object)["rejects"].as_array().unwrap().clone();

    // Budgets: what is left, how fast it burns, until when it lasts; and the one that is spent, with why.
    let remaining = gauge("failure_budget/db", "budget_remaining").as_f64().unwrap();
    assert!((remaining - 0.5).abs() < 1e-9, "{remaining}");
    let burn = gauge("failure_budget/db", "burn_rate").as_f64().unwrap();
    assert!((burn - 0.5).abs() < 1e-9, "{burn}");
    assert!(of("failure_budget/db")["gauges"].to_string().contains("time_to_exhaustion"));
    assert_eq!(of("failure_budget/db#2")["state"], "breached");
    assert!(
        of("failure_budget/db#2")["why"]
            .as_str()
            .unwrap()
            .starts_with("failure_rate 1.0000 above 0.1"),
        "{status:#}"
    );
    // Faults, with the switch that ends them.
    assert_eq!(
        (of("conditioner/db")["state"].as_str(), of("conditioner/db")["level"].as_str()),
        (Some("injecting"), Some("warn"))
    );
    assert_eq!(of("conditioner/db")["commands"], serde_json::json!(["disarm", "enable"]));
    assert_eq!([counter("idempotency/db", "hits"), counter("idempotency/db", "conflicts")], [1, 1]);
    assert_eq!(of("circuit_breaker/db")["next"]["what"], "probe");
    // The backend is down, says why and when it is probed; the retries that it pays for say so.
    let backend = of("backend/db");
    assert_eq!((backend["state"].as_str(), backend["level"].as_str()), (Some("down"), Some("bad")));
    assert_eq!(backend["why"], "12 failures in a row");
    assert_eq!(backend["next"]["what"], "probe");
    assert_eq!(
        (gauge("backend/db", "in_flight"), counter("backend/db", "downs")),
        (0.0.into(), 1.into())
    );
    assert_eq!(of("backend/db#2")["facts"][0]["value"], "fixed");
    assert!(objects.iter().any(|object| {
        let why = object["why"].as_str().unwrap();
        object["kind"] == "retry_budget" && why.starts_with("paid from the headroom of backend/db")
    }));
    assert_eq!(rejects("endpoints/db"), [serde_json::json!({"reason": "overloaded", "value": 1})]);
    let sheds = of("throttle/db");
    assert_eq!(
        (sheds["state"].as_str(), sheds["level"].as_str()),
        (Some("shedding"), Some("warn"))
    );
    assert_eq!(sheds["why"], "only 0 of the last 40 calls were taken");
    let [sent, failed] = ["sent", "failed"].map(|id| counter("throttle/db", id).as_u64().unwrap());
    assert!((10..40).contains(&sent) && failed == sent, "{sheds:#}");
    assert_eq!(
        rejects("throttle/db")[1],
        serde_json::json!({"reason": "overloaded", "value": 40 - sent})
    );
    // As a share, or neither the page nor `/metrics` would take it for one.
    let share =
        sheds["gauges"].as_array().unwrap().iter().find(|g| g["id"] == "shed_share").unwrap();
    assert_eq!((share["value"].as_f64(), share["unit"].as_str()), (Some(0.9), Some("ratio")));
    assert_eq!(of("throttle/db#2")["state"], "measuring");
    assert_eq!(counter("coalesce/db", "led"), 1);
    assert_eq!(of("hedge/db")["state"], "learning");
    assert_eq!(of("heartbeat/db")["state"], "stopped");
    let children: Vec<_> =
        of("process_supervisor/db")["facts"].as_array().unwrap().iter().collect();
    assert_eq!(children.len(), 2, "{children:?}");
    // As severe as in the log.
    for (layer, end) in
        [("backend", "to down: 12 failures in a row"), ("throttle", "free to measuring")]
    {
        let events = status["events"].as_array().unwrap();
        let of = |e: &&Value| e["layer"] == layer && e["detail"].as_str().unwrap().contains(end);
        let event = events.iter().find(of).unwrap_or_else(|| panic!("{layer}: {events:#?}"));
        assert_eq!(event["severity"], "warning", "{event}");
    }
    // What calls were refused is in the timeline, too.
    let refused = |layer: &str| {
        let events = status["events"].as_array().unwrap();
        events.iter().any(|event| event["layer"] == layer && event["event"] == "rejected")
    };
    for layer in ["circuit_breaker", "rate_limit", "endpoints"] {
        assert!(refused(layer), "{layer}: {:#}", status["events"]);
    }
}

#[tokio::test]
async fn the_kill_switch_ends_all_faults_and_the_row_says_so() {
    let registry = Registry::new();
    let _kept = everything(&registry, "db").await;
    let admin = admin(&registry);
    let kill = Request::post("/commands")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json")
        .header("host", "a")
        .body(serde_json::json!({"command": "kill_faults"}).to_string())
        .unwrap();
    assert_eq!(ask(&admin, kill).await.status(), 200);
    let status = status(&admin).await;
    let faults = status["objects"].as_array().unwrap().iter().find(|o| o["kind"] == "conditioner");
    assert_eq!(faults.unwrap()["state"], "disarmed");
    let events = status["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["detail"] == "kill_faults"), "{events:#?}");
}

#[tokio::test]
async fn metrics_of_every_kind_keep_to_the_grammar_whatever_they_are_called() {
    let registry = Registry::new();
    let names = [
        "db".to_owned(),
        "say \"hi\"\\\n{a=\"b\"} 1\r\u{7}\u{0}é\u{202e}# EOF".to_owned(),
        "\\".repeat(90),
        " ".to_owned(),
    ];
    let mut kept = Vec::new();
    for name in &names {
        kept.push(everything(&registry, name.clone()).await);
        registry.set_service(name.clone());
    }
    let admin = admin(&registry);
    status(&admin).await;
    for (accept, open) in [("*/*", false), ("application/openmetrics-text;version=1.0.0", true)] {
        let text = get(&admin, "/metrics", accept).await;
        let series = parse(&text, open);
        for kind in KINDS {
            let levels = format!("buttress_object_level{{layer=\"{kind}\",");
            let of_kind = series.iter().filter(|series| series.starts_with(&levels)).count();
            assert!(of_kind >= names.len(), "{kind}: {of_kind} in\n{text}");
        }
        let omitted = text.lines().find_map(|l| l.strip_prefix("buttress_series_omitted "));
        assert_eq!(omitted, Some("0"), "nothing is left out");
    }
}
