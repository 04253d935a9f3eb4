//! Everything in a user's type that does not fit, at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use buttress::config::{Format, Loader};
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn yaml(text: &str) -> Loader {
    Loader::empty().text("a.yml", Format::Yaml, text)
}

fn problems<T: DeserializeOwned>(loader: &Loader) -> Vec<String> {
    match loader.load_as::<T>() {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().skip(1).map(str::to_owned).collect(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "only read")]
enum Mode {
    Plain,
    Tls { cert: String, port: u16 },
    Pair(u8, u8),
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Settings {
    port: u16,
    grace: Duration,
    mode: Mode,
    hosts: Vec<String>,
    limits: BTreeMap<String, f32>,
    ratio: Option<f64>,
    nested: Nested,
    bind: SocketAddr,
    #[serde(alias = "other")]
    own: NonZeroU16,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Nested {
    on: bool,
    deep: Deep,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only read")]
struct Deep {
    letter: char,
    pair: (u8, i8),
    ip: IpAddr,
}

#[test]
fn each_with_key_value_line_and_what_was_expected() {
    let text = "\
port: 70000
grace: soon
mode: {tls: {cert: 3, prt: 1}}
hosts: [a, 1, b, 2]
limits: {x: much, y: 2.5, z: []}
ratio: half
nested:
  on: 3
  deep:
    letter: ab
    pair: [256, -129]
    ip: here
    more: 1
bind: 80
other: 0
breakers:
  db: {open_for: soon}
";
    let found = problems::<Settings>(&yaml(text));
    assert_eq!(
        found,
        [
            "a.yml:17: breakers.db.open_for: \"soon\", expected a time: seconds, or a text such as \"250ms\" or \"1m 30s\"",
            "a.yml:3: mode.tls.prt: unknown key, expected \"port\"",
            "a.yml:13: nested.deep.more: unknown key, expected one of letter, pair, ip",
            "a.yml:14: bind: 80, expected socket address",
            "a.yml:2: grace: \"soon\", expected a time: seconds, or a text such as \"250ms\" or \"1m 30s\"",
            "a.yml:4: hosts[1]: 1, expected a string",
            "a.yml:4: hosts[3]: 2, expected a string",
            "a.yml:5: limits.x: \"much\", expected f32",
            "a.yml:5: limits.z: [], expected f32",
            "a.yml:3: mode.tls.cert: 3, expected a string",
            "a.yml:3: mode.tls: incomplete, expected the key \"port\"",
            "a.yml:12: nested.deep.ip: \"here\", expected a value that fits (invalid IP address syntax)",
            "a.yml:10: nested.deep.letter: \"ab\", expected a character",
            "a.yml:11: nested.deep.pair[0]: 256, expected u8",
            "a.yml:11: nested.deep.pair[1]: -129, expected i8",
            "a.yml:8: nested.on: 3, expected a boolean",
            "a.yml:15: other: 0, expected a nonzero u16",
            "a.yml:1: port: 70000, expected u16",
            "a.yml:6: ratio: \"half\", expected f64",
        ]
    );
}

#[derive(Debug, Deserialize, PartialEq)]
struct Flat {
    name: String,
    #[serde(flatten)]
    limits: Limits,
    kind: Kind,
    any: Any,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Limits {
    most: u16,
    least: Option<u16>,
    time: Duration,
    strict: bool,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(tag = "is", rename_all = "snake_case")]
enum Kind {
    File { path: String, size: u64 },
    Memory,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(untagged)]
enum Any {
    Number(u64),
    Point { x: i32, y: i32 },
}

#[test]
fn parts_that_are_flattened_or_tagged() {
    let good = "\
name: a
most: 1
time: 1m 30s
strict: true
kind: {is: file, path: /, size: 1}
any: {x: 1, y: 2}
";
    let loader = yaml(good)
        .env_from([("BUTTRESS__MOST", "5"), ("BUTTRESS__STRICT", "off")])
        .set("kind.size", "7");
    let flat: Flat = loader.load_as().unwrap();
    assert_eq!(
        flat,
        Flat {
            name: "a".to_owned(),
            limits: Limits { most: 5, least: None, time: Duration::from_secs(90), strict: false },
            kind: Kind::File { path: "/".to_owned(), size: 7 },
            any: Any::Point { x: 1, y: 2 },
        }
    );
    let bad = "\
name: 1
most: -1
least: much
time: soon
kind:
  is: file
  path: []
  size: x
any: {x: 1, y: z}
";
    assert_eq!(
        problems::<Flat>(&yaml(bad)),
        [
            "a.yml:9: any: a table, expected a value that fits (data did not match any variant of untagged enum Any)",
            "a.yml:7: kind.path: [], expected a string",
            "a.yml:8: kind.size: \"x\", expected u64",
            "a.yml:1: name: 1, expected a string",
            "a.yml:3: least: \"much\", expected u16",
            "a.yml:2: most: -1, expected u16",
            "a.yml:4: time: \"soon\", expected struct Duration",
            "default: incomplete, expected the key \"strict\"",
        ]
    );
    let kind = "name: a\nmost: 1\ntime: 1\nstrict: true\nany: 1\nkind: {is: fiel}\n";
    assert_eq!(problems::<Flat>(&yaml(kind)), ["a.yml:6: kind.is: \"fiel\", expected \"file\""]);
}

#[test]
fn all_sources_also_values_that_a_stronger_one_has() {
    let loader = Loader::empty()
        .set_default("nested.on", 3)
        .text("a.yml", Format::Yaml, "port: many\nnested: {deep: {letter: 5}}\nprot: 1\n")
        .text("b.toml", Format::Toml, "port = -1\nhosts = 5\n")
        .text("c.json", Format::Json, "{\"port\": 80,\n \"hosts\": [],\n \"mode\": \"plian\"}")
        .env_from([("BUTTRESS__NESTED__ON", "true"), ("BUTTRESS__GRACE", "later")])
        .set("own", 65536);
    assert_eq!(
        problems::<Settings>(&loader),
        [
            "default: nested.on: 3, expected a boolean",
            "a.yml:3: prot: unknown key, expected \"port\"",
            "a.yml:2: nested.deep.letter: 5, expected a character",
            "a.yml:1: port: \"many\", expected u16",
            "b.toml:2: hosts: 5, expected a sequence",
            "b.toml:1: port: -1, expected u16",
            "c.json:3: mode: \"plian\", expected \"plain\"",
            "variable BUTTRESS__GRACE: grace: \"later\", expected a time: seconds, or a text such as \"250ms\" or \"1m 30s\"",
            "argument: own: 65536, expected a nonzero u16",
            "a.yml:2: nested.deep: incomplete, expected the key \"pair\"",
            "a.yml:2: nested.deep: incomplete, expected the key \"ip\"",
            "default: incomplete, expected the key \"limits\"",
            "default: incomplete, expected the key \"bind\"",
        ]
    );
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Odd {
    range: Range,
    even: Even,
    password: Secret,
    shy: Shy,
    after: u8,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "(u8, u8)")]
struct Range;

impl TryFrom<(u8, u8)> for Range {
    type Error = &'static str;

    fn try_from((from, to): (u8, u8)) -> Result<Self, Self::Error> {
        if from < to { Ok(Self) } else { Err("from must be below to") }
    }
}

/// Nothing that could stand in for it is one.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Even;

impl TryFrom<String> for Even {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "an even one" { Ok(Self) } else { Err("an odd one") }
    }
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Secret;

impl TryFrom<String> for Secret {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Err(format!("{text} is weak"))
    }
}

#[derive(Debug, Deserialize)]
#[serde(from = "String")]
struct Shy;

impl From<String> for Shy {
    fn from(text: String) -> Self {
        assert!(text.len() > 1, "too short");
        Self
    }
}

#[test]
fn types_that_judge_themselves() {
    let text = "range: [5, 3]\neven: 3\npassword: hunter2\nshy: []\nafter: 256\n";
    assert_eq!(
        problems::<Odd>(&yaml(text)),
        [
            "a.yml:5: after: 256, expected u8",
            "a.yml:2: even: 3, expected a string",
            "a.yml:3: password: (hidden), expected a value that fits",
            "a.yml:1: range: [5,3], expected a value that fits (from must be below to)",
            "a.yml:4: shy: [], expected a string",
        ]
    );
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Many {
    numbers: BTreeMap<String, u8>,
}

#[test]
fn a_hundred_and_no_end_of_them() {
    let lines = |n: usize| -> String { (0..n).map(|n| format!(" k{n}: x\n")).collect() };
    let found = problems::<Many>(&yaml(&format!("numbers:\n{}", lines(100))));
    assert_eq!(found.len(), 100, "{found:#?}");
    // It ends, and says that it has not looked at all.
    let found = problems::<Many>(&yaml(&format!("numbers:\n{}", lines(3_000))));
    assert!((150..3_000).contains(&found.len()), "{}", found.len());
    assert!(found.last().unwrap().contains("what else does not fit has not been looked for"));
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Tree {
    value: u8,
    #[serde(default)]
    children: Vec<Self>,
    next: Option<Box<Self>>,
}

#[test]
fn types_that_contain_themselves() {
    let text =
        "value: a\nchildren:\n - {value: b}\n - {children: [{value: c}]}\nnext: {value: d}\n";
    assert_eq!(
        problems::<Tree>(&yaml(text)),
        [
            "a.yml:3: children[0].value: \"b\", expected u8",
            "a.yml:4: children[1].children[0].value: \"c\", expected u8",
            "a.yml:4: children[1]: incomplete, expected the key \"value\"",
            "a.yml:5: next.value: \"d\", expected u8",
            "a.yml:1: value: \"a\", expected u8",
        ]
    );
}

#[test]
fn a_section_too() {
    let config =
        yaml("app:\n on: 3\n deep: {letter: ab, pair: 1, ip: '::1'}\n").section("app").load();
    let error = config.unwrap().read::<Nested>("app").unwrap_err();
    assert_eq!(
        error.to_string(),
        "3 problems in the configuration\n\
         a.yml:3: app.deep.letter: \"ab\", expected a character\n\
         a.yml:3: app.deep.pair: 1, expected a tuple of size 2\n\
         a.yml:2: app.on: 3, expected a boolean"
    );
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Strict {
    port: u16,
    #[serde(default)]
    clients: BTreeMap<String, serde_json::Value>,
}

#[test]
fn a_strict_type_is_not_asked_for_keys_of_the_crate() {
    let file = yaml("port: 80\nbreakers: {db: {}}\nresilience: {}\n");
    let file = file.set("rate_limits.api", "5/s");
    assert_eq!(file.load_as::<Strict>().unwrap(), Strict { port: 80, clients: BTreeMap::new() });
    // But it has those that it asks for, and is told of those that nobody knows.
    let both = yaml("port: 80\nclients: {pay: {total_timeout: 5s}}\n");
    assert_eq!(both.load_as::<Strict>().unwrap().clients.len(), 1);
    let wrong = yaml("port: 80\nbreakers: {db: {}}\nprt: 1\n");
    assert_eq!(problems::<Strict>(&wrong), ["a.yml:3: prt: unknown key, expected \"port\""]);
}

#[derive(Debug, Deserialize, PartialEq)]
struct Stored {
    #[serde(default)]
    port: u16,
    backend: Backend,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Backend {
    Memory(InMemory),
    Redis(Remote),
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct InMemory {}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Remote {
    url: String,
    port: Option<u16>,
    tls: Option<Tls>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Tls {
    cert: String,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Adjacent {
    one: Content,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
enum Content {
    Number(u8),
    Text(String),
}

#[test]
fn a_stronger_source_may_choose_another_variant() {
    let redis = |url: &str| Backend::Redis(Remote { url: url.to_owned(), port: None, tls: None });
    let weak = || yaml("backend: {kind: memory}\n");
    let file = weak().text("b.yml", Format::Yaml, "backend: {kind: redis, url: a}\n");
    assert_eq!(problems::<Stored>(&file), [""; 0]);
    assert_eq!(file.load_as::<Stored>().unwrap(), Stored { port: 0, backend: redis("a") });
    let variables =
        weak().env_from([("BUTTRESS__BACKEND__KIND", "redis"), ("BUTTRESS__BACKEND__URL", "b")]);
    assert_eq!(variables.load_as::<Stored>().unwrap().backend, redis("b"));
    // Neither of the others is wrong in what it says itself.
    let three = yaml("one: {kind: number, value: 5}\n")
        .text("b.yml", Format::Yaml, "one: {value: 6}\n")
        .text("c.yml", Format::Yaml, "one: {kind: text, value: x}\n");
    assert_eq!(problems::<Adjacent>(&three), [""; 0]);
    // What is wrong whatever the rest is, still is.
    let wrong = yaml("port: many\nbackend: {kind: memroy}\n").text(
        "b.yml",
        Format::Yaml,
        "port: 1\nbackend: {kind: redis, url: a}\n",
    );
    assert_eq!(
        problems::<Stored>(&wrong),
        [
            "a.yml:2: backend.kind: \"memroy\", expected \"memory\"",
            "a.yml:1: port: \"many\", expected u16",
        ]
    );
}

#[derive(Debug, Deserialize, PartialEq)]
struct External {
    one: Tagged,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Tagged {
    Off,
    Number(u8),
    File { path: String },
}

#[test]
fn a_stronger_source_may_choose_another_variant_by_its_key() {
    let file = |path: &str| Tagged::File { path: path.to_owned() };
    let weak = || yaml("one: {number: 5}\n");
    let two = || weak().text("b.yml", Format::Yaml, "one: {file: {path: x}}\n");
    assert_eq!(problems::<External>(&two()), [""; 0]);
    assert_eq!(two().load_as::<External>().unwrap().one, file("x"));
    // Variables before files, arguments before those, and defaults last.
    let variable = two().env_from([("BUTTRESS__ONE__NUMBER", "7")]);
    assert_eq!(variable.load_as::<External>().unwrap().one, Tagged::Number(7));
    let argument = || two().env_from([("BUTTRESS__ONE__NUMBER", "7")]).set("one.file.path", "y");
    assert_eq!(argument().load_as::<External>().unwrap().one, file("y"));
    let default = weak().set_default("one.file.path", "z");
    assert_eq!(default.load_as::<External>().unwrap().one, Tagged::Number(5));
    let off = two().set("one", "off");
    assert_eq!(off.load_as::<External>().unwrap().one, Tagged::Off);
    // One that says two itself is wrong.
    let both = weak().text("b.yml", Format::Yaml, "one: {number: 1, file: {path: x}}\n");
    assert_eq!(problems::<External>(&both).len(), 1, "{:?}", problems::<External>(&both));

    // So do this crate's own.
    let weak = yaml("retries: {a: {backoff: {base: 1s, jitter: {proportional: 10%}}}}\n");
    let loader =
        weak.text("b.yml", Format::Yaml, "retries: {a: {backoff: {jitter: {additive: 2s}}}}\n");
    let policy = loader.load().unwrap().retry_policy("a").unwrap();
    assert!(format!("{policy:?}").contains("Additive"), "{policy:?}");
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Picky {
    level: Steady,
}

/// Does not take the two together.
#[derive(Debug, Deserialize)]
#[serde(from = "BTreeMap<String, u8>")]
struct Steady;

impl From<BTreeMap<String, u8>> for Steady {
    fn from(map: BTreeMap<String, u8>) -> Self {
        assert!(map["low"] < map["high"], "low is above");
        Self
    }
}

#[test]
fn a_type_that_panics_at_a_mixture_that_nobody_wrote() {
    let loader = yaml("level: {low: 1, high: 2}\n").text(
        "b.yml",
        Format::Yaml,
        "level: {low: 5, high: 9}\n",
    );
    let loader = loader.set("level.low", 3).set_default("level.low", 10);
    assert_eq!(problems::<Picky>(&loader), [""; 0]);
}

#[test]
fn unknown_keys_of_a_variant() {
    let text = "\
port: x
backend:
  kind: redis
  prot: 1
  url: []
  tls: {cert: a, crt: a}
";
    assert_eq!(
        problems::<Stored>(&yaml(text)),
        [
            "a.yml:4: backend.prot: unknown key, expected \"port\"",
            "a.yml:6: backend.tls.crt: unknown key, expected \"cert\"",
            "a.yml:5: backend.url: [], expected a string",
            "a.yml:1: port: \"x\", expected u16",
        ]
    );
}

#[test]
fn a_key_that_something_in_a_variant_lacks() {
    let text = "\
port: x
backend:
  kind: redis
  tls: {crt: a}
  url: []
";
    assert_eq!(
        problems::<Stored>(&yaml(text)),
        [
            "a.yml:4: backend.tls.crt: unknown key, expected \"cert\"",
            "a.yml:4: backend.tls: incomplete, expected the key \"cert\"",
            "a.yml:5: backend.url: [], expected a string",
            "a.yml:1: port: \"x\", expected u16",
        ]
    );
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Listed {
    Remote { all: Vec<Tls>, other: Other },
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Other {
    crt: u8,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct HasListed {
    listed: Listed,
}

#[test]
fn the_same_unknown_key_several_times() {
    let text = "\
listed:
  kind: remote
  all:
    - {cert: a, crt: 1}
    - {cert: a}
    - {cert: a, crt: 1}
  other: {crt: 1}
";
    assert_eq!(
        problems::<HasListed>(&yaml(text)),
        [
            "a.yml:4: listed.all[0].crt: unknown key, expected \"cert\"",
            "a.yml:6: listed.all[2].crt: unknown key, expected \"cert\"",
        ]
    );
}

thread_local! {
    static RUNS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Counts how often it is read.
#[derive(Debug)]
struct Counted<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Counted<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RUNS.set(RUNS.get() + 1);
        T::deserialize(deserializer).map(|_| Self(std::marker::PhantomData))
    }
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Spread {
    #[serde(flatten)]
    all: BTreeMap<String, u8>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Long {
    list: InList,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
#[serde(tag = "kind", rename_all = "snake_case")]
enum InList {
    Some { all: Vec<u8> },
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Summed {
    #[serde(flatten)]
    all: Few,
}

/// All of them together are to blame.
#[derive(Debug, Deserialize)]
#[serde(try_from = "BTreeMap<String, u8>")]
struct Few;

impl TryFrom<BTreeMap<String, u8>> for Few {
    type Error = &'static str;

    fn try_from(all: BTreeMap<String, u8>) -> Result<Self, Self::Error> {
        if all.len() < 2_000 { Ok(Self) } else { Err("too many") }
    }
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Hard {
    kind: HardKind,
    after: u8,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
#[serde(tag = "is", rename_all = "snake_case")]
enum HardKind {
    Deep { inner: HardInner, size: u8 },
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct HardInner {
    even: Even,
}

#[test]
fn a_value_in_a_variant_that_nothing_stands_in_for() {
    let text = "kind:\n  is: deep\n  inner: {even: 3}\n  size: x\nafter: y\n";
    assert_eq!(
        problems::<Hard>(&yaml(text)),
        [
            "a.yml:5: after: \"y\", expected u8",
            "a.yml:3: kind.inner.even: 3, expected a string",
            "a.yml:4: kind.size: \"x\", expected u8"
        ]
    );
}

#[test]
fn one_wrong_value_among_thousands() {
    const MANY: usize = 2_500;
    let lines: String = (0..MANY).map(|n| format!("k{n}: 1\n")).collect();
    let loader = yaml(&format!("{lines}wrong: x\n"));
    RUNS.set(0);
    assert_eq!(problems::<Counted<Spread>>(&loader), ["a.yml:2501: wrong: \"x\", expected u8"]);
    assert!(RUNS.get() <= 100, "{} runs", RUNS.get());

    let items = "1, ".repeat(MANY);
    let loader = yaml(&format!("list:\n  kind: some\n  all: [{items}x]\n"));
    RUNS.set(0);
    let found = problems::<Counted<Long>>(&loader);
    assert_eq!(found, ["a.yml:3: list.all[2500]: \"x\", expected u8"]);
    assert!(RUNS.get() <= 100, "{} runs", RUNS.get());

    // Nor is one refused that comes as text.
    let loader = yaml(&lines).env_from([("BUTTRESS__K7", "7")]);
    RUNS.set(0);
    assert_eq!(problems::<Counted<Spread>>(&loader), [""; 0]);
    assert!(RUNS.get() <= 200, "{} runs", RUNS.get());
}

#[test]
fn looking_for_what_is_to_blame_ends() {
    let lines: String = (0..2_500).map(|n| format!("k{n}: 1\n")).collect();
    RUNS.set(0);
    let found = problems::<Counted<Summed>>(&yaml(&lines));
    assert!((100..=250).contains(&RUNS.get()), "{} runs", RUNS.get());
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].contains("too many"), "{found:#?}");
    assert!(found[1].contains("what else does not fit has not been looked for"), "{found:#?}");
}
