//! What real clients' errors look like to `standard`. Real sockets on loopback, so real time.

use std::net::SocketAddr;
use std::time::Duration;

use buttress::http::{ReplayBody, replay_up_to, standard};
use buttress::retry::{HttpRequest, Replay};
use buttress::{BoxError, Classify, FailureClass, Outcome, RetryHint, Verdict};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Service, ServiceBuilder, ServiceExt};

const SAFE: Verdict =
    Verdict::new(Outcome::Failure(FailureClass::Transient), RetryHint::Safe { after: None });
const UNKNOWN: Verdict =
    Verdict::new(Outcome::Failure(FailureClass::Transient), RetryHint::Unknown { after: None });

fn judge<E, C>(c: &C, method: &str, error: &E) -> Verdict
where
    C: Classify<Request<()>, Response<()>, E>,
{
    let request = Request::builder().method(method).body(()).unwrap();
    c.finish(c.start(&request), Err(error))
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Ends with the test's runtime.
fn in_background(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::runtime::Handle::current().spawn(task));
}

/// Accepts one connection after the other and hands it to `serve`.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    in_background(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tasks.spawn(serve(stream));
        }
    });
    address
}

/// Reads a request's head and then closes the connection without a word.
async fn hang_up(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    let _ = stream.read(&mut buffer).await;
}

/// Answers with a head that promises more than comes.
async fn half_an_answer(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    let _ = stream.read(&mut buffer).await;
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
}

async fn silence(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
}

fn hyper_client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn post(address: SocketAddr) -> Request<Full<Bytes>> {
    Request::post(format!("http://{address}/")).body(Full::from("x")).unwrap()
}

#[tokio::test]
async fn refused_connection_is_safe_for_any_method() {
    let address = nobody().await;
    let error = hyper_client().request(post(address)).await.unwrap_err();
    assert_eq!(judge(&standard(), "POST", &error), SAFE, "{error:?}");

    let error = reqwest::Client::new()
        .post(format!("http://{address}/"))
        .body("x")
        .send()
        .await
        .unwrap_err();
    assert_eq!(judge(&standard(), "POST", &error), SAFE, "{error:?}");
    let boxed: BoxError = error.into();
    assert_eq!(judge(&standard(), "POST", &boxed), SAFE);

    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let error = channel.connect().await.unwrap_err();
    assert_eq!(judge(&standard(), "POST", &error), SAFE, "{error:?}");
}

#[tokio::test]
async fn unknown_host_is_safe_for_any_method() {
    use hyper_util::client::legacy::connect::dns::Name;
    let resolver = tower::service_fn(|_: Name| async {
        Err::<std::vec::IntoIter<SocketAddr>, _>(std::io::Error::other("no such host"))
    });
    let client: Client<_, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build(HttpConnector::new_with_resolver(resolver));
    let request = Request::post("http://nowhere.invalid/").body(Full::from("x")).unwrap();
    let error = client.request(request).await.unwrap_err();
    assert_eq!(judge(&standard(), "POST", &error), SAFE, "{error:?}");
}

#[tokio::test]
async fn hang_up_before_the_answer_is_by_method() {
    let address = server(hang_up).await;
    let error = hyper_client().request(post(address)).await.unwrap_err();
    assert_eq!(judge(&standard(), "POST", &error), UNKNOWN, "{error:?}");
    assert_eq!(judge(&standard(), "GET", &error), SAFE);

    let error = reqwest::Client::new()
        .post(format!("http://{address}/"))
        .body("x")
        .send()
        .await
        .unwrap_err();
    assert_eq!(judge(&standard(), "POST", &error), UNKNOWN, "{error:?}");
    assert_eq!(judge(&standard(), "DELETE", &error), SAFE);
}

#[tokio::test]
async fn answer_that_breaks_off_is_by_method() {
    let address = server(half_an_answer).await;
    let response = hyper_client().request(post(address)).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert_eq!(judge(&standard(), "POST", &error), UNKNOWN, "{error:?}");

    let response =
        reqwest::Client::new().post(format!("http://{address}/")).body("x").send().await.unwrap();
    let error = response.bytes().await.unwrap_err();
    assert_eq!(judge(&standard(), "POST", &error), UNKNOWN, "{error:?}");
    assert_eq!(judge(&standard(), "PUT", &error), SAFE);
}

#[tokio::test]
async fn timeout_is_by_method() {
    let address = server(silence).await;
    let error = reqwest::Client::new()
        .post(format!("http://{address}/"))
        .timeout(Duration::from_millis(50))
        .send()
        .await
        .unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(judge(&standard(), "POST", &error), UNKNOWN, "{error:?}");
    assert_eq!(judge(&standard(), "GET", &error), SAFE);

    let mut client =
        ServiceBuilder::new().timeout(Duration::from_millis(50)).service(hyper_client());
    let error = client.ready().await.unwrap().call(post(address)).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>());
    assert_eq!(judge(&standard(), "POST", &error), UNKNOWN, "{error:?}");
}

/// Speaks just enough HTTP/2 to answer the first request with `frames`.
async fn h2_server(frames: Vec<u8>) -> SocketAddr {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    server(move |mut stream| {
        let frames = frames.clone();
        async move {
            stream.write_all(&SETTINGS).await.unwrap();
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            loop {
                let mut head = [0; 9];
                if stream.read_exact(&mut head).await.is_err() {
                    return;
                }
                let length = usize::from(head[1]) << 8 | usize::from(head[2]);
                let mut payload = vec![0; length];
                stream.read_exact(&mut payload).await.unwrap();
                match (head[3], head[4]) {
                    (4, 0) => stream.write_all(&SETTINGS_ACK).await.unwrap(),
                    (1, _) => stream.write_all(&frames).await.unwrap(),
                    _ => {}
                }
            }
        }
    })
    .await
}

async fn h2_error(frames: Vec<u8>) -> hyper::Error {
    let address = h2_server(frames).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let request =
        Request::post(format!("http://{address}/")).body(Full::<Bytes>::from("x")).unwrap();
    let call = sender.send_request(request);
    tokio::select! {
        biased;
        answer = call => answer.map(drop).unwrap_err(),
        _ = async { let _ = connection.await; std::future::pending::<()>().await } => unreachable!(),
    }
}

fn rst_stream(code: u8) -> Vec<u8> {
    vec![0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, code]
}

fn goaway(last_stream: u8, code: u8, remark: &[u8]) -> Vec<u8> {
    let length = u8::try_from(8 + remark.len()).unwrap();
    let mut frame = vec![0, 0, length, 7, 0, 0, 0, 0, 0, 0, 0, 0, last_stream, 0, 0, 0, code];
    frame.extend_from_slice(remark);
    frame
}

#[tokio::test]
async fn refused_h2_stream_is_safe_for_any_method() {
    const REFUSED_STREAM: u8 = 7;
    let error = h2_error(rst_stream(REFUSED_STREAM)).await;
    assert_eq!(judge(&standard(), "POST", &error), SAFE, "{error:?}");

    const INTERNAL_ERROR: u8 = 2;
    let error = h2_error(rst_stream(INTERNAL_ERROR)).await;
    assert_eq!(judge(&standard(), "POST", &error), UNKNOWN, "{error:?}");
}

#[tokio::test]
async fn h2_stream_beyond_a_graceful_goaway_is_safe_for_any_method() {
    const NO_ERROR: u8 = 0;
    let error = h2_error(goaway(0, NO_ERROR, b"")).await;
    assert_eq!(judge(&standard(), "POST", &error), SAFE, "{error:?}");
    let error = h2_error(goaway(0, NO_ERROR, b"max age")).await;
    assert_eq!(judge(&standard(), "POST", &error), SAFE, "{error:?}");

    const PROTOCOL_ERROR: u8 = 1;
    let error = h2_error(goaway(0, PROTOCOL_ERROR, b"")).await;
    assert_eq!(judge(&standard(), "POST", &error), UNKNOWN, "{error:?}");
}

/// An error whose text is chosen by the test.
#[derive(Debug)]
struct Says(&'static str);

impl std::fmt::Display for Says {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // In pieces, as real `Display` implementations write.
        for c in self.0.chars() {
            write!(f, "{c}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Says {}

#[test]
fn known_texts_are_compared_whole() {
    for (text, expected) in [
        ("client error (Connect)", SAFE),
        ("client error (Connect", UNKNOWN),
        ("client error (Connect))", UNKNOWN),
        ("xclient error (Connect)", UNKNOWN),
        ("", UNKNOWN),
        ("connection error received: not a result of an error", SAFE),
        ("connection error received: not a result of an error (b\"bye\")", SAFE),
        ("connection error received: not a result of an error (", SAFE),
        ("connection error received: not a result of an error ", UNKNOWN),
        ("connection error received: not a result of an errors", UNKNOWN),
        ("connection error received: not a result", UNKNOWN),
    ] {
        assert_eq!(judge(&standard(), "POST", &Says(text)), expected, "{text:?}");
    }
}

#[test]
fn not_sent_adds_knowledge_about_any_link_of_the_chain() {
    let wrapped = std::io::Error::other(Says("the pool was empty"));
    let c = standard();
    assert_eq!(judge(&c, "POST", &wrapped), UNKNOWN);
    let c = standard().not_sent(|error| error.is::<Says>());
    assert_eq!(judge(&c, "POST", &wrapped), SAFE);
    // It cannot make a permanent failure retryable.
    let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let c = standard().not_sent(|_| true);
    assert_eq!(judge(&c, "GET", &denied), Verdict::failure(FailureClass::Permanent));
}

/// One body, two attempts, two real servers: the second gets what the first got.
#[tokio::test]
async fn hyper_and_reqwest_send_a_replayed_body() {
    let app = axum::Router::new().fallback(|body: String| async move { body });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    in_background(async move { axum::serve(listener, app).await.unwrap() });

    let hyper: Client<HttpConnector, ReplayBody<Full<Bytes>>> =
        Client::builder(TokioExecutor::new()).build_http();
    let mut client = ServiceBuilder::new().layer(replay_up_to(1024)).service_fn(
        move |request: Request<ReplayBody<Full<Bytes>>>| {
            let hyper = hyper.clone();
            async move {
                let again = HttpRequest::new().try_replay(&request).unwrap();
                let first = hyper.request(request).await?.into_body().collect().await?.to_bytes();
                let second = hyper.request(again).await?.into_body().collect().await?.to_bytes();
                Ok::<_, BoxError>((first, second))
            }
        },
    );
    let (first, second) = client.ready().await.unwrap().call(post(address)).await.unwrap();
    assert_eq!((&*first, &*second), (&b"x"[..], &b"x"[..]));

    let reqwest = reqwest::Client::new();
    // axum's body is not `Sync`, which reqwest asks for; `ReplayBody` makes up for it.
    let body = ReplayBody::new(axum::body::Body::from("hello"), 1024);
    let again = body.try_clone().unwrap();
    for body in [body, again] {
        let request = reqwest.post(format!("http://{address}/")).body(reqwest::Body::wrap(body));
        assert_eq!(request.send().await.unwrap().text().await.unwrap(), "hello");
    }
}
