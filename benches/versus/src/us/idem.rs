//! Our idempotency layer, and the gate without it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use buttress::idempotency::{Idempotency, IdempotencyLayer, Ran, RunError, Scope, Status};
use buttress::store::{Attempt, Begun, Claim, Fingerprint, MemoryStore, Outcome, RecordId, Store};

use crate::case::{Batch, Callers, Runner};
use crate::idem::{self, ANSWERED, Caller, HELD, Key, Made, Session, case, held};
use crate::{Case, Expect};

/// As it is by default, but for room: calls of a case never find it full.
fn store() -> MemoryStore {
    MemoryStore::builder().capacity(1 << 24).max_bytes(4 << 30).build().expect("valid settings")
}

fn layered(store: MemoryStore, router: &Router) -> Router {
    let gate = Idempotency::new("payments", store, Scope::global());
    let layer = IdempotencyLayer::http(gate).single_tenant().build().expect("valid settings");
    router.clone().layer(layer)
}

/// Our modes of [`crate::idem::app`].
pub(crate) fn app(who: &str, router: &Router) -> Option<Router> {
    (who == "us").then(|| layered(store(), router))
}

/// Puts such records there as the layer does.
async fn fill(store: &MemoryStore, keys: u64) {
    let fingerprint = Fingerprint::of(b"the same");
    for number in 0..keys {
        let id = RecordId::of(b"held", &number.to_le_bytes());
        let claim = Claim::new(fingerprint, Attempt::new());
        let begun = store.begin(&id, &claim).await;
        assert!(matches!(begun, Ok(Begun::Run { .. })), "{begun:?}");
        let outcome = Outcome::new(201, &[0; 36][..], ANSWERED.as_bytes());
        let done = store.complete(&id, claim.attempt, &Arc::new(outcome), claim.retention).await;
        assert!(done.is_ok(), "{done:?}");
    }
}

fn holding(keys: u64) -> Made {
    Box::pin(async move {
        let store = store();
        fill(&store, keys).await;
        let router = Router::new().route(idem::PATH, idem::handler());
        Caller::new(layered(store, &router), Key::Fresh, Session::None)
    })
}

/// Runs of a gate without a layer.
struct Gate {
    gate: Idempotency<MemoryStore>,
    with: Key,
    next: u64,
}

impl Gate {
    async fn run(&mut self) -> Result<Ran<String>, RunError<Infallible>> {
        let key = if self.with == Key::Same { 0 } else { self.next };
        self.next += 1;
        let pay = || async { Ok(String::from(ANSWERED)) };
        self.gate.run(key.to_le_bytes(), Fingerprint::of(idem::ASKED.as_bytes()), pay).await
    }
}

impl Runner for Gate {
    fn run(&mut self, calls: u64) -> Batch<'_> {
        let expected = if self.with == Key::Same { Status::Replayed } else { Status::Stored };
        Box::pin(async move {
            let mut answered = 0;
            for _ in 0..calls {
                let ran = std::hint::black_box(self.run().await);
                answered += u64::from(ran.is_ok_and(|ran| ran.status == expected));
            }
            answered
        })
    }
}

fn gate(what: &str, with: Key) -> Case {
    Case::new(format!("idem/{what}/us"), Expect::Allowed, move || {
        let gate = Idempotency::new("payments", store(), Scope::global());
        let mut first = Gate { gate, with, next: 0 };
        crate::runtime().block_on(async { first.run().await.expect("the first is run") });
        let number = std::cell::Cell::new(0);
        let callers: Callers = Box::new(move || {
            number.set(number.get() + 1);
            Box::new(Gate { gate: first.gate.clone(), with, next: number.get() << 40 })
        });
        callers
    })
    .scales()
}

pub(super) fn cases() -> Vec<Case> {
    let floor = "idem/post/identity";
    let mut all = vec![
        case("post without key", "us", Key::None).against("idem/post without key/identity"),
        case("replay", "us", Key::Same).against(floor),
        case("fresh", "us", Key::Fresh).against(floor),
        gate("gate, replay", Key::Same),
        gate("gate, fresh", Key::Fresh),
    ];
    all.extend(HELD.map(|(label, keys)| {
        let case = held("us", label, keys, holding).against(floor);
        if keys > 100_000 { case.not_emulated() } else { case }
    }));
    all
}
