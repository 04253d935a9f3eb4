//! The throttle as a layer: the contract, quotas over HTTP, what a registry shows.
#![expect(clippy::disallowed_methods, reason = "callers are tasks")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io;
use std::time::Duration;

use buttress::control::Registry;
use buttress::observe::{Event, EventKind};
use buttress::testing::{Subject, check_all};
use buttress::throttle::{Throttle, ThrottleLayer};
use buttress::{AsTyped, Deadline, Error, Rejection, RejectionKind, Verdict, classify_fn};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

#[tokio::test(start_paused = true)]
async fn a_throttle_keeps_the_contract() {
    let throttle = Throttle::new("contract");
    let seen = throttle.clone();
    let layer = move || ThrottleLayer::new(throttle.clone()).on_reject(AsTyped);
    let subject = Subject::new(layer, || 7_u32, Ok)
        .ready_error(|| io::Error::other("broke"))
        .shared_state(move |one, two, _probe| {
            let seen = seen.clone();
            async move {
                let before = seen.stats().sent;
                one.oneshot(7).await.map_err(|e| format!("{e:?}"))?;
                two.oneshot(7).await.map_err(|e| format!("{e:?}"))?;
                match seen.stats().sent - before {
                    2 => Ok(()),
                    n => Err(format!("{n} of two calls were seen")),
                }
            }
        });
    check_all(&subject).await.unwrap();
}

/// Takes one in 50 ms, and says when to come again.
async fn quota(last: std::sync::Arc<std::sync::Mutex<Instant>>) -> Result<(), Duration> {
    let now = Instant::now();
    let mut last = last.lock().unwrap();
    if now < *last + Duration::from_millis(50) {
        return Err(Duration::from_secs(1));
    }
    *last = now;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_learned_and_the_rest_is_refused_unsent() {
    let registry = Registry::new();
    let throttle = Throttle::builder("api").seed(7).register_in(&registry).build().unwrap();
    let last = std::sync::Arc::new(std::sync::Mutex::new(Instant::now()));
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = sent.clone();
    let classify = classify_fn(|result: Result<&(), &Wait>| match result {
        Ok(()) => Verdict::success(),
        Err(wait) => Verdict::throttled(Some(wait.0)),
    });
    let service = throttle.layer().classify(classify).layer(service_fn(move |()| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let call = quota(last.clone());
        async move { call.await.map_err(Wait) }
    }));
    for _ in 0..4000 {
        sleep(Duration::from_millis(5)).await;
        let call = service.clone().oneshot(());
        tokio::spawn(call);
    }
    sent.store(0, std::sync::atomic::Ordering::Relaxed);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..2000 {
        sleep(Duration::from_millis(5)).await;
        calls.spawn(service.clone().oneshot(()));
    }
    let sent = sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!((100..400).contains(&sent), "{sent} sent in 10 s, 200 would be taken");
    // Who has left the line is not refused: they all stay in it.
    let mut refused = 0;
    while let Some(answer) = calls.join_next().await {
        if let Err(error) = answer.unwrap()
            && let Some(why) = Rejection::find(&*error)
        {
            assert_eq!(why.kind(), RejectionKind::RateLimited);
            assert!(why.retry_after().unwrap() > Duration::ZERO);
            refused += 1;
        }
    }
    assert!(refused > 1000, "{refused} of 2000 are refused");
    let status = registry.status();
    let row = status.objects.iter().find(|row| row.id == "throttle/api").unwrap();
    assert!(row.state == "limiting" || row.state == "stopped", "{}", row.state);
    assert!(row.why.starts_with(if row.state == "limiting" {
        "it takes about"
    } else {
        "nothing"
    }));
    assert_eq!(
        row.next.is_some(),
        row.state == "stopped",
        "when it is asked again: {:?}",
        row.next
    );
    let rate = row.gauges.iter().find(|gauge| gauge.id == "rate").unwrap();
    assert_eq!(rate.unit, "1/s");
    throttle.reset();
    assert_eq!(throttle.quota(), None);
}

#[derive(Debug)]
struct Wait(Duration);

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "come again in {:?}", self.0)
    }
}

impl std::error::Error for Wait {}

/// Asks for more than the quota until there is a rate.
async fn learns(throttle: &Throttle) {
    let last = std::sync::Arc::new(std::sync::Mutex::new(Instant::now()));
    let judge = classify_fn(|result: Result<&(), &Duration>| match result {
        Ok(()) => Verdict::success(),
        Err(_) => Verdict::throttled(None),
    });
    for _ in 0..1000 {
        sleep(Duration::from_millis(5)).await;
        // Refused here or there.
        let _ = throttle.run_with(quota(last.clone()), &judge, None).await;
    }
    assert_eq!(throttle.stats().state, "limiting");
    let rate = throttle.quota().unwrap();
    assert!((10.0..40.0).contains(&rate), "{rate}");
}

#[tokio::test(start_paused = true)]
async fn what_is_old_is_forgotten_also_while_nobody_calls() {
    let registry = Registry::new();
    let throttle = Throttle::builder("api").register_in(&registry).build().unwrap();
    learns(&throttle).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!((throttle.quota(), throttle.stats().state), (None, "free"));
    let one = async { Err::<(), _>(true) };
    let judge = classify_fn(|_: Result<&(), &bool>| Verdict::throttled(None));
    throttle.run_with(one, &judge, None).await.unwrap_err();
    assert_eq!(registry.status().objects[0].state, "measuring");
    sleep(Duration::from_secs(600)).await;
    assert_eq!(registry.status().objects[0].state, "free");
}

/// Whoever reads may hold a lock of its own that its observer takes, too: only calls and orders tell anybody anything.
#[tokio::test(start_paused = true)]
async fn a_reading_tells_nobody_anything_and_the_next_call_does() {
    let registry = Registry::new();
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let tells = told.clone();
    let throttle = Throttle::builder("api")
        .register_in(&registry)
        .observe(move |event: &Event<'_>| {
            if let EventKind::StateChanged { from, to, .. } = event.kind {
                tells.lock().unwrap().push((from, to));
            }
        })
        .build()
        .unwrap();
    let read = || {
        let stats = throttle.stats();
        let row = &registry.status().objects[0];
        assert_eq!((row.state.as_str(), throttle.quota()), (stats.state, stats.quota));
        assert!(format!("{throttle:?}").contains("api"));
        stats.state
    };
    learns(&throttle).await;
    let learned = [("free", "measuring"), ("measuring", "limiting")];
    assert_eq!(*told.lock().unwrap(), learned);
    sleep(Duration::from_secs(600)).await;
    assert_eq!((read(), read()), ("free", "free"), "it is read as it is by now");
    assert_eq!(*told.lock().unwrap(), learned, "a reading told of a change");
    throttle.run(async { Ok::<_, io::Error>(()) }).await.unwrap();
    assert_eq!(told.lock().unwrap()[2..], [("limiting", "free")]);
    // One that only has begun to measure is told of with the next answer.
    let judge = classify_fn(|_: Result<&(), &bool>| Verdict::throttled(None));
    throttle.run_with(async { Err::<(), _>(true) }, &judge, None).await.unwrap_err();
    assert_eq!(read(), "measuring");
    sleep(Duration::from_secs(600)).await;
    assert_eq!(read(), "free");
    assert_eq!(told.lock().unwrap()[3..], [("free", "measuring")]);
    throttle.run(async { Ok::<_, io::Error>(()) }).await.unwrap();
    assert_eq!(told.lock().unwrap()[4..], [("measuring", "free")]);
}

#[tokio::test(start_paused = true)]
async fn who_is_woken_after_its_deadline_is_not_sent() {
    let throttle = Throttle::builder("api").max_wait(Duration::from_secs(60)).build().unwrap();
    learns(&throttle).await;
    let before = throttle.stats();
    let left = Duration::from_secs(20);
    let mut late = None;
    for _ in 0..10_000 {
        let sent = async { Ok::<_, io::Error>(()) };
        let judge = buttress::AnyError;
        let by = buttress::Deadline::after(left);
        let throttle = &throttle;
        let mut call = Box::pin(async move { throttle.run_with(sent, &judge, by).await });
        if futures_util::poll!(&mut call).is_pending() {
            late = Some(call);
            break;
        }
    }
    let late = late.expect("one has to wait");
    // Whoever was to poll it was busy.
    tokio::time::advance(left + Duration::from_millis(1)).await;
    let error = late.await.unwrap_err();
    assert_eq!(error.rejection().unwrap().kind(), RejectionKind::DeadlineExceeded);
    assert_eq!(throttle.stats().expired, before.expired + 1);
}

#[tokio::test(start_paused = true)]
async fn other_settings_keep_what_was_learned() {
    let throttle = Throttle::builder("api").seed(7).build().unwrap();
    learns(&throttle).await;
    let before = throttle.stats();
    for builder in [
        Throttle::builder("other").k(0.5),
        Throttle::builder("other").max_share(2.0),
        Throttle::builder("other").window(Duration::ZERO),
        Throttle::builder("other").max_wait(Duration::from_secs(7200)),
    ] {
        throttle.reconfigure(builder.quota(false)).unwrap_err();
        assert_eq!(throttle.stats(), before, "a bad value changes nothing");
    }
    throttle.reconfigure(Throttle::builder("other").max_wait(Duration::ZERO)).unwrap();
    assert_eq!(throttle.stats(), before);
    assert_eq!(throttle.name(), "api");
    // Who waited before is refused now.
    let waits = |throttle: Throttle| async move {
        let began = Instant::now();
        for _ in 0..100 {
            let _ = throttle.run(async { Ok::<_, io::Error>(()) }).await;
        }
        began.elapsed()
    };
    assert_eq!(waits(throttle.clone()).await, Duration::ZERO);
    throttle.reconfigure(Throttle::builder("other")).unwrap();
    assert!(waits(throttle.clone()).await > Duration::ZERO);
    throttle.reconfigure(Throttle::builder("other").quota(false)).unwrap();
    assert_eq!((throttle.quota(), throttle.stats().state), (None, "free"));
    assert_eq!(waits(throttle).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn another_window_keeps_the_part_of_it() {
    let minute = Duration::from_secs(60);
    let throttle = Throttle::builder("api").window(minute).build().unwrap();
    for n in 0..1000 {
        sleep(minute / 1000).await;
        let answer = async { if n % 10 == 0 { Ok(()) } else { Err("down") } };
        let _ = throttle.run(answer).await;
    }
    let share = throttle.stats().shed_share;
    assert!(share > 0.5, "{share}");
    for window in [minute / 4, minute / 2, 10 * minute] {
        throttle.reconfigure(Throttle::builder("api").window(window)).unwrap();
        let now = throttle.stats().shed_share;
        assert!((now - share).abs() < 0.05, "{now} after {share}, {window:?}");
    }
    sleep(12 * minute).await;
    assert!(throttle.stats().shed_share.abs() < 1e-9, "it ends as any other");
}

/// So many calls of one thread, in a runtime of its own; how they ended: sent, refused, given up.
fn calls(throttle: &Throttle, seed: u64) -> [u64; 3] {
    use futures_util::future::{Either, join_all, select};
    use rand::{RngExt, SeedableRng, rngs::SmallRng};
    let mut random = SmallRng::seed_from_u64(seed);
    let mut ended = [0; 3];
    let judge = |n: u32| {
        classify_fn(move |_: Result<&(), &io::Error>| match n {
            0..10 => Verdict::throttled(Some(Duration::from_millis(2))),
            10..13 => Verdict::failure(buttress::FailureClass::Transient),
            _ => Verdict::success(),
        })
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for _ in 0..100 {
            let some: Vec<_> = (0..40)
                .map(|_| {
                    let (n, patience) = (random.random_range(0..40), random.random_range(0..80));
                    let left = Duration::from_millis(random.random_range(0..30));
                    async move {
                        let sent = std::cell::Cell::new(false);
                        let work = async {
                            sent.set(true);
                            for _ in 0..n {
                                tokio::task::yield_now().await;
                            }
                            if n < 13 { Err(io::Error::other("x")) } else { Ok(()) }
                        };
                        let judge = judge(n);
                        let by = (n % 3 == 0).then(|| buttress::Deadline::after(left));
                        let call = std::pin::pin!(throttle.run_with(work, &judge, by));
                        let gives_up = std::pin::pin!(async {
                            for _ in 0..patience {
                                tokio::task::yield_now().await;
                            }
                            if patience > 40 {
                                std::future::pending::<()>().await;
                            }
                        });
                        let over = select(call, gives_up).await;
                        match (sent.get(), over) {
                            (true, _) => 0,
                            (false, Either::Left(_)) => 1,
                            (false, Either::Right(_)) => 2,
                        }
                    }
                })
                .collect();
            for how in join_all(some).await {
                ended[how] += 1;
            }
        }
    });
    ended
}

#[test]
fn threads_that_call_and_give_up_while_settings_change() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let throttle = Throttle::new("api");
    let over = AtomicBool::new(false);
    let mut ended = [0; 3];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0_u64;
            while !over.load(Ordering::Relaxed) {
                n += 1;
                let builder = Throttle::builder("api").window(Duration::from_secs(1 + n % 3));
                let builder = builder.quota(!n.is_multiple_of(5)).seed(n);
                throttle.reconfigure(builder).unwrap();
                if n.is_multiple_of(7) {
                    throttle.reset();
                }
                let _ = (throttle.stats(), throttle.quota());
                std::thread::park_timeout(Duration::from_millis(2));
            }
        });
        let callers: Vec<_> = (0..4)
            .map(|thread| {
                let throttle = throttle.clone();
                scope.spawn(move || calls(&throttle, seed ^ (thread << 32)))
            })
            .collect();
        let all: Vec<_> = callers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        for one in all {
            for (sum, n) in ended.iter_mut().zip(one.unwrap()) {
                *sum += n;
            }
        }
    });
    assert!(ended.iter().all(|n| *n > 0), "the test does nothing: {ended:?}");
    let stats = throttle.stats();
    assert_eq!(ended.iter().sum::<u64>(), 4 * 100 * 40);
    assert_eq!(stats.sent, ended[0], "{stats:?}");
    assert_eq!(stats.no_room + stats.shed + stats.expired, ended[1], "{stats:?}");
    assert!(stats.failed <= stats.sent, "{stats:?}");
}

#[test]
fn a_thread_waits_for_its_turn_or_is_refused_at_once() {
    let longest = Duration::from_secs(60);
    let throttle = Throttle::builder("api").max_wait(longest).build().unwrap();
    let pause = Duration::from_millis(400);
    let verdict = classify_fn(|_: Result<&(), &()>| Verdict::throttled(Some(pause)));
    let mut calls = 0;
    while throttle.stats().waited < 2 {
        // A rate is set of answers that are spread over some time.
        let call = || {
            std::thread::park_timeout(Duration::from_millis(1));
            Err(())
        };
        let answer = throttle.run_blocking_with(call, &verdict, None);
        assert!(matches!(answer, Err(Error::Inner(()))));
        calls += 1;
        assert!(calls < 100, "{:?}", throttle.stats());
    }
    // Until it is asked on a machine that is not busy: one that has waited long enough has its turn at once.
    let (began, soon) = (Instant::now(), Deadline::after(Duration::from_millis(100)));
    let call = || Err(());
    match throttle.run_blocking_with(call, &verdict, soon) {
        Err(Error::Inner(())) => {}
        Err(refused) => {
            let why = refused.rejection().unwrap();
            if why.kind() == RejectionKind::RateLimited {
                let after = why.retry_after().unwrap();
                throttle.run_blocking(|| Ok::<_, ()>(())).unwrap();
                assert!(began.elapsed() >= after, "{:?} of {after:?}", began.elapsed());
                assert!(throttle.stats().waited >= 2, "{:?}", throttle.stats());
            } else {
                assert_eq!(why.kind(), RejectionKind::DeadlineExceeded);
            }
        }
        Ok(()) => panic!("it never succeeds"),
    }
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn what_is_unavailable_until_then_is_asked_then() {
    use buttress::http::standard;
    use http::{Request, Response};
    let throttle = Throttle::builder("maintained").seed(7).build().unwrap();
    let after = std::sync::Arc::new(std::sync::Mutex::new(Some("20")));
    let says = after.clone();
    let layer = throttle.layer().classify(standard()).on_reject(AsTyped);
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let mut answer = Response::builder().status(503);
        if let Some(after) = *says.lock().unwrap() {
            answer = answer.header("retry-after", after);
        }
        async move { Ok::<_, io::Error>(answer.body(()).expect("it is valid")) }
    }));
    let calls = async |many: u32| {
        for _ in 0..many {
            let _ = service.clone().oneshot(Request::get("/").body(()).unwrap()).await;
            sleep(Duration::from_millis(10)).await;
        }
        throttle.stats()
    };
    let begins = calls(1000).await;
    assert_eq!((begins.state, begins.shed), ("stopped", 0), "{begins:?}");
    assert!(begins.sent <= 40, "{begins:?}");
    let goes_on = calls(6000).await;
    assert!((2..=4).contains(&(goes_on.sent - begins.sent)), "{goes_on:?}");
    // One without a time, or to come at once, is a failure, and no quota.
    for says in [None, Some("0")] {
        throttle.reset();
        *after.lock().unwrap() = says;
        let before = throttle.stats();
        let stats = calls(1000).await;
        assert_eq!((stats.state, stats.no_room), ("free", before.no_room), "{says:?}: {stats:?}");
        assert!(stats.shed > before.shed, "{says:?}: {stats:?}");
    }
}
