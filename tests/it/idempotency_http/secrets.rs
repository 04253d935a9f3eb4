//! No key, and no tenant, where it does not belong.

use super::*;
use buttress::idempotency::IdempotencyKey;
use std::io::Write;
use std::sync::Mutex;
use tracing_subscriber::util::SubscriberInitExt;

const SECRET: &str = "sk-live-0123456789abcdef";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Every kind of answer, with the log on.
#[tokio::test(start_paused = true)]
async fn neither_store_nor_log_nor_answer_holds_a_key_or_a_tenant() {
    let log = Log::default();
    let writer = log.clone();
    let _guard = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .set_default();

    let (store, runs) = (Faulty::new(), Runs::default());
    let layer = IdempotencyLayer::http(store.gate())
        .tenant(|_| Some(Scope::tenant("tenant-4711")))
        .build()
        .unwrap();
    let app = echo(&runs).layer(layer.clone());
    let mut answers = Vec::new();
    for body in ["a", "a", "b"] {
        answers.push(send(&app, post(SECRET, body)).await);
    }
    let mut twice = post(SECRET, "a");
    twice.headers_mut().append("idempotency-key", SECRET.parse().unwrap());
    answers.push(send(&app, twice).await);
    answers.push(send(&app, post(&format!("{SECRET}, {SECRET}"), "a")).await);
    store.fail_begin(Some(StoreErrorKind::Unavailable));
    answers.push(send(&app, post(SECRET, "a")).await);
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses, [200, 200, 422, 400, 400, 503]);

    let shown = format!("{answers:?} {layer:?} {:?}", IdempotencyKey::parse(SECRET.as_bytes()));
    let seen = store.seen.lock().unwrap().clone();
    let log = log.0.lock().unwrap().clone();
    if cfg!(feature = "tracing") {
        assert!(contains(&log, "payments"), "the test sees the log");
    }
    for secret in [SECRET, "tenant-4711"] {
        assert!(!contains(&seen, secret), "in the store");
        assert!(!contains(&log, secret), "in the log");
        assert!(!shown.contains(secret), "in a `Debug`");
        for answer in &answers {
            assert!(!contains(&answer.body, secret), "in an answer");
        }
    }
}
