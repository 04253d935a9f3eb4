//! From the objects to the document.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Level, ObjectStatus, Summary};
use crate::caught::caught;
use crate::managed::Managed;

/// As many objects are shown.
pub(in crate::control) const SHOWN: usize = 1_000;

/// The living objects in the order of the document, each with its `id`.
pub(in crate::control) fn sorted(
    mut objects: Vec<Arc<dyn Managed>>,
) -> Vec<(String, Arc<dyn Managed>)> {
    // Stable: of those that share a name, who came first is first.
    objects.sort_by(|a, b| (a.kind().as_str(), a.name()).cmp(&(b.kind().as_str(), b.name())));
    let mut seen: HashMap<String, usize> = HashMap::new();
    let numbered = |object: Arc<dyn Managed>| {
        let id = format!("{}/{}", object.kind().as_str(), object.name());
        let number = seen.entry(id.clone()).or_default();
        *number += 1;
        match *number {
            1 => (id, object),
            number => (format!("{id}#{number}"), object),
        }
    };
    objects.into_iter().map(numbered).collect()
}

/// A panic in one description must not take the others with it.
pub(in crate::control) fn describe((id, object): (String, Arc<dyn Managed>)) -> ObjectStatus {
    let described = caught(|| object.describe());
    let mut status = described.unwrap_or_else(|| {
        ObjectStatus::new("unknown").level(Level::Warn).why("its description panicked")
    });
    status.kind = object.kind().as_str().to_owned();
    status.name = object.name().to_owned();
    status.id = id;
    status
}

pub(in crate::control) fn verdict(objects: &[ObjectStatus]) -> Summary {
    let mut unwell: Vec<_> = objects.iter().filter(|object| object.level > Level::Ok).collect();
    unwell.sort_by_key(|object| std::cmp::Reverse(object.level));
    let Some(worst) = unwell.first() else {
        return Summary { level: Level::Ok, text: "all is well".to_owned(), causes: Vec::new() };
    };
    // By kind and state, the worst first: "2 circuit_breaker open, 1 rate_limit limiting".
    let mut groups: Vec<(&str, &str, usize)> = Vec::new();
    for object in &unwell {
        let (kind, state) = (object.kind.as_str(), object.state.as_str());
        match groups.iter_mut().find(|group| (group.0, group.1) == (kind, state)) {
            Some(group) => group.2 += 1,
            None => groups.push((kind, state, 1)),
        }
    }
    let texts = groups.iter().take(5).map(|(kind, state, n)| {
        format!("{n} {} {}", kind.replace('_', " "), state.replace('_', " "))
    });
    let mut text = texts.collect::<Vec<_>>().join(", ");
    if groups.len() > 5 {
        text.push_str(", and more");
    }
    let causes = unwell.iter().map(|object| object.id.clone()).collect();
    Summary { level: worst.level, text, causes }
}

/// What the process waits for, while it ends.
#[cfg(feature = "supervise")]
pub(in crate::control) fn process(life: &crate::supervise::Lifecycle) -> super::ProcessPhase {
    use crate::supervise::Phase;

    let phase = life.phase();
    let status = match phase {
        Phase::Starting | Phase::Ready | Phase::Exited => None,
        Phase::LameDuck | Phase::Draining | Phase::Cleanup => {
            let mut parts = Vec::new();
            let held_by = life.held_by();
            if phase < Phase::Cleanup && !held_by.is_empty() {
                parts.push(format!("held by {}", holders(&held_by)));
            }
            if let Some(deadline) = life.deadline() {
                let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                parts.push(format!("ends within {:.1} s", left.as_secs_f64()));
            }
            (!parts.is_empty()).then(|| parts.join(", "))
        }
    };
    super::ProcessPhase {
        phase: phase.as_str().to_owned(),
        since_s: Some(life.in_phase().as_secs_f64()),
        status,
    }
}

/// The first names, and how many more there are.
#[cfg(feature = "supervise")]
fn holders(names: &[crate::Name]) -> String {
    const TOLD: usize = 8;
    let told: Vec<_> = names.iter().take(TOLD).map(|name| name.as_str()).collect();
    let told = told.join(", ");
    match names.len().saturating_sub(TOLD) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}
