//! Workers of tokio: blocked, busy, legal and gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use buttress::supervise::{
    Progress,
    heartbeat::Heartbeat,
    watchdog::{RuntimeFreeze, RuntimeWatchdog},
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::{LONG, QUIET, Scratch, ms, quiet, rest, until};

fn workers(count: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(count).enable_all().build().unwrap()
}

#[derive(Debug)]
enum Heard {
    Frozen(RuntimeFreeze, Instant),
    Recovered(Option<usize>, Duration),
}

fn watch(
    runtime: &Runtime,
    threshold: Duration,
    check: Duration,
) -> (RuntimeWatchdog, Receiver<Heard>) {
    let (told, heard) = mpsc::channel();
    let recovered = told.clone();
    let dog = RuntimeWatchdog::builder("test", runtime.handle())
        .frozen_after(threshold)
        .check_interval(check)
        .on_frozen(move |freeze| told.send(Heard::Frozen(freeze, Instant::now())).unwrap())
        .on_recovered(move |end| recovered.send(Heard::Recovered(end.worker, end.after)).unwrap())
        .build()
        .unwrap();
    dog.start().unwrap();
    // Until it has looked at all of them.
    until("healthy", || dog.count() > 2);
    (dog, heard)
}

/// What tokio publishes is what this relies on; a release that changes it must not go unnoticed.
#[test]
fn tokio_counts_as_it_did() {
    let _quiet = quiet();
    let runtime = workers(2);
    let metrics = runtime.metrics();
    let seen = |worker| {
        (metrics.worker_park_unpark_count(worker), metrics.worker_total_busy_duration(worker))
    };
    until("idle workers are parked", || (0..2).all(|worker| seen(worker).0 % 2 == 1));
    let idle = [seen(0), seen(1)];
    // A poll that blocks: unparked, and nothing is published until it ends.
    let (entered, inside) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    runtime.spawn(async move {
        entered.send(()).unwrap();
        let _ = left.recv_timeout(LONG);
    });
    inside.recv_timeout(LONG).unwrap();
    rest(ms(50));
    let blocked: Vec<_> = (0..2).filter(|worker| seen(*worker).0 % 2 == 0).collect();
    assert_eq!(blocked.len(), 1, "{:?} after {idle:?}", [seen(0), seen(1)]);
    let before = seen(blocked[0]);
    rest(ms(300));
    assert_eq!(seen(blocked[0]), before, "nothing changes while it blocks");
    leave.send(()).unwrap();
    until("it parks again", || seen(blocked[0]).0 % 2 == 1);
    // A task that only yields: the worker does not park, but publishes that it is busy.
    let over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&over);
    runtime.spawn(async move {
        while !ends.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    });
    let busy = || (0..2).map(|worker| seen(worker).1).sum::<Duration>();
    for _ in 0..10 {
        let before = busy();
        until("busy time grows", || busy() > before);
    }
    over.store(true, Ordering::Relaxed);
}

#[test]
fn the_blocked_worker_is_named_in_time_and_the_others_are_not() {
    let _quiet = quiet();
    for count in [2, 4] {
        let runtime = workers(count);
        let (threshold, check) = (ms(250), ms(25));
        let (dog, heard) = watch(&runtime, threshold, check);
        let (begun, blocks) = mpsc::channel();
        runtime.spawn(async move {
            begun.send(Instant::now()).unwrap();
            rest(ms(1500));
        });
        let begun = blocks.recv_timeout(LONG).unwrap();
        let Heard::Frozen(freeze, at) = heard.recv_timeout(LONG).unwrap() else { panic!() };
        let named = freeze.worker.unwrap();
        assert!(named < count && freeze.workers == count);
        let found = at - begun;
        assert!(found >= threshold - check, "{found:?}");
        // The rule is the threshold and two looks; the rest is for a shared machine.
        assert!(found < threshold + 2 * check + ms(300), "{found:?}");
        assert!(
            freeze.threads.iter().any(|thread| thread.name.starts_with("tokio-")),
            "{freeze:?}"
        );
        assert_eq!(
            dog.frozen_workers().iter().map(|(worker, _)| *worker).collect::<Vec<_>>(),
            [named]
        );
        assert!(dog.is_frozen());
        let healthy = dog.count();
        rest(ms(200));
        assert_eq!(dog.count(), healthy, "no progress while it is frozen");
        let Heard::Recovered(worker, after) = heard.recv_timeout(LONG).unwrap() else { panic!() };
        assert_eq!(worker, Some(named), "and nobody else was told");
        assert!(after > ms(1300) && after < ms(2500), "{after:?}");
        until("healthy again", || dog.count() > healthy && !dog.is_frozen());
        assert_eq!(dog.stats().canary_freezes, 0, "the others took up new tasks");
        assert_eq!(dog.stats().freezes, 1);
    }
}

#[test]
fn nothing_is_frozen_that_is_not_watched() {
    let _quiet = quiet();
    let runtime = workers(2);
    let (dog, heard) = watch(&runtime, ms(100), ms(25));
    runtime.spawn(async { rest(ms(800)) });
    assert!(matches!(heard.recv_timeout(LONG).unwrap(), Heard::Frozen(..)));
    dog.stop();
    assert!(!dog.is_frozen() && dog.frozen_workers().is_empty(), "{:?}", dog.frozen_workers());
}

#[test]
fn when_all_are_blocked_the_runtime_is_told_too() {
    let _quiet = quiet();
    let runtime = workers(2);
    let (dog, heard) = watch(&runtime, ms(200), ms(20));
    for _ in 0..2 {
        runtime.spawn(async { rest(ms(1200)) });
    }
    let mut frozen: Vec<_> = (0..3)
        .map(|_| match heard.recv_timeout(LONG).unwrap() {
            Heard::Frozen(freeze, _) => freeze.worker,
            Heard::Recovered(..) => panic!("before all were told"),
        })
        .collect();
    frozen.sort_unstable();
    assert_eq!(frozen, [None, Some(0), Some(1)]);
    until("all recover", || !dog.is_frozen());
}

#[test]
fn a_runtime_of_one_thread_is_watched_while_it_is_driven() {
    let _quiet = quiet();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (told, heard) = mpsc::channel();
    let dog = RuntimeWatchdog::builder("one", runtime.handle())
        .frozen_after(ms(200))
        .check_interval(ms(20))
        .on_frozen(move |freeze| told.send(freeze.worker).unwrap())
        .build()
        .unwrap();
    dog.start().unwrap();
    runtime.block_on(async {
        tokio::time::sleep(ms(500)).await;
        assert_eq!(dog.stats().freezes, 0, "it idles");
        rest(ms(800));
        tokio::time::sleep(ms(50)).await;
    });
    dog.stop();
    let mut all: Vec<_> = heard.try_iter().collect();
    all.sort_unstable();
    assert_eq!(all, [None, Some(0)]);
}

#[test]
fn what_is_legal_is_no_alarm() {
    let _quiet = quiet();
    let runtime = workers(2);
    let (dog, heard) = watch(&runtime, ms(300), ms(30));
    runtime.spawn(async { tokio::task::block_in_place(|| rest(ms(1200))) });
    runtime.spawn_blocking(|| rest(ms(1200)));
    let over = Arc::new(AtomicBool::new(false));
    for _ in 0..4 {
        let ends = Arc::clone(&over);
        runtime.spawn(async move {
            while !ends.load(Ordering::Relaxed) {
                std::hint::black_box((0..1000_u64).sum::<u64>());
                tokio::task::yield_now().await;
            }
        });
    }
    rest(ms(1500));
    over.store(true, Ordering::Relaxed);
    assert_eq!(dog.stats().freezes, 0, "{:?}", heard.try_iter().collect::<Vec<_>>());
}

#[test]
fn full_load_is_no_alarm() {
    let _alone = QUIET.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seconds = std::env::var("BUTTRESS_LOAD").map_or(4, |text| text.parse().unwrap());
    let cores = std::thread::available_parallelism().unwrap().get();
    let runtime = workers(cores);
    let dog = RuntimeWatchdog::builder("load", runtime.handle()).build().unwrap();
    let pinged = buttress::supervise::watchdog::Watchdog::builder("load").build().unwrap();
    dog.start().unwrap();
    pinged.start().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let hogs: Vec<_> = (0..3 * cores)
        .map(|_| {
            let ends = Arc::clone(&over);
            std::thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    std::hint::black_box((0..10_000_u64).sum::<u64>());
                }
            })
        })
        .collect();
    for _ in 0..4 * cores {
        let (ends, pulse) = (Arc::clone(&over), pinged.pulse());
        runtime.spawn(async move {
            while !ends.load(Ordering::Relaxed) {
                pulse.ping();
                std::hint::black_box((0..10_000_u64).sum::<u64>());
                tokio::task::yield_now().await;
            }
        });
    }
    rest(Duration::from_secs(seconds));
    let stats = dog.stats();
    over.store(true, Ordering::Relaxed);
    for hog in hogs {
        hog.join().unwrap();
    }
    assert_eq!((stats.freezes, pinged.stats().timeouts_triggered), (0, 0), "{stats:?}");
    assert!(stats.healthy_checks > 0, "{stats:?}");
}

#[test]
fn a_runtime_that_ends_is_no_alarm() {
    let _quiet = quiet();
    for background in [false, true] {
        let runtime = workers(2);
        let (dog, heard) = watch(&runtime, ms(100), ms(10));
        if background {
            runtime.shutdown_background();
        } else {
            drop(runtime);
        }
        until("it has seen the end", || !dog.is_running());
        rest(ms(300));
        assert!(!dog.is_frozen());
        let told: Vec<_> = heard.try_iter().collect();
        assert!(told.is_empty(), "{told:?}");
        assert!(dog.start().is_ok(), "and is no error either");
        until("nor later", || !dog.is_running());
    }
}

#[test]
fn a_heartbeat_that_needs_the_runtime_stops_with_it() {
    let _quiet = quiet();
    let scratch = Scratch::new();
    let runtime = workers(2);
    let (dog, _heard) = watch(&runtime, ms(200), ms(20));
    let (told, heard) = mpsc::channel();
    let heart = Heartbeat::builder("runtime")
        .file(scratch.beat())
        .interval(Duration::from_secs(1))
        .requires("runtime", dog)
        .on_missed_beat(move |missed| told.send(missed.to_string()).unwrap())
        .build()
        .unwrap();
    heart.start().unwrap();
    until("it beats", || heart.stats().beats >= 2);
    runtime.spawn(async { rest(ms(3500)) });
    assert_eq!(heard.recv_timeout(LONG).unwrap(), "runtime has made no progress");
    let beats = heart.stats().beats;
    until("it beats again", || heart.stats().beats > beats);
}
