//! What happened: the last events, numbered.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::folds::{Counter, Folds};
use crate::clock::{self, Tick};
use crate::observe::{Event, EventKind, Severity};

/// As many events are kept.
pub(crate) const KEPT: usize = 500;
/// Particulars are cut here.
const DETAIL: usize = 300;

/// One entry of the timeline.
///
/// ```
/// use buttress::circuit_breaker::CircuitBreaker;
/// use buttress::control::{Registry, TimelineEvent};
/// fn line(event: &TimelineEvent) -> String {
///     format!("{} {}/{}: {}", event.seq, event.layer, event.name, event.detail)
/// }
/// let registry = Registry::new();
/// let breaker = CircuitBreaker::builder("db").register_in(&registry).build()?;
/// breaker.force_open();
/// breaker.reset();
/// let lines: Vec<_> = registry.events_since(1).events.iter().map(line).collect();
/// assert_eq!(lines, ["2 circuit_breaker/db: forced_open to closed: operator"]);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TimelineEvent {
    /// Rises by one from entry to entry, from 1.
    pub seq: u64,
    /// When, in milliseconds of the Unix epoch; of folded entries, the first.
    pub at_ms: u64,
    /// How much it matters.
    #[cfg_attr(feature = "serde", serde(serialize_with = "severity"))]
    pub severity: Severity,
    /// The kind of object.
    pub layer: &'static str,
    /// Its name.
    pub name: String,
    /// What happened, lower-case with underscores.
    pub event: &'static str,
    /// The particulars, for a reader; of folded entries also how many there were.
    pub detail: String,
}

#[cfg(feature = "serde")]
pub(crate) fn severity<S: serde::Serializer>(
    severity: &Severity,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(severity.as_str())
}

/// A bounded ring. Its mutex is taken for the first event of a kind, object and second; those that are
/// folded into it count on words of their threads, which readers bring in.
pub(crate) struct Timeline {
    ring: Mutex<Ring>,
    folds: Folds,
    /// The last number.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct Ring {
    entries: VecDeque<Entry>,
    last: u64,
}

struct Entry {
    event: TimelineEvent,
    /// The second it was in on the monotonic clock.
    second: u64,
    /// How often in that second, as far as it is brought in.
    times: u64,
    /// The counters of this mark count for it; 0 if none does.
    mark: u64,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { ring: Mutex::default(), folds: Folds::default(), news: watch::Sender::new(0) }
    }
}

impl Timeline {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, event: &Event<'_>) {
        let second = second(clock::now());
        let (layer, name, what) = (event.layer.as_str(), event.name.as_str(), event.kind.as_str());
        let counter = folds(&event.kind).then(|| self.folds.counter(layer, name, what, second));
        if let Some(counter) = &counter
            && (counter.count() || self.ring().fold(second, layer, name, what, counter))
        {
            return;
        }
        // Outside the lock: it may run a `Display` of the user's.
        let (severity, detail) = (severity_of(&event.kind), detail_of(&event.kind));
        self.push(second, counter.as_ref(), severity, layer, name, what, detail);
    }

    /// Notes what is no object's event.
    pub(crate) fn tell(
        &self,
        severity: Severity,
        layer: &'static str,
        name: &str,
        event: &'static str,
        detail: String,
    ) {
        self.push(second(clock::now()), None, severity, layer, name, event, detail);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of an entry")]
    fn push(
        &self,
        second: u64,
        counter: Option<&Counter<'_>>,
        severity: Severity,
        layer: &'static str,
        name: &str,
        event: &'static str,
        mut detail: String,
    ) {
        if let Some((at, _)) = detail.char_indices().nth(DETAIL) {
            detail.truncate(at);
        }
        let (name, at_ms) = (name.to_owned(), epoch_ms());
        let mut ring = self.ring();
        // Another thread may have begun the same entry since.
        if let Some(counter) = counter
            && ring.fold(second, layer, &name, event, counter)
        {
            return;
        }
        ring.last += 1;
        let seq = ring.last;
        let event = TimelineEvent { seq, at_ms, severity, layer, name, event, detail };
        if ring.entries.len() == KEPT {
            ring.entries.pop_front();
        }
        let mark = counter.map_or(0, Counter::mark);
        ring.entries.push_back(Entry { event, second, times: 1, mark });
        if let Some(counter) = counter {
            ring.bring(counter.begin());
        }
        drop(ring);
        // Wakers are not run under the ring's lock. Two threads may come in the other order.
        self.news.send_if_modified(|told| {
            let news = *told < seq;
            *told = seq.max(*told);
            news
        });
    }

    /// What came after entry `seq`, and how many of those are lost.
    pub(crate) fn since(&self, seq: u64) -> (Vec<TimelineEvent>, u64, u64) {
        let mut ring = self.ring();
        self.folds.take(|taken| ring.bring(taken));
        let oldest = ring.last + 1 - ring.entries.len() as u64;
        let missed = oldest.saturating_sub(seq.saturating_add(1));
        let events = ring.entries.iter().filter(|entry| entry.event.seq > seq);
        (events.map(Entry::told).collect(), missed, ring.last)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }
}

impl Ring {
    /// Counts it to an entry of the same object, kind and second, if there is one.
    fn fold(
        &mut self,
        second: u64,
        layer: &str,
        name: &str,
        event: &str,
        counter: &Counter<'_>,
    ) -> bool {
        // Threads read the clock out of order, by less than a second.
        let recent = self.entries.iter_mut().rev().take_while(|entry| entry.second + 1 >= second);
        for entry in recent {
            let told = &entry.event;
            if entry.second == second
                && told.event == event
                && told.layer == layer
                && told.name == name
            {
                entry.times += 1;
                // Else it was begun with another copy of the same words, and only that one's counters are
                // known to be for it.
                if entry.mark == counter.mark() {
                    self.bring(counter.begin());
                }
                return true;
            }
        }
        false
    }

    /// What was counted for an entry, if that is still there.
    fn bring(&mut self, (mark, count): (u64, u64)) {
        if count > 0
            && let Some(entry) = self.entries.iter_mut().rev().find(|entry| entry.mark == mark)
        {
            entry.times += count;
        }
    }
}

impl Entry {
    fn told(&self) -> TimelineEvent {
        let mut event = self.event.clone();
        if self.times > 1 {
            let times = format!("{} times within a second", self.times);
            event.detail = match event.detail.as_str() {
                "" => times,
                first => format!("{times}, first: {first}"),
            };
        }
        event
    }
}

fn second(now: Tick) -> u64 {
    now.0 / 1_000_000_000
}

#[allow(clippy::disallowed_methods, reason = "the time of day, for people")]
pub(crate) fn epoch_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What calls bring about, each of them: one entry a second is enough.
fn folds(kind: &EventKind<'_>) -> bool {
    !matches!(kind, EventKind::StateChanged { .. } | EventKind::Supervised { .. })
}

fn severity_of(kind: &EventKind<'_>) -> Severity {
    match kind {
        // What happens to single calls is below what anybody logs; here it is folded, and shown.
        EventKind::RetryAbandoned { .. } | EventKind::FellBack { .. } | EventKind::Rejected(_) => {
            Severity::Warning
        }
        kind => kind.severity().max(Severity::Info),
    }
}

fn detail_of(kind: &EventKind<'_>) -> String {
    match kind {
        EventKind::Rejected(why) | EventKind::WouldReject(why) => why.to_string(),
        EventKind::Waited { waited } => format!("waited {waited:?}"),
        EventKind::StateChanged { from, to, reason } => format!("{from} to {to}: {reason}"),
        EventKind::Retried { attempt, delay, .. } => {
            format!("attempt {attempt} failed, next in {delay:?}")
        }
        EventKind::RetryAbandoned { attempts, reason, .. } => {
            format!("after {attempts} attempts: {reason}")
        }
        EventKind::Hedged { after } => format!("second attempt after {after:?}"),
        EventKind::FellBack { cause, answered } => {
            format!("{} {cause}", if *answered { "answered for" } else { "no answer for" })
        }
        EventKind::Injected { rule, fault } => format!("{fault} by rule {rule}"),
        EventKind::TableFull { capacity } => format!("capacity {capacity}"),
        EventKind::Replayed => String::new(),
        EventKind::TakenOver { generation, runs } => format!("claim {generation}, run {runs}"),
        EventKind::Unrecorded { reason } => (*reason).to_owned(),
        EventKind::Supervised { detail, .. } => detail.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_and_says_how_many_are_lost() {
        let timeline = Timeline::default();
        assert_eq!(timeline.since(0), (vec![], 0, 0));
        for n in 0..KEPT + 7 {
            timeline.tell(Severity::Info, "control", "x", "command", n.to_string());
        }
        let (events, missed, last) = timeline.since(0);
        assert_eq!((events.len(), missed, last), (KEPT, 7, KEPT as u64 + 7));
        assert_eq!((events[0].seq, events[0].detail.as_str()), (8, "7"));
        let (events, missed, _) = timeline.since(last - 2);
        assert_eq!((events.len(), missed), (2, 0));
        assert_eq!(timeline.since(u64::MAX).1, 0);
    }

    fn times(timeline: &Timeline) -> u64 {
        let _ = timeline.since(0);
        timeline.ring().entries.iter().map(|entry| entry.times).sum()
    }

    #[test]
    fn threads_that_count_at_once_lose_nothing() {
        use crate::name::{LayerKind, Name};
        use std::sync::atomic::{AtomicBool, Ordering};

        const EACH: u64 = 40_000;
        // One object; some; more than there are counters, which then take turns.
        for objects in [1, 7, 300] {
            let names: Vec<Name> =
                (0..objects).map(|n| Name::from(format!("timeline-{n}"))).collect();
            let timeline = Timeline::default();
            let (done, names) = (AtomicBool::new(false), &names);
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let _ = timeline.since(0);
                        std::thread::yield_now();
                    }
                });
                let each = if objects > 100 { EACH / 40 } else { EACH };
                let threads: Vec<_> = (0..8)
                    .map(|thread| {
                        let timeline = &timeline;
                        scope.spawn(move || {
                            for n in 0..each {
                                let at = usize::try_from(n + thread).unwrap() % names.len();
                                let kind = EventKind::Replayed;
                                let (layer, name) = (LayerKind::Idempotency, names[at]);
                                timeline.note(&Event { layer, name, kind });
                            }
                        })
                    })
                    .collect();
                threads.into_iter().for_each(|thread| thread.join().unwrap());
                done.store(true, Ordering::Relaxed);
                reader.join().unwrap();
                // Unless some have left the ring.
                let ring = timeline.ring();
                let all = ring.last == ring.entries.len() as u64;
                drop(ring);
                if all {
                    assert_eq!(times(&timeline), 8 * each, "{objects} objects");
                } else {
                    assert!(objects > 100, "they are few");
                }
            });
        }
    }
}
