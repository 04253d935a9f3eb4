//! The tables of `standard`.

use std::convert::Infallible;
use std::time::Duration;

use buttress::http::{Standard, standard};
use buttress::{
    BoxError, Classify, FailureClass, LayerKind, Outcome, Rejection, RejectionKind, RetryHint,
    Typed, Verdict,
};
use http::{HeaderValue, Request, Response};
use proptest::prelude::*;

const SUCCESS: Verdict = Verdict::success();
const TRANSIENT: Outcome = Outcome::Failure(FailureClass::Transient);
const FLAKY: Outcome = Outcome::Failure(FailureClass::Flaky);
const PERMANENT: Verdict =
    Verdict::new(Outcome::Failure(FailureClass::Permanent), RetryHint::Never);

pub(crate) fn request(method: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn response(status: u16, headers: &[(&str, &str)]) -> Response<()> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(()).unwrap()
}

fn judge(request: &Request<()>, response: &Response<()>) -> Verdict {
    let c: Standard<Typed> = standard();
    let ticket = Classify::<_, Response<()>, Infallible>::start(&c, request);
    Classify::<Request<()>, _, Infallible>::finish(&c, ticket, Ok(response))
}

#[test]
fn every_status_has_the_documented_verdict() {
    let after = Some(Duration::from_secs(3));
    for (idempotent, request) in [
        (true, request("GET", &[])),
        (true, request("PUT", &[])),
        (true, request("POST", &[("idempotency-key", "a")])),
        (false, request("POST", &[])),
        (false, request("PATCH", &[])),
        (false, request("POST", &[("idempotency-key", "")])),
    ] {
        for wait in [None, after] {
            let by_method = if idempotent {
                RetryHint::Safe { after: wait }
            } else {
                RetryHint::Unknown { after: wait }
            };
            let safe = RetryHint::Safe { after: wait };
            for status in 100..=999u16 {
                let expected = match status {
                    408 => Verdict::new(TRANSIENT, safe),
                    409 if idempotent && wait.is_some() => Verdict::new(Outcome::Ignored, safe),
                    425 => Verdict::new(Outcome::Ignored, safe),
                    429 => Verdict::new(Outcome::Throttled, safe),
                    100..=499 => SUCCESS,
                    501 | 505 | 506 | 508 | 510 | 511 => PERMANENT,
                    502..=504 => Verdict::new(TRANSIENT, by_method),
                    _ => Verdict::new(FLAKY, by_method),
                };
                let fields: &[_] = if wait.is_some() { &[("retry-after", "3")] } else { &[] };
                let verdict = judge(&request, &response(status, fields));
                assert_eq!(verdict, expected, "{} {status} {wait:?}", request.method());
            }
        }
    }
}

#[test]
fn idempotent_methods_are_those_of_the_rfc() {
    for (method, expected) in [
        ("GET", true),
        ("HEAD", true),
        ("OPTIONS", true),
        ("TRACE", true),
        ("PUT", true),
        ("DELETE", true),
        ("POST", false),
        ("PATCH", false),
        ("CONNECT", false),
        ("PURGE", false),
    ] {
        let ticket = buttress::http::Ticket::of(&request(method, &[]));
        assert_eq!(ticket.is_idempotent(), expected, "{method}");
    }
}

#[test]
fn grpc_is_known_by_its_content_type() {
    for (content_type, expected) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc;charset=utf-8", true),
        ("Application/GRPC", true),
        ("application/grpc-web", true),
        ("application/grpc-web-text+proto", true),
        ("application/grpcfoo", false),
        ("application/json", false),
        ("application/gr", false),
        ("", false),
    ] {
        let ticket =
            buttress::http::Ticket::of(&request("POST", &[("content-type", content_type)]));
        assert_eq!(ticket.is_grpc(), expected, "{content_type}");
    }
}

#[test]
fn every_grpc_code_has_the_documented_verdict() {
    let call = request("POST", &[("content-type", "application/grpc")]);
    let keyed = request("POST", &[("content-type", "application/grpc"), ("idempotency-key", "a")]);
    let unknown = RetryHint::Unknown { after: None };
    for (code, outcome, retry) in [
        ("0", Outcome::Success, RetryHint::Never),
        ("1", Outcome::Ignored, RetryHint::Never),
        ("2", FLAKY, unknown),
        ("3", Outcome::Success, RetryHint::Never),
        ("4", TRANSIENT, unknown),
        ("5", Outcome::Success, RetryHint::Never),
        ("6", Outcome::Success, RetryHint::Never),
        ("7", Outcome::Success, RetryHint::Never),
        ("8", Outcome::Throttled, RetryHint::SAFE),
        ("9", Outcome::Success, RetryHint::Never),
        ("10", Outcome::Success, RetryHint::Never),
        ("11", Outcome::Success, RetryHint::Never),
        ("12", PERMANENT.outcome, RetryHint::Never),
        ("13", FLAKY, unknown),
        ("14", TRANSIENT, RetryHint::SAFE),
        ("15", PERMANENT.outcome, RetryHint::Never),
        ("16", Outcome::Success, RetryHint::Never),
        ("17", FLAKY, unknown),
        ("4294967296", FLAKY, unknown),
        ("99999999999999999999999999", FLAKY, unknown),
        ("-1", FLAKY, unknown),
        ("", FLAKY, unknown),
        ("UNAVAILABLE", FLAKY, unknown),
    ] {
        let plain = response(200, &[("grpc-status", code)]);
        assert_eq!(judge(&call, &plain), Verdict::new(outcome, retry), "{code}");

        // With a key, "unknown" becomes "safe"; nothing else changes.
        let with_key = if retry == unknown { RetryHint::SAFE } else { retry };
        assert_eq!(judge(&keyed, &plain), Verdict::new(outcome, with_key), "{code}");

        // A negative pushback forbids every retry.
        let forbidden = response(200, &[("grpc-status", code), ("grpc-retry-pushback-ms", "-1")]);
        assert_eq!(judge(&call, &forbidden).retry, RetryHint::Never, "{code}");

        // A good one becomes the delay where there may be a retry.
        let pushed = response(200, &[("grpc-status", code), ("grpc-retry-pushback-ms", "250")]);
        let wait = Some(Duration::from_millis(250));
        let expected = match retry {
            _ if code == "10" => Verdict::new(Outcome::Ignored, RetryHint::Safe { after: wait }),
            RetryHint::Safe { .. } => Verdict::new(outcome, RetryHint::Safe { after: wait }),
            RetryHint::Unknown { .. } => Verdict::new(outcome, RetryHint::Unknown { after: wait }),
            _ => Verdict::new(outcome, RetryHint::Never),
        };
        assert_eq!(judge(&call, &pushed), expected, "{code}");
    }
}

#[test]
fn grpc_status_counts_only_for_grpc_requests() {
    let answer = response(200, &[("grpc-status", "14")]);
    assert_eq!(judge(&request("POST", &[]), &answer), SUCCESS);
    let call = request("POST", &[("content-type", "application/grpc")]);
    assert_eq!(judge(&call, &response(200, &[])), SUCCESS);
    assert_eq!(
        judge(&call, &response(503, &[])),
        Verdict::new(TRANSIENT, RetryHint::Unknown { after: None })
    );
}

#[test]
fn our_own_refusal_keeps_its_verdict_behind_http() {
    let c = standard();
    let call = request("POST", &[]);
    for (kind, outcome, retry) in [
        (RejectionKind::CircuitOpen, Outcome::Ignored, RetryHint::Never),
        (RejectionKind::Draining, Outcome::Ignored, RetryHint::SAFE),
        (RejectionKind::Injected, TRANSIENT, RetryHint::SAFE),
    ] {
        let error: BoxError = Rejection::new(kind, LayerKind::Custom("test"), "t").into();
        let ticket = Classify::<_, Response<()>, BoxError>::start(&c, &call);
        let verdict = Classify::<Request<()>, Response<()>, _>::finish(&c, ticket, Err(&error));
        assert_eq!(verdict, Verdict::new(outcome, retry), "{kind:?}");
    }
}

/// The type parameter is found from the error type alone.
#[test]
fn the_marker_is_inferred() {
    fn check<E, C: Classify<Request<()>, Response<()>, E>>(_: C) {}
    check::<Infallible, _>(standard());
    check::<BoxError, _>(standard());
    check::<std::io::Error, _>(standard());
    check::<hyper::Error, _>(standard());
    check::<reqwest::Error, _>(standard());
    check::<tonic::transport::Error, _>(standard());
    check::<hyper_util::client::legacy::Error, _>(standard());
}

proptest! {
    #[test]
    fn hostile_responses_never_panic(
        status in 100u16..=999,
        value in prop::collection::vec(any::<u8>(), 0..60),
        grpc in any::<bool>(),
    ) {
        let value = HeaderValue::from_bytes(&value).unwrap_or(HeaderValue::from_static("x"));
        let mut answer = response(status, &[]);
        for name in ["retry-after", "date", "grpc-status", "grpc-retry-pushback-ms"] {
            answer.headers_mut().insert(name, value.clone());
        }
        let mut call = request("POST", &[]);
        if grpc {
            call.headers_mut()
                .insert("content-type", HeaderValue::from_static("application/grpc"));
        }
        call.headers_mut().insert("idempotency-key", value);
        let verdict = judge(&call, &answer);
        prop_assert!(verdict.retry.after().is_none_or(|wait| wait <= buttress::http::MAX_RETRY_AFTER));
    }
}

#[test]
fn a_megabyte_of_header_is_harmless() {
    let long = "9".repeat(1 << 20);
    let answer = response(429, &[("retry-after", &long), ("date", &long)]);
    let after = Some(buttress::http::MAX_RETRY_AFTER);
    assert_eq!(judge(&request("GET", &[]), &answer).retry, RetryHint::Safe { after });
    let call = request("POST", &[("content-type", "application/grpc")]);
    let answer = response(200, &[("grpc-status", &long)]);
    assert_eq!(judge(&call, &answer).outcome, FLAKY);
}
