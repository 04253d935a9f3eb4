//! How long a claim holds, and what comes after.

use std::time::Duration;

use super::lab::{Checked, Lab, outcome, want};
use crate::store::{Begun, Finish, OnInterrupted, Record, Renewed, State, Store};

pub(super) async fn keeps_others_out<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let id = lab.id();
    let (generation, _) = lab.granted(&id, &lab.claim()).await?;
    let lease = lab.lease();
    let mut before = lease;
    for _ in 0..3 {
        for policy in [OnInterrupted::Fail, OnInterrupted::Rerun(9), OnInterrupted::Probe] {
            let claim = lab.claim().on_interrupted(policy);
            match lab.begin(&id, &claim).await? {
                Begun::Busy { generation: theirs, retry_in }
                    if theirs == generation && retry_in <= before && retry_in > Duration::ZERO =>
                {
                    before = retry_in;
                }
                seen => {
                    let expected = format!(
                        "Busy of generation {generation}, with less and less of {lease:?} left"
                    );
                    return lab.fail(expected, format!("{seen:?}"));
                }
            }
        }
        let left = lab.there(&id, "while its lease holds").await?.lease_left;
        if left > before || left.is_zero() {
            return lab.fail(format!("at most {before:?} of the lease left"), format!("{left:?}"));
        }
        lab.pass(1).await;
    }
    Ok(())
}

pub(super) async fn renewal<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, claim) = (lab.id(), lab.claim());
    lab.granted(&id, &claim).await?;
    for _ in 0..4 {
        lab.pass(2).await;
        want!(lab, Renewed::Held, lab.renew(&id, &claim).await?, "by its owner");
        want!(lab, Renewed::Fenced, lab.renew(&id, &lab.claim()).await?, "by somebody else");
        want!(
            lab,
            Begun::Busy { .. },
            lab.begin(&id, &lab.rerun(9)).await?,
            "while the lease is renewed"
        );
    }
    // Late, but nobody has come.
    lab.pass_a_lease().await;
    want!(lab, Renewed::Held, lab.renew(&id, &claim).await?, "late, as nobody has come");
    want!(lab, Begun::Busy { .. }, lab.begin(&id, &lab.rerun(9)).await?, "after that");
    want!(lab, Finish::Applied, lab.complete(&id, &claim, outcome(1)).await?, "by its owner");
    want!(lab, Renewed::Fenced, lab.renew(&id, &claim).await?, "of a completed record");
    want!(lab, Renewed::Fenced, lab.renew(&lab.id(), &claim).await?, "of no record");
    Ok(())
}

pub(super) async fn not_run_again<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let id = lab.id();
    lab.granted(&id, &lab.claim()).await?;
    lab.pass_a_lease().await;
    for policy in [OnInterrupted::Fail, OnInterrupted::Rerun(9), OnInterrupted::Probe] {
        // Declared by the first of them, whatever the others would have done.
        let claim = lab.claim().on_interrupted(policy);
        want!(
            lab,
            Begun::Interrupted(Record { state: State::Interrupted, runs: 1, .. }),
            lab.begin(&id, &claim).await?,
            "when the lease has ended"
        );
    }
    let record = lab.there(&id, "that is interrupted").await?;
    lab.equal(&record.state, &State::Interrupted, "in the record")
}

pub(super) async fn late_owner<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, claim) = (lab.id(), lab.claim());
    lab.granted(&id, &claim).await?;
    lab.pass_a_lease().await;
    want!(lab, Begun::Interrupted(_), lab.begin(&id, &lab.claim()).await?, "after the lease");
    want!(lab, Renewed::Interrupted, lab.renew(&id, &claim).await?, "by the late owner");
    want!(
        lab,
        Finish::Fenced,
        lab.complete(&id, &lab.claim(), outcome(2)).await?,
        "by somebody else"
    );
    want!(lab, Finish::Applied, lab.complete(&id, &claim, outcome(1)).await?, "by its owner");
    match lab.begin(&id, &lab.claim()).await? {
        Begun::Done(record) if record.state.outcome().is_some_and(|kept| **kept == outcome(1)) => {
            Ok(())
        }
        seen => lab.fail("the outcome of the late owner", format!("{seen:?}")),
    }
}

pub(super) async fn rerun<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let id = lab.id();
    lab.granted(&id, &lab.rerun(3)).await?;
    for runs in 2..=3 {
        lab.pass_a_lease().await;
        match lab.begin(&id, &lab.rerun(3)).await? {
            Begun::Run { runs: seen, .. } if seen == runs => {}
            seen => return lab.fail(format!("run {runs} of 3"), format!("{seen:?}")),
        }
        want!(lab, Begun::Busy { .. }, lab.begin(&id, &lab.rerun(3)).await?, "after a take-over");
    }
    lab.pass_a_lease().await;
    want!(
        lab,
        Begun::Interrupted(Record { runs: 3, .. }),
        lab.begin(&id, &lab.rerun(3)).await?,
        "after 3 runs of 3"
    );
    Ok(())
}

pub(super) async fn one_takes_over<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let id = lab.id();
    lab.granted(&id, &lab.claim()).await?;
    lab.pass_a_lease().await;
    let all = lab.together(id, (0..lab.claims()).map(|_| lab.rerun(9)).collect()).await?;
    let won = all.iter().filter(|begun| matches!(begun, Begun::Run { runs: 2, .. })).count();
    let busy = all.iter().filter(|begun| matches!(begun, Begun::Busy { .. })).count();
    if (won, busy) == (1, lab.claims() - 1) {
        return Ok(());
    }
    lab.fail(
        format!("1 to take over and {} told that it is taken", lab.claims() - 1),
        format!("{won} and {busy}"),
    )
}

pub(super) async fn probe<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let id = lab.id();
    let probe = || lab.claim().on_interrupted(OnInterrupted::Probe);
    want!(lab, Begun::Run { .. }, lab.begin(&id, &probe()).await?, "when nobody was before");
    lab.pass_a_lease().await;
    let first = probe();
    want!(lab, Begun::Probe { runs: 2, .. }, lab.begin(&id, &first).await?, "after the lease");
    for claim in [lab.claim(), lab.rerun(9), probe()] {
        want!(lab, Begun::Busy { .. }, lab.begin(&id, &claim).await?, "while one probes");
    }
    // Who probes may be gone, too.
    lab.pass_a_lease().await;
    let second = probe();
    want!(lab, Begun::Probe { runs: 3, .. }, lab.begin(&id, &second).await?, "after that lease");
    want!(lab, Finish::Fenced, lab.complete(&id, &first, outcome(1)).await?, "by the first");
    want!(lab, Finish::Applied, lab.complete(&id, &second, outcome(2)).await?, "by the second");
    want!(lab, Begun::Done(_), lab.begin(&id, &probe()).await?, "when it was found out");
    Ok(())
}

pub(super) async fn zombie<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, zombie) = (lab.id(), lab.rerun(9));
    lab.granted(&id, &zombie).await?;
    lab.pass_a_lease().await;
    let owner = lab.rerun(9);
    want!(lab, Begun::Run { .. }, lab.begin(&id, &owner).await?, "to take over");
    let before = lab.there(&id, "that was taken over").await?;
    let all_fenced = |when: &'static str| async move {
        want!(lab, Renewed::Fenced, lab.renew(&id, &zombie).await?, when);
        want!(lab, Finish::Fenced, lab.complete(&id, &zombie, outcome(1)).await?, when);
        want!(lab, Finish::Fenced, lab.interrupt(&id, &zombie).await?, when);
        want!(lab, Finish::Fenced, lab.release(&id, &zombie).await?, when);
        lab.store.abandon(&id, zombie.attempt);
        Ok(())
    };
    all_fenced("for a zombie while its successor runs").await?;
    let after = lab.there(&id, "that a zombie tried to change").await?;
    lab.equal(&after.attempt, &before.attempt, "as the owner")?;
    lab.equal(&after.generation, &before.generation, "as the generation")?;
    want!(lab, Begun::Busy { .. }, lab.begin(&id, &lab.rerun(9)).await?, "as before");
    want!(lab, Finish::Applied, lab.complete(&id, &owner, outcome(2)).await?, "by its owner");
    all_fenced("for a zombie when its successor has completed").await?;
    let kept = lab.there(&id, "that is completed").await?;
    match kept.state.outcome() {
        Some(kept) if **kept == outcome(2) => Ok(()),
        seen => lab.fail("the outcome of the successor", format!("{seen:?}")),
    }
}

pub(super) async fn abandoned<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, claim) = (lab.id(), lab.claim());
    lab.granted(&id, &claim).await?;
    lab.store.abandon(&id, lab.claim().attempt);
    want!(
        lab,
        Begun::Busy { .. },
        lab.begin(&id, &lab.claim()).await?,
        "when somebody else says that he has gone"
    );
    lab.store.abandon(&id, claim.attempt);
    lab.pass_a_lease().await;
    want!(
        lab,
        Begun::Interrupted(_),
        lab.begin(&id, &lab.claim()).await?,
        "when the owner has gone"
    );
    Ok(())
}
