//! A supervisor's settings, checked.

use std::collections::HashSet;
use std::time::Duration;

use crate::backoff::Random;
use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};
use crate::supervise::{Lifecycle, Phase};

use super::child::Child;
use super::core::{Core, Intensity};
use super::handle::{ProcessSupervisor, Settings};
use super::policy::Strategy;

/// Builds a [`ProcessSupervisor`].
///
/// ```
/// use buttress::supervise::process::{Child, ProcessSupervisor, Strategy};
/// use std::time::Duration;
///
/// let supervisor = ProcessSupervisor::builder("orders")
///     .child(Child::new("db", "postgres"))
///     .child(Child::new("worker", "worker"))
///     .strategy(Strategy::RestForOne)
///     .intensity(10, Duration::from_secs(120))
///     .build()?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct ProcessSupervisorBuilder {
    name: Name,
    children: Vec<Child>,
    strategy: Strategy,
    intensity: Option<Intensity>,
    together: bool,
    subreaper: bool,
    lifecycle: Option<(Lifecycle, Phase)>,
    pub(crate) observers: Observers,
}

impl ProcessSupervisorBuilder {
    pub(super) const fn new(name: Name) -> Self {
        Self {
            name,
            children: Vec::new(),
            strategy: Strategy::OneForOne,
            intensity: Some(Intensity { restarts: 5, within: Duration::from_secs(60) }),
            together: false,
            subreaper: false,
            lifecycle: None,
            observers: Observers::DEFAULT,
        }
    }

    /// One more child. They start in this order, each when the one before is ready, and stop in the
    /// reverse.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// let _ = ProcessSupervisor::builder("orders").child(Child::new("worker", "worker"));
    /// ```
    pub fn child(mut self, child: Child) -> Self {
        self.children.push(child);
        self
    }

    /// Who else is started again when one failed. Default [`Strategy::OneForOne`].
    ///
    /// ```
    /// use buttress::supervise::process::{ProcessSupervisor, Strategy};
    /// let _ = ProcessSupervisor::builder("orders").strategy(Strategy::OneForAll);
    /// ```
    pub const fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// More than `restarts` restarts of all children together in any `within` are too many: all are
    /// stopped, and [`wait`](ProcessSupervisor::wait) says [`Escalated`](super::SupervisorEnd::Escalated). Default
    /// 5 in 60 s. Zero: the first failure is too many.
    ///
    /// More than `restarts` in a row of one child that was never ready are too many as well, however long they took: each
    /// may take its [`ready_within`](super::Child::ready_within), and those that wait for it would wait for ever. With the
    /// defaults that is after three minutes (six times 30 s) and a few seconds.
    ///
    /// The backoff slows restarts down, so a limit has to leave room for it: one that a child which always
    /// fails at once would not exceed is refused when built.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// use buttress::Backoff;
    /// use std::time::Duration;
    ///
    /// let slow = Child::new("a", "false").backoff(Backoff::constant(Duration::from_secs(5)));
    /// let error = ProcessSupervisor::builder("orders")
    ///     .child(slow)
    ///     .intensity(10, Duration::from_secs(30))
    ///     .build()
    ///     .unwrap_err();
    /// assert_eq!(error.field(), "intensity");
    /// ```
    pub const fn intensity(mut self, restarts: u32, within: Duration) -> Self {
        self.intensity = Some(Intensity { restarts, within });
        self
    }

    /// Restarts for ever, however many. Somebody else should watch then.
    ///
    /// ```
    /// let _ = buttress::supervise::process::ProcessSupervisor::builder("orders").unlimited_restarts();
    /// ```
    pub const fn unlimited_restarts(mut self) -> Self {
        self.intensity = None;
        self
    }

    /// Stops children all at once, not one after the other in reverse order.
    ///
    /// ```
    /// let _ = buttress::supervise::process::ProcessSupervisor::builder("orders").stop_together();
    /// ```
    pub const fn stop_together(mut self) -> Self {
        self.together = true;
        self
    }

    /// Adopts what children leave behind, collects it when it ends, and kills it when the supervisor
    /// ends. Linux only (`PR_SET_CHILD_SUBREAPER`), and there only with lists of children in `/proc`
    /// (`CONFIG_PROC_CHILDREN`): without them, [`start`](ProcessSupervisor::start) fails.
    ///
    /// It changes the whole process: whatever *any* process below this one leaves behind becomes a child of
    /// this one. Only what carries the marks of this supervisor (`BUTTRESS_OWNER`, and
    /// `BUTTRESS_SUPERVISOR`, its number within this process), or is in the group of one of its children,
    /// is collected: never a child that somebody else in this process has started and waits for. Anything
    /// whose origin cannot be told stays. As process 1 of a container prefer an init made for it (`tini`,
    /// `dumb-init`).
    ///
    /// ```
    /// let _ = buttress::supervise::process::ProcessSupervisor::builder("orders").subreaper();
    /// ```
    pub const fn subreaper(mut self) -> Self {
        self.subreaper = true;
        self
    }

    /// Stops the children when `life` gets to `at` or past it, by its deadline.
    ///
    /// With [`LameDuck`](Phase::LameDuck) or [`Draining`](Phase::Draining) a [`Hold`](crate::supervise::Hold) keeps
    /// the drain from ending before they are gone. With [`Cleanup`](Phase::Cleanup), for children that
    /// requests in flight need, nothing does: wait in a cleanup callback with
    /// [`stop`](ProcessSupervisor::stop).
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, Phase, process::ProcessSupervisor};
    /// let life = Lifecycle::new();
    /// let _ = ProcessSupervisor::builder("orders").lifecycle(&life, Phase::Draining);
    /// ```
    pub fn lifecycle(mut self, life: &Lifecycle, at: Phase) -> Self {
        self.lifecycle = Some((life.clone(), at));
        self
    }

    /// Adds an observer of what happens to children: see [`ProcessSupervisor`].
    ///
    /// ```
    /// let _ = buttress::supervise::process::ProcessSupervisor::builder("orders")
    ///     .observe(|event: &buttress::observe::Event<'_>| println!("{event:?}"));
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// A supervisor that has not started anything yet.
    ///
    /// # Errors
    /// If there is no child or two of one name, if a value of a child is out of range, if the limit of
    /// restarts cannot be reached, or if the platform lacks what is asked for.
    ///
    /// ```
    /// use buttress::supervise::process::ProcessSupervisor;
    /// assert_eq!(ProcessSupervisor::builder("orders").build().unwrap_err().field(), "children");
    /// ```
    pub fn build(self) -> Result<ProcessSupervisor, ConfigError> {
        if self.children.is_empty() {
            return Err(ConfigError::new("children", "none", "at least one"));
        }
        if self.name.as_str().is_empty() || self.name.as_str().contains('\0') {
            return Err(ConfigError::new("name", self.name, "a name without zero byte"));
        }
        let mut names = HashSet::new();
        for child in &self.children {
            child.validate()?;
            if !names.insert(child.name()) {
                return Err(ConfigError::new("children", child.name(), "names that differ"));
            }
        }
        if self.subreaper && !cfg!(target_os = "linux") {
            return Err(ConfigError::new("subreaper", true, "false outside Linux"));
        }
        if let Some((_, at)) = &self.lifecycle
            && !(Phase::LameDuck..=Phase::Cleanup).contains(at)
        {
            let expected = "lame_duck, draining or cleanup";
            return Err(ConfigError::new("lifecycle", at.as_str(), expected));
        }
        if let Some(intensity) = self.intensity {
            self.check_intensity(intensity)?;
        }
        let rules = self.children.iter().map(Child::rule).collect();
        let core = Core::new(rules, self.strategy, self.intensity, self.together, Random::fresh());
        let settings = Settings {
            name: self.name,
            children: self.children,
            intensity: self.intensity,
            subreaper: self.subreaper,
            lifecycle: self.lifecycle,
            observers: self.observers,
        };
        ProcessSupervisor::new(settings, core)
    }

    fn check_intensity(
        &self,
        Intensity { restarts, within }: Intensity,
    ) -> Result<(), ConfigError> {
        let year = Duration::from_secs(365 * 24 * 3600);
        if within.is_zero() || within > year {
            let value = format!("{restarts} in {within:?}");
            return Err(ConfigError::new("intensity", value, "a window of at most a year"));
        }
        for child in &self.children {
            // The first of too many restarts is decided at once, the last after the delays of all before.
            let Some(took) = child.usual_delays(restarts) else { continue };
            if took >= within {
                let value = format!("{restarts} in {within:?}");
                let expected = format!(
                    "a window longer than the backoff of {} for {restarts} restarts, {took:?}: it would \
                     not be exceeded",
                    child.name()
                );
                return Err(ConfigError::new("intensity", value, expected));
            }
        }
        Ok(())
    }
}
