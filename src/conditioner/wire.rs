//! Rules as a file has them, and recorded plans. Times are seconds, as everywhere in configuration; in
//! plans nanoseconds, because they must be exact.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fault::{Act, What};
use super::latency;
use super::matcher::Kind;
use super::plan::{self, CallKey};
use super::{fault, matcher, rule, schedule};
use crate::backoff::wire::seconds;
use crate::error::ConfigError;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Latency {
    Fixed(f64),
    Uniform {
        middle: f64,
        jitter: f64,
        at_most: Option<f64>,
    },
    Normal {
        mean: f64,
        deviation: f64,
        at_most: Option<f64>,
    },
    #[serde(rename = "lognormal")]
    LogNormal {
        median: f64,
        sigma: f64,
        at_most: Option<f64>,
    },
    Pareto {
        least: f64,
        shape: f64,
        at_most: Option<f64>,
    },
}

impl TryFrom<Latency> for latency::Latency {
    type Error = ConfigError;

    fn try_from(wire: Latency) -> Result<Self, ConfigError> {
        let (law, at_most) = match wire {
            Latency::Fixed(time) => (Self::fixed(seconds("fixed", time)?)?, None),
            Latency::Uniform { middle, jitter, at_most } => {
                (Self::uniform(seconds("middle", middle)?, seconds("jitter", jitter)?)?, at_most)
            }
            Latency::Normal { mean, deviation, at_most } => {
                (Self::normal(seconds("mean", mean)?, seconds("deviation", deviation)?)?, at_most)
            }
            Latency::LogNormal { median, sigma, at_most } => {
                (Self::lognormal(seconds("median", median)?, sigma)?, at_most)
            }
            Latency::Pareto { least, shape, at_most } => {
                (Self::pareto(seconds("least", least)?, shape)?, at_most)
            }
        };
        match at_most {
            Some(most) => law.at_most(seconds("at_most", most)?),
            None => Ok(law),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct Schedule {
    start: f64,
    end: Option<f64>,
    ramp: f64,
    period: Option<f64>,
}

impl TryFrom<Schedule> for schedule::Schedule {
    type Error = ConfigError;

    fn try_from(wire: Schedule) -> Result<Self, ConfigError> {
        let schedule = Self {
            start: seconds("start", wire.start)?,
            end: wire.end.map(|end| seconds("end", end)).transpose()?,
            ramp: seconds("ramp", wire.ramp)?,
            period: wire.period.map(|period| seconds("period", period)).transpose()?,
        };
        schedule.check()?;
        Ok(schedule)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Matcher {
    Everything,
    NameOrUrl(String),
    Method(String),
    Path(String),
    HasHeader(String),
    Header { name: String, value: String },
    Token { header: String, secret: String },
    All(Vec<Self>),
    AnyOf(Vec<Self>),
    Not(Box<Self>),
}

impl Matcher {
    fn into_kind(self) -> Kind {
        let several = |all: Vec<Self>| {
            all.into_iter().map(|one| matcher::Matcher(one.into_kind())).collect::<Vec<_>>()
        };
        match self {
            Self::Everything => Kind::Everything,
            Self::NameOrUrl(part) => Kind::NameOrUrl(part),
            Self::Method(method) => Kind::Method(method),
            Self::Path(pattern) => Kind::Path(pattern),
            Self::HasHeader(name) => Kind::HasHeader(name),
            Self::Header { name, value } => Kind::Header(name, value),
            Self::Token { header, secret } => Kind::Token(header, secret),
            Self::All(all) => Kind::All(several(all)),
            Self::AnyOf(any) => Kind::Any(several(any)),
            Self::Not(not) => Kind::Not(Box::new(matcher::Matcher(not.into_kind()))),
        }
    }
}

impl TryFrom<Matcher> for matcher::Matcher {
    type Error = ConfigError;

    fn try_from(wire: Matcher) -> Result<Self, ConfigError> {
        let matcher = Self(wire.into_kind());
        matcher.check()?;
        Ok(matcher)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Fault {
    Latency(latency::Latency),
    Loss,
    Error { kind: String, message: String },
    Status(u16),
    Grpc { code: u32, message: String },
    Hang,
    HangFor(f64),
    ReplyLost,
    SlowBody(f64),
    Bandwidth(u64),
    TruncateBody(u64),
    CorruptBody(u64),
}

impl TryFrom<Fault> for fault::Fault {
    type Error = ConfigError;

    fn try_from(wire: Fault) -> Result<Self, ConfigError> {
        let fault = Self(match wire {
            Fault::Latency(law) => What::Latency(law),
            Fault::Loss => What::Loss,
            Fault::Error { kind, message } => What::Error(io_kind(&kind)?, message.into()),
            Fault::Status(status) => What::Status(status),
            Fault::Grpc { code, message } => What::Grpc(code, message.into()),
            Fault::Hang => What::Hang(None),
            Fault::HangFor(time) => What::Hang(Some(seconds("hang_for", time)?)),
            Fault::ReplyLost => What::ReplyLost,
            Fault::SlowBody(time) => What::SlowBody(seconds("slow_body", time)?),
            Fault::Bandwidth(rate) => What::Bandwidth(rate),
            Fault::TruncateBody(after) => What::Truncate(after),
            Fault::CorruptBody(one_in) => What::Corrupt(one_in),
        });
        fault.check()?;
        Ok(fault)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    fault: fault::Fault,
    #[serde(default = "one")]
    share: f64,
    #[serde(default)]
    matching: matcher::Matcher,
    #[serde(default)]
    during: schedule::Schedule,
    max_active: Option<u32>,
}

const fn one() -> f64 {
    1.0
}

impl TryFrom<Rule> for rule::Rule {
    type Error = ConfigError;

    fn try_from(wire: Rule) -> Result<Self, ConfigError> {
        let rule = Self {
            fault: wire.fault,
            share: wire.share,
            matcher: wire.matching,
            schedule: wire.during,
            max_active: wire.max_active,
        };
        rule.check()?;
        Ok(rule)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    #[serde(default, skip_serializing_if = "is_zero")]
    missing: u64,
    decisions: Vec<Entry>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    call: CallKey,
    rule: u32,
    fault: Done,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Done {
    /// Nanoseconds.
    Latency(u64),
    /// The rule's share, which the message names.
    Loss(f64),
    Error {
        kind: String,
        message: String,
    },
    Status(u16),
    Grpc {
        code: u32,
        message: String,
    },
    Hang,
    HangFor(u64),
    ReplyLost,
    SlowBody(u64),
    Bandwidth(u64),
    TruncateBody(u64),
    CorruptBody {
        one_byte_in: u64,
        key: u64,
    },
}

impl From<plan::Plan> for Plan {
    fn from(plan: plan::Plan) -> Self {
        let entry = |entry: plan::Entry| Entry {
            call: entry.call,
            rule: entry.rule,
            fault: entry.act.into(),
        };
        Self { missing: plan.missing, decisions: plan.entries.into_iter().map(entry).collect() }
    }
}

impl TryFrom<Plan> for plan::Plan {
    type Error = ConfigError;

    fn try_from(wire: Plan) -> Result<Self, ConfigError> {
        let entry = |(n, entry): (usize, Entry)| {
            let act = Act::try_from(entry.fault)?;
            act.stand_in().check()?;
            if entry.rule > 255 {
                let field = format!("decisions[{n}].rule");
                return Err(ConfigError::new(field, entry.rule, "at most 255"));
            }
            Ok(plan::Entry { call: entry.call, rule: entry.rule, act })
        };
        let entries =
            wire.decisions.into_iter().enumerate().map(entry).collect::<Result<_, _>>()?;
        Ok(Self { entries, missing: wire.missing })
    }
}

fn nanos(time: Duration) -> u64 {
    crate::clock::nanos(time)
}

impl From<Act> for Done {
    fn from(act: Act) -> Self {
        match act {
            Act::Latency(latency) => Self::Latency(nanos(latency)),
            Act::Loss(share) => Self::Loss(share),
            Act::Error(kind, message) => {
                Self::Error { kind: io_name(kind), message: message.as_ref().to_owned() }
            }
            // What the closure made is gone; that there was an error is what matters to the run.
            Act::Make(_) => {
                Self::Error { kind: "other".to_owned(), message: "made by the program".to_owned() }
            }
            Act::Status(status) => Self::Status(status),
            Act::Grpc(code, message) => Self::Grpc { code, message: message.as_ref().to_owned() },
            Act::Hang(None) => Self::Hang,
            Act::Hang(Some(time)) => Self::HangFor(nanos(time)),
            Act::ReplyLost => Self::ReplyLost,
            Act::SlowBody(time) => Self::SlowBody(nanos(time)),
            Act::Bandwidth(rate) => Self::Bandwidth(rate),
            Act::Truncate(after) => Self::TruncateBody(after),
            Act::Corrupt(one_byte_in, key) => Self::CorruptBody { one_byte_in, key },
        }
    }
}

impl TryFrom<Done> for Act {
    type Error = ConfigError;

    fn try_from(done: Done) -> Result<Self, ConfigError> {
        Ok(match done {
            Done::Latency(ns) => {
                let latency = Duration::from_nanos(ns);
                Self::Latency(latency::within_a_day("latency", latency)?)
            }
            Done::Loss(share) => Self::Loss(share),
            Done::Error { kind, message } => Self::Error(io_kind(&kind)?, message.into()),
            Done::Status(status) => Self::Status(status),
            Done::Grpc { code, message } => Self::Grpc(code, message.into()),
            Done::Hang => Self::Hang(None),
            Done::HangFor(ns) => Self::Hang(Some(Duration::from_nanos(ns))),
            Done::ReplyLost => Self::ReplyLost,
            Done::SlowBody(ns) => Self::SlowBody(Duration::from_nanos(ns)),
            Done::Bandwidth(rate) => Self::Bandwidth(rate),
            Done::TruncateBody(after) => Self::Truncate(after),
            Done::CorruptBody { one_byte_in, key } => Self::Corrupt(one_byte_in, key),
        })
    }
}

/// The kinds that have a stable name, by it.
const KINDS: [(io::ErrorKind, &str); 39] = {
    use io::ErrorKind as K;
    [
        (K::NotFound, "not_found"),
        (K::PermissionDenied, "permission_denied"),
        (K::ConnectionRefused, "connection_refused"),
        (K::ConnectionReset, "connection_reset"),
        (K::ConnectionAborted, "connection_aborted"),
        (K::HostUnreachable, "host_unreachable"),
        (K::NetworkUnreachable, "network_unreachable"),
        (K::NetworkDown, "network_down"),
        (K::NotConnected, "not_connected"),
        (K::AddrInUse, "addr_in_use"),
        (K::AddrNotAvailable, "addr_not_available"),
        (K::BrokenPipe, "broken_pipe"),
        (K::AlreadyExists, "already_exists"),
        (K::WouldBlock, "would_block"),
        (K::NotADirectory, "not_a_directory"),
        (K::IsADirectory, "is_a_directory"),
        (K::DirectoryNotEmpty, "directory_not_empty"),
        (K::ReadOnlyFilesystem, "read_only_filesystem"),
        (K::StaleNetworkFileHandle, "stale_network_file_handle"),
        (K::InvalidInput, "invalid_input"),
        (K::InvalidData, "invalid_data"),
        (K::TimedOut, "timed_out"),
        (K::WriteZero, "write_zero"),
        (K::StorageFull, "storage_full"),
        (K::NotSeekable, "not_seekable"),
        (K::QuotaExceeded, "quota_exceeded"),
        (K::FileTooLarge, "file_too_large"),
        (K::ResourceBusy, "resource_busy"),
        (K::ExecutableFileBusy, "executable_file_busy"),
        (K::Deadlock, "deadlock"),
        (K::CrossesDevices, "crosses_devices"),
        (K::TooManyLinks, "too_many_links"),
        (K::InvalidFilename, "invalid_filename"),
        (K::ArgumentListTooLong, "argument_list_too_long"),
        (K::Interrupted, "interrupted"),
        (K::Unsupported, "unsupported"),
        (K::UnexpectedEof, "unexpected_eof"),
        (K::OutOfMemory, "out_of_memory"),
        (K::Other, "other"),
    ]
};

fn io_name(kind: io::ErrorKind) -> String {
    let known = KINDS.iter().find(|(known, _)| *known == kind);
    known.map_or("other", |(_, name)| name).to_owned()
}

fn io_kind(name: &str) -> Result<io::ErrorKind, ConfigError> {
    match KINDS.iter().find(|(_, known)| *known == name) {
        Some((kind, _)) => Ok(*kind),
        None => {
            let names: Vec<_> = KINDS.iter().map(|(_, name)| *name).collect();
            let expected = format!("one of {}", names.join(", "));
            Err(ConfigError::new("error.kind", format_args!("{name:?}"), expected))
        }
    }
}
