use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::clock;
use crate::observe::{Event, EventKind};
use crate::supervise::{Pulse, heartbeat::Heartbeat};

use super::*;

const LONG: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

// ---- the object ----------------------------------------------------------------------------------

fn quick(name: &'static str) -> WatchdogBuilder {
    Watchdog::builder(name).timeout(SECOND).check_interval(Duration::from_millis(20))
}

/// Pings until told to end.
fn pinging(pulse: Pulse) -> (Arc<AtomicBool>, std::thread::JoinHandle<()>) {
    let over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&over);
    let thread = std::thread::spawn(move || {
        while !ends.load(Ordering::Relaxed) {
            pulse.ping();
            clock::park(Duration::from_millis(5));
        }
    });
    (over, thread)
}

/// What it tells, without the particulars.
fn telling(told: mpsc::Sender<&'static str>) -> impl Fn(&Event<'_>) + Send + Sync + 'static {
    move |event: &Event<'_>| {
        if let EventKind::Supervised { what, .. } = event.kind {
            let _ = told.send(what);
        }
    }
}

/// A watchdog that stops to look, and does not say so, is worse than none.
#[test]
fn a_source_that_panics_is_one_that_does_not_change() {
    struct Panics(Arc<AtomicUsize>);
    impl crate::supervise::Progress for Panics {
        fn count(&self) -> u64 {
            self.0.fetch_add(1, Ordering::SeqCst);
            panic!("expected in this test")
        }
    }
    let (told, heard) = mpsc::channel();
    let asked = Arc::new(AtomicUsize::new(0));
    let source = Panics(Arc::clone(&asked));
    let dog = quick("panics").watch(source).observe(telling(told)).build();
    let dog = dog.unwrap();
    let begun = clock::now();
    dog.start().unwrap();
    assert_eq!(heard.recv_timeout(LONG), Ok("watchdog_blind"), "once");
    let next = || loop {
        match heard.recv_timeout(LONG) {
            Ok("observer_gap") => {}
            told => break told,
        }
    };
    assert_eq!(next(), Ok("frozen"));
    // At 0, 20, 60, 140, 300, 550, 800 ms, …: a hook that writes a backtrace does it no more often.
    let asked = asked.load(Ordering::SeqCst);
    let pause = |n| (Duration::from_millis(20) * (1_u32 << n)).min(SECOND / 4);
    let last: Duration = (0..asked - 1).map(pause).sum();
    assert!(clock::now().since(begun) >= last, "asked {asked} times");
    assert!(!dog.since_ping().is_zero());
}

/// It would be found frozen though it goes on, and whoever has mended it would wait.
#[tokio::test(start_paused = true)]
async fn a_source_that_has_panicked_is_asked_within_the_timeout_and_when_it_is_started_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let panics = move || -> u64 {
        count.fetch_add(1, Ordering::SeqCst);
        // Without the hook, hundreds of times.
        std::panic::resume_unwind(Box::new("expected in this test"))
    };
    for (timeout, pause) in [(secs(4.0), secs(1.0)), (secs(3600.0), secs(60.0))] {
        let (told, heard) = mpsc::channel();
        let check = Duration::from_millis(100);
        let dog = Watchdog::builder("panics").timeout(timeout).check_interval(check);
        let dog = dog.watch(panics.clone()).observe(telling(told)).build().unwrap();
        let (mut last, mut longest) = (clock::now(), Duration::ZERO);
        for _ in 0..3_000 {
            tokio::time::advance(check).await;
            let before = asked.load(Ordering::SeqCst);
            assert!(dog.since_ping().is_zero());
            if asked.load(Ordering::SeqCst) > before {
                longest = longest.max(clock::now().since(last));
                last = clock::now();
            }
        }
        assert_eq!(longest, pause, "of a timeout of {timeout:?}");
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), ["watchdog_blind"]);
        // The monitor goes by another clock, which has not come so far: it would not ask for minutes.
        let before = asked.load(Ordering::SeqCst);
        dog.start().unwrap();
        assert_eq!(heard.recv_timeout(LONG), Ok("watchdog_blind"), "once in each life");
        assert!(asked.load(Ordering::SeqCst) > before);
    }
}

/// It would be told of a watch that sees.
#[test]
fn a_look_that_ends_after_the_next_watch_has_begun_says_nothing_of_it() {
    let (told, heard) = mpsc::channel();
    let (enter, entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (first, released) = (AtomicBool::new(true), std::sync::Mutex::new(released));
    let source = move || -> u64 {
        if !first.swap(false, Ordering::SeqCst) {
            return 1;
        }
        enter.send(()).unwrap();
        let _ = released.lock().unwrap().recv();
        std::panic::resume_unwind(Box::new("expected in this test"))
    };
    let dog = quick("late").watch(source).observe(telling(told)).build().unwrap();
    let late = std::thread::spawn({
        let dog = dog.clone();
        move || dog.since_ping()
    });
    entered.recv_timeout(LONG).unwrap();
    dog.start().unwrap();
    release.send(()).unwrap();
    late.join().unwrap();
    assert!(!heard.try_iter().any(|told| told == "watchdog_blind"));
}

/// A heartbeat's file, which can be made one that nobody can read.
#[cfg(unix)]
struct Beaten {
    directory: std::path::PathBuf,
    path: std::path::PathBuf,
    heart: Heartbeat,
}

#[cfg(unix)]
impl Beaten {
    fn new(name: &str) -> Self {
        let name = format!("buttress-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("beat.json");
        let heart = Heartbeat::builder("us").file(&path).build().unwrap();
        heart.beat().unwrap();
        Self { directory, path, heart }
    }

    /// Which looks often, and is in no hurry.
    fn dog(&self) -> WatchdogBuilder {
        Watchdog::from_state_file("file", &self.path)
            .timeout(LONG * 10)
            .check_interval(Duration::from_millis(10))
    }

    /// When the dog has seen the beat.
    fn hide_from(&self, dog: &Watchdog) {
        let begun = clock::now();
        while dog.since_ping().is_zero() {
            assert!(clock::now().since(begun) < LONG, "it has not seen the beat");
            clock::park(Duration::from_millis(5));
        }
        // Opening it fails, whoever does: it names itself.
        let next = self.directory.join("next");
        std::os::unix::fs::symlink(&self.path, &next).unwrap();
        std::fs::rename(&next, &self.path).unwrap();
    }
}

#[cfg(unix)]
impl Drop for Beaten {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_read_for_a_moment_is_no_freeze() {
    let file = Beaten::new("unread");
    let (told, heard) = mpsc::channel();
    let dog = file.dog().observe(telling(told)).build().unwrap();
    dog.start().unwrap();
    file.hide_from(&dog);
    let first = loop {
        match heard.recv_timeout(LONG) {
            Ok("observer_gap") => {}
            told => break told,
        }
    };
    assert_eq!(first, Ok("watchdog_blind"));
    file.heart.beat().unwrap();
    clock::park(Duration::from_millis(100));
    assert_eq!(dog.stats().timeouts_triggered, 0);
}

/// The file tells nothing any more, and need not.
#[cfg(target_os = "linux")]
#[test]
fn the_end_of_a_process_is_seen_though_its_file_cannot_be_read() {
    let file = Beaten::new("unread-end");
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let identity = crate::supervise::ProcessIdentity::of(child.id()).unwrap();
    let text = std::fs::read_to_string(&file.path).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
    (state["pid"], state["started"]) = (child.id().into(), identity.started.into());
    std::fs::write(&file.path, state.to_string()).unwrap();
    let (told, heard) = mpsc::channel();
    let causes = told.clone();
    let dog = file
        .dog()
        .on_timeout(move |freeze| causes.send(freeze.cause.as_str()).unwrap())
        .observe(telling(told))
        .build()
        .unwrap();
    dog.start().unwrap();
    file.hide_from(&dog);
    let hears = |what| while heard.recv_timeout(LONG).expect(what) != what {};
    hears("watchdog_blind");
    child.kill().unwrap();
    child.wait().unwrap();
    hears("dead");
}

#[test]
fn callbacks_hear_of_a_freeze_and_of_its_end() {
    let (told, heard) = mpsc::channel();
    let (alert, recovered, events) = (told.clone(), told.clone(), told.clone());
    let dog = quick("callbacks")
        .on_timeout_async(move |freeze| {
            let told = told.clone();
            async move { told.send(format!("timeout {}", freeze.cause.as_str())).unwrap() }
        })
        .on_alert(move |told| alert.send(told.channel.to_owned()).unwrap())
        .on_recovered(move |after| {
            assert!(after >= SECOND, "{after:?}");
            recovered.send("recovered".into()).unwrap();
        })
        .observe(move |event: &Event<'_>| {
            if let EventKind::Supervised { what: "frozen", .. } = event.kind {
                events.send("event".into()).unwrap();
            }
        })
        .build()
        .unwrap();
    let guard = dog.start_scoped().unwrap();
    let next = || heard.recv_timeout(LONG).unwrap();
    for freezes in 1..=2 {
        // The event comes from another thread than the callbacks.
        let mut told = vec![next(), next(), next()];
        told.retain(|told| told != "event");
        assert_eq!(told, ["watchdog", "timeout silent"]);
        assert!(dog.is_triggered() && dog.since_ping() >= SECOND);
        assert!(dog.try_ping().is_err(), "the loop that was frozen learns of it");
        assert_eq!(next(), "recovered");
        assert!(dog.try_ping().is_ok());
        assert_eq!(dog.stats().timeouts_triggered, freezes);
    }
    drop(guard);
    assert!(!dog.is_running());
    clock::park(SECOND + SECOND / 2);
    assert!(heard.try_recv().is_err(), "nobody watches any more");
    assert_eq!(dog.stats().uptime, Duration::ZERO);
}

#[test]
fn pings_keep_it_quiet_and_other_progress_can_be_watched() {
    let worker = Pulse::new();
    let dog = quick("progress").watch(worker.clone()).build().unwrap();
    dog.start().unwrap();
    assert!(matches!(dog.start(), Err(WatchdogError::AlreadyRunning)));
    let (over, thread) = pinging(worker);
    clock::park(secs(1.6));
    assert_eq!(dog.stats().timeouts_triggered, 0);
    over.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    dog.ping();
    let begun = clock::now();
    while !dog.is_triggered() {
        assert!(clock::now().since(begun) < LONG);
        clock::park(Duration::from_millis(5));
    }
    dog.stop();
    dog.reset();
    assert!(!dog.is_triggered());
}

#[tokio::test]
async fn a_guarded_future_is_dropped_with_an_error_when_it_freezes() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let held = Dropped(Arc::clone(&dropped));
    let dog = quick("guarded").build().unwrap();
    let future = async move {
        std::future::pending::<()>().await;
        drop(held);
    };
    let error = dog.guard(future).unwrap().await.unwrap_err();
    assert!(error.inactive() >= SECOND);
    assert_eq!(error.freeze().cause, FreezeCause::Silent);
    assert!(dropped.load(Ordering::Relaxed));
    assert!(!dog.is_running(), "it was started for the future");
    assert_eq!(dog.guard(async { 7 }).unwrap().await, Ok(7));
    // One that blocks: the result comes too late to be one.
    let late = dog.guard(async { clock::park(secs(1.5)) }).unwrap().await;
    assert!(late.is_err());
    assert!(dog.scope(|_| clock::park(secs(1.5))).is_err());
    assert_eq!(dog.scope(|dog| dog.try_ping().is_ok()), Ok(true));
}

#[test]
fn dropping_the_last_handle_ends_the_watch() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&calls);
    let count = move |_| {
        counts.fetch_add(1, Ordering::Relaxed);
    };
    let dog = quick("dropped").on_timeout(count).build().unwrap();
    dog.start().unwrap();
    drop(dog.clone());
    assert!(dog.is_running());
    drop(dog);
    clock::park(secs(1.5));
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    assert_eq!(Arc::strong_count(&calls), 1, "what the callback held has been let go");
}

#[test]
fn a_source_that_panics_harms_no_other_watchdog() {
    let broken = quick("broken").watch(|| panic!("expected in this test")).build().unwrap();
    broken.start().unwrap();
    let dog = quick("whole").build().unwrap();
    assert!(dog.scope(|_| clock::park(secs(1.5))).is_err());
}

#[test]
fn every_bad_setting_is_refused_by_name() {
    let ms = Duration::from_millis;
    let ping = || Watchdog::builder("bad");
    let file = || Watchdog::from_state_file("bad", "beat.json");
    for (field, built) in [
        ("timeout", ping().timeout(ms(999)).build()),
        ("timeout", ping().timeout(ms(3_600_001)).build()),
        ("timeout", file().max_age(ms(1)).build()),
        ("check_interval", ping().check_interval(ms(9)).build()),
        ("startup_grace", ping().startup_grace(ms(1)).build()),
        ("startup_grace", file().startup_grace(ms(3_600_001)).build()),
        ("callback_timeout", ping().callback_timeout(ms(0)).build()),
        ("file", Watchdog::from_state_file("bad", "..").build()),
    ] {
        assert_eq!(built.unwrap_err().field(), field);
    }
    assert_eq!(file().build().unwrap().check_interval(), ms(15_000), "half the age");
    assert_eq!(ping().timeout(ms(2000)).build().unwrap().check_interval(), ms(500));
}

// ---- a state file --------------------------------------------------------------------------------

#[test]
fn a_state_file_that_is_not_renewed_is_told_in_the_words_of_the_original() {
    let path = std::env::temp_dir().join(format!("buttress-dog-{}", std::process::id()));
    let heart = Heartbeat::builder("file").file(&path).build().unwrap();
    let (told, heard) = mpsc::channel();
    let alerts = told.clone();
    let dog = Watchdog::from_state_file("file", &path)
        .max_age(SECOND)
        .check_interval(Duration::from_millis(50))
        .on_alert(move |alert| {
            assert_eq!(alert.get("max_age"), Some("1"));
            assert_eq!(alert.get("cause"), Some("silent"));
            alerts.send(alert.message).unwrap();
        })
        .on_recovered(move |_| told.send("recovered".into()).unwrap())
        .build()
        .unwrap();
    heart.beat().unwrap();
    dog.start().unwrap();
    let next = || heard.recv_timeout(LONG).unwrap();
    let stale = format!("Heartbeat state file is stale: {}", path.display());
    assert_eq!(next(), stale);
    heart.beat().unwrap();
    assert_eq!(next(), "recovered");
    std::fs::remove_file(&path).unwrap();
    // `cause` is missing now, which the callback does not expect; it panics, and nothing else happens.
    let begun = clock::now();
    while !dog.is_triggered() {
        assert!(clock::now().since(begun) < LONG);
        clock::park(Duration::from_millis(5));
    }
    dog.stop();
}

// ---- one piece of work ---------------------------------------------------------------------------

#[tokio::test]
async fn a_blocking_poll_is_told_on_time_and_its_result_is_late() {
    let (told, heard) = mpsc::channel();
    let begun = clock::now();
    let work = async {
        clock::park(secs(0.6));
        7
    };
    let on_timeout = move || told.send(clock::now().since(begun)).unwrap();
    let over = with_watchdog(work, secs(0.1), on_timeout).await.unwrap_err();
    assert_eq!(over.late, Some(7));
    let fired = heard.recv().unwrap();
    assert!(fired >= secs(0.1) && fired < secs(0.55), "while it blocked: {fired:?}");
    assert_eq!(over.or_late(), Ok(7));
}

#[tokio::test]
async fn work_in_time_tells_nobody_and_a_hanging_callback_cannot_keep_the_error() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&calls);
    let count = move || {
        counts.fetch_add(1, Ordering::Relaxed);
    };
    assert_eq!(with_watchdog(async { 7 }, LONG, count.clone()).await, Ok(7));
    drop(with_watchdog(std::future::pending::<()>(), secs(0.05), count.clone()));
    {
        let mut given_up =
            Box::pin(with_watchdog(std::future::pending::<()>(), secs(0.05), count.clone()));
        assert!(futures_util::poll!(&mut given_up).is_pending());
    }
    let never = std::future::pending::<()>();
    assert!(
        with_watchdog(never, Duration::ZERO, || panic!("expected in this test")).await.is_err()
    );
    clock::park(secs(0.2));
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    assert_eq!(Arc::strong_count(&calls), 1 + 1, "ours and `count`'s");
}

/// An executor may drop a task that it is to wake, and with it the guarded future.
#[test]
fn a_waker_may_drop_what_it_wakes() {
    use std::task::{Context, Wake, Waker};

    type Task = std::pin::Pin<Box<Guarded<std::future::Pending<()>>>>;
    struct Drops(std::sync::Mutex<Option<Task>>, mpsc::Sender<()>);
    impl Wake for Drops {
        fn wake(self: Arc<Self>) {
            let task = self.0.lock().unwrap().take();
            drop(task);
            let _ = self.1.send(());
        }
    }
    let dog = Watchdog::builder("test").timeout(SECOND).check_interval(secs(0.02)).build().unwrap();
    dog.start().unwrap();
    let (told, woken) = mpsc::channel();
    let drops = Arc::new(Drops(std::sync::Mutex::new(None), told));
    let mut task = Box::pin(dog.guard(std::future::pending()).unwrap());
    let waker = Waker::from(Arc::clone(&drops));
    assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    *drops.0.lock().unwrap() = Some(task);
    woken.recv_timeout(LONG).expect("the monitor is in a deadlock");
}

/// The watch ends with what is guarded, and nobody looks any more.
#[tokio::test]
async fn a_callback_that_hangs_does_not_keep_the_next_from_being_called_when_the_watch_is_over() {
    let (told, heard) = mpsc::channel();
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let dog = Watchdog::builder("test")
        .timeout(SECOND)
        .callback_timeout(secs(0.05))
        .on_alert(move |_| assert!(held.lock().unwrap().recv().is_err()))
        .on_timeout(move |_| told.send(()).unwrap())
        .build()
        .unwrap();
    dog.guard(std::future::pending::<()>()).unwrap().await.unwrap_err();
    drop(dog);
    heard.recv_timeout(LONG).expect("it was never called");
    drop(release);
}

#[test]
fn what_is_called_when_it_is_too_late_may_panic_again_and_again() {
    let (end, ended) = mpsc::channel::<()>();
    let work = move || ended.recv().is_err();
    let late = with_watchdog_blocking(work, Duration::ZERO, || crate::caught::panics_again());
    assert!(late.is_err());
    drop(end);
}
