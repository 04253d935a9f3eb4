//! The quota that is learned, and the share that is refused here; without clock and timer.

use std::collections::VecDeque;
use std::time::Duration;

use super::line::{Line, Place, Stand};
use crate::backoff::Random;
use crate::clock::Tick;
use crate::pace::{Pace, Phase};

const BUCKETS: usize = 20;
/// With fewer calls in the window nothing is refused: a few failures say nothing.
const ENOUGH: f64 = 10.0;
/// At least one call in this time is sent, so that it is seen when the backend is well again.
const PROBE: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) quota: bool,
    /// `None` refuses none by chance.
    pub(super) k: Option<f64>,
    pub(super) max_share: f64,
    /// Nanoseconds.
    pub(super) window: u64,
    pub(super) max_wait: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Taken,
    /// It asked for less: throttled, or unavailable with a time to come again.
    Refused(Option<Duration>),
    Failed,
    /// Says nothing.
    Ignored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// At once, by the pace as it has changed so often.
    Go {
        change: u32,
    },
    /// It is to ask with [`Core::again`] then.
    Wait(Place),
    /// The quota has no room before then.
    NoRoom(Tick),
    /// By chance, because so many failed.
    Shed,
    Expired,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    number: u64,
    requests: f64,
    accepts: f64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    /// Of those sent: throttled, or failed.
    pub(super) failed: u64,
    pub(super) waited: u64,
    pub(super) no_room: u64,
    pub(super) shed: u64,
    pub(super) expired: u64,
}

#[derive(Debug)]
pub(super) struct Core {
    limits: Limits,
    pub(super) pace: Pace,
    line: Line,
    buckets: [Bucket; BUCKETS],
    sent_at: Option<Tick>,
    random: Random,
    /// In this step a measurement turned out to be too old; another one may have begun at once.
    forgot: bool,
    /// Changes of phase that nobody has told yet, and whether somebody is about to.
    untold: VecDeque<(Phase, Phase)>,
    telling: bool,
    pub(super) counts: Counts,
}

impl Core {
    pub(super) fn new(limits: Limits, random: Random) -> Self {
        Self {
            limits,
            pace: Pace::new(),
            line: Line::default(),
            buckets: [Bucket::default(); BUCKETS],
            sent_at: None,
            random,
            forgot: false,
            untold: VecDeque::new(),
            telling: false,
            counts: Counts::default(),
        }
    }

    pub(super) fn reset(&mut self) {
        self.pace.reset();
        self.buckets = [Bucket::default(); BUCKETS];
    }

    /// What was learned is kept, unless it is not to be learned any more. Of a window that gets shorter the same part
    /// is kept of what was counted.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub(super) fn reconfigure(&mut self, limits: Limits, random: Option<Random>, now: Tick) {
        let (requests, accepts) = self.window(now);
        let part = (limits.window as f64 / self.limits.window as f64).min(1.0);
        let same = limits.window == self.limits.window;
        self.limits = limits;
        if !same {
            self.buckets = [Bucket::default(); BUCKETS];
            let bucket = self.bucket(now);
            (bucket.requests, bucket.accepts) = (requests * part, accepts * part);
        }
        if !limits.quota && self.phase() != Phase::Free {
            self.pace.reset();
        }
        if let Some(random) = random {
            self.random = random;
        }
    }

    /// The quota as it is by now, also if nobody has called for a while. Only seen: the next call or answer is what
    /// forgets what is too old, and tells of it.
    pub(super) fn pace_at(&self, now: Tick) -> Pace {
        let mut pace = self.pace.clone();
        pace.age(now);
        pace
    }

    pub(super) const fn max_share(&self) -> f64 {
        self.limits.max_share
    }

    pub(super) fn phase(&self) -> Phase {
        self.pace.phase()
    }

    /// Notes how a step that began in `before` has changed the phase. Whether it is for the caller to tell of it: of the
    /// changes of others tells whoever tells already, so that they are told in order.
    pub(super) fn stepped(&mut self, mut before: Phase) -> bool {
        if std::mem::take(&mut self.forgot) {
            self.untold.push_back((before, Phase::Free));
            before = Phase::Free;
        }
        if before != self.phase() {
            self.untold.push_back((before, self.phase()));
        }
        !self.untold.is_empty() && !std::mem::replace(&mut self.telling, true)
    }

    /// What is to be told next. With `None` it is over.
    pub(super) fn untold(&mut self) -> Option<(Phase, Phase)> {
        let next = self.untold.pop_front();
        self.telling = next.is_some();
        next
    }

    const fn number(&self, now: Tick) -> u64 {
        // From 1: none is ever taken for one that is still empty.
        now.0 / (self.limits.window / BUCKETS as u64) + 1
    }

    #[expect(clippy::cast_possible_truncation, reason = "below `BUCKETS`")]
    fn bucket(&mut self, now: Tick) -> &mut Bucket {
        let number = self.number(now);
        let bucket = &mut self.buckets[(number % BUCKETS as u64) as usize];
        if bucket.number != number {
            *bucket = Bucket { number, ..Bucket::default() };
        }
        bucket
    }

    /// How many calls of the window were asked for, and how many were taken.
    pub(super) fn window(&self, now: Tick) -> (f64, f64) {
        let newest = self.number(now);
        let oldest = newest.saturating_sub(BUCKETS as u64 - 1);
        let (mut requests, mut accepts) = (0.0, 0.0);
        for bucket in &self.buckets {
            if (oldest..=newest).contains(&bucket.number) {
                requests += bucket.requests;
                accepts += bucket.accepts;
            }
        }
        (requests, accepts)
    }

    /// The share of calls that is refused here: `(requests - k * accepts) / (requests + 1)`.
    pub(super) fn share(&self, now: Tick) -> f64 {
        let Some(k) = self.limits.k else { return 0.0 };
        let (requests, accepts) = self.window(now);
        if requests < ENOUGH {
            return 0.0;
        }
        ((requests - k * accepts) / (requests + 1.0)).clamp(0.0, self.limits.max_share)
    }

    #[expect(clippy::cast_precision_loss, reason = "32 bits")]
    fn chance(&mut self, share: f64) -> bool {
        let most = u64::from(u32::MAX);
        (self.random.between(0, most) as f64) < share * (most as f64 + 1.0)
    }

    /// A call wants to be sent, and would wait until `deadline`.
    pub(super) fn admit(&mut self, deadline: Option<Tick>, now: Tick) -> Answer {
        if deadline.is_some_and(|at| at <= now) {
            let _ = self.pace.next(now);
            self.counts.expired += 1;
            return Answer::Expired;
        }
        let share = self.share(now);
        let probe = self.sent_at.is_none_or(|at| now.0.saturating_sub(at.0) >= PROBE);
        if share > 0.0 && !probe && self.chance(share) {
            // Refused here it is asked for and not taken: counted, or the share would fall at once.
            self.bucket(now).requests += 1.0;
            self.counts.shed += 1;
            let _ = self.pace.next(now);
            return Answer::Shed;
        }
        self.line.advance(None, &mut self.pace, now);
        let latest = now.0.saturating_add(self.limits.max_wait);
        // At its deadline it would be too late.
        let latest = deadline.map_or(latest, |at| latest.min(at.0 - 1));
        let answer = self.turn(Tick(latest), false, now);
        self.counts.waited += u64::from(matches!(answer, Answer::Wait(_)));
        answer
    }

    /// It has a place, and was to ask again.
    pub(super) fn again(&mut self, place: Place, deadline: Option<Tick>, now: Tick) -> Answer {
        self.line.advance(Some(place), &mut self.pace, now);
        if deadline.is_some_and(|at| at <= now) {
            // It was woken too late: nobody waits for it any longer.
            self.line.leave(place);
            self.counts.expired += 1;
            return Answer::Expired;
        }
        // Only by its deadline: its place is its own, also if the rate has fallen.
        let stays = match self.line.stand(place, &mut self.pace) {
            Stand::Came => return Answer::Go { change: self.pace.change() },
            Stand::Waits => true,
            Stand::Void => false,
        };
        self.turn(place.latest, stays, now)
    }

    /// The next one that is nobody's, until `latest` unless it `stays`.
    fn turn(&mut self, latest: Tick, stays: bool, now: Tick) -> Answer {
        let place = self.line.next(latest, &mut self.pace, now);
        if place.turn <= now {
            self.line.go(place, &mut self.pace, now);
            return Answer::Go { change: self.pace.change() };
        }
        self.pace.wait(now);
        if place.turn > latest && !stays {
            self.counts.no_room += 1;
            return Answer::NoRoom(place.turn);
        }
        self.line.enter(place);
        Answer::Wait(place)
    }

    pub(super) fn sent(&mut self, now: Tick) {
        self.counts.sent += 1;
        self.sent_at = Some(now);
    }

    /// It waits for its turn no more.
    pub(super) fn leave(&mut self, place: Place) {
        self.line.leave(place);
    }

    /// It had its turn, and is not sent after all.
    pub(super) fn give_back(&mut self, change: u32, now: Tick) {
        self.pace.give_back(change, now);
    }

    pub(super) fn finish(&mut self, sent: Tick, end: End, now: Tick) {
        if end != End::Ignored && self.phase() == Phase::Measuring {
            self.pace.age(now);
            self.forgot = self.phase() == Phase::Free;
        }
        self.counts.failed += u64::from(matches!(end, End::Failed | End::Refused(_)));
        // What the quota sees to must not be refused twice.
        let by_quota = self.limits.quota && matches!(end, End::Refused(_));
        if end != End::Ignored && !by_quota {
            let bucket = self.bucket(now);
            bucket.requests += 1.0;
            bucket.accepts += f64::from(u8::from(end == End::Taken));
        }
        match end {
            End::Taken => self.pace.taken(sent, now),
            End::Failed => self.pace.failed(sent, now),
            End::Refused(hint) if self.limits.quota => self.pace.refused(sent, hint, now),
            End::Refused(_) | End::Ignored => {}
        }
    }
}
