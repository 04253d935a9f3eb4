//! What every store on a server must do.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use buttress::idempotency::{Begin, Idempotency, Scope};
use buttress::store::{
    Attempt, Begun, Claim, Fingerprint, Finish, MemoryStore, OnInterrupted, Outcome, Record,
    RecordId, Renewed, Resolution, State, Store, StoreError,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep};

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn claim() -> Claim {
    Claim::new(Fingerprint::of(b"10 EUR"), Attempt::new())
}

pub fn outcome(body: &str) -> Arc<Outcome> {
    Arc::new(Outcome::new(201, &b"head"[..], body.as_bytes()))
}

/// An answer without what differs from store to store and from moment to moment.
fn plain(begun: &Begun) -> String {
    match begun {
        Begun::Run { runs, .. } => format!("run {runs}"),
        Begun::Probe { runs, .. } => format!("probe {runs}"),
        Begun::Busy { .. } => "busy".to_owned(),
        Begun::Done(record) => format!("done {}", of_record(record)),
        Begun::Interrupted(record) => format!("interrupted {}", of_record(record)),
        other => format!("{other:?}"),
    }
}

fn of_record(record: &Record) -> String {
    let Record { state, attempt, runs, fingerprint, lease_left, .. } = record;
    let parts =
        state.outcome().map(|o| (o.status(), o.head().to_vec(), o.body().map(<[u8]>::to_vec)));
    let leased = !lease_left.is_zero();
    format!("{} {parts:?} {attempt:?} {runs} {fingerprint:?} {leased}", state.as_str())
}

struct Pair<'a, S> {
    store: &'a S,
    model: MemoryStore,
    id: RecordId,
    attempts: Vec<Attempt>,
    log: Vec<String>,
}

impl<S: Store> Pair<'_, S> {
    fn compare<T: std::fmt::Debug + PartialEq>(
        &mut self,
        what: &str,
        real: Result<T, StoreError>,
        model: Result<T, StoreError>,
    ) {
        let (real, model) = (real.unwrap(), model.unwrap());
        self.log.push(format!("{what}: {real:?}"));
        assert_eq!(real, model, "{:#?}", self.log);
    }

    async fn step(&mut self, random: &mut SmallRng) {
        // Times that are over at once, or never.
        let lengths = [Duration::ZERO, HOUR, 2 * HOUR];
        let lease = lengths[random.random_range(0..2)];
        let retention =
            lengths[if random.random_bool(0.2) { 0 } else { random.random_range(1..3) }];
        let attempt = self.attempts[random.random_range(0..self.attempts.len())];
        let (store, model, id) = (self.store, self.model.clone(), self.id);
        match random.random_range(0..11) {
            0..4 => {
                let of = if random.random_bool(0.9) { &b"a"[..] } else { b"b" };
                let policy = match random.random_range(0..4) {
                    0 => OnInterrupted::Rerun(random.random_range(0..4)),
                    _ => OnInterrupted::Fail,
                };
                let claim = Claim::new(Fingerprint::of(of), attempt)
                    .lease(lease)
                    .retention(retention)
                    .on_interrupted(policy);
                let real = store.begin(&id, &claim).await.map(|begun| plain(&begun));
                let said = model.begin(&id, &claim).await.map(|begun| plain(&begun));
                self.compare(&format!("begin {claim:?}"), real, said);
            }
            4 => {
                let real = store.renew(&id, attempt, lease, retention).await;
                let said = model.renew(&id, attempt, lease, retention).await;
                self.compare(&format!("renew {attempt:?} {lease:?} {retention:?}"), real, said);
            }
            5..7 => {
                let what = if random.random_bool(0.8) {
                    outcome("body")
                } else {
                    Arc::new(Outcome::not_retained(500, &b"h"[..]))
                };
                let real = store.complete(&id, attempt, &what, retention).await;
                let said = model.complete(&id, attempt, &what, retention).await;
                self.compare(&format!("complete {attempt:?} {what:?} {retention:?}"), real, said);
            }
            7 => {
                let real = store.release(&id, attempt).await;
                let said = model.release(&id, attempt).await;
                self.compare(&format!("release {attempt:?}"), real, said);
            }
            8 => {
                let real = store.interrupt(&id, attempt, retention).await;
                let said = model.interrupt(&id, attempt, retention).await;
                self.compare(&format!("interrupt {attempt:?} {retention:?}"), real, said);
            }
            9 => {
                let (a, b) = (store.get(&id).await.unwrap(), model.get(&id).await.unwrap());
                let (Some(a), Some(b)) = (a, b) else { return };
                let wrong = u64::from(random.random_bool(0.2));
                let resolution = match random.random_range(0..2) {
                    0 => Resolution::Forget,
                    _ => Resolution::completed(Outcome::new(202, vec![], vec![])),
                };
                let real = store.resolve(&id, a.generation + wrong, resolution.clone()).await;
                let said = model.resolve(&id, b.generation + wrong, resolution.clone()).await;
                self.compare(&format!("resolve {wrong} {resolution:?}"), real, said);
            }
            _ => {
                let real = store.get(&id).await.map(|got| got.as_ref().map(of_record));
                let said = model.get(&id).await.map(|got| got.as_ref().map(of_record));
                self.compare("get", real, said);
            }
        }
    }
}

/// Random operations, and what the store in memory says to the same.
pub async fn agrees_with_memory(store: &impl Store, records: usize) {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    for record in 0..records {
        let mut pair = Pair {
            store,
            model: MemoryStore::default(),
            id: RecordId::of(&seed.to_le_bytes(), &record.to_le_bytes()),
            attempts: (0..3).map(|_| Attempt::new()).collect(),
            log: vec![format!("seed {seed}")],
        };
        for _ in 0..25 {
            pair.step(&mut random).await;
        }
    }
}

/// What the model cannot be asked, because it depends on the clock or on lost answers.
pub async fn keeps_its_word(store: &impl Store) {
    // The same claim again is the same claim, also one that has taken over.
    let id = RecordId::of(b"word", b"probe");
    let dead = claim().lease(Duration::ZERO);
    let Begun::Run { generation: first, .. } = store.begin(&id, &dead).await.unwrap() else {
        panic!()
    };
    let probing = claim().on_interrupted(OnInterrupted::Probe);
    let begun = store.begin(&id, &probing).await.unwrap();
    let Begun::Probe { generation, runs: 2 } = begun else { panic!("{begun:?}") };
    assert!(generation > first);
    assert_eq!(store.begin(&id, &probing).await.unwrap(), begun);
    let other = store.begin(&id, &claim().on_interrupted(OnInterrupted::Probe)).await.unwrap();
    assert!(matches!(other, Begun::Busy { generation: g, .. } if g == generation), "{other:?}");
    assert_eq!(
        store.complete(&id, dead.attempt, &outcome(""), HOUR).await.unwrap(),
        Finish::Fenced
    );
    assert_eq!(
        store.complete(&id, probing.attempt, &outcome(""), HOUR).await.unwrap(),
        Finish::Applied
    );

    // A lease ends by itself, is told as such, and the record stays.
    let id = RecordId::of(b"word", b"lease");
    let short = claim().lease(Duration::from_millis(80)).retention(Duration::from_secs(1));
    let asked = std::time::SystemTime::now();
    assert!(matches!(store.begin(&id, &short).await.unwrap(), Begun::Run { .. }));
    loop {
        match store.begin(&id, &claim()).await.unwrap() {
            Begun::Busy { retry_in, .. } => {
                assert!(retry_in <= short.lease, "{retry_in:?}");
                tokio::time::sleep(retry_in).await;
            }
            Begun::Interrupted(record) => {
                assert_eq!(record.state, State::Interrupted);
                assert!(asked.elapsed().unwrap() >= short.lease);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let renewed = store.renew(&id, short.attempt, HOUR, HOUR).await.unwrap();
    assert_eq!(renewed, Renewed::Interrupted);
    // Its owner turns out to live.
    // Long enough for a busy machine to ask in that time.
    let kept = Duration::from_secs(1);
    assert_eq!(
        store.complete(&id, short.attempt, &outcome("late"), kept).await.unwrap(),
        Finish::Applied
    );
    let Begun::Done(record) = store.begin(&id, &claim()).await.unwrap() else { panic!() };
    assert_eq!(record.state, State::Completed(outcome("late")));
    assert!(record.expires_in <= kept && record.lease_left.is_zero());
    tokio::time::sleep(kept).await;
    assert!(store.get(&id).await.unwrap().is_none());
    assert!(matches!(store.begin(&id, &claim()).await.unwrap(), Begun::Run { runs: 1, .. }));

    // As long as one can ask.
    let id = RecordId::of(b"word", b"for ever");
    let long = claim().lease(Duration::MAX).retention(Duration::MAX);
    assert!(matches!(store.begin(&id, &long).await.unwrap(), Begun::Run { .. }));
    assert!(matches!(store.begin(&id, &claim()).await.unwrap(), Begun::Busy { .. }));
    let done = store.complete(&id, long.attempt, &outcome("x"), Duration::MAX).await.unwrap();
    assert_eq!(done, Finish::Applied);
    assert!(store.get(&id).await.unwrap().unwrap().expires_in > 100_000 * HOUR);

    // Generations grow, also when the record was gone in between.
    let (id, mut last) = (RecordId::of(b"word", b"generations"), 0);
    for _ in 0..20 {
        let claim = claim();
        let Begun::Run { generation, .. } = store.begin(&id, &claim).await.unwrap() else {
            panic!()
        };
        assert!(generation > last, "{generation} after {last}");
        last = generation;
        assert_eq!(store.release(&id, claim.attempt).await.unwrap(), Finish::Applied);
    }

    // Bytes are bytes.
    let id = RecordId::of(b"word", b"bytes");
    let mine = claim();
    store.begin(&id, &mine).await.unwrap();
    let all: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let big = Arc::new(Outcome::new(65_535, &b"\0\xff\r\n"[..], all));
    assert_eq!(store.complete(&id, mine.attempt, &big, HOUR).await.unwrap(), Finish::Applied);
    let record = store.get(&id).await.unwrap().unwrap();
    assert_eq!(record.state, State::Completed(big));
}

/// Records of tenants have nothing to do with each other, though the keys are the same.
pub async fn keeps_tenants_apart(store: &impl Store) {
    let (a, b) = (RecordId::of(b"tenant a", b"order"), RecordId::of(b"tenant b", b"order"));
    let mine = claim();
    store.begin(&a, &mine).await.unwrap();
    store.complete(&a, mine.attempt, &outcome("secret"), HOUR).await.unwrap();
    assert!(store.get(&b).await.unwrap().is_none());
    assert!(matches!(store.begin(&b, &claim()).await.unwrap(), Begun::Run { .. }));
    let Begun::Done(record) = store.begin(&a, &claim()).await.unwrap() else { panic!() };
    assert_eq!(record.attempt, mine.attempt);
}

/// Many want the same at the same time, through several clients; a third of them goes away at some time, and
/// as with the gate, what they have begun goes on.
pub async fn runs_once<S: Store + Clone>(clients: &[S], callers: usize) {
    let id = RecordId::of(b"once", &rand::random::<[u8; 8]>());
    let effects = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for n in 0..callers {
        let (store, effects) = (clients[n % clients.len()].clone(), Arc::clone(&effects));
        tasks.spawn(async move {
            let work = tokio::spawn(one_caller(store, id, effects));
            if n % 3 == 0 {
                let patience = Duration::from_micros(rand::random_range(500..50_000));
                return tokio::time::timeout(patience, work).await.ok().map(Result::unwrap);
            }
            Some(work.await.unwrap())
        });
    }
    let mut answered = 0;
    while let Some(record) = tasks.join_next().await {
        let Some(record) = record.unwrap() else { continue };
        assert_eq!((record.state, record.runs), (State::Completed(outcome("paid")), 1));
        answered += 1;
    }
    assert_eq!(effects.load(Ordering::SeqCst), 1);
    assert!(answered >= callers * 2 / 3, "{answered}");
}

async fn one_caller(store: impl Store, id: RecordId, effects: Arc<AtomicUsize>) -> Record {
    let mine = claim();
    loop {
        match store.begin(&id, &mine).await.unwrap() {
            Begun::Run { .. } => {
                effects.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                let finish = store.complete(&id, mine.attempt, &outcome("paid"), HOUR).await;
                assert_eq!(finish.unwrap(), Finish::Applied);
            }
            Begun::Busy { .. } => tokio::time::sleep(Duration::from_millis(25)).await,
            Begun::Done(record) => return record,
            other => panic!("{other:?}"),
        }
    }
}

/// Operations that are dropped at any moment leave nothing that the same operation, sent again, does not put
/// right.
pub async fn may_be_dropped(store: &impl Store, times: u32) {
    // The first so that the connection is there, the second to see how long one takes.
    store.get(&RecordId::of(b"dropped", b"warm")).await.unwrap();
    let since = Instant::now();
    store.get(&RecordId::of(b"dropped", b"warm")).await.unwrap();
    let usual = since.elapsed();
    let mut dropped = (0, 0);
    for n in 0..times {
        let (id, mine) = (RecordId::of(b"dropped", &rand::random::<[u8; 8]>()), claim());
        let patience = |step: u32| usual * (step % 50) / 10;
        let begun = hangs_up(patience(n), store.begin(&id, &mine)).await;
        dropped.0 += usize::from(begun.is_none());
        let begun = store.begin(&id, &mine).await.unwrap();
        assert!(matches!(begun, Begun::Run { runs: 1, .. }), "{n}: {begun:?}");
        let what = outcome("x");
        // Another share of the way each time.
        let done = hangs_up(patience(n * 7), store.complete(&id, mine.attempt, &what, HOUR)).await;
        dropped.1 += usize::from(done.is_none());
        let finish = store.complete(&id, mine.attempt, &what, HOUR).await.unwrap();
        assert!(finish.is_recorded(), "{n}: {finish:?}");
    }
    println!("{dropped:?} of {times} dropped");
    assert!(dropped.0 > 0 && dropped.1 > 0, "{dropped:?}");
}

/// The suite that others' stores are checked with, too; all properties at the same time.
#[cfg(feature = "testing")]
pub async fn conforms<S: Store + Clone>(store: S) {
    use buttress::testing::store::{StoreProperty, StoreSubject, check_store_property};

    let make = move || std::future::ready(store.clone());
    let subject = StoreSubject::new(make).unit(Duration::from_millis(400));
    let checks = StoreProperty::ALL.iter().map(|of| check_store_property(&subject, *of));
    let found: Vec<_> = futures_util::future::join_all(checks).await;
    let found: Vec<_> = found.into_iter().filter_map(Result::err).collect();
    assert!(found.is_empty(), "{found:#?}");
}

/// Through the gate, by several of them on several clients.
pub async fn gates_run_once<S: Store + Clone>(clients: &[S], callers: usize) {
    use buttress::idempotency::{InFlight, Status};

    let key = format!("order-{}", rand::random::<u64>());
    let effects = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let gates: Vec<_> = clients
        .iter()
        .map(|store| {
            Idempotency::builder("orders", store.clone())
                .scope(Scope::tenant("tenant-7"))
                .in_flight(InFlight::Wait(Duration::from_secs(30)))
                .build()
                .unwrap()
        })
        .collect();
    for n in 0..callers {
        let (gate, effects) = (gates[n % gates.len()].clone(), Arc::clone(&effects));
        let key = key.clone();
        tasks.spawn(async move {
            let pay = || async {
                effects.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok::<_, std::io::Error>(String::from("receipt 42"))
            };
            gate.run(&key, Fingerprint::of(b"10 EUR"), pay).await.unwrap()
        });
    }
    let mut stored = 0;
    while let Some(ran) = tasks.join_next().await {
        let ran = ran.unwrap();
        assert_eq!(ran.value, "receipt 42");
        stored += usize::from(ran.status == Status::Stored);
    }
    assert_eq!((effects.load(Ordering::SeqCst), stored), (1, 1));
}

/// A permit that is dropped ends its lease, without being asked for it, and only its own.
pub async fn forgets_who_has_gone(store: &impl Store) {
    let (id, mine) = (RecordId::of(b"abandoned", &rand::random::<[u8; 8]>()), claim().lease(HOUR));
    store.begin(&id, &mine).await.unwrap();
    store.abandon(&id, claim().attempt);
    sleep(Duration::from_millis(300)).await;
    let met = store.begin(&id, &claim()).await.unwrap();
    assert!(matches!(met, Begun::Busy { .. }), "{met:?}");
    store.abandon(&id, mine.attempt);
    // Its time is the server's.
    let since = Instant::now();
    loop {
        match store.begin(&id, &claim()).await.unwrap() {
            Begun::Interrupted(record) => break assert_eq!(record.attempt, mine.attempt),
            Begun::Busy { .. } => assert!(since.elapsed() < Duration::from_secs(10), "it is held"),
            other => panic!("{other:?}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
    // What is decided stays so.
    assert!(store.complete(&id, mine.attempt, &outcome("x"), HOUR).await.unwrap().is_recorded());
    store.abandon(&id, mine.attempt);
    sleep(Duration::from_millis(100)).await;
    assert!(matches!(store.begin(&id, &claim()).await.unwrap(), Begun::Done(_)));
}

/// Asks once and then for as long as `patience` lasts: a timer of tokio's counts in milliseconds, and within one
/// of them a quick server has answered everybody.
async fn hangs_up<T>(patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let since = Instant::now();
    loop {
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
            return Some(done);
        }
        if since.elapsed() >= patience {
            return None;
        }
        yield_now().await;
    }
}

/// Callers that hang up while the server is being asked leave no key behind that is taken, and nothing runs
/// twice.
pub async fn takes_claims_back<S: Store + Clone>(store: &S, keys: u32) {
    let gate = Idempotency::new("taken-back", store.clone(), Scope::global());
    // The first so that the connection is there, the second to see how long one takes.
    gate.record("warm").await.unwrap();
    let since = Instant::now();
    gate.record("warm").await.unwrap();
    let usual = since.elapsed();
    let mut dropped = 0;
    for n in 0..keys {
        let key = format!("{n}");
        let patience = usual * (n % 50) / 20;
        match hangs_up(patience, gate.begin(&key, Fingerprint::NONE)).await {
            Some(begun) => match begun.unwrap() {
                Begin::Execute(permit) => drop(permit.fail_before_effect().await),
                other => panic!("{other:?}"),
            },
            None => dropped += 1,
        }
    }
    println!("{dropped} of {keys} dropped");
    assert!(dropped > 0, "the test drops none");
    let since = Instant::now();
    for n in 0..keys {
        loop {
            match gate.begin(format!("{n}"), Fingerprint::NONE).await.unwrap() {
                Begin::Execute(permit) => break drop(permit.fail_before_effect().await),
                Begin::InFlight { .. } => {
                    assert!(since.elapsed() < Duration::from_secs(15), "{n} is still taken");
                    sleep(Duration::from_millis(20)).await;
                }
                other => panic!("{n}: {other:?}"),
            }
        }
    }
}
