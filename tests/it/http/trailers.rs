//! Judging at the end of the body.

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use buttress::http::{JudgedBody, Ticket, until_end_of_body};
use buttress::{FailureClass, Outcome, RetryHint, Verdict};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};

use super::classify::request;

fn grpc() -> Ticket {
    Ticket::of(&request("POST", &[("content-type", "application/grpc")]))
}

fn plain(method: &str) -> Ticket {
    Ticket::of(&request(method, &[]))
}

type Told = Receiver<Verdict>;

fn watch<B: Body>(
    ticket: Ticket,
    response: Response<B>,
) -> (Response<JudgedBody<B, impl FnOnce(Verdict) + use<B>>>, Told) {
    let (tell, told) = channel();
    let response = until_end_of_body(ticket, response, move |verdict| tell.send(verdict).unwrap());
    (response, told)
}

fn trailers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
}

async fn with_trailers(ticket: Ticket, fields: &[(&'static str, &str)]) -> Verdict {
    let frames: [Result<_, Infallible>; 2] =
        [Ok(Frame::data(Bytes::from("x"))), Ok(Frame::trailers(trailers(fields)))];
    let body = StreamBody::new(stream::iter(frames));
    let (response, told) = watch(ticket, Response::new(body));
    assert!(told.try_recv().is_err(), "reported before the end");
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap().len(), fields.len());
    let verdict = told.try_recv().unwrap();
    assert!(told.try_recv().is_err(), "reported twice");
    verdict
}

#[tokio::test]
async fn grpc_trailers_decide() {
    let silent =
        Verdict::new(Outcome::Failure(FailureClass::Flaky), RetryHint::Unknown { after: None });
    assert_eq!(with_trailers(grpc(), &[("grpc-status", "0")]).await, Verdict::success());
    assert_eq!(with_trailers(grpc(), &[("grpc-status", "x")]).await, silent);
    assert_eq!(with_trailers(grpc(), &[("x", "y")]).await, silent);
    let pushed = [("grpc-status", "14"), ("grpc-retry-pushback-ms", "20")];
    let after = Some(Duration::from_millis(20));
    assert_eq!(
        with_trailers(grpc(), &pushed).await,
        Verdict::new(Outcome::FAILURE, RetryHint::Safe { after })
    );
    // Trailers of a request that is not gRPC are nobody's business.
    assert_eq!(with_trailers(plain("GET"), &[("grpc-status", "14")]).await, Verdict::success());

    let (response, told) = watch(grpc(), Response::new(Full::<Bytes>::from("x")));
    response.into_body().collect().await.unwrap();
    assert_eq!(told.try_recv(), Ok(silent), "no trailers at all");
}

#[tokio::test]
async fn what_the_head_decides_is_reported_at_once() {
    let mut failed = Response::new(Full::<Bytes>::from("x"));
    *failed.status_mut() = http::StatusCode::BAD_GATEWAY;
    let (response, told) = watch(plain("GET"), failed);
    assert_eq!(told.try_recv(), Ok(Verdict::failure(FailureClass::Transient)));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "x");
    assert!(told.try_recv().is_err());

    let mut trailers_only = Response::new(Full::<Bytes>::from("x"));
    trailers_only.headers_mut().insert("grpc-status", "8".parse().unwrap());
    let (_response, told) = watch(grpc(), trailers_only);
    assert_eq!(told.try_recv(), Ok(Verdict::throttled(None)));

    let mut fine = Response::new(Full::<Bytes>::from("x"));
    fine.headers_mut().insert("grpc-status", "0".parse().unwrap());
    let (_response, told) = watch(grpc(), fine);
    assert_eq!(told.try_recv(), Ok(Verdict::success()));

    let (_response, told) = watch(plain("GET"), Response::new(Empty::<Bytes>::new()));
    assert_eq!(told.try_recv(), Ok(Verdict::success()));

    let (_response, told) = watch(grpc(), Response::new(Empty::<Bytes>::new()));
    assert!(told.try_recv().unwrap().outcome.is_failure(), "an answer that says nothing");
}

#[tokio::test]
async fn the_last_frame_is_enough() {
    // A server stops polling once `is_end_stream` is true.
    let (response, told) = watch(plain("GET"), Response::new(Full::<Bytes>::from("x")));
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert!(body.is_end_stream());
    assert_eq!(told.try_recv(), Ok(Verdict::success()));
}

#[tokio::test]
async fn failing_body_is_by_method() {
    for (method, retry) in [("GET", RetryHint::SAFE), ("POST", RetryHint::Unknown { after: None })]
    {
        let frames = [
            Ok(Frame::data(Bytes::from("x"))),
            Err(io::Error::from(io::ErrorKind::ConnectionReset)),
        ];
        let body = StreamBody::new(stream::iter(frames));
        let (response, told) = watch(plain(method), Response::new(body));
        let error = response.into_body().collect().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(told.try_recv(), Ok(Verdict::new(Outcome::FAILURE, retry)));
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_body_is_a_cancelled_call() {
    let (response, told) = watch(plain("GET"), Response::new(Full::<Bytes>::from("x")));
    tokio::time::advance(Duration::from_secs(3)).await;
    drop(response);
    let elapsed = Duration::from_secs(3);
    assert_eq!(told.try_recv(), Ok(Verdict::new(Outcome::Cancelled { elapsed }, RetryHint::Never)));
}

#[test]
fn panicking_report_in_a_destructor_is_caught() {
    let body = Full::<Bytes>::from("x");
    drop(until_end_of_body(plain("GET"), Response::new(body), |_| panic!("report")));
}
