//! What programs see of the layers through `tracing`.

#![cfg(feature = "tracing")]

mod hostile;
mod spans;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::circuit_breaker::CircuitBreaker;
use buttress::coalesce::Coalesce;
use buttress::idempotency::{Idempotency, Scope};
use buttress::presets::{ClientPlan, ServerPlan, client, server};
use buttress::rate_limit::{RateLimitLayer, RateLimiter};
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::store::{Fingerprint, MemoryStore};
use buttress::{BoxError, Quota};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn listen(&self, level: tracing::Level) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .set_default()
    }

    /// Also the end of each span.
    fn listen_to_spans(&self, level: tracing::Level) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
            .with_writer(move || writer.clone())
            .set_default()
    }

    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone())
            .unwrap()
            .lines()
            .map(String::from)
            .collect()
    }
}

/// Answers from the third attempt on, and writes a line in each.
async fn third_works(log: &Log, level: tracing::Level) -> Vec<String> {
    let _guard = log.listen(level);
    let mut attempt = 0;
    let service = service_fn(move |()| {
        attempt += 1;
        let attempt = attempt;
        async move {
            tokio::task::yield_now().await;
            tracing::info!("inside {attempt}");
            if attempt < 3 {
                Err(io::Error::from(io::ErrorKind::ConnectionRefused))
            } else {
                Ok(())
            }
        }
    });
    let layer =
        RetryLayer::new(RetryPolicy::builder().max_attempts(3).build().unwrap()).name("pay");
    ServiceBuilder::new().layer(layer).service(service).oneshot(()).await.unwrap();
    log.lines()
}

#[tokio::test(start_paused = true)]
async fn a_retry_runs_in_a_span_and_a_first_attempt_in_its_callers() {
    let lines = third_works(&Log::default(), tracing::Level::DEBUG).await;
    let inside: Vec<_> = lines.iter().filter(|line| line.contains("inside")).collect();
    assert_eq!(inside.len(), 3, "{lines:?}");
    assert!(!inside[0].contains("retry_attempt"), "{inside:?}");
    for (line, attempt) in [(inside[1], 2), (inside[2], 3)] {
        let span = format!("retry_attempt{{layer=\"retry\" name=\"pay\" attempt={attempt}}}");
        assert!(line.contains(&span), "{line} lacks {span}");
    }
    // The span ends with its attempt: what comes after is outside.
    assert!(
        lines.iter().filter(|line| line.contains("retried")).all(|l| !l.contains("retry_attempt"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_healthy_system_is_quiet() {
    let log = Log::default();
    let lines = third_works(&log, tracing::Level::INFO).await;
    assert!(lines.iter().all(|line| line.contains("inside")), "{lines:?}");
    let _guard = log.listen(tracing::Level::INFO);
    let breaker = CircuitBreaker::builder("db").build().unwrap();
    for _ in 0..100 {
        breaker.call_blocking(|| Ok::<_, io::Error>(())).unwrap();
    }
    assert_eq!(log.lines(), lines, "successes say nothing");
    // Whole stacks, calls that wait, calls that join another one, calls that are answered from a record.
    let answer = || {
        service_fn(|n: u32| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok::<_, BoxError>(n)
        })
    };
    let client = client(&ClientPlan::new("db")).unwrap().layer(answer());
    let server = server(&ServerPlan::new("api")).unwrap().layer(answer());
    let quota = Quota::per_second(1000).unwrap().burst(1).unwrap();
    let limited =
        RateLimitLayer::new(RateLimiter::new(quota)).wait(Duration::from_secs(1)).layer(answer());
    let reads =
        Coalesce::new("reads").layer(|_: &u32| Some(1)).layer(service_fn(|n: u32| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok::<_, io::Error>(n)
        }));
    let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    for n in 0..300 {
        client.clone().oneshot(n).await.unwrap();
        server.clone().oneshot(n).await.unwrap();
        let (one, two) = tokio::join!(limited.clone().oneshot(n), limited.clone().oneshot(n));
        assert!(one.is_ok() && two.is_ok());
        let (one, two) = tokio::join!(reads.clone().oneshot(n), reads.clone().oneshot(n));
        assert!(one.is_ok() && two.is_ok());
        gate.run("1", Fingerprint::NONE, || async { Ok::<_, io::Error>(()) }).await.unwrap();
    }
    assert_eq!(log.lines(), lines, "nor does a healthy system");
    breaker.force_open();
    assert!(log.lines().last().unwrap().contains("WARN"), "{:?}", log.lines());
}
