//! The fallback: the contract, what a registry shows, HTTP bodies as they are, a whole stack.
#![expect(clippy::disallowed_methods, reason = "the sender of a body is a task")]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::circuit_breaker::CircuitBreaker;
use buttress::control::{Level, Registry};
use buttress::fallback::{Cause, Fallback};
use buttress::observe::{Event, EventKind};
use buttress::testing::{Subject, check_all};
use buttress::timeout::Timeout;
use buttress::{AnyError, AsTyped, Error};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

#[tokio::test(start_paused = true)]
async fn every_property_of_the_contract_holds() {
    let fallback = Fallback::new("contract");
    let seen = fallback.clone();
    let make = move || fallback.layer().value(9_u32);
    let subject = Subject::new(make, || 7_u32, Ok::<u32, io::Error>)
        .ready_error(|| io::Error::other("inner broke"))
        .shared_state(move |one, two, _probe| {
            let seen = seen.clone();
            async move {
                one.oneshot(1).await.map_err(|e| format!("{e:?}"))?;
                two.oneshot(1).await.map_err(|e| format!("{e:?}"))?;
                match seen.stats().answered {
                    0 => Ok(()),
                    n => Err(format!("{n} of two successes were answered for")),
                }
            }
        });
    check_all(&subject).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_bound_is_shared_by_all_services_of_all_layers() {
    let fallback = Fallback::builder("f").max_in_flight(1).build().unwrap();
    let failing = || service_fn(|_: ()| async { Err::<u32, _>(io::Error::other("broken")) });
    let slow = |(): (), _: Cause| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, ()>(1)
    };
    let one = fallback.layer().failures(AnyError).call(slow).layer(failing());
    let two = fallback.layer().failures(AnyError).call(slow).layer(failing());
    let (one, two) = tokio::join!(one.oneshot(()), two.oneshot(()));
    assert_eq!((one.unwrap(), two.is_err()), (1, true));
}

#[tokio::test(start_paused = true)]
async fn it_answers_for_every_layer_inside_and_says_so() {
    let registry = Registry::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = told.clone();
    let fallback = Fallback::builder("names")
        .observe(move |event: &Event<'_>| {
            if let EventKind::FellBack { cause, answered } = event.kind {
                sink.lock().unwrap().push((cause, answered));
            }
        })
        .register_in(&registry)
        .build()
        .unwrap();
    let breaker = CircuitBreaker::new("names");
    let service = ServiceBuilder::new()
        .layer(fallback.layer().value("anonymous"))
        .layer(breaker.layer().on_reject(AsTyped))
        .map_err(|e: Error<io::Error>| e.into_inner().unwrap_or_else(io::Error::other))
        .layer(Timeout::new("names", Duration::from_secs(1)).unwrap().layer().on_reject(AsTyped))
        .service(service_fn(|()| std::future::pending::<Result<&str, io::Error>>()));
    let level = || registry.status().objects.iter().find(|o| o.name == "names").unwrap().level;

    assert_eq!(level(), Level::Ok);
    assert_eq!(service.clone().oneshot(()).await.unwrap(), "anonymous", "the time is over");
    breaker.force_open();
    assert_eq!(service.oneshot(()).await.unwrap(), "anonymous", "nobody is asked");
    assert_eq!(*told.lock().unwrap(), [("deadline_exceeded", true), ("circuit_open", true)]);
    assert_eq!(level(), Level::Warn);
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(level(), Level::Ok);
}

#[cfg(feature = "http")]
#[tokio::test]
async fn bodies_pass_as_they_are() {
    use buttress::http::standard;
    use bytes::Bytes;
    use http::{Request, Response, StatusCode};
    use http_body_util::{BodyExt, Channel};

    // Neither is `Clone`.
    type Streamed = Channel<Bytes, io::Error>;
    let echo = service_fn(|request: Request<Streamed>| async move {
        let status: u16 = request.uri().path()[1..].parse().unwrap();
        let mut response = Response::new(request.into_body());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok::<_, io::Error>(response)
    });
    let fallback = Fallback::new("api");
    let service = fallback
        .layer()
        .failures(standard())
        .call(|path: String, _: Cause| async move {
            if path != "/503" {
                return Err("none for this");
            }
            let (mut send, body) = Streamed::new(1);
            send.try_send(http_body::Frame::data(Bytes::from_static(b"stale"))).unwrap();
            Ok(Response::new(body))
        })
        .keep(|request: &Request<Streamed>| Some(request.uri().path().to_owned()))
        .layer(echo);

    for (path, status, text) in [
        ("/200", 200, "live"),
        ("/404", 404, "live"),
        ("/500", 500, "live"),
        ("/503", 200, "stale"),
    ] {
        let (mut send, body) = Streamed::new(1);
        let request = Request::get(path).body(body).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        // The response came before its body did.
        let live = tokio::spawn(async move {
            let _ = send.send_data(Bytes::from_static(b"live")).await;
        });
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, text, "{path}");
        live.await.unwrap();
    }
    let stats = fallback.stats();
    assert_eq!((stats.answered, stats.failed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_service_is_answered_as_one_with_it() {
    use buttress::admission::Admission;
    use buttress::fallback::{Failures, Refusals};
    use buttress::{Context, Typed};
    use futures_util::FutureExt;

    let admission = Admission::bulkhead("db", 1).unwrap();
    let fallback = Fallback::builder("db").max_in_flight(1).build().unwrap();
    let call =
        |ok| admission.run(async move || if ok { Ok(1) } else { Err(std::io::Error::other("no")) });
    let stale = |cause: Cause| async move { (cause.as_str() == "deadline_exceeded").then_some(2) };
    let counts = || {
        let stats = fallback.stats();
        (stats.answered, stats.failed, stats.dropped, stats.full, stats.in_flight)
    };
    assert_eq!(fallback.run(call(true), stale).await.unwrap(), 1);
    assert!(matches!(fallback.run(call(false), stale).await, Err(Error::Inner(_))));
    assert_eq!(counts(), (0, 0, 0, 0, 0));

    let permit = admission.try_acquire(Context::new()).unwrap();
    assert_eq!(fallback.run(call(true), stale).await.unwrap(), 2);
    let left = fallback.run(call(true), |_| async { None }).await;
    assert!(left.unwrap_err().rejection().is_some(), "the refusal stands");
    assert_eq!(counts(), (1, 1, 0, 0, 0));

    // One at a time, and one that is dropped gives its place back.
    let refused = || async { Err::<u32, _>(admission.try_acquire(Context::new()).unwrap_err()) };
    let mut hangs = Box::pin(fallback.run(refused(), |_| std::future::pending()));
    assert!((&mut hangs).now_or_never().is_none());
    assert!(fallback.run(refused(), |_| async { Some(3) }).await.is_err());
    drop(hangs);
    assert_eq!(fallback.run(refused(), |_| async { Some(3) }).await.unwrap(), 3);
    assert_eq!(counts(), (2, 1, 1, 1, 0));
    permit.success();

    let covers = Failures::new(AnyError, Refusals::<Typed>::default());
    let fails = || admission.run_blocking(|| Err::<u32, _>(std::io::Error::other("no")));
    assert_eq!(fallback.run_blocking_with(fails, &covers, |_| Some(4)).unwrap(), 4);
    assert_eq!(fallback.run_with(call(false), &covers, |_| async { Some(5) }).await.unwrap(), 5);
    assert_eq!(counts(), (4, 1, 1, 1, 0));
}
