//! Coalescing: the contract, deadlines, errors, what of HTTP is shared and what is not.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use buttress::coalesce::{CloneResponse, Coalesce};
use buttress::control::{Level, Registry};
use buttress::testing::{Subject, check_all};
use buttress::{AsTyped, BoxError, Context, Deadline, Error, Rejection, RejectionKind};
use futures_util::FutureExt;
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
        .shared_state(move |one, two, probe| {
            let seen = seen.clone();
            async move {
                let before = (seen.stats().followed, probe.counts().calls);
                probe.hold_answers(true);
                let (one, two) = (one.oneshot(u64::MAX), two.oneshot(u64::MAX));
                let let_go = async {
                    probe.hold_answers(false);
                    probe.release(usize::MAX);
                };
                // In this order: both have asked before there is an answer.
                let (one, two, ()) = tokio::join!(biased; one, two, let_go);
                one.and(two).map_err(|e| format!("{e:?}"))?;
                match (seen.stats().followed - before.0, probe.counts().calls - before.1) {
                    (1, 1) => Ok(()),
                    (followed, calls) => Err(format!("{followed} followed, {calls} calls")),
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
    assert_eq!((reads.stats().led, reads.stats().expired), (3, 2), "and it made no call");
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

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_call_goes_to_one_caller_and_the_other_is_refused() {
    let reads = Coalesce::new("t");
    let fails = Arc::new(AtomicU32::new(1));
    let inner = service_fn(move |n: u32| {
        let fails = fails.swap(0, Ordering::Relaxed) == 1;
        async move {
            tokio::time::sleep(MS).await;
            assert!(!fails, "on purpose");
            Ok::<_, io::Error>(n)
        }
    });
    let service = reads.layer(|n: &u32| Some(*n)).on_reject(AsTyped).layer(inner);
    let caught = |n| AssertUnwindSafe(service.clone().oneshot(n)).catch_unwind();
    let (one, two) = tokio::join!(caught(7), caught(7));
    let (Ok(refused), Err(_)) = (if one.is_ok() { (one, two) } else { (two, one) }) else {
        panic!("one panics");
    };
    let Err(Error::Rejected(why)) = refused else { panic!("{refused:?}") };
    assert_eq!(why.kind(), RejectionKind::CallPanicked);
    assert_eq!(caught(7).await.ok().unwrap().unwrap(), 7, "it goes on");
    let stats = reads.stats();
    assert_eq!((stats.led, stats.followed, stats.panicked, stats.in_flight), (2, 1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_key_function_leaves_nothing() {
    let reads = Coalesce::new("t");
    let service = reads
        .layer(|n: &u32| Some(10 / *n))
        .layer(service_fn(|n: u32| async move { Ok::<_, io::Error>(n) }));
    assert!(AssertUnwindSafe(service.clone().oneshot(0)).catch_unwind().await.is_err());
    assert_eq!(service.oneshot(5).await.unwrap(), 5);
    assert_eq!((reads.stats().led, reads.stats().in_flight), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_registry_shows_when_there_is_no_room_for_another_key() {
    let registry = Registry::new();
    let reads: Coalesce<u32, u32> =
        Coalesce::builder("reads").max_keys(1).register_in(&registry).build().unwrap();
    let level = || registry.status().objects.iter().find(|o| o.name == "reads").unwrap().level;
    assert_eq!(level(), Level::Ok);
    let mut read = Box::pin(reads.run(1, std::future::pending));
    assert!(read.as_mut().now_or_never().is_none());
    assert_eq!(level(), Level::Warn);
    drop(read);
    assert_eq!(level(), Level::Ok);
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
        let long = server(&[], 999);
        assert_eq!(both(&long, get(&[]), get(&[])).await.0, 1, "with the number just as many");
        let long = server(&[], 1_000);
        assert_eq!(both(&long, get(&[]), get(&[])).await.0, 2, "too long to be kept");
    }

    #[tokio::test(start_paused = true)]
    async fn what_only_traces_a_request_or_bounds_it_makes_no_difference() {
        let server = server(&[], 10);
        for name in [
            "traceparent",
            "tracestate",
            "b3",
            "x-b3-traceid",
            "x-b3-spanid",
            "x-b3-parentspanid",
            "x-b3-sampled",
            "x-request-id",
            "x-correlation-id",
            "x-amzn-trace-id",
            "x-cloud-trace-context",
            buttress::http::TIMEOUT_MS.as_str(),
            buttress::http::CRITICALITY.as_str(),
        ] {
            let (calls, _) = both(&server, get(&[(name, "1")]), get(&[(name, "2")])).await;
            assert_eq!(calls, 1, "{name}");
        }
    }

    /// What two who ask at once get of a response that is made a millisecond later, and how many were made.
    async fn two<B>(
        share: BufferResponse<buttress::coalesce::ErrorsCloned>,
        make: impl Fn() -> Response<B> + Clone + Send + 'static,
    ) -> (u32, [Response<buttress::http::Buffered<B>>; 2])
    where
        B: ::http_body::Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let calls = Arc::new(AtomicU32::new(0));
        let seen = calls.clone();
        let inner = service_fn(move |_: Request<Body>| {
            seen.fetch_add(1, Ordering::Relaxed);
            let make = make.clone();
            async move {
                tokio::time::sleep(MS).await;
                Ok::<_, std::convert::Infallible>(make())
            }
        });
        let service =
            Coalesce::new("two").http(Reads::new()).share(share).on_reject(problem()).layer(inner);
        let (one, two) =
            tokio::join!(service.clone().oneshot(get(&[])), service.clone().oneshot(get(&[])));
        let Ok(one) = one;
        let Ok(two) = two;
        (calls.load(Ordering::Relaxed), [one, two])
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_private_is_shared_where_told_so_but_no_cookie_and_no_other_protocol() {
        let share = || BufferResponse::up_to(1_000).with_errors_cloned();
        for (name, value, calls) in [
            ("cache-control", "private", 1),
            ("cache-control", "no-store", 1),
            ("set-cookie", "s=1", 2),
            ("vary", "*", 2),
        ] {
            let make =
                move || Response::builder().header(name, value).body(Body::from("b")).unwrap();
            assert_eq!(two(share().even_private(), make).await.0, calls, "{name}: {value}");
            assert_eq!(two(share(), make).await.0, 2, "{name}: {value}");
        }
        let make = || Response::builder().status(101).body(Body::empty()).unwrap();
        assert_eq!(two(share().even_private(), make).await.0, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_names_one_request_can_be_taken_out_of_what_is_shared() {
        let share = || BufferResponse::up_to(1_000).with_errors_cloned();
        let edited = share().edit_headers(|headers| drop(headers.remove("x-request-id")));
        let make = |caching: &'static str| {
            move || {
                let head = Response::builder().header("x-request-id", "7");
                head.header("cache-control", caching).body(Body::from("b")).unwrap()
            }
        };
        let ids = |both: [Response<_>; 2]| {
            both.iter().filter(|one| one.headers().contains_key("x-request-id")).count()
        };
        let (calls, both) = two(share(), make("max-age=1")).await;
        assert_eq!((calls, ids(both)), (1, 2));
        let (calls, both) = two(edited, make("max-age=1")).await;
        assert_eq!((calls, ids(both)), (1, 0));
        // Each has its own.
        let (calls, both) = two(edited, make("no-store")).await;
        assert_eq!((calls, ids(both)), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn trailers_are_shared() {
        let frames = || {
            let mut trailers = ::http::HeaderMap::new();
            trailers.insert("x-sum", "7".parse().unwrap());
            let data = ::http_body::Frame::data(bytes::Bytes::from_static(b"data"));
            let frames = [data, ::http_body::Frame::trailers(trailers)].map(Ok::<_, io::Error>);
            Response::new(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
        };
        let (calls, both) = two(BufferResponse::up_to(9).with_errors_cloned(), frames).await;
        assert_eq!(calls, 1);
        for response in both {
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["x-sum"], "7");
            assert_eq!(body.to_bytes(), "data");
        }
    }

    fn breaks_off() -> Response<Body> {
        let chunks = [Ok("half"), Err(io::Error::other("gone"))];
        Response::new(Body::from_stream(futures_util::stream::iter(chunks)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_breaks_off_does_so_for_all() {
        let (calls, both) = two(BufferResponse::up_to(9).with_errors_cloned(), breaks_off).await;
        assert_eq!(calls, 1);
        for response in both {
            let mut body = response.into_body();
            let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(data, "half");
            assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "gone");
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_does_not_look_complete_to_a_client() {
        use hyper_util::rt::TokioIo;
        use hyper_util::service::TowerToHyperService;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let pages = Coalesce::new("pages").http(Reads::new());
        let share = BufferResponse::up_to(1_000).with_errors_cloned();
        let app = Router::new()
            .fallback(any(|| async { breaks_off() }))
            .layer(pages.share(share).on_reject(problem()));
        let (mut client, server) = tokio::io::duplex(4_096);
        let serve = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(server), TowerToHyperService::new(app));
        let ask = async {
            client
                .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            text
        };
        let (served, text) = tokio::join!(serve, ask);
        // The connection breaks off, too, perhaps before anything was flushed.
        assert!(served.is_err(), "{text}");
        assert!(!text.contains("content-length"), "{text}");
        assert!(!text.ends_with("0\r\n\r\n"), "{text}");
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
