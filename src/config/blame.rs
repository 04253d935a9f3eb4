//! Who is to blame for an error that does not say where it is.

use std::collections::BTreeSet;

use ::config_rs::Value;
use serde::de::DeserializeOwned;

use super::gather::Gather;
use super::inside::{below, leads, others};
use super::keys::join;
use super::repairs::{NOTHING, Repair, Repairs};
use super::typed::{Fail, Field};

impl Gather<'_> {
    /// What in a table or list is to blame for an error that names only the whole, and repairs that leave out what is around it.
    pub(super) fn blamed<T: DeserializeOwned>(
        &mut self,
        at: &str,
        fail: &Fail,
    ) -> Option<(String, Repairs)> {
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
            let mut blamed = self.halved::<T>(&inner, &repairs, fail);
            if blamed.is_none() {
                inner.retain(|path| !self.is_direct::<T>(path, &repairs));
                blamed = inner.iter().find_map(|path| {
                    if self.runs == 0 {
                        return None;
                    }
                    let alone = only(&repairs, &inner, std::slice::from_ref(path));
                    self.blames::<T>(path, &alone, fail).then(|| (path.clone(), alone))
                });
            }
            // Enough has been read: nothing is known of what is in it.
            if self.runs == 0 {
                return None;
            }
            match blamed {
                Some((path, alone)) => (found, repairs) = (Some(path), alone),
                None => return found.map(|found| (found, repairs)),
            }
        }
    }

    /// The one that is to blame, if leaving out others changes nothing: among thousands it is found in some runs.
    fn halved<T: DeserializeOwned>(
        &mut self,
        inner: &[String],
        repairs: &Repairs,
        fail: &Fail,
    ) -> Option<(String, Repairs)> {
        let mut left = inner;
        while left.len() > 1 {
            let (first, second) = left.split_at(left.len() / 2);
            let first_only = self.try_with::<T>(&only(repairs, inner, first));
            left = match first_only {
                Some(Err(next)) if same(&next, fail) => first,
                _ => second,
            };
        }
        let path = left.first()?;
        let alone = only(repairs, inner, left);
        let blamed = !self.is_direct::<T>(path, repairs) && self.blames::<T>(path, &alone, fail);
        blamed.then(|| (path.clone(), alone))
    }

    /// Whether the error is there with this `alone`, and not without it.
    pub(super) fn blames<T: DeserializeOwned>(
        &mut self,
        at: &str,
        alone: &Repairs,
        fail: &Fail,
    ) -> bool {
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
        self.made_up
            && others().into_iter().any(|other| {
                match self.try_with::<T>(&alone.with(at, Repair::As(Value::new(None, other)))) {
                    Some(Err(next)) => !same(&next, fail),
                    Some(Ok(_)) => true,
                    None => false,
                }
            })
    }

    /// Whether errors in it know their place.
    pub(super) fn is_direct<T: DeserializeOwned>(&mut self, at: &str, repairs: &Repairs) -> bool {
        if let Some(known) = self.direct.get(at) {
            return *known;
        }
        if !self.made_up || self.runs == 0 {
            return false;
        }
        let direct = others().into_iter().any(|other| {
            let with = repairs.with(at, Repair::As(Value::new(None, other)));
            matches!(self.try_with::<T>(&with), Some(Err(next)) if next.is_about(at))
        });
        self.direct.insert(at.to_owned(), direct);
        direct
    }
}

/// Of these paths, all but some left out.
fn only(repairs: &Repairs, all: &[String], some: &[String]) -> Repairs {
    let mut only = repairs.clone();
    let some: BTreeSet<_> = some.iter().collect();
    let others = all.iter().filter(|path| !some.contains(path));
    only.at.extend(others.map(|path| (path.clone(), Repair::Out)));
    only
}

impl Fail {
    /// Whether it is about what is at this path, or below, or should be.
    pub(super) fn is_about(&self, path: &str) -> bool {
        match &self.1 {
            Some(Field::Missing(field)) => leads(path, &join(&self.0.key, field)),
            _ => leads(path, &self.0.key),
        }
    }
}

pub(super) fn same(one: &Fail, other: &Fail) -> bool {
    let all = |fail: &Fail| (fail.0.kind, fail.1.clone());
    all(one) == all(other) && one.0.key == other.0.key && one.0.expected == other.0.expected
}
