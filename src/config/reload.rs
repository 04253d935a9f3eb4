//! Settings that are read anew while the program runs.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::live::Step;
use super::loader::Loader;
use super::problem::LoadError;
use super::settings::{Change, Config};
use super::stacks::{Place, Stacks};
use super::staged::{OldParts, Staged};
use super::watch::{self, Stamp, Watch};
use crate::caught::discard;
use crate::name::LayerKind;
use crate::observe::{EventKind, Observers, Severity};
use crate::sync::{Mutex, lock};

/// Reads the sources of a [`Loader`] anew, and lets the objects of some [`Stacks`] go by them.
///
/// What is changed keeps what it knows: a breaker that is open stays open, a bucket keeps its level. Stacks get parts and lose
/// them while they run; [the module](super) says what changes how. If anything is wrong with the new settings, nothing
/// changes at all, and the timeline has a warning with the problems. The few things that only a new object would go by wait for a
/// restart; the event says so, and so does [`Reloaded::waiting`]. Entries of which nothing has been made yet are simply there from now on.
///
/// The sources are the loader's: files are read again, the environment and arguments are those it was made with. Several for
/// the same stacks take turns, so an observer must not reload within an event: it may be one of a reload.
///
/// ```
/// use buttress::config::{Loader, Reloader};
/// let file = std::env::temp_dir().join(format!("reload-{}.yml", std::process::id()));
/// std::fs::write(&file, "rate_limits: {api: 100/h}")?;
/// let loader = Loader::empty().file(&file);
/// let stacks = loader.load()?.stacks();
/// let api = stacks.rate_limiter("api")?;
/// api.try_acquire_n(60)?;
///
/// let reloader = Reloader::new(loader, &stacks);
/// std::fs::write(&file, "rate_limits: {api: 200/h}")?;
/// let reloaded = reloader.reload()?;
/// assert_eq!(reloaded.applied()[0].key(), "rate_limits.api.rate");
/// assert_eq!(api.quota().capacity(), 200);
/// assert!(api.tokens() < 41.0, "the level is kept");
///
/// std::fs::write(&file, "rate_limits: {api: often}")?;
/// assert!(reloader.reload().is_err());
/// assert_eq!(api.quota().capacity(), 200);
/// # std::fs::remove_file(&file)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Reloader {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    loader: Loader,
    stacks: Stacks,
    /// Held over a whole reload; with the stamp of the files that were read last.
    last: Mutex<Option<Stamp>>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader")
            .field("loader", &self.inner.loader)
            .field("stacks", &self.inner.stacks)
            .finish_non_exhaustive()
    }
}

/// What a reload did.
///
/// ```
/// use buttress::config::{Loader, Reloader};
/// let loader = Loader::empty().set("breakers.db.open_for", 5);
/// let reloaded = Reloader::new(loader.clone(), &loader.load()?.stacks()).reload()?;
/// assert!(reloaded.applied().is_empty() && reloaded.waiting().is_empty());
/// assert_eq!(reloaded.generation(), 1, "nothing is new");
/// # Ok::<(), buttress::config::LoadError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    applied: Vec<Change>,
    waiting: Vec<Change>,
    generation: u64,
    new: bool,
}

impl Reloaded {
    /// What holds from now on.
    ///
    /// ```
    /// # use buttress::config::{Loader, Reloader};
    /// # let loader = Loader::empty();
    /// # let reloader = Reloader::new(loader.clone(), &loader.load()?.stacks());
    /// for change in reloader.reload()?.applied() {
    ///     println!("{} is now {:?}", change.key(), change.new());
    /// }
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn applied(&self) -> &[Change] {
        &self.applied
    }

    /// What objects that run cannot take over: it waits for a restart.
    ///
    /// ```
    /// # use buttress::config::{Loader, Reloader};
    /// # let loader = Loader::empty();
    /// # let reloader = Reloader::new(loader.clone(), &loader.load()?.stacks());
    /// if !reloader.reload()?.waiting().is_empty() {
    ///     println!("restart me");
    /// }
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn waiting(&self) -> &[Change] {
        &self.waiting
    }

    /// How often a configuration has come into force; the status document has it too.
    ///
    /// ```
    /// # use buttress::config::{Loader, Reloader};
    /// # let loader = Loader::empty();
    /// # let reloader = Reloader::new(loader.clone(), &loader.load()?.stacks());
    /// assert_eq!(reloader.reload()?.generation(), 1);
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

/// As many changes are told of in an event.
const TOLD: usize = 20;

fn told(changes: &[Change]) -> String {
    let one = |change: &Change| {
        let value = |value: Option<&str>| value.unwrap_or("default").to_owned();
        format!("{} {} -> {}", change.key(), value(change.old()), value(change.new()))
    };
    let mut text: Vec<_> = changes.iter().take(TOLD).map(one).collect();
    if changes.len() > TOLD {
        text.push(format!("and {} more", changes.len() - TOLD));
    }
    text.join(", ")
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}: ", self.generation)?;
        if !self.waiting.is_empty() {
            write!(f, "waits for a restart: {}; ", told(&self.waiting))?;
        }
        match (self.applied.is_empty(), self.new) {
            (false, _) => write!(f, "changed: {}", told(&self.applied)),
            (true, true) => f.write_str("nothing else changed that objects go by"),
            (true, false) => f.write_str("nothing is new"),
        }
    }
}

impl Reloader {
    /// Reads from `loader`, which should be the one that the configuration of `stacks` came from.
    ///
    /// ```
    /// use buttress::config::{Loader, Reloader};
    /// let loader = Loader::empty();
    /// let stacks = loader.load()?.stacks();
    /// let reloader = Reloader::new(loader, &stacks);
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    #[must_use]
    pub fn new(loader: Loader, stacks: &Stacks) -> Self {
        let inner = Inner { loader, stacks: stacks.clone(), last: Mutex::new(None) };
        Self { inner: Arc::new(inner) }
    }

    /// Reads and applies the settings now. Blocks for as long as it takes to read the files.
    ///
    /// # Errors
    /// Every problem of every source, and what the linter calls an error in a stack that is in use. Then
    /// nothing has changed.
    ///
    /// ```
    /// use buttress::config::{Loader, Reloader};
    /// let loader = Loader::empty().file("/nowhere/buttress.yml");
    /// let stacks = Loader::empty().load()?.stacks();
    /// assert!(Reloader::new(loader, &stacks).reload().is_err());
    /// # Ok::<(), buttress::config::LoadError>(())
    /// ```
    pub fn reload(&self) -> Result<Reloaded, LoadError> {
        self.inner.run(true)
    }

    /// Reads again whenever a file has changed, or the process gets SIGHUP (on unix), until the result is
    /// dropped. A thread looks at the files each second, and waits until they have been the same for that long.
    ///
    /// If code of the program panics in a reload, for example as an object of its own ends that a stack has lost, the event
    /// `reload_panicked` says so; all else has come into force, and the next change is read as ever.
    ///
    /// A process that ends on SIGHUP (see `supervise::shutdown::Signals`) still does.
    ///
    /// # Errors
    /// If the thread cannot be started, or the signal not be listened to.
    ///
    /// ```
    /// use buttress::config::{Loader, Reloader};
    /// let loader = Loader::empty();
    /// let stacks = loader.load()?.stacks();
    /// let watch = Reloader::new(loader, &stacks).watch()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watch(&self) -> std::io::Result<Watch> {
        self.watch_every(Duration::from_secs(1))
    }

    /// As [`watch`](Self::watch), with another time between two looks, at least a millisecond.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    ///
    /// ```
    /// # use buttress::config::{Loader, Reloader};
    /// # let loader = Loader::empty();
    /// # let stacks = loader.load()?.stacks();
    /// let every = std::time::Duration::from_secs(30);
    /// let watch = Reloader::new(loader, &stacks).watch_every(every)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watch_every(&self, every: Duration) -> std::io::Result<Watch> {
        watch::start(&self.inner, every.max(Duration::from_millis(1)))
    }
}

impl Inner {
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.loader.paths()
    }

    /// The files as they were when they were last read.
    pub(super) fn last(&self) -> Option<Stamp> {
        lock(&self.last).clone()
    }

    /// One reload. Unless it was asked for, finding nothing new is no event.
    pub(super) fn run(&self, asked: bool) -> Result<Reloaded, LoadError> {
        // Before the files are read, too: who comes later brings what was written later.
        let one = lock(&self.stacks.reloading);
        let mut last = lock(&self.last);
        // Before the files are read: what changes meanwhile is seen by the next look.
        *last = Some(Stamp::of(&self.paths()));
        let result = self.loader.load().and_then(|config| self.bring(config));
        drop(last);
        drop(one);
        match &result {
            Ok(done) if done.new || asked => {
                let severity =
                    if done.waiting.is_empty() { Severity::Info } else { Severity::Warning };
                self.emit(severity, "reloaded", format_args!("{done}"));
            }
            Ok(_) => {}
            Err(error) => self.emit(Severity::Warning, "reload_refused", format_args!("{error}")),
        }
        result
    }

    /// Somebody else's code has, somewhere in a reload.
    pub(super) fn panicked(&self) {
        let detail = format_args!("a panic in a reload; what is in force is in the status");
        self.emit(Severity::Error, "reload_panicked", detail);
    }

    fn emit(&self, severity: Severity, what: &'static str, detail: fmt::Arguments<'_>) {
        let mut observers = Observers::default();
        if let Some(registry) = self.stacks.made().registry.clone() {
            observers.move_to(registry.home());
        }
        let kind = EventKind::Supervised { severity, what, detail };
        observers.emit(LayerKind::Config, "config".into(), kind);
    }

    fn bring(&self, config: Config) -> Result<Reloaded, LoadError> {
        let config = Arc::new(config);
        let old = self.stacks.config();
        let changes = config.changes_since(&old);
        // Everything is built first; from there on nothing can fail but what an object cannot do while it runs.
        let staged = {
            let mut made = self.stacks.made();
            let staged = Staged::new(&made, &config, &changes)?;
            made.objects.clone_from(&staged.objects);
            made.coming = Some(Arc::clone(&config));
            staged
        };
        let (failed, stepped) = apply(staged.steps);
        let changed = each(staged.changes, |change| change());

        let mut made = self.stacks.made();
        let mut gone = Vec::new();
        for stack in staged.stacks {
            gone.push(made.exchange(stack));
        }
        made.coming = None;
        made.config = Arc::clone(&config);
        let new = !changes.is_empty() || !config.same_sections(&old);
        made.generation += u64::from(new);
        let forgotten = made.take_forgotten();
        let idle = made.idle();
        let (waiting, applied) =
            changes.into_iter().partition(|change| made.waits(change.key(), &staged.new, &failed));
        made.tell();
        let (generation, home, registry) = (made.generation, made.home(), made.registry());
        drop(made);
        // Outside of the lock: whoever has the last of them may run user code.
        forgotten.iter().chain(&staged.replaced).for_each(|object| object.forget(&home));
        idle.iter().for_each(|(_, object)| object.rest());
        // Who has got one of them meanwhile has perhaps not seen that it rests.
        let again =
            if idle.is_empty() { Vec::new() } else { self.stacks.made().no_more_idle(idle) };
        again.iter().for_each(|object| object.revive(&registry));
        let ended = end_all(gone, OldParts::end);
        registry.follow_given_up();
        registry.sort_out();
        if let Err(panic) = first_of(first_of(stepped, changed), ended) {
            resume_unwind(panic);
        }
        Ok(Reloaded { applied, waiting, generation, new })
    }
}

/// Does it to each, whatever user code that runs, also after it has panicked for one of them. The first panic is returned.
fn each<T>(items: impl IntoIterator<Item = T>, mut act: impl FnMut(T)) -> std::thread::Result<()> {
    let mut first = Ok(());
    for item in items {
        let done = catch_unwind(AssertUnwindSafe(|| act(item)));
        first = first_of(first, done);
    }
    first
}

/// The panic that came first; another one ends here.
fn first_of(
    first: std::thread::Result<()>,
    then: std::thread::Result<()>,
) -> std::thread::Result<()> {
    match (first, then) {
        (Err(first), Err(then)) => {
            discard(then);
            Err(first)
        }
        (first, then) => first.and(then),
    }
}

/// Ends each, and drops all.
fn end_all<T>(items: Vec<T>, end: impl Fn(&T)) -> std::thread::Result<()> {
    let ended = each(&items, end);
    first_of(ended, each(items, drop))
}

/// Outside of the lock: a change may be an event. Says what could not be changed.
fn apply(steps: Vec<(Place, Step)>) -> (BTreeSet<Place>, std::thread::Result<()>) {
    let mut failed = BTreeSet::new();
    let done = each(steps, |(place, step)| {
        // Also if it panics.
        failed.insert(place.clone());
        if step().is_ok() {
            failed.remove(&place);
        }
    });
    (failed, done)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::task::{Context, Wake};

    use super::*;

    struct Part<'a>(u32, &'a Mutex<Vec<u32>>);

    impl Drop for Part<'_> {
        fn drop(&mut self) {
            self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(10 + self.0);
            assert!(self.0 != 2, "the drop of 2");
        }
    }

    /// The others stayed armed, and a second panic in their drop took the process with it.
    #[test]
    fn all_are_ended_and_dropped_though_some_panic() {
        let seen = Mutex::new(Vec::new());
        let parts = (0..4).map(|n| Part(n, &seen)).collect();
        let panic = end_all(parts, |part| {
            seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(part.0);
            assert!(part.0 % 3 > 0, "the end of {}", part.0);
        });
        assert_eq!(panic.unwrap_err().downcast_ref::<String>().unwrap(), "the end of 0");
        assert_eq!(*seen.lock().unwrap(), [0, 1, 2, 3, 10, 11, 12, 13]);
    }

    /// Whoever waits for an open circuit is woken as it gets other settings. The new objects were there, the old stacks too,
    /// and what was to come was for ever to come.
    #[test]
    fn all_comes_into_force_though_a_change_panics() {
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                panic!("the waker");
            }
        }
        let text = |failures: u32, rate: u32| {
            format!(
                "breakers: {{a: {{consecutive_failures: {failures}}}}}\n\
                 rate_limits: {{a: {rate}/h, b: {rate}/h}}\n\
                 clients: {{pay: {{rate_limit: b, total_timeout: {rate}s}}}}"
            )
        };
        let file = std::env::temp_dir().join(format!("reload-panics-{}.yml", std::process::id()));
        std::fs::write(&file, text(3, 100)).unwrap();
        let loader = Loader::empty().file(&file);
        let stacks = loader.load().unwrap().stacks();
        let limiters = ["a", "b"].map(|name| stacks.rate_limiter(name).unwrap());
        let _client = stacks.client("pay").unwrap();
        let breaker = stacks.circuit_breaker("a").unwrap();
        let mut states = breaker.subscribe();
        let mut waiting = Box::pin(states.changed());
        let waker = Arc::new(Panics).into();
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let reloader = Reloader::new(loader, &stacks);

        std::fs::write(&file, text(4, 200)).unwrap();
        let reload = || reloader.reload();
        let panic = catch_unwind(AssertUnwindSafe(reload)).expect_err("nothing has panicked");
        assert_eq!(panic.downcast_ref(), Some(&"the waker"));
        assert_eq!(limiters.each_ref().map(|limiter| limiter.quota().capacity()), [200, 200]);
        assert_eq!(stacks.generation(), 2);
        assert!(stacks.made().coming.is_none());
        drop(waiting);
        // There is nothing left to do.
        assert!(reloader.reload().unwrap().applied().is_empty());
        std::fs::remove_file(&file).unwrap();
    }
}
