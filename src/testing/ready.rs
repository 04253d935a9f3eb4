//! The properties about readiness and state.

use std::task::Poll;

use tower_service::Service;

use super::probe::Probe;
use super::rig::{Rig, poll_ready, property, readiness};
use super::subject::{ReadyError, State, Subject, TestableLayer};
use super::violation::{ContractViolation, Property};
use super::wake::ByHand;

property! {
    /// A clone of a ready service does not inherit its readiness: with one inner slot, taken by the
    /// original, the clone is pending; and a call on it is preceded by its own `poll_ready`.
    clone_is_not_ready, CloneIsNotReady, slots 1, |rig| {
        let mut first = rig.ready_clone("at the start").await?;
        let mut second = first.clone();
        if rig.subject.polls_inner_in_ready {
            let second_is = poll_ready(&mut second);
            if !second_is.is_pending() {
                return rig.fail(
                    "a clone that waits while its original holds the only inner slot",
                    format!("poll_ready of the clone: {}", readiness(&second_is)),
                );
            }
        }
        rig.finish_call(&mut first, "on the original").await?;
        drop(first);
        rig.make_ready(&mut second, "once the original was called").await?;
        rig.finish_call(&mut second, "on the clone").await?;
        rig.nothing_is_held("after both calls").await
    }
}

property! {
    /// After it said ready, `poll_ready` does not go back to pending before the call, even when the
    /// inner service has become busy and another clone has calls in flight.
    ready_is_stable_until_call, ReadyIsStableUntilCall, slots 2, |rig| {
        let mut service = rig.ready_clone("at the start").await?;
        rig.probe.hold_answers(true);
        let mut other = rig.service.clone();
        let mut other_call = None;
        if poll_ready(&mut other).is_ready() {
            let mut call = ByHand::new(other.call(rig.request()));
            let _pending = call.poll();
            other_call = Some(call);
        }
        rig.probe.hold_ready(true);
        for nth in 2..10 {
            let now = poll_ready(&mut service);
            if !matches!(now, Poll::Ready(Ok(()))) {
                return rig.fail(
                    "a ready service that stays ready until it is called",
                    format!("poll_ready number {nth}: {}", readiness(&now)),
                );
            }
            rig.turn().await;
        }
        rig.probe.hold_ready(false);
        rig.probe.hold_answers(false);
        rig.probe.release(usize::MAX);
        drop((other, other_call));
        rig.finish_call(&mut service, "after nine polls of poll_ready").await?;
        rig.nothing_is_held("after the call").await
    }
}

property! {
    /// The inner instance that was polled ready is the one that is called, also when clones are made
    /// between the two, and again for the next call of the same service.
    readied_instance_is_the_one_called, ReadiedInstanceIsTheOneCalled, slots 1, |rig| {
        let mut service = rig.service.clone();
        for nth in 1..5 {
            let when = format!("for call {nth} of one service");
            rig.make_ready(&mut service, &when).await?;
            let expected = usize::from(rig.subject.polls_inner_in_ready);
            let reserved = rig.counts().reserved;
            if reserved != expected {
                return rig.fail(
                    format!("{expected} inner slots held by a ready service (as declared)"),
                    format!("{reserved} held"),
                );
            }
            let bystander = service.clone();
            rig.finish_call(&mut service, &when).await?;
            drop(bystander);
            rig.probe_is_content()?;
            rig.nothing_is_held(&when.replace("for", "after")).await?;
        }
        Ok(())
    }
}

property! {
    /// When the inner service's `poll_ready` fails, so does the layer's (or the response, if the
    /// layer [does not poll inner in `poll_ready`](Subject::polls_inner_in_ready)); and the failed
    /// instance takes none of the others with it.
    inner_ready_error_is_passed_through, InnerReadyErrorIsPassedThrough, slots 1, |rig| {
        let error = match &rig.subject.ready_error {
            ReadyError::Some(error) => error(),
            ReadyError::Impossible => return Ok(()),
            ReadyError::Undeclared => {
                return rig.fail(
                    "a subject that declares `.ready_error(..)` or `.infallible()`",
                    "neither",
                );
            }
        };
        rig.probe.fail_ready(error);
        let mut service = rig.service.clone();
        if rig.subject.polls_inner_in_ready {
            let ready = rig.drive(std::future::poll_fn(|cx| service.poll_ready(cx))).await;
            if !matches!(ready, Some(Err(_))) {
                return rig.fail(
                    "the error of the inner poll_ready, out of poll_ready",
                    if ready.is_none() { "pending" } else { "ready" },
                );
            }
        } else {
            rig.make_ready(&mut service, "that does not poll the inner one").await?;
            let answer = rig.drive(service.call(rig.request())).await;
            if !matches!(answer, Some(Err(_))) {
                return rig.fail(
                    "the error of the inner poll_ready, as the response",
                    if answer.is_none() { "no response" } else { "a successful response" },
                );
            }
        }
        drop(service);
        rig.nothing_is_held("after the error").await?;
        rig.call_goes_through("on another clone after the error").await
    }
}

property! {
    /// Clones that are ready and wait for their call keep nobody else from calling, as long as the
    /// inner service has room. Excepted by [`Subject::reserves_in_ready`].
    ready_takes_nothing_scarce, ReadyTakesNothingScarce, slots usize::MAX, |rig| {
        if rig.subject.reserves_in_ready {
            return Ok(());
        }
        let mut idle = Vec::new();
        for round in 0..rig.subject.rounds {
            idle.push(rig.ready_clone(&format!("while {round} others are ready")).await?);
        }
        rig.call_goes_through("while others are ready and uncalled").await?;
        drop(idle);
        rig.nothing_is_held("after they were dropped").await
    }
}

property! {
    /// Two services made by one layer share its state. axum makes one per route and connection.
    layer_twice_shares_state, LayerTwiceSharesState, slots 0, |rig| {
        match &rig.subject.state {
            State::Stateless => Ok(()),
            State::Undeclared => rig.fail(
                "a subject that declares `.shared_state(..)` or `.stateless()`",
                "neither",
            ),
            State::Shared(check) => {
                let (probe, handle) = Probe::from_arc(rig.subject.answer.clone());
                let layer = (rig.subject.layer)();
                let (one, two) = (layer.layer(probe.clone()), layer.layer(probe));
                match check(one, two, handle).await {
                    Ok(()) => Ok(()),
                    Err(seen) => rig.fail("two services of one layer to share its state", seen),
                }
            }
        }
    }
}
