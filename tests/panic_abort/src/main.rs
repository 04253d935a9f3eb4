//! What the documentation says of programs in which a panic is the end, in one.
//!
//! `cargo run --manifest-path tests/panic_abort/Cargo.toml --target-dir target/panic_abort`

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use buttress::circuit_breaker::CircuitBreaker;
use buttress::config::{Format, Loader};
use buttress::observe::Event;
use serde::Deserialize;

const _: () = assert!(cfg!(panic = "abort"), "it was built to unwind");

const SIGABRT: i32 = 6;

/// Panics at all that nobody has written.
#[derive(Debug, Deserialize)]
#[serde(from = "String")]
struct Host;

impl From<String> for Host {
    fn from(text: String) -> Self {
        assert_eq!(text, "db.internal", "made up");
        Self
    }
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read")]
struct Settings {
    host: Host,
    pool: Pool,
    share: f64,
}

#[derive(Debug, Deserialize)]
struct Pool {
    size: u8,
    name: String,
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        None => {
            a_type_is_read_as_it_is_written();
            problems_are_told_and_no_value_is_made_up();
            a_panic_of_an_observer_is_the_end();
            println!("all holds where a panic is the end");
        }
        Some("observer") => {
            let breaker = CircuitBreaker::builder("db").observe(|_: &Event<'_>| panic!("its own"));
            breaker.build().expect("the defaults are valid").force_open();
        }
        Some(other) => panic!("no part is called {other:?}"),
    }
}

fn a_type_is_read_as_it_is_written() {
    let text = "host: db.internal\npool: {size: 4, name: main}\nshare: 0.5\n";
    let text = Loader::empty().text("own.yml", Format::Yaml, text);
    let settings = text.load_as::<Settings>().expect("all of it fits");
    assert_eq!((settings.pool.size, &*settings.pool.name), (4, "main"));
}

/// Where a panic is caught, something stands in for the host, so that it is seen what else is wrong.
fn problems_are_told_and_no_value_is_made_up() {
    let text = "pool: {size: -1}\nshare: half\nmore: 1\n";
    let text = Loader::empty().text("own.yml", Format::Yaml, text);
    let error = text.load_as::<Settings>().expect_err("much of it does not fit").to_string();
    for part in [
        "more: unknown key",
        "pool.size: -1, expected u8",
        "share: \"half\", expected f64",
        "expected the key \"host\"",
    ] {
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
}

fn a_panic_of_an_observer_is_the_end() {
    let myself = std::env::current_exe().expect("it has a path");
    let ended = Command::new(myself).arg("observer").stderr(Stdio::null()).status();
    let ended = ended.expect("it starts");
    assert_eq!(ended.signal(), Some(SIGABRT), "{ended}");
}
