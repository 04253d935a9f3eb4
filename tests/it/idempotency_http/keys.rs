//! Which requests are covered, whose keys they are, and what makes them the same.

use super::*;
use axum::http::{HeaderName, HeaderValue, Method};
use buttress::http::Buffered;
use buttress::idempotency::OverSize;
use futures_util::stream;

#[tokio::test]
async fn without_a_key_a_request_passes_unless_one_is_required() {
    let runs = Runs::default();
    let plain = || Request::post("/payments").body(Body::from("a")).unwrap();
    let optional = echo(&runs).layer(builder().build().unwrap());
    for run in 1..=2 {
        let answer = send(&optional, plain()).await;
        assert_eq!(answer.text(), format!("run {run}: a"));
        assert_eq!(answer.header("idempotency-status"), None);
    }
    let required = echo(&runs).layer(builder().required().build().unwrap());
    let answer = send(&required, plain()).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.kind(), Some("idempotency_key_missing"));
    let get = Request::get("/payments").body(Body::empty()).unwrap();
    assert_eq!(send(&required, get).await.status, 200, "a GET needs none");
    assert_eq!(runs.count(), 3);
}

#[tokio::test]
async fn both_forms_of_a_key_are_the_same_key() {
    let runs = Runs::default();
    let app = echo(&runs).layer(builder().build().unwrap());
    for key in [KEY.to_owned(), format!("\"{KEY}\""), format!("  \"{KEY}\" ")] {
        assert_eq!(send(&app, post(&key, "a")).await.text(), "run 1: a");
    }
    let quoted_only = echo(&runs).layer(builder().quoted_keys_only().build().unwrap());
    assert_eq!(send(&quoted_only, post(KEY, "a")).await.status, 400);
    assert_eq!(send(&quoted_only, post(&format!("\"{KEY}\""), "a")).await.status, 200);
}

#[tokio::test]
async fn hostile_keys_are_refused_and_never_passed_through() {
    let runs = Runs::default();
    let app = echo(&runs).layer(builder().build().unwrap());
    let long = "x".repeat(256);
    let hostile: [&[u8]; 20] = [
        b"",
        b"   ",
        b"short",
        long.as_bytes(),
        b"\"\"",
        b"\"",
        b"\"8e03978e-40d5-43dd-bc93-6894a57f9324",
        b"8e03978e-40d5-43dd-bc93-6894a57f9324\"",
        b"\"8e03978e-40d5-43dd\" \"bc93-6894a57f9324\"",
        b"\"8e03978e-40d5-43dd-bc93\";a=1",
        b"8e03978e-40d5-43dd-bc93;a=1",
        b"8e03978e-40d5-43dd,bc93-6894a57f9324",
        b"8e03978e-40d5-43dd, bc93-6894a57f9324",
        b"8e03978e-40d5 43dd-bc93-6894a57f9324",
        b"8e03978e-40d5-43dd\tbc93-6894a57f9324",
        b"\"8e03978e\\n40d5-43dd-bc93-6894a57f9324\"",
        b"\"8e03978e-40d5-43dd-bc93-6894a57f9324\\\"",
        b"\"8e03978e\xff40d5-43dd-bc93-6894a57f9324\"",
        b"8e03978e\xc3\xa940d5-43dd-bc93-6894a57f9324",
        b"\"8e03978e\t40d5-43dd-bc93-6894a57f9324\"",
    ];
    for key in hostile {
        let mut request = post(KEY, "a");
        let value = HeaderValue::from_bytes(key).unwrap();
        request.headers_mut().insert("idempotency-key", value);
        let answer = send(&app, request).await;
        let shown = key.escape_ascii();
        assert_eq!(answer.status, 400, "{shown}");
        assert_eq!(answer.kind(), Some("idempotency_key_invalid"), "{shown}");
    }
    assert_eq!(runs.count(), 0);
}

/// Whoever reads the answer must be able to mend the call.
#[tokio::test]
async fn a_refused_key_is_told_what_a_key_must_be() {
    let detail = |answer: &Answer| {
        let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        document["detail"].as_str().unwrap().to_owned()
    };
    let rules = r#"expected one `idempotency-key` field with 16 to 255 characters: visible ASCII without `"`, `\`, `,` and `;`, or printable ASCII in double quotes, with `\` before `"` and `\`"#;
    let app = echo(&Runs::default()).layer(builder().required().build().unwrap());
    let short = send(&app, post("short", "a")).await;
    let said = "idempotency key not valid: the idempotency key is too short, ";
    assert_eq!(detail(&short), format!("{said}{rules}"));
    let malformed = send(&app, post("\"open", "a")).await;
    assert_eq!(detail(&malformed), format!("idempotency key not valid: {rules}"));
    let mut twice = post(KEY, "a");
    twice.headers_mut().append("idempotency-key", KEY.parse().unwrap());
    let said = "idempotency key not valid: there are several idempotency keys, ";
    assert_eq!(detail(&send(&app, twice).await), format!("{said}{rules}"));
    let mut none = post(KEY, "a");
    none.headers_mut().clear();
    assert_eq!(detail(&send(&app, none).await), format!("idempotency key missing: {rules}"));

    // As the layer is set up.
    let name = HeaderName::from_static("x-key");
    let layer = builder().header(name).key_length(1..=8).quoted_keys_only().build().unwrap();
    let app = echo(&Runs::default()).layer(layer);
    let bare = Request::post("/").header("x-key", "bare").body(Body::empty()).unwrap();
    let answer = send(&app, bare).await;
    let rules = r#"expected one `x-key` field with 1 to 8 characters: printable ASCII in double quotes, with `\` before `"` and `\`"#;
    assert_eq!(detail(&answer), format!("idempotency key not valid: {rules}"));

    // And in gRPC.
    let mut call = post("short", "a");
    call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let answer = send(&echo(&Runs::default()).layer(builder().build().unwrap()), call).await;
    let message = answer.header("grpc-message").unwrap();
    assert!(message.contains("with 16 to 255 characters"), "{message}");
}

/// As an error, for those who do not answer in HTTP.
#[tokio::test]
async fn a_refused_key_is_told_what_a_key_must_be_by_the_error_too() {
    let layer = builder().build().unwrap().on_reject(buttress::AsError);
    let inner =
        tower::service_fn(|_| async { Ok::<_, std::io::Error>(Response::new(Body::empty())) });
    let service = tower::Layer::layer(&layer, inner);
    let error = service.oneshot(post("short", "a")).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("too short, expected one `idempotency-key` field with 16 to"), "{text}");
}

#[tokio::test]
async fn two_keys_are_an_error_even_if_they_are_alike() {
    let runs = Runs::default();
    let app = echo(&runs).layer(builder().build().unwrap());
    for second in [KEY, "another-key-that-is-long-enough"] {
        let mut request = post(KEY, "a");
        request.headers_mut().append("idempotency-key", second.parse().unwrap());
        assert_eq!(send(&app, request).await.status, 400);
    }
    assert_eq!(runs.count(), 0);
}

#[tokio::test]
async fn lengths_and_the_name_of_the_field_can_be_chosen() {
    let runs = Runs::default();
    let header = HeaderName::from_static("paypal-request-id");
    let layer = builder().key_length(1..=4).header(header).build().unwrap();
    let app = echo(&runs).layer(layer);
    let with = |key: &'static str| {
        Request::post("/").header("paypal-request-id", key).body(Body::empty()).unwrap()
    };
    assert_eq!(send(&app, with("1")).await.status, 200);
    assert!(send(&app, with("1")).await.is_replayed());
    assert_eq!(send(&app, with("12345")).await.status, 400);
    assert!(!send(&app, post(KEY, "")).await.is_replayed(), "the usual field is none");
}

#[tokio::test]
async fn methods_that_are_not_covered_pass() {
    let runs = Runs::default();
    let app = echo(&runs).layer(builder().build().unwrap());
    let with = |method: &Method| {
        let mut request = post(KEY, "");
        *request.method_mut() = method.clone();
        request
    };
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        assert!(!send(&app, with(&method)).await.is_replayed());
        assert!(!send(&app, with(&method)).await.is_replayed());
    }
    assert_eq!(runs.count(), 6);
    assert!(!send(&app, with(&Method::PATCH)).await.is_replayed());
    assert!(send(&app, with(&Method::PATCH)).await.is_replayed());
    let deletes = echo(&runs).layer(builder().methods([Method::DELETE]).build().unwrap());
    send(&deletes, with(&Method::DELETE)).await;
    assert!(send(&deletes, with(&Method::DELETE)).await.is_replayed());
}

#[tokio::test]
async fn a_derived_key_is_never_one_that_was_sent() {
    let runs = Runs::default();
    let derive = |request: &axum::http::request::Parts| {
        Some(request.headers.get("x-delivery")?.as_bytes().to_vec())
    };
    let app = echo(&runs).layer(builder().derive_key(derive).required().build().unwrap());
    let delivery = || Request::post("/").header("x-delivery", KEY).body(Body::empty()).unwrap();
    assert_eq!(send(&app, delivery()).await.text(), "run 1: ");
    assert_eq!(send(&app, delivery()).await.text(), "run 1: ");
    let mut sent = delivery();
    sent.headers_mut().insert("idempotency-key", KEY.parse().unwrap());
    assert_eq!(send(&app, sent).await.text(), "run 2: ");
    let neither = Request::post("/").body(Body::empty()).unwrap();
    assert_eq!(send(&app, neither).await.status, 400);
}

#[tokio::test]
async fn a_tenant_never_sees_the_record_of_another() {
    #[derive(Clone)]
    struct Account(&'static str);
    let runs = Runs::default();
    let layer = IdempotencyLayer::http(gate())
        .tenant(|request| Some(Scope::tenant(request.extensions.get::<Account>()?.0)))
        .build()
        .unwrap();
    let app = echo(&runs).layer(layer);
    let from = |account: &'static str, body: &'static str| {
        let mut request = post(KEY, body);
        request.extensions_mut().insert(Account(account));
        request
    };
    assert_eq!(send(&app, from("a", "secret of a")).await.text(), "run 1: secret of a");
    // Neither its answer, nor that the key is known at all.
    assert_eq!(send(&app, from("b", "other")).await.text(), "run 2: other");
    assert_eq!(send(&app, from("b", "secret of a")).await.status, 422);
    assert_eq!(send(&app, from("a", "secret of a")).await.text(), "run 1: secret of a");
    let anonymous = send(&app, post(KEY, "secret of a")).await;
    assert_eq!(anonymous.status, 400);
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn what_makes_a_request_another_one() {
    let runs = Runs::default();
    let version = HeaderName::from_static("x-api-version");
    let app = echo(&runs).layer(builder().fingerprint_header(version).build().unwrap());
    let base = || {
        Request::post("/payments?x=1")
            .header("idempotency-key", KEY)
            .header("content-type", "text/plain")
            .header("x-api-version", "1")
    };
    let same = |request: Request<Body>| send(&app, request);
    assert_eq!(same(base().body(Body::from("ab")).unwrap()).await.status, 200);

    // Neither how it is cut, nor what is not named, makes it another one.
    let pieces = ["a", "", "b"].map(|piece| Ok::<_, Infallible>(Bytes::from(piece)));
    let cut = base().header("user-agent", "x").header("traceparent", "y");
    let cut = cut.body(Body::from_stream(stream::iter(pieces))).unwrap();
    assert!(same(cut).await.is_replayed());

    let others = [
        base().body(Body::from("abc")).unwrap(),
        base().body(Body::empty()).unwrap(),
        base().uri("/payments?x=2").body(Body::from("ab")).unwrap(),
        base().uri("/payments").body(Body::from("ab")).unwrap(),
        base().uri("/refunds?x=1").body(Body::from("ab")).unwrap(),
        base().method(Method::PATCH).body(Body::from("ab")).unwrap(),
        base().header("x-api-version", "2").body(Body::from("ab")).unwrap(),
        base().header("content-type", "text/html").body(Body::from("ab")).unwrap(),
    ];
    for other in others {
        let shown = format!("{other:?}");
        let answer = same(other).await;
        assert_eq!(answer.status, 422, "{shown}");
        assert_eq!(answer.kind(), Some("idempotency_mismatch"));
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn all_ways_of_sending_nothing_are_the_same() {
    let runs = Runs::default();
    let app = echo(&runs).layer(builder().build().unwrap());
    let pieces = |pieces: &[&'static str]| {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, Infallible>(*piece)).collect();
        Body::from_stream(stream::iter(pieces))
    };
    for body in [Body::empty(), Body::from(""), pieces(&[]), pieces(&["", ""])] {
        assert_eq!(send(&app, post(KEY, body)).await.text(), "run 1: ");
    }
}

#[tokio::test]
async fn a_body_over_the_bound_is_refused_or_passed_on_whole() {
    let runs = Runs::default();
    let known = |length: usize| post(KEY, "x".repeat(length));
    let unknown = |length: usize| {
        let pieces = vec![Ok::<_, Infallible>(Bytes::from("x")); length];
        post(KEY, Body::from_stream(stream::iter(pieces)))
    };
    let refusing = echo(&runs).layer(builder().max_body(10).build().unwrap());
    for request in [known(11), unknown(11)] {
        let answer = send(&refusing, request).await;
        assert_eq!(
            (answer.status, answer.kind()),
            (StatusCode::PAYLOAD_TOO_LARGE, Some("request_too_large"))
        );
    }
    assert_eq!(runs.count(), 0);
    assert_eq!(send(&refusing, unknown(10)).await.text(), "run 1: xxxxxxxxxx");
    assert!(send(&refusing, known(10)).await.is_replayed(), "the bound itself is not over it");

    let layer = builder().max_body(10).over_size(OverSize::Pass).build().unwrap();
    let passing = echo(&runs).layer(layer);
    for (run, request) in [(2, known(30)), (3, unknown(30)), (4, unknown(30))] {
        let answer = send(&passing, request).await;
        assert_eq!(answer.text(), format!("run {run}: {}", "x".repeat(30)));
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_runs_nothing_and_claims_nothing() {
    let runs = Runs::default();
    let layer = builder().build().unwrap();
    let store = layer.gate().store().clone();
    let app = echo(&runs).layer(layer);
    let broken = || {
        let pieces = [Ok(Bytes::from("half")), Err(std::io::Error::other("connection lost"))];
        post(KEY, Body::from_stream(stream::iter(pieces)))
    };
    let answer = send(&app, broken()).await;
    assert_eq!(
        (answer.status, answer.kind()),
        (StatusCode::BAD_REQUEST, Some("request_incomplete"))
    );
    assert!(store.is_empty());
    let limited = Body::new(http_body_util::Limited::new(Body::from("too long"), 3));
    let answer = send(&app, post(KEY, limited)).await;
    assert_eq!(answer.status, 413, "a limit further out");
    assert_eq!(runs.count(), 0);
}

#[tokio::test]
async fn trailers_of_a_request_reach_the_handler() {
    let service = tower::service_fn(|request: Request<Buffered<Body>>| async {
        let trailers = request.into_body().collect().await.unwrap().trailers().cloned();
        let checksum = trailers.unwrap()["x-checksum"].to_str().unwrap().to_owned();
        Ok::<_, Infallible>(Response::new(Body::from(checksum)))
    });
    let app = tower::Layer::layer(&builder().build().unwrap(), service);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("42"));
    let body = Body::from("a").with_trailers(async { Some(Ok(trailers)) });
    assert_eq!(send(&app, post(KEY, Body::new(body))).await.text(), "42");
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let field = |builder: HttpIdempotencyBuilder<MemoryStore>| builder.build().unwrap_err();
    assert_eq!(field(IdempotencyLayer::http(gate())).field(), "tenant");
    assert_eq!(field(builder().key_length(0..=10)).field(), "key_length");
    assert_eq!(field(builder().key_length(16..=1025)).field(), "key_length");
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    let reversed = builder().key_length(16..=15);
    assert_eq!(field(reversed).field(), "key_length");
    assert_eq!(field(builder().methods([])).field(), "methods");
    assert_eq!(field(builder().max_body((64 << 20) + 1)).field(), "max_body");
    let never = "set-cookie set-cookie2 www-authenticate proxy-authenticate authentication-info \
                 authorization proxy-authorization connection keep-alive proxy-connection \
                 transfer-encoding content-length te trailer upgrade date age via alt-svc \
                 server-timing traceparent access-control-allow-origin ratelimit ratelimit-policy \
                 idempotency-replayed idempotency-key";
    for name in never.split_whitespace() {
        let error = field(builder().replay_header(HeaderName::from_static(name)));
        assert_eq!(error.field(), "replay_header", "{name}");
    }
}
