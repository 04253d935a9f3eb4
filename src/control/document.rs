use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use serde_json::Value;

use super::error::CommandError;
use super::parse;
use super::registry::{Done, Registry};
use crate::error::ConfigError;

/// One action of a document and what came of it.
///
/// Serialises as an object with the `action` as it was given and either `result` or `error`.
///
/// ```
/// use buttress::control::{Registry, execute};
/// use serde_json::json;
/// let registry = Registry::new();
/// registry.conditioner("backend");
/// let executed = execute(&registry, &json!([["LD_install_network_conditioner", [50]]]))?;
/// assert_eq!(
///     serde_json::to_value(&executed[0])?,
///     json!({"action": ["LD_install_network_conditioner", [50]], "result": "Conditioner"})
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Executed {
    /// The action, as it was given.
    pub action: Value,
    /// What it did, or why it did nothing.
    pub result: Result<Done, CommandError>,
}

impl Serialize for Executed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Executed", 2)?;
        object.serialize_field("action", &self.action)?;
        match &self.result {
            Ok(done) => object.serialize_field("result", &done.installed())?,
            Err(error) => object.serialize_field("error", &error.to_string())?,
        }
        object.end()
    }
}

/// Runs the actions of a document in order, each with a result of its own; see the [module](super) for
/// what a document looks like.
///
/// # Errors
/// When it is not such a document; then nothing is changed. An action that fails has its error in its
/// result instead, and the rest goes on.
///
/// ```
/// use buttress::control::{Registry, execute};
/// use serde_json::json;
///
/// let registry = Registry::new();
/// let place = registry.failure_budget("api");
/// let executed = execute(&registry, &json!([
///     ["LD_install_failure_budget", {"threshold": 7}],
///     ["LD_install_failure_budget", {"threshold": 0.1}],
/// ]))?;
/// assert_eq!(
///     executed[0].result.as_ref().unwrap_err().to_string(),
///     "LD_install_failure_budget: invalid threshold: 7, expected at least 0 and at most 1"
/// );
/// assert!(executed[1].result.is_ok() && place.get().is_some());
///
/// assert!(execute(&registry, &json!("install_failure_budget")).is_err());
/// # Ok::<(), buttress::ConfigError>(())
/// ```
pub fn execute(registry: &Registry, document: &Value) -> Result<Vec<Executed>, ConfigError> {
    let run = |action: &Value| {
        let result = parse::command(action)
            .and_then(|command| registry.apply(&command).map_err(|error| error.spelt_as(action)));
        Executed { action: action.clone(), result }
    };
    Ok(actions(document)?.iter().map(run).collect())
}

fn actions(document: &Value) -> Result<&[Value], ConfigError> {
    let malformed = |field: &'static str, value: &Value, expected: &'static str| {
        Err(ConfigError::new(field, value, expected))
    };
    const LIST: &str = "a list of at least one action";
    let (field, list) = match document {
        Value::Object(map) if map.contains_key("command") => {
            return Ok(std::slice::from_ref(document));
        }
        Value::Object(map) => {
            let mut keys = map.iter();
            match (keys.next(), keys.next()) {
                (Some((key, list)), None) if key == "load_density" => ("load_density", list),
                (Some((key, list)), None) if key == "commands" => ("commands", list),
                _ => {
                    let expected = "a list of actions, an object with one under `load_density` or \
                                    `commands` and nothing else, or one command";
                    return malformed("document", document, expected);
                }
            }
        }
        list => ("document", list),
    };
    match list {
        Value::Array(actions) if !actions.is_empty() => Ok(actions),
        other => malformed(field, other, LIST),
    }
}
