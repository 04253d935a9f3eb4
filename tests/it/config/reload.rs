//! Settings that are read again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use buttress::circuit_breaker::CircuitState;
use buttress::config::{Loader, Reloader, Stacks};
use buttress::control::{Registry, TimelineEvent};
use buttress::observe::Severity;

struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl File {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("buttress-reload-{name}-{}.yml", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }
}

fn setup(file: &File) -> (Stacks, Reloader, Registry) {
    let loader = Loader::empty().file(&file.0).section("app");
    let registry = Registry::new();
    let stacks = loader.load().unwrap().stacks().register_in(&registry);
    let reloader = Reloader::new(loader, &stacks);
    (stacks, reloader, registry)
}

fn told(registry: &Registry) -> Vec<TimelineEvent> {
    let mut events = registry.events_since(0).events;
    events.retain(|event| event.layer == "config");
    events
}

#[tokio::test(start_paused = true)]
async fn what_runs_keeps_its_state() {
    let text = |open: u64, rate: u64| {
        format!(
            "breakers: {{db: {{consecutive_failures: 1, open_for: {open}s}}}}
rate_limits: {{api: {rate}/h}}
"
        )
    };
    let file = File::new("state", &text(600, 100));
    let (stacks, reloader, registry) = setup(&file);
    let breaker = stacks.circuit_breaker("db").unwrap();
    let limiter = stacks.rate_limiter("api").unwrap();
    breaker.try_acquire().unwrap().failure();
    limiter.try_acquire_n(70).unwrap();

    file.write(&text(60, 1000));
    reloader.reload().unwrap();
    assert_eq!(breaker.state(), CircuitState::Open);
    assert!(breaker.snapshot().next_probe.unwrap() <= Duration::from_secs(60));
    assert_eq!(limiter.quota().capacity(), 1000);
    assert!((29.0..31.0).contains(&limiter.tokens()), "{}", limiter.tokens());

    let event = &told(&registry)[0];
    assert_eq!((event.event, event.severity), ("reloaded", Severity::Info));
    assert_eq!(
        event.detail,
        "generation 2: changed: breakers.db.open_for 600.0 -> 60.0, \
         rate_limits.api.rate \"100/h\" -> \"1000/h\""
    );
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(breaker.try_acquire().is_ok(), "the probe, after the new time");
}

#[test]
fn an_invalid_file_changes_nothing() {
    let good = "
rate_limits: {api: 100/h}
retry_budgets: {pay: {ratio: 10%}}
clients: {pay: {total_timeout: 5s, attempt_timeout: 1s, retry: adaptive, retry_budget: pay}}
";
    let file = File::new("invalid", good);
    let (stacks, reloader, registry) = setup(&file);
    let limiter = stacks.rate_limiter("api").unwrap();
    stacks.client("pay").unwrap();
    let before = stacks.config();
    // The first object is fine in each, and must not change.
    for (bad, problem) in [
        (
            good.replace("100/h", "200/h").replace("10%", "5000%"),
            "retry_budgets.pay.ratio: \"5000%\"",
        ),
        (
            good.replace("100/h", "200/h").replace("ratio", "ration"),
            "unknown key, expected \"ratio\"",
        ),
        (good.replace("100/h", "200/h") + "}", ":5"),
        // Something that only the linter sees.
        (good.replace("100/h", "200/h").replace("1s", "7s"), "no attempt_not_below_total"),
    ] {
        file.write(&bad);
        let error = reloader.reload().unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
        assert_eq!(limiter.quota().capacity(), 100);
        assert!(Arc::ptr_eq(&stacks.config(), &before));
        let event = told(&registry).pop().unwrap();
        assert_eq!((event.event, event.severity), ("reload_refused", Severity::Warning));
        assert!(event.detail.contains(problem), "{}", event.detail);
    }
    assert_eq!(stacks.generation(), 1);
    file.write(&good.replace("100/h", "200/h"));
    reloader.reload().unwrap();
    assert_eq!(limiter.quota().capacity(), 200);
}

#[test]
fn what_cannot_change_is_kept_and_told() {
    let file = File::new(
        "waits",
        "clients: {pay: {total_timeout: 5s, attempt_timeout: 1s, breaker: {seed: 1}, rate_limit: 5/h}}
servers: {idle: {timeout: 5s}}",
    );
    let (stacks, reloader, registry) = setup(&file);
    let pay = stacks.client("pay").unwrap();
    file.write(
        "clients: {pay: {total_timeout: 6s, attempt_timeout: 1s, breaker: {seed: 2}, rate_limit: 9/h}}
servers: {idle: {timeout: 6s}, more: {timeout: 7s}}",
    );
    let done = reloader.reload().unwrap();
    let keys = |changes: &[buttress::config::Change]| {
        changes.iter().map(|change| change.key().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys(done.waiting()), ["clients.pay.breaker.seed"]);
    assert_eq!(
        keys(done.applied()),
        [
            "clients.pay.rate_limit.rate",
            "clients.pay.total_timeout",
            "servers.idle.timeout",
            "servers.more.timeout"
        ]
    );
    assert_eq!(pay.rate_limiter().unwrap().quota().capacity(), 9);
    assert!(stacks.server("more").is_ok(), "what is new is there");
    let event = told(&registry).pop().unwrap();
    assert_eq!(event.severity, Severity::Warning);
    assert!(
        event.detail.contains("waits for a restart: clients.pay.breaker.seed 1 -> 2; changed: "),
        "{}",
        event.detail
    );
    // A stack that is not written down any more stays as it is.
    file.write("servers: {idle: {timeout: 6s}}");
    let done = reloader.reload().unwrap();
    assert!(keys(done.waiting()).contains(&"clients.pay.rate_limit.rate".to_owned()), "{done}");
    assert_eq!(pay.rate_limiter().unwrap().quota().capacity(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_servers_backend_comes_and_goes_and_keeps_who_waits() {
    use futures_util::FutureExt;
    use tower::{Layer, Service, ServiceExt, service_fn};

    let text = |backend: &str| format!("servers: {{api: {{timeout: 60s{backend}}}}}");
    let file = File::new("server", &text(", backend: 1"));
    let (stacks, reloader, registry) = setup(&file);
    let rows = || registry.status().objects.into_iter().map(|it| it.id).collect::<Vec<_>>();
    let mut service = stacks.server("api").unwrap().layer(service_fn(|()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, std::io::Error>(())
    }));
    let mut call = || Box::pin(service.ready().now_or_never().unwrap().unwrap().call(()));
    let backend = stacks.server("api").unwrap().backend().unwrap();
    let (mut one, mut two, mut three) = (call(), call(), call());
    for call in [&mut one, &mut two, &mut three] {
        assert!(call.now_or_never().is_none());
    }
    let counts = || (backend.stats().in_flight, backend.stats().waiting);
    assert_eq!((counts(), rows()), ((1, 2), vec!["backend/api".to_owned()]));

    // A place more, at once, for one of those who wait.
    file.write(&text(", backend: 2"));
    reloader.reload().unwrap();
    assert_eq!((counts(), rows()), ((2, 1), vec!["backend/api".to_owned()]));
    file.write(&text(", backend: learned"));
    reloader.reload().unwrap();
    let mut four = call();
    assert!((&mut four).now_or_never().is_none());
    assert_eq!(backend.stats().admitted, 2, "the one of before, with its limit");

    // Who waits goes on by what there was; who comes has nothing to wait for.
    file.write(&text(""));
    reloader.reload().unwrap();
    assert!(rows().is_empty() && stacks.server("api").unwrap().backend().is_none());
    let mut five = call();
    assert!((&mut five).now_or_never().is_none());
    assert_eq!(counts(), (2, 2));
    for call in [one, two, three, four, five] {
        call.await.unwrap();
    }
    assert_eq!(counts(), (0, 0));
    file.write(&text(", backend: {limit: 8}"));
    reloader.reload().unwrap();
    assert_eq!(stacks.server("api").unwrap().backend().unwrap().stats().limit, 8);
    assert_eq!(rows(), ["backend/api"]);
}
