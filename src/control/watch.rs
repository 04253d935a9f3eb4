//! What a registry tells: the status, and the timeline to those who follow it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::registry::Registry;
use super::status::assemble::{SHOWN, describe, sorted, verdict};
use super::status::{Status, TimelineEvent};
use crate::clock;
use crate::managed::{Managed, epoch_ms};

/// What happened since a reader last looked.
///
/// ```
/// use buttress::control::Registry;
/// let news = Registry::new().events_since(0);
/// assert_eq!((news.events.len(), news.missed, news.last), (0, 0, 0));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Events {
    /// Oldest first.
    pub events: Vec<TimelineEvent>,
    /// Events that came in between and are no longer kept.
    pub missed: u64,
    /// The number to ask with next time.
    pub last: u64,
}

impl Registry {
    /// Adds an object of yours. It is held weakly: when its last `Arc` is dropped it is shown no more.
    ///
    /// ```
    /// use buttress::LayerKind;
    /// use buttress::control::{Managed, ObjectStatus, Registry};
    /// use std::sync::Arc;
    /// struct Pool;
    /// impl Managed for Pool {
    ///     fn kind(&self) -> LayerKind { LayerKind::Custom("pool") }
    ///     fn name(&self) -> &str { "db" }
    ///     fn describe(&self) -> ObjectStatus { ObjectStatus::new("idle") }
    /// }
    /// let (registry, pool) = (Registry::new(), Arc::new(Pool));
    /// registry.add(&pool);
    /// assert_eq!(registry.status().objects[0].id, "pool/db");
    /// ```
    pub fn add<T: Managed>(&self, object: &Arc<T>) {
        self.home().register(object);
    }

    /// The living objects, their states and what happened.
    ///
    /// ```
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// use buttress::control::{Level, Registry};
    /// let registry = Registry::new();
    /// let breaker = CircuitBreaker::builder("db").register_in(&registry).build()?;
    /// breaker.force_open();
    /// let status = registry.status();
    /// assert_eq!(status.verdict.level, Level::Bad);
    /// assert_eq!(status.verdict.causes, ["circuit_breaker/db"]);
    /// assert_eq!(status.objects[0].why, "operator");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn status(&self) -> Status {
        self.sort_out();
        let now_ms = epoch_ms();
        let uptime = clock::now().since(self.made);
        let all = sorted(self.shown());
        let omitted = all.len().saturating_sub(SHOWN);
        let look = |(id, object): (String, Arc<dyn Managed>)| {
            let row = describe((id, Arc::clone(&object)));
            let row = self.mark_taken_out(&object, row);
            (object, row)
        };
        let mut looked: Vec<_> = all.into_iter().map(look).collect();
        self.roster.date(&mut looked, clock::now());
        let mut objects: Vec<_> = looked.into_iter().map(|(_, status)| status).collect();
        // Of all of them: one that is not shown may be the one that matters.
        let verdict = verdict(&objects);
        objects.truncate(SHOWN);
        let uptime_s = uptime.as_secs_f64();
        let (service, lint) = self.told();
        Status {
            service,
            instance: format!("{}-{}", std::process::id(), self.made_ms),
            now_ms,
            uptime_s,
            generation: self.roster.generation.load(Ordering::Relaxed),
            verdict,
            process: self.process(),
            objects,
            omitted,
            events: self.events_since(0).events,
            lint,
        }
    }

    /// Tells the document which configuration is in force: how often one has been read.
    ///
    /// ```
    /// let registry = buttress::control::Registry::new();
    /// registry.set_generation(2);
    /// assert_eq!(registry.status().generation, 2);
    /// ```
    pub fn set_generation(&self, generation: u64) {
        self.roster.generation.store(generation, Ordering::Relaxed);
    }

    /// The events after number `seq`. A reader that is too slow misses some, and is told how many.
    ///
    /// Refusals and what else calls bring about are one entry per object, kind and second, which goes on
    /// counting without a new number.
    ///
    /// ```
    /// use buttress::{circuit_breaker::CircuitBreaker, control::Registry};
    /// let registry = Registry::new();
    /// let breaker = CircuitBreaker::builder("db").register_in(&registry).build()?;
    /// breaker.force_open();
    /// breaker.reset();
    /// let news = registry.events_since(1);
    /// assert_eq!(news.events[0].detail, "forced_open to closed: operator");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn events_since(&self, seq: u64) -> Events {
        let (events, missed, last) = self.roster.timeline.since(seq);
        Events { events, missed, last }
    }

    /// Waits until there is an event after number `seq`. Dropping the future loses nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::{circuit_breaker::CircuitBreaker, control::Registry};
    /// let registry = Registry::new();
    /// let breaker = CircuitBreaker::builder("db").register_in(&registry).build().unwrap();
    /// breaker.force_open();
    /// registry.changed(0).await;
    /// # }
    /// ```
    pub async fn changed(&self, seq: u64) {
        // The sender lives as long as the registry.
        let _ = self.roster.timeline.subscribe().wait_for(|last| *last > seq).await;
    }
}
