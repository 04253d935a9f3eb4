//! Who is started, stopped and given up, and when. No clock, no process: what happened comes in with the
//! time, what is to be done goes out.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use crate::backoff::{Backoff, Random};
use crate::clock::{Tick, nanos};

use super::exit::Exit;
use super::policy::{Restart, Strategy};

mod commands;
mod readings;

/// What the core has to know of a child.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) restart: Restart,
    pub(super) success: Vec<i32>,
    pub(super) backoff: Backoff,
    pub(super) stable_after: Duration,
    /// How long one that is found frozen has been so by then.
    pub(super) frozen_for: Duration,
    /// `None`: it is ready as soon as it exists.
    pub(super) ready_within: Option<Duration>,
    pub(super) grace: Duration,
    pub(super) kill_wait: Duration,
}

/// More than `restarts` in any `within` is too much, and so are as many in a row of one that was never ready: by the time
/// that each of them takes they would never be in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Intensity {
    pub(super) restarts: u32,
    pub(super) within: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// All end.
    Shutdown,
    /// Another one of its group failed.
    Group,
    Frozen,
    StartTimeout,
    /// Somebody asked for a restart.
    Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Asked {
        until: Tick,
    },
    Killed {
        until: Tick,
    },
    /// It has not even died of SIGKILL.
    Stuck,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its turn comes when all before it are up.
    Waiting,
    Backoff {
        until: Tick,
    },
    /// `since`: when it was first asked whether it is ready, or, until it is `asked`, when nobody could for the first
    /// time. A time in which nobody could ask is none of its own, but that must end, too.
    Starting {
        since: Option<Tick>,
        asked: bool,
    },
    Up {
        since: Tick,
    },
    Stopping {
        why: Why,
        step: Step,
        /// How long it was ready until it had to be stopped.
        up: Option<Duration>,
    },
    /// No process, until the group or all have stopped.
    Stopped,
    /// No process, and none to come.
    Done,
}

impl State {
    const fn has_process(self) -> bool {
        matches!(self, Self::Starting { .. } | Self::Up { .. } | Self::Stopping { .. })
    }

    const fn is_stuck(self) -> bool {
        matches!(self, Self::Stopping { step: Step::Stuck, .. })
    }

    fn up(self, now: Tick) -> Option<Duration> {
        match self {
            Self::Up { since } => Some(now.since(since)),
            Self::Stopping { up, .. } => up,
            _ => None,
        }
    }
}

/// What is seen of a child's state from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Waiting,
    Backoff(Duration),
    Starting,
    Up(Duration),
    Stopping,
    Unkillable,
    Stopped,
    Finished,
}

#[derive(Debug)]
struct Kid {
    rule: Rule,
    state: State,
    pid: Option<u32>,
    /// Which process of this child it is: what is said of an earlier one does not count.
    run: u64,
    restarts: u64,
    /// Failures in a row, each before it had been up for `stable_after`.
    unstable: u32,
    /// Failures in a row, in each of which it was never ready.
    unready: u32,
    previous: u64,
    /// In a group that stops: whether it comes back.
    again: bool,
    /// It has been told that nobody can ask.
    unasked: bool,
    last: Option<Exit>,
}

/// Why it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Finished,
    Stopped,
    Escalated { child: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Running,
    /// All from `first` on stop, in reverse order, and start again, not before `until`.
    Regroup {
        first: usize,
        until: Tick,
    },
    Ending {
        end: End,
        deadline: Option<Tick>,
    },
    Ended(End),
}

/// What becomes of a child that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Restarts(Duration),
    RestartsWithGroup,
    Escalates,
    Finished,
    Stays,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Out {
    /// To be answered at once with `started` or `not_started`.
    Start(usize),
    /// The stop signal and, for one that is stopped, the one that lets it go on.
    Stop(usize),
    Kill(usize),
    Ready(usize),
    Frozen(usize),
    Unasked(usize),
    StartTimeout(usize),
    Unkillable(usize),
    Exited(usize, Exit, Then),
    Ended(End),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) starts: u64,
    pub(super) restarts: u64,
    pub(super) freezes: u64,
    pub(super) start_timeouts: u64,
    pub(super) kills: u64,
}

#[derive(Debug)]
pub(super) struct Core {
    strategy: Strategy,
    intensity: Option<Intensity>,
    /// Stop all at once instead of one after the other.
    together: bool,
    kids: Vec<Kid>,
    /// When the last restarts were decided: no more than the intensity allows.
    recent: VecDeque<Tick>,
    mode: Mode,
    out: Vec<Out>,
    random: Random,
    totals: Totals,
}

impl Core {
    pub(super) fn new(
        rules: Vec<Rule>,
        strategy: Strategy,
        intensity: Option<Intensity>,
        together: bool,
        random: Random,
    ) -> Self {
        let kid = |rule| Kid {
            rule,
            state: State::Waiting,
            pid: None,
            run: 0,
            restarts: 0,
            unstable: 0,
            unready: 0,
            previous: 0,
            again: false,
            unasked: false,
            last: None,
        };
        Self {
            strategy,
            intensity,
            together,
            kids: rules.into_iter().map(kid).collect(),
            recent: VecDeque::new(),
            mode: Mode::Running,
            out: Vec::new(),
            random,
            totals: Totals::default(),
        }
    }

    // ---- what is to be done

    /// Does what is due. Every `Out::Start` must have been answered.
    pub(super) fn advance(&mut self, now: Tick) -> Vec<Out> {
        for index in 0..self.kids.len() {
            self.expire(index, now);
        }
        if let Mode::Regroup { first, until } = self.mode {
            self.regroup(first, until, now);
        }
        match self.mode {
            Mode::Running => self.start_due(now),
            Mode::Ending { end, deadline } => self.end(end, deadline, now),
            Mode::Regroup { .. } | Mode::Ended(_) => {}
        }
        std::mem::take(&mut self.out)
    }

    /// When `advance` has something to do if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Tick> {
        let timers = self.kids.iter().filter_map(|kid| match kid.state {
            State::Starting { since, .. } => Some(since?.after(kid.rule.ready_within?)),
            State::Backoff { until } if self.mode == Mode::Running => Some(until),
            State::Stopping { step: Step::Asked { until } | Step::Killed { until }, .. } => {
                Some(until)
            }
            _ => None,
        });
        let end = match self.mode {
            Mode::Ending { deadline, .. } => deadline,
            _ => None,
        };
        timers.chain(end).min()
    }

    fn expire(&mut self, index: usize, now: Tick) {
        let kid = &mut self.kids[index];
        match kid.state {
            State::Starting { since: Some(since), asked }
                if kid.rule.ready_within.is_some_and(|within| now >= since.after(within)) =>
            {
                // Before it is blamed: whoever asks may learn too late that nobody could.
                if !asked {
                    self.unasked(index);
                }
                self.totals.start_timeouts += 1;
                self.out.push(Out::StartTimeout(index));
                self.stop(index, Why::StartTimeout, now);
            }
            State::Stopping { step: Step::Asked { until }, .. } if now >= until => {
                self.kill(index, now);
            }
            State::Stopping { why, step: Step::Killed { until }, up } if now >= until => {
                kid.state = State::Stopping { why, step: Step::Stuck, up };
                self.out.push(Out::Unkillable(index));
            }
            _ => {}
        }
    }

    fn start_due(&mut self, now: Tick) {
        // Whether all before this one are up, or are not to be.
        let mut clear = true;
        for index in 0..self.kids.len() {
            let due = match self.kids[index].state {
                State::Waiting => clear,
                State::Backoff { until } => now >= until,
                _ => false,
            };
            if due {
                let kid = &mut self.kids[index];
                kid.state = State::Starting { since: None, asked: false };
                kid.run += 1;
                self.totals.starts += 1;
                self.out.push(Out::Start(index));
            }
            clear &= matches!(self.kids[index].state, State::Up { .. } | State::Done);
        }
        if self.kids.iter().all(|kid| kid.state == State::Done) {
            self.mode = Mode::Ended(End::Finished);
            self.out.push(Out::Ended(End::Finished));
        }
    }

    /// Stops the last of those that run, or all of them. False: none runs but those that cannot die.
    fn stop_from(&mut self, first: usize, together: bool, why: Why, now: Tick) -> bool {
        let mut any = false;
        for index in (first..self.kids.len()).rev() {
            let state = self.kids[index].state;
            if state.has_process() && !state.is_stuck() {
                any = true;
                if !matches!(state, State::Stopping { .. }) {
                    self.stop(index, why, now);
                }
                if !together {
                    break;
                }
            }
        }
        any
    }

    fn regroup(&mut self, first: usize, until: Tick, now: Tick) {
        if self.stop_from(first, self.together, Why::Group, now) {
            return;
        }
        let group = &mut self.kids[first..];
        // No second one beside one that cannot die.
        if group.iter().any(|kid| kid.state.has_process()) {
            return;
        }
        let mut leader = true;
        for kid in group.iter_mut().filter(|kid| kid.state != State::Done) {
            if !kid.again {
                kid.state = State::Done;
            } else if std::mem::take(&mut leader) {
                kid.state = State::Backoff { until };
            } else {
                kid.state = State::Waiting;
            }
        }
        self.mode = Mode::Running;
    }

    fn end(&mut self, end: End, deadline: Option<Tick>, now: Tick) {
        if deadline.is_some_and(|deadline| now >= deadline) {
            for index in 0..self.kids.len() {
                let state = self.kids[index].state;
                let killed = matches!(
                    state,
                    State::Stopping { step: Step::Killed { .. } | Step::Stuck, .. }
                );
                if state.has_process() && !killed {
                    self.kill(index, now);
                }
            }
            self.mode = Mode::Ending { end, deadline: None };
        }
        if !self.stop_from(0, self.together, Why::Shutdown, now) {
            self.mode = Mode::Ended(end);
            self.out.push(Out::Ended(end));
        }
    }

    fn stop(&mut self, index: usize, why: Why, now: Tick) {
        let kid = &mut self.kids[index];
        let up = kid.state.up(now);
        let until = now.after(kid.rule.grace);
        kid.state = State::Stopping { why, step: Step::Asked { until }, up };
        if kid.rule.grace.is_zero() {
            self.kill(index, now);
        } else {
            self.out.push(Out::Stop(index));
        }
    }

    fn kill(&mut self, index: usize, now: Tick) {
        let kid = &mut self.kids[index];
        let why = match kid.state {
            State::Stopping { why, .. } => why,
            _ => Why::Shutdown,
        };
        let until = now.after(kid.rule.kill_wait);
        let up = kid.state.up(now);
        kid.state = State::Stopping { why, step: Step::Killed { until }, up };
        self.totals.kills += 1;
        self.out.push(Out::Kill(index));
    }

    // ---- what happened

    pub(super) fn started(&mut self, index: usize, pid: u32, now: Tick) {
        let kid = &mut self.kids[index];
        kid.pid = Some(pid);
        if kid.rule.ready_within.is_none() && matches!(kid.state, State::Starting { .. }) {
            kid.state = State::Up { since: now };
            self.out.push(Out::Ready(index));
        }
    }

    /// It is asked. True: whether it is ready, for the first time.
    pub(super) fn asked(&mut self, index: usize, run: u64, now: Tick) -> bool {
        let kid = &mut self.kids[index];
        if kid.run != run {
            return false;
        }
        kid.unasked = false;
        let first = matches!(kid.state, State::Starting { asked: false, .. });
        if first {
            kid.state = State::Starting { since: Some(now), asked: true };
        }
        first
    }

    /// It cannot be asked. True: whether it is ready, and for the first time.
    pub(super) fn not_asked(&mut self, index: usize, run: u64, now: Tick) -> bool {
        let kid = &mut self.kids[index];
        let first =
            kid.run == run && matches!(kid.state, State::Starting { since: None, asked: false });
        if first {
            kid.state = State::Starting { since: Some(now), asked: false };
        }
        first
    }

    /// It cannot be asked for long.
    pub(super) fn unasked(&mut self, index: usize) {
        if !std::mem::replace(&mut self.kids[index].unasked, true) {
            self.out.push(Out::Unasked(index));
        }
    }

    pub(super) fn not_started(&mut self, index: usize, why: io::ErrorKind, now: Tick) {
        self.exited(index, Exit::NotStarted(why), now);
    }

    pub(super) fn ready(&mut self, index: usize, run: u64, now: Tick) {
        let kid = &mut self.kids[index];
        if kid.run == run && matches!(kid.state, State::Starting { .. }) {
            kid.state = State::Up { since: now };
            self.out.push(Out::Ready(index));
        }
    }

    pub(super) fn frozen(&mut self, index: usize, run: u64, now: Tick) {
        self.unanswered(index, run, self.kids[index].rule.frozen_for, now);
    }

    /// It has been silent for so long, and is frozen.
    pub(super) fn unanswered(&mut self, index: usize, run: u64, silent: Duration, now: Tick) {
        let kid = &self.kids[index];
        if kid.run == run && matches!(kid.state, State::Up { .. }) {
            self.totals.freezes += 1;
            self.out.push(Out::Frozen(index));
            self.stop(index, Why::Frozen, now);
            if let State::Stopping { up: Some(up), .. } = &mut self.kids[index].state {
                *up = up.saturating_sub(silent);
            }
        }
    }

    pub(super) fn exited(&mut self, index: usize, exit: Exit, now: Tick) {
        let mode = self.mode;
        let kid = &mut self.kids[index];
        let before = std::mem::replace(&mut kid.state, State::Stopped);
        kid.pid = None;
        let why = match before {
            State::Stopping { why, .. } => Some(why),
            _ => None,
        };
        let exit = match why {
            Some(Why::Frozen) => Exit::Frozen,
            Some(Why::StartTimeout) => Exit::StartTimeout,
            _ => exit,
        };
        kid.last = Some(exit);
        let succeeded = matches!(exit, Exit::Code(code) if kid.rule.success.contains(&code));
        let again = match kid.rule.restart {
            Restart::Permanent => true,
            Restart::Transient => !succeeded,
            Restart::Temporary => false,
        };
        let then = match (mode, why) {
            (Mode::Ending { .. } | Mode::Ended(_), _) | (_, Some(Why::Shutdown)) => Then::Stays,
            (_, Some(Why::Group)) => {
                if kid.again {
                    Then::RestartsWithGroup
                } else {
                    Then::Stays
                }
            }
            (_, Some(Why::Asked)) => {
                kid.state = State::Backoff { until: now };
                Then::Restarts(Duration::ZERO)
            }
            // It fell while its group was being stopped: no failure of its own, but its policy holds.
            (Mode::Regroup { first, .. }, _) if index >= first => {
                kid.again = again;
                if again { Then::RestartsWithGroup } else { Then::Finished }
            }
            _ if !again => {
                kid.state = State::Done;
                Then::Finished
            }
            _ => self.failed(index, before.up(now), now),
        };
        self.out.push(Out::Exited(index, exit, then));
    }

    fn failed(&mut self, index: usize, up: Option<Duration>, now: Tick) -> Then {
        let kid = &mut self.kids[index];
        kid.unready = if up.is_some() { 0 } else { kid.unready.saturating_add(1) };
        let unready = kid.unready;
        if let Some(Intensity { restarts, within }) = self.intensity {
            while self.recent.front().is_some_and(|at| now.since(*at) >= within) {
                self.recent.pop_front();
            }
            if self.recent.len() >= restarts as usize || unready > restarts {
                let end = End::Escalated { child: index };
                self.mode = Mode::Ending { end, deadline: None };
                return Then::Escalates;
            }
            self.recent.push_back(now);
        }
        self.totals.restarts += 1;
        let kid = &mut self.kids[index];
        kid.restarts += 1;
        // Counted from when it was ready, and not while it was frozen or stopping: one that always dies while
        // starting, or freezes at once, never gets here.
        if up.is_some_and(|up| up >= kid.rule.stable_after) {
            (kid.unstable, kid.previous) = (0, 0);
        }
        kid.unstable = kid.unstable.saturating_add(1);
        let delay = kid.rule.backoff.draw(kid.unstable, kid.previous, &mut self.random);
        kid.previous = nanos(delay);
        let until = now.after(delay);
        let first = match self.strategy {
            Strategy::OneForOne => {
                kid.state = State::Backoff { until };
                return Then::Restarts(delay);
            }
            Strategy::OneForAll => 0,
            Strategy::RestForOne => index,
        };
        let (first, until) = match self.mode {
            Mode::Regroup { first: other, until: later } => (first.min(other), until.max(later)),
            _ => (first, until),
        };
        self.mode = Mode::Regroup { first, until };
        for (at, kid) in self.kids.iter_mut().enumerate().skip(first) {
            kid.again = at == index
                || kid.rule.restart != Restart::Temporary
                || matches!(kid.state, State::Waiting | State::Backoff { .. });
        }
        Then::Restarts(delay)
    }
}
