//! Every interleaving of calls that choose, end and fail while endpoints come, go, are ejected and come back: none counts a
//! call that is over, each probe is one call's, and who is out is out once.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use loom::thread;
use tower::{Service, service_fn};

use super::Endpoints;
use super::config::Config;
use super::core::{Asked, Change, Core, End, Why};
use super::health::Health;
use crate::clock::Tick;
use crate::managed::Home;

/// All interleavings with up to so many switches where none is forced.
fn model_within(switches: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(switches);
    model.check(f);
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    model_within(3, f);
}

const FIRST: Asked = Asked { attempt: 1, call: 0 };
const START: Tick = Tick(1 << 50);
const SECOND: Duration = Duration::from_secs(1);

struct Pool {
    core: Core,
    all: Vec<Arc<Health>>,
}

impl Pool {
    fn new(count: usize, config: Config) -> Arc<Self> {
        let core = Core::new(config, 7);
        let all = (0..count).map(|n| core.insert(n.to_string().into(), START)).collect();
        Arc::new(Self { core, all })
    }

    /// Each has answered once.
    fn asked(count: usize, config: Config) -> Arc<Self> {
        let pool = Self::new(count, config);
        for _ in 0..count {
            let place = pool.pick(START);
            assert!(pool.end(place, START, End::Success).is_none());
        }
        pool
    }

    fn pick(&self, now: Tick) -> usize {
        self.core.pick(self.all.len(), |n| &self.all[n], FIRST, now).unwrap()
    }

    fn end(&self, place: usize, started: Tick, end: End) -> Option<Change> {
        self.core.end(&self.all[place], started, end, started.after(Duration::from_micros(100)))
    }

    /// A call there, wherever the choice would have gone.
    fn force(&self, place: usize, end: End) -> Option<Change> {
        self.all[place].in_flight.fetch_add(1, Relaxed);
        self.end(place, START, end)
    }

    fn out(&self) -> usize {
        self.core.all().iter().filter(|one| one.is_out()).count()
    }

    /// What is counted of those who are out is what they are.
    fn is_sound(&self, max_ejected: f64) {
        let most = (max_ejected * self.core.all().len() as f64).floor() as usize;
        assert_eq!(self.core.in_panic(), self.out() > most);
        assert_eq!(self.core.next_probe().is_some(), self.out() > 0);
        let gone = self.core.ejections.load(Relaxed) - self.core.returns.load(Relaxed);
        assert!(self.all.len() > self.core.all().len() || gone == self.out() as u64);
        assert!(self.all.iter().all(|one| one.in_flight.load(Relaxed) == 0));
    }
}

fn one_failure() -> Config {
    Config { failures_in_row: 1, ..Config::default() }
}

fn both<T: 'static>(
    pool: &Arc<Pool>,
    each: impl Fn(&Pool, usize) -> T + Copy + 'static,
    meanwhile: impl FnOnce(&Pool),
) -> [T; 2] {
    let threads = [0, 1].map(|n| {
        let pool = Arc::clone(pool);
        thread::spawn(move || each(&pool, n))
    });
    meanwhile(pool);
    threads.map(|thread| thread.join().unwrap())
}

/// However they end.
#[test]
fn loom_no_call_that_is_over_is_in_flight() {
    for ends in [[End::Success, End::Failure], [End::Cancelled, End::Superseded]] {
        model_within(1, move || {
            let pool = Pool::asked(2, one_failure());
            let each = move |pool: &Pool, n: usize| {
                let place = pool.pick(START);
                assert!(pool.all[place].in_flight.load(Relaxed) > 0);
                pool.end(place, START, ends[n]);
            };
            both(&pool, each, |_| ());
            pool.is_sound(0.5);
            let said = pool.all.iter().map(|one| one.calls.load(Relaxed)).sum::<u64>() - 2;
            assert_eq!(said, if ends[0] == End::Success { 2 } else { 0 });
        });
    }
}

/// Its endpoint goes meanwhile.
#[test]
fn loom_a_call_of_one_that_goes_is_over_all_the_same() {
    for end in [End::Success, End::Failure, End::Cancelled] {
        model_within(2, move || {
            let pool = Pool::asked(2, one_failure());
            let each = move |pool: &Pool, n: usize| match n {
                0 => {
                    let place = pool.pick(START);
                    pool.end(place, START, end);
                }
                _ => pool.core.remove(&pool.all[0]),
            };
            both(&pool, each, |_| ());
            pool.is_sound(0.5);
        });
    }
}

/// Two fail at the same time, of which one may be out: none is left out then, and it is known who has failed.
#[test]
fn loom_no_more_are_left_out_than_may_be() {
    model(|| {
        let pool = Pool::asked(3, one_failure());
        let told = both(&pool, |pool, n| pool.force(n, End::Failure), |_| ());
        assert!(told.iter().all(|change| change.is_some_and(|change| change.out)));
        assert_eq!(pool.out(), 2);
        pool.is_sound(0.5);
        assert!(pool.core.in_panic());
        // Another comes: that are four, of which two may be out.
        pool.core.insert("3".into(), START);
        assert!(!pool.core.in_panic());
    });
}

#[test]
fn loom_one_that_fails_twice_at_once_is_ejected_once() {
    model_within(2, || {
        let pool = Pool::asked(2, one_failure());
        let told = both(&pool, |pool, _| pool.force(0, End::Failure), |_| ());
        assert_eq!(told.iter().flatten().count(), 1, "{told:?}");
        assert_eq!(pool.core.ejections.load(Relaxed), 1);
        pool.is_sound(0.5);
    });
}

/// Failures in a row are all counted, whichever thread they end on.
#[test]
fn loom_the_last_of_so_many_failures_ejects() {
    model(|| {
        let pool = Pool::asked(2, Config::default());
        assert_eq!(pool.force(0, End::Failure), None);
        let told = both(&pool, |pool, _| pool.force(0, End::Failure), |_| ());
        let why: Vec<_> = told.iter().flatten().map(|change| change.why).collect();
        assert_eq!(why, [Why::InRow(3)]);
        pool.is_sound(0.5);
    });
}

/// Other settings at the moment in which two fail: what is left out is what they allow, whoever comes last.
#[test]
fn loom_another_share_beside_failures() {
    for share in [0.0, 0.7] {
        model_within(2, move || {
            let pool = Pool::asked(3, one_failure());
            let config = Config { max_ejected: share, ..one_failure() };
            both(
                &pool,
                |pool, n| pool.force(n, End::Failure),
                |pool| pool.core.reconfigure(config, START),
            );
            pool.is_sound(share);
        });
    }
}

#[test]
fn loom_a_probe_is_one_calls() {
    model(|| {
        let pool = Pool::asked(2, one_failure());
        assert!(pool.force(0, End::Failure).is_some());
        let later = START.after(SECOND * 2);
        let mut went = both(&pool, move |pool, _| pool.pick(later), |_| ());
        went.sort_unstable();
        assert_eq!(went, [0, 1], "one probes, the other does not go there");
        assert_eq!(pool.core.probes.load(Relaxed), 1);
        // It is answered while the other call fails: one comes back, one goes.
        let ends = [End::Success, End::Failure];
        let told = both(&pool, move |pool, n| pool.end(n, later, ends[n]), |_| ());
        assert!(told[0].is_some_and(|change| !change.out), "{told:?}");
        assert!(told[1].is_some_and(|change| change.out), "{told:?}");
        pool.is_sound(0.5);
        assert!(!pool.all[0].is_out());
    });
}

/// A call from before it was ejected fails at the moment of its return: that is one failure, not one after all that there were.
#[test]
fn loom_who_comes_back_is_not_ejected_for_failures_of_before() {
    model(|| {
        let pool = Pool::asked(2, Config::default());
        for _ in 0..4 {
            pool.force(0, End::Failure);
        }
        pool.all[0].in_flight.fetch_add(1, Relaxed);
        let later = START.after(SECOND * 2);
        let place = pool.pick(later);
        let each = move |pool: &Pool, n: usize| match n {
            0 => pool.end(place, later, End::Success),
            _ => pool.end(0, START, End::Failure),
        };
        let told = both(&pool, each, |_| ());
        assert!(told[0].is_some_and(|change| !change.out), "{told:?}");
        assert_eq!(told[1], None);
        assert!(!pool.all[0].is_out());
        pool.is_sound(0.5);
    });
}

/// By an answer and by command at once.
#[test]
fn loom_who_comes_back_comes_back_once() {
    model(|| {
        let pool = Pool::asked(2, one_failure());
        assert!(pool.force(0, End::Failure).is_some());
        let later = START.after(SECOND * 2);
        assert_eq!(pool.pick(later), 0);
        let each = move |pool: &Pool, n: usize| match n {
            0 => pool.end(0, later, End::Success),
            _ => pool.core.put_back(&pool.all[0], Why::Operator, later),
        };
        let told = both(&pool, each, |_| ());
        assert_eq!(told.iter().flatten().count(), 1, "{told:?}");
        assert_eq!((pool.core.returns.load(Relaxed), pool.out()), (1, 0));
        pool.is_sound(0.5);
    });
}

/// It goes while it is ejected and while its probe is answered: nothing is left that would be probed.
#[test]
fn loom_one_that_goes_leaves_no_probe() {
    for end in [End::Failure, End::Success] {
        model(move || {
            let pool = Pool::asked(2, one_failure());
            let started = if end == End::Success {
                assert!(pool.force(0, End::Failure).is_some());
                START.after(SECOND * 2)
            } else {
                START
            };
            pool.all[0].in_flight.fetch_add(1, Relaxed);
            let each = move |pool: &Pool, n: usize| match n {
                0 => drop(pool.end(0, started, end)),
                _ => pool.core.remove(&pool.all[0]),
            };
            both(&pool, each, |_| ());
            assert_eq!((pool.core.all().len(), pool.core.next_probe()), (1, None));
            assert!(!pool.core.in_panic());
        });
    }
}

/// Each of two that never had a call gets one of the next two, also one that comes at that moment.
#[test]
fn loom_who_was_never_asked_is_asked_once() {
    model(|| {
        let pool = Pool::new(2, Config::default());
        let new = Arc::new(std::sync::Mutex::new(None));
        let comes = Arc::clone(&new);
        let mut went = both(
            &pool,
            |pool, _| pool.pick(START),
            move |pool| *comes.lock().unwrap() = Some(pool.core.insert("2".into(), START)),
        );
        went.sort_unstable();
        assert_eq!(went, [0, 1]);
        let new = new.lock().unwrap().take().unwrap();
        let all = [&*pool.all[0], &*pool.all[1], &*new];
        let pick = || pool.core.pick(3, |n| all[n], FIRST, START).unwrap();
        assert_eq!(pick(), 2);
        assert_eq!(all.map(|one| one.in_flight.load(Relaxed)), [1; 3]);
    });
}

/// Time that stands: a model must do the same each time.
fn model_with_time(f: impl Fn() + Sync + Send + 'static) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap();
    let _entered = runtime.enter();
    model_within(2, f);
}

/// The whole pool: calls are made while an endpoint is replaced, and then the last one taken out. Each is answered by the
/// one that was there when it began, or refused; what is gone counts no call, and its service is let go.
#[test]
fn loom_a_list_that_is_replaced_beside_calls() {
    model_with_time(|| {
        let mut builder = Endpoints::<()>::builder("loom").seed(7);
        builder.observers.move_to(Home::Nowhere);
        let pool = builder.build().unwrap();
        let lives = Arc::new(());
        let server = |me: u32| {
            let alive = Arc::clone(&lives);
            service_fn(move |n: u32| {
                let _ = &alive;
                std::future::ready(Ok::<_, std::io::Error>(me + n))
            })
        };
        pool.insert("a", server(10));
        let first = pool.shared.core.all();
        let threads = [(); 2].map(|()| {
            let mut service = pool.service();
            thread::spawn(move || {
                let mut call = Box::pin(service.call(1));
                let answer = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                match answer {
                    Poll::Ready(Ok(answer)) => Some(answer),
                    Poll::Ready(Err(_)) => None,
                    Poll::Pending => panic!("it is answered at once"),
                }
            })
        });
        pool.insert("a", server(20));
        let second = pool.shared.core.all();
        assert!(pool.remove("a"));
        let answers = threads.map(|thread| thread.join().unwrap());
        let refused = answers.iter().filter(|answer| answer.is_none()).count();
        assert!(answers.iter().flatten().all(|answer| [11, 21].contains(answer)), "{answers:?}");
        assert_eq!(pool.shared.refused.load(Relaxed), refused as u64);
        let mut calls = 0;
        for health in first.iter().chain(&second) {
            assert_eq!(health.in_flight.load(Relaxed), 0);
            calls += health.calls.load(Relaxed) as usize;
        }
        assert_eq!(calls + refused, 2);
        assert!(pool.is_empty());
        assert_eq!(Arc::strong_count(&lives), 1, "nobody holds a service that is gone");
    });
}
