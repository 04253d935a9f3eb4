//! A user's type from a tree, with everything that does not fit.
//!
//! Reading stops at the first error, and a type cannot be asked to go on. So it is asked again, with something
//! else in the place of what did not fit, until nothing is left.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::config_rs::{Map, Value, ValueKind};
use serde::de::DeserializeOwned;

use super::keys::join;
use super::problem::{Problem, ProblemKind};
use super::read::flag;
use super::repairs::{NOTHING, Repair, Repairs};
use super::stand_in::TURNS;
use super::typed::{Fail, Node, Run, place};
use super::units;
use super::value::{origin, sorted};

/// The value at `path` as a `T`, or at least one problem.
pub(super) fn read<T: DeserializeOwned>(
    value: &Value,
    path: &str,
    root: bool,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let mut gather = Gather::new(value, path, root);
    let read = gather.all::<T>();
    let found =
        gather.unknown.into_iter().chain(gather.found.into_iter().map(|(problem, _)| problem));
    let before = problems.len();
    add(problems, found);
    read.filter(|_| problems.len() == before)
}

/// What does not fit in the values that only come from a source when it is the strongest: keys that a struct does not
/// know, and single values whose place alone says what they must be. `value` is all sources with that one as the strongest.
pub(super) fn read_part<T: DeserializeOwned>(
    value: &Value,
    source: &Map<String, Value>,
    problems: &mut Vec<Problem>,
) {
    let mut origins = BTreeSet::new();
    source.values().for_each(|value| collect_origins(value, &mut origins));
    let mut gather = Gather::new(value, "", true);
    gather.all::<T>();
    let found = gather.found.into_iter().filter(|(_, alone)| *alone).map(|(problem, _)| problem);
    let found = gather.unknown.into_iter().chain(found);
    add(problems, found.filter(|problem| origins.contains(problem.origin.as_str())));
}

fn collect_origins<'v>(value: &'v Value, origins: &mut BTreeSet<&'v str>) {
    origins.insert(origin(value));
    match &value.kind {
        ValueKind::Table(table) => table.values().for_each(|one| collect_origins(one, origins)),
        ValueKind::Array(list) => list.iter().for_each(|one| collect_origins(one, origins)),
        _ => {}
    }
}

fn add(problems: &mut Vec<Problem>, found: impl Iterator<Item = Problem>) {
    for problem in found {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
}

struct Gather<'v> {
    value: &'v Value,
    path: &'v str,
    root: bool,
    repairs: Repairs,
    unknown: Vec<Problem>,
    /// With whether nothing else can be to blame.
    found: Vec<(Problem, bool)>,
    /// What the last run kept for later.
    kept: Vec<String>,
    /// Of what was kept, whether errors in it know their place.
    direct: BTreeMap<String, bool>,
    /// The repair that was made last.
    latest: String,
    runs: usize,
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
            unknown: Vec::new(),
            found: Vec::new(),
            kept: Vec::new(),
            direct: BTreeMap::new(),
            latest: String::new(),
            runs: 0,
        }
    }

    /// Reads until nothing new is found.
    fn all<T: DeserializeOwned>(&mut self) -> Option<T> {
        let most = MIN_RUNS.max(MAX_READ / count(self.value));
        let mut outcome = self.first::<T>();
        loop {
            let goes_on = match outcome {
                Some(Ok(value)) => return Some(value),
                Some(Err(fail)) => self.mend::<T>(fail),
                // What stands in made the type panic.
                None => self.another(&self.latest.clone()),
            };
            if !goes_on {
                return None;
            }
            if self.runs > most {
                let more = "what else does not fit has not been looked for";
                let at = origin(self.value);
                let problem = Problem::new(ProblemKind::WrongType, self.path, more, at, "");
                self.found.push((problem, false));
                return None;
            }
            outcome = self.run::<T>();
        }
    }

    /// As it is written. A panic of the type is the caller's.
    fn first<T: DeserializeOwned>(&mut self) -> Option<Result<T, Fail>> {
        let repairs = std::mem::take(&mut self.repairs);
        let result = self.attempt(&repairs);
        self.repairs = repairs;
        Some(result)
    }

    fn run<T: DeserializeOwned>(&mut self) -> Option<Result<T, Fail>> {
        let repairs = self.repairs.clone();
        self.try_with(&repairs)
    }

    fn try_with<T: DeserializeOwned>(&mut self, repairs: &Repairs) -> Option<Result<T, Fail>> {
        catch_unwind(AssertUnwindSafe(|| self.attempt(repairs))).ok()
    }

    fn attempt<T: DeserializeOwned>(&mut self, repairs: &Repairs) -> Result<T, Fail> {
        self.runs += 1;
        let run = Run { repairs, unknown: RefCell::default(), kept: RefCell::default() };
        let result = T::deserialize(Node::new(self.value, self.path.to_owned(), self.root, &run));
        add(&mut self.unknown, run.unknown.into_inner().into_iter());
        self.kept = run.kept.into_inner().into_iter().collect();
        result.map_err(|mut fail| {
            place(&mut fail.0, self.path, self.value);
            fail
        })
    }

    /// Takes note of what is wrong and puts something else there. Says whether there is anything left to do.
    fn mend<T: DeserializeOwned>(&mut self, fail: Fail) -> bool {
        let at = fail.0.key.clone();
        if self.repairs.stands_in(&at).is_some() {
            return self.another(&at);
        }
        if let Some(field) = fail.1 {
            let place = join(&at, field);
            return match self.repairs.at.get(&place) {
                None => {
                    self.found.push((*fail.0, false));
                    self.repairs.added.entry(at).or_default().push(field);
                    self.put(&place, Repair::StandIn(0))
                }
                // It cannot be left out either.
                Some(Repair::Out) => self.put(&place, Repair::Last),
                Some(_) => self.another(&place),
            };
        }
        if self.repairs.at.contains_key(&at) {
            return self.another(&at);
        }
        if fail.0.kind == ProblemKind::UnknownKey {
            add(&mut self.unknown, std::iter::once(*fail.0));
            return self.put(&at, Repair::Out);
        }
        if let Some((inner, alone)) = self.blamed::<T>(&at, &fail) {
            return self.mend_inner::<T>(&inner, &alone, &fail);
        }
        let single = self.find(&at).is_some_and(|value| below(value, &at).is_empty());
        self.found.push((*fail.0, single));
        at != self.path && self.put(&at, Repair::StandIn(0))
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
        self.found.push((problem, false));
        self.put(at, Repair::StandIn(0))
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
                Some(parent) => self.put(&parent, Repair::StandIn(0)),
                None => false,
            },
            None => false,
        }
    }

    /// What in a table or list is to blame for an error that names only the whole, and repairs that leave out what is around it.
    fn blamed<T: DeserializeOwned>(&mut self, at: &str, fail: &Fail) -> Option<(String, Repairs)> {
        let mut repairs = self.repairs.clone();
        let kept = self.kept.clone();
        let mut found: Option<String> = None;
        loop {
            let here = found.as_deref().unwrap_or(at);
            let value = self.find(here).unwrap_or(&NOTHING);
            let mut inner: Vec<_> = below(value, here).into_iter().map(|(path, _)| path).collect();
            inner.extend(repairs.added(here).map(|key| join(here, key)));
            inner.retain(|path| match repairs.at.get(path) {
                Some(Repair::StandIn(_)) => true,
                Some(Repair::Out | Repair::Last) => false,
                Some(Repair::As(_)) | None => kept.contains(path),
            });
            inner.retain(|path| !self.is_direct::<T>(path, &repairs));
            let alone = |path: &str| {
                let others = inner.iter().filter(|other| *other != path);
                others.fold(repairs.clone(), |with, other| with.with(other, Repair::Out))
            };
            let all = inner.iter().map(|path| (path.clone(), alone(path)));
            let all: Vec<_> = all.collect();
            match all.into_iter().find(|(path, alone)| self.blames::<T>(path, alone, fail)) {
                Some((path, alone)) => (found, repairs) = (Some(path), alone),
                None => return found.map(|found| (found, repairs)),
            }
        }
    }

    /// Whether the error is there with this `alone`, and not without it.
    fn blames<T: DeserializeOwned>(&mut self, at: &str, alone: &Repairs, fail: &Fail) -> bool {
        if !matches!(self.try_with::<T>(alone), Some(Err(next)) if same(&next, fail)) {
            return false;
        }
        match self.try_with::<T>(&alone.with(at, Repair::Out)) {
            Some(Err(next)) if same(&next, fail) => return false,
            Some(Err(next)) if next.is_about(at) => {}
            Some(_) => return true,
            None => return false,
        }
        // It must be there, which says nothing about its value.
        others().into_iter().any(|other| {
            match self.try_with::<T>(&alone.with(at, Repair::As(Value::new(None, other)))) {
                Some(Err(next)) => !same(&next, fail),
                Some(Ok(_)) => true,
                None => false,
            }
        })
    }

    /// Whether errors in it know their place.
    fn is_direct<T: DeserializeOwned>(&mut self, at: &str, repairs: &Repairs) -> bool {
        if let Some(known) = self.direct.get(at) {
            return *known;
        }
        let direct = others().into_iter().any(|other| {
            let with = repairs.with(at, Repair::As(Value::new(None, other)));
            matches!(self.try_with::<T>(&with), Some(Err(next)) if next.is_about(at))
        });
        self.direct.insert(at.to_owned(), direct);
        direct
    }

    fn find(&self, at: &str) -> Option<&'v Value> {
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

/// Values of all sorts.
fn others() -> [ValueKind; 8] {
    let time = [("secs", 1_u64), ("nanos", 0)].map(|(key, n)| (key.to_owned(), Value::from(n)));
    [
        ValueKind::Nil,
        ValueKind::Boolean(true),
        ValueKind::I64(1),
        ValueKind::Float(0.5),
        ValueKind::String("a".to_owned()),
        ValueKind::Array(Vec::new()),
        ValueKind::Table(Map::new()),
        ValueKind::Table(time.into()),
    ]
}

/// Whether one path is on the way to the other, or the same.
fn leads(path: &str, to: &str) -> bool {
    to.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn below<'v>(value: &'v Value, path: &str) -> Vec<(String, &'v Value)> {
    match &value.kind {
        ValueKind::Table(table) => {
            sorted(table).into_iter().map(|(key, value)| (join(path, key), value)).collect()
        }
        ValueKind::Array(list) => {
            let all = list.iter().enumerate();
            all.map(|(n, value)| (format!("{path}[{n}]"), value)).collect()
        }
        _ => Vec::new(),
    }
}

fn count(value: &Value) -> usize {
    match &value.kind {
        ValueKind::Table(table) => 1 + table.values().map(count).sum::<usize>(),
        ValueKind::Array(list) => 1 + list.iter().map(count).sum::<usize>(),
        _ => 1,
    }
}

impl Fail {
    /// Whether it is about what is at this path, or below, or should be.
    fn is_about(&self, path: &str) -> bool {
        match self.1 {
            Some(missing) => leads(path, &join(&self.0.key, missing)),
            None => leads(path, &self.0.key),
        }
    }
}

fn same(one: &Fail, other: &Fail) -> bool {
    (one.0.kind, &one.0.key, &one.0.expected) == (other.0.kind, &other.0.key, &other.0.expected)
}

/// What else a value can be, of which was not known what it is for when it was read: a time, or a number or flag
/// that came as text.
fn readings(value: &Value, expected: &str) -> Vec<Value> {
    let mut all = Vec::new();
    if expected.contains("Duration") {
        let seconds = match &value.kind {
            ValueKind::String(text) => units::seconds(text),
            #[expect(clippy::cast_precision_loss, reason = "a number of seconds")]
            ValueKind::I64(n) => Some(*n as f64),
            ValueKind::Float(n) => Some(*n),
            _ => None,
        };
        let time = seconds.and_then(|s| std::time::Duration::try_from_secs_f64(s).ok());
        all.extend(time.map(|time| {
            let parts = [("secs", time.as_secs()), ("nanos", u64::from(time.subsec_nanos()))];
            ValueKind::Table(parts.map(|(key, n)| (key.to_owned(), Value::from(n))).into())
        }));
    }
    let origin = origin(value);
    if let ValueKind::String(text) = &value.kind
        && (origin.starts_with("variable ") || origin == "argument")
    {
        let text = text.trim();
        all.extend(text.parse().ok().map(ValueKind::I64));
        all.extend(text.parse().ok().map(ValueKind::U64));
        all.extend(units::number(text).map(ValueKind::Float));
        all.extend(flag(text).map(ValueKind::Boolean));
    }
    all.into_iter().map(|kind| Value::new(None, kind)).collect()
}
