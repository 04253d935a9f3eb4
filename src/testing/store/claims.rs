//! Who gets a key.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use super::lab::{Checked, Lab, outcome, want};
use crate::store::{Attempt, Begun, Claim, Fingerprint, Finish, State, Store};

fn count(all: &[Begun], which: impl Fn(&Begun) -> bool) -> usize {
    all.iter().filter(|begun| which(begun)).count()
}

pub(super) async fn one_of_many_wins<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    for _ in 0..5 {
        let claims = (0..lab.claims()).map(|_| lab.claim()).collect();
        let all = lab.together(lab.id(), claims).await?;
        let won = count(&all, |begun| matches!(begun, Begun::Run { runs: 1, .. }));
        let busy = count(&all, |begun| matches!(begun, Begun::Busy { .. }));
        if (won, busy) != (1, lab.claims() - 1) {
            let expected = format!("1 winner and {} told that it is taken", lab.claims() - 1);
            return lab.fail(expected, format!("{won} winners and {busy} told"));
        }
    }
    Ok(())
}

pub(super) async fn same_attempt<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let (id, claim) = (lab.id(), lab.claim());
    let first = lab.granted(&id, &claim).await?;
    for _ in 0..3 {
        let again = lab.granted(&id, &claim).await?;
        lab.equal(&again, &first, "as generation and runs of the same claim again")?;
    }
    // Also when the answer was lost for longer than the lease.
    lab.pass_a_lease().await;
    lab.equal(&lab.granted(&id, &claim).await?, &first, "after the lease, as nobody else came")?;
    want!(
        lab,
        Begun::Busy { .. },
        lab.begin(&id, &lab.claim()).await?,
        "because the repeated claim holds a lease again"
    );
    // A claim taken over meanwhile is not the same any more.
    lab.pass_a_lease().await;
    want!(
        lab,
        Begun::Run { runs: 2, .. },
        lab.begin(&id, &lab.rerun(2)).await?,
        "for a claim that may run again"
    );
    want!(
        lab,
        Begun::Busy { .. },
        lab.begin(&id, &claim).await?,
        "for an attempt that was taken over"
    );
    Ok(())
}

pub(super) async fn mismatch_comes_first<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let other = |claim: Claim| Claim { fingerprint: Fingerprint::of(b"b"), ..claim };
    let (id, claim) = (lab.id(), lab.claim());
    lab.granted(&id, &claim).await?;
    let wrong = |when: &'static str| async move {
        for claim in [lab.claim(), lab.rerun(9)] {
            want!(lab, Begun::Mismatch, lab.begin(&id, &other(claim)).await?, when);
        }
        Ok(())
    };
    wrong("while it is in flight").await?;
    lab.pass_a_lease().await;
    wrong("when the lease has ended").await?;
    want!(lab, Begun::Interrupted(_), lab.begin(&id, &lab.claim()).await?, "for the right one");
    wrong("when it is interrupted").await?;
    want!(lab, Finish::Applied, lab.complete(&id, &claim, outcome(1)).await?, "by its owner");
    wrong("when it is completed").await?;
    let all = lab.together(id, (0..20).map(|_| other(lab.claim())).collect()).await?;
    lab.equal(&count(&all, |begun| *begun == Begun::Mismatch), &20, "of 20 mistakes told")
}

pub(super) async fn records_do_not_mix<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let all: Vec<_> = (0..20).map(|_| (lab.id(), lab.claim())).collect();
    for (id, claim) in &all {
        lab.granted(id, claim).await?;
    }
    for (n, (id, claim)) in (0..).zip(&all) {
        match n % 3 {
            0 => want!(
                lab,
                Finish::Applied,
                lab.complete(id, claim, outcome(n)).await?,
                "of one of several"
            ),
            1 => want!(lab, Finish::Applied, lab.release(id, claim).await?, "of one of several"),
            _ => {}
        }
    }
    for (n, (id, claim)) in (0..).zip(&all) {
        let record = lab.get(id).await?;
        let as_left = match (n % 3, &record) {
            (0, Some(record)) => record.state.outcome().is_some_and(|kept| **kept == outcome(n)),
            (1, None) => true,
            (2, Some(record)) => record.state == State::Pending && record.attempt == claim.attempt,
            _ => false,
        };
        if !as_left {
            return lab.fail("each record as it was left", format!("{record:?} as number {n}"));
        }
    }
    Ok(())
}

pub(super) async fn generations_grow<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    let id = lab.id();
    let mut last = 0;
    for _ in 0..10 {
        let claim = lab.claim();
        let (generation, runs) = lab.granted(&id, &claim).await?;
        if generation <= last {
            let expected = format!("a generation above {last} after a release");
            return lab.fail(expected, format!("{generation}"));
        }
        lab.equal(&runs, &1, "as the runs of a key that was released")?;
        lab.equal(&lab.there(&id, "of a claim").await?.generation, &generation, "in the record")?;
        last = generation;
        want!(lab, Finish::Applied, lab.release(&id, &claim).await?, "by its owner");
    }
    lab.granted(&id, &lab.claim()).await?;
    lab.pass_a_lease().await;
    match lab.begin(&id, &lab.rerun(2)).await? {
        Begun::Run { generation, .. } if generation > last => Ok(()),
        seen => lab.fail(format!("a generation above {last} in a take-over"), format!("{seen:?}")),
    }
}

pub(super) async fn cancelled<S: Store + Clone>(lab: &Lab<'_, S>) -> Checked {
    for polls in 0..10 {
        let (id, claim) = (lab.id(), lab.claim());
        {
            let mut begin = pin!(lab.store.begin(&id, &claim));
            for _ in 0..polls {
                let ready = poll_fn(|cx| Poll::Ready(begin.as_mut().poll(cx).is_ready())).await;
                if ready {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        want!(
            lab,
            Begun::Run { runs: 1, .. },
            lab.begin(&id, &claim).await?,
            format!("for a claim made again that was dropped after {polls} polls")
        );
        want!(
            lab,
            Begun::Busy { .. },
            lab.begin(&id, &Claim { attempt: Attempt::new(), ..claim }).await?,
            "for another claim"
        );
    }
    Ok(())
}
