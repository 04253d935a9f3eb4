//! The store in memory against the plainest thing that could do the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress::store::{
    Attempt, Begun, Claim, Fingerprint, Finish, MemoryStore, OnInterrupted, Outcome, RecordId,
    Renewed, Resolution, State, Store, StoreErrorKind,
};
use proptest::prelude::*;
use tokio::time::advance;

const CAPACITY: usize = 4;
const KEYS: usize = 6;
const CLAIMS: usize = 5;

#[derive(Clone, Debug)]
enum Op {
    Begin { key: usize, claim: usize, payload: u8, policy: OnInterrupted },
    Renew { key: usize, claim: usize },
    Complete { key: usize, claim: usize, value: u8 },
    Release { key: usize, claim: usize },
    Interrupt { key: usize, claim: usize },
    Abandon { key: usize, claim: usize },
    Resolve { key: usize, off: u64, value: Option<u8> },
    Purge,
    Pass { millis: u64 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = 0..KEYS;
    let claim = 0..CLAIMS;
    let policy = prop_oneof![
        3 => Just(OnInterrupted::Fail),
        3 => (1..4_u16).prop_map(OnInterrupted::Rerun),
        1 => Just(OnInterrupted::Probe),
    ];
    let op = prop_oneof![
        8 => (key.clone(), claim.clone(), 0..2_u8, policy)
            .prop_map(|(key, claim, payload, policy)| Op::Begin { key, claim, payload, policy }),
        2 => (key.clone(), claim.clone()).prop_map(|(key, claim)| Op::Renew { key, claim }),
        3 => (key.clone(), claim.clone(), any::<u8>())
            .prop_map(|(key, claim, value)| Op::Complete { key, claim, value }),
        1 => (key.clone(), claim.clone()).prop_map(|(key, claim)| Op::Release { key, claim }),
        1 => (key.clone(), claim.clone()).prop_map(|(key, claim)| Op::Interrupt { key, claim }),
        1 => (key.clone(), claim).prop_map(|(key, claim)| Op::Abandon { key, claim }),
        1 => (key, 0..2_u64, any::<Option<u8>>())
            .prop_map(|(key, off, value)| Op::Resolve { key, off, value }),
        1 => Just(Op::Purge),
        4 => (0..1_500_u64).prop_map(|millis| Op::Pass { millis }),
    ];
    proptest::collection::vec(op, 1..80)
}

const LEASE: u64 = 1_000;
const RETENTION: u64 = 3_000;

#[derive(Clone, Debug, PartialEq)]
enum Kept {
    Pending,
    Done(u8),
    Interrupted,
}

/// A record as one would explain it. Times in milliseconds.
#[derive(Clone, Debug)]
struct Line {
    kept: Kept,
    /// `None` once somebody from outside has decided, or it was given back.
    owner: Option<usize>,
    payload: u8,
    runs: u16,
    generation: u64,
    lease_until: u64,
    expires: u64,
}

#[derive(Default)]
struct Model {
    lines: HashMap<usize, Line>,
    now: u64,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Run(u16),
    Probe(u16),
    Busy(u64),
    Mismatch,
    Done(u8),
    Interrupted,
    Full,
    Finish(Finish),
    Renewed(Renewed),
    Nothing,
}

impl Model {
    fn forget(&mut self) {
        let now = self.now;
        self.lines.retain(|_, line| {
            now < line.expires || line.kept == Kept::Pending && now < line.lease_until
        });
    }

    fn owned(&mut self, key: usize, claim: usize) -> Option<&mut Line> {
        self.lines.get_mut(&key).filter(|line| line.owner == Some(claim))
    }

    fn step(&mut self, op: &Op, generation: impl Fn(usize) -> u64) -> Answer {
        self.forget();
        let now = self.now;
        match *op {
            Op::Pass { millis } => {
                self.now += millis;
                Answer::Nothing
            }
            Op::Purge => Answer::Nothing,
            Op::Begin { key, claim, payload, policy } => {
                let room = self.lines.len() < CAPACITY;
                let Some(line) = self.lines.get_mut(&key) else {
                    if !room {
                        return Answer::Full;
                    }
                    let line = Line {
                        kept: Kept::Pending,
                        owner: Some(claim),
                        payload,
                        runs: 1,
                        generation: generation(key),
                        lease_until: now + LEASE,
                        expires: now + LEASE + RETENTION,
                    };
                    self.lines.insert(key, line);
                    return Answer::Run(1);
                };
                let mine = line.owner == Some(claim) && line.kept == Kept::Pending;
                if !mine {
                    if line.payload != payload {
                        return Answer::Mismatch;
                    }
                    match line.kept {
                        Kept::Done(value) => return Answer::Done(value),
                        Kept::Interrupted => return Answer::Interrupted,
                        Kept::Pending if now < line.lease_until => {
                            return Answer::Busy(line.lease_until - now);
                        }
                        Kept::Pending => {}
                    }
                    let again = match policy {
                        OnInterrupted::Rerun(most) => line.runs < most,
                        OnInterrupted::Probe => true,
                        _ => false,
                    };
                    if !again {
                        line.kept = Kept::Interrupted;
                        line.expires = line.expires.max(now + RETENTION);
                        return Answer::Interrupted;
                    }
                    line.owner = Some(claim);
                    line.runs += 1;
                    line.generation = generation(key);
                }
                line.lease_until = now + LEASE;
                line.expires = line.expires.max(line.lease_until + RETENTION);
                if line.runs > 1 && policy == OnInterrupted::Probe {
                    return Answer::Probe(line.runs);
                }
                Answer::Run(line.runs)
            }
            Op::Renew { key, claim } => Answer::Renewed(match self.owned(key, claim) {
                Some(line) if line.kept == Kept::Pending => {
                    line.lease_until = now + LEASE;
                    line.expires = line.expires.max(line.lease_until + RETENTION);
                    Renewed::Held
                }
                Some(line) if line.kept == Kept::Interrupted => Renewed::Interrupted,
                _ => Renewed::Fenced,
            }),
            Op::Complete { key, claim, value } => Answer::Finish(match self.owned(key, claim) {
                Some(Line { kept: Kept::Done(_), .. }) => Finish::Already,
                Some(line) => {
                    line.kept = Kept::Done(value);
                    line.expires = now + RETENTION;
                    Finish::Applied
                }
                None => Finish::Fenced,
            }),
            Op::Release { key, claim } => Answer::Finish(match self.lines.get_mut(&key) {
                None => Finish::Already,
                Some(line) if line.owner != Some(claim) => Finish::Fenced,
                Some(Line { kept: Kept::Done(_), .. }) => Finish::Fenced,
                Some(line) if line.runs > 1 => {
                    line.runs -= 1;
                    line.owner = None;
                    line.lease_until = line.lease_until.min(now);
                    Finish::Applied
                }
                Some(_) => {
                    self.lines.remove(&key);
                    Finish::Applied
                }
            }),
            Op::Interrupt { key, claim } => Answer::Finish(match self.owned(key, claim) {
                Some(line) if line.kept == Kept::Pending => {
                    line.kept = Kept::Interrupted;
                    line.expires = line.expires.max(now + RETENTION);
                    Finish::Applied
                }
                Some(line) if line.kept == Kept::Interrupted => Finish::Already,
                _ => Finish::Fenced,
            }),
            Op::Abandon { key, claim } => {
                if let Some(line) = self.owned(key, claim)
                    && line.kept == Kept::Pending
                {
                    line.lease_until = line.lease_until.min(now);
                }
                Answer::Nothing
            }
            Op::Resolve { key, off, value } => {
                let Some(line) = self.lines.get_mut(&key) else {
                    return Answer::Finish(Finish::Fenced);
                };
                let leased = line.kept == Kept::Pending && now < line.lease_until;
                Answer::Finish(match (&line.kept, value) {
                    _ if off != 0 || leased => Finish::Fenced,
                    (_, None) => {
                        self.lines.remove(&key);
                        Finish::Applied
                    }
                    (Kept::Done(_), Some(_)) => Finish::Fenced,
                    (_, Some(value)) => {
                        line.kept = Kept::Done(value);
                        line.owner = None;
                        Finish::Applied
                    }
                })
            }
        }
    }
}

fn id(key: usize) -> RecordId {
    RecordId::of(b"", &[u8::try_from(key).unwrap()])
}

fn outcome(value: u8) -> Arc<Outcome> {
    Arc::new(Outcome::new(0, [], [value]))
}

fn value(state: &State) -> u8 {
    state.outcome().unwrap().body().unwrap()[0]
}

async fn apply(store: &MemoryStore, attempts: &[Attempt], op: &Op) -> (Answer, Option<u64>) {
    let (lease, retention) = (Duration::from_millis(LEASE), Duration::from_millis(RETENTION));
    let answer = match *op {
        Op::Pass { millis } => {
            advance(Duration::from_millis(millis)).await;
            Answer::Nothing
        }
        Op::Purge => {
            store.purge(1).await.unwrap();
            Answer::Nothing
        }
        Op::Begin { key, claim, payload, policy } => {
            let claim = Claim::new(Fingerprint::of(&[payload]), attempts[claim])
                .lease(lease)
                .retention(retention)
                .on_interrupted(policy);
            match store.begin(&id(key), &claim).await {
                Ok(Begun::Run { generation, runs }) => {
                    return (Answer::Run(runs), Some(generation));
                }
                Ok(Begun::Probe { generation, runs }) => {
                    return (Answer::Probe(runs), Some(generation));
                }
                Ok(Begun::Busy { retry_in, .. }) => {
                    Answer::Busy(u64::try_from(retry_in.as_millis()).unwrap())
                }
                Ok(Begun::Mismatch) => Answer::Mismatch,
                Ok(Begun::Done(record)) => Answer::Done(value(&record.state)),
                Ok(Begun::Interrupted(_)) => Answer::Interrupted,
                Err(error) if error.kind() == StoreErrorKind::Full => Answer::Full,
                other => panic!("{other:?}"),
            }
        }
        Op::Renew { key, claim } => {
            Answer::Renewed(store.renew(&id(key), attempts[claim], lease, retention).await.unwrap())
        }
        Op::Complete { key, claim, value } => Answer::Finish(
            store.complete(&id(key), attempts[claim], &outcome(value), retention).await.unwrap(),
        ),
        Op::Release { key, claim } => {
            Answer::Finish(store.release(&id(key), attempts[claim]).await.unwrap())
        }
        Op::Interrupt { key, claim } => {
            Answer::Finish(store.interrupt(&id(key), attempts[claim], retention).await.unwrap())
        }
        Op::Abandon { key, claim } => {
            store.abandon(&id(key), attempts[claim]);
            Answer::Nothing
        }
        Op::Resolve { key, off, value } => {
            let record = store.get(&id(key)).await.unwrap();
            let generation = record.map_or(0, |record| record.generation) + off;
            let resolution = match value {
                Some(value) => Resolution::Completed(outcome(value)),
                None => Resolution::Forget,
            };
            Answer::Finish(store.resolve(&id(key), generation, resolution).await.unwrap())
        }
    };
    (answer, None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_history_goes_as_the_model_says(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = MemoryStore::builder().capacity(CAPACITY).build().unwrap();
            let attempts: Vec<_> = (0..CLAIMS).map(|_| Attempt::new()).collect();
            let mut model = Model::default();
            let mut last = [0; KEYS];
            for (n, op) in ops.iter().enumerate() {
                let (answer, generation) = apply(&store, &attempts, op).await;
                if let (Some(generation), Op::Begin { key, .. }) = (generation, op) {
                    let same = model.lines.get(key).is_some_and(|l| l.generation == generation);
                    prop_assert!(same || generation > last[*key], "step {n}: {op:?}");
                    last[*key] = generation;
                }
                let expected = model.step(op, |key| last[key]);
                prop_assert_eq!(answer, expected, "step {}: {:?}", n, op);
                model.forget();
                for key in 0..KEYS {
                    let record = store.get(&id(key)).await.unwrap();
                    let seen = record.as_ref().map(|record| match &record.state {
                        State::Pending => Kept::Pending,
                        State::Completed(_) => Kept::Done(value(&record.state)),
                        State::Interrupted => Kept::Interrupted,
                        other => panic!("{other:?}"),
                    });
                    let line = model.lines.get(&key);
                    prop_assert_eq!(&seen, &line.map(|l| l.kept.clone()), "{} after {:?}", key, op);
                    if let (Some(record), Some(line)) = (record, line) {
                        prop_assert_eq!(record.generation, line.generation);
                        prop_assert_eq!(record.runs, line.runs);
                        let left = u128::from(line.expires.saturating_sub(model.now));
                        prop_assert_eq!(record.expires_in.as_millis(), left);
                    }
                }
            }
            // Nothing is left behind, neither records nor bytes.
            advance(Duration::from_secs(10)).await;
            store.purge(usize::MAX).await.unwrap();
            prop_assert_eq!((store.len(), store.bytes()), (0, 0));
            Ok(())
        })?;
    }
}

/// On real threads: the counters of a store that is full all the time must not drift.
#[test]
fn threads_that_fight_for_the_last_places_leave_the_counters_right() {
    let store = MemoryStore::builder().capacity(50).max_bytes(300).build().unwrap();
    let granted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            let (store, granted) = (&store, &granted);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async move {
                    for n in 0..2_000_u32 {
                        let id = RecordId::of(b"", &(n % 97 + thread % 2 * 1_000).to_le_bytes());
                        let claim = Claim::new(Fingerprint::NONE, Attempt::new());
                        let Ok(Begun::Run { .. }) = store.begin(&id, &claim).await else {
                            continue;
                        };
                        granted.fetch_add(1, Ordering::Relaxed);
                        assert!(store.len() <= 50);
                        let outcome = outcome(1);
                        let finish =
                            store.complete(&id, claim.attempt, &outcome, claim.retention).await;
                        assert!(finish.unwrap().is_recorded());
                        let record = store.get(&id).await.unwrap().unwrap();
                        let forgotten =
                            store.resolve(&id, record.generation, Resolution::Forget).await;
                        assert_eq!(forgotten.unwrap(), Finish::Applied);
                    }
                });
            });
        }
    });
    assert!(granted.into_inner() > 1_000, "they did get through");
    assert_eq!((store.len(), store.bytes()), (0, 0));
}
