//! The script: what goes wrong on the backend's day, and when.

use std::time::Duration;

use tokio::time::Instant;

use crate::load::Rng;

/// What is wrong with the backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    Nothing,
    /// A share of the requests fails with a 500.
    Errors(f64),
    /// Connections are refused; whatever it was doing is lost.
    Down,
    /// Each request occupies its worker so many times longer.
    Slow(f64),
    /// Half of the workers are gone.
    HalfCapacity,
}

pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) fault: Fault,
    /// One caller sends more than all others together.
    pub(crate) greedy: bool,
    /// Seconds since the start of the day.
    pub(crate) from: f64,
    pub(crate) until: f64,
}

impl Phase {
    pub(crate) fn is_calm(&self) -> bool {
        self.fault == Fault::Nothing && !self.greedy
    }

    pub(crate) fn sentence(&self) -> &'static str {
        match self.fault {
            Fault::Nothing if self.greedy => "one caller sends more than all the others",
            Fault::Nothing => "the backend is healthy",
            Fault::Errors(_) => "the backend fails 30 % of its requests",
            Fault::Down => "the backend is down: connections are refused",
            Fault::Slow(_) => "the backend is 20 times slower",
            Fault::HalfCapacity => "half of the backend's workers are gone: it is overloaded",
        }
    }
}

/// The script of a day: what goes wrong when.
pub(crate) struct Day {
    pub(crate) seed: u64,
    pub(crate) start: Instant,
    pub(crate) phases: Vec<Phase>,
}

impl Day {
    /// The order of the faults is fixed, so that runs can be compared; how long each lasts is drawn.
    pub(crate) fn new(seed: u64, seconds: u64) -> Self {
        let script = [
            ("healthy", Fault::Nothing, 3.5),
            ("30 % errors", Fault::Errors(0.3), 5.0),
            ("healthy again", Fault::Nothing, 2.0),
            ("greedy caller", Fault::Nothing, 4.0),
            ("greed over", Fault::Nothing, 2.0),
            ("hard outage", Fault::Down, 5.0),
            ("back up", Fault::Nothing, 3.5),
            ("20x slower", Fault::Slow(20.0), 5.0),
            ("fast again", Fault::Nothing, 3.0),
            ("half capacity", Fault::HalfCapacity, 5.0),
            ("full capacity", Fault::Nothing, 3.0),
        ];
        let mut rng = Rng::new(seed, "day");
        let drawn =
            script.map(|(name, fault, share)| (name, fault, share * rng.within(0.85, 1.15)));
        let total: f64 = drawn.iter().map(|(_, _, share)| share).sum();
        let (mut share_so_far, mut until) = (0.0, 0.0);
        let phases = drawn
            .into_iter()
            .map(|(name, fault, share)| {
                let from = until;
                share_so_far += share;
                // To the tenth of a second, because that is what a `Tally` counts in.
                until = (share_so_far / total * seconds as f64 * 10.0).round() / 10.0;
                Phase { name, fault, greedy: name == "greedy caller", from, until }
            })
            .collect();
        // A moment for servers and clients to come up before the first request.
        Self { seed, start: Instant::now() + Duration::from_millis(200), phases }
    }

    pub(crate) fn length(&self) -> f64 {
        self.phases.last().map_or(0.0, |phase| phase.until)
    }

    /// Seconds since the start.
    pub(crate) fn now(&self) -> f64 {
        Instant::now().saturating_duration_since(self.start).as_secs_f64()
    }

    pub(crate) fn at(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }

    pub(crate) fn phase_at(&self, seconds: f64) -> usize {
        let later = self.phases.iter().position(|phase| seconds < phase.until);
        later.unwrap_or(self.phases.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_seed_draws_the_same_day_and_another_seed_another() {
        let times = |seed, seconds| -> Vec<f64> {
            Day::new(seed, seconds).phases.iter().map(|phase| phase.until).collect()
        };
        assert_eq!(times(7, 40), times(7, 40));
        assert_ne!(times(7, 40), times(8, 40));
    }

    #[tokio::test]
    async fn phases_follow_one_another_and_fill_the_day() {
        for seed in 0..200 {
            for seconds in [5, 20, 40, 3600] {
                let day = Day::new(seed, seconds);
                assert!((day.length() - seconds as f64).abs() < 1e-9, "seed {seed}");
                for pair in day.phases.windows(2) {
                    assert!(pair[0].until > pair[0].from, "seed {seed}");
                    assert!((pair[0].until - pair[1].from).abs() < 1e-9, "seed {seed}");
                }
            }
        }
    }
}
