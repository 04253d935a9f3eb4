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
//! # Default
//! [`Loader::new`] looks in the usual places and at the variables that begin with `BUTTRESS__`. A key that no source has keeps
//! the default that the table below names; without any file nothing is an error.
//!
//! # Customised
//! ```
//! use buttress::config::{Format, Loader};
//!
//! #[derive(serde::Deserialize)]
//! struct Settings {
//!     port: u16,
//!     grace: std::time::Duration,
//! }
//! let settings: Settings = Loader::empty()
//!     .text("service.toml", Format::Toml, "port = 80\ngrace = \"1m 30s\"\n")
//!     .env_prefix("SERVICE_")
//!     .env_from([("SERVICE_PORT", "8080")])
//!     .load_as()?;
//! assert_eq!((settings.port, settings.grace.as_secs()), (8080, 90));
//! # Ok::<(), buttress::config::LoadError>(())
//! ```
//!
//! # Order
//! Arguments ([`Loader::set`]) are stronger than variables, those than files that are named, those than files that are
//! found, those than defaults. Tables are merged key by key, also those of one source and those that are written short
//! (`api: 5/s`); lists and single values are replaced. `null` means "as if no source had said anything". Found are files in the
//! current directory, `~`, `~/.config`, and in `buttress` and `kstlib` below `$XDG_CONFIG_DIRS` (`/etc/xdg`), in this order of
//! strength; [`Loader::search`] changes the places and says the names.
//!
//! # Units
//! Times are numbers of seconds, or texts such as `250ms`, `1m 30s`, `1.5h`: each unit once, the largest first. Rates are
//! `100/s burst 20`. Shares are `0.05` or `5%`. In variables and arguments numbers and flags may be texts; in files they may not.
//! A name with a dot stands in quotes where a path is written: `breakers."api.v1".open_for`.
//!
//! # Errors
//! [`LoadError`] has every problem of every source, each with key, value, file and line (or variable) and what was expected, also in
//! types of yours ([`Loader::load_as`] says how far).
//! A key that nobody knows is one of them, and so are a key that is there twice, two variables for one key, values that contradict
//! each other, a name that is nowhere, a link that leads nowhere and a place that cannot be looked into. The line is
//! that of the key. A file whose format is broken is judged no further. A file may have 4 MiB, 100,000 values (with its aliases
//! written out) and 64 levels; YAML tags other than those of plain texts, lists and tables are refused.
//!
//! # The block `resilience`
//! Files of the Python package kstlib are read as they stand. Its breaker's numbers are the defaults of every breaker here; the others are in
//! [`Config::limits`]. Its documentation calls the shutdown's time `default_timeout`, its code `timeout`: both work. Out of range is
//! an error, unless [`Loader::clamp`] is on: then the block is read as that package reads it, with its silence.
//!
//! # Stacks
//! [`Config::stacks`] makes whole clients and servers, in the order of [`presets`](crate::presets), each object once.
//! [`Config::lint`] says what in them contradicts itself, with file and line.
//!
//! # Reload
//! A [`Reloader`] reads the files again on SIGHUP, when they change, or when it is told to. Everything is built first: settings with a
//! problem change nothing and raise an event. Then stacks and objects that run go by the new values, each at one
//! point in time:
//!
//! | what | how it changes | what is kept |
//! |---|---|---|
//! | breakers, rate limits, retry and failure budgets | in place | state, windows, levels, counters |
//! | `faults` | in place | whether they are armed, totals; what is counted of each rule begins anew. Others in their place come disarmed if somebody had disarmed these, or killed all |
//! | `retry`, whole or in part | with the stack | its tally, its budget |
//! | `total_timeout`, `attempt_timeout`, `timeout` | with the stack; a breaker's or failure budget's own `cancelled_after` follows | |
//! | `backend` | in place, also from a fixed limit to a learned one and back | who waits, what is in flight, what is known of answers |
//! | `slo` of a failure budget that comes, goes or has another `period` | with the stack: another budget takes the place of this one | whether it is tripped by hand; the window if it goes |
//! | `hedge` | in place | answers seen, what is saved up |
//! | `endpoints` | in place, in all pools that the stack has made | health, who is ejected |
//! | parts that are new, or gone | with the stack; a registry shows the new and not the gone, but for entries with a name that are still written down | all other parts |
//! | another name for a part (`breaker: db2`) | with the stack | what that name stands for, if anything uses it already |
//!
//! What a [command](crate::control#documents) puts into a stack, faults, a rate limit, a client's breaker or retry policy, a server's failure budget, or
//! takes out of it, stays so until the file has something
//! else there: another object, or other settings for this one (its keys, or a policy's), not only other timeouts around it. Such an
//! edit puts the file's own back, also where the settings are an entry with a name. Faults come back disarmed, as the command has
//! left them. A failure budget that is in no stack any more is out of service, and begins anew in the next one,
//! or when the program asks for it by its name; faults are disarmed and armed like that, unless somebody has disarmed them meanwhile.
//!
//! A stack is exchanged whole: no call meets parts of two files. See [`presets::Live`](crate::presets::Live) for what services do
//! then. What is not live is told in the event and in [`Reloaded::waiting`]: `seed` of a breaker, `initial_tokens`, `floor` of a retry
//! budget, which are what they begin with (a retry budget also after a reset); and of what the program uses by its name, entries that are taken out of the
//! file, and `slo` where it comes, goes or has another `period` (also
//! of a budget that a server has which is not in the file any more). Stores, URLs, idempotency and limits that a fleet shares
//! are made in code, not here. So are stacks from [`presets::client`](crate::presets::client): only [`Stacks`] are live.
//!
//! # Secrets
//! Values of keys one of whose words is, or ends in, `token`, `secret`, `password`, `passphrase`, `api_key`, `credential` or
//! `private_key` are not shown, neither by `explain` nor in errors nor by `Debug`; nor are those of a table with such a name, or
//! what stands before the `@` of a URL. `tokenizer` is no such word. [`Config::print`] writes them out.
//!
//! # Cost
//! All of it happens when settings are loaded. What is built from them knows nothing of files.
//!
//! # Comparison
//! The crate `config`, which merges the sources here, and `figment` leave unknown keys to serde: with
//! `deny_unknown_fields` the first one is an error, without it none is. `figment` says where a value came from, with the file but
//! without the line. Both stop at the first value that does not fit, and know nothing of times, rates and shares. Spring's resilience4j
//! binds properties per instance, ignores misspelt ones and shows effective values through an actuator.
//!
//! # Keys
#![doc = include_str!("keys.md")]

mod blame;
mod build;
mod contradictions;
mod effective;
mod fields;
mod files;
mod findings;
mod gather;
mod inside;
mod keys;
mod live;
mod loader;
mod made;
mod merge;
mod parse;
mod plans;
mod print;
mod problem;
mod read;
mod reload;
mod repairs;
mod schema;
mod settings;
mod stacks;
mod staged;
mod stand_in;
#[cfg(test)]
mod tests;
mod typed;
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
