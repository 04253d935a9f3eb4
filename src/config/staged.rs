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
use crate::failure_budget::FailureBudget;
use crate::presets::{Parts, PartsChange};
use crate::slot::Slot;

/// All that is to happen.
pub(super) struct Staged {
    /// Those there are, and new ones.
    pub(super) objects: BTreeMap<Place, Object>,
    /// The budgets that others of them take the place of.
    pub(super) replaced: Vec<Object>,
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
#[derive(Default)]
pub(super) struct OldParts {
    _parts: Option<Parts>,
    /// What a command had put into the stack, if the configuration has taken its place.
    conditioner: Option<Conditioner>,
    budget: Option<FailureBudget>,
}

impl OldParts {
    /// Nothing uses them any more.
    pub(super) fn end(self) {
        self.conditioner.inspect(Conditioner::disarm);
        self.budget.inspect(FailureBudget::retire);
    }
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
        let mut next = made.clone();
        next.replaced = made.replaced_by(config);
        next.objects.retain(|place, _| !next.replaced.contains_key(place));
        let steps = next.steps(config, &mut problems);
        let mut staged = Self {
            objects: BTreeMap::new(),
            replaced: next.replaced.values().cloned().map(Object::FailureBudget).collect(),
            new: BTreeSet::new(),
            steps,
            changes: Vec::new(),
            stacks: Vec::new(),
        };
        for (map, name) in made.running() {
            let other = made.uses(map, name).iter().any(|place| next.replaced.contains_key(place));
            if !other && !affected(config, map, name, changes) {
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
        let new = staged.objects.keys().filter(|place| {
            !made.objects.contains_key(*place) || next.replaced.contains_key(*place)
        });
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
                Some(Parts::Client(parts)) => Some(&**parts),
                _ => None,
            };
            let (parts, uses, changes) = next.client_parts(name, config, before)?;
            self.changes.extend(changes);
            (Parts::Client(Box::new(parts)), uses)
        } else {
            let (parts, uses) = next.server_parts(name, config)?;
            (Parts::Server(parts), uses)
        };
        self.changes.extend(next.reviving(&uses));
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

    /// The places of the objects that a stack has.
    fn uses(&self, map: &str, name: &str) -> &BTreeSet<Place> {
        static NONE: BTreeSet<Place> = BTreeSet::new();
        let client = self.clients.get(name).filter(|_| map == "clients").map(|it| &it.uses);
        let uses = client.or_else(|| self.servers.get(name).map(|it| &it.uses));
        uses.map_or(&NONE, |uses| &uses.places)
    }

    /// Budgets that cannot go by their new settings, and are known to stacks only: objectives come and go with a budget.
    fn replaced_by(&self, new: &Config) -> BTreeMap<Place, FailureBudget> {
        let period = |at: &Written<'_>| at.block.get("slo").map(|slo| slo.get("period").cloned());
        let replaced = self.objects.iter().filter_map(|(place, object)| match object {
            Object::FailureBudget(it) if !self.asked.contains(place) => {
                let (before, after) = (self.config.at(place)?, new.at(place)?);
                (period(&before) != period(&after)).then(|| (place.clone(), it.clone()))
            }
            _ => None,
        });
        replaced.collect()
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
        if map == "clients" {
            let running = self.clients.get_mut(&name);
            running.map(|it| it.exchange(parts, uses, |it| it.stack.parts_slot().clone()))
        } else {
            let running = self.servers.get_mut(&name);
            running.map(|it| it.exchange(parts, uses, |it| it.stack.parts_slot().clone()))
        }
        .unwrap_or_default()
    }

    /// The places of the objects that stacks have.
    fn used(&self) -> BTreeSet<Place> {
        let clients = self.clients.values().map(|it| &it.uses);
        let all = clients.chain(self.servers.values().map(|it| &it.uses));
        all.flat_map(|uses| &uses.places).cloned().collect()
    }

    /// Takes out of service what has lost its last stack and stays, and lets what has one again begin anew.
    pub(super) fn take_idle(&mut self) -> Vec<Object> {
        let used = self.used();
        self.idle.retain(|place| !used.contains(place));
        let mut idle = Vec::new();
        for (place, object) in &self.objects {
            let stays = used.contains(place) || self.asked.contains(place);
            let works = match object {
                Object::FailureBudget(_) => true,
                Object::Conditioner(it) => !it.is_off(),
                _ => false,
            };
            if !stays && works && self.idle.insert(place.clone()) {
                idle.push(object.clone());
            }
        }
        idle
    }

    /// Puts into service what a stack with these gets again.
    pub(super) fn reviving(&self, uses: &Uses) -> Vec<PartsChange> {
        let back = uses.places.iter().filter(|place| self.idle.contains(*place));
        let killed = self.faults_are_killed();
        back.filter_map(|place| match self.objects.get(place)?.clone() {
            Object::FailureBudget(it) => Some(Box::new(move || it.reset()) as PartsChange),
            Object::Conditioner(it) if !killed => Some(Box::new(move || drop(it.arm()))),
            _ => None,
        })
        .collect()
    }

    /// Takes out the objects that are in no stack, in no configuration and in nobody's hands.
    pub(super) fn take_forgotten(&mut self) -> Vec<Object> {
        let used = self.used();
        let (config, asked) = (&self.config, &self.asked);
        let stays = |place: &Place| {
            config.at(place).is_some() || asked.contains(place) || used.contains(place)
        };
        let gone: Vec<_> = self.objects.keys().filter(|place| !stays(place)).cloned().collect();
        for place in &gone {
            match self.objects.get(place) {
                Some(Object::Conditioner(it)) if it.is_off() && !self.idle.contains(place) => {
                    self.off.insert(place.clone());
                }
                _ => {
                    self.off.remove(place);
                }
            }
            self.idle.remove(place);
        }
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
    fn exchange(
        &mut self,
        parts: Parts,
        uses: Uses,
        slot: impl Fn(&Self) -> Slot<Parts>,
    ) -> OldParts {
        let slot = slot(self);
        let ((conditioner, budget), parts) =
            self.places.fill(parts, &self.uses, &uses, |parts| slot.install(parts));
        let before = std::mem::replace(&mut self.uses, uses);
        // Those of the configuration are looked after by whoever has counted who uses them.
        let (faults, now) = (before.conditioner, self.places.faults.get());
        let conditioner = conditioner
            .filter(|it| ![&faults, &now].into_iter().flatten().any(|other| other.is(it)));
        let (spent, now) = (before.budget, self.places.budget.get());
        let budget =
            budget.filter(|it| ![&spent, &now].into_iter().flatten().any(|other| other.is(it)));
        OldParts { _parts: parts, conditioner, budget }
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
