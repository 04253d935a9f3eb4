//! `examples/config.rs` as the command it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The built example. `cargo test` has built it; `cargo test --test it` has not.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().unwrap().parent().unwrap();
    let program = profile.join("examples").join(format!("config{}", std::env::consts::EXE_SUFFIX));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/config.rs");
    let time = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    if time(&program) < time(source.as_ref()) {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--example", "config", "--features", "config"]);
        build.arg("--target-dir").arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    }
    program
}

fn run(program: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(program);
    command.args(arguments).env("BUTTRESS__BREAKERS__DB__SEED", "7");
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
#[cfg_attr(miri, ignore = "starts processes")]
fn check_explain_and_schema() {
    let program = program();
    let root = super::cascade::folder("example");
    let file = |name: &str, text: &str| {
        let path = root.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = file("good.yml", "breakers:\n  db:\n    open_for: 5s\n");
    let bad = file("bad.toml", "[breakers.db]\nopen_for = 'soon'\nopen_fro = 1\n");
    let wide = file("wide.json", "{\"resilience\": {\"watchdog\": {\"timeout\": 9999}}}");

    let (code, out, error) = run(&program, &["check", &good]);
    assert_eq!((code, out, error.as_str()), (Some(0), format!("{good}: no problem\n"), ""));
    let complete = file("complete.yml", include_str!("complete.yml"));
    let (code, out, error) = run(&program, &["check", &complete]);
    let checked = [
        format!("{complete}:72: clients.pay.retry: warning [timeout_twice] its deadline of 10s is not below the total of 10s"),
        format!("{complete}:72: clients.pay.retry: warning [timeout_twice] its attempt timeout of 1s is not below 1s"),
        "clients.pay: worst case: 3 attempts a call, 1.20 times the load while all fails, an answer within 3.3s".to_owned(),
        "clients.search: worst case: 300 attempts a call, 2.00 times the load while all fails, an answer at any time".to_owned(),
        "servers.api: worst case: 1 attempt a call, 1.00 times the load while all fails, an answer within 5s".to_owned(),
        format!("{complete}: 2 warnings"),
    ];
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert_eq!(out.lines().collect::<Vec<_>>(), checked);
    let one = file(
        "one.yml",
        "clients: {a: {total_timeout: 60s, attempt_timeout: 1s, retry: adaptive}}\n",
    );
    let (code, out, _) = run(&program, &["check", &one]);
    assert!(code == Some(0) && out.ends_with(&format!("{one}: 1 warning\n")), "{out}");

    let (code, out, error) = run(&program, &["check", &bad]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines[0], "2 problems in the configuration");
    assert!(lines[1].starts_with(&format!("{bad}:2: breakers.db.open_for: \"soon\", ")), "{error}");
    assert_eq!(
        lines[2],
        format!("{bad}:3: breakers.db.open_fro: unknown key, expected \"open_for\"")
    );
    assert_eq!(run(&program, &["check", &wide]).0, Some(1));
    assert_eq!(run(&program, &["check", "--clamp", &wide]).0, Some(0));
    assert_eq!(run(&program, &["check", "/nowhere/a.yml"]).0, Some(1));

    let (code, out, error) = run(&program, &["explain", &good]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    for line in [
        format!("breakers.db.open_for = 5.0  ({good}:3)"),
        "breakers.db.seed = 7  (variable BUTTRESS__BREAKERS__DB__SEED)".to_owned(),
        "breakers.db.half_open_calls = 1  (default)".to_owned(),
    ] {
        assert!(out.lines().any(|l| l == line), "{line} in\n{out}");
    }
    let (_, out, _) = run(&program, &["explain", "--clamp", &wide]);
    assert!(out.contains("resilience.watchdog.timeout = 3600.0  ("), "{out}");

    let (code, out, _) = run(&program, &["schema"]);
    assert_eq!(code, Some(0));
    assert_eq!(out, buttress::config::schema());
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(schema["$defs"]["breaker"]["properties"]["open_for"]["description"].is_string());

    assert_eq!(run(&program, &["chekc", &good]).0, Some(2));
    assert_eq!(run(&program, &["check"]).0, Some(2));
    assert_eq!(run(&program, &[]).0, Some(0));
    std::fs::remove_dir_all(root).unwrap();
}
