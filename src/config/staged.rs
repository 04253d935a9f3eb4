//! The next configuration, built but not in force.

use std::collections::{BTreeMap, BTreeSet};

use super::findings::Finding;
use super::keys::join;
use super::live::Step;
use super::made::{Made, Object, Running, Uses};
use super::problem::{LoadError, Problem, ProblemKind};
use super::settings::{Change, Config};
use super::stacks::{Place, Written};
use crate::conditioner::Conditioner;
use crate::error::ConfigError;
use crate::presets::{Parts, PartsChange};

/// All that is to happen.
pub(super) struct Staged {
    /// Those there are, and new ones.
    pub(super) objects: BTreeMap<Place, Object>,
    /// The new ones, which go by all of it.
    pub(super) new: BTreeSet<Place>,
    pub(super) steps: Vec<(Place, Step)>,
    pub(super) changes: Vec<PartsChange>,
    pub(super) stacks: Vec<NewParts>,
}

/// Another set of parts for a stack.
pub(super) struct NewParts {
    /// `clients` or `servers`.
    map: &'static str,
    name: String,
    parts: Parts,
    uses: Uses,
}

/// What a stack had before. Kept until no lock is held.
pub(super) struct OldParts {
    _parts: Option<Parts>,
    _conditioner: Option<Conditioner>,
}

/// The key of a place.
fn path(place: &[String]) -> String {
    place.iter().fold(String::new(), |path, key| join(&path, key))
}

/// The rest of a key below a path, or at it.
fn below<'a>(key: &'a str, path: &str) -> Option<&'a str> {
    let rest = key.strip_prefix(path)?;
    match rest.strip_prefix('.') {
        Some(rest) => Some(rest),
        None => (rest.is_empty() || rest.starts_with('[')).then_some(rest),
    }
}

impl Staged {
    /// # Errors
    /// All that is wrong. `made` is what it was, and nothing has changed.
    pub(super) fn new(made: &Made, config: &Config, changes: &[Change]) -> Result<Self, LoadError> {
        let mut problems = made.problems(config);
        if !problems.is_empty() {
            return Err(LoadError::new(problems));
        }
        let steps = made.steps(config, &mut problems);
        let mut next = made.clone();
        let mut staged = Self {
            objects: BTreeMap::new(),
            new: BTreeSet::new(),
            steps,
            changes: Vec::new(),
            stacks: Vec::new(),
        };
        for (map, name) in made.running() {
            if !affected(config, map, name, changes) {
                continue;
            }
            match staged.stack(&mut next, config, map, name) {
                Ok(()) => {}
                Err(error) => {
                    problems.push(problem(config, &[map.to_owned(), name.to_owned()], &error));
                }
            }
        }
        staged.objects = next.objects;
        let new = staged.objects.keys().filter(|place| !made.objects.contains_key(*place));
        staged.new = new.cloned().collect();
        if problems.is_empty() { Ok(staged) } else { Err(LoadError::new(problems)) }
    }

    fn stack(
        &mut self,
        next: &mut Made,
        config: &Config,
        map: &'static str,
        name: &str,
    ) -> Result<(), ConfigError> {
        let (parts, uses) = if map == "clients" {
            let running = next.clients.get(name).and_then(|it| it.stack.parts_slot().get());
            let before = match &running {
                Some(Parts::Client(parts)) => Some(parts),
                _ => None,
            };
            let (parts, uses, changes) = next.client_parts(name, config, before)?;
            self.changes.extend(changes);
            (Parts::Client(parts), uses)
        } else {
            let (parts, uses) = next.server_parts(name, config)?;
            (Parts::Server(parts), uses)
        };
        self.stacks.push(NewParts { map, name: name.to_owned(), parts, uses });
        Ok(())
    }
}

/// Whether a stack has other parts, of those that are still written down.
fn affected(config: &Config, map: &'static str, name: &str, changes: &[Change]) -> bool {
    if config.entry(map, name).is_err() {
        return false;
    }
    let policy = config.written(map, name, "retry").map(|policy| path(&policy.place));
    let paths = [Some(join(map, name)), policy];
    let mut paths = paths.iter().flatten();
    paths.any(|path| changes.iter().any(|change| below(change.key(), path).is_some()))
}

fn problem(config: &Config, place: &[String], error: &ConfigError) -> Problem {
    let parts: Vec<_> = place.iter().map(String::as_str).collect();
    let key = format!("{}.{}", path(place), error.field());
    let origin = config.near(&parts, &key).to_owned();
    Problem::new(ProblemKind::Contradiction, key, error.value(), origin, error.expected())
}

impl Made {
    fn running(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let clients = self.clients.keys().map(|name| ("clients", name));
        clients.chain(self.servers.keys().map(|name| ("servers", name)))
    }

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
        let problem = |found: Finding| {
            let expected = format!("no {}", found.lint.rule);
            let kind = ProblemKind::Contradiction;
            Problem::new(kind, found.key, found.lint.text, found.origin, expected)
        };
        found.into_iter().map(problem).collect()
    }

    /// One for each object that has other settings now.
    fn steps(&self, new: &Config, problems: &mut Vec<Problem>) -> Vec<(Place, Step)> {
        let mut steps = Vec::new();
        for (place, object) in &self.objects {
            let Some(at) = new.at(place) else { continue };
            if self.config.at(place).is_some_and(|before| same(&self.config, &before, new, &at)) {
                continue;
            }
            match object.prepare(new, &at) {
                Ok(step) => steps.push((place.clone(), step)),
                Err(error) => problems.push(problem(new, place, &error)),
            }
        }
        steps
    }

    /// Puts new parts into a stack that runs.
    pub(super) fn exchange(&mut self, new: NewParts) -> OldParts {
        let NewParts { map, name, parts, uses } = new;
        let exchanged = if map == "clients" {
            self.clients
                .get_mut(&name)
                .map(|it| it.exchange(it.stack.parts_slot().clone(), parts, uses))
        } else {
            self.servers
                .get_mut(&name)
                .map(|it| it.exchange(it.stack.parts_slot().clone(), parts, uses))
        };
        exchanged.unwrap_or(OldParts { _parts: None, _conditioner: None })
    }

    /// Takes out the objects that are in no stack, in no configuration and in nobody's hands.
    pub(super) fn take_forgotten(&mut self) -> Vec<Object> {
        let used: BTreeSet<_> = (self.clients.values().map(|it| &it.uses))
            .chain(self.servers.values().map(|it| &it.uses))
            .flat_map(|uses| &uses.places)
            .cloned()
            .collect();
        let (config, asked) = (&self.config, &self.asked);
        let stays = |place: &Place| {
            config.at(place).is_some() || asked.contains(place) || used.contains(place)
        };
        let gone: Vec<_> = self.objects.keys().filter(|place| !stays(place)).cloned().collect();
        gone.iter().filter_map(|place| self.objects.remove(place)).collect()
    }

    /// Whether something that runs was made from this key and cannot change.
    pub(super) fn waits(&self, key: &str, new: &BTreeSet<Place>, failed: &BTreeSet<Place>) -> bool {
        for (place, object) in &self.objects {
            if let Some(rest) = below(key, &path(place)) {
                return !new.contains(place)
                    && (object.is_fixed(rest)
                        || self.config.at(place).is_none()
                        || failed.contains(place));
            }
        }
        // Of a stack that is not written down any more nothing changes.
        self.running().any(|(map, name)| {
            below(key, &join(map, name)).is_some() && self.config.entry(map, name).is_err()
        })
    }
}

impl<L> Running<L> {
    fn exchange(&mut self, slot: crate::slot::Slot<Parts>, parts: Parts, uses: Uses) -> OldParts {
        let before = std::mem::replace(&mut self.uses, uses);
        let (old, new) = (before.conditioner, &self.uses.conditioner);
        let conditioner = match (old, new) {
            (Some(old), Some(new)) if old.is(new) => None,
            (_, Some(new)) => self.faults.install(new.clone()),
            // What a command has put in its place stays.
            (Some(old), None) if self.faults.get().is_some_and(|there| there.is(&old)) => {
                self.faults.uninstall()
            }
            (_, None) => None,
        };
        OldParts { _parts: slot.install(parts), _conditioner: conditioner }
    }
}

/// Whether an object would be built the same from both.
fn same(old: &Config, before: &Written<'_>, new: &Config, at: &Written<'_>) -> bool {
    let breaker = at.place.first().is_some_and(|map| map == "breakers")
        || at.place.last().is_some_and(|part| part == "breaker");
    before.block.0 == at.block.0
        && (!breaker || old.limits() == new.limits())
        && old.given_up_of(&before.place) == new.given_up_of(&at.place)
}
