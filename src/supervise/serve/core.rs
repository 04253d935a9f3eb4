//! When a connection without a request is given up. Plain arithmetic on ticks.

use std::time::Duration;

use crate::clock::Tick;

/// How long connections may do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// To send the head of a request once begun, and to begin the first one.
    pub(super) header: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
    /// Without taking a byte of what is written to it.
    pub(super) write: Duration,
    /// While draining: since the connection was made or did something.
    pub(super) grace: Duration,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// A request is with the service, or its answer is being made.
    Serving,
    /// The peer does not take what is written; the number counts its stops.
    Stalled(u32),
    /// A part of a head has come.
    ReadingHead,
    /// Nothing.
    Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Leave it alone, at least until then.
    Wait(Option<Tick>),
    /// Nothing is expected any more: close it, unless bytes have come.
    Close,
    /// It took too long.
    Cut,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) doing: Doing,
    /// Since when it has been doing that. For `Idle`: the end of the last request, or the beginning.
    pub(super) since: Tick,
    /// Whether a request has ever come.
    pub(super) fresh: bool,
    pub(super) draining: bool,
}

pub(super) fn judge(view: View, limits: Limits, now: Tick) -> Judgement {
    let (limit, then) = match view.doing {
        Doing::Serving => return Judgement::Wait(None),
        Doing::Stalled(_) => (limits.write, Judgement::Cut),
        Doing::ReadingHead => (limits.header, Judgement::Cut),
        // A client that has just been answered is as likely to send as one that has just connected, so
        // both get the same grace: with clients that are busy, nothing is ever closed under a request.
        Doing::Idle if view.draining => (limits.grace, Judgement::Close),
        Doing::Idle if view.fresh => (limits.header, Judgement::Close),
        Doing::Idle => (limits.idle, Judgement::Close),
    };
    let end = view.since.after(limit);
    if now >= end { then } else { Judgement::Wait(Some(end)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    const LIMITS: Limits =
        Limits { header: secs(30), idle: secs(75), write: secs(60), grace: secs(1) };

    fn after(view: View, seconds: u64) -> Judgement {
        judge(view, LIMITS, view.since.after(secs(seconds)))
    }

    #[test]
    fn each_state_has_its_limit() {
        let since = Tick(5_000_000_000);
        let view = |doing, fresh, draining| View { doing, since, fresh, draining };
        let idle = view(Doing::Idle, false, false);
        assert_eq!(after(idle, 74), Judgement::Wait(Some(since.after(secs(75)))));
        assert_eq!(after(idle, 75), Judgement::Close);
        assert_eq!(after(view(Doing::Idle, true, false), 30), Judgement::Close);
        assert_eq!(after(view(Doing::ReadingHead, true, false), 30), Judgement::Cut);
        assert_eq!(after(view(Doing::Stalled(3), false, false), 60), Judgement::Cut);
        assert_eq!(after(view(Doing::Serving, false, false), 1_000_000), Judgement::Wait(None));
    }

    #[test]
    fn draining_shortens_only_what_is_idle() {
        let since = Tick(0);
        for fresh in [false, true] {
            let idle = View { doing: Doing::Idle, since, fresh, draining: true };
            assert_eq!(after(idle, 0), Judgement::Wait(Some(since.after(secs(1)))));
            assert_eq!(after(idle, 1), Judgement::Close);
        }
        for doing in [Doing::Serving, Doing::ReadingHead, Doing::Stalled(0)] {
            let busy = View { doing, since, fresh: true, draining: true };
            assert!(matches!(after(busy, 29), Judgement::Wait(_)), "{doing:?}");
        }
    }
}
