//! The thread that reads the counters and tells the viewers.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::builder::Shared;
use crate::clock::{Tick, now};
use crate::sync::lock;

/// It ends when the sender is dropped, which is with the last clone of the service.
pub(super) fn start(shared: &Arc<Shared>, ended: Receiver<()>) -> io::Result<()> {
    let shared = Arc::downgrade(shared);
    thread::Builder::new().name("buttress-admin".into()).spawn(move || run(&shared, &ended))?;
    Ok(())
}

fn run(shared: &Weak<Shared>, ended: &Receiver<()>) {
    let mut wait = Duration::ZERO;
    loop {
        // Nothing is ever sent.
        if ended.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let Some(shared) = shared.upgrade() else { return };
        wait = shared.tick(now());
    }
}

impl Shared {
    /// Does what is due, and says how long there is nothing to do.
    pub(super) fn tick(&self, now: Tick) -> Duration {
        let sample = lock(&self.history).due();
        let watched = self.hub.viewers() > 0;
        let publish = self.hub.published().after(self.interval);
        if now >= sample || watched && now >= publish {
            let Some(status) = self.raw_status() else {
                // Not at once again: whatever panics would do nothing else.
                return self.interval.max(Duration::from_secs(1));
            };
            if now >= sample {
                lock(&self.history).sample(&status, now);
            }
            self.hub.absorb(&status);
            if watched && now >= publish {
                self.publish(status, now);
            }
        }
        self.hub.beat(now);
        let sample = lock(&self.history).due().since(now);
        // Somebody may come at any time, and has then been told already.
        sample.min(self.interval).max(Duration::from_millis(1))
    }

    fn publish(&self, mut status: serde_json::Value, now: Tick) {
        lock(&self.history).draw(&mut status);
        if let Some(status) = status.as_object_mut() {
            // Each comes by itself.
            status.remove("events");
        }
        self.hub.publish(&status, now);
    }

    /// For somebody who has just come: not older than the interval.
    pub(super) fn refresh(&self, now: Tick) {
        let published = self.hub.published();
        let fresh = self.interval.min(Duration::from_secs(1));
        if published != Tick(0) && now < published.after(fresh) {
            return;
        }
        if let Some(status) = self.raw_status() {
            self.hub.absorb(&status);
            self.publish(status, now);
        }
    }
}
