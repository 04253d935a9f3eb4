//! Settings that are read anew while the program runs.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::live::Step;
use super::loader::Loader;
use super::problem::{LoadError, Problem, ProblemKind};
use super::settings::{Change, Config};
use super::stacks::{Made, Place, Stacks};
use super::watch::{self, Stamp, Watch};
use crate::name::LayerKind;
use crate::observe::{EventKind, Observers, Severity};
use crate::sync::{Mutex, lock};

/// Reads the sources of a [`Loader`] anew, and lets the objects of some [`Stacks`] go by them.
///
/// What is changed keeps what it knows: a breaker that is open stays open, a bucket keeps its level. If
/// anything is wrong with the new settings, nothing changes at all, and the timeline has a warning with the problems. What an object
/// can only be built with (and whether it is there at all) waits for a restart; the event says so, and so does [`Reloaded::waiting`].
/// Entries of which nothing has been made yet are simply there from now on.
///
/// The sources are the loader's: files are read again, the environment and arguments are those it was made with.
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
        let mut last = lock(&self.last);
        // Before the files are read: what changes meanwhile is seen by the next look.
        *last = Some(Stamp::of(&self.paths()));
        let result = self.loader.load().and_then(|config| self.bring(config));
        drop(last);
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
        let mut done = BTreeSet::new();
        let steps = {
            let made = self.stacks.made();
            let problems = made.problems(&config);
            if !problems.is_empty() {
                return Err(LoadError::new(problems));
            }
            made.steps(&old, &config, &mut done)?
        };
        let mut failed = apply(steps);
        // What was made meanwhile, from the old settings.
        loop {
            let mut made = self.stacks.made();
            let steps = made.steps(&old, &config, &mut done)?;
            if steps.is_empty() {
                let new = !changes.is_empty() || !config.same_sections(&old);
                let (waiting, applied) = changes
                    .into_iter()
                    .partition(|change| made.waits(change.key(), &config, &failed));
                made.config = config;
                made.generation += u64::from(new);
                made.tell();
                return Ok(Reloaded { applied, waiting, generation: made.generation, new });
            }
            drop(made);
            failed.extend(apply(steps));
        }
    }
}

/// Outside of the lock: a change may be an event. Says what could not be changed.
fn apply(steps: Vec<(Place, Step)>) -> BTreeSet<Place> {
    steps.into_iter().filter_map(|(place, step)| step().err().map(|_| place)).collect()
}

impl Made {
    /// What the linter calls an error in stacks that have been made.
    fn problems(&self, config: &Config) -> Vec<Problem> {
        let mut found = config.lint();
        found.retain(|found| {
            let used = match found.stack.split_once('.') {
                Some(("clients", name)) => self.clients.contains_key(name),
                Some((_, name)) => self.servers.contains_key(name),
                None => false,
            };
            used && found.is_error()
        });
        let problem = |found: super::findings::Finding| {
            let expected = format!("no {}", found.lint.rule);
            let kind = ProblemKind::Contradiction;
            Problem::new(kind, found.key, found.lint.text, found.origin, expected)
        };
        found.into_iter().map(problem).collect()
    }

    /// One for each object that has other settings now and is not in `done`, which it is then.
    fn steps(
        &self,
        old: &Config,
        new: &Config,
        done: &mut BTreeSet<Place>,
    ) -> Result<Vec<(Place, Step)>, LoadError> {
        let (mut steps, mut problems) = (Vec::new(), Vec::new());
        for (place, object) in &self.objects {
            if !done.insert(place.clone()) {
                continue;
            }
            let Some(at) = new.at(place) else { continue };
            if old.at(place).is_some_and(|before| same(old, &before, new, &at)) {
                continue;
            }
            match object.prepare(new, &at) {
                Ok(step) => steps.push((place.clone(), step)),
                Err(error) => {
                    let parts: Vec<_> = place.iter().map(String::as_str).collect();
                    let key = format!("{}.{}", place.join("."), error.field());
                    let origin = new.near(&parts, &key).to_owned();
                    let kind = ProblemKind::Contradiction;
                    problems.push(Problem::new(kind, key, error.value(), origin, error.expected()));
                }
            }
        }
        if problems.is_empty() { Ok(steps) } else { Err(LoadError::new(problems)) }
    }

    /// Whether something that runs was made from this key and cannot change.
    fn waits(&self, key: &str, config: &Config, failed: &BTreeSet<Place>) -> bool {
        let below = |path: &str| {
            key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        for (place, object) in &self.objects {
            let path = place.join(".");
            if below(&path) {
                let rest = key.get(path.len() + 1..).unwrap_or_default();
                return object.is_fixed(rest)
                    || config.at(place).is_none()
                    || failed.contains(place);
            }
        }
        let clients = self.clients.keys().map(|name| ("clients", name));
        let stacks = clients.chain(self.servers.keys().map(|name| ("servers", name)));
        for (top, name) in stacks {
            let path = format!("{top}.{name}");
            let policy = config.written(top, name, "retry");
            if policy.is_some_and(|policy| below(&policy.place.join("."))) {
                return true;
            }
            if below(&path) {
                return true;
            }
        }
        false
    }
}

/// Whether an object would be built the same from both.
fn same(
    old: &Config,
    before: &super::stacks::Written<'_>,
    new: &Config,
    at: &super::stacks::Written<'_>,
) -> bool {
    let breaker = at.place.first().is_some_and(|map| map == "breakers")
        || at.place.last().is_some_and(|part| part == "breaker");
    before.block.0 == at.block.0
        && (!breaker
            || old.limits() == new.limits()
                && old.attempt_of(&before.place) == new.attempt_of(&at.place))
}
