#![expect(clippy::disallowed_methods, reason = "callers spawn")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
use std::future::{pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::{FutureExt, poll};
use tokio::sync::oneshot;

use super::core::{Core, Join, Turn};
use super::*;
use crate::clock::Tick;
use crate::rejection::{Rejection, RejectionKind};

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn waker() -> (Arc<Woken>, Waker) {
    let woken = Arc::new(Woken::default());
    (Arc::clone(&woken), Waker::from(woken))
}

type Plain = Core<&'static str, u32, u8>;

const NOW: Tick = Tick(1 << 50);

fn at(seconds: u64) -> Option<Tick> {
    Some(NOW.after(Duration::from_secs(seconds)))
}

#[test]
fn a_call_is_polled_by_one_and_by_another_when_that_one_goes() {
    let mut core = Plain::new(None);
    assert_eq!(core.join(9, None, NOW), Join::Seat(1));
    let (woken, waker) = waker();
    core.park("call");
    let (turn, _) = core.turn(1, waker.clone());
    assert!(matches!(turn, Turn::Drive("call")), "whoever comes first");
    assert!(matches!(core.turn(0, waker.clone()).0, Turn::Wait));
    core.park("call").wake();
    assert_eq!(woken.0.load(Ordering::Relaxed), 0, "it was not woken");
    assert!(matches!(core.turn(0, waker.clone()).0, Turn::Wait));
    core.wake().wake();
    assert_eq!(woken.0.load(Ordering::Relaxed), 2, "all who wait");
    // The one that would have polled it goes instead: the other one is told.
    assert!(matches!(core.turn(1, waker.clone()).0, Turn::Drive("call")));
    assert!(matches!(core.turn(0, waker.clone()).0, Turn::Wait));
    core.wake().wake();
    core.park("call").wake();
    assert_eq!(woken.0.load(Ordering::Relaxed), 4, "all again, since it was woken meanwhile");
    assert!(!core.leave(1).ended);
    assert!(matches!(core.turn(0, waker).0, Turn::Drive("call")), "as it was told to");
    core.park("call").wake();
    let last = core.leave(0);
    assert!(last.ended && last.rest.unwrap().0 == Some("call"), "dropped outside");
    assert_eq!(core.join(9, None, NOW), Join::Another);
}

#[test]
fn who_joins_gets_half_of_its_time_at_least() {
    let mut core = Plain::new(at(10));
    assert_eq!(core.join(9, at(5), NOW), Join::Seat(1));
    assert_eq!(core.join(9, at(20), NOW), Join::Seat(2));
    assert_eq!(core.join(9, at(21), NOW), Join::Another);
    assert_eq!(core.join(9, None, NOW), Join::Another);
    let mut endless = Plain::new(None);
    assert_eq!(endless.join(1, at(1), NOW), Join::Seat(1));
    assert_eq!(endless.join(1, None, NOW), Join::Full);
}

#[test]
fn what_is_for_one_goes_to_the_leader_while_it_waits() {
    let mut core = Plain::new(None);
    core.join(9, None, NOW);
    core.join(9, None, NOW);
    core.park("call");
    assert!(matches!(core.turn(1, Waker::noop().clone()).0, Turn::Drive(_)));
    assert_eq!(core.apart(1, 7).0, None);
    assert!(matches!(core.turn(2, Waker::noop().clone()).0, Turn::Apart));
    assert!(matches!(core.turn(0, Waker::noop().clone()).0, Turn::Own(7)));

    let mut core = Plain::new(None);
    core.join(9, None, NOW);
    core.park("call");
    core.leave(0);
    assert!(matches!(core.turn(1, Waker::noop().clone()).0, Turn::Drive(_)));
    assert_eq!(core.apart(1, 7).0, Some(7), "the leader has gone");
}

#[test]
fn a_place_is_given_again_but_not_that_of_the_leader() {
    let mut core = Plain::new(None);
    assert_eq!(core.join(9, None, NOW), Join::Seat(1));
    core.park("call");
    core.leave(0);
    core.leave(1);
    let mut core = Plain::new(None);
    core.join(9, None, NOW);
    core.join(9, None, NOW);
    core.park("call");
    core.leave(0);
    core.leave(1);
    assert_eq!(core.join(9, None, NOW), Join::Seat(1));
    assert_eq!(core.join(9, None, NOW), Join::Seat(3));
}

/// A call that answers when it is told to.
fn told() -> (oneshot::Sender<u32>, impl Future<Output = u32> + Send + 'static) {
    let (tell, told) = oneshot::channel();
    (tell, async move { told.await.unwrap() })
}

#[tokio::test]
async fn one_call_for_all_and_nothing_is_kept() {
    let reads = Coalesce::<u8, u32>::new("t");
    let (tell, call) = told();
    let mut leader = Box::pin(reads.run(1, || call));
    assert!(poll!(&mut leader).is_pending());
    let mut followers: Vec<_> =
        (0..5).map(|_| Box::pin(reads.run(1, || async { panic!("a second call") }))).collect();
    for follower in &mut followers {
        assert!(poll!(follower).is_pending());
    }
    let other = reads.run(2, || async { 2 }).await;
    assert_eq!(other.unwrap(), 2, "another key");
    tell.send(7).unwrap();
    assert_eq!(leader.await.unwrap(), 7);
    for follower in followers {
        assert_eq!(follower.await.unwrap(), 7);
    }
    assert_eq!(reads.run(1, || async { 8 }).await.unwrap(), 8, "the next one is a new call");
    let stats = reads.stats();
    assert_eq!((stats.led, stats.followed, stats.in_flight), (3, 5, 0));
}

#[tokio::test]
async fn the_call_outlives_its_leader_and_ends_with_the_last_one() {
    let reads = Coalesce::<u8, u32>::new("t");
    let (tell, call) = told();
    let mut leader = Box::pin(reads.run(1, || call));
    assert!(poll!(&mut leader).is_pending());
    let mut follower = Box::pin(reads.run(1, || async { panic!("a second call") }));
    assert!(poll!(&mut follower).is_pending());
    drop(leader);
    tell.send(7).unwrap();
    assert_eq!(follower.await.unwrap(), 7);

    let (tell, call) = told();
    let mut leader = Box::pin(reads.run(1, || call));
    assert!(poll!(&mut leader).is_pending());
    drop(leader);
    assert!(tell.is_closed(), "nobody waits: the call is dropped");
    assert_eq!(reads.stats().in_flight, 0);
}

#[tokio::test]
async fn a_leader_that_goes_before_its_first_poll_holds_nobody_up() {
    let reads = Coalesce::<u8, u32>::new("t");
    let layer = reads.run(1, || async { 1 });
    drop(layer);
    assert_eq!(reads.stats().in_flight, 0);
    assert_eq!(reads.run(1, || ready(2)).await.unwrap(), 2);
}

#[tokio::test]
async fn a_leader_that_is_not_polled_any_more_holds_nobody_up() {
    let reads = Coalesce::<u8, u32>::new("t");
    let (tell, call) = told();
    let mut stuck = Box::pin(reads.run(1, || call));
    assert!(poll!(&mut stuck).is_pending());
    let follower = reads.run(1, || async { panic!("a second call") });
    let answer = tokio::spawn({
        let reads = reads.clone();
        async move { reads.run(1, || async { panic!("a third call") }).await }
    });
    tokio::task::yield_now().await;
    tell.send(7).unwrap();
    assert_eq!(answer.await.unwrap().unwrap(), 7);
    assert_eq!(stuck.await.unwrap(), 7);
    drop(follower);
}

#[test]
fn a_leader_that_stops_right_after_its_call_woke_itself_holds_nobody_up() {
    // The follower asks while the call is being polled; then the call wakes itself, and nobody polls the leader.
    type Read = futures_util::future::BoxFuture<'static, Result<u32, Rejection>>;
    let reads = Coalesce::<u8, u32>::new("t");
    let follower: Arc<std::sync::Mutex<Option<Read>>> = Arc::default();
    let (woken, waker) = waker();
    let meanwhile = {
        let (follower, reads, waker) = (Arc::clone(&follower), reads.clone(), waker.clone());
        move || {
            let mut read: Read = async move { reads.run(1, || async { 8 }).await }.boxed();
            assert!(read.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            *follower.lock().unwrap() = Some(read);
        }
    };
    let mut leader = Box::pin(reads.run(1, move || async move {
        let mut first = Some(meanwhile);
        std::future::poll_fn(move |cx| {
            let Some(meanwhile) = first.take() else { return Poll::Ready(7) };
            meanwhile();
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }));
    assert!(leader.as_mut().now_or_never().is_none());
    assert_eq!(woken.0.load(Ordering::Relaxed), 1, "it was told that the call is to be polled");
    let mut read = follower.lock().unwrap().take().unwrap();
    assert!(matches!(read.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready(Ok(7))));
    assert_eq!(leader.now_or_never().unwrap().unwrap(), 7);
}

/// The wakers of all others were dropped with the panic of the first.
#[test]
fn a_waker_that_panics_keeps_nobody_asleep() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("on purpose");
        }
    }
    let mut core = Plain::new(None);
    assert_eq!(core.join(9, None, NOW), Join::Seat(1));
    core.park("call");
    assert!(matches!(core.turn(0, waker().1).0, Turn::Drive("call")));
    assert!(matches!(core.turn(1, Arc::new(Panics).into()).0, Turn::Wait));
    assert_eq!(core.join(9, None, NOW), Join::Seat(2));
    let (woken, waker) = waker();
    assert!(matches!(core.turn(2, waker).0, Turn::Wait));
    core.land(7).1.wake();
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_panic_goes_to_one_and_the_others_are_refused() {
    let reads = Coalesce::<u8, u32>::new("t");
    let mut leader = Box::pin(reads.run(1, || async {
        tokio::task::yield_now().await;
        panic!("on purpose")
    }));
    assert!(poll!(&mut leader).is_pending());
    let mut follower = Box::pin(reads.run(1, || async { 1 }));
    assert!(poll!(&mut follower).is_pending());
    tokio::task::yield_now().await;
    let polled = catch_unwind(AssertUnwindSafe(|| leader.as_mut().now_or_never()));
    assert!(polled.is_err());
    assert_eq!(follower.await.unwrap_err().kind(), RejectionKind::CallPanicked);
    assert_eq!(reads.run(1, || async { 3 }).await.unwrap(), 3, "it goes on");
    let stats = reads.stats();
    assert_eq!((stats.panicked, stats.in_flight), (1, 0));
}

#[tokio::test]
async fn a_panic_while_the_call_is_made_leaves_nothing() {
    let reads = Coalesce::<u8, u32>::new("t");
    let mut follower = Box::pin(reads.run(1, || ready(1)));
    let made = AssertUnwindSafe(reads.run(1, || -> std::future::Ready<u32> {
        assert!(follower.as_mut().now_or_never().is_none());
        panic!("on purpose")
    }));
    assert!(made.catch_unwind().await.is_err());
    assert_eq!(follower.await.unwrap_err().kind(), RejectionKind::CallPanicked);
    let stats = reads.stats();
    assert_eq!((stats.panicked, stats.in_flight), (1, 0));
    assert_eq!(reads.run(1, || ready(2)).await.unwrap(), 2);
}

#[tokio::test]
async fn a_panic_of_the_clone_goes_to_its_caller_alone() {
    /// Panics when it is cloned for the first time.
    #[derive(Debug)]
    struct Fragile(Arc<AtomicUsize>);
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "on purpose");
            Self(Arc::clone(&self.0))
        }
    }
    let reads = Coalesce::<u8, Fragile>::new("t");
    let (tell, told) = oneshot::channel();
    let mut leader = Box::pin(reads.run(1, || async { told.await.unwrap() }));
    assert!(poll!(&mut leader).is_pending());
    let mut follower = Box::pin(reads.run(1, pending));
    assert!(poll!(&mut follower).is_pending());
    tell.send(Fragile(Arc::default())).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| leader.as_mut().now_or_never())).is_err());
    drop(leader);
    assert!(follower.await.is_ok());
    assert_eq!(reads.stats().in_flight, 0);
}

#[test]
fn a_key_whose_hash_panics_is_not_counted_as_under_way() {
    thread_local!(static LEFT: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) });
    #[derive(PartialEq, Eq)]
    struct Touchy;
    impl std::hash::Hash for Touchy {
        fn hash<H: std::hash::Hasher>(&self, _: &mut H) {
            let left = LEFT.get();
            LEFT.set(left.wrapping_sub(1));
            assert!(left > 0, "on purpose");
        }
    }
    let mut panics = 0;
    loop {
        let reads = Coalesce::<Touchy, u32>::new("t");
        let mut read = Box::pin(reads.run(Touchy, || ready(1)));
        LEFT.set(panics);
        let made = catch_unwind(AssertUnwindSafe(|| read.as_mut().now_or_never()));
        LEFT.set(usize::MAX);
        drop(read);
        assert_eq!(reads.stats().in_flight, 0, "when hash {panics} panics");
        assert_eq!(reads.run(Touchy, || ready(2)).now_or_never().unwrap().unwrap(), 2);
        if made.is_ok() {
            break;
        }
        panics += 1;
    }
    assert_eq!(panics, 1, "when it is entered");
}

#[test]
fn a_key_that_can_be_hashed_only_once_is_given_back_when_its_call_is_dropped() {
    #[derive(Debug, Default)]
    struct Key(std::sync::atomic::AtomicBool);
    impl PartialEq for Key {
        fn eq(&self, _: &Self) -> bool {
            true
        }
    }
    impl Eq for Key {}
    impl std::hash::Hash for Key {
        fn hash<H: std::hash::Hasher>(&self, _: &mut H) {
            assert!(!self.0.swap(true, Ordering::Relaxed), "on purpose");
        }
    }
    let reads = Coalesce::<Key, u32>::new("t");
    let mut read = Box::pin(reads.run(Key::default(), pending));
    assert!(read.as_mut().now_or_never().is_none());
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(read)));
    assert_eq!(reads.stats().in_flight, 0);
    assert!(dropped.is_ok(), "a drop must not panic");
    assert_eq!(reads.run(Key::default(), || ready(2)).now_or_never().unwrap().unwrap(), 2);
}

#[test]
fn keys_of_one_hash_are_told_apart() {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Same(u8);
    impl std::hash::Hash for Same {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            state.write_u8(0);
        }
    }
    // All orders in which four can go.
    for order in 0..256_usize {
        let reads = Coalesce::<Same, u8>::new("t");
        let mut tells = Vec::new();
        let mut all: Vec<_> = (0..4_u8)
            .map(|n| {
                let (tell, told) = oneshot::channel();
                tells.push(Some(tell));
                let leader = Box::pin(reads.run(Same(n), || async { told.await.unwrap() }));
                let follower = Box::pin(reads.run(Same(n), pending));
                Some((leader, follower))
            })
            .collect();
        for (leader, follower) in all.iter_mut().flatten() {
            assert!(leader.as_mut().now_or_never().is_none());
            assert!(follower.as_mut().now_or_never().is_none());
        }
        assert_eq!(reads.stats().in_flight, 4);
        for step in 0..4_u8 {
            let mut place = order >> (2 * step) & 3;
            while all[place].is_none() {
                place = (place + 1) % 4;
            }
            let (leader, mut follower) = all[place].take().unwrap();
            if step % 2 == 0 {
                drop(leader);
                tells[place].take().unwrap().send(10 + step).unwrap();
                assert_eq!(follower.as_mut().now_or_never().unwrap().unwrap(), 10 + step);
            } else {
                drop((leader, follower));
            }
            assert_eq!(reads.stats().in_flight, u32::from(3 - step));
            let gone = Same(u8::try_from(place).unwrap());
            assert_eq!(reads.run(gone, || ready(7)).now_or_never().unwrap().unwrap(), 7);
        }
    }
}

#[tokio::test]
async fn a_call_without_room_for_its_key_is_told_of() {
    let told = Arc::new(AtomicUsize::new(0));
    let sink = Arc::clone(&told);
    let reads: Coalesce<u8, u32> = Coalesce::builder("t")
        .max_keys(1)
        .observe(move |event: &crate::observe::Event<'_>| {
            assert!(matches!(event.kind, crate::observe::EventKind::TableFull { capacity: 1 }));
            sink.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    let mut leader = Box::pin(reads.run(1, pending));
    assert!(poll!(&mut leader).is_pending());
    assert_eq!(reads.run(2, || ready(2)).await.unwrap(), 2);
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn keys_and_followers_are_bounded() {
    let reads: Coalesce<u8, u32> =
        Coalesce::builder("t").max_keys(1).max_followers(1).build().unwrap();
    let mut leader = Box::pin(reads.run(1, pending));
    let mut follower = Box::pin(reads.run(1, pending));
    assert!(poll!(&mut leader).is_pending() && poll!(&mut follower).is_pending());
    let crowded = reads.run(1, || ready(1)).await;
    assert_eq!(crowded.unwrap_err().kind(), RejectionKind::Overloaded);
    assert_eq!(reads.run(2, || ready(2)).await.unwrap(), 2, "for itself");
    let stats = reads.stats();
    assert_eq!((stats.crowded, stats.full, stats.in_flight), (1, 1, 1));
    drop((leader, follower));
    assert_eq!(reads.stats().in_flight, 0);
}

#[test]
fn threads_that_join_and_go_lose_no_answer() {
    // Whoever stays gets an answer of its key, whatever the others do; nothing is left.
    let seed =
        std::env::var("BUTTRESS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7_u64);
    println!("seed {seed}");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build();
    runtime.unwrap().block_on(async {
        let reads = Coalesce::<u64, u64>::new("t");
        let calls = Arc::new(AtomicUsize::new(0));
        let tasks = (0..8_u64).map(|task| {
            let (reads, calls) = (reads.clone(), Arc::clone(&calls));
            tokio::spawn(async move {
                let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(task) | 1;
                for _ in 0..2_000 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let (key, pauses, goes) = (state % 3, state >> 8 & 3, state >> 16 & 3 == 0);
                    let calls = Arc::clone(&calls);
                    let mut read = Box::pin(reads.run(key, move || async move {
                        calls.fetch_add(1, Ordering::Relaxed);
                        for _ in 0..pauses {
                            tokio::task::yield_now().await;
                        }
                        key * 10
                    }));
                    if goes {
                        if poll!(&mut read).is_pending() {
                            tokio::task::yield_now().await;
                            let _ = poll!(&mut read);
                        }
                    } else {
                        let answer = tokio::time::timeout(Duration::from_secs(60), read).await;
                        assert_eq!(answer.expect("forgotten").unwrap(), key * 10);
                    }
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let stats = reads.stats();
        assert_eq!(stats.in_flight, 0);
        assert_eq!(stats.led + stats.followed, 16_000);
        assert!(calls.load(Ordering::Relaxed) as u64 <= stats.led);
    });
}

/// A thread makes a call that `ends`, others wait for it: what each of them got.
fn on_threads<E>(users: &Coalesce<u8, u32>, ends: E) -> [Option<Result<u32, Rejection>>; 3]
where
    E: FnOnce() -> u32 + Send,
{
    let soon = Duration::from_secs(20);
    let (begin, begun) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        // Gone if this panics, which ends the call.
        let (end, ended) = std::sync::mpsc::channel();
        let makes = scope.spawn(move || {
            users.run_blocking(7, || {
                begin.send(()).unwrap();
                ended.recv_timeout(soon).unwrap();
                ends()
            })
        });
        begun.recv_timeout(soon).unwrap();
        let wait = || scope.spawn(|| users.run_blocking(7, || panic!("one is under way")));
        let waiting = [wait(), wait()];
        let begun = tokio::time::Instant::now();
        while users.stats().followed < 2 {
            assert!(begun.elapsed() < soon, "they do not wait: {:?}", users.stats());
            std::thread::yield_now();
        }
        end.send(()).unwrap();
        let [one, two] = waiting;
        [makes, one, two].map(|thread| thread.join().ok())
    })
}

#[test]
fn threads_wait_for_the_call_of_one_of_them() {
    let users = Coalesce::<u8, u32>::new("users");
    let answers = on_threads(&users, || 1);
    assert!(answers.iter().all(|answer| matches!(answer, Some(Ok(1)))), "{answers:?}");
    // Nothing is kept.
    assert_eq!(users.run_blocking(7, || 2).unwrap(), 2);
    let stats = users.stats();
    assert_eq!((stats.in_flight, stats.led, stats.followed), (0, 2, 2));
}

#[test]
fn threads_that_wait_for_one_that_panics_are_refused_and_the_next_begins_anew() {
    let users = Coalesce::<u8, u32>::new("users");
    let [makes, one, two] =
        on_threads(&users, || std::panic::resume_unwind(Box::new("in the call")));
    assert!(makes.is_none());
    for refused in [one, two] {
        assert_eq!(refused.unwrap().unwrap_err().kind(), RejectionKind::CallPanicked);
    }
    assert_eq!(users.run_blocking(7, || 2).unwrap(), 2);
    assert_eq!((users.stats().in_flight, users.stats().panicked), (0, 1));
}

/// It could not poll it: that may need its runtime, and whoever polls it now may go. Nor does it take its place: who comes
/// later still joins the one that is polled.
#[tokio::test]
async fn a_thread_makes_its_call_beside_one_that_is_polled() {
    let users = Coalesce::<u8, u32>::new("users");
    let (tell, told) = told();
    let mut polled = Box::pin(users.run(7, move || told));
    assert!(poll!(&mut polled).is_pending());
    let (answer, answered) = std::sync::mpsc::channel();
    let thread = users.clone();
    std::thread::spawn(move || answer.send(thread.run_blocking(7, || 2)));
    let answered = answered.recv_timeout(Duration::from_secs(20));
    assert_eq!(answered.expect("it waits for what nobody polls").unwrap(), 2);
    let mut later = Box::pin(users.run(7, || async { panic!("one is under way") }));
    assert!(poll!(&mut later).is_pending());
    tell.send(1).unwrap();
    assert_eq!((polled.await.unwrap(), later.await.unwrap()), (1, 1));
    assert_eq!((users.stats().led, users.stats().followed, users.stats().in_flight), (2, 1, 0));
}

/// As a call that is polled, it does not end with whoever makes it.
#[tokio::test(start_paused = true)]
async fn a_call_of_a_thread_has_no_end_that_is_handed_down_to_its_caller() {
    use crate::clock::{end_handed_down, hand_end_down};
    let users = Coalesce::<u8, bool>::new("users");
    let ends = hand_end_down(Some(Tick(7)));
    assert!(end_handed_down().is_some());
    assert!(users.run_blocking(7, || end_handed_down().is_none()).unwrap());
    drop(ends);
}
