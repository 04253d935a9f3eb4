//! What the stores on other machines have in common.

use super::{Begun, Claim, Entry, OnInterrupted, State, StoreTime};

/// How many runs a claim may take over, as a number: none, some, any.
pub(super) fn reruns(policy: OnInterrupted) -> i32 {
    match policy {
        OnInterrupted::Fail => 0,
        OnInterrupted::Rerun(runs) => i32::from(runs),
        OnInterrupted::Probe => i32::MAX,
    }
}

/// What a claim is answered when the record is this after it; `None` if it should have been taken over.
pub(super) fn met(entry: &Entry, claim: &Claim, now: StoreTime) -> Option<Begun> {
    let (generation, runs) = (entry.generation, entry.runs);
    if entry.attempt == claim.attempt && entry.state == State::Pending {
        // A claim with this policy that is not the first one has taken over, also when it is repeated because
        // the answer was lost.
        let probe = claim.on_interrupted == OnInterrupted::Probe && runs > 1;
        return Some(match probe {
            true => Begun::Probe { generation, runs },
            false => Begun::Run { generation, runs },
        });
    }
    if entry.fingerprint != claim.fingerprint {
        return Some(Begun::Mismatch);
    }
    match entry.state {
        State::Completed(_) => Some(Begun::Done(entry.record(now))),
        State::Interrupted => Some(Begun::Interrupted(entry.record(now))),
        State::Pending if now < entry.lease_until => {
            Some(Begun::Busy { generation, retry_in: entry.lease_until.since(now) })
        }
        State::Pending => None,
    }
}
