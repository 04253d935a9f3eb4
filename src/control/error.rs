use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use crate::error::ConfigError;

/// Why a command changed nothing: which command, and what about it.
///
/// ```
/// use buttress::control::{Command, Registry, Uninstall};
/// let registry = Registry::new();
/// let error = registry.apply(&Command::UninstallFailureBudget(Uninstall::default())).unwrap_err();
/// assert_eq!(error.command(), "uninstall_failure_budget");
/// assert_eq!(error.config().field(), "target");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    command: Cow<'static, str>,
    config: ConfigError,
}

impl CommandError {
    pub(super) fn new(command: impl Into<Cow<'static, str>>, config: ConfigError) -> Self {
        Self { command: command.into(), config }
    }

    /// The same error under the name that `action` has for the command.
    #[cfg(feature = "serde")]
    pub(super) fn spelt_as(mut self, action: &serde_json::Value) -> Self {
        let name = action.get(0).or_else(|| action.get("command")).and_then(|name| name.as_str());
        if let Some(name) = name {
            self.command = name.to_owned().into();
        }
        self
    }

    /// The command, as the document spells it.
    ///
    /// ```
    /// # use buttress::control::{Command, Registry, Uninstall};
    /// # let apply = |command| Registry::new().apply(&command).unwrap_err();
    /// let error = apply(Command::UninstallNetworkConditioner(Uninstall::default()));
    /// assert_eq!(error.command(), "uninstall_network_conditioner");
    /// ```
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// The argument, its value and what was expected.
    ///
    /// ```
    /// # use buttress::control::{Command, Registry, Uninstall};
    /// # let apply = |command| Registry::new().apply(&command).unwrap_err();
    /// let mut uninstall = Uninstall::default();
    /// uninstall.target = Some("api".into());
    /// let error = apply(Command::UninstallFailureBudget(uninstall));
    /// assert_eq!(error.config().value(), "\"api\"");
    /// ```
    #[must_use]
    pub fn config(&self) -> &ConfigError {
        &self.config
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.command, self.config)
    }
}

impl StdError for CommandError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.config)
    }
}
