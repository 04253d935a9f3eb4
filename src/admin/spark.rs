//! The last two minutes of every object's counters.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::clock::Tick;

/// Seconds per step.
pub(super) const STEP: u64 = 2;
const STEP_NS: u64 = STEP * 1_000_000_000;
pub(super) const STEPS: usize = 60;
/// As many as a status shows.
const OBJECTS: usize = 1000;
/// A step that nobody knows anything about.
const UNKNOWN: u32 = u32::MAX;

const LINES: [&str; 3] = ["ok", "failed", "rejected"];

type Counts = [Option<u64>; LINES.len()];

struct Track {
    last: Counts,
    steps: [[u32; STEPS]; LINES.len()],
}

impl Track {
    const fn new(last: Counts) -> Self {
        Self { last, steps: [[UNKNOWN; STEPS]; LINES.len()] }
    }
}

/// Sans-IO: told a status every step.
#[derive(Default)]
pub(super) struct History {
    tracks: BTreeMap<String, Box<Track>>,
    /// Which of `steps` is next, for all tracks.
    at: usize,
    sampled: Option<Tick>,
}

impl History {
    /// When the next sample is due.
    pub(super) fn due(&self) -> Tick {
        self.sampled.map_or(Tick(0), |sampled| Tick(sampled.0.saturating_add(STEP_NS)))
    }

    pub(super) fn sample(&mut self, status: &Value, now: Tick) {
        let Some(before) = self.sampled else {
            self.sampled = Some(now);
            for (id, counts) in objects(status) {
                self.tracks.insert(id.to_owned(), Box::new(Track::new(counts)));
            }
            return;
        };
        // Late by more than half a step: the steps in between were not seen (a stopped process, a panic).
        let passed = now.0.saturating_sub(before.0);
        let steps = (passed.saturating_add(STEP_NS / 2) / STEP_NS).max(1);
        let missed = usize::try_from(steps - 1).unwrap_or(STEPS).min(STEPS);
        self.sampled = Some(now);
        for _ in 0..missed {
            for track in self.tracks.values_mut() {
                track.steps.iter_mut().for_each(|line| line[self.at] = UNKNOWN);
            }
            self.at = (self.at + 1) % STEPS;
        }
        let mut old = std::mem::take(&mut self.tracks);
        for (id, counts) in objects(status) {
            let (id, track) = match old.remove_entry(id) {
                Some((id, mut track)) => {
                    for (line, (last, count)) in track.last.iter().zip(counts).enumerate() {
                        track.steps[line][self.at] = match (last, count) {
                            _ if missed > 0 => UNKNOWN,
                            // Fewer than before: another object that has the name now.
                            (Some(last), Some(count)) => {
                                narrow(count.checked_sub(*last).unwrap_or(count))
                            }
                            _ => UNKNOWN,
                        };
                    }
                    track.last = counts;
                    (id, track)
                }
                None => (id.to_owned(), Box::new(Track::new(counts))),
            };
            self.tracks.insert(id, track);
        }
        self.at = (self.at + 1) % STEPS;
    }

    /// Adds `spark` to each object of a status, oldest step first.
    pub(super) fn draw(&self, status: &mut Value) {
        let Some(objects) = status.get_mut("objects").and_then(Value::as_array_mut) else { return };
        for object in objects.iter_mut().filter_map(Value::as_object_mut) {
            let track = object.get("id").and_then(Value::as_str).and_then(|id| self.tracks.get(id));
            let mut spark = Map::new();
            spark.insert("step_s".into(), json!(STEP));
            for (at, line) in LINES.iter().enumerate() {
                let value = |step: usize| match track
                    .map(|track| track.steps[at][(self.at + step) % STEPS])
                {
                    None | Some(UNKNOWN) => Value::Null,
                    Some(count) => count.into(),
                };
                spark.insert((*line).into(), (0..STEPS).map(value).collect());
            }
            object.insert("spark".into(), spark.into());
        }
    }
}

fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(UNKNOWN).min(UNKNOWN - 1)
}

fn objects(status: &Value) -> impl Iterator<Item = (&str, Counts)> {
    let objects = status.get("objects").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    objects
        .iter()
        .filter_map(|object| Some((object.get("id")?.as_str()?, counts(object))))
        .take(OBJECTS)
}

/// What went well, what failed, what was refused; `None` for what an object does not count.
fn counts(object: &Value) -> Counts {
    let counter = |names: &[&str]| {
        let counters = object.get("counters")?.as_array()?;
        names.iter().find_map(|name| {
            counters.iter().find(|counter| counter["id"] == **name)?.get("value")?.as_u64()
        })
    };
    let failed = counter(&["failed", "failures"]);
    let ok = counter(&["succeeded", "successes", "ok"]).or_else(|| {
        let calls = counter(&[
            "calls", "acquired", "admitted", "allowed", "executed", "seen", "led", "sent",
            "answered",
        ])?;
        Some(calls.saturating_sub(failed.unwrap_or(0)))
    });
    let rejected = object
        .get("rejects")
        .and_then(Value::as_array)
        .filter(|rejects| !rejects.is_empty())
        .map(|rejects| rejects.iter().filter_map(|reject| reject.get("value")?.as_u64()).sum())
        .or_else(|| counter(&["rejected", "rejections"]));
    [ok, failed, rejected]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(calls: u64, failures: u64, refused: u64) -> Value {
        json!({"objects": [{
            "id": "circuit_breaker/db",
            "counters": [{"id": "calls", "value": calls}, {"id": "failures", "value": failures}],
            "rejects": [{"reason": "circuit_open", "value": refused}, {"reason": "forced", "value": 1}],
        }]})
    }

    fn at(seconds: u64) -> Tick {
        Tick(1_000_000_000 * (100 + seconds))
    }

    fn drawn(history: &History) -> Value {
        let mut document = status(0, 0, 0);
        history.draw(&mut document);
        document["objects"][0]["spark"].take()
    }

    #[test]
    fn each_step_is_what_was_counted_in_it() {
        let mut history = History::default();
        history.sample(&status(10, 1, 0), at(0));
        history.sample(&status(15, 2, 7), at(2));
        history.sample(&status(15, 2, 7), at(4));
        let spark = drawn(&history);
        assert_eq!(spark["step_s"], 2);
        assert_eq!(spark["ok"].as_array().unwrap().len(), STEPS);
        assert_eq!(spark["ok"].as_array().unwrap()[57..], [json!(null), json!(4), json!(0)]);
        assert_eq!(spark["failed"].as_array().unwrap()[57..], [json!(null), json!(1), json!(0)]);
        assert_eq!(spark["rejected"].as_array().unwrap()[57..], [json!(null), json!(7), json!(0)]);
    }

    #[test]
    fn what_was_not_seen_is_unknown_and_old_steps_go() {
        let mut history = History::default();
        for step in 0..200 {
            history.sample(&status(step, 0, 0), at(2 * step));
        }
        assert!(drawn(&history)["ok"].as_array().unwrap().iter().all(|count| *count == 1));
        // Stopped for ten seconds, in which 500 calls came: nobody knows when.
        history.sample(&status(699, 0, 0), at(398 + 10));
        history.sample(&status(701, 0, 0), at(398 + 12));
        let ok = drawn(&history)["ok"].take();
        assert_eq!(ok.as_array().unwrap()[53..55], [json!(1), json!(null)]);
        assert_eq!(ok.as_array().unwrap()[58..], [json!(null), json!(2)]);
        history.sample(&status(800, 0, 0), at(398 + 12 + 1000));
        assert!(drawn(&history)["ok"].as_array().unwrap().iter().all(Value::is_null));
    }

    #[test]
    fn an_object_that_was_replaced_counts_from_zero_and_one_that_is_gone_is_forgotten() {
        let mut history = History::default();
        history.sample(&status(1000, 0, 0), at(0));
        history.sample(&status(3, 0, 0), at(2));
        assert_eq!(drawn(&history)["ok"][59], 3);
        history.sample(&json!({"objects": []}), at(4));
        assert!(history.tracks.is_empty());
        let many: Vec<_> = (0..5000).map(|n| json!({"id": format!("retry/{n}")})).collect();
        history.sample(&json!({"objects": many}), at(6));
        assert_eq!(history.tracks.len(), OBJECTS);
        assert!(history.due() == at(8));
    }

    #[test]
    fn a_status_of_another_shape_does_no_harm() {
        let mut history = History::default();
        for odd in [
            json!(null),
            json!({"objects": 7}),
            json!({"objects": [7, {"id": 7}, {"id": "a", "counters": 7}]}),
        ] {
            history.sample(&odd, at(0));
            history.draw(&mut odd.clone());
        }
    }
}
