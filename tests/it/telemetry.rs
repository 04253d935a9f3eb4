//! What programs see of the layers through `tracing`.

#![cfg(feature = "tracing")]

mod spans;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use buttress::circuit_breaker::CircuitBreaker;
use buttress::retry::{RetryLayer, RetryPolicy};
use tower::{ServiceBuilder, ServiceExt, service_fn};
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
    breaker.force_open();
    assert!(log.lines().last().unwrap().contains("WARN"), "{:?}", log.lines());
}
