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
/// connection costs little where it was only slow. One that is still being made has the time for that besides, or it
/// would be thrown away half-made, and so would the next.
const ASKED: u32 = 3;
const SILENT: Duration = Duration::from_secs(1);

/// Made by the first operation, because it needs a runtime. It connects again by itself when it is told that the
/// connection broke; when nothing is told it is made anew.
pub(super) struct Link {
    /// Of what it is made. `None` if it is the caller's own.
    of: Option<Box<Source>>,
    made: Mutex<Made>,
}

struct Source {
    client: Client,
    config: ConnectionManagerConfig,
    /// How long a connection may take to make.
    making: Duration,
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
    /// An answer has come over it, and it has not broken since.
    connected: bool,
}

impl Silence {
    fn ends(&mut self, connected: bool) {
        *self = Self { connected, ..Self::default() };
    }

    /// What was asked then has not been answered by now. Whether that is too much where a connection takes `making`
    /// at most.
    fn goes_on(&mut self, asked: Tick, now: Tick, making: Duration) -> bool {
        let since = *self.since.get_or_insert(asked);
        self.asked = self.asked.saturating_add(1);
        let longest = if self.connected { SILENT } else { SILENT + making };
        self.asked >= ASKED && now.since(since) >= longest
    }
}

impl Link {
    /// `making` is how long the configuration lets a connection take.
    pub(super) fn to(client: Client, config: ConnectionManagerConfig, making: Duration) -> Self {
        Self::new(Some(Box::new(Source { client, config, making })), None)
    }

    pub(super) fn over(manager: ConnectionManager) -> Self {
        Self::new(None, Some(manager))
    }

    fn new(of: Option<Box<Source>>, manager: Option<ConnectionManager>) -> Self {
        let made = Made { manager, number: 0, silence: Silence::default() };
        Self { of, made: Mutex::new(made) }
    }

    /// There must be a runtime.
    pub(super) fn open(&self) -> Result<(ConnectionManager, Sent<'_>), StoreError> {
        let mut made = lock(&self.made);
        let manager = match (&made.manager, &self.of) {
            (Some(manager), _) => manager.clone(),
            (None, Some(of)) => {
                let (client, config) = (of.client.clone(), of.config.clone());
                let manager = ConnectionManager::new_lazy_with_config(client, config);
                made.manager.insert(manager.map_err(error::of)?).clone()
            }
            (None, None) => return Err(StoreErrorKind::Refused.into()),
        };
        Ok((manager, Sent { link: self, number: made.number, at: now(), answer: Answer::None }))
    }
}

#[derive(Clone, Copy)]
enum Answer {
    None,
    Came,
    /// It is known to be no more, and is being made again.
    Broke,
}

/// What was sent over a connection, or waits until there is one. Dropped, it was not answered: whoever has sent it
/// may have had less patience than the store has.
pub(super) struct Sent<'a> {
    link: &'a Link,
    number: u64,
    at: Tick,
    answer: Answer,
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
                self.answer = match &done {
                    Err(error) if error.is_timeout() => Answer::None,
                    Err(error) if error.is_io_error() || error.is_unrecoverable_error() => {
                        Answer::Broke
                    }
                    _ => Answer::Came,
                };
                done.map_err(error::of)
            }
            Err(late) => Err(StoreError::new(StoreErrorKind::Unknown).with_source(late)),
        }
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        let mut made = lock(&self.link.made);
        let Some(of) = &self.link.of else { return };
        if made.number != self.number {
            return;
        }
        match self.answer {
            Answer::Came => return made.silence.ends(true),
            Answer::Broke => return made.silence.ends(false),
            Answer::None => {}
        }
        if made.silence.goes_on(self.at, now(), of.making) {
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

    const MAKING: Duration = Duration::from_secs(5);

    fn at(millis: u64) -> Tick {
        Tick(7).after(Duration::from_millis(millis))
    }

    #[test]
    fn a_connection_is_silent_after_three_questions_and_a_second() {
        // Many at once, on a server that is only slow.
        let mut silence = Silence { connected: true, ..Silence::default() };
        assert!((0..100).all(|_| !silence.goes_on(at(0), at(999), MAKING)));
        assert!(silence.goes_on(at(990), at(1_000), MAKING));
        // One now and then.
        let mut silence = Silence { connected: true, ..Silence::default() };
        assert!(!silence.goes_on(at(0), at(50), MAKING));
        assert!(!silence.goes_on(at(60_000), at(60_050), MAKING));
        assert!(silence.goes_on(at(90_000), at(90_050), MAKING));
    }

    #[test]
    fn one_that_is_being_made_has_the_time_for_that_besides() {
        let mut silence = Silence::default();
        for again in 0..2 {
            assert!((0..100).all(|_| !silence.goes_on(at(0), at(5_999), MAKING)), "{again}");
            assert!(silence.goes_on(at(0), at(6_000), MAKING), "{again}");
            silence.ends(true);
            assert!(!silence.goes_on(at(0), at(1_000), MAKING));
            // It broke, and is made again.
            silence.ends(false);
        }
    }
}
