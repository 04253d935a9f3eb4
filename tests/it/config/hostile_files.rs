//! Files that are odd, broken or made to do harm.

use buttress::config::{Format, Loader, ProblemKind};

use super::cascade::folder;

fn problems(format: Format, text: &str) -> Vec<String> {
    let error = Loader::empty().text("f", format, text).load().err();
    error.map_or_else(Vec::new, |e| e.problems().iter().map(ToString::to_string).collect())
}

fn yaml(text: &str) -> Vec<String> {
    problems(Format::Yaml, text)
}

#[test]
fn lines_are_right_in_all_formats() {
    let yaml = "# c\nbreakers:\n  a:\n    open_for:\n      soon\n  b:\n    seed: >\n      x\n      y\n\n  c: {\n    seed: 1,\n    ramp: no }\nfaults:\n  x:\n    rules:\n    - fault: loss\n    - fault: what\n";
    let toml = "# c\n[breakers.a]\nopen_for = \"\"\"\nsoon\n\"\"\"\n\n[breakers]\nb.seed = 'x'\nc = { ramp = 'no' }\n[[faults.x.rules]]\nfault = 'loss'\n[[faults.x.rules]]\nfault = 'what'\n";
    let json = "\n{ \"breakers\": {\n \"a\": {\"open_for\":\n\"soon\"},\n\"b\":\n{\n\"seed\"\n:\n\"x\"}, \"c\": { \"ramp\": \"no\" } }, \"faults\": {\"x\":\n{\"rules\": [\n{\"fault\": \"loss\"},\n{\"fault\": \"what\"}]}}}";
    for (format, text, lines) in [
        (Format::Yaml, yaml, ["4", "7", "13", "18"]),
        (Format::Toml, toml, ["3", "8", "9", "13"]),
        (Format::Json, json, ["3", "7", "9", "12"]),
    ] {
        for start in ["", "\u{feff}"] {
            for end in ["\n", "\r\n"] {
                let text = format!("{start}{}", text.replace('\n', end));
                let all = problems(format, &text);
                let found: Vec<_> = all
                    .iter()
                    .map(|l| l.split(": ").take(2).collect::<Vec<_>>().join(" "))
                    .collect();
                let [a, b, c, d] = lines;
                assert_eq!(
                    found,
                    [
                        format!("f:{a} breakers.a.open_for"),
                        format!("f:{b} breakers.b.seed"),
                        format!("f:{c} breakers.c.ramp"),
                        format!("f:{d} faults.x.rules[1].fault"),
                    ],
                    "{format:?} {start:?} {end:?}"
                );
            }
        }
    }
}

#[test]
fn yaml_in_all_its_glory() {
    let load = |text: &str| {
        Loader::empty().text("f", Format::Yaml, text).load().unwrap_or_else(|e| panic!("{e}"))
    };
    // The table's own keys are stronger than merged ones, the first of a list stronger than the second.
    let config = load(
        "breakers:\n  a: &a {seed: 1, open_for: 1s}\n  b: &b {seed: 2, ramp: 2s}\n  \
         c: {<<: [*a, *b], open_for: 9s}\n",
    );
    for (key, value, line) in [("seed", "1", 2), ("open_for", "9.0", 4), ("ramp", "2.0", 3)] {
        let key = format!("breakers.c.{key}");
        assert_eq!(config.value(&key).as_deref(), Some(value), "{key}");
        assert_eq!(config.origin(&key), Some(format!("f:{line}").as_str()), "{key}");
    }
    // A text is a text.
    for text in ["!!str 5", "! 5", "'5'", "\"5\""] {
        let config =
            load(&format!("faults: {{x: {{rules: [{{fault: loss}}], environment: {text}}}}}"));
        assert_eq!(config.value("faults.x.environment").as_deref(), Some("\"5\""), "{text}");
    }
    for (text, starts) in [
        ("breakers:\n\tdb: {}\n", "f:2: not YAML"),
        ("a: 1\n--- \nb: 2", "f:3: not YAML that can be used: more than one document"),
        ("breakers: !ruby/object {db: {}}", "f:1: not YAML that can be used: a tag"),
        ("breakers: !!set {db: }", "f:1: not YAML that can be used: a tag"),
        ("faults: {x: {rules: !!python/tuple []}}", "f:1: not YAML that can be used: a tag"),
        ("breakers: &a {db: *a}", "f:1: not YAML"),
        ("breakers: {<<: 5}", "f:1: not YAML that can be used: a merge key"),
        (
            "breakers:\n  db: {}\n  db: {}\n",
            "f:3: not YAML that can be used: the key \"db\" is there twice",
        ),
        ("breakers:\n  db: {}\n\0nonsense: [", "f:3: not YAML"),
        ("breakers: {}\n\u{1b}[31m: 1", "f:2: not YAML"),
    ] {
        let all = yaml(text);
        assert!(all.first().is_some_and(|line| line.starts_with(starts)), "{text:?}: {all:?}");
    }
}

#[test]
fn depth_is_bounded() {
    // Aliases that make a tree deeper than any line of the file is.
    let mut text = "a0: &a0 x\n".to_owned();
    for n in 1..60 {
        let (open, close) = ("[".repeat(50), "]".repeat(50));
        text += &format!("a{n}: &a{n} {open}*a{}{close}\n", n - 1);
    }
    assert!(yaml(&text)[0].contains("deeper than 64 levels"), "{}", yaml(&text)[0]);
    let dots = format!("{} = 1", vec!["a"; 20_000].join("."));
    let header = format!("[{}]\nx = 1", vec!["a"; 20_000].join("."));
    for text in [dots, header, format!("a = {}", "[".repeat(20_000)), "a={a=".repeat(20_000)] {
        assert!(problems(Format::Toml, &text)[0].starts_with("f:1: not TOML"));
    }
    for text in ["[".repeat(20_000), "{\"a\":".repeat(20_000)] {
        assert!(problems(Format::Json, &text)[0].starts_with("f:1: not JSON"));
    }
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    for format in [Format::Json, Format::Yaml] {
        let all = problems(format, &format!("{{\"breakers\": {deep}}}"));
        assert!(all[0].contains("deeper than 64 levels"), "{all:?}");
    }
}

#[test]
fn numbers_at_the_edge() {
    let toml = |text: &str| problems(Format::Toml, &format!("[breakers.db]\n{text}"));
    for text in ["seed = 0xff", "seed = 1_000", "ramp = 1_0.5", "open_for = 1e3", "seed = 0o17"] {
        assert_eq!(toml(text), Vec::<String>::new(), "{text}");
    }
    for text in
        ["seed = 9223372036854775808", "ramp = nan", "ramp = -inf", "ramp = 1e400", "seed = -1"]
    {
        assert!(toml(text)[0].starts_with("f:2: "), "{text}: {:?}", toml(text));
    }
    for date in ["2020-01-01", "07:32:00", "1979-05-27T07:32:00Z", "1979-05-27 07:32:00"] {
        let all = toml(&format!("open_for = {date}"));
        assert!(all[0].starts_with("f:2: breakers.db.open_for: \""), "{all:?}");
    }
    let json =
        |text: &str| problems(Format::Json, &format!("{{\"breakers\":\n{{\"a\": {text}}}}}"));
    for text in [
        "{\"seed\": 99999999999999999999}",
        "{\"seed\": 18446744073709551615}",
        "{\"seed\": -9223372036854775809}",
        "{\"ramp\": 1e400}",
        "{\"seed\": 1.0}",
        "{\"ramp\": NaN}",
        "{\"seed\": 01}",
        "{\"seed\": 1,}",
        "{\"seed\": 1} // why",
        "{\"seed\": 1, \"s\\u0065ed\": 2}",
    ] {
        assert!(
            json(text).first().is_some_and(|l| l.starts_with("f:2: ")),
            "{text}: {:?}",
            json(text)
        );
    }
}

#[test]
fn big_and_binary_files() {
    let root = folder("big");
    let write = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let started = tokio::time::Instant::now();
    for name in ["a.yml", "a.toml", "a.json"] {
        let big = write(name, &vec![b'#'; 5 << 20]);
        let error = Loader::empty().file(&big).load().unwrap_err();
        assert_eq!(error.problems()[0].kind(), ProblemKind::Unreadable, "{error}");
        assert!(error.to_string().contains("larger than 4 MiB"), "{error}");
        let binary = write(name, b"breakers:\n  db: \xff\xfe\n");
        let error = Loader::empty().file(&binary).load().unwrap_err();
        assert!(
            error.to_string().contains(&format!("{}:2: not UTF-8", binary.display())),
            "{error}"
        );
    }
    // Many keys take no time that grows with their square.
    let many: String = (0..300_000).map(|n| format!("k{n}=1\n")).collect();
    let error = Loader::empty().file(write("many.toml", many.as_bytes())).load().unwrap_err();
    assert!(error.to_string().contains("more than 100000 values"), "{}", error.problems().len());
    let many = format!("{{{}\"z\":1}}", many.replace("k", "\"k").replace("=1\n", "\":1,"));
    let error = Loader::empty().file(write("many.json", many.as_bytes())).load().unwrap_err();
    assert!(error.to_string().contains("more than 100000 values"), "{}", error.problems().len());
    assert!(error.to_string().len() < 100_000, "{}", error.to_string().len());
    assert!(started.elapsed().as_secs() < 60);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
#[cfg(unix)]
fn links_and_directories() {
    let root = folder("links");
    let place = root.join("place");
    std::fs::create_dir_all(&place).unwrap();
    let load = || Loader::empty().search([&place]).load();
    // As Kubernetes mounts it.
    std::fs::create_dir_all(root.join("..data")).unwrap();
    std::fs::write(root.join("..data/real.yml"), "breakers: {db: {seed: 1}}").unwrap();
    let link = place.join("buttress.yml");
    std::os::unix::fs::symlink("../..data/real.yml", &link).unwrap();
    assert_eq!(
        load().unwrap().origin("breakers.db.seed").unwrap(),
        format!("{}:1", link.display())
    );
    // A link that leads nowhere, a circle, a directory: there, and not to be passed over in silence.
    std::fs::remove_file(root.join("..data/real.yml")).unwrap();
    let error = load().unwrap_err();
    assert!(error.to_string().contains("buttress.yml: cannot be read: "), "{error}");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("buttress.yml", &link).unwrap();
    assert!(load().unwrap_err().to_string().contains("buttress.yml: cannot be read: "));
    std::fs::remove_file(&link).unwrap();
    std::fs::create_dir(&link).unwrap();
    let error = load().unwrap_err().to_string();
    assert!(error.contains("buttress.yml: cannot be read: not a file"), "{error}");
    std::fs::remove_dir(&link).unwrap();
    std::fs::create_dir(place.join("kstlib.conf.yml")).unwrap();
    assert!(
        load().unwrap_err().to_string().contains("kstlib.conf.yml: cannot be read: not a file")
    );
    std::fs::remove_dir(place.join("kstlib.conf.yml")).unwrap();
    // A place that is a file, or none, has nothing in it.
    std::fs::write(root.join("plain"), "").unwrap();
    assert!(Loader::empty().search([root.join("plain"), root.join("nowhere")]).load().is_ok());
    let error = Loader::empty().file("/dev/null").load().unwrap_err().to_string();
    assert!(error.contains("unknown format"), "{error}");
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
#[cfg(unix)]
fn a_place_that_is_named_twice_is_read_once() {
    let root = folder("twice");
    std::fs::write(root.join("buttress.yml"), "breakers: {db: {seed: -1}}").unwrap();
    let other = root.join("link");
    std::os::unix::fs::symlink(&root, &other).unwrap();
    let error = Loader::empty().search([&root, &other, &root]).load().unwrap_err();
    assert_eq!(error.problems().len(), 1, "{error}");
    assert!(!error.problems()[0].origin().contains("link"), "{error}");
    std::fs::remove_dir_all(root).unwrap();
}
