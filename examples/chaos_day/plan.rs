//! The plan: what happens when. A step's `do` is a document of commands, as an admin endpoint would take it.

use std::path::Path;

use serde_json::Value;
use tower::BoxError;

/// The day that is run when no other plan is given.
const DEFAULT: &str = include_str!("plan.json");

pub(crate) struct Step {
    /// Seconds after the start.
    pub(crate) at: f64,
    pub(crate) say: String,
    /// Nothing in the last step: it ends the day.
    pub(crate) document: Value,
}

pub(crate) fn load(file: Option<&Path>) -> Result<Vec<Step>, BoxError> {
    let (name, text) = match file {
        None => ("plan.json".to_owned(), DEFAULT.to_owned()),
        Some(path) => {
            let name = path.display().to_string();
            let text =
                std::fs::read_to_string(path).map_err(|e| format!("cannot read {name}: {e}"))?;
            (name, text)
        }
    };
    parse(&text).map_err(|error| format!("{name}: {error}").into())
}

fn parse(text: &str) -> Result<Vec<Step>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let steps = value.as_array().filter(|steps| steps.len() >= 2);
    let steps = steps.ok_or("expected a list of at least two steps, the last of which ends it")?;
    let mut before = f64::NEG_INFINITY;
    let mut plan = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        let at = step["at"].as_f64().filter(|at| *at >= 0.0 && *at > before && *at <= 3600.0);
        let at = at.ok_or_else(|| {
            format!(
                "step {}: invalid at: {}, expected seconds, later than the step before",
                n + 1,
                step["at"]
            )
        })?;
        before = at;
        let say = step["say"].as_str().unwrap_or_default().to_owned();
        plan.push(Step { at, say, document: step["do"].clone() });
    }
    Ok(plan)
}
