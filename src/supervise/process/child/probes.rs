//! Whether a child is ready, and whether its work goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::name::Name;

use super::super::beat::Beats;
use super::Child;

/// What a look at a running child came to.
///
/// ```
/// use buttress::supervise::process::Liveness;
/// assert_ne!(Liveness::Alive, Liveness::Frozen);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Liveness {
    /// Work goes on.
    Alive,
    /// It does not. Said twice in a row it has the child stopped and restarted.
    Frozen,
    /// Cannot be told, which changes nothing.
    Unknown,
}

/// The process of a child, for closures that look at it.
///
/// ```
/// # fn look(process: &buttress::supervise::process::ChildProcess) {
/// println!("{} is process {}, its {}th", process.name, process.pid, process.run);
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChildProcess {
    /// The child's name.
    pub name: Name,
    /// The process's number.
    pub pid: u32,
    /// Which process of this child it is, from 1.
    pub run: u64,
    pub(in crate::supervise::process) every: Duration,
}
pub(in crate::supervise::process) type IsReady = Arc<dyn Fn(&ChildProcess) -> bool + Send + Sync>;
pub(in crate::supervise::process) type IsAlive =
    Arc<dyn Fn(&ChildProcess) -> Liveness + Send + Sync>;

impl Child {
    /// It is ready when this says so; asked every [`probe_every`](Self::probe_every), on a thread for the questions
    /// about this process. Children after it start then. Without: as soon as it exists. No answer is not ready.
    ///
    /// ```
    /// use std::net::TcpStream;
    /// let _ = buttress::supervise::process::Child::new("db", "postgres")
    ///     .ready_when(|_| TcpStream::connect("127.0.0.1:5432").is_ok());
    /// ```
    #[must_use]
    pub fn ready_when(
        mut self,
        ready: impl Fn(&ChildProcess) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.ready = Some(Arc::new(ready));
        self
    }

    /// How long it may take to become ready, from the first question on, or it is stopped and has failed. Default 30 s.
    ///
    /// While a question about an earlier run hangs no other is put (see [`alive_when`](Self::alive_when)): a later
    /// run has so long from when it could first not be asked. If the question ends before, it is asked, and has its
    /// whole time. The same holds while this process gets no thread to ask from, as at its limit of them: a child that
    /// is well fails then, too. So one that hangs for good is a restart each time, and counts as such
    /// ([`intensity`](crate::supervise::process::ProcessSupervisorBuilder::intensity)).
    ///
    /// ```
    /// use std::time::Duration;
    /// let _ = buttress::supervise::process::Child::new("a", "worker").ready_within(Duration::from_secs(5));
    /// ```
    #[must_use]
    pub const fn ready_within(mut self, time: Duration) -> Self {
        self.ready_within = time;
        self
    }

    /// Whether work goes on, asked every [`probe_every`](Self::probe_every) once it is ready, on a thread for
    /// the questions about this process. One that is [`Frozen`](Liveness::Frozen) twice in a row is stopped and has
    /// failed; so is one about which the question is not answered for twice the
    /// [`probe_timeout`](Self::probe_timeout). While a question about an earlier run of it hangs, no other is put
    /// (`child_not_asked` is told once): a thread stands in it. Answers given right after this process itself had not run for a while do
    /// not count, nor those about a process that a debugger holds.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, Liveness};
    /// let _ = Child::new("a", "worker").alive_when(|process| {
    ///     # let answers = |_pid: u32| true;
    ///     if answers(process.pid) { Liveness::Alive } else { Liveness::Frozen }
    /// });
    /// ```
    #[must_use]
    pub fn alive_when(
        mut self,
        alive: impl Fn(&ChildProcess) -> Liveness + Send + Sync + 'static,
    ) -> Self {
        self.alive = Some(Arc::new(alive));
        self
    }

    /// Both questions by its heartbeat file (see [`Heartbeat`](crate::supervise::heartbeat::Heartbeat)): it is ready with the
    /// first beat, and frozen when no new one has come for `max_age` while we looked. Two or three of its
    /// intervals are a good `max_age`. A beat counts if the child's process has written it, or one in its
    /// group; one that it runs in another namespace of process numbers cannot be told from an earlier one's.
    ///
    /// Replaces [`ready_when`](Self::ready_when) and [`alive_when`](Self::alive_when), and the other way round.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _ = buttress::supervise::process::Child::new("a", "worker")
    ///     .heartbeat("/run/worker.json", Duration::from_secs(15));
    /// ```
    #[must_use]
    pub fn heartbeat(mut self, file: impl Into<PathBuf>, max_age: Duration) -> Self {
        let beats = Arc::new(Beats::new(file.into(), max_age));
        let ready = Arc::clone(&beats);
        self.ready = Some(Arc::new(move |process| ready.ready(process)));
        self.alive = Some(Arc::new(move |process| beats.alive(process)));
        self.max_age = Some(max_age);
        self
    }

    /// How often the two questions are asked. Default 250 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _ = buttress::supervise::process::Child::new("a", "worker").probe_every(Duration::from_secs(1));
    /// ```
    #[must_use]
    pub const fn probe_every(mut self, time: Duration) -> Self {
        self.probe_every = time;
        self
    }

    /// How long an answer to the second question may take. None after twice this time says that the child is frozen:
    /// it is stopped and has failed. A question that never ends keeps its thread. Default 30 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// # let child = buttress::supervise::process::Child::new("a", "true");
    /// let child = child.probe_timeout(Duration::from_secs(5));
    /// ```
    #[must_use]
    pub const fn probe_timeout(mut self, time: Duration) -> Self {
        self.probe_timeout = time;
        self
    }

    pub(in crate::supervise::process) const fn has_probes(&self) -> bool {
        self.ready.is_some() || self.alive.is_some()
    }
}
