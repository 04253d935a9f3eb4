//! Whole stacks: the contract, real requests, and what no plan of ours may say.

use std::io;
use std::time::Duration;

use buttress::presets::{
    BreakerPlan, ClientPlan, HedgePlan, LintSeverity, RateLimitPlan, RetryPlan, ServerPlan, client,
    lint, server,
};
use buttress::testing::{Answer, Property, Subject, check, check_all};
use buttress::timeout::Timeout;
use buttress::{BoxError, Rejection};
use tower::{Service, ServiceExt};

fn add(n: u32) -> io::Result<u32> {
    Ok(n + 1)
}

fn broke() -> io::Error {
    io::Error::other("inner broke")
}

#[tokio::test(start_paused = true)]
async fn the_timeout_keeps_the_contract() {
    let timeout = Timeout::new("contract", Duration::from_secs(60)).unwrap();
    let subject = Subject::new(move || timeout.layer(), || 1_u32, add).ready_error(broke);
    check_all(&subject.stateless()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_clients_stack_keeps_the_contract() {
    let full = || client(&ClientPlan::new("contract")).unwrap();
    // With a backend the service is always ready: waiting is part of the call. An error is not the answer
    // before there is no more time to try again.
    let subject = Subject::new(full, || 1_u32, add).stateless();
    let subject = subject.polls_inner_in_ready(false);
    for property in Property::ALL {
        if *property != Property::InnerReadyErrorIsPassedThrough {
            check(&subject, *property).await.unwrap();
        }
    }
    let unretried = || {
        let mut plan = ClientPlan::new("contract");
        plan.retry = RetryPlan::Never;
        client(&plan).unwrap()
    };
    let subject = Subject::new(unretried, || 1_u32, add).ready_error(broke);
    check_all(&subject.stateless().polls_inner_in_ready(false)).await.unwrap();
    let once = || {
        let mut plan = ClientPlan::bare("contract");
        plan.total_timeout = Some(Duration::from_secs(10));
        plan.attempt_timeout = Some(Duration::from_secs(3));
        plan.breaker = Some(BreakerPlan::default());
        client(&plan).unwrap()
    };
    let subject = Subject::new(once, || 1_u32, add).ready_error(broke).shared_state(
        |mut one, mut two, probe| async move {
            for _ in 0..20 {
                probe.next(Answer::Ready(Err(io::Error::other("down"))));
                let _ = one.ready().await.map_err(|e| e.to_string())?.call(1).await;
            }
            refused(two.ready().await.map_err(|e| e.to_string())?.call(1).await)
        },
    );
    check_all(&subject).await.unwrap();
    let bare = || client(&ClientPlan::bare("contract")).unwrap();
    let subject = Subject::new(bare, || 1_u32, add).ready_error(broke).stateless();
    check_all(&subject).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_servers_stack_keeps_the_contract() {
    let limited = || {
        let mut plan = ServerPlan::new("contract");
        plan.rate_limit = Some(RateLimitPlan::new("60/m burst 100".parse().unwrap()));
        server(&plan).unwrap()
    };
    let subject = Subject::new(limited, || 1_u32, add).ready_error(broke).shared_state(
        |mut one, mut two, _probe| async move {
            for _ in 0..100 {
                let _ = one.ready().await.map_err(|e| e.to_string())?.call(1).await;
            }
            refused(two.ready().await.map_err(|e| e.to_string())?.call(1).await)
        },
    );
    // With a rate limit the service is always ready: waiting is part of the call.
    check_all(&subject.polls_inner_in_ready(false)).await.unwrap();
    let free = || server(&ServerPlan::new("contract")).unwrap();
    let subject = Subject::new(free, || 1_u32, add).ready_error(broke).stateless();
    check_all(&subject).await.unwrap();
}

fn refused(answer: Result<u32, BoxError>) -> Result<(), String> {
    match answer {
        Err(error) if Rejection::find(&*error).is_some() => Ok(()),
        other => Err(format!("the second service answered {other:?}")),
    }
}

proptest::proptest! {
    /// Whatever times a plan has, in the order total above attempt above the first pause, it can be built.
    #[test]
    fn plans_in_order_have_no_errors(attempt in 51_u64..100_000, more in 1_u64..100_000) {
        let mut plan = ClientPlan::new("any");
        plan.attempt_timeout = Some(Duration::from_millis(attempt));
        plan.total_timeout = Some(Duration::from_millis(attempt + more));
        let mut hedge = HedgePlan::default();
        hedge.min_delay = Duration::from_millis(attempt - 1);
        plan.hedge = Some(hedge);
        proptest::prop_assert!(lint(&plan).iter().all(|l| l.severity != LintSeverity::Error));
        proptest::prop_assert!(client(&plan).is_ok());
        // And out of order it cannot.
        plan.attempt_timeout = plan.total_timeout;
        proptest::prop_assert!(client(&plan).is_err());
    }
}

#[cfg(feature = "http")]
mod http {
    use axum::Router;
    use axum::body::Body;
    use axum::http::{Request, Response, StatusCode};
    use axum::routing::get;
    use buttress::http::{ContextLayer, SendContextLayer};
    use buttress::{Context, Criticality, Deadline};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use tower::{Layer, ServiceBuilder, service_fn};

    use super::*;
    use crate::support::Server;

    fn get_with(path: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
        let mut request = Request::get(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_server_answers_refusals_as_problems_over_real_connections() {
        let mut plan = ServerPlan::new("api");
        plan.rate_limit = Some(RateLimitPlan::new("3/m burst 3".parse().unwrap()));
        plan.timeout = Some(Duration::from_millis(300));
        let stack = server(&plan).unwrap().http();
        let app = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/hangs", get(std::future::pending::<&'static str>))
            .layer(stack.clone())
            .layer(ContextLayer::new("api"));
        let mut server = Server::start(app).await;
        let mut connection = server.connect().await;
        assert_eq!(connection.get("/").await.body(), "hello");
        let late = connection.get("/hangs").await;
        assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(late.headers()["content-type"], "application/problem+json");
        let cut = connection.send(get_with("/hangs", &[("x-request-timeout-ms", "20")])).await;
        assert_eq!(cut.status(), StatusCode::GATEWAY_TIMEOUT);
        let mut other = server.connect().await;
        assert_eq!(other.get("/").await.status(), StatusCode::TOO_MANY_REQUESTS);
        // Not even counted by the limit.
        let gone = other.send(get_with("/", &[("x-request-timeout-ms", "0")])).await;
        assert_eq!(gone.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(stack.failure_budget().unwrap().stats().samples, 2);
    }

    #[tokio::test]
    async fn a_client_around_hyper_tells_the_callee_what_is_left() {
        async fn left(request: Request<Body>) -> String {
            let context = Context::of(request.extensions());
            let left = context.deadline().unwrap().remaining().as_millis();
            format!("{left} {}", context.criticality().as_str())
        }
        let app = Router::new().route("/", get(left)).layer(ContextLayer::new("callee"));
        let server = Server::start(app).await;
        let hyper = Client::builder(TokioExecutor::new()).build_http::<String>();
        let service = ServiceBuilder::new()
            .layer(client(&ClientPlan::new("callee")).unwrap().http())
            .layer(SendContextLayer::new("callee"))
            .service(hyper);
        let mut request =
            Request::get(format!("http://{}/", server.addr())).body(String::new()).unwrap();
        let context = Context::new().with_criticality(Criticality::Sheddable);
        context
            .with_deadline(Deadline::after(Duration::from_secs(2)))
            .put(request.extensions_mut());
        let answer = service.oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(Body::new(answer.into_body()), 100).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let (left, class) = text.split_once(' ').unwrap();
        assert_eq!(class, "sheddable");
        assert!((1..=2000).contains(&left.parse::<u32>().unwrap()), "{left}");
    }

    async fn arrives(layer: ContextLayer, headers: &[(&'static str, &str)]) -> Option<Context> {
        let service = layer.layer(service_fn(|request: Request<Body>| async move {
            let mut answer = Response::new(Body::empty());
            answer.extensions_mut().insert(Context::of(request.extensions()));
            Ok::<_, std::convert::Infallible>(answer)
        }));
        let Ok(answer) = service.oneshot(get_with("/", headers)).await;
        answer.extensions().get().copied()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_request_says_is_read_and_capped() {
        let ms = Duration::from_millis;
        #[expect(clippy::type_complexity, reason = "a table")]
        let cases: &[(&[(&'static str, &str)], Option<u64>, Criticality)] = &[
            (&[], None, Criticality::Critical),
            (&[("x-request-timeout-ms", "70")], Some(70), Criticality::Critical),
            (
                &[("grpc-timeout", "50m"), ("x-request-timeout-ms", "70")],
                Some(50),
                Criticality::Critical,
            ),
            (
                &[("grpc-timeout", "7S"), ("x-request-timeout-ms", "70")],
                Some(70),
                Criticality::Critical,
            ),
            (
                &[("grpc-timeout", "soon"), ("x-request-timeout-ms", "-1")],
                None,
                Criticality::Critical,
            ),
            (&[("x-request-criticality", "Sheddable")], None, Criticality::Sheddable),
            (&[("x-request-criticality", "critical_plus")], None, Criticality::Critical),
            (&[("x-request-criticality", "9")], None, Criticality::Critical),
        ];
        for (headers, left, class) in cases {
            let free = arrives(ContextLayer::new("t"), headers).await.unwrap();
            let expected = left.map(|left| Deadline::after(ms(left)));
            assert_eq!((free.deadline(), free.criticality()), (expected, *class), "{headers:?}");
            let capped = ContextLayer::new("t").max_deadline(ms(60)).unwrap();
            let capped = arrives(capped, headers).await.unwrap();
            let expected = Deadline::after(ms(left.unwrap_or(60).min(60)));
            assert_eq!(capped.deadline(), Some(expected), "{headers:?}");
        }
        // Also where no header says anything.
        let low = ContextLayer::new("t").max_criticality(Criticality::Sheddable);
        let context = arrives(low, &[]).await.unwrap();
        assert_eq!((context.deadline(), context.criticality()), (None, Criticality::Sheddable));
        let trusted = ContextLayer::new("t").max_criticality(Criticality::CriticalPlus);
        let context = arrives(trusted, &[("x-request-criticality", "critical_plus")]).await;
        assert_eq!(context.unwrap().criticality(), Criticality::CriticalPlus);
    }

    #[tokio::test(start_paused = true)]
    async fn expired_calls_are_not_made_and_grpc_gets_its_status() {
        let never = || {
            service_fn(|_: Request<Body>| async {
                #[expect(unreachable_code, reason = "it must not be called")]
                Ok::<Response<Body>, io::Error>(panic!("sent"))
            })
        };
        let grpc = [("content-type", "application/grpc"), ("grpc-timeout", "0n")];
        let server = || ContextLayer::new("t").layer(never());
        let answer = server().oneshot(get_with("/", &grpc)).await.unwrap();
        assert_eq!(
            (answer.status(), &answer.headers()["grpc-status"]),
            (StatusCode::OK, &"4".parse().unwrap())
        );
        let answer = server().oneshot(get_with("/", &grpc[1..])).await.unwrap();
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        for left in [Duration::ZERO, Duration::from_micros(999)] {
            let mut request = get_with("/", &[]);
            Deadline::after(left).put(request.extensions_mut());
            let error =
                SendContextLayer::new("t").layer(never()).oneshot(request).await.unwrap_err();
            let why = buttress::Rejection::find(&*error).unwrap();
            assert_eq!(why.kind(), buttress::RejectionKind::DeadlineExceeded);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn grpc_is_told_in_its_own_header_and_a_default_says_nothing() {
        let seen = service_fn(|request: Request<Body>| async move {
            let (parts, body) = request.into_parts();
            let mut answer = Response::new(body);
            *answer.headers_mut() = parts.headers;
            Ok::<_, io::Error>(answer)
        });
        let send = SendContextLayer::new("t").layer(seen);
        let grpc = [("content-type", "application/grpc"), ("x-request-criticality", "sheddable")];
        let mut request = get_with("/", &grpc);
        Deadline::after(Duration::from_millis(1500)).put(request.extensions_mut());
        let sent = send.clone().oneshot(request).await.unwrap();
        assert_eq!(sent.headers()["grpc-timeout"], "1500000u");
        assert!(!sent.headers().contains_key("x-request-timeout-ms"));
        assert!(!sent.headers().contains_key("x-request-criticality"));
        // A shorter time of the sender's own stays.
        let mut request = get_with("/", &[("x-request-timeout-ms", "5")]);
        Deadline::after(Duration::from_millis(1500)).put(request.extensions_mut());
        assert_eq!(send.oneshot(request).await.unwrap().headers()["x-request-timeout-ms"], "5");
    }
}
