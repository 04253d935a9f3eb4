//! No key and no tenant in a file, in a log, in a `Debug` or in the text of an error.

use std::error::Error;
use std::fmt::Debug;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::idempotency::{
    Begin, EffectContext, Idempotency, IdempotencyLayer, Identity, Probed, Scope,
};
use buttress::store::{
    AnyStore, Attempt, Claim, Entry, Fingerprint, MemoryStore, OnInterrupted, Outcome, RecordId,
    Resolution, StoreErrorKind, StoreTime,
};
use tower::{Layer, ServiceExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::faulty::{Fault, Faulty, On};

const KEY: &str = "sk-live-0123456789abcdef";
const TENANT: &str = "tenant-4711";
const PAYLOAD: &str = "card 4242 4242";

/// What was shown of anything.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<u8>>>);

impl Shown {
    fn note(&self, what: &impl Debug) {
        self.text(&format!("{what:?} {what:#?}"));
    }

    fn error(&self, error: &(dyn Error + 'static)) {
        let mut next = Some(error);
        while let Some(error) = next {
            self.text(&format!("{error} {error:?}"));
            next = error.source();
        }
    }

    fn text(&self, text: &str) {
        self.0.lock().unwrap().extend_from_slice(text.as_bytes());
    }

    fn contains(&self, text: &str) -> bool {
        let bytes = self.0.lock().unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    fn is_clean(&self, last: &str) {
        for secret in [KEY, TENANT, PAYLOAD] {
            assert!(!self.contains(secret), "{secret}, after {last}");
        }
    }
}

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn print() -> Fingerprint {
    Fingerprint::of(PAYLOAD.as_bytes())
}

/// Each way that a call can go, with the log on, and all that can be shown of it.
#[tokio::test(start_paused = true)]
async fn nothing_that_can_be_shown_holds_a_key_a_tenant_or_a_payload() {
    let shown = Shown::default();
    let writer = shown.clone();
    let _guard = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .set_default();

    let scope = Scope::tenant(TENANT);
    let store = Faulty::default();
    let builder = Idempotency::builder("secrets", store.store.clone()).scope(scope.clone());
    shown.note(&builder);
    shown.note(&(&scope, Scope::global()));
    let gate = Idempotency::builder("secrets", store.clone())
        .scope(scope.clone())
        .max_pending_per_scope(2)
        .on_interrupted(OnInterrupted::Probe)
        .build()
        .unwrap();
    shown.note(&(gate.clone(), gate.id(KEY), gate.id(KEY).to_string()));
    shown.note(&gate.store().store);
    shown.is_clean("the gate");

    // All that a claim can come to.
    let begun = gate.begin(KEY, print()).await.unwrap();
    shown.note(&begun);
    let Begin::Execute(mut permit) = begun else { panic!("{begun:?}") };
    shown.note(&(&permit, permit.context(), permit.id(), permit.attempt()));
    shown.note(&gate.begin(KEY, print()).await.unwrap());
    shown.note(&gate.begin(KEY, Fingerprint::NONE).await.unwrap());
    let other = gate.begin(format!("{KEY}2"), print()).await.unwrap();
    shown.note(&gate.begin(format!("{KEY}3"), print()).await.unwrap());
    permit.complete(Outcome::new(200, *b"head", PAYLOAD.as_bytes())).await.unwrap();
    drop((permit, other));
    shown.note(&gate.begin(KEY, print()).await.unwrap());
    shown.note(&gate.begin(format!("{KEY}2"), print()).await.unwrap());
    shown.note(&gate.record(KEY).await.unwrap());
    shown.is_clean("claims");

    // Runs: values, failures, refusals.
    let run = async |key: &str, print| {
        let ran = gate.run(key, print, || async { Ok::<_, std::io::Error>(7_u8) }).await;
        match ran {
            Ok(ran) => shown.note(&ran),
            Err(error) => shown.error(&error),
        }
    };
    run("plain", print()).await;
    run(KEY, print()).await;
    run(KEY, Fingerprint::NONE).await;
    run(&format!("{KEY}2"), print()).await;
    for kind in [
        StoreErrorKind::Unavailable,
        StoreErrorKind::Unknown,
        StoreErrorKind::Full,
        StoreErrorKind::Corrupt,
        StoreErrorKind::Refused,
    ] {
        store.next(On::Begin, &[Fault::Error(kind); 3]);
        run(&format!("{KEY}4"), print()).await;
        store.next(On::Complete, &[Fault::Error(kind); 3]);
        run(&format!("{KEY}{kind:?}"), print()).await;
    }
    shown.note(&Probed::<u8>::Unknown);
    shown.is_clean("runs");

    // The layer.
    let layer = IdempotencyLayer::new(gate.clone(), |key: &&'static str| {
        Some(Identity::new(&Scope::tenant(TENANT), key, Fingerprint::of(PAYLOAD.as_bytes())))
    });
    shown.note(&Identity::new(&scope, KEY, print()));
    shown.note(&(&layer, layer.detached()));
    let service = layer.layer(tower::service_fn(|_| async {
        Ok::<_, std::io::Error>(format!("{:?}", EffectContext::current()))
    }));
    shown.note(&service);
    for key in ["another-key", "another-key", KEY] {
        match service.clone().oneshot(key).await {
            Ok(text) => shown.text(&text),
            Err(error) => shown.error(&*error),
        }
    }
    shown.is_clean("the layer");

    // What a store has of it.
    let claim = Claim::new(print(), Attempt::new());
    let mut entry = Entry::claimed(&claim, StoreTime::default(), 1);
    let outcome = Arc::new(Outcome::new(200, PAYLOAD.as_bytes(), PAYLOAD.as_bytes()));
    shown.note(&(&claim, &entry, Resolution::Completed(Arc::clone(&outcome))));
    let _ = entry.complete(claim.attempt, outcome, Duration::from_secs(1), StoreTime::default());
    shown.note(&(&entry, entry.record(StoreTime::default()), Fingerprint::builder().field(b"x")));
    shown.note(&RecordId::of(TENANT.as_bytes(), KEY.as_bytes()));
    shown.note(&AnyStore::new(MemoryStore::default()));
    shown.is_clean("the store");

    if cfg!(feature = "tracing") {
        assert!(shown.contains("secrets"), "the test sees the log");
    }
}

#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn nothing_that_can_be_shown_of_an_effect_holds_its_payload() {
    use buttress::idempotency::{EffectStore, compute_action_id};
    let shown = Shown::default();
    let id = compute_action_id("pay", &[KEY, PAYLOAD], TENANT).unwrap();
    let effects = EffectStore::in_memory();
    shown.note(&effects);
    shown.note(&effects.claim::<u8>(&id, "hash").await.unwrap());
    shown.note(&effects.claim::<u8>(&id, "hash").await);
    match effects.claim::<u8>(&id, "another").await {
        Ok(claim) => shown.note(&claim),
        Err(error) => shown.error(&error),
    }
    shown.note(&effects.get(&id).await.unwrap());
    shown.is_clean("effects");
    assert!(shown.contains("EffectStore"), "the test sees what is shown");
}

#[cfg(feature = "store-redb")]
#[tokio::test]
async fn no_key_and_no_tenant_is_in_the_file() {
    use buttress::store::FileStore;
    let path = std::env::temp_dir().join(format!("buttress-secrets-{}", std::process::id()));
    let store = FileStore::open(&path).unwrap();
    let gate = Idempotency::new("secrets", store.clone(), Scope::tenant(TENANT));
    let run = |key: &'static str| {
        gate.run(key, print(), || async { Ok::<_, &str>(String::from("kept as it is")) })
    };
    run(KEY).await.unwrap();
    run(KEY).await.unwrap();
    // One pending, one interrupted, one failed.
    let Begin::Execute(permit) = gate.begin(format!("{KEY}2"), print()).await.unwrap() else {
        panic!()
    };
    permit.settled();
    drop(gate.begin(format!("{KEY}3"), print()).await.unwrap());
    let failed = gate.run(format!("{KEY}4"), print(), || async { Err::<(), _>("declined") }).await;
    assert!(failed.is_err());
    store.close().await.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("kept as it is") && holds("declined"), "the test sees what is stored");
    for secret in [KEY, TENANT, PAYLOAD] {
        assert!(!holds(secret), "{secret}");
    }
}
