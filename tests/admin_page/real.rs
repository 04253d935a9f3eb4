//! The page as the service itself serves it, with its policy, its stream and its answers.

use std::time::Duration;

use buttress::admin::Admin;
use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
#[cfg(unix)]
use buttress::control::Lint;
use buttress::control::Registry;
#[cfg(unix)]
use buttress::observe::Severity;
use serde_json::json;

use crate::chromium::Page;
#[cfg(unix)]
use crate::kinds::{KINDS, everything, pausing};
use crate::service::TOKEN;
use crate::{BREAKER, alone, command, says, use_token};

fn admin(registry: &Registry) -> Admin {
    Admin::builder(registry)
        .token(TOKEN)
        .interval(Duration::from_millis(200))
        .config(|| json!({"database": {"pool": 8, "password": "hunter2"}}))
        .build()
        .unwrap()
}

/// Sends a command as the page does, from the page's own origin.
fn post(token: &str) -> String {
    let body = json!({"command": "uninstall_network_conditioner", "target": "ledger"}).to_string();
    format!(
        "fetch('commands', {{method: 'POST', body: {}, headers: {{'Content-Type': 'application/json', \
         Authorization: 'Bearer {token}'}}}}).then(r => r.status)",
        json!(body)
    )
}

#[tokio::test]
async fn the_service_serves_it_and_it_lives_through_a_restart() {
    let _alone = alone().await;
    let registry = Registry::new();
    let _slot = registry.conditioner("ledger");
    let listener = admin(&registry).listen("127.0.0.1:0").unwrap();
    let at = listener.addr();
    let page = Page::start("real").await;
    page.open(&format!("http://{at}/")).await;
    let live = "document.getElementById('conn').textContent.startsWith('live')";
    page.until(live).await;
    page.eval("document.getElementById('config').open = true").await;
    page.until("document.getElementById('configtext').textContent.includes('pool')").await;
    assert_eq!(page.eval("document.body.textContent.includes('hunter2')").await, false);
    assert_eq!(page.eval(&post(TOKEN)).await, 200);
    assert_eq!(page.complaints(), Vec::<String>::new());
    let refused = page.eval(&post("a-token-of-the-right-length-or-so")).await;
    assert!(refused == 401 || refused == 403, "{refused}");
    assert_eq!(
        page.complaints().len(),
        1,
        "the browser tells of the answer, nobody else of anything"
    );

    drop(listener);
    page.until("document.body.classList.contains('stale')").await;
    let _again = admin(&registry).listen(at).unwrap();
    page.until(live).await;
    page.until("!document.body.classList.contains('stale')").await;
    for complaint in page.complaints() {
        assert!(complaint.contains("\"network\""), "{complaint}");
    }
}

#[tokio::test]
async fn without_a_token_it_says_that_it_is_read_only() {
    let _alone = alone().await;
    let listener = Admin::builder(&Registry::new()).build().unwrap().listen("127.0.0.1:0").unwrap();
    let page = Page::start("read-only").await;
    page.open(&format!("http://{}/", listener.addr())).await;
    page.until("document.getElementById('tokennote').textContent === 'Read-only: this server takes no commands.'").await;
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn a_real_breaker_trips_and_is_forced_and_reset_through_the_page() {
    let _alone = alone().await;
    let registry = Registry::new();
    let breaker = CircuitBreaker::builder("payments")
        .consecutive_failures(3)
        .register_in(&registry)
        .build()
        .unwrap();
    // Something to look at beside it.
    let _calm = CircuitBreaker::builder("ledger")
        .failure_rate(0.5)
        .window_calls(100)
        .min_calls(20)
        .register_in(&registry)
        .build()
        .unwrap();
    let listener = admin(&registry).listen("127.0.0.1:0").unwrap();
    let page = Page::start("breaker").await;
    page.scheme("light").await;
    page.open(&format!("http://{}/", listener.addr())).await;
    page.until(&says(BREAKER, "closed")).await;
    let level = |level: &str| {
        format!("document.getElementById('o:{BREAKER}').className.split(' ')[0] === '{level}'")
    };
    page.until(&level("ok")).await;

    // The incident.
    while breaker.state() == CircuitState::Closed {
        breaker.try_acquire().unwrap().failure();
    }
    for _ in 0..17 {
        assert!(breaker.try_acquire().is_err());
    }
    page.until(&level("bad")).await;
    page.until(&says(BREAKER, "open")).await;
    page.until(&says(BREAKER, "probe in")).await;
    page.until("document.querySelector('.rej b').textContent === '17'").await;
    page.until("document.getElementById('verdict').className.includes('bad')").await;
    page.until(&format!("document.querySelector('#causes a').textContent === '{BREAKER}'")).await;
    page.until("document.getElementById('events').innerText.includes('payments')").await;
    page.until("document.getElementById('conn').textContent.startsWith('live')").await;
    let file = page.screenshot("admin-real.png").await;
    println!("{}", file.display());
    assert_eq!(page.complaints(), Vec::<String>::new());

    use_token(&page, "not-the-token-but-as-long").await;
    let result = command(&page, BREAKER, "force_open").await;
    assert!(result.starts_with("Failed: refused (401)"), "{result}");
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(page.complaints().len(), 1);

    use_token(&page, TOKEN).await;
    assert_eq!(command(&page, BREAKER, "force_open").await, "Done. ");
    assert_eq!(breaker.state(), CircuitState::ForcedOpen);
    page.until(&says(BREAKER, "forced open")).await;
    assert_eq!(command(&page, BREAKER, "reset").await, "Done. ");
    assert_eq!(breaker.state(), CircuitState::Closed);
    page.until(&level("ok")).await;
    page.until("document.getElementById('verdict').className.includes('ok')").await;
    assert_eq!(page.complaints(), Vec::<String>::new());
}

/// All that the page promises to show, of real objects: each has something to tell.
#[cfg(unix)]
#[tokio::test]
async fn every_kind_of_object_is_shown_with_what_it_has_to_tell() {
    let _alone = alone().await;
    let registry = Registry::new();
    let _kept = (everything(&registry, "db").await, pausing(&registry, "late").await);
    let text = "2 attempts of 3 s do not fit into 5 s";
    registry.set_lint([Lint::new(Severity::Warning, "fits", text, ["circuit_breaker/db"])]);
    let listener = admin(&registry).listen("127.0.0.1:0").unwrap();
    let page = Page::start("kinds").await;
    page.open(&format!("http://{}/", listener.addr())).await;
    for kind in KINDS {
        page.until(&format!("!!document.getElementById('o:{kind}/db')")).await;
    }
    // Counters and facts are behind `More`.
    page.eval("document.querySelectorAll('tr details').forEach(more => more.open = true)").await;
    for (id, texts) in [
        (
            "circuit_breaker/db",
            &[
                "open",
                "probe in",
                "failed",
                "4\u{a0}of 10\u{a0}calls",
                "threshold 50\u{a0}%",
                "circuit open",
                "for ",
            ][..],
        ),
        ("failure_budget/db", &["budget left", "burn over the period", "exhausted in"]),
        ("failure_budget/db#2", &["breached", "failure_rate 1.0000 above 0.1"]),
        ("retry_budget/db", &["exhausted", "0\u{a0}of 140\u{a0}tokens"]),
        ("rate_limit/db", &["rate limited", "1/s"]),
        ("backend/db", &["down", "12 failures in a row", "probe"]),
        (
            "backend/late",
            &[
                "are given up at their deadline, limit 1, then a pause",
                "pause between calls",
                "yes",
            ],
        ),
        (
            "throttle/db",
            &["shedding", "only 0 of the last 40 calls were taken", "overloaded", "90\u{a0}%"],
        ),
        ("throttle/db#2", &["measuring"]),
        ("conditioner/db", &["injecting"]),
        ("idempotency/db", &["hits", "conflicts"]),
        ("process_supervisor/db", &["one", "two"]),
        ("heartbeat/db", &["stopped"]),
        ("watchdog/db", &[]),
        ("endpoints/db", &["overloaded"]),
        ("coalesce/db", &["led"]),
        ("hedge/db", &["learning"]),
    ] {
        for text in texts {
            page.until(&says(id, text)).await;
        }
    }
    let section = |id: &str| {
        format!(
            "document.getElementById('o:{id}').closest('section').querySelector('h2').textContent"
        )
    };
    for (id, title) in [
        ("circuit_breaker/db", "Policies"),
        ("failure_budget/db", "Budgets"),
        ("throttle/db", "Limiters"),
        ("backend/db", "Limiters"),
        ("conditioner/db", "Faults"),
        ("idempotency/db", "Idempotency"),
        ("process_supervisor/db", "Process, children, heartbeats"),
        ("heartbeat/db", "Process, children, heartbeats"),
    ] {
        assert_eq!(page.eval(&section(id)).await, title, "{id}");
    }
    // The process, the findings of the linter with their objects, and who is to blame.
    page.until("document.getElementById('ident').textContent.includes('starting')").await;
    let lint = "document.getElementById('lint').textContent";
    assert_eq!(page.eval(&format!("{lint}.includes({})", json!(text))).await, true);
    assert_eq!(page.eval("document.querySelector('#lint a').textContent").await, BREAKER_OF_ALL);
    page.until("document.getElementById('verdict').className.includes('bad')").await;
    assert_eq!(page.eval(&format!("[...document.querySelectorAll('#causes a')].some(a => a.textContent === '{BREAKER_OF_ALL}')")).await, true);
    page.until("document.getElementById('events').innerText.includes('circuit_breaker/db')").await;
    // Two minutes in steps of two seconds: the last of them are known.
    let spark = "document.getElementById('o:circuit_breaker/db').querySelector('.spark').getAttribute('aria-label')";
    page.until(&format!("/^Two minutes: .* at most/.test({spark})")).await;

    // All faults end by one button, with the token.
    let kill = "[...document.querySelectorAll('button.danger')].find(b => b.textContent === 'Kill all faults')";
    assert_eq!(page.eval(&format!("{kill}.disabled")).await, true);
    use_token(&page, TOKEN).await;
    page.eval(&format!("{kill}.click()")).await;
    page.until("document.getElementById('dialog').open").await;
    page.eval("document.getElementById('d-go').click()").await;
    page.until(&says("conditioner/db", "disarmed")).await;
    // And by another they are back.
    page.until("!document.getElementById('d-go').checkVisibility()").await;
    page.eval("document.getElementById('d-cancel').click()").await;
    page.until("!document.getElementById('dialog').open").await;
    let arm = "[...document.querySelectorAll('button.danger')].find(b => b.textContent === 'Arm all faults')";
    page.eval(&format!("{arm}.click()")).await;
    page.until("document.getElementById('dialog').open").await;
    page.eval("document.getElementById('d-go').click()").await;
    page.until(&says("conditioner/db", "injecting")).await;
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[cfg(unix)]
const BREAKER_OF_ALL: &str = "circuit_breaker/db";

/// The example, which the tests' own build has not necessarily made.
fn gateway() -> std::path::PathBuf {
    let built = std::process::Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--all-features", "--example", "gateway"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(built.success());
    // tests run from target/<profile>/deps
    let tests = std::env::current_exe().unwrap();
    tests.ancestors().nth(2).unwrap().join("examples/gateway")
}

/// Ends the example with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_gateway_shows_its_incident() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let _alone = alone().await;
    let mut running = Running(
        Command::new(gateway())
            .args(["--seconds", "40", "--seed", "7", "--admin", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let url = first.strip_prefix("status page: ").unwrap_or_else(|| panic!("{first}")).to_owned();
    // A full pipe would stop it.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));

    const BACKEND: &str = "backend/backend";
    let page = Page::start("gateway").await;
    page.scheme("light").await;
    page.open(&url).await;
    page.until(&says(BACKEND, "up")).await;
    page.until(&says("rate_limit/callers", "")).await;
    page.until(&says("retry_budget/backend", "granting")).await;
    // All that it can give is left to give, and that is good.
    page.until("document.getElementById('o:retry_budget/backend').querySelector('.over') === null")
        .await;
    // The outage begins at about 17 s and is long enough to be seen.
    let begun = tokio::time::Instant::now();
    while page.eval(&says(BACKEND, "probe in")).await != true {
        assert!(begun.elapsed() < Duration::from_secs(35), "the backend was never down");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    page.until("document.getElementById('verdict').className.includes('bad')").await;
    let file = page.screenshot("gateway.png").await;
    println!("{}", file.display());
    assert_eq!(page.complaints(), Vec::<String>::new());
}
