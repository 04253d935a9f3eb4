//! Faults and budgets that are part of a program need a release to begin and another to end, and by then the
//! incident or the exercise is over. Commands change what is installed in a running stack: from a file, an
//! admin endpoint or a test, in one document, with one result for each.
//!
//! A program makes [`Slot`](crate::Slot)s where it allows changes, by asking a [`Registry`] for them, and
//! builds its layers from those. A [`Command`] names one of them.
//!
//! ```
//! use buttress::control::{Command, InstallFailureBudget, Registry};
//! use buttress::failure_budget::FailureBudgetLayer;
//!
//! let registry = Registry::new();
//! // Nothing is installed yet: a call passes as if the layer were not there.
//! let layer = FailureBudgetLayer::from_slot(registry.failure_budget("api"));
//!
//! let mut install = InstallFailureBudget::default();
//! install.target = Some("api".into());
//! install.threshold = 0.1;
//! registry.apply(&Command::InstallFailureBudget(install))?;
//! assert!(registry.failure_budget("api").get().is_some());
//! # Ok::<(), buttress::control::CommandError>(())
//! ```
//!
//! # Documents
//!
//! With the feature `serde`, `execute` takes a JSON document: a list of actions, an object with such a
//! list under `load_density` or `commands`, or one command. An action is an object, or a list of a name and
//! its arguments, by name or in order:
//!
//! ```json
//! [
//!     {"command": "install_network_conditioner", "target": "backend", "latency_ms": 50, "loss_rate": 0.01},
//!     ["LD_install_failure_budget", {"threshold": 0.1, "window_seconds": 30}],
//!     ["LD_uninstall_network_conditioner"]
//! ]
//! ```
//!
//! | command, also with `LD_` | arguments, in order | default |
//! |---|---|---|
//! | `install_failure_budget` | `threshold` (a failure rate above which it is spent, also as `"5%"`) | 0.05 |
//! | | `window_seconds` (also as `"1m"`) | 30 |
//! | | `min_samples` | 50 |
//! | | `on_breach`: `"notify"`, `"reject"`, `"shed"`; by name only | `"reject"` |
//! | | `levers`: names of levers of the registry; by name only | all of them |
//! | `install_network_conditioner` | `latency_ms` | 0 |
//! | | `jitter_ms` | 0 |
//! | | `loss_rate` | 0 |
//! | | `name_filter` (part of a request's name or URL) | none |
//! | `install_retry_policy` | `policy` (as a [`RetryPolicy`](crate::retry::RetryPolicy) is written) | the default policy |
//! | `install_circuit_breaker` | `breaker` (the keys of an entry of `breakers` in a configuration, see [`CircuitBreakerSettings`]) | those of the builder |
//! | `install_rate_limit` | `rate_limit` (`"100/s burst 20"`, or the keys of an entry of `rate_limits`, see [`RateLimitSettings`]) | none: must be given |
//! | `uninstall_failure_budget`, `uninstall_network_conditioner`, `uninstall_retry_policy`, `uninstall_circuit_breaker`, `uninstall_rate_limit` | | |
//!
//! Each also takes a `target`, by name only: the name of the slot. Without one the registry must have
//! exactly one slot of the kind. Stacks from a configuration that are
//! registered in this registry (`Stacks::register_in`) have slots named `clients.pay` and `servers.api`, also for what
//! the configuration does not put into them:
//!
//! | kind | slot of a program | `clients.pay` | `servers.api` |
//! |---|---|---|---|
//! | failure budget | [`Registry::failure_budget`] | no: a client's failures are its breaker's matter, and a budget would refuse the retries and the probes of its backend | yes |
//! | faults | [`Registry::conditioner`] | yes | yes |
//! | breaker | [`Registry::circuit_breaker`] | yes | no: a breaker guards one callee, and a handler may have many |
//! | rate limit | [`Registry::rate_limiter`] | yes | yes |
//! | retry policy | [`Registry::retry_policy`] | yes; without a retry budget or a backend only the policy bounds it | no: who retries is the caller |
//! | timeouts, backend, hedge, endpoints, retry budget | none | by a reload only: the linter looks at how they go together, which one command cannot | a timeout, by a reload only |
//! | idempotency, coalescing, fallback, throttle | none: they are made with code (a store, a key, an answer) that no document carries | | |
//!
//! What a configuration brings later leaves alone what a command has done, until it has another object at that place, or
//! other settings for its own: see `config`. A breaker or limiter of a file or of the program that a command has taken out or
//! replaced, and that is in no other slot, is still shown. Its row has the fact `taken_out_of`, and it is well whatever it
//! says, as no call meets it by a slot; unless calls meet it by another way (the program has it in a layer too, or uses it
//! directly): then its row says `in_use`, and it is as well as it says. That is found out from look to look: calls that it has
//! refused, or a limiter let through or holds up; and it stays so for 5 minutes. Orders to it are carried out and hold once
//! it is back; that no stack feels them yet is an event, `taken_out`. One that a command has made is shown while it is in a
//! slot, and again if the program puts it back.
//!
//! A breaker or budget that is put into a stack with a short timeout counts the calls that are cut off
//! by it, as one from the configuration does, also when a reload changes the timeout. So that this holds of all that guards a
//! stack, a retry policy that a command puts there has no `attempt_timeout` or `deadline` below 2 s; what is taken out or
//! replaced of the file's policy, its timeouts, is still counted with.
//!
//! Orders to objects take a `target`: an `id` of the status document (`circuit_breaker/payments`), or a name
//! that only one object which takes the order has, or only one that is not taken out.
//!
//! | command | object |
//! |---|---|
//! | `force_open`, `force_closed`, `reset`, `enable`, `disable` | a breaker |
//! | `set_quota` with `quota` (`"100/s burst 20"`) | a limiter, one bucket or keyed |
//! | `reset` | also a limiter, a retry budget, a failure budget |
//! | `engage`, `release` | a retry budget, a lever of the registry; `engage` also trips a failure budget |
//! | `disarm`, `enable` | the faults of a conditioner |
//! | `kill_faults`, without a target | all faults, and those that a configuration brings later |
//! | `arm_faults`, without a target | takes that back: all faults that may be armed where they are, and those that a configuration brings later |
//!
//! # Status and timeline
//!
//! Objects register themselves in [`Registry::global`] when they are built, unless the builder is told
//! [`register_in`](crate::circuit_breaker::CircuitBreakerBuilder::register_in) or
//! [`unregistered`](crate::circuit_breaker::CircuitBreakerBuilder::unregistered). A registry holds them weakly.
//! [`Registry::status`] asks each what it is doing; [`Registry::events_since`] tells what happened, the last
//! 500 events. Every command is an event.
//!
//! Actions run in order, and one that fails does not stop the rest. A document that is not such a list
//! changes nothing; neither does an action with a wrong argument, or one for a slot that no stack has.
//! Installing replaces what was there; uninstalling what is not there is no error. A budget that is replaced
//! or taken out lets go of its levers, a conditioner of the calls that it holds up. A limiter that is taken out lets those go on who
//! wait at it by its slot, one that is replaced serves them first, until the slot is emptied; who waits at it by another way
//! (a handle, another slot) goes on waiting. A breaker takes the outcomes of its calls to their end.

mod command;
#[cfg(feature = "serde")]
mod document;
mod error;
mod follow;
mod install;
mod operate;
#[cfg(feature = "serde")]
mod parse;
#[cfg(feature = "metrics")]
mod publish;
mod register;
mod registry;
mod settings;
mod status;
mod taken_out;
mod watch;

pub use crate::managed::{Managed, Operation};
pub use command::{
    Command, InstallCircuitBreaker, InstallFailureBudget, InstallNetworkConditioner,
    InstallRateLimit, InstallRetryPolicy, Operate, Uninstall,
};
#[cfg(feature = "serde")]
pub use document::{Executed, execute};
pub use error::CommandError;
pub use registry::{Done, Registry};
#[cfg(all(test, feature = "config"))]
pub(crate) use settings::KEYS;
pub use settings::{CircuitBreakerSettings, RateLimitSettings};
#[cfg(feature = "config")]
pub(crate) use settings::{missing, set};
pub use status::{
    Fact, Gauge, Level, Lint, Next, ObjectStatus, ProcessPhase, Status, Summary, TimelineEvent,
};
pub use watch::Events;
