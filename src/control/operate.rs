//! Orders to objects: which object is meant, and the note in the timeline.

use std::sync::Arc;

use super::command::{Command, Operate};
use super::registry::{Done, Registry};
use super::status::assemble::{describe, sorted};
use crate::error::ConfigError;
use crate::lever::Lever;
use crate::managed::{Managed, Operation};
use crate::name::LayerKind;
use crate::observe::Severity;

/// As many names are told of in an error.
const TOLD: usize = 20;

impl Registry {
    pub(super) fn operate(
        &self,
        operate: &Operate,
        lever: Option<&dyn Lever>,
    ) -> Result<Done, ConfigError> {
        let operation = &operate.operation;
        // The program has perhaps put something else where a command had put one.
        self.sort_out();
        let all = sorted(self.shown());
        if let Some(target) = operate.target.as_deref()
            && let Some((_, object)) = all.iter().find(|(id, _)| id == target)
        {
            return self.order(object, target, operation);
        }
        match (operation, lever) {
            (Operation::Engage, Some(lever)) => lever.engage(),
            (Operation::Release, Some(lever)) => lever.release(),
            _ => return self.operate_by_name(operate, all),
        }
        Ok(Done::Operated(1))
    }

    fn operate_by_name(
        &self,
        operate: &Operate,
        all: Vec<(String, Arc<dyn Managed>)>,
    ) -> Result<Done, ConfigError> {
        let Operate { target, operation } = operate;
        let takes = all
            .into_iter()
            .filter(|entry| describe(entry.clone()).commands.contains(&operation.as_str()));
        let able: Vec<_> = takes.collect();
        let named = able.iter().filter(|(_, object)| match target.as_deref() {
            Some(name) => object.name() == name,
            None => true,
        });
        let named: Vec<_> = named.collect();
        // A name is first of all that of what calls meet.
        let is_there = |entry: &&&(String, Arc<dyn Managed>)| self.taken_out_of(&entry.1).is_none();
        let there: Vec<_> = named.iter().filter(is_there).copied().collect();
        if let [(id, object)] = named.as_slice() {
            return self.order(object, id, operation);
        }
        if let [(id, object)] = there.as_slice() {
            return self.order(object, id, operation);
        }
        let ids: Vec<_> = match named.is_empty() {
            true => able.iter().map(|(id, _)| id.as_str()).take(TOLD).collect(),
            false => named.iter().map(|(id, _)| id.as_str()).take(TOLD).collect(),
        };
        let expected = match ids.as_slice() {
            [] => format!("an object that takes {}, and there is none", operation.as_str()),
            ids => format!("one of {}", ids.join(", ")),
        };
        Err(match target {
            Some(name) => ConfigError::new("target", format_args!("{name:?}"), expected),
            None => ConfigError::new("target", "none", expected),
        })
    }

    fn order(
        &self,
        object: &Arc<dyn Managed>,
        id: &str,
        operation: &Operation,
    ) -> Result<Done, ConfigError> {
        object.operate(operation)?;
        if let Some(slot) = self.taken_out_of(object) {
            let what = operation.as_str();
            let detail =
                format!("{what}: {id} is taken out of {slot}, where it holds once it is back");
            self.roster.timeline.tell(Severity::Warning, "control", id, "taken_out", detail);
        }
        Ok(Done::Operated(1))
    }

    /// Ends all faults: of conditioners that are registered here or installed in a slot.
    pub(super) fn kill_faults(&self) -> Done {
        self.keep_faults_off(true);
        for conditioner in self.installed_faults() {
            conditioner.disarm();
        }
        let objects = self.roster.living();
        let faults = objects.iter().filter(|object| object.kind() == LayerKind::Conditioner);
        Done::Operated(faults.filter(|faults| faults.operate(&Operation::Disarm).is_ok()).count())
    }

    /// Takes that back.
    pub(super) fn arm_faults(&self) -> Done {
        self.keep_faults_off(false);
        for conditioner in self.installed_faults() {
            let _ = conditioner.arm();
        }
        let objects = self.roster.living();
        let faults = objects.iter().filter(|object| object.kind() == LayerKind::Conditioner);
        Done::Operated(faults.filter(|faults| faults.operate(&Operation::Enable).is_ok()).count())
    }

    /// Each command is an event, refused ones too.
    pub(super) fn note_command(&self, command: &Command, error: Option<&ConfigError>) {
        let target = command.target();
        // A name from outside may be as long as it likes.
        let name: String = target.unwrap_or_default().chars().take(100).collect();
        let what = command.as_str();
        match error {
            None => self.roster.timeline.tell(
                Severity::Info,
                "control",
                &name,
                "command",
                what.to_owned(),
            ),
            Some(error) => self.roster.timeline.tell(
                Severity::Warning,
                "control",
                &name,
                "command_refused",
                format!("{what}: {error}"),
            ),
        }
    }
}
