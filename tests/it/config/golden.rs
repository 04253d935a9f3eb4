//! What kstlib reads from the same files, with `clamp`.

use buttress::config::{Format, Loader};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../golden/config_limits.json")).unwrap()
}

fn limits(loader: &Loader) -> [(&'static str, f64); 6] {
    let limits = loader.load().unwrap().limits();
    [
        ("heartbeat_interval", limits.heartbeat_interval),
        ("shutdown_timeout", limits.shutdown_timeout),
        ("circuit_max_failures", f64::from(limits.circuit_max_failures)),
        ("circuit_reset_timeout", limits.circuit_reset_timeout),
        ("circuit_half_open_calls", f64::from(limits.circuit_half_open_calls)),
        ("watchdog_timeout", limits.watchdog_timeout),
    ]
}

fn check(loader: &Loader, expected: &Value, case: &Value) {
    for (key, value) in limits(loader) {
        assert_eq!(Some(value), expected[key].as_f64(), "{key} of {case}");
    }
}

#[test]
fn limits_of_files() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 30);
    let mut tables = 0;
    for case in cases {
        let text = case["config"].to_string();
        let mut texts = vec![(Format::Json, text.clone()), (Format::Yaml, text)];
        // TOML has no null.
        if let Ok(text) = toml::to_string(&case["config"]) {
            texts.push((Format::Toml, text));
            tables += 1;
        }
        for (format, text) in texts {
            let loader = Loader::empty().clamp(true).text("kstlib.conf", format, text);
            check(&loader, &case["limits"], case);
        }
    }
    assert_eq!(tables, 27);
}

#[test]
fn limits_of_arguments() {
    let golden = golden();
    let cases = golden["argument_cases"].as_array().unwrap();
    assert_eq!(cases.len(), 15);
    for case in cases {
        let block = match case["class"].as_str().unwrap() {
            "CircuitBreaker" => "circuit_breaker",
            "GracefulShutdown" => "shutdown",
            "Heartbeat" => "heartbeat",
            "Watchdog" => "watchdog",
            other => panic!("{other}"),
        };
        let mut loader = Loader::empty().clamp(true);
        for (key, value) in case["args"].as_object().unwrap() {
            // JSON has no "not a number"; as an argument in code it has a type of its own.
            let key = format!("resilience.{block}.{key}");
            loader = match value.as_str() {
                Some("NaN") => loader.set_number(key, f64::NAN),
                _ => loader.set(key, value.clone()),
            };
        }
        let limits = limits(&loader);
        for (key, value) in case["effective"].as_object().unwrap() {
            let ours = match (block, key.as_str()) {
                ("circuit_breaker", "max_failures") => "circuit_max_failures",
                ("circuit_breaker", "reset_timeout") => "circuit_reset_timeout",
                ("circuit_breaker", "half_open_max_calls") => "circuit_half_open_calls",
                ("shutdown", _) => "shutdown_timeout",
                ("heartbeat", _) => "heartbeat_interval",
                _ => "watchdog_timeout",
            };
            let found = limits.iter().find(|(name, _)| *name == ours).unwrap().1;
            assert_eq!(Some(found), value.as_f64(), "{key} of {case}");
        }
    }
}

#[test]
fn cascade_of_places() {
    let golden = golden();
    let cases = golden["cascade_cases"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for (n, case) in cases.iter().enumerate() {
        let root = super::cascade::folder(&format!("golden{n}"));
        let places = ["cwd", "home", "user_config", "system"].map(|place| root.join(place));
        for (place, content) in case["layers"].as_object().unwrap() {
            let directory = root.join(place);
            std::fs::create_dir_all(&directory).unwrap();
            let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
            std::fs::write(directory.join("kstlib.conf.yml"), text).unwrap();
        }
        let loader = Loader::empty().clamp(true).search(places);
        if case["raised"].is_string() {
            let error = loader.load().unwrap_err();
            assert!(error.to_string().contains("kstlib.conf.yml:3: not YAML"), "{error}");
        } else {
            check(&loader, &case["limits"], case);
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
