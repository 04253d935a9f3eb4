use std::error::Error as StdError;
use std::fmt;

/// Why a conditioner was not armed.
///
/// ```
/// use buttress::conditioner::{ArmError, Conditioner, Fault, Rule};
/// let conditioner = Conditioner::builder("api")
///     .rule(Rule::new(Fault::loss()))
///     .allow_in(["test", "staging"])
///     .environment("production")
///     .build()
///     .unwrap();
/// let error = conditioner.arm().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "faults are allowed in `test`, `staging`, and this is `production`"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArmError {
    /// The environment is not one it was allowed in, or nobody said which it is.
    Environment {
        /// Which it is.
        found: Option<String>,
        /// Where it was allowed.
        allowed: Vec<String>,
    },
    /// [`kill`](super::Conditioner::kill) was used.
    Killed,
}

impl fmt::Display for ArmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment { found, allowed } => {
                f.write_str("faults are allowed in ")?;
                for (n, name) in allowed.iter().enumerate() {
                    write!(f, "{}`{name}`", if n == 0 { "" } else { ", " })?;
                }
                match found {
                    Some(found) => write!(f, ", and this is `{found}`"),
                    None => f.write_str(", and nothing says what this is"),
                }
            }
            Self::Killed => f.write_str("this conditioner was killed"),
        }
    }
}

impl StdError for ArmError {}

/// Where faults are allowed, and where this is.
#[derive(Clone, Debug, Default)]
pub(super) struct Permission {
    pub(super) allowed: Option<Vec<String>>,
    pub(super) here: Here,
}

#[derive(Clone, Debug, Default)]
pub(super) enum Here {
    #[default]
    Unknown,
    Named(String),
    Variable(String),
}

impl Permission {
    pub(super) fn check(&self) -> Result<(), ArmError> {
        let Some(allowed) = &self.allowed else { return Ok(()) };
        let found = match &self.here {
            Here::Unknown => None,
            Here::Named(name) => Some(name.clone()),
            // Not unicode: shown as well as it can be, and in no list.
            Here::Variable(name) => {
                std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
            }
        };
        if found.as_ref().is_some_and(|found| allowed.contains(found)) {
            return Ok(());
        }
        Err(ArmError::Environment { found, allowed: allowed.clone() })
    }
}
