//! The properties about giving back.

use std::task::Poll;

use tower_service::Service;

use super::handle::Answer;
use super::rig::{Rig, catch_panic, poll_ready, property, readiness};
use super::subject::{Subject, TestableLayer};
use super::violation::{ContractViolation, Property};
use super::wake::ByHand;

property! {
    /// A service that was ready and is dropped without a call gives back what it took, every time.
    not_called_after_ready_releases, NotCalledAfterReadyReleases, slots 1, |rig| {
        for round in 0..rig.subject.rounds {
            drop(rig.ready_clone(&format!("after {round} ready clones were dropped")).await?);
        }
        rig.nothing_is_held("after ready clones were dropped").await?;
        rig.call_goes_through("after ready clones were dropped uncalled").await
    }
}

property! {
    /// A service dropped while it waits withdraws; one dropped while its call is in flight leaves the
    /// call running; and with the last of them the inner service is gone.
    service_drop_releases, ServiceDropReleases, slots 0, |rig| {
        for round in 0..rig.subject.rounds {
            let mut waiting = rig.service.clone();
            let ready = poll_ready(&mut waiting);
            match (rig.subject.polls_inner_in_ready, ready) {
                (true, Poll::Pending) => drop(waiting),
                (false, Poll::Ready(Ok(()))) => {
                    let mut call = ByHand::new(waiting.call(rig.request()));
                    drop(waiting);
                    let _pending = call.poll();
                }
                (waits, ready) => {
                    return rig.fail(
                        if waits { "pending while inner is full" } else { "ready (as declared)" },
                        format!("poll_ready in round {}: {}", round + 1, readiness(&ready)),
                    );
                }
            }
        }
        rig.nothing_is_held("after services were dropped while they waited").await?;
        rig.probe.set_slots(1);
        rig.call_goes_through("after services were dropped while they waited").await?;

        rig.probe.hold_answers(true);
        let mut call = rig.in_flight("whose service is dropped").await?;
        rig.probe.hold_answers(false);
        let before = rig.counts().completed;
        rig.probe.release(usize::MAX);
        let answered = rig.finish(&mut call).await.is_some();
        rig.must_be_answered(answered, before, "after its service was dropped")?;
        drop(call);
        rig.nothing_is_held("after that call").await?;

        let other = Rig::new(rig.subject, rig.property, 1);
        other.call_goes_through("of a service about to be dropped").await?;
        let Rig { service, probe, .. } = other;
        drop(service);
        for _ in 0..rig.turns() {
            if probe.counts().instances == 0 {
                return Ok(());
            }
            rig.turn().await;
        }
        rig.fail(
            "the inner service gone with the last service and future",
            format!("{} instances alive", probe.counts().instances),
        )
    }
}

property! {
    /// A response future that is dropped before its first poll gives back what the call took.
    future_drop_before_first_poll_releases, FutureDropBeforeFirstPollReleases, slots 1, |rig| {
        for round in 0..rig.subject.rounds {
            let mut service =
                rig.ready_clone(&format!("after {round} futures were dropped unpolled")).await?;
            drop(service.call(rig.request()));
        }
        rig.nothing_is_held("after futures were dropped unpolled").await?;
        rig.call_goes_through("after futures were dropped unpolled").await
    }
}

property! {
    /// A response future that is dropped while the inner service works gives back what the call took.
    future_drop_mid_flight_releases, FutureDropMidFlightReleases, slots 1, |rig| {
        rig.probe.hold_answers(true);
        for round in 0..rig.subject.rounds {
            drop(rig.in_flight(&format!("after {round} were dropped in flight")).await?);
            rig.nothing_is_held("after a future was dropped in flight").await?;
        }
        rig.probe.hold_answers(false);
        rig.call_goes_through("after futures were dropped in flight").await
    }
}

property! {
    /// A call that has answered holds nothing, even while its future is still there. Callers keep
    /// finished futures for a while: in a `select!`, a `join_all`, a buffer.
    response_ready_releases_before_future_drop, ResponseReadyReleasesBeforeFutureDrop, slots 1,
    |rig| {
        let mut finished = Vec::new();
        for round in 0..rig.subject.rounds {
            let when = format!("while {round} finished futures are kept");
            let mut service = rig.ready_clone(&when).await?;
            let mut call = Box::pin(service.call(rig.request()));
            drop(service);
            let before = rig.counts().completed;
            let answered = rig.drive(call.as_mut()).await.is_some();
            rig.must_be_answered(answered, before, &when)?;
            finished.push(call);
            rig.nothing_is_held(&when).await?;
        }
        rig.call_goes_through("while finished futures are kept").await
    }
}

property! {
    /// A panic of the inner service, in `call` or in its future, leaves nothing held, and every other
    /// clone goes on working.
    panicking_inner_leaves_usable_state, PanickingInnerLeavesUsableState, slots 1, |rig| {
        for answer in [Answer::PanicInCall, Answer::PanicInPoll] {
            let when = if matches!(answer, Answer::PanicInCall) { "in call" } else { "in poll" };
            let mut sibling = rig.service.clone();
            let mut service = rig.ready_clone(&format!("before a panic {when}")).await?;
            rig.probe.next(answer);
            let before = rig.counts().panicked;
            let panicking = catch_panic(async {
                let call = service.call(rig.request());
                rig.drive(call).await.is_some()
            });
            // A layer that catches panics answers, any other unwinds. Neither may stall.
            let stalled = matches!(panicking.await, Ok(false));
            drop(service);
            if stalled || rig.counts().panicked == before {
                return rig.fail(
                    format!("the panic {when} to unwind or to be answered"),
                    if stalled { "no answer" } else { "the inner service was not called" },
                );
            }
            rig.nothing_is_held(&format!("after a panic {when}")).await?;
            let when = format!("on a clone from before a panic {when}");
            rig.make_ready(&mut sibling, &when).await?;
            rig.finish_call(&mut sibling, &when).await?;
            rig.call_goes_through(&when.replace("before", "after")).await?;
        }
        Ok(())
    }
}
