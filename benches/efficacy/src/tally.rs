//! What is counted in a run, second by second.

use crate::world::Micros;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Second {
    /// By arrival.
    pub(crate) offered: u64,
    pub(crate) good: u64,
    pub(crate) critical: u64,
    pub(crate) critical_good: u64,
    /// By the time it happened.
    pub(crate) attempts: u64,
    pub(crate) refused: u64,
    pub(crate) queue: usize,
    pub(crate) busy: usize,
    pub(crate) in_flight: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) seconds: Vec<Second>,
    /// Answered in time, by tenth of a second of arrival.
    tenths: Vec<u32>,
    work: f64,
    wasted: f64,
}

fn second(at: Micros) -> usize {
    (at / 1_000_000) as usize
}

impl Tally {
    pub(crate) fn new(seconds: usize) -> Self {
        // What comes later lands in the last.
        Self {
            seconds: vec![Second::default(); seconds + 1],
            tenths: vec![0; seconds * 10 + 1],
            work: 0.0,
            wasted: 0.0,
        }
    }

    fn at(&mut self, at: Micros) -> &mut Second {
        let last = self.seconds.len() - 1;
        &mut self.seconds[second(at).min(last)]
    }

    pub(crate) fn offered(&mut self, at: Micros, critical: bool) {
        let this = self.at(at);
        this.offered += 1;
        this.critical += u64::from(critical);
    }

    pub(crate) fn good(&mut self, arrived: Micros, critical: bool) {
        let this = self.at(arrived);
        this.good += 1;
        this.critical_good += u64::from(critical);
        let last = self.tenths.len() - 1;
        self.tenths[((arrived / 100_000) as usize).min(last)] += 1;
    }

    pub(crate) fn attempt(&mut self, at: Micros) {
        self.at(at).attempts += 1;
    }

    pub(crate) fn refused(&mut self, at: Micros) {
        self.at(at).refused += 1;
    }

    pub(crate) fn work(&mut self, cost: f64, useful: bool) {
        self.work += cost;
        if !useful {
            self.wasted += cost;
        }
    }

    pub(crate) fn look(&mut self, second: usize, (queue, busy): (usize, usize), in_flight: usize) {
        if let Some(this) = self.seconds.get_mut(second) {
            (this.queue, this.busy, this.in_flight) = (queue, busy, in_flight);
        }
    }

    /// Seconds after `end` until half a second goes as well as for the oracle, but for 5 %; and so does the
    /// time from there on.
    pub(crate) fn recovery(&self, oracle: &Self, end: usize) -> Option<f64> {
        let last = self.tenths.len() - 1;
        let as_well = |from: usize, to: usize| {
            let sum = |tally: &Self| f64::from(tally.tenths[from..to].iter().sum::<u32>());
            sum(self) >= 0.95 * sum(oracle)
        };
        (end * 10..last - 5)
            .find(|&at| as_well(at, at + 5) && as_well(at, last))
            .map(|at| (at - end * 10) as f64 / 10.0)
    }

    pub(crate) fn waste(&self) -> f64 {
        if self.work > 0.0 { self.wasted / self.work } else { 0.0 }
    }

    /// The sum over the arrivals of `from..to`.
    pub(crate) fn window(&self, (from, to): (usize, usize)) -> Second {
        let mut sum = Second::default();
        for second in &self.seconds[from..to] {
            sum.offered += second.offered;
            sum.good += second.good;
            sum.critical += second.critical;
            sum.critical_good += second.critical_good;
            sum.attempts += second.attempts;
            sum.refused += second.refused;
        }
        sum
    }

    /// The most attempts for each offered request in one second, from 5 s on.
    pub(crate) fn peak(&self, least: f64) -> f64 {
        let last = self.seconds.len() - 1;
        self.seconds[5.min(last)..last]
            .iter()
            .map(|second| second.attempts as f64 / (second.offered as f64).max(least))
            .fold(0.0, f64::max)
    }
}
