//! A user's type from a tree, with everything that does not fit.
//!
//! Reading stops at the first error, and a type cannot be asked to go on. So it is asked again, with something
//! else in the place of what did not fit, until nothing is left.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use ::config_rs::{Map, Value, ValueKind};
use serde::de::DeserializeOwned;

use super::blame::same;
use super::inside::{below, collect_tables, count, leads, named, readings};
use super::keys::join;
use super::problem::{Problem, ProblemKind};
use super::repairs::{NOTHING, Repair, Repairs};
use super::stand_in::TURNS;
use super::typed::{Fail, Field, Node, Run, place};
use super::value::{collect_origins, origin};
use crate::caught::caught;

/// Whether types may be given values that nobody wrote: they may panic at them, which must not end the process.
pub(super) const MADE_UP: bool = cfg!(panic = "unwind");

/// The value at `path` as a `T`, or at least one problem.
pub(super) fn read<T: DeserializeOwned>(
    value: &Value,
    path: &str,
    root: bool,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let mut gather = Gather::new(value, path, root);
    let read = gather.all::<T>();
    let before = problems.len();
    add(problems, gather.told().map(|(problem, _)| problem));
    read.filter(|_| problems.len() == before)
}

/// What does not fit in the values of a source of which stronger ones have others. `on_top` is all sources with that one as the
/// strongest, `up_to` it and the weaker ones, and `whole` what is known to be wrong in all together.
///
/// Values beside others than those that they were written for are nobody's mistake. So only single values are told of, that do
/// not fit among the stronger ones and do not among the weaker ones either; and what is wrong anyway.
pub(super) fn read_part<T: DeserializeOwned>(
    on_top: &Value,
    up_to: impl FnOnce() -> Value,
    source: &Map<String, Value>,
    whole: &[Problem],
    problems: &mut Vec<Problem>,
) {
    let mut origins = BTreeSet::new();
    source.values().for_each(|value| collect_origins(value, &mut origins));
    let mut found = part::<T>(on_top);
    found.retain(|(problem, alone)| {
        let known = || problem.kind == ProblemKind::UnknownKey && whole.contains(problem);
        origins.contains(problem.origin.as_str()) && (*alone || known())
    });
    if found.iter().any(|(problem, _)| !whole.contains(problem)) {
        let before = part::<T>(&up_to());
        found.retain(|one| whole.contains(&one.0) || before.contains(one));
    }
    add(problems, found.into_iter().map(|(problem, _)| problem));
}

fn part<T: DeserializeOwned>(value: &Value) -> Vec<(Problem, bool)> {
    let mut gather = Gather::new(value, "", true);
    gather.part = true;
    gather.all::<T>();
    gather.told().collect()
}

pub(super) fn add(problems: &mut Vec<Problem>, found: impl Iterator<Item = Problem>) {
    for problem in found {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
}

/// What came of it, the keys that are not known, and what was kept for later.
type Attempt<T> = (Result<T, Fail>, Vec<Problem>, BTreeSet<String>);

pub(super) struct Gather<'v> {
    value: &'v Value,
    path: &'v str,
    root: bool,
    pub(super) repairs: Repairs,
    /// Whether nobody wrote all of it together.
    part: bool,
    pub(super) made_up: bool,
    unknown: Vec<Problem>,
    unknown_at: BTreeSet<String>,
    /// With whether nothing else can be to blame.
    found: Vec<(Problem, bool)>,
    /// What the last run kept for later.
    pub(super) kept: BTreeSet<String>,
    /// Of what was kept, whether errors in it know their place.
    pub(super) direct: BTreeMap<String, bool>,
    /// The repair that was made last.
    latest: String,
    /// How often it may still be read.
    pub(super) runs: usize,
}

/// Values read in all runs together, and runs at least.
const MAX_READ: usize = 500_000;
const MIN_RUNS: usize = 100;

impl<'v> Gather<'v> {
    fn new(value: &'v Value, path: &'v str, root: bool) -> Self {
        Self {
            value,
            path,
            root,
            repairs: Repairs::default(),
            part: false,
            made_up: MADE_UP,
            unknown: Vec::new(),
            unknown_at: BTreeSet::new(),
            found: Vec::new(),
            kept: BTreeSet::new(),
            direct: BTreeMap::new(),
            latest: String::new(),
            runs: MIN_RUNS.max(MAX_READ / count(value)),
        }
    }

    fn told(self) -> impl Iterator<Item = (Problem, bool)> {
        self.unknown.into_iter().map(|problem| (problem, false)).chain(self.found)
    }

    /// Reads until nothing new is found.
    fn all<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut outcome = self.first::<T>();
        loop {
            let goes_on = match outcome {
                Some(Ok(value)) => return Some(value),
                Some(Err(fail)) => self.mend::<T>(fail),
                // What stands in made the type panic.
                None => self.another(&self.latest.clone()),
            };
            if self.runs == 0 {
                let more = "what else does not fit has not been looked for";
                let at = origin(self.value);
                let problem = Problem::new(ProblemKind::WrongType, self.path, more, at, "");
                self.found.push((problem, false));
                return None;
            }
            if !goes_on {
                return None;
            }
            outcome = self.run::<T>();
        }
    }

    /// As it is written. A panic of the type is the caller's, if it is as somebody wrote it.
    fn first<T: DeserializeOwned>(&mut self) -> Option<Result<T, Fail>> {
        if self.part {
            return self.run();
        }
        let (read, unknown, kept) = self.attempt(&Repairs::default());
        self.keep(unknown, kept);
        Some(read)
    }

    fn run<T: DeserializeOwned>(&mut self) -> Option<Result<T, Fail>> {
        let repairs = self.repairs.clone();
        let (read, unknown, kept) = self.caught(&repairs)?;
        self.keep(unknown, kept);
        Some(read)
    }

    fn keep(&mut self, unknown: Vec<Problem>, kept: BTreeSet<String>) {
        let seen = &mut self.unknown_at;
        self.unknown.extend(unknown.into_iter().filter(|one| seen.insert(one.key.clone())));
        self.kept = kept;
    }

    /// Only to see what comes of it: `None` also when enough has been read.
    pub(super) fn try_with<T: DeserializeOwned>(
        &mut self,
        repairs: &Repairs,
    ) -> Option<Result<T, Fail>> {
        self.caught(repairs).map(|(read, ..)| read)
    }

    fn caught<T: DeserializeOwned>(&mut self, repairs: &Repairs) -> Option<Attempt<T>> {
        if self.runs == 0 {
            return None;
        }
        caught(|| self.attempt(repairs))
    }

    fn attempt<T: DeserializeOwned>(&mut self, repairs: &Repairs) -> Attempt<T> {
        self.runs = self.runs.saturating_sub(1);
        let run = Run { repairs, unknown: RefCell::default(), kept: RefCell::default() };
        let result = T::deserialize(Node::new(self.value, self.path.to_owned(), self.root, &run));
        let read = result.map_err(|mut fail| {
            place(&mut fail.0, self.path, self.value);
            fail
        });
        (read, run.unknown.into_inner(), run.kept.into_inner())
    }

    /// Takes note of what is wrong and puts something else there. Says whether there is anything left to do.
    fn mend<T: DeserializeOwned>(&mut self, fail: Fail) -> bool {
        let at = fail.0.key.clone();
        if self.repairs.stands_in(&at).is_some() {
            return self.another(&at);
        }
        match &fail.1 {
            Some(Field::Missing(field)) => return self.missing::<T>(&fail, field),
            Some(Field::Unknown(field)) => return self.unknown::<T>(&fail, field),
            None => {}
        }
        if self.repairs.at.contains_key(&at) {
            return self.another(&at);
        }
        if fail.0.kind == ProblemKind::UnknownKey {
            self.tell_unknown(*fail.0);
            return self.put(&at, Repair::Out);
        }
        if let Some((inner, alone)) = self.blamed::<T>(&at, &fail) {
            return self.mend_inner::<T>(&inner, &alone, &fail);
        }
        let table = |value: &Value| matches!(value.kind, ValueKind::Table(_));
        let single = |value: &Value| below(value, &at).is_empty() && !table(value);
        let single = self.find(&at).is_some_and(single);
        if !self.is_told_of(&at) {
            self.found.push((*fail.0, single));
        }
        at != self.path && self.instead(&at)
    }

    fn missing<T: DeserializeOwned>(&mut self, fail: &Fail, field: &'static str) -> bool {
        let at = self.lacking::<T>(fail, field).unwrap_or_else(|| fail.0.key.clone());
        let mut problem = (*fail.0).clone();
        if at != problem.key {
            problem.origin.clear();
            place(&mut problem, &at, self.find(&at).unwrap_or(&NOTHING));
        }
        let place = join(&at, field);
        match self.repairs.at.get(&place) {
            None if self.made_up => {
                self.found.push((problem, false));
                self.repairs.added.entry(at).or_default().push(field);
                self.instead(&place)
            }
            // Nothing can be put there.
            None if self.repairs.at.contains_key(&at) => self.another(&at),
            None => {
                self.found.push((problem, false));
                at != self.path && self.put(&at, Repair::Out)
            }
            // It cannot be left out either.
            Some(Repair::Out) => self.put(&place, Repair::Last),
            Some(_) => self.another(&place),
        }
    }

    /// The table in a variant or a flattened part that lacks a key, of which the error knows only the whole.
    fn lacking<T: DeserializeOwned>(&mut self, fail: &Fail, field: &'static str) -> Option<String> {
        let mut tables = Vec::new();
        collect_tables(self.find(&fail.0.key)?, &fail.0.key, &mut tables);
        // There, nothing that fits was found.
        let known = tables.iter().find(|table| self.repairs.is_last(&join(table, field)));
        if known.is_some() {
            return known.cloned();
        }
        tables.retain(|path| self.kept.contains(path) && *path != fail.0.key);
        if tables.is_empty() || !self.made_up {
            return None;
        }
        tables.insert(0, fail.0.key.clone());
        tables.into_iter().find(|table| {
            let place = join(table, field);
            let with = match self.repairs.at.get(&place) {
                None => {
                    let mut with = self.repairs.with(&place, Repair::StandIn(0));
                    with.added.entry(table.clone()).or_default().push(field);
                    with
                }
                // It was left out before.
                Some(Repair::Out) => self.repairs.with(&place, Repair::Last),
                Some(_) => return false,
            };
            match self.try_with::<T>(&with) {
                Some(Err(next)) => {
                    !same(&next, fail) && next.1 != Some(Field::Unknown(field.into()))
                }
                Some(Ok(_)) => true,
                None => false,
            }
        })
    }

    /// A key that a struct somewhere in a table does not know, of which only the name is known.
    fn unknown<T: DeserializeOwned>(&mut self, fail: &Fail, field: &str) -> bool {
        let at = &fail.0.key;
        if self.repairs.at.contains_key(at) {
            return self.another(at);
        }
        let mut places = Vec::new();
        named(self.find(at).unwrap_or(&NOTHING), at, field, &mut places);
        places.retain(|place| !self.repairs.is_out(place));
        let mut without = self.repairs.clone();
        without.at.extend(places.iter().map(|place| (place.clone(), Repair::Out)));
        // Others may have the name by right.
        if places.len() > 1 {
            places.retain(|place| {
                let out = without.at.remove(place);
                let told = self.try_with::<T>(&without);
                without.at.extend(out.map(|out| (place.clone(), out)));
                matches!(told, Some(Err(next)) if same(&next, fail))
            });
        }
        let still = matches!(self.try_with::<T>(&without), Some(Err(next)) if same(&next, fail));
        if still || places.is_empty() {
            let mut problem = (*fail.0).clone();
            problem.key = join(at, field);
            self.tell_unknown(problem);
            return *at != self.path && self.put(at, Repair::Out);
        }
        for place_of in places {
            let mut problem = (*fail.0).clone();
            problem.origin.clear();
            place(&mut problem, &place_of, self.find(&place_of).unwrap_or(&NOTHING));
            self.tell_unknown(problem);
            self.put(&place_of, Repair::Out);
        }
        true
    }

    fn tell_unknown(&mut self, problem: Problem) {
        if self.unknown_at.insert(problem.key.clone()) {
            self.unknown.push(problem);
        }
    }

    /// Something else, so that the rest can be read.
    fn instead(&mut self, at: &str) -> bool {
        self.put(at, if self.made_up { Repair::StandIn(0) } else { Repair::Out })
    }

    /// Something that a table was made of, whose place the error did not know any more.
    fn mend_inner<T: DeserializeOwned>(&mut self, at: &str, alone: &Repairs, fail: &Fail) -> bool {
        if self.repairs.at.contains_key(at) {
            return self.another(at);
        }
        let value = self.find(at).unwrap_or(&NOTHING);
        for other in readings(value, &fail.0.expected) {
            let fits = match self.try_with::<T>(&alone.with(at, Repair::As(other.clone()))) {
                Some(Err(next)) => !same(&next, fail),
                Some(Ok(_)) => true,
                None => false,
            };
            if fits {
                return self.put(at, Repair::As(other));
            }
        }
        let mut problem = (*fail.0).clone();
        problem.origin.clear();
        place(&mut problem, at, value);
        if !self.is_told_of(at) {
            self.found.push((problem, false));
        }
        self.instead(at)
    }

    /// Whether something in it is known to be wrong for which nothing stands in.
    fn is_told_of(&self, at: &str) -> bool {
        let mut all = self.repairs.at.iter();
        all.any(|(path, repair)| {
            matches!(repair, Repair::Last) && path != at && leads(at, path) && at != self.path
        })
    }

    fn put(&mut self, at: &str, repair: Repair) -> bool {
        at.clone_into(&mut self.latest);
        self.repairs.at.insert(at.to_owned(), repair);
        true
    }

    /// What stands in there does not fit either.
    fn another(&mut self, at: &str) -> bool {
        match self.repairs.at.get(at) {
            Some(Repair::StandIn(turn)) if turn + 1 < TURNS => {
                let next = Repair::StandIn(turn + 1);
                self.put(at, next)
            }
            Some(Repair::StandIn(_) | Repair::As(_)) => self.put(at, Repair::Out),
            Some(Repair::Out) => self.put(at, Repair::Last),
            // All around it has been looked at: now for the rest, without the whole table.
            Some(Repair::Last) => match self.parent(at) {
                Some(parent) if parent == self.path => false,
                Some(parent) if self.repairs.at.contains_key(&parent) => self.another(&parent),
                Some(parent) => self.instead(&parent),
                None => false,
            },
            None => false,
        }
    }

    pub(super) fn find(&self, at: &str) -> Option<&'v Value> {
        self.chain(at).pop().filter(|(path, _)| path == at).map(|(_, value)| value)
    }

    fn parent(&self, at: &str) -> Option<String> {
        self.chain(at).into_iter().rev().map(|(path, _)| path).find(|path| path != at)
    }

    /// The values on the way to a path.
    fn chain(&self, at: &str) -> Vec<(String, &'v Value)> {
        let mut chain = vec![(self.path.to_owned(), self.value)];
        while let Some((path, value)) = chain.last() {
            match below(value, path).into_iter().find(|(path, _)| leads(path, at)) {
                Some(next) => chain.push(next),
                None => break,
            }
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Settings {
        port: u16,
        host: Written,
        inner: Inner,
        share: f64,
    }

    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Inner {
        on: bool,
        count: u8,
        name: String,
    }

    /// Panics at everything that nobody wrote.
    #[derive(Debug, serde::Deserialize)]
    #[serde(from = "String")]
    struct Written;

    impl From<String> for Written {
        fn from(text: String) -> Self {
            assert_eq!(text, "written", "made up");
            Self
        }
    }

    fn told(json: &serde_json::Value) -> Vec<String> {
        let value = super::super::value::from_json(json, "a");
        let mut gather = Gather::new(&value, "", true);
        gather.made_up = false;
        assert!(gather.all::<Settings>().is_none());
        gather.told().map(|(problem, _)| problem.to_string()).collect()
    }

    #[test]
    fn nothing_is_made_up_where_a_panic_is_the_end() {
        let json = serde_json::json!({
            "port": "x", "host": "written", "inner": {"on": 1, "count": -1}, "share": "half", "more": 1,
        });
        assert_eq!(
            told(&json),
            [
                "a: more: unknown key, expected \"port\"",
                "a: inner.count: -1, expected u8",
                "a: inner.on: 1, expected a boolean",
                "a: port: \"x\", expected u16",
                "a: share: \"half\", expected f64",
            ]
        );
        let json = serde_json::json!({
            "port": 1, "host": "written", "inner": {"on": true}, "share": "half",
        });
        assert_eq!(
            told(&json),
            [
                "a: inner: incomplete, expected the key \"count\"",
                "a: share: \"half\", expected f64",
            ]
        );
    }
}
