//! The next configuration, built but not in force.

use std::collections::{BTreeMap, BTreeSet};

use super::findings::Finding;
use super::keys::join;
use super::live::Step;
use super::made::{Made, Object, Places, Running, Uses, Was};
use super::problem::{LoadError, Problem, ProblemKind};
use super::settings::{Change, Config};
use super::stacks::{Place, Written};
use crate::conditioner::Conditioner;
use crate::error::ConfigError;
use crate::failure_budget::{BudgetState, FailureBudget};
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
    /// What it has had of that, but for what is to come back.
    before: Uses,
}

/// What is to be done when a stack gets objects that it did not have: before anything comes into service, and then.
#[derive(Default)]
pub(super) struct Revived {
    off: Vec<PartsChange>,
    on: Vec<PartsChange>,
}

impl Revived {
    pub(super) fn all(self) -> Vec<PartsChange> {
        self.off.into_iter().chain(self.on).collect()
    }
}

/// What a stack had before. Kept until no lock is held.
#[derive(Default)]
pub(super) struct OldParts {
    _parts: (Option<Parts>, Option<Parts>),
    _was: Option<Was>,
    /// What a command had put into the stack, if the configuration has taken its place.
    conditioner: Option<Conditioner>,
    budget: Option<FailureBudget>,
}

impl OldParts {
    pub(super) fn new(
        parts: (Option<Parts>, Option<Parts>),
        was: Was,
        (before, places): (&Uses, &Places),
    ) -> Self {
        // Those of the configuration are looked after by whoever has counted who uses them.
        let conditioner = was.faults.clone().filter(|it| {
            let had = before.conditioner.as_ref().is_some_and(|had| had.is(it));
            !had && !places.faults.holds(|now| now.is(it))
        });
        let budget = was.budget.clone().filter(|it| {
            let had = before.budget.as_ref().is_some_and(|had| had.is(it));
            !had && !places.budget.holds(|now| now.is(it))
        });
        Self { _parts: parts, _was: Some(was), conditioner, budget }
    }

    /// Nothing uses them any more.
    pub(super) fn end(&self) {
        self.conditioner.iter().for_each(Conditioner::disarm);
        self.budget.iter().for_each(FailureBudget::retire);
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
        let edited = made.edited(config);
        for (map, name) in made.running() {
            // What is not written down any more goes on as it was.
            if config.entry(map, name).is_err() {
                continue;
            }
            let other = made.uses(map, name).iter().any(|place| next.replaced.contains_key(place));
            let restored = made.restored(map, name, &edited);
            if !other && restored.is_none() && !affected(config, map, name, changes) {
                continue;
            }
            let before = restored.unwrap_or_else(|| made.had(map, name).clone());
            match staged.stack(&mut next, config, (map, name), before) {
                Ok(()) => {}
                Err(error) => {
                    problems.push(problem(config, &[map.to_owned(), name.to_owned()], &error));
                }
            }
        }
        for (place, before) in &next.replaced {
            if let Some(Object::FailureBudget(it)) = next.objects.get(place) {
                let (before, it) = (before.clone(), it.clone());
                staged.changes.push(Box::new(move || {
                    if before.state() == BudgetState::Tripped {
                        it.trip();
                    }
                }));
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
        (map, name): (&'static str, &str),
        before: Uses,
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
            let running = next.servers.get(name).and_then(|it| it.stack.parts_slot().get());
            let before = match &running {
                Some(Parts::Server(parts)) => Some(parts),
                _ => None,
            };
            let (parts, uses, change) = next.server_parts(name, config, before)?;
            self.changes.extend(change);
            (Parts::Server(parts), uses)
        };
        let Revived { off, on } = next.reviving(&uses, &before);
        // What one stack must have disarmed is so in all that get it now.
        self.changes.splice(..0, off);
        self.changes.extend(on);
        self.stacks.push(NewParts { map, name: name.to_owned(), parts, uses, before });
        Ok(())
    }
}

/// Whether a stack that is still written down has other parts.
fn affected(config: &Config, map: &'static str, name: &str, changes: &[Change]) -> bool {
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

    /// Those that the file has other settings for. A timeout that they follow is none of theirs.
    fn edited(&self, new: &Config) -> Vec<Object> {
        let edited = self.objects.iter().filter(|(place, _)| {
            let blocks = self.config.at(place).zip(new.at(place));
            blocks.is_some_and(|(before, after)| before.block.0 != after.block.0)
        });
        edited.map(|(_, object)| object.clone()).collect()
    }

    /// What a stack has had, without those of `edited` that commands have taken out of it: if there is any, they come back.
    fn restored(&self, map: &str, name: &str, edited: &[Object]) -> Option<Uses> {
        let (places, uses) = match map {
            "clients" => self.clients.get(name).map(|it| (&it.places, &it.uses)),
            _ => self.servers.get(name).map(|it| (&it.places, &it.uses)),
        }?;
        let mut before = uses.clone();
        for object in edited {
            match object {
                Object::Breaker(it) => {
                    take_out(&mut before.breaker, &places.breaker, |had| had.is(it));
                }
                Object::Limiter(it) => {
                    take_out(&mut before.limiter, &places.limiter, |had| had.is(it));
                }
                Object::FailureBudget(it) => {
                    take_out(&mut before.budget, &places.budget, |had| had.is(it));
                }
                Object::Conditioner(it) => {
                    take_out(&mut before.conditioner, &places.faults, |had| had.is(it));
                }
                Object::RetryBudget(_) => {}
            }
        }
        let all = |uses: &Uses| {
            [
                uses.breaker.is_some(),
                uses.limiter.is_some(),
                uses.budget.is_some(),
                uses.conditioner.is_some(),
            ]
        };
        (all(&before) != all(uses)).then_some(before)
    }

    /// The objects that a stack has.
    fn had(&self, map: &str, name: &str) -> &Uses {
        static NONE: Uses = Uses {
            places: BTreeSet::new(),
            conditioner: None,
            budget: None,
            breaker: None,
            limiter: None,
            policy: None,
        };
        let uses = match map {
            "clients" => self.clients.get(name).map(|it| &it.uses),
            _ => self.servers.get(name).map(|it| &it.uses),
        };
        uses.unwrap_or(&NONE)
    }

    fn uses(&self, map: &str, name: &str) -> &BTreeSet<Place> {
        &self.had(map, name).places
    }

    /// Budgets that cannot go by their new settings, and are known only to stacks that are written down: objectives come
    /// and go with a budget.
    fn replaced_by(&self, new: &Config) -> BTreeMap<Place, FailureBudget> {
        let period = |at: &Written<'_>| at.block.get("slo").map(|slo| slo.get("period").cloned());
        let gone = self.running().filter(|(map, name)| new.entry(map, name).is_err());
        let kept: BTreeSet<_> = gone.flat_map(|(map, name)| self.uses(map, name)).collect();
        let replaced = self.objects.iter().filter_map(|(place, object)| match object {
            Object::FailureBudget(it) if !self.asked.contains(place) && !kept.contains(place) => {
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
                Ok(step) => steps.push((place.clone(), self.kept_off(object, step))),
                Err(error) => problems.push(problem(new, place, &error)),
            }
        }
        steps
    }

    /// Faults become allowed by other settings, and are armed then: not if all were killed.
    fn kept_off(&self, object: &Object, step: Step) -> Step {
        let Object::Conditioner(it) = object else { return step };
        let (it, registry) = (it.clone(), self.registry());
        Box::new(move || {
            let off = it.is_disarmed();
            step()?;
            if off && registry.faults_are_killed() {
                it.disarm();
            }
            Ok(())
        })
    }

    /// Puts new parts into a stack that runs.
    pub(super) fn exchange(&mut self, new: NewParts) -> OldParts {
        let NewParts { map, name, parts, uses, before } = new;
        self.tell_given_up(map, &name, &self.newest());
        if map == "clients" {
            let running = self.clients.get_mut(&name);
            running
                .map(|it| it.exchange(parts, (&before, uses), |it| it.stack.parts_slot().clone()))
        } else {
            let running = self.servers.get_mut(&name);
            running
                .map(|it| it.exchange(parts, (&before, uses), |it| it.stack.parts_slot().clone()))
        }
        .unwrap_or_default()
    }

    /// The places of the objects that stacks have.
    fn used(&self) -> BTreeSet<Place> {
        let clients = self.clients.values().map(|it| &it.uses);
        let all = clients.chain(self.servers.values().map(|it| &it.uses));
        all.flat_map(|uses| &uses.places).cloned().collect()
    }

    /// What is in no stack, and in nobody's hands.
    pub(super) fn idle(&self) -> Vec<(Place, Object)> {
        let used = self.used();
        let idle = self.objects.iter().filter(|(place, _)| !used.contains(*place));
        let idle = idle.filter(|(place, _)| !self.asked.contains(*place));
        idle.map(|(place, object)| (place.clone(), object.clone())).collect()
    }

    /// Those of them that somebody has meanwhile.
    pub(super) fn no_more_idle(&self, idle: Vec<(Place, Object)>) -> Vec<Object> {
        let used = self.used();
        let has = |place: &Place| used.contains(place) || self.asked.contains(place);
        idle.into_iter().filter(|(place, _)| has(place)).map(|(_, object)| object).collect()
    }

    /// Puts into service what a stack gets that it did not have `before`.
    pub(super) fn reviving(&self, uses: &Uses, before: &Uses) -> Revived {
        let mut revived = Revived::default();
        let registry = self.registry();
        let budget = (uses.budget.clone())
            .filter(|it| !before.budget.as_ref().is_some_and(|had| had.is(it)));
        if let Some(it) = budget {
            let registry = registry.clone();
            revived.on.push(Box::new(move || Object::FailureBudget(it).revive(&registry)));
        }
        let faults = (uses.conditioner.clone())
            .filter(|it| !before.conditioner.as_ref().is_some_and(|had| had.is(it)));
        if let Some(it) = faults {
            let (other, had) = (it.clone(), before.conditioner.clone());
            revived.off.extend(had.map(|had| -> PartsChange {
                Box::new(move || {
                    if had.is_off() {
                        other.stay_off();
                    }
                })
            }));
            revived.on.push(Box::new(move || Object::Conditioner(it).revive(&registry)));
        }
        revived
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
                Some(Object::Conditioner(it)) if it.is_off() => {
                    self.off.insert(place.clone());
                }
                _ => {
                    self.off.remove(place);
                }
            }
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
        (before, uses): (&Uses, Uses),
        slot: impl Fn(&Self) -> Slot<Parts>,
    ) -> OldParts {
        let slot = slot(self);
        let old = self.places.exchange(&slot, parts, (before, &uses));
        self.uses = uses;
        old
    }
}

fn take_out<T>(had: &mut Option<T>, place: &Slot<T>, is: impl Fn(&T) -> bool) {
    if had.as_ref().is_some_and(&is) && !place.holds(&is) {
        *had = None;
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
