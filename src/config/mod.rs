//! Settings from files, the environment and arguments.
//!
//! **The failure this prevents:** somebody writes `open_fro: 5s`, or `500` where seconds are meant, or sets a
//! variable that a file overrides. Nothing complains, the default holds, and the breaker that should have opened during the
//! outage did not. Here every value is checked when it is loaded, everything that is wrong is
//! said at once with its file and line, and `explain` says of every value where it came from.
//!
//! ```
//! use buttress::config::{Format, Loader};
//!
//! let file = "
//! breakers:
//!   payments:
//!     failure_rate: 50%
//!     open_for: 30s
//! rate_limits:
//!   api: 100/s burst 20
//! ";
//! let config = Loader::empty()          // `Loader::new()` looks in the usual places
//!     .text("buttress.yml", Format::Yaml, file)
//!     .env_from([("BUTTRESS__BREAKERS__PAYMENTS__OPEN_FOR", "5s")])
//!     .load()?;
//! let breaker = config.circuit_breaker("payments")?;
//! let limiter = config.rate_limiter("api")?;
//! assert_eq!(
//!     config.origin("breakers.payments.open_for"),
//!     Some("variable BUTTRESS__BREAKERS__PAYMENTS__OPEN_FOR")
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Order
//! Arguments ([`Loader::set`]) are stronger than variables, those than files that are named, those than files that are
//! found, those than defaults. Tables are merged key by key; lists and single values are replaced. `null` means "as
//! if no source had said anything". Found are files in the current directory, `~`, `~/.config`, and in `buttress` and `kstlib` below
//! `$XDG_CONFIG_DIRS` (`/etc/xdg`), in this order of strength; [`Loader::search`] changes the places and says the names.
//!
//! # Units
//! Times are numbers of seconds, or texts such as `250ms`, `1m 30s`, `1.5h`. Rates are `100/s burst 20`. Shares are `0.05` or
//! `5%`. In variables and arguments numbers and flags may be texts; in files they may not.
//!
//! # The block `resilience`
//! Files of the Python package kstlib are read as they stand. Its breaker's numbers are the defaults of every breaker here; the others are in
//! [`Config::limits`]. Its documentation calls the shutdown's time `default_timeout`, its code `timeout`: both work. Out of range is
//! an error, unless [`Loader::clamp`] is on.
//!
//! # Stacks
//! [`Config::stacks`] makes whole clients and servers, in the order of [`presets`](crate::presets), each object once.
//! [`Config::lint`] says what in them contradicts itself, with file and line.
//!
//! # Reload
//! A [`Reloader`] reads the files again on SIGHUP, when they change, or when it is told to. Objects that run go by the
//! new values and keep their state; settings with a problem change nothing. See there for what waits for a restart.
//!
//! # Secrets
//! Values below keys that contain `token`, `secret`, `password`, `api_key`, `credential` or `private_key` are not shown, neither by
//! `explain` nor in errors nor by `Debug`.

mod build;
mod fields;
mod findings;
mod live;
mod loader;
mod merge;
mod parse;
mod plans;
mod print;
mod problem;
mod read;
mod reload;
mod schema;
mod settings;
mod stacks;
mod typed;
mod units;
mod value;
mod watch;

pub use build::Limits;
pub use findings::Finding;
pub use loader::{Loader, load};
pub use parse::Format;
pub use print::schema;
pub use problem::{LoadError, Problem, ProblemKind};
pub use reload::{Reloaded, Reloader};
pub use settings::{Change, Config};
pub use stacks::{ClientStack, ServerStack, Stacks};
pub use watch::Watch;
