//! tonic's own client and server around the layer.

use buttress::Slot;
use buttress::conditioner::{Conditioner, ConditionerLayer, Fault, Matcher, Rule};
use buttress::http::status_only;
use tonic::Code;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceBuilder;

use super::{always, armed};

async fn server(layer: Option<Slot<Conditioner>>) -> (Channel, tokio::task::JoinSet<()>) {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", incoming.local_addr().unwrap());
    let (_reporter, health) = tonic_health::server::health_reporter();
    let layer = ConditionerLayer::from_slot(layer.unwrap_or_default());
    let server = Server::builder()
        .layer(layer.http().on_reject(status_only()))
        .add_service(health)
        .serve_with_incoming(incoming);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { server.await.unwrap() });
    (Channel::from_shared(url).unwrap().connect().await.unwrap(), tasks)
}

async fn check<T>(client: &mut HealthClient<T>) -> Result<i32, (Code, String)>
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<tonic::codegen::StdError>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    match client.check(HealthCheckRequest::default()).await {
        Ok(answer) => Ok(answer.into_inner().status),
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}

#[tokio::test]
async fn a_server_answers_with_a_real_status() {
    let slot = Slot::new();
    let (channel, _tasks) = server(Some(slot.clone())).await;
    let mut client = HealthClient::new(channel);
    assert_eq!(check(&mut client).await, Ok(1));
    slot.install(always(Fault::grpc(7, "not you, 100 %")));
    assert_eq!(check(&mut client).await, Err((Code::PermissionDenied, "not you, 100 %".into())));
    slot.install(always(Fault::loss()));
    assert_eq!(check(&mut client).await.unwrap_err().0, Code::Unavailable);
    // Seen as a broken message, or as a reset stream.
    slot.install(always(Fault::truncate_body(3)));
    assert!(check(&mut client).await.is_err());
    let other = Matcher::path("/grpc.other/**");
    slot.install(armed(Rule::new(Fault::loss()).matching(other)));
    assert_eq!(check(&mut client).await, Ok(1));
    slot.install(armed(
        Rule::new(Fault::grpc(14, "")).matching(Matcher::path("/grpc.health.v1.Health/*")),
    ));
    assert_eq!(check(&mut client).await, Err((Code::Unavailable, String::new())));
    slot.uninstall();
    assert_eq!(check(&mut client).await, Ok(1));
}

#[tokio::test]
async fn a_client_meets_faults_on_its_own_side() {
    let (channel, _tasks) = server(None).await;
    for (fault, code) in [
        (Fault::grpc(14, "later"), Some(Code::Unavailable)),
        (Fault::status(429), Some(Code::Unavailable)),
        (Fault::loss(), None),
        (Fault::truncate_body(2), None),
        (Fault::reply_lost(), None),
    ] {
        let kind = fault.kind();
        let faults = always(fault);
        let stack = ServiceBuilder::new().layer(faults.layer().http()).service(channel.clone());
        let (seen, _) = check(&mut HealthClient::new(stack)).await.unwrap_err();
        if let Some(code) = code {
            assert_eq!(seen, code, "{kind:?}");
        }
        assert_eq!(faults.stats().rules[0].injected, 1, "{kind:?}");
    }
}
