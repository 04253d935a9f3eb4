//! The page as the service itself serves it, with its policy, its stream and its answers.

use std::time::Duration;

use buttress::admin::Admin;
use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
use buttress::control::Registry;
use serde_json::json;

use crate::chromium::Page;
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
