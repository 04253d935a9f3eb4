//! The page as the service itself serves it, with its policy, its stream and its answers.

use std::time::Duration;

use buttress::admin::Admin;
use buttress::control::Registry;
use serde_json::json;

use crate::alone;
use crate::chromium::Page;
use crate::service::TOKEN;

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
