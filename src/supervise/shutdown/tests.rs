//! In this process, in real time: the shutdown has threads of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::caught::panics_again;
use crate::clock::park;
use crate::observe::{Event, EventKind};

use super::super::Phase;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(50);

/// What ran, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    fn note(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }

    fn all(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }

    fn callback(&self, name: &'static str) -> CleanupCallback {
        let log = self.clone();
        CleanupCallback::blocking(name, move || log.note(name))
    }
}

fn with(budget: Budget) -> GracefulShutdown {
    GracefulShutdown::builder("test").budget(budget).build().unwrap()
}

fn outcomes(report: &ShutdownReport) -> Vec<(&'static str, CallbackOutcome)> {
    report.callbacks.iter().map(|one| (one.name.as_str(), one.outcome.clone())).collect()
}

#[test]
fn everything_passes_in_order() {
    let shutdown = with(Budget::new(30 * SECOND).lame_duck(SHORT));
    let log = Log::default();
    let life = shutdown.lifecycle().clone();
    life.advance(Phase::Ready, None);
    let hold = life.hold("http");
    for name in ["b", "c"] {
        shutdown.register(log.callback(name).priority(7)).unwrap();
    }
    shutdown.register(log.callback("a").priority(-1)).unwrap();
    assert!(shutdown.report().is_none());
    assert!(shutdown.begin() && !shutdown.begin());
    assert_eq!(shutdown.phase(), Phase::LameDuck);
    assert!(shutdown.register(log.callback("late")).is_err());
    assert!(shutdown.unregister("a").is_none());
    assert!(life.wait_blocking(Phase::Draining, 20 * SECOND));
    assert!(shutdown.wait_blocking(SHORT).is_none(), "it is held");
    assert_eq!(shutdown.phase(), Phase::Draining);
    assert!(log.all().is_empty());
    drop(hold);
    let report = shutdown.wait_blocking(20 * SECOND).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(log.all(), ["a", "b", "c"]);
    let phases = [Phase::LameDuck, Phase::Draining, Phase::Cleanup];
    assert!(report.phases.iter().map(|phase| phase.phase).eq(phases), "{report}");
    assert!(report.phases[0].took >= Some(SHORT) && report.phases[0].limit == SHORT);
    assert!(report.phases[1].took >= Some(SHORT), "{report}");
    assert!(report.took >= 2 * SHORT);
    assert_eq!(shutdown.report(), Some(report), "it is final");
}

/// Standard error may be a pipe that nobody reads, and a log has locks.
#[test]
fn an_observer_that_hangs_does_not_keep_callbacks_from_running() {
    let (release, hangs) = std::sync::mpsc::channel::<()>();
    let hangs = Mutex::new(hangs);
    let shutdown = GracefulShutdown::builder("test")
        .observe(move |_: &Event<'_>| {
            let _ = hangs.lock().unwrap().recv();
        })
        .build()
        .unwrap();
    let log = Log::default();
    shutdown.register(log.callback("a")).unwrap();
    assert!(shutdown.begin());
    let report = shutdown.wait_blocking(20 * SECOND).expect("the observer holds it up");
    assert!(report.is_clean(), "{report}");
    assert_eq!(log.all(), ["a"]);
    drop(release);
}

#[test]
fn every_phase_ends_at_its_limit() {
    let budget = Budget::new(30 * SECOND).lame_duck(SHORT).drain(SHORT).cleanup(5 * SECOND);
    let shutdown = with(budget);
    let _holds = [shutdown.lifecycle().hold("http"), shutdown.lifecycle().hold("queue")];
    let log = Log::default();
    shutdown.register(CleanupCallback::blocking("hangs", || park(HOUR))).unwrap();
    shutdown.register(log.callback("next")).unwrap();
    let report = shutdown.trigger_blocking();
    assert!(report.took > 2 * SECOND && report.took < 20 * SECOND, "{report}");
    assert_eq!(report.held_by, ["http".into(), "queue".into()]);
    // The one that hangs left the next a twentieth.
    use CallbackOutcome::{Ok, TimedOut};
    assert_eq!(outcomes(&report), [("hangs", TimedOut), ("next", Ok)]);
    assert_eq!(report.exit_code(), 124);
    let text = report.to_string();
    assert!(text.contains("\n  drain cut off, held by http, queue\n"), "{text}");
    assert!(text.contains("\n  callback hangs: timed out after "), "{text}");
}

#[test]
fn nothing_stops_the_next() {
    let shutdown = with(Budget::new(30 * SECOND));
    let log = Log::default();
    let soon = |callback: CleanupCallback| callback.timeout(SHORT);
    let error = || Err::<(), _>(std::io::Error::other("disk full"));
    let callbacks = [
        soon(CleanupCallback::blocking("hangs", || park(HOUR))),
        soon(CleanupCallback::new("pending", std::future::pending::<()>)),
        soon(CleanupCallback::new("blocks", async || park(HOUR))),
        CleanupCallback::blocking("panics", || -> () { panic!("oh no {}", 1) }),
        CleanupCallback::new("panics async", async || -> () { panic!("oh") }),
        CleanupCallback::blocking("panics again", || -> () { panics_again() }),
        CleanupCallback::new("panics again async", async || -> () { panics_again() }),
        CleanupCallback::blocking("fails", error),
        CleanupCallback::new("fails async", async move || error()),
        log.callback("last"),
    ];
    for callback in callbacks {
        shutdown.register(callback).unwrap();
    }
    let report = shutdown.trigger_blocking();
    use CallbackOutcome::{Failed, Ok, Panicked, TimedOut};
    let expected = [
        ("hangs", TimedOut),
        ("pending", TimedOut),
        ("blocks", TimedOut),
        ("panics", Panicked("oh no 1".into())),
        ("panics async", Panicked("oh".into())),
        ("panics again", Panicked("no message".into())),
        ("panics again async", Panicked("no message".into())),
        ("fails", Failed("disk full".into())),
        ("fails async", Failed("disk full".into())),
        ("last", Ok),
    ];
    assert_eq!(outcomes(&report), expected);
    assert_eq!(log.all(), ["last"]);
}

#[test]
fn what_comes_too_late_for_the_deadline_is_skipped() {
    let shutdown = with(Budget::new(4 * SHORT).drain(4 * SHORT));
    let _hold = shutdown.lifecycle().hold("http");
    let log = Log::default();
    shutdown.register(log.callback("a")).unwrap();
    let report = shutdown.trigger_blocking();
    assert_eq!(outcomes(&report), [("a", CallbackOutcome::Skipped)]);
    assert_eq!((log.all(), report.exit_code()), (vec![], 124));
}

#[test]
fn failures_have_an_exit_code_of_their_own() {
    let code = |code| {
        let builder = GracefulShutdown::builder("test").failed_exit_code(code);
        let shutdown = builder.build().unwrap();
        shutdown.register(CleanupCallback::blocking("fails", || Err("no"))).unwrap();
        shutdown.trigger_blocking().exit_code()
    };
    assert_eq!((code(0), code(3)), (0, 3));
}

#[test]
fn a_refused_callback_is_handed_back() {
    let shutdown = with(Budget::default());
    let log = Log::default();
    shutdown.register(log.callback("a")).unwrap();
    let error = shutdown.register(log.callback("a").priority(3)).unwrap_err();
    assert_eq!(*error.kind(), RegisterErrorKind::Duplicate);
    let error = shutdown.register(log.callback("b").timeout(Duration::ZERO)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the cleanup callback b can never run: invalid timeout: 0ns, expected above 0"
    );
    shutdown.register(error.into_callback().timeout(SECOND)).unwrap();
    assert!(shutdown.unregister("a").is_some() && shutdown.unregister("a").is_none());
    shutdown.trigger_blocking();
    let error = shutdown.register(log.callback("c")).unwrap_err();
    assert_eq!(*error.kind(), RegisterErrorKind::ShuttingDown);
    assert_eq!(log.all(), ["b"]);
}

#[tokio::test]
async fn async_callbacks_run_in_the_program_s_runtime() {
    let shutdown = with(Budget::default());
    let here = tokio::runtime::Handle::current().id();
    let check = async move || {
        assert_eq!(tokio::runtime::Handle::current().id(), here);
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    shutdown.register(CleanupCallback::new("here", check)).unwrap();
    let report = shutdown.trigger().await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn they_run_elsewhere_when_it_is_blocked() {
    let shutdown = with(Budget::new(30 * SECOND));
    let sleep = async || tokio::time::sleep(Duration::from_millis(1)).await;
    shutdown.register(CleanupCallback::new("a", sleep)).unwrap();
    // By the trigger itself, which says so: nobody has to wait for it.
    let from = Instant::now();
    let report = shutdown.trigger_blocking();
    assert!(report.is_clean() && from.elapsed() < 20 * SECOND, "{report}");
    // By somebody else.
    let shutdown = with(Budget::new(30 * SECOND));
    shutdown.register(CleanupCallback::new("a", sleep)).unwrap();
    shutdown.begin();
    let report = shutdown.wait_blocking(20 * SECOND).expect("it does not need this thread");
    assert!(report.is_clean(), "{report}");
}

#[test]
fn they_run_elsewhere_when_it_is_gone() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let shutdown = with(Budget::new(30 * SECOND));
    let stops = CleanupCallback::new("a", async || ());
    runtime.block_on(async { shutdown.register(stops) }).unwrap();
    drop(runtime);
    let report = shutdown.trigger_blocking();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn an_async_callback_is_dropped_at_its_limit() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for within in [true, false] {
        let shutdown = with(Budget::new(30 * SECOND));
        let dropped = Arc::new(AtomicBool::new(false));
        let held = Dropped(Arc::clone(&dropped));
        let hangs = CleanupCallback::new("hangs", async move || {
            let _held = held;
            std::future::pending::<()>().await;
        });
        let _entered = within.then(|| runtime.enter());
        shutdown.register(hangs.timeout(SHORT)).unwrap();
        drop(_entered);
        let report = shutdown.trigger_blocking();
        assert_eq!(outcomes(&report), [("hangs", CallbackOutcome::TimedOut)]);
        let from = Instant::now();
        while !dropped.load(Ordering::SeqCst) {
            assert!(from.elapsed() < 20 * SECOND, "it still lives, within {within}");
            park(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_scope_ends_with_a_shutdown_also_by_a_panic() {
    let shutdown = with(Budget::default());
    let log = Log::default();
    shutdown.register(log.callback("a")).unwrap();
    let of = shutdown.clone();
    let thread = thread::spawn(move || {
        let _scope = of.scope();
        panic!("the work failed");
    });
    assert!(thread.join().is_err());
    assert_eq!(shutdown.phase(), Phase::Exited);
    assert_eq!(shutdown.report().unwrap().cause, ShutdownCause::ScopeEnded);
    assert_eq!(log.all(), ["a"]);
}

#[test]
fn a_lever_is_pulled_once() {
    use crate::lever::Lever;
    let shutdown = with(Budget::default());
    shutdown.engage();
    shutdown.release();
    shutdown.engage();
    let report = shutdown.wait_blocking(20 * SECOND).unwrap();
    assert_eq!(report.cause, ShutdownCause::Lever);
}

#[test]
fn many_begin_it_once() {
    let shutdown = with(Budget::default());
    let log = Log::default();
    shutdown.register(log.callback("a")).unwrap();
    let first = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| shutdown.begin())).collect();
        threads.into_iter().map(|one| u32::from(one.join().unwrap())).sum::<u32>()
    });
    assert_eq!(first, 1);
    assert!(shutdown.wait_blocking(20 * SECOND).is_some());
    assert_eq!(log.all(), ["a"]);
}

#[test]
fn a_dropped_trigger_does_not_stop_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let shutdown = with(Budget::default());
    let hold = shutdown.lifecycle().hold("http");
    runtime.block_on(async {
        assert!(tokio::time::timeout(SHORT, shutdown.trigger()).await.is_err());
    });
    drop(hold);
    assert!(shutdown.wait_blocking(20 * SECOND).unwrap().is_clean());
}

#[test]
fn somebody_else_may_go_on_to_the_cleanup() {
    let shutdown = with(Budget::new(HOUR).lame_duck(HOUR / 2));
    let _hold = shutdown.lifecycle().hold("http");
    shutdown.begin();
    shutdown.lifecycle().advance(Phase::Cleanup, None);
    let report = shutdown.wait_blocking(20 * SECOND).expect("nothing to wait for");
    assert_eq!(report.held_by, ["http".into()]);
}

#[test]
fn what_goes_wrong_is_told_and_a_listener_that_panics_harms_nobody() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let shutdown = GracefulShutdown::builder("test")
        .observe(move |event: &Event<'_>| {
            if let EventKind::Supervised { what, detail, .. } = event.kind {
                sink.lock().unwrap().push(format!("{what} {detail}"));
            }
        })
        .observe(|_: &Event<'_>| panics_again())
        .build()
        .unwrap();
    shutdown.register(CleanupCallback::blocking("a", || Err("no"))).unwrap();
    let hangs = CleanupCallback::blocking("b", || park(HOUR)).timeout(SHORT);
    shutdown.register(hangs).unwrap();
    shutdown.trigger_blocking();
    // Observers have a thread of their own.
    let begun = Instant::now();
    while !told.lock().unwrap().iter().any(|told| told.starts_with("shutdown_phase_ended cleanup"))
    {
        assert!(begun.elapsed() < 20 * SECOND, "the last was never told");
        park(Duration::from_millis(5));
    }
    let told = told.lock().unwrap();
    assert_eq!(told[0], "shutdown_begun triggered, deadline in 28s");
    assert!(told.contains(&"callback_failed a: no".to_owned()), "{told:?}");
    assert!(told.contains(&"callback_timed_out b: left after 50ms".to_owned()), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_moved_clock_does_not_lengthen_it() {
    tokio::time::advance(HOUR).await;
    let shutdown = with(Budget::new(SHORT));
    let _hold = shutdown.lifecycle().hold("http");
    shutdown.begin();
    let report = shutdown.wait_blocking(20 * SECOND).expect("it has its own clock");
    assert!(report.took < 20 * SECOND, "{report}");
}

/// The phases are anybody's to move, but the end is when the callbacks have run.
#[test]
fn somebody_else_may_go_on_to_the_end_and_the_callbacks_are_waited_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for before in [true, false] {
        let shutdown = with(Budget::default());
        let slow = CleanupCallback::blocking("slow", || park(Duration::from_millis(300)));
        shutdown.register(slow).unwrap();
        let _hold = shutdown.lifecycle().hold("http");
        if before {
            shutdown.lifecycle().advance(Phase::Exited, None);
            assert!(shutdown.wait_blocking(SHORT).is_none(), "it has not even begun");
        }
        shutdown.begin();
        shutdown.lifecycle().advance(Phase::Exited, None);
        let report = if before {
            runtime.block_on(shutdown.wait())
        } else {
            shutdown.wait_blocking(20 * SECOND).expect("nothing to wait for")
        };
        assert_eq!(outcomes(&report), [("slow", CallbackOutcome::Ok)]);
    }
    // Nobody has begun it: whoever waits goes on to.
    let shutdown = with(Budget::default());
    shutdown.lifecycle().advance(Phase::Exited, None);
    let waiter = shutdown.clone();
    let thread = thread::spawn(move || runtime.block_on(waiter.wait()));
    park(SHORT);
    shutdown.begin();
    assert!(thread.join().unwrap().is_clean());
}

/// An executor may drop a task that it is to wake, and with it a scope.
#[test]
fn a_waker_may_ask_for_the_shutdown_that_wakes_it() {
    use std::task::{Context, Wake, Waker};

    struct Asks(GracefulShutdown, std::sync::mpsc::Sender<bool>);
    impl Wake for Asks {
        fn wake(self: Arc<Self>) {
            self.1.send(self.0.begin()).unwrap();
        }
    }
    for phase in [Phase::LameDuck, Phase::Exited] {
        let shutdown = with(Budget::default());
        let (told, heard) = std::sync::mpsc::channel();
        let waker = Waker::from(Arc::new(Asks(shutdown.clone(), told)));
        let life = shutdown.lifecycle().clone();
        let mut reached = Box::pin(life.reached(phase));
        assert!(reached.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let begins = shutdown.clone();
        thread::spawn(move || begins.begin());
        assert_eq!(heard.recv_timeout(5 * SECOND), Ok(false), "a deadlock at {phase:?}");
        assert!(shutdown.wait_blocking(20 * SECOND).is_some());
    }
}
