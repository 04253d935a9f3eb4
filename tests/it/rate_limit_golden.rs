//! Recorded traces of the token bucket this limiter replaces, replayed through the public object.
//!
//! What is done differently on purpose:
//!
//! * **burst** is the capacity, as documented there; the recorded program used it as the initial fill of a
//!   bucket of `rate` tokens. Such a case is replayed twice: with the recorded meaning, said in our terms
//!   (`initial_tokens`), where every step must agree; and with ours, against a plain model.
//! * a rate below one per period works; there nothing was ever admitted.
//! * a wait that cannot succeed is refused at once; there the timeout was slept to its end.
//! * a burst that is negative or not a whole number is an error.

use std::time::Duration;

use buttress::rate_limit::RateLimiter;
use buttress::{Quota, RejectionKind};
use futures_util::poll;
use serde_json::Value;
use tokio::time::{Instant, advance};

const TRACES: &str = include_str!("../golden/rate_limiter.json");

/// Every case that ends differently here, and why.
const INTENDED: [(&str, &str); 14] = [
    ("rl-012", "5 is the capacity: idling does not store 16"),
    ("rl-013", "20 is the capacity: 20 are admitted at once, not 8"),
    ("rl-016", "half a token of capacity is an error; start with 0.5 tokens instead"),
    ("rl-017", "a negative burst is an error"),
    ("rl-020", "1 per 4 s is enforced; there nothing was ever admitted"),
    ("rl-024", "2 is the capacity: reset fills up to 2, not 5"),
    ("rl-030", "refused at once, retry after the whole 64 s; there after a wasted second"),
    ("rl-032", "refused at once, retry after the whole 8 s; there after 7.5 wasted seconds"),
    ("rl-049", "1 is the capacity, not only the start"),
    ("rl-051", "2 is the capacity, not only the start"),
    ("rl-055", "2 is the capacity, not only the start"),
    ("rl-057", "1 is the capacity, not only the start"),
    ("rl-059", "1 is the capacity, not only the start"),
    ("rate=5 burst=-1", "a negative burst is an error"),
];

/// What a step must come to.
#[derive(Clone, Debug)]
struct Expected {
    admitted: Option<bool>,
    retry_after: Option<f64>,
    returned_at: f64,
    tokens: f64,
    time_until_token: f64,
    acquired: u64,
    rejected: u64,
    waited: f64,
}

fn number(value: &Value, key: &str) -> Option<f64> {
    value.get(key).and_then(Value::as_f64)
}

fn recorded(step: &Value) -> Expected {
    let stats = &step["stats"];
    Expected {
        admitted: step["admitted"].as_bool(),
        retry_after: number(step, "retry_after"),
        returned_at: number(step, "returned_at").unwrap_or(step["t"].as_f64().unwrap()),
        tokens: number(step, "tokens").unwrap(),
        time_until_token: number(step, "time_until_token").unwrap(),
        acquired: stats["total_acquired"].as_u64().unwrap(),
        rejected: stats["total_rejected"].as_u64().unwrap(),
        waited: number(stats, "total_waited").unwrap(),
    }
}

/// A token bucket as one would explain it, with our meanings.
struct Model {
    capacity: f64,
    per_second: f64,
    tokens: f64,
    at: f64,
    acquired: u64,
    rejected: u64,
    waited: f64,
}

impl Model {
    fn step(&mut self, step: &Value) -> Expected {
        let t = step["t"].as_f64().unwrap();
        let flow = |model: &mut Self, t: f64| {
            model.tokens = (model.tokens + (t - model.at) * model.per_second).min(model.capacity);
            model.at = t;
        };
        flow(self, t);
        let (mut admitted, mut retry_after, mut returned_at) = (None, None, t);
        let wait = ((1.0 - self.tokens) / self.per_second).max(0.0);
        match step["op"].as_str().unwrap() {
            "reset" => self.tokens = self.capacity,
            "read" => {}
            op => {
                let patience = if op == "try_acquire" {
                    0.0
                } else {
                    number(step, "timeout").unwrap_or(f64::INFINITY).max(0.0)
                };
                admitted = Some(wait <= patience);
                if wait <= patience {
                    returned_at += wait;
                    flow(self, returned_at);
                    self.tokens -= 1.0;
                    self.acquired += 1;
                    self.waited += wait;
                } else {
                    self.rejected += 1;
                    retry_after = (op == "acquire").then_some(wait);
                }
            }
        }
        Expected {
            admitted,
            retry_after,
            returned_at,
            tokens: self.tokens,
            time_until_token: ((1.0 - self.tokens) / self.per_second).max(0.0),
            acquired: self.acquired,
            rejected: self.rejected,
            waited: self.waited,
        }
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6_f64.max(1e-9 * a.abs().max(b.abs()))
}

async fn advance_to(start: Instant, seconds: f64) {
    let target = start + Duration::from_secs_f64(seconds);
    let now = Instant::now();
    assert!(target >= now, "traces go forward");
    advance(target - now).await;
}

async fn replay(limiter: &RateLimiter, case: &Value, mut expect: impl FnMut(&Value) -> Expected) {
    let start = Instant::now();
    for (i, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        let expected = expect(step);
        let context = format!("{} step {i}: {step}\nexpected {expected:?}", case["id"]);
        advance_to(start, step["t"].as_f64().unwrap()).await;
        let answer = match step["op"].as_str().unwrap() {
            "read" => None,
            "reset" => {
                limiter.reset();
                None
            }
            "try_acquire" => Some(limiter.try_acquire()),
            "acquire" => {
                let wait = limiter.time_until_token();
                let mut acquire = match number(step, "timeout") {
                    Some(timeout) => {
                        limiter.acquire_timeout(Duration::from_secs_f64(timeout.max(0.0)))
                    }
                    None => limiter.acquire(),
                };
                match poll!(&mut acquire) {
                    std::task::Poll::Ready(answer) => Some(answer),
                    std::task::Poll::Pending => {
                        // To the nanosecond: not before, not after.
                        advance(wait - Duration::from_nanos(1)).await;
                        assert!(poll!(&mut acquire).is_pending(), "{context}");
                        advance(Duration::from_nanos(1)).await;
                        let std::task::Poll::Ready(answer) = poll!(&mut acquire) else {
                            panic!("still waiting after {wait:?}: {context}")
                        };
                        Some(answer)
                    }
                }
            }
            other => panic!("unknown operation {other}"),
        };
        assert_eq!(answer.as_ref().map(Result::is_ok), expected.admitted, "{context}");
        assert!(close(start.elapsed().as_secs_f64(), expected.returned_at), "{context}");
        if let Some(Err(why)) = &answer {
            assert_eq!(why.kind(), RejectionKind::RateLimited, "{context}");
            let after = why.retry_after().unwrap().as_secs_f64();
            let expected = expected.retry_after.unwrap_or(expected.time_until_token);
            assert!(close(after, expected), "{after}: {context}");
        }
        let tokens = limiter.tokens();
        assert!(close(tokens, expected.tokens), "{tokens} tokens: {context}");
        let wait = limiter.time_until_token().as_secs_f64();
        assert!(close(wait, expected.time_until_token), "{wait} s: {context}");
        let stats = limiter.stats();
        assert_eq!(
            (stats.acquired, stats.rejected),
            (expected.acquired, expected.rejected),
            "{context}"
        );
        assert!(close(stats.waited.as_secs_f64(), expected.waited), "{stats:?}: {context}");
    }
}

fn quota(config: &Value) -> Quota {
    let per = number(config, "per").unwrap_or(1.0);
    Quota::from_rate(number(config, "rate").unwrap(), Duration::from_secs_f64(per)).unwrap()
}

/// Whether our answer differs on purpose: decided by what the case asks for, not by its name.
fn differs(case: &Value) -> bool {
    let config = &case["config"];
    let rate = number(config, "rate").unwrap();
    rate.fract() != 0.0
        || wastes_time(case)
        || number(config, "burst").is_some_and(|burst| !close(burst, rate))
}

/// Whether it sleeps a timeout to its end although no token can come.
fn wastes_time(case: &Value) -> bool {
    case["steps"].as_array().unwrap().iter().any(|step| {
        step["op"] == "acquire"
            && step["admitted"] != true
            && number(step, "timeout").is_none_or(|timeout| timeout > 0.0)
    })
}

fn cases() -> Vec<Value> {
    let all: Value = serde_json::from_str(TRACES).unwrap();
    let cases = all["cases"].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

#[tokio::test(start_paused = true)]
async fn every_trace_is_replayed() {
    for case in cases() {
        let config = &case["config"];
        let quota = quota(config);
        let burst = number(config, "burst");
        let rate = number(config, "rate").unwrap();

        // With the recorded meaning of burst: the initial fill.
        let initial = burst.unwrap_or(rate);
        if rate.fract() == 0.0 && (0.0..=rate).contains(&initial) {
            let limiter = RateLimiter::builder("golden")
                .quota(quota)
                .initial_tokens(initial)
                .build()
                .unwrap();
            if !wastes_time(&case) {
                replay(&limiter, &case, recorded).await;
            }
        }

        // With ours: the capacity.
        let quota = match burst {
            None => quota,
            Some(burst) if burst >= 1.0 && burst.fract() == 0.0 => {
                format!("{quota} burst {burst}").parse().unwrap()
            }
            Some(burst) => {
                let error = format!("{quota} burst {burst}").parse::<Quota>().unwrap_err();
                assert_eq!(error.field(), "quota", "{}", case["id"]);
                continue;
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let capacity = quota.capacity() as f64;
        let mut model = Model {
            capacity,
            per_second: quota.rate_per_second(),
            tokens: capacity,
            at: 0.0,
            acquired: 0,
            rejected: 0,
            waited: 0.0,
        };
        replay(&RateLimiter::new(quota), &case, |step| model.step(step)).await;
    }
}

#[test]
fn every_difference_is_listed() {
    let listed: Vec<_> =
        INTENDED.iter().map(|(id, _)| *id).filter(|id| id.starts_with("rl-")).collect();
    let found: Vec<_> = cases()
        .iter()
        .filter(|case| differs(case))
        .map(|case| case["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(found, listed);
}

#[test]
fn every_argument_check_is_replayed() {
    let all: Value = serde_json::from_str(TRACES).unwrap();
    for case in all["validation"].as_array().unwrap() {
        let args = &case["args"];
        let rate = number(args, "rate").unwrap();
        let per = number(args, "per").unwrap_or(1.0);
        let (field, result) = match Duration::try_from_secs_f64(per) {
            Ok(per) => match (Quota::from_rate(rate, per), number(args, "burst")) {
                (Ok(quota), Some(burst)) => {
                    ("quota", format!("{quota} burst {burst}").parse::<Quota>())
                }
                (result, _) => (if rate > 0.0 { "per" } else { "rate" }, result),
            },
            // A `Duration` cannot be negative: the type says what a message said there.
            Err(_) => {
                assert_eq!(case["ok"], false);
                continue;
            }
        };
        let intended = number(args, "burst").is_some_and(|burst| burst < 1.0);
        assert_eq!(result.is_ok(), case["ok"] == true && !intended, "{case}");
        if let Err(error) = result {
            assert_eq!(error.field(), field, "{case}");
        }
    }
}
