//! The default stack around a tonic channel, as the generated clients use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use buttress::Backend;
use buttress::http::{ReplayBody, SendContextLayer, replay_up_to, status_only};
use buttress::presets::{ClientPlan, client};
use buttress::retry::HttpRequest;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use super::server::nobody;
use super::{is_empty, ms, sleep, until};

type Stack =
    BoxCloneSyncService<hyper::Request<Body>, hyper::Response<Body>, tonic::transport::Error>;

/// The body is not `Clone`, and refusals are to be statuses: then errors stay what they are, too.
fn stack(plan: &ClientPlan, channel: Channel) -> (Backend, HealthClient<Stack>) {
    let stack = client(plan).unwrap().http();
    let stack = stack.replay(HttpRequest::new()).on_reject(status_only().grpc());
    let backend = stack.backend().unwrap().clone();
    let service = ServiceBuilder::new()
        .layer(replay_up_to(64 * 1024))
        .layer(stack)
        .layer(SendContextLayer::new("health").on_reject(status_only().grpc()))
        .map_request(|request: hyper::Request<ReplayBody<Body>>| request.map(Body::new))
        .service(channel);
    (backend, HealthClient::new(BoxCloneSyncService::new(service)))
}

/// A health check whose first `fails` calls get `with`.
async fn serve(fails: u32, with: Status) -> (String, Arc<AtomicU32>, HealthReporter) {
    let incoming = TcpIncoming::from(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let url = format!("http://{}", incoming.local_addr().unwrap());
    let (reporter, health) = tonic_health::server::health_reporter();
    let calls = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&calls);
    let check = move |request: Request<()>| {
        if seen.fetch_add(1, Ordering::SeqCst) < fails { Err(with.clone()) } else { Ok(request) }
    };
    let server = tonic::transport::Server::builder()
        .layer(tonic::service::InterceptorLayer::new(check))
        .add_service(health)
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    (url, calls, reporter)
}

async fn connect(url: String) -> Channel {
    Channel::from_shared(url).unwrap().connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_answers_many_tasks() {
    let (url, _, _reporter) = serve(0, Status::ok("")).await;
    let (backend, health) = stack(&ClientPlan::new("health"), connect(url).await);
    let calls: Vec<JoinHandle<_>> = (0..200)
        .map(|_| {
            let mut health = health.clone();
            tokio::spawn(async move { health.check(HealthCheckRequest::default()).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    is_empty(&backend);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_say_what_is_tried_again() {
    for (status, again) in [
        (Status::unavailable("not yet"), true),
        (Status::resource_exhausted("not so many"), true),
        (Status::invalid_argument("never"), false),
    ] {
        let code = status.code();
        let (url, calls, _reporter) = serve(1, status).await;
        let (backend, mut health) = stack(&ClientPlan::new("health"), connect(url).await);
        let answer = health.check(HealthCheckRequest::default()).await;
        assert_eq!(answer.is_ok(), again, "{code:?}: {answer:?}");
        assert!(again || answer.is_err_and(|status| status.code() == code));
        assert_eq!(calls.load(Ordering::SeqCst), if again { 2 } else { 1 }, "{code:?}");
        is_empty(&backend);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_ours_arrives_as_a_status() {
    let url = format!("http://{}", nobody());
    let channel = Channel::from_shared(url).unwrap().connect_lazy();
    let mut plan = ClientPlan::new("health");
    plan.total_timeout = Some(ms(300));
    let (backend, mut health) = stack(&plan, channel);
    let status = health.check(HealthCheckRequest::default()).await.unwrap_err();
    assert!(matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded), "{status:?}");
    is_empty(&backend);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_when_the_call_is_over_and_ends_when_it_is_dropped() {
    let (url, _, reporter) = serve(0, Status::ok("")).await;
    let mut plan = ClientPlan::new("health");
    plan.total_timeout = Some(ms(300));
    let (backend, mut health) = stack(&plan, connect(url).await);
    let watched = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut updates = watched.into_inner();
    is_empty(&backend);
    updates.message().await.unwrap().unwrap();
    sleep(ms(400)).await;
    reporter.set_service_status("", ServingStatus::NotServing).await;
    let told = updates.message().await.unwrap().unwrap();
    assert_eq!(told.status, 2, "longer than a call may take");
    drop(updates);
    health.check(HealthCheckRequest::default()).await.unwrap();
    is_empty(&backend);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_leave_nothing() {
    // Connections come to be, and then nothing is ever said.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut plan = ClientPlan::new("health");
    plan.backend.as_mut().unwrap().in_flight = Some(3);
    let channel = Channel::from_shared(url).unwrap().connect_lazy();
    let (backend, health) = stack(&plan, channel);
    let calls: Vec<JoinHandle<_>> = (0..10)
        .map(|_| {
            let mut health = health.clone();
            tokio::spawn(async move { health.check(HealthCheckRequest::default()).await })
        })
        .collect();
    until("all have come", || backend.stats().in_flight == 3 && backend.stats().waiting == 7).await;
    for call in calls {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    is_empty(&backend);
}
