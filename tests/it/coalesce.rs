//! Coalescing: the contract, deadlines, errors, what of HTTP is shared and what is not.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use buttress::coalesce::{CloneResponse, Coalesce};
use buttress::testing::{Subject, check_all};
use buttress::{AsTyped, BoxError, Context, Deadline, Error, Rejection, RejectionKind};
use tower::{Layer, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn every_property_of_the_contract_holds() {
    // Each request a key of its own, so that each is a call.
    let number = AtomicU64::new(0);
    let coalesce = Coalesce::new("contract");
    let seen = coalesce.clone();
    let make = move || coalesce.layer(|n: &u64| Some(*n));
    let next = move || number.fetch_add(1, Ordering::Relaxed);
    let subject = Subject::new(make, next, Ok::<u64, io::Error>)
        .ready_error(|| io::Error::other("inner broke"))
        .polls_inner_in_ready(false)
        .shared_state(move |one, two, _probe| {
            let seen = seen.clone();
            async move {
                let before = seen.stats().followed;
                let (one, two) = tokio::join!(one.oneshot(u64::MAX), two.oneshot(u64::MAX));
                one.and(two).map_err(|e| format!("{e:?}"))?;
                match seen.stats().followed - before {
                    // The probe answers at once, so the first may be over.
                    0 | 1 => Ok(()),
                    n => Err(format!("{n} followed")),
                }
            }
        });
    check_all(&subject).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn services_of_all_layers_share_a_call_and_its_error() {
    let reads = Coalesce::new("t");
    let calls = Arc::new(AtomicU32::new(0));
    let service = || {
        let calls = calls.clone();
        reads.layer(|n: &u32| Some(*n)).layer(service_fn(move |_: u32| {
            calls.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::time::sleep(MS).await;
                let why = io::Error::from(io::ErrorKind::PermissionDenied);
                Err::<u32, _>(why)
            }
        }))
    };
    let (one, two) = tokio::join!(service().oneshot(1), service().oneshot(1));
    for error in [one.unwrap_err(), two.unwrap_err()] {
        let source = error.source().unwrap().downcast_ref::<io::Error>();
        assert_eq!(source.unwrap().kind(), io::ErrorKind::PermissionDenied);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert!(service().oneshot(1).await.is_err(), "a failure is not kept");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_refused_at_its_own_deadline_and_the_call_goes_on() {
    let reads = Coalesce::new("t");
    let layer = reads
        .layer(|_: &Option<Deadline>| Some(()))
        .share(CloneResponse::with_errors_cloned())
        .context(|by: &Option<Deadline>| {
            by.map_or(Context::new(), |by| Context::new().with_deadline(by))
        })
        .on_reject(AsTyped);
    let service = layer.layer(service_fn(|_: Option<Deadline>| async {
        tokio::time::sleep(100 * MS).await;
        Ok::<_, ()>(7)
    }));
    let patient = service.clone().oneshot(None);
    let hasty = service.clone().oneshot(Some(Deadline::after(10 * MS)));
    let (patient, hasty) = tokio::join!(patient, hasty);
    assert_eq!(patient.unwrap(), 7);
    let Err(Error::Rejected(why)) = hasty else { panic!("{hasty:?}") };
    assert_eq!(why.kind(), RejectionKind::DeadlineExceeded);

    // A call with 150 ms is none for somebody with an hour.
    let short = service.clone().oneshot(Some(Deadline::after(150 * MS)));
    let long = service.clone().oneshot(Some(Deadline::after(3_600_000 * MS)));
    let (short, long) = tokio::join!(short, long);
    assert_eq!((short.unwrap(), long.unwrap()), (7, 7));
    let stats = reads.stats();
    assert_eq!((stats.led, stats.followed, stats.expired, stats.in_flight), (3, 1, 1, 0));
    let late = service.oneshot(Some(Deadline::after(Duration::ZERO))).await;
    assert!(late.is_err(), "its time is over");
    assert_eq!(reads.stats().led, 3, "and it made no call");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_leaves_hands_its_call_over() {
    let reads = Coalesce::new("t");
    let calls = Arc::new(AtomicU32::new(0));
    let seen = calls.clone();
    let service = reads.layer(|n: &u32| Some(*n)).layer(service_fn(move |n: u32| {
        seen.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(100 * MS).await;
            Ok::<_, io::Error>(n)
        }
    }));
    let leader = tokio::time::timeout(10 * MS, service.clone().oneshot(7));
    let (leader, follower) = tokio::join!(leader, service.oneshot(7));
    assert!(leader.is_err());
    assert_eq!(follower.unwrap(), 7);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[cfg(feature = "http")]
mod http {
    use super::*;
    use ::http::{Request, Response, StatusCode};
    use axum::Router;
    use axum::body::Body;
    use axum::routing::any;
    use buttress::coalesce::{BufferResponse, Reads};
    use buttress::http::problem;
    use http_body_util::BodyExt;

    type Shared = Result<buttress::coalesce::SharedResponse, std::convert::Infallible>;
    type Alone = Result<Response<buttress::http::Buffered<Body>>, std::convert::Infallible>;

    struct Server {
        calls: Arc<AtomicU32>,
        app: Router,
        reads: Coalesce<buttress::coalesce::ReadKey, Shared, Alone>,
    }

    fn server(head: &'static [(&'static str, &'static str)], body: usize) -> Server {
        let calls = Arc::new(AtomicU32::new(0));
        let seen = calls.clone();
        let reads = Coalesce::new("pages");
        let layer = reads
            .http(Reads::new())
            .share(BufferResponse::up_to(1_000).with_errors_cloned())
            .on_reject(problem());
        let app = Router::new()
            .fallback(any(move || {
                let call = seen.fetch_add(1, Ordering::Relaxed);
                async move {
                    tokio::time::sleep(MS).await;
                    let chunks = [call.to_string().into_bytes(), vec![b'.'; body]];
                    let chunks = chunks.map(Ok::<_, io::Error>);
                    let body = Body::from_stream(futures_util::stream::iter(chunks));
                    let mut response = Response::builder();
                    for (name, value) in head {
                        response = response.header(*name, *value);
                    }
                    response.body(body).unwrap()
                }
            }))
            .layer(layer);
        Server { calls, app, reads }
    }

    /// Two requests at once: how many calls, and what the bodies begin with.
    async fn both(server: &Server, one: Request<Body>, two: Request<Body>) -> (u32, Vec<String>) {
        let before = server.calls.load(Ordering::Relaxed);
        let (one, two) =
            tokio::join!(server.app.clone().oneshot(one), server.app.clone().oneshot(two));
        let mut bodies = Vec::new();
        for response in [one.unwrap(), two.unwrap()] {
            assert_eq!(response.status(), StatusCode::OK);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            bodies.push(String::from_utf8(body.to_vec()).unwrap().replace('.', ""));
        }
        (server.calls.load(Ordering::Relaxed) - before, bodies)
    }

    fn get(head: &[(&str, &str)]) -> Request<Body> {
        let mut request = Request::get("/page?q=1");
        for (name, value) in head {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn equal_reads_share_a_response() {
        let server = server(&[("etag", "1"), ("cache-control", "max-age=9")], 10);
        let (calls, bodies) = both(&server, get(&[("x-request-id", "1")]), get(&[])).await;
        assert_eq!((calls, bodies), (1, vec!["0".to_owned(), "0".to_owned()]));
        assert_eq!(both(&server, get(&[]), get(&[])).await.0, 1, "nothing is kept");
        assert_eq!(server.reads.stats().in_flight, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_differ_in_what_may_matter_do_not() {
        let server = server(&[], 10);
        for (name, one, two) in [
            ("authorization", "Bearer a", "Bearer b"),
            ("cookie", "s=1", "s=2"),
            ("accept-language", "de", "en"),
            ("accept-encoding", "gzip", "br"),
            ("range", "bytes=0-1", "bytes=2-3"),
            ("x-tenant", "1", "2"),
        ] {
            assert_eq!(
                both(&server, get(&[(name, one)]), get(&[(name, two)])).await.0,
                2,
                "{name}"
            );
            assert_eq!(both(&server, get(&[(name, one)]), get(&[])).await.0, 2, "{name}");
            assert_eq!(
                both(&server, get(&[(name, one)]), get(&[(name, one)])).await.0,
                1,
                "{name}"
            );
        }
        let post = || Request::post("/page?q=1").body(Body::empty()).unwrap();
        assert_eq!(both(&server, post(), post()).await.0, 2);
        let with_body = || Request::get("/page?q=1").body(Body::from("body")).unwrap();
        assert_eq!(both(&server, with_body(), with_body()).await.0, 2);
        let socket = || get(&[("upgrade", "websocket")]);
        assert_eq!(both(&server, socket(), socket()).await.0, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_for_one_client_is_not_shared() {
        for head in [
            &[("set-cookie", "s=1")][..],
            &[("cache-control", "max-age=1, Private")],
            &[("cache-control", "no-store")],
            &[("vary", "accept, *")],
            &[("content-type", "text/event-stream; charset=utf-8")],
        ] {
            let server = server(head, 10);
            let (calls, bodies) = both(&server, get(&[]), get(&[])).await;
            assert_eq!((calls, bodies), (2, vec!["0".to_owned(), "1".to_owned()]), "{head:?}");
            assert_eq!(server.reads.stats().apart, 1);
        }
        let long = server(&[], 1_000);
        assert_eq!(both(&long, get(&[]), get(&[])).await.0, 2, "too long to be kept");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_inside_is_found_in_what_is_shared() {
    let why = Rejection::new(RejectionKind::Overloaded, buttress::LayerKind::Admission, "db");
    let service = Coalesce::new("t").layer(|n: &u32| Some(*n)).layer(service_fn(move |_: u32| {
        let why = why.clone();
        async move {
            tokio::time::sleep(MS).await;
            Err::<u32, BoxError>(why.into())
        }
    }));
    let (one, two) = tokio::join!(service.clone().oneshot(1), service.oneshot(1));
    for error in [one.unwrap_err(), two.unwrap_err()] {
        assert_eq!(Rejection::find(&*error).unwrap().kind(), RejectionKind::Overloaded);
    }
}
