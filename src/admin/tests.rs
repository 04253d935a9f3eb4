//! The service without sockets. With them: `tests/admin`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::grammar::parse;
use super::metrics::{self, Format};
use super::*;
use crate::control::Registry;

const TOKEN: &str = "u4zQ0nPBJx5m2yGk";

fn admin() -> Admin {
    Admin::builder(&Registry::new()).token(TOKEN).build().unwrap()
}

async fn ask(admin: &Admin, request: Request<String>) -> Response<AdminBody> {
    admin.clone().oneshot(request).await.unwrap()
}

async fn text(answer: Response<AdminBody>) -> String {
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn command() -> http::request::Builder {
    Request::post("/commands")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json")
        .header("host", "a")
}

#[tokio::test]
async fn every_route_has_its_methods_and_every_answer_its_headers() {
    let admin = admin();
    let routes = ["/", "/status.json", "/events", "/metrics", "/config", "/commands"];
    let others = [
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "//",
        "/status.json/",
        "/page.html",
        "/Status.json",
        "/events%00",
    ];
    for path in routes.into_iter().chain(others) {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"]
        {
            let request = Request::builder().method(method).uri(path).body(String::new()).unwrap();
            let answer = ask(&admin, request).await;
            let reads = matches!(method, "GET" | "HEAD");
            let expected = match path {
                _ if others.contains(&path) => 404,
                "/commands" if method == "POST" => 401,
                "/commands" => 405,
                _ if reads => 200,
                _ => 405,
            };
            assert_eq!(answer.status(), expected, "{method} {path}");
            let headers = answer.headers();
            assert_eq!(headers["cache-control"], "no-store");
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers["x-frame-options"], "DENY");
            assert_eq!(headers["referrer-policy"], "no-referrer");
            assert_eq!(headers["cross-origin-resource-policy"], "same-origin");
            let policy = headers["content-security-policy"].to_str().unwrap();
            assert!(
                policy.starts_with("default-src 'none'")
                    && policy.contains("frame-ancestors 'none'")
            );
            assert!(!policy.contains("unsafe"), "{policy}");
            assert!(!headers.contains_key("access-control-allow-origin"));
            if expected == 405 {
                let allow = if path == "/commands" { "POST" } else { "GET, HEAD" };
                assert_eq!(headers["allow"], allow);
            }
            if method == "HEAD" {
                assert_eq!(text(answer).await, "", "{path}");
            }
        }
    }
    assert_eq!(admin.shared.hub.viewers(), 0, "none of these is a viewer any more");
}

#[tokio::test]
async fn commands_are_for_who_may_send_them() {
    let admin = admin();
    let body = json!({"command": "uninstall_network_conditioner"}).to_string();
    let status = async |request: http::request::Builder, body: &str| {
        ask(&admin, request.body(body.to_owned()).unwrap()).await.status().as_u16()
    };
    assert_eq!(status(command(), &body).await, 200);
    assert_eq!(status(command().header("origin", "http://a"), &body).await, 200);
    assert_eq!(status(command().header("origin", "http://b"), &body).await, 403);
    assert_eq!(status(command().header("sec-fetch-site", "cross-site"), &body).await, 403);
    assert_eq!(status(command().header("authorization", "Bearer x"), &body).await, 401);
    assert_eq!(status(command().header("content-type", "text/plain"), &body).await, 415);
    assert_eq!(status(Request::post("/commands"), &body).await, 401);
    assert_eq!(
        status(
            Request::post("/commands").header("authorization", "Bearer wrong-wrong-wrong-"),
            &body
        )
        .await,
        401
    );
    for malformed in ["", "{", "nul", "[1,]", "\u{0}", &"[".repeat(10_000)] {
        assert_eq!(status(command(), malformed).await, 400, "{malformed:.20}");
    }
    for odd in ["7", "{}", "[]", r#"{"commands": 7}"#, "null"] {
        assert_eq!(status(command(), odd).await, 422, "{odd}");
    }
    let giant = " ".repeat(64 * 1024 + 1);
    assert_eq!(status(command(), &giant).await, 413);

    let read_only = Admin::builder(&Registry::new()).build().unwrap();
    let answer = ask(&read_only, command().body(body.clone()).unwrap()).await;
    assert_eq!(answer.status(), 403);
    assert!(text(answer).await.contains("read-only"));
}

#[tokio::test]
async fn a_command_is_executed_once_and_its_result_is_the_answer() {
    let registry = Registry::new();
    let slot = registry.conditioner("backend");
    let admin = Admin::builder(&registry).token(TOKEN).build().unwrap();
    let body = json!([
        {"command": "install_network_conditioner", "target": "backend", "latency_ms": 5},
        {"command": "install_network_conditioner", "target": "nobody"},
    ]);
    let answer = ask(&admin, command().body(body.to_string()).unwrap()).await;
    assert_eq!(answer.status(), 200);
    let results: Value = serde_json::from_str(&text(answer).await).unwrap();
    assert_eq!(results[0]["result"], "Conditioner");
    assert!(results[1]["error"].as_str().unwrap().contains("target"));
    assert!(slot.get().is_some());
}

/// Bytes come for ever, one at a time, with no length announced.
struct Drip(tokio::time::Interval);

impl http_body::Body for Drip {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        self.0
            .poll_tick(cx)
            .map(|_| Some(Ok(http_body::Frame::data(bytes::Bytes::from_static(b" ")))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up() {
    let admin = admin();
    let drip = |every| Drip(tokio::time::interval(every));
    let slow = command().body(drip(Duration::from_millis(100))).unwrap();
    let answer = admin.clone().oneshot(slow).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    let fast = command().body(drip(Duration::from_nanos(1_000))).unwrap();
    let answer = admin.clone().oneshot(fast).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn other_hosts_and_other_prefixes_are_not_answered() {
    let admin = Admin::builder(&Registry::new()).allow_host("a").prefix("/x/").build().unwrap();
    let status = async |uri: &str, host: &str| {
        let request = Request::get(uri).header("host", host).body(String::new()).unwrap();
        ask(&admin, request).await.status().as_u16()
    };
    assert_eq!(status("/x/status.json", "a:80").await, 200);
    assert_eq!(status("/x", "a").await, 200);
    assert_eq!(status("/x/", "a").await, 200);
    assert_eq!(status("/", "a").await, 404);
    assert_eq!(status("/xstatus.json", "a").await, 404);
    assert_eq!(status("/x/status.json", "b").await, 421);
}

#[tokio::test]
async fn a_panic_of_the_program_is_a_500_and_no_more() {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let admin = Admin::builder(&Registry::new())
        .config(|| panic!("configuration"))
        .source(move || {
            assert!(counted.fetch_add(1, Ordering::Relaxed) > 3, "status");
            json!({"objects": []})
        })
        .build()
        .unwrap();
    let status = async |path: &str| {
        let request = Request::get(path).body(String::new()).unwrap();
        ask(&admin, request).await.status().as_u16()
    };
    assert_eq!(status("/config").await, 500);
    assert_eq!(status("/status.json").await, 500);
    assert_eq!(status("/metrics").await, 500);
    while calls.load(Ordering::Relaxed) < 4 {
        status("/status.json").await;
    }
    assert_eq!(status("/status.json").await, 200);
}

#[test]
fn the_thread_ends_with_the_last_clone() {
    let here = Arc::new(());
    let held = Arc::clone(&here);
    let admin = Admin::builder(&Registry::new())
        .source(move || {
            let _ = &held;
            json!({})
        })
        .build()
        .unwrap();
    let weak = Arc::downgrade(&admin.shared);
    drop(admin);
    // The thread may be in the middle of a sample, and then drops what it holds after it.
    for _ in 0..2000 {
        if weak.strong_count() == 0 && Arc::strong_count(&here) == 1 {
            return;
        }
        crate::clock::park(Duration::from_millis(5));
    }
    panic!("somebody holds it");
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    let builder = || Admin::builder(&Registry::new());
    for (builder, field) in [
        (builder().token("short"), "token"),
        (builder().interval(Duration::ZERO), "interval"),
        (builder().interval(Duration::MAX), "interval"),
        (builder().max_viewers(0), "max_viewers"),
        (builder().max_body(0), "max_body"),
        (builder().max_body(usize::MAX), "max_body"),
        (builder().body_timeout(Duration::ZERO), "body_timeout"),
        (builder().allow_origin("*"), "allow_origin"),
        (builder().allow_origin("https://a/"), "allow_origin"),
        (builder().allow_host("a:80"), "allow_host"),
        (builder().allow_host("*"), "allow_host"),
        (builder().prefix("admin"), "prefix"),
        (builder().hide("-"), "hide"),
    ] {
        assert_eq!(builder.build().unwrap_err().field(), field);
    }
    builder().allow_origin("https://a:8443").allow_host("::1").allow_host("a.b").build().unwrap();
    let error = admin().listen("0.0.0.0:0").unwrap_err().to_string();
    assert!(error.starts_with("invalid addr: 0.0.0.0:0"), "{error}");
    let all = format!("{:?} {:?}", builder().token(TOKEN), admin());
    assert!(!all.contains(TOKEN), "{all}");
}

fn object(name: &str) -> Value {
    json!({
        "id": format!("circuit_breaker/{name}"), "kind": "circuit_breaker", "name": name,
        "level": "bad", "state": "open", "since_s": 3.25,
        "gauges": [
            {"id": "window_fill", "value": 40, "max": 100, "threshold": null, "unit": "calls"},
            {"id": "failure_rate", "value": 0.25, "max": 1, "threshold": 0.5, "unit": "ratio"},
        ],
        "counters": [{"id": "calls", "value": 1234}],
        "rejects": [{"reason": "circuit_open", "value": 12}],
    })
}

#[test]
fn metrics_keep_to_the_grammar() {
    let status = json!({
        "service": "orders", "instance": "7-1", "uptime_s": 1.5, "generation": 2, "omitted": 0,
        "verdict": {"level": "warn"}, "process": {"phase": "ready"},
        "objects": [object("payments"), object("say \"hi\"\\\n{a=\"b\"} 1\r\u{7}é"), object("")],
    });
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let text = metrics::render(&status, format);
        let series = parse(&text, format == Format::OpenMetrics);
        let of = r#"{layer="circuit_breaker",name="payments",object="circuit_breaker/payments""#;
        for line in [
            format!("buttress_object_count_total{of},counter=\"calls\"}} 1234"),
            format!("buttress_object_rejections_total{of},reason=\"circuit_open\"}} 12"),
            format!("buttress_object_max{of},gauge=\"window_fill\",unit=\"calls\"}} 100"),
            format!("buttress_object_value{of},gauge=\"window_fill\",unit=\"calls\"}} 40"),
            format!("buttress_object_share_ratio{of},gauge=\"failure_rate\",unit=\"ratio\"}} 0.25"),
            format!("buttress_object_threshold{of},gauge=\"failure_rate\",unit=\"ratio\"}} 0.5"),
            format!("buttress_object_state_duration_seconds{of}}} 3.25"),
            format!("buttress_object_state{of},state=\"open\"}} 1"),
            format!("buttress_object_level{of}}} 2"),
            "buttress_verdict{level=\"warn\"} 1".into(),
            "buttress_uptime_seconds 1.5".into(),
            "buttress_series_omitted 0".into(),
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        assert_eq!(
            series.iter().filter(|series| series.starts_with("buttress_object_level")).count(),
            3
        );
    }
    // All that is pulled is there, but for what this status has nothing of.
    let text = metrics::render(&status, Format::Prometheus);
    for i in crate::observe::INSTRUMENTS {
        let absent = ["buttress.admin.viewers", "buttress.object.time"].contains(&i.name);
        let there = text.contains(&format!("# TYPE {} ", i.prometheus()));
        assert_eq!(there, i.pulled && !absent, "{}", i.name);
    }
    // Nothing is known, or all of it is something else.
    for odd in [
        json!(null),
        json!({}),
        json!({"objects": [7, {}, {"counters": 7, "gauges": [7, null]}], "uptime_s": "x"}),
    ] {
        parse(&metrics::render(&odd, Format::Prometheus), false);
    }
}

#[test]
fn hostile_names_make_no_more_series_than_allowed() {
    let words = |field: &str, n: usize| {
        (0..n).map(|n| json!({field: format!("w{n}"), "value": n})).collect::<Vec<_>>()
    };
    let long = "é".repeat(1_000);
    let objects: Vec<_> = (0..1000)
        .map(|n| {
            let mut object = object(&format!("{long}{n}"));
            object["counters"] = words("id", 100).into();
            object["rejects"] = words("reason", 100).into();
            object["id"] = format!("{n}/{long}").into();
            object
        })
        .collect();
    let text = metrics::render(&json!({ "objects": objects }), Format::Prometheus);
    let series = parse(&text, false);
    assert!(series.len() <= 20_001, "{}", series.len());
    assert!(text.len() < 32 << 20, "{}", text.len());
    let omitted =
        text.lines().find_map(|line| line.strip_prefix("buttress_series_omitted ")).unwrap();
    assert!(omitted.parse::<u64>().unwrap() > 100_000, "{omitted}");
    // Cut after so many characters, they are the same: once.
    let same = json!({"objects": [object(&format!("{long}1")), object(&format!("{long}2"))]});
    let series = parse(&metrics::render(&same, Format::Prometheus), false);
    assert_eq!(
        series.iter().filter(|series| series.starts_with("buttress_object_level")).count(),
        1
    );
}

#[tokio::test]
async fn who_comes_first_gets_a_status_with_history_at_once() {
    let calls = Arc::new(AtomicU64::new(0));
    let source = {
        let calls = Arc::clone(&calls);
        move || {
            json!({
                "instance": "7-1",
                "objects": [{"id": "retry/a", "counters": [{"id": "calls", "value": calls.load(Ordering::Relaxed)}]}],
                "events": [{"seq": 1, "detail": "a\nb"}],
            })
        }
    };
    let admin = Admin::builder(&Registry::new()).source(source).build().unwrap();
    let answer = admin
        .clone()
        .oneshot(Request::get("/events").body(Full::<bytes::Bytes>::default()).unwrap());
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(admin.shared.hub.viewers(), 1);
    let mut body = answer.into_body();
    let mut text = String::new();
    while !text.contains("event: event") {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        text.push_str(std::str::from_utf8(&frame).unwrap());
    }
    let status = text.split("event: status\ndata: ").nth(1).unwrap().split("\n\n").next().unwrap();
    let status: Value = serde_json::from_str(status).unwrap();
    assert_eq!(status["objects"][0]["spark"]["ok"].as_array().unwrap().len(), 60);
    assert!(status.get("events").is_none(), "they come one by one");
    assert_eq!(status["admin"]["commands"], false);
    assert!(
        text.contains("id: 7-1:1\nevent: event\ndata: {\"detail\":\"a\\nb\",\"seq\":1}\n\n"),
        "{text}"
    );
    drop(body);
    assert_eq!(admin.shared.hub.viewers(), 0);
}
