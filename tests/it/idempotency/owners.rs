//! Owners that go, sleep, or give back what they have claimed.

use std::time::Duration;

use buttress::idempotency::{
    Begin, Earlier, Idempotency, IdempotencyBuilder, RunError, Scope, Status,
};
use buttress::store::{Fingerprint, MemoryStore, OnInterrupted};

const SECOND: Duration = Duration::from_secs(1);
const A: Fingerprint = Fingerprint::from_bytes([1; 32]);

fn builder() -> IdempotencyBuilder<MemoryStore> {
    Idempotency::builder("orders", MemoryStore::default()).scope(Scope::global())
}

fn gate(policy: OnInterrupted) -> Idempotency<MemoryStore> {
    builder().on_interrupted(policy).build().unwrap()
}

/// Somebody ran before, and nobody knows what came of it: that the one who took over did nothing changes nothing.
#[tokio::test(start_paused = true)]
async fn what_took_over_and_did_nothing_leaves_the_key_to_the_one_before() {
    let rerun = gate(OnInterrupted::Rerun(2));
    let strict = Idempotency::builder("orders", rerun.store().clone()).scope(Scope::global());
    let strict = strict.build().unwrap();
    drop(rerun.begin("k", A).await.unwrap());
    let Begin::Execute(permit) = rerun.begin("k", A).await.unwrap() else { panic!() };
    assert_eq!(permit.runs(), 2);
    permit.fail_before_effect().await.unwrap();
    let refused = rerun.run_with("k", A, |effect| async move {
        assert_eq!(effect.runs(), 2, "what was given back is no run");
        effect.not_applied();
        Err::<(), _>("out of stock")
    });
    assert!(matches!(refused.await, Err(RunError::Inner("out of stock"))));
    let next = strict.begin("k", A).await.unwrap();
    assert!(matches!(next, Begin::Interrupted(_)), "{next:?}");
}
