//! A user's type.

use std::collections::BTreeMap;
use std::time::Duration;

use buttress::config::{Format, Loader};
use serde::Deserialize;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Plain,
    Tls { cert: String },
}

#[derive(Debug, Deserialize, PartialEq)]
struct Settings {
    port: u16,
    grace: Duration,
    mode: Mode,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    limits: BTreeMap<String, f32>,
    ratio: Option<f64>,
    nested: Nested,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Nested {
    on: bool,
}

const TEXT: &str = "\
port: 80
grace: 1m 30s
mode: {tls: {cert: a.pem}}
hosts: [a, b]
limits: {x: 1, y: 2.5}
nested:
  on: false
breakers:
  db: {open_for: 5s}
";

#[test]
fn the_same_cascade() {
    let loader = Loader::empty()
        .text("a.yml", Format::Yaml, TEXT)
        .env_from([("BUTTRESS__PORT", "81"), ("BUTTRESS__NESTED__ON", "true")]);
    let settings: Settings = loader.load_as().unwrap();
    assert_eq!(
        settings,
        Settings {
            port: 81,
            grace: Duration::from_secs(90),
            mode: Mode::Tls { cert: "a.pem".to_owned() },
            hosts: vec!["a".to_owned(), "b".to_owned()],
            limits: BTreeMap::from([("x".to_owned(), 1.0), ("y".to_owned(), 2.5)]),
            ratio: None,
            nested: Nested { on: true },
        }
    );
    let plain: Settings = loader.set("mode", "plain").load_as().unwrap();
    assert_eq!(plain.mode, Mode::Plain);
}

fn error(change: impl Fn(&str) -> String) -> String {
    let loader = Loader::empty().text("a.yml", Format::Yaml, change(TEXT));
    loader.load_as::<Settings>().unwrap_err().to_string()
}

#[test]
fn errors_name_key_and_line() {
    assert_eq!(
        error(|text| text.replace("on: false", "on: 3")),
        "1 problem in the configuration\na.yml:7: nested.on: 3, expected a boolean"
    );
    assert_eq!(
        error(|text| text.replace("[a, b]", "[a, 1]")),
        "1 problem in the configuration\na.yml:4: hosts[1]: 1, expected a string"
    );
    assert_eq!(
        error(|text| text.replace("90s", "x").replace("1m 30s", "soon")),
        "1 problem in the configuration\n\
         a.yml:2: grace: \"soon\", expected a time: seconds, or a text such as \"250ms\" or \"1m 30s\""
    );
    assert_eq!(
        error(|text| text.replace("80", "70000")),
        "1 problem in the configuration\na.yml:1: port: 70000, expected u16"
    );
    // Unknown keys of both sides and a missing one, at once.
    assert_eq!(
        error(|text| text.replace("on: false", "no: false").replace("open_for", "open_fro")
            + "prot: 1\n"),
        "4 problems in the configuration\n\
         a.yml:9: breakers.db.open_fro: unknown key, expected \"open_for\"\n\
         a.yml:10: prot: unknown key, expected \"port\"\n\
         a.yml:7: nested.no: unknown key, expected one of on\n\
         a.yml:6: nested: incomplete, expected the key \"on\""
    );
}
