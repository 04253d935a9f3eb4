//! What is put in place of values that do not fit, while the rest is looked at.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use ::config_rs::{Value, ValueKind};

/// In place of a key that is not there.
pub(super) static NOTHING: LazyLock<Value> = LazyLock::new(|| Value::new(None, ValueKind::Nil));

/// By path.
#[derive(Clone, Default)]
pub(super) struct Repairs {
    pub(super) at: BTreeMap<String, Repair>,
    /// Keys that tables do not have, and must.
    pub(super) added: BTreeMap<String, Vec<&'static str>>,
}

#[derive(Clone)]
pub(super) enum Repair {
    /// Something of the type that is asked for, of this turn.
    StandIn(usize),
    /// The same, read in another way.
    As(Value),
    /// Left out.
    Out,
    /// Nothing helps: it comes after all others.
    Last,
}

impl Repairs {
    pub(super) fn stands_in(&self, path: &str) -> Option<usize> {
        match self.at.get(path) {
            Some(Repair::StandIn(turn)) => Some(*turn),
            _ => None,
        }
    }

    pub(super) fn instead_of(&self, path: &str) -> Option<&Value> {
        match self.at.get(path) {
            Some(Repair::As(value)) => Some(value),
            _ => None,
        }
    }

    pub(super) fn is_out(&self, path: &str) -> bool {
        matches!(self.at.get(path), Some(Repair::Out))
    }

    pub(super) fn is_last(&self, path: &str) -> bool {
        matches!(self.at.get(path), Some(Repair::Last))
    }

    pub(super) fn added(&self, path: &str) -> impl Iterator<Item = &'static str> {
        self.added.get(path).into_iter().flatten().copied()
    }

    pub(super) fn with(&self, path: &str, repair: Repair) -> Self {
        let mut other = self.clone();
        other.at.insert(path.to_owned(), repair);
        other
    }
}
