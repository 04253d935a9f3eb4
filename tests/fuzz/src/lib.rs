//! The bodies of the targets: each takes any bytes and panics if what it tests does something that it must not.
//!
//! `cargo run --release -- --runs 20000` drives all of them on stable Rust, in this folder; it prints its seed, and
//! `--seed N` with the same `--runs` repeats it. With nightly and cargo-fuzz:
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz --features libfuzzer record`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use buttress::config::{Format, Loader};
use buttress::control::{Registry, execute};
use buttress::idempotency::{
    EffectStore, Idempotency, IdempotencyKey, IdempotencyLayer, KeyError, Scope, compute_action_id,
};
use buttress::retry::RetryOverride;
use buttress::store::{
    Attempt, Begun, Claim, Entry, Fingerprint, MemoryStore, Outcome, RecordId, Resolution, Store,
    StoreErrorKind, StoreTime,
};
use buttress::{Deadline, Quota};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tower::{Layer, ServiceExt};

/// A target, and inputs to begin with.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: &'static [&'static [u8]],
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "idempotency_key",
        run: idempotency_key,
        seeds: &[
            b"8e03978e-40d5-43dd-bc93-6894a57f9324",
            br#""8e03978e-40d5-43dd-bc93-6894a57f9324""#,
            br#"  "say \"hi\" \\ \\" "#,
            br#""a", "b""#,
            br#""a";b=1"#,
            b"a\xff\x7f\t",
        ],
    },
    Target {
        name: "record",
        run: record,
        seeds: &[
            b"",
            b"\x01\x01\x03\x00",
            b"\x01content-type: text/plain\0paid, and more than sixteen bytes of it",
            &[1; 110],
        ],
    },
    Target {
        name: "replayed_head",
        run: replayed_head,
        seeds: &[
            b"\x01",
            b"\x01\x00\x08\x00location\x0b\x00\x00\x00/payments/7",
            b"\x01\x01\x0b\x00grpc-status\x01\x00\x00\x000",
            b"\x01\x00\x0c\x00content-type\x10\x00\x00\x00application/grpc",
            b"\x02\x00\x01\x00a\x01\x00\x00\x00b",
        ],
    },
    Target {
        name: "effect_result",
        run: effect_result,
        seeds: &[b"{\"a\":1}", b"null", b"[1.0,1e400,\"\\ud800\"]", b"\"text\""],
    },
    Target {
        name: "action_id",
        run: action_id,
        seeds: &[
            br#"{"b":[1,1.0,-0.0,1e22,true,null],"a":{"\u00e9":"x"}}"#,
            br#"[1e-7,123456789012345678901234567890]"#,
        ],
    },
    Target {
        name: "retry_after",
        run: retry_after,
        seeds: &[
            b"120",
            b"Fri, 31 Dec 1999 23:59:59 GMT",
            b"Fri, 31 Dec 1999 23:59:59 GMT\nFri, 31 Dec 1999 23:59:00 GMT",
            b"18446744073709551616",
        ],
    },
    Target {
        name: "retry_override",
        run: retry_override,
        seeds: &[
            br#"{"transient":3,"flaky":1,"base_delay":0.2,"max_delay":30,"jitter":true}"#,
            br#"{"retry_policy":{"max_attempts":3,"backoff":"exponential"}}"#,
            b"false",
        ],
    },
    Target {
        name: "control",
        run: control,
        seeds: &[
            br#"[["LD_install_failure_budget",{"threshold":0.1,"window_seconds":30}]]"#,
            br#"{"commands":[{"command":"install_network_conditioner","latency_ms":50,"loss_rate":0.01}]}"#,
            br#"{"load_density":[["LD_uninstall_network_conditioner"]]}"#,
            br#"[["install_retry_policy",{"policy":{"max_attempts":4}}],["uninstall_retry_policy"]]"#,
            br#"[["install_circuit_breaker",[{"failure_rate":"50%","slow_calls":{"after":"2s","rate":0.5}}]],["install_rate_limit",[{"rate":"5/s burst 9","max_waiting":3}]]]"#,
        ],
    },
    Target {
        name: "config_yaml",
        run: config_yaml,
        seeds: &[
            b"breakers:\n  db: {failure_rate: 50%, open_for: 1m 30s}\n",
            b"rate_limits: &a {x: 5/s}\nretries:\n  <<: *a\n  b: FLOW_NODE_DEFAULT\n",
            b"faults:\n- ? [a]\n  : |\n   x\n  !!str y: 'z'\n",
            b"resilience:\n  circuit_breaker:\n    max_failures: 5\n  shutdown: {timeout: 30}\n",
            b"faults: {x: {rules: [{fault: {latency: {fixed: 1ms}}, matching: {not: {path: /a}}}]}}",
        ],
    },
    Target {
        name: "config_toml",
        run: config_toml,
        seeds: &[
            b"[breakers.db]\nfailure_rate = 0.5\nopen_for = '1m 30s'\n",
            b"rate_limits.x = '5/s'\nretries = {a.transient = 1}\n",
            b"[[faults.x.rules]]\nfault = 'loss'\nshare = 0x10\n",
            b"a = 2020-01-01T00:00:00Z\nb = inf\nc = \"\"\"\n\"\"\"\n",
        ],
    },
    Target {
        name: "config_json",
        run: config_json,
        seeds: &[
            br#"{"breakers": {"db": {"failure_rate": 0.5, "open_for": "1m 30s"}}}"#,
            br#"{"faults": {"x": {"rules": [{"fault": "loss", "share": 1e-1}]}}}"#,
            br#"{"rate_limits": {"\u00e4 \"b\"": "5/s", "b": {"rate": "1/s"}}, "clients": {"a": null}}"#,
        ],
    },
    Target {
        name: "quota",
        run: quota,
        seeds: &[b"100/s burst 20", b"5/10s", b"0.5/s", b"1000/h, burst 50", b"1e9 / ns"],
    },
    Target {
        name: "grpc_timeout",
        run: grpc_timeout,
        seeds: &[b"250m", b"99999999H", b"0n", b"1S"],
    },
];

/// Either a key that means itself when it is written down again, or an error; and neither tells the key.
pub fn idempotency_key(data: &[u8]) {
    let told = |shown: String| {
        // Shorter ones are in any text.
        let secret =
            std::str::from_utf8(data).is_ok_and(|text| text.len() > 8 && shown.contains(text));
        assert!(!secret, "{shown} tells the key");
    };
    match IdempotencyKey::parse(data) {
        Ok(key) => {
            told(format!("{key:?}"));
            let text = key.as_str();
            assert!(!text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            assert_eq!(IdempotencyKey::parse(quoted.as_bytes()).unwrap(), key);
            assert_eq!(IdempotencyKey::parse(format!("  {quoted} ").as_bytes()).unwrap(), key);
            // Cut off anywhere it is not a key.
            for end in 1..quoted.len() {
                assert!(IdempotencyKey::parse(&quoted.as_bytes()[..end]).is_err(), "{end}");
            }
        }
        Err(error) => {
            assert!(matches!(error, KeyError::Empty | KeyError::Malformed));
            told(format!("{error:?} {error}"));
        }
    }
}

/// Sets the checksum right, so that what is behind it is reached.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum: [u8; 32] = Sha256::digest(&bytes).into();
    bytes.extend_from_slice(&sum[..4]);
    bytes
}

fn corrupt(bytes: &[u8], what: &str) {
    let error = Entry::decode(bytes).expect_err(what);
    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{what}");
}

/// Bytes are a record or an error, and a record is those bytes. A record that was cut off anywhere, extended, or
/// is of another version is an error.
pub fn record(data: &[u8]) {
    for bytes in [data.to_vec(), sealed(data.to_vec()), sealed([&[1], data].concat())] {
        match Entry::decode(&bytes) {
            Ok(entry) => assert_eq!(entry.encode().unwrap(), bytes),
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Corrupt),
        }
    }
    // One made of the input.
    let at = |index: usize| data.get(index).copied().unwrap_or(0);
    let now = StoreTime::from_micros(u64::from_le_bytes(std::array::from_fn(at)));
    let attempt = Attempt::from_bytes(std::array::from_fn(|index| at(index + 8)));
    let claim = Claim::new(Fingerprint::of(data), attempt);
    let mut entry = Entry::claimed(&claim, now, u64::from(at(24)));
    let (head, body) = data.split_at(data.len() / 2);
    let status = u16::from_le_bytes([at(1), at(0)]);
    let retention = Duration::from_secs(u64::from(at(2)) << 8);
    match at(0) % 4 {
        0 => {}
        1 => drop(entry.complete(attempt, Outcome::new(status, head, body).into(), retention, now)),
        2 => drop(entry.interrupt(attempt, retention, now)),
        _ => drop(entry.complete(
            attempt,
            Outcome::not_retained(status, data).into(),
            retention,
            now,
        )),
    }
    let bytes = entry.encode().unwrap();
    assert_eq!(Entry::decode(&bytes).unwrap(), entry);
    for end in 0..bytes.len() {
        corrupt(&bytes[..end], "cut off");
        if end + 4 < bytes.len() {
            corrupt(&sealed(bytes[..end].to_vec()), "cut off, with a checksum of what is left");
        }
    }
    corrupt(&[&bytes[..], &[at(3)]].concat(), "extended");
    corrupt(&sealed([&bytes[..bytes.len() - 4], &[at(3)]].concat()), "extended, with a checksum");
    for version in [0, 2, at(4).max(2)] {
        let other = sealed([&[version], &bytes[1..bytes.len() - 4]].concat());
        let error = Entry::decode(&other).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(why, format!("a record of version {version}, expected 1"));
    }
}

/// A record of an HTTP answer whose head is anything: an answer, or a refusal, and nothing runs.
pub fn replayed_head(data: &[u8]) {
    const KEY: &str = "8e03978e-40d5-43dd-bc93-6894a57f9324";
    let store = MemoryStore::default();
    let gate = Idempotency::new("fuzz", store.clone(), Scope::global());
    let layer = IdempotencyLayer::http(gate.clone()).single_tenant().build().unwrap();
    let runs = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = Arc::clone(&runs);
    let service = layer.layer(tower::service_fn(move |_| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    }));
    let (kind, head) = data.split_first().map_or((&0, data), |(kind, head)| (kind, head));
    let request = || {
        let request = Request::post("/").header("idempotency-key", KEY);
        let content = if kind & 1 == 0 { "application/grpc" } else { "text/plain" };
        request.header("content-type", content).body(Body::empty()).unwrap()
    };
    let ask =
        || service.clone().oneshot(request()).now_or_never().expect("it never waits").unwrap();
    let first = ask();
    assert_eq!(first.status(), 200);
    let id = gate.id(KEY);
    let record = store.get(&id).now_or_never().unwrap().unwrap().unwrap();
    // As if it had been read from a store.
    let forgotten = store.resolve(&id, record.generation, Resolution::Forget);
    assert!(forgotten.now_or_never().unwrap().unwrap().is_recorded());
    let claim = Claim::new(record.fingerprint, Attempt::new());
    let begun = store.begin(&id, &claim).now_or_never().unwrap().unwrap();
    assert!(matches!(begun, Begun::Run { .. }));
    let outcome = if kind & 2 == 0 {
        Outcome::new(200 + u16::from(*kind), head, &b"body"[..])
    } else {
        Outcome::not_retained(200 + u16::from(*kind), head)
    };
    let outcome = Arc::new(outcome);
    let done = store.complete(&id, claim.attempt, &outcome, claim.retention);
    done.now_or_never().unwrap().unwrap();
    let answer = ask();
    if answer.headers().contains_key("idempotency-replayed") {
        assert_eq!(answer.status().as_u16(), 200 + u16::from(*kind));
    } else {
        // Nobody can read it: outcome unknown, in the caller's own way.
        assert!(answer.status() == 500 || answer.headers().contains_key("grpc-status"));
    }
    assert_eq!(runs.load(std::sync::atomic::Ordering::Relaxed), 1);
}

/// A recorded effect whose result is anything.
pub fn effect_result(data: &[u8]) {
    let store = MemoryStore::default();
    let effects = EffectStore::new(store.clone());
    effects.pending("action", "hash").now_or_never().unwrap().unwrap();
    let id = RecordId::of(b"buttress/effect", b"action");
    let attempt = store.get(&id).now_or_never().unwrap().unwrap().unwrap().attempt;
    let (status, body) = data.split_first().map_or((0, data), |(status, body)| (*status, body));
    let outcome = Arc::new(Outcome::new(u16::from(status % 4), [], body));
    let done = store.complete(&id, attempt, &outcome, Duration::from_secs(60));
    assert!(done.now_or_never().unwrap().unwrap().is_recorded());
    let record = effects.get("action").now_or_never().unwrap().unwrap().unwrap();
    let read = effects.resolve::<Value>("action").now_or_never().unwrap();
    if let Ok(Some(value)) = &read {
        assert_eq!(serde_json::from_slice::<Value>(body).unwrap(), *value);
    }
    let _ = (format!("{record:?}"), effects.resolve::<u32>("action").now_or_never().unwrap());
}

/// The id of a payload is that of the same payload read anew, whatever the order of its keys.
pub fn action_id(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    let Ok(id) = compute_action_id("type", &value, "scope") else { return };
    assert_eq!(id.len(), 64);
    let again: Value = serde_json::from_str(&value.to_string()).unwrap();
    assert_eq!(compute_action_id("type", &again, "scope").unwrap(), id);
    if let Value::Object(object) = &value {
        let sorted: BTreeMap<_, _> = object.iter().rev().collect();
        assert_eq!(compute_action_id("type", &sorted, "scope").unwrap(), id);
    }
    assert_ne!(compute_action_id("type", &value, "another").unwrap(), id);
}

pub fn retry_after(data: &[u8]) {
    let mut headers = HeaderMap::new();
    let mut lines = data.split(|byte| *byte == b'\n');
    for name in ["retry-after", "date", "retry-after"] {
        if let Some(Ok(value)) = lines.next().map(HeaderValue::from_bytes) {
            headers.append(name, value);
        }
    }
    if let Some(wait) = buttress::http::retry_after(&headers) {
        // What one adds to a clock must not overflow it.
        assert!(std::time::Instant::now().checked_add(wait).is_some(), "{wait:?}");
    }
}

pub fn retry_override(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    let read = RetryOverride::from_json(&value);
    match &read {
        Ok(one) => drop(one.to_policy()),
        Err(error) => assert!(!error.field().is_empty()),
    }
    // The two ways of reading it agree.
    assert_eq!(serde_json::from_slice::<RetryOverride>(data).is_ok(), read.is_ok());
    let _ = RetryOverride::from_task(&value);
}

pub fn control(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    let registry = Registry::new();
    let budget = registry.failure_budget("api");
    let conditioner = registry.conditioner("api");
    if let Ok(executed) = execute(&registry, &value) {
        let text = serde_json::to_string(&executed).unwrap();
        assert!(serde_json::from_str::<Value>(&text).is_ok());
        if executed.iter().all(|one| one.result.is_err()) {
            assert!(
                budget.get().is_none() && conditioner.get().is_none(),
                "an error did something"
            );
        }
    }
}

/// A quota is what it says of itself.
pub fn quota(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(quota) = text.parse::<Quota>() {
        let again: Quota = quota.to_string().parse().unwrap();
        assert_eq!((again.capacity(), again.interval()), (quota.capacity(), quota.interval()));
        assert!(quota.capacity() >= 1 && !quota.interval().is_zero());
    }
}

pub fn grpc_timeout(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(deadline) = Deadline::from_grpc_timeout(text) {
        let written = deadline.to_grpc_timeout();
        assert!(Deadline::from_grpc_timeout(&written).is_ok(), "{written}");
    }
}

pub fn config_yaml(data: &[u8]) {
    config(data, Format::Yaml);
}

pub fn config_toml(data: &[u8]) {
    config(data, Format::Toml);
}

pub fn config_json(data: &[u8]) {
    config(data, Format::Json);
}

/// Whatever a file says, it is refused with a message or read; what was read is the same when it is printed and read again.
fn config(data: &[u8], format: Format) {
    let text = String::from_utf8_lossy(data);
    for clamp in [false, true] {
        let loader = Loader::empty().text("f", format, text.clone()).clamp(clamp);
        match loader.load() {
            Ok(config) => {
                assert!(!config.explain().is_empty());
                for format in [Format::Yaml, Format::Toml, Format::Json] {
                    let printed = config.print(format);
                    let again = Loader::empty().text("p", format, printed.clone()).clamp(clamp);
                    match again.load() {
                        Ok(again) => assert!(again == config, "{printed}"),
                        Err(error) => panic!("{error}\n{printed}"),
                    }
                }
            }
            Err(error) => assert!(!error.problems().is_empty()),
        }
        drop(loader.load_as::<BTreeMap<String, Value>>());
    }
}
