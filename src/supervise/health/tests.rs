use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};

use super::*;
use crate::lever::Lever;
use crate::supervise::{Lifecycle, Phase};

fn ready() -> (Lifecycle, Health) {
    let life = Lifecycle::new();
    let health = Health::new(life.clone());
    life.advance(Phase::Ready, None);
    (life, health)
}

async fn probe(health: &Health, path: &str) -> (u16, String, String) {
    let request = Request::get(path).body(()).unwrap();
    let answer = health.service().verbose(true).oneshot(request).await.unwrap();
    let header =
        answer.headers().get("x-health-reason").map(|value| value.to_str().unwrap().into());
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, header.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn the_table_of_the_probes() {
    let life = Lifecycle::new();
    let health = Health::new(life.clone());
    let mut seen = Vec::new();
    for phase in [Phase::Starting, Phase::Ready, Phase::LameDuck, Phase::Draining, Phase::Cleanup] {
        life.advance(phase, None);
        let mut statuses = [0; 3];
        for (status, path) in statuses.iter_mut().zip(["/livez", "/readyz", "/startupz"]) {
            *status = probe(&health, path).await.0;
        }
        seen.push((phase, statuses));
    }
    assert_eq!(
        seen,
        [
            (Phase::Starting, [200, 503, 503]),
            (Phase::Ready, [200, 200, 200]),
            (Phase::LameDuck, [200, 503, 200]),
            (Phase::Draining, [200, 503, 200]),
            (Phase::Cleanup, [200, 503, 200]),
        ]
    );
}

#[tokio::test]
async fn started_is_latched_and_needs_the_gates_once() {
    let (_life, health) = ready();
    let gate = health.gate("cache");
    assert_eq!(probe(&health, "/startupz").await.0, 503, "ready in phase, but a gate is closed");
    gate.open();
    assert_eq!(probe(&health, "/startupz").await.0, 200);
    gate.close("lost");
    assert_eq!(probe(&health, "/startupz").await.0, 200);
    assert_eq!(
        probe(&health, "/readyz").await,
        (503, "cache: lost".into(), "cache: lost\n".into())
    );
}

#[tokio::test]
async fn a_dropped_gate_stays_closed_until_it_is_forgotten() {
    let (_life, health) = ready();
    let gate = health.gate("queue");
    gate.open();
    let copy = gate.clone();
    drop(gate);
    assert!(health.is_ready(), "a clone is left");
    drop(copy);
    assert_eq!(probe(&health, "/readyz").await.1, "queue: its owner has gone");
    assert_eq!(health.forget("queue"), 1);
    assert!(health.is_ready());
}

#[test]
fn liveness_never_depends_on_readiness() {
    let (_life, health) = ready();
    let _closed = health.gate("database");
    health.ready_while("breaker", || false);
    assert!(health.is_live() && !health.is_ready());
    let worker = health.live("worker");
    worker.fail("stuck");
    assert_eq!(health.report().to_string(), "not live: worker: stuck");
    worker.ok();
    assert!(health.is_live());
}

#[test]
fn a_condition_that_panics_is_a_no_and_leaves_everything_usable() {
    let (_life, health) = ready();
    health.live_while("monitor", || panic!("on purpose"));
    let report = health.report();
    assert!(!report.live);
    assert_eq!(report.reason.as_deref(), Some("monitor: the condition panicked"));
    assert_eq!(health.forget("monitor"), 1);
    assert!(health.is_live());
}

#[test]
fn a_lever_holds_a_gate_closed_until_all_have_let_go() {
    let (_life, health) = ready();
    let gate = health.gate("budget");
    gate.open();
    gate.engage();
    gate.engage();
    gate.release();
    assert!(!gate.is_open());
    gate.open();
    assert!(!gate.is_open(), "opening it does not take it out of somebody's hand");
    gate.release();
    assert!(gate.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_check_closes_after_so_many_failures_and_opens_after_so_many_successes() {
    let (_life, health) = ready();
    let check = health.check("db").every(Duration::from_secs(1)).failures(3).successes(2);
    let check = check.build().unwrap();
    let gate = check.gate().clone();
    let good = Arc::new(AtomicBool::new(true));
    let asked = good.clone();
    let task = tokio::spawn(check.run(move || {
        let good = asked.load(Ordering::Relaxed);
        async move { if good { Ok(()) } else { Err("refused") } }
    }));
    let mut open = Vec::new();
    // Results at 0, 1, 2, … seconds; looked at half a second later.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for second in 0..9 {
        open.push(gate.is_open());
        good.store(!(2..6).contains(&(second + 1)), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Fails at 2, 3, 4, 5: closed by the third; succeeds at 6, 7: opened by the second.
    assert_eq!(open, [false, true, true, true, false, false, false, true, true]);
    task.abort();
    let _ = task.await;
    drop(gate);
    assert!(!health.is_ready(), "a check that has stopped vouches for nothing");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_or_panics_has_failed_and_does_not_stop_the_checks() {
    let (_life, health) = ready();
    let check = health.check("db").every(Duration::from_secs(2)).failures(1).build().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let task = tokio::spawn(check.run(move || {
        let call = count.fetch_add(1, Ordering::Relaxed);
        async move {
            match call {
                0 => std::future::pending().await,
                1 => panic!("on purpose"),
                _ => Ok::<(), &str>(()),
            }
        }
    }));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(health.report().reason.as_deref(), Some("db: no answer within 1s"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(health.report().reason.as_deref(), Some("db: the check panicked"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(health.is_ready());
    task.abort();
}

#[tokio::test]
async fn methods_paths_and_details() {
    let (_life, health) = ready();
    let service = health.service();
    let mut request = Request::post("/livez").body(()).unwrap();
    let refused = service.clone().oneshot(request.clone()).await.unwrap();
    assert_eq!(
        (refused.status(), &refused.headers()["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"GET, HEAD".parse().unwrap())
    );
    *request.method_mut() = http::Method::HEAD;
    let head = service.clone().oneshot(request).await.unwrap();
    assert_eq!(
        (head.status(), &head.headers()["cache-control"]),
        (StatusCode::OK, &"no-store".parse().unwrap())
    );
    assert_eq!(probe(&health, "/").await.0, 404);

    let _gate = health.gate("secret dependency");
    let quiet = service.oneshot(Request::get("/livez?verbose").body(()).unwrap()).await.unwrap();
    let body = quiet.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "ok\n", "details are for those who were allowed them");
    let (_, _, body) = probe(&health, "/livez?verbose").await;
    let report: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(report["phase"], "ready");
    assert_eq!(report["items"][0]["name"], "secret dependency");
    assert_eq!(report["items"][0]["ok"], false);
}

#[tokio::test]
async fn the_layer_answers_probes_and_passes_the_rest_on() {
    let (_life, health) = ready();
    let inner = tower::service_fn(|request: Request<()>| async move {
        let path = request.uri().path().to_owned();
        Ok::<_, std::io::Error>(http::Response::new(http_body_util::Full::<bytes::Bytes>::from(
            path,
        )))
    });
    let service = health.layer().layer(inner);
    for (path, body) in [("/livez", "ok\n"), ("/orders", "/orders")] {
        let request = Request::get(path).body(()).unwrap();
        let answer = service.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), body);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_told_hears_the_answer_at_once_and_every_change() {
    let (life, health) = ready();
    let gate = health.gate("db");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = heard.clone();
    let told = health.follow(Probe::Ready, Duration::from_secs(1), move |ready| {
        sink.lock().unwrap().push(ready);
        std::future::ready(())
    });
    let told = tokio::spawn(told);
    tokio::task::yield_now().await;
    gate.open();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    life.advance(Phase::LameDuck, None);
    for _ in 0..10 {
        tokio::task::yield_now().await; // no time passes: the flip must not wait for the next look
    }
    assert_eq!(*heard.lock().unwrap(), [false, true, false]);
    told.abort();
}

#[test]
fn the_listener_answers_while_nobody_else_can_and_ends_with_its_guard() {
    let (_life, health) = ready();
    let probes = health.listen("127.0.0.1:0").unwrap();
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(probes.addr())?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: probe\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    assert!(get("/readyz").unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    health.live_while("main loop", || false);
    let answer = get("/livez").unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("x-health-reason: main loop: the condition does not hold\r\n"),
        "{answer}"
    );

    // Half a head must not hold the end of the guard.
    let mut slow = std::net::TcpStream::connect(probes.addr()).unwrap();
    slow.write_all(b"GET /livez HT").unwrap();
    let addr = probes.addr();
    drop(probes);
    assert!(std::net::TcpStream::connect(addr).is_err(), "it has ended");
}

#[test]
fn what_opens_and_closes_is_told() {
    let (_life, health) = ready();
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = log.clone();
    health.observe(move |event: &crate::observe::Event<'_>| {
        sink.lock().unwrap().push(format!("{} {}", event.name, event.kind.as_str()));
    });
    let gate = health.gate("db");
    gate.open();
    gate.open();
    gate.close("lost");
    drop(gate);
    assert_eq!(*log.lock().unwrap(), ["db gate_opened", "db gate_closed"]);
}
