//! Integration tests: everything that goes through the public interface.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[cfg_attr(
    not(feature = "testing"),
    allow(dead_code, reason = "used by tests of every room, which differ by feature")
)]
mod support;
mod telemetry;

#[cfg(feature = "testing")]
mod admission;
mod admission_alone;
#[cfg(feature = "testing")]
mod admission_edges;
#[cfg(all(feature = "http", feature = "testing"))]
mod admission_http;
mod circuit_breaker;
#[cfg(feature = "testing")]
mod circuit_breaker_contract;
mod circuit_breaker_service;
#[cfg(feature = "testing")]
mod client_dropped;
#[cfg(feature = "testing")]
mod client_stack;
#[cfg(feature = "testing")]
mod coalesce;
mod conditioner;
#[cfg(feature = "config")]
mod config;
#[cfg(feature = "testing")]
mod contracts;
#[cfg(feature = "serde")]
mod control;
mod control_rows;
mod control_status;
mod dashboard;
mod documented;
#[cfg(all(feature = "supervise", feature = "testing"))]
mod drain_layer;
#[cfg(feature = "testing")]
mod endpoints;
mod failure_budget;
#[cfg(feature = "testing")]
mod fallback;
#[cfg(feature = "supervise")]
#[allow(clippy::disallowed_methods, reason = "tests spawn what users spawn")]
mod health;
#[cfg(feature = "testing")]
mod hedge;
#[cfg(feature = "http")]
mod http;
mod idempotency;
#[cfg(feature = "http")]
mod idempotency_http;
mod idempotency_layer;
mod let_go;
mod live;
#[cfg(feature = "testing")]
mod presets;
mod rate_limit;
mod rate_limit_golden;
mod rate_limit_service;
mod rate_limit_shared;
mod retry;
#[cfg(feature = "http")]
mod served;
mod stack;
mod store;
#[cfg(feature = "testing")]
mod testing;
#[cfg(feature = "testing")]
mod throttle;
