//! Every message, pinned: whoever changes one sees it here.

use buttress::config::{Format, Loader};

fn yaml(text: &str) -> String {
    let error = Loader::empty().text("f.yml", Format::Yaml, text).load().unwrap_err();
    let text = error.to_string();
    text.split_once('\n').unwrap().1.to_owned()
}

#[test]
fn pinned() {
    let mut seen = String::new();
    for input in include_str!("messages.txt").lines() {
        let (format, text) = input.split_once(": ").unwrap();
        // `;;` ends a line.
        let text = text.replace(";;", "\n");
        let format = match format {
            "yaml" => Format::Yaml,
            "toml" => Format::Toml,
            "json" => Format::Json,
            other => panic!("{other}"),
        };
        let result = Loader::empty().text("f", format, text).load();
        let error = result.err().map_or_else(|| "no problem".to_owned(), |error| error.to_string());
        seen.push_str(input);
        for line in error.lines().skip(1) {
            seen.push_str("\n=> ");
            seen.push_str(line);
        }
        seen.push_str("\n\n");
    }
    insta::assert_snapshot!(seen);
}

/// Of one block, too: the builder is asked again after each.
#[test]
fn all_contradictions_at_once() {
    let text = "\
breakers:
  db: {open_for: 60s, open_for_max: 10s, failure_rate: 50%, window_calls: 5, min_calls: 9, half_open_for: 1s, probe_lease: 2s}
  cache: {failure_rate: 50%, window: 5s, window_calls: 5}
retry_budgets:
  pay: {burst: 5, floor: 6, tokens: 10, initial_tokens: 11}
faults:
  slow: {environment: a, environment_from: B, rules: [{fault: loss, during: {start: 5s, end: 1s}}, {fault: hang, during: {start: 9s, end: 2s}}]}
clients:
  pay: {endpoints: {probe_after: 60s}, breaker: {min_calls: 3, open_for: 9s, open_for_max: 1s}}
";
    assert_eq!(
        yaml(text),
        "\
f.yml:3: breakers.cache.window: 5s, expected either window or window_calls, not both
f.yml:2: breakers.db.min_calls: 9, expected at least 1 and at most 5, the window
f.yml:2: breakers.db.open_for_max: 10s, expected at least 60s and at most 31536000s
f.yml:2: breakers.db.probe_lease: 2s, expected at least 1ms and at most 1s
f.yml:5: retry_budgets.pay.floor: 6, expected at most the burst, 5
f.yml:5: retry_budgets.pay.initial_tokens: 11, expected at most the tokens there can be, 10
f.yml:7: faults.slow.rules[0].during.end: 1s, expected after the start, 5s
f.yml:7: faults.slow.rules[1].during.end: 2s, expected after the start, 9s
f.yml:9: clients.pay.breaker.min_calls: set, expected failure_rate or slow_calls with it
f.yml:9: clients.pay.breaker.open_for_max: 1s, expected at least 9s and at most 31536000s
f.yml:9: clients.pay.endpoints.probe_after_max: 30s, expected at least probe_after, 60s"
    );
}

#[test]
fn all_problems_of_all_sources_at_once() {
    let error = Loader::empty()
        .text("a.yml", Format::Yaml, "breakers:\n  db:\n    open_for: soon\n    opn_for: 1\n")
        .text("b.toml", Format::Toml, "[breakers.db]\nopen_for = -1\n[rate_limits.api]\nrate = 5\n")
        .text("c.json", Format::Json, "{\"breakers\":")
        .env_from([("BUTTRESS__BREAKERS__DB__MIN_CALLS", "few")])
        .set("breakers.other.half_open_for", "1s")
        .set("breakers.other.probe_lease", "2s")
        .load()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "7 problems in the configuration\n\
         c.json:1: not JSON that can be used: EOF while parsing a value\n\
         a.yml:3: breakers.db.open_for: \"soon\", expected a time: seconds, or a text such as \"250ms\" or \"1m 30s\"\n\
         a.yml:4: breakers.db.opn_for: unknown key, expected \"open_for\"\n\
         b.toml:2: breakers.db.open_for: -1, expected a time from 1ms to 365d\n\
         b.toml:4: rate_limits.api.rate: 5, expected a rate such as \"100/s burst 20\" or \"5/10s\"\n\
         variable BUTTRESS__BREAKERS__DB__MIN_CALLS: breakers.db.min_calls: \"few\", \
         expected a whole number from 1 to 4294967295\n\
         argument: breakers.other.probe_lease: 2s, expected at least 1ms and at most 1s"
    );
}

#[test]
fn a_billion_laughs_are_refused() {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (n, c) in ('b'..='k').enumerate() {
        let last = char::from(b'a' + u8::try_from(n).unwrap());
        text += &format!(
            "{c}: &{c} [*{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}]\n"
        );
    }
    assert!(yaml(&text).contains("more than 100000 values"), "{}", yaml(&text));
    assert!(yaml(&"[".repeat(10_000)).starts_with("f.yml:1: not YAML"));
}

#[test]
fn files_that_cannot_be_read() {
    let error = Loader::empty().file("/nowhere/a.yml").file("a.ini").load().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("\n/nowhere/a.yml: cannot be read: "), "{text}");
    assert!(
        text.ends_with(
            "\na.ini: unknown format, expected a name that ends in .yml, .yaml, .toml or .json"
        ),
        "{text}"
    );

    let root = super::cascade::folder("two");
    std::fs::write(root.join("buttress.yml"), "").unwrap();
    std::fs::write(root.join("buttress.json"), "{}").unwrap();
    let text = Loader::empty().search([&root]).load().unwrap_err().to_string();
    assert!(text.contains("buttress.json: beside "), "{text}");
    std::fs::remove_dir_all(root).unwrap();
}
