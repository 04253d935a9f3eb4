//! What a hostile reader tries: odd values, odd names, odd mixtures of sources, and secrets where they do not belong.
#![expect(clippy::float_cmp, reason = "numbers that are only read and kept")]

use std::collections::BTreeMap;
use std::time::Duration;

use buttress::config::{Format, Loader, ProblemKind};
use serde::Deserialize;
use serde_json::json;

fn yaml(text: &str) -> Loader {
    Loader::empty().text("f.yml", Format::Yaml, text)
}

/// The problems, a line each.
fn problems(loader: &Loader) -> Vec<String> {
    let error = loader.load().err().map_or_else(Vec::new, |error| error.problems().to_vec());
    error.iter().map(ToString::to_string).collect()
}

fn value(loader: &Loader, key: &str) -> Option<String> {
    loader.load().unwrap_or_else(|error| panic!("{error}")).value(key)
}

#[test]
fn times() {
    let open_for = |text: &str| {
        let loader = Loader::empty().set("breakers.db.open_for", text);
        loader.load().map(|config| config.value("breakers.db.open_for").unwrap())
    };
    for (text, seconds) in [
        ("1m 30s", "90.0"),
        ("1m30s", "90.0"),
        ("1.5h", "5400.0"),
        ("  250 ms ", "0.25"),
        ("1h 0.5s", "3600.5"),
        ("5000us", "0.005"),
        ("5000\u{b5}s", "0.005"),
        ("5000\u{3bc}s", "0.005"),
        ("90", "90.0"),
        ("1e2", "100.0"),
    ] {
        assert_eq!(open_for(text).as_deref(), Ok(seconds), "{text}");
    }
    for (text, kind) in [
        ("-1", ProblemKind::OutOfRange),
        ("0", ProblemKind::OutOfRange),
        ("366d", ProblemKind::OutOfRange),
        ("1e18", ProblemKind::OutOfRange),
        ("1e400", ProblemKind::WrongType),
        ("NaN", ProblemKind::WrongType),
        ("inf", ProblemKind::WrongType),
        ("584 years", ProblemKind::WrongType),
        ("5 M", ProblemKind::WrongType),
        ("1m30", ProblemKind::WrongType),
        ("-1m", ProblemKind::WrongType),
        ("s", ProblemKind::WrongType),
        ("1..5s", ProblemKind::WrongType),
        ("", ProblemKind::WrongType),
        ("5s 5s", ProblemKind::WrongType),
        ("30s 1m", ProblemKind::WrongType),
        ("1m, 30s", ProblemKind::WrongType),
        ("\u{665}s", ProblemKind::WrongType),
    ] {
        let error = open_for(text).unwrap_err();
        assert_eq!(error.problems()[0].kind(), kind, "{text}: {error}");
    }
    let error = Loader::empty().set_number("breakers.db.open_for", f64::NAN).load().unwrap_err();
    assert_eq!(error.problems()[0].value(), "NaN");
    let error = Loader::empty().set_number("breakers.db.open_for", f64::INFINITY).load();
    assert_eq!(error.unwrap_err().problems()[0].value(), "inf");
}

#[test]
fn shares() {
    let rate = |text: &str| {
        let loader = yaml(&format!("breakers:\n  db:\n    failure_rate: {text}"));
        loader.load().map(|config| config.value("breakers.db.failure_rate").unwrap())
    };
    assert_eq!(rate("5%").as_deref(), Ok("0.05"));
    assert_eq!(rate("5 %").as_deref(), Ok("0.05"));
    assert_eq!(rate(".5").as_deref(), Ok("0.5"));
    assert_eq!(rate("1").as_deref(), Ok("1.0"));
    for text in ["500%", "1.5", "-5%", "50", "5%%", "'%'", "x%", "NaN", "1e400%", "[5%]"] {
        let error = rate(text).unwrap_err().to_string();
        assert!(error.contains("f.yml:3: breakers.db.failure_rate: "), "{error}");
        assert!(error.contains("a share from 0 to 1"), "{error}");
    }
}

#[test]
fn rates() {
    let rate =
        |text: &str| value(&Loader::empty().set("rate_limits.a", text), "rate_limits.a.rate");
    assert_eq!(rate("100/s burst 20").as_deref(), Some("\"100/s burst 20\""));
    for text in
        ["0/s", "1/0s", "-1/s", "100", "100/", "/s", "1/s burst 0", "NaN/s", "inf/s", "1/s/s", ""]
    {
        let all = problems(&Loader::empty().set("rate_limits.a", text));
        assert!(
            all[0].starts_with(&format!("argument: rate_limits.a.rate: {text:?}, ")),
            "{all:?}"
        );
    }
    // What is printed is the same rate.
    for text in ["1/3s", "7/90m", "1000000000/s", "0.1/d burst 3"] {
        let Ok(config) = Loader::empty().set("rate_limits.a", text).load() else { continue };
        let again = yaml(&config.print(Format::Yaml)).load().unwrap();
        assert!(again == config, "{text}");
    }
}

#[test]
fn short_forms_are_merged_with_long_ones() {
    let short = yaml("rate_limits: {api: 5/s}\nretries: {a: FLOW_NODE_DEFAULT}");
    let loader = short.clone().env_from([
        ("BUTTRESS__RATE_LIMITS__API__SHADOW", "true"),
        ("BUTTRESS__RETRIES__A__TRANSIENT", "1"),
    ]);
    assert_eq!(value(&loader, "rate_limits.api.rate").as_deref(), Some("\"5/s\""));
    assert_eq!(value(&loader, "retries.a.like").as_deref(), Some("\"FLOW_NODE_DEFAULT\""));
    let config = loader.load().unwrap();
    assert_eq!(config.origin("rate_limits.api.rate"), Some("f.yml:1"));

    let long = yaml("rate_limits: {api: {rate: 5/s, shadow: true}}");
    let loader = long.set("rate_limits.api", "7/s");
    assert_eq!(value(&loader, "rate_limits.api.rate").as_deref(), Some("\"7/s\""));
    assert_eq!(value(&loader, "rate_limits.api.shadow").as_deref(), Some("true"));

    // Of one source, too.
    for pairs in [
        [("BUTTRESS__RATE_LIMITS__A", "5/s"), ("BUTTRESS__RATE_LIMITS__A__SHADOW", "1")],
        [("BUTTRESS__RATE_LIMITS__A__SHADOW", "1"), ("BUTTRESS__RATE_LIMITS__A", "5/s")],
    ] {
        let loader = Loader::empty().env_from(pairs);
        assert_eq!(value(&loader, "rate_limits.a.rate").as_deref(), Some("\"5/s\""));
        assert_eq!(value(&loader, "rate_limits.a.shadow").as_deref(), Some("true"));
    }
}

#[test]
fn arguments_are_merged_key_by_key() {
    let table = json!({"open_for": 3, "failure_rate": 0.5});
    let a = Loader::empty().set("breakers.db", table.clone()).set("breakers.db.min_calls", 4);
    let b = Loader::empty().set("breakers.db.min_calls", 4).set("breakers.db", table);
    for loader in [a, b] {
        assert_eq!(value(&loader, "breakers.db.open_for").as_deref(), Some("3.0"));
        assert_eq!(value(&loader, "breakers.db.min_calls").as_deref(), Some("4"));
    }
    // The last one of the same key holds.
    let loader = Loader::empty().set("breakers.db.seed", 1).set("breakers.db.seed", 2);
    assert_eq!(value(&loader, "breakers.db.seed").as_deref(), Some("2"));
}

#[test]
fn lists_are_replaced_and_nulls_in_them_are_none() {
    let base = "faults: {x: {rules: [{fault: loss}, {fault: hang}], allow_in: [a, b]}}";
    let loader = yaml(base).set("faults.x.allow_in", json!(["c"]));
    let config = loader.load().unwrap();
    assert_eq!(config.value("faults.x.allow_in[0]").as_deref(), Some("\"c\""));
    assert_eq!(config.value("faults.x.allow_in[1]"), None);
    assert_eq!(config.origin("faults.x.rules[1].fault"), Some("f.yml:1"));
    assert_eq!(
        problems(&yaml("faults:\n  x:\n    rules:\n    - fault: loss\n    -\n")),
        ["f.yml:5: faults.x.rules[1]: null, expected a table of keys"]
    );
    assert_eq!(
        problems(&yaml("faults: {x: {rules: [{fault: loss}], allow_in: [a, ~]}}")),
        ["f.yml:1: faults.x.allow_in[1]: null, expected a text"]
    );
}

#[test]
fn nulls_and_empty_values() {
    // A table that is null in a stronger source, and one that comes after it.
    let loader = yaml("breakers: {db: {open_for: 5s}}")
        .text("g.yml", Format::Yaml, "breakers: {db: }")
        .set("breakers.db.seed", 3);
    let config = loader.load().unwrap();
    assert_eq!(config.value("breakers.db.open_for"), None);
    assert_eq!(config.value("breakers.db.seed").as_deref(), Some("3"));
    for text in ["", "---\n", "# only a comment\n", "~", "\n\n", "breakers:\n", "\u{feff}"] {
        assert!(yaml(text).load().is_ok(), "{text:?}");
    }
    for format in [Format::Toml, Format::Json] {
        for text in ["", " \n", "\u{feff}"] {
            assert!(Loader::empty().text("f", format, text).load().is_ok(), "{format:?} {text:?}");
        }
    }
    // An empty variable is an empty text, not a variable that is not there: no default holds in silence.
    let loader = Loader::empty().env_from([("BUTTRESS__BREAKERS__DB__OPEN_FOR", "")]);
    assert_eq!(
        problems(&loader),
        [
            "variable BUTTRESS__BREAKERS__DB__OPEN_FOR: breakers.db.open_for: \"\", expected a time: \
          seconds, or a text such as \"250ms\" or \"1m 30s\""
        ]
    );
}

#[test]
fn names_of_variables() {
    // Two variables for one key: which holds would depend on the order of their names.
    let loader = Loader::empty()
        .env_from([("BUTTRESS__BREAKERS__DB__SEED", "1"), ("BUTTRESS__breakers__db__seed", "2")]);
    assert_eq!(
        problems(&loader),
        [
            "variable BUTTRESS__breakers__db__seed: breakers.db.seed: \"2\", expected one variable for \
          this key, and there is BUTTRESS__BREAKERS__DB__SEED"
        ]
    );
    let named =
        |name: &str| problems(&Loader::empty().env_from([(name.to_owned(), "1".to_owned())]));
    for name in ["BUTTRESS__", "BUTTRESS____SEED", "BUTTRESS__BREAKERS__DB__"] {
        assert!(named(name)[0].starts_with(&format!("variable {name}: not a path, ")), "{name}");
    }
    assert_eq!(named("BUTTRESS_MODE"), Vec::<String>::new());
    // Numbers are names, and names keep their case and dashes if a file has them.
    let loader = yaml("breakers: {1: {seed: 1}, Big-One: {seed: 1}}").env_from([
        ("BUTTRESS__BREAKERS__1__SEED", "2"),
        ("BUTTRESS__BREAKERS__BIG_ONE__SEED", "3"),
        ("BUTTRESS__BREAKERS__2__SEED", "4"),
    ]);
    for (key, seed) in [("1", "2"), ("Big-One", "3"), ("2", "4")] {
        assert_eq!(value(&loader, &format!("breakers.{key}.seed")).as_deref(), Some(seed), "{key}");
    }
}

#[test]
fn names_with_dots() {
    let loader = yaml("breakers: {api.v1: {seed: 1, failure_rate: 2}, '': {seed: -1}}");
    assert_eq!(
        problems(&loader),
        [
            "f.yml:1: breakers.\"\".seed: -1, expected a whole number from 0 to 9223372036854775807",
            "f.yml:1: breakers.\"api.v1\".failure_rate: 2, expected a share from 0 to 1, or a text \
             such as \"5%\"",
        ]
    );
    let loader = yaml(
        "breakers: {api.v1: {seed: 1}, a: {slow_calls: {after: 1s, rate: 10%}, \
                       failure_rate: 1}, a.slow_calls: {seed: 7}}",
    )
    .set("breakers.\"api.v1\".seed", 2);
    let config = loader.load().unwrap();
    assert_eq!(config.value("breakers.\"api.v1\".seed").as_deref(), Some("2"));
    assert_eq!(config.value("breakers.\"a.slow_calls\".seed").as_deref(), Some("7"));
    assert!(config.explain().contains("breakers.\"api.v1\".seed = 2  (argument)\n"));
    assert!(config.explain().contains("breakers.\"api.v1\".open_for = 60  (default)\n"));
    config.circuit_breaker("api.v1").unwrap();
    assert_eq!(
        problems(&Loader::empty().set("breakers.\"db.seed", 1))[0].split(", ").next().unwrap(),
        "argument: breakers.\"db.seed: not a path"
    );
}

#[test]
fn unknown_keys_at_every_depth() {
    let text = "\
breakrs: {}
breakers:
  db:
    slow_calls: {aftr: 1s, rate: 1}
faults:
  x:
    rulez: []
    rules:
    - fault: {latncy: {fixed: 1s}}
    - fault: {latency: {fixd: 1s}}
    - fault: hagn
      matching: {not: {methd: GET}}
clients:
  pay:
    retry: {backoff: {jitter: fulll}}
    breaker: {open_fro: 1s}
resilience:
  circuit_braker: {}
  watchdog: {timout: 5}
";
    let suggestions: Vec<_> = problems(&yaml(text))
        .iter()
        .map(|line| {
            let (place, rest) = line.split_once(": ").unwrap();
            let expected = rest.split_once(", expected ").unwrap().1;
            format!("{place} {} {expected}", rest.split_once(": ").unwrap().0)
        })
        .collect();
    for expected in [
        "f.yml:1 breakrs \"breakers\"",
        "f.yml:4 breakers.db.slow_calls.aftr \"after\"",
        "f.yml:7 faults.x.rulez \"rules\"",
        "f.yml:9 faults.x.rules[0].fault.latncy \"latency\"",
        "f.yml:10 faults.x.rules[1].fault.latency.fixd \"fixed\"",
        "f.yml:11 faults.x.rules[2].fault \"hang\"",
        "f.yml:12 faults.x.rules[2].matching.not.methd \"method\"",
        "f.yml:15 clients.pay.retry.backoff.jitter \"full\"",
        "f.yml:16 clients.pay.breaker.open_fro \"open_for\"",
        "f.yml:18 resilience.circuit_braker \"circuit_breaker\"",
        "f.yml:19 resilience.watchdog.timout \"timeout\"",
    ] {
        assert!(suggestions.iter().any(|s| s == expected), "{expected} in {suggestions:#?}");
    }
}

#[test]
fn the_word_that_turns_it_off_is_named() {
    assert_eq!(
        problems(&yaml("breakers: {db: {cancelled_after: always}}")),
        ["f.yml:1: breakers.db.cancelled_after: \"always\", expected a time: seconds, or a text \
          such as \"250ms\" or \"1m 30s\", or \"never\""]
    );
}

#[test]
fn clamp_reads_what_the_other_tool_reads() {
    // Its code never looks at this key.
    let config = yaml("resilience: {shutdown: {default_timeout: 20}}").clamp(true).load().unwrap();
    assert_eq!(config.limits().shutdown_timeout, 30.0);
    let both = yaml("resilience: {shutdown: {default_timeout: 20, timeout: 40}}").clamp(true);
    assert_eq!(both.load().unwrap().limits().shutdown_timeout, 40.0);
    let odd = "resilience: {shutdown: {force_exit_code: x, timeout: [1]}, unknown: 1, watchdog: 3}";
    assert_eq!(problems(&yaml(odd).clamp(true)), Vec::<String>::new());
    // And what is not its own is as strict as ever.
    assert_eq!(problems(&yaml("breakers: {db: {open_for: 0}}").clamp(true)).len(), 1);
}

#[test]
fn secrets_of_all_sorts() {
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct App {
        token: u32,
        #[serde(rename = "dbPassword")]
        db_password: bool,
        api_key: Duration,
    }
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Mine {
        app: App,
        url: u8,
        list: Vec<u8>,
    }
    let fine = json!({"token": 1, "dbPassword": true, "api_key": 1});
    for bad in [
        json!({"app": {"token": "hunter2"}}),
        json!({"app": {"dbPassword": "hunter2"}}),
        json!({"app": {"api_key": "hunter2"}}),
        json!({"app": "{\"token\": \"hunter2\""}),
        json!({"app": [{"token": "hunter2"}]}),
        json!({"url": "postgres://root:hunter2@db/x"}),
        json!({"list": [{"secret": "hunter2"}]}),
    ] {
        let mut all = json!({"app": fine, "url": 1, "list": []});
        for (key, value) in bad.as_object().unwrap() {
            let value = match (key.as_str(), value.as_object()) {
                ("app", Some(app)) => {
                    let mut whole = fine.clone();
                    whole.as_object_mut().unwrap().extend(app.clone());
                    whole
                }
                _ => value.clone(),
            };
            all.as_object_mut().unwrap().insert(key.clone(), value);
        }
        let text = all.to_string();
        let file = Loader::empty().text("f.json", Format::Json, text);
        let error = file.load_as::<Mine>().unwrap_err();
        for text in [error.to_string(), format!("{error:?}"), format!("{file:?}")] {
            assert!(!text.contains("hunter2"), "{bad}: {text}");
        }
    }
    // A variable whose JSON is cut off.
    let loader = Loader::empty().env_from([("BUTTRESS__APP", "{\"token\": \"hunter2\"")]);
    let error = loader.load_as::<Mine>().unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
    // A fault's secret, wrong in every way.
    for matching in [
        "{token: hunter2}",
        "{token: {secret: hunter2}}",
        "{token: {header: x, secret: [hunter2]}}",
        "{token: {header: 'x y', secret: hunter2hunter2}}",
        "{token: {header: x, secret: {hunter2: 1}}}",
        "{token: {header: x, secret: hunter2, hunter: 1}}",
        "{token: {header: x, secret: hunter2}, method: GET}",
    ] {
        let text = format!("faults: {{x: {{rules: [{{fault: loss, matching: {matching}}}]}}}}");
        let Err(error) = yaml(&text).load() else { continue };
        assert!(!error.to_string().contains(": \"hunter2"), "{matching}: {error}");
        assert!(!format!("{error:?}").contains("hunter2hunter2"), "{matching}: {error}");
    }
}

#[test]
fn what_only_sounds_like_a_secret_is_shown() {
    for name in ["tokenizer", "secretary", "passwords-ui-keyboard-tokenization"] {
        let key = format!("breakers.{name}.open_for");
        let config = Loader::empty().set(&key, 5).load().unwrap();
        if name != "passwords-ui-keyboard-tokenization" {
            assert_eq!(config.value(&key).as_deref(), Some("5.0"), "{name}");
            let all = problems(&Loader::empty().set(&key, "soon"));
            assert!(all[0].contains("\"soon\""), "{all:?}");
        }
    }
    let tokens = "retry_budgets: {a: {tokens: 5, initial_tokens: 3, cost: 1, throttled_cost: 1}}";
    assert_eq!(value(&yaml(tokens), "retry_budgets.a.tokens").as_deref(), Some("5"));
    assert_eq!(value(&yaml(tokens), "retry_budgets.a.initial_tokens").as_deref(), Some("3"));
    let inline =
        "clients: {a: {retry_budget: {tokens: 5, cost: 1, throttled_cost: 1, initial_tokens: 5}}}";
    assert_eq!(value(&yaml(inline), "clients.a.retry_budget.tokens").as_deref(), Some("5"));
    for key in ["token", "authToken", "x-api-key", "PASSWORD", "client_secret", "private_key"] {
        let config = Loader::empty().set("app", json!({key: "hunter2"})).section("app").load();
        let config = config.unwrap();
        assert!(!format!("{config:?}{}", config.explain()).contains("hunter2"), "{key}");
        let error = config.read::<BTreeMap<String, u8>>("app").unwrap_err().to_string();
        assert!(error.contains("(hidden)") && !error.contains("hunter2"), "{error}");
    }
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Lenient {
    on: bool,
    port: u16,
    share: f64,
    big: Duration,
}

#[test]
fn a_users_type_reads_as_ours_do() {
    let loader = |value: &str| Loader::empty().env_from([("BUTTRESS__ON", value)]);
    for (text, on) in [("on", true), ("1", true), ("yes", true), ("off", false), ("0", false)] {
        assert_eq!(loader(text).load_as::<Lenient>().unwrap().on, on, "{text}");
    }
    for text in ["NaN", "inf", "-infinity"] {
        let loader = Loader::empty().env_from([("BUTTRESS__SHARE", text)]);
        assert!(loader.load_as::<Lenient>().is_err(), "{text}");
    }
    // Null is as if nothing had been said.
    let settings: Lenient = yaml("on: true").text("g", Format::Yaml, "on: ").load_as().unwrap();
    assert_eq!(settings, Lenient::default());
    // A section that is nowhere has its defaults.
    let config = Loader::empty().section("app").load().unwrap();
    assert_eq!(config.read::<Lenient>("app").unwrap(), Lenient::default());
    let big: Lenient = yaml("big: 18446744073709551615").load_as().unwrap_or_default();
    assert!(big.big.as_secs() == 0 || big.big.as_secs() > 1 << 62);
}
