//! The health of a process as gRPC's own health service tells it, over a real connection.

use std::time::Duration;

use buttress::supervise::health::{Health, Probe};
use buttress::supervise::{Lifecycle, Phase};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the server and what tells it are others'")]
async fn grpc_clients_are_told_of_a_shutdown() {
    let life = Lifecycle::new();
    let health = Health::new(life.clone());
    let gate = health.gate("database");

    let (reporter, service) = tonic_health::server::health_reporter();
    let told = health.follow(Probe::Ready, Duration::from_millis(5), move |ready| {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        let reporter = reporter.clone();
        async move { reporter.set_service_status("", status).await }
    });
    tokio::spawn(told);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming),
    );

    let channel = tonic::transport::Endpoint::new(format!("http://{addr}")).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    let request = HealthCheckRequest { service: String::new() };
    let mut updates = client.watch(request).await.unwrap().into_inner();
    let mut next = async |status: ServingStatus| loop {
        let update = tokio::time::timeout(Duration::from_secs(20), updates.message());
        // What is not the awaited one is an earlier answer.
        if update.await.unwrap().unwrap().unwrap().status == status as i32 {
            break;
        }
    };
    next(ServingStatus::NotServing).await;
    life.advance(Phase::Ready, None);
    gate.open();
    next(ServingStatus::Serving).await;
    life.advance(Phase::LameDuck, None);
    next(ServingStatus::NotServing).await;
}
