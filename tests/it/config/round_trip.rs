//! `load(print(x)) == x`, in every format.

use buttress::config::{Config, Format, Loader};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn time() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0.001..1e6).prop_map(Value::from),
        (1_u32..100_000).prop_map(Value::from),
        (1_u32..100_000).prop_map(|n| json!(format!("{n}ms"))),
        (1_u32..100, 1_u32..60).prop_map(|(m, s)| json!(format!("{m}m {s}s"))),
    ]
}

fn share() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0.001..1.0).prop_map(Value::from),
        (1_u32..=100).prop_map(|n| json!(format!("{n}%")))
    ]
}

fn some(
    key: &'static str,
    value: impl Strategy<Value = Value>,
) -> impl Strategy<Value = Option<(String, Value)>> {
    proptest::option::of(value.prop_map(move |value| (key.to_owned(), value)))
}

fn table(
    fields: impl Strategy<Value = Vec<Option<(String, Value)>>>,
) -> impl Strategy<Value = Value> {
    fields.prop_map(|all| Value::Object(all.into_iter().flatten().collect::<Map<_, _>>()))
}

fn breaker() -> impl Strategy<Value = Value> {
    let fields = (
        some("failure_rate", share()),
        some("consecutive_failures", (1_u32..1000).prop_map(Value::from)),
        some("open_for", time()),
        some("cancelled_after", prop_oneof![time(), Just(json!("never"))]),
        some("shadow", any::<bool>().prop_map(Value::from)),
        some("seed", (0..i64::MAX).prop_map(Value::from)),
    );
    table(fields.prop_map(|(a, b, c, d, e, f)| vec![a, b, c, d, e, f]))
}

fn retry() -> impl Strategy<Value = Value> {
    let fields = (
        some("transient", (0_u32..9).prop_map(Value::from)),
        some(
            "max_attempts",
            prop_oneof![(1_u32..9).prop_map(Value::from), Just(json!("unlimited"))],
        ),
        some("backoff_factor", (1.0..9.0).prop_map(Value::from)),
        some("deadline", time()),
    );
    table(fields.prop_map(|(a, b, c, d)| vec![a, b, c, d]))
}

fn rule() -> impl Strategy<Value = Value> {
    let fault = prop_oneof![
        Just(json!("loss")),
        time().prop_map(|time| json!({"latency": {"fixed": time}})),
        any::<String>().prop_map(|text| json!({"error": {"kind": "timed_out", "message": text}})),
    ];
    (fault, share()).prop_map(|(fault, share)| json!({"fault": fault, "share": share}))
}

fn names<S: Strategy<Value = Value>>(of: S) -> impl Strategy<Value = Value> {
    // Names may be anything.
    proptest::collection::btree_map("\\PC{1,8}|[ -~]{1,8}|[a-z]{1,3}", of, 0..3)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn settings() -> impl Strategy<Value = Value> {
    let quota = (1_u32..1000, 1_u32..50).prop_map(|(n, b)| json!(format!("{n}/s burst {b}")));
    let faults = proptest::collection::vec(rule(), 1..4).prop_map(|rules| json!({"rules": rules}));
    (names(breaker()), names(quota), names(retry()), names(faults)).prop_map(
        |(b, q, r, f)| json!({"breakers": b, "rate_limits": q, "retries": r, "faults": f}),
    )
}

fn again(config: &Config, format: Format) -> Config {
    let text = config.print(format);
    match Loader::empty().text("printed", format, text.clone()).load() {
        Ok(config) => config,
        Err(error) => panic!("{error}\nin\n{text}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_printed_is_what_is_read(settings in settings()) {
        let text = settings.to_string();
        let config = Loader::empty().text("a.json", Format::Json, text.clone()).load();
        // What contradicts itself is not printed.
        let Ok(config) = config else {
            return Err(TestCaseError::reject("refused"));
        };
        for format in [Format::Json, Format::Yaml, Format::Toml] {
            let again = again(&config, format);
            prop_assert!(again == config, "{format:?}\n{}\n{}", text, config.print(format));
            prop_assert_eq!(again.changes_since(&config), vec![]);
            prop_assert_eq!(again.print(format), config.print(format));
        }
    }
}

/// A check of the check: another value is a difference.
#[test]
fn a_difference_is_seen() {
    let load = |n: u32| {
        Loader::empty().set("breakers.db.min_calls", n).set("breakers.db.failure_rate", 0.5)
    };
    let (a, b) = (load(1).load().unwrap(), load(2).load().unwrap());
    assert!(a != b && again(&a, Format::Toml) == a);
    assert_eq!(b.changes_since(&a).len(), 1);
}
