use std::sync::Arc;
use std::time::Duration;

use crate::injected::Injected;

use super::call::Call;
use super::fault::{Act, Cause};
use super::shared::{Rules, Shared};

/// All that happens to one call.
#[derive(Debug)]
pub struct Injection {
    /// The first fault.
    pub(super) mark: Injected,
    pub(super) delay: Duration,
    /// What happens instead of the call.
    pub(super) instead: Option<Instead>,
    pub(super) reply_lost: Option<Injected>,
    pub(super) body: BodyActs,
    pub(super) held: Held,
}

#[derive(Debug)]
pub enum Instead {
    Fail(Injected, Cause),
    Status(Injected, u16),
    Grpc(Injected, u32, Arc<str>),
    Hang(Injected, Option<Duration>),
}

/// What happens to the response's body.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BodyActs {
    pub(super) slow: Option<Duration>,
    pub(super) bandwidth: Option<u64>,
    pub(super) truncate: Option<(Injected, u64)>,
    pub(super) corrupt: Option<(u64, u64)>,
}

impl Injection {
    pub(super) const fn new(mark: Injected, held: Held) -> Self {
        Self {
            mark,
            delay: Duration::ZERO,
            instead: None,
            reply_lost: None,
            body: BodyActs { slow: None, bandwidth: None, truncate: None, corrupt: None },
            held,
        }
    }

    /// Nothing can be added: the call will not be made.
    pub(super) const fn is_decided(&self) -> bool {
        self.instead.is_some()
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.held.shared
    }

    /// Of two faults of a kind the stronger remains; latencies add up.
    pub(super) fn add(&mut self, act: Act, call: &Call<'_>) {
        let mark = self.held.mark(act.kind());
        let body = &mut self.body;
        match act {
            Act::Latency(latency) => self.delay = self.delay.saturating_add(latency),
            Act::Loss(share) => self.instead = Some(Instead::Fail(mark, Cause::lost(share))),
            Act::Error(kind, message) => {
                let cause = Cause::Io(kind, message.as_ref().to_owned());
                self.instead = Some(Instead::Fail(mark, cause));
            }
            Act::Make(make) => self.instead = Some(Instead::Fail(mark, Cause::Made(make(call)))),
            Act::Status(status) => self.instead = Some(Instead::Status(mark, status)),
            Act::Grpc(code, message) => self.instead = Some(Instead::Grpc(mark, code, message)),
            Act::Hang(time) => self.instead = Some(Instead::Hang(mark, time)),
            Act::ReplyLost => self.reply_lost = Some(mark),
            Act::SlowBody(time) => body.slow = body.slow.max(Some(time)),
            Act::Bandwidth(rate) => {
                body.bandwidth = Some(body.bandwidth.map_or(rate, |known| known.min(rate)));
            }
            Act::Truncate(after) => {
                if body.truncate.is_none_or(|(_, known)| after < known) {
                    body.truncate = Some((mark, after));
                }
            }
            Act::Corrupt(one_in, key) => {
                if body.corrupt.is_none_or(|(known, _)| one_in < known) {
                    body.corrupt = Some((one_in, key));
                }
            }
        }
    }
}

impl BodyActs {
    #[cfg(feature = "http")]
    pub(super) const fn is_empty(&self) -> bool {
        self.slow.is_none()
            && self.bandwidth.is_none()
            && self.truncate.is_none()
            && self.corrupt.is_none()
    }
}

/// A call's places among the active ones of its rules, given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) shared: Arc<Shared>,
    /// Those that it was decided by.
    rules: Arc<Rules>,
    taken: Vec<u32>,
}

impl Held {
    pub(super) const fn new(shared: Arc<Shared>, rules: Arc<Rules>) -> Self {
        Self { shared, rules, taken: Vec::new() }
    }

    /// A place that has been taken.
    pub(super) fn add(&mut self, rule: u32) {
        self.taken.push(rule);
    }

    /// The mark of the rule added last.
    fn mark(&self, fault: crate::injected::FaultKind) -> Injected {
        Injected::new(self.taken.last().map_or(0, |rule| *rule as usize), fault)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for rule in &self.taken {
            self.rules.tallies[*rule as usize].release();
        }
    }
}

impl Instead {
    /// What stands for it where it cannot be answered as meant.
    pub(super) fn into_cause(self) -> (Injected, Cause) {
        use std::io::ErrorKind as K;
        match self {
            Self::Fail(mark, cause) => (mark, cause),
            Self::Status(mark, status) => {
                (mark, Cause::Io(K::Other, format!("injected status {status}")))
            }
            Self::Grpc(mark, code, message) => {
                (mark, Cause::Io(K::Other, format!("injected gRPC status {code}: {message}")))
            }
            // Once the wait is over.
            Self::Hang(mark, Some(_)) => (mark, Cause::Io(K::TimedOut, "injected hang".to_owned())),
            Self::Hang(mark, None) => {
                (mark, Cause::Io(K::ConnectionReset, "injected hang, ended".to_owned()))
            }
        }
    }
}
