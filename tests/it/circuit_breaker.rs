//! The breaker through its public interface: recorded traces, a slow obvious model, the service.

use std::collections::BTreeMap;
use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerStats, CircuitState, Permit};
use buttress::{Outcome, RejectionKind};
use proptest::prelude::*;
use serde_json::Value;
use tokio::time::{Instant, advance};

/// The breaker as one would explain it: no window, no word, no generation, only what it is about.
struct Model {
    max_failures: u64,
    open_for: f64,
    probes: usize,
    state: &'static str,
    failures: u64,
    since: f64,
    epoch: u64,
    /// Probes in flight: name and when admitted.
    probing: Vec<(String, f64)>,
    probe_successes: usize,
    calls: BTreeMap<String, (u64, f64)>,
    stats: [u64; 5],
}

const STAY: f64 = 60.0;
const LEASE: f64 = 30.0;
const CANCELLED_AFTER: f64 = 1.0;

impl Model {
    fn new(max_failures: u64, open_for: f64, probes: usize) -> Self {
        Self {
            max_failures,
            open_for,
            probes,
            state: "CLOSED",
            failures: 0,
            since: 0.0,
            epoch: 0,
            probing: Vec::new(),
            probe_successes: 0,
            calls: BTreeMap::new(),
            stats: [0; 5],
        }
    }

    fn enter(&mut self, state: &'static str, t: f64) {
        self.state = state;
        self.since = t;
        self.epoch += 1;
        self.probing.clear();
        self.probe_successes = 0;
        self.stats[4] += 1;
        if state == "CLOSED" {
            self.failures = 0;
        }
    }

    fn due(&mut self, t: f64) {
        if self.state == "OPEN" && t - self.since >= self.open_for {
            self.enter("HALF_OPEN", t);
        } else if self.state == "HALF_OPEN" && t - self.since >= STAY {
            self.enter("OPEN", t);
        }
    }

    fn begin(&mut self, call: &str, t: f64) -> bool {
        self.due(t);
        let admitted = match self.state {
            "CLOSED" => true,
            "HALF_OPEN" => {
                self.probing.retain(|(_, at)| t - at < LEASE);
                let free = self.probing.len() + self.probe_successes < self.probes;
                if free {
                    self.probing.push((call.to_owned(), t));
                }
                free
            }
            _ => false,
        };
        if admitted {
            self.calls.insert(call.to_owned(), (self.epoch, t));
        } else {
            self.stats[0] += 1;
            self.stats[3] += 1;
        }
        admitted
    }

    fn end(&mut self, call: &str, outcome: &str, t: f64) {
        let Some((epoch, start)) = self.calls.remove(call) else { return };
        let success = outcome == "success";
        let failure = outcome == "failure" || outcome == "cancel" && t - start > CANCELLED_AFTER;
        self.stats[0] += u64::from(success || failure);
        self.stats[1] += u64::from(success);
        self.stats[2] += u64::from(failure);
        if epoch != self.epoch {
            return;
        }
        if self.state == "HALF_OPEN" {
            let Some(place) = self.probing.iter().position(|(name, _)| name == call) else {
                return;
            };
            self.probing.remove(place);
            if failure {
                self.failures += 1;
                self.enter("OPEN", t);
            } else if success {
                self.probe_successes += 1;
                if self.probe_successes == self.probes {
                    self.enter("CLOSED", t);
                }
            }
        } else if success {
            self.failures = 0;
        } else if failure {
            self.failures += 1;
            if self.failures >= self.max_failures {
                self.enter("OPEN", t);
            }
        }
    }

    fn reset(&mut self, t: f64) {
        let epoch = self.epoch + u64::from(self.state != "CLOSED");
        self.enter("CLOSED", t);
        self.epoch = epoch;
        self.stats[4] -= 1;
    }
}

/// One breaker and its calls in flight, driven by the same words as the model.
struct Driven {
    breaker: CircuitBreaker,
    start: Instant,
    permits: BTreeMap<String, Permit>,
}

impl Driven {
    fn new(max_failures: u64, open_for: f64, probes: u64) -> Self {
        let breaker = CircuitBreaker::builder("golden")
            .consecutive_failures(u32::try_from(max_failures).unwrap())
            .open_for(Duration::from_secs_f64(open_for))
            .half_open_calls(u32::try_from(probes).unwrap())
            .build()
            .unwrap();
        Self { breaker, start: Instant::now(), permits: BTreeMap::new() }
    }

    async fn at(&self, t: f64) {
        advance(Duration::from_secs_f64(t) - self.start.elapsed()).await;
    }

    /// Admitted, or the remaining seconds of the refusal.
    fn begin(&mut self, call: &str) -> Result<(), f64> {
        match self.breaker.try_acquire() {
            Ok(permit) => {
                self.permits.insert(call.to_owned(), permit);
                Ok(())
            }
            Err(why) => {
                assert_eq!(why.kind(), RejectionKind::CircuitOpen);
                Err(why.retry_after().unwrap().as_secs_f64())
            }
        }
    }

    fn end(&mut self, call: &str, outcome: &str) {
        let Some(permit) = self.permits.remove(call) else { return };
        match outcome {
            "success" => permit.success(),
            "failure" => permit.failure(),
            "excluded" => permit.record(Outcome::Ignored),
            "cancel" => drop(permit),
            other => panic!("unknown outcome {other}"),
        }
    }

    fn state(&self) -> &'static str {
        word(self.breaker.snapshot().state)
    }

    fn observable_state(&self) -> &'static str {
        let now = self.breaker.snapshot();
        if now.next_probe == Some(Duration::ZERO) { "HALF_OPEN" } else { word(now.state) }
    }

    fn stats(&self) -> [u64; 5] {
        let s: CircuitBreakerStats = self.breaker.stats();
        [s.total_calls, s.successful_calls, s.failed_calls, s.rejected_calls, s.state_changes]
    }
}

fn word(state: CircuitState) -> &'static str {
    match state {
        CircuitState::Closed => "CLOSED",
        CircuitState::Open => "OPEN",
        CircuitState::HalfOpen => "HALF_OPEN",
        other => panic!("no such state in the traces: {other}"),
    }
}

const PROBES: &str = "no more probes than half_open_calls: a further caller is refused";
const STALE: &str = "the result of a call admitted in an earlier state decides nothing";

/// Where we answer differently from the recorded system, and why. Every other case is equal to the last
/// field. Our own answer is the model's, asserted for every step of every case, these included.
const DIFFERENT: &[(&str, &str)] = &[
    ("cb-015", PROBES),
    ("cb-017", STALE),
    ("cb-019", STALE),
    ("cb-039", PROBES),
    ("cb-041", STALE),
    ("cb-078", PROBES),
    ("cb-080", STALE),
    ("cb-082", STALE),
    ("cb-084", PROBES),
    ("cb-086", STALE),
    ("cb-088", PROBES),
    ("cb-090", PROBES),
    ("cb-092", PROBES),
];

#[tokio::test(start_paused = true)]
async fn replays_the_recorded_traces() {
    let file: Value = serde_json::from_str(include_str!("../golden/circuit_breaker.json")).unwrap();
    let mut replayed = 0;
    let mut different = Vec::new();
    for case in file["cases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let effective = &case["effective"];
        let (max, open_for, probes) = (
            effective["max_failures"].as_u64().unwrap(),
            effective["reset_timeout"].as_f64().unwrap(),
            effective["half_open_max_calls"].as_u64().unwrap(),
        );
        let mut ours = Driven::new(max, open_for, probes);
        let mut model = Model::new(max, open_for, usize::try_from(probes).unwrap());
        let mut equal = true;
        for (n, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let t = step["t"].as_f64().unwrap();
            ours.at(t).await;
            let op = step["op"].as_str().unwrap();
            let call = step["call"].as_str().unwrap_or("whole");
            let mut remaining = None;
            match op {
                "success" | "failure" | "excluded" => {
                    let admitted = ours.begin(call);
                    assert_eq!(admitted.is_ok(), model.begin(call, t), "{id} step {n}");
                    remaining = admitted.err();
                    ours.end(call, op);
                    model.end(call, op, t);
                }
                "begin" => {
                    let admitted = ours.begin(call);
                    assert_eq!(admitted.is_ok(), model.begin(call, t), "{id} step {n}");
                    remaining = admitted.err();
                }
                "end_success" | "end_failure" | "end_excluded" | "cancel" => {
                    let outcome = op.trim_start_matches("end_");
                    ours.end(call, outcome);
                    model.end(call, outcome, t);
                }
                "read_state" => {
                    model.due(t);
                    let _ = ours.breaker.state();
                }
                "reset" => {
                    model.reset(t);
                    ours.breaker.reset();
                }
                other => panic!("{id}: unknown op {other}"),
            }
            assert_eq!(
                (ours.state(), u64::from(ours.breaker.failure_count()), ours.stats()),
                (model.state, model.failures, model.stats),
                "{id} step {n} {op}: we differ from the model"
            );
            let stats = &step["stats"];
            let recorded = [
                "total_calls",
                "successful_calls",
                "failed_calls",
                "rejected_calls",
                "state_changes",
            ]
            .map(|field| stats[field].as_u64().unwrap());
            equal &= step["admitted"].as_bool().is_none_or(|yes| yes == remaining.is_none())
                && step["remaining_seconds"].as_f64() == remaining
                && step["state"].as_str() == Some(ours.state())
                && step["observable_state"].as_str() == Some(ours.observable_state())
                && step["failure_count"].as_u64() == Some(u64::from(ours.breaker.failure_count()))
                && recorded == ours.stats();
        }
        if !equal {
            different.push(id.to_owned());
        }
        replayed += 1;
    }
    assert_eq!(replayed, file["cases"].as_array().unwrap().len());
    let expected: Vec<_> = DIFFERENT.iter().map(|(id, _)| (*id).to_owned()).collect();
    assert_eq!(different, expected);
}

#[derive(Clone, Debug)]
enum Op {
    Wait(u16),
    Begin,
    End(usize, &'static str),
    Read,
    Reset,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_u16..900).prop_map(Op::Wait),
        8 => Just(Op::Begin),
        8 => (0_usize..8, prop_oneof![
            3 => Just("failure"), 3 => Just("success"), 1 => Just("excluded"), 2 => Just("cancel"),
        ]).prop_map(|(n, outcome)| Op::End(n, outcome)),
        1 => Just(Op::Read),
        1 => Just(Op::Reset),
    ]
}

proptest! {
    /// Any interleaving of calls, results, cancellations, waits and resets: the same answers as the slow
    /// model; never more probes in flight than allowed; a straggler never decides.
    #[test]
    fn behaves_like_the_model(
        max in 1_u64..4,
        open_for in 1_u32..40,
        probes in 1_u64..4,
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut ours = Driven::new(max, f64::from(open_for), probes);
            let mut model = Model::new(max, f64::from(open_for), usize::try_from(probes).unwrap());
            let mut t = 0.0;
            let mut flying: Vec<String> = Vec::new();
            for (n, op) in ops.iter().enumerate() {
                match op {
                    Op::Wait(steps) => t += f64::from(*steps) / 16.0,
                    Op::Begin => {
                        let name = n.to_string();
                        ours.at(t).await;
                        let admitted = ours.begin(&name).is_ok();
                        prop_assert_eq!(admitted, model.begin(&name, t));
                        if admitted {
                            flying.push(name);
                        }
                    }
                    Op::End(which, outcome) => {
                        if !flying.is_empty() {
                            let name = flying.remove(which % flying.len());
                            ours.at(t).await;
                            ours.end(&name, outcome);
                            model.end(&name, outcome, t);
                        }
                    }
                    Op::Read => {
                        ours.at(t).await;
                        model.due(t);
                        let _ = ours.breaker.state();
                    }
                    Op::Reset => {
                        ours.at(t).await;
                        model.reset(t);
                        ours.breaker.reset();
                    }
                }
                prop_assert_eq!(
                    (ours.state(), u64::from(ours.breaker.failure_count()), ours.stats()),
                    (model.state, model.failures, model.stats)
                );
            }
            Ok(())
        })?;
    }
}
