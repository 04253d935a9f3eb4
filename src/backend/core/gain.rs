//! Whether more in flight bring more answers.

use super::Core;
use crate::backend::latency::Latency;
use crate::backend::turn::State;
use crate::clock::Tick;

/// More in flight have to bring this share of their increase in answers. On the way to its capacity a backend gives
/// all of it, beyond it nothing; with others in front of it, what it takes from them.
const WORTH: f64 = 0.25;
/// A window has at least so many answers after its first.
const LEAST: u32 = 4;
/// A window says something about the limit if so much of it was in flight.
const FULL: f64 = 0.75;
/// Windows with so much more or less in flight, as a logarithm, are of the same.
const SAME: f64 = 0.05;
/// Lowered by this part to see whether anything is lost.
const PART: f64 = 6.0;
/// As long as nobody knows what they bring, no more in flight than so many times what is known.
const BEYOND: f64 = 1.5;
/// What is known is not taken to be more certain than this many answers make it.
const CERTAIN: f64 = 512.0;
/// More by so many times of what is chance is none.
const CHANGED: f64 = 2.0;
/// How much they differ is a mean over so many windows.
const WINDOWS: u32 = 8;
/// A try is followed by so many times the answers that it took.
const PAUSE: f64 = 16.0;

/// What windows with about the same in flight have shown, in logarithms.
#[derive(Clone, Copy, Debug)]
struct Point {
    in_flight: f64,
    /// Answers in a nanosecond.
    rate: f64,
    took: f64,
    answers: f64,
    /// The limit when it began.
    limit: f64,
}

impl Point {
    /// One more window of the same.
    fn merge(&mut self, other: &Self) {
        self.answers = (self.answers + other.answers).min(CERTAIN);
        let share = (other.answers / self.answers).min(1.0);
        self.in_flight += (other.in_flight - self.in_flight) * share;
        self.rate += (other.rate - self.rate) * share;
        self.took += (other.took - self.took) * share;
    }

    /// By how much two rates differ by chance, if `noise` is the variance of one answer. The ends of a window are not where
    /// answers begin.
    fn chance(&self, other: &Self, noise: f64) -> f64 {
        let one = |answers: f64| noise / answers + 0.5 / (answers * answers);
        (one(self.answers) + one(other.answers)).sqrt()
    }
}

/// What a window says of another with more or less in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// Nothing yet.
    Unclear,
    /// It is of the same.
    Same,
    /// More answers with no more in flight, and sooner.
    CanMore,
    /// More for more, or no less for less.
    Worth,
    /// More in flight, and they wait for each other.
    InVain,
    /// Less for less.
    Costs,
}

/// Windows of answers, each as long as one takes or longer, and what the last of them have shown.
#[derive(Debug, Default)]
pub(super) struct Gain {
    /// Of calls sent since then.
    from: Tick,
    /// The first answer.
    opened: Tick,
    /// At least so long.
    long: u64,
    limit: f64,
    answers: u32,
    in_flight: u64,
    /// As logarithms.
    took: f64,
    known: Option<Point>,
    /// How much rates of the same in flight differ, as the variance of one answer.
    noise: Option<f64>,
    /// So many have shown it.
    windows: u32,
    /// The limit before it was lowered to see what it costs.
    tried: Option<f64>,
    /// The last increase has brought nothing, or answers are slow.
    flat: bool,
    /// The baseline may be that of a queue which others have made: what it was before, and until when to think so.
    doubt: Option<(f64, Tick)>,
    /// Since when nothing is in flight.
    empty: Option<Tick>,
    /// So many answers until the next try.
    pause: f64,
}

impl Gain {
    /// An answer, while so many were in flight. Whether the window is long enough.
    #[inline]
    pub(super) fn note(&mut self, in_flight: u32, took: f64, started: Tick, now: Tick) -> bool {
        if let Some(since) = self.empty.take()
            && started.0.saturating_sub(since.0) > self.long
        {
            self.skip();
        }
        self.empty = (in_flight == 1).then_some(now);
        if started < self.from {
            return false;
        }
        if self.answers == 0 {
            self.opened = now;
        }
        self.answers += 1;
        self.in_flight += u64::from(in_flight);
        self.took += took;
        self.answers > LEAST && now.0.saturating_sub(self.opened.0) >= self.long
    }

    /// It begins anew: not all answers are seen.
    #[inline]
    pub(super) fn skip(&mut self) {
        (self.answers, self.in_flight, self.took) = (0, 0, 0.0);
    }

    /// The next window, from the first answer to what is sent `from` then on.
    fn open(&mut self, limit: f64, from: Tick, long: u64) {
        (self.from, self.long, self.limit) = (from, long, limit);
        self.skip();
    }

    /// More than that would bring nothing, or nobody knows yet what it brings.
    pub(super) fn most(&self, starting: bool, before: f64) -> f64 {
        match &self.known {
            _ if self.tried.is_some() => 0.0,
            _ if self.pause > 0.0 || self.flat || self.doubt.is_some() => before,
            Some(known) if !starting => (known.in_flight.exp() * BEYOND).max(before),
            _ => f64::INFINITY,
        }
    }

    /// `still` is that the limit has not moved since the window of `point` began.
    fn compare(&self, known: &Point, point: &Point, noise: f64, still: bool) -> Says {
        let step = point.in_flight - known.in_flight;
        let more = point.rate - known.rate;
        let chance = point.chance(known, noise);
        if step < SAME && more > CHANGED * chance && point.took < known.took {
            return Says::CanMore;
        }
        let due = WORTH * step;
        let clear = chance < due.abs();
        if self.tried.is_some() {
            let long = point.answers >= known.answers.max(CERTAIN);
            return match () {
                () if more + chance < due || (clear || long) && more < due => Says::Costs,
                () if clear || long => Says::Worth,
                () => Says::Unclear,
            };
        }
        if !clear && still && step.abs() < SAME {
            return Says::Same;
        }
        let slower = point.took - known.took > step / 2.0;
        // Fewer, because answers were slow, or as many as has been seen for long.
        let long = point.answers >= if step > 0.0 { CERTAIN } else { 4.0 * known.answers };
        match () {
            () if long || clear && step < 0.0 || step > 0.0 && more - chance >= due => Says::Worth,
            () if clear && more + chance < due && slower => Says::InVain,
            () => Says::Unclear,
        }
    }

    /// From now on answers take what they took in a queue, perhaps: no more is in flight for it than before, until they take what
    /// they took or it is found to last. The baseline is still as it was.
    pub(super) fn doubt(&mut self, latency: &Latency, until: Tick) {
        let base = self.doubt.map_or(f64::INFINITY, |(base, _)| base);
        self.doubt = Some((base.min(latency.base()), until));
    }

    pub(super) const fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    #[inline]
    pub(super) fn settle_doubt(&mut self, latency: &Latency, now: Tick) {
        if let Some((base, until)) = self.doubt
            && (now >= until || latency.is_free() || latency.is_based_near(base))
        {
            self.doubt = None;
        }
    }

    fn forget(&mut self) {
        (self.known, self.tried, self.flat) = (None, None, false);
        self.pause = 0.0;
    }

    #[expect(clippy::cast_precision_loss, reason = "a mean needs no 53 bits")]
    fn point(&self, now: Tick) -> Point {
        let answers = f64::from(self.answers - 1);
        let long = now.0.saturating_sub(self.opened.0).max(1) as f64;
        let in_flight = (self.in_flight as f64 / f64::from(self.answers)).ln();
        let took = self.took / f64::from(self.answers);
        Point { in_flight, rate: (answers / long).ln(), took, answers, limit: self.limit }
    }
}

impl Core {
    /// A window is long enough: growth that has brought nothing is taken back, and now and then a little less is tried.
    #[cold]
    pub(super) fn weigh(&mut self, now: Tick) {
        let takes = self.latency.typical();
        let point = self.gain.point(now);
        let settled = now.0.saturating_sub(self.settled_at.0) > self.patience_nanos();
        let calm = self.state == State::Up || self.state == State::Congested && settled;
        if !calm || point.in_flight.exp() < FULL * self.gain.limit.min(self.limit) {
            self.undo_try();
            self.gain.forget();
            self.gain.open(self.limit, Tick(0), takes);
            return;
        }
        let Some(known) = self.gain.known else {
            self.gain.known = Some(point);
            self.gain.open(self.limit, Tick(0), takes);
            return;
        };
        let noise = self.gain.noise.unwrap_or_else(|| self.latency.variance());
        let still = self.is_still();
        let says = self.gain.compare(&known, &point, noise, still);
        let mut from = Tick(0);
        match says {
            Says::Unclear => {
                // It takes more answers to say.
                self.gain.long = now.0.saturating_sub(self.gain.opened.0).saturating_add(takes);
                return;
            }
            Says::Same => {
                self.again(point, known, noise, now);
                return;
            }
            Says::CanMore => {
                self.undo_try();
                self.gain.forget();
                self.gain.known = Some(point);
            }
            Says::Worth => {
                self.gain.known = Some(point);
                if self.gain.tried.take().is_some() {
                    self.gain.pause = PAUSE * point.answers;
                    self.before = self.before.min(self.limit);
                } else {
                    self.gain.flat = false;
                }
            }
            Says::Costs => {
                self.undo_try();
                self.gain.flat = false;
                self.gain.pause = PAUSE * point.answers;
                from = now;
            }
            Says::InVain => {
                self.starting = false;
                let worth = known.in_flight.exp().max(known.limit);
                let worth = worth * (point.rate - known.rate).max(0.0).exp();
                self.limit = self.limit.min(worth.max(self.least_worth()));
                self.before = self.before.min(self.limit);
                self.gain.known = None;
                self.gain.flat = true;
                self.gain.pause = PAUSE * point.answers;
                from = now;
            }
        }
        self.gain.open(self.limit, from, takes);
    }

    #[cfg(all(test, not(buttress_loom)))]
    pub(in crate::backend) const fn is_in_doubt(&self) -> bool {
        self.gain.is_in_doubt()
    }

    /// The limit has not moved since the window began.
    fn is_still(&self) -> bool {
        self.gain.limit.to_bits() == self.limit.to_bits()
    }

    /// Answers come so quickly that not all are measured: nothing is tried.
    #[inline]
    pub(super) fn stop_weighing(&mut self) {
        if self.gain.known.is_some() || self.gain.tried.is_some() || self.gain.pause > 0.0 {
            self.undo_try();
            self.gain.forget();
        }
        self.gain.skip();
    }

    /// Unless it was lowered for other reasons meanwhile.
    pub(super) fn undo_try(&mut self) {
        if let Some(before) = self.gain.tried.take()
            && self.is_still()
        {
            self.limit = before;
        }
    }

    /// As many in flight as before.
    fn again(&mut self, point: Point, mut known: Point, noise: f64, now: Tick) {
        let off = point.rate - known.rate;
        let off = off * off * point.answers * known.answers / (point.answers + known.answers);
        self.gain.windows = (self.gain.windows + 1).min(WINDOWS);
        let noise = noise + (off - noise) / f64::from(self.gain.windows + 1);
        self.gain.noise = Some(noise);
        known.merge(&point);
        self.gain.known = Some(known);
        self.gain.pause -= point.answers;
        if self.gain.pause <= 0.0 {
            self.gain.pause = 0.0;
            self.gain.flat = self.is_slower_than(0.75);
        }
        let less = (self.limit - (self.limit / PART).max(1.0)).max(self.least_worth());
        let mut from = Tick(0);
        if self.gain.flat && known.chance(&known, noise) < WORTH * (self.limit / less).ln() {
            // Perhaps nothing is lost by it.
            self.gain.tried = Some(self.limit);
            self.limit = less;
            // What is out already says nothing about it.
            from = now;
        }
        let takes = self.latency.typical();
        self.gain.open(self.limit, from, takes);
    }

    /// One that is on its way while another is worked on, and what is in flight when nothing is wrong.
    fn least_worth(&self) -> f64 {
        (self.usual * 0.75).max(2.0)
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::{Gain, Point, Says};
    use crate::backend::latency::Latency;
    use crate::clock::Tick;

    /// So many in flight, answers in a second, and answers that have been seen.
    fn point(in_flight: f64, rate: f64, answers: f64) -> Point {
        // As Little has it.
        let took = (in_flight / rate).ln();
        Point { in_flight: in_flight.ln(), rate: rate.ln(), took, answers, limit: in_flight }
    }

    fn says(gain: &Gain, known: Point, point: Point) -> Says {
        gain.compare(&known, &point, 0.3, true)
    }

    #[test]
    fn growth_is_worth_it_while_it_brings_answers() {
        let gain = Gain::default();
        let known = point(10.0, 100.0, 500.0);
        assert_eq!(says(&gain, known, point(20.0, 190.0, 500.0)), Says::Worth);
        assert_eq!(says(&gain, known, point(20.0, 105.0, 500.0)), Says::InVain);
        assert_eq!(says(&gain, known, point(20.0, 80.0, 500.0)), Says::InVain);
        // So few answers may be chance.
        assert_eq!(says(&gain, known, point(20.0, 105.0, 5.0)), Says::Unclear);
    }

    #[test]
    fn no_more_answers_are_no_queue_while_answers_come_as_soon() {
        let gain = Gain::default();
        let known = point(10.0, 100.0, 400.0);
        let mut more = point(20.0, 100.0, 400.0);
        more.took = known.took;
        assert_eq!(says(&gain, known, more), Says::Unclear);
    }

    #[test]
    fn slower_answers_with_no_more_in_flight_are_no_queue_of_ours() {
        let gain = Gain::default();
        assert_eq!(says(&gain, point(10.0, 100.0, 400.0), point(10.0, 50.0, 400.0)), Says::Same);
    }

    #[test]
    fn more_answers_with_no_more_in_flight_are_another_backend() {
        let known = point(10.0, 100.0, 400.0);
        for tried in [None, Some(12.0)] {
            let gain = Gain { tried, ..Gain::default() };
            assert_eq!(says(&gain, known, point(9.0, 160.0, 50.0)), Says::CanMore);
        }
    }

    #[test]
    fn a_little_less_is_kept_only_if_it_costs_nothing() {
        let gain = Gain { tried: Some(12.0), ..Gain::default() };
        let known = point(12.0, 100.0, 500.0);
        assert_eq!(says(&gain, known, point(6.0, 98.0, 500.0)), Says::Worth);
        assert_eq!(says(&gain, known, point(6.0, 50.0, 50.0)), Says::Costs);
        assert_eq!(says(&gain, known, point(10.0, 98.0, 20.0)), Says::Unclear);
        // Whoever cannot tell gives it back.
        assert_eq!(says(&gain, known, point(10.0, 90.0, 600.0)), Says::Costs);
    }

    /// They are as quick as without a queue for a few dozen answers only, and no window need end then: after that it is
    /// what is normal.
    #[test]
    fn doubt_ends_once_answers_take_what_they_took_or_it_has_lasted() {
        const MS: u64 = 1_000_000;
        let (never, now) = (Tick(u64::MAX), Tick(1));
        let mut latency = Latency::default();
        let mut gain = Gain::default();
        (0..400).for_each(|_| latency.record(10 * MS, true));
        (0..400).for_each(|_| latency.record(280 * MS, false));
        gain.doubt(&latency, never);
        latency.rebase();
        // Another queue on top of that one: it is the first that counts.
        (0..400).for_each(|_| latency.record(900 * MS, false));
        gain.doubt(&latency, never);
        latency.rebase();
        (0..400).for_each(|_| latency.record(300 * MS, false));
        gain.settle_doubt(&latency, now);
        assert!(gain.is_in_doubt());
        // Nobody looks while they are much quicker.
        (0..400).for_each(|_| latency.record(11 * MS, true));
        gain.settle_doubt(&latency, now);
        assert!(!gain.is_in_doubt());

        gain.doubt(&latency, Tick(1000));
        (0..400).for_each(|_| latency.record(280 * MS, false));
        latency.rebase();
        gain.settle_doubt(&latency, Tick(999));
        assert!(gain.is_in_doubt());
        gain.settle_doubt(&latency, Tick(1000));
        assert!(!gain.is_in_doubt());
    }
}
