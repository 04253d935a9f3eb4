//! What a state file says.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::identity::ProcessIdentity;
use super::{file, time};

/// Larger files are not read: a state file has some hundred bytes.
pub(super) const MAX_BYTES: u64 = 64 * 1024;

/// Whether the writer meant to go on.
///
/// ```
/// use buttress::supervise::BeatState;
/// assert_eq!(BeatState::Stopped.as_str(), "stopped");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BeatState {
    /// It did.
    #[default]
    Running,
    /// It ended on purpose.
    Stopped,
}

impl BeatState {
    /// As in the file.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::BeatState::Running.as_str(), "running");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// One beat, as read from a state file.
///
/// The first four fields are those of the original program; the others are `None` in its files.
///
/// ```
/// use buttress::supervise::HeartbeatState;
/// let state = HeartbeatState::parse(
///     br#"{"timestamp": "2026-01-12T10:00:00+00:00", "pid": 1234, "hostname": "myhost", "metadata": {"n": 3}}"#,
/// )?;
/// assert_eq!((state.pid, state.hostname.as_str(), state.sequence), (1234, "myhost", None));
/// assert_eq!(state.metadata_json(), "{\n  \"n\": 3\n}");
/// # Ok::<(), buttress::supervise::CorruptHeartbeat>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeartbeatState {
    /// The wall clock at the beat, as written: ISO 8601.
    pub timestamp: String,
    /// The writer's process number.
    pub pid: u32,
    /// The machine's name for itself.
    pub hostname: String,
    /// The version of the file's form: 1.
    pub version: Option<u64>,
    /// Whether the writer meant to go on.
    pub state: BeatState,
    /// The number of the beat since the writer started, from 1.
    pub sequence: Option<u64>,
    /// How often it meant to beat.
    pub interval: Option<Duration>,
    /// Which boot of the machine it was.
    pub boot_id: Option<String>,
    /// The time since that boot at the beat, suspends included.
    pub boottime: Option<Duration>,
    /// When the process started, in ticks since boot.
    pub started: Option<u64>,
    /// The inode of the namespace in which `pid` is a number.
    pub pid_namespace: Option<u64>,
    /// The inode of the namespace in which `boottime` is a time.
    pub time_namespace: Option<u64>,
    pub(super) metadata: String,
}

/// Why bytes are no beat.
///
/// ```
/// let error = buttress::supervise::HeartbeatState::parse(b"[1]").unwrap_err();
/// assert_eq!(error.to_string(), "not a heartbeat: not an object");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorruptHeartbeat(String);

impl CorruptHeartbeat {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for CorruptHeartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a heartbeat: {}", self.0)
    }
}

impl std::error::Error for CorruptHeartbeat {}

impl HeartbeatState {
    /// Reads the content of a file. Fields that are not known are passed over.
    ///
    /// # Errors
    /// What is not a beat, including every cut of one.
    ///
    /// ```
    /// assert!(buttress::supervise::HeartbeatState::parse(b"{\"timestamp\": \"20").is_err());
    /// ```
    pub fn parse(bytes: &[u8]) -> Result<Self, CorruptHeartbeat> {
        let corrupt = |why: &dyn fmt::Display| CorruptHeartbeat(why.to_string());
        let text = std::str::from_utf8(bytes).map_err(|error| corrupt(&error))?;
        let value = match serde_json::from_str::<Value>(text) {
            Ok(value) => value,
            // The original writes these, though JSON does not have them.
            Err(error) => {
                let strict = without_special_numbers(text).ok_or_else(|| corrupt(&error))?;
                serde_json::from_str(&strict).map_err(|error| corrupt(&error))?
            }
        };
        let Value::Object(mut fields) = value else {
            return Err(corrupt(&"not an object"));
        };
        let mut text_of = |key: &str| match fields.remove(key) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(corrupt(&format_args!("{key} is not text"))),
            None => Err(corrupt(&format_args!("no {key}"))),
        };
        let (timestamp, hostname) = (text_of("timestamp")?, text_of("hostname")?);
        let pid = fields.get("pid").ok_or_else(|| corrupt(&"no pid"))?;
        let pid = u32::deserialize(pid).map_err(|_| corrupt(&"pid is not a process number"))?;
        let metadata =
            fields.remove("metadata").unwrap_or_else(|| Value::Object(Default::default()));
        let number = |key: &str| fields.get(key).and_then(Value::as_u64);
        let state = match fields.get("state").map(Value::as_str) {
            None | Some(Some("running")) => BeatState::Running,
            Some(Some("stopped")) => BeatState::Stopped,
            Some(_) => return Err(corrupt(&"an unknown state")),
        };
        let interval = fields.get("interval").and_then(Value::as_f64);
        Ok(Self {
            timestamp,
            pid,
            hostname,
            version: number("version"),
            state,
            sequence: number("sequence"),
            interval: interval.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            boot_id: fields.get("boot_id").and_then(Value::as_str).map(str::to_owned),
            boottime: number("boottime_ns").map(Duration::from_nanos),
            started: number("started"),
            pid_namespace: number("pid_namespace"),
            time_namespace: number("time_namespace"),
            metadata: file::json(&metadata).map_err(|error| corrupt(&error))?,
        })
    }

    /// The content of a file: first the four fields of the original, to the byte as it writes them, then
    /// the others.
    ///
    /// ```
    /// use buttress::supervise::HeartbeatState;
    /// let state = HeartbeatState::parse(br#"{"timestamp": "", "pid": 1, "hostname": "h"}"#)?;
    /// assert_eq!(HeartbeatState::parse(state.to_json().as_bytes())?, state);
    /// # Ok::<(), buttress::supervise::CorruptHeartbeat>(())
    /// ```
    #[must_use]
    pub fn to_json(&self) -> String {
        let text = |text: &str| file::json(text).unwrap_or_default();
        // Line feeds are structure: inside of strings they are escaped.
        let metadata = self.metadata.replace('\n', "\n  ");
        let mut fields = vec![
            ("timestamp", text(&self.timestamp)),
            ("pid", self.pid.to_string()),
            ("hostname", text(&self.hostname)),
            ("metadata", metadata),
        ];
        if let Some(version) = self.version {
            fields.push(("version", version.to_string()));
        }
        if self.version.is_some() || self.state != BeatState::Running {
            fields.push(("state", text(self.state.as_str())));
        }
        let mut add = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
        add("sequence", self.sequence.map(|number| number.to_string()));
        add("interval", self.interval.map(|interval| format!("{:?}", interval.as_secs_f64())));
        add("boot_id", self.boot_id.as_deref().map(text));
        add("boottime_ns", self.boottime.map(|time| time.as_nanos().to_string()));
        add("started", self.started.map(|ticks| ticks.to_string()));
        add("pid_namespace", self.pid_namespace.map(|inode| inode.to_string()));
        add("time_namespace", self.time_namespace.map(|inode| inode.to_string()));
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
        format!("{{\n{}\n}}", fields.join(",\n"))
    }

    /// The wall clock at the beat. `None` if the text is no time, or has no zone.
    ///
    /// ```
    /// use buttress::supervise::HeartbeatState;
    /// let state = HeartbeatState::parse(
    ///     br#"{"timestamp": "1970-01-01T00:00:00Z", "pid": 1, "hostname": "h"}"#,
    /// )?;
    /// assert_eq!(state.time(), Some(std::time::SystemTime::UNIX_EPOCH));
    /// # Ok::<(), buttress::supervise::CorruptHeartbeat>(())
    /// ```
    #[must_use]
    pub fn time(&self) -> Option<SystemTime> {
        time::parse(&self.timestamp)
    }

    /// What the writer had to say besides, as JSON.
    ///
    /// ```
    /// use buttress::supervise::HeartbeatState;
    /// let state = HeartbeatState::parse(br#"{"timestamp": "", "pid": 1, "hostname": "h"}"#)?;
    /// assert_eq!(state.metadata_json(), "{}");
    /// # Ok::<(), buttress::supervise::CorruptHeartbeat>(())
    /// ```
    #[must_use]
    pub fn metadata_json(&self) -> &str {
        &self.metadata
    }

    /// What the writer had to say besides, as a type of yours. `None` if it does not fit.
    ///
    /// ```
    /// # use std::collections::BTreeMap;
    /// use buttress::supervise::HeartbeatState;
    /// let state = HeartbeatState::parse(
    ///     br#"{"timestamp": "", "pid": 1, "hostname": "h", "metadata": {"jobs": 3}}"#,
    /// )?;
    /// assert_eq!(state.metadata::<BTreeMap<String, u32>>().unwrap()["jobs"], 3);
    /// # Ok::<(), buttress::supervise::CorruptHeartbeat>(())
    /// ```
    #[must_use]
    pub fn metadata<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(&self.metadata).ok()
    }

    /// Which process wrote it.
    ///
    /// ```
    /// use buttress::supervise::HeartbeatState;
    /// let state = HeartbeatState::parse(br#"{"timestamp": "", "pid": 7, "hostname": "h"}"#)?;
    /// assert_eq!(state.identity().pid, 7);
    /// # Ok::<(), buttress::supervise::CorruptHeartbeat>(())
    /// ```
    #[must_use]
    pub fn identity(&self) -> ProcessIdentity {
        ProcessIdentity {
            pid: self.pid,
            started: self.started,
            boot_id: self.boot_id.clone(),
            pid_namespace: self.pid_namespace,
        }
    }

    /// Reads a file: `None` if there is none. Never more than 64 KiB, and never a pipe or a device, which
    /// could keep the reader for ever.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Result<Self, CorruptHeartbeat>>> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        }
        let file = match options.open(path) {
            Ok(file) => file,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Ok(Some(Err(CorruptHeartbeat::new("not a file"))));
        }
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Ok(Some(Err(CorruptHeartbeat::new("more than 64 KiB"))));
        }
        Ok(Some(Self::parse(&bytes)))
    }
}

/// `NaN`, `Infinity` and `-Infinity` as `null`. `None` if there are none outside of strings.
fn without_special_numbers(text: &str) -> Option<String> {
    let (mut result, mut rest, mut found) = (String::with_capacity(text.len()), text, false);
    while let Some(next) = rest.chars().next() {
        if next == '"' {
            let bytes = rest.as_bytes();
            let mut end = 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            let (string, after) = rest.split_at_checked(end + 1)?;
            result.push_str(string);
            rest = after;
        } else if let Some(word) =
            ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| rest.starts_with(word))
        {
            result.push_str("null");
            rest = &rest[word.len()..];
            found = true;
        } else {
            result.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    found.then_some(result)
}
