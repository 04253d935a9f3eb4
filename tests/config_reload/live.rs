//! Each kind of change reaches a stack that runs, and what has been learned is kept.

#![expect(clippy::disallowed_methods, reason = "callers are tasks")]

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use buttress::Rejection;
use buttress::circuit_breaker::CircuitState;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::rig::{Boxed, Inner, Rig};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Answers with what it was asked, after the time that is in there, in milliseconds.
fn slow(ms: &Arc<AtomicU64>) -> Inner {
    let ms = Arc::clone(ms);
    Inner::new(service_fn(move |n: u32| {
        let ms = ms.load(Ordering::Relaxed);
        async move {
            tokio::time::sleep(MS(ms)).await;
            Ok::<_, io::Error>(n)
        }
    }))
}

/// Fails, and counts how often it is asked.
fn broken() -> (Inner, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let inner = service_fn(move |_: u32| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Err::<u32, _>(io::Error::from(io::ErrorKind::ConnectionRefused)) }
    });
    (Inner::new(inner), asked)
}

fn client(rig: &Rig, inner: Inner) -> Boxed {
    Boxed::new(rig.stacks.client("pay").unwrap().layer(inner))
}

async fn refusal(service: &Boxed) -> String {
    let error = service.clone().oneshot(1).await.unwrap_err();
    Rejection::find(&*error).map_or_else(|| format!("none: {error}"), ToString::to_string)
}

#[tokio::test(start_paused = true)]
async fn timeouts_of_clients() {
    for key in ["total_timeout", "attempt_timeout"] {
        let text = |time: &str| format!("clients: {{pay: {{{key}: {time}}}}}");
        let rig = Rig::new(&text("100ms"));
        let takes = Arc::new(AtomicU64::new(150));
        let mut service = client(&rig, slow(&takes));
        // A server clones one that it never calls itself.
        let never_called = service.clone();
        let begun = Instant::now();
        assert!(service.ready().await.unwrap().call(1).await.is_err());
        assert_eq!(begun.elapsed(), MS(100));

        // One in flight goes on as it began.
        let in_flight = tokio::spawn(service.ready().await.unwrap().call(1));
        tokio::task::yield_now().await;
        rig.reload(&text("200ms"));
        assert!(service.ready().await.unwrap().call(2).await.is_ok());
        assert!(in_flight.await.unwrap().is_err());
        for _ in 0..3 {
            assert!(never_called.clone().oneshot(3).await.is_ok());
        }
        // None at all.
        takes.store(1_000_000, Ordering::Relaxed);
        rig.reload("clients: {pay: {}}");
        assert!(service.ready().await.unwrap().call(2).await.is_ok());
        assert!(never_called.oneshot(2).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn timeouts_and_limits_of_servers() {
    let rig = Rig::new("servers: {api: {timeout: 100ms}}");
    let takes = Arc::new(AtomicU64::new(150));
    let stack = rig.stacks.server("api").unwrap();
    let service = Boxed::new(stack.layer(slow(&takes)));
    assert!(service.clone().oneshot(1).await.is_err());
    rig.reload("servers: {api: {timeout: 200ms, rate_limit: 3/h}}");
    assert!(service.clone().oneshot(1).await.is_ok());
    let limiter = stack.rate_limiter().unwrap();
    assert_eq!(limiter.stats().acquired, 1);
    rig.reload(
        "servers: {api: {timeout: 200ms, rate_limit: 2/h, failure_budget: {min_samples: 1, action: reject}}}",
    );
    assert!(limiter.tokens() < 2.1, "the bucket is the same: {}", limiter.tokens());
    takes.store(300, Ordering::Relaxed);
    assert!(service.clone().oneshot(1).await.is_err());
    let budget = stack.failure_budget().unwrap();
    assert!(budget.tripped());
    // A lever would be let go of: it is out of service.
    rig.reload("servers: {api: {timeout: 400ms}}");
    assert!(service.clone().oneshot(1).await.is_ok());
    assert!(stack.failure_budget().is_none() && !budget.tripped());
    assert_eq!(rig.shown(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn retries_keep_their_tally_and_their_budget() {
    let text = |attempts: u32| {
        format!(
            "retries: {{twice: {{max_attempts: {attempts}, base_delay: 1ms}}}}
clients: {{pay: {{total_timeout: 10s, retry: twice, retry_budget: {{floor: 10, initial_tokens: 140}}}}}}"
        )
    };
    let rig = Rig::new(&text(2));
    let (inner, asked) = broken();
    let service = client(&rig, inner);
    service.clone().oneshot(1).await.unwrap_err();
    assert_eq!(asked.swap(0, Ordering::Relaxed), 2);
    let budget = rig.stacks.client("pay").unwrap().retry_budget().unwrap();
    let left = budget.stats().credit;

    rig.reload(&text(3));
    service.clone().oneshot(1).await.unwrap_err();
    assert_eq!(asked.swap(0, Ordering::Relaxed), 3);
    assert!(budget.stats().credit < left, "the same one is charged");
    let row = rig.row("retry/pay");
    let counted = |name: &str| row.counters.iter().find(|it| it.0 == name).unwrap().1;
    assert_eq!((counted("retried"), counted("abandoned")), (3, 2), "of before, too");
    assert!(row.facts.iter().any(|fact| fact.value.contains("at most 3")), "{row:?}");

    rig.reload("clients: {pay: {total_timeout: 10s}}");
    service.clone().oneshot(1).await.unwrap_err();
    assert_eq!(asked.swap(0, Ordering::Relaxed), 1);
    assert_eq!(rig.shown(), Vec::<String>::new(), "neither a retry nor its budget");
    rig.reload(&text(2));
    service.clone().oneshot(1).await.unwrap_err();
    assert_eq!(asked.swap(0, Ordering::Relaxed), 2);
    assert_eq!(rig.shown(), ["retry/pay", "retry_budget/pay"]);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_stays_open_while_all_around_it_changes() {
    let text = |attempt: &str, more: &str| {
        format!(
            "clients: {{pay: {{total_timeout: 60s, attempt_timeout: {attempt}{more}, breaker: {{consecutive_failures: 1, open_for: 1h}}}}}}"
        )
    };
    let rig = Rig::new(&text("20s", ""));
    let takes = Arc::new(AtomicU64::new(60));
    let service = client(&rig, slow(&takes));
    let breaker = rig.stacks.client("pay").unwrap().breaker().unwrap();

    // What is given up after so little time counts only since the timeout is that short.
    let gives_up = |after| {
        let call = service.clone().oneshot(1);
        async move {
            let _ = tokio::time::timeout(MS(after), call).await;
        }
    };
    gives_up(55).await;
    assert_eq!(breaker.state(), CircuitState::Closed);
    rig.reload(&text("100ms", ""));
    gives_up(55).await;
    assert_eq!(breaker.state(), CircuitState::Open);

    rig.reload(&text("200ms", ", rate_limit: 100/s, retry: adaptive, retry_budget: {}"));
    assert_eq!(breaker.state(), CircuitState::Open);
    assert!(refusal(&service).await.contains("circuit"), "{}", refusal(&service).await);
    assert!(rig.stacks.client("pay").unwrap().rate_limiter().unwrap().stats().acquired > 0);
}

#[tokio::test(start_paused = true)]
async fn faults_come_change_and_go() {
    let text = |faults: &str| format!("clients: {{pay: {{total_timeout: 60s{faults}}}}}");
    let loss =
        |share: u32| text(&format!(", faults: {{rules: [{{fault: loss, share: {share}%}}]}}"));
    let rig = Rig::new(&text(""));
    let service = client(&rig, slow(&Arc::default()));
    let works = || async { service.clone().oneshot(1).await.is_ok() };
    assert!(works().await);
    rig.reload(&loss(100));
    assert!(!works().await);
    rig.reload(&loss(0));
    assert!(works().await);
    let row = rig.row("conditioner/pay");
    assert!(row.counters.iter().any(|it| it.0 == "seen" && it.1 == 2), "{row:?}");

    // What an operator has switched off stays so.
    rig.registry.apply(&buttress::control::Command::KillFaults).unwrap();
    rig.reload(&loss(100));
    assert!(works().await);
    rig.reload(&text(""));
    assert_eq!(rig.shown(), Vec::<String>::new());
    rig.reload(&loss(100));
    assert!(works().await, "another one, too");
    let rig = Rig::new(&text(""));
    let service = client(&rig, slow(&Arc::default()));
    let works = || async { service.clone().oneshot(1).await.is_ok() };
    // A call that hangs in a fault goes on when that is taken out.
    rig.reload(&text(", faults: {rules: [{fault: hang}]}"));
    let hanging = tokio::spawn(service.clone().oneshot(1));
    tokio::time::sleep(MS(10)).await;
    assert!(!hanging.is_finished());
    rig.reload(&text(""));
    let begun = Instant::now();
    hanging.await.unwrap().unwrap_err();
    assert_eq!(begun.elapsed(), MS(0));
    assert!(works().await);
}

#[tokio::test(start_paused = true)]
async fn commands_put_faults_into_stacks_from_a_file() {
    use buttress::control::{Command, InstallNetworkConditioner, Uninstall};
    let rig = Rig::new("clients: {pay: {total_timeout: 60s}}");
    let service = client(&rig, slow(&Arc::default()));
    let works = || async { service.clone().oneshot(1).await.is_ok() };
    let mut install = InstallNetworkConditioner::default();
    (install.target, install.loss_rate) = (Some("clients.pay".to_owned()), 1.0);
    rig.registry.apply(&Command::InstallNetworkConditioner(install)).unwrap();
    assert!(!works().await);
    rig.reload("clients: {pay: {total_timeout: 50s}}");
    assert!(!works().await, "a file that has no faults takes out only its own");
    let mut uninstall = Uninstall::default();
    uninstall.target = Some("clients.pay".to_owned());
    rig.registry.apply(&Command::UninstallNetworkConditioner(uninstall)).unwrap();
    assert!(works().await);
}

#[tokio::test(start_paused = true)]
async fn parts_come_and_go_and_so_do_their_rows() {
    let bare = "clients: {pay: {total_timeout: 60s}}";
    let full = "clients: {pay: {total_timeout: 60s, attempt_timeout: 1s, rate_limit: 1/h, retry: adaptive, retry_budget: {}, breaker: {}, faults: {rules: [{fault: loss, share: 0%}]}}}";
    let rig = Rig::new(bare);
    let service = client(&rig, slow(&Arc::default()));
    // It holds on to the objects that it has seen.
    let mut holds = service.clone();
    let all = [
        "circuit_breaker/pay",
        "conditioner/pay",
        "rate_limit/pay",
        "retry/pay",
        "retry_budget/pay",
    ];
    for _ in 0..3 {
        assert_eq!(rig.shown(), Vec::<String>::new());
        rig.reload(full);
        assert_eq!(rig.shown(), all);
        holds.ready().await.unwrap();
        service.clone().oneshot(1).await.unwrap();
        assert!(refusal(&service).await.contains("rate"), "{}", refusal(&service).await);
        assert_eq!(
            rig.stacks.client("pay").unwrap().breaker().unwrap().stats().successful_calls,
            1
        );
        rig.reload(bare);
        assert!(service.clone().oneshot(1).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_was_asked_for_stays() {
    let rig = Rig::new("breakers: {db: {}}\nclients: {pay: {breaker: db}}");
    let service = client(&rig, slow(&Arc::default()));
    let breaker = rig.stacks.circuit_breaker("db").unwrap();
    breaker.force_open();
    service.clone().oneshot(1).await.unwrap_err();
    let done = rig.try_reload("clients: {pay: {}}").unwrap();
    assert!(service.clone().oneshot(1).await.is_ok());
    // Somebody has it, so it is not gone; the event says so.
    assert_eq!(rig.shown(), ["circuit_breaker/db"]);
    assert!(done.waiting().iter().all(|change| change.key().starts_with("breakers.db")), "{done}");
    let done =
        rig.try_reload("breakers: {db: {open_for: 7s}}\nclients: {pay: {breaker: db}}").unwrap();
    assert!(done.waiting().is_empty(), "{done}");
    service.oneshot(1).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_backend_keeps_what_is_known_of_it() {
    let text =
        |backend: &str| format!("clients: {{pay: {{total_timeout: 60s, backend: {backend}}}}}");
    let rig = Rig::new(&text("{limit: 2, patience: 50s}"));
    let service = client(&rig, Inner::new(service_fn(|_: u32| pending::<io::Result<u32>>())));
    let stack = rig.stacks.client("pay").unwrap();
    let backend = stack.backend().unwrap();
    let mut calls: Vec<_> = (0..6).map(|n| Box::pin(service.clone().oneshot(n))).collect();
    for call in &mut calls {
        assert!(futures_util::poll!(call).is_pending());
    }
    let out = || (backend.stats().limit, backend.stats().in_flight, backend.stats().waiting);
    assert_eq!(out(), (2, 2, 4));
    rig.reload(&text("{limit: 5, patience: 50s}"));
    assert_eq!(out(), (5, 5, 1), "who waits gets what is free now");
    let admitted = backend.stats().admitted;
    rig.reload(&text("learned"));
    for call in &mut calls {
        assert!(futures_util::poll!(call).is_pending());
    }
    assert_eq!(stack.backend().unwrap().stats().admitted, admitted, "the same backend");
    assert_eq!(out(), (5, 5, 1), "it begins with what it was");
    drop(calls);
    rig.reload(&text("{limit: 1, patience: 1s}"));
    assert_eq!(out().0, 1);
    let in_flight = tokio::spawn(service.clone().oneshot(1));
    tokio::time::sleep(Duration::from_secs(61)).await;
    let begun = Instant::now();
    let _ = service.clone().oneshot(1).await;
    assert!(begun.elapsed() <= Duration::from_secs(60));
    in_flight.abort();
    rig.reload("clients: {pay: {total_timeout: 60s}}");
    assert!(stack.backend().is_none());
}

#[tokio::test(start_paused = true)]
async fn hedges_and_pools_keep_what_they_have_seen() {
    let text =
        |more: &str| format!("clients: {{pay: {{total_timeout: 60s, backend: learned{more}}}}}");
    let rig = Rig::new(&text(", hedge: {min_delay: 2ms}, endpoints: {failures_in_row: 50}"));
    let stack = rig.stacks.client("pay").unwrap();
    let pool = stack.endpoints::<Inner>();
    let takes = Arc::new(AtomicU64::new(5));
    pool.extend([("one", slow(&takes)), ("two", slow(&takes))]);
    let service = Boxed::new(stack.pool(&pool));
    for n in 0..300 {
        service.clone().oneshot(n).await.unwrap();
        tokio::time::sleep(MS(1)).await;
    }
    let hedge = stack.hedge().unwrap();
    let delay = hedge.delay().unwrap();
    assert!((MS(2)..MS(8)).contains(&delay), "{delay:?}");
    let calls: u64 = pool.stats().iter().map(|one| one.calls).sum();

    rig.reload(&text(", hedge: {min_delay: 40ms}, endpoints: {failures_in_row: 1}"));
    assert_eq!(hedge.delay(), Some(MS(40)), "the new least, of the same answers");
    assert_eq!(stack.hedge().unwrap().delay(), hedge.delay());
    let after: u64 = pool.stats().iter().map(|one| one.calls).sum();
    assert_eq!(calls, after);
    // One failure is enough now.
    pool.insert("bad", broken().0);
    for n in 0..20 {
        let _ = service.clone().oneshot(n).await;
    }
    let stats = pool.stats();
    let bad = stats.iter().find(|one| &*one.endpoint == "bad").unwrap();
    assert!(bad.ejected, "{stats:?}");
    assert_eq!(bad.failed, 1, "{stats:?}");
    assert!(rig.shown().contains(&"hedge/pay".to_owned()));

    rig.reload(&text(", hedge: never, endpoints: {failures_in_row: 1}"));
    service.clone().oneshot(1).await.unwrap();
    assert!(stack.hedge().is_none());
    assert!(!rig.shown().contains(&"hedge/pay".to_owned()), "{:?}", rig.shown());
    assert!(pool.stats().iter().any(|one| one.ejected), "what is ejected stays so");
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_changes_nothing_of_a_stack() {
    let good = "clients: {pay: {total_timeout: 60s, attempt_timeout: 100ms, rate_limit: 100/h, breaker: {consecutive_failures: 5}}}
servers: {api: {timeout: 5s}}";
    let rig = Rig::new(good);
    let takes = Arc::new(AtomicU64::new(150));
    let service = client(&rig, slow(&takes));
    let stack = rig.stacks.client("pay").unwrap();
    rig.stacks.server("api").unwrap();
    let (limiter, breaker) = (stack.rate_limiter().unwrap(), stack.breaker().unwrap());
    // All that could change does, and one thing is wrong.
    let other = good
        .replace("100ms", "200ms, retry: adaptive, retry_budget: {}, backend: learned")
        .replace("100/h", "200/h");
    for bad in [
        other.replace("consecutive_failures: 5", "consecutive_failures: 0"),
        other.replace("retry_budget: {}", "retry_budget: {ratio: 5000%}"),
        other.replace("backend: learned", "hedge: {percentile: 0.1}"),
        other.replace("backend: learned", "endpoints: {failures_in_row: 0}"),
        other.replace("backend: learned", "backend: {limit: 0}"),
        other.replace("200ms", "90s"),
        other.replace("backend: learned", "faults: {rules: [{fault: loss, share: 3}]}"),
        other.replace("timeout: 5s", "timeout: 0s"),
        other.replace("retry: adaptive", "retry: nobody"),
        other.replace("timeout: 5s", "timeot: 5s"),
    ] {
        let error = rig.try_reload(&bad).unwrap_err();
        let begun = Instant::now();
        service.clone().oneshot(1).await.unwrap_err();
        assert_eq!(begun.elapsed(), MS(100), "{bad}: {error}");
        assert_eq!(limiter.quota().capacity(), 100);
        assert_eq!(rig.shown(), ["circuit_breaker/pay", "rate_limit/pay"], "{bad}");
        assert!(stack.backend().is_none() && stack.retry_budget().is_none());
        breaker.reset();
        let event = rig.registry.events_since(0).events.pop().unwrap();
        assert_eq!((event.event, event.layer), ("reload_refused", "config"), "{event:?}");
    }
    assert_eq!(rig.stacks.generation(), 1);
    rig.reload(&other);
    assert!(service.clone().oneshot(1).await.is_ok());
}

#[test]
fn two_that_reload_at_once_leave_one_configuration_in_force() {
    use buttress::config::{Loader, Reloader};
    let files = [1, 2]
        .map(|n| std::env::temp_dir().join(format!("buttress-two-{}-{n}.yml", std::process::id())));
    let text = |n: u64| {
        format!(
            "rate_limits: {{a: {n}/h, b: {n}/h, c: {n}/h, d: {n}/h}}\nclients: {{pay: {{total_timeout: {n}s, rate_limit: {n}/h}}}}"
        )
    };
    files.iter().for_each(|file| std::fs::write(file, text(1)).unwrap());
    let registry = buttress::control::Registry::new();
    let loader = |file| Loader::empty().file(file);
    let stacks = loader(&files[0]).load().unwrap().stacks().register_in(&registry);
    let limiters = ["a", "b", "c", "d"].map(|name| stacks.rate_limiter(name).unwrap());
    let pay = stacks.client("pay").unwrap();
    let reloaders = [0, 1].map(|n: usize| Reloader::new(loader(&files[n]), &stacks));
    for round in 1..100 {
        let begin = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for (n, (file, reloader)) in (0..).zip(files.iter().zip(&reloaders)) {
                let begin = &begin;
                scope.spawn(move || {
                    std::fs::write(file, text(2 * round + n)).unwrap();
                    begin.wait();
                    reloader.reload().unwrap();
                });
            }
        });
        let said = stacks.config().rate_limiter("a").unwrap().quota();
        for limiter in limiters.iter().chain(&pay.rate_limiter()) {
            assert_eq!(limiter.quota(), said, "in round {round}");
        }
        assert_eq!(stacks.generation(), 1 + 2 * round);
    }
    files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
}
