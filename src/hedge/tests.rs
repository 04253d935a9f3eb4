#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "a caller spawns")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tower::{Service, ServiceExt, service_fn};

use super::core::HEDGE;
use super::handle::Withheld;
use super::*;
use crate::classify::{AnyError, classify_fn};
use crate::deadline::Deadline;
use crate::lever::Lever;
use crate::managed::Managed;
use crate::name::LayerKind;
use crate::outcome::{FailureClass, RetryHint, Verdict};
use crate::rejection::{Rejection, RejectionKind};
use crate::retry::{Attempt, Replay};
use crate::{RetryBudget, RetryCost};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Answers have taken 10 ms so far.
async fn warm(hedge: &Hedge) {
    for _ in 0..120 {
        let call = |_| async {
            tokio::time::sleep(ms(10)).await;
            Ok::<_, io::Error>(())
        };
        hedge.run(call).await.unwrap();
    }
    let delay = hedge.delay().unwrap();
    assert!((ms(9)..ms(13)).contains(&delay), "{delay:?}");
    for _ in 0..100 {
        hedge.shared.core.deposit();
    }
}

async fn warm_one() -> Hedge {
    let hedge = Hedge::new("t");
    warm(&hedge).await;
    hedge
}

/// As [`warm_one`], with one hedge for a call.
async fn warm_single() -> Hedge {
    let hedge = Hedge::builder("t").hedges(1).build().unwrap();
    warm(&hedge).await;
    hedge
}

#[derive(Clone)]
struct Step(u64, Result<u32, io::ErrorKind>);

#[derive(Clone, Default)]
struct Script {
    steps: Vec<Step>,
    calls: Arc<AtomicU32>,
    living: Arc<AtomicU32>,
}

struct Living(Arc<AtomicU32>);

impl Drop for Living {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Script {
    fn new(steps: &[Step]) -> Self {
        Self { steps: steps.to_vec(), ..Self::default() }
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    async fn run(&self, _: u32) -> Result<u32, io::Error> {
        let n = self.calls.fetch_add(1, Ordering::Relaxed);
        self.living.fetch_add(1, Ordering::Relaxed);
        let _living = Living(Arc::clone(&self.living));
        let Step(after, result) = self.steps[n as usize].clone();
        tokio::time::sleep(ms(after)).await;
        result.map_err(Into::into)
    }
}

async fn play(hedge: &Hedge, steps: &[Step]) -> (Result<u32, io::Error>, Duration, u32) {
    let script = Script::new(steps);
    let start = Instant::now();
    let result = hedge.run(|n| script.run(n)).await;
    assert_eq!(script.living.load(Ordering::Relaxed), 0, "the loser is gone");
    (result, start.elapsed(), script.calls())
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_attempt_is_overtaken() {
    let hedge = warm_one().await;
    let (result, took, calls) = play(&hedge, &[Step(1000, Ok(1)), Step(5, Ok(2))]).await;
    assert_eq!((result.unwrap(), calls), (2, 2));
    assert!(took < ms(20), "{took:?}");
    let stats = hedge.stats();
    assert_eq!((stats.sent, stats.won, stats.withheld), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_first_may_still_win() {
    let hedge = warm_one().await;
    let (result, _, calls) = play(&hedge, &[Step(20, Ok(1)), Step(100, Ok(2))]).await;
    assert_eq!((result.unwrap(), calls), (1, 2));
    assert_eq!((hedge.stats().sent, hedge.stats().won), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_quick_answer_or_failure_is_not_hedged() {
    let hedge = warm_one().await;
    let broken = Err(io::ErrorKind::ConnectionReset);
    for step in [Step(3, Ok(1)), Step(3, broken)] {
        let (_, took, calls) = play(&hedge, &[step]).await;
        assert_eq!((took, calls), (ms(3), 1));
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_is_the_first_that_is_no_failure() {
    let reset = Err(io::ErrorKind::ConnectionReset);
    let refused = Err(io::ErrorKind::ConnectionRefused);
    for (first, second, expected) in [
        (Step(15, reset), Step(50, Ok(2)), Ok(2)),
        (Step(50, Ok(1)), Step(5, reset), Ok(1)),
        (Step(15, reset), Step(50, refused), refused),
        (Step(90, refused), Step(5, reset), refused),
        // Another attempt would say the same.
        (
            Step(15, Err(io::ErrorKind::PermissionDenied)),
            Step(50, Ok(2)),
            Err(io::ErrorKind::PermissionDenied),
        ),
    ] {
        let hedge = warm_single().await;
        let (result, _, calls) = play(&hedge, &[first, second]).await;
        assert_eq!((result.map_err(|e| e.kind()), calls), (expected, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_drops_both_and_counts_as_at_least_so_long() {
    let hedge = warm_single().await;
    let script = Script::new(&[Step(10_000, Ok(1)), Step(10_000, Ok(2))]);
    let run = hedge.run(|n| script.run(n));
    assert!(tokio::time::timeout(ms(100), run).await.is_err());
    assert_eq!((script.calls(), script.living.load(Ordering::Relaxed)), (2, 0));
    // With these the percentile rises: answers that were quick are not what callers meet.
    for _ in 0..50 {
        let pending = hedge.run(|_| std::future::pending::<Result<(), io::Error>>());
        assert!(tokio::time::timeout(ms(100), pending).await.is_err());
    }
    tokio::time::sleep(ms(1000)).await;
    hedge.run(|_| async { Ok::<_, io::Error>(()) }).await.unwrap();
    assert!(hedge.delay().unwrap() > ms(50), "{:?}", hedge.delay());
}

#[tokio::test(start_paused = true)]
async fn when_all_are_slow_only_the_share_is_hedged() {
    let hedge = warm_one().await;
    let calls = Arc::new(AtomicU32::new(0));
    for _ in 0..20 {
        let batch = (0..50).map(|_| {
            let (hedge, calls) = (hedge.clone(), Arc::clone(&calls));
            async move {
                let call = |_| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    async {
                        tokio::time::sleep(ms(500)).await;
                        Ok::<_, io::Error>(())
                    }
                };
                hedge.run(call).await.unwrap();
            }
        });
        futures_util::future::join_all(batch).await;
    }
    let calls = calls.load(Ordering::Relaxed);
    assert!((1003..=1033).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_gate_a_lever_and_a_budget_hold_it_back_and_get_back_what_was_not_used() {
    let (open, budget) = (Arc::new(AtomicBool::new(false)), RetryBudget::new("t"));
    let asked = Arc::clone(&open);
    let hedge = Hedge::builder("t")
        .gate(move || asked.load(Ordering::Relaxed))
        .budget(budget.clone())
        .build()
        .unwrap();
    warm(&hedge).await;
    // So many that three slow ones are fewer than one in fifty.
    warm(&hedge).await;
    let steps = [Step(100, Ok(1)), Step(5, Ok(2))];
    assert_eq!(play(&hedge, &steps).await.2, 1, "no headroom");
    open.store(true, Ordering::Relaxed);
    hedge.engage();
    assert_eq!(play(&hedge, &steps).await.2, 1, "held back");
    hedge.release();
    budget.engage();
    let saved = hedge.stats().saved;
    assert_eq!(play(&hedge, &steps).await.2, 1, "no budget");
    assert!(hedge.stats().saved >= saved, "the share came back");
    budget.release();
    assert_eq!(play(&hedge, &steps).await.2, 2);
    assert_eq!((budget.stats().allowed, budget.stats().succeeded), (1, 1));
    assert_eq!(budget.stats().tokens, 28, "it helped: refunded");
    let status = hedge.shared.describe();
    assert_eq!(status.state, "hedging");
    for why in ["congested", "engaged", "budget"] {
        assert!(status.rejects.contains(&(why, 1)), "{why}: {status:?}");
    }
    // Spent by others, it grants none.
    while budget.withdraw(RetryCost::Failed).map(|token| token.send()).is_some() {}
    assert_eq!(play(&hedge, &steps).await.2, 1);
}

#[tokio::test(start_paused = true)]
async fn no_hedge_that_could_not_answer_by_the_deadline() {
    let hedge = warm_one().await;
    for (left, calls) in [(15, 1), (40, 2)] {
        let script = Script::new(&[Step(100, Ok(1)), Step(5, Ok(2))]);
        hedge.run_until(|n| script.run(n), Deadline::after(ms(left))).await.unwrap();
        assert_eq!(script.calls(), calls, "{left} ms");
    }
}

#[derive(Clone, Copy)]
struct Job {
    attempt: u32,
    copies: bool,
    safe: bool,
}

#[derive(Clone, Copy)]
struct Jobs;

impl Replay<Job> for Jobs {
    fn try_replay(&self, job: &Job) -> Option<Job> {
        job.copies.then_some(*job)
    }

    fn attempt(&self, job: &Job) -> Attempt {
        Attempt(job.attempt)
    }

    fn mark(&self, job: &mut Job, attempt: Attempt) {
        job.attempt = attempt.0;
    }
}

/// Safe as the job says.
#[derive(Clone, Copy)]
struct ByJob;

impl crate::Classify<Job, u32, io::Error> for ByJob {
    type Ticket = bool;

    fn start(&self, job: &Job) -> bool {
        job.safe
    }

    fn finish(&self, _: bool, result: Result<&u32, &io::Error>) -> Verdict {
        crate::Classify::<Job, u32, io::Error>::finish(&AnyError, (), result)
    }

    fn expired(&self, safe: bool) -> Verdict {
        let unknown = RetryHint::Unknown { after: None };
        let retry = if safe { RetryHint::SAFE } else { unknown };
        Verdict::failure(FailureClass::Transient).with_retry(retry)
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_may_be_sent_twice_is_and_the_second_is_marked() {
    let hedge = warm_one().await;
    for (copies, safe, hedged) in [(true, true, true), (false, true, false), (true, false, false)] {
        let inner = service_fn(|job: Job| async move {
            tokio::time::sleep(ms(if job.attempt == 3 { 100 } else { 5 })).await;
            Ok::<_, io::Error>(job.attempt)
        });
        let service = tower::Layer::layer(&hedge.layer().classify(ByJob).replay(Jobs), inner);
        // The third attempt of a retry outside of it.
        let answer = service.oneshot(Job { attempt: 3, copies, safe }).await.unwrap();
        assert_eq!(answer, if hedged { 4 } else { 3 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_become_ready_is_given_up_and_the_hedge_given_back() {
    #[derive(Clone, Default)]
    struct Once(Arc<AtomicBool>);
    impl Service<()> for Once {
        type Response = ();
        type Error = io::Error;
        type Future = std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            match self.0.load(Ordering::Relaxed) {
                true => std::task::Poll::Pending,
                false => std::task::Poll::Ready(Ok(())),
            }
        }
        fn call(&mut self, (): ()) -> Self::Future {
            assert!(!self.0.swap(true, Ordering::Relaxed), "called although not ready");
            Box::pin(async {
                tokio::time::sleep(ms(200)).await;
                Ok(())
            })
        }
    }
    let hedge = warm_one().await;
    let saved = hedge.stats().saved;
    let service = tower::Layer::layer(&hedge.layer(), Once::default());
    service.oneshot(()).await.unwrap();
    assert_eq!((hedge.stats().sent, hedge.stats().withheld), (0, 1));
    assert!(hedge.stats().saved >= saved);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_classifier_leaves_the_call_over_and_the_hedge_usable() {
    let hedge = warm_one().await;
    let judge = classify_fn(|_: Result<&(), &io::Error>| -> Verdict { panic!("judge") });
    let inner = service_fn(|()| async { Ok::<_, io::Error>(()) });
    let service = tower::Layer::layer(&hedge.layer().classify(judge), inner);
    let task = tokio::spawn(service.oneshot(()));
    assert!(task.await.unwrap_err().is_panic());
    let (result, ..) = play(&hedge, &[Step(1000, Ok(1)), Step(5, Ok(2))]).await;
    assert_eq!(result.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn each_hedge_is_told() {
    let told = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&told);
    let hedge = Hedge::builder("t")
        .observe(move |event: &crate::observe::Event<'_>| {
            assert!(
                matches!(event.kind, crate::observe::EventKind::Hedged { after } if after >= ms(9))
            );
            count.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    warm(&hedge).await;
    let _ = play(&hedge, &[Step(1000, Ok(1)), Step(5, Ok(2))]).await;
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn where_the_hedge_is_slow_too_there_is_another_and_all_stay_out() {
    let hedge = warm_one().await;
    let steps = [Step(1000, Ok(1)), Step(1000, Ok(2)), Step(5, Ok(3))];
    let (result, took, calls) = play(&hedge, &steps).await;
    assert_eq!((result.unwrap(), calls), (3, 3));
    assert!(took < ms(30), "{took:?}");
    assert_eq!((hedge.stats().sent, hedge.stats().won), (2, 1));
    // The first answers while both others are out, and a hedge while the other hedge is.
    for (first, second, expected) in [(60, 1000, 1), (1000, 60, 2)] {
        let hedge = warm_one().await;
        let steps = [Step(first, Ok(1)), Step(second, Ok(2)), Step(1000, Ok(3))];
        let (result, took, calls) = play(&hedge, &steps).await;
        assert_eq!((result.unwrap(), calls), (expected, 3));
        assert!((ms(60)..ms(75)).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_three_that_fail_the_last_failure_is_the_answer() {
    let reset = Err(io::ErrorKind::ConnectionReset);
    let refused = Err(io::ErrorKind::ConnectionRefused);
    let aborted = Err(io::ErrorKind::ConnectionAborted);
    for (times, last) in [([90, 50, 30], reset), ([40, 90, 30], refused), ([40, 50, 90], aborted)] {
        let hedge = warm_one().await;
        let steps = [Step(times[0], reset), Step(times[1], refused), Step(times[2], aborted)];
        let (result, _, calls) = play(&hedge, &steps).await;
        assert_eq!((result.map_err(|e| e.kind()), calls), (last, 3));
        assert_eq!((hedge.stats().sent, hedge.stats().won), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_opens_a_moment_later_lets_it_go_and_it_counts_once_as_withheld() {
    let open = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&open);
    let hedge = Hedge::builder("t").gate(move || asked.load(Ordering::Relaxed)).build().unwrap();
    warm(&hedge).await;
    let opening = async {
        tokio::time::sleep(ms(25)).await;
        open.store(true, Ordering::Relaxed);
    };
    let steps = [Step(1000, Ok(1)), Step(5, Ok(2))];
    let ((result, took, calls), ()) = tokio::join!(play(&hedge, &steps), opening);
    assert_eq!((result.unwrap(), calls), (2, 2));
    assert!((ms(25)..ms(45)).contains(&took), "{took:?}");
    assert_eq!((hedge.stats().sent, hedge.stats().withheld), (1, 1));
    // Closed for good it is asked a few times, and the call waits for its first attempt.
    open.store(false, Ordering::Relaxed);
    let (result, took, calls) = play(&hedge, &[Step(1000, Ok(1))]).await;
    assert_eq!((result.unwrap(), calls, took), (1, 1, ms(1000)));
    assert_eq!((hedge.stats().sent, hedge.stats().withheld), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_that_failed_is_not_counted_as_given_up_later() {
    let hedge = warm_one().await;
    let before = hedge.delay().unwrap();
    for _ in 0..60 {
        let script = Script::new(&[
            Step(15, Err(io::ErrorKind::ConnectionReset)),
            Step(9000, Ok(2)),
            Step(9000, Ok(3)),
        ]);
        hedge.shared.core.give_back(HEDGE);
        let run = hedge.run(|n| script.run(n));
        assert!(tokio::time::timeout(ms(500), run).await.is_err());
    }
    tokio::time::sleep(ms(1000)).await;
    hedge.run(|_| async { Ok::<_, io::Error>(()) }).await.unwrap();
    assert!(hedge.delay().unwrap() <= before + ms(1), "{:?}", hedge.delay());
}

/// Both attempts are out after 10 ms; each ends as it is told to, the first sooner.
async fn both_end(hedge: &Hedge, ends: [Result<u32, RejectionKind>; 2]) -> io::Result<u32> {
    let call = |n: u32| async move {
        tokio::time::sleep(ms(if n == 1 { 15 } else { 30 })).await;
        let refusal = |kind| Rejection::new(kind, LayerKind::CircuitBreaker, "inside");
        ends[n as usize - 1].map_err(|kind| io::Error::other(refusal(kind)))
    };
    hedge.run(call).await
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_that_was_refused_inside_waits_for_its_hedge() {
    let hedge = warm_single().await;
    let answer = both_end(&hedge, [Err(RejectionKind::CircuitOpen), Ok(2)]).await;
    assert_eq!(answer.unwrap(), 2);
    assert_eq!((hedge.stats().sent, hedge.stats().won), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_no_hedge_that_has_won() {
    let hedge = warm_single().await;
    let ends = [Err(RejectionKind::CircuitOpen), Err(RejectionKind::Overloaded)];
    let error = both_end(&hedge, ends).await.unwrap_err();
    assert_eq!(Rejection::find(&error).unwrap().kind(), RejectionKind::Overloaded);
    assert_eq!((hedge.stats().sent, hedge.stats().won), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn calls_that_miss_their_deadline_one_after_the_other_are_not_hedged() {
    let hedge = warm_one().await;
    let miss = async || {
        hedge.shared.core.give_back(HEDGE);
        let call = |_| async {
            tokio::time::sleep(ms(1000)).await;
            Ok::<_, io::Error>(())
        };
        let deadline = Deadline::after(ms(100));
        let run = hedge.run_until(call, deadline);
        assert!(tokio::time::timeout(ms(101), run).await.is_err());
    };
    for _ in 0..10 {
        miss().await;
    }
    let sent = hedge.stats().sent;
    assert!((1..8).contains(&sent), "{sent}");
    miss().await;
    assert_eq!(hedge.stats().sent, sent);
    // Those that left before it say nothing of that.
    for _ in 0..300 {
        hedge.run(|_| async { Ok::<_, io::Error>(()) }).await.unwrap();
    }
    miss().await;
    assert_eq!(hedge.stats().sent, sent + 1);
}

/// Under overload all answers are late, those of hedges as well, and who does not end its calls has them late. Taken for
/// rescues, they kept hedges going into the queue that makes them late.
#[tokio::test(start_paused = true)]
async fn an_answer_after_the_deadline_is_no_rescue() {
    let hedge = warm_single().await;
    for (first, second) in [(250, 150), (150, 250)].into_iter().cycle().take(40) {
        hedge.shared.core.give_back(HEDGE);
        let script = Script::new(&[Step(first, Ok(1)), Step(second, Ok(2))]);
        hedge.run_until(|n| script.run(n), Deadline::after(ms(100))).await.unwrap();
    }
    assert!(hedge.shared.core.is_in_vain());
    let sent = hedge.stats().sent;
    assert!((1..20).contains(&sent), "{sent}");
}

/// While they are in vain one costs all that can be saved: given back as one, it would be long until the next shows whether
/// they still are.
#[tokio::test(start_paused = true)]
async fn what_was_not_sent_gives_back_all_that_it_cost() {
    let budget = RetryBudget::new("t");
    let hedge = Hedge::builder("t").budget(budget.clone()).build().unwrap();
    warm(&hedge).await;
    (0..100).for_each(|_| hedge.shared.core.missed());
    assert!(hedge.shared.core.is_in_vain());
    let saved = hedge.stats().saved;
    assert!(saved > 1.5, "{saved}");
    drop(hedge.shared.shared().ask().unwrap());
    assert!((hedge.stats().saved - saved).abs() < 1e-9, "never sent");
    budget.engage();
    assert_eq!(hedge.shared.shared().ask().err(), Some(Withheld::Budget));
    assert!((hedge.stats().saved - saved).abs() < 1e-9, "no budget");
    budget.release();
    assert!(hedge.shared.shared().ask().unwrap().send().is_some());
    assert!(hedge.stats().saved < 1e-9, "sent");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_hedged_does_not_stop_hedges() {
    let hedge = warm_one().await;
    // A deadline so near that no second attempt could answer by it.
    for _ in 0..200 {
        let call = |_| async {
            tokio::time::sleep(ms(1000)).await;
            Ok::<_, io::Error>(())
        };
        let run = hedge.run_until(call, Deadline::after(ms(1)));
        assert!(tokio::time::timeout(ms(2), run).await.is_err());
    }
    assert_eq!(hedge.stats().sent, 0);
    assert!(!hedge.shared.core.is_in_vain());
}
