//! The connection, and when it is taken for dead.

use std::future::Future;
use std::time::Duration;

use redis::Client;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::time::timeout;

use super::error;
use crate::clock::{Tick, now};
use crate::store::{StoreError, StoreErrorKind};
use crate::sync::{Mutex, lock};

/// How often it must have been asked in vain, and for how long, before a connection is given up. A machine or a
/// line that dies says nothing, and until the system notices by itself a quarter of an hour can pass. A new
/// connection costs little where it was only slow.
const ASKED: u32 = 3;
const SILENT: Duration = Duration::from_secs(1);

/// Made by the first operation, because it needs a runtime. It connects again by itself when it is told that the
/// connection broke; when nothing is told it is made anew.
pub(super) struct Link {
    /// Of what it is made. `None` if it is the caller's own.
    of: Option<Box<(Client, ConnectionManagerConfig)>>,
    made: Mutex<Made>,
}

struct Made {
    manager: Option<ConnectionManager>,
    /// Of the manager: what was sent by one before says nothing of this one.
    number: u64,
    silence: Silence,
}

/// Since when, and how often, it was asked and has not answered.
#[derive(Default)]
struct Silence {
    since: Option<Tick>,
    asked: u32,
}

impl Silence {
    /// What was sent then has not been answered by now. Whether that is too much.
    fn goes_on(&mut self, sent: Tick, now: Tick) -> bool {
        let since = *self.since.get_or_insert(sent);
        self.asked = self.asked.saturating_add(1);
        self.asked >= ASKED && now.since(since) >= SILENT
    }
}

impl Link {
    pub(super) fn to(client: Client, config: ConnectionManagerConfig) -> Self {
        Self::new(Some(Box::new((client, config))), None)
    }

    pub(super) fn over(manager: ConnectionManager) -> Self {
        Self::new(None, Some(manager))
    }

    fn new(
        of: Option<Box<(Client, ConnectionManagerConfig)>>,
        manager: Option<ConnectionManager>,
    ) -> Self {
        let made = Made { manager, number: 0, silence: Silence::default() };
        Self { of, made: Mutex::new(made) }
    }

    /// There must be a runtime.
    pub(super) fn open(&self) -> Result<(ConnectionManager, Sent<'_>), StoreError> {
        let mut made = lock(&self.made);
        let manager = match (&made.manager, &self.of) {
            (Some(manager), _) => manager.clone(),
            (None, Some(of)) => {
                let (client, config) = (**of).clone();
                let manager = ConnectionManager::new_lazy_with_config(client, config);
                made.manager.insert(manager.map_err(error::of)?).clone()
            }
            (None, None) => return Err(StoreErrorKind::Refused.into()),
        };
        Ok((manager, Sent { link: self, number: made.number, at: now(), answered: false }))
    }
}

/// What was sent over a connection. Dropped, it was not answered: whoever has sent it may have had less patience
/// than the store has.
pub(super) struct Sent<'a> {
    link: &'a Link,
    number: u64,
    at: Tick,
    answered: bool,
}

impl Sent<'_> {
    /// The answer, within `limit`.
    pub(super) async fn answer<T>(
        mut self,
        limit: Duration,
        work: impl Future<Output = Result<T, redis::RedisError>>,
    ) -> Result<T, StoreError> {
        match timeout(limit, work).await {
            Ok(done) => {
                // A connection that broke has answered, too: it is known to be no more.
                self.answered = !done.as_ref().is_err_and(redis::RedisError::is_timeout);
                done.map_err(error::of)
            }
            Err(late) => Err(StoreError::new(StoreErrorKind::Unknown).with_source(late)),
        }
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        let mut made = lock(&self.link.made);
        if made.number != self.number || self.link.of.is_none() {
            return;
        }
        if self.answered {
            made.silence = Silence::default();
        } else if made.silence.goes_on(self.at, now()) {
            made.number += 1;
            made.silence = Silence::default();
            let old = made.manager.take();
            drop(made);
            drop(old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_silent_after_three_questions_and_a_second() {
        let start = Tick(7);
        let at = |millis| start.after(Duration::from_millis(millis));
        // Many at once, on a server that is only slow.
        let mut silence = Silence::default();
        assert!((0..100).all(|_| !silence.goes_on(start, at(999))));
        assert!(silence.goes_on(at(990), at(1_000)));
        // One now and then.
        let mut silence = Silence::default();
        assert!(!silence.goes_on(start, at(50)));
        assert!(!silence.goes_on(at(60_000), at(60_050)));
        assert!(silence.goes_on(at(90_000), at(90_050)));
    }
}
