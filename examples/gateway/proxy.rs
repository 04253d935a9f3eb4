//! The gateway itself: a reverse proxy with a server stack in front and a client stack behind.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::{IntoResponse, Response};
use buttress::http::problem;
use buttress::{BoxError, Reject, Rejection};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Request, StatusCode, Uri, Version};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use crate::policies::{Normal, Policies};

/// In-flight requests get this long to finish when the gateway is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// The server stack around the proxy.
pub(crate) fn app(
    backend: &Uri,
    policies: &Policies,
    hops: usize,
    on_attempt: impl Fn() + Clone + Send + Sync + 'static,
) -> Router {
    let client = policies.client(on_attempt);
    let authority = backend.authority().cloned();
    let proxy =
        Router::new().fallback(move |ConnectInfo(peer): ConnectInfo<SocketAddr>, request| {
            forward(client.clone(), authority.clone(), peer, request)
        });
    policies.protect(proxy, hops)
}

/// Serves until `stop`, then lets the requests in flight finish. Returns whether all of them did.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<bool> {
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(async move {
            stop.await;
            let _ = stopping.send(());
        });
    tokio::select! {
        result = server => result.map(|()| true),
        // One connection that never ends must not keep the process for ever.
        () = async { let _ = stopped.await; tokio::time::sleep(DRAIN).await } => Ok(false),
    }
}

async fn forward<C>(
    client: C,
    authority: Option<Authority>,
    peer: SocketAddr,
    mut request: Request<Body>,
) -> Response
where
    C: Service<Request<Body>, Response = Response<Incoming>, Error = BoxError>,
{
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = authority;
    let Ok(uri) = Uri::from_parts(uri) else {
        return (StatusCode::BAD_REQUEST, "expected a path as the request target\n")
            .into_response();
    };
    *request.uri_mut() = uri;
    // The backend's connection is ours: HTTP/1.1, whatever the caller speaks.
    *request.version_mut() = Version::HTTP_11;
    remove_hop_by_hop(request.headers_mut());
    say_for_whom(request.headers_mut(), peer);

    // What a refusal needs to know of the request: a gRPC call is refused in gRPC's way.
    let mut head = Request::new(());
    if let Some(kind) = request.headers().get(header::CONTENT_TYPE) {
        head.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    match client.oneshot(request).await {
        Ok(mut response) => {
            remove_hop_by_hop(response.headers_mut());
            // The body is not read here: it streams through.
            response.map(Body::new)
        }
        Err(error) => refusal(head, &*error),
    }
}

/// What a caller is told when there is no answer from the backend.
fn refusal(head: Request<()>, error: &(dyn StdError + 'static)) -> Response {
    if let Some(why) = Rejection::find(error) {
        // One of our layers said no: the same document that it would have sent itself.
        let Ok(response): Result<Response, Infallible> = problem().reject(head, why.clone());
        return response;
    }
    (StatusCode::BAD_GATEWAY, format!("{error}\n")).into_response()
}

/// Header fields that belong to one connection only (RFC 9110, 7.6.1), and those that it names.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let known = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    for name in named.iter().chain(&known) {
        headers.remove(name);
    }
}

/// `X-Forwarded-For` grows by one, so that the backend sees the whole way; the name the caller used
/// goes along, because `Host` will be the backend's own.
fn say_for_whom(headers: &mut HeaderMap, peer: SocketAddr) {
    if let Some(host) = headers.remove(header::HOST) {
        headers.insert("x-forwarded-host", host);
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
    let way: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|hop| hop.to_str().ok()).collect();
    let peer = peer.ip().to_canonical().to_string();
    let way = way.into_iter().chain([&*peer]).collect::<Vec<_>>().join(", ");
    if let Ok(way) = HeaderValue::from_str(&way) {
        headers.insert("x-forwarded-for", way);
    }
}

/// Resolves on Ctrl-C, and on SIGTERM where there is one.
pub(crate) async fn told_to_stop() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = interrupt.await;
}

/// `--backend`: the same gateway in front of a real service.
pub(crate) async fn in_front_of(backend: Uri, listen: SocketAddr) -> Result<(), BoxError> {
    // Edit this to what is normal for your service.
    let normal = Normal { patience: Duration::from_secs(10), rate: 100 };
    let policies = Policies::new(&normal, Instant::now())?;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    println!("serving on http://{} for {backend}; Ctrl-C drains and stops", listener.local_addr()?);
    let stop = async {
        told_to_stop().await;
        println!("stopping: requests in flight have {DRAIN:?} to finish");
    };
    let all = serve(listener, app(&backend, &policies, 0, || {}), stop).await?;
    println!("{}", if all { "drained" } else { "gave up on the connections still open" });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field =
            |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        fields.iter().map(field).collect()
    }

    #[test]
    fn header_fields_of_one_connection_stay_on_it() {
        let mut headers = headers(&[
            ("connection", "keep-alive, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("accept", "*/*"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn the_way_of_a_request_grows_by_its_peer() {
        let mut headers = headers(&[("host", "shop.example"), ("x-forwarded-for", "192.0.2.1")]);
        say_for_whom(&mut headers, SocketAddr::from(([198, 51, 100, 7], 4711)));
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1, 198.51.100.7");
        assert_eq!(headers["x-forwarded-host"], "shop.example");
        assert!(!headers.contains_key("host"));
    }
}
