//! What a client of gRPC sees when a timeout ends its call: the status, not one of HTTP's.

use std::convert::Infallible;
use std::time::Duration;

use buttress::http::{problem, status_only};
use buttress::timeout::Timeout;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::Full;
use tonic::Code;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::util::AndThenLayer;
use tower::{Layer, ServiceExt, service_fn};

/// What a client is told by a server that takes so long.
async fn told(takes: Duration) -> Result<i32, Code> {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", incoming.local_addr().unwrap());
    let (_reporter, health) = tonic_health::server::health_reporter();
    let timeout = Timeout::new("api", Duration::from_millis(300)).unwrap().layer();
    let slow = AndThenLayer::new(move |answer: Response<Body>| async move {
        tokio::time::sleep(takes).await;
        Ok::<_, Infallible>(answer)
    });
    let server = Server::builder()
        .layer(timeout.on_reject(status_only().grpc()))
        .layer(slow)
        .add_service(health)
        .serve_with_incoming(incoming);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { server.await.unwrap() });
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    answer.map(|answer| answer.into_inner().status).map_err(|status| status.code())
}

#[tokio::test]
async fn a_client_is_told_that_its_time_is_over() {
    assert_eq!(told(Duration::ZERO).await, Ok(1));
    assert_eq!(told(Duration::from_secs(60)).await, Err(Code::DeadlineExceeded));
}

#[tokio::test]
async fn it_is_one_head_without_body_and_http_says_ok() {
    let timeout = Timeout::new("api", Duration::from_millis(1)).unwrap().layer();
    let call = || Request::post("/pkg.Service/Method").body(()).unwrap();
    let never =
        service_fn(|_: Request<()>| std::future::pending::<Result<Response<Body>, Infallible>>());
    let service = timeout.on_reject(status_only().grpc()).layer(never);
    let answer = service.oneshot(call()).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["grpc-status"]),
        (200, &"4".parse().unwrap())
    );
    assert_eq!(answer.headers()["content-type"], "application/grpc");
    assert!(answer.body().is_end_stream());

    let never = service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    });
    let answer = timeout.on_reject(problem().grpc()).layer(never).oneshot(call()).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["grpc-status"]),
        (200, &"4".parse().unwrap())
    );
    // Without being told it is HTTP's way.
    let answer = timeout.on_reject(problem()).layer(never).oneshot(call()).await.unwrap();
    assert_eq!(answer.status(), 504);
}
