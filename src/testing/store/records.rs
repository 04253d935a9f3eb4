//! What is kept, and for how long.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use super::lab::{Checked, Lab, outcome, want};
use crate::store::{
    Begun, Claim, Fingerprint, Finish, Outcome, RecordId, Renewed, Resolution, State, Store,
};

async fn outcome_of<S: Store + Clone>(lab: &Lab<'_, S>, id: &RecordId) -> Checked<Outcome> {
    match lab.begin(id, &lab.claim()).await? {
        Begun::Done(record) => match record.state {
            State::Completed(outcome) => Ok((*outcome).clone()),
            seen => lab.fail("a completed record", format!("{seen:?}")),
        },
        seen => lab.fail("Begun::Done of a completed record", format!("{seen:?}")),
    }
}

async fn given_as_it_was<S: Store + Clone>(lab: &Lab<'_, S>, expected: &Outcome) -> Checked {
    let (id, claim) = (lab.id(), lab.claim());
    lab.granted(&id, &claim).await?;
    let finish = lab.complete(&id, &claim, expected.clone()).await?;
    want!(lab, Finish::Applied, finish, "with room for the outcome");
    let seen = outcome_of(lab, &id).await?;
    if seen != *expected {
        return lab.fail(format!("{expected:?}"), format!("{seen:?}, or other bytes"));
    }
    let record = lab.there(&id, "that is completed").await?;
    lab.equal(&record.state.outcome().map(|kept| **kept == *expected), &Some(true), "from get")?;
    lab.equal(&record.fingerprint, &claim.fingerprint, "as the fingerprint")?;
    lab.equal(&record.attempt, &claim.attempt, "as the attempt")
}

pub(super) async fn outcomes<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let bytes: Vec<u8> = (0..=255).collect();
    for expected in [
        Outcome::new(200, bytes.clone(), bytes.clone()),
        Outcome::new(0, [], []),
        Outcome::new(u16::MAX, *b"head", []),
        Outcome::new(32_768, [], *b"body"),
        Outcome::not_retained(201, bytes.clone()),
        Outcome::not_retained(500, []),
        Outcome::new(200, [], bytes.repeat(256)),
    ] {
        given_as_it_was(lab, &expected).await?;
    }
    Ok(())
}

pub(super) async fn first_stays<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, claim) = (lab.id(), lab.claim());
    lab.granted(&id, &claim).await?;
    want!(lab, Finish::Applied, lab.complete(&id, &claim, outcome(1)).await?, "the first time");
    for _ in 0..2 {
        let again = lab.complete(&id, &claim, outcome(2)).await?;
        want!(lab, Finish::Already, again, "again");
    }
    let other = lab.complete(&id, &lab.claim(), outcome(3)).await?;
    want!(lab, Finish::Fenced, other, "by somebody else");
    want!(lab, Finish::Fenced, lab.interrupt(&id, &claim).await?, "of a completed record");
    lab.store.abandon(&id, claim.attempt);
    lab.pass_a_lease().await;
    lab.equal(&outcome_of(lab, &id).await?, &outcome(1), "as the outcome")?;
    let none = lab.complete(&lab.id(), &claim, outcome(1)).await?;
    want!(lab, Finish::Fenced, none, "of no record");
    Ok(())
}

pub(super) async fn release<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, claim) = (lab.id(), lab.claim());
    lab.granted(&id, &claim).await?;
    want!(lab, Finish::Fenced, lab.release(&id, &lab.claim()).await?, "by somebody else");
    want!(lab, Finish::Applied, lab.release(&id, &claim).await?, "by its owner");
    want!(lab, None, lab.get(&id).await?, "after a release");
    want!(lab, Finish::Already, lab.release(&id, &claim).await?, "again");
    // Also for another payload: it was never claimed.
    let next = Claim { fingerprint: Fingerprint::of(b"b"), ..lab.claim() };
    lab.equal(&lab.granted(&id, &next).await?.1, &1, "as the runs of the next")?;
    want!(lab, Finish::Applied, lab.complete(&id, &next, outcome(1)).await?, "by its owner");
    want!(lab, Finish::Fenced, lab.release(&id, &next).await?, "of a completed record");
    // Interrupted, but its owner knows better.
    let (id, claim) = (lab.id(), lab.claim());
    lab.granted(&id, &claim).await?;
    lab.pass_a_lease().await;
    want!(lab, Begun::Interrupted(_), lab.begin(&id, &lab.claim()).await?, "after the lease");
    want!(lab, Finish::Applied, lab.release(&id, &claim).await?, "by the late owner");
    lab.granted(&id, &lab.claim()).await?;
    Ok(())
}

pub(super) async fn released_take_over<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, first) = (lab.id(), lab.rerun(2));
    lab.granted(&id, &first).await?;
    lab.pass_a_lease().await;
    // Twice, since what was released does not count as a run.
    for _ in 0..2 {
        let next = lab.rerun(2);
        want!(lab, Begun::Run { runs: 2, .. }, lab.begin(&id, &next).await?, "to take over");
        want!(lab, Finish::Applied, lab.release(&id, &next).await?, "of what took over");
        want!(lab, Finish::Fenced, lab.release(&id, &next).await?, "again");
        let record = lab.there(&id, "of the owner before").await?;
        lab.equal(&record.state, &State::Pending, "as before the take-over")?;
        lab.equal(&record.runs, &1, "as before the take-over")?;
        lab.equal(&record.lease_left.is_zero(), &true, "as no lease left")?;
        let late = lab.complete(&id, &next, outcome(1)).await?;
        want!(lab, Finish::Fenced, late, "by who has given it back");
    }
    let late = lab.complete(&id, &first, outcome(1)).await?;
    want!(lab, Finish::Fenced, late, "by the owner before, who was fenced off");
    let begun = lab.begin(&id, &lab.claim()).await?;
    want!(lab, Begun::Interrupted(_), begun, "since nobody knows of the owner before");
    Ok(())
}

pub(super) async fn interrupted<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, claim) = (lab.id(), lab.claim());
    lab.granted(&id, &claim).await?;
    want!(lab, Finish::Fenced, lab.interrupt(&id, &lab.claim()).await?, "by somebody else");
    want!(lab, Finish::Applied, lab.interrupt(&id, &claim).await?, "by its owner");
    want!(lab, Finish::Already, lab.interrupt(&id, &claim).await?, "again");
    for _ in 0..2 {
        let rerun = lab.begin(&id, &lab.rerun(9)).await?;
        want!(lab, Begun::Interrupted(_), rerun, "whatever the policy");
        lab.pass_a_lease().await;
    }
    want!(lab, Finish::Fenced, lab.interrupt(&lab.id(), &claim).await?, "of no record");
    Ok(())
}

pub(super) async fn resolve<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, claim) = (lab.id(), lab.claim());
    let (generation, _) = lab.granted(&id, &claim).await?;
    let found = || Resolution::completed(outcome(1));
    for resolution in [found(), Resolution::Forget] {
        let finish = lab.resolve(&id, generation, resolution).await?;
        want!(lab, Finish::Fenced, finish, "while the lease holds");
    }
    want!(lab, Finish::Applied, lab.interrupt(&id, &claim).await?, "by its owner");
    for wrong in [generation - 1, generation + 1] {
        for resolution in [found(), Resolution::Forget] {
            let finish = lab.resolve(&id, wrong, resolution).await?;
            want!(lab, Finish::Fenced, finish, "for another generation");
        }
    }
    want!(lab, Finish::Applied, lab.resolve(&id, generation, found()).await?, "when interrupted");
    lab.equal(&outcome_of(lab, &id).await?, &outcome(1), "as the outcome that was found")?;
    let again = lab.resolve(&id, generation, Resolution::completed(outcome(2))).await?;
    want!(lab, Finish::Fenced, again, "when completed");
    let late = lab.complete(&id, &claim, outcome(3)).await?;
    want!(lab, Finish::Fenced, late, "by an owner whose record was resolved");
    want!(lab, Renewed::Fenced, lab.renew(&id, &claim).await?, "by him");
    let finish = lab.resolve(&id, generation, Resolution::Forget).await?;
    want!(lab, Finish::Applied, finish, "to forget what is completed");
    want!(lab, None, lab.get(&id).await?, "that was forgotten");

    // Nobody has come since the lease ended.
    let (next, _) = lab.granted(&id, &claim).await?;
    lab.pass_a_lease().await;
    let finish = lab.resolve(&id, next, Resolution::Forget).await?;
    want!(lab, Finish::Applied, finish, "when the lease has ended");
    let late = lab.complete(&id, &claim, outcome(3)).await?;
    want!(lab, Finish::Fenced, late, "by an owner whose record was forgotten");
    let none = lab.resolve(&lab.id(), next, Resolution::Forget).await?;
    want!(lab, Finish::Fenced, none, "of no record");
    Ok(())
}

pub(super) async fn retention<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, other) = (lab.id(), lab.id());
    let claim = lab.claim();
    let short = Claim { retention: lab.lease(), ..claim };
    let (generation, _) = lab.granted(&id, &claim).await?;
    // Counted anew from the moment it is completed, also if that makes it shorter.
    want!(lab, Finish::Applied, lab.complete(&id, &short, outcome(1)).await?, "by its owner");
    lab.pass(2).await;
    lab.equal(&outcome_of(lab, &id).await?, &outcome(1), "before its retention is over")?;
    let left = lab.there(&id, "before its retention is over").await?.expires_in;
    if left.is_zero() || left > short.retention {
        return lab.fail(format!("less than {:?} left", short.retention), format!("{left:?}"));
    }
    lab.granted(&other, &short).await?;
    want!(lab, Finish::Applied, lab.interrupt(&other, &short).await?, "by its owner");
    // One that was interrupted may be kept for as long as if its lease had ended by itself.
    lab.pass(9).await;
    for id in [&id, &other] {
        want!(lab, None, lab.get(id).await?, "when its retention is over");
    }
    let next = Claim { fingerprint: Fingerprint::of(b"b"), ..lab.claim() };
    let (again, runs) = lab.granted(&id, &next).await?;
    lab.equal(&runs, &1, "as the runs of a key that was forgotten")?;
    if again <= generation {
        return lab.fail(format!("a generation above {generation}"), format!("{again}"));
    }
    let late = lab.complete(&id, &claim, outcome(2)).await?;
    want!(lab, Finish::Fenced, late, "by the owner of before");
    Ok(())
}

pub(super) async fn lease_outlives<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let claim = Claim { retention: lab.lease() / 4, ..lab.claim() };
    let id = lab.id();
    lab.granted(&id, &claim).await?;
    for _ in 0..3 {
        lab.pass(3).await;
        let _ = lab.store.purge(1_000_000).await;
        want!(lab, Some(_), lab.get(&id).await?, "while its lease holds");
        want!(lab, Begun::Busy { .. }, lab.begin(&id, &lab.rerun(9)).await?, "as before");
        want!(lab, Renewed::Held, lab.renew(&id, &claim).await?, "by its owner");
    }
    Ok(())
}

pub(super) async fn follows_the_lease<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let all = [false, true].map(|renewed| {
        let retention = [lab.lease() / 2, lab.lease()];
        retention.map(|retention| (lab.id(), Claim { retention, ..lab.claim() }, renewed))
    });
    for (id, claim, renewed) in all.as_flattened() {
        lab.granted(id, claim).await?;
        if *renewed {
            want!(lab, Renewed::Held, lab.renew(id, claim).await?, "by its owner");
        }
    }
    lab.pass_a_lease().await;
    let _ = lab.store.purge(1_000_000).await;
    for (id, claim, _) in all.as_flattened() {
        let next = Claim { retention: claim.retention, ..lab.claim() };
        let when =
            format!("with a retention of {:?} and a lease of {:?}", claim.retention, claim.lease);
        want!(lab, Begun::Interrupted(_), lab.begin(id, &next).await?, when);
    }
    Ok(())
}

pub(super) async fn purge<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let short = || Claim { retention: lab.lease(), ..lab.claim() };
    let mut expired = vec![];
    let mut kept = vec![];
    for _ in 0..10 {
        let (id, claim) = (lab.id(), short());
        lab.granted(&id, &claim).await?;
        want!(lab, Finish::Applied, lab.complete(&id, &claim, outcome(1)).await?, "by its owner");
        expired.push(id);
        let (id, claim) = (lab.id(), lab.claim());
        lab.granted(&id, &claim).await?;
        want!(lab, Finish::Applied, lab.complete(&id, &claim, outcome(2)).await?, "by its owner");
        kept.push(id);
    }
    lab.pass_a_lease().await;
    for limit in [0, 3, 1_000_000] {
        match lab.store.purge(limit).await {
            Ok(removed) if removed <= limit => {}
            Ok(removed) => {
                return lab.fail(format!("at most {limit} purged"), format!("{removed}"));
            }
            Err(error) => return lab.fail("an answer to purge", format!("an error: {error}")),
        }
    }
    for id in &expired {
        want!(lab, None, lab.get(id).await?, "that has expired");
    }
    for id in &kept {
        lab.equal(&outcome_of(lab, id).await?, &outcome(2), "of what has not expired")?;
    }
    Ok(())
}

pub(super) async fn get<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, claim) = (lab.id(), lab.claim());
    want!(lab, None, lab.get(&id).await?, "before the first claim");
    let (generation, _) = lab.granted(&id, &claim).await?;
    lab.pass_a_lease().await;
    for _ in 0..2 {
        let record = lab.there(&id, "whose lease has ended").await?;
        lab.equal(&record.state, &State::Pending, "when nobody has claimed it since")?;
        lab.equal(&record.lease_left.is_zero(), &true, "as no lease left")?;
        lab.equal(&record.generation, &generation, "as the generation")?;
        if record.age < lab.lease() {
            return lab.fail("the age of the record", format!("{:?}", record.age));
        }
    }
    let rerun = lab.begin(&id, &lab.rerun(2)).await?;
    want!(lab, Begun::Run { runs: 2, .. }, rerun, "after it was looked at");
    Ok(())
}

pub(super) async fn changed<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, claim) = (lab.id(), lab.claim());
    let (generation, _) = lab.granted(&id, &claim).await?;
    let mut changed = pin!(lab.store.changed(&id, generation));
    for _ in 0..10 {
        if poll_fn(|cx| Poll::Ready(changed.as_mut().poll(cx).is_ready())).await {
            return lab.fail("nobody told of a change", "a change of a record that is pending");
        }
        want!(lab, Renewed::Held, lab.renew(&id, &claim).await?, "by its owner");
        lab.pass(1).await;
    }
    Ok(())
}
