//! Under a prefix, in a server of the program's.

use axum::Router;
use axum::routing::get as route;

use super::*;

/// Serves it, and gives where.
fn serve(app: Router) -> (tokio::runtime::Runtime, SocketAddr) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let at = listener.local_addr().unwrap();
    runtime.spawn(async move { axum::serve(listener, app).await });
    (runtime, at)
}

fn works_under(prefix: &str, registry: &Registry, at: SocketAddr) {
    for root in [prefix.to_owned(), format!("{prefix}/")] {
        let (status, _, body) = get(at, &root, "");
        assert_eq!(status, 200, "{root}");
        assert!(body.starts_with("<!doctype html>"));
    }
    for path in ["status.json", "metrics", "config"] {
        assert_eq!(get(at, &format!("{prefix}/{path}"), "").0, 200, "{path}");
    }
    assert_eq!(get(at, &format!("{prefix}/../secret"), "").0, 404);
    let request = format!("GET {prefix}/events HTTP/1.1\r\nHost: {at}\r\n\r\n");
    let (status, _, mut reader) = send(at, &request);
    assert_eq!(status, 200);
    until(&mut reader, "status");
    let command = json!({"command": "install_network_conditioner", "latency_ms": 5}).to_string();
    let path = format!("{prefix}/commands");
    assert_eq!(post(at, &path, "", &command).0, 401);
    assert!(registry.conditioner("backend").get().is_none());
    assert_eq!(post(at, &path, &token(), &command).0, 200);
    assert!(registry.conditioner("backend").get().is_some());
}

#[test]
fn nested_in_axum() {
    let registry = Registry::new();
    registry.conditioner("backend");
    let admin = Admin::builder(&registry).token(TOKEN).build().unwrap();
    let app =
        Router::new().route("/", route(async || "the program")).nest_service("/ops/admin", admin);
    let (_runtime, at) = serve(app);
    works_under("/ops/admin", &registry, at);
    assert_eq!(get(at, "/", "").2, "the program");
}

#[test]
fn with_a_prefix_that_nobody_strips() {
    let registry = Registry::new();
    registry.conditioner("backend");
    let admin = Admin::builder(&registry).token(TOKEN).prefix("/admin").build().unwrap();
    let app = Router::new()
        .route_service("/admin", admin.clone())
        .route_service("/admin/", admin.clone())
        .route_service("/admin/{*path}", admin);
    let (_runtime, at) = serve(app);
    works_under("/admin", &registry, at);
}
