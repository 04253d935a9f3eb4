//! The object: faults without tower, limits, switches.

use std::io;
use std::pin::pin;
use std::time::Duration;

use buttress::conditioner::{
    Call, Conditioner, Fault, FaultKind, Injected, Latency, Rule, Schedule,
};
use buttress::observe::{Event, EventKind};
use buttress::{AnyError, Classify, FailureClass, Lever, Outcome};
use futures_util::{FutureExt, poll};
use tokio::time::{Instant, advance};

use super::{always, armed, ms};

fn second() -> Fault {
    Fault::latency(Latency::fixed(ms(1000)).unwrap())
}

#[tokio::test(start_paused = true)]
async fn loss_then_latency_and_nothing_after_a_filter() {
    let network = Conditioner::network(ms(50), ms(20), 0.5, Some("/pay")).unwrap();
    let (mut lost, mut late) = (0, 0);
    for id in 0..1000 {
        let start = Instant::now();
        match network.apply(&Call::new().name("/pay/now").id(id)).await {
            Ok(applied) => {
                assert_eq!(applied.injected().unwrap().fault(), FaultKind::Latency);
                let took = start.elapsed();
                // Tokio's timer counts whole milliseconds.
                assert!(took >= ms(30) && took <= ms(71), "{took:?}");
                late += 1;
            }
            Err(_) => {
                assert_eq!(start.elapsed(), Duration::ZERO);
                lost += 1;
            }
        }
        assert!(
            network.apply(&Call::new().name("/home").id(id)).await.unwrap().injected().is_none()
        );
    }
    assert!((400..600).contains(&lost) && lost + late == 1000, "{lost}");
    let stats = network.stats();
    assert_eq!((stats.seen, stats.injected), (2000, 1000));
    assert_eq!((stats.rules[0].matched, stats.rules[0].injected), (1000, lost));
    assert_eq!((stats.rules[1].matched, stats.rules[1].injected), (1000, late));
}

#[tokio::test(start_paused = true)]
async fn it_does_nothing_until_armed_and_after_disarmed() {
    let lossy = Conditioner::builder("test").rule(Rule::new(Fault::loss())).build().unwrap();
    assert!(lossy.apply(&Call::new()).await.is_ok());
    lossy.arm().unwrap();
    assert!(lossy.apply(&Call::new()).await.is_err());
    lossy.disarm();
    assert!(lossy.apply(&Call::new()).await.is_ok());
    assert_eq!(lossy.stats().seen, 1);
    lossy.kill();
    assert!(lossy.arm().is_err());
    assert!(!lossy.is_injecting());
}

#[tokio::test(start_paused = true)]
async fn several_budgets_hold_it_back_until_the_last_lets_go() {
    let lossy = always(Fault::loss());
    lossy.engage();
    lossy.engage();
    lossy.release();
    assert!(!lossy.is_injecting());
    lossy.release();
    assert!(lossy.is_injecting());
    lossy.release();
    assert!(lossy.is_injecting(), "one release too many changes nothing");
    // Held back and disarmed are apart.
    lossy.engage();
    lossy.disarm();
    lossy.release();
    assert!(!lossy.is_injecting());
    lossy.engage();
    lossy.arm().unwrap();
    assert!(!lossy.is_injecting());
    lossy.release();
    assert!(lossy.is_injecting());
}

/// All the ways in which it is turned off end what waits; nobody has to wait for the time to pass.
#[tokio::test(start_paused = true)]
async fn turning_it_off_ends_the_waits_under_way() {
    type Off = fn(&Conditioner);
    let engage: Off = |conditioner| conditioner.engage();
    for (name, off) in
        [("disarm", Conditioner::disarm as Off), ("kill", Conditioner::kill), ("engage", engage)]
    {
        let slow = always(second());
        let silent = always(Fault::hang());
        let call = Call::new();
        let mut delayed = pin!(slow.apply(&call));
        let mut hung = pin!(silent.apply(&call));
        assert!(poll!(delayed.as_mut()).is_pending());
        assert!(poll!(hung.as_mut()).is_pending());
        advance(ms(900)).await;
        assert!(poll!(delayed.as_mut()).is_pending());
        assert!(poll!(hung.as_mut()).is_pending());
        off(&slow);
        off(&silent);
        assert!(delayed.now_or_never().expect(name).is_ok());
        let ended = hung.now_or_never().expect(name).unwrap_err();
        assert_eq!(Injected::find(&ended).unwrap().fault(), FaultKind::Hang);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hang_with_an_end_ends_as_a_timeout() {
    let silent = always(Fault::hang_for(ms(300)));
    let start = Instant::now();
    let why = silent.apply(&Call::new()).await.unwrap_err();
    assert_eq!(start.elapsed(), ms(300));
    let source = std::error::Error::source(&why).unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.kind(), io::ErrorKind::TimedOut);
    let mut slept = vec![];
    assert!(silent.apply_blocking_with(|time| slept.push(time), &Call::new()).is_err());
    assert_eq!(slept, [ms(300)]);
}

#[tokio::test(start_paused = true)]
async fn places_are_given_back_however_a_call_ends() {
    let one = armed(Rule::new(second()).max_active(1));
    let call = Call::new();
    {
        let mut first = pin!(one.apply(&call));
        assert!(poll!(first.as_mut()).is_pending());
        assert_eq!(one.stats().rules[0].active, 1);
        let second = one.apply(&call).now_or_never().expect("left alone").unwrap();
        assert!(second.injected().is_none());
        assert_eq!(one.stats().rules[0].skipped_active, 1);
    }
    assert_eq!(one.stats().rules[0].active, 0, "dropped while it waited");
    let applied = one.apply(&call).await.unwrap();
    assert_eq!(one.stats().rules[0].active, 1, "until its caller is done");
    drop(applied);
    assert_eq!(one.stats().rules[0].active, 0);
    // A panic of the code that makes the error gives the place back too, and leaves all usable.
    let bad = armed(Rule::new(Fault::error_with(|_| panic!("on purpose"))).max_active(1));
    for _ in 0..3 {
        let result = std::panic::AssertUnwindSafe(bad.apply(&call)).catch_unwind().await;
        assert!(result.is_err());
        assert_eq!(bad.stats().rules[0].active, 0);
    }
}

#[test]
fn the_cap_bounds_every_stretch_of_calls() {
    for share in [0.001, 0.05, 0.5] {
        let lossy = Conditioner::builder("test")
            .rule(Rule::new(Fault::loss()).share(0.9))
            .max_share(share)
            .build()
            .unwrap();
        lossy.arm().unwrap();
        let touched: Vec<u64> =
            (0..20_000).map(|_| u64::from(lossy.apply_blocking(&Call::new()).is_err())).collect();
        for window in [100, 1000, 10_000, 20_000] {
            let most = window as f64 * share + 10.0;
            for stretch in touched.windows(window) {
                assert!(stretch.iter().sum::<u64>() as f64 <= most, "{share} {window}");
            }
        }
        let total = touched.iter().sum::<u64>();
        assert!(total as f64 >= 20_000.0 * share * 0.9 - 11.0, "{share}: only {total}");
        let rule = &lossy.stats().rules[0];
        assert_eq!(rule.injected, total);
        assert!(rule.skipped_cap > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_schedule_runs_from_the_moment_of_arming() {
    let s = Duration::from_secs;
    let schedule = Schedule::always().start(s(10)).end(s(20)).ramp(s(4)).period(s(60));
    let lossy = Conditioner::builder("test")
        .rule(Rule::new(Fault::loss()).during(schedule))
        .build()
        .unwrap();
    advance(s(1000)).await;
    lossy.arm().unwrap();
    let lost = || (0..400).filter(|id| lossy.apply_blocking(&Call::new().id(*id)).is_err()).count();
    assert_eq!(lost(), 0);
    advance(s(12)).await;
    let half = lost();
    assert!((150..250).contains(&half), "half of the ramp: {half}");
    lossy.arm().unwrap();
    assert_eq!(lost(), half, "arming again does not start over");
    advance(s(3)).await;
    assert_eq!(lost(), 400);
    advance(s(5)).await;
    assert_eq!(lost(), 0);
    advance(s(55)).await;
    assert_eq!(lost(), 400, "the next period");
    lossy.disarm();
    lossy.arm().unwrap();
    assert_eq!(lost(), 0, "a new start");
}

#[test]
fn an_injected_error_is_judged_as_the_error_it_plays() {
    let judge = |fault: Fault| {
        let why = always(fault).apply_blocking_with(|_| {}, &Call::new()).unwrap_err();
        Classify::<(), (), buttress::Rejection>::finish(&AnyError, (), Err(&why)).outcome
    };
    let transient = Outcome::Failure(FailureClass::Transient);
    let permanent = Outcome::Failure(FailureClass::Permanent);
    assert_eq!(judge(Fault::loss()), transient);
    assert_eq!(judge(Fault::hang_for(ms(1))), transient);
    assert_eq!(judge(Fault::error(io::ErrorKind::TimedOut, "late")), transient);
    assert_eq!(judge(Fault::error(io::ErrorKind::PermissionDenied, "no")), permanent);
    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    assert_eq!(judge(Fault::error_with(move |_| denied().into())), permanent);
}

#[test]
fn rules_are_first_come_first_served_unless_all_act() {
    let rules = || {
        [
            Rule::new(Fault::latency(Latency::fixed(ms(5)).unwrap())),
            Rule::new(Fault::latency(Latency::fixed(ms(7)).unwrap())),
            Rule::new(Fault::error(io::ErrorKind::Other, "no")),
        ]
    };
    let run = |conditioner: Conditioner| {
        conditioner.arm().unwrap();
        let mut slept = vec![];
        let result = conditioner.apply_blocking_with(|time| slept.push(time), &Call::new());
        (slept, result.is_ok(), conditioner.stats().rules.iter().map(|r| r.injected).sum::<u64>())
    };
    let first = Conditioner::builder("test").rules(rules()).build().unwrap();
    assert_eq!(run(first), (vec![ms(5)], true, 1));
    let all = Conditioner::builder("test").rules(rules()).match_all().build().unwrap();
    assert_eq!(run(all), (vec![ms(12)], false, 3), "a slow error");
    let [a, b, _] = rules();
    let lossy = Conditioner::builder("test").rules([a, b, Rule::new(Fault::loss())]).match_all();
    assert_eq!(run(lossy.build().unwrap()), (vec![], false, 1), "what is lost is not late");
    // What is not made has no reply to lose, and one error at most; whatever the order.
    let [a, b, c] = rules();
    let mixed = Conditioner::builder("test").rules([
        Rule::new(Fault::reply_lost()),
        a,
        c,
        b,
        Rule::new(Fault::status(500)),
    ]);
    let mixed = mixed.match_all().build().unwrap();
    assert_eq!(run(mixed.clone()), (vec![ms(12)], false, 3));
    let counts: Vec<_> = mixed.stats().rules.iter().map(|r| (r.matched, r.injected)).collect();
    assert_eq!(counts, [(1, 0), (1, 1), (1, 1), (1, 1), (1, 0)]);
}

#[test]
fn what_is_injected_is_told() {
    use std::sync::{Arc, Mutex};
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&log);
    let lossy = Conditioner::builder("payments")
        .rule(Rule::new(Fault::status(500)).share(0.0))
        .rule(Rule::new(Fault::loss()))
        .observe(move |event: &Event<'_>| {
            let EventKind::Injected { rule, fault } = event.kind else { return };
            sink.lock().unwrap().push((event.layer.as_str(), event.name.as_str(), rule, fault));
        })
        .build()
        .unwrap();
    lossy.arm().unwrap();
    assert!(lossy.apply_blocking(&Call::new()).is_err());
    assert_eq!(*log.lock().unwrap(), [("conditioner", "payments", 1, "loss")]);
}

#[test]
fn test_traffic_asks_for_faults_with_a_secret() {
    let opted = Conditioner::builder("test")
        .rule(Rule::new(Fault::loss()))
        .opt_in("x-fault-token", "correct horse")
        .build()
        .unwrap();
    opted.arm().unwrap();
    let lost =
        |headers: &[(&str, &str)]| opted.apply_blocking(&Call::new().headers(headers)).is_err();
    assert!(!lost(&[]));
    assert!(!lost(&[("x-fault-token", "correct house")]));
    assert!(!lost(&[("x-fault-token", "correct horse ")]));
    assert!(!lost(&[("x-fault-token", "")]));
    assert!(lost(&[("X-Fault-Token", "correct horse")]));
    assert!(!format!("{opted:?}").contains("horse"));
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_count_what_is_injected() {
    use buttress::observe::Metrics;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let lossy = Conditioner::builder("m").rule(Rule::new(Fault::loss())).observe(Metrics);
        let lossy = lossy.build().unwrap();
        lossy.arm().unwrap();
        for _ in 0..3 {
            assert!(lossy.apply_blocking(&Call::new()).is_err());
        }
    });
    let counted = snapshotter.snapshot().into_vec().into_iter().find_map(|(key, _, _, value)| {
        let key = key.key();
        let labels: Vec<_> =
            key.labels().map(|l| (l.key().to_owned(), l.value().to_owned())).collect();
        (key.name() == "buttress.injections").then_some((labels, value))
    });
    let (labels, value) = counted.unwrap();
    assert!(matches!(value, DebugValue::Counter(3)), "{value:?}");
    for expected in [("layer", "conditioner"), ("name", "m"), ("rule", "0"), ("fault", "loss")] {
        let found = labels.iter().any(|(key, value)| (key.as_str(), value.as_str()) == expected);
        assert!(found, "{expected:?} in {labels:?}");
    }
}

#[test]
fn objects_services_and_futures_fit_where_servers_put_them() {
    use tower::{Layer, Service, service_fn};
    fn fits<T: Clone + Send + Sync + 'static>(_: &T) {}
    fn sends<T: Send + 'static>(_: &T) {}
    let lossy = always(Fault::hang());
    let mut service = lossy.layer().layer(service_fn(|()| async { Ok::<_, io::Error>(()) }));
    fits(&lossy);
    fits(&lossy.layer());
    fits(&service);
    sends(&service.call(()));
    fn sends_lent<T: Send>(_: T) {}
    sends_lent(lossy.apply(&Call::new().name("lent")));
}
