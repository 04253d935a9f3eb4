//! The usual places, each in a process of its own: `load::<Settings>()` and nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use buttress::config::{Loader, load};
use serde::Deserialize;

const CHILD: &str = "BUTTRESS_PLACES_CHILD";

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "printed")]
struct Settings {
    port: u16,
    grace: Duration,
    #[serde(default)]
    hosts: Vec<String>,
}

/// Not a test but what the tests start, unless nobody has.
#[test]
fn a_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    match load::<Settings>() {
        Ok(settings) => println!("@{settings:?}"),
        Err(error) => println!("@{}", error.to_string().replace('\n', "|")),
    }
    let limits = Loader::new().section("port").section("grace").section("hosts").load();
    println!("@{:?}", limits.map(|config| config.limits().circuit_max_failures).ok());
}

struct Root(PathBuf);

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Root {
    fn new(name: &str) -> Self {
        let name = format!("buttress-places-{name}-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        for place in ["cwd", "home/.config", "etc/buttress", "etc/kstlib"] {
            std::fs::create_dir_all(root.join(place)).unwrap();
        }
        Self(root)
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.join(file), text).unwrap();
    }

    /// What it has loaded, and the breaker's failures of the other tool's block.
    fn run(&self, env: &[(&str, &str)]) -> (String, String) {
        let path = |place: &str| -> PathBuf { Path::new(&self.0).join(place) };
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["places::a_child", "--exact", "--nocapture"])
            .env_clear()
            .env(CHILD, "1")
            .env("HOME", path("home"))
            .env("XDG_CONFIG_DIRS", path("etc"))
            .envs(env.iter().copied())
            .current_dir(path("cwd"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut told = text.lines().filter_map(|line| Some(line.split_once('@')?.1.to_owned()));
        (told.next().unwrap(), told.next().unwrap())
    }
}

#[test]
fn each_place_and_each_format_and_the_nearer_is_stronger() {
    let root = Root::new("all");
    let seed = |n: u32| {
        format!("resilience:\n  circuit_breaker:\n    max_failures: {n}\nport: no matter\n")
    };
    root.write("etc/kstlib/kstlib.conf.yml", &seed(1));
    root.write("etc/buttress/buttress.toml", "port = 1\ngrace = \"1m 30s\"\n");
    let settings =
        |port: u32, hosts: &str| format!("Settings {{ port: {port}, grace: 90s, hosts: {hosts} }}");
    assert_eq!(root.run(&[]), (settings(1, "[]"), "Some(1)".to_owned()));
    root.write("home/.config/buttress.json", r#"{"port": 2, "hosts": ["a"]}"#);
    root.write("home/.config/kstlib.conf.yml", &seed(2));
    assert_eq!(root.run(&[]), (settings(2, "[\"a\"]"), "Some(2)".to_owned()));
    root.write("home/buttress.yaml", "port: 3\n");
    root.write("home/kstlib.conf.yml", &seed(3));
    assert_eq!(root.run(&[]), (settings(3, "[\"a\"]"), "Some(3)".to_owned()));
    root.write("cwd/buttress.yml", "port: 4\n");
    root.write("cwd/kstlib.conf.yml", &seed(4));
    assert_eq!(root.run(&[]), (settings(4, "[\"a\"]"), "Some(4)".to_owned()));
    // Variables are stronger than all files.
    let env = [("BUTTRESS__PORT", "5"), ("BUTTRESS__HOSTS", "[\"b\"]")];
    assert_eq!(root.run(&env), (settings(5, "[\"b\"]"), "Some(4)".to_owned()));
}

#[test]
fn all_that_does_not_fit_in_all_of_them() {
    let root = Root::new("bad");
    let home = root.0.join("home").display().to_string();
    root.write("home/buttress.toml", "port = \"many\"\nhosts = 5\n");
    root.write("cwd/buttress.yml", "port: 80\nhosts: [1]\nbreakers:\n  db: {open_for: soon}\n");
    let (told, limits) = root.run(&[("BUTTRESS__GRACE", "later")]);
    let lines: Vec<_> = told.split('|').collect();
    assert_eq!(
        lines,
        [
            "5 problems in the configuration".to_owned(),
            "buttress.yml:4: breakers.db.open_for: \"soon\", expected a time: seconds, or a text such as \"250ms\" or \"1m 30s\"".to_owned(),
            format!("{home}/buttress.toml:2: hosts: 5, expected a sequence"),
            format!("{home}/buttress.toml:1: port: \"many\", expected u16"),
            "buttress.yml:2: hosts[0]: 1, expected a string".to_owned(),
            "variable BUTTRESS__GRACE: grace: \"later\", expected a time: seconds, or a text such as \"250ms\" or \"1m 30s\"".to_owned(),
        ]
    );
    assert_eq!(limits, "None");
}
