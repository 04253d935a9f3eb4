//! The state machine of one record, without I/O: what every store does, whatever it keeps records in.

use std::sync::Arc;
use std::time::Duration;

use super::claim::{Begun, Claim, Finish, OnInterrupted, Renewed, Resolution};
use super::id::{Attempt, Fingerprint};
use super::record::{Outcome, Record, State};

/// A moment on a store's clock, in microseconds since an origin of the store's own.
///
/// ```
/// use buttress::store::StoreTime;
/// use std::time::Duration;
/// let now = StoreTime::from_micros(1_000);
/// assert_eq!(now.after(Duration::from_millis(2)).since(now), Duration::from_millis(2));
/// assert_eq!(now.since(now.after(Duration::from_secs(1))), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreTime(u64);

impl StoreTime {
    /// That many microseconds after the origin.
    ///
    /// ```
    /// assert_eq!(buttress::store::StoreTime::from_micros(7).as_micros(), 7);
    /// ```
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the origin.
    ///
    /// ```
    /// assert_eq!(buttress::store::StoreTime::default().as_micros(), 0);
    /// ```
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Later by `duration`, of which parts of a microsecond count as a whole one.
    ///
    /// ```
    /// use buttress::store::StoreTime;
    /// use std::time::Duration;
    /// assert_eq!(StoreTime::default().after(Duration::from_nanos(1)).as_micros(), 1);
    /// assert_eq!(StoreTime::default().after(Duration::MAX).as_micros(), u64::MAX);
    /// ```
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let micros = duration.as_nanos().div_ceil(1_000);
        Self(self.0.saturating_add(u64::try_from(micros).unwrap_or(u64::MAX)))
    }

    /// Since `earlier`; zero if that is later.
    ///
    /// ```
    /// use buttress::store::StoreTime;
    /// let (one, nine) = (StoreTime::from_micros(1), StoreTime::from_micros(9));
    /// assert_eq!(nine.since(one).as_micros(), 8);
    /// ```
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// What a store has to do to its copy of an entry.
///
/// ```
/// assert_eq!(buttress::store::Change::default(), buttress::store::Change::Keep);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a copy is kept, written or removed")]
pub enum Change {
    /// Nothing: the entry is as it was.
    #[default]
    Keep,
    /// Write the entry.
    Put,
    /// Remove the entry.
    Remove,
}

/// The answer to an operation and what it did to the entry.
///
/// ```
/// use buttress::store::{Attempt, Change, Claim, Entry, Fingerprint, StoreTime};
/// let claim = Claim::new(Fingerprint::NONE, Attempt::new());
/// let mut entry = Entry::claimed(&claim, StoreTime::default(), 1);
/// let step = entry.release(claim.attempt, StoreTime::default());
/// assert_eq!(step.change, Change::Remove);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "an answer and a change, there is no more to it")]
pub struct Step<T> {
    /// What to answer.
    pub answer: T,
    /// What to do to the store's copy.
    pub change: Change,
}

impl<T> Step<T> {
    const fn new(answer: T, change: Change) -> Self {
        Self { answer, change }
    }

    const fn keep(answer: T) -> Self {
        Self::new(answer, Change::Keep)
    }

    const fn put(answer: T) -> Self {
        Self::new(answer, Change::Put)
    }
}

/// A record as a store keeps it, with the transitions that every store makes. A store reads an entry, asks
/// it, and writes it back, all under one lock or in one transaction; stores that decide elsewhere (in SQL, in
/// a script) do the same by other means.
///
/// An operation on a record that is not there: `begin` makes an entry with [`claimed`](Self::claimed),
/// `release` answers [`Finish::Already`], everything else [`Finish::Fenced`] or [`Renewed::Fenced`].
///
/// ```
/// use buttress::store::{Attempt, Begun, Claim, Entry, Fingerprint, Finish, Outcome, StoreTime};
/// use std::time::Duration;
///
/// let now = StoreTime::from_micros(0);
/// let claim = Claim::new(Fingerprint::of(b"10 EUR"), Attempt::new());
/// let mut entry = Entry::claimed(&claim, now, 1);
///
/// let other = Claim::new(Fingerprint::of(b"10 EUR"), Attempt::new());
/// assert!(matches!(entry.begin(&other, now, 2).answer, Begun::Busy { .. }));
/// let outcome = Outcome::new(200, vec![], vec![]);
/// let done = entry.complete(claim.attempt, outcome.into(), Duration::from_secs(60), now);
/// assert_eq!(done.answer, Finish::Applied);
/// assert!(matches!(entry.begin(&other, now, 2).answer, Begun::Done(_)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// What was asked for.
    pub fingerprint: Fingerprint,
    /// How far it has come.
    pub state: State,
    /// The fencing number.
    pub generation: u64,
    /// The claim it belongs to.
    pub attempt: Attempt,
    /// How often it has been claimed for execution.
    pub runs: u16,
    /// When the lease ends. Counts only while pending.
    pub lease_until: StoreTime,
    /// When the record may be forgotten.
    pub expires_at: StoreTime,
    /// When it was claimed for the first time.
    pub created_at: StoreTime,
}

impl Entry {
    /// The attempt of a record that was resolved by other than its owner, or whose owner has given it back.
    const NOBODY: Attempt = Attempt::from_bytes([0; 16]);

    /// Of a claim that met no record. `generation` must be greater than that of any record this id had
    /// before; a store whose clock moves between two operations can take its [`StoreTime`].
    ///
    /// ```
    /// use buttress::store::{Attempt, Claim, Entry, Fingerprint, State, StoreTime};
    /// let claim = Claim::new(Fingerprint::NONE, Attempt::new());
    /// let entry = Entry::claimed(&claim, StoreTime::default(), 7);
    /// assert_eq!((entry.generation, entry.runs, entry.state), (7, 1, State::Pending));
    /// ```
    #[must_use]
    pub fn claimed(claim: &Claim, now: StoreTime, generation: u64) -> Self {
        Self {
            fingerprint: claim.fingerprint,
            state: State::Pending,
            generation,
            attempt: claim.attempt,
            runs: 1,
            lease_until: now.after(claim.lease),
            expires_at: now.after(claim.lease).after(claim.retention),
            created_at: now,
        }
    }

    /// Whether it may be forgotten: its retention is over, and nobody holds a lease on it.
    ///
    /// ```
    /// use buttress::store::{Attempt, Claim, Entry, Fingerprint, StoreTime};
    /// use std::time::Duration;
    /// let day = Duration::from_secs(24 * 60 * 60);
    /// let entry = Entry::claimed(&Claim::new(Fingerprint::NONE, Attempt::new()), StoreTime::default(), 1);
    /// assert!(!entry.is_expired(StoreTime::default()));
    /// assert!(!entry.is_expired(StoreTime::default().after(day)), "its retention began with the end of its lease");
    /// assert!(entry.is_expired(StoreTime::default().after(day + Duration::from_secs(30))));
    /// ```
    #[must_use]
    pub fn is_expired(&self, now: StoreTime) -> bool {
        now >= self.expires_at && !self.is_leased(now)
    }

    fn is_leased(&self, now: StoreTime) -> bool {
        self.state == State::Pending && now < self.lease_until
    }

    /// A claim meets this record. `generation` as for [`claimed`](Self::claimed).
    ///
    /// ```
    /// use buttress::store::{Attempt, Begun, Claim, Entry, Fingerprint, StoreTime};
    /// let claim = Claim::new(Fingerprint::NONE, Attempt::new());
    /// let mut entry = Entry::claimed(&claim, StoreTime::default(), 1);
    /// // The answer was lost, and the claim comes again: it is the same claim.
    /// let again = entry.begin(&claim, StoreTime::default(), 2);
    /// assert_eq!(again.answer, Begun::Run { generation: 1, runs: 1 });
    /// ```
    pub fn begin(&mut self, claim: &Claim, now: StoreTime, generation: u64) -> Step<Begun> {
        let fresh = generation.max(self.generation.saturating_add(1));
        if self.is_expired(now) {
            *self = Self::claimed(claim, now, fresh);
            return Step::put(Begun::Run { generation: fresh, runs: 1 });
        }
        if self.attempt == claim.attempt && self.state == State::Pending {
            // The answer to this very claim was lost.
            self.hold(claim, now);
            return Step::put(self.granted(claim));
        }
        // Before anything else: a mistake is a mistake, however far the other request has come.
        if self.fingerprint != claim.fingerprint {
            return Step::keep(Begun::Mismatch);
        }
        match self.state {
            State::Completed(_) => return Step::keep(Begun::Done(self.record(now))),
            State::Interrupted => return Step::keep(Begun::Interrupted(self.record(now))),
            State::Pending => {}
        }
        if self.is_leased(now) {
            let retry_in = self.lease_until.since(now);
            return Step::keep(Begun::Busy { generation: self.generation, retry_in });
        }
        let rerun = match claim.on_interrupted {
            OnInterrupted::Fail => false,
            OnInterrupted::Rerun(runs) => self.runs < runs,
            OnInterrupted::Probe => true,
        };
        if !rerun {
            self.state = State::Interrupted;
            self.expires_at = self.expires_at.max(now.after(claim.retention));
            return Step::put(Begun::Interrupted(self.record(now)));
        }
        self.generation = fresh;
        self.attempt = claim.attempt;
        self.runs = self.runs.saturating_add(1);
        self.hold(claim, now);
        Step::put(self.granted(claim))
    }

    /// What the owner is told. A claim that wants to probe and is not the first has taken over, also when
    /// it comes again because the answer was lost.
    pub(super) fn granted(&self, claim: &Claim) -> Begun {
        let (generation, runs) = (self.generation, self.runs);
        match claim.on_interrupted {
            OnInterrupted::Probe if runs > 1 => Begun::Probe { generation, runs },
            _ => Begun::Run { generation, runs },
        }
    }

    fn hold(&mut self, claim: &Claim, now: StoreTime) {
        self.lease_until = now.after(claim.lease);
        self.expires_at = self.expires_at.max(self.lease_until.after(claim.retention));
    }

    /// Whether `attempt` owns this record.
    fn belongs_to(&self, attempt: Attempt, now: StoreTime) -> bool {
        self.attempt == attempt && !self.is_expired(now)
    }

    /// The owner goes on holding its lease.
    ///
    /// ```
    /// use buttress::store::{Attempt, Claim, Entry, Fingerprint, Renewed, StoreTime};
    /// let claim = Claim::new(Fingerprint::NONE, Attempt::new());
    /// let now = StoreTime::default();
    /// let mut entry = Entry::claimed(&claim, now, 1);
    /// let renew = |entry: &mut Entry, by| entry.renew(by, claim.lease, claim.retention, now).answer;
    /// assert_eq!(renew(&mut entry, claim.attempt), Renewed::Held);
    /// assert_eq!(renew(&mut entry, Attempt::new()), Renewed::Fenced);
    /// ```
    pub fn renew(
        &mut self,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
        now: StoreTime,
    ) -> Step<Renewed> {
        if !self.belongs_to(attempt, now) {
            return Step::keep(Renewed::Fenced);
        }
        match self.state {
            State::Pending => {
                self.lease_until = now.after(lease);
                self.expires_at = self.expires_at.max(self.lease_until.after(retention));
                Step::put(Renewed::Held)
            }
            State::Interrupted => Step::keep(Renewed::Interrupted),
            State::Completed(_) => Step::keep(Renewed::Fenced),
        }
    }

    /// The owner says what came of it. Also sets right a record that was declared interrupted meanwhile:
    /// nobody has run it again.
    ///
    /// ```
    /// use buttress::store::{Attempt, Claim, Entry, Fingerprint, Finish, Outcome, StoreTime};
    /// let claim = Claim::new(Fingerprint::NONE, Attempt::new());
    /// let now = StoreTime::default();
    /// let mut entry = Entry::claimed(&claim, now, 1);
    /// let outcome = Outcome::new(200, vec![], vec![]);
    /// let late = entry.complete(Attempt::new(), outcome.into(), claim.retention, now);
    /// assert_eq!(late.answer, Finish::Fenced);
    /// ```
    pub fn complete(
        &mut self,
        attempt: Attempt,
        outcome: Arc<Outcome>,
        retention: Duration,
        now: StoreTime,
    ) -> Step<Finish> {
        if !self.belongs_to(attempt, now) {
            return Step::keep(Finish::Fenced);
        }
        match self.state {
            State::Pending | State::Interrupted => {
                self.state = State::Completed(outcome);
                self.lease_until = now;
                self.expires_at = now.after(retention);
                Step::put(Finish::Applied)
            }
            State::Completed(_) => Step::keep(Finish::Already),
        }
    }

    /// The owner says that the effect has not begun: the key is as if this claim had never been made. If it
    /// was the first, the entry goes. If it took over, it says nothing of those before it, who may have had
    /// their effect: the entry stays theirs, without a lease and with one run less.
    ///
    /// ```
    /// use buttress::store::{Attempt, Claim, Entry, Fingerprint, Finish, StoreTime};
    /// let claim = Claim::new(Fingerprint::NONE, Attempt::new());
    /// let mut entry = Entry::claimed(&claim, StoreTime::default(), 1);
    /// assert_eq!(entry.release(Attempt::new(), StoreTime::default()).answer, Finish::Fenced);
    /// ```
    #[must_use = "the caller has to remove or write the entry"]
    pub fn release(&mut self, attempt: Attempt, now: StoreTime) -> Step<Finish> {
        if self.is_expired(now) {
            return Step::keep(Finish::Already);
        }
        if self.attempt != attempt || self.state.outcome().is_some() {
            return Step::keep(Finish::Fenced);
        }
        if self.runs <= 1 {
            return Step::new(Finish::Applied, Change::Remove);
        }
        self.runs -= 1;
        self.attempt = Self::NOBODY;
        self.lease_until = self.lease_until.min(now);
        Step::put(Finish::Applied)
    }

    /// The owner says that it does not know whether the effect happened.
    ///
    /// ```
    /// use buttress::store::{Attempt, Claim, Entry, Fingerprint, Finish, State, StoreTime};
    /// let claim = Claim::new(Fingerprint::NONE, Attempt::new());
    /// let mut entry = Entry::claimed(&claim, StoreTime::default(), 1);
    /// entry.interrupt(claim.attempt, claim.retention, StoreTime::default());
    /// assert_eq!(entry.state, State::Interrupted);
    /// ```
    pub fn interrupt(
        &mut self,
        attempt: Attempt,
        retention: Duration,
        now: StoreTime,
    ) -> Step<Finish> {
        if !self.belongs_to(attempt, now) {
            return Step::keep(Finish::Fenced);
        }
        match self.state {
            State::Pending => {
                self.state = State::Interrupted;
                self.lease_until = now;
                self.expires_at = self.expires_at.max(now.after(retention));
                Step::put(Finish::Applied)
            }
            State::Interrupted => Step::keep(Finish::Already),
            State::Completed(_) => Step::keep(Finish::Fenced),
        }
    }

    /// The owner has gone without a word: its lease ends now instead of later.
    ///
    /// ```
    /// use buttress::store::{Attempt, Begun, Claim, Entry, Fingerprint, StoreTime};
    /// let claim = Claim::new(Fingerprint::NONE, Attempt::new());
    /// let mut entry = Entry::claimed(&claim, StoreTime::default(), 1);
    /// entry.abandon(claim.attempt, StoreTime::default());
    /// let next = Claim::new(Fingerprint::NONE, Attempt::new());
    /// let met = entry.begin(&next, StoreTime::default(), 2).answer;
    /// assert!(matches!(met, Begun::Interrupted(_)));
    /// ```
    pub fn abandon(&mut self, attempt: Attempt, now: StoreTime) -> Step<Finish> {
        if !self.belongs_to(attempt, now) || self.state != State::Pending {
            return Step::keep(Finish::Fenced);
        }
        self.lease_until = self.lease_until.min(now);
        Step::put(Finish::Applied)
    }

    /// Somebody who has found out decides a record of which nobody holds a lease. Nothing happens if the
    /// record is not of that generation any more.
    ///
    /// ```
    /// use buttress::store::{Attempt, Claim, Entry, Fingerprint, Finish, Resolution, StoreTime};
    /// let claim = Claim::new(Fingerprint::NONE, Attempt::new());
    /// let mut entry = Entry::claimed(&claim, StoreTime::default(), 1);
    /// // Its owner is still at it.
    /// let step = entry.resolve(1, Resolution::Forget, StoreTime::default());
    /// assert_eq!(step.answer, Finish::Fenced);
    /// ```
    pub fn resolve(
        &mut self,
        generation: u64,
        resolution: Resolution,
        now: StoreTime,
    ) -> Step<Finish> {
        if self.generation != generation || self.is_expired(now) || self.is_leased(now) {
            return Step::keep(Finish::Fenced);
        }
        match (&self.state, resolution) {
            (_, Resolution::Forget) => Step::new(Finish::Applied, Change::Remove),
            (State::Completed(_), Resolution::Completed(_)) => Step::keep(Finish::Fenced),
            (State::Pending | State::Interrupted, Resolution::Completed(outcome)) => {
                self.state = State::Completed(outcome);
                self.attempt = Self::NOBODY;
                self.lease_until = now;
                Step::put(Finish::Applied)
            }
        }
    }

    /// As it is told to callers.
    ///
    /// ```
    /// use buttress::store::{Attempt, Claim, Entry, Fingerprint, StoreTime};
    /// let claim = Claim::new(Fingerprint::NONE, Attempt::new());
    /// let entry = Entry::claimed(&claim, StoreTime::default(), 1);
    /// let record = entry.record(StoreTime::from_micros(1_000_000));
    /// assert_eq!((record.age.as_secs(), record.lease_left.as_secs()), (1, 29));
    /// ```
    #[must_use]
    pub fn record(&self, now: StoreTime) -> Record {
        let leased = self.state == State::Pending;
        Record {
            fingerprint: self.fingerprint,
            state: self.state.clone(),
            generation: self.generation,
            attempt: self.attempt,
            runs: self.runs,
            lease_left: if leased { self.lease_until.since(now) } else { Duration::ZERO },
            expires_in: self.expires_at.since(now),
            age: now.since(self.created_at),
        }
    }
}
