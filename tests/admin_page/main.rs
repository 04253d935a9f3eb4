//! The status page in a real browser: what it shows while an incident goes by, what it lets one do, and whether
//! everybody can use it. Needs Chromium and axe-core, which `tests/run.sh --install` fetches.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "the rule is for the library")]
#![expect(unreachable_pub, reason = "a program has no public parts")]

mod chromium;
#[cfg(unix)]
#[path = "../admin/kinds.rs"]
mod kinds;
mod real;
mod service;

use std::path::{Path, PathBuf};

use chromium::Page;
use serde_json::{Value, json};
use service::{PAGE, Service, TOKEN, between};
use tokio::sync::{Mutex, MutexGuard};

/// One browser at a time: several would only wait for each other.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// The text of the first row of an object.
fn row(id: &str) -> String {
    format!("document.getElementById('o:{id}').innerText")
}

fn says(id: &str, text: &str) -> String {
    format!("(document.getElementById('o:{id}')?.innerText ?? '').includes({})", json!(text))
}

const BREAKER: &str = "circuit_breaker/payments";

async fn use_token(page: &Page, token: &str) {
    page.eval("document.getElementById('token').focus()").await;
    page.write(token).await;
    page.key("Enter").await;
    page.until("!document.querySelector('button.cmd').disabled").await;
}

/// Presses the button of a command with the keyboard and confirms; what came of it.
async fn command(page: &Page, id: &str, command: &str) -> String {
    let button =
        format!("document.getElementById('o:{id}').querySelector('[data-command={command}]')");
    page.eval(&format!("{button}.focus()")).await;
    page.key("Enter").await;
    page.until("document.getElementById('dialog').open").await;
    // What is safe has the focus; the other one is next.
    assert_eq!(page.eval("document.activeElement.id").await, "d-cancel");
    page.key("Tab").await;
    assert_eq!(page.eval("document.activeElement.id").await, "d-go");
    page.key("Enter").await;
    page.until("!document.getElementById('d-result').hidden").await;
    assert_eq!(page.eval("document.activeElement.id").await, "d-result");
    let result = page.eval("document.getElementById('d-result').textContent").await;
    page.key("Escape").await;
    page.until("!document.getElementById('dialog').open").await;
    page.until(&format!("document.activeElement === {button}")).await;
    result.as_str().unwrap().to_owned()
}

#[test]
fn is_one_small_file_without_anything_inline_that_a_policy_cannot_name() {
    assert!(PAGE.len() < 60_000, "{} bytes", PAGE.len());
    // `between` fails when there is more than one.
    let script = between(PAGE, "<script>", "</script>");
    let style = between(PAGE, "<style>", "</style>");
    assert_eq!((PAGE.matches("<script").count(), PAGE.matches("<style").count()), (1, 1));
    let markup = PAGE.replace(script, "").replace(style, "");
    assert!(!markup.contains(" style=") && !markup.contains("javascript:"));
    for (at, _) in markup.match_indices(" on") {
        let word: String =
            markup[at + 1..].chars().take_while(char::is_ascii_alphanumeric).collect();
        assert!(!markup[at + 1 + word.len()..].starts_with('='), "a handler: {word}");
    }
    for outside in [
        "src=",
        "href=\"http",
        "href=\"//",
        "@import",
        "url(",
        "innerHTML",
        "insertAdjacentHTML",
        "eval(",
    ] {
        assert!(!markup.contains(outside) && !style.contains(outside), "{outside}");
        if outside != "url(" {
            assert!(!script.contains(outside), "{outside}");
        }
    }
}

#[tokio::test]
async fn shows_an_incident_while_it_goes_by() {
    let _alone = alone().await;
    let service = Service::start("1-a", 0);
    let page = Page::start("incident").await;
    // Without a slash at the end: what it asks for must still be found.
    page.open(&service.url()).await;
    page.until(&says(BREAKER, "closed")).await;
    page.until("document.getElementById('verdict').textContent === 'faults are injected'").await;
    let places = "[...document.querySelectorAll('tbody tr[id]')].map(row => row.id).join()";
    let before = page.eval(places).await;
    let spark = "document.querySelector('.spark .bar').getAttribute('d')";
    let drawn = page.eval(spark).await;

    service.model.lock().unwrap().failing = true;
    service.model.lock().unwrap().event(
        "error",
        "opened",
        "61 % of 100 calls failed, threshold 50 %",
    );
    page.until(&says(BREAKER, "61 % of 100 calls failed, threshold 50 %")).await;
    for text in [
        "open",
        "probe in",
        "100\u{a0}of 100\u{a0}calls",
        "61\u{a0}%, threshold 50\u{a0}%",
        "circuit open",
        "failed",
    ] {
        page.until(&says(BREAKER, text)).await;
    }
    page.until("document.getElementById('verdict').textContent === '1 breaker open'").await;
    page.until("document.title === '■ 1 breaker open · orders'").await;
    page.until("document.querySelector('#causes a').textContent === 'circuit_breaker/payments'")
        .await;
    page.until("document.getElementById('events').innerText.includes('Opened')").await;
    assert_ne!(page.eval(spark).await, drawn, "the sparkline stands still");
    // Rejects grow.
    let rejects = "Number(document.querySelector('.rej b').textContent)";
    let now = page.eval(rejects).await;
    page.until(&format!("{rejects} > {now}")).await;

    service.model.lock().unwrap().failing = false;
    service.model.lock().unwrap().event("info", "closed", "5 probes of 5 succeeded");
    page.until(&says(BREAKER, "closed")).await;
    page.until("document.getElementById('events').innerText.includes('5 probes of 5 succeeded')")
        .await;
    assert_eq!(page.eval(places).await, before, "rows have moved");
    // An event that came by both ways is there once.
    assert_eq!(page.eval("document.getElementById('events').children.length").await, 2);
    // What the server says is text.
    page.until(&says("rate_limit/tenants", "<b>100/s</b> burst 20")).await;
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn commands_need_the_token_and_a_confirmation() {
    let _alone = alone().await;
    let service = Service::start("1-a", 0);
    let page = Page::start("commands").await;
    page.open(&format!("{}/", service.url())).await;
    page.until(&says(BREAKER, "closed")).await;
    page.until("[...document.querySelectorAll('button.cmd')].every(button => button.disabled)")
        .await;

    use_token(&page, "wrong").await;
    let result = command(&page, BREAKER, "force_open").await;
    assert!(result.starts_with("Failed: refused (401)"), "{result}");
    assert!(!service.model.lock().unwrap().forced);
    // The browser itself tells of that answer, nothing else does.
    let complaints = page.complaints();
    assert!(complaints.len() == 1 && complaints[0].contains("401"), "{complaints:?}");

    use_token(&page, TOKEN).await;
    // Asked and not confirmed: nothing happens.
    let button = format!(
        "document.getElementById('o:{BREAKER}').querySelector('[data-command=force_open]')"
    );
    page.eval(&format!("{button}.focus()")).await;
    page.key(" ").await;
    page.until("document.getElementById('dialog').open").await;
    page.key("Enter").await;
    page.until("!document.getElementById('dialog').open").await;
    assert!(!service.model.lock().unwrap().forced);

    // Who goes elsewhere at once is not called back when the page hears that the question was closed.
    let elsewhere = format!(
        "new Promise(done => {{
            {button}.focus(); {button}.click();
            const dialog = document.getElementById('dialog'), token = document.getElementById('token');
            dialog.addEventListener('close', () => setTimeout(() => done(document.activeElement.id)), {{once: true}});
            dialog.close(); token.focus();
        }})"
    );
    assert_eq!(page.eval(&elsewhere).await, "token");

    let result = command(&page, BREAKER, "force_open").await;
    assert_eq!(result, "Done. ");
    assert!(service.model.lock().unwrap().forced);
    page.until(&says(BREAKER, "forced open by a command")).await;
    command(&page, BREAKER, "reset").await;
    page.until(&says(BREAKER, "closed")).await;
    assert!(!service.model.lock().unwrap().forced);
    // An action that failed is in an answer that did not.
    let result = command(&page, "conditioner/ledger", "disarm").await;
    assert_eq!(result, "Failed: no such object");

    // The token is in no place that outlives the page, and in no field.
    let kept = "[document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage), \
        document.documentElement.outerHTML, document.getElementById('token').value, location.href].join()";
    assert!(!page.eval(kept).await.as_str().unwrap().contains(TOKEN));
    page.eval("document.getElementById('forget').click()").await;
    assert_eq!(
        page.eval("[...document.querySelectorAll('button.cmd')].every(b => b.disabled)").await,
        true
    );
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn says_that_it_is_stale_and_goes_on_after_a_restart() {
    let _alone = alone().await;
    let service = Service::start("1-a", 0);
    let port = service.at.port();
    let page = Page::start("restart").await;
    page.open(&service.url()).await;
    page.until(&says(BREAKER, "closed")).await;
    service.model.lock().unwrap().event("info", "before", "the restart");
    page.until("document.getElementById('events').innerText.includes('Before')").await;
    drop(service);
    page.until("document.getElementById('verdict').textContent.startsWith('No data since ')").await;
    page.until("/^stale for \\d+ s/.test(document.getElementById('conn').textContent)").await;
    page.until("document.body.classList.contains('stale')").await;

    let service = Service::start("2-b", port);
    service.model.lock().unwrap().failing = true;
    page.until(&says(BREAKER, "61 % of 100 calls failed")).await;
    page.until("document.getElementById('verdict').textContent === '1 breaker open'").await;
    page.until("document.getElementById('conn').textContent.startsWith('live')").await;
    page.until("!document.body.classList.contains('stale')").await;
    // The new process counts its events anew; those of the old one stay.
    service.model.lock().unwrap().event("error", "opened", "after it");
    page.until("document.getElementById('events').innerText.includes('Opened')").await;
    page.until("document.getElementById('events').innerText.includes('Restarted')").await;
    assert_eq!(
        page.eval("document.getElementById('events').innerText.includes('Before')").await,
        true
    );
    // Only the browser's own words on connections that failed.
    for complaint in page.complaints() {
        assert!(complaint.contains("\"network\""), "{complaint}");
    }
}

#[tokio::test]
async fn filters_and_pauses_by_keyboard() {
    let _alone = alone().await;
    let service = Service::start("1-a", 0);
    let page = Page::start("keyboard").await;
    page.open(&service.url()).await;
    page.until(&says(BREAKER, "closed")).await;
    for (severity, event) in [("info", "noise"), ("warning", "half_open"), ("error", "opened")] {
        service.model.lock().unwrap().event(severity, event, "x");
    }
    page.until("document.getElementById('events').children.length === 3").await;

    // Everything that can be used is reached with the tab key, in the order of the page.
    page.eval("document.activeElement.blur(); document.getElementById('verdict').focus()").await;
    let mut reached = vec![];
    for _ in 0..60 {
        page.key("Tab").await;
        let at = "const a = document.activeElement; a.id || a.className || a.tagName";
        let Value::String(at) =
            page.eval(&format!("(() => {{ {} }})()", at.replace("; a.id", "; return a.id"))).await
        else {
            continue;
        };
        if reached.first() == Some(&at) || at == "BODY" {
            break;
        }
        reached.push(at);
    }
    let place = |name: &str| reached.iter().position(|at| at == name);
    let order = [
        "skip",
        "find",
        "trouble",
        "token",
        "usetoken",
        "evfind",
        "evsev",
        "pause",
        "a-status",
        "a-metrics",
    ];
    let places: Vec<_> = order.iter().map(|name| place(name)).collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{order:?} are at {places:?} of {reached:?}"
    );

    page.eval("document.getElementById('pause').focus()").await;
    page.key(" ").await;
    service.model.lock().unwrap().event("error", "opened", "while paused");
    page.until("document.getElementById('pause').textContent === 'Resume (1 new)'").await;
    assert_eq!(page.eval("document.getElementById('events').children.length").await, 3);
    page.key("Enter").await;
    page.until("document.getElementById('events').children.length === 4").await;

    page.eval("(() => { const s = document.getElementById('evsev'); s.value = '2'; s.dispatchEvent(new Event('change')); })()").await;
    page.until("document.getElementById('events').children.length === 2").await;
    page.eval("document.getElementById('evfind').focus()").await;
    page.write("no such object").await;
    page.until("document.getElementById('events').children.length === 0").await;

    page.eval("document.getElementById('find').focus()").await;
    page.write("payments").await;
    page.until("[...document.querySelectorAll('tbody tr[id]')].filter(row => row.checkVisibility()).length === 1").await;
    assert_eq!(page.complaints(), Vec::<String>::new());
}

/// axe-core, checked by its hash where it was fetched.
fn axe() -> String {
    let folder = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let file = folder.join("test-tools/axe-core-4.14.1.min.js");
    std::fs::read_to_string(&file).unwrap_or_else(|error| {
        panic!("{}: {error}; run `bash tests/run.sh --install`", file.display())
    })
}

#[tokio::test]
async fn everybody_can_read_it_in_light_and_dark_and_on_a_phone() {
    let _alone = alone().await;
    let service = Service::start("1-a", 0);
    let page = Page::start("axe").await;
    page.open(&service.url()).await;
    page.until(&says(BREAKER, "closed")).await;
    // Some calm and some trouble to look at.
    page.until("document.querySelector('.spark .bar').getAttribute('d').split('M').length > 20")
        .await;
    service.model.lock().unwrap().failing = true;
    {
        let mut model = service.model.lock().unwrap();
        model.event("info", "closed", "started closed");
        model.event("warning", "slow_calls", "12 % of 100 calls took longer than 250 ms");
        model.event("error", "opened", "61 % of 100 calls failed, threshold 50 %");
    }
    page.until(&says(BREAKER, "61 % of 100 calls failed")).await;
    page.until("document.getElementById('events').children.length === 3").await;
    page.until("document.querySelector('.spark .sf').getAttribute('d').split('M').length > 15")
        .await;
    page.eval(&format!("{}; typeof axe", axe())).await;
    use_token(&page, TOKEN).await;

    for (name, scheme, width, height, mobile) in [
        ("light", "light", 1440, 1000, false),
        ("dark", "dark", 1440, 1000, false),
        ("phone", "light", 390, 844, true),
        ("phone-dark", "dark", 390, 844, true),
    ] {
        page.size(width, height, mobile).await;
        page.scheme(scheme).await;
        page.until(&format!(
            "matchMedia('(prefers-color-scheme: {scheme})').matches && innerWidth === {width}"
        ))
        .await;
        let file = page.screenshot(&format!("admin-{name}.png")).await;
        println!("{}", file.display());
        let wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(page.eval(wide).await, 0, "{name}: wider than the screen");
        for (state, before, after) in [
            ("page", "0", "0"),
            (
                "details",
                "for (const d of document.querySelectorAll('details:not([hidden])')) d.open = true",
                "0",
            ),
            (
                "dialog",
                "document.querySelector('button.cmd').click()",
                "document.getElementById('dialog').close()",
            ),
        ] {
            page.eval(before).await;
            let found = page
                .eval("axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes.length, v.nodes[0].html, v.nodes[0].failureSummary]))")
                .await;
            page.eval(after).await;
            assert_eq!(found, json!([]), "{name}, {state}");
        }
    }
}

/// Counts, from now on, what the page does to its document: its updates, the elements that it makes or takes away, its
/// writes of any kind, and those into the row of an object of which nothing changes.
const COUNT: &str = "
    window.seen = { updates: 0, elements: 0, writes: 0, calm: 0 };
    const calm = document.getElementById('o:heartbeat/worker');
    new MutationObserver(records => {
        for (const record of records) {
            if (record.attributeName === 'data-render-ms') { seen.updates++; continue; }
            seen.writes++;
            if (calm.contains(record.target)) seen.calm++;
            for (const node of [...record.addedNodes, ...record.removedNodes])
                if (node.nodeType === Node.ELEMENT_NODE) seen.elements++;
        }
    }).observe(document, { subtree: true, childList: true, attributes: true, characterData: true });";

#[tokio::test]
async fn a_thousand_objects_are_brought_up_to_date_in_place() {
    let _alone = alone().await;
    let service = Service::start("1-a", 0);
    service.model.lock().unwrap().extra = 1000;
    let page = Page::start("thousand").await;
    page.open(&service.url()).await;
    page.until(&says("timeout/shard-0999", "of 250 ms")).await;
    page.eval("window.kept = document.getElementById('o:timeout/shard-0500')").await;
    page.eval(COUNT).await;
    let why = page.eval(&row("timeout/shard-0500")).await;
    page.until(&format!("{} !== {why}", row("timeout/shard-0500"))).await;
    page.until("seen.updates >= 3").await;
    let seen = page.eval("({ ...seen })").await;
    assert_eq!(
        page.eval("window.kept === document.getElementById('o:timeout/shard-0500')").await,
        true
    );
    let took: Value = page.eval("Number(document.documentElement.dataset.renderMs)").await;
    println!("one update of 1000 objects: {took} ms, {seen}");
    let of = |what: &str| seen[what].as_u64().unwrap();
    assert_eq!(
        (of("elements"), of("calm")),
        (0, 0),
        "made anew, or written though it is as it was: {seen}"
    );
    // Of each shard change a text, a gauge and its text, a line and its two texts; the others and the clocks are a few.
    let most = 8 * 1000 * (of("updates") + 1);
    assert!((1000..most).contains(&of("writes")), "{seen}");
    assert_eq!(page.complaints(), Vec::<String>::new());
}
