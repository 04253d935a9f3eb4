//! The properties about wakers and timers.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use tower_service::Service;

use super::rig::{Checked, FutureOf, Rig, message, poll_ready, property, readiness};
use super::subject::{Subject, TestableLayer};
use super::violation::{ContractViolation, Property};
use super::wake::{ByHand, CountWaker};

/// Polls while nothing happens, and how many wakes are forgiven in that time: a layer with a worker
/// task may pass one on when the worker starts.
const IDLE_POLLS: usize = 8;
const FORGIVEN: usize = 2;

const WAITERS: usize = 4;

property! {
    /// While the inner service is busy nobody is woken, neither out of `poll_ready` nor out of the
    /// response future; when it has room, or its answer, the waiter is.
    no_busy_wake_while_waiting, NoBusyWakeWhileWaiting, slots 0, |rig| {
        let mut service = rig.service.clone();
        if rig.subject.polls_inner_in_ready {
            let waker = CountWaker::new();
            for _ in 0..IDLE_POLLS {
                let ready = waker.poll_ready(&mut service);
                if !ready.is_pending() {
                    return rig.fail(
                        "poll_ready pending while the inner service is full",
                        readiness(&ready),
                    );
                }
                rig.turn().await;
            }
            let wakes = waker.take();
            if wakes > FORGIVEN {
                return rig.fail(
                    "no wake out of poll_ready while the inner service is full",
                    format!("{wakes} wakes in {IDLE_POLLS} polls"),
                );
            }
            rig.probe.set_slots(1);
            let mut turns = rig.turns();
            while waker.wakes() == 0 && turns > 0 {
                turns -= 1;
                rig.turn().await;
            }
            if turns == 0 {
                return rig.fail("a wake once the inner service has room", "none");
            }
        } else {
            rig.probe.set_slots(1);
        }
        rig.make_ready(&mut service, "once the inner service has room").await?;

        rig.probe.hold_answers(true);
        let mut call = ByHand::new(service.call(rig.request()));
        for _ in 0..IDLE_POLLS {
            if call.poll().is_ready() {
                return rig.fail("a pending response while the inner service works", "an answer");
            }
            rig.turn().await;
        }
        let wakes = call.wakes();
        if wakes > FORGIVEN {
            return rig.fail(
                "no wake of the response future while the inner service works",
                format!("{wakes} wakes in {IDLE_POLLS} polls"),
            );
        }
        rig.probe.release(usize::MAX);
        let before = rig.counts().completed;
        let answered = rig.finish(&mut call).await.is_some();
        rig.must_be_answered(answered, before, "once released")
    }
}

enum Waiter<S, F> {
    ForReady(S, CountWaker),
    ForAnswer(ByHand<F>),
    Done,
}

property! {
    /// Several clones wait, for readiness or for their answer, and each is polled only when its own
    /// waker was woken: all of them finish. One gives up at the moment it is woken, as a caller whose
    /// timeout fires; its wake must not be lost to the others.
    every_waiter_is_woken, EveryWaiterIsWoken, slots 1, |rig| {
        rig.probe.hold_answers(true);
        let mut first = rig.in_flight("that the others wait for").await?;
        let mut waiters: Vec<_> = (0..WAITERS)
            .map(|_| {
                let waker = CountWaker::new();
                waker.waker().wake_by_ref();
                Waiter::ForReady(rig.service.clone(), waker)
            })
            .collect();
        // Everyone gets its first poll while the slot is taken.
        for waiter in &mut waiters {
            step(&rig, waiter)?;
        }
        rig.probe.hold_answers(false);
        rig.probe.release(usize::MAX);
        let before = rig.counts().completed;
        let answered = rig.finish(&mut first).await.is_some();
        rig.must_be_answered(answered, before, "that the others wait for")?;
        // Whether a finished future holds anything is another property's question.
        drop(first);

        let mut one_gives_up = true;
        for _ in 0..rig.turns() {
            for waiter in &mut waiters {
                if one_gives_up && waiter.is_woken() {
                    one_gives_up = false;
                    *waiter = Waiter::Done;
                }
                step(&rig, waiter)?;
            }
            if waiters.iter().all(|waiter| matches!(waiter, Waiter::Done)) {
                return rig.nothing_is_held("after all waiters finished").await;
            }
            rig.turn().await;
        }
        let (mut ready, mut answer) = (0, 0);
        for waiter in &waiters {
            match waiter {
                Waiter::ForReady(..) => ready += 1,
                Waiter::ForAnswer(_) => answer += 1,
                Waiter::Done => {}
            }
        }
        rig.fail(
            format!("{WAITERS} waiters woken in turn, of whom the first gives up"),
            format!("{ready} left asleep in poll_ready and {answer} in their call"),
        )
    }
}

impl<S, F: Future> Waiter<S, F> {
    fn is_woken(&self) -> bool {
        match self {
            Self::ForReady(_, waker) => waker.wakes() > 0,
            Self::ForAnswer(call) => call.is_woken(),
            Self::Done => false,
        }
    }
}

/// What an executor does for a task: polls it if it was woken.
fn step<Req, Res, Err, L>(
    rig: &Rig<'_, Req, Res, Err, L>,
    waiter: &mut Waiter<L::Service, FutureOf<L, Req, Res, Err>>,
) -> Checked
where
    L: TestableLayer<Req, Res, Err>,
{
    if let Waiter::ForReady(service, waker) = waiter {
        if waker.take() == 0 {
            return Ok(());
        }
        match waker.poll_ready(service) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {
                *waiter = Waiter::ForAnswer(ByHand::new(service.call(rig.request())));
            }
            Poll::Ready(Err(_)) => return rig.fail("a waiter that becomes ready", "an error"),
        }
    }
    if let Waiter::ForAnswer(call) = waiter
        && let Some(Poll::Ready(_)) = call.poll_if_woken()
    {
        *waiter = Waiter::Done;
    }
    Ok(())
}

property! {
    /// A call that goes well works outside any runtime, on a bare thread. Excepted by
    /// [`Subject::needs_runtime`].
    no_timer_needed_on_happy_path, NoTimerNeededOnHappyPath, slots 1, |rig| {
        if rig.subject.needs_runtime {
            return Ok(());
        }
        let subject = rig.subject;
        let on_a_bare_thread = || {
            catch_unwind(AssertUnwindSafe(|| {
                let rig = Rig::new(subject, Property::NoTimerNeededOnHappyPath, 1);
                let mut service = rig.service.clone();
                let ready = poll_ready(&mut service);
                if !matches!(ready, Poll::Ready(Ok(()))) {
                    return rig.fail("ready at the first poll", readiness(&ready));
                }
                let answered = ByHand::new(service.call(rig.request())).poll().is_ready();
                rig.must_be_answered(answered, 0, "at the first poll")
            }))
        };
        let result =
            std::thread::scope(|scope| scope.spawn(on_a_bare_thread).join());
        match result {
            Ok(Ok(checked)) => checked,
            Ok(Err(panic)) | Err(panic) => {
                rig.fail("a call without a runtime", format!("a panic: {}", message(panic)))
            }
        }
    }
}
