//! Who is connected to `/events`, and what they are sent: one status and one ring of events for all.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::clock::Tick;
use crate::sync::{Mutex, lock};

/// As many as a status has.
const EVENTS: usize = 500;
/// How far back an event can still grow, and how many that have grown are kept.
const GROWING: usize = 64;
/// Somebody who was woken and takes nothing for this long has gone, or might as well have.
const PATIENCE: Duration = Duration::from_secs(30);
/// A quiet connection looks broken to what is in between.
const BEAT: Duration = Duration::from_secs(15);

pub(super) struct Hub {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Which process: sequence numbers of another one mean nothing.
    instance: String,
    events: VecDeque<(u64, Bytes)>,
    /// The newest one ever taken in.
    newest: u64,
    /// Events that were changed after they had been sent: one that stands for several refusals grows.
    changed: VecDeque<(u64, Bytes)>,
    changes: u64,
    snapshot: Bytes,
    /// Which snapshot; 0 is none.
    version: u64,
    beats: u64,
    /// When something was last sent to all.
    sent: Tick,
    published: Tick,
    seats: Vec<Seat>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Seat {
    /// Of the viewers that had this seat: a ticket for an earlier one is no longer good.
    generation: u64,
    taken: bool,
    waker: Option<Waker>,
    asked: Tick,
}

/// One viewer.
pub(super) struct Ticket {
    seat: usize,
    generation: u64,
    greeted: bool,
    version: u64,
    beats: u64,
    /// The newest event it has.
    seq: u64,
    changes: u64,
    /// It came back, so it wants to know what it missed.
    resumed: bool,
}

impl Hub {
    pub(super) fn new(most: usize) -> Self {
        Self { most, state: Mutex::new(State::default()) }
    }

    pub(super) fn viewers(&self) -> usize {
        let state = lock(&self.state);
        state.seats.len() - state.free.len()
    }

    /// `None` when all seats are taken.
    pub(super) fn enter(&self, last_id: Option<&str>, now: Tick) -> Option<Ticket> {
        let mut state = lock(&self.state);
        let seat = match state.free.pop() {
            Some(seat) => seat,
            None if state.seats.len() < self.most => {
                state.seats.push(Seat::default());
                state.seats.len() - 1
            }
            None => return None,
        };
        let known = last_id.and_then(|id| {
            let (instance, seq) = id.rsplit_once(':')?;
            let seq = seq.parse().ok()?;
            // One that is still to come was never sent.
            (instance == state.instance && seq <= state.newest).then_some(seq)
        });
        let (beats, changes) = (state.beats, state.changes);
        let place = &mut state.seats[seat];
        *place = Seat { generation: place.generation + 1, taken: true, waker: None, asked: now };
        Some(Ticket {
            seat,
            generation: place.generation,
            greeted: false,
            version: 0,
            beats,
            seq: known.unwrap_or(0),
            changes,
            resumed: known.is_some(),
        })
    }

    pub(super) fn leave(&self, ticket: &Ticket) {
        let mut state = lock(&self.state);
        let waker = state.vacate(ticket.seat, ticket.generation);
        drop(state);
        drop(waker); // after the lock: it is somebody else's code
    }

    /// The next thing to send; `None` is the end, when the seat was taken away.
    pub(super) fn poll_next(
        &self,
        ticket: &mut Ticket,
        cx: &Context<'_>,
        now: Tick,
    ) -> Poll<Option<Bytes>> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let seat = &mut state.seats[ticket.seat];
        if seat.generation != ticket.generation || !seat.taken {
            return Poll::Ready(None);
        }
        seat.asked = now;
        if !ticket.greeted {
            ticket.greeted = true;
            return Poll::Ready(Some(Bytes::from_static(b"retry: 2000\n\n")));
        }
        if ticket.version < state.version {
            ticket.version = state.version;
            ticket.beats = state.beats;
            return Poll::Ready(Some(state.snapshot.clone()));
        }
        let next = state.events.partition_point(|(seq, _)| *seq <= ticket.seq);
        if let Some((seq, frame)) = state.events.get(next) {
            let missed = seq - ticket.seq - 1;
            if next == 0 && missed > 0 && ticket.resumed {
                ticket.seq = seq - 1;
                let gap = format!("event: gap\ndata: {{\"missed\":{missed}}}\n\n");
                return Poll::Ready(Some(gap.into()));
            }
            ticket.seq = *seq;
            // From here on it follows.
            ticket.resumed = true;
            return Poll::Ready(Some(frame.clone()));
        }
        let next = state.changed.partition_point(|(change, _)| *change <= ticket.changes);
        if let Some((change, frame)) = state.changed.get(next) {
            ticket.changes = *change;
            return Poll::Ready(Some(frame.clone()));
        }
        if ticket.beats < state.beats {
            ticket.beats = state.beats;
            return Poll::Ready(Some(Bytes::from_static(b": still here\n\n")));
        }
        match &mut seat.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Takes in the newest events of a status.
    pub(super) fn absorb(&self, status: &Value) {
        let mut state = lock(&self.state);
        if let Some(instance) = status.get("instance").and_then(Value::as_str)
            && state.instance != instance
        {
            // Only once: an id is one line, whatever the name.
            state.instance = instance.chars().filter(|c| !c.is_control()).collect();
        }
        let Some(events) = status.get("events").and_then(Value::as_array) else { return };
        let known = events.iter().rev().take(GROWING).filter(|event| seq(event) <= state.newest);
        for event in known.collect::<Vec<_>>().into_iter().rev() {
            state.amend(event);
        }
        // The newest are the last.
        let new = events.iter().rev().take(EVENTS).take_while(|event| seq(event) > state.newest);
        for event in new.collect::<Vec<_>>().into_iter().rev() {
            state.add(event);
        }
    }

    /// What all are sent next. Wakes them.
    pub(super) fn publish(&self, status: &Value, now: Tick) {
        let snapshot = Bytes::from(format!("event: status\ndata: {status}\n\n"));
        let mut state = lock(&self.state);
        state.snapshot = snapshot;
        state.version += 1;
        (state.published, state.sent) = (now, now);
        let woken = state.wake(now);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// A sign of life, if there was none for long.
    pub(super) fn beat(&self, now: Tick) {
        let mut state = lock(&self.state);
        if now.since(state.sent) < BEAT {
            return;
        }
        state.sent = now;
        state.beats += 1;
        let woken = state.wake(now);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    pub(super) fn published(&self) -> Tick {
        lock(&self.state).published
    }
}

/// Zero is none.
fn seq(event: &Value) -> u64 {
    event.get("seq").and_then(Value::as_u64).unwrap_or(0)
}

impl State {
    fn frame(&self, event: &Value) -> Bytes {
        format!("id: {}:{}\nevent: event\ndata: {event}\n\n", self.instance, seq(event)).into()
    }

    fn add(&mut self, event: &Value) {
        let seq = seq(event);
        if seq <= self.newest {
            return; // out of order
        }
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((seq, self.frame(event)));
        self.newest = seq;
    }

    /// Who comes later gets it as it is now, who has it already gets it again: without an id, for it is not
    /// the newest.
    fn amend(&mut self, event: &Value) {
        let Ok(at) = self.events.binary_search_by_key(&seq(event), |(seq, _)| *seq) else { return };
        let frame = self.frame(event);
        if self.events[at].1 == frame {
            return;
        }
        self.events[at].1 = frame;
        if self.changed.len() == GROWING {
            self.changed.pop_front();
        }
        self.changes += 1;
        self.changed.push_back((self.changes, format!("event: event\ndata: {event}\n\n").into()));
    }

    /// Takes the wakers of all, and the seats of those that have not come for what they were woken for.
    fn wake(&mut self, now: Tick) -> Vec<Waker> {
        let mut woken = Vec::new();
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            if !seat.taken {
                continue;
            }
            match seat.waker.take() {
                Some(waker) => woken.push(waker),
                None if now.since(seat.asked) > PATIENCE => {
                    let generation = seat.generation;
                    self.vacate(at, generation);
                }
                None => {}
            }
        }
        woken
    }

    fn vacate(&mut self, at: usize, generation: u64) -> Option<Waker> {
        let seat = &mut self.seats[at];
        if seat.generation != generation || !seat.taken {
            return None;
        }
        seat.taken = false;
        let waker = seat.waker.take();
        self.free.push(at);
        waker
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn events(instance: &str, seqs: std::ops::Range<u64>) -> Value {
        json!({"instance": instance, "events": seqs.map(|seq| json!({"seq": seq})).collect::<Vec<_>>()})
    }

    fn all(hub: &Hub, ticket: &mut Ticket, now: Tick) -> String {
        let cx = Context::from_waker(Waker::noop());
        let mut text = String::new();
        while let Poll::Ready(Some(frame)) = hub.poll_next(ticket, &cx, now) {
            text.push_str(std::str::from_utf8(&frame).unwrap());
        }
        text
    }

    fn second(n: u64) -> Tick {
        Tick(1_000_000_000 * (1000 + n))
    }

    #[test]
    fn everybody_gets_each_event_once_and_only_the_latest_status() {
        let hub = Hub::new(2);
        hub.absorb(&events("7-1", 1..4));
        let mut ticket = hub.enter(None, second(0)).unwrap();
        hub.publish(&json!({"n": 1}), second(0));
        hub.publish(&json!({"n": 2}), second(1));
        let text = all(&hub, &mut ticket, second(1));
        assert!(
            text.starts_with("retry: 2000\n\nevent: status\ndata: {\"n\":2}\n\nid: 7-1:1\n"),
            "{text}"
        );
        assert_eq!(text.matches("event: event").count(), 3);
        hub.absorb(&events("7-1", 1..5));
        assert_eq!(
            all(&hub, &mut ticket, second(1)),
            "id: 7-1:4\nevent: event\ndata: {\"seq\":4}\n\n"
        );
    }

    #[test]
    fn who_comes_back_gets_what_is_newer_and_hears_what_is_lost() {
        let hub = Hub::new(9);
        hub.absorb(&events("7-1", 1..11));
        let from = |id: &str| {
            let mut ticket = hub.enter(Some(id), second(0)).unwrap();
            let text = all(&hub, &mut ticket, second(0));
            hub.leave(&ticket);
            (text.matches("event: event").count(), text.contains("event: gap"))
        };
        assert_eq!(from("7-1:8"), (2, false));
        assert_eq!(from("7-1:10"), (0, false));
        // Another process, one that was never sent, and what no process of ours wrote.
        for id in ["6-9:8", "7-1:11", "", ":", "8", "7-1:", "7-1:x", "7-1:-1", "\u{0}"] {
            assert_eq!(from(id), (10, false), "{id}");
        }
        hub.absorb(&events("7-1", 600..1100));
        let mut ticket = hub.enter(Some("7-1:8"), second(0)).unwrap();
        let text = all(&hub, &mut ticket, second(0));
        assert!(text.contains("event: gap\ndata: {\"missed\":591}"), "{text}");
        assert_eq!(text.matches("event: event").count(), EVENTS);
        let state = lock(&hub.state);
        assert_eq!((state.events.len(), state.newest), (EVENTS, 1099));
    }

    #[test]
    fn an_event_that_grows_is_sent_again() {
        let hub = Hub::new(2);
        let with = |times: u64| json!({"instance": "7-1", "events": [{"seq": 1, "times": times}, {"seq": 2}]});
        hub.absorb(&with(1));
        let mut early = hub.enter(None, second(0)).unwrap();
        assert!(all(&hub, &mut early, second(0)).contains("\"times\":1"));
        hub.absorb(&with(1));
        assert_eq!(all(&hub, &mut early, second(0)), "");
        hub.absorb(&with(9));
        let again = "event: event\ndata: {\"seq\":1,\"times\":9}\n\n";
        assert_eq!(all(&hub, &mut early, second(0)), again);
        let mut late = hub.enter(None, second(0)).unwrap();
        assert_eq!(all(&hub, &mut late, second(0)).matches("\"times\":9").count(), 1);
        for times in 10..10_000 {
            hub.absorb(&with(times));
        }
        assert_eq!(lock(&hub.state).changed.len(), GROWING);
    }

    #[test]
    fn seats_are_bounded_and_come_back() {
        let hub = Hub::new(2);
        let (a, _b) = (hub.enter(None, second(0)).unwrap(), hub.enter(None, second(0)).unwrap());
        assert!(hub.enter(None, second(0)).is_none());
        hub.leave(&a);
        hub.leave(&a); // twice is once
        assert_eq!(hub.viewers(), 1);
        let mut c = hub.enter(None, second(0)).unwrap();
        hub.leave(&a); // and not what is in its seat now
        assert_eq!((hub.viewers(), c.seat), (2, a.seat));
        assert!(!all(&hub, &mut c, second(0)).is_empty());
    }

    #[test]
    fn who_takes_nothing_loses_the_seat_and_who_waits_does_not() {
        let hub = Hub::new(9);
        let mut waits = hub.enter(None, second(0)).unwrap();
        let mut stuck = hub.enter(None, second(0)).unwrap();
        for n in 0..40 {
            hub.publish(&json!({}), second(n));
            all(&hub, &mut waits, second(n));
        }
        assert_eq!(hub.viewers(), 1);
        let cx = Context::from_waker(Waker::noop());
        assert!(matches!(hub.poll_next(&mut stuck, &cx, second(40)), Poll::Ready(None)));
        hub.leave(&stuck);
        assert_eq!(hub.viewers(), 1);
    }

    #[test]
    fn a_quiet_connection_gets_a_comment() {
        let hub = Hub::new(1);
        let mut ticket = hub.enter(None, second(0)).unwrap();
        hub.publish(&json!({}), second(0));
        all(&hub, &mut ticket, second(0));
        hub.beat(second(14));
        assert_eq!(all(&hub, &mut ticket, second(14)), "");
        hub.beat(second(15));
        assert_eq!(all(&hub, &mut ticket, second(15)), ": still here\n\n");
        hub.beat(second(16));
        assert_eq!(all(&hub, &mut ticket, second(16)), "");
    }
}
