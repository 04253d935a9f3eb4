//! Which signals end a process, and how.

use std::fmt;

use crate::error::ConfigError;

/// A signal, by its number.
///
/// ```
/// use buttress::supervise::shutdown::Signal;
/// assert_eq!(Signal::TERM.to_string(), "SIGTERM");
/// assert_eq!(Signal::new(2), Signal::INT);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

impl Signal {
    /// The terminal has gone; on Windows, its window was closed.
    pub const HUP: Self = Self(1);
    /// Ctrl-C.
    pub const INT: Self = Self(2);
    /// Ctrl-\; on Windows, Ctrl-Break.
    pub const QUIT: Self = Self(3);
    /// What orchestrators send; on Windows, the end of the session or of the system.
    pub const TERM: Self = Self(15);
    /// For your own use.
    #[cfg(unix)]
    pub const USR1: Self = Self(libc::SIGUSR1);
    /// For your own use.
    #[cfg(unix)]
    pub const USR2: Self = Self(libc::SIGUSR2);

    /// The signal with this number.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::shutdown::Signal::new(15).number(), 15);
    /// ```
    #[must_use]
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    /// The number.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::shutdown::Signal::INT.number(), 2);
    /// ```
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// The exit code of a process that this signal ended: 128 and its number.
    pub(super) fn exit_code(self) -> u8 {
        u8::try_from(self.0).unwrap_or(u8::MAX).saturating_add(128)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(unix)]
        if let Some(name) = signal_hook::low_level::signal_name(self.0) {
            return f.write_str(name);
        }
        match *self {
            Self::HUP => f.write_str("SIGHUP"),
            Self::INT => f.write_str("SIGINT"),
            Self::QUIT => f.write_str("SIGQUIT"),
            Self::TERM => f.write_str("SIGTERM"),
            Self(number) => write!(f, "signal {number}"),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signal({self})")
    }
}

/// What a signal does. Only repetitions of the same signal count: Ctrl-C after a SIGTERM is the first.
///
/// ```
/// use buttress::supervise::shutdown::{OnSignal, Signal, Signals};
/// let signals = Signals::default();
/// assert_eq!(signals.get(Signal::TERM), Some(OnSignal::Graceful));
/// assert_eq!(signals.get(Signal::INT), Some(OnSignal::Escalate));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnSignal {
    /// The first begins the shutdown, further ones do nothing: orchestrators send SIGTERM again.
    Graceful,
    /// The first begins the shutdown; the second writes the report and ends the process with 128 + its
    /// number; a third that comes before that is done ends it from within the signal handler.
    Escalate,
    /// The first begins the shutdown; the second ends the lame duck and the drain and goes on to the
    /// callbacks; the third ends the process from within the signal handler, with 128 + its number.
    Hurry,
    /// The first ends the process from within the signal handler, with 128 + its number: no callback runs
    /// and nothing is written.
    Exit,
    /// Nothing. Not the same as leaving it out, which leaves the signal to others or to its default.
    Ignore,
}

/// What the thread that hears the signals has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Begin,
    Hurry,
    Exit,
}

impl OnSignal {
    /// After the signal came for the `count`th time, from 1.
    pub(super) const fn step(self, count: u32) -> Step {
        match (self, count) {
            (Self::Exit, _) | (Self::Escalate, 2..) | (Self::Hurry, 3..) => Step::Exit,
            (Self::Hurry, 2) => Step::Hurry,
            (Self::Graceful | Self::Escalate | Self::Hurry, 1) => Step::Begin,
            _ => Step::Nothing,
        }
    }

    /// Whether one more after the `count`th ends the process from within the handler. The handler acts even
    /// when no thread of ours gets to run any more.
    #[cfg(any(unix, test))]
    pub(super) const fn armed_after(self, count: u32) -> bool {
        match self {
            Self::Exit => true,
            Self::Escalate | Self::Hurry => count >= 2,
            Self::Graceful | Self::Ignore => false,
        }
    }
}

/// Which signals are handled, and how.
///
/// | signal | unless set otherwise |
/// |---|---|
/// | `TERM` | [`OnSignal::Graceful`] |
/// | `INT` | [`OnSignal::Escalate`] |
/// | all others | left alone |
///
/// ```
/// use buttress::supervise::shutdown::{GracefulShutdown, OnSignal, Signal, Signals};
///
/// let signals = Signals::default().on(Signal::QUIT, OnSignal::Exit).without(Signal::INT);
/// let shutdown = GracefulShutdown::builder("orders").signals(signals).build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Signals(Vec<(Signal, OnSignal)>);

impl Default for Signals {
    fn default() -> Self {
        Self::none().on(Signal::TERM, OnSignal::Graceful).on(Signal::INT, OnSignal::Escalate)
    }
}

impl Signals {
    /// None at all.
    ///
    /// ```
    /// use buttress::supervise::shutdown::{Signal, Signals};
    /// assert!(Signals::none().get(Signal::TERM).is_none());
    /// ```
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Sets what `signal` does.
    ///
    /// ```
    /// use buttress::supervise::shutdown::{OnSignal, Signal, Signals};
    /// let signals = Signals::none().on(Signal::HUP, OnSignal::Ignore);
    /// assert_eq!(signals.get(Signal::HUP), Some(OnSignal::Ignore));
    /// ```
    pub fn on(self, signal: Signal, does: OnSignal) -> Self {
        let mut signals = self.without(signal);
        signals.0.push((signal, does));
        signals
    }

    /// Leaves `signal` to others or to its default.
    ///
    /// ```
    /// use buttress::supervise::shutdown::{Signal, Signals};
    /// assert!(Signals::default().without(Signal::INT).get(Signal::INT).is_none());
    /// ```
    pub fn without(mut self, signal: Signal) -> Self {
        self.0.retain(|(other, _)| *other != signal);
        self
    }

    /// What `signal` does, if it is handled.
    ///
    /// ```
    /// use buttress::supervise::shutdown::{OnSignal, Signal, Signals};
    /// assert_eq!(Signals::default().get(Signal::INT), Some(OnSignal::Escalate));
    /// ```
    #[must_use]
    pub fn get(&self, signal: Signal) -> Option<OnSignal> {
        self.iter().find(|(other, _)| *other == signal).map(|(_, does)| does)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Signal, OnSignal)> {
        self.0.iter().copied()
    }

    /// What no process can, or should, handle.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        #[cfg(unix)]
        let can = |signal: Signal| {
            (1..=64).contains(&signal.0) && !signal_hook::consts::FORBIDDEN.contains(&signal.0)
        };
        #[cfg(not(unix))]
        let can = |signal| [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM].contains(&signal);
        match self.iter().find(|(signal, _)| !can(*signal)) {
            Some((signal, _)) => {
                Err(ConfigError::new("signals", signal, "signals that a process can handle"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_escalates_by_its_own_repetitions() {
        let steps = |does: OnSignal| [1, 2, 3, 4, u32::MAX].map(|count| does.step(count));
        use Step::{Begin, Exit, Hurry, Nothing};
        assert_eq!(steps(OnSignal::Graceful), [Begin, Nothing, Nothing, Nothing, Nothing]);
        assert_eq!(steps(OnSignal::Escalate), [Begin, Exit, Exit, Exit, Exit]);
        assert_eq!(steps(OnSignal::Hurry), [Begin, Hurry, Exit, Exit, Exit]);
        assert_eq!(steps(OnSignal::Exit), [Exit; 5]);
        assert_eq!(steps(OnSignal::Ignore), [Nothing; 5]);
    }

    #[test]
    fn the_handler_ends_the_process_only_when_nothing_else_did() {
        let armed = |does: OnSignal| [0, 1, 2, 3].map(|count| does.armed_after(count));
        assert_eq!(armed(OnSignal::Graceful), [false; 4]);
        assert_eq!(armed(OnSignal::Escalate), [false, false, true, true]);
        assert_eq!(armed(OnSignal::Hurry), [false, false, true, true]);
        assert_eq!(armed(OnSignal::Exit), [true; 4]);
    }

    #[test]
    fn signals_that_cannot_be_handled_are_refused() {
        let error = |number| Signals::none().on(Signal::new(number), OnSignal::Graceful).check();
        for number in [-1, 0, 4, 8, 9, 11, 19, 65] {
            assert_eq!(error(number).unwrap_err().field(), "signals", "{number}");
        }
        assert!(error(10).is_ok());
        assert_eq!(Signal::INT.exit_code(), 130);
        assert_eq!(Signal::new(i32::MAX).exit_code(), 255);
    }
}
